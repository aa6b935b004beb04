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

_CHUNK_LOGITS = 1 << 24  # at most 64 MiB of float32 logits at once
_PARTS = 8  # of a chunk, on a CPU

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
    when a gradient is wanted it is computed along with each chunk, so that no logit is computed twice. On a CPU those
    tokens alone are computed that are real, but for at most an eighth of a chunk.
    """
    flat, labels = readouts.reshape(tgt_ids.size, -1), tgt_ids.reshape(-1)
    smoothed, plain = _sums(smoothing, flat, table.astype(readouts.dtype), bias, labels)
    return Loss(smoothed, lax.stop_gradient(plain), jnp.sum(tgt_ids != PAD).astype(jnp.float32))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    """The two sums over [tokens readout]; only the first of them has a gradient."""

    def work(readouts: Any, labels: Any) -> tuple[Any, Any]:
        sums, _ = _losses(smoothing, readouts, labels, table, bias)
        return sums, readouts[:, :0]

    return _by_platform(work, readouts, labels, table.shape[0])[0]


def _by_platform(work: Work, readouts: Any, labels: Any, vocab: int) -> tuple[Any, Any]:
    """Accelerators want fixed sizes; a CPU gains by leaving the padding out."""
    return lax.platform_dependent(readouts, labels, cpu=partial(_over_real, work, vocab), default=partial(_over_chunks, work, vocab))


def _over_real(work: Work, vocab: int, readouts: Any, labels: Any) -> tuple[Any, Any]:
    """`work` on the real tokens alone, but for the rest of a part."""
    order = jnp.argsort(labels == PAD, stable=True)
    sums, for_each = _over_chunks(partial(_over_parts, work), vocab, readouts[order], labels[order])
    return sums, for_each[jnp.argsort(order)]


def _over_parts(work: Work, readouts: Any, labels: Any) -> tuple[Any, Any]:
    """`work` on as many parts of a chunk as hold a real token, which come first."""
    size = labels.shape[0]
    ends = sorted({-(-size * part // _PARTS) for part in (0, *range(_PARTS // 2, _PARTS + 1))})  # fewer than half is rare

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


def _losses(smoothing: float, readouts: Any, labels: Any, table: Any, bias: Any) -> tuple[tuple[Any, Any], Any]:
    """The two sums over some tokens, and the first one's gradient with respect to the logits."""
    logits = jnp.matmul(readouts, table.T, preferred_element_type=jnp.float32) + bias[None, :]  # [tokens vocab]
    normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    right = jnp.arange(logits.shape[-1])[None, :] == labels[:, None]
    real = (labels != PAD).astype(jnp.float32)[:, None]
    right_logit = jnp.sum(jnp.where(right, logits, 0), axis=-1, keepdims=True)
    plain = normalizer - right_logit
    smoothed = plain + smoothing * (right_logit - jnp.mean(logits, axis=-1, keepdims=True))
    d_logits = real * (jnp.exp(logits - normalizer) - smoothing / logits.shape[-1] - jnp.where(right, 1 - smoothing, 0))
    return (jnp.sum(real * smoothed), jnp.sum(real * plain)), d_logits


def _forward(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    def work(readouts: Any, labels: Any) -> tuple[Any, Any]:
        losses, d_logits = _losses(smoothing, readouts, labels, table, bias)
        narrow = d_logits.astype(table.dtype)
        d_table = jnp.matmul(narrow.T, readouts, preferred_element_type=jnp.float32)
        return (losses, d_table, d_logits.sum(axis=0)), narrow @ table

    (losses, d_table, d_bias), d_readouts = _by_platform(work, readouts, labels, table.shape[0])
    return losses, (d_readouts, d_table.astype(table.dtype), d_bias)


def _backward(smoothing: float, saved: Any, gradient: Any) -> tuple[Any, ...]:
    d_readouts, d_table, d_bias = jax.tree.map(lambda part: (part * gradient[0]).astype(part.dtype), saved)
    return d_readouts, d_table, d_bias, None


_sums.defvjp(_forward, _backward)
