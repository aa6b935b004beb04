"""Requests in, translations out, in their order: each is put where sentences of its shape stream through the search.

A sentence's shape depends on the sentence alone, and at a fixed shape a row's result is bitwise independent of the other rows:
neighbors, order, and the number of devices and of processes change no translation.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_s2s.config import EOS, UNK, DecodingConfig, UserError
from flax_s2s.data.batching import pad
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.constraints import Automaton, make_automaton
from flax_s2s.decoding.lexical import make_phrases
from flax_s2s.decoding.shortlist import Shortlist
from flax_s2s.decoding.stream import Rows, Sentences, Weights, make_lay_out, make_stream, most_tokens, rows_per_device
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime.parallel import Devices, feed_rows, localize

_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_MOST_PHRASE_TOKENS, _MOST_EXCLUDED_BYTES = 256, 4096  # what a phrase, and all that a sentence excludes, may take: tables grow with it
_REFILL = 16  # one part in so many of the rows must be free before others take their places


class Request(NamedTuple):
    """A sentence, and what its translation must be like.

    What cannot be met is left out, the rest is met, and the translation says what was not, see `Translation.unmet`: a prefix or a phrase
    to include with characters that the vocabulary does not have, or longer than any translation; a phrase to include that holds one to
    exclude, that does not fit in beside those before it, or that is not looked for (in groups, and where translations are sampled).
    """

    source: str
    prefix: str = ""  # what the translation begins with
    include: tuple[str, ...] = ()  # what it must contain
    exclude: tuple[str, ...] = ()  # what it must not contain, whatever its case; a prefix may
    seed: int | None = None  # for sampling; None: drawn from decoding.seed and the source


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
    token_logp: tuple[float, ...] = ()  # of each
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


class Shape(NamedTuple):
    """Sizes that a sentence is padded to; sentences of one shape share a program."""

    src: int
    prefix: int
    phrases: int
    phrase_tokens: int
    states: int
    candidates: int


class _Ready(NamedTuple):
    """A request as numbers, without what cannot be met."""

    request: Request
    src: list[int]
    prefix: list[int]
    include: list[list[list[int]]]
    exclude: tuple[np.ndarray, np.ndarray] | None
    seed: int
    candidates: np.ndarray | None
    cut_source: bool
    unknown_source: int


def padded_length(tokens: int) -> int:
    """The length that a sentence is padded to: one of a closed set, with steps of 256 beyond 512."""
    return next((length for length in _LENGTHS if length >= tokens), -(-tokens // 256) * 256)


def _padded(size: int) -> int:
    """0, or the power of two that holds it, at least 4."""
    return 0 if size == 0 else max(4, 1 << (size - 1).bit_length())


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
        """
        self.vocabularies, self.config, self.devices = vocabularies, config, devices
        self._rows_each = rows_per_device(config, config.beam_size)
        self.rows = self._rows_each * devices.count
        self._shortlist = shortlist
        if not all(blocklist):
            raise UserError("a phrase to block is empty; give text, or leave it out")
        self._blocked = tuple(blocklist)
        self._blocklist = Automaton(*(part[None] for part in self._automaton(blocklist))) if blocklist else None
        self._lay_out = make_lay_out(models)
        self._stream = make_stream(models, config, devices, attention and all(model.config.attention != "none" for model in models))
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
        ready = self._make_ready([i for i, request in enumerate(asked) if request.source.strip()], asked)
        shapes: dict[Shape, list[int]] = {}
        for i, one in ready.items():
            shapes.setdefault(self._shape(one), []).append(i)
        for shape in sorted(shapes, reverse=True):  # longest first, so that a lack of memory shows at once
            members = sorted(shapes[shape], key=lambda i: (-len(ready[i].src), i))
            for i, translation in self._decode(weights, shape, {i: ready[i] for i in members}, on_batch or (lambda _: None)):
                results[i] = translation
        return results

    # What is asked for, as numbers ---------------------------------------------------------------------------------

    def _make_ready(self, chosen: Sequence[int], asked: Sequence[Request]) -> dict[int, _Ready]:
        sources = self.vocabularies.source.encode([asked[i].source for i in chosen])
        prefixes = self.vocabularies.target.encode([asked[i].prefix for i in chosen])
        ready = {}
        for i, source, prefix in zip(chosen, sources, prefixes, strict=True):
            request, cut = asked[i], source[: self.config.max_source_tokens - 1]
            if UNK in prefix or len(prefix) >= most_tokens(self.config.max_source_tokens, self.config):
                prefix = []
            include = self._include(request, most_tokens(len(cut) + 1, self.config))
            exclude = self._exclude(request.exclude)
            candidates = None
            if self._shortlist is not None:
                wanted = [*prefix, *(token for phrase in include for variant in phrase for token in variant)]
                candidates = self._shortlist.candidates(cut, wanted)
            seed = request.seed if request.seed is not None else _draw_seed(self.config.seed, request.source)
            ready[i] = _Ready(request, [*cut, EOS], prefix, include, exclude, seed, candidates, len(cut) < len(source), cut.count(UNK))
        return ready

    def _include(self, request: Request, limit: int) -> list[list[list[int]]]:
        """The phrases that can be in a translation of so many tokens, as the tokens that may be."""
        if self.config.groups > 1 or self.config.temperature:
            return []
        found, left, excluded = [], limit - 1, [*filter(None, request.exclude), *self._blocked]
        for phrase in request.include:
            variants = self._variants(phrase)
            shortest = min(map(len, variants), default=0)
            if variants and shortest <= left and not _held(phrase, excluded):
                found.append(variants)
                left -= shortest
        return found

    def _variants(self, phrase: str) -> list[list[int]]:
        """A phrase as the tokens of whole words, and as those that go on inside of one; none where it cannot be said."""
        variants = [self.vocabularies.target.encode([phrase])[0], self.vocabularies.target.encode_inside(phrase)]
        fitting = [ids for ids in variants if 0 < len(ids) <= _MOST_PHRASE_TOKENS and UNK not in ids]
        return fitting if fitting[1:] != fitting[:1] else fitting[:1]

    def _exclude(self, phrases: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """What keeps phrases out, as far as they fit."""
        fitting, left = [], _MOST_EXCLUDED_BYTES
        for phrase in phrases:
            size = len(phrase.casefold().encode())
            if 0 < size <= left:
                fitting.append(phrase)
                left -= size
        return self._automaton(fitting) if fitting else None

    def _automaton(self, phrases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return make_automaton([phrase.casefold().encode() for phrase in phrases], self.vocabularies.target.folded_texts())

    def _unmet(self, request: Request, text: str) -> tuple[str, ...]:
        """What a text does not meet of what was asked for; a phrase counts as its tokens write it, at the edges without edge spaces."""
        spelled = dict(zip(wanted := (request.prefix, *request.include), self._spell(wanted), strict=True))
        missing = [phrase for phrase in request.include if not spelled[phrase] or spelled[phrase] not in f" {text} "]
        prefix = [request.prefix] if request.prefix and not (spelled[request.prefix] and text.startswith(spelled[request.prefix])) else []
        return (*prefix, *missing, *_held(text, (*request.exclude, *self._blocked)))

    def _spell(self, texts: Sequence[str]) -> list[str]:
        """Texts as their tokens write them; nothing where some are unknown."""
        ids = self.vocabularies.target.encode(texts)
        return ["" if UNK in own else text for own, text in zip(ids, self.vocabularies.target.decode(ids), strict=True)]

    def _shape(self, one: _Ready) -> Shape:
        longest = max((len(variant) for phrase in one.include for variant in phrase), default=0)
        states = _padded(len(one.exclude[0])) if one.exclude else 0
        candidates = 0
        if one.candidates is not None and self._shortlist is not None:
            many = len(one.candidates)
            candidates = self._shortlist.size if many <= self._shortlist.size else _padded(many)
        return Shape(padded_length(len(one.src)), _padded(len(one.prefix)), _padded(len(one.include)), _padded(longest), states, candidates)

    def _sentences(self, shape: Shape, ready: Sequence[_Ready]) -> Sentences:
        """The arrays of as many sentences as there are rows; rows without a sentence have a limit of 0."""
        filler = [()] * (self.rows - len(ready))
        limit = np.zeros(self.rows, np.int32)
        limit[: len(ready)] = [most_tokens(len(one.src), self.config) + len(one.prefix) for one in ready]
        prefix = prefix_length = include = exclude = seed = candidates = None
        if shape.prefix:
            prefix = pad([np.array(_local(one.prefix, one.candidates)) for one in ready], self.rows, shape.prefix)
            prefix_length = np.array([len(one.prefix) for one in ready] + [0] * len(filler), np.int32)
        if shape.phrases:
            wanted = [[[_local(variant, one.candidates) for variant in phrase] for phrase in one.include] for one in ready]
            include = make_phrases([*wanted, *map(list, filler)], shape.phrases, 2, shape.phrase_tokens)
        if shape.states:
            tables = [one.exclude for one in ready if one.exclude is not None]
            exclude = Automaton(*(_stack([table[part] for table in tables], self.rows, shape.states) for part in (0, 1)))
        if self.config.temperature > 0:
            seed = np.array([one.seed for one in ready] + [0] * len(filler), np.int32)
        if shape.candidates:
            candidates = pad([one.candidates for one in ready if one.candidates is not None], self.rows, shape.candidates)
        src_ids = pad([np.array(one.src) for one in ready], self.rows, shape.src)
        return Sentences(src_ids, limit, prefix, prefix_length, include, exclude, seed, candidates)

    # Streaming -----------------------------------------------------------------------------------------------------

    def _decode(self, weights: Any, shape: Shape, ready: dict[int, _Ready], on_batch: Callable[[int], None]) -> Any:
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
                sentences = self._sentences(shape, [ready[i] for i in admitted])
                waiting = self._stream.admit(weights, self._blocklist, feed_rows(self.devices, _rearranged(sentences, dealt, admitted)))
                for row, i in enumerate(dealt):
                    if i >= 0:
                        at_door[row // self._rows_each].append((row % self._rows_each, i))
            if rows is None:
                rows = _emptied(waiting)
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

    def _read(self, found: Any, rows: np.ndarray, ready: Sequence[_Ready]) -> list[Translation]:
        """The translations of some rows."""
        hypotheses = []
        for row, one in zip(rows.tolist(), ready, strict=True):
            for k in range(found.ids.shape[1]):
                if k == 0 or found.length[row, k]:
                    length = int(found.length[row, k])
                    ids = found.ids[row, k, :length]
                    hypotheses.append((row, k, tuple((ids if one.candidates is None else one.candidates[ids]).tolist())))
        texts = self.vocabularies.target.decode([ids for _, _, ids in hypotheses])
        by_row: dict[int, list[Translation]] = {}
        place = {row: number for number, row in enumerate(rows.tolist())}
        for (row, k, ids), text in zip(hypotheses, texts, strict=True):
            one, text = ready[place[row]], " ".join(text.split("\n"))
            attention = None if found.attention is None else found.attention[row, k, : len(ids), : len(one.src)]
            logp, score, finished = (part[row, k].item() for part in (found.logp, found.score, found.finished))
            token_logp = tuple(found.token_logp[row, k, : len(ids)].tolist())
            about = (one.cut_source, one.unknown_source, ids, token_logp, attention)
            unmet = self._unmet(one.request, text) if one.request[1:] != Request("")[1:] or self._blocked else ()
            by_row.setdefault(row, []).append(Translation(text, logp, score, len(ids), finished, *about, unmet=unmet))
        return [_together(self._choose(by_row[row])) for row in rows.tolist()]

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


def _held(text: str, phrases: Sequence[str]) -> list[str]:
    """The phrases that a text holds, whatever its case."""
    folded = text.casefold()
    return [phrase for phrase in phrases if phrase.casefold() in folded]


def _draw_seed(seed: int, source: str) -> int:
    """A sentence's own seed: it does not depend on where the sentence stands."""
    return int.from_bytes(hashlib.sha256(f"{seed} {source}".encode(errors="surrogatepass")).digest()[:4], "big") >> 1


def _local(ids: Sequence[int], candidates: np.ndarray | None) -> list[int]:
    """Tokens as they are counted among a sentence's candidates."""
    return list(ids) if candidates is None else np.searchsorted(candidates, ids).tolist()


def _stack(tables: Sequence[np.ndarray], rows: int, states: int) -> np.ndarray:
    stacked = np.zeros((rows, states, tables[0].shape[1]), tables[0].dtype)
    for row, table in enumerate(tables):
        stacked[row, : len(table)] = table
    return stacked


def _rearranged(sentences: Sentences, dealt: np.ndarray, order: Sequence[int]) -> Sentences:
    """Rows in the order dealt; a row without a sentence gets one without a limit."""
    position = {i: row for row, i in enumerate(order)}
    source = np.array([position.get(int(i), len(dealt) - 1) for i in dealt])
    moved = jax.tree.map(lambda part: np.asarray(part)[source], sentences)
    return moved._replace(limit=np.where(dealt >= 0, moved.limit, 0))


@jax.jit
def _emptied(rows: Any) -> Any:
    """Rows like these, all of them free."""
    empty = jax.tree.map(jnp.zeros_like, rows)
    return empty._replace(state=empty.state._replace(done=jnp.ones_like(empty.state.done)))
