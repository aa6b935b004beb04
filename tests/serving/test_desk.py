"""Who waits is answered, whatever happens to others: errors, floods, clients that leave."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from flax_s2s.decoding.requests import Request
from flax_s2s.serving.desk import Desk
from flax_s2s.serving.wishes import About, Wish, WishError


class Echo:
    """An engine that answers a sentence a turn, and fails where a sentence says so."""

    about = About("echo", 0, ("a", "b"), (), False, False, 10, 1)

    def __init__(self) -> None:
        self.line: list[tuple[int, str]] = []
        self.withdrawn: list[int] = []
        self.resets = 0

    def warm_up(self) -> None:
        pass

    def read(self, wishes: Sequence[Wish]) -> list[Any]:
        texts = [one.request.source for one in wishes]
        if "unreadable" in texts:
            raise TypeError("no text")
        if "refused" in texts:
            raise WishError(413, "too long")
        return texts

    def put(self, ticket: int, ready: Any) -> None:
        if ready == "no seat":
            raise RuntimeError("no seat")
        self.line.append((ticket, ready))

    def withdraw(self, ticket: int) -> None:
        self.withdrawn.append(ticket)
        self.line = [one for one in self.line if one[0] != ticket]

    def reset(self) -> None:
        self.resets += 1
        self.line.clear()

    def turn(self) -> list[tuple[int, dict[str, Any]]]:
        time.sleep(0.001)
        _, text = self.line[0]
        if text == "bad turn":
            raise RuntimeError("broken")
        return [(self.line.pop(0)[0], {"text": text})]

    @property
    def busy(self) -> bool:
        return bool(self.line)


def ask(desk: Desk, *texts: str, secs: float = 30.0) -> Any:
    return desk.answer("echo", [Wish(Request(text)) for text in texts], secs)


async def settled(*asked: Any) -> list[Any]:
    """The texts that came back, or the status of the refusal."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    return [one.status if isinstance(one, WishError) else [answer["text"] for answer in one] for one in found]


def start(most: int = 1000) -> tuple[Desk, Echo]:
    engine = Echo()
    desk = Desk({"echo": engine}, most)
    desk.start()
    assert desk.ready.wait(5)
    return desk, engine


def test_an_order_that_fails_is_no_matter_of_the_others() -> None:
    desk, engine = start()
    found = asyncio.run(
        settled(
            ask(desk, "0", "x"), ask(desk, "unreadable"), ask(desk, "1", "y"), ask(desk, "refused"), ask(desk, "a", "no seat"), ask(desk)
        )
    )
    assert found == [["0", "x"], 500, ["1", "y"], 413, 500, []]
    assert not engine.line and desk.waiting == 0 and engine.resets == 0
    desk.stop()


def test_a_turn_that_fails_is_answered_and_forgotten_and_several_end_it() -> None:
    desk, engine = start()
    for _ in range(2):
        assert asyncio.run(settled(ask(desk, "a"), ask(desk, "bad turn", "b"))) in ([["a"], 500], [500, 500])
        assert asyncio.run(settled(ask(desk, "c"))) == [["c"]]  # it goes on, and the count begins anew
    assert engine.resets == 2 and desk.ready.is_set()
    for _ in range(3):
        asyncio.run(settled(ask(desk, "bad turn")))
    for _ in range(500):
        if not desk.ready.is_set():
            break
        time.sleep(0.01)
    assert not desk.ready.is_set() and "3 times in a row" in desk.failure
    assert asyncio.run(settled(ask(desk, "d"))) == [503]
    desk.stop()
    desk._thread.join(5)
    assert not desk._thread.is_alive()


def test_a_flood_of_refused_orders_does_not_hold_up_who_waits() -> None:
    desk, _ = start(most=100_000)

    async def flood() -> None:
        over = asyncio.Event()

        async def hostile() -> None:
            while not over.is_set():
                await settled(ask(desk, "refused"))

        others = [asyncio.ensure_future(hostile()) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert await settled(ask(desk, "good", "words")) == [["good", "words"]]
        over.set()
        await asyncio.gather(*others)

    asyncio.run(flood())
    desk.stop()


def test_who_leaves_is_withdrawn() -> None:
    desk, engine = start()

    async def leave() -> list[Any]:
        long = asyncio.ensure_future(ask(desk, *map(str, range(300))))
        await asyncio.sleep(0.02)
        long.cancel()
        return await settled(ask(desk, "next"), ask(desk, "slow", secs=0.0001))

    assert asyncio.run(leave())[0] == ["next"]
    assert len(engine.withdrawn) > 200
    assert desk.waiting == 0
    desk.stop()
