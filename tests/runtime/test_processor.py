"""Memory between programs is kept: what a CPU program worked in costs page faults once."""

import platform
import subprocess
import sys
from pathlib import Path

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


FAULTS = """
import resource, sys, threading
from flax_s2s.runtime import processor
if sys.argv[1] == "shared":
    processor.share_heap()
other = threading.Thread(target=lambda: bytearray(100))  # from now on the number of heaps is settled
other.start()
other.join()
import jax, jax.numpy as jnp
if sys.argv[1] != "given back":
    processor.keep_memory()
program = jax.jit(lambda x: ((jnp.sin(x) @ x.T) @ x).sum())
wide = jnp.ones((4500, 64))

def run(times):  # several under way, so that threads of jax run them
    jax.block_until_ready([program(wide) for _ in range(times)])

run(10)  # until the heap has settled
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run(5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_program_that_runs_again_asks_for_no_new_memory() -> None:
    shared, given_back = faults("shared"), faults("given back")
    assert given_back > 5 * 36  # 77 MiB each time, be it in pages of 2 MiB; of 4 KiB it is 99,000
    assert shared < given_back / 20


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_command_shares_the_heap_before_the_first_thread() -> None:
    look = """
import os, sys
from flax_s2s.runtime import processor
processor.share_heap = lambda: print("shared", len(os.listdir("/proc/self/task")), "jax" in sys.modules, flush=True)
from flax_s2s.__main__ import main
sys.argv = ["flax_s2s", "--help"]
main()
"""
    done = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("shared 1 False\n")


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
