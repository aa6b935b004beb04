"""Run directories: the configuration comes back, one process at a time holds it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

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


def test_a_held_directory_is_refused_and_freed_afterwards(tmp_path: Path) -> None:
    folder = epath.Path(tmp_path)
    with (
        rundir.hold(folder),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"),
        rundir.hold(folder),
    ):
        pass
    with rundir.hold(folder):
        pass
    assert not list(tmp_path.iterdir())


def test_a_dead_process_does_not_hold_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / rundir.LOCK).write_text(f"{socket.gethostname()} {dead.pid}")
    with rundir.hold(epath.Path(tmp_path)):
        assert (tmp_path / rundir.LOCK).read_text() == f"{socket.gethostname()} {os.getpid()}"


def test_another_host_holds_it_until_the_user_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / rundir.LOCK).write_text("elsewhere 12")
    with pytest.raises(UserError, match=r"process 12 on elsewhere; .* delete .*train\.lock"), rundir.hold(epath.Path(tmp_path)):
        pass
