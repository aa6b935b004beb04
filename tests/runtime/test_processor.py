"""The processor, and a heap of huge pages: what a CPU program works in costs few page faults."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flax_s2s.runtime import processor


def test_cores_are_those_that_the_process_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with jax 0.10.2: a training under `taskset -c 0` and one with NPROC=1 end with one hash, on two cores with another."""
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {4, 7, 9}, raising=False)
    assert processor.cores() == 3
    monkeypatch.setenv("NPROC", "5")
    assert processor.cores() == 5
    for nothing in ("", "0", "many"):
        monkeypatch.setenv("NPROC", nothing)
        assert processor.cores() == 3


STARTED = """
import os, resource, sys
print(os.environ.get("GLIBC_TUNABLES"), len(os.listdir("/proc/self/task")), "jax" in sys.modules, flush=True)
from flax_s2s.runtime import processor
processor.use_huge_pages()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: ((jnp.sin(x) @ x.T) @ x).sum())
wide = jnp.ones((4500, 64))

def run(times):  # several under way, so that threads of jax run them
    jax.block_until_ready([program(wide) for _ in range(times)])

run(10)  # until the heap has settled
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run(5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
offers = pytest.mark.skipif(not processor._offers_huge_pages(), reason="a setting of glibc and Linux")


def started(setting: str | None) -> list[str]:
    """The lines of a process, which begins twice where it starts itself anew."""
    rest = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    env = rest if setting is None else {**rest, "GLIBC_TUNABLES": setting}
    return subprocess.run([sys.executable, "-c", STARTED], check=True, capture_output=True, text=True, env=env).stdout.splitlines()


@offers
def test_a_program_that_runs_again_asks_for_no_new_memory() -> None:
    *_, huge = started(None)
    first, small = started("glibc.malloc.hugetlb=0")  # left as it is
    assert first == "glibc.malloc.hugetlb=0 1 False"
    assert int(small) > 5 * 10_000  # 77 MiB each time
    assert int(huge) < int(small) / 10  # seen: 2,000 to 5,100, with heaps of several threads


@offers
def test_a_command_starts_anew_once_and_keeps_other_settings() -> None:
    *found, _ = started("glibc.malloc.tcache_count=7")
    assert found == ["glibc.malloc.tcache_count=7 1 False", "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1 1 False"]


@pytest.mark.parametrize(
    ("library", "pages", "there"),
    [
        ("glibc 2.36", "always [madvise] never", True),
        ("glibc 2.35", "always [madvise] never", True),
        ("glibc 2.34", "always [madvise] never", False),
        ("glibc 2.36", "[always] madvise never", False),
        ("glibc 2.36", "always madvise [never]", False),
        ("other 3.1", "always [madvise] never", False),
        ("glibc new", "always [madvise] never", False),
        (None, "always [madvise] never", False),
        ("glibc 2.36", None, False),
    ],
)
def test_huge_pages_are_asked_for_where_they_can_be_had(library: Any, pages: Any, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> str:
        if pages is None:
            raise FileNotFoundError(path)
        return str(pages)

    monkeypatch.setattr("os.confstr", lambda name: library)
    monkeypatch.setattr(Path, "read_text", read)
    assert processor._offers_huge_pages() is there


def test_the_command_asks_before_it_imports_what_takes_time() -> None:
    look = """
import sys
from flax_s2s.runtime import processor
processor.use_huge_pages = lambda: print("asked", *(name in sys.modules for name in ("flax_s2s.cli", "flax_s2s.config", "jax")), flush=True)
from flax_s2s.__main__ import main
sys.argv = [sys.argv[1], "--help"]
main()
"""
    for name in ("bin/flax-s2s", "flax_s2s/__main__.py", "-", "another.py"):
        done = subprocess.run([sys.executable, "-c", look, name], check=True, capture_output=True, text=True)
        assert done.stdout.startswith("asked False False False\n") == (name != "-" and name != "another.py")


@offers
def test_what_takes_the_setting_away_is_not_started_again_and_again() -> None:
    look = """
import os, sys
print("started", flush=True)
os.environ.pop("GLIBC_TUNABLES", None)
from flax_s2s.runtime import processor
processor.use_huge_pages()
"""
    rest = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True, timeout=60, env=rest)
    assert done.stdout == "started\nstarted\n"


KEPT = """
from pathlib import Path
from threading import Thread
from flax_s2s.runtime import processor

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def work():  # the last block stays, so that the heap cannot shrink by itself
    many = [bytes(1000) for _ in range(150_000)]
    kept.append(many[-1])

kept = []
thread = Thread(target=work)
thread.start()
thread.join()
before = resident()
processor.give_back_memory()
print(before - resident())
"""


@offers
def test_what_the_heaps_hold_in_vain_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], check=True, capture_output=True, text=True)
    assert float(done.stdout) > 100  # of 143 MiB


def test_the_processor_says_what_it_can() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from flax_s2s.runtime import processor; print(processor.features())"],
        check=True,
        capture_output=True,
        text=True,
    )
    cpuinfo = Path("/proc/cpuinfo")
    known = [line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))] if cpuinfo.exists() else []
    assert done.stdout.strip() == (known[0].strip() if known else platform.processor())
