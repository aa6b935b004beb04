"""Requests in, translations out, in their order: each is put where sentences of its shape stream through the search.

A sentence's shape depends on the sentence alone, and at a fixed shape a row's result is bitwise independent of the other rows:
neighbors, order, and the number of devices and of processes change no translation.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flax_s2s.config import DecodingConfig, UserError
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.lanes import Ended, Lane, lanes_at_once, move
from flax_s2s.decoding.requests import SOURCE_LENGTHS, Ready, Request, Requests, Shape
from flax_s2s.decoding.shortlist import Shortlist
from flax_s2s.decoding.stream import Weights, make_lay_out, make_stream, memory_length, rows_per_device
from flax_s2s.model.copying import as_targets
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime.parallel import Devices, localize


class Translation(NamedTuple):
    """One request's result."""

    text: str
    logp: float  # natural log of the probability of the tokens, end mark included; 0 for a blank line
    score: float  # what hypotheses are sorted by
    tokens: int  # end mark included
    finished: bool  # False: cut at the length limit
    cut_source: bool  # the source was longer than decoding.max_source_tokens
    unknown_source: int = 0  # tokens of the source, as far as it is read, that the vocabulary does not have
    ids: tuple[int, ...] = ()  # the tokens
    pieces: tuple[str, ...] = ()  # they, as they are written
    token_logp: tuple[float, ...] = ()  # of each
    copied: tuple[float, ...] | None = None  # of each the share of its probability that copying has; with attention, where models copy and
    # their probabilities, if there are several, are averaged: of a mean of logs no part is copying's
    attention: Any = None  # [tokens source tokens], the end mark of the source included; where asked for
    others: tuple["Translation", ...] = ()  # the second best and so on: other texts; only what is sampled may be the same again
    unmet: tuple[str, ...] = ()  # of what was asked for: the prefix, phrases to include, phrases to exclude

    @property
    def reason(self) -> str:
        """Why it ends: with an end mark; at the limit; because nothing could follow; or because the source is blank."""
        if self.finished:
            return "end" if self.tokens else "blank"
        return "limit" if self.tokens else "impossible"

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities; 1 without tokens."""
        return math.exp(self.logp / self.tokens) if self.tokens else 1.0


BLANK = Translation("", 0.0, 0.0, 0, True, False)
"""The translation of a blank line: nothing."""


class Translator:
    """Translates with any parameters of one model, or of several as one."""

    def __init__(
        self,
        models: Sequence[Model],
        vocabularies: Vocabularies,
        config: DecodingConfig,
        devices: Devices,
        *,
        blocklist: Sequence[str] = (),
        shortlist: Shortlist | None = None,
        attention: bool = False,
        lengths: Sequence[int] = SOURCE_LENGTHS,
        settle: Callable[[Shape], Shape] = lambda shape: shape,
    ) -> None:
        """Compiles nothing yet: each shape is compiled when the first sentence of it comes.

        Args:
            models: with the same vocabularies.
            vocabularies: of both sides.
            config: how to search.
            devices: this process' own.
            blocklist: phrases that no translation contains, whatever their case.
            shortlist: which tokens may be generated for which source; None: all.
            attention: whether translations come with it.
            lengths: that sources are padded to for the encoder, each a program of its own; see `requests.padded_length`.
            settle: the shape that one is rounded up to, where only a few are to be compiled.
        """
        self.vocabularies, self.config, self.devices = vocabularies, config, devices
        self._rows_each = rows_per_device(config, config.beam_size, models)
        self.rows = self._rows_each * devices.count
        if not all(blocklist):
            raise UserError("a phrase to block is empty; give text, or leave it out")
        self._settle = settle
        self._requests = Requests(vocabularies, config, tuple(blocklist), shortlist, lengths, partial(memory_length, models))
        self._blocklist = self._requests.make_blocklist()
        self._lay_out = make_lay_out(tuple(models), config.compute)
        attends = attention and all(model.config.attention != "none" for model in models)
        self._stream = make_stream(tuple(models), config, devices, attends)
        self._says_copied = vocabularies.copy and (len(models) == 1 or config.ensemble == "probabilities")
        self._idle: list[Lane] = []  # empty ones of one shape, left from the last call

    def lay_out(self, params: Sequence[Any]) -> list[Weights]:
        """Makes each model's parameters ready, for any number of calls."""
        return self._lay_out([localize(self.devices, one) for one in params])

    def __call__(
        self, weights: Sequence[Weights], requests: Sequence[Request | str], on_batch: Callable[[int], None] | None = None
    ) -> list[Translation]:
        """Translates; the results stand in the order of the requests.

        Args:
            weights: what `lay_out` made of each model's parameters.
            requests: what to translate; a blank line gives an empty one.
            on_batch: called again and again with the number of sentences that have been translated since.
        """
        results = [BLANK] * len(requests)
        asked = [Request(request) if isinstance(request, str) else request for request in requests]
        ready = self.read({i: request for i, request in enumerate(asked) if request.source.strip()})
        shapes: dict[Shape, list[int]] = {}
        for i, one in ready.items():
            shapes.setdefault(self.shape(one), []).append(i)
        for shape in sorted(shapes, reverse=True):  # longest first, so that a lack of memory shows at once
            kept = self._idle if self._idle and self._idle[0].shape == shape else []
            self._idle = []  # a lane that is broken off is none to go on with
            many = min(lanes_at_once(self.devices), -(-len(shapes[shape]) // self.rows))
            lanes = [*kept, *(self.make_lane(shape) for _ in range(many - len(kept)))]
            for number, i in enumerate(sorted(shapes[shape], key=lambda i: (-len(ready[i].src), i))):
                lanes[number % many].put(i, ready[i])
            with contextlib.closing(move(lanes[:many], weights)) as moves:
                for ended in moves:
                    for i, translation in zip(ended.tickets, self.translations(ended), strict=True):
                        results[i] = translation
                    if on_batch:
                        on_batch(len(ended.tickets))
            self._idle = lanes
        return results

    def read(self, requests: Mapping[int, Request]) -> dict[int, Ready]:
        """Requests as numbers, by the names that they have; none of them is blank."""
        return self._requests.read(requests)

    def shape(self, one: Ready) -> Shape:
        """What a request is padded to."""
        return self._settle(self._requests.shape(one))

    def tokens(self, local: np.ndarray, one: Ready) -> np.ndarray:
        """The vocabulary's numbers of tokens as a search counts them, which may be among a request's candidates."""
        return self._requests.tokens(local, one)

    def make_lane(self, shape: Shape) -> Lane:
        """A lane for the sentences of a shape, empty."""
        return Lane(shape, self._requests, self._stream, self._blocklist, self.devices, self._rows_each)

    def translations(self, ended: Ended) -> list[Translation]:
        """The translations of those that a lane has done with, in its order."""
        return self._read(ended.found, ended.rows, ended.ready)

    def _read(self, found: Any, rows: np.ndarray, ready: Sequence[Ready]) -> list[Translation]:
        """The translations of some rows."""
        hypotheses = []
        for row, one in zip(rows.tolist(), ready, strict=True):
            for k in range(found.ids.shape[1]):
                if k == 0 or found.length[row, k]:
                    length = int(found.length[row, k])
                    hypotheses.append((row, k, tuple(self._requests.tokens(found.ids[row, k, :length], one).tolist())))
        by_row: dict[int, list[Translation]] = {}
        place = {row: number for number, row in enumerate(rows.tolist())}
        target, lacking = self.vocabularies.target, [ready[place[row]].lacking for row, _, _ in hypotheses]
        texts = target.decode([ids for _, _, ids in hypotheses], lacking)
        for (row, k, ids), text in zip(hypotheses, texts, strict=True):
            one, text = ready[place[row]], " ".join(text.split("\n"))
            seen = None if found.attention is None else found.attention[row, k, : len(ids)]
            attention = None if seen is None else seen[:, : len(one.src)]
            logp, score, finished = (part[row, k].item() for part in (found.logp, found.score, found.finished))
            token_logp, pieces = tuple(found.token_logp[row, k, : len(ids)].tolist()), tuple(target.pieces(ids, one.lacking))
            copied = self._copied(seen, one, ids, token_logp) if seen is not None and self._says_copied else None
            about = (one.cut_source, one.unknown_source, ids, pieces, token_logp, copied, attention)
            unmet = self._requests.unmet(one.request, text)
            by_row.setdefault(row, []).append(Translation(text, logp, score, len(ids), finished, *about, unmet=unmet))
        return [_together(self._choose(by_row[row])) for row in rows.tolist()]

    def _copied(self, seen: np.ndarray, one: Ready, ids: Sequence[int], token_logp: Sequence[float]) -> tuple[float, ...]:
        """Of each token how much of its probability copying has; `seen` as `stream.make_step_fn` keeps it."""
        tokens = as_targets(np.array(one.src), self.vocabularies.sizes)
        from_source = seen[:, seen.shape[1] // 2 :][:, : len(tokens)]
        copied = np.where(tokens[None, :] == np.array(ids)[:, None], from_source, 0).sum(axis=1)
        return tuple(np.minimum(copied / np.exp(np.maximum(token_logp, -80.0)), 1.0).tolist())

    def _choose(self, found: Sequence[Translation]) -> Sequence[Translation]:
        """Those that are given out, best first: of equal texts the best one, unless each is a draw."""
        if not self.config.temperature:
            different: dict[str, Translation] = {}
            for one in found:
                different.setdefault(one.text, one)
            found = list(different.values())
        return found[: self.config.n_best]


def _together(found: Sequence[Translation]) -> Translation:
    return found[0]._replace(others=tuple(found[1:]))
