"""The stream of batches: seeded, resumable, the same for any number of hosts.

Enters: a tokenized corpus. Leaves: for every (epoch, position) one `Batch`; which pairs it holds is a pure function of
(seed, epoch, position).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from flax_s2s.data.batching import Batch, Shape, TokenPairs, assign, make_batch


class Planned(NamedTuple):
    """One batch to come: its shape and the pairs in it (fewer than rows in the last one of a shape)."""

    shape: Shape
    pairs: Int[np.ndarray, " chosen"]


class Share(NamedTuple):
    """The rows of each batch that a process feeds: the `process`-th of `processes` equal slices."""

    process: int = 0
    processes: int = 1

    def of(self, planned: Planned) -> Planned:
        """The part of a planned batch that this process feeds."""
        rows = planned.shape.rows // self.processes
        return Planned(planned.shape._replace(rows=rows), planned.pairs[self.process * rows : (self.process + 1) * rows])


class Position(NamedTuple):
    """Where the stream stands: `batch` batches of `epoch` have been read."""

    epoch: int
    batch: int


class Pipeline:
    """Batches of a training corpus."""

    def __init__(self, pairs: TokenPairs, shapes: Sequence[Shape], seed: int, share: Share | None = None) -> None:
        """Sorts the pairs into the shapes."""
        self.pairs, self.shapes, self.seed, self.share = pairs, list(shapes), seed, share or Share()
        self._bucket = assign(pairs, shapes)

    def plan(self, epoch: int) -> list[Planned]:
        """All batches of an epoch, in order: every pair once."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.pairs))
        buckets = self._bucket[order]
        planned = [
            Planned(shape, chunk) for bucket, shape in enumerate(self.shapes) for chunk in _chunks(order[buckets == bucket], shape.rows)
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
        return make_batch(self.pairs, mine.pairs, mine.shape)

    def waste(self, plan: Sequence[Planned]) -> float:
        """Share of an epoch's positions, filler rows included, that are padding."""
        padded = sum(planned.shape.rows * (planned.shape.src + planned.shape.tgt) for planned in plan)
        return 1 - (len(self.pairs.source.flat) + len(self.pairs.target.flat)) / padded


def in_order(pairs: TokenPairs, shapes: Sequence[Shape], share: Share | None = None) -> Iterator[Batch]:
    """Every pair once in a fixed order, for evaluation; the same shapes as in training, so that nothing compiles twice."""
    bucket = assign(pairs, shapes)
    for number, shape in enumerate(shapes):
        for chunk in _chunks(np.flatnonzero(bucket == number), shape.rows):
            chosen = (share or Share()).of(Planned(shape, chunk))
            yield make_batch(pairs, chosen.pairs, chosen.shape)


def _chunks(index: Int[np.ndarray, " pairs"], size: int) -> list[Int[np.ndarray, " chosen"]]:
    return [index[start : start + size] for start in range(0, len(index), size)]
