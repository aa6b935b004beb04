"""Every preset's programs compiled for TPUs, ahead of time and without one: what they send, where, and what they need.

Vocabularies are as large as configured and batches as the token budget allows; no corpus is read.
"""

import dataclasses
import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import collectives, computations, host_transfers, inside_loops
from jax.experimental import topologies

from flax_s2s.data.batching import rows_of
from flax_s2s.decoding.stream import Sentences, make_lay_out, make_stream
from flax_s2s.model.seq2seq import make_model
from flax_s2s.presets import load_preset
from flax_s2s.rules import check
from flax_s2s.runtime.parallel import devices_of
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import abstract_state, count_parameters
from flax_s2s.training.step import abstract_batch, make_train_step

PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
V5E_BYTES = 16 * 2**30  # memory of one chip
LENGTH = 32
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


def described(preset, devices):
    config = check(load_preset(str(preset)))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute="bfloat16"))  # what auto means there
    size = config.vocab.size or 500  # all characters or words, which no preset has more of
    sizes = (size, size)
    model, optimizer = make_model(config.model, *sizes), make_optimizer(config.optimizer)
    return config, model, optimizer, abstract_state(config, sizes, optimizer, devices)


def check_memory(program):
    memory = program.memory_analysis()
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes < V5E_BYTES


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
    devices = chips(topology)
    config, model, optimizer, state = described(preset, devices)
    rows = -(-rows_of(LENGTH, LENGTH, config.data) // devices.count) * devices.count
    step = make_train_step(model, optimizer, config, devices)
    after = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=devices.replicated)
    programs = step.compile(state, abstract_batch((rows, LENGTH, LENGTH), devices), after, options)
    program = programs.gradients
    text = program.as_text()
    assert inside_loops(computations(text))
    sent = collectives(text)
    assert {(one.kind, one.inside_loop) for one in sent} == {("all-reduce", False)}
    assert sum(one.bytes for one in sent) == 4 * count_parameters(state.params) + 4 * 3
    assert not host_transfers(text)
    check_memory(program)


# Without attention the search is the same but for what it does not do.
@pytest.mark.parametrize(("preset", "topology", "options"), [case for case in CASES if case.id != "fixed_vector_en_zh-v5e:2x2"])
def test_the_beam_search(preset, topology, options):
    devices = chips(topology)
    config, model, _, state = described(preset, devices)
    stream, rows = make_stream((model,), config.decoding, devices), config.decoding.rows * devices.count
    ints = [jax.ShapeDtypeStruct(shape, np.int32, sharding=devices.by_row) for shape in ((rows, LENGTH), (rows,), (devices.count,))]
    take = jax.ShapeDtypeStruct((rows,), bool, sharding=devices.by_row)
    weights = jax.eval_shape(make_lay_out((model,)), [state.params])
    abstract = jax.eval_shape(stream.admit, weights, None, Sentences(*ints[:2]))
    waiting = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.by_row), abstract)
    program = stream.go.lower(weights, None, waiting, waiting, ints[1], take, ints[2], ints[2]).compile(options)
    text = program.as_text()
    assert inside_loops(computations(text))
    assert not collectives(text)
    assert not host_transfers(text)
    check_memory(program)
