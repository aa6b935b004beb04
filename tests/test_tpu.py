"""Every preset's programs compiled for TPUs, ahead of time and without one: what they send, where, and what they need."""

import functools
import os
import subprocess
from collections.abc import Iterator

import pytest
from ahead import PRESETS, describe, lower_search, needed_bytes, train_step
from hlo import collectives, computations, host_transfers, inside_loops
from jax.experimental import topologies

from flax_s2s.runtime.parallel import devices_of
from flax_s2s.training.state import count_parameters

V5E_BYTES = 16 * 2**30  # memory of one chip
TOPOLOGIES = ("v5e:2x2", "v5e:4x8")
# Every preset on both slices, as they are compiled to be run, in the slow tests, since that takes up to two minutes. In every run of the
# tests one model with attention and one without, compiled with the compiler's least effort, which fuses less and takes less than half of
# the time: what is counted here, collectives and where they are, was the same where both were compared (GNMT).
QUICK = {("fixed_vector_en_zh", "v5e:2x2"), ("multi30k_en_de", "v5e:4x8")}
LEAST_EFFORT = {"exec_time_optimization_effort": -1.0}
CASES = [
    pytest.param(path, topology, LEAST_EFFORT, id=f"{path.stem}-{topology}")
    for path in PRESETS
    for topology in TOPOLOGIES
    if (path.stem, topology) in QUICK
] + [
    pytest.param(path, topology, None, id=f"{path.stem}-{topology}-as-run", marks=pytest.mark.slow)
    for path in PRESETS
    for topology in TOPOLOGIES
]

pytestmark = pytest.mark.tpu_aot


@functools.cache
def chips(topology):
    """The chips of a slice that is not here."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: it is made for Linux on x86-64")
    return devices_of(topologies.get_topology_desc(topology, platform="tpu").devices)


def inherited():
    """Names in the environment that a process gets: those too that a library has set behind Python's back."""
    return {
        line.partition("=")[0] for line in subprocess.run(["env", "-0"], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")
    }


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """jax and libtpu write into the environment what they think of a TPU, for all tests and processes that follow."""
    before, names = dict(os.environ), inherited()
    yield
    os.environ.clear()
    os.environ.update(before)
    for name in inherited() - names:
        os.unsetenv(name)


@pytest.mark.parametrize(("preset", "topology", "options"), CASES)
def test_the_train_step(preset, topology, options):
    what = describe(preset, chips(topology))
    step, arguments = train_step(what)
    program = step.compile(*arguments, options).gradients
    text = program.as_text()
    assert inside_loops(computations(text))
    sent = collectives(text)
    assert {(one.kind, one.inside_loop) for one in sent} == {("all-reduce", False)}
    assert sum(one.bytes for one in sent) == 4 * count_parameters(what.state.params) + 4 * 3
    assert not host_transfers(text)
    assert needed_bytes(program) < V5E_BYTES


# Without attention the search is the same but for what it does not do.
@pytest.mark.parametrize(("preset", "topology", "options"), [case for case in CASES if case.id != "fixed_vector_en_zh-v5e:2x2"])
def test_the_beam_search(preset, topology, options):
    program = lower_search(describe(preset, chips(topology))).compile(options)
    text = program.as_text()
    assert inside_loops(computations(text))
    assert not collectives(text)
    assert not host_transfers(text)
    assert needed_bytes(program) < V5E_BYTES
