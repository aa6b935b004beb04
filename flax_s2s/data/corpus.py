r"""Pairs of strings, from files, TFDS or the embedded phrases.

Enters: a `DataConfig`, a split and the seed. Leaves: a `Reader`, which reads the pairs anew whenever it is iterated, or a
`Corpus`, which holds them; of `train.en` and `train.de`, for example,

    "A dog.\n\n"  and  "Ein Hund.\nLeer.\n"  ->  pairs=[Pair("A dog.", "Ein Hund.")], blank=1

A sentence is one line whatever it came from, because decoding reads and writes lines. In JSONL and TFDS a string may hold
line breaks; each run of them becomes one space.

A pair with a blank side is left out, in every split: there is nothing to learn from it and nothing to score.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from flax_s2s.config import DataConfig, UserError
from flax_s2s.data import datasets, files, phrases

Split: TypeAlias = Literal["train", "valid", "test"]

PHRASES_HELD_OUT = 1_000  # phrases of valid and of test


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class _HeldOut(NamedTuple):
    """Pairs drawn out of train for validation, by their number among those that are not blank."""

    numbers: frozenset[int]
    sources: frozenset[str]
    targets: frozenset[str]

    def has_sentence_of(self, pair: Pair) -> bool:
        return pair.source in self.sources or pair.target in self.targets


class Reader:
    """The pairs of one split in the order of their origin, read anew by each iteration; none is kept.

    Where `data.valid` is empty, valid is drawn from the `data.max_train_pairs` first pairs of train, and train loses every
    pair that shares a source or a target with it; both depend on nothing but the data and the seed.
    """

    blank: int
    """Pairs that the last iteration left out because a side is blank."""
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
            raise UserError(f"there is no {self.origin} split, because data.{self.origin} is empty; name it there, or use another split")
        self.name = _name(data, split)
        self.blank, self.families = 0, []

    def __iter__(self) -> Iterator[Pair]:
        """Reads the pairs.

        Raises:
            UserError: the split is not found, cannot be read, is malformed, or has no pairs.
        """
        held = self._held_out
        self.families, found = [], 0
        for number, (pair, family) in enumerate(self._all()):
            if held and not (number in held.numbers if self.split == "valid" else not held.has_sentence_of(pair)):
                continue
            found += 1
            if family:
                self.families.append(family)
            yield pair
        if not found and held:
            raise UserError(
                f"every pair of {self.name} shares a sentence with the {len(held.numbers)} held out; name a validation split in data.valid"
            )
        if held and self.split == "valid":
            self.blank = 0  # they are train's

    def _all(self) -> Iterator[tuple[Pair, str]]:
        """All pairs of the origin up to the limit, with their families; blank ones are counted."""
        limit = self.data.max_train_pairs if self.origin == "train" else 0
        self.blank, found = 0, 0
        for pair, family in self._origin_pairs():
            if not (pair.source.strip() and pair.target.strip()):
                self.blank += 1
                continue
            found += 1
            yield pair, family
            if found == limit:
                return
        if not found:
            blank = f" but {self.blank} with a blank side" if self.blank else ""
            raise UserError(f"{_name(self.data, self.origin)} has no pairs{blank}; check data.{self.origin}")

    def _origin_pairs(self) -> Iterator[tuple[Pair, str]]:
        if self.data.format == "phrases":
            return ((Pair(phrase.source, phrase.target), phrase.family) for phrase in self._phrases)
        read = datasets.read if self.data.format == "tfds" else files.read
        return ((Pair(*pair), "") for pair in read(self.data, self.origin))

    @functools.cached_property
    def _phrases(self) -> list[phrases.Phrase]:
        count = self.data.max_train_pairs if self.origin == "train" else PHRASES_HELD_OUT
        return phrases.generate(self.data.source, self.data.target, count, self.seed, self.origin)

    @functools.cached_property
    def _held_out(self) -> _HeldOut | None:
        if self.data.valid or self.split == "test":
            return None
        total, count = sum(1 for _ in self._all()), self.data.held_out_pairs
        if count * 10 > total:
            least = f"lower it to at most {total // 10}, or " if total >= 10 else ""
            raise UserError(
                f"data.held_out_pairs={count} must be at most a tenth of {_name(self.data, 'train')}, which has {total} pairs; "
                f"{least}name a validation split in data.valid"
            )
        numbers = frozenset(np.random.default_rng(self.seed).choice(total, count, replace=False).tolist())
        held = [pair for number, (pair, _) in enumerate(self._all()) if number in numbers]
        return _HeldOut(numbers, frozenset(pair.source for pair in held), frozenset(pair.target for pair in held))

    def fingerprint(self) -> str | None:
        """Hash of all that decides the pairs, faster than reading them; None where there are no files to hash."""
        if self.data.format == "phrases":
            return None
        elsewhere = dataclasses.replace(self.data, folder="", batch_tokens=0, row_multiple=0, buckets=0)
        digest = hashlib.sha256(f"{_FORMAT} {self.split} {self.seed} {elsewhere}".encode())
        if self.data.format == "tfds":
            found = datasets.record_files(self.data, self.origin)
        else:
            found = [str(file.path) for file in files.find(self.data, self.origin)]
        contents = [files.hash_file(name) for name in found]
        if not contents or None in contents:
            return None
        digest.update(b"".join(content for content in contents if content))
        return digest.hexdigest()


_FORMAT = 1  # raised when other pairs are read from the same files


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
    return data.format == "phrases" or (split != "test" and not data.valid)


def _name(data: DataConfig, split: Split) -> str:
    origin = {"tfds": data.dataset, "phrases": f"phrases {data.source}-{data.target}"}
    return f"{split} of {origin.get(data.format, data.folder or '.')}"
