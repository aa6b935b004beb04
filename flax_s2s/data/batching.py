"""From token ids to batches of a closed set of shapes.

Enters: pairs of token id lists. Leaves: `Batch`es, padded to one of a few `Shape`s that are known before the first step.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Integer

from flax_s2s.config import EOS, PAD, DataConfig, UserError

_MOST_SHAPES = 12
_CANDIDATES = 64  # lengths per side that a bucket's edge may take; 32 leave 1.5% more padding on Multi30k


class Ragged(NamedTuple):
    """Sequences of different lengths, one after the other: sequence i is `flat[starts[i] : starts[i + 1]]`."""

    flat: Integer[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " sequences_plus_1"]

    @property
    def lengths(self) -> Int[np.ndarray, " sequences"]:
        """Tokens of each sequence."""
        return np.diff(self.starts)

    def sequence(self, index: int | np.integer) -> Integer[np.ndarray, " length"]:
        """One of them."""
        return self.flat[self.starts[index] : self.starts[index + 1]]

    def take(self, index: Int[np.ndarray, " chosen"]) -> "Ragged":
        """The chosen sequences, in that order."""
        return make_ragged([self.sequence(i) for i in index])


def make_ragged(sequences: Sequence[Sequence[int] | np.ndarray]) -> Ragged:
    """`[[5, 6], [7]]` -> `Ragged(flat=[5, 6, 7], starts=[0, 2, 3])`."""
    starts = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=starts[1:])
    flat = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences]) if sequences else np.zeros(0, np.int32)
    return Ragged(flat, starts)


def choose_sequences(which: Bool[np.ndarray, " sequences"], one: Ragged, other: Ragged) -> Ragged:
    """Sequence i of `one` where `which[i]`, else of `other`."""
    return make_ragged([(one if chosen else other).sequence(i) for i, chosen in enumerate(which)])


@dataclasses.dataclass(frozen=True)
class TokenPairs:
    """A tokenized corpus; every sequence ends with EOS."""

    source: Ragged
    target: Ragged

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.source.starts) - 1

    def take(self, index: Int[np.ndarray, " chosen"]) -> "TokenPairs":
        """The chosen pairs, in that order."""
        return TokenPairs(self.source.take(index), self.target.take(index))


def add_end(ids: Sequence[Sequence[int]]) -> Ragged:
    """`[[5, 6]]` -> `[[5, 6, EOS]]`."""
    return make_ragged([[*row, EOS] for row in ids])


class Filtered(NamedTuple):
    """How many pairs were left out, and why; a pair is counted at the first reason."""

    long_source: int
    long_target: int
    ratio: int

    def __str__(self) -> str:
        """One clause for the start block."""
        return f"{self.long_source:,} long source, {self.long_target:,} long target, {self.ratio:,} length ratio"


def keep_fitting(pairs: TokenPairs, config: DataConfig) -> tuple[Int[np.ndarray, " kept"], Filtered]:
    """The indices of the pairs within the limits of `config`, and the counts of the others."""
    source, target = pairs.source.lengths, pairs.target.lengths
    long_source = source > config.max_source_tokens
    long_target = ~long_source & (target > config.max_target_tokens)
    uneven = ~long_source & ~long_target & (np.maximum(source, target) > config.max_ratio * np.minimum(source, target))
    filtered = Filtered(int(long_source.sum()), int(long_target.sum()), int(uneven.sum()))
    return np.flatnonzero(~(long_source | long_target | uneven)), filtered


def needed(pairs: TokenPairs, kept: Int[np.ndarray, " kept"]) -> Int[np.ndarray, "3 left_out"]:
    """What the pairs that are not kept would need: `max_source_tokens`, `max_target_tokens` and a whole number for `max_ratio`."""
    source, target = (np.delete(ragged.lengths, kept) for ragged in (pairs.source, pairs.target))
    return np.stack([source, target, -(-np.maximum(source, target) // np.minimum(source, target))])


def keeping(needs: Int[np.ndarray, "3 left_out"], total: int, config: DataConfig) -> dict[str, int]:
    """The fields to raise, and to what, so that of all pairs each leaves out at most a hundredth."""
    found: dict[str, int] = {}
    if not needs.shape[1]:
        return found
    for name, values in zip(("max_source_tokens", "max_target_tokens", "max_ratio"), needs, strict=True):
        value = int(np.sort(values)[::-1][min(total // 100, len(values) - 1)])
        if value > getattr(config, name):
            found[name] = value
    longest = max(found.get(name, getattr(config, name)) for name in ("max_source_tokens", "max_target_tokens"))
    if longest * config.row_multiple > config.batch_tokens:
        found["batch_tokens"] = longest * config.row_multiple
    return found


class Shape(NamedTuple):
    """One batch shape: every batch of it is compiled once."""

    rows: int
    src: int
    tgt: int

    def __str__(self) -> str:
        """`64x(24+28)`."""
        return f"{self.rows}x({self.src}+{self.tgt})"


class Batch(NamedTuple):
    """Padded pairs: real tokens, EOS, then PAD; filler rows are PAD throughout."""

    src_ids: Int32[np.ndarray, "batch src"]
    tgt_ids: Int32[np.ndarray, "batch tgt"]


def rows_of(src: int, tgt: int, config: DataConfig) -> int:
    """Rows of a batch of that size: as many multiples of `row_multiple` as `batch_tokens` holds, at least one."""
    return max(config.batch_tokens // max(src, tgt) // config.row_multiple, 1) * config.row_multiple


Lengths = Int[np.ndarray, " pairs"]


def choose_shapes(source: Lengths, target: Lengths, config: DataConfig, least_saved: float = 0.0) -> list[Shape]:
    """The closed set of shapes, smallest first, that pads pairs of these lengths least.

    Greedy: starting from the one shape that holds everything, each further shape is the (src, tgt) that removes
    most padding from the pairs that fit into it.

    Args:
        source: of each pair.
        target: of each pair.
        config: how many shapes at most, and of how many rows.
        least_saved: padded tokens of all pairs that each further shape saves more than.
    """
    width = int(target.max()) + 1
    numbers = np.bincount(source * width + target)
    cells = np.stack(np.divmod(np.flatnonzero(numbers), width), axis=1)  # the pairs of lengths that occur
    counts = numbers[numbers > 0]
    cost = np.full(len(cells), int(source.max() + target.max()))  # padded tokens of a pair in its best shape so far
    chosen = {(int(source.max()), int(target.max()))}
    edges = [(int(s), int(t)) for s in _edges(source) for t in _edges(target)]
    while len(chosen) < (config.buckets or _MOST_SHAPES):
        gains = [int(counts[fits] @ np.maximum(cost[fits] - s - t, 0)) for s, t in edges for fits in [(cells <= (s, t)).all(axis=1)]]
        best = int(np.argmax(gains))
        if gains[best] <= least_saved:
            break
        chosen.add(edges[best])
        fits = (cells <= edges[best]).all(axis=1)
        cost[fits] = np.minimum(cost[fits], sum(edges[best]))
    return [Shape(rows_of(s, t, config), s, t) for s, t in sorted(chosen, key=lambda edge: (sum(edge), edge))]


def _edges(lengths: Lengths) -> Int[np.ndarray, " edges"]:
    """Quantiles of the lengths, the longest included."""
    return np.unique(np.quantile(lengths, np.linspace(0, 1, _CANDIDATES + 1)[1:], method="higher"))


def assign(pairs: TokenPairs, shapes: Sequence[Shape]) -> Int[np.ndarray, " pairs"]:
    """For each pair the index of the smallest shape that holds it.

    Raises:
        UserError: a pair fits into none.
    """
    source, target = pairs.source.lengths, pairs.target.lengths
    bucket = np.full(len(pairs), -1)
    for index in reversed(range(len(shapes))):  # smallest last, so that it wins
        bucket[(source <= shapes[index].src) & (target <= shapes[index].tgt)] = index
    if (bucket < 0).any():
        worst = int(np.flatnonzero(bucket < 0)[0])
        raise UserError(
            f"pair {worst} has {source[worst]}+{target[worst]} tokens and fits into none of the shapes {', '.join(map(str, shapes))}"
        )
    return bucket


def pad(sequences: Sequence[np.ndarray], rows: int, length: int) -> Int32[np.ndarray, "batch time"]:
    """`[[5, 2], [7, 8, 2]]`, 3 rows, length 4 -> `[[5, 2, 0, 0], [7, 8, 2, 0], [0, 0, 0, 0]]`."""
    padded = np.full((rows, length), PAD, np.int32)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return padded


def make_batch(pairs: TokenPairs, index: Int[np.ndarray, " chosen"], shape: Shape) -> Batch:
    """The chosen pairs in a batch of that shape; rows without a pair are filler."""

    def side(ragged: Ragged, length: int) -> np.ndarray:
        return pad([ragged.sequence(i) for i in index], shape.rows, length)

    return Batch(side(pairs.source, shape.src), side(pairs.target, shape.tgt))
