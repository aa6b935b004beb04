"""Searches written as their definitions say, by lists and sorting: what flax_s2s.decoding.beam must agree with.

A model is a function from a prefix of tokens to the log-probabilities of the next one, in float32. The same random
models are also made as step functions with a carry, so that a hypothesis that lost its state shows.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flax_s2s.decoding.beam import Next

LogpFn = Callable[[tuple[int, ...]], np.ndarray]
"""Tokens so far, without the start token -> log-probabilities [vocab]."""


class Found(NamedTuple):
    """A hypothesis; one that did not finish was cut at the limit."""

    ids: tuple[int, ...]
    logp: np.float32
    score: np.float32
    finished: bool
    rank: np.float32 = np.float32(0)
    greedy: bool = False


class Rules(NamedTuple):
    """What a hypothesis may and must contain; the defaults allow everything."""

    allowed: frozenset[int] | None = None
    least: int = 0
    end_factor: float = np.inf
    ngram: int = 0
    penalty: float = 1.0
    prefix: tuple[int, ...] = ()
    blocked: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()  # of the tokens, for `blocked`
    phrases: tuple[tuple[tuple[int, ...], ...], ...] = ()  # variants of each
    attention_fn: Callable[[tuple[int, ...]], np.ndarray] | None = None
    coverage: float = 0.0

    def ranks(self, ids: tuple[int, ...], logp: np.ndarray, eos: int) -> np.ndarray:
        """What the next token is ranked by."""
        if len(ids) < len(self.prefix):
            return np.where(np.arange(len(logp)) == self.prefix[len(ids)], logp, np.float32(-np.inf))
        ranks = logp.copy()
        others = [token for token in range(len(logp)) if token != eos]
        for token in others:
            if token in ids:
                ranks[token] = np.float32(ranks[token] * np.float32(self.penalty))
            if self.ngram and contains(ids, (*ids[len(ids) - self.ngram + 1 :], token)) and len(ids) >= self.ngram - 1:
                ranks[token] = -np.inf
        likeliest = max((logp[token] for token in others), default=-np.inf)
        if len(ids) + 1 < self.least or (self.end_factor < np.inf and logp[eos] <= np.float32(self.end_factor) * likeliest):
            ranks[eos] = -np.inf
        before = "".join(self.texts[token] for token in ids) if self.texts else ""
        for token in range(len(logp)):
            if self.allowed is not None and token not in self.allowed:
                ranks[token] = -np.inf
            text = before + self.texts[token] if self.texts else ""
            for end in range(len(before) + 1, len(text) + 1):
                if any(text[:end].endswith(phrase) for phrase in self.blocked):
                    ranks[token] = -np.inf
        return ranks

    def met(self, ids: tuple[int, ...]) -> list[int]:
        """Of each phrase how many tokens are met: all of the longest variant's where one is contained, else the longest begun at the end."""
        found = []
        for variants in self.phrases:
            if any(contains(ids, variant) for variant in variants):
                found.append(max(map(len, variants)))
            else:
                found.append(max(n for variant in variants for n in range(len(variant)) if ids[len(ids) - n :] == variant[:n]))
        return found

    def complete(self, ids: tuple[int, ...]) -> bool:
        """Whether every phrase is contained."""
        return all(any(contains(ids, variant) for variant in variants) for variants in self.phrases)

    def bonus(self, ids: tuple[int, ...]) -> np.float32:
        """Coverage penalty of a hypothesis, whose last token is the end mark."""
        if not self.coverage or self.attention_fn is None:
            return np.float32(0)
        got = sum(self.attention_fn(ids[:position]) for position in range(len(ids)))
        return np.float32(self.coverage * np.log(np.clip(got, 1e-9, 1)).sum())


ANYTHING = Rules()


def contains(ids: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether tokens stand in a row."""
    return any(ids[start : start + len(wanted)] == wanted for start in range(len(ids) - len(wanted) + 1))


def penalty(length: int, alpha: float) -> np.float32:
    """Wu et al. 2016, equation 14."""
    return np.float32(((5 + length) / 6) ** alpha)


def beam_search(
    logp_fn: LogpFn,
    limit: int,
    *,
    beam_size: int,
    eos: int,
    alpha: float = 0.0,
    n_best: int = 1,
    groups: int = 1,
    diversity: float = 0.0,
    rules: Rules = ANYTHING,
    early_exit: bool = True,
) -> list[Found]:
    """The definition in the docstring of flax_s2s.decoding.beam, for one sentence; sorting is stable, so ties keep their order."""
    size = beam_size // groups
    empty = Found((), np.float32(0), np.float32(0), False)
    lives = [[empty._replace(greedy=group == 0 and size > 1 and not rules.phrases)] for group in range(groups)]
    ends: list[list[Found]] = [[] for _ in range(groups)]
    for length in range(1, limit + 1):
        chosen: list[int] = []
        for group in range(groups):
            extensions, malus = [], []
            for parent in lives[group]:
                logp = logp_fn(parent.ids)
                ranks = rules.ranks(parent.ids, logp, eos)
                for token in range(len(logp)):
                    ids, total = (*parent.ids, token), np.float32(parent.rank + ranks[token])
                    if total == -np.inf or (token == eos and not rules.complete(parent.ids)):
                        continue
                    greedy = parent.greedy and token == int(np.argmax(parent.rank + ranks))
                    extensions.append(
                        Found(ids, np.float32(parent.logp + logp[token]), total / penalty(limit, alpha), False, total, greedy)
                    )
                    malus.append(np.float32(np.float32(diversity) * np.float32(chosen.count(token))))
            order = sorted(range(len(extensions)), key=lambda i: -np.float32(extensions[i].rank - malus[i]))
            extensions = [extensions[i] for i in order]
            banks = [sum(rules.met(one.ids[:-1] if one.ids[-1] == eos else one.ids)) for one in extensions]
            for i, one in enumerate(extensions):
                if one.ids[-1] == eos and (banks[:i].count(banks[i]) < size or one.greedy):
                    score = np.float32(one.rank / penalty(length, alpha) + rules.bonus(one.ids))
                    ends[group].append(Found(one.ids, one.logp, score, True))
            ends[group].sort(key=lambda one: -one.score)
            ends[group] = ends[group][:size]
            living = [(one, bank) for one, bank in zip(extensions, banks, strict=True) if one.ids[-1] != eos]
            turns = [[other for _, other in living[:i]].count(bank) for i, (_, bank) in enumerate(living)]
            living = [living[i] for i in sorted(range(len(living)), key=lambda i: (turns[i], -living[i][1]))]
            if size == 1 and ends[group]:
                living = []
            best = [one for one, _ in living[:size]]
            best += [one for one, _ in living[size:] if one.greedy]
            lives[group] = best if len(best) <= size else [*best[: size - 1], best[-1]]
            chosen += [one.ids[-1] for one in lives[group]]
        if not any(lives):
            break
        wanted = min(size, -(-n_best // groups))
        hopeless = [
            all(len(ended) >= wanted and one.score <= ended[wanted - 1].score for one in live)
            for live, ended in zip(lives, ends, strict=True)
        ]
        if early_exit and size > 1 and all(hopeless):
            break
    finished = sorted((one for group in ends for one in group), key=lambda one: -one.score)
    cut = sorted((one for group in lives for one in group), key=lambda one: (-sum(rules.met(one.ids)), -one.score))
    return [one._replace(rank=np.float32(0), greedy=False) for one in (finished or cut)[:n_best]]


def greedy_search(logp_fn: LogpFn, limit: int, eos: int, rules: Rules = ANYTHING) -> Found | None:
    """The best ranked token again and again, at ties the smallest; None where no token is possible."""
    ids: tuple[int, ...] = ()
    rank = total = np.float32(0)
    while len(ids) < limit and ids[-1:] != (eos,):
        logp = logp_fn(ids)
        ranks = rules.ranks(ids, logp, eos)
        token = int(ranks.argmax())
        ids, total, rank = (*ids, token), np.float32(total + logp[token]), np.float32(rank + ranks[token])
    return Found(ids, total, rank, ids[-1:] == (eos,)) if rank > -np.inf else None


def exhaustive_search(logp_fn: LogpFn, limit: int, vocab: int, eos: int, alpha: float, rules: Rules = ANYTHING) -> Found | None:
    """The best of all sequences that end within the limit, the first of equals; None where none is possible."""
    others = [token for token in range(vocab) if token != eos]
    every = [(*body, eos) for length in range(limit) for body in itertools.product(others, repeat=length)]
    scored = [forced(logp_fn, ids, eos, alpha, rules) for ids in every if rules.complete(ids[:-1])]
    return max((one for one in scored if one.score > -np.inf), key=lambda one: one.score, default=None)


def forced(logp_fn: LogpFn, ids: tuple[int, ...], eos: int, alpha: float, rules: Rules = ANYTHING) -> Found:
    """The hypothesis that consists of these tokens."""
    total = rank = np.float32(0)
    for position, token in enumerate(ids):
        logp = logp_fn(ids[:position])
        total = np.float32(total + logp[token])
        rank = np.float32(rank + rules.ranks(ids[:position], logp, eos)[token])
    finished = ids[-1:] == (eos,)
    return Found(ids, total, np.float32(rank / penalty(len(ids), alpha) + (rules.bonus(ids) if finished else 0)), finished)


# Random models


class Automata(NamedTuple):
    """One random automaton per row; the next token depends on the state, which the whole prefix led to, and on the last but one."""

    next_state: np.ndarray  # [batch states vocab]
    logp: np.ndarray  # [batch states vocab vocab]
    attention: np.ndarray  # [batch states vocab src]
    bos: int

    def logp_fn(self, row: int) -> LogpFn:
        """The model of one row, from the prefix alone."""

        return lambda prefix: self.logp[row][self._where(row, prefix)]

    def attention_fn(self, row: int) -> LogpFn:
        """What the model looks at, one value for each source position."""
        return lambda prefix: self.attention[row][self._where(row, prefix)]

    def _where(self, row: int, prefix: tuple[int, ...]) -> tuple[int, int]:
        state, tokens = 0, (self.bos, self.bos, *prefix)
        for token in tokens[1:]:
            state = int(self.next_state[row, state, token])
        return state, tokens[-2]

    def start(self, beam_size: int) -> dict[str, Any]:
        """The carry before the first step: the state, and the last two tokens."""
        shape = (len(self.logp), beam_size)
        return {"state": jnp.zeros(shape, jnp.int32), "tokens": jnp.full((*shape, 2), self.bos)}

    @staticmethod
    def step_fn(next_state: Any, logp: Any, attention: Any = None) -> Callable[[Any, Any], tuple[Any, Next]]:
        """All rows at once, for the beam search; the tables may be traced."""

        def step(carry: Any, ids: Any) -> tuple[Any, Next]:
            row = jnp.arange(ids.shape[0])[:, None]
            state = next_state[row, carry["state"], ids]
            tokens = jnp.stack([carry["tokens"][:, :, 1], ids], axis=-1)
            said = logp[row, state, tokens[:, :, 0]]
            return {"state": state, "tokens": tokens}, Next(
                said, said, None if attention is None else attention[row, state, tokens[:, :, 0]]
            )

        return step


def draw_automata(rng: np.random.Generator, rows: int, states: int, vocab: int, bos: int, kinds: str, src: int = 3) -> Automata:
    """Row r is of the kind `kinds[r % len(kinds)]`.

    n: normalized, no ties. p: normalized and peaked. t: multiples of 2**-10 from a narrow range, so that sums are exact.
    T: multiples of 1/2, so that ties are everywhere. z: like n, half of the tokens impossible (with dead ends).
    """
    shape = (states, vocab, vocab)
    tables = np.empty((rows, *shape), np.float32)
    for row, kind in zip(range(rows), itertools.cycle(kinds)):
        if kind in "tT":
            units, unit = (16, 2.0**-10) if kind == "t" else (4, 0.5)
            tables[row] = -rng.integers(0, units, shape) * unit
            continue
        logits = rng.normal(size=shape) * (4 if kind == "p" else 1)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        tables[row] = np.where(rng.random(shape) < 0.5, -np.inf, logp) if kind == "z" else logp
    attention = rng.dirichlet(np.full(src, 0.5), (rows, states, vocab)).astype(np.float32)
    return Automata(rng.integers(0, states, (rows, states, vocab)).astype(np.int32), tables, attention, bos)


class Networks(NamedTuple):
    """One random recurrent network per row: h' = tanh(h A + B[token]), logits h' C."""

    recurrent: np.ndarray  # [batch hid hid]
    embedding: np.ndarray  # [batch vocab hid]
    output: np.ndarray  # [batch hid vocab]
    bos: int

    def logp_fn(self, row: int) -> LogpFn:
        """The model of one row, from the prefix alone."""

        def of(prefix: tuple[int, ...]) -> np.ndarray:
            hidden = np.zeros(self.recurrent.shape[1])
            for token in (self.bos, *prefix):
                hidden = np.tanh(hidden @ self.recurrent[row] + self.embedding[row, token])
            logits = hidden @ self.output[row]
            return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

        return of

    def start(self, beam_size: int) -> Any:
        """The carry before the first step."""
        return jnp.zeros((len(self.output), beam_size, self.recurrent.shape[1]))

    @staticmethod
    def step_fn(recurrent: Any, embedding: Any, output: Any) -> Callable[[Any, Any], tuple[Any, Next]]:
        """All rows at once, for the beam search."""

        def step(hidden: Any, ids: Any) -> tuple[Any, Next]:
            fed = embedding[jnp.arange(ids.shape[0])[:, None], ids]
            hidden = jnp.tanh(jnp.einsum("bkh,bhg->bkg", hidden, recurrent) + fed)
            logits = jnp.einsum("bkh,bhv->bkv", hidden, output)
            logp = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
            return hidden, Next(logp, logp)

        return step


def draw_networks(rng: np.random.Generator, rows: int, hidden: int, vocab: int, bos: int) -> Networks:
    """Random networks whose probabilities are neither flat nor certain."""
    shapes = ((rows, hidden, hidden), (rows, vocab, hidden), (rows, hidden, vocab))
    return Networks(*(rng.normal(size=shape).astype(np.float32) * 1.5 for shape in shapes), bos)
