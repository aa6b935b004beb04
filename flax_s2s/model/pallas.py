"""A layer over time by two kernels of our own, one for all steps forward and one for all steps backward: NVIDIA GPUs.

Enters and leaves what `together.read` does; numbers, what is kept for the gradient, and the gradient are those of the scan in
`lstm`. Both directions of a layer are in one kernel. Before the loop is one product with the input, after it one more for each direction.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_s2s.model.cells import Gates, State
from flax_s2s.model.kernels import ROWS, Backward, Forward, unroll_backward, unroll_forward
from flax_s2s.model.product import multiply, multiply_transposed, outer


def pallas_layer(
    layers: tuple[Gates, ...],
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None,
    initial: State,
    reverse: bool,
    keep: Float[Array, "batch dir hid"] | None,
) -> tuple[Float[Array, "batch time dir hid"], State]:
    """One direction, or two, the second of which reads backwards.

    Args:
        layers: the parameters of each direction; hid is a multiple of `config.TILE`.
        inputs: in the type of the matrix products.
        mask: real positions; at the others the state is held.
        initial: [batch dir hid].
        reverse: a single direction reads backwards.
        keep: what a hidden state is multiplied with on its way to the next step.

    Returns:
        Outputs at every position, and the final state [batch dir hid].
    """
    rows = inputs.shape[0]

    def filled(part: Array) -> Array:
        return jnp.pad(part, [(0, -rows % ROWS), *[(0, 0)] * (part.ndim - 1)])

    inputs, mask, initial, keep = jax.tree.map(filled, (inputs, mask, initial, keep)) if rows % ROWS else (inputs, mask, initial, keep)
    hidden, final = _layer(reverse, inputs, mask, initial, layers, keep)
    return hidden[:rows], jax.tree.map(lambda part: part[:rows], final)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(reverse: bool, inputs: Array, mask: Any, initial: State, layers: tuple[Gates, ...], keep: Any) -> tuple[Array, State]:
    """The layer; its gradient is `_backward`, which has none for `keep`."""
    return _forward(reverse, inputs, mask, initial, layers, keep)[0]


def _forward(reverse: bool, inputs: Any, mask: Any, initial: State, layers: tuple[Gates, ...], keep: Any) -> tuple[Any, Any]:
    kernel_in, kernel_rec, bias = _stacked(inputs.dtype, layers)
    (batch, time, _), hid = inputs.shape, kernel_rec.shape[1]
    entering = _kept(initial.hidden, keep)
    start = jnp.stack([multiply(entering[:, number], kernel) for number, kernel in enumerate(kernel_rec)], axis=1)
    unrolled = unroll_forward(
        Forward(
            projected=multiply(inputs, kernel_in).astype(inputs.dtype).reshape(batch, time, len(layers), 4, hid),
            start=start.reshape(batch, len(layers), 4, hid),
            bias=bias.reshape(len(layers), 4, hid),
            kernel=kernel_rec.reshape(len(layers), hid, 4, hid),
            initial=initial,
            real=_as_numbers(mask),
            keep=_narrow(keep, inputs.dtype),
        ),
        reverse,
    )
    states = State(unrolled.hidden, unrolled.cell)
    final = jax.tree.map(lambda part: _ends(reverse, part)[1], states)
    return (states.hidden, final), (inputs, unrolled.gates, states, mask, initial, layers, keep)


def _backward(reverse: bool, saved: Any, gradient: Any) -> tuple[Any, ...]:
    inputs, gates, states, mask, initial, layers, keep = saved
    d_hidden, d_final = gradient
    kernel_in, kernel_rec, _ = _stacked(inputs.dtype, layers)
    batch, time, directions, _, hid = gates.shape
    transposed = kernel_rec.swapaxes(1, 2)
    gradients = unroll_backward(
        Backward(
            gates=gates,
            cell=states.cell,
            initial_cell=initial.cell,
            transposed=transposed.reshape(directions, 4, hid, hid),
            d_hidden=d_hidden,
            d_final=State(d_final.hidden.astype(jnp.float32), d_final.cell),
            real=_as_numbers(mask),
            keep=_narrow(keep, inputs.dtype),
        ),
        reverse,
    )
    d_sums = gradients.sums.reshape(batch, time, directions, 4 * hid)
    first = _ends(reverse, d_sums)[0]
    through = jnp.stack([multiply(first[:, number], kernel) for number, kernel in enumerate(transposed)], axis=1)
    d_initial = _kept(through, keep) + gradients.held[:, time % 2]
    entered = _kept(_before(reverse, states.hidden, initial.hidden), None if keep is None else keep[:, None])
    d_layers = tuple(_gradient(inputs, entered[:, :, number], d_sums[:, :, number]) for number in range(directions))
    d_inputs = multiply_transposed(d_sums.reshape(batch, time, -1), kernel_in).astype(inputs.dtype)
    return d_inputs, None, State(d_initial.astype(initial.hidden.dtype), gradients.cell[:, time % 2]), d_layers, None


_layer.defvjp(_forward, _backward)


def _gradient(inputs: Array, entered: Array, d_sums: Array) -> Gates:
    """Of a direction's parameters: one product for both kernels, so that `d_sums` is read once."""
    d_in, d_rec = jnp.split(outer(jnp.concatenate([inputs, entered], axis=-1), d_sums), [inputs.shape[-1]])
    return Gates(d_in, d_rec, d_sums.sum(axis=(0, 1), dtype=jnp.float32), None)


def _stacked(dtype: Any, layers: tuple[Gates, ...]) -> tuple[Array, Array, Array]:
    """Of all directions: `kernel_in [emb dir*gates]`, one product; `kernel_rec [dir hid gates]`; `bias [dir gates]`."""
    kernel_in = jnp.concatenate([layer.kernel_in for layer in layers], axis=1)
    kernel_rec = jnp.stack([layer.kernel_rec for layer in layers])
    return kernel_in.astype(dtype), kernel_rec.astype(dtype), jnp.stack([layer.bias for layer in layers])


def _backwards(reverse: bool, directions: int) -> list[bool]:
    """Of each direction, whether it reads backwards."""
    return [bool(number) or reverse for number in range(directions)]


def _ends(reverse: bool, steps: Float[Array, "batch time dir feat"]) -> tuple[Any, Any]:
    """The step that each direction reads first, and the last one."""
    first = [steps[:, -1 if back else 0, number] for number, back in enumerate(_backwards(reverse, steps.shape[2]))]
    last = [steps[:, 0 if back else -1, number] for number, back in enumerate(_backwards(reverse, steps.shape[2]))]
    return jnp.stack(first, axis=1), jnp.stack(last, axis=1)


def _before(reverse: bool, states: Float[Array, "batch time dir hid"], initial: Float[Array, "batch dir hid"]) -> Array:
    """The state that each step started from."""
    shifted = []
    for number, back in enumerate(_backwards(reverse, states.shape[2])):
        first, every = initial[:, None, number], states[:, :, number]
        shifted.append(jnp.concatenate([every[:, 1:], first] if back else [first, every[:, :-1]], axis=1))
    return jnp.stack(shifted, axis=2)


def _kept(hidden: Array, keep: Array | None) -> Array:
    return hidden if keep is None else hidden * keep.astype(hidden.dtype)


def _narrow(keep: Array | None, dtype: Any) -> Array | None:
    return None if keep is None else keep.astype(dtype)


def _as_numbers(mask: Array | None) -> Array | None:
    """A kernel reads whole numbers; truth values are bits to Triton."""
    return None if mask is None else mask.astype(jnp.int32)
