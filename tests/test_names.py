"""No function takes a name that it does not know for its last branch: whatever passed the doors, it is an error there, not another model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from flax_s2s.answers import lines, pairs, replies
from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import Asked
from flax_s2s.answers.replies import Translated
from flax_s2s.config import DataConfig, ModelConfig, OptimizerConfig
from flax_s2s.data import records, rows
from flax_s2s.decoding.constraints import mean_logp
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.translate import BLANK
from flax_s2s.model import cells, together
from flax_s2s.model.attention import Attention
from flax_s2s.model.cells import RecurrentLayer, State
from flax_s2s.model.dropout import drop
from flax_s2s.model.encoder import Bridge
from flax_s2s.model.lstm import choose_means, unroll
from flax_s2s.model.noise import Noise, drop_features
from flax_s2s.model.sizes import sizes
from flax_s2s.training.optimizer import make_optimizer, make_schedule

UNKNOWN = "unheard-of"


def with_unknown(config: Any, field: str) -> Any:
    """A configuration that no door would let in."""
    config = dataclasses.replace(config)
    object.__setattr__(config, field, UNKNOWN)
    return config


def unchecked(function: Any) -> Any:
    """The function without this test run's check of its annotations."""
    return getattr(function, "__wrapped__", function)


def features() -> jax.Array:
    return jnp.ones((1, 2, 4))


def keys() -> jax.Array:
    return jnp.zeros((1, 2), jnp.uint32)


def layer() -> RecurrentLayer:
    return RecurrentLayer(4, 4, kernel_init=jax.nn.initializers.ones, rngs=nnx.Rngs(0))


def bridge() -> Bridge:
    """Of a model whose configuration changes after it was made."""
    made = Bridge(ModelConfig(hidden_size=4), rngs=nnx.Rngs(0))
    made.config = with_unknown(made.config, "bridge")
    return made


class Named(Attention):
    """Attention whose score nobody has checked."""

    def __init__(self, score: Any) -> None:
        unchecked(Attention.__init__)(self, score, 4, 4, 4, kernel_init=jax.nn.initializers.ones, rngs=nnx.Rngs(0))


def read_records(data: DataConfig) -> Any:
    """Of files that are there, whatever the format."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_s2s.data.files.find", lambda *_: [None, None])
        return records.read(data, "train")


STATE = State(jnp.ones((1, 4)), jnp.ones((1, 4)))
CALLS: dict[str, Callable[[], Any]] = {
    "format": lambda: read_records(with_unknown(DataConfig(folder="."), "format")),
    "form of a row": lambda: unchecked(rows.split)("a,b", UNKNOWN),
    "form of a line": lambda: lines.read_row("a\tb", Layout(UNKNOWN)),
    "form of a translation": lambda: replies.write(Translated(Asked(Request("")), BLANK), Layout("text", output=UNKNOWN), ""),
    "form of a score": lambda: pairs.write(pairs.Asked("", ()), [], Layout("text", output=UNKNOWN)),
    "attention": lambda: Named(UNKNOWN),
    "bridge, declared": lambda: Bridge(with_unknown(ModelConfig(hidden_size=4), "bridge"), rngs=nnx.Rngs(0)),
    "bridge, crossed": lambda: bridge()([STATE]),
    "tie": lambda: sizes(with_unknown(ModelConfig(), "tie")),
    "kernel, chosen": lambda: choose_means(with_unknown(ModelConfig(), "kernel")),
    "kernel, run": lambda: unchecked(unroll)(layer(), features(), kernel=UNKNOWN),
    "kernel, run together": lambda: unchecked(together.read)([layer()], features(), None, None, False, UNKNOWN, [Noise(None, None)]),
    "compute": lambda: choose_means(with_unknown(ModelConfig(), "compute")),
    "cell, declared": lambda: unchecked(cells._quarters)(UNKNOWN),
    "cell, run": lambda: unchecked(cells._next)(UNKNOWN, None, jnp.ones((1, 16)), STATE),
    "dropout_masks": lambda: drop_features(with_unknown(ModelConfig(), "dropout_masks"), features(), keys(), 0),
    "what is dropped as one": lambda: unchecked(drop)(features(), keys(), 0, 0.5, UNKNOWN),
    "schedule": lambda: make_schedule(with_unknown(OptimizerConfig(), "schedule"))(0),
    "optimizer": lambda: make_optimizer(with_unknown(OptimizerConfig(), "name")),
    "ensemble": lambda: unchecked(mean_logp)([jnp.zeros(2), jnp.zeros(2)], UNKNOWN),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_unknown_name_is_no_last_branch(name: str) -> None:
    with pytest.raises(AssertionError, match=UNKNOWN):
        CALLS[name]()
