"""A live Slurm of two nodes on this machine: munged, slurmctld and two slurmd on ports of their own, without systemd; needs root.

The first node is called as this machine is: its name resolves, as a cluster's names do.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/slurmd.%n
SchedulerType=sched/builtin
KillWait=40
MinJobAge=300
NodeName={first} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName={second} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [program for program in PROGRAMS if not shutil.which(program, path=path)]


@contextlib.contextmanager
def cluster(folder: Path, ports: list[int]) -> Iterator[dict[str, str]]:
    """Runs it; yields the environment in which its commands work."""
    folder.chmod(0o755)
    (folder / "state").mkdir()
    first = socket.gethostname().split(".")[0]
    nodes = (first, f"{first}-2")
    for node in nodes:
        (folder / f"slurmd.{node}").mkdir()
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, ports=ports, first=nodes[0], second=nodes[1]))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    started = [start(["munged", "--foreground", "--force", f"--key-file={key}", *files], environment, folder)]
    wait_for(lambda: (folder / "munge.socket").exists(), 20, "munged")
    try:
        started.append(start(["slurmctld", "-D"], environment, folder))
        started += [start(["slurmd", "-D", "-N", node], environment, folder) for node in nodes]
        wait_for(lambda: idle_nodes(environment) == 2, 30, "two idle nodes")
        yield environment
    finally:
        subprocess.run(["scancel", "--full", "--state=RUNNING"], env=environment, check=False, timeout=20)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start(command: list[str], environment: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    """Starts a daemon in the foreground; what it says is kept."""
    with open(folder / "daemons.log", "ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def idle_nodes(environment: dict[str, str]) -> int:
    """Nodes that could take a job."""
    told = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%T"], env=environment, capture_output=True, text=True, check=False)
    return told.stdout.split().count("idle")


def wait_for(condition, timeout_secs: float, what: str) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + timeout_secs
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_secs} s"
        time.sleep(0.2)
