"""Where a process stands among those of its job: a table of environments; and what can be reached, with real sockets."""

import dataclasses
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest
from tiny import REPOSITORY

from flax_s2s.config import Failure, UserError
from flax_s2s.runtime import address, cluster, places
from flax_s2s.runtime.cluster import Flags, find
from flax_s2s.runtime.places import Place

JAX = {"JAX_COORDINATOR_ADDRESS": "node1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
# What srun sets in a task; the batch script has the last two as well, and SLURM_PROCID=0.
SLURM = {
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_JOB_ID": "812",
}
BATCH = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "812", "SLURM_PROCID": "0", "SLURM_NODELIST": "node[007-008]"}
INTERACTIVE = {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}  # the shell of salloc, a step of one task in a job of two
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
SPREAD = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
SPREAD_IPV6 = {**SPREAD, "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370"}
# What MPICH 5.0.2's mpiexec sets (as 4.0 and Intel MPI do), seen by `mpiexec -n 2 env`.
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "9", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1", "PMI_HOSTNAME": "vm"}
MPICH_SPREAD = {**MPICH, "MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"}
MPICH_PORT = {"PMI_PORT": "vm:42759", "PMI_ID": "1", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}  # mpiexec -pmi-port
# Slurm 23's plugin mpi/pmi2 sets these in each task besides its own.
SRUN_PMI2 = {**SLURM, "PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "15", "PMI_JOBID": "812.0"}
# By `mpiexec` in an allocation of two nodes: Slurm's numbers are those of two proxies, of four processes each.
MPICH_IN_SLURM = {**SLURM, **MPICH, "PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALNRANKS": "4", "JAX_COORDINATOR_ADDRESS": "node007:5000"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "1", "JAX_COORDINATOR_ADDRESS": "train-0.train:8476", "JAX_NUM_PROCESSES": "2"}
TPU = {"TPU_WORKER_HOSTNAMES": "10.0.0.2,10.0.0.3", "TPU_WORKER_ID": "1"}

FOUND = {
    "nothing": ({}, Flags(), places.ALONE),
    "variables": (JAX, Flags(), Place("environment", "node1:8476", 4, 2, 300.0)),
    "flags win": (JAX, Flags("localhost:1", 2, 0), Place("flags", "localhost:1", 2, 0, 30.0)),
    "flags win one by one": (JAX, Flags(process=3), Place("flags", "node1:8476", 4, 3, 300.0)),
    "one process": ({"JAX_NUM_PROCESSES": "1"}, Flags(), places.ALONE),
    "one process, said in full": ({**JAX, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, Flags(), places.ALONE),
    "one process, whatever the place": ({**SLURM, "JAX_NUM_PROCESSES": "1"}, Flags(), places.ALONE),
    "an address of IPv6": ({**JAX, "JAX_COORDINATOR_ADDRESS": "[::1]:80"}, Flags(), Place("environment", "[::1]:80", 4, 2, 30.0)),
    "patience by variable": ({**JAX, "FLAX_S2S_CONNECT_SECS": "7.5"}, Flags(), Place("environment", "node1:8476", 4, 2, 7.5)),
    "patience by flag": ({**JAX, "FLAX_S2S_CONNECT_SECS": "7"}, Flags(connect_secs=9.0), Place("environment", "node1:8476", 4, 2, 9.0)),
    "a task of srun": (SLURM, Flags(), Place("Slurm", f"node007:{places.port_of('812.0')}", 2, 1, 300.0)),
    "a batch script": (BATCH, Flags(), places.ALONE),
    "the shell of salloc": (INTERACTIVE, Flags(), places.ALONE),
    "srun with an address": (
        {**SLURM, "JAX_COORDINATOR_ADDRESS": "127.0.0.1:5"},
        Flags(),
        Place("Slurm", "127.0.0.1:5", 2, 1, 30.0),
    ),
    "srun, renumbered": ({**SLURM, **JAX}, Flags(), Place("environment", "node1:8476", 4, 2, 300.0)),
    "mpirun": (OPEN_MPI, Flags(), Place("Open MPI", f"127.0.0.1:{places.port_of('1531576320')}", 2, 1, 30.0)),
    "mpirun on machines": (SPREAD, Flags(), Place("Open MPI", f"10.96.0.1:{places.port_of('1531576320')}", 2, 1, 300.0)),
    "mpirun on machines with IPv6": (
        SPREAD_IPV6,
        Flags(),
        Place("Open MPI", f"[fe80::b9b:ac5d]:{places.port_of('1314521088')}", 2, 1, 300.0),
    ),
    "mpirun of one": ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, Flags(), places.ALONE),
    "mpirun inside Slurm": ({**SLURM, **OPEN_MPI}, Flags(), find(OPEN_MPI)),
    "mpiexec": (MPICH, Flags(), Place("MPICH", f"127.0.0.1:{places.port_of('77')}", 2, 1, 30.0)),
    "mpiexec with an address": (
        {**MPICH_SPREAD, "JAX_COORDINATOR_ADDRESS": "node1:8476"},
        Flags(),
        Place("MPICH", "node1:8476", 2, 1, 300.0),
    ),
    "mpiexec by ports": (
        {**MPICH_PORT, "JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "node1:8476"},
        Flags(),
        Place("MPICH", "node1:8476", 2, 1, 300.0),
    ),
    "mpiexec of one": ({**MPICH, "PMI_SIZE": "1", "PMI_RANK": "0", "MPI_LOCALNRANKS": "1"}, Flags(), places.ALONE),
    "mpiexec inside Slurm": (MPICH_IN_SLURM, Flags(), Place("MPICH", "node007:5000", 8, 5, 300.0)),
    "srun --mpi=pmi2": (SRUN_PMI2, Flags(), find(SLURM)),
    "PMI alone": (
        {"PMI_RANK": "1", "PMI_SIZE": "2", "JAX_COORDINATOR_ADDRESS": "node1:8476"},
        Flags(),
        Place("PMI", "node1:8476", 2, 1, 300.0),
    ),
    "an indexed Job": (KUBERNETES, Flags(), Place("Kubernetes", "train-0.train:8476", 2, 1, 300.0)),
    "an indexed Job of lone pods": ({"JOB_COMPLETION_INDEX": "5", "JAX_NUM_PROCESSES": "1"}, Flags(), places.ALONE),
    "hosts of a TPU": (TPU, Flags(), Place("Cloud TPU", "10.0.0.2:8476", 2, 1, 300.0)),
    "hosts of a TPU in an indexed Job": ({**TPU, "JOB_COMPLETION_INDEX": "1"}, Flags(), Place("Cloud TPU", "10.0.0.2:8476", 2, 1, 300.0)),
    "one host of a TPU": ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, Flags(), places.ALONE),
}

WRONG = {
    "no count, no index": ({"JAX_COORDINATOR_ADDRESS": "a:1"}, Flags(), "JAX_COORDINATOR_ADDRESS=a:1 is only a part: the number of processes"),
    "no index": ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, Flags(), "JAX_NUM_PROCESSES=2 is only a part: the number of this"),
    "no address": ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, Flags(), "JAX_PROCESS_ID=0 is only a part: the address of process 0"),
    "only an index": ({}, Flags(process=1), "--process=1 is only a part: the number of processes lacks; give all three of JAX_COOR"),
    "count no number": ({**JAX, "JAX_NUM_PROCESSES": "two"}, Flags(), "JAX_NUM_PROCESSES=two must be a whole number"),
    "count of nothing": ({**JAX, "JAX_NUM_PROCESSES": "0"}, Flags(), "JAX_NUM_PROCESSES=0 must be at least 1"),
    "negative count": ({}, Flags(processes=-2), "--processes=-2 must be at least 1"),
    "negative index": (JAX, Flags(process=-2), "--process=-2 must be a number from 0"),
    "index no number": ({**JAX, "JAX_PROCESS_ID": "-1"}, Flags(), "JAX_PROCESS_ID=-1 must be a whole number from 0"),
    "index too high": ({**JAX, "JAX_PROCESS_ID": "4"}, Flags(), "JAX_PROCESS_ID=4 must be below JAX_NUM_PROCESSES=4.*from 0 to 3"),
    "index of one": ({"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "1"}, Flags(), "JAX_PROCESS_ID=1 must be below JAX_NUM_PROCESSES=1"),
    "no port": ({**JAX, "JAX_COORDINATOR_ADDRESS": "node1"}, Flags(), "JAX_COORDINATOR_ADDRESS=node1 must be HOST:PORT"),
    "port no number": ({}, Flags("node1:http", 2, 0), "--coordinator=node1:http must be HOST:PORT"),
    "port too high": ({**JAX, "JAX_COORDINATOR_ADDRESS": "a:65536"}, Flags(), "a:65536 must have a port from 1 to 65535"),
    "IPv6 without brackets": ({**JAX, "JAX_COORDINATOR_ADDRESS": "::1:80"}, Flags(), "::1:80 must be HOST:PORT, for example .*[fd00::1]:8476"),
    "a URL": ({**JAX, "JAX_COORDINATOR_ADDRESS": "http://a:80"}, Flags(), "must be HOST:PORT"),
    "patience no number": ({**JAX, "FLAX_S2S_CONNECT_SECS": "5m"}, Flags(), "FLAX_S2S_CONNECT_SECS=5m must be a number of seconds above 0"),
    "patience negative": (JAX, Flags(connect_secs=-1.0), "--connect-secs -1.0 must be a number of seconds above 0"),
    "another count than srun": ({**SLURM, "JAX_NUM_PROCESSES": "3"}, Flags(), "JAX_NUM_PROCESSES=3 contradicts Slurm's SLURM_STEP_NUM_TASKS=2"),
    "another index than mpirun": ({**OPEN_MPI, "JAX_PROCESS_ID": "0"}, Flags(), "JAX_PROCESS_ID=0 contradicts Open MPI's OMPI_COMM_WORLD_RANK=1"),
    "mpirun that says no address": (
        {name: value for name, value in SPREAD.items() if name != "OMPI_MCA_orte_hnp_uri"},
        Flags(),
        "the address of process 0 lacks; mpirun does not say .* mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT",
    ),
    "mpiexec on machines": (MPICH_SPREAD, Flags(), "the address of process 0 lacks; mpiexec does not say it: mpiexec -genv JAX_COORDINATOR_ADDRESS"),
    "mpiexec by ports, and no number": (MPICH_PORT, Flags(), "PMI_ID=1 is only a part: the number of processes lacks; mpiexec -genv JAX_NUM_PROC"),
    "PMI without an address": ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Flags(), "PMI_RANK=0 is only a part: the address of process 0 lacks"),
    "a Job that says nothing": ({"JOB_COMPLETION_INDEX": "0"}, Flags(), "JOB_COMPLETION_INDEX=0 is only a part.* JAX_NUM_PROCESSES=1 where each pod"),
    "a Job with more pods than said": ({**KUBERNETES, "JOB_COMPLETION_INDEX": "2"}, Flags(), "JOB_COMPLETION_INDEX=2 must be below JAX_NUM_PROCESSES=2"),
    "a TPU without a number": ({"TPU_WORKER_HOSTNAMES": "a,b"}, Flags(), "names 2 hosts, but TPU_WORKER_ID is not set"),
    "a TPU host too many": ({**TPU, "TPU_WORKER_ID": "2"}, Flags(), "TPU_WORKER_ID=2 must be below the number of TPU_WORKER_HOSTNAMES=2"),
}  # fmt: skip


@pytest.mark.parametrize(("environment", "flags", "place"), FOUND.values(), ids=FOUND)
def test_a_place_is_found(environment, flags, place, monkeypatch):
    monkeypatch.setattr(places, "_parent_of_session", lambda: 77)
    assert find(environment, flags) == place


def test_processes_of_one_launcher_find_it_through_a_shell_too():
    """MPICH starts each in a session of its own (`setsid`), whether the program stands in a script or not."""
    program = [sys.executable, "-c", "from flax_s2s.runtime import places; print(places._parent_of_session())"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for command in (program, ["sh", "-c", '"$@"; true', "sh", *program]):
        done = subprocess.run(command, start_new_session=True, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{os.getpid()}\n"


@pytest.mark.parametrize(("environment", "flags", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_environment_is_named(environment, flags, message):
    message = message.replace("[fd00::1]", r"\[fd00::1\]")
    with pytest.raises(UserError, match=message):
        find(environment, flags)


@pytest.mark.parametrize(
    ("nodes", "first"),
    {
        "n1": "n1",
        "n1,n2": "n1",
        "node[001-015],login": "node001",
        "node[003,007-9]": "node003",
        "rack[1-2]node[01-04]": "rack1node01",
        "rack[1-2]-ib,n[3-4]": "rack1-ib",
    }.items(),
)
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert places.first_node(nodes) == first


def test_ports_are_those_that_no_outgoing_connection_gets():
    ports = {places.port_of(f"{job}.0") for job in range(2_000)}
    assert 61000 <= min(ports) <= max(ports) < 65000
    assert len(ports) > 1_000  # jobs side by side hardly ever share one


def here(index: int, coordinator: str, connect_secs: float = 1.0) -> Place:
    return Place("environment", coordinator, 2, index, connect_secs)


def listening(host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens at a free port of this machine."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    taken.bind((host, 0))
    taken.listen()
    return taken


def free_port() -> int:
    with listening() as taken:
        return int(taken.getsockname()[1])


def test_the_address_listened_at_is_no_wider_than_it_must():
    assert address.bind_address(here(0, "127.0.0.1:81"), {}) == "127.0.0.1:81"
    assert address.bind_address(here(0, "localhost:81"), {}) in ("127.0.0.1:81", "[::1]:81")
    assert address.bind_address(here(0, "node:81"), {"JAX_COORDINATOR_BIND_ADDRESS": "[::]:82"}) == "[::]:82"


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", (address, port)) for address in addresses])


def test_a_name_is_listened_at_by_its_address_of_this_machine(monkeypatch):
    resolves_to(monkeypatch, "192.0.2.1", "127.0.0.1")  # the first one is of no machine (RFC 5737)
    assert address._own_address("node1", 81) == "127.0.0.1"
    resolves_to(monkeypatch, "::1")
    assert address.bind_address(here(0, "localhost:81"), {}) == "[::1]:81"


def test_a_machine_whose_name_leads_to_its_loopback_listens_at_all_addresses(monkeypatch):
    resolves_to(monkeypatch, "127.0.1.1")
    assert address.bind_address(here(0, "node1:81"), {}) == "0.0.0.0:81"
    resolves_to(monkeypatch, "::1")
    assert address.bind_address(here(0, "node1:81"), {}) == "[::]:81"


def test_alone_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("must not be called"))
    address.make_sure_reachable(places.ALONE)


def test_process_0_leaves_the_port_free_for_jax():
    place = here(0, f"127.0.0.1:{free_port()}")
    for _ in range(2):
        address.make_sure_reachable(place, {})


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_is_taken_is_named(monkeypatch, reuse):
    monkeypatch.setattr(address, "_BUSY_SECS", 0.1)
    with listening() as taken:
        if reuse:  # as gRPC listens, which then takes connections in turn with another
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = taken.getsockname()[1]
        with pytest.raises(
            Failure, match=f"cannot listen at 127.0.0.1:{port}: Address already in use.*another port in JAX_COORDINATOR_ADDRESS"
        ):
            address.make_sure_reachable(here(0, f"127.0.0.1:{port}"), {})


def test_a_port_that_is_let_go_soon_is_waited_for():
    taken, begin = listening(), time.monotonic()
    threading.Timer(0.7, taken.close).start()
    address.make_sure_reachable(here(0, f"127.0.0.1:{taken.getsockname()[1]}", 10.0), {})
    assert time.monotonic() - begin >= 0.7


def test_an_address_of_another_machine_is_named_at_once():
    start = time.monotonic()
    with pytest.raises(Failure, match=r"192\.0\.2\.1, no address of this machine.*the machine of process 0"):
        address.make_sure_reachable(here(0, "192.0.2.1:8476", 300.0), {})
    assert time.monotonic() - start < 5  # not after 300 s


def test_a_name_that_led_to_a_pod_that_is_no_more_is_asked_again(monkeypatch):
    answers = iter(["192.0.2.1", "192.0.2.1"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", (next(answers, "127.0.0.1"), port))])
    address.make_sure_reachable(here(0, f"train-0.train:{free_port()}", 10.0), {})
    assert next(answers, None) is None


@pytest.mark.parametrize("index", [0, 1])
def test_a_name_that_does_not_resolve_is_named(index):
    with pytest.raises(Failure, match=r"node1\.invalid does not resolve to an address.*JAX_COORDINATOR_ADDRESS"):
        address.make_sure_reachable(here(index, "node1.invalid:8476", 0.2), {})


def test_a_refused_connection_is_named():
    port = free_port()
    with pytest.raises(Failure, match=f"process 1 on .* cannot reach process 0 at 127.0.0.1:{port}: .* refused.*tried for [12] s"):
        address.make_sure_reachable(here(1, f"127.0.0.1:{port}", 1.6), {})


def test_no_answer_is_named():
    """A queue that is full drops what comes, as a firewall does."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
            fillers.append(filler)
        with pytest.raises(Failure, match="no answer, as behind a firewall"):
            address.make_sure_reachable(here(1, f"127.0.0.1:{deaf.getsockname()[1]}", 0.5), {})
        for filler in fillers:
            filler.close()


def test_a_process_0_that_starts_later_is_waited_for_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setattr(address, "_SILENCE_SECS", 0.3)
    port, started = free_port(), []

    def start() -> None:
        late = socket.socket()
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(("127.0.0.1", port))
        late.listen()
        started.append(late)

    threading.Timer(1.2, start).start()
    address.make_sure_reachable(here(1, f"127.0.0.1:{port}", 20.0), {})
    assert started
    started[0].close()
    assert capsys.readouterr().err.count("the connection was refused, so nothing listens there; tried again for 20 s") == 1


def test_every_flag_says_what_it_is():
    assert [field.name for field in dataclasses.fields(Flags)] == ["coordinator", "processes", "process", "connect_secs"]
    assert find({}, Flags()) == find({}) == places.ALONE


# Shares of work that processes do apart


def array(number, count, first=None, last=None, step=None):
    named = {"ID": number, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in named.items() if value is not None}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, (0, 1)),
        (array(1, 4, 0), (1, 4)),
        (array(7, 3, 3, 7, 2), (2, 3)),
        (array(3, 3, 3, 7, 2), (0, 3)),
        (array(8, 3, 2, 10, 3), (2, 3)),  # --array=2-10:3 has 2, 5 and 8
        (array(5, 1, 5, 5, 1), (0, 1)),
        ({**SLURM, **array(1, 4, 0, 3, 1)}, (1, 4)),
        (SLURM, (1, 2)),
        (OPEN_MPI, (1, 2)),
        (KUBERNETES, (1, 2)),
        (JAX, (2, 4)),
        (BATCH, (0, 1)),
    ],
)
def test_a_process_knows_its_share(environment, share):
    assert cluster.find_share(environment) == share


@pytest.mark.parametrize("number", [1, 3, 7])
@pytest.mark.parametrize("step", [None, 1, 2])
def test_an_array_that_is_no_run_of_numbers_has_no_shares(number, step):
    """Of --array=1,3,7 the tasks counted as the first, the third and the seventh of three: two parts were made, and no output."""
    with pytest.raises(UserError, match=r"submit it with --array=0-2, or give each task its --shard I/3"):
        cluster.find_share(array(number, 3, 1, 7, step))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (array(4, 4, 0, 3, 1), "SLURM_ARRAY_TASK_ID=4 is none of the 4 numbers from 0"),
        (array(0, 4, 1), "is none of the 4 numbers from 1"),
        (array(2, 3, 1, 5, 2), "is none of the 3 numbers from 1 by steps of 2"),
        (array(2, None), "SLURM_ARRAY_TASK_ID=2 is only a part"),
        (array("x", 3), "SLURM_ARRAY_TASK_ID=x must be a whole number"),
        ({"JAX_PROCESS_ID": "1"}, "give --shard I/N"),
        ({"JAX_PROCESS_ID": "4", "JAX_NUM_PROCESSES": "4"}, "must be below JAX_NUM_PROCESSES=4"),
    ],
)
def test_what_is_no_share_is_refused(environment, message):
    with pytest.raises(UserError, match=re.escape(message)):
        cluster.find_share(environment)
