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

from flax_s2s.config import PAD, ModelConfig
from flax_s2s.model import alignment
from flax_s2s.model.alignment import NEVER, Aim
from flax_s2s.model.copying import Pointer, extend
from flax_s2s.model.decoder import Memory
from flax_s2s.model.product import multiply, multiply_transposed, outer, product

_CHUNK_LOGITS = 1 << 24  # at most 64 MiB of float32 logits at once
_PARTS = 8  # of a chunk, on a CPU
_LARGE = 1 << 20  # numbers of a table whose products with the padding take longer than a program for each number of parts


class _Tokens(NamedTuple):
    """Some tokens to predict."""

    readouts: Float[Array, "tokens readout"]
    labels: Int[Array, " tokens"]
    pointer: Pointer | None  # of each, where models copy


Work = Callable[[_Tokens], tuple[Any, Any]]  # some tokens -> sums over them, and a tree of what each has


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
    pointer: Pointer | None = None,
) -> Loss:
    """The loss of predicting `tgt_ids`, with logits `readouts @ table.T + bias`, or, with a pointer, by copying.

    The target distribution is (1 - smoothing) on the right token plus smoothing / vocab on every token (Szegedy et al.
    2016, section 7); with a pointer what is spread is spread over what is generated. The logits of all tokens never exist together:
    chunks of tokens are taken one after the other, and when a gradient is wanted it is computed along with each chunk, so that no logit
    is computed twice. On a CPU, where the table is large, none of the tokens, half, six eighths, seven or all are computed, as the real
    ones need.
    """
    flat, labels = readouts.reshape(tgt_ids.size, -1), tgt_ids.reshape(-1)
    smoothed, plain = _sums(smoothing, flat, table, bias, labels, jax.tree.map(jnp.ravel, pointer))
    return Loss(smoothed, lax.stop_gradient(plain), jnp.sum(tgt_ids != PAD).astype(jnp.float32))


def marginal(
    config: ModelConfig,
    memory: Memory,
    aim: Aim,
    keep: Float[Array, "batch tgt readout"],
    table: Float[Array, "vocab readout"],
    bias: Float[Array, " vocab"],
    tgt_ids: Int[Array, "batch tgt"],
    smoothing: float,
) -> Loss:
    """The loss with hard attention: the sum over all alignments, made from left to right (see `model.alignment`).

    Labels are smoothed where a token is said of one source position. Of a step alignments alone are kept: the rest, the logits of all source
    positions above all, is made again for the gradient.

    Args:
        config: order, and whether it is monotonic.
        memory: of the source.
        aim: of all positions.
        keep: what readouts are multiplied with (dropout).
        table: of the softmax layer.
        bias: of the softmax layer.
        tgt_ids: the target.
        smoothing: of labels.
    """
    sources, kernel = memory.values.astype(jnp.float32), table.T  # gradients are summed in the loop, in the types that these have

    def step(carry: Any, now: tuple[Aim, Any, Any]) -> tuple[Any, Any]:
        aim, keep, labels = now
        read = alignment.readouts(aim.state, sources, memory.values.dtype)[:, 0] * keep[:, None, :]
        logits = product(read, kernel) + bias[None, None, :]  # [batch src vocab]
        total = jax.nn.logsumexp(logits, axis=-1)
        right = jnp.take_along_axis(logits, labels[:, None, None], axis=-1)[:, :, 0] - total
        smoothed = (1 - smoothing) * right + smoothing * (logits.mean(axis=-1) - total)
        said = [
            alignment.say(alignment.move(config, aim, memory.mask, before), each[:, None])
            for before, each in zip(carry, (smoothed, right), strict=True)
        ]
        real = labels != PAD
        after = tuple(jnp.where(real[:, None, None], there, before) for (there, _), before in zip(said, carry, strict=True))
        return after, tuple(jnp.where(real, logp[:, 0], 0) for _, logp in said)

    by_position = jax.tree.map(lambda part: part.swapaxes(0, 1), (jax.tree.map(lambda part: part[:, :, None], aim), keep, tgt_ids))
    carry = (alignment.start(memory.mask, 1),) * 2
    _, sums = lax.scan(jax.checkpoint(step, prevent_cse=False), carry, by_position)  # a loop has nothing in common
    smoothed, plain = (-jnp.sum(each) for each in sums)
    return Loss(smoothed, lax.stop_gradient(plain), jnp.sum(tgt_ids != PAD).astype(jnp.float32))


class Copies(NamedTuple):
    """What a model that copies says besides its readouts."""

    gate: Float[Array, "batch tgt"]
    weights: Float[Array, "batch tgt src"]
    tokens: Int[Array, "batch src"]  # see `copying.as_targets`


def likeliest(
    readouts: Float[Array, "batch tgt readout"],
    table: Float[Array, "vocab readout"],
    bias: Float[Array, " vocab"],
    copies: Copies | None = None,
) -> Int[Array, "batch tgt"]:
    """The likeliest token at each position, generated or copied, the logits of one position after the other."""
    narrow = table.astype(readouts.dtype)

    def at(now: tuple[Any, Any]) -> Int[Array, " batch"]:
        readouts, copying = now
        logits = multiply_transposed(readouts, narrow) + bias[None, :]
        if copies is not None:
            logp = jax.nn.log_softmax(logits, axis=-1)[:, None]
            gate, weights = copying
            logits = extend(logp, gate[:, None], weights[:, None], copies.tokens)[0][:, 0]
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    by_position = None if copies is None else (copies.gate, copies.weights)
    return lax.map(at, jax.tree.map(lambda part: part.swapaxes(0, 1), (readouts, by_position))).T


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any, pointer: Any) -> tuple[Any, Any]:
    """The two sums over [tokens readout]; only the first of them has a gradient."""
    layer = _make_layer(table, bias, readouts.dtype)

    def work(tokens: _Tokens) -> tuple[Any, Any]:
        return _losses(smoothing, tokens, layer).sums, None

    return _by_platform(work, _Tokens(readouts, labels, pointer), table.shape[0])[0]


def _by_platform(work: Work, tokens: _Tokens, vocab: int) -> tuple[Any, Any]:
    """Accelerators want fixed sizes; a CPU gains by leaving the padding out, where the table is large."""
    over_all = partial(_over_chunks, work, vocab)
    over_real = partial(_over_real, work, vocab) if vocab * tokens.readouts.shape[-1] >= _LARGE else over_all
    return lax.platform_dependent(tokens, cpu=over_real, default=over_all)


def _over_real(work: Work, vocab: int, tokens: _Tokens) -> tuple[Any, Any]:
    """`work` on the real tokens alone, but for the rest of a part."""
    order = jnp.argsort(tokens.labels == PAD, stable=True)
    sums, for_each = _over_chunks(partial(_over_parts, work), vocab, jax.tree.map(lambda part: part[order], tokens))
    back = jnp.argsort(order)
    return sums, jax.tree.map(lambda part: part[back], for_each)


def _over_parts(work: Work, tokens: _Tokens) -> tuple[Any, Any]:
    """`work` on as many parts of a chunk as hold a real token, which come first."""
    size = tokens.labels.shape[0]
    parts = (0, _PARTS // 2, *range(_PARTS - 2, _PARTS + 1))
    ends = sorted({min(-(-size * part // (8 * _PARTS)) * 8, size) for part in parts})

    def first(count: int, tokens: _Tokens) -> tuple[Any, Any]:
        sums, for_each = work(jax.tree.map(lambda part: part[:count], tokens))
        return sums, jax.tree.map(lambda part: _lengthen(part, size), for_each)

    needed = jnp.searchsorted(jnp.array(ends), jnp.sum(tokens.labels != PAD))
    return lax.switch(needed, [partial(first, end) for end in ends], tokens)


def _over_chunks(work: Work, vocab: int, tokens: _Tokens) -> tuple[Any, Any]:
    """`work` on chunks of tokens, one after the other: its sums added up, what it says of each token side by side."""
    count = tokens.labels.shape[0]
    chunks = -(-count // max(1, min(count, _CHUNK_LOGITS // vocab)))
    if chunks == 1:
        return work(tokens)
    size = -(-count // chunks)
    # What is added is padding: PAD is 0.
    cut = jax.tree.map(lambda part: _lengthen(part, chunks * size).reshape(chunks, size, *part.shape[1:]), tokens)

    def chunk(sums: Any, now: _Tokens) -> tuple[Any, Any]:
        more, for_each = work(now)
        return jax.tree.map(jnp.add, sums, more), for_each

    first = jax.tree.map(lambda part: part[0], cut)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), jax.eval_shape(work, first)[0])
    sums, for_each = lax.scan(chunk, zeros, cut)
    return sums, jax.tree.map(lambda part: part.reshape(chunks * size, *part.shape[2:])[:count], for_each)


def _lengthen(part: Array, size: int) -> Array:
    """With as many rows of zeros behind it as `size` asks for."""
    return jnp.pad(part, ((0, size - part.shape[0]), *((0, 0),) * (part.ndim - 1)))


class _Layer(NamedTuple):
    """The softmax layer, the table rounded to the type of the readouts; and its mean row, whose logit is the mean logit."""

    table: Float[Array, "vocab readout"]
    bias: Float[Array, " vocab"]
    mean_row: Float[Array, " readout"]
    mean_bias: Float[Array, ""]


def _make_layer(table: Any, bias: Any, dtype: Any) -> _Layer:
    return _Layer(table.astype(dtype), bias, table.mean(axis=0), bias.mean())


class _Losses(NamedTuple):
    """Of some tokens."""

    sums: tuple[Any, Any]
    d_logits: Any  # the gradient of the first of them
    d_pointer: Pointer | None


def _losses(smoothing: float, tokens: _Tokens, layer: _Layer) -> _Losses:
    readouts, labels, pointer = tokens
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
    if pointer is None:
        d_logits = shares * (real / total) - real * (smoothing / logits.shape[-1] + jnp.where(right, 1 - smoothing, 0))
        return _Losses((jnp.sum(real * smoothed), jnp.sum(real * plain)), d_logits, None)
    # What is not in the vocabulary is copied or not said: its label is beyond all logits, and "right" nowhere.
    generated = jnp.where(labels < logits.shape[-1], pointer.generated - plain[:, 0], NEVER)
    said = jnp.logaddexp(generated, pointer.copied)
    by_softmax = jnp.exp(generated - said)  # how much of the probability
    uniform = (highest + jnp.log(total) - mean_logit)[:, 0]
    sums = (jnp.sum(real[:, 0] * (smoothing * uniform - (1 - smoothing) * said)), jnp.sum(-real[:, 0] * said))
    of_right = (1 - smoothing) * real * by_softmax[:, None]
    d_logits = shares * ((of_right + smoothing * real) / total) - real * (smoothing / logits.shape[-1]) - jnp.where(right, of_right, 0)
    by_copying = (1 - smoothing) * real[:, 0] * jnp.exp(pointer.copied - said)
    return _Losses(sums, d_logits, Pointer(-of_right[:, 0], -by_copying))


def _forward(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any, pointer: Any) -> tuple[Any, Any]:
    layer = _make_layer(table, bias, readouts.dtype)

    def work(tokens: _Tokens) -> tuple[Any, Any]:
        losses, d_logits, d_pointer = _losses(smoothing, tokens, layer)
        narrow = d_logits.astype(readouts.dtype)
        # The table's gradient is turned only afterwards: XLA would turn the product around, to one that CPUs lack.
        sums = (losses, outer(tokens.readouts, narrow), d_logits.sum(axis=0))
        return sums, (multiply(narrow, layer.table).astype(readouts.dtype), d_pointer)

    (losses, d_table, d_bias), (d_readouts, d_pointer) = _by_platform(work, _Tokens(readouts, labels, pointer), table.shape[0])
    return losses, (d_readouts, lax.optimization_barrier(d_table).T, d_bias, d_pointer)


def _backward(smoothing: float, saved: Any, gradient: Any) -> tuple[Any, ...]:
    d_readouts, d_table, d_bias, d_pointer = jax.tree.map(lambda part: (part * gradient[0]).astype(part.dtype), saved)
    return d_readouts, d_table, d_bias, None, d_pointer


_sums.defvjp(_forward, _backward)
