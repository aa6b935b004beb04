"""Real processes of the program on this machine, which stand in for hosts."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tiny import REPOSITORY

PROGRAM = [sys.executable, "-m", "flax_s2s"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(devices: int, **more: str) -> dict[str, str]:
    """That of one process alone with so many CPU devices."""
    marks = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    base = {name: value for name, value in os.environ.items() if name not in marks}
    return {**base, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), **more}


def start(
    commands: Sequence[Sequence[str]], devices: int, more: Sequence[Mapping[str, str]] = (), connect_secs: float = 30, port: int = 0
) -> list["subprocess.Popen[str]"]:
    """One process for each command, together one job where there are several; `more` adds to the environment of each."""
    job = {}
    if len(commands) > 1:
        job = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port or free_port()}", "JAX_NUM_PROCESSES": str(len(commands))}
    started = []
    for index, command in enumerate(commands):
        own = {**job, "JAX_PROCESS_ID": str(index), "FLAX_S2S_CONNECT_SECS": str(connect_secs)} if job else {}
        own |= more[index] if more else {}
        started.append(
            subprocess.Popen(command, env=environment(devices, **own), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return started


def finish(processes: Sequence["subprocess.Popen[str]"], timeout: float = 300) -> list["subprocess.CompletedProcess[str]"]:
    """Waits for all."""
    done = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def records(folder: Path, split: str) -> list[dict]:
    file = folder / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [record for record in map(json.loads, lines) if record["split"] == split]


def last_step(folder: Path, split: str = "train") -> int:
    """Of the last record; 0 where there is none."""
    return max((record["step"] for record in records(folder, split)), default=0)


def wait_for_step(folder: Path, step: int, processes: Sequence["subprocess.Popen[str]"]) -> None:
    while last_step(folder) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


def final(folder: Path) -> tuple[int, str]:
    """Step and hash of the newest checkpoint."""
    step = max(int(path.parent.name) for path in (folder / "checkpoints").glob("*/manifest.json"))
    return step, json.loads((folder / "checkpoints" / str(step) / "manifest.json").read_text())["state_sha256"]
