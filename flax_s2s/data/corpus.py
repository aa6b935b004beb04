r"""Pairs of strings, from files, TFDS or the embedded phrases.

Enters: a `DataConfig`, a split and the seed. Leaves: a `Reader`, which reads the pairs anew whenever it is iterated, or a
`Corpus`, which holds them; of `train.en` and `train.de`, for example,

    "A dog.\n\n"  and  "Ein Hund.\nLeer.\n"  ->  pairs=[Pair("A dog.", "Ein Hund.")], blank=1

A sentence is one line whatever it came from, because decoding reads and writes lines. In CSV, JSON and TFDS a string may hold
line breaks; each run of them becomes one space.

A pair with a blank side is left out, in every split: there is nothing to learn from it and nothing to score.

What `data.format` may be (`config.FORMATS`), and where the pairs of `data.train=train` then are:

    text     train.en and train.de: in each a sentence a line
    tsv      train.tsv: a row a pair, columns by number or by name
    csv      train.csv: the same, cells quoted by RFC 4180
    jsonl    train.jsonl: an object a line, with a field for each side
    json     train.json: one array of such objects
    conllu   train.conllu: each word a pair of its columns, such as FORM and LEMMA
    tmx      train.tmx: each translation unit a pair, of its texts in two languages
    parquet  train.parquet, or train-00000-of-00003.parquet and so on: each row a pair, of two columns
    tfds     the split `train` of a dataset of TFDS, with a feature for each side
    phrases  generated from CLDR, `data.max_train_pairs` of them
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias, assert_never

import numpy as np

from flax_s2s.config import FORMATS, DataConfig, FormatKind, UserError
from flax_s2s.data import datasets, files, phrases, records

Split: TypeAlias = Literal["train", "valid", "test"]

PHRASES_HELD_OUT = 1_000  # phrases of valid and of test
_MOST_HELD_OUT = 10  # a tenth: what is validated on is not learned from


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str
    features: str = ""
    """A bundle of features beside the source, as it is written; see `data.features`."""


class Counts(NamedTuple):
    """Where the pairs went that a reading found and did not give out."""

    left_out: dict[str, int]
    """How many are in no split, by reason: `blank`, a side is; of TFDS `repeated target` and `further source` of an example."""
    held_out: int
    """Of train: how many are in valid."""
    limited: bool
    """Whether there are more than `data.max_train_pairs`."""
    first: Pair
    """The first pair of the origin that is not blank."""


class Reader:
    """The pairs of one split in the order of their origin, read anew by each iteration; none is kept.

    Where `data.valid` is empty, valid is drawn from the `data.max_train_pairs` first pairs of train. All pairs of a source go
    together, so that train loses exactly those of valid; both depend on nothing but the data and the seed.
    """

    families: list[str]
    """Of phrases: the family of each pair of the last iteration."""

    def __init__(self, data: DataConfig, split: Split, seed: int) -> None:
        """Reads nothing yet.

        Raises:
            UserError: the split is not named.
        """
        self.data, self.split, self.seed = data, split, seed
        self.origin: Split = "train" if split == "valid" and not data.valid else split
        if not getattr(data, self.origin):
            other = "--split valid" if split == "test" else "another split"
            raise UserError(f"there is no {self.origin} split, because data.{self.origin} is empty; name it there, or use {other}")
        self.name, self.families = _name(data, split), []
        self._begin()

    def _begin(self) -> None:
        self._left_out, self._held, self._limited, self._first = Counter({"blank": 0}), 0, False, Pair("", "")

    @property
    def counts(self) -> Counts:
        """Where pairs went in the last iteration."""
        return Counts(dict(+self._left_out) | {"blank": self.blank}, self._held, self._limited, self._first)

    @property
    def blank(self) -> int:
        """Pairs that the last iteration left out because a side is blank."""
        return self._left_out["blank"]

    def __iter__(self) -> Iterator[Pair]:
        """Reads the pairs.

        Raises:
            UserError: the split is not found, cannot be read, is malformed, or has no pairs.
        """
        sources, valid = self._held_out, self.split == "valid"
        self.families, found = [], 0
        for pair, family in self._all():
            if sources is not None and (pair.source in sources) != valid:
                self._held += not valid
                continue
            found += 1
            if family:
                self.families.append(family)
            yield pair
        if not found:
            raise UserError(f"every pair of {self.name} has a source that is held out; name a validation split in data.valid")
        if sources is not None and valid:
            self._left_out, self._limited = Counter({"blank": 0}), False  # they are train's

    def _all(self) -> Iterator[tuple[Pair, str]]:
        """All pairs of the origin up to the limit, with their families; blank ones are counted."""
        self._begin()
        limit, found = self.data.max_train_pairs if self.origin == "train" else 0, 0
        for pair, family in self._origin_pairs():
            if found and found == limit:
                self._limited = True
                return
            if not (pair.source.strip() and pair.target.strip()):
                self._left_out["blank"] += 1
                continue
            self._first = self._first if found else pair
            found += 1
            yield pair, family
        if not found:
            blank = f" but {self.blank} with a blank side" if self.blank else ""
            raise UserError(f"{_name(self.data, self.origin)} has no pairs{blank}; check data.{self.origin}")

    def _origin_pairs(self) -> Iterator[tuple[Pair, str]]:
        match kind := FORMATS[self.data.format]:
            case "aligned" | "table" | "objects":
                return ((Pair(*pair), "") for pair in records.read(self.data, self.origin))
            case "dataset":
                return ((Pair(*pair), "") for pair in datasets.read(self.data, self.origin, self._left_out))
            case "generated":
                return ((Pair(phrase.source, phrase.target), phrase.family) for phrase in self._phrases)
            case _:
                assert_never(kind)

    @property
    def _phrases(self) -> tuple[phrases.Phrase, ...]:
        count = self.data.max_train_pairs if self.origin == "train" else PHRASES_HELD_OUT
        return _generate(self.data.source, self.data.target, count, self.seed, self.origin)

    @functools.cached_property
    def _held_out(self) -> frozenset[str] | None:
        """The sources held out: those of pairs drawn at random, as many as have `data.held_out_pairs` pairs together, or a tenth of all."""
        if self.data.valid or self.split == "test":
            return None
        total = sum(1 for _ in self._all())
        count = min(self.data.held_out_pairs, total // _MOST_HELD_OUT)
        if not count:
            raise UserError(
                f"{_name(self.data, 'train')} has {total} pairs, and validation pairs are at most a tenth of it; name a validation split in "
                "data.valid"
            )
        drawn = np.random.default_rng(self.seed).choice(total, count, replace=False).tolist()
        chosen = frozenset(drawn)
        source_of = {number: pair.source for number, (pair, _) in enumerate(self._all()) if number in chosen}
        possible = frozenset(source_of.values())
        pairs_of = Counter(pair.source for pair, _ in self._all() if pair.source in possible)
        held, pairs = set[str](), 0
        for source in dict.fromkeys(source_of[number] for number in drawn):
            if pairs < count:
                held.add(source)
                pairs += pairs_of[source]
        return frozenset(held)

    def fingerprint(self) -> str | None:
        """Hash of all that decides the pairs, faster than reading them; None where there are no files to hash."""
        kind = FORMATS[self.data.format]
        if kind == "generated":
            return None
        elsewhere = dataclasses.replace(self.data, folder="", origin="", batch_tokens=0, row_multiple=0, buckets=0, hallucination=0.0)
        digest = hashlib.sha256(f"{_FORMAT} {self.split} {self.seed} {elsewhere}".encode())
        if kind == "dataset":
            found = datasets.record_files(self.data, self.origin)
        else:
            found = [str(file.path) for file in files.find(self.data, self.origin)]
        contents = [files.hash_file(name) for name in found]
        if not contents or None in contents:
            return None
        digest.update(b"".join(content for content in contents if content))
        return digest.hexdigest()


_FORMAT = 2  # raised when other pairs are read from the same files


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The pairs of one split, in the order of their origin."""

    name: str
    """For messages, such as `train of ../shared/data/multi30k`."""
    pairs: list[Pair]
    families: tuple[str, ...]
    """Family of each pair of phrases; empty for other formats."""
    blank: int
    """Pairs left out because a side is blank."""


def load(data: DataConfig, split: Split, seed: int) -> Corpus:
    """Reads one split whole.

    Raises:
        UserError: what `Reader` raises.
    """
    reader = Reader(data, split, seed)
    pairs = list(reader)
    return Corpus(reader.name, pairs, tuple(reader.families), reader.blank)


def depends_on_seed(data: DataConfig, split: Split) -> bool:
    """Whether another seed has other pairs in this split: they are drawn out of train, or generated."""
    return FORMATS[data.format] == "generated" or (split != "test" and not data.valid)


def _name(data: DataConfig, split: Split) -> str:
    origin: dict[FormatKind, str] = {"dataset": data.dataset, "generated": f"{data.format} {data.source}-{data.target}"}
    return f"{split} of {origin.get(FORMATS[data.format], data.folder or '.')}"


@functools.lru_cache(4)  # one in twenty phrases drawn is held out, and a process reads those of a split more than once
def _generate(source: str, target: str, count: int, seed: int, split: Split) -> tuple[phrases.Phrase, ...]:
    return tuple(phrases.generate(source, target, count, seed, split))
