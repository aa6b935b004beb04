"""The loss against loops in float64, its own gradient against plain autodiff, in one chunk and in several."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from flax_s2s.training import loss
from flax_s2s.training.loss import cross_entropy

ROWS, TGT, READOUT, VOCAB = 3, 5, 4, 11


def draw(seed, dtype=np.float32):
    """Readouts, table, bias and target ids with PAD (0) at the ends and in the middle, and a row of PAD alone."""
    draws = np.random.default_rng(seed)
    tgt_ids = draws.integers(1, VOCAB, (ROWS, TGT)).astype(np.int32)
    tgt_ids[0, 3:], tgt_ids[1, 1], tgt_ids[2] = 0, 0, 0 if seed % 2 else tgt_ids[2]
    shapes = (ROWS, TGT, READOUT), (VOCAB, READOUT), (VOCAB,)
    readouts, table, bias = (draws.normal(size=shape).astype(np.float32) for shape in shapes)
    return (jnp.asarray(readouts, dtype), jnp.asarray(table), jnp.asarray(bias)), jnp.asarray(tgt_ids)


def evaluate(inputs, tgt_ids, smoothing):
    """The loss and the gradients of 1.5 times its smoothed sum; compiled anew, since a test changes the size of a chunk."""

    @jax.jit
    def run(inputs):
        def objective(inputs):
            found = cross_entropy(*inputs, tgt_ids, smoothing)
            return 1.5 * found.smoothed, found

        return jax.grad(objective, has_aux=True)(inputs)

    gradients, found = run(inputs)
    return found, gradients


def assert_sums(found, want, tolerance=1e-6):
    assert np.asarray(found) == pytest.approx(np.asarray(want), rel=tolerance)


@partial(jax.jit, static_argnums=2)
def plain_gradients(inputs, tgt_ids, smoothing):
    """Of the textbook formula, by autodiff, all logits at once."""

    def objective(inputs):
        readouts, table, bias = inputs
        logp = jax.nn.log_softmax(readouts @ table.T + bias[None, None, :])
        wanted = (1 - smoothing) * jax.nn.one_hot(tgt_ids, VOCAB) + smoothing / VOCAB
        return -1.5 * jnp.sum(jnp.where(tgt_ids[:, :, None] != 0, wanted * logp, 0))

    return jax.grad(objective)(inputs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_match_the_reference(smoothing):
    for seed in range(2):
        inputs, tgt_ids = draw(seed)
        want = reference.cross_entropy(*(np.asarray(part, np.float64) for part in inputs), np.asarray(tgt_ids), smoothing)
        assert_sums(evaluate(inputs, tgt_ids, smoothing)[0], want)
        assert want[0] == pytest.approx(want[1]) if smoothing == 0 else want[0] != want[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_own_gradient_is_that_of_plain_autodiff(smoothing):
    for seed in range(2):
        inputs, tgt_ids = draw(seed)
        for got, want in zip(evaluate(inputs, tgt_ids, smoothing)[1], plain_gradients(inputs, tgt_ids, smoothing), strict=True):
            assert reference.error(got, want) <= 1e-6


def test_gradients_match_finite_differences_of_the_reference():
    inputs, tgt_ids = draw(1)
    arrays = {name: np.asarray(part, np.float64) for name, part in zip(("readouts", "table", "bias"), inputs, strict=True)}
    want = reference.gradients(lambda **at: 1.5 * reference.cross_entropy(**at, tgt_ids=np.asarray(tgt_ids), smoothing=0.1)[0], arrays)
    for got, name in zip(evaluate(inputs, tgt_ids, 0.1)[1], arrays, strict=True):
        assert reference.error(got, want[name]) <= 1e-5, name


# 15 tokens: chunks of 1, of 4 (one place of 16 is filled up), of 5, of 8 (two of 8); of less than a token's logits: 1.
@pytest.mark.parametrize("chunk_tokens", [0.5, 1, 4, 5, 14])
def test_chunks_change_nothing(chunk_tokens, monkeypatch):
    inputs, tgt_ids = draw(0)
    want, want_gradients = evaluate(inputs, tgt_ids, 0.1)
    monkeypatch.setattr(loss, "_CHUNK_LOGITS", int(chunk_tokens * VOCAB))
    assert max(logits_shapes(inputs, tgt_ids)) == (max(1, {14: 8}.get(chunk_tokens, int(chunk_tokens))), VOCAB)
    found, gradients = evaluate(inputs, tgt_ids, 0.1)
    assert_sums(found, want)
    for got, wanted in zip(gradients, want_gradients, strict=True):
        assert reference.error(got, wanted) <= 1e-6
    # Without a gradient another loop runs.
    assert_sums(jax.jit(cross_entropy, static_argnums=4)(*inputs, tgt_ids, 0.1), want)


@pytest.mark.parametrize("real", [0.0, 0.1, 0.5, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("chunk_tokens", [7, 1000])
def test_leaving_padding_out_changes_nothing(real, chunk_tokens, monkeypatch):
    """On a CPU a chunk is cut down to its real tokens where the table is large; on accelerators it is not."""
    monkeypatch.setattr(loss, "_LARGE", 0)
    monkeypatch.setattr(loss, "_CHUNK_LOGITS", chunk_tokens * VOCAB)
    inputs, tgt_ids = draw(3)
    tgt_ids = jnp.where(np.random.default_rng(0).random(tgt_ids.shape) < real, jnp.maximum(tgt_ids, 1), 0)
    found, gradients = evaluate(inputs, tgt_ids, 0.1)
    monkeypatch.setattr(loss, "_LARGE", 1 << 60)
    want, want_gradients = evaluate(inputs, tgt_ids, 0.1)
    assert_sums(found, want)
    for got, wanted in zip(gradients, want_gradients, strict=True):
        assert reference.error(got, wanted) <= 1e-6


def test_a_cpu_computes_no_logits_of_most_padding_where_the_table_is_large(monkeypatch):
    (_, table, bias), _ = draw(0)
    inputs = (jnp.ones((8, 16, READOUT)), table, bias)
    ids = jnp.ones((8, 16), jnp.int32)
    assert logits_shapes(inputs, ids) == {(128, VOCAB)}
    monkeypatch.setattr(loss, "_LARGE", table.size)
    assert {rows for rows, _ in logits_shapes(inputs, ids)} == {0, 64, 96, 112, 128}


def logits_shapes(inputs, tgt_ids):
    """Shapes of everything in the program whose last axis is the vocabulary, but for table and bias."""
    program = str(jax.make_jaxpr(lambda inputs: cross_entropy(*inputs, tgt_ids, 0.1))(inputs))
    return {(size, VOCAB) for size in range(tgt_ids.size + 1) if f"f32[{size},{VOCAB}] = dot_general" in program}


def test_pad_has_no_part_in_the_loss():
    (readouts, table, bias), tgt_ids = draw(0)
    found, gradients = evaluate((readouts, table, bias), tgt_ids, 0.1)
    real = tgt_ids != 0
    assert found.tokens == real.sum()
    assert not np.any(np.asarray(gradients[0])[~real]) and np.all(np.any(np.asarray(gradients[0])[real], axis=-1))
    other = evaluate((jnp.where(real[:, :, None], readouts, 7.0), table, bias), tgt_ids, 0.1)
    np.testing.assert_array_equal(jax.tree.leaves(other[0]), jax.tree.leaves(found))
    for got, want in zip(other[1], gradients, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_batch_of_pad_alone_is_zero():
    inputs, tgt_ids = draw(0)
    found, gradients = evaluate(inputs, jnp.zeros_like(tgt_ids), 0.1)
    assert found == (0, 0, 0)
    assert not any(np.any(gradient) for gradient in gradients)  # NaN counts as true


def test_large_logits_stay_finite():
    (readouts, table, bias), tgt_ids = draw(0)
    found, gradients = evaluate((1e4 * readouts, table, bias), tgt_ids, 0.1)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((found, gradients)))


def test_plain_sum_has_no_gradient():
    inputs, tgt_ids = draw(0)
    gradients = jax.jit(jax.grad(lambda inputs: cross_entropy(*inputs, tgt_ids, 0.1).plain))(inputs)
    assert not any(np.any(gradient) for gradient in gradients)


def test_bfloat16_readouts():
    inputs, tgt_ids = draw(0, jnp.bfloat16)
    found, gradients = evaluate(inputs, tgt_ids, 0.1)
    full, _ = draw(0)
    want, want_gradients = evaluate(full, tgt_ids, 0.1)
    assert [part.dtype.name for part in found] == ["float32"] * 3
    assert [part.dtype.name for part in gradients] == ["bfloat16", "float32", "float32"]
    assert_sums(found, want, 1e-2)
    for got, wanted in zip(gradients, want_gradients, strict=True):
        assert reference.error(got, wanted) <= 2e-2
