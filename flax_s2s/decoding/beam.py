"""Batched beam search over any step function; knows no model and no vocabulary.

Enters: a function from the last tokens to log-probabilities. Leaves: the best hypotheses of every sentence.

The search, for K live hypotheses of a sentence: all one-token extensions are ranked by log-probability; those among the
best K that end become finished hypotheses, scored by log-probability / length penalty; the best K that do not end stay
alive. A sentence is done when no live hypothesis can still beat the `n_best`-th finished one, or at its limit of tokens. K = 1
is greedy search: it is done with its first finished hypothesis. Rows never look at each other, and a row that is done is frozen.
Ties go to the earlier hypothesis, then to the smaller token id.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

StepFn = Callable[[Any, Array], tuple[Any, Array, Array | None]]
"""(carry, ids [batch beam]) -> (carry, log-probabilities [batch beam vocab], attention [batch beam src] or None); every leaf of
the carry begins with the axes batch and beam."""


class Hypotheses(NamedTuple):
    """The best of each sentence, best first; absent ones have a score of -inf."""

    ids: Int[Array, "batch n tgt"]  # tokens, the end mark where finished, then zeros
    length: Int[Array, "batch n"]  # tokens, the end mark included
    logp: Float[Array, "batch n"]  # sum over tokens
    score: Float[Array, "batch n"]  # logp / length penalty
    finished: Bool[Array, "batch n"]  # False: cut at the limit


class _Search(NamedTuple):
    step: Int[Array, ""]
    ids: Int[Array, "batch beam tgt"]
    logp: Float[Array, "batch beam"]
    last: Int[Array, "batch beam"]
    carry: Any
    finished: Hypotheses
    done: Bool[Array, " batch"]


def length_penalty(length: Any, alpha: float) -> Any:
    """`((5 + length) / 6) ** alpha`; Wu et al. 2016, equation 14."""
    return ((5.0 + length) / 6.0) ** alpha


def search(
    step_fn: StepFn,
    carry: Any,
    limit: Int[Array, " batch"],
    *,
    beam_size: int,
    max_steps: int,
    bos: int,
    eos: int,
    alpha: float = 0.0,
    n_best: int = 1,
) -> Hypotheses:
    """Searches all sentences at once.

    Args:
        step_fn: what is searched.
        carry: its state before the first step, equal for all hypotheses of a sentence.
        limit: most tokens of each sentence's hypotheses, end mark included; 0 for a row that is no sentence.
        beam_size: live hypotheses of a sentence.
        max_steps: the largest limit there may be; it fixes the shapes.
        bos: token before the first.
        eos: token that ends a hypothesis.
        alpha: exponent of the length penalty, not negative.
        n_best: hypotheses returned, at most beam_size.

    Returns:
        The best finished hypotheses; where none finished, the live ones as they stood at the limit.
    """
    rows = limit.shape[0]
    beams = (rows, beam_size)
    nothing = jnp.full(beams, -jnp.inf)
    ids = jnp.zeros((*beams, max_steps), jnp.int32)
    first = jnp.where(jnp.arange(beam_size) == 0, 0.0, -jnp.inf)  # one live hypothesis, the empty one
    finished = Hypotheses(ids, jnp.zeros(beams, jnp.int32), nothing, nothing, jnp.zeros(beams, bool))
    start = _Search(jnp.int32(0), ids, jnp.tile(first, (rows, 1)), jnp.full(beams, bos), carry, finished, limit == 0)

    def advance(now: _Search) -> _Search:
        after = _advance(step_fn, now, beam_size, eos, alpha)
        best_possible = after.logp.max(axis=1) / length_penalty(limit, alpha)
        hopeless = best_possible <= after.finished.score[:, n_best - 1]
        ended = after.finished.finished[:, 0] if beam_size == 1 else hopeless
        done = now.done | ended | (after.step >= limit)
        ids, logp, finished = jax.tree.map(
            lambda new, old: jnp.where(_like(now.done, new), old, new),
            (after.ids, after.logp, after.finished),
            (now.ids, now.logp, now.finished),
        )
        return after._replace(ids=ids, logp=logp, finished=finished, done=done)

    end = lax.while_loop(lambda now: ~now.done.all() & (now.step < max_steps), advance, start)
    cut_length = jnp.where(jnp.isfinite(end.logp), limit[:, None], 0)
    cut = Hypotheses(end.ids, cut_length, end.logp, end.logp / length_penalty(limit, alpha)[:, None], jnp.zeros(beams, bool))
    any_finished = end.finished.finished.any(axis=1)
    best = jax.tree.map(lambda a, b: jnp.where(_like(any_finished, a), a, b), end.finished, cut)
    return jax.tree.map(lambda part: part[:, :n_best], best)


def _advance(step_fn: StepFn, now: _Search, beam_size: int, eos: int, alpha: float) -> _Search:
    """One more token of every live hypothesis."""
    carry, logp, _ = step_fn(now.carry, now.last)
    vocab = logp.shape[-1]
    total = (now.logp[:, :, None] + logp).reshape(logp.shape[0], -1)  # [batch beam * vocab]
    # 2 beam_size are enough: at most beam_size of them end. They are masked below, never sliced: a slice would be moved into
    # the top-k, which XLA then no longer knows as one and sorts the vocabulary: 414 ms, not 3 (CPU, 64 rows, vocabulary 6,000).
    ranked, index = lax.top_k(total, 2 * beam_size)
    parent, token = index // vocab, index % vocab
    ids = _take(now.ids, parent).at[:, :, now.step].set(token)

    ends = (token == eos) & jnp.isfinite(ranked) & (jnp.arange(2 * beam_size) < beam_size)[None, :]
    score = jnp.where(ends, ranked / length_penalty(now.step + 1, alpha), -jnp.inf)
    new = Hypotheses(ids, jnp.full(ends.shape, now.step + 1), jnp.where(ends, ranked, -jnp.inf), score, ends)
    merged = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), now.finished, new)
    _, kept = lax.top_k(merged.score, beam_size)
    finished = jax.tree.map(lambda part: _take(part, kept), merged)

    live_logp, live = lax.top_k(jnp.where(token == eos, -jnp.inf, ranked), beam_size)
    origin = _take(parent, live)
    carry = jax.tree.map(lambda part: _take(part, origin), carry)
    return _Search(now.step + 1, _take(ids, live), live_logp, _take(token, live), carry, finished, now.done)


def _take(values: Array, index: Int[Array, "batch chosen"]) -> Array:
    """`values[b, index[b, k]]` for every row b."""
    return jax.vmap(lambda row, chosen: row[chosen])(values, index)


def _like(flags: Bool[Array, " batch"], values: Array) -> Array:
    """One flag per row, broadcast to `values`."""
    return flags.reshape((-1,) + (1,) * (values.ndim - 1))
