"""Where a process stands among others, and what the places that start processes tell of it: Open MPI, MPICH, Slurm, a Cloud TPU, Kubernetes.

Enters: the environment. Leaves: what the place says, which may lack the number of processes or the address of process 0.
"""

import dataclasses
import os
import re
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flax_s2s.config import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
TPU_PORT = 8476  # jax's own choice on a TPU, so firewalls that are open for jax are open for us
_FIRST_PORT, _PORTS = 61000, 4000  # above the ports that Linux gives to outgoing connections (32768 to 60999)


class Number(NamedTuple):
    """A count or an index, and what it is called where it was found."""

    value: int
    source: str


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among the processes of its job."""

    name: str
    """What said so: alone, flags, environment, Slurm, Open MPI, MPICH, PMI, Kubernetes or Cloud TPU."""
    coordinator: str
    """HOST:PORT of process 0; empty when alone."""
    count: int
    """Processes of the job."""
    index: int
    """Number of this process, from 0."""
    connect_secs: float
    """How long to wait for the others."""

    def label(self) -> str:
        """What this process is called in messages."""
        return f"process {self.index} of {self.count} on {socket.gethostname()}" if self.count > 1 else f"process {os.getpid()}"


ALONE = Place("alone", "", 1, 0, 0.0)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a place says by itself; it may lack the coordinator or the count."""

    name: str
    index: Number
    count: Number | None
    coordinator: str
    remedy: str  # what to do about what it lacks


def find(environment: Mapping[str, str]) -> Found | None:
    """The first place that started this process as one of several.

    Raises:
        UserError: what it says is no number, or is only a part.
    """
    for look in (_open_mpi, _hydra, _slurm, _pmi, _cloud_tpu, _kubernetes):
        if (found := look(environment)) and not (found.count and found.count.value == 1):
            return found
    return None


def _open_mpi(environment: Mapping[str, str]) -> Found | None:
    """Processes of `mpirun`; on one machine they meet at its loopback, else at the address of `mpirun` (Open MPI 4 says it)."""
    index, count = read_number(environment, "OMPI_COMM_WORLD_RANK"), read_number(environment, "OMPI_COMM_WORLD_SIZE")
    if index is None or count is None:
        return None
    here = read_number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
    # As in 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911 or 1314521088.0;tcp6://[fe80::1,2620::2]:43370: the job, then addresses.
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    port = port_of(uri.split(".")[0] or environment.get("PMIX_NAMESPACE", ""))
    match = re.search(r"tcp://([\d.]+)|tcp6://\[([^\],]+)", uri)
    coordinator = f"127.0.0.1:{port}" if here and here.value == count.value else join_address(match[1] or match[2], port) if match else ""
    remedy = f"mpirun does not say on which machine process 0 is: mpirun -x {ADDRESS}=HOST:PORT ..., its machine and a free port"
    return Found("Open MPI", index, count, coordinator, remedy)


def _hydra(environment: Mapping[str, str]) -> Found | None:
    """Processes of the `mpiexec` of MPICH or Intel MPI, which may start its proxies by Slurm, whose numbers are then those of the proxies."""
    return _pmi(environment, "MPICH") if "MPI_LOCALNRANKS" in environment else None


def _pmi(environment: Mapping[str, str], name: str = "PMI") -> Found | None:
    """Processes of anything that speaks PMI, as Cray's launchers and `srun --mpi=pmi2` do; on one machine they meet at its loopback."""
    index = read_number(environment, "PMI_RANK") or read_number(environment, "PMI_ID")  # the latter with mpiexec -pmi-port
    if index is None:
        return None
    count, here = read_number(environment, "PMI_SIZE"), read_number(environment, "MPI_LOCALNRANKS")
    proxy = _parent_of_session() if here and count and here.value == count.value else 0
    coordinator = f"127.0.0.1:{port_of(str(proxy))}" if proxy else ""
    remedy = f"mpiexec does not say it: mpiexec -genv {ADDRESS} HOST:PORT ..., the machine of process 0 and a free port"
    if count is None:
        remedy = f"mpiexec -genv {COUNT} N ... says it"
    return Found(name, index, count, coordinator, remedy)


def _parent_of_session() -> int:
    """Of MPICH's processes, each of which leads a session: the proxy that has started all of this machine; 0: it cannot be found."""
    leader = os.getsid(0)
    if leader == os.getpid():
        return os.getppid()
    try:
        return int(Path(f"/proc/{leader}/stat").read_text(errors="replace").rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def _slurm(environment: Mapping[str, str]) -> Found | None:
    """Tasks of `srun`; a batch script has a number of tasks too, but is one process and no step."""
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    index, count = (
        read_number(environment, "SLURM_PROCID"),
        read_number(environment, "SLURM_STEP_NUM_TASKS") or read_number(environment, "SLURM_NTASKS"),
    )
    if not nodes or index is None or count is None:
        return None
    port = port_of(f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}")
    return Found("Slurm", index, count, f"{first_node(nodes)}:{port}", f"or give {ADDRESS}")


def first_node(nodes: str) -> str:
    """The first name of Slurm's list of nodes: rack[1-2]node[001-015,020],login -> rack1node001."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\]\-,]*)[^\]]*\]", r"\1", first[0] if first else nodes)


def _cloud_tpu(environment: Mapping[str, str]) -> Found | None:
    """Hosts of a TPU slice: the variables are set on GKE, and elsewhere by launch/tpu-vm.sh."""
    hosts = [host.strip() for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host.strip()]
    index = read_number(environment, "TPU_WORKER_ID")
    if len(hosts) < 2:
        return None
    if index is None:
        raise UserError(
            f"TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, but TPU_WORKER_ID is not set; set it to this host's number, from 0"
        )
    count = Number(len(hosts), "the number of TPU_WORKER_HOSTNAMES")
    return Found("Cloud TPU", index, count, join_address(hosts[0], TPU_PORT), f"or give {ADDRESS}")


def _kubernetes(environment: Mapping[str, str]) -> Found | None:
    """Pods of an indexed Job: the manifest says how many there are, and where the first is."""
    index = read_number(environment, "JOB_COMPLETION_INDEX")
    remedy = f"set {ADDRESS} and {COUNT} in the manifest as launch/k8s/job.yaml does, or {COUNT}=1 where each pod works alone"
    return index and Found("Kubernetes", index, None, "", remedy)


def read_number(environment: Mapping[str, str], name: str) -> Number | None:
    """A variable that must be a number, if it is set.

    Raises:
        UserError: it is set to something else.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}={text} must be a whole number from 0; set it right, or unset it")
    return Number(int(text), name)


def join_address(host: str, port: int) -> str:
    """HOST:PORT, or [IPv6]:PORT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def port_of(job: str) -> int:
    """A port that all processes of a job know without being told, and other jobs of the machine hardly ever have."""
    return _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS
