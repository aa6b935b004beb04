"""Run directories: the configuration comes back."""

import os
import subprocess
from pathlib import Path

import pytest
from etils import epath

from flax_s2s.config import Config, UserError
from flax_s2s.runs import rundir


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


def test_what_comes_once_is_told_apart_from_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "file").write_text("a")
    streams = [str(tmp_path / "pipe"), str(tmp_path / "link"), "/dev/null", "/dev/stdin", "/dev/fd/63", "/proc/self/fd/1"]
    others = [str(tmp_path / "file"), str(tmp_path), str(tmp_path / "none"), "gs://bucket/pipe", "/dev/fd/x"]
    assert [rundir.is_stream(name) for name in streams] == [True] * len(streams)
    assert [rundir.is_stream(name) for name in others] == [False] * len(others)


def test_an_open_file_is_read_and_written_from_where_it_is(tmp_path: Path) -> None:
    """By its name Linux would open it anew: at its start, and cut to nothing."""
    with open(tmp_path / "all", "wb") as file:
        file.write(b"before ")
        file.flush()
        with rundir.writing(f"/dev/fd/{file.fileno()}") as one:
            one.write(b"after")
    assert (tmp_path / "all").read_bytes() == b"before after"
    with open(tmp_path / "all", "rb", buffering=0) as file:
        file.read(7)
        with rundir.open_stream(f"/proc/self/fd/{file.fileno()}", "rb") as one:
            assert one.read() == b"after"
    with pytest.raises(UserError, match=r"^/dev/fd/987 cannot be written: Bad file descriptor$"), rundir.writing("/dev/fd/987"):
        raise AssertionError("it was written")


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    for name, why in ((tmp_path, "Is a directory"), (tmp_path / "none" / "out", "No such file or directory")):
        with pytest.raises(UserError, match=f"^{name} cannot be written: {why}$"), rundir.writing(str(name)):
            raise AssertionError("the work has begun")
