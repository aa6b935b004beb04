"""The matrix product: factors as narrow as the model computes, sums in float32, and a gradient that keeps to both.

Enters: features and a kernel. Leaves: their product in float32.

Left to autodiff, the gradient of a bfloat16 product multiplies its float32 gradient with bfloat16, which runs at the speed of
float32 or below. On CPUs XLA multiplies bfloat16 as such (twice as fast) only where the sums are float32, the left factor is
contracted over its last axis, and no transposition stands beside the product: hence the forms of the three products here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

_MOST_STEPS = 127  # of int8, to either side


def multiply(left: Float[Array, "*rows inp"], kernel: Float[Array, "*batch inp out"]) -> Float[Array, "*rows out"]:
    """`left @ kernel` as jax differentiates it; for what has a gradient of its own, or needs none."""
    return jnp.matmul(left, kernel.astype(left.dtype), preferred_element_type=jnp.float32)


class Quantized(NamedTuple):
    """A kernel in int8, for what needs no gradient: each column is whole steps of a size of its own."""

    steps: Int8[Array, "inp out"]
    size: Float[Array, " out"]


def quantize(kernel: Float[Array, "inp out"]) -> Quantized:
    """The kernel in int8; a column's largest number is 127 steps."""
    largest = jnp.abs(kernel).max(axis=0)
    size = jnp.where(largest > 0, largest, 1.0) / _MOST_STEPS
    return Quantized(jnp.round(kernel / size[None, :]).astype(jnp.int8), size)


def multiply_quantized(left: Float[Array, "*rows inp"], kernel: Quantized) -> Float[Array, "*rows out"]:
    """`left @ kernel` in whole numbers, whose sums are exact in any order.

    Each row of `left` is rounded to 127 steps of a size of its own, so that its product depends on no other row.
    """
    rows = left.astype(jnp.float32)
    size = jnp.maximum(jnp.abs(rows).max(axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny * _MOST_STEPS) / _MOST_STEPS
    sums = jnp.matmul(jnp.round(rows / size).astype(jnp.int8), kernel.steps, preferred_element_type=jnp.int32)
    sizes = size * kernel.size.reshape((1,) * (rows.ndim - 1) + (-1,))
    return lax.optimization_barrier(sums).astype(jnp.float32) * sizes  # who reads them shall multiply as it reads


def multiply_transposed(left: Float[Array, "*rows out"], kernel: Float[Array, "*batch inp out"]) -> Float[Array, "*rows inp"]:
    """`left @ kernel^T` in float32."""
    contracted = (((left.ndim - 1,), (kernel.ndim - 1,)), ((0,), (0,)) if kernel.ndim > 2 else ((), ()))
    return lax.dot_general(left, kernel.astype(left.dtype), contracted, preferred_element_type=jnp.float32)


@jax.custom_vjp
def product(left: Float[Array, "*rows inp"], kernel: Float[Array, "*batch inp out"]) -> Float[Array, "*rows out"]:
    """`left @ kernel` in float32; the kernel, one for all or one for each row of the batch, is rounded to the type of `left`.

    The gradient of the kernel is summed in float32, and rounded only where the kernel itself came rounded.
    """
    return multiply(left, kernel)


def outer(left: Float[Array, "*rows inp"], right: Float[Array, "*rows out"]) -> Float[Array, "inp out"]:
    """The sum over all rows of `left^T right`, in float32: a kernel's gradient."""
    return jnp.einsum("abi,abo->io", _rows_by_two(left), _rows_by_two(right), preferred_element_type=jnp.float32)


def _rows_by_two(features: Array) -> Array:
    """With two axes of rows: the factors of a product over two axes XLA brings into order itself."""
    if features.ndim == 2:
        return features.reshape(2 - features.shape[0] % 2, -1, features.shape[-1])
    return features.reshape(features.shape[0], -1, features.shape[-1])


def _forward(left: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return multiply(left, kernel), (left, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    left, kernel = saved
    narrow = gradient.astype(left.dtype)
    d_left = multiply_transposed(narrow, kernel).astype(left.dtype)
    if kernel.ndim == 2:
        return d_left, outer(left, narrow).astype(kernel.dtype)
    return d_left, jnp.einsum("bki,bko->bio", left, narrow, preferred_element_type=jnp.float32).astype(kernel.dtype)


product.defvjp(_forward, _backward)
