"""The matrix product against float64, and what its gradient multiplies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jaxprs import equations

from flax_s2s.model.product import multiply, multiply_transposed, outer, product

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
