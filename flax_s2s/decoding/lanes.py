"""Sentences of one shape on their way through the search: in line, at the door of a device, in a row, out.

Enters: requests as numbers, at any time. Leaves: the hypotheses of each, when its search has ended. A lane is moved on by who owns it: to its
end, as `translate` does, or some steps at a time in turn with other lanes, as a server does; neither changes a result, since a row
depends on no other row and counts its own steps.

On a CPU one lane keeps less than two cores busy: its products are computed by all of them, most of the rest by one. So several of a shape move
at once there, each by a thread of its own, for XLA computes one thing after the other of what one thread asks for.
"""

from collections import Counter, deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_s2s.decoding.requests import Ready, Requests, Shape
from flax_s2s.decoding.stream import Rows, Sentences, Stream, Weights
from flax_s2s.runtime import processor
from flax_s2s.runtime.parallel import Devices, feed_or_pass

_REFILL = 8  # one part in so many of the rows must be free before others take their places
_ADMIT = 2  # one part in so many of the rows is encoded at once
_PASSED = 8  # times that the first in line may be passed over
_AT_ONCE = 8  # lanes at most that move at once: each takes memory, and more than two were not measured
_TO_THE_END = np.iinfo(np.int32).max


class Ended(NamedTuple):
    """Sentences whose search has ended."""

    tickets: list[int]  # the names that they were given
    ready: list[Ready]  # what was asked
    rows: np.ndarray  # where they stand in what was found
    found: Any  # beam.Hypotheses of all rows


class Lane:
    """Rows of one shape, those who sit in them, and those who wait."""

    def __init__(self, shape: Shape, requests: Requests, stream: Stream, blocklist: Any, devices: Devices, rows_each: int) -> None:
        """Compiles nothing yet; `rows_each` is how many rows each device has."""
        self.shape, self._requests, self._stream, self._blocklist = shape, requests, stream, blocklist
        self._devices, self._rows_each, self._count = devices, rows_each, rows_each * devices.count
        self._admit_each, self._part, self._passed = -(-rows_each // _ADMIT), max(1, rows_each // _REFILL), 0
        self._queue: deque[tuple[int, Ready]] = deque()
        self._doors: list[deque[tuple[int, int]]] = [deque() for _ in range(devices.count)]  # of each device: (row of waiting, ticket)
        self._seats = np.full(self._count, -1)
        self._ready: dict[int, Ready] = {}  # of those who are at a door or in a row
        self._programs = (shape, tuple(part.shape for part in jax.tree.leaves(blocklist)))  # what they are known by
        self._waiting: Rows | None = None  # the encoded sentences of those who are, or were last, at the doors
        self._rows: Rows | None = None

    def put(self, ticket: int, one: Ready) -> None:
        """Stands a sentence of this shape in line, by a name that no other sentence in the lane has, from 0."""
        self._queue.append((ticket, one))

    @property
    def busy(self) -> bool:
        """Whether anyone waits or is searched for."""
        return bool(self._queue or self._ready)

    @property
    def free(self) -> int:
        """How many sentences could be put in and would not wait; less than 0 where some do."""
        return self._count - len(self._ready) - len(self._queue)

    @property
    def seats(self) -> dict[int, int]:
        """The row of each sentence that is searched for."""
        return {ticket: row for row, ticket in enumerate(self._seats.tolist()) if ticket >= 0}

    @property
    def state(self) -> Any:
        """The `beam.State` of all rows, once they have gone."""
        assert self._rows is not None
        return self._rows.state

    def go(self, weights: Sequence[Weights], most: int = _TO_THE_END) -> Ended:
        """Moves a busy lane on: until enough rows are free for others, all are done, or `most` steps are made."""
        return self.finish(self.start(weights, most))

    def start(self, weights: Sequence[Weights], most: int = _TO_THE_END) -> Any:
        """As `go`, without waiting for what is found, which `finish` reads: others may be started, or read, in between."""
        while True:
            if self._queue and not any(self._doors):
                self._admit(weights)
            index, take = self._seat()
            more = bool(self._queue) or any(self._doors)
            free, waiting = self._free(), len(self._queue)
            worth = free.max() >= self._part or free.sum() >= waiting  # one more turn costs more than a few empty rows
            full = not waiting or not take.any() or not worth
            until = self._until(more)
            fed = feed_or_pass(self._devices, (index, take, until, np.full_like(until, most if full else 0)))
            with self._stream.once(self._programs):
                self._rows, done, found = self._stream.go(weights, self._blocklist, self._rows, self._waiting, *fed)
            if full:
                self._admit_ahead(weights)
                return done, found

    def _seat(self) -> tuple[np.ndarray, np.ndarray]:
        """Gives free rows to those at the doors: of each row whom it takes, and whether."""
        index, take = np.zeros(self._count, np.int32), np.zeros(self._count, bool)
        for row in (place for place, ticket in enumerate(self._seats) if ticket < 0):
            if door := self._doors[row // self._rows_each]:
                (index[row], self._seats[row]), take[row] = door.popleft(), True
        return index, take

    def finish(self, started: Any) -> Ended:
        """The sentences that are done after what was started last."""
        done, found = jax.tree.map(np.asarray, started)
        rows = np.flatnonzero(done & (self._seats >= 0))
        tickets = [int(self._seats[row]) for row in rows]
        self._seats[rows] = -1
        ended = Ended(tickets, [self._ready.pop(ticket) for ticket in tickets], rows, found)
        if not self.busy:
            self._waiting = None  # memory
        return ended

    def _admit_ahead(self, weights: Sequence[Weights]) -> None:
        """Encodes those who are next while the search runs, so that it need not wait for them; not where only its end says whose rows are free."""
        if self._devices.count == 1 and len(self._queue) >= self._count and not any(self._doors):
            self._admit(weights)

    def _admit(self, weights: Sequence[Weights]) -> None:
        """Encodes some of those in line, all of one length, and sends them to the doors of the devices with most free rows.

        Encoding costs about the same for few as for many: where few are as long as the first in line, those of another length go first.
        """
        count, waiting = self._admit_each * self._devices.count, Counter(one.length for _, one in self._queue)
        length = self._queue[0][1].length
        if waiting[length] < count and self._passed < _PASSED:
            length = max(waiting, key=lambda one: min(waiting[one], count))
        self._passed = 0 if length == self._queue[0][1].length else self._passed + 1
        alike = [one for one in self._queue if one[1].length == length][:count]
        admitted = dict(alike)
        self._queue = deque(one for one in self._queue if one[0] not in admitted)
        self._ready.update(admitted)
        dealt, free = np.full((self._devices.count, self._admit_each), -1), self._free()  # who is in each row
        for number in range(len(alike)):
            device = int(np.where(dealt[:, -1] < 0, free, np.iinfo(free.dtype).min).argmax())
            dealt[device, (dealt[device] < 0).argmax()] = number
            free[device] -= 1
        sentences = self._requests.sentences(self.shape, [one for _, one in alike], count)
        fed = feed_or_pass(self._devices, _rearranged(sentences, dealt.reshape(-1)))
        with self._stream.once((self._programs, length)):
            self._waiting = self._stream.admit(weights, self._blocklist, fed)
        if self._rows is None:
            with self._stream.once((self._programs, "empty")):
                self._rows = self._stream.empty(self._waiting)
        for row, number in enumerate(dealt.reshape(-1).tolist()):
            if number >= 0:
                self._doors[row // self._admit_each].append((row % self._admit_each, alike[number][0]))

    def _free(self) -> np.ndarray:
        """How many rows of each device nobody sits in."""
        return np.asarray((self._seats.reshape(self._devices.count, -1) < 0).sum(axis=1))

    def _until(self, more: bool) -> np.ndarray:
        """How many rows of each device must be free before the search returns: all, or a part where others wait."""
        free = self._free()
        part = np.minimum(free + self._part, self._rows_each)
        return np.asarray(part if more else np.full_like(free, self._rows_each), np.int32)


def lanes_at_once(devices: Devices) -> int:
    """How many lanes of one shape are worth moving at once, where there are sentences for so many."""
    one_cpu = devices.count == 1 and devices.mesh.devices.flat[0].platform == "cpu"
    return min(processor.cores(), _AT_ONCE) if one_cpu else 1


def move(lanes: Sequence[Lane], weights: Sequence[Weights]) -> Generator[Ended]:
    """Moves busy lanes to their ends, all at once, and yields who has ended; who stops reading waits for what moves."""
    if len(lanes) == 1:
        while lanes[0].busy:
            yield lanes[0].go(weights)
        return
    with ThreadPoolExecutor(len(lanes), thread_name_prefix="search") as pool:
        moving: dict[Future[Ended], Lane] = {pool.submit(lane.go, weights): lane for lane in lanes}
        while moving:
            for moved in wait(moving, return_when=FIRST_COMPLETED).done:
                lane, ended = moving.pop(moved), moved.result()
                if lane.busy:
                    moving[pool.submit(lane.go, weights)] = lane
                yield ended


def _rearranged(sentences: Sentences, dealt: np.ndarray) -> Sentences:
    """Sentences in the rows that they are dealt to; a row without one gets one without a limit."""
    moved = jax.tree.map(lambda part: np.asarray(part)[dealt], sentences)
    return moved._replace(limit=np.where(dealt >= 0, moved.limit, 0))
