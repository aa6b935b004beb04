"""Lines in, lines out: sort by length, batch at fixed shapes, search, restore the order.

Every sentence is decoded at a shape that depends on its own length alone, so its translation does not depend on its
neighbors: at a fixed shape a row's result is bitwise independent of the other rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from flax_s2s.config import BOS, EOS, PAD, UNK, DecodingConfig
from flax_s2s.data.batching import pad
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.beam import Hypotheses, search
from flax_s2s.model.seq2seq import Model, Seq2Seq
from flax_s2s.parallel import AXIS, Devices, feed_rows, my_rows, read_rows

_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Translation(NamedTuple):
    """One line's result."""

    text: str
    logp: float  # natural log of the probability of the tokens, end mark included; 0 for a blank line
    score: float  # logp / length penalty
    tokens: int  # end mark included
    finished: bool  # False: cut at the length limit
    cut_source: bool  # the source was longer than decoding.max_source_tokens


BLANK = Translation("", 0.0, 0.0, 0, True, False)
"""The translation of a blank line: nothing."""


def padded_length(tokens: int) -> int:
    """The length that a sentence is padded to: one of a closed set, with steps of 256 beyond 512."""
    return next((length for length in _LENGTHS if length >= tokens), -(-tokens // 256) * 256)


def most_tokens(source_tokens: int, config: DecodingConfig) -> int:
    """Limit of a translation, end mark included, for a source of that many tokens."""
    return int(source_tokens * config.max_length_ratio) + config.max_length_extra + 1


def make_step_fn(bound: Seq2Seq, memory: Any) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """The step function of one model: log-probabilities of the next token; PAD, BOS and UNK are never generated."""
    table, bias = bound.output()

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Any, Any]:
        carry, readouts, weights = bound.step(memory, carry, ids)
        logits = jnp.matmul(readouts, table.T.astype(readouts.dtype), preferred_element_type=jnp.float32) + bias[None, None, :]
        logp = jax.nn.log_softmax(logits, axis=-1)
        allowed = ~jnp.isin(jnp.arange(logp.shape[-1]), jnp.array([PAD, BOS, UNK]))
        return carry, jnp.where(allowed[None, None, :], logp, -jnp.inf), weights

    return step_fn


def make_search(model: Model, config: DecodingConfig, devices: Devices) -> Callable[[Any, Any], Hypotheses]:
    """Makes `(params, source ids [rows src]) -> Hypotheses` with one hypothesis a row, jitted, rows spread over the devices."""

    @partial(
        jax.shard_map, mesh=devices.mesh, in_specs=(PartitionSpec(), PartitionSpec(AXIS)), out_specs=PartitionSpec(AXIS), check_vma=False
    )
    def run(params: Any, src_ids: Any) -> Hypotheses:
        bound = model.bind(params)
        memory = bound.encode(src_ids)
        limits = [0, *(most_tokens(tokens, config) for tokens in range(1, src_ids.shape[1] + 1))]  # in Python, exact for any ratio
        return search(
            make_step_fn(bound, memory),
            bound.start(memory, config.beam_size),
            jnp.array(limits)[memory.mask.sum(axis=1)],
            beam_size=config.beam_size,
            max_steps=most_tokens(src_ids.shape[1], config),
            bos=BOS,
            eos=EOS,
            alpha=config.length_penalty,
        )

    return jax.jit(run)


class Translator:
    """Translates with any parameters of one model."""

    def __init__(self, model: Model, vocabularies: Vocabularies, config: DecodingConfig, devices: Devices) -> None:
        """Compiles nothing yet: each shape is compiled when the first sentence of it comes."""
        self.vocabularies, self.config, self.devices = vocabularies, config, devices
        self._search = make_search(model, config, devices)

    def __call__(self, params: Any, lines: Sequence[str], on_batch: Callable[[int], None] | None = None) -> list[Translation]:
        """Translates lines; the results stand in the order of the lines.

        Args:
            params: on the devices.
            lines: text; a blank line gives an empty one.
            on_batch: called after each batch with the number of sentences in it.
        """
        results = [BLANK] * len(lines)
        sources = {i: ids for i, ids in enumerate(self.vocabularies.source.encode(lines)) if lines[i].strip()}
        for chosen, length in self._batches(sources):
            found = self._decode(params, [sources[i] for i in chosen], length)
            for i, translation in zip(chosen, found, strict=True):
                results[i] = translation
            if on_batch:
                on_batch(len(chosen))
        return results

    def _batches(self, sources: dict[int, list[int]]) -> list[tuple[list[int], int]]:
        """Lines of one padded length together, longest first, so that a lack of memory shows at once."""
        by_length: dict[int, list[int]] = {}
        for i, ids in sources.items():
            by_length.setdefault(padded_length(min(len(ids) + 1, self.config.max_source_tokens)), []).append(i)
        rows = self.config.rows
        batches = []
        for length in sorted(by_length, reverse=True):
            lines = sorted(by_length[length], key=lambda i: (-len(sources[i]), i))
            batches += [(lines[start : start + rows], length) for start in range(0, len(lines), rows)]
        return batches

    def _decode(self, params: Any, sources: list[list[int]], length: int) -> list[Translation]:
        cut = [ids[: self.config.max_source_tokens - 1] for ids in sources]
        padded = pad([np.array([*ids, EOS]) for ids in cut], self.config.rows, length)
        found = jax.tree.map(read_rows, self._search(params, feed_rows(self.devices, my_rows(padded))))
        texts = self.vocabularies.target.decode([found.ids[row, 0, : found.length[row, 0]].tolist() for row in range(len(sources))])
        return [
            Translation(
                " ".join(text.split("\n")),
                float(found.logp[row, 0]),
                float(found.score[row, 0]),
                int(found.length[row, 0]),
                bool(found.finished[row, 0]),
                len(sources[row]) > len(cut[row]),
            )
            for row, text in enumerate(texts)
        ]
