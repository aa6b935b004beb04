"""Where wishes wait and answers are handed out: one thread works, any number of requests wait for it.

Enters: the wishes of a request, on an event loop. Leaves: their answers, in order, or a `WishError`: too many wait, it took too long, or
the model cannot meet one. What comes while others are searched for is seated beside them at the next turn.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax_s2s.serving.wishes import Engine, Wish, WishError

_RECENT = 256  # answers by which the rate is known
_FAILURES = 3  # turns in a row that may fail
_TAKING_SECS = 0.005
_log = logging.getLogger(__name__)


class _Order(NamedTuple):
    """The wishes of a request."""

    engine: str
    wishes: Sequence[Wish]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[dict[str, Any]]]"


class _Open:
    """An order whose answers come in one by one."""

    def __init__(self, order: _Order, tickets: Sequence[int]) -> None:
        self.order, self.missing, self.tickets = order, len(tickets), tickets
        self.answers: dict[int, dict[str, Any]] = {}


class Desk:
    """Hands wishes to engines and answers back."""

    def __init__(self, engines: Mapping[str, Engine], most_waiting: int) -> None:
        """Starts nothing yet.

        Args:
            engines: by the names of their models.
            most_waiting: sentences that may be on their way; more are refused.
        """
        self.engines, self.most_waiting = engines, most_waiting
        self.ready, self.failure = threading.Event(), ""
        self.waiting = 0  # sentences on their way; changed on the event loop alone
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._recent: deque[float] = deque(maxlen=_RECENT)  # when answers were handed out
        self._tickets, self._open = itertools.count(), dict[int, tuple[_Open, str]]()  # the worker's alone
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Warms the engines up, and then works; `ready` is set in between."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread once all that waits is answered."""
        self._orders.put(None)

    async def answer(self, engine: str, wishes: Sequence[Wish], timeout_secs: float) -> list[dict[str, Any]]:
        """The answers to some wishes.

        Raises:
            WishError: 503 before the engines are ready, 429 where too many wait, 504 after that time, or as the engine refuses.
        """
        if self.failure or not self.ready.is_set():
            raise WishError(503, self.failure or "the model is still being made ready; ask again in some seconds", retry_after=2)
        if self.waiting + len(wishes) > self.most_waiting:
            if len(wishes) > self.most_waiting:
                raise WishError(413, f"{len(wishes)} sentences are more than the {self.most_waiting} that may wait; send fewer at once")
            raise WishError(429, f"{self.waiting} sentences wait already; ask again later", retry_after=self._retry_after())
        loop = asyncio.get_running_loop()
        order = _Order(engine, wishes, loop, loop.create_future())
        self.waiting += len(wishes)
        self._orders.put(order)
        try:
            async with asyncio.timeout(timeout_secs):
                return await order.future
        except TimeoutError:
            raise WishError(504, f"there is no answer after {timeout_secs:g} s; send fewer or shorter sentences") from None
        finally:
            self.waiting -= len(wishes)
            self._recent.append(time.monotonic())

    def _retry_after(self) -> int:
        """Seconds after which half of those that wait should be answered."""
        if len(self._recent) < 2:
            return 1
        rate = (len(self._recent) - 1) / max(self._recent[-1] - self._recent[0], 0.001)
        return min(60, max(1, math.ceil(self.waiting / 2 / rate)))

    def _work(self) -> None:
        try:
            for engine in self.engines.values():
                engine.warm_up()
        except Exception as error:
            self.failure = f"the model could not be made ready: {error}"
            _log.exception("the model could not be made ready")
            return
        self.ready.set()
        failures = 0
        while failures < _FAILURES:
            try:
                if not self._take_in():
                    return
                self._turn()
                failures = 0
            except Exception as error:  # of all that is under way none can be trusted
                _log.exception("a turn failed")
                failures += 1
                self._begin_anew(WishError(500, f"the model failed: {type(error).__name__}"))
        self.failure = f"the model failed {failures} times in a row; the log says how"
        self.ready.clear()
        while (order := self._orders.get()) is not None:
            _hand_out(order, WishError(503, self.failure))

    def _take_in(self) -> bool:
        """Puts in some of what has come, for a few milliseconds where others are searched for; waits where none are. False: it is over."""
        begin = time.monotonic()
        while True:
            busy = bool(self._open) or any(engine.busy for engine in self.engines.values())
            if busy and time.monotonic() - begin > _TAKING_SECS:
                return True
            try:
                order = self._orders.get(block=not busy)
            except queue.Empty:
                return True
            if order is None:
                if busy:
                    self._orders.put(None)
                    return True
                return False
            if not order.future.done():  # else who asked has left
                self._put_in(order)

    def _put_in(self, order: _Order) -> None:
        """What is wrong with an order is answered to who gave it, and to no other."""
        engine, tickets = self.engines[order.engine], [next(self._tickets) for _ in order.wishes]
        opened = _Open(order, tickets)
        if not tickets:
            _hand_out(order, [])
        try:
            for ticket, one in zip(tickets, engine.read(order.wishes), strict=True):
                self._open[ticket] = opened, order.engine
                engine.put(ticket, one)
        except WishError as error:
            self._fail(opened, order.engine, error)
        except Exception as error:
            _log.exception("a request failed")
            self._fail(opened, order.engine, WishError(500, f"the model failed: {type(error).__name__}"))

    def _begin_anew(self, error: WishError) -> None:
        """Answers all that is under way with an error, and empties the engines."""
        for opened in {id(one): one for one, _ in self._open.values()}.values():
            _hand_out(opened.order, error)
        self._open.clear()
        for engine in self.engines.values():
            engine.reset()

    def _turn(self) -> None:
        for opened, name in list({id(one): (one, name) for one, name in self._open.values()}.values()):
            if opened.order.future.done():  # who asked has left
                self._drop(opened, name)
        for engine in self.engines.values():
            for ticket, answer in engine.turn() if engine.busy else ():
                if ticket not in self._open:
                    continue
                opened, _ = self._open.pop(ticket)
                opened.answers[ticket] = answer
                opened.missing -= 1
                if not opened.missing:
                    _hand_out(opened.order, [opened.answers[one] for one in opened.tickets])

    def _drop(self, opened: _Open, name: str) -> None:
        for ticket in opened.tickets:
            if self._open.pop(ticket, None):
                self.engines[name].withdraw(ticket)

    def _fail(self, opened: _Open, name: str, error: WishError) -> None:
        self._drop(opened, name)
        _hand_out(opened.order, error)


def _hand_out(order: _Order, answer: list[dict[str, Any]] | WishError) -> None:
    """Wakes who waits, on the loop on which he does."""

    def deliver() -> None:
        if order.future.done():
            return
        if isinstance(answer, WishError):
            order.future.set_exception(answer)
        else:
            order.future.set_result(answer)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        order.loop.call_soon_threadsafe(deliver)
