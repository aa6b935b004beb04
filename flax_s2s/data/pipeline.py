"""The stream of batches: seeded, resumable, the same for any number of hosts.

Enters: a tokenized corpus. Leaves: for every (epoch, position) one `Batch`; which pairs it holds is a pure function of
(seed, epoch, position).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from flax_s2s.data.batching import Batch, Shape, TokenPairs, assign, make_batch

_KEPT_EPOCHS = 2  # the present one and the one made before it


class Planned(NamedTuple):
    """One batch to come: its shape and the pairs in it (fewer than rows in the last one of a shape), as they are in an epoch."""

    shape: Shape
    pairs: Int[np.ndarray, " chosen"]
    epoch: int = 0


class Share(NamedTuple):
    """The rows of each batch that a process feeds: the `process`-th of `processes` equal slices."""

    process: int = 0
    processes: int = 1

    def of(self, planned: Planned) -> Planned:
        """The part of a planned batch that this process feeds."""
        rows = planned.shape.rows // self.processes
        return planned._replace(
            shape=planned.shape._replace(rows=rows), pairs=planned.pairs[self.process * rows : (self.process + 1) * rows]
        )


class Position(NamedTuple):
    """Where the stream stands: `batch` batches of `epoch` have been read."""

    epoch: int
    batch: int


class Pipeline:
    """Batches of a training corpus."""

    def __init__(
        self,
        pairs: TokenPairs | Callable[[int], TokenPairs],
        shapes: Sequence[Shape],
        seed: int,
        share: Share | None = None,
    ) -> None:
        """Takes the pairs; where their tokens differ from epoch to epoch, a pure function that gives those of an epoch."""
        self.shapes, self.seed, self.share = list(shapes), seed, share or Share()
        self._pairs_of = pairs if callable(pairs) else lambda _: pairs
        self._same = not callable(pairs)
        self._sorted: dict[int, tuple[TokenPairs, Int[np.ndarray, " pairs"]]] = {}

    def _sort(self, epoch: int) -> tuple[TokenPairs, Int[np.ndarray, " pairs"]]:
        """An epoch's pairs, and each one's shape; the last ones made are kept."""
        epoch = 0 if self._same else epoch
        if epoch not in self._sorted:
            pairs = self._pairs_of(epoch)
            kept = list(self._sorted.items())[-_KEPT_EPOCHS + 1 :]
            self._sorted = dict([*kept, (epoch, (pairs, assign(pairs, self.shapes)))])
        return self._sorted[epoch]

    def plan(self, epoch: int) -> list[Planned]:
        """All batches of an epoch, in order: every pair once."""
        bucket_of = self._sort(epoch)[1]
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(bucket_of))
        buckets = bucket_of[order]
        planned = [
            Planned(shape, chunk, epoch)
            for bucket, shape in enumerate(self.shapes)
            for chunk in _chunks(order[buckets == bucket], shape.rows)
        ]
        return [planned[i] for i in rng.permutation(len(planned))]

    def sample(self, count: int) -> list[Planned]:
        """Batches that stand for an epoch: evenly spaced in the first one's, sorted by shape."""
        plan = sorted(self.plan(0), key=lambda planned: (planned.shape, len(planned.pairs)))
        return [plan[(2 * number + 1) * len(plan) // (2 * count)] for number in range(count)]

    def stream(self, start: Position) -> Iterator[tuple[Position, Batch]]:
        """Endless: each batch with the position to resume from once it has been used."""
        epoch, skip = start
        while True:
            plan = self.plan(epoch)
            for batch in range(skip, len(plan)):
                after = Position(epoch, batch + 1) if batch + 1 < len(plan) else Position(epoch + 1, 0)
                yield after, self.batch(plan[batch])
            epoch, skip = epoch + 1, 0

    def batch(self, planned: Planned) -> Batch:
        """This process' rows of a planned batch."""
        mine = self.share.of(planned)
        return make_batch(self._sort(planned.epoch)[0], mine.pairs, mine.shape)

    def waste(self, plan: Sequence[Planned]) -> float:
        """Share of an epoch's positions, filler rows included, that are padding."""
        padded = sum(planned.shape.rows * (planned.shape.src + planned.shape.tgt) for planned in plan)
        return 1 - sum(self.count(plan[0].epoch)) / padded

    def count(self, epoch: int) -> tuple[int, int]:
        """Source and target tokens of an epoch."""
        pairs = self._sort(epoch)[0]
        return len(pairs.source.flat), len(pairs.target.flat)


def in_order(pairs: TokenPairs, shapes: Sequence[Shape], share: Share | None = None) -> Iterator[Batch]:
    """Every pair once in a fixed order, for evaluation."""
    bucket = assign(pairs, shapes)
    for number, shape in enumerate(shapes):
        for chunk in _chunks(np.flatnonzero(bucket == number), shape.rows):
            chosen = (share or Share()).of(Planned(shape, chunk))
            yield make_batch(pairs, chosen.pairs, chosen.shape)


def _chunks(index: Int[np.ndarray, " pairs"], size: int) -> list[Int[np.ndarray, " chosen"]]:
    return [index[start : start + size] for start in range(0, len(index), size)]
