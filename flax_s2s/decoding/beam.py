"""Batched beam search over any step function; knows no model and no vocabulary.

Enters: a function from the last tokens to what may follow. Leaves: the best hypotheses of every sentence.

The search, for K live hypotheses of a sentence: all one-token extensions are ranked by the sum of their tokens' ranks (the
log-probability, unless the step function says otherwise); those among the best K that end become ended hypotheses, scored by
that sum / length penalty; the best K that do not end stay alive. The likeliest continuation of the likeliest continuation ...,
which is what greedy search finds, is never dropped: where it is not among the best K it takes the place of the last, so that
a beam never ends worse than greedy search does. A sentence is done when no live hypothesis can still beat the `n_best`-th
ended one, or at its limit of tokens. K = 1 is greedy search: it is done with its first ended hypothesis.

Ties go to the earlier hypothesis, then to the smaller token id. Rows never look at each other, each counts its own steps, and
a row that is done is frozen: `start`, `run` and `finish` let a caller give its place to another sentence (`put`). All hypotheses
of a sentence (of a group, if there are several) begin as one: `start` takes the first step with that one alone.

With `groups` (diverse beam search, Vijayakumar et al. 2018) the beam is cut into groups that search one after the other at each
step; a token that n live hypotheses of earlier groups have just chosen is ranked n * diversity lower there, for that choice alone.
A group of one is greedy search.

With phrases (see `lexical`) the extensions are put into banks by how many of the phrases' tokens they have met; an
extension must be among the best K of its bank to end, and the K that stay alive are the best of every bank, then the second
of every bank, and so on, the bank that has met most first (after Post and Vilar 2018). Greedy search is not protected then.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flax_s2s.decoding.lexical import Phrases, all_met, best_of_each_bank, progress_after, tokens_met


class Next(NamedTuple):
    """What a step function says of the next token."""

    logp: Float[Array, "batch beam vocab"]  # the model's log-probabilities: what is reported
    rank: Float[Array, "batch beam vocab"]  # what is searched for: those, or with penalties, or -inf for what must not follow
    attention: Float[Array, "batch beam src"] | None = None
    end_bonus: Float[Array, "batch beam"] | None = None  # added to the score of what ends now; never positive
    noise: Float[Array, "batch beam vocab"] | None = None  # added to the rank for the choice at this step alone
    maxima: Float[Array, "batch beam blocks"] | None = None  # the largest rank in each part of `block_width` tokens; None: to be looked for

    def ranked(self, rank: Float[Array, "batch beam vocab"]) -> "Next":
        """With other ranks."""
        return self._replace(rank=rank, maxima=None)


StepFn = Callable[[Any, Array], tuple[Any, Next]]
"""(carry, ids [batch beam]) -> (carry, Next); every leaf of the carry begins with the axes batch and beam."""


@dataclasses.dataclass(frozen=True)
class Search:
    """How to search; what is fixed when a program is compiled."""

    beam_size: int
    """Live hypotheses of a sentence, K."""
    max_steps: int
    """The largest limit there may be; it fixes the shapes."""
    bos: int
    """Token before the first."""
    eos: int
    """Token that ends a hypothesis."""
    alpha: float = 0.0
    """Exponent of the length penalty, not negative."""
    n_best: int = 1
    """Hypotheses that are wanted, at most beam_size: the search goes on until no live one can be among them."""
    groups: int = 1
    """Groups of a diverse beam; they divide the beam."""
    diversity: float = 0.0
    """What a token loses for each live hypothesis of an earlier group that chose it at the same step."""
    attention: bool = False
    """Whether the attention of the hypotheses is kept and returned."""
    kept: int = 0
    """Ended hypotheses that each group keeps, and that are all returned, for who needs more than n_best to choose from; 0: as many
    as it has live ones, and n_best are returned."""
    steps_at_once: int = 1
    """Steps between two looks at which rows are done. It changes no row, since one that is done is frozen."""

    @property
    def ended(self) -> int:
        """Ended hypotheses that a group keeps."""
        return self.kept or self.beam_size // self.groups

    @property
    def returned(self) -> int:
        """Hypotheses returned."""
        return self.kept * self.groups if self.kept else self.n_best


class Hypotheses(NamedTuple):
    """The best of each sentence, best first; absent ones have a score of -inf."""

    ids: Int[Array, "batch n tgt"]  # tokens, the end mark where finished, then zeros
    length: Int[Array, "batch n"]  # tokens, the end mark included
    logp: Float[Array, "batch n"]  # sum over tokens
    score: Float[Array, "batch n"]  # what they are sorted by
    finished: Bool[Array, "batch n"]  # False: cut at the limit
    token_logp: Float[Array, "batch n tgt"]  # of each token, then zeros
    attention: Float[Array, "batch n tgt src"] | None  # that each token was chosen with, then zeros


class _Live(NamedTuple):
    last: Int[Array, "batch beam"]
    rank: Float[Array, "batch beam"]
    logp: Float[Array, "batch beam"]
    greedy: Bool[Array, "batch beam"]  # at most one of a row
    progress: Any  # [batch beam phrase variant] of phrases, where there are some
    carry: Any


class _Ended(NamedTuple):
    score: Float[Array, "batch ended"]
    logp: Float[Array, "batch ended"]
    length: Int[Array, "batch ended"]
    parent: Int[Array, "batch ended"]  # the place of the live hypothesis that ended
    end_logp: Float[Array, "batch ended"]


class _History(NamedTuple):
    """What was chosen at each step; hypotheses are read backwards from it, so that no sequence is ever moved."""

    token: Int[Array, "batch tgt beam"]
    parent: Int[Array, "batch tgt beam"]
    logp: Float[Array, "batch tgt beam"]
    attention: Float[Array, "batch tgt beam src"] | None  # by parent


class State(NamedTuple):
    """A search under way; every leaf begins with the axis batch."""

    limit: Int[Array, " batch"]
    step: Int[Array, " batch"]
    done: Bool[Array, " batch"]
    live: _Live
    ended: _Ended
    history: _History


class _Extensions(NamedTuple):
    """Those of a group's hypotheses that may be chosen, best first."""

    rank: Float[Array, "batch extension"]  # the sum; -inf where there is none
    token: Int[Array, "batch extension"]
    parent: Int[Array, "batch extension"]
    greedy: Bool[Array, "batch extension"]
    turn: Int[Array, "batch extension"]  # better ones in the same bank
    progress: Any  # [batch extension phrase variant]


def length_penalty(length: int, alpha: float) -> float:
    """`((5 + length) / 6) ** alpha`; Wu et al. 2016, equation 14."""
    return float(((5.0 + length) / 6.0) ** alpha)


def search(
    step_fn: StepFn, carry: Any, limit: Int[Array, " batch"], how: Search, phrases: Phrases | None = None, src: int = 0
) -> Hypotheses:
    """Searches all sentences at once: `start`, `run` to the end, `finish`."""
    state = start(step_fn, carry, limit, how, phrases, src)
    return finish(run(step_fn, state, how, phrases), how, phrases)


def start(step_fn: StepFn, carry: Any, limit: Int[Array, " batch"], how: Search, phrases: Phrases | None = None, src: int = 0) -> State:
    """After the first step.

    Args:
        step_fn: what may follow.
        carry: its state before the first step, of as many hypotheses as there are groups.
        limit: most tokens of each sentence's hypotheses, end mark included; 0 for a row that is no sentence.
        how: the search.
        phrases: what each sentence's hypotheses must contain.
        src: source positions that attention is kept of.
    """
    rows, empty = limit.shape[0], (limit.shape[0], how.groups)
    rank, greedy = jnp.zeros(empty), jnp.tile((jnp.arange(how.groups) == 0) & (how.groups < how.beam_size) & (phrases is None), (rows, 1))
    progress = None if phrases is None else jnp.zeros((*empty, *phrases.length.shape[1:]), jnp.int32)
    live = _Live(jnp.full(empty, how.bos), rank, rank, greedy, progress, carry)
    nothing, zeros = jnp.full((rows, how.groups * how.ended), -jnp.inf), jnp.zeros((rows, how.groups * how.ended), jnp.int32)
    ended = _Ended(nothing, nothing, zeros, zeros, nothing)
    steps = (rows, how.max_steps, how.beam_size)
    attention = jnp.zeros((*steps, src)) if how.attention else None
    history = _History(jnp.zeros(steps, jnp.int32), jnp.zeros(steps, jnp.int32), jnp.zeros(steps), attention)
    return _advance(step_fn, State(limit, jnp.zeros_like(limit), limit == 0, live, ended, history), how, phrases)


def put(flags: Bool[Array, " batch"], new: Any, old: Any) -> Any:
    """The rows of one tree where the flags are set, else those of the other."""
    return jax.tree.map(lambda a, b: jnp.where(_like(flags, a), a, b), new, old)


def run(step_fn: StepFn, state: State, how: Search, phrases: Phrases | None = None, until: Any = None, most: Any = None) -> State:
    """Searches until at least `until` rows are done (None: all), or for `most` steps (None: to the end)."""
    enough, last, many = (
        state.limit.shape[0] if until is None else until,
        jnp.iinfo(jnp.int32).max if most is None else most,
        how.steps_at_once,
    )

    def advance(_: Any, now: State) -> State:
        return _advance(step_fn, now, how, phrases)

    def go_on(now: tuple[Any, State]) -> tuple[Any, State]:
        return now[0] + many, lax.fori_loop(0, many, advance, now[1])

    begun = (jnp.int32(0), state)
    if many > 1:
        begun = lax.while_loop(lambda now: (now[1].done.sum() < enough) & (now[0] <= last - many), go_on, begun)
    return lax.while_loop(lambda now: (now[1].done.sum() < enough) & (now[0] < last), lambda now: (now[0] + 1, advance(0, now[1])), begun)[
        1
    ]


def _advance(step_fn: StepFn, now: State, how: Search, phrases: Phrases | None) -> State:
    """One more token of every live hypothesis: of all of a group, or of the one that it begins with."""
    carry, following = step_fn(now.live.carry, now.live.last)
    step, size, before = now.step + 1, how.beam_size // how.groups, now.live.last.shape[1]
    taken = jnp.zeros((following.rank.shape[0], following.rank.shape[2]))  # how often earlier groups chose each token
    chosen = []
    for group in range(how.groups):
        first, many = group * before // how.groups, before // how.groups
        live, scores = _slice((now.live._replace(carry=()), following), first, many)
        malus = how.diversity * taken if group else None
        found = _extend(live, scores, malus, how, phrases)
        chosen.append(_choose(live, _slice(now.ended, group * how.ended, how.ended), scores, found, step, first, how, phrases))
        live = chosen[-1][0]
        if how.groups > 1:
            taken = jax.vmap(lambda row, token, rank: row.at[token].add(jnp.isfinite(rank)))(taken, live.last, live.rank)
    live, ended, origin, token_logp = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *chosen)
    seen = None
    if how.attention and following.attention is not None:
        seen = jnp.pad(following.attention, ((0, 0), (0, how.beam_size - before), (0, 0)))
    entries = _History(live.last, origin, token_logp, seen)
    rows = jnp.arange(step.shape[0])
    history = jax.tree.map(lambda kept, entry: kept.at[rows, now.step].set(entry, mode="drop"), now.history, entries)
    frozen = now.live._replace(carry=())
    if before < how.beam_size:  # what a row without a limit has at the first step: the empty hypothesis
        rank = jnp.where(jnp.arange(how.beam_size)[None, :] % size == 0, jnp.zeros_like(live.rank), -jnp.inf)
        frozen = live._replace(rank=rank, logp=rank)
    live, ended, step = put(now.done, (frozen, now.ended, now.step), (live, ended, step))
    done = now.done | _hopeless(live, ended, now.limit, how) | (step >= now.limit)
    return State(now.limit, step, done, live._replace(carry=jax.tree.map(lambda part: _take(part, origin), carry)), ended, history)


def _slice(tree: Any, first: int, size: int) -> Any:
    return jax.tree.map(lambda part: part[:, first : first + size], tree)


def _extend(live: _Live, scores: Next, malus: Any, how: Search, phrases: Phrases | None) -> _Extensions:
    """The extensions that may be chosen: enough of them that none is missed, and as many as stay alive, be they real or not."""
    (rows, beams, vocab), size = scores.rank.shape, how.beam_size // how.groups
    totals = live.rank[:, :, None] + scores.rank
    if phrases is not None:
        return _at_least(_extend_by_bank(live, totals, how, phrases), size)
    order = totals if malus is None else totals - malus[:, None, :]
    order = order if scores.noise is None else order + scores.noise
    maxima = live.rank[:, :, None] + scores.maxima if scores.maxima is not None and malus is None and scores.noise is None else None
    # Enough: at most `size` of them end.
    index = _largest(order.reshape(rows, -1), min(2 * size, beams * vocab), None if maxima is None else maxima.reshape(rows, -1))
    rank, parent, token = _take(totals.reshape(rows, -1), index), index // vocab, index % vocab
    greedy = jnp.zeros_like(rank, bool)
    if size > 1:
        follows, source = live.greedy.any(axis=1), live.greedy.argmax(axis=1)
        likeliest = _likeliest(totals, source, maxima)
        greedy = follows[:, None] & (parent == source[:, None]) & (token == likeliest[:, None])
        missing = follows & ~greedy.any(axis=1)
        most = totals[jnp.arange(rows), source, likeliest]
        extra = (jnp.where(missing, most, -jnp.inf), likeliest, source, missing)
        rank, token, parent, greedy = (
            jnp.concatenate([found, more[:, None]], axis=1) for found, more in zip((rank, token, parent, greedy), extra, strict=True)
        )
    return _at_least(_Extensions(rank, token, parent, greedy, jnp.tile(jnp.arange(rank.shape[1]), (rows, 1)), None), size)


def _likeliest(
    totals: Float[Array, "batch beam vocab"], beam: Int[Array, " batch"], maxima: Float[Array, "batch beam blocks"] | None
) -> Int[Array, " batch"]:
    """The token with the largest total of one hypothesis of each row."""
    if maxima is None:
        return _largest(jnp.take_along_axis(totals, beam[:, None, None], axis=1)[:, 0], 1)[:, 0]
    of_it = jnp.where((jnp.arange(maxima.shape[1])[None, :] == beam[:, None])[:, :, None], maxima, -jnp.inf)
    return _largest(totals.reshape(len(totals), -1), 1, of_it.reshape(len(totals), -1))[:, 0] % totals.shape[2]


def _at_least(found: _Extensions, count: int) -> _Extensions:
    """Filled up with some that do not exist: the one hypothesis that a group begins with has as few extensions as there are tokens."""
    more = max(0, count - found.rank.shape[1])
    filled = jax.tree.map(lambda part: jnp.pad(part, ((0, 0), (0, more), *((0, 0),) * (part.ndim - 2))), found)
    return filled._replace(rank=jnp.pad(found.rank, ((0, 0), (0, more)), constant_values=-jnp.inf))


def block_width(vocab: int) -> int | None:
    """How many tokens have a maximum together, so that the largest of all are found soonest; None where no such number divides them."""
    even = max(1, math.isqrt(vocab // 2))
    return next((width for width in range(even, 2 * even) if vocab % width == 0), None)


def _largest(
    values: Float[Array, "batch values"], count: int, maxima: Float[Array, "batch blocks"] | None = None
) -> Int[Array, "batch count"]:
    """The places of the largest values, best first, and of equal ones the earlier first.

    Every one of them is in one of the `count` blocks with the largest maxima, so that only those are searched: a top-k looks at
    its values one by one, a maximum at many at once. Never slice what top-k returns: XLA moves a slice into it, knows it no longer
    as one, and sorts all values (CPU, 64 rows of 30,000: 414 ms, not 3).

    Args:
        values: of which the largest are looked for.
        count: how many.
        maxima: of blocks of one width, which may be lower where nothing is to be found; None: to be computed.
    """
    rows, total = values.shape
    even = max(1, math.isqrt(total // count))
    width = next((width for width in range(even, 2 * even) if total % width == 0), even)  # without a remainder if there is such a width
    blocks = -(-total // width)
    if maxima is not None:
        blocks, width = maxima.shape[1], total // maxima.shape[1]
    if blocks <= 2 * count:
        return lax.top_k(values, count)[1]
    padded = jnp.pad(values, ((0, 0), (0, blocks * width - total)), constant_values=-jnp.inf).reshape(rows, blocks, width)
    found = jnp.sort(
        lax.top_k(padded.max(axis=2) if maxima is None else maxima, count)[1], axis=1
    )  # in order: so equal values stay in theirs
    place = lax.top_k(_take(padded, found).reshape(rows, count * width), count)[1]
    return _take(found, place // width) * width + place % width


def _extend_by_bank(live: _Live, totals: Float[Array, "batch beam vocab"], how: Search, phrases: Phrases) -> _Extensions:
    is_end = (jnp.arange(totals.shape[2]) == how.eos)[None, None, :]
    totals = jnp.where(is_end & ~all_met(phrases, live.progress)[:, :, None], -jnp.inf, totals)
    rank, parent, token = best_of_each_bank(phrases, totals, how.eos, how.beam_size // how.groups)
    progress = progress_after(phrases, _take(live.progress, parent), jnp.where(token == how.eos, -1, token))
    turn = _better_in_bank(tokens_met(phrases, progress), jnp.isfinite(rank))
    return _Extensions(rank, token, parent, jnp.zeros_like(rank, bool), turn, progress)


def _better_in_bank(bank: Int[Array, "batch extension"], counts: Bool[Array, "batch extension"]) -> Int[Array, "batch extension"]:
    """How many that count stand before each one in its own bank."""
    same = (bank[:, :, None] == bank[:, None, :]) & counts[:, None, :]
    return jnp.tril(same, -1).sum(axis=2)


def _choose(
    live: _Live, ended: _Ended, scores: Next, found: _Extensions, step: Any, first: int, how: Search, phrases: Phrases | None
) -> tuple[_Live, _Ended, Array, Array]:
    """A group's live and ended hypotheses after this step; of the live ones also where they came from, and the token's log-probability."""
    rows, size = live.rank.shape[0], how.beam_size // how.groups
    token_logp = scores.logp[jnp.arange(rows)[:, None], found.parent, found.token]
    logp, is_end = _take(live.logp, found.parent) + token_logp, found.token == how.eos
    ends = is_end & jnp.isfinite(found.rank) & ((found.turn < size) | found.greedy)
    score = found.rank / _penalties(how)[step][:, None]
    if scores.end_bonus is not None:
        score += _take(scores.end_bonus, found.parent)
    parent = found.parent + first
    new = _Ended(jnp.where(ends, score, -jnp.inf), logp, jnp.broadcast_to(step[:, None], score.shape), parent, token_logp)
    merged = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), ended, new)
    ended = jax.tree.map(lambda part: _take(part, lax.top_k(merged.score, how.ended)[1]), merged)

    lives = ~is_end & jnp.isfinite(found.rank)
    turn = jnp.cumsum(lives, axis=1) - 1  # better ones that live
    if phrases is not None:
        bank = tokens_met(phrases, found.progress)
        most = phrases.goto.shape[1] * phrases.goto.shape[3]
        turn = _better_in_bank(bank, lives) * (most + 1) + most - bank
    turn = jnp.where(found.greedy, jnp.minimum(turn, size - 1), turn)
    if size == 1:
        lives &= ~jnp.isfinite(ended.score)  # greedy search is over with its first end
    key, kept = lax.top_k(jnp.where(lives, found.greedy - 2 * turn, jnp.iinfo(jnp.int32).min), size)
    alive = key > jnp.iinfo(jnp.int32).min
    rank, logp, token, origin, greedy, token_logp = (
        _take(part, kept) for part in (found.rank, logp, found.token, parent, found.greedy & lives, token_logp)
    )
    progress = None if found.progress is None else _take(found.progress, kept)
    return _Live(token, jnp.where(alive, rank, -jnp.inf), logp, greedy & alive, progress, ()), ended, origin, token_logp


def _penalties(how: Search) -> Float[Array, " lengths"]:
    return jnp.array([length_penalty(length, how.alpha) for length in range(how.max_steps + 1)], jnp.float32)


def _hopeless(live: _Live, ended: _Ended, limit: Int[Array, " batch"], how: Search) -> Bool[Array, " batch"]:
    """Whether no live hypothesis can become one that is wanted: it cannot rise, and its penalty is at most that of the limit."""
    size = how.beam_size // how.groups
    rows, groups = limit.shape[0], how.groups
    scores, ranks = ended.score.reshape(rows, groups, how.ended), live.rank.reshape(rows, groups, size)
    if size == 1:
        return ~jnp.isfinite(ranks).any(axis=(1, 2))
    wanted = min(size, -(-how.n_best // how.groups))
    return (ranks.max(axis=2) / _penalties(how)[limit][:, None] <= scores[:, :, wanted - 1]).all(axis=1)


def finish(state: State, how: Search, phrases: Phrases | None = None) -> Hypotheses:
    """The best ended hypotheses of each row; where none ended, the live ones as they stood at the limit."""
    live, ended, count = state.live, state.ended, how.returned
    score, index = lax.top_k(ended.score, count)
    length, logp, slot, end_logp = (_take(part, index) for part in (ended.length, ended.logp, ended.parent, ended.end_logp))
    any_ended = jnp.isfinite(ended.score).any(axis=1)[:, None]

    cut_score = live.rank / _penalties(how)[state.limit][:, None]
    met = jnp.isfinite(live.rank).astype(jnp.int32)  # absent ones come last
    if phrases is not None:
        met *= 1 + tokens_met(phrases, live.progress)
    _, _, place = lax.sort((-met, -cut_score, jnp.broadcast_to(jnp.arange(how.beam_size), met.shape)), num_keys=3)
    place = jnp.pad(place[:, :count], ((0, 0), (0, max(0, count - how.beam_size))))
    cut_score = jnp.where(jnp.arange(count)[None, :] < how.beam_size, _take(cut_score, place), -jnp.inf)

    is_end = any_ended & jnp.isfinite(score)
    is_cut = ~any_ended & jnp.isfinite(cut_score)
    score = jnp.where(is_end, score, jnp.where(is_cut, cut_score, -jnp.inf))
    logp = jnp.where(is_end, logp, jnp.where(is_cut, _take(live.logp, place), -jnp.inf))
    body = jnp.where(is_end, length - 1, jnp.where(is_cut, state.step[:, None], 0))
    ids, token_logp, attention = _read_back(state.history, jnp.where(is_end, slot, place), body, is_end)
    at_end = is_end[:, :, None] & (jnp.arange(how.max_steps)[None, None, :] == body[:, :, None])
    ids, token_logp = jnp.where(at_end, how.eos, ids), jnp.where(at_end, end_logp[:, :, None], token_logp)
    return Hypotheses(ids, body + is_end, logp, score, is_end, token_logp, attention)


def _read_back(history: _History, slot: Int[Array, "batch n"], body: Int[Array, "batch n"], is_end: Bool[Array, "batch n"]) -> Any:
    """Follows each hypothesis from its last place to its first: tokens, their log-probabilities, their attention."""

    def back(turn: Any, carry: Any) -> Any:
        slot, found = carry
        position = last - turn
        token, parent, logp = (part[:, position] for part in (history.token, history.parent, history.logp))
        inside = position < body
        origin = jnp.where(inside, _take(parent, slot), slot)
        seen = None
        if history.attention is not None:
            seen = jnp.where((position < body + is_end)[:, :, None], _take(history.attention[:, position], origin), 0.0)
        read = (jnp.where(inside, _take(token, slot), 0), jnp.where(inside, _take(logp, slot), 0.0), seen)
        return origin, jax.tree.map(lambda all_read, now: all_read.at[:, :, position].set(now), found, read)

    last = (body + is_end).max() - 1
    empty = [jnp.zeros((*slot.shape, part.shape[1]), part.dtype) for part in (history.token, history.logp)]
    seen = None if history.attention is None else jnp.zeros((*empty[0].shape, history.attention.shape[3]))
    return lax.fori_loop(0, last + 1, back, (slot, (*empty, seen)))[1]  # [batch n tgt ...]


def _take(values: Array, index: Int[Array, "batch chosen"]) -> Array:
    """`values[b, index[b, k]]` for every row b."""
    return jax.vmap(lambda row, chosen: row[chosen])(values, index)


def _like(flags: Bool[Array, " batch"], values: Array) -> Array:
    """One flag per row, broadcast to `values`."""
    return flags.reshape((-1,) + (1,) * (values.ndim - 1))
