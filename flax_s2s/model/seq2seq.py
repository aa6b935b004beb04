"""The encoder-decoder: token ids -> readouts, whole sentences in training and one step at a time in decoding.

    encode()      source ids -> Memory
    read()        source ids and target inputs -> readouts and attention of all target positions (teacher forcing)
    align()       the same for models with hard attention (see `alignment`), whose readouts are of source positions too
    lay_out()      -> StepWeights: what decoding steps multiply with, made once for all sentences
    start(), make_step()   Memory -> Carry; Carry and the last tokens -> Carry, readouts, attention
    output()      the softmax layer's table and bias; logits = readouts @ table.T + bias
    gate()        readouts -> the logit of copying, of models that copy (see `copying`)

A readout is what the softmax layer reads: after attention tanh(W [state; context]) (Luong et al. 2015, equation 5),
without attention the top state, brought to the embedding's size where the tables are tied.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from flax_s2s.config import EOS, PAD, UNK, ModelConfig
from flax_s2s.model import noise
from flax_s2s.model.alignment import Aim
from flax_s2s.model.copying import as_targets
from flax_s2s.model.decoder import Carry, Decoder, Memory, Readings, start_carry
from flax_s2s.model.encoder import Bridge, Encoder, reverse_real
from flax_s2s.model.lstm import choose_means
from flax_s2s.model.noise import RowKeys, drop_features, drop_words
from flax_s2s.model.product import Quantized, product, quantize
from flax_s2s.model.sizes import initializers, sizes

Step = Callable[[Carry, Int[Array, "batch beam"]], tuple[Carry, Any, Float[Array, "batch beam src"] | None]]
"""(carry, last tokens) -> next carry, readouts [batch beam readout], and attention (None without); with hard attention an `Aim`, and None"""


class StepWeights(NamedTuple):
    """What decoding steps read of the parameters: joined, rounded and laid out for fast products."""

    inputs: Float[Array, "vocab gates"]  # each token's part of the lowest layer's sums, the bias included
    kernels: dict[str, Array | Quantized]  # of layers and readout, by name
    softmax: Float[Array, "readout vocab"] | Quantized


class Seq2Seq(nnx.Module):
    """Encoder, decoder and tables."""

    def __init__(self, config: ModelConfig, source_vocab: int, target_vocab: int, *, rngs: nnx.Rngs) -> None:
        """Declares all parameters; vocabularies are given by their sizes.

        Where the tables are one, what the source has more than the target, its features, are a table of their own.
        """
        self.config, self.compute = config, choose_means(config).compute
        readout, table = sizes(config).readout, initializers(config)[1]
        self.target_table = nnx.Param(table(rngs.params(), (target_vocab, config.embedding_size), jnp.float32))
        if config.tie != "all":
            self.source_table = nnx.Param(table(rngs.params(), (source_vocab, config.embedding_size), jnp.float32))
        elif source_vocab > target_vocab:
            self.feature_table = nnx.Param(table(rngs.params(), (source_vocab - target_vocab, config.embedding_size), jnp.float32))
        if config.tie == "none":
            self.output_table = nnx.Param(initializers(config)[0](rngs.params(), (target_vocab, readout), jnp.float32))
        self.output_bias = nnx.Param(jnp.zeros(target_vocab, jnp.float32))
        if config.copy:
            self.copy_vector = nnx.Param(initializers(config)[0](rngs.params(), (readout, 1), jnp.float32)[:, 0])
            self.copy_bias = nnx.Param(jnp.zeros((), jnp.float32))
        if config.feed_features:
            self.kernel_features = nnx.Param(initializers(config)[0](rngs.params(), (config.embedding_size,) * 2, jnp.float32))
        self.encoder = Encoder(config, rngs=rngs)
        self.bridge = Bridge(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, src_ids: Int[Array, "batch src"], keys: RowKeys = None) -> Memory:
        """Reads the source.

        Args:
            src_ids: tokens, EOS, then PAD; where models copy, also those that follow the vocabulary, which are read as UNK.
            keys: one key per row for dropout; None means deterministic.
        """
        mask, reverse = src_ids != PAD, self.config.reverse_source
        if not self.config.source_end:
            mask &= src_ids != EOS
        read = reverse_real(src_ids, mask) if reverse else src_ids
        embedded = self._embed(self._source_rows(), read)
        embedded = drop_features(self.config, drop_words(self.config, embedded, keys, noise.WORD), keys, 0)
        beside = self._features(read, embedded) if self.config.feed_features else None
        values, finals = self.encoder(embedded, mask, keys)
        if self.config.attend_embeddings:
            values = jnp.concatenate([values, embedded], axis=-1)
        if reverse:
            values = reverse_real(values, mask)  # position s is token s again, for attention
        attends = self.config.attention != "none"
        keys_of = self.decoder.attention.keys(values) if attends else values
        if self.config.feed_features and self.config.alignment == "monotonic":
            mask &= ~self._is_feature(src_ids)
        return Memory(self.decoder.read_source(values), keys_of, mask, self.bridge(finals), beside)

    def _is_feature(self, src_ids: Int[Array, "batch src"]) -> Bool[Array, "batch src"]:
        return (src_ids >= len(self.target_table[...])) & (src_ids < len(self._source_rows()))

    def _features(self, src_ids: Int[Array, "batch src"], embedded: Float[Array, "batch src emb"]) -> Float[Array, "batch emb"]:
        """What the decoder reads of the features at every step: a map of the sum of their embeddings."""
        is_feature = self._is_feature(src_ids)[:, :, None]
        total = jnp.where(is_feature, embedded, 0).astype(jnp.float32).sum(axis=1).astype(embedded.dtype)
        return product(total, self.kernel_features[...]).astype(embedded.dtype)

    def __call__(
        self, src_ids: Int[Array, "batch src"], inputs: Int[Array, "batch tgt"], keys: RowKeys = None
    ) -> Float[Array, "batch tgt readout"]:
        """The readouts of `read` alone."""
        return self.read(src_ids, inputs, keys).readouts

    def read(self, src_ids: Int[Array, "batch src"], inputs: Int[Array, "batch tgt"], keys: RowKeys = None) -> Readings:
        """What there is to say after each of `inputs` (BOS, then the target); not of hard attention."""
        assert not self.config.hard, "align() reads with hard attention"
        memory = self.encode(src_ids, keys)
        return self.decoder(memory, self._embed_inputs(inputs, keys, memory), keys)

    def align(
        self, src_ids: Int[Array, "batch src"], inputs: Int[Array, "batch tgt"], keys: RowKeys = None
    ) -> tuple[Memory, Aim, Float[Array, "batch tgt readout"]]:
        """Of models with hard attention the source, what all positions say of it, and what readouts are multiplied with (dropout)."""
        memory = self.encode(src_ids, keys)
        aim = self.decoder.aim(memory, self._embed_inputs(inputs, keys, memory), keys)
        return memory, aim, drop_features(self.config, jnp.ones_like(aim.state, memory.values.dtype), keys, noise.READOUT)

    def _embed_inputs(self, inputs: Any, keys: RowKeys, memory: Memory) -> Any:
        embedded = drop_words(self.config, self._embed(self.target_table[...], inputs), keys, noise.WORD + 1)
        embedded = drop_features(self.config, embedded, keys, noise.TARGET)
        return embedded if memory.beside is None else embedded + memory.beside[:, None, :]

    def start(self, memory: Memory, beams: int) -> Carry:
        """The carry of `beams` hypotheses per sentence before the first step."""
        return start_carry(memory, self.config, beams)

    def lay_out(self, quantized: bool = False) -> StepWeights:
        """What `make_step` needs, as large as the decoder and `vocab x gates` numbers more; `quantized`: kernels in int8."""
        dtype = jnp.dtype(self.compute)
        # Rounded as in training, but kept in float32: XLA's gather from a bfloat16 table on CPUs converts all of it first.
        inputs = self.decoder.project(self.target_table[...].astype(dtype)).astype(jnp.float32)
        kernels, softmax = self.decoder.lay_out(jnp.dtype(jnp.float32) if quantized else dtype), self.output()[0].T
        if quantized:
            return StepWeights(inputs, {name: quantize(kernel) for name, kernel in kernels.items()}, quantize(softmax))
        return StepWeights(inputs, dict(kernels), softmax.astype(dtype))

    def make_step(self, weights: StepWeights, memory: Memory) -> Step:
        """What reads one more token of every hypothesis."""
        step, beside = self.decoder.make_step(weights.kernels, memory), self.decoder.project_beside(memory)

        def read(carry: Carry, ids: Int[Array, "batch beam"]) -> Any:
            projected = weights.inputs[self._known(ids, len(weights.inputs))]
            return step(carry, projected if beside is None else projected + beside)

        return read

    def gate(self, readouts: Float[Array, "*tokens readout"]) -> Float[Array, "*tokens"]:
        """The logit of copying rather than generating, in float32 (See et al. 2017, equation 8, of the readout as OpenNMT has it)."""
        vector = jnp.broadcast_to(self.copy_vector[...], readouts.shape)
        return jnp.sum(readouts.astype(jnp.float32) * vector, axis=-1) + self.copy_bias[...]  # no product: see `Attention.scores`

    def as_targets(self, src_ids: Int[Array, "batch src"]) -> Int[Array, "batch src"]:
        """See `copying.as_targets`."""
        return as_targets(src_ids, (len(self._source_rows()), len(self.target_table[...])))

    def output(self) -> tuple[Float[Array, "vocab readout"], Float[Array, " vocab"]]:
        """The softmax layer: a row for each token, and the bias."""
        table = self.output_table if self.config.tie == "none" else self.target_table
        return table[...], self.output_bias[...]

    def _source_rows(self) -> Float[Array, "vocab emb"]:
        """The source's table, with its features."""
        if self.config.tie != "all":
            return self.source_table[...]
        table = self.target_table[...]
        return jnp.concatenate([table, self.feature_table[...]]) if hasattr(self, "feature_table") else table

    def _embed(self, table: Any, ids: Any) -> Any:
        return table[self._known(ids, len(table))].astype(jnp.dtype(self.compute))  # in this order the gradient is summed in float32

    def _known(self, ids: Any, size: int) -> Any:
        """Symbols that the vocabulary lacks are read as one."""
        return jnp.where(ids < size, ids, UNK) if self.config.copy else ids


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
    return Model(nnx.graphdef(_declare(config, source_vocab, target_vocab)), config)


def abstract_params(config: ModelConfig, source_vocab: int, target_vocab: int) -> dict[str, Any]:
    """What `init_params` draws, without the numbers."""
    params: dict[str, Any] = _named(nnx.to_pure_dict(nnx.state(_declare(config, source_vocab, target_vocab))))
    return params


@lru_cache(8)
def _declare(config: ModelConfig, source_vocab: int, target_vocab: int) -> Seq2Seq:
    """The module with shapes instead of parameters; a tenth of a second, and who opens a run needs it twice."""
    return nnx.eval_shape(lambda: Seq2Seq(config, source_vocab, target_vocab, rngs=nnx.Rngs(params=0)))


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
