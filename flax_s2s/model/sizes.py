"""What follows from the configuration of a model: sizes, and how parameters start."""

from typing import Any, NamedTuple, assert_never

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from flax_s2s.config import ModelConfig
from flax_s2s.model.cells import RecurrentLayer


class Sizes(NamedTuple):
    """Sizes that follow from the configuration."""

    directions: int  # units per direction of a bidirectional layer
    memory: int  # features of a source position, as attention reads it
    readout: int


def sizes(config: ModelConfig) -> Sizes:
    """Derives them."""
    directions = config.bidirectional_size or config.hidden_size // 2
    outputs = 2 * directions if config.bidirectional_layers == config.encoder_layers else config.hidden_size
    memory = outputs + (config.embedding_size if config.attend_embeddings else 0)
    match config.tie:
        case "none":
            readout = config.hidden_size
        case "softmax" | "all":
            readout = config.embedding_size
        case _:
            assert_never(config.tie)
    return Sizes(directions, memory, readout)


def initializers(config: ModelConfig) -> tuple[Any, Any]:
    """Those of kernels and of embedding tables."""
    if config.init_scale:
        uniform = nnx.initializers.uniform(2 * config.init_scale)

        def centered(key: Any, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
            return uniform(key, shape, dtype) - config.init_scale

        return centered, centered
    return nnx.initializers.glorot_uniform(), nnx.initializers.normal(config.embedding_size**-0.5)


def zoneout_rate(config: ModelConfig) -> float:
    """The configured rate as masks are drawn, in 256ths."""
    return round(config.zoneout * 256) / 256


def make_layer(config: ModelConfig, inputs: int, hidden: int, rngs: nnx.Rngs) -> RecurrentLayer:
    """Declares a layer with the configuration's cell."""
    how: dict[str, Any] = {"cell": config.cell, "zoneout": zoneout_rate(config), "forget_bias": config.forget_bias}
    return RecurrentLayer(inputs, hidden, **how, kernel_init=initializers(config)[0], rngs=rngs)
