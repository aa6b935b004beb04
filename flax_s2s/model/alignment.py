"""Hard attention: each token is said of one source position, which is unknown; all of them are summed over (Wu and Cotterell 2019).

Enters: decoder states, scores and the source. Leaves: where the next token may look, and readouts for every source position.

    p(y) = sum over alignments a of  product over t of  p(a_t | a_{t-1}) p(y_t | state t, source position a_t)

The sum is a hidden Markov model's, whose transitions depend on the decoder's state alone: it is made step by step, by `move` and `say`. In zeroth order
where a token looks depends on the one before only if it must not lie behind that (monotonic); in first order also on how far it is from it.
The first token comes from the first position that may be looked at. Where the decoder reads features at every step, monotonic attention never looks at them:
it could not come back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_s2s.config import ModelConfig

NEVER = -1e30
"""The log of a probability of zero, of which a gradient can be taken."""
REACH = 5
"""Positions, forwards and backwards, that are told apart in first order; what is farther is as far."""


class Aim(NamedTuple):
    """What a decoder state says of all source positions."""

    state: Float[Array, "*batch tgt readout"]  # its part of the readouts
    scores: Float[Array, "*batch tgt src"]
    shifts: Float[Array, "*batch tgt shift"] | None  # in first order: of positions -REACH, ..., REACH from the one before


def start(mask: Bool[Array, "batch src"], beams: int) -> Float[Array, "batch beam src"]:
    """The log-probability of where the token before the first looked."""
    first = jnp.where(jnp.arange(mask.shape[1])[None, :] == jnp.argmax(mask, axis=1)[:, None], 0.0, NEVER)
    return jnp.broadcast_to(first[:, None, :], (mask.shape[0], beams, mask.shape[1]))


def move(
    config: ModelConfig, aim: Aim, mask: Bool[Array, "batch src"], before: Float[Array, "batch beam src"]
) -> Float[Array, "batch beam src"]:
    """The log-probability of where a token looks.

    Args:
        config: order, and whether it is monotonic.
        aim: of the states before it.
        mask: real source positions.
        before: the log-probability of where the token before it looked, given all tokens up to that one.
    """
    position = jnp.arange(mask.shape[1])
    shift = position[None, :] - position[:, None]  # from the one before, to this one
    logits = jnp.where(mask[:, None, :], aim.scores, NEVER)[:, :, None, :]  # [batch beam from to]
    if aim.shifts is not None:
        logits = logits + aim.shifts[:, :, jnp.clip(shift, -REACH, REACH) + REACH]
    if config.alignment == "monotonic":
        logits = jnp.where((shift >= 0)[None, None], logits, NEVER)
    return jax.nn.logsumexp(before[:, :, :, None] + jax.nn.log_softmax(logits, axis=-1), axis=2)


def say(
    where: Float[Array, "batch beam src"], said: Float[Array, "batch beam src"]
) -> tuple[Float[Array, "batch beam src"], Float[Array, "batch beam"]]:
    """Where a token looked, now that it is known; and its log-probability.

    Args:
        where: what `move` says.
        said: the token's log-probability, were each source position the one.
    """
    both = jnp.maximum(where + said, NEVER)
    logp = jax.nn.logsumexp(both, axis=-1)
    return both - logp[:, :, None], logp


def readouts(
    state: Float[Array, "batch beam readout"], sources: Float[Array, "batch src readout"], dtype: Any
) -> Float[Array, "batch beam src readout"]:
    """What the softmax layer reads, were each source position the one; the readout's product is split into its two parts."""
    return jnp.tanh(state[:, :, None, :] + sources[:, None, :, :].astype(jnp.float32)).astype(dtype)
