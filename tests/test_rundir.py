"""Run directories: the configuration comes back, one process at a time holds it."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from tiny import REPOSITORY

from flax_s2s import rundir
from flax_s2s.config import Config, UserError


def test_the_configuration_comes_back(tmp_path: Path) -> None:
    rundir.write_config(epath.Path(tmp_path), Config(seed=5))
    assert rundir.read_config(epath.Path(tmp_path)) == Config(seed=5)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_is_no_run_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run directory"):
        rundir.read_config(epath.Path(tmp_path / "none"))
    with pytest.raises(UserError, match=r"it has no config\.json"):
        rundir.read_config(epath.Path(tmp_path))
    (tmp_path / "config.json").write_text('{"sed": 1}')
    with pytest.raises(UserError, match=r"config\.json: unknown field 'sed'; did you mean 'seed'"):
        rundir.read_config(epath.Path(tmp_path))


def hold_elsewhere(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    code = (
        f"import time; from etils import epath; from flax_s2s import rundir\n"
        f"with rundir.hold(epath.Path({str(folder)!r})):\n    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_held_directory_is_refused_and_freed_afterwards(tmp_path: Path) -> None:
    folder = epath.Path(tmp_path)
    with (
        rundir.hold(folder),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on {socket.gethostname()}; wait"),
        rundir.hold(folder),
    ):
        pass
    with rundir.hold(folder):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_removed_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder ends between our opening of the file and our locking it: what we locked has no name any longer."""
    flock, times = fcntl.flock, []

    def slow(file, how):
        times.append(file)
        if len(times) == 1:
            (tmp_path / rundir.LOCK).unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with rundir.hold(epath.Path(tmp_path)):
        assert len(times) == 2
        with pytest.raises(UserError, match="in use by"), rundir.hold(epath.Path(tmp_path)):
            pass


def test_a_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    folder, other = epath.Path(tmp_path), hold_elsewhere(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {other.pid} on {socket.gethostname()}; wait"), rundir.hold(folder):
        pass
    other.kill()
    other.communicate()
    with rundir.hold(folder):
        assert (tmp_path / rundir.LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize(
    "left", ["", "process 1 on elsewhere", f"process {os.getpid()} on {socket.gethostname()}"], ids=["nothing", "another", "itself"]
)
def test_what_the_file_says_holds_nothing(tmp_path: Path, left: str) -> None:
    """A full disk leaves it empty; in a container the next process often has the same number."""
    (tmp_path / rundir.LOCK).write_text(left)
    with rundir.hold(epath.Path(tmp_path)):
        assert (tmp_path / rundir.LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"seed": \xff}')
    with pytest.raises(UserError, match=r"config\.json is not UTF-8 at byte 10"):
        rundir.read_config(epath.Path(tmp_path))


@pytest.mark.parametrize("name", ["foo://x", "foo://x/y"])
def test_an_unknown_scheme_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=r"use a path, gs:// or s3://"):
        rundir.make_path(name)


# Results


def test_a_result_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    (tmp_path / "out.partial").write_text("somebody's")
    with pytest.raises(KeyboardInterrupt), rundir.writing(str(out)) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert out.read_text() == "before"
    with rundir.writing(str(out)) as file:
        file.write(b"all")
        assert out.read_text() == "before"
    assert out.read_text() == "all"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "all", "out.partial": "somebody's"}


def test_a_link_is_written_through_and_a_pipe_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with rundir.writing(str(tmp_path / "link")) as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "after"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE, text=True)
    with rundir.writing(str(tmp_path / "pipe")) as file:
        file.write(b"through")
    assert reader.communicate()[0] == "through"
    assert (tmp_path / "pipe").is_fifo()
    with rundir.writing("/dev/null") as file:
        file.write(b"nothing")
    assert Path("/dev/null").is_char_device()


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    for name, why in ((tmp_path, "Is a directory"), (tmp_path / "none" / "out", "No such file or directory")):
        with pytest.raises(UserError, match=f"^{name} cannot be written: {why}$"), rundir.writing(str(name)):
            raise AssertionError("the work has begun")
