"""Forced scoring: the log-probability of each token of given target sentences, by one model or by several as one."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from flax_s2s.config import BOS, EOS, PAD, UNK, DecodingConfig
from flax_s2s.data.batching import pad
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.beam import length_penalty
from flax_s2s.decoding.constraints import Mean, mean_logp
from flax_s2s.decoding.requests import padded_length
from flax_s2s.decoding.stream import KEPT, Weights, make_lay_out, make_logp_fn, most_tokens, rows_per_device, start_carry
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime import lowered
from flax_s2s.runtime.parallel import AXIS, Devices, feed_rows, localize


class Forced(NamedTuple):
    """One pair's result."""

    logp: float  # natural log of the probability of the target given the source, end mark included
    score: float  # logp over the length penalty: what hypotheses are sorted by
    ids: tuple[int, ...] = ()  # the target's tokens, end mark included
    token_logp: tuple[float, ...] = ()  # of each
    pieces: tuple[str, ...] = ()  # the tokens, as they are written
    cut_source: bool = False  # the source was longer than decoding.max_source_tokens
    unknown_source: int = 0  # tokens of the source that the vocabulary does not have

    @property
    def unknown_target(self) -> int:
        """Tokens of the target that the vocabulary does not have: no translation holds one."""
        return self.ids.count(UNK)

    @property
    def tokens(self) -> int:
        """How many, end mark included."""
        return len(self.ids)


@lru_cache(KEPT)
def make_forced(models: tuple[Model, ...], mean: Mean, devices: Devices) -> Callable[[Any, Any, Any], Any]:
    """Makes `(Weights of each model, src_ids, tgt_ids) -> log-probability of each token`, jitted, rows spread over the devices."""

    @partial(
        jax.shard_map,
        mesh=devices.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    def forced(weights: Any, src_ids: Any, tgt_ids: Any) -> Any:
        members = [forced_logp(model, one, src_ids, tgt_ids) for model, one in zip(models, weights, strict=True)]
        return members[0] if len(members) == 1 else mean_logp(members, mean)

    return lowered.jit(forced, ([model.config for model in models], mean))


def forced_logp(
    model: Model, weights: Weights, src_ids: Int[Array, "batch src"], tgt_ids: Int[Array, "batch tgt"]
) -> Float[Array, "batch tgt"]:
    """Natural log of the probability of each token of the target, 0 for padding.

    Read step by step as a search does, with the search's own step: the same numbers but for the last digits, in whatever type they
    are computed.
    """
    bound = model.bind(weights.params)
    memory = bound.encode(src_ids)
    logp_fn = make_logp_fn(bound, weights.step, memory, src_ids)

    def position(carry: Any, now: Any) -> tuple[Any, Any]:
        last, ids = now
        carry, logp, _ = logp_fn(carry, last[:, None])
        return carry, jnp.where(ids != PAD, jnp.take_along_axis(logp[:, 0], ids[:, None], axis=1)[:, 0], 0)

    inputs = jnp.pad(tgt_ids[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    carry = start_carry(bound, memory, 1)
    return lax.scan(position, carry, (inputs.T, tgt_ids.T))[1].T


def at_each_place(models: Sequence[Model], mean: Mean, weights: Any, src_ids: Any, tgt_ids: Any, look: Callable[[Any, Any], Any]) -> Any:
    """What is seen of the distribution of the next token at each place of given targets, of several models as one.

    Args:
        models: with the same vocabularies.
        mean: how several are one.
        weights: of each.
        src_ids: [batch src].
        tgt_ids: [batch tgt].
        look: `(log-probabilities [batch vocab], ids of the target [batch]) -> arrays [batch ...]`, called once, while it is traced.

    Returns:
        What `look` returns, with the axis tgt after the axis batch.
    """
    bound = [model.bind(own.params) for model, own in zip(models, weights, strict=True)]
    memories = [one.encode(src_ids) for one in bound]
    says = [make_logp_fn(one, own.step, memory, src_ids) for one, own, memory in zip(bound, weights, memories, strict=True)]

    def position(carries: Any, now: Any) -> tuple[Any, Any]:
        last, ids = now
        found = [say(carry, last[:, None]) for say, carry in zip(says, carries, strict=True)]
        logp = mean_logp([logp[:, 0] for _, logp, _ in found], mean)
        return [carry for carry, _, _ in found], look(logp, ids)

    inputs = jnp.pad(tgt_ids[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    start = [start_carry(one, memory, 1) for one, memory in zip(bound, memories, strict=True)]
    return jax.tree.map(lambda part: part.swapaxes(0, 1), lax.scan(position, start, (inputs.T, tgt_ids.T))[1])


def read_pairs(
    vocabularies: Vocabularies, config: DecodingConfig, sources: Sequence[str], targets: Sequence[Sequence[int]], bundles: Sequence[str]
) -> tuple[list[np.ndarray], list[np.ndarray], tuple[list[list[int]], list[tuple[str, ...]]]]:
    """Pairs as numbers, end marks included.

    Returns sources and targets; and of each source all of its tokens, and what the vocabulary lacks of those that are read.

    Args:
        vocabularies: of both sides.
        config: the longest source; others are cut.
        sources: lines.
        targets: the tokens of each, without the end mark.
        bundles: the features of each; none: models without.
    """
    most = config.max_source_tokens - 1
    whole = vocabularies.encode_sources(sources, bundles or [""] * len(sources))
    lacking = [vocabularies.keep_lacking(texts, ids[:most]) for texts, ids in zip(vocabularies.find_lacking(sources), whole, strict=True)]
    ends = [vocabularies.sizes[1] + len(texts) for texts in lacking]  # what was cut off is unknown
    tgt = [np.array([*(i if i < end else UNK for i in ids), EOS]) for ids, end in zip(targets, ends, strict=True)]
    return [np.array([*ids[:most], EOS]) for ids in whole], tgt, (whole, lacking)


class Scorer:
    """Scores pairs with any parameters of one model, or of several as one."""

    def __init__(self, models: Sequence[Model], vocabularies: Vocabularies, config: DecodingConfig, devices: Devices) -> None:
        """Compiles nothing yet: each shape is compiled when the first pair of it comes.

        Args:
            models: with the same vocabularies.
            vocabularies: of both sides.
            config: rows of each device, length penalty, mean of an ensemble, longest source.
            devices: this process' own.
        """
        self.vocabularies, self.config, self.devices = vocabularies, config, devices
        self.rows = rows_per_device(config, 1, models) * devices.count
        self._lay_out = make_lay_out(tuple(models), config.compute)
        self._forced = make_forced(tuple(models), config.ensemble, devices)

    @property
    def most_tokens(self) -> int:
        """The longest target that is scored, end mark included: the longest that any source is decoded to."""
        return most_tokens(self.config.max_source_tokens, self.config)

    def lay_out(self, params: Sequence[Any]) -> list[Weights]:
        """Makes each model's parameters ready, for any number of calls."""
        return self._lay_out([localize(self.devices, one) for one in params])

    def __call__(
        self, weights: Sequence[Weights], sources: Sequence[str], targets: Sequence[Sequence[int]], bundles: Sequence[str] = ()
    ) -> list[Forced]:
        """Scores pairs; the results stand in the order of the pairs.

        Args:
            weights: what `lay_out` made of each model's parameters.
            sources: lines; too long ones are cut as for decoding.
            targets: the tokens of each, without the end mark; at most `most_tokens` with it.
            bundles: the features of each, of models that have some.
        """
        src, tgt, (whole, lacking) = read_pairs(self.vocabularies, self.config, sources, targets, bundles)
        shapes: dict[tuple[int, int], list[int]] = {}
        for i in range(len(src)):
            shapes.setdefault((padded_length(len(src[i])), padded_length(len(tgt[i]))), []).append(i)
        results: dict[int, Forced] = {}
        for (src_length, tgt_length), members in sorted(shapes.items(), reverse=True):
            for start in range(0, len(members), self.rows):
                chosen = members[start : start + self.rows]
                batch = (pad([src[i] for i in chosen], self.rows, src_length), pad([tgt[i] for i in chosen], self.rows, tgt_length))
                logp = np.asarray(self._forced(weights, *feed_rows(self.devices, batch)))
                for row, i in enumerate(chosen):
                    cut = len(whole[i]) >= self.config.max_source_tokens
                    found = self._read(logp[row, : len(tgt[i])].tolist(), tgt[i].tolist(), lacking[i], cut)
                    results[i] = found._replace(unknown_source=self.vocabularies.count_unknown(whole[i]))
        return [results[i] for i in range(len(src))]

    def _read(self, token_logp: list[float], ids: list[int], lacking: Sequence[str], cut_source: bool) -> Forced:
        logp, pieces = math.fsum(token_logp), tuple(self.vocabularies.target.pieces(ids, lacking))
        return Forced(logp, logp / length_penalty(len(ids), self.config.length_penalty), tuple(ids), tuple(token_logp), pieces, cut_source)
