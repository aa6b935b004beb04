"""The processor of this machine: what it can do, and how it is kept from losing time."""

import ctypes
import os
import platform
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h


def features() -> str:
    """What the processor says of itself, such as `... avx512_bf16 ...`; where the system does not tell, its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def multiplies_bfloat16() -> bool:
    """Whether it says that it has instructions for products in bfloat16, of which those in float32 take about twice the time."""
    return any(feature in features() for feature in ("avx512_bf16", "amx_bf16"))


def cores() -> int:
    """Cores that XLA computes with on a CPU, on whose number the order of its sums depends, and so the last bits of a gradient.

    XLA of jax 0.10.2 counts those that the process may run on (`taskset`, a container's cpuset, but not its share of time), unless
    NPROC gives another number (xla/pjrt/utils.cc, `DefaultThreadPoolSize`).
    """
    given = os.environ.get("NPROC", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_heap() -> None:
    """Lets all threads take their memory from one heap; has an effect only before the first of them starts, so before all imports.

    A thread with a heap of its own asks the system for every large block, and gives it back, whatever `keep_memory` says.
    """
    _set_malloc((_M_ARENA_MAX, 1))


def keep_memory() -> None:
    """Lets the process keep the memory that a program worked in, for the next program; `share_heap` has come before.

    For programs that run on the CPU: the memory of every call, hundreds of megabytes, is otherwise given back to the system
    and asked for again, 10% to 15% of a train step, spent in page faults. What lies between may keep a program from using the
    memory of the one before, so the process may hold that memory two or three times.
    """
    _set_malloc((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))


def _set_malloc(*settings: tuple[int, int]) -> None:
    """Where the C library is not glibc, nothing is changed."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for setting, value in settings:
        mallopt(setting, value)
