"""The encoder-decoder: token ids -> readouts, whole sentences in training and one step at a time in decoding.

    encode()      source ids -> Memory
    __call__()    source ids and target inputs -> readouts of all target positions (teacher forcing)
    lay_out()      -> StepWeights: what decoding steps multiply with, made once for all sentences
    start(), make_step()   Memory -> Carry; Carry and the last tokens -> Carry, readouts, attention
    output()      the softmax layer's table and bias; logits = readouts @ table.T + bias

A readout is what the softmax layer reads: after attention tanh(W [state; context]) (Luong et al. 2015, equation 5),
without attention the top state, brought to the embedding's size where the tables are tied.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from flax_s2s.config import PAD, ModelConfig
from flax_s2s.model import cells, noise
from flax_s2s.model.attention import Attention, Source
from flax_s2s.model.cells import Norm, RecurrentLayer, State, Zones, count_states
from flax_s2s.model.lstm import choose_means, project, unroll
from flax_s2s.model.noise import Noise, RowKeys, drop_features, drop_words, make_noise
from flax_s2s.model.product import product
from flax_s2s.model.recurrence import Kernels, Multiply, multiply_by, scan


class Memory(NamedTuple):
    """What the decoder knows of the source; `start` holds one state per decoder layer."""

    values: Float[Array, "batch src hid"]
    keys: Float[Array, "batch src keys"]
    mask: Bool[Array, "batch src"]
    start: tuple[State, ...]


class Carry(NamedTuple):
    """What a decoding step passes on, for each of any number of hypotheses of a sentence."""

    states: tuple[State, ...]
    feed: Float[Array, "batch beam readout"] | None


Step = Callable[[Carry, Int[Array, "batch beam"]], tuple[Carry, Float[Array, "batch beam readout"], Float[Array, "batch beam src"] | None]]
"""(carry, last tokens) -> next carry, readouts, and attention (None without)"""


class StepWeights(NamedTuple):
    """What decoding steps read of the parameters: joined, rounded and laid out for fast products."""

    inputs: Float[Array, "vocab gates"]  # each token's part of the lowest layer's sums, the bias included
    kernels: dict[str, Array]  # of layers and readout, by name
    softmax: Float[Array, "readout vocab"]


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


def reverse_real(values: Array, mask: Bool[Array, "batch src"]) -> Array:
    """Reverses the real positions of each row but the last, the end mark: `a b c . 0 0` -> `c b a . 0 0`; its own inverse."""
    position, last = jnp.arange(mask.shape[1])[None, :], mask.sum(axis=1, keepdims=True) - 1
    order = jnp.where(position < last, last - 1 - position, position)
    return jnp.take_along_axis(values, order if values.ndim == 2 else order[:, :, None], axis=1)


def make_layer(config: ModelConfig, inputs: int, hidden: int, rngs: nnx.Rngs) -> RecurrentLayer:
    """Declares a layer with the configuration's cell."""
    rate = round(config.zoneout * 256) / 256  # as masks are drawn
    how: dict[str, Any] = {"cell": config.cell, "zoneout": rate, "forget_bias": config.forget_bias}
    return RecurrentLayer(inputs, hidden, **how, kernel_init=initializers(config)[0], rngs=rngs)


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
        features, finals, how, steps = embedded, [], (self.kernel, self.config.recompute), embedded.shape[1]
        for index, directions in enumerate(self.layers):
            read = [
                unroll(
                    layer, features, mask, None, bool(number), *how, make_noise(self.config, keys, 2 * index + number, steps, layer.hidden)
                )
                for number, layer in enumerate(directions)
            ]
            outputs = jnp.concatenate([output for output, _ in read], axis=-1)
            finals.append(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *[final for _, final in read]))
            outputs = drop_features(self.config, outputs, keys, index + 1)
            residual = 0 < self.config.residual_from <= index + 1
            features = features + outputs if residual else outputs
        return features, finals


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


class Decoder(nnx.Module):
    """A stack of recurrent layers that looks at the source.

    Without input feeding (Wu et al. 2016, GNMT; "v2" of NVIDIA's) the lowest layer's outputs are the queries, and the
    contexts feed the layers above and the readout: whole sentences at once. With input feeding (Luong et al. 2015) the
    top layer's output is the query, and the readout enters the lowest layer at the next step.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        """Declares layers, attention and readout."""
        self.config, self.kernel = config, choose_means(config).kernel
        hidden, derived, init = config.hidden_size, sizes(config), initializers(config)[0]
        context = derived.memory if config.attention != "none" else 0
        lowest = config.embedding_size + (derived.readout if config.input_feeding else 0)
        upper = hidden + (0 if config.input_feeding else context)
        inputs = [lowest] + [upper] * (config.decoder_layers - 1)
        self.layers = nnx.List([make_layer(config, size, hidden, rngs) for size in inputs])
        if config.attention != "none":
            hidden_size = config.attention_size or hidden
            self.attention = Attention(config.attention, hidden, derived.memory, hidden_size, kernel_init=init, rngs=rngs)
        if config.attention != "none" or derived.readout != hidden:
            self.kernel_readout = nnx.Param(init(rngs.params(), (hidden + context, derived.readout), jnp.float32))

    def __call__(self, memory: Memory, embedded: Float[Array, "batch tgt emb"], keys: RowKeys) -> Float[Array, "batch tgt readout"]:
        """Readouts of all positions, from embedded target inputs."""
        of_layers = self._make_noise(keys, embedded.shape[1])
        if self.config.input_feeding:
            return self._feed(memory, embedded, keys, of_layers)

        def run(index: int, inputs: Any) -> Any:
            how = (memory.start[index], False, self.kernel, self.config.recompute, of_layers[index])
            outputs, _ = unroll(self.layers[index], inputs, None, *how)
            return drop_features(self.config, outputs, keys, noise.TARGET + index + 1)

        readouts, _ = self._stack(multiply_by(self._kernels() | self._of_source(memory)), self._constants(memory).source, embedded, run)
        return drop_features(self.config, readouts, keys, noise.READOUT)

    def _make_noise(self, keys: RowKeys, steps: int) -> list[Noise]:
        """Of each layer."""
        return [make_noise(self.config, keys, noise.TARGET + index, steps, layer.hidden) for index, layer in enumerate(self.layers)]

    def make_step(self, kernels: Kernels, memory: Memory) -> Callable[[Carry, Any], tuple[Carry, Any, Any]]:
        """One step of any number of hypotheses per sentence: `(carry, projected [batch beam gates]) -> carry, readouts, weights or None`."""
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
            kernels["readout"] = self.kernel_readout[...]
        return kernels

    def _of_source(self, memory: Memory) -> dict[str, Array]:
        """What attention multiplies with, by name."""
        return self.attention.kernels(memory.keys, memory.values) if self.config.attention != "none" else {}

    def _constants(self, memory: Memory, of_layers: list[Noise] | None = None) -> "Constants":
        attends = self.config.attention != "none"
        source = self.attention.source(memory.keys, memory.mask) if attends else Source(memory.mask, None, None)
        gates = [layer.gates() for layer in self.layers]
        keep = tuple(None if of_layers is None else of_layers[index].keep for index in range(len(gates)))
        return Constants(source, tuple(each.bias for each in gates), tuple(each.norm for each in gates), lax.stop_gradient(keep))

    def project(self, embedded: Float[Array, "*rows emb"]) -> Float[Array, "*rows gates"]:
        """The lowest layer's input projection, without what is fed; the same for all steps at once."""
        gates = self.layers[0].gates()
        return project(gates.kernel_in[: self.config.embedding_size], gates.bias, embedded)

    def _step(
        self,
        multiply: Multiply,
        constants: "Constants",
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

        readouts, weights = self._stack(multiply, constants.source, carry.feed, run, rounded)
        if masks is not None:
            readouts *= masks[-1]
        return Carry(tuple(states), readouts if self.config.input_feeding else None), readouts, weights

    def _stack(
        self, multiply: Multiply, source: Source, inputs: Any, run_layer: Callable[[int, Any], Any], rounded: bool = False
    ) -> tuple[Any, Any]:
        """Runs all layers, and attention where it belongs: readouts and weights."""
        features, context, weights = run_layer(0, inputs), None, None
        if self.config.attention != "none" and not self.config.input_feeding:
            context, weights = self.attention.look(multiply, source, features, rounded)
        for index in range(1, self.config.decoder_layers):
            entering = features if context is None else jnp.concatenate([features, context], axis=-1)
            outputs = run_layer(index, entering)
            features = features + outputs if 0 < self.config.residual_from <= index + 1 else outputs
        if self.config.input_feeding:
            context, weights = self.attention.look(multiply, source, features, rounded)
        if context is not None:
            features = jnp.concatenate([features, context], axis=-1)
        if not hasattr(self, "kernel_readout"):
            return features, weights
        readouts = multiply("readout", features).astype(features.dtype)
        return readouts if context is None else jnp.tanh(readouts), weights

    def _feed(self, memory: Memory, embedded: Any, keys: RowKeys, of_layers: list[Noise]) -> Any:
        """Input feeding: a loop over time around the whole stack; what does not depend on the loop is done before or after it."""
        widths = [self.config.hidden_size] * self.config.decoder_layers + [sizes(self.config).readout]
        sites = [noise.TARGET + index + 1 for index in range(self.config.decoder_layers)] + [noise.READOUT]
        ones = [jnp.ones((*embedded.shape[:2], width), embedded.dtype) for width in widths]
        masks = None if keys is None else [drop_features(self.config, each, keys, site) for each, site in zip(ones, sites, strict=True)]

        zones = [each.zones for each in of_layers]

        def step(multiply: Multiply, constants: Constants, carry: Carry, now: Any) -> tuple[Carry, Any]:
            projected, masks, zones = now
            carry, readouts, _ = self._step(multiply, constants, carry, projected, lax.stop_gradient(masks), zones)
            return carry, readouts[:, 0]

        now = jax.tree.map(lambda part: part.swapaxes(0, 1)[:, :, None], (self.project(embedded), masks, zones))  # [tgt batch 1 gates]
        carry = start_carry(memory, self.config, 1)
        kernels = self._kernels(self.config.embedding_size) | self._of_source(memory)
        _, readouts = scan(step, kernels, self._constants(memory, of_layers), carry, now, self.config.recompute)
        return readouts.swapaxes(0, 1)


class Constants(NamedTuple):
    """What a decoding step reads besides its kernels; small, or the source itself."""

    source: Source
    biases: tuple[Float[Array, " gates"], ...]
    norms: tuple[Norm | None, ...]
    keep: tuple[Float[Array, "batch hid"] | None, ...]  # see `Noise`


def start_carry(memory: Memory, config: ModelConfig, beams: int) -> Carry:
    """The carry before the first step, the same for all hypotheses of a sentence."""
    states = jax.tree.map(lambda part: jnp.repeat(part[:, None], beams, axis=1), memory.start)
    feed = jnp.zeros((memory.mask.shape[0], beams, sizes(config).readout), memory.values.dtype)
    return Carry(states, feed if config.input_feeding else None)


class Seq2Seq(nnx.Module):
    """Encoder, decoder and tables."""

    def __init__(self, config: ModelConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs) -> None:
        """Declares all parameters; vocabularies are given by their sizes."""
        self.config, self.compute = config, choose_means(config).compute
        readout, table = sizes(config).readout, initializers(config)[1]
        self.target_table = nnx.Param(table(rngs.params(), (target_vocab, config.embedding_size), jnp.float32))
        if config.tie != "all":
            self.source_table = nnx.Param(table(rngs.params(), (source_vocab, config.embedding_size), jnp.float32))
        if config.tie == "none":
            self.output_table = nnx.Param(initializers(config)[0](rngs.params(), (target_vocab, readout), jnp.float32))
        self.output_bias = nnx.Param(jnp.zeros(target_vocab, jnp.float32))
        self.encoder = Encoder(config, rngs=rngs)
        self.bridge = Bridge(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, src_ids: Int[Array, "batch src"], keys: RowKeys = None) -> Memory:
        """Reads the source.

        Args:
            src_ids: tokens, EOS, then PAD.
            keys: one key per row for dropout; None means deterministic.
        """
        mask, reverse = src_ids != PAD, self.config.reverse_source
        table = self.target_table if self.config.tie == "all" else self.source_table
        embedded = self._embed(table, reverse_real(src_ids, mask) if reverse else src_ids)
        embedded = drop_features(self.config, drop_words(self.config, embedded, keys, noise.WORD), keys, 0)
        values, finals = self.encoder(embedded, mask, keys)
        if self.config.attend_embeddings:
            values = jnp.concatenate([values, embedded], axis=-1)
        if reverse:
            values = reverse_real(values, mask)  # position s is token s again, for attention
        attends = self.config.attention != "none"
        return Memory(values, self.decoder.attention.keys(values) if attends else values, mask, self.bridge(finals))

    def __call__(
        self, src_ids: Int[Array, "batch src"], inputs: Int[Array, "batch tgt"], keys: RowKeys = None
    ) -> Float[Array, "batch tgt readout"]:
        """Readouts for predicting the token after each of `inputs` (BOS, then the target)."""
        memory = self.encode(src_ids, keys)
        embedded = drop_words(self.config, self._embed(self.target_table, inputs), keys, noise.WORD + 1)
        embedded = drop_features(self.config, embedded, keys, noise.TARGET)
        return self.decoder(memory, embedded, keys)

    def start(self, memory: Memory, beams: int) -> Carry:
        """The carry of `beams` hypotheses per sentence before the first step."""
        return start_carry(memory, self.config, beams)

    def lay_out(self) -> StepWeights:
        """What `make_step` needs, as large as the decoder and `vocab x gates` numbers more."""
        dtype = jnp.dtype(self.compute)
        # Rounded as in training, but kept in float32: XLA's gather from a bfloat16 table on CPUs converts all of it first.
        inputs = self.decoder.project(self.target_table[...].astype(dtype)).astype(jnp.float32)
        return StepWeights(inputs, self.decoder.lay_out(dtype), self.output()[0].T.astype(dtype))

    def make_step(self, weights: StepWeights, memory: Memory) -> Step:
        """What reads one more token of every hypothesis."""
        step = self.decoder.make_step(weights.kernels, memory)
        return lambda carry, ids: step(carry, weights.inputs[ids])

    def output(self) -> tuple[Float[Array, "vocab readout"], Float[Array, " vocab"]]:
        """The softmax layer: a row for each token, and the bias."""
        table = self.output_table if self.config.tie == "none" else self.target_table
        return table[...], self.output_bias[...]

    def _embed(self, table: Any, ids: Any) -> Any:
        return table[...][ids].astype(jnp.dtype(self.compute))  # in this order the gradient is summed in float32


class Model(NamedTuple):
    """A model as pure functions see it: `bind(params)` is a `Seq2Seq` to call."""

    graph: Any
    config: ModelConfig

    def bind(self, params: Any) -> Seq2Seq:
        """The module with these parameters; costs nothing inside jit."""
        bound: Seq2Seq = nnx.merge(self.graph, _numbered(params))
        return bound


def make_model(config: ModelConfig, source_vocab: int, target_vocab: int) -> Model:
    """Builds the model abstractly: no parameter is made."""
    module = nnx.eval_shape(lambda: Seq2Seq(config, source_vocab, target_vocab, rngs=nnx.Rngs(params=0)))
    return Model(nnx.graphdef(module), config)


def init_params(config: ModelConfig, source_vocab: int, target_vocab: int, key: Key[Array, ""]) -> dict[str, Any]:
    """Draws the parameters: a pure dict whose keys are strings."""
    module = Seq2Seq(config, source_vocab, target_vocab, rngs=nnx.Rngs(params=key))
    params: dict[str, Any] = _named(nnx.to_pure_dict(nnx.state(module)))
    return params


def _named(tree: Any) -> Any:
    """List indices become strings, so that a path in a file is a path in JSON too."""
    return {str(name): _named(value) for name, value in tree.items()} if isinstance(tree, dict) else tree


def _numbered(tree: Any) -> Any:
    return {int(k) if k.isdigit() else k: _numbered(v) for k, v in tree.items()} if isinstance(tree, dict) else tree
