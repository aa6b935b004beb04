"""Copying: against a literal version, with all gradients; and what a search and a forced score make of it."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from flax_s2s.config import EOS, PAD, UNK, ModelConfig
from flax_s2s.data.batching import pad
from flax_s2s.model.copying import Pointer, as_targets, extend, point
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.training import loss
from flax_s2s.training.loss import cross_entropy
from flax_s2s.training.step import batch_loss, mix_inputs

SMALL = ModelConfig(embedding_size=3, hidden_size=2, copy=True, compute="float32")
VOCAB, FEATURES, SRC, TGT = 7, 2, 5, 4
CONFIGS = {
    "general": SMALL,
    "additive, feeding, all tied": replace(SMALL, attention="additive", input_feeding=True, tie="all", decoder_layers=2),
    "dot, reversed, tied": replace(SMALL, attention="dot", reverse_source=True, tie="softmax", bidirectional_layers=0),
    "general, feeding features, reversed": replace(
        SMALL, feed_features=True, input_feeding=True, reverse_source=True, bidirectional_layers=0
    ),
    "additive, feeding features, all tied": replace(SMALL, feed_features=True, attention="additive", tie="all"),
    "gru, feeding": replace(SMALL, cell="gru", input_feeding=True, recompute=True),
}


def draw_ids(seed, rows=5):
    """Sources with features and with symbols that the vocabulary lacks, numbered from VOCAB + FEATURES on; targets that copy some."""
    rng, sources, targets = np.random.default_rng(seed), [], []
    for _ in range(rows):
        length = int(rng.integers(0, SRC - 1))
        lacking = list(rng.permutation(np.sort(rng.integers(0, 2, length))))
        seen = {one: number for number, one in enumerate(dict.fromkeys(lacking))}
        words = [rng.integers(UNK, VOCAB) if rng.random() < 0.5 else VOCAB + FEATURES + seen[one] for one in lacking]
        words = [VOCAB + rng.integers(FEATURES), *words] if rng.random() < 0.5 and length < SRC - 1 else words
        beyond = sorted({int(word) - FEATURES for word in words if word >= VOCAB + FEATURES})
        sources.append([*words, EOS])
        targets.append([*rng.choice([*range(UNK, VOCAB), *beyond, *beyond], rng.integers(0, TGT)), EOS])
    sources[0], targets[0] = [], []  # a filler row
    return pad([np.array(row) for row in sources], len(sources), SRC), pad([np.array(row) for row in targets], len(targets), TGT)


@cache
def draw_params(name):
    shapes = jax.eval_shape(lambda: init_params(CONFIGS[name], VOCAB + FEATURES, VOCAB, jax.random.key(0)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(np.float32), shapes)


def model(name):
    return make_model(CONFIGS[name], VOCAB + FEATURES, VOCAB)


@cache
def gradients_of(name):
    @jax.jit
    def run(params, batch):
        found = partial(batch_loss, model(name), batch=batch, smoothing=0.1)
        return jax.grad(lambda params: found(params).smoothed)(params), found(params)

    return run


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_the_literal_model(name, seed):
    batch = draw_ids(seed)
    want = reference.copying_loss(CONFIGS[name], reference.wide(draw_params(name)), *batch, 0.1)
    np.testing.assert_allclose(np.array(gradients_of(name)(draw_params(name), batch)[1]), want, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_gradients_are_finite_differences_of_the_literal_model(name):
    batch = draw_ids(7)
    assert (batch[1] >= VOCAB).any()
    assert (batch[0] >= VOCAB + FEATURES).any()
    found = gradients_of(name)(draw_params(name), batch)[0]
    reference.assert_gradients(lambda params: reference.copying_loss(CONFIGS[name], params, *batch, 0.1)[0], draw_params(name), found, 2e-5)


def draw(seed, tgt=3):
    """Log-probabilities, gate, attention, and which tokens of the target those of the source are: symbols 0 and 1 are lacking."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(3 * rng.normal(size=(4, tgt, VOCAB)), jnp.float32)
    weights = rng.dirichlet(np.ones(SRC), (4, tgt)).astype(np.float32)
    tokens = np.where(rng.random((4, SRC)) < 0.6, rng.integers(UNK + 1, VOCAB + 2, (4, SRC)), PAD)
    tokens[0], tokens[1] = PAD, np.maximum(tokens[1], UNK + 1)  # one of which nothing can be copied, and one of which all can
    gate = jnp.asarray(4 * rng.normal(size=(4, tgt)), jnp.float32)
    return jax.nn.log_softmax(logits), gate, jnp.asarray(weights), jnp.asarray(tokens, jnp.int32)


@pytest.mark.parametrize("seed", range(5))
def test_all_that_can_be_said_has_a_probability_of_one(seed):
    logp, *copying = draw(seed)
    found, copied = extend(logp, *copying)
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[0, :, :VOCAB], logp[0], rtol=1e-5)  # nothing can be copied: as it is generated
    assert np.isneginf(found[0, :, VOCAB:]).all()
    assert not np.any(copied[0])
    for label in range(UNK, VOCAB + 2):
        labels = jnp.full(logp.shape[:2], label)
        by_point = point(*copying, labels)
        generated = by_point.generated + logp[:, :, label] if label < VOCAB else -jnp.inf
        want = np.asarray(found[:, :, label])
        np.testing.assert_allclose(
            np.maximum(jnp.logaddexp(generated, by_point.copied), -1e20), np.maximum(want, -1e20), rtol=2e-4, atol=1e-5
        )


def test_attention_that_is_nothing_and_gates_that_are_shut_stay_finite():
    logp, _, weights, tokens = draw(0)
    nothing = jnp.zeros_like(weights).at[:, :, 0].set(1.0)
    readouts, table = jnp.ones((4, 3, 2)), jnp.ones((VOCAB, 2))

    def objective(gate, weights):
        pointer = point(gate, weights, tokens, jnp.full((4, 3), tokens[2, -1]))
        return cross_entropy(readouts, table, jnp.zeros(VOCAB), jnp.full((4, 3), jnp.maximum(tokens[2, -1], 4)), 0.1, pointer).smoothed

    for gate in (-1e4, 1e4):
        assert np.isfinite(extend(logp, jnp.full((4, 3), gate), nothing, tokens)[0]).any(axis=-1).all()
        for found in jax.grad(objective, argnums=(0, 1))(jnp.full((4, 3), gate), nothing):
            assert np.isfinite(found).all()


def test_chunks_and_padding_left_out_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    labels = jnp.asarray(rng.integers(0, VOCAB + 2, (5, 6)), jnp.int32)
    pointer = Pointer(*(jnp.asarray(np.log(rng.uniform(0.1, 0.9, (5, 6))), jnp.float32) for _ in range(2)))
    parts = (jnp.asarray(rng.normal(size=(5, 6, 4)), jnp.float32), jnp.asarray(rng.normal(size=(VOCAB, 4)), jnp.float32), jnp.ones(VOCAB))

    def run():
        return jax.jit(jax.value_and_grad(lambda given: cross_entropy(*given[:3], labels, 0.1, given[3]).smoothed))((*parts, pointer))

    want = run()
    for large, chunk in ((0, 1 << 24), (1 << 60, 7 * VOCAB), (0, 7 * VOCAB)):
        monkeypatch.setattr(loss, "_LARGE", large)
        monkeypatch.setattr(loss, "_CHUNK_LOGITS", chunk)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), run(), want)


def test_which_tokens_can_be_copied():
    """Words as themselves, what the vocabulary lacks as what follows it; neither marks nor features nor padding."""
    src_ids = jnp.array([[VOCAB, UNK, 4, VOCAB + FEATURES, 6, VOCAB + FEATURES + 1, EOS, PAD]])
    assert as_targets(src_ids, (VOCAB + FEATURES, VOCAB)).tolist() == [[PAD, PAD, 4, VOCAB, 6, VOCAB + 1, PAD, PAD]]


def test_scheduled_sampling_reads_what_would_be_copied():
    """A model that copies alone, and looks nowhere in particular, says what its source has most of."""
    name = "general"
    params = jax.tree.map(jnp.zeros_like, draw_params(name)) | {"copy_bias": jnp.float32(20.0)}
    src_ids = jnp.array([[4, 9, 9, 5, EOS], [6, 5, 5, 4, EOS]])
    tgt_ids = jnp.array([[4, 5, 6, EOS], [4, 5, 6, EOS]])
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 2))
    found = mix_inputs(model(name), params, (src_ids, tgt_ids), keys, jnp.float32(1.0))
    assert found.tolist() == [[1, 7, 7, 7], [1, 5, 5, 5]]
