"""Searches written as their definitions say, by lists and sorting: what flax_s2s.decoding.beam must agree with.

A model is a function from a prefix of tokens to the log-probabilities of the next one, in float32. The same random
models are also made as step functions with a carry, so that a hypothesis that lost its state shows.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

LogpFn = Callable[[tuple[int, ...]], np.ndarray]
"""Tokens so far, without the start token -> log-probabilities [vocab]."""


class Found(NamedTuple):
    """A hypothesis; one that did not finish was cut at the limit."""

    ids: tuple[int, ...]
    logp: np.float32
    score: np.float32
    finished: bool


def penalty(length: int, alpha: float) -> np.float32:
    """Wu et al. 2016, equation 14."""
    return np.float32((5 + length) / 6) ** np.float32(alpha)


def beam_search(
    logp_fn: LogpFn, limit: int, *, beam_size: int, eos: int, alpha: float = 0.0, n_best: int = 1, early_exit: bool = True
) -> list[Found]:
    """The definition in the docstring of flax_s2s.decoding.beam, for one sentence; sorting is stable, so ties keep their order."""
    live = [Found((), np.float32(0), np.float32(0), False)]
    finished: list[Found] = []
    for length in range(1, limit + 1):
        extensions = []
        for parent in live:
            for token, logp in enumerate(logp_fn(parent.ids)):
                total = np.float32(parent.logp + logp)
                if total > -np.inf:
                    extensions.append(Found((*parent.ids, token), total, total / penalty(limit, alpha), False))
        extensions.sort(key=lambda one: -one.logp)
        for one in extensions[:beam_size]:
            if one.ids[-1] == eos:
                finished.append(Found(one.ids, one.logp, one.logp / penalty(length, alpha), True))
        finished.sort(key=lambda one: -one.score)
        live = [one for one in extensions if one.ids[-1] != eos][:beam_size]
        if beam_size == 1 and finished:
            break
        if early_exit and len(finished) >= n_best and all(one.score <= finished[n_best - 1].score for one in live):
            break
    return (finished or live)[:n_best]


def greedy_search(logp_fn: LogpFn, limit: int, eos: int) -> Found | None:
    """The likeliest token again and again, at ties the smallest; None where no token is possible."""
    ids: tuple[int, ...] = ()
    total = np.float32(0)
    while len(ids) < limit and ids[-1:] != (eos,):
        logp = logp_fn(ids)
        ids = (*ids, int(logp.argmax()))
        total = np.float32(total + logp.max())
    return Found(ids, total, total, ids[-1:] == (eos,)) if total > -np.inf else None


def exhaustive_search(logp_fn: LogpFn, limit: int, vocab: int, eos: int, alpha: float) -> Found:
    """The best of all sequences that end within the limit."""
    others = [token for token in range(vocab) if token != eos]
    every = [(*body, eos) for length in range(limit) for body in itertools.product(others, repeat=length)]
    return max((forced(logp_fn, ids, eos, alpha) for ids in every), key=lambda one: one.score)


def forced(logp_fn: LogpFn, ids: tuple[int, ...], eos: int, alpha: float) -> Found:
    """The hypothesis that consists of these tokens."""
    total = np.float32(0)
    for position, token in enumerate(ids):
        total = np.float32(total + logp_fn(ids[:position])[token])
    return Found(ids, total, total / penalty(len(ids), alpha), ids[-1:] == (eos,))


# Random models


class Automata(NamedTuple):
    """One random automaton per row; the next token depends on the state, which the whole prefix led to, and on the last but one."""

    next_state: np.ndarray  # [batch states vocab]
    logp: np.ndarray  # [batch states vocab vocab]
    bos: int

    def logp_fn(self, row: int) -> LogpFn:
        """The model of one row, from the prefix alone."""

        def of(prefix: tuple[int, ...]) -> np.ndarray:
            state, tokens = 0, (self.bos, self.bos, *prefix)
            for token in tokens[1:]:
                state = int(self.next_state[row, state, token])
            return self.logp[row, state, tokens[-2]]

        return of

    def start(self, beam_size: int) -> dict[str, Any]:
        """The carry before the first step: the state, and the last two tokens."""
        shape = (len(self.logp), beam_size)
        return {"state": jnp.zeros(shape, jnp.int32), "tokens": jnp.full((*shape, 2), self.bos)}

    @staticmethod
    def step_fn(next_state: Any, logp: Any) -> Callable[[Any, Any], tuple[Any, Any, None]]:
        """All rows at once, for the beam search; the tables may be traced."""

        def step(carry: Any, ids: Any) -> tuple[Any, Any, None]:
            row = jnp.arange(ids.shape[0])[:, None]
            state = next_state[row, carry["state"], ids]
            tokens = jnp.stack([carry["tokens"][:, :, 1], ids], axis=-1)
            return {"state": state, "tokens": tokens}, logp[row, state, tokens[:, :, 0]], None

        return step


def draw_automata(rng: np.random.Generator, rows: int, states: int, vocab: int, bos: int, kinds: str) -> Automata:
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
    return Automata(rng.integers(0, states, (rows, states, vocab)).astype(np.int32), tables, bos)


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
    def step_fn(recurrent: Any, embedding: Any, output: Any) -> Callable[[Any, Any], tuple[Any, Any, None]]:
        """All rows at once, for the beam search."""

        def step(hidden: Any, ids: Any) -> tuple[Any, Any, None]:
            fed = embedding[jnp.arange(ids.shape[0])[:, None], ids]
            hidden = jnp.tanh(jnp.einsum("bkh,bhg->bkg", hidden, recurrent) + fed)
            logits = jnp.einsum("bkh,bhv->bkv", hidden, output)
            return hidden, logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True)), None

        return step


def draw_networks(rng: np.random.Generator, rows: int, hidden: int, vocab: int, bos: int) -> Networks:
    """Random networks whose probabilities are neither flat nor certain."""
    shapes = ((rows, hidden, hidden), (rows, vocab, hidden), (rows, hidden, vocab))
    return Networks(*(rng.normal(size=shape).astype(np.float32) * 1.5 for shape in shapes), bos)
