"""The decoder: a memory of the source and target tokens -> readouts, of whole sentences or one step at a time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_s2s.config import ModelConfig
from flax_s2s.model import cells, noise
from flax_s2s.model.alignment import REACH, Aim
from flax_s2s.model.attention import Attention, Source
from flax_s2s.model.cells import Norm, State, Zones
from flax_s2s.model.lstm import choose_means, project, unroll
from flax_s2s.model.noise import Noise, RowKeys, drop_features, make_noise
from flax_s2s.model.product import Quantized, product
from flax_s2s.model.recurrence import Multiply, multiply_by, scan
from flax_s2s.model.sizes import initializers, make_layer, sizes


class Memory(NamedTuple):
    """What the decoder knows of the source; `start` holds one state per decoder layer."""

    values: Float[Array, "batch src hid"]  # what contexts are made of; of hard attention the source's part of the readouts
    keys: Float[Array, "batch src keys"]
    mask: Bool[Array, "batch src"]  # what may be looked at
    start: tuple[State, ...]
    beside: Float[Array, "batch emb"] | None = None  # what is added to each target token's embedding: the features


class Carry(NamedTuple):
    """What a decoding step passes on, for each of any number of hypotheses of a sentence."""

    states: tuple[State, ...]
    feed: Float[Array, "batch beam readout"] | None
    seen: Float[Array, "batch beam src"] | None  # with coverage the sum of attention so far


class Readings(NamedTuple):
    """What there is to say at all positions."""

    readouts: Float[Array, "batch tgt readout"]
    attention: Float[Array, "batch tgt src"] | None  # with input feeding where it is asked for: by copying
    again: Float[Array, "batch tgt"] | None  # with coverage how much of a step's attention lies where it lay before


class Constants(NamedTuple):
    """What a decoding step reads besides its kernels; small, or the source itself."""

    source: Source
    biases: tuple[Float[Array, " gates"], ...]
    norms: tuple[Norm | None, ...]
    keep: tuple[Float[Array, "batch hid"] | None, ...]  # see `Noise`


class Decoder(nnx.Module):
    """A stack of recurrent layers that looks at the source.

    Without input feeding (Wu et al. 2016, GNMT; "v2" of NVIDIA's) the lowest layer's outputs are the queries, and the
    contexts feed the layers above and the readout: whole sentences at once. With input feeding (Luong et al. 2015) the
    top layer's output is the query, and the readout enters the lowest layer at the next step. With hard attention (see `alignment`)
    the top layer's output is the query, no layer reads a context, and there is a readout for each source position.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Declares layers, attention and readout."""
        self.config, self.kernel = config, choose_means(config).kernel
        hidden, derived, init = config.hidden_size, sizes(config), initializers(config)[0]
        context = derived.memory if config.attention != "none" else 0
        lowest = config.embedding_size + (derived.readout if config.input_feeding else 0)
        upper = hidden + (0 if config.input_feeding or self.config.hard else context)
        inputs = [lowest] + [upper] * (config.decoder_layers - 1)
        self.layers = nnx.List([make_layer(config, size, hidden, rngs) for size in inputs])
        if config.attention != "none":
            hidden_size = config.attention_size or hidden
            how: dict[str, Any] = {"coverage": config.coverage, "kernel_init": init, "rngs": rngs}
            self.attention = Attention(config.attention, hidden, derived.memory, hidden_size, **how)
        if config.attention != "none" or derived.readout != hidden:
            self.kernel_readout = nnx.Param(init(rngs.params(), (hidden + context, derived.readout), jnp.float32))
        if self.config.hard and config.alignment_order == "first":
            self.kernel_shift = nnx.Param(init(rngs.params(), (hidden, 2 * REACH + 1), jnp.float32))
            # Near first: where all are as likely, each step of monotonic attention goes half of the way that is left, and the end is all it sees.
            self.bias_shift = nnx.Param(-jnp.abs(jnp.arange(-REACH, REACH + 1) - 0.5))

    def __call__(self, memory: Memory, embedded: Float[Array, "batch tgt emb"], keys: RowKeys) -> Readings:
        """Of all positions, from embedded target inputs."""
        of_layers = self._make_noise(keys, embedded.shape[1])
        if self.config.input_feeding:
            return self._feed(memory, embedded, keys, of_layers)
        multiply, source = multiply_by(self._kernels() | self._of_source(memory)), self._constants(memory).source
        readouts, weights = self._stack(multiply, source, embedded, self._whole(memory, keys, of_layers))
        return Readings(drop_features(self.config, readouts, keys, noise.READOUT), weights, None)

    def aim(self, memory: Memory, embedded: Float[Array, "batch tgt emb"], keys: RowKeys) -> Aim:
        """What all positions say of the source, with hard attention."""
        multiply, source = multiply_by(self._kernels() | self._of_source(memory)), self._constants(memory).source
        run = self._whole(memory, keys, self._make_noise(keys, embedded.shape[1]))
        return self._aim(multiply, source, self._stack(multiply, source, embedded, run)[0])

    def _whole(self, memory: Memory, keys: RowKeys, of_layers: list[Noise]) -> Callable[[int, Any], Any]:
        """What runs a layer over all positions at once."""

        def run(index: int, inputs: Any) -> Any:
            how = (memory.start[index], False, self.kernel, self.config.recompute, of_layers[index])
            outputs, _ = unroll(self.layers[index], inputs, None, *how)
            return drop_features(self.config, outputs, keys, noise.TARGET + index + 1)

        return run

    def _aim(self, multiply: Multiply, source: Source, features: Any) -> Aim:
        shifts = multiply("shift", features) + self.bias_shift[...][None, None, :] if hasattr(self, "kernel_shift") else None
        return Aim(multiply("readout", features), self.attention.scores(multiply, source, features), shifts)

    def read_source(self, values: Float[Array, "batch src hid"]) -> Float[Array, "batch src value"]:
        """The memory's values, from the encoder's outputs."""
        if not self.config.hard:
            return values
        return product(values, self.kernel_readout[...][self.config.hidden_size :]).astype(values.dtype)

    def _make_noise(self, keys: RowKeys, steps: int) -> list[Noise]:
        """Of each layer."""
        return [make_noise(self.config, keys, noise.TARGET + index, steps, layer.hidden) for index, layer in enumerate(self.layers)]

    def make_step(self, kernels: Mapping[str, Array | Quantized], memory: Memory) -> Callable[[Carry, Any], tuple[Carry, Any, Any]]:
        """One step of any number of hypotheses per sentence: `(carry, projected [batch beam gates]) -> carry, readouts, weights or None`.

        With hard attention in place of the readouts an `Aim`.
        """
        multiply, constants = multiply_by({**kernels, **self._of_source(memory)}), self._constants(memory)
        return lambda carry, projected: self._step(multiply, constants, carry, projected, None, [None] * len(self.layers), rounded=True)

    def lay_out(self, dtype: Any) -> dict[str, Array]:
        """The kernels of `make_step`."""
        return {name: kernel.astype(dtype) for name, kernel in self._kernels(self.config.embedding_size).items()}

    def _kernels(self, first: int = 0) -> dict[str, Array]:
        """What a step multiplies with, by name; of the lowest layer's input from feature `first` on."""
        layers = [layer.gates() for layer in self.layers]
        parts = [(gates.kernel_in if index else gates.kernel_in[first:], gates.kernel_rec) for index, gates in enumerate(layers)]
        kernels = {f"layer {index}": jnp.concatenate(both) for index, both in enumerate(parts)}
        if hasattr(self, "kernel_readout"):
            kernels["readout"] = self.kernel_readout[...][: self.config.hidden_size if self.config.hard else None]
        if hasattr(self, "kernel_shift"):
            kernels["shift"] = self.kernel_shift[...]
        return kernels

    def _of_source(self, memory: Memory) -> dict[str, Array]:
        """What attention multiplies with, by name."""
        return self.attention.kernels(memory.keys, memory.values) if self.config.attention != "none" else {}

    def _constants(self, memory: Memory, of_layers: list[Noise] | None = None) -> Constants:
        attends = self.config.attention != "none"
        source = self.attention.source(memory.keys, memory.mask) if attends else Source(memory.mask, None, None, None)
        gates = [layer.gates() for layer in self.layers]
        keep = tuple(None if of_layers is None else of_layers[index].keep for index in range(len(gates)))
        return Constants(source, tuple(each.bias for each in gates), tuple(each.norm for each in gates), lax.stop_gradient(keep))

    def project(self, embedded: Float[Array, "*rows emb"]) -> Float[Array, "*rows gates"]:
        """The lowest layer's input projection, without what is fed; the same for all steps at once."""
        gates = self.layers[0].gates()
        return project(gates.kernel_in[: self.config.embedding_size], gates.bias, embedded)

    def project_beside(self, memory: Memory) -> Float[Array, "batch 1 gates"] | None:
        """What is added to the projection of each token."""
        if memory.beside is None:
            return None
        return product(memory.beside, self.layers[0].gates().kernel_in[: self.config.embedding_size])[:, None, :]

    def _step(
        self,
        multiply: Multiply,
        constants: Constants,
        carry: Carry,
        projected: Any,
        masks: list[Any] | None,
        zones: list[Zones | None],
        rounded: bool = False,
    ) -> tuple[Carry, Any, Any]:
        """Reads one token, by its part of the lowest layer's sums.

        `masks` are dropout's, of every layer and the readout; `zones` those of every layer's zoneout.
        """
        states, sums = list(carry.states), [projected.astype(jnp.float32), *(bias[None, None, :] for bias in constants.biases[1:])]

        def run(index: int, inputs: Any) -> Any:
            hidden, keep = states[index].hidden, constants.keep[index]
            if keep is not None:
                hidden *= keep[:, None].astype(hidden.dtype)
            entering = jnp.concatenate([part for part in (inputs, hidden) if part is not None], axis=-1)
            total = multiply(f"layer {index}", entering) + sums[index]
            states[index] = cells.step(self.layers[index], constants.norms[index], total, states[index], zones[index])
            return states[index].hidden if masks is None else states[index].hidden * masks[index]

        readouts, weights = self._stack(multiply, constants.source, carry.feed, run, rounded, carry.seen)
        if self.config.hard:
            return Carry(tuple(states), None, None), self._aim(multiply, constants.source, readouts), None
        if masks is not None:
            readouts *= masks[-1]
        seen = None if carry.seen is None else carry.seen + weights
        return Carry(tuple(states), readouts if self.config.input_feeding else None, seen), readouts, weights

    def _stack(
        self, multiply: Multiply, source: Source, inputs: Any, run_layer: Callable[[int, Any], Any], rounded: bool = False, seen: Any = None
    ) -> tuple[Any, Any]:
        """Runs all layers, and attention where it belongs: readouts and weights; with hard attention the top layer's outputs alone."""
        features, context, weights = run_layer(0, inputs), None, None
        if self.config.attention != "none" and not self.config.input_feeding and not self.config.hard:
            context, weights = self.attention.look(multiply, source, features, rounded)
        for index in range(1, self.config.decoder_layers):
            entering = features if context is None else jnp.concatenate([features, context], axis=-1)
            outputs = run_layer(index, entering)
            features = features + outputs if 0 < self.config.residual_from <= index + 1 else outputs
        if self.config.input_feeding:
            context, weights = self.attention.look(multiply, source, features, rounded, seen)
        if context is not None:
            features = jnp.concatenate([features, context], axis=-1)
        if not hasattr(self, "kernel_readout") or self.config.hard:
            return features, weights
        readouts = multiply("readout", features).astype(features.dtype)
        return readouts if context is None else jnp.tanh(readouts), weights

    def _feed(self, memory: Memory, embedded: Any, keys: RowKeys, of_layers: list[Noise]) -> Readings:
        """Input feeding: a loop over time around the whole stack; what does not depend on the loop is done before or after it."""
        widths = [self.config.hidden_size] * self.config.decoder_layers + [sizes(self.config).readout]
        sites = [noise.TARGET + index + 1 for index in range(self.config.decoder_layers)] + [noise.READOUT]
        ones = [jnp.ones((*embedded.shape[:2], width), embedded.dtype) for width in widths]
        masks = None if keys is None else [drop_features(self.config, each, keys, site) for each, site in zip(ones, sites, strict=True)]

        zones = [each.zones for each in of_layers]

        def step(multiply: Multiply, constants: Constants, carry: Carry, now: Any) -> tuple[Carry, Any]:
            projected, masks, zones = now
            after, readouts, weights = self._step(multiply, constants, carry, projected, lax.stop_gradient(masks), zones)
            again = None if carry.seen is None else jnp.minimum(weights, carry.seen).sum(axis=-1)[:, 0]
            return after, Readings(readouts[:, 0], weights[:, 0] if self.config.copy else None, again)

        now = jax.tree.map(lambda part: part.swapaxes(0, 1)[:, :, None], (self.project(embedded), masks, zones))  # [tgt batch 1 gates]
        carry = start_carry(memory, self.config, 1)
        kernels = self._kernels(self.config.embedding_size) | self._of_source(memory)
        _, found = scan(step, kernels, self._constants(memory, of_layers), carry, now, self.config.recompute)
        readings: Readings = jax.tree.map(lambda part: part.swapaxes(0, 1), found)
        return readings


def start_carry(memory: Memory, config: ModelConfig, beams: int) -> Carry:
    """The carry before the first step, the same for all hypotheses of a sentence."""
    states = jax.tree.map(lambda part: jnp.repeat(part[:, None], beams, axis=1), memory.start)
    (batch, src), dtype = memory.mask.shape, memory.values.dtype
    feed = jnp.zeros((batch, beams, sizes(config).readout), dtype) if config.input_feeding else None
    return Carry(states, feed, jnp.zeros((batch, beams, src)) if config.coverage else None)
