"""The cells: a recurrent layer's parameters, and how a step makes its next state from the sums of its gates.

Enters: `sums`, x W_in + h W_rec + b in float32, four quarters as wide as the state; and the state before. Leaves: the next state.

    lstm             Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; quarters in PyTorch's order:
                     i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of theirs;  c' = f c + i g;  h' = o tanh(c')
    layer_norm_lstm  the same, but each quarter is brought to mean 0 and variance 1 over its units, times a gain, plus the bias;
                     and tanh reads c' treated likewise (after Ba et al. 2016; gate by gate as in Chen et al. 2018)
    gru              Cho et al. 2014, in the version of cuDNN and PyTorch; quarters r, z, and the candidate's two parts, of x and of h:
                     r, z = sigmoid of theirs;  n = tanh(n_x + r n_h);  h' = (1 - z) n + z h

Zoneout (Krueger et al. 2017) keeps a unit's old value with a fixed probability; without masks the two values' mean is taken.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from flax_s2s.config import Cell

Initializer = jax.nn.initializers.Initializer

_LEAST_VARIANCE = 1e-5


class State(NamedTuple):
    """A layer's state after a step; the cell is always float32. A gru's is its hidden state, before that is rounded."""

    hidden: Float[Array, "*rows hid"]
    cell: Float[Array, "*rows hid"]


class Zones(NamedTuple):
    """Which units keep their old value, of hidden state and cell."""

    hidden: Bool[Array, "*rows hid"]
    cell: Bool[Array, "*rows hid"]


class Norm(NamedTuple):
    """What layer normalization multiplies with and adds."""

    gain: Float[Array, " gates"]
    bias: Float[Array, " gates"]
    cell_gain: Float[Array, " hid"]
    cell_bias: Float[Array, " hid"]


class Gates(NamedTuple):
    """A layer's parameters as its sums and its cell need them."""

    kernel_in: Float[Array, "emb gates"]
    kernel_rec: Float[Array, "hid gates"]
    bias: Float[Array, " gates"]  # of the sums
    norm: Norm | None


class RecurrentLayer(nnx.Module):
    """The parameters of one layer in one direction."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        cell: Cell = "lstm",
        zoneout: float = 0.0,
        forget_bias: float = 1.0,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        """Declares `kernel_in [emb gates]`, `kernel_rec [hid gates]`, `bias [gates]` and what the cell needs besides.

        A gru's kernels have three quarters: r, z, n.
        """
        self.cell, self.zoneout = cell, zoneout
        gates = _quarters(cell) * hidden
        self.kernel_in = nnx.Param(kernel_init(rngs.params(), (inputs, gates), jnp.float32))
        self.kernel_rec = nnx.Param(kernel_init(rngs.params(), (hidden, gates), jnp.float32))
        bias = jnp.zeros(4 * hidden, jnp.float32)
        match cell:
            case "lstm":
                self.bias = nnx.Param(bias.at[hidden : 2 * hidden].set(forget_bias))
            case "layer_norm_lstm":
                self.bias = nnx.Param(bias.at[hidden : 2 * hidden].set(forget_bias))
                self.gain = nnx.Param(jnp.ones(4 * hidden, jnp.float32))
                self.cell_gain = nnx.Param(jnp.ones(hidden, jnp.float32))
                self.cell_bias = nnx.Param(jnp.zeros(hidden, jnp.float32))
            case "gru":
                self.bias = nnx.Param(bias)
            case _:
                assert_never(cell)

    @property
    def hidden(self) -> int:
        """Units."""
        return int(self.kernel_rec.shape[0])

    def gates(self) -> Gates:
        """The parameters, all quarters there."""
        kernel_in, kernel_rec, bias = self.kernel_in[...], self.kernel_rec[...], self.bias[...]
        match self.cell:
            case "lstm":
                return Gates(kernel_in, kernel_rec, bias, None)
            case "layer_norm_lstm":  # a bias before the norm would be no bias
                norm = Norm(self.gain[...], bias, self.cell_gain[...], self.cell_bias[...])
                return Gates(kernel_in, kernel_rec, jnp.zeros_like(bias), norm)
            case "gru":
                nothing_in, nothing_rec = (jnp.zeros_like(kernel[:, : self.hidden]) for kernel in (kernel_in, kernel_rec))
                both, own = kernel_rec[:, : -self.hidden], kernel_rec[:, -self.hidden :]
                kernel_in = jnp.concatenate([kernel_in, nothing_in], axis=1)
                kernel_rec = jnp.concatenate([both, nothing_rec, own], axis=1)
                return Gates(kernel_in, kernel_rec, bias, None)
            case _:
                assert_never(self.cell)


def _quarters(cell: Cell) -> int:
    """How many times as wide as the state a layer's kernels are."""
    match cell:
        case "lstm" | "layer_norm_lstm":
            return 4
        case "gru":
            return 3
        case _:
            assert_never(cell)


def count_states(cell: Cell) -> int:
    """How many states of its own a cell has: of an lstm hidden state and cell; a gru's cell is its hidden state."""
    match cell:
        case "lstm" | "layer_norm_lstm":
            return 2
        case "gru":
            return 1
        case _:
            assert_never(cell)


def zero_state(layer: RecurrentLayer, rows: tuple[int, ...], dtype: Any) -> State:
    """The state before the first step, unless a caller has a better one."""
    shape = (*rows, layer.hidden)
    return State(jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.float32))


def step(layer: RecurrentLayer, norm: Norm | None, sums: Float[Array, "*rows gates"], state: State, zones: Zones | None = None) -> State:
    """The state after a step; the hidden one is rounded to the type that it had before.

    Args:
        layer: says which cell, and with what rate of zoneout; its parameters are not read.
        norm: that of its `gates()`.
        sums: see above.
        state: before.
        zones: which units keep their old value; None takes the mean over all such masks.
    """
    new = _next(layer.cell, norm, sums, state)
    return new if layer.zoneout == 0 else _zoned(layer, zones, new, state)


def _next(cell: Cell, norm: Norm | None, sums: Float[Array, "*rows gates"], state: State) -> State:
    dtype = state.hidden.dtype
    match cell:
        case "lstm":
            return _lstm(dtype, sums, state.cell)
        case "layer_norm_lstm":
            assert norm is not None
            return _layer_norm_lstm(dtype, norm, sums, state.cell)
        case "gru":
            return _gru(dtype, sums, state.cell)
        case _:
            assert_never(cell)


def _gru(dtype: Any, sums: Float[Array, "*rows gates"], before: Float[Array, "*rows hid"]) -> State:
    r, z, n_in, n_rec = jnp.split(sums, 4, axis=-1)
    z = jax.nn.sigmoid(z)
    hidden = (1 - z) * jnp.tanh(n_in + jax.nn.sigmoid(r) * n_rec) + z * before
    return State(hidden.astype(dtype), hidden)


def _layer_norm_lstm(dtype: Any, norm: Norm, sums: Float[Array, "*rows gates"], cell: Float[Array, "*rows hid"]) -> State:
    quarters = [_normalized(quarter) for quarter in jnp.split(sums, 4, axis=-1)]
    i, f, g, o = jnp.split(_scaled(jnp.concatenate(quarters, axis=-1), norm.gain, norm.bias), 4, axis=-1)
    new = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    read = _scaled(_normalized(new), norm.cell_gain, norm.cell_bias)
    return State((jax.nn.sigmoid(o) * jnp.tanh(read)).astype(dtype), new)


def _normalized(units: Float[Array, "*rows hid"]) -> Float[Array, "*rows hid"]:
    centered = units - units.mean(axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(axis=-1, keepdims=True) + _LEAST_VARIANCE)


def _scaled(units: Float[Array, "*rows hid"], gain: Float[Array, " hid"], bias: Float[Array, " hid"]) -> Float[Array, "*rows hid"]:
    return units * jnp.broadcast_to(gain, units.shape) + jnp.broadcast_to(bias, units.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(dtype: Any, sums: Float[Array, "*rows gates"], cell: Float[Array, "*rows hid"]) -> State:
    return lstm_forward(dtype, sums, cell)[0]


def lstm_forward(dtype: Any, sums: Any, cell_before: Any) -> tuple[State, Any]:
    """One step of an lstm, and what `lstm_backward` needs: gates, the cell before, the cell."""
    hidden, cell, gates = lstm_units(jnp.split(sums, 4, axis=-1), cell_before)
    return State(hidden.astype(dtype), cell), (jnp.concatenate(gates, axis=-1).astype(dtype), cell_before, cell)


def lstm_units(sums: Sequence[Any], cell_before: Any) -> tuple[Any, Any, list[Any]]:
    """Some of an lstm's units, of whose sums each quarter is given: their hidden state, cell and gates, all in float32."""
    i, f, g, o = jax.nn.sigmoid(sums[0]), jax.nn.sigmoid(sums[1]), jnp.tanh(sums[2]), jax.nn.sigmoid(sums[3])
    cell = f * cell_before + i * g
    return o * jnp.tanh(cell), cell, [i, f, g, o]


def lstm_backward(dtype: Any, saved: Any, gradient: State) -> tuple[Any, Any]:
    """Gradients of the sums and of the cell before."""
    gates, cell_before, cell = saved
    d_sums, d_cell = lstm_units_backward(jnp.split(gates, 4, axis=-1), cell_before, cell, gradient)
    return jnp.concatenate(d_sums, axis=-1), d_cell


def lstm_units_backward(gates: Sequence[Any], cell_before: Any, cell: Any, gradient: State) -> tuple[list[Any], Any]:
    """The same of some units: of each quarter of their sums, and of the cell before."""
    i, f, g, o = (gate.astype(jnp.float32) for gate in gates)
    d_h, tanh_cell = gradient.hidden.astype(jnp.float32), jnp.tanh(cell)
    d_c = gradient.cell + d_h * o * (1 - tanh_cell**2)
    return [d_c * g * i * (1 - i), d_c * cell_before * f * (1 - f), d_c * i * (1 - g**2), d_h * tanh_cell * o * (1 - o)], d_c * f


_lstm.defvjp(lstm_forward, lstm_backward)


def _zoned(layer: RecurrentLayer, zones: Zones | None, new: State, old: State) -> State:
    mixed = [_mix(layer.zoneout, *parts) for parts in zip(zones or (None, None), new, old, strict=True)]
    return State(mixed[1].astype(new.hidden.dtype), mixed[1]) if count_states(layer.cell) == 1 else State(*mixed)


def _mix(rate: float, stays: Any, new: Any, old: Any) -> Any:
    if stays is not None:
        return jnp.where(stays, old, new)
    return (rate * old.astype(jnp.float32) + (1 - rate) * new.astype(jnp.float32)).astype(new.dtype)
