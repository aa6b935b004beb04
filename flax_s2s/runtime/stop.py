"""Where the processes of a job stop: at the first point of their programs that none of them has passed.

Enters: that a stop is asked for, how far each process is. Leaves: at every point the same answer on all of them.
"""

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_LOOK_SECS = 0.1


class Stop:
    """This process' part in the agreement."""

    def __init__(self, leave_fn: Callable[[], None]) -> None:
        """Nobody has asked yet.

        Args:
            leave_fn: ends this process, where one of them has begun no step.
        """
        self._leave_fn = leave_fn
        self._changed = threading.Condition()
        self._polls = 0  # the same number at the same point of every process' program; 0: no step has been begun
        self.asked = ""  # why this process asks for a stop
        self._frozen: int | None = None  # polls when a stop was first known; no more are answered until all agree
        self._at: int | None = None

    @property
    def begun(self) -> bool:
        """Whether a step has been begun."""
        return self._polls > 0

    def ask(self, why: str, alone: bool) -> None:
        """Asks for a stop; a process alone need not agree with others."""
        with self._changed:
            if self.asked:
                return
            self.asked = why
            if alone:
                self._frozen = self._polls
                self.agree([self._polls])

    def freeze(self) -> int | None:
        """How far this process is, and stays until all agree; None: that was said before."""
        with self._changed:
            if self._frozen is not None:
                return None
            self._frozen = self._polls
            return self._frozen

    def agree(self, polls: list[int]) -> None:
        """All stop at the first point that none has passed; `polls` says how far each process is."""
        with self._changed:
            if self._at is not None:
                return
            if min(polls) == 0:
                self._leave_fn()
            self._at = max(polls) + 1
            self._changed.notify_all()

    def poll(self) -> bool:
        """Whether to stop here; waits while the processes agree on where."""
        with self._changed:
            self._polls += 1
            while self._frozen is not None and self._at is None:
                self._changed.wait()
            return self._at is not None and self._polls >= self._at

    def poll_before(self, ready: Future[Any]) -> bool:
        """As `poll`, once something is ready, or a stop has been asked for meanwhile."""
        while not ready.done() and self._frozen is None:
            concurrent.futures.wait([ready], _LOOK_SECS)
        if self.poll():
            return True
        concurrent.futures.wait([ready])  # the stop is further on: whoever asks again finds it ready, as the others do
        return False
