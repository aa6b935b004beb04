"""launch/local.py: with a program that does as the test says, and with real trainings."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training import LAUNCH, clean_environment, newest, train_arguments

# In the place of flax_s2s: runs its first argument as Python. `attempt` counts the starts of this process from 1.
PROGRAM = """\
import os, signal, sys, time
from pathlib import Path
index = int(os.environ["JAX_PROCESS_ID"])
attempts = Path(f"attempts-{index}")
with attempts.open("a") as file:
    print(os.getpid(), file=file)
attempt = len(attempts.read_text().split())
exec(sys.argv[1])
"""
FOREVER = "\nwhile True: time.sleep(0.05)"


class Launched:
    """The launcher in a folder of its own, with the program in the place of flax_s2s."""

    def __init__(self, folder: Path, code: str, *options: str, run_dir: str = "runs/x", environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        (folder / "flax_s2s").mkdir()
        (folder / "flax_s2s/__main__.py").write_text(PROGRAM)
        given = {**clean_environment(), "PYTHONPATH": "", **(environment or {})}
        command = [sys.executable, str(LAUNCH / "local.py"), *options, "--", code, "--run-dir", run_dir]
        self.process = subprocess.Popen(command, cwd=folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait(self, timeout_secs: float = 30) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout_secs)
        return self.process.returncode, out, err

    def pids(self, index: int) -> list[int]:
        """The process ids of all its starts."""
        path = self.folder / f"attempts-{index}"
        return list(map(int, path.read_text().split())) if path.exists() else []


def wait_for(condition: Callable[[], object], timeout_secs: float = 20) -> None:
    deadline = time.monotonic() + timeout_secs
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process is there; one that has ended and waits to be asked for its status is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_each_process_knows_its_place_and_its_devices(tmp_path):
    code = "print(*(os.environ.get(name) for name in sys.argv[1].split()[-1].strip('#').split(',')))\n"
    code += "#JAX_NUM_PROCESSES,JAX_PROCESS_ID,JAX_NUM_CPU_DEVICES,JAX_PLATFORMS,XLA_FLAGS,JAX_COORDINATOR_ADDRESS"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=false"}
    status, out, err = Launched(tmp_path, code, "--processes=2", "--devices=4", environment=flags).wait()
    assert status == 0, err
    lines = sorted(out.splitlines())
    assert [line.rpartition(":")[0] for line in lines] == [
        f"[{index}] 2 {index} 4 cpu --xla_cpu_enable_fast_math=false 127.0.0.1" for index in range(2)
    ]
    assert len({line.rpartition(":")[2] for line in lines}) == 1  # one port
    assert re.search(r"\[launch\] process 1 \(pid \d+\): exit code 0, done, after [\d.]+ s", err)


@pytest.mark.parametrize(("visible", "expected"), [("", ["0,1", "2,3"]), ("3,5,6,7", ["3,5", "6,7"])])
def test_gpus_are_given_out_in_turn(tmp_path, visible, expected):
    environment = {"CUDA_VISIBLE_DEVICES": visible, "JAX_PLATFORMS": ""}
    code = "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['JAX_PLATFORMS'])"
    status, out, _ = Launched(tmp_path, code, "--devices=2", "--gpus", environment=environment).wait()
    assert (status, sorted(out.splitlines())) == (0, [f"[{index}] {gpus} " for index, gpus in enumerate(expected)])


def test_output_is_prefixed_and_kept(tmp_path):
    code = "print('out', index); print('a line without end', end='', file=sys.stderr)"
    status, out, err = Launched(tmp_path, code, "--log-dir=logs/new").wait()
    assert status == 0
    assert sorted(out.splitlines()) == ["[0] out 0", "[1] out 1"]
    assert "[1] a line without end\n" in err
    assert sorted((tmp_path / "logs/new/process-1.log").read_text().splitlines()) == ["a line without end", "out 1"]


def test_a_reader_that_leaves_ends_no_training(tmp_path):
    code = "for _ in range(20): print('x' * 9_000, flush=True); time.sleep(0.02)\nPath(f'done-{index}').touch()"
    launched = Launched(tmp_path, code, "--log-dir=logs")
    launched.process.stdout.close()
    launched.process.stdout = None
    assert launched.wait()[0] == 0
    assert len(list(tmp_path.glob("done-*"))) == 2
    assert len((tmp_path / "logs/process-0.log").read_text().splitlines()) == 20


def test_the_users_mistake_is_not_repeated(tmp_path):
    launched = Launched(tmp_path, "exit(2) if index else time.sleep(9)")
    status, _, err = launched.wait()
    assert status == 2
    assert re.search(r"process 1 \(pid \d+\): exit code 2, a mistake to correct", err)
    assert len(launched.pids(1)) == 1


def test_what_was_stopped_and_saved_starts_again_at_once(tmp_path):
    launched = Launched(tmp_path, "exit(75 if attempt < 3 else 0)")
    status, _, err = launched.wait()
    assert (status, err.count("starting again at once")) == (0, 2)
    assert (len(launched.pids(0)), len(launched.pids(1))) == (3, 3)


def test_failures_without_progress_come_to_an_end(tmp_path):
    launched = Launched(tmp_path, "exit(index)")
    status, _, err = launched.wait()
    assert (status, len(launched.pids(1))) == (1, 4)
    assert [f"starting again in {secs} s" in err for secs in (1, 2, 4)] == [True] * 3
    assert "giving up: 3 restarts without a new checkpoint" in err


def test_a_new_checkpoint_is_progress(tmp_path):
    save = (
        "folder = Path('runs/x/checkpoints', str(attempt)); folder.mkdir(parents=True, exist_ok=True); (folder / 'manifest.json').touch()"
    )
    launched = Launched(tmp_path, f"{save}\nexit(1 if attempt < 4 else 0)", "--restarts=1", "--processes=1")
    status, _, err = launched.wait()
    assert (status, len(launched.pids(0)), err.count("starting again in 1 s (restart 1 of 1")) == (0, 4, 3)


def test_a_checkpoint_without_a_manifest_is_no_progress(tmp_path):
    code = "Path('runs/x/checkpoints', str(attempt)).mkdir(parents=True)\nexit(1)"
    launched = Launched(tmp_path, code, "--restarts=1", "--processes=1")
    assert (launched.wait()[0], len(launched.pids(0))) == (1, 2)


@pytest.mark.parametrize(
    "stubborn", ["signal.signal(signal.SIGTERM, signal.SIG_IGN); ready.touch()", "ready.touch(); os.kill(os.getpid(), signal.SIGSTOP)"]
)
def test_the_first_that_fails_ends_all(tmp_path, stubborn):
    """Also one that heeds no SIGTERM, or is stopped; within 15 s, by name."""
    code = f"""
ready = Path("ready")
if index == 0:
    {stubborn}
while not ready.exists(): time.sleep(0.05)
time.sleep(0.5)
if index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    launched = Launched(tmp_path, code + FOREVER, "--restarts=0")
    start = time.monotonic()
    status, _, err = launched.wait()
    assert time.monotonic() - start < 15
    assert status == 1
    assert re.search(r"process 1 \(pid \d+\): killed by SIGKILL, after", err)
    assert re.search(r"process 0 \(pid \d+\): killed by SIGKILL, after this launcher's signal, after", err)
    assert not is_running(launched.pids(0)[0])


SAVES = "def save(*_):\n    time.sleep(1); print('saved', flush=True); os._exit(75)\nsignal.signal(signal.SIGTERM, save)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_waited_for(tmp_path, number):
    launched = Launched(tmp_path, SAVES + "Path(f'ready-{index}').touch()" + FOREVER)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    launched.process.send_signal(number)
    status, out, _ = launched.wait()
    assert (status, sorted(out.splitlines())) == (75, ["[0] saved", "[1] saved"])
    assert len(launched.pids(0)) == 1  # and nothing starts again


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    launched = Launched(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); Path(f'ready-{index}').touch()" + FOREVER)
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    launched.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    launched.process.send_signal(signal.SIGINT)
    status, _, err = launched.wait(5)
    assert (status, err.count("killed by SIGKILL")) == (1, 2)


def test_a_stop_ends_the_pause_before_a_restart(tmp_path):
    launched = Launched(tmp_path, "exit(1)", "--restarts=9")
    wait_for(lambda: len(launched.pids(0)) == 3)  # the next pause is of 4 s
    time.sleep(0.5)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.wait(3)[0] == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_a_launcher_that_is_killed_leaves_nobody_behind(tmp_path):
    launched = Launched(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FOREVER)
    wait_for(lambda: launched.pids(0) and launched.pids(1))
    launched.process.kill()
    launched.wait()
    wait_for(lambda: not any(map(is_running, launched.pids(0) + launched.pids(1))), 5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives orphans to the launcher")
def test_what_the_processes_leave_behind_is_ended(tmp_path):
    code = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); Path(f'left-{index}').write_text(str(child.pid))"
    launched = Launched(tmp_path, code)
    status, _, err = launched.wait(10)  # not 60 s, although the child holds the pipes
    assert status == 0, err
    assert not any(is_running(int(path.read_text())) for path in tmp_path.glob("left-*"))
    assert len(list(tmp_path.glob("left-*"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what to run is missing; give it after --"),
        (["--"], "what to run is missing"),
        (["--processes=0", "--", "x"], "--processes 0 must be at least 1"),
        (["--devices=-1", "--", "x"], "--devices -1 must be at least 1"),
        (["--devices=2", "--gpus", "--", "x"], "2 processes with 2 GPUs each are more than the 3 of CUDA_VISIBLE_DEVICES=0,1,2"),
        (["--log-dir=/dev/null/x", "--", "x"], "--log-dir /dev/null/x cannot be made: Not a directory"),
    ],
)
def test_mistakes_of_the_command_line_are_named(arguments, message):
    command = [sys.executable, str(LAUNCH / "local.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1,2"}, check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def launch(run_dir: Path, devices: int, steps: int) -> "subprocess.Popen[str]":
    """Two processes that train."""
    command = [sys.executable, str(LAUNCH / "local.py"), "--processes=2", f"--devices={devices}", "--", *train_arguments(run_dir, steps)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=clean_environment(), text=True, **pipes)


def test_two_processes_of_two_devices_train(tmp_path):
    launcher = launch(tmp_path / "run", 2, 2)
    out, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, out
    assert "[0] devices    4 x cpu in 2 process(es)" in out
    assert newest(tmp_path / "run")[0] == 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[int, str]]:
    """Step and state at the end of a training by two processes with so many devices each, which nothing disturbs."""

    @functools.cache
    def train(devices: int) -> tuple[int, str]:
        folder = tmp_path_factory.mktemp("undisturbed")
        launcher = launch(folder, devices, 8)
        out, _ = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, out
        return newest(folder)

    return train


@pytest.mark.slow
@pytest.mark.parametrize(("number", "devices"), [(signal.SIGKILL, 2), (signal.SIGKILL, 4), (signal.SIGSTOP, 2)])
def test_a_process_that_is_killed_or_stopped_changes_nothing(tmp_path, undisturbed, number, devices):
    launcher = launch(tmp_path / "run", devices, 8)
    wait_for(lambda: newest(tmp_path / "run")[0] >= 2, 200)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[1]), number)
    out, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, out
    assert re.search(r"process 1 \(pid \d+\): killed by SIGKILL", out), out
    assert "starting again in 1 s" in out
    assert f"continuing {tmp_path / 'run'} at step" in out
    assert newest(tmp_path / "run") == undisturbed(devices)


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_end(tmp_path, undisturbed):
    launcher = launch(tmp_path / "run", 2, 8)
    wait_for(lambda: newest(tmp_path / "run")[0] >= 2, 200)
    launcher.send_signal(signal.SIGTERM)
    out, _ = launcher.communicate(timeout=100)
    assert (launcher.returncode, out.count("exit code 75, stopped and saved")) == (75, 2), out
    launcher = launch(tmp_path / "run", 2, 8)
    out, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, out
    assert newest(tmp_path / "run") == undisturbed(2)
