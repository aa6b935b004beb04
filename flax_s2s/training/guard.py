"""Bad updates, seen by the host: each is reported, and several in a row are too many.

Enters: every update with the batches it was made of. Leaves: a `BadUpdate` for each that was skipped on the device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from flax_s2s.training.state import TrainState
from flax_s2s.training.step import Update


class BadUpdate(NamedTuple):
    """An update that was skipped, and what it was made of."""

    step: int
    rollbacks: int  # before it; the steps behind a rollback bear the numbers of those before it
    update: Update  # on the host
    positions: list[tuple[int, int]]  # behind each of its batches: epoch, and batches of it that have been read
    batches: list[Any]  # this process' rows of them: source and target ids

    @property
    def loss(self) -> float:
        """Per token, in nats."""
        return float(self.update.loss.plain) / max(float(self.update.loss.tokens), 1.0)

    @property
    def why(self) -> str:
        """What is wrong with it."""
        if not (math.isfinite(self.loss) and math.isfinite(self.update.loss.smoothed)):
            return "the loss is not finite"
        if not math.isfinite(self.update.gradient_norm):
            return "the gradient is not finite"
        return f"the loss of {self.loss:.2f} is a spike: usual is {float(self.update.usual_loss):.2f}"


class _Unread(NamedTuple):
    """An update whose flag is still on the device."""

    step: int
    update: Update
    positions: list[tuple[int, int]]
    batches: list[Any]


class Guard:
    """Reads the flag of an update once the next one is on its way, so that the device never waits for the host."""

    def __init__(self, state: TrainState, report: Callable[[BadUpdate], None], limit: int) -> None:
        """Begins where the state stands, within a row of bad updates too.

        Args:
            state: the state that the next update begins from.
            report: told of every bad update.
            limit: bad updates in a row that are too many; 0: none are.
        """
        self._bad_in_a_row, self._rollbacks = int(state.bad_in_a_row), int(state.rollbacks)
        self._report, self._limit = report, limit
        self._unread: _Unread | None = None

    def watch(self, step: int, update: Update, positions: Sequence[tuple[int, int]], batches: Sequence[Any]) -> None:
        """An update that was sent to the device."""
        self._unread = _Unread(step, update, list(positions), list(batches))

    def read(self) -> bool:
        """Waits for the update watched last, reports it if it is bad; whether there are too many in a row by now."""
        unread, self._unread = self._unread, None
        if unread:
            self._bad_in_a_row = int(jax.device_get(unread.update.bad_in_a_row))
            if self._bad_in_a_row:
                update = jax.device_get(unread.update)
                self._report(BadUpdate(unread.step, self._rollbacks, update, unread.positions, unread.batches))
        return 0 < self._limit <= self._bad_in_a_row
