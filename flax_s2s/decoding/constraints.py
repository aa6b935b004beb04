"""Rules for what a model may say: each is laid over a step function, and makes another one that forbids more or ranks otherwise.

Enters: `Steps`. Leaves: `Steps`; the log-probabilities they report stay the model's. What a rule has to know of a hypothesis it
keeps in the carry, next to the carry of what it is laid over, so a search need not know it. Rules that forbid commute;
`force_prefix` is laid last, since it overrides them.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_s2s.decoding.beam import Next, StepFn

Mean = Literal["probabilities", "log-probabilities"]


class Steps(NamedTuple):
    """A step function and the carry before its first step, equal for all hypotheses of a sentence."""

    step_fn: StepFn
    carry: Any


def ensemble(members: Sequence[Steps], mean: Mean) -> Steps:
    """Several models as one; of log-probabilities the plain mean is taken, which is not normalized again. Attention is averaged."""

    def step_fn(carries: Any, ids: Any) -> tuple[Any, Next]:
        found = [member.step_fn(carry, ids) for member, carry in zip(members, carries, strict=True)]

        said = [following for _, following in found]
        seen = [following.attention for following in said]
        attention = None if any(one is None for one in seen) else jnp.stack([one for one in seen if one is not None]).mean(axis=0)
        logp, rank = (mean_logp(parts, mean) for parts in ([one.logp for one in said], [one.rank for one in said]))
        return [carry for carry, _ in found], Next(logp, rank, attention)

    return Steps(step_fn, [member.carry for member in members])


def mean_logp(parts: Sequence[Float[Array, "*axes"]], mean: Mean) -> Float[Array, "*axes"]:
    """Log-probabilities of several models as one: the mean of them, or the log of the mean of the probabilities."""
    stacked = jnp.stack(parts)
    match mean:
        case "log-probabilities":
            return stacked.mean(axis=0)
        case "probabilities":
            return jax.nn.logsumexp(stacked, axis=0) - jnp.log(len(parts))
        case _:
            assert_never(mean)


def forbid(steps: Steps, tokens: Bool[Array, " vocab"]) -> Steps:
    """Tokens that are never generated."""

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        carry, following = steps.step_fn(carry, ids)
        return carry, _without(following, tokens[None, None, :])

    return Steps(step_fn, steps.carry)


def end_after(steps: Steps, least: Int[Array, " batch"], eos: int, beam_size: int) -> Steps:
    """No end mark before that many tokens, the end mark included."""

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        position, inner = carry
        inner, following = steps.step_fn(inner, ids)
        too_early = position + 1 < least[:, None]
        is_end = jnp.arange(following.rank.shape[2]) == eos
        return (position + 1, inner), _without(following, too_early[:, :, None] & is_end[None, None, :])

    return Steps(step_fn, (jnp.zeros((least.shape[0], beam_size), jnp.int32), steps.carry))


def end_if_likely(steps: Steps, factor: float, eos: int) -> Steps:
    """An end mark only where its log-probability is above `factor` times that of the likeliest other token (Hannun et al. 2019)."""

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        carry, following = steps.step_fn(carry, ids)
        is_end = (jnp.arange(following.logp.shape[2]) == eos)[None, None, :]
        likeliest = jnp.where(is_end, -jnp.inf, following.logp).max(axis=2, keepdims=True)
        return carry, _without(following, is_end & (following.logp <= factor * likeliest))

    return Steps(step_fn, steps.carry)


def avoid_repetition(steps: Steps, ngram: int, penalty: float, eos: int, beam_size: int, max_steps: int) -> Steps:
    """No sequence of `ngram` tokens twice (0: any), and tokens that were there before ranked at `penalty` times their log-probability.

    The penalty is that of Keskar et al. 2019 on log-probabilities: 1.2 makes -1.0 a -1.2. The end mark is left alone.
    """

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        written, position, inner = carry
        inner, following = steps.step_fn(inner, ids)
        rows, beams = (index[:, :, None] for index in jnp.indices(ids.shape))
        at_place = jnp.arange(max_steps)[None, None, :] == (position - 1)[:, :, None]
        written = jnp.where(at_place, ids[:, :, None], written)  # what was read is the token of the position before
        there = jnp.arange(max_steps)[None, None, :] < position[:, :, None]
        rank, vocab = following.rank, following.rank.shape[2]
        if penalty != 1:
            seen = jnp.zeros(rank.shape, bool).at[rows, beams, jnp.where(there, written, vocab)].set(True, mode="drop")
            rank = jnp.where(seen & (jnp.arange(vocab) != eos)[None, None, :], rank * penalty, rank)
        if ngram:
            last = (
                jnp.stack([_at(written, position - back) for back in range(ngram - 1, 0, -1)], axis=2) if ngram > 1 else written[:, :, :0]
            )
            starts = jnp.arange(max_steps - ngram + 1)
            windows = written[:, :, starts[:, None] + jnp.arange(ngram)[None, :]]  # [batch beam start ngram]
            whole = starts[None, None, :] + ngram <= position[:, :, None]
            same = whole & (windows[..., :-1] == last[:, :, None, :]).all(axis=-1)
            repeats = jnp.zeros(rank.shape, bool).at[rows, beams, jnp.where(same, windows[..., -1], vocab)].set(True, mode="drop")
            rank = jnp.where(repeats & (jnp.arange(vocab) != eos)[None, None, :], -jnp.inf, rank)
        return (written, position + 1, inner), following.ranked(rank)

    rows = jax.tree.leaves(steps.carry)[0].shape[0]
    written, position = jnp.zeros((rows, beam_size, max_steps), jnp.int32), jnp.zeros((rows, beam_size), jnp.int32)
    return Steps(step_fn, (written, position, steps.carry))


def _at(written: Int[Array, "batch beam tgt"], position: Int[Array, "batch beam"]) -> Int[Array, "batch beam"]:
    return jnp.take_along_axis(written, jnp.maximum(position, 0)[:, :, None], axis=2)[:, :, 0]


def cover(steps: Steps, mask: Bool[Array, "batch src"], weight: float, beam_size: int) -> Steps:
    """A bonus at the end, never positive: `weight * sum log min(attention that a source token has got, 1)`; Wu et al. 2016, equation 14."""

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        got, inner = carry
        inner, following = steps.step_fn(inner, ids)
        assert following.attention is not None
        got = got + following.attention[:, :, : mask.shape[1]]  # where models copy, more comes behind it
        logs = jnp.where(mask[:, None, :], jnp.log(jnp.clip(got, 1e-9, 1.0)), 0.0)
        return (got, inner), following._replace(end_bonus=weight * logs.sum(axis=2))

    return Steps(step_fn, (jnp.zeros((mask.shape[0], beam_size, mask.shape[1])), steps.carry))


def force_prefix(steps: Steps, prefix: Int[Array, "batch prefix"], length: Int[Array, " batch"], beam_size: int) -> Steps:
    """Begins each sentence's hypotheses with the given tokens, whatever else is forbidden; they count and are scored like others."""

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        position, inner = carry
        inner, following = steps.step_fn(inner, ids)
        wanted = jnp.take_along_axis(prefix, jnp.minimum(position, prefix.shape[1] - 1), axis=1)  # [batch beam]
        is_wanted = jnp.arange(following.rank.shape[2])[None, None, :] == wanted[:, :, None]
        forced = jnp.where(is_wanted, following.logp, -jnp.inf)
        inside = (position < length[:, None])[:, :, None]
        return (position + 1, inner), following.ranked(jnp.where(inside, forced, following.rank))

    return Steps(step_fn, (jnp.zeros((prefix.shape[0], beam_size), jnp.int32), steps.carry))


class Automaton(NamedTuple):
    """Reads tokens as text and knows which of them would complete a phrase; one for all sentences, or one for each."""

    next_state: Int[Array | np.ndarray, "rows states vocab"]
    completes: Bool[Array | np.ndarray, "rows states vocab"]


def make_automaton(phrases: Sequence[bytes], tokens: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The next state and whether a phrase is completed, for each state and token (Aho and Corasick 1975, over bytes).

    Args:
        phrases: none of them empty.
        tokens: the text of each token; empty for one that leaves no trace.

    Returns:
        [states tokens] each; the first state is the start.
    """
    children: list[dict[int, int]] = [{}]
    ends = [False]
    for phrase in phrases:
        state = 0
        for byte in phrase:
            if byte not in children[state]:
                children[state][byte] = len(children)
                children.append({})
                ends.append(False)
            state = children[state][byte]
        ends[state] = True
    goto = np.zeros((len(children), 256), np.int32)
    goto[0, list(children[0])] = list(children[0].values())
    queue = [(child, 0) for child in children[0].values()]
    for state, shorter in queue:  # breadth first; `shorter` is the longest proper suffix that is a state
        ends[state] |= ends[shorter]
        goto[state] = goto[shorter]
        for byte, child in children[state].items():
            queue.append((child, int(goto[shorter, byte])))
            goto[state, byte] = child
    is_end = np.array(ends)
    states = np.tile(np.arange(len(children), dtype=np.int32)[:, None], (1, len(tokens)))
    completes = np.zeros(states.shape, bool)
    lengths = np.array([len(token) for token in tokens], np.int64)
    for position in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > position)
        read = np.array([tokens[i][position] for i in longer.tolist()])
        states[:, longer] = goto[states[:, longer], read[None, :]]
        completes[:, longer] |= is_end[states[:, longer]]
    return states, completes


def block(
    steps: Steps,
    automaton: Automaton,
    beam_size: int,
    rows: int,
    vocab_ids: Int[Array, "batch vocab"] | None = None,
    beyond: Automaton | None = None,
    most: int = 0,
) -> Steps:
    """No token that would complete a blocked phrase.

    Args:
        steps: what it is laid over.
        automaton: of the phrases.
        beam_size: hypotheses of a sentence.
        rows: sentences.
        vocab_ids: the automaton's tokens of a shortlist.
        beyond: the same automaton, of tokens that each sentence has beyond the vocabulary.
        most: how many of these there could be.
    """
    known = automaton.completes.shape[2]

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        (state, begun, inner) = carry
        inner, following = steps.step_fn(inner, ids)
        of_row = jnp.indices(ids.shape)[0]
        row = jnp.zeros(ids.shape, jnp.int32) if automaton.completes.shape[0] == 1 else of_row
        token = ids if vocab_ids is None else jnp.take_along_axis(vocab_ids, ids, axis=1)
        after = automaton.next_state[row, state, token]
        if beyond is not None:
            after = jnp.where(
                token < known, after, beyond.next_state[of_row, state, jnp.clip(token - known, 0, beyond.next_state.shape[2] - 1)]
            )
        state = jnp.where(begun, after, 0)
        completes = automaton.completes[row, state]  # [batch beam vocab]
        if beyond is not None:
            completes = jnp.concatenate([completes, beyond.completes[of_row, state]], axis=2)
        if known + most > completes.shape[2]:
            completes = jnp.pad(completes, ((0, 0), (0, 0), (0, known + most - completes.shape[2])))
        if vocab_ids is not None:
            completes = jnp.take_along_axis(completes, jnp.broadcast_to(vocab_ids[:, None, :], following.rank.shape), axis=2)
        return (state, jnp.ones_like(begun), inner), _without(following, completes)

    start = jnp.zeros((rows, beam_size), jnp.int32)
    return Steps(step_fn, (start, start.astype(bool), steps.carry))


def _without(following: Next, forbidden: Bool[Array, "#batch #beam vocab"]) -> Next:
    return following.ranked(jnp.where(forbidden, -jnp.inf, following.rank))
