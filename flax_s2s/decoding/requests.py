"""What is asked for, as numbers: tokens, tables, a shape; and what a text does not meet of it.

Enters: `Request`s. Leaves: `Sentences` for the search, rows of one shape.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flax_s2s.config import EOS, UNK, DecodingConfig
from flax_s2s.data.batching import pad
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.constraints import Automaton, make_automaton
from flax_s2s.decoding.lexical import make_phrases
from flax_s2s.decoding.shortlist import Shortlist
from flax_s2s.decoding.stream import Sentences, most_tokens

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""What is padded to where every position is computed."""
SOURCE_LENGTHS = (12, 24, 48, 96, 192, 384, 512)
"""What the sources of a search are padded to for the encoder; the search itself pads short ones further, see `stream.memory_length`."""
_MOST_PHRASE_TOKENS, _MOST_EXCLUDED_BYTES = 256, 4096  # what a phrase, and all that a sentence excludes, may take: tables grow with it


class Request(NamedTuple):
    """A sentence, and what its translation must be like.

    What cannot be met is left out, the rest is met, and the translation says what was not, see `translate.Translation.unmet`: a prefix or a phrase
    to include with characters that the vocabulary does not have, nor, where models copy, the source; or longer than any translation; a phrase to include that holds one to
    exclude, that does not fit in beside those before it, or that is not looked for (in groups, and where translations are sampled).
    """

    source: str
    prefix: str = ""  # what the translation begins with
    include: tuple[str, ...] = ()  # what it must contain
    exclude: tuple[str, ...] = ()  # what it must not contain, whatever its case; a prefix may
    seed: int | None = None  # for sampling; None: drawn from decoding.seed, the source and its features
    features: str = ""  # the bundle beside the source, of models that were trained with features


class Shape(NamedTuple):
    """Sizes that a sentence is padded to; sentences of one shape share a program."""

    src: int  # the search's, see `stream.memory_length`
    prefix: int
    phrases: int
    phrase_tokens: int
    states: int
    candidates: int
    lacking: int = 0  # tokens beyond the vocabulary that a blocklist has to know of


class Ready(NamedTuple):
    """A request as numbers, without what cannot be met."""

    request: Request
    src: list[int]
    length: int  # that the source is padded to for the encoder
    lacking: tuple[str, ...]  # what the vocabulary lacks of the source, where models copy
    prefix: list[int]
    include: list[list[list[int]]]
    exclude: tuple[np.ndarray, np.ndarray] | None
    seed: int
    candidates: np.ndarray | None
    cut_source: bool
    unknown_source: int


def padded_length(tokens: int, lengths: Sequence[int] = LENGTHS) -> int:
    """The length that a sentence is padded to: one of a closed set, rising, with steps of 256 beyond the last of them."""
    return next((length for length in lengths if length >= tokens), -(-tokens // 256) * 256)


def _padded(size: int) -> int:
    """0, or the power of two that holds it, at least 4."""
    return 0 if size == 0 else max(4, 1 << (size - 1).bit_length())


class Requests:
    """Reads requests by the vocabularies and the settings of a search."""

    def __init__(
        self,
        vocabularies: Vocabularies,
        config: DecodingConfig,
        blocked: tuple[str, ...],
        shortlist: Shortlist | None,
        lengths: Sequence[int] = SOURCE_LENGTHS,
        memory_length: Callable[[int], int] = lambda tokens: tokens,
    ) -> None:
        """See `translate.Translator`, and `stream.memory_length`."""
        self.vocabularies, self.config, self._blocked, self._shortlist = vocabularies, config, blocked, shortlist
        self._lengths, self._memory_length = lengths, memory_length

    def make_blocklist(self) -> Automaton | None:
        """What keeps blocked phrases out of every translation."""
        return Automaton(*(part[None] for part in self._automaton(self._blocked, ()))) if self._blocked else None

    def read(self, asked: Mapping[int, Request]) -> dict[int, Ready]:
        """Some requests, by the names that they have."""
        vocabularies = self.vocabularies
        sources = vocabularies.encode_sources([one.source for one in asked.values()], [one.features for one in asked.values()])
        whole = vocabularies.find_lacking([one.source for one in asked.values()])
        cuts = [source[: self.config.max_source_tokens - 1] for source in sources]
        lacking = [vocabularies.keep_lacking(texts, cut) for texts, cut in zip(whole, cuts, strict=True)]
        prefixes = vocabularies.encode_targets([one.prefix for one in asked.values()], lacking)
        ready = {}
        for (i, request), source, cut, texts, prefix in zip(asked.items(), sources, cuts, lacking, prefixes, strict=True):
            if UNK in prefix or len(prefix) >= most_tokens(self.config.max_source_tokens, self.config):
                prefix = []
            include = self._include(request, texts, most_tokens(len(cut) + 1, self.config))
            exclude = self._exclude(request.exclude, texts)
            candidates = None
            if self._shortlist is not None:
                wanted = [*prefix, *(token for phrase in include for variant in phrase for token in variant)]
                candidates = self._candidates(cut, wanted)
            seed = request.seed if request.seed is not None else draw_seed(self.config.seed, request)
            unknown = vocabularies.count_unknown(cut)
            length, is_cut = padded_length(len(cut) + 1, self._lengths), len(cut) < len(source)
            ready[i] = Ready(request, [*cut, EOS], length, texts, prefix, include, exclude, seed, candidates, is_cut, unknown)
        return ready

    def _candidates(self, source: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
        """The tokens that are tried, among them all that can be copied."""
        assert self._shortlist is not None
        (every, known), copy = self.vocabularies.sizes, self.vocabularies.copy
        copied = [token for token in source if token < known] if copy else []
        words = [token if token < every else UNK for token in source]
        return self._shortlist.candidates(words, [*(token for token in wanted if token < known), *copied])

    def _include(self, request: Request, lacking: Sequence[str], limit: int) -> list[list[list[int]]]:
        """The phrases that can be in a translation of so many tokens, as the tokens that may be."""
        if self.config.groups > 1 or self.config.temperature:
            return []
        found, left, excluded = [], limit - 1, [*filter(None, request.exclude), *self._blocked]
        for phrase in request.include:
            variants = self._variants(phrase, lacking)
            shortest = min(map(len, variants), default=0)
            if variants and shortest <= left and not _held(phrase, excluded, self.vocabularies.target.prepare):
                found.append(variants)
                left -= shortest
        return found

    def _variants(self, phrase: str, lacking: Sequence[str]) -> list[list[int]]:
        """A phrase as the tokens of whole words, and as those that go on inside of one; none where it cannot be said."""
        variants = [self.vocabularies.encode_targets([phrase], [lacking])[0], self.vocabularies.encode_inside(phrase, lacking)]
        fitting = [ids for ids in variants if 0 < len(ids) <= _MOST_PHRASE_TOKENS and UNK not in ids]
        return fitting if fitting[1:] != fitting[:1] else fitting[:1]

    def _exclude(self, phrases: Sequence[str], lacking: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """What keeps phrases out, as far as they fit."""
        fitting, left = [], _MOST_EXCLUDED_BYTES
        for phrase in phrases:
            size = len(self.vocabularies.target.prepare(phrase).casefold().encode())
            if 0 < size <= left:
                fitting.append(phrase)
                left -= size
        return self._automaton(fitting, lacking) if fitting else None

    def _automaton(self, phrases: Sequence[str], lacking: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        target = self.vocabularies.target
        return _make_automaton(list(map(target.prepare, phrases)), [*target.folded_texts, *target.fold(lacking)])

    def unmet(self, request: Request, text: str) -> tuple[str, ...]:
        """What a text does not meet of what was asked for; a phrase counts as its tokens write it, at the edges without edge spaces."""
        if not (request.prefix or request.include or request.exclude) and not self._blocked:
            return ()
        spelled = dict(zip(wanted := (request.prefix, *request.include), self._spell(wanted, request.source), strict=True))
        missing = [phrase for phrase in request.include if not spelled[phrase] or spelled[phrase] not in f" {text} "]
        prefix = [request.prefix] if request.prefix and not (spelled[request.prefix] and text.startswith(spelled[request.prefix])) else []
        target = self.vocabularies.target
        return (*prefix, *missing, *_held(text, (*request.exclude, *self._blocked), lambda one: target.finish(target.prepare(one))))

    def _spell(self, texts: Sequence[str], source: str) -> list[str]:
        """Texts as their tokens write them; nothing where some are unknown."""
        lacking = self.vocabularies.find_lacking([source]) * len(texts)
        ids = self.vocabularies.encode_targets(texts, lacking)
        return ["" if UNK in own else text for own, text in zip(ids, self.vocabularies.target.decode(ids, lacking), strict=True)]

    def shape(self, one: Ready) -> Shape:
        """What a request is padded to; it depends on the request alone."""
        longest = max((len(variant) for phrase in one.include for variant in phrase), default=0)
        states = _padded(len(one.exclude[0])) if one.exclude else 0
        candidates = 0
        if one.candidates is not None and self._shortlist is not None:
            many = len(one.candidates)
            candidates = self._shortlist.size if many <= self._shortlist.size else _padded(many)
        src = self._memory_length(one.length)
        return Shape(
            src,
            _padded(len(one.prefix)),
            _padded(len(one.include)),
            _padded(longest),
            states,
            candidates,
            min(_padded(len(one.lacking)), src) if self._blocked else 0,
        )

    def sentences(self, shape: Shape, ready: Sequence[Ready], rows: int) -> Sentences:
        """The arrays of sentences of one length, as many as there are rows; rows without a sentence have a limit of 0."""
        filler = [()] * (rows - len(ready))
        limit = np.zeros(rows, np.int32)
        limit[: len(ready)] = [most_tokens(len(one.src), self.config) + len(one.prefix) for one in ready]
        prefix = prefix_length = include = exclude = seed = candidates = None
        if shape.prefix:
            prefix = pad([np.array(self._local(one.prefix, one, shape), np.int32) for one in ready], rows, shape.prefix)
            prefix_length = np.array([len(one.prefix) for one in ready] + [0] * len(filler), np.int32)
        if shape.phrases:
            wanted = [[[self._local(variant, one, shape) for variant in phrase] for phrase in one.include] for one in ready]
            include = make_phrases([*wanted, *map(list, filler)], shape.phrases, 2, shape.phrase_tokens)
        if shape.states:
            nothing = (np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
            tables = [nothing if one.exclude is None else one.exclude for one in ready]
            width = self.vocabularies.sizes[1] + (shape.src if self.vocabularies.copy else 0)
            exclude = Automaton(*(_stack([table[part] for table in tables], rows, shape.states, width) for part in (0, 1)))
        if self.config.temperature > 0:
            seed = np.array([one.seed for one in ready] + [0] * len(filler), np.int32)
        if shape.candidates:
            candidates = pad([one.candidates for one in ready if one.candidates is not None], rows, shape.candidates)
        src_ids = pad([np.array(one.src) for one in ready], rows, ready[0].length)
        return Sentences(src_ids, limit, prefix, prefix_length, include, exclude, seed, candidates, self._block_lacking(shape, ready, rows))

    def _block_lacking(self, shape: Shape, ready: Sequence[Ready], rows: int) -> Automaton | None:
        """What the blocklist says of tokens that a sentence has beyond the vocabulary."""
        if not shape.lacking:
            return None
        target = self.vocabularies.target
        blocked = list(map(target.prepare, self._blocked))
        tables = [_make_automaton(blocked, target.fold(one.lacking)) for one in ready]
        return Automaton(*(_stack([table[part] for table in tables], rows, len(tables[0][0]), shape.lacking) for part in (0, 1)))

    def _local(self, ids: Sequence[int], one: Ready, shape: Shape) -> list[int]:
        """Tokens as they are counted among a sentence's candidates; those beyond the vocabulary follow them."""
        if one.candidates is None:
            return list(ids)
        known = self.vocabularies.sizes[1]
        return [int(np.searchsorted(one.candidates, i)) if i < known else shape.candidates + i - known for i in ids]

    def tokens(self, local: np.ndarray, one: Ready) -> np.ndarray:
        """The inverse of it."""
        if one.candidates is None:
            return local
        width = self.shape(one).candidates
        every = np.concatenate([one.candidates, np.zeros(width - len(one.candidates), np.int32)])  # filled up with PAD
        return np.where(local < width, every[np.minimum(local, width - 1)], local - width + self.vocabularies.sizes[1])


def _make_automaton(phrases: Sequence[str], tokens: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return make_automaton([phrase.casefold().encode() for phrase in phrases], tokens)


def _held(text: str, phrases: Sequence[str], form: Callable[[str], str]) -> list[str]:
    """The phrases that a text holds, whatever its case, once all are in the same form."""
    folded = form(text).casefold()
    return [phrase for phrase in phrases if form(phrase).casefold() in folded]


def draw_seed(seed: int, request: Request) -> int:
    """A sentence's own seed: it does not depend on where the sentence stands."""
    asked = f"{request.source}\n{request.features}" if request.features else request.source
    return int.from_bytes(hashlib.sha256(f"{seed} {asked}".encode(errors="surrogatepass")).digest()[:4], "big") >> 1


def _stack(tables: Sequence[np.ndarray], rows: int, states: int, width: int) -> np.ndarray:
    stacked = np.zeros((rows, states, width), tables[0].dtype)
    for row, table in enumerate(tables):
        stacked[row, : len(table), : table.shape[1]] = table
    return stacked
