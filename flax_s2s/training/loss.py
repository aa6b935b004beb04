"""Label-smoothed cross-entropy, a few tokens' logits at a time.

Enters: readouts, the softmax layer, the target. Leaves: sums over real tokens, in nats.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flax_s2s.config import PAD
from flax_s2s.model.product import multiply, multiply_transposed, outer

_CHUNK_LOGITS = 1 << 24  # at most 64 MiB of float32 logits at once
_PARTS = 8  # of a chunk, on a CPU
_LARGE = 1 << 20  # numbers of a table whose products with the padding take longer than a program for each number of parts

Work = Callable[[Any, Any], tuple[Any, Any]]  # (readouts, labels) of some tokens -> sums over them, and a row for each


class Loss(NamedTuple):
    """Sums over the real tokens of a batch."""

    smoothed: Float[Array, ""]  # what is minimized
    plain: Float[Array, ""]  # the negative log-likelihood: perplexity is exp(plain / tokens)
    tokens: Float[Array, ""]


def cross_entropy(
    readouts: Float[Array, "batch tgt readout"],
    table: Float[Array, "vocab readout"],
    bias: Float[Array, " vocab"],
    tgt_ids: Int[Array, "batch tgt"],
    smoothing: float,
) -> Loss:
    """The loss of predicting `tgt_ids`, with logits `readouts @ table.T + bias`.

    The target distribution is (1 - smoothing) on the right token plus smoothing / vocab on every token (Szegedy et al.
    2016, section 7). The logits of all tokens never exist together: chunks of tokens are taken one after the other, and
    when a gradient is wanted it is computed along with each chunk, so that no logit is computed twice. On a CPU, where the table
    is large, none of the tokens, half, six eighths, seven or all are computed, as the real ones need.
    """
    flat, labels = readouts.reshape(tgt_ids.size, -1), tgt_ids.reshape(-1)
    smoothed, plain = _sums(smoothing, flat, table, bias, labels)
    return Loss(smoothed, lax.stop_gradient(plain), jnp.sum(tgt_ids != PAD).astype(jnp.float32))


def likeliest(
    readouts: Float[Array, "batch tgt readout"], table: Float[Array, "vocab readout"], bias: Float[Array, " vocab"]
) -> Int[Array, "batch tgt"]:
    """The token with the highest logit at each position, the logits of one position after the other."""
    narrow = table.astype(readouts.dtype)

    def at(readouts: Float[Array, "batch readout"]) -> Int[Array, " batch"]:
        return jnp.argmax(multiply_transposed(readouts, narrow) + bias[None, :], axis=-1).astype(jnp.int32)

    return lax.map(at, readouts.swapaxes(0, 1)).T


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    """The two sums over [tokens readout]; only the first of them has a gradient."""
    layer = _make_layer(table, bias, readouts.dtype)

    def work(readouts: Any, labels: Any) -> tuple[Any, Any]:
        sums, _ = _losses(smoothing, readouts, labels, layer)
        return sums, readouts[:, :0]

    return _by_platform(work, readouts, labels, table.shape[0])[0]


def _by_platform(work: Work, readouts: Any, labels: Any, vocab: int) -> tuple[Any, Any]:
    """Accelerators want fixed sizes; a CPU gains by leaving the padding out, where the table is large."""
    over_all = partial(_over_chunks, work, vocab)
    over_real = partial(_over_real, work, vocab) if vocab * readouts.shape[-1] >= _LARGE else over_all
    return lax.platform_dependent(readouts, labels, cpu=over_real, default=over_all)


def _over_real(work: Work, vocab: int, readouts: Any, labels: Any) -> tuple[Any, Any]:
    """`work` on the real tokens alone, but for the rest of a part."""
    order = jnp.argsort(labels == PAD, stable=True)
    sums, for_each = _over_chunks(partial(_over_parts, work), vocab, readouts[order], labels[order])
    return sums, for_each[jnp.argsort(order)]


def _over_parts(work: Work, readouts: Any, labels: Any) -> tuple[Any, Any]:
    """`work` on as many parts of a chunk as hold a real token, which come first."""
    size = labels.shape[0]
    parts = (0, _PARTS // 2, *range(_PARTS - 2, _PARTS + 1))
    ends = sorted({min(-(-size * part // (8 * _PARTS)) * 8, size) for part in parts})

    def first(count: int, readouts: Any, labels: Any) -> tuple[Any, Any]:
        sums, for_each = work(readouts[:count], labels[:count])
        return sums, jnp.pad(for_each, ((0, size - count), (0, 0)))

    needed = jnp.searchsorted(jnp.array(ends), jnp.sum(labels != PAD))
    return lax.switch(needed, [partial(first, end) for end in ends], readouts, labels)


def _over_chunks(work: Work, vocab: int, readouts: Any, labels: Any) -> tuple[Any, Any]:
    """`work` on chunks of tokens, one after the other: its sums added up, what it says of each token side by side."""
    count = labels.shape[0]
    chunks = -(-count // max(1, min(count, _CHUNK_LOGITS // vocab)))
    if chunks == 1:
        return work(readouts, labels)
    size = -(-count // chunks)
    readouts = jnp.pad(readouts, ((0, chunks * size - count), (0, 0))).reshape(chunks, size, -1)
    labels = jnp.pad(labels, (0, chunks * size - count), constant_values=PAD).reshape(chunks, size)

    def chunk(sums: Any, now: Any) -> tuple[Any, Any]:
        more, for_each = work(*now)
        return jax.tree.map(jnp.add, sums, more), for_each

    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(work, readouts[0], labels[0])[0])
    sums, for_each = lax.scan(chunk, zeros, (readouts, labels))
    return sums, for_each.reshape(chunks * size, -1)[:count]


class _Layer(NamedTuple):
    """The softmax layer, the table rounded to the type of the readouts; and its mean row, whose logit is the mean logit."""

    table: Float[Array, "vocab readout"]
    bias: Float[Array, " vocab"]
    mean_row: Float[Array, " readout"]
    mean_bias: Float[Array, ""]


def _make_layer(table: Any, bias: Any, dtype: Any) -> _Layer:
    return _Layer(table.astype(dtype), bias, table.mean(axis=0), bias.mean())


def _losses(smoothing: float, readouts: Any, labels: Any, layer: _Layer) -> tuple[tuple[Any, Any], Any]:
    """The two sums over some tokens, and the first one's gradient with respect to the logits."""
    logits = multiply_transposed(readouts, layer.table) + layer.bias[None, :]  # [tokens vocab]
    highest = logits.max(axis=-1, keepdims=True)
    shares = jnp.exp(logits - highest)
    total = shares.sum(axis=-1, keepdims=True)
    # Two numbers of each row of logits, without a walk through all of them: the right one, and the mean.
    single = readouts.astype(jnp.float32)
    right_logit = jnp.sum(single * layer.table[labels], axis=-1, keepdims=True) + layer.bias[labels][:, None]
    mean_logit = jnp.sum(single * layer.mean_row[None, :], axis=-1, keepdims=True) + layer.mean_bias
    real = (labels != PAD).astype(jnp.float32)[:, None]
    plain = highest + jnp.log(total) - right_logit
    smoothed = plain + smoothing * (right_logit - mean_logit)
    right = jnp.arange(logits.shape[-1])[None, :] == labels[:, None]
    d_logits = shares * (real / total) - real * (smoothing / logits.shape[-1] + jnp.where(right, 1 - smoothing, 0))
    return (jnp.sum(real * smoothed), jnp.sum(real * plain)), d_logits


def _forward(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    layer = _make_layer(table, bias, readouts.dtype)

    def work(readouts: Any, labels: Any) -> tuple[Any, Any]:
        losses, d_logits = _losses(smoothing, readouts, labels, layer)
        narrow = d_logits.astype(readouts.dtype)
        # The table's gradient is turned only afterwards: XLA would turn the product around, to one that CPUs lack.
        return (losses, outer(readouts, narrow), d_logits.sum(axis=0)), multiply(narrow, layer.table).astype(readouts.dtype)

    (losses, d_table, d_bias), d_readouts = _by_platform(work, readouts, labels, table.shape[0])
    return losses, (d_readouts, lax.optimization_barrier(d_table).T, d_bias)


def _backward(smoothing: float, saved: Any, gradient: Any) -> tuple[Any, ...]:
    d_readouts, d_table, d_bias = jax.tree.map(lambda part: (part * gradient[0]).astype(part.dtype), saved)
    return d_readouts, d_table, d_bias, None


_sums.defvjp(_forward, _backward)
