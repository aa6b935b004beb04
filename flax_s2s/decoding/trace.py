"""What a search has looked at, and what could have been said instead: for who wants to see why a translation came out as it did.

Enters: requests, and targets. Leaves: the live hypotheses after each step of a search; and of each token of a target its probability and
the likeliest tokens at its place.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from flax_s2s.config import DecodingConfig
from flax_s2s.data.batching import pad
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.constraints import Mean
from flax_s2s.decoding.forced import at_each_place, read_pairs
from flax_s2s.decoding.requests import SOURCE_LENGTHS, Ready, Request, padded_length
from flax_s2s.decoding.stream import KEPT, Weights, rows_per_device
from flax_s2s.decoding.translate import Translator
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime import lowered
from flax_s2s.runtime.parallel import AXIS, Devices, feed_rows

MOST_ALTERNATIVES = 10
"""Tokens that are found at each place."""


class Branch(NamedTuple):
    """A live hypothesis after a step."""

    parent: int  # the place, in the step before, of the hypothesis that it goes on with; 0 in the first step
    token: int  # its last
    logp: float  # natural log of the probability of its tokens


Step = tuple[Branch, ...]
"""The live hypotheses after a step, best first."""


class Place(NamedTuple):
    """A token of a target, and what could stand there after the tokens before it."""

    probability: float  # of the token
    alternatives: tuple[
        tuple[int, float], ...
    ]  # the likeliest tokens, this one perhaps among them, with their probabilities; likeliest first


def trace(translator: Translator, weights: Sequence[Weights], requests: Sequence[Request]) -> list[list[Step]]:
    """Of each request the steps of its search, in the order of the requests; a blank one has none.

    The search is the translator's own, to the bit; it is halted after each step, and so is slower. Several hypotheses may end at a step, and
    are no longer among the live ones after it.
    """
    found: list[list[Step]] = [[] for _ in requests]
    ready = translator.read({i: request for i, request in enumerate(requests) if request.source.strip()})
    by_shape: dict[Any, list[int]] = {}
    for i, one in ready.items():
        by_shape.setdefault(translator.shape(one), []).append(i)
    for shape, members in by_shape.items():
        rows = translator.make_lane(shape).free
        for start in range(0, len(members), rows):
            for _ in watch(translator, weights, {i: ready[i] for i in members[start : start + rows]}, found):
                pass
    return found


def watch(translator: Translator, weights: Sequence[Weights], chosen: dict[int, Ready], found: list[list[Step]]) -> Iterator[None]:
    """As `trace`, for sentences of one shape, as many as there are rows; comes back after each step, for who has other work too.

    Args:
        translator: searches.
        weights: of each model.
        chosen: requests as numbers, by their places in `found`.
        found: the steps of each are put here.
    """
    lane = translator.make_lane(translator.shape(next(iter(chosen.values()))))
    for i, one in chosen.items():
        lane.put(i, one)
    steps, orders = 0, dict[int, np.ndarray]()
    while lane.busy:
        ended = lane.go(weights, min(steps, 1))  # at first none: the first step is made when a row is seated
        looked_at = lane.seats | dict(zip(ended.tickets, ended.rows.tolist(), strict=True))
        state = jax.tree.map(np.asarray, lane.state)
        for i, row in looked_at.items():
            live, entry = state.live, int(state.step[row]) - 1
            parents = state.history.parent[row, entry]
            order = np.argsort(-live.rank[row], kind="stable")[: int(np.isfinite(live.rank[row]).sum())]
            came_from = orders.get(i)
            places = None if came_from is None else {int(slot): place for place, slot in enumerate(came_from)}
            step = [
                Branch(0 if places is None else places[int(parents[slot])], int(live.last[row, slot]), float(live.logp[row, slot]))
                for slot in order
            ]
            orders[i] = order
            ids = translator.tokens(np.array([branch.token for branch in step], np.int64), chosen[i]).tolist()
            found[i].append(tuple(branch._replace(token=token) for branch, token in zip(step, ids, strict=True)))
        steps += 1
        yield


def hypotheses(steps: Sequence[Step]) -> list[list[tuple[int, ...]]]:
    """The tokens of each live hypothesis after each step, best first."""
    found: list[list[tuple[int, ...]]] = [[()]]
    for step in steps:
        found.append([(*found[-1][branch.parent], branch.token) for branch in step])
    return found[1:]


def fell_out(steps: Sequence[Step], ids: Sequence[int]) -> int | None:
    """The first place of a target whose tokens up to there were no live hypothesis: from there on the search could not find it.

    Args:
        steps: of the search for its source, see `trace`.
        ids: the target's tokens, without the end mark.

    Returns:
        The place, from 0; the number of steps where the search was over before; None where all tokens were live, so that only the score of the whole decided.
    """
    live = {0}  # places of the step before that hold the target so far
    for place, token in enumerate(ids):
        if place == len(steps):
            return place
        live = {i for i, branch in enumerate(steps[place]) if branch.token == token and (place == 0 or branch.parent in live)}
        if not live:
            return place
    return None


@lru_cache(KEPT)
def make_places(models: tuple[Model, ...], mean: Mean, devices: Devices) -> Callable[..., Any]:
    """Makes `(Weights of each model, temperature, src_ids, tgt_ids) -> log-probabilities of tokens, of the likeliest ones, and those`, jitted."""
    by_row, everywhere = PartitionSpec(AXIS), PartitionSpec()

    @partial(jax.shard_map, mesh=devices.mesh, in_specs=(everywhere, everywhere, by_row, by_row), out_specs=by_row, check_vma=False)
    def places(weights: Any, temperature: Any, src_ids: Any, tgt_ids: Any) -> Any:
        def look(logp: Any, ids: Any) -> Any:
            scaled = jax.nn.log_softmax(logp / temperature, axis=-1)
            return jnp.take_along_axis(scaled, ids[:, None], axis=1)[:, 0], *jax.lax.top_k(scaled, min(MOST_ALTERNATIVES, logp.shape[-1]))

        return at_each_place(models, mean, weights, src_ids, tgt_ids, look)

    return lowered.jit(places, ([model.config for model in models], mean))


class Places:
    """Looks at the places of targets with any parameters of one model, or of several as one."""

    def __init__(
        self,
        models: Sequence[Model],
        vocabularies: Vocabularies,
        config: DecodingConfig,
        devices: Devices,
        lengths: Sequence[int] = SOURCE_LENGTHS,
    ) -> None:
        """Compiles nothing yet: each length is compiled when the first pair of it comes.

        Args:
            models: with the same vocabularies.
            vocabularies: of both sides.
            config: rows of each device, mean of an ensemble, longest source.
            devices: this process' own.
            lengths: that both sides of a pair are padded to, see `requests.padded_length`.
        """
        self.vocabularies, self.config, self._devices, self._lengths = vocabularies, config, devices, lengths
        self.rows = rows_per_device(config, 1, models) * devices.count
        self._places = make_places(tuple(models), config.ensemble, devices)

    def __call__(
        self,
        weights: Sequence[Weights],
        sources: Sequence[str],
        targets: Sequence[Sequence[int]],
        bundles: Sequence[str] = (),
        temperature: float = 1.0,
    ) -> list[list[Place]]:
        """Of each pair the places of its target, the end mark's included.

        Args:
            weights: as `Translator.lay_out` makes them.
            sources: lines; too long ones are cut as for decoding.
            targets: the tokens of each, without the end mark.
            bundles: the features of each, of models that have some.
            temperature: the logits are divided by.
        """
        src, tgt, _ = read_pairs(self.vocabularies, self.config, sources, targets, bundles)
        shapes: dict[int, list[int]] = {}
        for i, both in enumerate(zip(src, tgt, strict=True)):
            shapes.setdefault(padded_length(max(map(len, both)), self._lengths), []).append(i)
        results: dict[int, list[Place]] = {}
        for length, members in sorted(shapes.items(), reverse=True):
            for start in range(0, len(members), self.rows):
                chosen = members[start : start + self.rows]
                batch = tuple(pad([side[i] for i in chosen], self.rows, length) for side in (src, tgt))
                found = self._places(weights, np.float32(temperature), *feed_rows(self._devices, batch))
                logp, top, tokens = (np.asarray(part) for part in found)
                for row, i in enumerate(chosen):
                    results[i] = [_place(logp[row, at], top[row, at], tokens[row, at]) for at in range(len(tgt[i]))]
        return [results[i] for i in range(len(src))]


def _place(logp: np.ndarray, top: np.ndarray, tokens: np.ndarray) -> Place:
    return Place(float(np.exp(logp)), tuple(zip(tokens.tolist(), np.exp(top).tolist(), strict=True)))
