import io
import itertools
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_s2s.config import BOS, EOS, DecodingConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.evaluation import reliability
from flax_s2s.evaluation.calibration import (
    Forecaster,
    calibrate,
    fit_temperature,
    group_by_confidence,
    measure_reliability,
    scale,
    spearman,
)
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel

PAIRS = [Pair("a dog runs", "ein Hund"), Pair("two", "zwei Katzen"), Pair("go", "los"), Pair("the old man", "der alte Mann")]
CONFIG = ModelConfig(embedding_size=4, hidden_size=6)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def draw_logits(seed, tokens=400, size=9, sureness=3.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(tokens, size)) * sureness
    ids = np.array([rng.choice(size, p=np.exp(row)) for row in log_softmax(logits)])
    return logits, ids


def test_scaling_is_the_softmax_of_divided_logits():
    logits, ids = draw_logits(1)
    temperatures = [0.3, 1.0, 2.5]
    logp, top, right = scale(jnp.array(logits, jnp.float32), jnp.array(ids), jnp.array(temperatures))
    for k, temperature in enumerate(temperatures):
        wanted = log_softmax(logits / temperature)
        np.testing.assert_allclose(logp[:, k], wanted[np.arange(len(ids)), ids], atol=1e-4)
        np.testing.assert_allclose(top[:, k], wanted.max(axis=-1), atol=1e-5)
    np.testing.assert_array_equal(right, logits.argmax(axis=-1) == ids)
    normalized = scale(jnp.array(log_softmax(logits), jnp.float32), jnp.array(ids), jnp.array(temperatures))
    np.testing.assert_allclose(logp, normalized[0], atol=1e-4)


@pytest.mark.parametrize("true", [0.4, 1.0, 1.7])
def test_the_fitted_temperature_has_the_least_nll(true):
    logits, ids = draw_logits(2, tokens=3000)
    logits = logits * true  # so that dividing by `true` restores what the tokens were drawn from

    def nll(temperature):
        return -log_softmax(logits / temperature)[np.arange(len(ids)), ids].sum()

    found = fit_temperature(lambda temperatures: np.array([nll(t) for t in temperatures]))
    fine = np.exp(np.linspace(np.log(0.25), np.log(4), 3000))
    assert found == pytest.approx(fine[np.argmin([nll(t) for t in fine])], rel=0.005)
    assert found == pytest.approx(true, rel=0.06)


def test_the_temperature_stays_in_its_range():
    assert fit_temperature(lambda temperatures: np.array(temperatures)) == pytest.approx(0.25)
    assert fit_temperature(lambda temperatures: -np.array(temperatures)) == pytest.approx(4)


def test_ece_against_a_literal_loop():
    rng = np.random.default_rng(3)
    confidence = np.concatenate([rng.random(500), [1.0, 1 / 15, 2 / 15, 1e-9]]).astype(np.float32)
    right = rng.random(len(confidence)) < confidence**2
    found = measure_reliability(1.0, confidence, right, np.log(confidence))
    total = 0.0
    for number in range(15):
        here = [i for i, value in enumerate(confidence.tolist()) if number / 15 < value <= (number + 1) / 15]
        assert found.bins[number].tokens == len(here)
        if here:
            total += len(here) / len(confidence) * abs(np.mean(right[here]) - np.mean(confidence[here], dtype=np.float64))
    assert found.ece == pytest.approx(total) and 0.1 < found.ece < 0.3
    assert (found.accuracy, found.nll) == (pytest.approx(right.mean()), pytest.approx(-np.log(confidence).mean(), rel=1e-4))
    assert sum(one.tokens for one in found.bins) == found.tokens == len(confidence)


def test_tokens_drawn_from_the_probabilities_are_calibrated():
    logits, ids = draw_logits(4, tokens=20000, sureness=1.5)
    for temperature, low, high in ((1.0, 0.0, 0.015), (0.5, 0.1, 0.5), (2.0, 0.1, 0.5)):
        logp = log_softmax(logits / temperature)
        ece = measure_reliability(temperature, np.exp(logp.max(axis=-1)), logits.argmax(axis=-1) == ids, logp.max(axis=-1)).ece
        assert low <= ece <= high


# Models


@lru_cache
def made(members, ensemble="probabilities", devices=1):
    vocabularies = vocab_training.train(PAIRS, VocabConfig(kind="char", size=60, joint=False))
    sizes = len(vocabularies.source), len(vocabularies.target)
    abstract = jax.eval_shape(partial(init_params, CONFIG, *sizes), jax.random.key(0))
    rng = np.random.default_rng(5)
    params = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract) for _ in range(members)]
    models = [make_model(CONFIG, *sizes) for _ in range(members)]
    decoding = DecodingConfig(rows=2, ensemble=ensemble)
    return Forecaster(models, vocabularies, decoding, parallel.make_devices(devices, {})), params, models


def readouts_of(model):
    """What logits are made from, compiled."""

    def run(params, src_ids, inputs):
        bound = model.bind(params)
        return bound(src_ids, inputs), *bound.output()

    return jax.jit(run)


@pytest.mark.parametrize(("members", "ensemble"), [(1, "probabilities"), (2, "probabilities"), (2, "log-probabilities")])
def test_forecasts_against_each_pair_by_itself(members, ensemble):
    forecaster, params, models = made(members, ensemble)
    temperatures = [0.5, 1.0, 3.0]
    found = forecaster(params, PAIRS, temperatures)
    wanted = []
    for pair in PAIRS:
        src = np.array([*forecaster.vocabularies.source.encode([pair.source])[0], EOS])
        tgt = np.array([*forecaster.vocabularies.target.encode([pair.target])[0], EOS])
        logps = []
        for model, own in zip(models, params, strict=True):
            parts = readouts_of(model)(own, src[None], np.array([[BOS, *tgt[:-1]]]))
            readouts, table, bias = (np.asarray(part, np.float64) for part in parts)
            logps.append(log_softmax(readouts[0] @ table.T + bias))
        logp = np.log(np.mean(np.exp(logps), axis=0)) if ensemble == "probabilities" else np.mean(logps, axis=0)
        scaled = np.stack([log_softmax(logp / temperature) for temperature in temperatures], axis=-1)
        rows = np.arange(len(tgt))
        wanted += zip(scaled[rows, tgt].tolist(), scaled.max(axis=1).tolist(), (logp.argmax(axis=1) == tgt).tolist(), strict=True)
    order = sorted(wanted)
    there = sorted(zip(found.logp.tolist(), found.top_logp.tolist(), found.right.tolist(), strict=True))
    assert len(there) == len(order)
    for column in range(2):
        np.testing.assert_allclose([one[column] for one in there], [one[column] for one in order], atol=2e-4)
    assert sum(one[2] for one in there) == sum(one[2] for one in order)


def test_devices_change_no_forecast():
    (forecaster, params, _), (spread, _, _) = made(1), made(1, devices=4)
    one, many = forecaster(params, PAIRS, [1.0]), spread(params, PAIRS, [1.0])
    np.testing.assert_allclose(np.sort(one.logp[:, 0]), np.sort(many.logp[:, 0]), atol=1e-5)
    assert one.right.sum() == many.right.sum()


def test_calibrating_on_the_measured_pairs_never_raises_the_nll():
    forecaster, params, _ = made(1)
    before, after = calibrate(forecaster, params, PAIRS, PAIRS)
    assert before.temperature == 1 and after.temperature != 1
    assert after.nll < before.nll and after.accuracy == before.accuracy
    assert before.tokens == len(forecaster(params, PAIRS, [1.0]).right)


# Translations


def test_groups_are_equally_large_and_sorted():
    rng = np.random.default_rng(6)
    confidence = rng.random(23)
    groups = group_by_confidence(confidence, {"chrf": 100 * confidence}, 5)
    assert [one.sentences for one in groups] == [5, 5, 5, 4, 4]
    assert all(one.high <= other.low for one, other in itertools.pairwise(groups))
    first = np.sort(confidence)[:5]
    assert (groups[0].low, groups[0].high, groups[0].confidence) == pytest.approx((first[0], first[-1], first.mean()))
    assert groups[0].quality == pytest.approx({"chrf": 100 * first.mean()})
    assert [one.sentences for one in group_by_confidence(confidence[:3], {}, 10)] == [1, 1, 1]
    assert group_by_confidence(confidence[:0], {}) == []


def test_rank_correlation():
    rng = np.random.default_rng(7)
    values = rng.random(30)
    assert spearman(values, np.exp(5 * values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, np.ones(30)) == 0
    # differences of the ranks 1 1 2 1 1, so 1 - 6 * 8 / (5 * 24)
    assert spearman(np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 5, 3, 4])) == pytest.approx(1 - 6 * 8 / 120)
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(np.sqrt(3) / 2)


@pytest.mark.parametrize(("form", "head"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_picture_is_drawn(form, head):
    rng = np.random.default_rng(8)
    confidence = rng.random(200)
    curves = [measure_reliability(t, confidence, rng.random(200) < confidence, np.log(confidence)) for t in (1.0, 0.8)]
    file = io.BytesIO()
    reliability.draw(file, form, curves, group_by_confidence(confidence, {"chrf": 90 * confidence, "exact_match": 50 * confidence}))
    assert file.getvalue().startswith(head) and len(file.getvalue()) > 5000
