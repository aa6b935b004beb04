"""The processor of this machine: what it can do, and how it is kept from losing time."""

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

_HEAP, _STARTED = "glibc.malloc.hugetlb", "FLAX_S2S_STARTED"


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


def is_the_command() -> bool:
    """Whether this process is a command of ours, and no program that calls one: that may do something before, or change what it does."""
    program = Path(sys.argv[0])
    return program.stem == "flax-s2s" or program.resolve() == Path(__file__).resolve().parents[1] / "__main__.py"


def use_huge_pages() -> None:
    """Starts this command once more, with a heap of huge pages where the system has them; comes before all imports that take time.

    A program on a CPU works in hundreds of megabytes, which glibc asks of the system anew at every call. Of pages of 4 KiB that is
    tens of thousands of page faults, a tenth of a train step; of pages of 2 MiB it is nothing. glibc reads this setting when a process
    starts, and at no other time. One that is there already is left as it is. Where Python is used from a program of another's, its
    variable `GLIBC_TUNABLES` must say it: `glibc.malloc.hugetlb=1`.
    """
    given, once = os.environ.get("GLIBC_TUNABLES", ""), str(os.getpid())  # which stays the same
    if sys.platform != "linux" or _HEAP in given or os.environ.get(_STARTED) == once or not _offers_huge_pages():
        return
    os.environ |= {"GLIBC_TUNABLES": ":".join(filter(None, (given, f"{_HEAP}=1"))), _STARTED: once}
    # It goes on with small pages where it cannot; where Python is a part of another program, it has no name to start.
    with contextlib.suppress(OSError, ValueError, TypeError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def give_back_memory() -> None:
    """Gives the system what the heaps hold and nothing uses: after a program has been compiled, some 300 MB that glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _offers_huge_pages() -> bool:
    """Whether glibc knows them (2.35), and the system gives them to who asks: not to all, or to nobody."""
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        pages = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        return library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35) and "[madvise]" in pages
    except (OSError, ValueError):
        return False
