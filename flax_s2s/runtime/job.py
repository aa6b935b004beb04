"""The processes of one job: they join, watch over each other, stop at the same step and end together.

Enters: where this process stands (`places.Place`), signals. Leaves: an exit code, and a line that says why.

Every process writes to a board, the coordination service's key-value store: a beat, that it asks for a stop, why it left.
A thread of each reads it. Who finds a peer gone or silent says which and ends at once: nobody waits in a collective that can
never complete. All state is the process' own, as jax's is: a process belongs to one job.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flax_s2s import errors
from flax_s2s.errors import FAILURE, INTERRUPTED, PREEMPTED, USER_ERROR, show
from flax_s2s.runtime import address, meeting
from flax_s2s.runtime.places import ALONE, Place
from flax_s2s.runtime.stop import Stop

LAPSE_SECS = 8.0  # without a beat a peer counts as gone
_BEAT_SECS, _HURRY_SECS = 1.0, 0.1
_BOARD = "flax_s2s/"
_NOTHING_NEW = "stopped before the first step; there is nothing new to save, the same command goes on from here"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class _Job:
    """This process and its peers."""

    def __init__(self) -> None:
        self.place, self.log = ALONE, Path()
        self._client: Any = None
        self._service: subprocess.Popen[str] | None = None
        self.stop = Stop(lambda: self.leave(PREEMPTED, _NOTHING_NEW))
        self._hurry, self._ended = threading.Event(), threading.Event()

    def join(self, place: Place) -> None:
        """Connects the processes, and begins to watch."""
        from flax_s2s.runtime import parallel

        self.place = place
        address.make_sure_reachable(place)
        if place.index == 0:
            self._service = meeting.start_service(place)
        meeting.meet(place, lambda why: self.leave(FAILURE, why))
        self._client = parallel.board()
        self._post("host", socket.gethostname())
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def ask(self, why: str) -> None:
        """Asks all processes to stop; before the first step there is nothing to save, and they end at once."""
        self.stop.ask(why, alone=self._client is None)  # or still waiting for the others
        self._hurry.set()

    def end(self, code: int) -> int:
        """The regular end, at which all processes wait for each other; a peer that fails meanwhile ends this one too."""
        if self._client is None:
            return code
        import jax

        self._post("ended", str(code))
        self._hurry.set()
        self._ended.wait()
        jax.distributed.shutdown()
        if self._service:
            self._service.communicate("done")
        return code

    def leave(self, code: int, why: str) -> None:
        """Ends this process at once, and tells the others; what runs in the background is cut short, as by a kill."""
        line = f"{self.place.label()}: {why}"
        print(line, file=sys.stderr, flush=True)
        self.keep(line)
        if self._client:
            with contextlib.suppress(Exception):  # the service may be gone
                self._post("left", f"{code} {why}")
        if self._service and self._service.stdin:
            with contextlib.suppress(OSError):
                self._service.stdin.write("left")
                self._service.stdin.close()
        sys.stdout.flush()
        os._exit(code)

    def keep(self, line: str) -> None:
        """Writes a line to this process' log, once it has one."""
        if self.log.name:
            with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _post(self, key: str, value: str) -> None:
        self._client.key_value_set(f"{_BOARD}{self.place.index}/{key}", value, True)

    def _watch(self) -> None:
        beat, seen = 0, {peer: ("", time.monotonic()) for peer in range(self.place.count)}
        while not self._ended.is_set():
            self._hurry.wait(_BEAT_SECS)
            if self._hurry.is_set():
                time.sleep(_HURRY_SECS)
            beat += 1
            try:
                self._post("beat", str(beat))
                if self.stop.asked:
                    self._post("stop", self.stop.asked)
                board = _by_process(self._client.key_value_dir_get(_BOARD), self.place.count)
            except Exception as error:  # whatever jax's client raises: without the board nothing is known of the others
                self.leave(FAILURE, f"the coordination service at {self.place.coordinator} is gone ({str(error).splitlines()[0]})")
                return
            self._look(board, seen)

    def _look(self, board: list[dict[str, str]], seen: dict[int, tuple[str, float]]) -> None:
        now = time.monotonic()
        for peer, notes in enumerate(board):
            if peer == self.place.index:
                continue
            name = f"process {peer} on {notes.get('host', 'an unknown host')}"
            if "left" in notes:
                code, _, why = notes["left"].partition(" ")
                self.leave(int(code), f"{name} has ended ({why})")
            if notes.get("beat", "") != seen[peer][0]:
                seen[peer] = (notes.get("beat", ""), now)
            elif now - seen[peer][1] > LAPSE_SECS and "ended" not in notes:
                self.leave(FAILURE, f"{name} has given no sign of life for {LAPSE_SECS:.0f} s: killed, stopped or cut off")
        if all("ended" in notes for notes in board):
            self._ended.set()
        asking = [f"{notes['stop']} at process {peer}" for peer, notes in enumerate(board) if "stop" in notes]
        if asking:
            self._freeze(asking[0])
        if all("polls" in notes for notes in board):
            self.stop.agree([int(notes["polls"]) for notes in board])

    def _freeze(self, why: str) -> None:
        """Tells the others how far this process is; it goes no further until all have told."""
        polls = self.stop.freeze()
        if polls is None:
            return
        self._hurry.set()
        if not self.stop.asked:
            print(f"{self.place.label()}: {why}: saving after this step", file=sys.stderr, flush=True)
        self._post("polls", str(polls))


_this = _Job()


def join(place: Place) -> None:
    """Joins the other processes; must come before any use of a device.

    Raises:
        Failure: they were not found in time, or the coordinator cannot be reached.
    """
    if place.count > 1:
        _this.join(place)


def keep_log(path: str) -> None:
    """Where the line that says why this process left is kept besides stderr; where its folder goes, the run directory has gone."""
    _this.log = Path(path) if "://" not in path else Path()


def stop_requested() -> bool:
    """Whether to stop; asked by every process at the same points of its program, and answered alike on all of them."""
    return _this.stop.poll()


def stop_before(ready: Future[Any]) -> bool:
    """Whether to stop before something is ready, which is the same for all processes at once; waits until it is, or a stop was asked for."""
    return _this.stop.poll_before(ready)


def end(code: int) -> int:
    """The regular end of a command: waits for the others where there are any; returns the exit code."""
    code, _this.log = _this.end(code), Path()  # another command of this process has another run directory
    return code


def explain(error: BaseException) -> tuple[int, str]:
    """As `errors.explain`; a run directory that has gone comes first, whatever it was that could not be read or written."""
    if gone := _gone(_this.log):
        # Not tried again by itself: where its mount point is empty, that would begin a new training there.
        return USER_ERROR, f"the run directory {gone} is gone: deleted, or unmounted; bring it back, then run the same command again"
    return errors.explain(error)


def fail(error: BaseException) -> int:
    """The end after an error: says it; where there are other processes they are told, and this one ends at once.

    Returns:
        The exit code, where this process is alone.

    Raises:
        BaseException: the error itself, where this process is alone and only a traceback will do.
    """
    code, text = explain(error)
    alone = _this.place.count == 1
    if not text:
        if alone:
            _this.log = Path()
            raise error
        if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" not in str(error):
            # The echo of a peer's end, it may be: the watch will find which, and end this process with a better word.
            time.sleep(LAPSE_SECS + 2 * _BEAT_SECS)
        traceback.print_exception(error)
    else:
        show(text)
        _this.keep(f"error: {text}")
    if not alone:
        _this.leave(code, (text or f"{type(error).__name__}: {error}").split("\n")[0])
    _this.log = Path()
    return code


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Where there are other processes, an error inside ends this one before anything else is waited for."""
    try:
        yield
    except Exception as error:
        if _this.place.count > 1:
            fail(error)
        raise


@contextlib.contextmanager
def listen() -> Iterator[None]:
    """Takes SIGTERM, SIGUSR1 (which mpirun passes on, as it does not SIGTERM) and Ctrl-C for requests to stop; a second Ctrl-C ends at once.

    A thread of its own hears of them through a pipe, also while the main thread compiles or waits for a device.
    """
    global _this
    _this = _Job()
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hears signals in the main thread alone
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pipe = signal.set_wakeup_fd(writer)
    handlers = {number: signal.signal(number, lambda *_: None) for number in STOPPING}
    thread = threading.Thread(target=_hear, args=(reader, _this), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(pipe)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def borrow() -> Iterator[None]:
    """As `listen`, in a process that is not ours to end, such as a notebook's: nothing is said, and signals come late, not never.

    The first of them asks for a stop, and does what it did before the call once what was trained is saved: Ctrl-C is a
    KeyboardInterrupt then. A second one does so at once, as does one before the first step, when there is nothing to save. What the
    process ignores, as the background jobs of a script ignore Ctrl-C, stays ignored.
    """
    global _this
    _this = this = _Job()
    heard, before = list[int](), dict[int, Any]()

    def deliver(number: int) -> None:
        signal.signal(number, before[number])
        signal.raise_signal(number)

    def hear(number: int, _: Any) -> None:
        if heard or not this.stop.begun:
            deliver(number)
            signal.signal(number, hear)  # a handler of the caller's own has let it pass
            return
        heard.append(number)
        this.ask(signal.Signals(number).name)

    if threading.current_thread() is threading.main_thread():
        others = (None, signal.SIG_IGN)  # None: of another language
        ours = [number for number in STOPPING if signal.getsignal(number) not in others]
        before |= {number: signal.signal(number, hear) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _this = _Job()
    for number in heard[:1]:
        deliver(number)


def _hear(reader: int, job: _Job) -> None:
    interrupted = False
    while received := os.read(reader, 1):
        number = received[0]
        if number not in STOPPING:
            continue  # others that Python has handlers for
        if interrupted and number == signal.SIGINT:
            job.leave(INTERRUPTED, "ended at once by Ctrl-C; what was saved before is intact")
        interrupted = True
        name = signal.Signals(number).name
        print(f"\n{name}: saving after this step (Ctrl-C again: end at once)", file=sys.stderr, flush=True)
        job.ask(name)


def _by_process(entries: list[tuple[str, str]], count: int) -> list[dict[str, str]]:
    board: list[dict[str, str]] = [{} for _ in range(count)]
    for path, value in entries:
        process, _, key = path.removeprefix(_BOARD).partition("/")
        board[int(process)][key] = value
    return board


def _gone(log: Path) -> str:
    """The run directory of a log, if it is there no more."""
    with contextlib.suppress(OSError):  # as from a server that does not know it any longer
        if not log.name or log.parent.is_dir():
            return ""
    return str(log.parents[1])
