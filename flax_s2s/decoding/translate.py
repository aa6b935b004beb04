"""Requests in, translations out, in their order: each is put where sentences of its shape stream through the search.

A sentence's shape depends on the sentence alone, and at a fixed shape a row's result is bitwise independent of the other rows:
neighbors, order, and the number of devices and of processes change no translation.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_s2s.config import DecodingConfig, UserError
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.requests import SOURCE_LENGTHS, Ready, Request, Requests, Shape
from flax_s2s.decoding.shortlist import Shortlist
from flax_s2s.decoding.stream import Rows, Sentences, Weights, make_lay_out, make_stream, rows_per_device
from flax_s2s.model.copying import as_targets
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime.parallel import Devices, feed_rows, localize

_REFILL = 16  # one part in so many of the rows must be free before others take their places


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
            lengths: that sources are padded to, each a program of its own; see `requests.padded_length`.
        """
        self.vocabularies, self.config, self.devices = vocabularies, config, devices
        self._rows_each = rows_per_device(config, config.beam_size)
        self.rows = self._rows_each * devices.count
        if not all(blocklist):
            raise UserError("a phrase to block is empty; give text, or leave it out")
        self._requests = Requests(vocabularies, config, tuple(blocklist), shortlist, lengths)
        self._blocklist = self._requests.make_blocklist()
        self._lay_out = make_lay_out(tuple(models))
        attends = attention and all(model.config.attention != "none" for model in models)
        self._stream = make_stream(tuple(models), config, devices, attends)
        self._says_copied = vocabularies.copy and (len(models) == 1 or config.ensemble == "probabilities")
        self._idle: tuple[Shape, Rows] | None = None  # rows without sentences, left from the last call

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
        ready = self._requests.read([i for i, request in enumerate(asked) if request.source.strip()], asked)
        shapes: dict[Shape, list[int]] = {}
        for i, one in ready.items():
            shapes.setdefault(self._requests.shape(one), []).append(i)
        for shape in sorted(shapes, reverse=True):  # longest first, so that a lack of memory shows at once
            members = sorted(shapes[shape], key=lambda i: (-len(ready[i].src), i))
            for i, translation in self._decode(weights, shape, {i: ready[i] for i in members}, on_batch or (lambda _: None)):
                results[i] = translation
        return results

    def _decode(self, weights: Any, shape: Shape, ready: dict[int, Ready], on_batch: Callable[[int], None]) -> Any:
        """Yields each sentence's index and translation, as they come."""
        queue, seats = deque(ready), np.full(self.rows, -1)
        waiting: Rows | None = None
        at_door: list[deque[tuple[int, int]]] = [deque() for _ in range(self.devices.count)]  # of each device: (row of waiting, sentence)
        idle, self._idle = self._idle, None
        rows = idle[1] if idle and idle[0] == shape else None
        while queue or any(at_door) or (seats >= 0).any():
            if queue and not any(at_door):
                admitted = [queue.popleft() for _ in range(min(self.rows, len(queue)))]
                dealt = self._deal(admitted)
                sentences = self._requests.sentences(shape, [ready[i] for i in admitted], self.rows)
                waiting = self._stream.admit(weights, self._blocklist, feed_rows(self.devices, _rearranged(sentences, dealt, admitted)))
                for row, i in enumerate(dealt):
                    if i >= 0:
                        at_door[row // self._rows_each].append((row % self._rows_each, i))
            if rows is None:
                assert waiting is not None
                rows = self._stream.empty(waiting)
            index, take = np.zeros(self.rows, np.int32), np.zeros(self.rows, bool)
            for row in (place for place, sentence in enumerate(seats) if sentence < 0):
                door = at_door[row // self._rows_each]
                if door:
                    (index[row], seats[row]), take[row] = door.popleft(), True
            until = self._until(seats, more=bool(queue) or any(at_door))
            rows, done, found = self._stream.go(weights, self._blocklist, rows, waiting, *feed_rows(self.devices, (index, take, until)))
            done, found = jax.tree.map(np.asarray, (done, found))
            ended = np.flatnonzero(done & (seats >= 0))
            members = [int(seats[row]) for row in ended]
            yield from zip(members, self._read(found, ended, [ready[i] for i in members]), strict=True)
            seats[ended] = -1
            on_batch(len(ended))
        if rows is not None:
            self._idle = (shape, rows)

    def _deal(self, chosen: Sequence[int]) -> np.ndarray:
        """Deals sentences out to the devices in turn: the sentence of each row, -1 for none."""
        dealt = np.full((self.devices.count, self._rows_each), -1)
        for number, i in enumerate(chosen):
            dealt[number % self.devices.count, number // self.devices.count] = i
        return dealt.reshape(-1)

    def _until(self, seats: np.ndarray, more: bool) -> np.ndarray:
        """How many rows of each device must be free before the search returns: all, or a part where others wait."""
        free = (seats.reshape(self.devices.count, -1) < 0).sum(axis=1)
        part = np.minimum(free + max(1, self._rows_each // _REFILL), self._rows_each)
        return np.asarray(part if more else np.full_like(free, self._rows_each), np.int32)

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


def _rearranged(sentences: Sentences, dealt: np.ndarray, order: Sequence[int]) -> Sentences:
    """Rows in the order dealt; a row without a sentence gets one without a limit."""
    position = {i: row for row, i in enumerate(order)}
    source = np.array([position.get(int(i), len(dealt) - 1) for i in dealt])
    moved = jax.tree.map(lambda part: np.asarray(part)[source], sentences)
    return moved._replace(limit=np.where(dealt >= 0, moved.limit, 0))
