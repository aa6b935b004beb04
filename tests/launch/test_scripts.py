"""The shell scripts for Slurm, Open MPI and TPU VMs, with stand-ins for the programs that they call."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training import LAUNCH, clean_environment

# Each stand-in writes down how it was called. A program that trains ends with the next code of the file `codes`.
CALLED = 'printf "%s\\n" "$(basename "$0") $*" >>"$STAND_INS/calls"\n'
ENDS = CALLED + 'code=$(head -n 1 "$STAND_INS/codes"); sed -i 1d "$STAND_INS/codes"; exit "$code"\n'


class StandIns:
    """Programs of the test's own in front of the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **clean_environment(),
            "STAND_INS": str(folder),
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": "python-of-mine",
        }
        self.add("python-of-mine", CALLED)
        self.add("sleep", CALLED)

    def add(self, name: str, body: str, *codes: int) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\n{body}")
        (self.folder / name).chmod(0o755)
        if codes:
            (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))

    def run(self, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {**self.environment, **variables}
        return subprocess.run(["bash", *command], env=environment, cwd=self.folder, capture_output=True, text=True, timeout=30, check=False)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, "0", False), (2, "0", False), (75, "0", True), (75, "400", True), (1, "0", True), (137, "19", True), (1, "20", False)],
)
def test_a_job_of_slurm_goes_back_into_the_queue(stand_ins, code, restarts, requeued):
    stand_ins.add("srun", ENDS, code)
    stand_ins.add("scontrol", CALLED)
    done = stand_ins.run(str(LAUNCH / "slurm.sbatch"), "configs/x.py", "--run-dir", "a b", SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts)
    assert stand_ins.calls[0] == "srun --kill-on-bad-exit=1 --label python-of-mine -m flax_s2s train configs/x.py --run-dir a b"
    assert stand_ins.calls[1:] == (["scontrol requeue 7"] if requeued else [])
    assert done.returncode == (0 if requeued else code)


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(0, "0", False), (2, "0", False), (75, "99", True), (1, "3", True), (1, "20", False)]
)
def test_a_task_that_decodes_goes_back_into_the_queue(stand_ins, code, restarts, requeued):
    stand_ins.add("srun", ENDS, code)
    stand_ins.add("scontrol", CALLED)
    told = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts, "SLURM_ARRAY_TASK_ID": "1"}
    done = stand_ins.run(str(LAUNCH / "decode.sbatch"), "runs/x", "--input", "a b", **told)
    assert stand_ins.calls[0] == "srun python-of-mine -m flax_s2s decode runs/x --input a b --shard auto"
    assert stand_ins.calls[1:] == (["scontrol requeue 7"] if requeued else [])
    assert done.returncode == (0 if requeued else code)


def test_what_is_no_task_of_an_array_decodes_nothing(stand_ins):
    done = stand_ins.run(str(LAUNCH / "decode.sbatch"), "runs/x", SLURM_JOB_ID="7")
    assert (done.returncode, stand_ins.calls) == (2, [])
    assert "submit it with sbatch --array=0-7" in done.stderr


@pytest.mark.parametrize("script", ["slurm.sbatch", "decode.sbatch"])
def test_a_job_of_slurm_names_the_python_that_lacks(stand_ins, script):
    done = stand_ins.run(str(LAUNCH / script), "configs/x.py", PYTHON="no-such-python", SLURM_JOB_ID="7")
    assert (done.returncode, stand_ins.calls) == (2, [])
    assert "there is no no-such-python" in done.stderr


@pytest.mark.parametrize(
    ("codes", "pauses"), [((0,), []), ((2,), []), ((75, 75, 0), []), ((1, 75, 1, 0), [2, 4]), ((1, 134, 1, 1), [2, 4, 8])]
)
def test_mpirun_starts_again(stand_ins, codes, pauses):
    stand_ins.add("mpirun", ENDS, *codes)
    done = stand_ins.run(str(LAUNCH / "mpirun.sh"), "-np", "2", "--", "train", "x.py", "--run-dir", "r", JAX_PLATFORMS="cpu")
    started = [call for call in stand_ins.calls if call.startswith("mpirun")]
    assert len(started) == len(codes)
    assert started[0].startswith("mpirun -np 2 --bind-to none --tag-output ")
    assert "-x JAX_PLATFORMS" in started[0]
    assert started[0].endswith(" python-of-mine -m flax_s2s train x.py --run-dir r")
    assert [call for call in stand_ins.calls if call.startswith("sleep")] == [f"sleep {pause}" for pause in pauses]
    assert done.returncode == codes[-1]


def test_mpirun_passes_a_stop_on(stand_ins):
    stand_ins.add("mpirun", CALLED + "trap 'echo saved; exit 75' USR1\ntouch \"$STAND_INS/ready\"\nwhile :; do /bin/sleep 0.1; done\n")
    command = ["bash", str(LAUNCH / "mpirun.sh"), "-np", "2", "--", "train", "x.py"]
    script = subprocess.Popen(command, env=stand_ins.environment, cwd=stand_ins.folder, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 10
    while not (stand_ins.folder / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    out, _ = script.communicate(timeout=10)
    assert (script.returncode, out, len(stand_ins.calls)) == (75, "saved\n", 1)  # and it does not start again


# As ssh does it: a shell on each host, here one after the other; the code is that of the last.
GCLOUD = CALLED + 'for host in 0 1; do HOST=$host bash -c "${@: -1}" || code=$?; done; exit "${code:-0}"\n'
CURL = """case "${@: -1}" in
  */agent-worker-number) echo "$HOST" ;;
  */worker-network-endpoints) echo uid-1:uid-2:10.0.0.4,uid-3:uid-4:10.0.0.5 ;;
esac
"""


def test_the_hosts_of_a_tpu_learn_their_numbers(stand_ins):
    stand_ins.add("gcloud", GCLOUD)
    stand_ins.add("curl", CURL)
    stand_ins.add("python-of-mine", 'echo "$TPU_WORKER_ID of $TPU_WORKER_HOSTNAMES: $*"\n')
    folder = str(LAUNCH.parent)
    done = stand_ins.run(str(LAUNCH / "tpu-vm.sh"), "my-tpu", "us-west4-a", "--", "train", "x.py", "--run-dir", "gs://b/a b", FOLDER=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{host} of 10.0.0.4,10.0.0.5: -m flax_s2s train x.py --run-dir gs://b/a b" for host in (0, 1)]
    assert stand_ins.calls[0].startswith("gcloud compute tpus tpu-vm ssh my-tpu --zone us-west4-a --worker=all --command cd ")


def test_a_host_that_knows_its_number_keeps_it(stand_ins):
    stand_ins.add("curl", CALLED)
    stand_ins.add("python-of-mine", 'echo "$TPU_WORKER_ID of $TPU_WORKER_HOSTNAMES"\n')
    done = stand_ins.run(str(LAUNCH / "tpu-vm.sh"), "--host", "train", TPU_WORKER_ID="1", TPU_WORKER_HOSTNAMES="a,b")
    assert (done.stdout, stand_ins.calls) == ("1 of a,b\n", [])


def test_a_machine_without_metadata_is_no_tpu_vm(stand_ins):
    stand_ins.add("curl", "exit 6\n")
    done = stand_ins.run(str(LAUNCH / "tpu-vm.sh"), "--host", "train")
    assert done.returncode == 2
    assert "set TPU_WORKER_ID and TPU_WORKER_HOSTNAMES" in done.stderr


@pytest.mark.parametrize(("codes", "pauses"), [((75, 0), []), ((2,), []), ((1, 1, 1, 255), [20, 40, 80])])
def test_a_tpu_starts_again(stand_ins, codes, pauses):
    stand_ins.add("gcloud", ENDS, *codes)
    done = stand_ins.run(str(LAUNCH / "tpu-vm.sh"), "my-tpu", "us-west4-a", "--", "train", "x.py")
    assert len([call for call in stand_ins.calls if call.startswith("gcloud")]) == len(codes)
    assert [call for call in stand_ins.calls if call.startswith("sleep")] == [f"sleep {pause}" for pause in pauses]
    assert done.returncode == codes[-1]


@pytest.mark.parametrize("arguments", [("mpirun.sh",), ("mpirun.sh", "-np", "2"), ("tpu-vm.sh",), ("tpu-vm.sh", "my-tpu", "zone", "train")])
def test_a_command_line_that_lacks_something_is_named(stand_ins, arguments):
    script, *options = arguments
    stand_ins.add("mpirun", CALLED)
    done = stand_ins.run(str(LAUNCH / script), *options)
    assert (done.returncode, stand_ins.calls) == (2, [])
    assert "for example: bash launch/" in done.stderr
