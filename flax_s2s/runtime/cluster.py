"""Where this process stands among the processes of its job, and whether it can reach them.

Enters: the environment and the flags of the command line. Leaves: a `Place`. Looked at in this order:

* the flags, then `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`: each wins over what follows;
* the place that started the process: Open MPI and MPICH (first: they may themselves be started by Slurm), Slurm, other PMI,
  a Cloud TPU, an indexed Job of Kubernetes.

A count of 1, given or found, is a process alone.
"""

import contextlib
import dataclasses
import errno
import ipaddress
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping

from flax_s2s.config import Failure, UserError
from flax_s2s.runtime import places
from flax_s2s.runtime.places import ADDRESS, COUNT, INDEX, TPU_PORT, Number, join_address, read_number

BIND_ADDRESS, CONNECT_SECS = "JAX_COORDINATOR_BIND_ADDRESS", "FLAX_S2S_CONNECT_SECS"

_CLUSTER_SECS, _LOOPBACK_SECS = 300.0, 30.0
_STALE_SECS = 60.0  # a name may still lead to a pod that is no more: CoreDNS keeps answers for 30 s
_BUSY_SECS = 20.0  # the service of a job that was killed a moment ago may still hold the port
_RETRY_SECS, _ANSWER_SECS = 0.5, 5.0
_SILENCE_SECS = 5.0  # after which it is said what is waited for


@dataclasses.dataclass(frozen=True)
class Flags:
    """Where this process stands, said on the command line; what is not given is found in the environment."""

    coordinator: str = ""
    """HOST:PORT at which process 0 can be reached by all processes; empty: from the environment."""
    processes: int = 0
    """Number of processes of the job, 1 for a process alone; 0: from the environment."""
    process: int = -1
    """Number of this process, from 0; -1: from the environment."""
    connect_secs: float = 0.0
    """Seconds to wait for the other processes; 0: 300, or 30 where the coordinator is on this machine's loopback."""


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


ALONE = Place("alone", "", 1, 0, 0.0)


def find(environment: Mapping[str, str], flags: Flags | None = None) -> Place:
    """Where this process stands.

    Args:
        environment: variables, as in `os.environ`.
        flags: what the command line says.

    Raises:
        UserError: what is said is no number or address, is out of range, contradicts itself, or is only a part.
    """
    flags = flags or Flags()
    count, index = _given_count(environment, flags), _given_index(environment, flags)
    address, source = _given_address(environment, flags)
    if count and count.value == 1:
        if index and index.value:
            raise _out_of_range(index, count)
        return ALONE
    found = None if count and index and address else places.find(environment)
    if not (found or count or index or address):
        return ALONE
    if found:
        count, index = _combine(found, count, index)
    name = found.name if found else _origin(flags, source)
    remedy = found.remedy if found else f"give all three of {ADDRESS}, {COUNT} and {INDEX}, or none of them"
    address = address or (found.coordinator if found else "")
    said = ", ".join(f"{number.source}={number.value}" for number in (count, index) if number) or f"{source}={address}"
    if count is None or index is None:
        raise UserError(
            f"{said} is only a part: the {'number of processes' if count is None else 'number of this process'} lacks; {remedy}"
        )
    if not 0 <= index.value < count.value:
        raise _out_of_range(index, count)
    if not address:
        raise UserError(f"{said} is only a part: the address of process 0 lacks; {remedy}")
    host, _ = _split(address, source)
    return Place(name, address, count.value, index.value, _connect_secs(environment, flags, host))


def find_share(environment: Mapping[str, str]) -> tuple[int, int]:
    """This process' number and how many there are, of processes that work apart: tasks of a Slurm array, or any others.

    Raises:
        UserError: what the environment says is no number, or is only a part.
    """
    if share := _find_task(environment):
        return share
    count, index = _given_count(environment, Flags()), _given_index(environment, Flags())
    if found := places.find(environment):
        count, index = _combine(found, count, index)
    if count is None and index is None:
        return 0, 1
    if count is None or index is None:
        said = index or count
        raise UserError(f"{said.source}={said.value} is only a part; set {COUNT} too, or give --shard I/N" if said else "")
    if not 0 <= index.value < count.value:
        raise _out_of_range(index, count)
    return index.value, count.value


def _find_task(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """The rank of a task of a Slurm array, and how many tasks it has: a task knows the least and the greatest number, and not all between."""
    number, count, first, last, step = (
        read_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT", "MIN", "MAX", "STEP")
    )
    if number is None:
        return None
    if count is None:
        raise UserError(f"{number.source}={number.value} is only a part: SLURM_ARRAY_TASK_COUNT is not set; give --shard I/N")
    begin, every = first.value if first else 0, max(1, step.value if step else 1)
    if last and (last.value - begin) // every + 1 != count.value:
        raise UserError(
            f"the {count.value} tasks of the Slurm array, {begin} to {last.value} by steps of {every}, are no run of numbers, so that none "
            f"knows its share; submit it with --array=0-{count.value - 1}, or give each task its --shard I/{count.value}"
        )
    index, rest = divmod(number.value - begin, every)
    if rest or not 0 <= index < count.value:
        raise UserError(
            f"{number.source}={number.value} is none of the {count.value} numbers from {begin} by steps of {every} that Slurm says the array has; "
            f"give each task its --shard I/{count.value}"
        )
    return index, count.value


def bind_address(place: Place, environment: Mapping[str, str] = os.environ) -> str:
    """What the coordination service of process 0 listens at: only the address that the others connect to.

    The service asks nobody who he is, so it should not listen anywhere else. `JAX_COORDINATOR_BIND_ADDRESS` overrides. A machine
    whose own name leads to its loopback (Debian writes 127.0.1.1 into /etc/hosts) cannot know by which address the others
    know it: then all are listened at.

    Raises:
        UserError: the host has no address, or none of this machine.
    """
    if override := environment.get(BIND_ADDRESS, ""):
        host, port = _split(override, BIND_ADDRESS)
        return join_address(host, port)
    host, port = _split(place.coordinator, ADDRESS)
    own = _own_address(host, port)
    if _is_loopback(own) and not _is_loopback(host):
        return join_address("::" if ":" in own else "0.0.0.0", port)
    return join_address(own, port)


def make_sure_reachable(place: Place, environment: Mapping[str, str] = os.environ) -> None:
    """Makes sure, before jax connects, that the address of process 0 is good; jax would end without a reason that can be read.

    Process 0 makes sure that the address is one of its machine and that the port is free. The others try to connect until
    `place.connect_secs` have passed: processes may start minutes apart.

    Raises:
        Failure: what is wrong with the address, and what to do.
    """
    if place.count == 1:
        return
    if place.index:
        _retry(lambda: _try_to_connect(place), place.connect_secs)
    else:
        _retry(lambda: _try_to_listen(place, environment), place.connect_secs)


def is_reachable(place: Place) -> bool:
    """Whether something listens at the address of process 0, now."""
    try:
        _try_to_connect(place)
    except _Unreachable:
        return False
    return True


class _Unreachable(Exception):  # noqa: N818, not an error until it has lasted
    """What stands in the way, for how long that may pass by itself, and what else to do."""

    def __init__(self, reason: str, remedy: str, patience_secs: float = float("inf")) -> None:
        super().__init__(reason)
        self.remedy, self.patience_secs = remedy, patience_secs


def _retry(attempt: Callable[[], None], connect_secs: float) -> None:
    """Tries until it works, or nothing better can be hoped for."""
    start, told = time.monotonic(), False
    while True:
        try:
            return attempt()
        except _Unreachable as problem:
            waited = time.monotonic() - start
            if waited + _RETRY_SECS > min(connect_secs, problem.patience_secs):
                tried = f" (tried for {waited:.0f} s)" if waited >= 1 else ""
                raise Failure(f"{problem}{tried}; {problem.remedy}") from None
            if waited > _SILENCE_SECS and not told:
                print(f"{problem}; tried again for {connect_secs:.0f} s", file=sys.stderr, flush=True)
                told = True
        time.sleep(_RETRY_SECS)


def _try_to_connect(place: Place) -> None:
    """Connects to process 0 and hangs up."""
    host, port = _split(place.coordinator, ADDRESS)
    who = f"process {place.index} on {socket.gethostname()} cannot reach process 0 at {place.coordinator}"
    remedy = f"is process 0 running there, and is the port open between the machines? {CONNECT_SECS} changes how long is waited"
    try:
        socket.create_connection((host, port), timeout=min(_ANSWER_SECS, max(place.connect_secs, 0.1))).close()
    except socket.gaierror as error:
        raise _no_name(f"{who}: {host}", error) from None
    except ConnectionRefusedError:
        raise _Unreachable(f"{who}: the connection was refused, so nothing listens there", remedy) from None
    except TimeoutError:
        raise _Unreachable(f"{who}: no answer, as behind a firewall", remedy) from None
    except OSError as error:
        raise _Unreachable(f"{who}: {error.strerror or error}", remedy) from None


def _try_to_listen(place: Place, environment: Mapping[str, str]) -> None:
    """Takes the port and lets it go: jax shares a port that is taken, and would talk to two jobs at once."""
    host, port = _split(bind_address(place, environment), BIND_ADDRESS)
    try:
        _bind(host, port)
    except OSError as error:
        what = f"process 0 cannot listen at {join_address(host, port)}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise _Unreachable(what, f"end the program that does, or give another port in {ADDRESS}", _BUSY_SECS) from None
        raise _Unreachable(what, f"give an address of this machine, {socket.gethostname()}, and a port that may be used", 0.0) from None


def _own_address(host: str, port: int) -> str:
    """The first address of a host that is of this machine, those before that are not loopback."""
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        raise _no_name(f"process 0 cannot listen at {join_address(host, port)}: {host}", error) from None
    for address in sorted(dict.fromkeys(addresses), key=_is_loopback):
        with contextlib.suppress(OSError):
            _bind(address, 0)
            return address
    raise _Unreachable(
        f"process 0 cannot listen at {join_address(host, port)}: that is {', '.join(addresses)}, no address of this machine, {socket.gethostname()}",
        f"{ADDRESS} must be an address of the machine of process 0; give that one, or start process 0 there",
        0.0 if _is_literal(host) else _STALE_SECS,
    )


def _no_name(what: str, error: socket.gaierror) -> _Unreachable:
    return _Unreachable(
        f"{what} does not resolve to an address ({error.strerror or error})",
        f"give a name that this machine, {socket.gethostname()}, knows, or the address itself, in {ADDRESS}",
    )


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a job that has ended are not in the way
        probe.bind((host, port))
        if port:
            probe.listen()  # where another one listens with SO_REUSEADDR too, only this fails


def _given_address(environment: Mapping[str, str], flags: Flags) -> tuple[str, str]:
    """The address and what it is called; empty where none is given."""
    address, source = (flags.coordinator, "--coordinator") if flags.coordinator else (environment.get(ADDRESS, ""), ADDRESS)
    if address:
        _split(address, source)
    return address, source


def _given_count(environment: Mapping[str, str], flags: Flags) -> Number | None:
    count = Number(flags.processes, "--processes") if flags.processes else read_number(environment, COUNT)
    if count and count.value < 1:
        raise UserError(f"{count.source}={count.value} must be at least 1; 1 is a process alone")
    return count


def _given_index(environment: Mapping[str, str], flags: Flags) -> Number | None:
    index = Number(flags.process, "--process") if flags.process != -1 else read_number(environment, INDEX)
    if index and index.value < 0:
        raise UserError(f"{index.source}={index.value} must be a number from 0")
    return index


def _origin(flags: Flags, source: str) -> str:
    return "flags" if flags.processes or flags.process != -1 or source.startswith("--") else "environment"


def _combine(found: places.Found, count: Number | None, index: Number | None) -> tuple[Number | None, Number]:
    """Count and index of which one, both or none were given; who gives one must agree with the place about it."""
    for given, own in ((count, found.count), (index, found.index)):
        if given and own and given.value != own.value and not (count and index):
            raise UserError(
                f"{given.source}={given.value} contradicts {found.name}'s {own.source}={own.value}; "
                f"give both {COUNT} and {INDEX}, or neither"
            )
    return count or found.count, index or found.index


def _connect_secs(environment: Mapping[str, str], flags: Flags, host: str) -> float:
    if flags.connect_secs:
        value, text = flags.connect_secs, f"--connect-secs {flags.connect_secs}"
    elif given := environment.get(CONNECT_SECS, "").strip():
        text = f"{CONNECT_SECS}={given}"
        try:
            value = float(given)
        except ValueError:
            value = -1.0
    else:
        return _LOOPBACK_SECS if _is_loopback(host) else _CLUSTER_SECS
    if not 0 < value < float("inf"):
        raise UserError(f"{text} must be a number of seconds above 0; use {_CLUSTER_SECS:.0f} where processes start minutes apart")
    return value


def _out_of_range(index: Number, count: Number) -> UserError:
    return UserError(
        f"{index.source}={index.value} must be below {count.source}={count.value}: processes are numbered from 0 to {count.value - 1}"
    )


def _split(address: str, source: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPv6]:PORT."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s\[\]:/]+)):(\d+)", address.strip())
    if not match:
        raise UserError(f"{source}={address} must be HOST:PORT, for example node1:8476 or [fd00::1]:8476")
    if not 0 < int(match[3]) < 65536:
        raise UserError(f"{source}={address} must have a port from 1 to 65535, for example {TPU_PORT}")
    return match[1] or match[2], int(match[3])


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    """Whether a host is by its own words this machine alone."""
    return ipaddress.ip_address(host).is_loopback if _is_literal(host) else host == "localhost"
