"""Calibration: how often a model is right where it says how sure it is, of tokens and of whole translations.

Enters: models, and pairs or translations. Leaves: a temperature, the expected calibration error, and tables of confidence against
what came true. Tokens are looked at with the reference before them (teacher forcing): is the likeliest token the reference's?

Temperature scaling divides the logits by a T that minimizes the negative log-likelihood of a validation set. It changes no choice of
the likeliest token; T < 1 makes a model surer, which one that was trained with label smoothing commonly needs.

Source: Naeini et al. 2015 (ECE); Guo et al. 2017, On calibration of modern neural networks, equations 3 and 9; Kumar and Sarawagi
2019, Calibration of encoder decoder models for neural machine translation.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from flax_s2s.config import EOS, DecodingConfig
from flax_s2s.data.batching import pad
from flax_s2s.data.corpus import Pair
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.constraints import Mean
from flax_s2s.decoding.forced import at_each_place
from flax_s2s.decoding.requests import SOURCE_LENGTHS, padded_length
from flax_s2s.decoding.stream import make_lay_out, rows_per_device
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import AXIS, Devices, feed_rows

BINS = 15  # Guo et al. 2017
_COARSEST, _TEMPERATURES, _ROUNDS = 4.0, 16, 3  # from 1/4 to 4, in the end in steps of 0.3%


class Forecasts(NamedTuple):
    """What a model says of reference tokens, at several temperatures; natural logs of probabilities."""

    logp: Float[np.ndarray, "tokens temperatures"]  # of the reference's token
    top_logp: Float[np.ndarray, "tokens temperatures"]  # of the likeliest token
    right: Bool[np.ndarray, " tokens"]  # whether that is the reference's


class Bin(NamedTuple):
    """Tokens whose likeliest token has a probability above `low`, up to `high`."""

    low: float
    high: float
    tokens: int
    confidence: float  # mean probability
    accuracy: float  # share that is right


class Reliability(NamedTuple):
    """How well probabilities and what comes true agree."""

    temperature: float
    tokens: int
    ece: float  # expected calibration error, from 0 to 1
    nll: float  # negative log-likelihood of a reference token, nats
    accuracy: float
    confidence: float
    bins: list[Bin]


class Group(NamedTuple):
    """Translations of similar confidence, and how good they are on average."""

    low: float
    high: float
    sentences: int
    confidence: float
    quality: dict[str, float]  # percent, by metric


# Tokens ---------------------------------------------------------------------------------------------------------------


class Forecaster:
    """Looks at reference tokens with any parameters of one model, or of several as one."""

    def __init__(self, models: Sequence[Model], vocabularies: Vocabularies, config: DecodingConfig, devices: Devices) -> None:
        """Compiles nothing yet.

        Args:
            models: with the same vocabularies.
            vocabularies: of both sides.
            config: rows of a batch, and how several models are one.
            devices: this process' own.
        """
        self.vocabularies, self.config, self.devices = vocabularies, config, devices
        self._rows = rows_per_device(config, 1, models) * devices.count
        self._lay_out = make_lay_out(tuple(models), config.compute)
        self._forecast = make_forecast(models, config.ensemble, devices)

    def __call__(self, params: Sequence[Any], pairs: Sequence[Pair], temperatures: Sequence[float]) -> Forecasts:
        """Looks at the tokens of all pairs, end marks included, each process at its part of them; every process gets all, in any order.

        Args:
            params: of each model.
            pairs: sources and references.
            temperatures: the logits are divided by.
        """
        (index, count), weights = parallel.process(), self._lay_out([parallel.localize(self.devices, one) for one in params])
        mine, rows = pairs[index::count], self._rows
        most = self.config.max_source_tokens - 1
        texts = [pair.source for pair in mine]
        sources = self.vocabularies.encode_sources(texts, [pair.features for pair in mine])
        src = [np.array([*ids[:most], EOS]) for ids in sources]
        whole, keep = self.vocabularies.find_lacking(texts), self.vocabularies.keep_lacking
        lacking = [keep(all_of_it, ids[:most]) for all_of_it, ids in zip(whole, sources, strict=True)]
        targets = self.vocabularies.encode_targets([pair.target for pair in mine], lacking)
        tgt = [np.array([*ids, EOS]) for ids in targets]
        shapes: dict[int, list[int]] = {}
        for i, both in enumerate(zip(src, tgt, strict=True)):
            shapes.setdefault(padded_length(max(map(len, both)), SOURCE_LENGTHS), []).append(i)  # few: compiling is most of it
        width = len(temperatures)
        parts: list[tuple[np.ndarray, ...]] = [(np.zeros((0, width), np.float32), np.zeros((0, width), np.float32), np.zeros(0, bool))]
        for length, members in shapes.items():
            for start in range(0, len(members), rows):
                chosen = members[start : start + rows]
                batch = tuple(pad([side[i] for i in chosen], rows, length) for side in (src, tgt))
                found = self._forecast(weights, np.array(temperatures, np.float32), *feed_rows(self.devices, batch))
                real = np.arange(length)[None] < np.array([len(tgt[i]) for i in chosen])[:, None]
                parts.append(tuple(np.asarray(part)[: len(chosen)][real] for part in found))
        return Forecasts(*(_share(np.concatenate(column)) for column in zip(*parts, strict=True)))


def _share(part: np.ndarray) -> np.ndarray:
    """The rows of all processes."""
    found = [np.frombuffer(payload, part.dtype).reshape(-1, *part.shape[1:]) for payload in parallel.share(part.tobytes())]
    return np.concatenate(found)


def make_forecast(models: Sequence[Model], mean: Mean, devices: Devices) -> Callable[..., Any]:
    """Makes `(Weights of each model, temperatures, src_ids, tgt_ids) -> logp, top_logp, right`, jitted, rows spread over the devices."""
    by_row, everywhere = PartitionSpec(AXIS), PartitionSpec()

    @partial(
        jax.shard_map,
        mesh=devices.mesh,
        in_specs=(everywhere, everywhere, by_row, by_row),
        out_specs=by_row,
        check_vma=False,
    )
    def forecast(weights: Any, temperatures: Any, src_ids: Any, tgt_ids: Any) -> Any:
        def look(logp: Any, ids: Any) -> Any:
            return scale(logp, ids, temperatures)

        return at_each_place(models, mean, weights, src_ids, tgt_ids, look)

    return jax.jit(forecast)


def scale(
    logp: Float[Array, "batch vocab"], ids: Int[Array, " batch"], temperatures: Float[Array, " temperatures"]
) -> tuple[Float[Array, "batch temperatures"], Float[Array, "batch temperatures"], Bool[Array, " batch"]]:
    """Divides logits, or log-probabilities, which are as good, by temperatures: log-probabilities of `ids` and of the likeliest token; whether these are one."""
    top = logp.max(axis=-1, keepdims=True)
    below = logp - top
    total = jnp.log(jnp.exp(below[:, None, :] / temperatures[None, :, None]).sum(axis=-1))  # [batch temperatures]; fused, never whole
    chosen = jnp.take_along_axis(below, ids[:, None], axis=1) / temperatures[None, :]
    return chosen - total, -total, logp.argmax(axis=-1) == ids


def fit_temperature(nll_fn: Callable[[Sequence[float]], Float[np.ndarray, " temperatures"]]) -> float:
    """The temperature that minimizes a negative log-likelihood: convex in 1 / T, so it has one minimum along log T, which a grid closes in on.

    Args:
        nll_fn: of each of some temperatures.
    """
    low, high = -np.log(_COARSEST), np.log(_COARSEST)
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, _TEMPERATURES)
        best = int(np.argmin(nll_fn(np.exp(grid).tolist())))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, _TEMPERATURES - 1)]
    return float(np.exp(grid[best]))


def calibrate(
    forecaster: Forecaster, params: Sequence[Any], fitting: Sequence[Pair], pairs: Sequence[Pair]
) -> tuple[Reliability, Reliability]:
    """Fits a temperature on some pairs; the reliability on others, before and after.

    Args:
        forecaster: of the models.
        params: of each model.
        fitting: what the temperature is fitted on.
        pairs: what is measured.
    """
    best = fit_temperature(lambda temperatures: -forecaster(params, fitting, temperatures).logp.sum(axis=0, dtype=np.float64))
    temperatures = [1.0, *[best] * (_TEMPERATURES - 1)]  # as many as while fitting: the same programs
    found = forecaster(params, pairs, temperatures)
    before, after = (measure_reliability(temperatures[k], np.exp(found.top_logp[:, k]), found.right, found.logp[:, k]) for k in (0, 1))
    return before, after


def measure_reliability(
    temperature: float,
    confidence: Float[np.ndarray, " tokens"],
    right: Bool[np.ndarray, " tokens"],
    logp: Float[np.ndarray, " tokens"],
    bins: int = BINS,
) -> Reliability:
    """ECE = sum over bins of |tokens of the bin| / |tokens| * |accuracy - confidence|, bins of equal width (Guo et al. 2017, equation 3).

    Args:
        temperature: that was used.
        confidence: probability of the likeliest token.
        right: whether that is the reference's.
        logp: natural log of the probability of the reference's token.
        bins: how many.
    """
    of_token = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    found, ece = [], 0.0
    for number in range(bins):
        here = of_token == number
        tokens = int(here.sum())
        sure, true = (float(part[here].mean(dtype=np.float64)) if tokens else 0.0 for part in (confidence, right))
        found.append(Bin(number / bins, (number + 1) / bins, tokens, sure, true))
        ece += tokens / max(len(right), 1) * abs(true - sure)
    nll, accuracy, sure = (float(part.mean(dtype=np.float64)) if len(right) else 0.0 for part in (-logp, right, confidence))
    return Reliability(temperature, len(right), ece, nll, accuracy, sure, found)


# Translations ---------------------------------------------------------------------------------------------------------


def group_by_confidence(
    confidence: Float[np.ndarray, " sentences"], quality: Mapping[str, Float[np.ndarray, " sentences"]], groups: int = 10
) -> list[Group]:
    """Translations sorted by confidence and cut into equally large groups, with the mean of each metric.

    Args:
        confidence: of each translation, the geometric mean of its tokens' probabilities.
        quality: of each translation, in percent, by metric.
        groups: how many, where there are as many translations.
    """
    order = np.argsort(confidence, kind="stable")
    found = []
    for chosen in np.array_split(order, min(groups, len(order)) or 1):
        if len(chosen):
            sure = confidence[chosen]
            means = {name: float(values[chosen].mean()) for name, values in quality.items()}
            found.append(Group(float(sure.min()), float(sure.max()), len(chosen), float(sure.mean()), means))
    return found


def spearman(first: Float[np.ndarray, " sentences"], second: Float[np.ndarray, " sentences"]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where one side never changes."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[where]

    one, other = (ranked - ranked.mean() for ranked in (ranks(first), ranks(second)))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / scale) if scale else 0.0
