"""The recurrent core: one LSTM layer over time behind one door, `lstm_layer`.

Enters: inputs of a layer, batch-major. Leaves: its outputs and its final state. Padding changes no real token's result.

The cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; gates in PyTorch's order):

    i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of (x W_in + h W_rec + b)
    c' = f c + i g          h' = o tanh(c')

What makes it fast: the input projection is one matrix product over all steps, before the loop; the four gates are one
product inside it; and the backward loop only emits the gates' gradients, so that the gradient of both kernels is one
product after the loop instead of weight-sized sums at every step.

What is kept for the gradient, per row and step: the inputs, 4 gates, the hidden state and the cell, of `hid` numbers each
(the cell in float32). With `recompute` the gates are computed again instead, step by step inside the backward loop: outside of
it XLA may do so before the gradient is there, and then nothing is saved.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_s2s import processor
from flax_s2s.config import ModelConfig, UserError
from flax_s2s.model.cudnn import cudnn_layer
from flax_s2s.model.product import multiply, multiply_transposed, outer, product

Initializer = jax.nn.initializers.Initializer
Kernel = Literal["scan", "cudnn"]

_AMPERE = 8.0  # NVIDIA's compute capability


class Means(NamedTuple):
    """How layers are computed here."""

    kernel: Kernel
    compute: Literal["float32", "bfloat16"]

    def __str__(self) -> str:
        """`scan, float32`."""
        return f"{self.kernel}, {self.compute}"


def choose_means(config: ModelConfig) -> Means:
    """What `auto` means here.

    bfloat16 where the device multiplies it faster than float32; cuDNN for float32 on NVIDIA GPUs, since a loop in the graph
    costs them about 10 us a step, cuDNN 2 to 5 us, and its interface in jax is float32 only; else the scan.

    Raises:
        UserError: cuDNN is asked for where there is none.
    """
    device, compute = jax.devices()[0], config.compute
    if config.kernel == "cudnn" and not _by_nvidia(device):
        raise UserError(f"model.kernel=cudnn needs an NVIDIA GPU, got {device.device_kind}; use model.kernel=auto")
    if compute == "auto":
        compute = "bfloat16" if config.kernel != "cudnn" and _fast_in_bfloat16(device) else "float32"
    if config.kernel == "cudnn" and config.recurrent_dropout:
        raise UserError("model.kernel=cudnn has no model.recurrent_dropout; use model.kernel=auto")
    if config.kernel != "auto" or config.recurrent_dropout:
        return Means("scan" if config.kernel == "auto" else config.kernel, compute)
    return Means("cudnn" if _by_nvidia(device) and compute == "float32" else "scan", compute)


def _by_nvidia(device: Any) -> bool:
    return device.platform == "gpu" and "NVIDIA" in device.device_kind


def _fast_in_bfloat16(device: Any) -> bool:
    """TPUs, NVIDIA GPUs from Ampere on, and CPUs that say that they have instructions for it."""
    if device.platform == "cpu":
        return processor.multiplies_bfloat16()
    return device.platform == "tpu" or (_by_nvidia(device) and float(device.compute_capability) >= _AMPERE)


class LSTMState(NamedTuple):
    """A layer's state after a step; the cell is always float32."""

    hidden: Float[Array, "*rows hid"]
    cell: Float[Array, "*rows hid"]


class LSTM(nnx.Module):
    """The parameters of one layer in one direction."""

    def __init__(self, inputs: int, hidden: int, *, forget_bias: float, kernel_init: Initializer, rngs: nnx.Rngs) -> None:
        """Declares `kernel_in [emb gates]`, `kernel_rec [hid gates]`, `bias [gates]`."""
        self.kernel_in = nnx.Param(kernel_init(rngs.params(), (inputs, 4 * hidden), jnp.float32))
        self.kernel_rec = nnx.Param(kernel_init(rngs.params(), (hidden, 4 * hidden), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(4 * hidden, jnp.float32).at[hidden : 2 * hidden].set(forget_bias))


def project(layer: LSTM, inputs: Float[Array, "*rows emb"]) -> Float[Array, "*rows gates"]:
    """`x W_in + b`, for any number of steps at once."""
    return project_by(layer.kernel_in[...], layer.bias[...], inputs)


def project_by(
    kernel: Float[Array, "emb gates"], bias: Float[Array, " gates"], inputs: Float[Array, "*rows emb"]
) -> Float[Array, "*rows gates"]:
    """The same with a part of a kernel; the bias is added in float32, so that its gradient is summed in float32."""
    gates = product(inputs, kernel)
    return (gates + jnp.broadcast_to(bias, gates.shape)).astype(inputs.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cell(dtype: Any, sums: Float[Array, "*rows gates"], cell: Float[Array, "*rows hid"]) -> LSTMState:
    """One step from the gates' sums, in float32; the hidden state is rounded to `dtype`."""
    return _cell_forward(dtype, sums, cell)[0]


def _cell_forward(dtype: Any, sums: Any, cell_before: Any) -> tuple[LSTMState, Any]:
    i, f, g, o = jnp.split(sums, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    cell = f * cell_before + i * g
    hidden = (o * jnp.tanh(cell)).astype(dtype)
    return LSTMState(hidden, cell), (jnp.concatenate([i, f, g, o], axis=-1).astype(dtype), cell_before, cell)


def _cell_backward(dtype: Any, saved: Any, gradient: LSTMState) -> tuple[Any, Any]:
    """Gradients of the sums and of the cell before."""
    gates, cell_before, cell = saved
    i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    d_h, tanh_cell = gradient.hidden.astype(jnp.float32), jnp.tanh(cell)
    d_c = gradient.cell + d_h * o * (1 - tanh_cell**2)
    d_gates = [d_c * g * i * (1 - i), d_c * cell_before * f * (1 - f), d_c * i * (1 - g**2), d_h * tanh_cell * o * (1 - o)]
    return jnp.concatenate(d_gates, axis=-1), d_c * f


_cell.defvjp(_cell_forward, _cell_backward)


def lstm_cell(sums: Float[Array, "*rows gates"], state: LSTMState) -> LSTMState:
    """One step: `sums` are `x W_in + h W_rec + b` in float32, for the state before."""
    return _cell(state.hidden.dtype, sums, state.cell)


def zero_state(layer: LSTM, rows: tuple[int, ...], dtype: Any) -> LSTMState:
    """The state before the first step, unless a caller has a better one."""
    shape = (*rows, layer.kernel_rec.shape[0])
    return LSTMState(jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.float32))


def lstm_layer(
    layer: LSTM,
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None = None,
    initial: LSTMState | None = None,
    reverse: bool = False,
    kernel: Kernel = "scan",
    recompute: bool = False,
    keep: Float[Array, "batch hid"] | None = None,
) -> tuple[Float[Array, "batch time hid"], LSTMState]:
    """A layer over time.

    Args:
        layer: the parameters.
        inputs: in the type of the matrix products, float32 or bfloat16.
        mask: real positions; at the others the state is held, so the final state is the one after the last real step.
            None treats every position as real, which is right where padding follows and the final state is not used.
        initial: the state before the first step read; None is zeros.
        reverse: read from the last position to the first.
        kernel: what computes it; cudnn wants float32 and a mask whose real positions come first.
        recompute: keep no gates for the gradient, see above; cudnn keeps what it wants.
        keep: what the hidden state is multiplied with on its way to the next step, a mask of dropout; None: nothing. Not with cudnn.

    Returns:
        Outputs at every position (at padding finite, and nothing to rely on), and the final state.
    """
    initial = initial or zero_state(layer, inputs.shape[:1], inputs.dtype)
    initial = LSTMState(initial.hidden.astype(inputs.dtype), initial.cell)
    if kernel == "cudnn":
        kernels = (layer.kernel_in[...], layer.kernel_rec[...], layer.bias[...])
        outputs, last_hidden, last_cell = cudnn_layer(kernels, inputs, mask, initial.hidden, initial.cell, reverse)
        return outputs, LSTMState(last_hidden, last_cell)
    step_mask = None if mask is None else mask.swapaxes(0, 1)[:, :, None]  # [time batch 1]
    kernels = (layer.kernel_in[...], layer.kernel_rec[...], layer.bias[...])
    hidden, final = _recurrence(reverse, recompute, inputs.swapaxes(0, 1), step_mask, initial, kernels, keep)
    return hidden.swapaxes(0, 1), final


def _hold(step_mask: Bool[Array, "batch 1"] | None, new: Any, old: Any) -> Any:
    if step_mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(step_mask, n, o), new, old)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(
    reverse: bool,
    recompute: bool,
    inputs: Float[Array, "time batch emb"],
    mask: Bool[Array, "time batch 1"] | None,
    initial: LSTMState,
    kernels: tuple[Float[Array, "emb gates"], Float[Array, "hid gates"], Float[Array, " gates"]],
    keep: Float[Array, "batch hid"] | None,
) -> tuple[Float[Array, "time batch hid"], LSTMState]:
    """The layer; what autodiff would do with it is replaced by `_recurrence_backward`, which has no gradient for `keep`."""
    return _recurrence_forward(reverse, recompute, inputs, mask, initial, kernels, keep)[0]


def _recurrence_forward(
    reverse: bool, recompute: bool, inputs: Any, mask: Any, initial: LSTMState, kernels: Any, keep: Any
) -> tuple[Any, Any]:
    kernel_in, kernel_rec, bias = kernels
    narrow = kernel_rec.astype(inputs.dtype)

    def step(carry: Any, now: Any) -> tuple[Any, Any]:
        (state, gates), (at, step_mask) = carry, now
        projected = lax.dynamic_index_in_dim(gates, at, keepdims=False).astype(jnp.float32)
        sums = projected + multiply(_kept(state.hidden, keep), narrow) + bias[None, :]
        new, (now_gates, _, _) = _cell_forward(inputs.dtype, sums, state.cell)
        new = _hold(step_mask, new, state)
        return (new, lax.dynamic_update_index_in_dim(gates, now_gates, at, 0)), new

    # The gates overwrite, step by step, what the input's product left: no second array of that size.
    projected, steps = multiply(inputs, kernel_in).astype(inputs.dtype), jnp.arange(inputs.shape[0])
    (final, gates), states = lax.scan(step, (initial, projected), (steps, mask), reverse=reverse)
    return (states.hidden, final), (inputs, None if recompute else gates, states, mask, initial, kernels, keep)


def _kept(hidden: Float[Array, "*rows hid"], keep: Float[Array, "*batch hid"] | None) -> Float[Array, "*rows hid"]:
    return hidden if keep is None else hidden * keep.astype(hidden.dtype)


def _recurrence_backward(reverse: bool, recompute: bool, saved: Any, gradient: Any) -> tuple[Any, ...]:
    inputs, gates, states, mask, initial, (kernel_in, kernel_rec, bias), keep = saved
    d_hidden, d_final = gradient
    before = jax.tree.map(partial(_shift, reverse), states, initial)  # the state each step started from
    entered = before.hidden if keep is None else _kept(before.hidden, keep[None])
    kept = (inputs, entered) if recompute else gates
    narrow_in, narrow_rec = kernel_in.astype(inputs.dtype), kernel_rec.astype(inputs.dtype)
    transposed = narrow_rec.T

    def recomputed(kept: Any, cell: Any) -> Any:
        now, hidden = kept
        projected = multiply(now, narrow_in).astype(now.dtype).astype(jnp.float32)
        return _cell_forward(now.dtype, projected + multiply(hidden, narrow_rec) + bias[None, :], cell)[1][0]

    def step(d_state: LSTMState, now: Any) -> tuple[LSTMState, Any]:
        kept, cell, cell_before, step_mask, d_output = now
        gates = recomputed(kept, cell_before) if recompute else kept
        d_new = LSTMState(d_state.hidden + d_output.astype(jnp.float32), d_state.cell)
        d_sums, d_cell = _cell_backward(gates.dtype, (gates, cell_before, cell), d_new)
        d_sums = _hold(step_mask, d_sums, jnp.zeros_like(d_sums)).astype(gates.dtype)
        return _hold(step_mask, LSTMState(_kept(multiply(d_sums, transposed), keep), d_cell), d_new), d_sums

    d_end = LSTMState(d_final.hidden.astype(jnp.float32), d_final.cell)
    d_initial, d_sums = lax.scan(step, d_end, (kept, states.cell, before.cell, mask, d_hidden), reverse=not reverse)
    d_initial = LSTMState(d_initial.hidden.astype(initial.hidden.dtype), d_initial.cell)
    d_inputs = multiply_transposed(d_sums, kernel_in).astype(inputs.dtype)
    read = jnp.concatenate([inputs, entered], axis=-1)  # one product for both kernels: d_sums is read once
    d_kernels = outer(read, d_sums)
    d_bias = d_sums.sum(axis=(0, 1), dtype=jnp.float32)
    return d_inputs, None, d_initial, (*jnp.split(d_kernels, [inputs.shape[-1]]), d_bias), None


def _shift(reverse: bool, states: Float[Array, "time batch hid"], initial: Float[Array, "batch hid"]) -> Float[Array, "time batch hid"]:
    if reverse:
        return jnp.concatenate([states[1:], initial[None]])
    return jnp.concatenate([initial[None], states[:-1]])


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
