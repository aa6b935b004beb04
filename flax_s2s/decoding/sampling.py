"""Sampling, as noise on a search: the best of all tokens by log-probability + Gumbel noise is a draw from their distribution.

Enters: `Steps`. Leaves: `Steps` whose ranks have noise, for a search in groups of one: each of them a draw of its own.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_s2s.decoding.beam import Next
from flax_s2s.decoding.constraints import Steps


def sample(steps: Steps, seed: Int[Array, " batch"], beam_size: int, temperature: float, top_k: int, top_p: float) -> Steps:
    """Draws each token from softmax(rank / temperature), cut to the likeliest ones.

    Args:
        steps: what is sampled from; forbidden tokens stay forbidden.
        seed: of each sentence; token t of draw k depends on (seed, t, k) alone.
        beam_size: draws a sentence.
        temperature: greater than 0.
        top_k: the k likeliest tokens (and equals of the last); 0: all.
        top_p: the fewest likeliest tokens whose probabilities reach p together (Holtzman et al. 2020); 1: all.
    """

    def draw(vocab: int, seed: Any, position: Any, slot: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), position), slot)
        return jax.random.gumbel(key, (vocab,))

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        position, inner = carry
        inner, following = steps.step_fn(inner, ids)
        rank = nucleus(following.rank / temperature, top_k, top_p)
        slots = jnp.broadcast_to(jnp.arange(beam_size)[None, :], ids.shape)
        seeds = jnp.broadcast_to(seed[:, None], ids.shape)
        noise = jax.vmap(jax.vmap(partial(draw, rank.shape[2])))(seeds, position, slots)
        kept = jnp.where(jnp.isfinite(rank), following.rank, -jnp.inf)
        return (position + 1, inner), following.ranked(kept)._replace(noise=temperature * noise)

    return Steps(step_fn, (jnp.zeros((seed.shape[0], beam_size), jnp.int32), steps.carry))


def nucleus(logits: Float[Array, "batch beam vocab"], top_k: int, top_p: float) -> Float[Array, "batch beam vocab"]:
    """Logits with all but the likeliest tokens at -inf."""
    if top_k:
        # Not the last column: XLA moves a slice into the top-k, and sorts the whole vocabulary.
        least = jax.lax.top_k(logits, min(top_k, logits.shape[2]))[0].min(axis=2, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if top_p < 1:
        probabilities = jax.nn.softmax(logits, axis=-1)
        falling = jnp.sort(probabilities, axis=-1, descending=True)
        before = jnp.cumsum(falling, axis=-1) - falling  # what the likelier ones have together
        least = jnp.where(before < top_p, falling, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(probabilities >= least, logits, -jnp.inf)
    return logits
