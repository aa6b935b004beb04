"""Memory between programs is kept: what a CPU program worked in costs page faults once."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from flax_s2s import processor
if sys.argv[1] == "kept":
    processor.share_heap()
jax.jit(lambda x: x @ x)(jnp.ones((500, 500))).block_until_ready()  # now there are threads
if sys.argv[1] == "kept":
    processor.keep_memory()
program = jax.jit(lambda x: ((jnp.sin(x) @ x.T) @ x).sum())
wide = jnp.ones((3000, 64))
for _ in range(10):  # until the heap has settled
    program(wide).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    program(wide).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_program_that_runs_again_asks_for_no_new_memory() -> None:
    kept, given_back = faults("kept"), faults("given back")
    assert given_back > 5 * 15  # 34 MiB each time, be it in pages of 2 MiB; of 4 KiB it is 44,000
    assert kept < given_back / 3


def test_the_processor_says_what_it_can() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from flax_s2s import processor; print(processor.features())"], check=True, capture_output=True, text=True
    )
    cpuinfo = Path("/proc/cpuinfo")
    known = [line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))] if cpuinfo.exists() else []
    assert done.stdout.strip() == (known[0].strip() if known else platform.processor())
