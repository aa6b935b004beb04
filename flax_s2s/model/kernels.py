"""The two kernels of a whole LSTM layer, for NVIDIA GPUs: all steps forward, all steps backward (Pallas, compiled by Triton).

Enters: what the input's product left, batch-major, of one direction or of two side by side. Leaves: states and gates of every
step; backward, the gradients of the gates' sums. What is around them is `pallas`.

A program of a kernel's grid has 16 rows in one direction and goes through time with them alone: rows never look at each other, so no
program waits for another, whatever runs beside it. A step goes through the units in tiles: state of the step before times recurrent
kernel, gates, state, mask. A state goes to the next step through memory, where each step has a place of its own: a barrier of the
program's threads between two steps makes it seen, and nothing is read before it is written or written over after it was read.

What it costs: each program reads the recurrent kernel again at each step, 4 hid^2 numbers, out of the cache that all share (L2), as an
H100 has 227 KiB for a program, and a kernel of 256 units in bfloat16 has 512. At 64 bytes a cycle, what a multiprocessor is said to get
of L2, that is about 5 us a step for 256 units, 19 us for 512 and 75 us for 1024, however few the rows; and 896 rows are 56 programs
for 132 multiprocessors. A loop of launches takes about 10 us a step. So this is for small layers; a large one wants each
multiprocessor to keep a part of the kernel, and then to wait for the others at each step.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from flax_s2s.config import TILE
from flax_s2s.model.cells import State, lstm_units, lstm_units_backward

ROWS = 16
"""Rows of a program: the fewest that a tensor core takes. A batch is a multiple of it."""
_WARPS = 8
_STAGES = {2: 3, 4: 2}  # tiles fetched ahead, by bytes of a number: an A100 has shared memory for no more


class Forward(NamedTuple):
    """What the forward kernel reads; `dir` is 1, or 2, the second of which reads backwards."""

    projected: Float[Array, "batch time dir 4 hid"]  # x W_in
    start: Float[Array, "batch dir 4 hid"]  # the first hidden state times the recurrent kernel, float32
    bias: Float[Array, "dir 4 hid"]
    kernel: Float[Array, "dir hid 4 hid"]
    initial: State  # [batch dir hid]
    real: Int[Array, "batch time"] | None
    keep: Float[Array, "batch dir hid"] | None  # what a hidden state is multiplied with on its way to the next step


class Unrolled(NamedTuple):
    """What it writes."""

    hidden: Float[Array, "batch time dir hid"]
    cell: Float[Array, "batch time dir hid"]
    gates: Float[Array, "batch time dir 4 hid"]
    kept: Float[Array, "batch time dir hid"] | None  # the hidden state as the next step multiplies it, where that is another


class Backward(NamedTuple):
    """What the backward kernel reads."""

    gates: Float[Array, "batch time dir 4 hid"]
    cell: Float[Array, "batch time dir hid"]
    initial_cell: Float[Array, "batch dir hid"]
    transposed: Float[Array, "dir 4 hid hid"]  # the recurrent kernel, [out in] of each gate
    d_hidden: Float[Array, "batch time dir hid"]
    d_final: State  # [batch dir hid], float32
    real: Int[Array, "batch time"] | None
    keep: Float[Array, "batch dir hid"] | None


class Gradients(NamedTuple):
    """What it writes. The last two go from step to step, by two places in turn: the initial state's are in `time % 2`."""

    sums: Float[Array, "batch time dir 4 hid"]
    cell: Float[Array, "batch 2 dir hid"]
    held: Float[Array, "batch 2 dir hid"]  # of a hidden state, what does not come through the product: a masked step passes it on


def _axes(*arrays: Any) -> Any:
    """Of b a program has its rows, of d its direction, of the others everything."""
    return arrays


_FORWARD = Forward(*_axes("btdgh", "bdgh", "dgh", "dhgh", State(*_axes("bdh", "bdh")), "bt", "bdh"))
_UNROLLED = Unrolled(*_axes("btdh", "btdh", "btdgh", "btdh"))
_BACKWARD = Backward(*_axes("btdgh", "btdh", "bdh", "dghh", "btdh", State(*_axes("bdh", "bdh")), "bt", "bdh"))
_GRADIENTS = Gradients(*_axes("btdgh", "btdh", "btdh"))
_shape: Any = jax.ShapeDtypeStruct


def unroll_forward(read: Forward, reverse: bool) -> Unrolled:
    """All steps; `reverse`: the first direction reads backwards."""
    batch, steps, directions, _, hid = read.projected.shape
    states, narrow = (batch, steps, directions, hid), read.projected.dtype
    kept = None if read.keep is None else _shape(states, narrow)
    shapes = Unrolled(_shape(states, narrow), _shape(states, jnp.float32), _shape(read.projected.shape, narrow), kept)
    return _call(partial(_forward, steps, hid, reverse), "lstm_forward", (read, _FORWARD), (shapes, _UNROLLED))


def unroll_backward(read: Backward, reverse: bool) -> Gradients:
    """The gradients of all steps."""
    batch, steps, directions, hid = read.cell.shape
    turns = _shape((batch, 2, directions, hid), jnp.float32)
    shapes = Gradients(_shape(read.gates.shape, read.gates.dtype), turns, turns)
    return _call(partial(_backward, steps, hid, reverse), "lstm_backward", (read, _BACKWARD), (shapes, _GRADIENTS))


def _call(kernel: Any, name: str, reads: tuple[Any, Any], writes: tuple[Any, Any]) -> Any:
    def block(part: Any, axes: str) -> pl.BlockSpec | None:
        if part is None:
            return None
        sizes = [{"b": ROWS, "d": None}.get(axis, size) for axis, size in zip(axes, part.shape, strict=True)]
        return pl.BlockSpec(sizes, lambda direction, rows: tuple({"b": rows, "d": direction}.get(axis, 0) for axis in axes))

    (read, _), (write, _) = reads, writes
    blocks = [jax.tree.map(block, *both, is_leaf=lambda part: part is None) for both in (reads, writes)]
    return pl.pallas_call(
        lambda read, *written: kernel(read, type(write)(*written)),
        grid=(write[0].shape[2], write[0].shape[0] // ROWS),
        in_specs=blocks[:1],
        out_specs=blocks[1],
        out_shape=write,
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=_STAGES[write[0].dtype.itemsize]),
        name=name,
    )(read)


def _forward(steps: int, hid: int, reverse: bool, read: Forward, write: Unrolled) -> None:
    """A program: `read` and `write` are references to its rows and direction."""
    backwards = pl.program_id(0) + int(reverse)
    entering = write.hidden if write.kept is None else write.kept

    def advance(step: Any, first: bool = False) -> None:
        at = step + backwards * (steps - 1 - 2 * step)
        before = at + 2 * backwards - 1

        def advance_units(units: Any) -> None:
            if first:
                recurrent = [read.start[:, gate, units] for gate in range(4)]
                old = State(read.initial.hidden[:, units], read.initial.cell[:, units])
            else:
                recurrent = _products(hid, lambda inner, _: entering[:, before, inner], lambda inner, gate: read.kernel[inner, gate, units])
                old = State(write.hidden[:, before, units], write.cell[:, before, units])
            projected = [read.projected[:, at, gate, units].astype(jnp.float32) for gate in range(4)]
            sums = [projected[gate] + recurrent[gate] + read.bias[gate, units][None, :] for gate in range(4)]
            hidden, cell, gates = lstm_units(sums, old.cell)
            for gate, value in enumerate(gates):
                write.gates[:, at, gate, units] = value.astype(write.gates.dtype)
            new = _where(_real(read.real, at), State(hidden.astype(old.hidden.dtype), cell), old)
            write.hidden[:, at, units], write.cell[:, at, units] = new
            if read.keep is not None:
                entering[:, at, units] = new.hidden * read.keep[:, units]

        _for_each_tile(hid, advance_units)

    _for_each_step(steps, advance)


def _backward(steps: int, hid: int, reverse: bool, read: Backward, write: Gradients) -> None:
    """The same for the gradients, from the step that was last to the first one."""
    backwards = pl.program_id(0) + int(reverse)

    def retreat(step: Any, first: bool = False) -> None:
        at = step + (1 - backwards) * (steps - 1 - 2 * step)
        before, after = jnp.clip(at + 2 * backwards - 1, 0, steps - 1), at + 1 - 2 * backwards
        real, now, next_turn = _real(read.real, at), lax.rem(step, 2), lax.rem(step + 1, 2)

        def passed_on(units: Any) -> State:
            if first:
                return State(read.d_final.hidden[:, units], read.d_final.cell[:, units])
            i, f, g, o = _products(
                hid, lambda inner, gate: write.sums[:, after, gate, inner], lambda inner, gate: read.transposed[gate, inner, units]
            )
            d_hidden = i + f + g + o if read.keep is None else (i + f + g + o) * read.keep[:, units].astype(jnp.float32)
            return State(d_hidden + write.held[:, now, units], write.cell[:, now, units])

        def retreat_units(units: Any) -> None:
            hidden, d_cell = passed_on(units)
            d_new = State(hidden + read.d_hidden[:, at, units].astype(jnp.float32), d_cell)
            cell_before = jnp.where(step == steps - 1, read.initial_cell[:, units], read.cell[:, before, units])
            gates = [read.gates[:, at, gate, units] for gate in range(4)]
            d_sums, d_cell = lstm_units_backward(gates, cell_before, read.cell[:, at, units], d_new)
            nothing = jnp.zeros_like(d_cell)
            for gate, value in enumerate(d_sums):
                write.sums[:, at, gate, units] = _where(real, value, nothing).astype(write.sums.dtype)
            write.held[:, next_turn, units], write.cell[:, next_turn, units] = _where(real, State(nothing, d_cell), d_new)

        _for_each_tile(hid, retreat_units)

    _for_each_step(steps, retreat)


def _for_each_step(steps: int, run: Any) -> None:
    """The first step has no product, since none has been before it."""
    run(0, first=True)

    def next_step(step: Any, _: None) -> None:
        triton.debug_barrier()  # of one program's threads, whatever its docstring says of the grid
        run(step)

    lax.fori_loop(1, steps, next_step, None)


def _for_each_tile(hid: int, run: Any) -> None:
    lax.fori_loop(0, hid // TILE, lambda number, _: run(pl.ds(number * TILE, TILE)), None)


def _products(hid: int, left: Any, right: Any) -> list[Any]:
    """`left(inner, gate) @ right(inner, gate)` of each gate in float32, summed over the tiles `inner` of `hid` units."""

    def add(number: Any, sums: Any) -> Any:
        inner = pl.ds(number * TILE, TILE)
        return tuple(part + triton.dot(left(inner, gate), right(inner, gate)) for gate, part in enumerate(sums))

    return list(lax.fori_loop(0, hid // TILE, add, (jnp.zeros((ROWS, TILE), jnp.float32),) * 4))


def _real(real: Any, at: Any) -> Any:
    return None if real is None else real[:, at][:, None] > 0


def _where(real: Any, new: Any, old: Any) -> Any:
    return new if real is None else jax.tree.map(lambda n, o: jnp.where(real, n, o), new, old)
