"""The matrix product against float64, and what its gradient multiplies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jaxprs import equations

from flax_s2s.model.product import Quantized, multiply, multiply_quantized, multiply_transposed, outer, product, quantize

SHAPES = {"rows": ((5, 3), (3, 4)), "time": ((2, 5, 3), (3, 4)), "beams": ((2, 2, 5, 3), (3, 4)), "a kernel each": ((2, 5, 3), (2, 3, 4))}
every_shape = pytest.mark.parametrize(("left", "kernel"), SHAPES.values(), ids=SHAPES)


def draw(*shapes, dtype=jnp.float32):
    draws = np.random.default_rng(0)
    return [jnp.asarray(draws.normal(size=shape), dtype) for shape in shapes]


def exact(array):
    return np.asarray(array, np.float64)


@every_shape
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_product_and_gradient(left, kernel, dtype, tolerance):
    features, kernels, asked = draw(left, kernel, (*left[:-1], kernel[-1]))
    features = features.astype(dtype)
    found = product(features, kernels)
    gradients = jax.grad(lambda features, kernels: jnp.sum(asked * product(features, kernels)), argnums=(0, 1))(features, kernels)
    assert (found.dtype, gradients[0].dtype, gradients[1].dtype) == (jnp.float32, features.dtype, jnp.float32)
    assert reference.error(found, exact(features) @ exact(kernels)) <= tolerance
    assert reference.error(gradients[0], exact(asked) @ np.swapaxes(exact(kernels), -1, -2)) <= tolerance
    by_kernel = "bki,bko->bio" if len(kernel) == 3 else "ni,no->io"
    flat = (exact(features), exact(asked)) if len(kernel) == 3 else (exact(features).reshape(-1, 3), exact(asked).reshape(-1, 4))
    assert reference.error(gradients[1], np.einsum(by_kernel, *flat)) <= tolerance


@every_shape
def test_under_bfloat16_no_product_has_a_float32_factor(left, kernel):
    features, kernels = draw(left, kernel)
    program = jax.make_jaxpr(jax.grad(lambda *both: jnp.sum(product(both[0].astype("bfloat16"), both[1]) ** 2), argnums=(0, 1)))(
        features, kernels
    )
    products = [equation for equation, _ in equations(program.jaxpr) if equation.primitive.name == "dot_general"]
    assert len(products) == 3
    assert {variable.aval.dtype.name for equation in products for variable in equation.invars} == {"bfloat16"}
    assert {equation.outvars[0].aval.dtype.name for equation in products} == {"float32"}


def test_a_kernels_gradient_does_not_stop_growing():
    """4,096 rows of 1/16 times 1/16: a bfloat16 sum would stop at 1."""
    rows = jnp.full((4096, 1), 1 / 16, jnp.bfloat16)
    assert outer(rows, rows).item() == 16
    kernel = jax.grad(lambda kernel: jnp.sum(product(rows, kernel)) / 16)(jnp.zeros((1, 1)))
    assert kernel.item() == 16


@every_shape
def test_the_transposed_product(left, kernel):
    features, kernels = draw((*left[:-1], kernel[-1]), kernel)
    want = multiply(features, jnp.swapaxes(kernels, -1, -2))
    assert reference.error(multiply_transposed(features, kernels), want) <= 1e-6


@pytest.mark.parametrize("rows", [0, 1, 7, 8])
def test_outer_of_any_number_of_rows(rows):
    left, right = draw((rows, 3), (rows, 4))
    assert reference.error(outer(left, right), exact(left).T @ exact(right)) <= 1e-6


# Whole numbers


def rounded(array, axis):
    """In 127 steps of the largest number along an axis, literally; and how large a step is."""
    array = np.asarray(array, np.float64)
    largest = np.abs(array).max(axis=axis, keepdims=True)
    size = np.where(largest > 0, largest, 1.0) / 127
    return np.rint(array / size), size


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_of_whole_numbers_is_that_of_the_rounded_factors(seed, dtype):
    """By a loop in float64; and within half a step of each factor of the product itself."""
    draws = np.random.default_rng(seed)
    left = jnp.asarray(draws.normal(size=(2, 5, 40)) * draws.lognormal(size=(2, 5, 1)), dtype)
    kernel = jnp.asarray(draws.normal(size=(40, 30)) * draws.lognormal(size=30), jnp.float32)
    made = quantize(kernel)
    found = np.asarray(multiply_quantized(left, made), np.float64)
    steps, size = rounded(kernel, 0)
    assert (made.steps.dtype, found.shape) == (jnp.int8, (2, 5, 30))
    assert (np.abs(np.asarray(made.steps) - steps) <= 1).all()  # where it lies between two
    assert (np.asarray(made.steps) != steps).mean() < 0.01
    rows, row_size = rounded(left, -1)
    np.testing.assert_allclose(
        found, rows @ np.asarray(made.steps, np.float64) * row_size * size, rtol=2e-2, atol=row_size.max() * size.max()
    )
    off = np.abs(found - exact(left) @ exact(kernel))
    assert (
        off <= 40 * 0.51 * (row_size * np.abs(exact(kernel)).max(axis=0) + np.abs(exact(left)).max(axis=-1, keepdims=True) * size)
    ).all()
    assert off.max() > 0  # it was rounded


def test_a_row_of_whole_numbers_depends_on_no_other():
    """Bitwise, also beside rows a million times as large, and at sizes at which products have their fast kernels."""
    draws = np.random.default_rng(0)
    made = quantize(jnp.asarray(draws.normal(size=(512, 600)), jnp.float32))
    left = jnp.asarray(draws.normal(size=(320, 512)), jnp.float32).at[::7].multiply(1e6)
    together = np.asarray(jax.jit(multiply_quantized)(left, made))
    for rows in ([0], [1, 3], range(5, 60), range(0, 320, 2)):
        assert (np.asarray(jax.jit(multiply_quantized)(left[np.array(rows)], made)) == together[list(rows)]).all()


def test_rows_and_columns_of_zeros_stay_zeros():
    made = quantize(jnp.zeros((3, 2)).at[:, 0].set(2.0))
    found = np.asarray(multiply_quantized(jnp.zeros((2, 3)).at[0].set(1.0), made))
    assert found.tolist() == [[6.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_rounded_to_what_is(bad):
    found = multiply_quantized(jnp.ones((2, 3)).at[0, 1].set(bad), Quantized(jnp.ones((3, 2), jnp.int8), jnp.ones(2)))
    assert not np.isfinite(found[0]).any()
    np.testing.assert_allclose(found[1], 3.0, rtol=1e-6)
