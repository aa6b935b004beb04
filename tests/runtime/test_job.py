"""Several jobs in one process, with a board that they share, stand in for processes; the real ones are in commands/test_processes.py."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from flax_s2s.config import Failure, UserError
from flax_s2s.runtime import job
from flax_s2s.runtime.places import ALONE, Place


class Board:
    """The coordination service's key-value store."""

    def __init__(self):
        self.entries, self.gone = {}, False

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        if self.gone:
            raise RuntimeError("Socket closed\nmore")
        self.entries[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in self.entries.copy().items() if key.startswith(prefix)]


class Left(BaseException):
    """Instead of the end of the process."""


class Peer(job._Job):
    """A process that notes how it left instead of ending the test."""

    def __init__(self, index, count, board):
        super().__init__()
        self.place, self._client, self.words = Place("flags", "here:1", count, index, 1.0), board, None
        self._post("host", f"host{index}")
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        with contextlib.suppress(Left):
            self._watch()

    def leave(self, code, why):
        self.words = (code, why)
        self._client.entries[f"flax_s2s/{self.place.index}/left"] = f"{code} {why}"
        self._ended.set()
        raise Left


def peers(count):
    board = Board()
    made = [Peer(index, count, board) for index in range(count)]
    for peer in made:
        peer.thread.start()
    return made, board


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(job, "LAPSE_SECS", 1.0)
    monkeypatch.setattr(job, "_BEAT_SECS", 0.05)
    monkeypatch.setattr(job, "_HURRY_SECS", 0.01)


@pytest.mark.parametrize("seed", range(8))
def test_all_stop_at_the_same_point_whoever_asks_and_whenever(seed):
    draw = random.Random(seed)
    count = draw.choice([2, 3, 5])
    made, _board = peers(count)
    stopped = [0] * count

    def work(peer):
        rhythm = random.Random(seed * 10 + peer.place.index)
        for point in range(1, 100_000):
            if peer.stop.poll():
                stopped[peer.place.index] = point
                return
            time.sleep(rhythm.uniform(0, 0.01))

    threads = [threading.Thread(target=work, args=(peer,), daemon=True) for peer in made]
    for thread in threads:
        thread.start()
    time.sleep(draw.uniform(0.1, 0.5))
    for peer in draw.sample(made, draw.randint(1, count)):  # several may be told at once
        peer.ask("SIGTERM")
    for thread in threads:
        thread.join(20)
    assert len(set(stopped)) == 1 and stopped[0] > 0, stopped
    for peer in made:
        peer._post("ended", "75")
    for peer in made:
        assert peer._ended.wait(5) and peer.words is None


def test_before_the_first_step_all_end_at_once_though_some_have_begun_it():
    made, _ = peers(3)
    assert not made[2].stop.poll()
    made[0].ask("SIGTERM")
    for peer in made:
        peer.thread.join(5)
        code, why = peer.words
        assert code == 75 and "stopped before the first step; there is nothing new to save" in why


def test_a_silent_peer_is_named_by_all_others():
    made, _board = peers(3)
    time.sleep(0.3)
    made[1]._ended.set()  # its thread ends without a word, as by a kill
    for peer in (made[0], made[2]):
        peer.thread.join(5)
        code, why = peer.words
        assert code == 1
        # who looks a moment later may hear of it from the other
        assert "process 1 on host1 has given no sign of life for 1 s: killed, stopped or cut off" in why


def test_the_word_of_a_peer_and_its_code_are_passed_on():
    made, _ = peers(2)
    with pytest.raises(Left):
        made[0].leave(2, "no space left for a checkpoint")
    made[1].thread.join(5)
    assert made[1].words == (2, "process 0 on host0 has ended (no space left for a checkpoint)")


def test_a_peer_that_waits_for_the_others_to_end_is_not_missed():
    made, _ = peers(2)
    made[0]._post("ended", "0")
    made[0]._hurry.set()
    time.sleep(1.5)
    assert made[1].words is None
    made[1]._post("ended", "0")
    assert made[0]._ended.wait(5) and made[1]._ended.wait(5)


def test_without_the_board_a_process_ends():
    made, board = peers(2)
    board.gone = True
    for peer in made:
        peer.thread.join(5)
        assert peer.words == (1, "the coordination service at here:1 is gone (Socket closed)")


def test_alone_a_stop_is_granted_at_the_next_point():
    alone = job._Job()
    assert not alone.stop.poll() and not alone.stop.poll()
    alone.ask("SIGTERM")
    alone.ask("SIGTERM")
    assert alone.stop.poll() and alone.stop.poll()


def test_what_is_not_ready_does_not_hold_up_a_stop():
    alone, never, ready = job._Job(), Future(), Future()
    ready.set_result(None)
    assert not alone.stop.poll_before(ready)
    threading.Timer(0.2, alone.ask, ("SIGTERM",)).start()
    begin = time.monotonic()
    assert alone.stop.poll_before(never)
    assert time.monotonic() - begin < 5
    assert alone.stop.poll_before(ready)


def test_where_the_stop_is_further_on_what_is_not_ready_is_waited_for():
    """Else this process would be asked once more than those that found it ready."""
    ahead, later = job._Job(), Future()
    ahead.stop._frozen, ahead.stop._at = 0, 2  # a peer has come one point further
    threading.Timer(0.3, later.set_result, (None,)).start()
    assert not ahead.stop.poll_before(later)
    assert later.done()
    assert ahead.stop.poll()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_heard_while_the_main_thread_is_busy_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with job.listen():
        assert not job.stop_requested()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while not job.stop_requested():
            assert time.monotonic() < deadline
    assert signal.getsignal(number) is before


def test_without_peers_there_is_nobody_to_join(monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda *_: pytest.fail("must not be called"))
    assert job.join(ALONE) is None


def ended(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


BUSY = "import hashlib, os, signal, threading, time; from flax_s2s.runtime import job\n"


def test_before_the_first_step_a_signal_ends_a_process_that_python_has_no_hand_in():
    """Waiting in C, as for a compiler or a device."""
    code = f"{BUSY}with job.listen():\n threading.Timer(.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    done = ended(code)
    assert done.returncode == 75 and "stopped before the first step; there is nothing new to save" in done.stderr


def test_a_process_that_waits_for_the_others_to_come_ends_at_once():
    """They may be minutes away, or never come."""
    waiting = "address.make_sure_reachable = lambda place: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60))"
    done = ended(
        f"{BUSY}from flax_s2s.runtime import address, places\n{waiting}\nwith job.listen(): job.join(places.Place('flags', 'here:1', 2, 1, 300.0))"
    )
    assert done.returncode == 75 and "process 1 of 2 on " in done.stderr and "stopped before the first step" in done.stderr


def test_a_process_0_that_goes_before_all_have_met_is_not_waited_for():
    """However long the others may take to come."""
    server = socket.create_server(("127.0.0.1", 0))

    def go_after_the_first_has_come() -> None:
        server.accept()[0].close()
        time.sleep(1.5)
        server.shutdown(socket.SHUT_RDWR)  # closing alone would leave it listening
        server.close()

    threading.Thread(target=go_after_the_first_has_come, daemon=True).start()
    place = f"places.Place('flags', '127.0.0.1:{server.getsockname()[1]}', 2, 1, 300.0)"
    done = ended(f"from flax_s2s.runtime import job, places\nwith job.listen(): job.join({place})")
    assert done.returncode == 1 and "and has gone again, before all had met" in done.stderr


def test_a_run_directory_that_has_gone_explains_an_error_of_its_own_command_alone(tmp_path, capsys):
    (tmp_path / "run" / "logs").mkdir(parents=True)
    log = str(tmp_path / "run" / "logs" / "process-0.log")
    job.keep_log(log)
    assert job.fail(Failure("wrong")) == 1
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    job.keep_log(log)
    assert job.fail(Failure("wrong")) == 2
    assert f"the run directory {tmp_path / 'run'} is gone: deleted, or unmounted" in capsys.readouterr().err
    assert job.fail(Failure("wrong")) == 1  # of the next command, which has none


def test_a_second_interrupt_ends_at_once():
    code = f"{BUSY}with job.listen():\n job.stop_requested()\n for _ in range(2): os.kill(os.getpid(), signal.SIGINT); time.sleep(.2)\n time.sleep(60)"
    done = ended(code)
    assert done.returncode == 130 and "ended at once by Ctrl-C; what was saved before is intact" in done.stderr


def test_before_the_first_step_of_a_call_a_signal_does_what_the_caller_says():
    passed = []
    for caller in (signal.SIG_IGN, lambda number, _: passed.append(number)):
        before = signal.signal(signal.SIGUSR1, caller)
        with job.borrow():
            signal.raise_signal(signal.SIGUSR1)
            assert not job.stop_requested()
            signal.raise_signal(signal.SIGUSR1)  # now there is something to save
            assert job.stop_requested() == (caller is not signal.SIG_IGN)
        assert signal.signal(signal.SIGUSR1, before) is caller
    assert passed == [signal.SIGUSR1, signal.SIGUSR1]  # the second one after the call


def test_what_the_caller_ignores_stops_no_step():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with job.borrow():
        assert not job.stop_requested()
        signal.raise_signal(signal.SIGUSR1)
        assert not job.stop_requested()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("give another"), 2, "error: give another\n"),
        (Failure("the network is gone"), 1, "error: the network is gone\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (OSError(28, "No space left on device", "a/file"), 2, "error: no space left on the disk (a/file); what was complete is intact"),
        (OSError(5, "Input/output error"), 2, "error: Input/output error; nothing that was complete is lost\n"),
    ],
)
def test_an_error_has_a_message_and_a_code(error, code, text, capsys):
    assert job.fail(error) == code
    assert capsys.readouterr().err.startswith(text)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        job.fail(ZeroDivisionError())
