"""Where this process stands among the processes of its job.

Enters: the environment and the flags of the command line. Leaves: a `Place`. Looked at in this order:

* the flags, then `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`: each wins over what follows;
* the place that started the process: Open MPI and MPICH (first: they may themselves be started by Slurm), Slurm, other PMI,
  a Cloud TPU, an indexed Job of Kubernetes.

A count of 1, given or found, is a process alone.
"""

import dataclasses
from collections.abc import Mapping

from flax_s2s.config import UserError
from flax_s2s.runtime import places
from flax_s2s.runtime.address import CONNECT_SECS, is_loopback, split_address
from flax_s2s.runtime.places import ADDRESS, ALONE, COUNT, INDEX, Number, Place, read_number

_CLUSTER_SECS, _LOOPBACK_SECS = 300.0, 30.0


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
    host, _ = split_address(address, source)
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


def _given_address(environment: Mapping[str, str], flags: Flags) -> tuple[str, str]:
    """The address and what it is called; empty where none is given."""
    address, source = (flags.coordinator, "--coordinator") if flags.coordinator else (environment.get(ADDRESS, ""), ADDRESS)
    if address:
        split_address(address, source)
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
        return _LOOPBACK_SECS if is_loopback(host) else _CLUSTER_SECS
    if not 0 < value < float("inf"):
        raise UserError(f"{text} must be a number of seconds above 0; use {_CLUSTER_SECS:.0f} where processes start minutes apart")
    return value


def _out_of_range(index: Number, count: Number) -> UserError:
    return UserError(
        f"{index.source}={index.value} must be below {count.source}={count.value}: processes are numbered from 0 to {count.value - 1}"
    )
