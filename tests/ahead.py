"""Every preset's programs, lowered for devices that are not here.

Vocabularies are as large as configured and batches as the token budget allows; no corpus is read.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_s2s.config import Config
from flax_s2s.data.batching import rows_of
from flax_s2s.decoding.stream import Sentences, make_lay_out, make_stream
from flax_s2s.model.seq2seq import make_model
from flax_s2s.presets import load_preset
from flax_s2s.rules import check
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import abstract_state
from flax_s2s.training.step import abstract_batch, make_train_step

PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
LENGTH = 32  # tokens of a source and of a target


class Described(NamedTuple):
    """A preset on some devices."""

    config: Config
    model: Any
    optimizer: Any
    state: Any  # abstract
    devices: Any


def describe(preset: Path, devices: Any, compute: str = "bfloat16", kernel: str = "scan") -> Described:
    """A preset as it is trained there; `bfloat16` is what `auto` means on TPUs and new GPUs."""
    config = check(load_preset(str(preset)))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute=compute, kernel=kernel))
    size = config.vocab.size or 500  # all characters or words, which no preset has more of
    sizes = (size, size)
    model, optimizer = make_model(config.model, *sizes), make_optimizer(config.optimizer)
    return Described(config, model, optimizer, abstract_state(config, sizes, optimizer, devices), devices)


def train_step(what: Described) -> tuple[Any, tuple[Any, Any, Any]]:
    """The train step, and the abstract arguments of its largest batch."""
    count = what.devices.count
    rows = -(-rows_of(LENGTH, LENGTH, what.config.data) // count) * count
    after = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=what.devices.replicated)
    batch = abstract_batch((rows, LENGTH, LENGTH), what.devices)
    return make_train_step(what.model, what.optimizer, what.config, what.devices), (what.state, batch, after)


def lower_search(what: Described) -> Any:
    """The beam search, on as many rows as are searched at once."""
    config, devices = what.config.decoding, what.devices
    stream, rows = make_stream((what.model,), config, devices), config.rows * devices.count
    ints = [jax.ShapeDtypeStruct(shape, np.int32, sharding=devices.by_row) for shape in ((rows, LENGTH), (rows,), (devices.count,))]
    take = jax.ShapeDtypeStruct((rows,), bool, sharding=devices.by_row)
    weights = jax.eval_shape(make_lay_out((what.model,)), [what.state.params])
    abstract = jax.eval_shape(stream.admit, weights, None, Sentences(*ints[:2]))
    waiting = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.by_row), abstract)
    return stream.go.lower(weights, None, waiting, waiting, ints[1], take, ints[2])


def needed_bytes(program: Any) -> int:
    """Memory of one device while a program runs."""
    memory = program.memory_analysis()
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes)
