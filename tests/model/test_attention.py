"""Attention against loops in float64: three scores, masked positions, rows without any real position."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from flax_s2s.model.attention import Attention, Covered, _additive, masked_softmax

SCORES = ("dot", "general", "additive")
ROWS, TGT, SRC, QUERY, MEMORY, HIDDEN = 3, 2, 5, 4, 3, 6
LENGTHS = np.array([5, 2, 0])  # the last row is filler
MASK = jnp.arange(SRC)[None, :] < LENGTHS[:, None]


def draw(score, seed):
    """Queries, memory and weights; a dot product needs both of one size."""
    draws, memory = np.random.default_rng(seed), QUERY if score == "dot" else MEMORY
    shapes = {
        "dot": {},
        "general": {"kernel_key": (memory, QUERY)},
        "additive": {"kernel_key": (memory, HIDDEN), "kernel_query": (QUERY, HIDDEN), "vector": (HIDDEN,)},
    }[score]
    weights = {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return draws.normal(size=(ROWS, TGT, QUERY)).astype(np.float32), draws.normal(size=(ROWS, SRC, memory)).astype(np.float32), weights


def graph(score, memory):
    init = nnx.initializers.lecun_normal()
    return nnx.graphdef(nnx.eval_shape(lambda: Attention(score, QUERY, memory, HIDDEN, kernel_init=init, rngs=nnx.Rngs(params=0))))


@partial(jax.jit, static_argnames=("score", "dtype"))
def attend(score, queries, memory, weights, mask, asked, dtype="float32"):
    """Contexts and weights, and the gradient of `sum(asked * contexts)` with respect to queries, memory and weights."""

    def loss(queries, memory, weights):
        attention, memory = nnx.merge(graph(score, memory.shape[-1]), weights), memory.astype(dtype)
        contexts, shares = attention(queries.astype(dtype), attention.keys(memory), memory, mask)
        return jnp.sum(asked * contexts), (contexts, shares)

    gradients, found = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(queries, memory, weights)
    return found, {"queries": gradients[0], "memory": gradients[1], **gradients[2]}


def test_the_additive_scores_gradient_survives_bfloat16():
    """While attention is even, a query's gradient is a difference of near equals: rounded inside, it would be noise."""
    draws = np.random.default_rng(0)
    rows, tgt, src, size = 4, 12, 20, 64
    init = nnx.initializers.glorot_uniform()
    attention = Attention("additive", size, size, size, kernel_init=init, rngs=nnx.Rngs(params=0))
    definition, weights = nnx.split(attention)
    queries, memory, asked = (0.2 * draws.normal(size=(rows, length, size)).astype(np.float32) for length in (tgt, src, tgt))

    @partial(jax.jit, static_argnames="dtype")
    def gradient(weights, dtype):
        def loss(weights):
            attention, cast = nnx.merge(definition, weights), jnp.asarray(memory, dtype)
            contexts, _ = attention(jnp.asarray(queries, dtype), attention.keys(cast), cast, jnp.ones((rows, src), bool))
            return jnp.sum(asked * contexts)

        return nnx.to_pure_dict(jax.grad(loss)(weights))

    rounded, exact = gradient(weights, "bfloat16"), gradient(weights, "float32")
    for name, want in exact.items():
        assert np.linalg.norm(rounded[name] - want) <= 0.05 * np.linalg.norm(want), name


@pytest.mark.parametrize("coverage", [False, True])
def test_the_additive_scores_keep_no_tanh_of_all_pairs(coverage):
    rows, tgt, src, size = 2, 64, 64, 64
    shapes = (rows, tgt, size), (rows, src, size), (size,)
    arguments = [*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes), None]
    if coverage:
        arguments[3] = Covered(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, tgt, src), (size,))))
    program = jax.jit(jax.grad(lambda *given: jnp.sum(_additive(*given) ** 2), argnums=(0, 1, 2, 3))).lower(*arguments).compile()
    kept = jax.eval_shape(lambda *given: jax.vjp(_additive, *given)[1], *arguments)
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) <= rows * tgt * size
    assert program.memory_analysis().temp_size_in_bytes <= 3 * rows * tgt * src * (size + 2) * 4  # in the gradient itself


@pytest.mark.parametrize("score", SCORES)
def test_scores_match_the_reference(score):
    for seed in range(3):
        queries, memory, weights = draw(score, seed)
        asked = np.random.default_rng(seed).normal(size=(ROWS, TGT, memory.shape[-1]))
        (contexts, shares), gradients = attend(score, queries, memory, weights, MASK, asked.astype(np.float32))

        def loss(queries, memory, asked=asked, **weights):
            return np.sum(asked * reference.attention(score, queries, memory, MASK, **weights)[0])

        arrays = {name: array.astype(np.float64) for name, array in {"queries": queries, "memory": memory, **weights}.items()}
        want_contexts, want_shares = reference.attention(score, mask=MASK, **arrays)
        assert reference.error(contexts, want_contexts) <= 1e-5
        assert reference.error(shares, want_shares) <= 1e-5
        for name, want in reference.gradients(loss, arrays).items():
            assert reference.error(gradients[name], want) <= 2e-5, name


@pytest.mark.parametrize("score", SCORES)
def test_weights_are_zero_where_padded_and_sum_to_one_elsewhere(score):
    queries, memory, weights = draw(score, 4)
    (contexts, shares), gradients = attend(score, 30 * queries, memory, weights, MASK, np.ones_like(memory[:, :TGT]))
    shares = np.asarray(shares)
    assert not np.any(shares[1, :, 2:]) and not np.any(shares[2])
    np.testing.assert_allclose(shares[:2].sum(axis=-1), 1, rtol=1e-6)
    assert not np.any(contexts[2]) and not np.any(gradients["queries"][2]) and not np.any(gradients["memory"][2])
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("score", SCORES)
def test_bfloat16_keeps_float32_weights(score):
    queries, memory, weights = draw(score, 5)
    ones = np.ones_like(memory[:, :TGT])
    (want, want_shares), _ = attend(score, queries, memory, weights, MASK, ones)
    (contexts, shares), _ = attend(score, queries, memory, weights, MASK, ones, dtype="bfloat16")
    assert (contexts.dtype, shares.dtype) == (jnp.bfloat16, jnp.float32)
    assert reference.error(contexts, want) <= 5e-2
    assert reference.error(shares, want_shares) <= 5e-2


def test_softmax_survives_scores_near_the_largest_float():
    scores = jnp.array([[[3e38, -3e38, 0.0]], [[-3e38, -3e38, 3e38]], [[3e38, 3e38, 3e38]]])
    mask = jnp.array([[True, True, False], [True, True, False], [False, False, False]])
    np.testing.assert_array_equal(masked_softmax(scores, mask), [[[1, 0, 0]], [[0.5, 0.5, 0]], [[0, 0, 0]]])
    gradient = jax.grad(lambda s: masked_softmax(s, mask)[:, 0, 0].sum())(scores)
    assert jnp.isfinite(gradient).all()
