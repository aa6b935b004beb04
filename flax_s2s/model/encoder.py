"""The encoder: embedded source tokens -> a memory of them; and the bridge, over which the decoder starts."""

from typing import Any, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from flax_s2s.config import ModelConfig
from flax_s2s.model import together
from flax_s2s.model.cells import State, count_states
from flax_s2s.model.lstm import choose_means, unroll
from flax_s2s.model.noise import Noise, RowKeys, drop_features, make_noise
from flax_s2s.model.product import product
from flax_s2s.model.sizes import initializers, make_layer, sizes


def reverse_real(values: Array, mask: Bool[Array, "batch src"]) -> Array:
    """Reverses the real positions of each row but the last, the end mark: `a b c . 0 0` -> `c b a . 0 0`; its own inverse."""
    position, last = jnp.arange(mask.shape[1])[None, :], mask.sum(axis=1, keepdims=True) - 1
    order = jnp.where(position < last, last - 1 - position, position)
    return jnp.take_along_axis(values, order if values.ndim == 2 else order[:, :, None], axis=1)


class Encoder(nnx.Module):
    """A stack of recurrent layers, the lowest of which read in both directions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Declares the layers; a bidirectional one is a list of two."""
        self.config, self.kernel = config, choose_means(config).kernel
        directions, size, layers = sizes(config).directions, config.embedding_size, []
        for index in range(config.encoder_layers):
            both = index < config.bidirectional_layers
            units = directions if both else config.hidden_size
            layers.append(nnx.List([make_layer(config, size, units, rngs) for _ in range(1 + both)]))
            size = units * (1 + both)
        self.layers = nnx.List(layers)

    def __call__(
        self, embedded: Float[Array, "batch src emb"], mask: Bool[Array, "batch src"], keys: RowKeys
    ) -> tuple[Float[Array, "batch src hid"], list[State]]:
        """Outputs of the top layer and the final state of every layer, both directions side by side."""
        features, finals, steps = embedded, [], embedded.shape[1]
        for index, directions in enumerate(self.layers):
            sizes = enumerate(layer.hidden for layer in directions)
            noises = [make_noise(self.config, keys, 2 * index + number, steps, size) for number, size in sizes]
            outputs, final = self._read(directions, features, mask, noises)
            finals.append(final)
            outputs = drop_features(self.config, outputs, keys, index + 1)
            residual = 0 < self.config.residual_from <= index + 1
            features = features + outputs if residual else outputs
        return features, finals

    def _read(self, directions: Any, features: Any, mask: Any, noises: list[Noise]) -> tuple[Any, State]:
        """A layer's outputs and final state, of both directions if it has two."""
        if self.kernel != "scan":
            return together.read(directions, features, mask, None, False, self.kernel, noises)
        read = [
            unroll(layer, features, mask, None, bool(number), self.kernel, self.config.recompute, noise)
            for number, (layer, noise) in enumerate(zip(directions, noises, strict=True))
        ]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *read)


def source_layer(config: ModelConfig, index: int) -> int:
    """The encoder layer whose final state the decoder layer `index` starts from, both counted from 0."""
    return min(index + max(config.encoder_layers - config.decoder_layers, 0), config.encoder_layers - 1)


class Bridge(nnx.Module):
    """From the encoder's final states to the decoder's first ones, top layer to top layer.

    A deeper encoder's lowest states are not passed on; a deeper decoder's uppermost layers all get the top one's.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Declares a kernel for hidden state and cell of each decoder layer where the bridge is dense."""
        self.config = config
        match config.bridge:
            case "copy" | "zero":
                return
            case "dense":
                pass
            case _:
                assert_never(config.bridge)
        init, layers = initializers(config)[0], []
        for index in range(config.decoder_layers):
            both = source_layer(config, index) < config.bidirectional_layers
            shape = (2 * sizes(config).directions if both else config.hidden_size, config.hidden_size)
            layers.append(nnx.List([nnx.Param(init(rngs.params(), shape, jnp.float32)) for _ in range(count_states(config.cell))]))
        self.layers = nnx.List(layers)

    def __call__(self, finals: list[State]) -> tuple[State, ...]:
        """One state per decoder layer."""
        chosen = [finals[source_layer(self.config, index)] for index in range(self.config.decoder_layers)]
        match self.config.bridge:
            case "copy":
                return tuple(chosen)
            case "zero":
                size = (chosen[0].hidden.shape[0], self.config.hidden_size)
                zeros = State(jnp.zeros(size, chosen[0].hidden.dtype), jnp.zeros(size, jnp.float32))
                return (zeros,) * len(chosen)
            case "dense":
                return tuple(self._dense(state, kernels) for state, kernels in zip(chosen, self.layers, strict=True))
            case _:
                assert_never(self.config.bridge)

    def _dense(self, state: State, kernels: Any) -> State:
        parts = state[-len(kernels) :]
        made = [jnp.tanh(product(part, kernel[...])).astype(part.dtype) for part, kernel in zip(parts, kernels, strict=True)]
        return State(made[0].astype(state.hidden.dtype), made[-1])
