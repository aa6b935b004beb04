"""launch/mpirun.sh and launch/slurm.sbatch with the real thing: Open MPI, and a Slurm of two nodes on this machine; MPICH too."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm
from training import LAUNCH, clean_environment, newest, train_arguments

pytestmark = pytest.mark.launch
STEPS, SAVE_EVERY = 60, 5


def wait_for(condition: Callable[[], object], timeout_secs: float, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout_secs
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Step and state at the end of an undisturbed training by two processes."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    command = ["python3", str(LAUNCH / "local.py"), "--processes=2", "--", *train_arguments(run_dir, STEPS, SAVE_EVERY)]
    environment = clean_environment()
    command[0] = environment["PYTHON"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return newest(run_dir)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """One device of the CPU for each process; the address is found, not given."""
    return {**clean_environment(), "JAX_NUM_CPU_DEVICES": "1"}


def test_mpirun_trains_stops_and_goes_on(tmp_path, environment, expected):
    assert shutil.which("mpirun"), "mpirun is not installed; `bash tests/run.sh --launch` does it"
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = ["bash", str(LAUNCH / "mpirun.sh"), "-np", "2", "--oversubscribe", "--allow-run-as-root", "--"]
    command += train_arguments(run_dir, STEPS, SAVE_EVERY)
    for stop in (True, False):
        with open(log, "a") as output:
            script = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        if stop:
            wait_for(lambda: newest(run_dir)[0] >= SAVE_EVERY, 200, log.read_text)
            script.send_signal(signal.SIGTERM)
        assert script.wait(200) == (75 if stop else 0), log.read_text()
    assert "in 2 process(es)" in log.read_text()
    assert re.search(r"stopped and saved at step \d+", log.read_text())
    assert newest(run_dir) == expected


def test_mpiexec_trains(tmp_path, environment, expected):
    """MPICH 4.0 (Debian) and 5.0 (PyPI) say PMI_RANK and PMI_SIZE to each process: it is not alone."""
    assert shutil.which("mpiexec.hydra"), "MPICH is not installed; `bash tests/run.sh --launch` does it"
    command = ["mpiexec.hydra", "-n", "2", environment["PYTHON"], "-m", "flax_s2s", *train_arguments(tmp_path, STEPS, SAVE_EVERY)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("in 2 process(es)") == 1, done.stderr
    assert newest(tmp_path) == expected


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def live_slurm(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    assert not slurm.missing(), f"not installed: {slurm.missing()}; `bash tests/run.sh --launch` does it"
    with slurm.cluster(tmp_path_factory.mktemp("slurm"), free_ports(3)) as variables:
        yield {**environment, "SLURM_CONF": variables["SLURM_CONF"], "PATH": variables["PATH"]}


def test_the_tasks_of_srun_train_together(tmp_path, live_slurm, expected):
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", live_slurm["PYTHON"], "-m", "flax_s2s"]
    command += train_arguments(tmp_path / "run", STEPS, SAVE_EVERY)
    done = subprocess.run(command, env=live_slurm, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "in 2 process(es)" in done.stderr
    assert newest(tmp_path / "run") == expected


def test_a_job_that_is_stopped_goes_back_into_the_queue_and_goes_on(tmp_path, live_slurm, expected):
    """SIGTERM to the tasks, as before the time limit: they save, the script asks for a requeue, and the job resumes."""
    run_dir, log = tmp_path / "run", tmp_path / "log"
    _, *arguments = train_arguments(run_dir, STEPS, SAVE_EVERY)
    submit = ["sbatch", "--parsable", f"--output={log}", str(LAUNCH / "slurm.sbatch"), *arguments]
    job = subprocess.run(submit, env=live_slurm, capture_output=True, text=True, check=True).stdout.strip()
    wait_for(lambda: newest(run_dir)[0] >= SAVE_EVERY, 200, lambda: log.read_text() if log.exists() else "no log")
    subprocess.run(["scancel", "--signal=TERM", job], env=live_slurm, check=True)
    wait_for(lambda: newest(run_dir)[0] == STEPS, 400, lambda: log.read_text() + states(live_slurm))
    assert "restart 0: exit code 75" in log.read_text()
    assert f"continuing {run_dir} at step" in log.read_text()
    wait_for(lambda: "restart 1: exit code 0" in log.read_text(), 60, log.read_text)
    assert newest(run_dir) == expected


def test_the_tasks_of_an_array_decode_together(tmp_path, live_slurm):
    run, output, log = tmp_path / "run", tmp_path / "out", tmp_path / "log"
    train = [live_slurm["PYTHON"], "-m", "flax_s2s", *train_arguments(run, 2)]
    subprocess.run(train, env=live_slurm, check=True, capture_output=True)
    (tmp_path / "in").write_text("May 5, 2023\n3 hours\n\n" * 40)
    arguments = [str(run), "--input", str(tmp_path / "in"), "--output", str(output), "--part-bytes", "200"]
    submit = ["sbatch", "--parsable", "--array=3-7:2", f"--output={log}-%a", str(LAUNCH / "decode.sbatch"), *arguments]
    subprocess.run(submit, env=live_slurm, capture_output=True, check=True)
    told = lambda: "".join(path.read_text() for path in tmp_path.glob("log-*"))  # noqa: E731
    wait_for(lambda: told().count("exit code 0") == 3, 300, lambda: told() + states(live_slurm))
    found = output.read_bytes()
    assert found.count(b"\n") == 120 and found == (found[: len(found) // 40] * 40)
    assert told().count("are left to the other 2 shards; who") in (1, 2)  # two may find nothing missing at once


def tasks_of(run_dir: Path, srun: int) -> dict[int, int]:
    """Process ids of the tasks that train in a folder, by their numbers."""
    told = subprocess.run(["pgrep", "-f", f"flax_s2s train .*{run_dir}"], capture_output=True, text=True, check=False).stdout
    found = {}
    for pid in map(int, told.split()):
        with contextlib.suppress(OSError):
            number = re.search(rb"SLURM_PROCID=(\d+)", Path(f"/proc/{pid}/environ").read_bytes())
            if number and pid != srun:
                found[int(number[1])] = pid
    return found


def test_a_task_that_is_killed_ends_the_others(tmp_path, live_slurm):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", live_slurm["PYTHON"], "-m", "flax_s2s"]
    command += train_arguments(run_dir, 100_000, 1_000)
    with open(log, "w") as output:
        srun = subprocess.Popen(command, env=live_slurm, stdout=output, stderr=output)
    wait_for(lambda: "step      1/" in log.read_text(), 200, log.read_text)
    os.kill(tasks_of(run_dir, srun.pid)[1], signal.SIGKILL)
    assert srun.wait(15) != 0  # with all that it started, the coordination service too
    assert not tasks_of(run_dir, srun.pid)
    assert "Exited with exit code" in log.read_text() or "Killed" in log.read_text()


def states(environment: dict[str, str]) -> str:
    """What Slurm says of its jobs."""
    return subprocess.run(["scontrol", "show", "job"], env=environment, capture_output=True, text=True, check=False).stdout
