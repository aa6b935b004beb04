"""A loop over time whose weights' gradients are computed after the loop.

Enters: a step, the kernels it multiplies with, and what it reads. Leaves: what `lax.scan` would return.

Left to autodiff, the backward loop carries an array as large as each kernel and adds a small product to it at every
step. Here it only emits the gradients of the products' results; with the left factors, saved on the way forward, each
kernel's gradient is then one large product over all steps.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from flax_s2s.model import product as products
from flax_s2s.model.product import Quantized

Kernels = Mapping[str, Array]
Multiply = Callable[[str, Array], Array]
Step = Callable[[Multiply, Any, Any, Any], tuple[Any, Any]]


def multiply_by(kernels: Mapping[str, Array | Quantized]) -> Multiply:
    """`multiply(name, left)` is `left @ kernels[name]` in float32; a kernel is `[inp out]`, or one for each row, `[batch inp out]`."""

    def multiply(name: str, left: Array) -> Array:
        kernel = kernels[name]
        return products.multiply_quantized(left, kernel) if isinstance(kernel, Quantized) else products.product(left, kernel)

    return multiply


@partial(jax.custom_vjp, nondiff_argnums=(0, 5))
def scan(step: Step, kernels: Kernels, constants: Any, carry: Any, inputs: Any, recompute: bool = False) -> tuple[Any, Any]:
    """`lax.scan` of `step(multiply, constants, carry, input) -> (carry, output)`.

    Args:
        step: calls `multiply(name, left)` at most once for each kernel, `left` being `[batch beam inp]`.
        kernels: what it multiplies with, by name, see `multiply_by`.
        constants: whatever else of the surroundings needs a gradient; theirs is summed up inside the loop in their own type, so
            nothing large, and in float32.
        carry: as in `lax.scan`.
        inputs: as in `lax.scan`: time first.
        recompute: keep only carries and the left factors of the products, and run each step again for the gradient; else everything
            that a step computes is kept.
    """
    return lax.scan(partial(step, multiply_by(kernels), constants), carry, inputs)


def _forward(step: Step, kernels: Kernels, constants: Any, carry: Any, inputs: Any, recompute: bool) -> tuple[Any, Any]:
    first = jax.tree.map(lambda leaf: leaf[0], inputs)
    steps = jax.tree.leaves(inputs)[0].shape[0]
    _, traced, results = jax.eval_shape(lambda *now: _trace(step, kernels, None, *now)[1], constants, carry, first)
    taps = jax.tree.map(lambda shape: jnp.zeros((steps, *shape.shape), shape.dtype), results)
    narrow = {name: kernel.astype(traced[name].dtype) for name, kernel in kernels.items()}  # once, not at every step

    def run(constants: Any, carry: Any, inputs: Any, taps: Any) -> Any:
        def tapped_step(carry: Any, now: Any) -> tuple[Any, Any]:
            carry, (output, lefts, _) = _trace(step, narrow, now[1], constants, carry, now[0])
            return carry, (output, lefts)

        body = jax.checkpoint(tapped_step, prevent_cse=False) if recompute else tapped_step  # a loop has nothing in common
        carry, (outputs, lefts) = lax.scan(body, carry, (inputs, taps))
        return (carry, outputs), lefts

    result, pull_back, lefts = jax.vjp(run, constants, carry, inputs, taps, has_aux=True)
    return result, (pull_back, lefts, kernels)


def _trace(step: Step, kernels: Kernels, taps: Any, constants: Any, carry: Any, now: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """One step that also returns the left factors and the results of its products."""
    lefts, results = {}, {}

    def multiply(name: str, left: Array) -> Array:
        lefts[name] = left
        results[name] = _tapped(left, kernels[name], taps[name]) if taps else products.multiply(left, kernels[name])
        return results[name]

    carry, output = step(multiply, constants, carry, now)
    return carry, (output, lefts, results)


@jax.custom_vjp
def _tapped(left: Array, kernel: Array, tap: Array) -> Array:
    """The product; `tap` stands for its result and receives the result's gradient in place of the kernel."""
    return products.multiply(left, kernel)


def _tapped_backward(saved: tuple[Array], gradient: Array) -> tuple[Any, ...]:
    (kernel,) = saved
    narrow = gradient.astype(kernel.dtype)
    return products.multiply_transposed(narrow, kernel).astype(kernel.dtype), None, gradient


_tapped.defvjp(lambda left, kernel, tap: (products.multiply(left, kernel), (kernel,)), _tapped_backward)


def _backward(step: Step, recompute: bool, saved: Any, gradient: Any) -> tuple[Any, ...]:
    pull_back, lefts, kernels = saved
    d_constants, d_carry, d_inputs, d_results = pull_back(gradient)

    def d_kernel(left: Array, result: Array, kernel: Array) -> Array:
        narrow = result.astype(left.dtype)
        if kernel.ndim == 2:
            return products.outer(left, narrow).astype(kernel.dtype)
        return jnp.einsum("tbki,tbko->bio", left, narrow, preferred_element_type=jnp.float32).astype(kernel.dtype)

    d_kernels = {name: d_kernel(lefts[name], d_results[name], kernel) for name, kernel in kernels.items()}
    return d_kernels, d_constants, d_carry, d_inputs


scan.defvjp(_forward, _backward)
