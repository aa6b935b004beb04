"""Forced scoring: the log-probability of given target sentences."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from flax_s2s.config import BOS, EOS, PAD
from flax_s2s.data.batching import pad
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.translate import padded_length
from flax_s2s.model.seq2seq import Model
from flax_s2s.parallel import AXIS, Devices, feed_rows


class Forced(NamedTuple):
    """One pair's result."""

    logp: float  # natural log of the probability of the target given the source, end mark included
    tokens: int  # end mark included


def make_forced(model: Model, devices: Devices) -> Callable[[Any, Any, Any], Any]:
    """Makes `(params, src_ids, tgt_ids) -> log-probability of each row's target`, jitted, rows spread over the devices."""

    @partial(
        jax.shard_map,
        mesh=devices.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    def forced(params: Any, src_ids: Any, tgt_ids: Any) -> Any:
        return forced_logp(model, params, src_ids, tgt_ids)

    return jax.jit(forced)


def forced_logp(model: Model, params: Any, src_ids: Int[Array, "batch src"], tgt_ids: Int[Array, "batch tgt"]) -> Float[Array, " batch"]:
    """Sum over the real tokens of each row's target; logits of one target position at a time."""
    bound = model.bind(params)
    readouts = bound(src_ids, jnp.pad(tgt_ids[:, :-1], ((0, 0), (1, 0)), constant_values=BOS))
    table, bias = bound.output()

    def position(total: Any, now: Any) -> tuple[Any, None]:
        readout, ids = now
        logits = jnp.matmul(readout, table.T.astype(readout.dtype), preferred_element_type=jnp.float32) + bias[None, :]
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), ids[:, None], axis=1)[:, 0]
        return total + jnp.where(ids != PAD, logp, 0), None

    start = jnp.zeros(src_ids.shape[0])
    return jax.lax.scan(position, start, (readouts.swapaxes(0, 1), tgt_ids.swapaxes(0, 1)))[0]


class Scorer:
    """Scores pairs of lines with any parameters of one model."""

    def __init__(self, model: Model, vocabularies: Vocabularies, rows: int, devices: Devices) -> None:
        """Each of this process' devices scores `rows` pairs at once; each shape is compiled when the first pair of it comes."""
        self.vocabularies, self.rows, self.devices = vocabularies, rows * devices.count, devices
        self._forced = make_forced(model, devices)

    def __call__(self, params: Any, sources: Sequence[str], targets: Sequence[str]) -> list[Forced]:
        """Scores pairs; the results stand in the order of the pairs."""
        src = [np.array([*ids, EOS]) for ids in self.vocabularies.source.encode(sources)]
        tgt = [np.array([*ids, EOS]) for ids in self.vocabularies.target.encode(targets)]
        shapes: dict[tuple[int, int], list[int]] = {}
        for i in range(len(src)):
            shapes.setdefault((padded_length(len(src[i])), padded_length(len(tgt[i]))), []).append(i)
        results = [Forced(0.0, 0)] * len(src)
        for (src_length, tgt_length), members in shapes.items():
            for start in range(0, len(members), self.rows):
                chosen = members[start : start + self.rows]
                batch = (pad([src[i] for i in chosen], self.rows, src_length), pad([tgt[i] for i in chosen], self.rows, tgt_length))
                logp = np.asarray(self._forced(params, *feed_rows(self.devices, batch)))
                for row, i in enumerate(chosen):
                    results[i] = Forced(float(logp[row]), len(tgt[i]))
        return results
