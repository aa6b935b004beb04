"""Training by several real processes on this machine, which stand in for hosts."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import DEBUG, REPOSITORY, TINY

ALL_DEVICES = "--training.devices=0"


@pytest.fixture(autouse=True)
def _no_marks_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_by_two(folders: tuple[Path, Path], devices: int, *options: str) -> list["subprocess.CompletedProcess[str]"]:
    """Two processes with so many devices each, that train in these folders."""
    base = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    base |= {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    base |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    started = []
    for index, folder in enumerate(folders):
        command = [sys.executable, "-m", "flax_s2s", "train", DEBUG, "--run-dir", str(folder), *TINY, ALL_DEVICES, *options]
        environment = {**base, "JAX_PROCESS_ID": str(index)}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    done = []
    for process in started:
        out, err = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def losses(folder: Path) -> list[float]:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["split"] == "train"]


def test_two_processes_train_as_one_does(tmp_path: Path, trained_run: Path) -> None:
    done = train_by_two((tmp_path / "run", tmp_path / "run"), 2)
    assert [process.returncode for process in done] == [0, 0], done
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(trained_run), rtol=1e-5)
    assert "4 x cpu in 2 process(es)" in done[0].stderr
    assert "step" not in done[1].stderr  # process 0 alone speaks


def test_processes_that_see_different_folders_end_with_that(tmp_path: Path) -> None:
    done = train_by_two((tmp_path / "here", tmp_path / "there"), 1)
    assert [process.returncode for process in done] == [2, 2], done
    for process in done:
        assert "is not the same place for all 2 processes: process 1 does not see there what process 0 wrote" in process.stderr
    assert {path.name for path in (tmp_path / "there").iterdir()} == set()
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"lease.json"}
