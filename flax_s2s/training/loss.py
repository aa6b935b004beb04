"""Label-smoothed cross-entropy, a few tokens' logits at a time.

Enters: readouts, the softmax layer, the target. Leaves: sums over real tokens, in nats.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from flax_s2s.config import PAD

_CHUNK_LOGITS = 1 << 24  # at most 64 MiB of float32 logits at once


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
    when a gradient is wanted it is computed along with each chunk, so that no logit is computed twice.
    """
    count, size = tgt_ids.size, max(1, min(tgt_ids.size, _CHUNK_LOGITS // table.shape[0]))
    chunks = -(-count // size)
    size = -(-count // chunks)
    flat = jnp.pad(readouts.reshape(count, -1), ((0, chunks * size - count), (0, 0))).reshape(chunks, size, -1)
    labels = jnp.pad(tgt_ids.reshape(count), (0, chunks * size - count), constant_values=PAD).reshape(chunks, size)
    smoothed, plain = _chunked(smoothing, flat, table.astype(readouts.dtype), bias, labels)
    return Loss(smoothed, lax.stop_gradient(plain), jnp.sum(tgt_ids != PAD).astype(jnp.float32))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    """Sums over [chunks size readout]; only the first of the two has a gradient."""

    def chunk(sums: Any, now: Any) -> tuple[Any, None]:
        losses, _ = _one_chunk(smoothing, now[0], now[1], table, bias)
        return jax.tree.map(jnp.add, sums, losses), None

    return lax.scan(chunk, (jnp.float32(0), jnp.float32(0)), (readouts, labels))[0]


def _one_chunk(smoothing: float, readouts: Any, labels: Any, table: Any, bias: Any) -> tuple[tuple[Any, Any], Any]:
    """The two sums of one chunk, and the first one's gradient with respect to the logits."""
    logits = jnp.matmul(readouts, table.T, preferred_element_type=jnp.float32) + bias[None, :]  # [size vocab]
    normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    right = jnp.arange(logits.shape[-1])[None, :] == labels[:, None]
    real = (labels != PAD).astype(jnp.float32)[:, None]
    right_logit = jnp.sum(jnp.where(right, logits, 0), axis=-1, keepdims=True)
    plain = normalizer - right_logit
    smoothed = plain + smoothing * (right_logit - jnp.mean(logits, axis=-1, keepdims=True))
    d_logits = real * (jnp.exp(logits - normalizer) - smoothing / logits.shape[-1] - jnp.where(right, 1 - smoothing, 0))
    return (jnp.sum(real * smoothed), jnp.sum(real * plain)), d_logits


def _chunked_forward(smoothing: float, readouts: Any, table: Any, bias: Any, labels: Any) -> tuple[Any, Any]:
    def chunk(sums: Any, now: Any) -> tuple[Any, Any]:
        losses, d_logits = _one_chunk(smoothing, now[0], now[1], table, bias)
        narrow = d_logits.astype(table.dtype)
        d_table = jnp.matmul(narrow.T, now[0], preferred_element_type=jnp.float32)
        return jax.tree.map(jnp.add, sums, (*losses, d_table, d_logits.sum(axis=0))), narrow @ table

    zeros = (jnp.float32(0), jnp.float32(0), jnp.zeros(table.shape, jnp.float32), jnp.zeros_like(bias))
    if readouts.shape[0] == 1:  # no loop, no sum to start from
        sums, d_readouts = chunk(zeros, (readouts[0], labels[0]))
        d_readouts = d_readouts[None]
    else:
        sums, d_readouts = lax.scan(chunk, zeros, (readouts, labels))
    return sums[:2], (d_readouts, sums[2].astype(table.dtype), sums[3])


def _chunked_backward(smoothing: float, saved: Any, gradient: Any) -> tuple[Any, ...]:
    d_readouts, d_table, d_bias = jax.tree.map(lambda part: (part * gradient[0]).astype(part.dtype), saved)
    return d_readouts, d_table, d_bias, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
