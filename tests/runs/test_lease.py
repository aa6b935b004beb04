"""The lease on a run directory: one holder at a time, whatever dies, stalls or races."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from etils import epath
from tiny import REPOSITORY

from flax_s2s.config import Failure, UserError
from flax_s2s.runs import lease

MYSELF = re.escape(f"process {os.getpid()} on {socket.gethostname()}")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECS", 0.1)
    monkeypatch.setattr(lease, "LAPSE_SECS", 1.0)


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the folder."""
    code = (
        f"import time; from etils import epath; from flax_s2s.runs import lease\nlease.BEAT_SECS = 0.1\n"
        f"with lease.hold(epath.Path({str(tmp_path)!r}), print):\n    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def content(folder: Path) -> dict[str, object]:
    return json.loads((folder / lease.FILE).read_text())


def said(lines: list[str] | None = None) -> object:
    return (lines if lines is not None else []).append


def test_a_held_directory_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    folder = epath.Path(tmp_path)
    with (
        lease.hold(folder, said()) as held,
        pytest.raises(UserError, match=f"in use by {MYSELF}; wait"),
        lease.hold(folder, said()),
    ):
        pass
    assert held.fence == 1
    assert [path.name for path in tmp_path.iterdir()] == [lease.FILE]
    with lease.hold(folder, said()) as held:
        assert held.fence == 2


def test_a_process_holds_it_until_it_dies(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    folder, lines = epath.Path(tmp_path), list[str]()
    with pytest.raises(UserError, match=f"in use by process {other.pid} on {socket.gethostname()}; wait"), lease.hold(folder, said(lines)):
        pass
    other.kill()  # and nobody has asked for its status yet
    time.sleep(0.2)
    with lease.hold(folder, said(lines)) as held:
        assert held.fence == 2
    assert lines == []  # the system knew: there was nothing to wait for


@pytest.mark.parametrize("left", ["", "{", "[]", '{"fence": 3}', "process 1 on elsewhere"])
def test_what_cannot_be_read_holds_nothing(tmp_path: Path, left: str) -> None:
    (tmp_path / lease.FILE).write_text(left)
    with lease.hold(epath.Path(tmp_path), said()) as held:
        assert held.confirm() == 1 and content(tmp_path)["id"] == held.id


def claim(**fields: object) -> str:
    return json.dumps(lease.Claim(7, "theirs", "process 3 on elsewhere", "another machine", 3, "5", 0)._asdict() | fields)


def test_a_holder_on_another_machine_is_waited_for(tmp_path: Path) -> None:
    """It was killed there, and nobody here can know: only its beat tells."""
    (tmp_path / lease.FILE).write_text(claim())
    lines: list[str] = []
    with lease.hold(epath.Path(tmp_path), said(lines)) as held:
        assert held.fence == 8
    assert lines == [f"{tmp_path} is held by process 3 on elsewhere; waiting up to 1 s for a sign of life"]


def test_a_holder_on_another_machine_that_lives_is_refused(tmp_path: Path) -> None:
    (tmp_path / lease.FILE).write_text(claim())
    threading.Timer(0.3, lambda: (tmp_path / lease.FILE).write_text(claim(beat=1))).start()
    with pytest.raises(UserError, match="in use by process 3 on elsewhere"), lease.hold(epath.Path(tmp_path), said()):
        pass
    assert content(tmp_path)["id"] == "theirs"


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path) -> None:
    machine, process, born = lease._myself()
    (tmp_path / lease.FILE).write_text(claim(machine=machine, process=process, born=f"{born}0"))
    lines: list[str] = []
    with lease.hold(epath.Path(tmp_path), said(lines)):
        assert lines == []


def test_of_many_at_once_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of one process: as they all take each other for alive, only those that read before the first wrote go on."""
    monkeypatch.setattr(lease, "_SETTLE_SECS", 0.5)
    start, got, refused = threading.Barrier(8), list[int](), list[str]()

    def take() -> None:
        start.wait()
        try:
            with lease.hold(epath.Path(tmp_path), said()) as held:
                got.append(held.fence)
                time.sleep(1)
                held.confirm()
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def test_a_holder_that_was_overtaken_knows_it(tmp_path: Path) -> None:
    with lease.hold(epath.Path(tmp_path), said()) as held:
        (tmp_path / lease.FILE).write_text(claim())
        with pytest.raises(UserError, match=r"process 3 on elsewhere has taken it \(fence 7, ours 1\)"):
            held.confirm()
    assert content(tmp_path)["id"] == "theirs"  # and it is left alone


def test_the_beat_alone_finds_it_too(tmp_path: Path) -> None:
    with lease.hold(epath.Path(tmp_path), said()) as held:
        (tmp_path / lease.FILE).write_text(claim(fence=1))
        time.sleep(0.5)
        with pytest.raises(UserError, match="is no longer held"):
            held.check()


def test_an_older_holder_that_wakes_up_does_not_take_it_back(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    """Stopped long enough for others to take it, then continued: its late beat changes nothing."""
    other.send_signal(signal.SIGSTOP)
    found = content(tmp_path)
    (tmp_path / lease.FILE).write_text(json.dumps(found | {"machine": "another machine"}))  # as if it were far away
    with lease.hold(epath.Path(tmp_path), said()) as held:
        other.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        held.confirm()
        assert (content(tmp_path)["fence"], content(tmp_path)["process"]) == (2, os.getpid())


def test_a_folder_that_vanishes_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with lease.hold(epath.Path(folder), said()) as held:
        folder.rename(tmp_path / "gone")
        with pytest.raises(Failure, match="it was deleted, or its file system was unmounted"):
            held.confirm()
