"""Copying: a symbol of the source is said again, be it in the vocabulary or not (pointer-generator, See et al. 2017).

Enters: how much is copied at a position, attention, and the source. Leaves: log-probabilities over the vocabulary and, behind it, one
token for each symbol that a source holds and the vocabulary lacks: the first, the second, ..., at most as many as the source has tokens.

    p(y) = (1 - g c) softmax(y) + g (attention that lies on y),    c: attention that lies on what can be copied

which is See's equation 9 where all of a source can be copied. End marks and features cannot: attention to them is not lost, but said
by the softmax layer.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_s2s.config import PAD, UNK
from flax_s2s.model.alignment import NEVER

_LEAST = 1e-30  # smaller attention counts as this much, so that all that a source holds can be said


Ids = TypeVar("Ids", Array, np.ndarray)


class Pointer(NamedTuple):
    """The two ways to say a token, as logs."""

    generated: Float[Array, "*tokens"]  # what the softmax layer's probability is multiplied with
    copied: Float[Array, "*tokens"]  # the probability that the token is said by copying


def as_targets(src_ids: Int[Ids, "*batch src"], sizes: tuple[int, int]) -> Int[Ids, "*batch src"]:
    """The target's token that each token of a source is; PAD, which is 0, for one that is none: padding, marks, features.

    Args:
        src_ids: ids from the source's size on are symbols that the vocabulary lacks.
        sizes: tokens of a source, and of a target, which are the same but for the features.
    """
    is_word = (src_ids > UNK) & (src_ids < sizes[1])
    return src_ids * is_word + (src_ids - sizes[0] + sizes[1]) * (src_ids >= sizes[0])


def point(
    gate: Float[Array, "batch tgt"],
    weights: Float[Array, "batch tgt src"],
    tokens: Int[Array, "batch src"],
    labels: Int[Array, "batch tgt"],
) -> Pointer:
    """How each label may be said.

    Args:
        gate: the logit of g.
        weights: attention.
        tokens: what `as_targets` says of the source.
        labels: the tokens that are said.
    """
    here = (tokens[:, None, :] == labels[:, :, None]) & (tokens != PAD)[:, None, :]
    copied = jax.nn.log_sigmoid(gate) + _log(jnp.where(here, weights, 0).sum(axis=-1))
    return Pointer(_generated(gate, weights, tokens), jnp.where(here.any(axis=-1), copied, NEVER))


def extend(
    logp: Float[Array, "batch beam vocab"],
    gate: Float[Array, "batch beam"],
    weights: Float[Array, "batch beam src"],
    tokens: Int[Array, "batch src"],
) -> tuple[Float[Array, "batch beam vocab_and_src"], Float[Array, "batch beam src"]]:
    """Log-probabilities of all that can be said, generated or copied; and the probability that each source position is copied.

    Args:
        logp: of the vocabulary, by the softmax layer.
        gate: the logit of g.
        weights: attention.
        tokens: what `as_targets` says of the source; those that `logp` lacks are numbered from its size on.
    """
    there = tokens != PAD
    generated = logp + _generated(gate, weights, tokens)[:, :, None]
    generated = jnp.pad(generated, ((0, 0), (0, 0), (0, tokens.shape[1])), constant_values=-jnp.inf)
    weights = jnp.where(there[:, None, :], weights, 0)
    sums = jax.vmap(lambda weights, tokens: jnp.zeros(generated.shape[1:]).at[:, tokens].add(weights))(weights, tokens)
    held = jax.vmap(lambda there, tokens: jnp.zeros(generated.shape[2], bool).at[tokens].max(there))(there, tokens)
    copied = jnp.where(held[:, None, :], jax.nn.log_sigmoid(gate)[:, :, None] + _log(sums), -jnp.inf)
    return jnp.logaddexp(generated, copied), jax.nn.sigmoid(gate)[:, :, None] * weights


def _generated(gate: Array, weights: Array, tokens: Array) -> Array:
    """log(1 - g c), from what is small rather than from what is nearly one."""
    elsewhere = jnp.where((tokens == PAD)[:, None, :], weights, 0).sum(axis=-1)
    return jnp.logaddexp(jax.nn.log_sigmoid(-gate), jax.nn.log_sigmoid(gate) + _log(elsewhere))


def _log(share: Array) -> Array:
    return jnp.log(jnp.maximum(share, _LEAST))
