"""The recurrent core: one layer over time behind one door, `unroll`.

Enters: inputs of a layer, batch-major. Leaves: its outputs and its final state. Padding changes no real token's result.

What makes an lstm fast: the input projection is one matrix product over all steps, before the loop; the four gates are one
product inside it; and the backward loop only emits the gates' gradients, so that the gradient of both kernels is one
product after the loop instead of weight-sized sums at every step.

What is kept for the gradient, per row and step: the inputs, 4 gates, the hidden state and the cell, of `hid` numbers each
(the cell in float32). With `recompute` the gates are computed again instead, step by step inside the backward loop: outside of
it XLA may do so before the gradient is there, and then nothing is saved.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_s2s.config import ModelConfig, UserError
from flax_s2s.model import cells, together
from flax_s2s.model.cells import Gates, RecurrentLayer, State, lstm_backward, lstm_forward, zero_state
from flax_s2s.model.noise import Noise
from flax_s2s.model.product import multiply, multiply_transposed, outer, product
from flax_s2s.model.recurrence import Multiply, scan
from flax_s2s.runtime import processor

Kernel = Literal["scan", "cudnn", "pallas"]

Product = Callable[[Array, Array], Array]

_AMPERE = 8.0  # NVIDIA's compute capability
_STEPS_OF_A_GRAPH = 8


class Means(NamedTuple):
    """How layers are computed here."""

    kernel: Kernel
    compute: Literal["float32", "bfloat16"]

    def __str__(self) -> str:
        """`scan, float32`; and what nobody has measured says so."""
        unmeasured = "; compiled for this kind of device, measured on none" if self.kernel == "pallas" else ""
        return f"{self.kernel}, {self.compute}{unmeasured}"


def choose_means(config: ModelConfig) -> Means:
    """What `auto` means here.

    bfloat16 where the device multiplies it faster than float32; cuDNN for float32 on NVIDIA GPUs, since a loop in the graph
    costs them about 10 us a step, cuDNN 2 to 5 us, and its interface in jax is float32 only; else the scan.

    Raises:
        UserError: what only NVIDIA's GPUs have is asked for elsewhere.
    """
    device = jax.devices()[0]
    if config.kernel in ("cudnn", "pallas") and not _by_nvidia(device):
        raise UserError(f"model.kernel={config.kernel} needs an NVIDIA GPU, got {device.device_kind}; use model.kernel=auto")
    if config.kernel == "pallas" and float(device.compute_capability) < _AMPERE:
        raise UserError(
            f"model.kernel=pallas is compiled for compute capability {_AMPERE} and above, got {device.device_kind} with "
            f"{device.compute_capability}; use model.kernel=auto"
        )
    compute: Literal["float32", "bfloat16"]
    match config.compute:
        case "auto":
            compute = "bfloat16" if config.kernel != "cudnn" and _fast_in_bfloat16(device) else "float32"
        case "float32" | "bfloat16":
            compute = config.compute
        case _:
            assert_never(config.compute)
    plain = config.cell == "lstm" and not config.recurrent_dropout and not config.zoneout
    if config.kernel == "cudnn" and not plain:
        raise UserError(
            f"model.kernel=cudnn computes model.cell=lstm without recurrent_dropout and zoneout only, got model.cell={config.cell}, "
            f"{config.recurrent_dropout} and {config.zoneout}; use model.kernel=auto"
        )
    match config.kernel:
        case "auto":
            return Means("cudnn" if plain and _by_nvidia(device) and compute == "float32" else "scan", compute)
        case "scan" | "cudnn" | "pallas":
            return Means(config.kernel, compute)
        case _:
            assert_never(config.kernel)


def _by_nvidia(device: Any) -> bool:
    return device.platform == "gpu" and "NVIDIA" in device.device_kind


def _fast_in_bfloat16(device: Any) -> bool:
    """TPUs, NVIDIA GPUs from Ampere on, and CPUs that say that they have instructions for it."""
    if device.platform == "cpu":
        return processor.multiplies_bfloat16()
    return device.platform == "tpu" or (_by_nvidia(device) and float(device.compute_capability) >= _AMPERE)


def project(
    kernel: Float[Array, "emb gates"], bias: Float[Array, " gates"], inputs: Float[Array, "*rows emb"]
) -> Float[Array, "*rows gates"]:
    """`x W_in + b`, for any number of steps at once; the bias is added in float32, so that its gradient is summed in float32."""
    gates = product(inputs, kernel)
    return (gates + jnp.broadcast_to(bias, gates.shape)).astype(inputs.dtype)


def unroll(
    layer: RecurrentLayer,
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None = None,
    initial: State | None = None,
    reverse: bool = False,
    kernel: Kernel = "scan",
    recompute: bool = False,
    noise: Noise | None = None,
) -> tuple[Float[Array, "batch time hid"], State]:
    """A layer over time.

    Args:
        layer: the parameters.
        inputs: in the type of the matrix products, float32 or bfloat16.
        mask: real positions; at the others the state is held, so the final state is the one after the last real step.
            None treats every position as real, which is right where padding follows and the final state is not used.
        initial: the state before the first step read; None is zeros.
        reverse: read from the last position to the first.
        kernel: what computes it; cudnn wants an lstm without noise, float32 and a mask whose real positions come first; pallas an lstm
            without zoneout whose units are a multiple of `config.TILE`.
        recompute: keep no gates for the gradient, see above; cudnn and pallas keep what they want.
        noise: of training; None: deterministic.

    Returns:
        Outputs at every position (at padding finite, and nothing to rely on), and the final state.
    """
    initial = initial or zero_state(layer, inputs.shape[:1], inputs.dtype)
    initial = State(initial.hidden.astype(inputs.dtype), initial.cell)
    gates, noise = layer.gates(), noise or Noise(None, None)
    if kernel == "cudnn" or kernel == "pallas":  # mypy narrows a Literal by it
        return together.read([layer], inputs, mask, initial, reverse, kernel, [noise])
    if kernel != "scan":
        assert_never(kernel)
    if layer.cell != "lstm" or layer.zoneout:
        return _scanned(layer, gates, inputs, mask, initial, reverse, recompute, noise)
    step_mask = None if mask is None else mask.swapaxes(0, 1)[:, :, None]  # [time batch 1]
    hidden, final = _recurrence(reverse, recompute, inputs.swapaxes(0, 1), step_mask, initial, gates[:3], noise.keep)
    return hidden.swapaxes(0, 1), final


def _scanned(
    layer: RecurrentLayer,
    gates: Gates,
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None,
    initial: State,
    reverse: bool,
    recompute: bool,
    noise: Noise,
) -> tuple[Float[Array, "batch time hid"], State]:
    """Any cell: autodiff differentiates it, and the kernels' gradients are products after the loop all the same."""

    def step(multiply: Multiply, constants: Any, state: State, now: Any) -> tuple[State, Any]:
        (norm, keep), (projected, real, zones) = constants, now
        hidden = _kept(state.hidden, keep)
        sums = projected.astype(jnp.float32) + multiply("rec", hidden[:, None])[:, 0]
        new = _hold(real, cells.step(layer, norm, sums, state, zones), state)
        return new, new.hidden

    projected = project(gates.kernel_in, gates.bias, inputs)
    by_step = (projected, None if mask is None else mask[:, :, None], noise.zones)
    now = jax.tree.map(lambda part: part.swapaxes(0, 1)[:: -1 if reverse else 1], by_step)
    final, hidden = scan(step, {"rec": gates.kernel_rec}, (gates.norm, lax.stop_gradient(noise.keep)), initial, now, recompute)
    return hidden[:: -1 if reverse else 1].swapaxes(0, 1), final


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
    initial: State,
    kernels: tuple[Float[Array, "emb gates"], Float[Array, "hid gates"], Float[Array, " gates"]],
    keep: Float[Array, "batch hid"] | None,
) -> tuple[Float[Array, "time batch hid"], State]:
    """The layer; what autodiff would do with it is replaced by `_recurrence_backward`, which has no gradient for `keep`."""
    return _recurrence_forward(reverse, recompute, inputs, mask, initial, kernels, keep)[0]


def _recurrence_forward(reverse: bool, recompute: bool, inputs: Any, mask: Any, initial: State, kernels: Any, keep: Any) -> tuple[Any, Any]:
    kernel_in, kernel_rec, bias = kernels
    narrow = kernel_rec.astype(inputs.dtype)

    def step(multiply: Product, carry: Any, now: Any) -> tuple[Any, Any]:
        (state, gates), (at, step_mask) = carry, now
        projected = lax.dynamic_index_in_dim(gates, at, keepdims=False).astype(jnp.float32)
        sums = projected + multiply(_kept(state.hidden, keep), narrow) + bias[None, :]
        new, (now_gates, _, _) = lstm_forward(inputs.dtype, sums, state.cell)
        new = _hold(step_mask, new, state)
        return (new, lax.dynamic_update_index_in_dim(gates, now_gates, at, 0)), new

    # The gates overwrite, step by step, what the input's product left: no second array of that size.
    projected, steps = multiply(inputs, kernel_in).astype(inputs.dtype), jnp.arange(inputs.shape[0])
    (final, gates), states = _loop(step, (initial, projected), (steps, mask), reverse)
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
        return lstm_forward(now.dtype, projected + multiply(hidden, narrow_rec) + bias[None, :], cell)[1][0]

    def step(multiply: Product, d_state: State, now: Any) -> tuple[State, Any]:
        kept, cell, cell_before, step_mask, d_output = now
        gates = recomputed(kept, cell_before) if recompute else kept
        d_new = State(d_state.hidden + d_output.astype(jnp.float32), d_state.cell)
        d_sums, d_cell = lstm_backward(gates.dtype, (gates, cell_before, cell), d_new)
        d_sums = _hold(step_mask, d_sums, jnp.zeros_like(d_sums)).astype(gates.dtype)
        return _hold(step_mask, State(_kept(multiply(d_sums, transposed), keep), d_cell), d_new), d_sums

    d_end = State(d_final.hidden.astype(jnp.float32), d_final.cell)
    d_initial, d_sums = _loop(step, d_end, (kept, states.cell, before.cell, mask, d_hidden), not reverse)
    d_initial = State(d_initial.hidden.astype(initial.hidden.dtype), d_initial.cell)
    d_inputs = multiply_transposed(d_sums, kernel_in).astype(inputs.dtype)
    read = jnp.concatenate([inputs, entered], axis=-1)  # one product for both kernels: d_sums is read once
    d_kernels = outer(read, d_sums)
    d_bias = d_sums.sum(axis=(0, 1), dtype=jnp.float32)
    return d_inputs, None, d_initial, (*jnp.split(d_kernels, [inputs.shape[-1]]), d_bias), None


def _loop(step: Callable[[Product, Any, Any], tuple[Any, Any]], carry: Any, inputs: Any, reverse: bool) -> tuple[Any, Any]:
    """`lax.scan` of a step that is given the matrix product; on NVIDIA GPUs in the form that needs fewest launches.

    There several steps are one of XLA's loop: it is started as one graph, what they leave is stored in one go, and the backward loop's
    next gates read the product themselves. And nothing is added inside of a product: XLA would write what is added in float32 first.
    """

    def scan(carry: Any, inputs: Any) -> tuple[Any, Any]:
        return lax.scan(partial(step, multiply), carry, inputs, reverse=reverse)

    def unrolled(carry: Any, inputs: Any) -> tuple[Any, Any]:
        def alone(left: Array, kernel: Array) -> Array:
            return lax.optimization_barrier(multiply(left, kernel))

        return lax.scan(partial(step, alone), carry, inputs, reverse=reverse, unroll=_STEPS_OF_A_GRAPH)

    return lax.platform_dependent(carry, inputs, cuda=unrolled, default=scan)


def _shift(reverse: bool, states: Float[Array, "time batch hid"], initial: Float[Array, "batch hid"]) -> Float[Array, "time batch hid"]:
    if reverse:
        return jnp.concatenate([states[1:], initial[None]])
    return jnp.concatenate([initial[None], states[:-1]])


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
