"""What computes all steps of a layer in one call, and both of its directions together: cuDNN, or kernels of our own.

Enters: the layers that read one input, one or a second that reads backwards. Leaves: their outputs and final states side by side.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_s2s.model.cells import RecurrentLayer, State, zero_state
from flax_s2s.model.cudnn import cudnn_layer
from flax_s2s.model.noise import Noise


def read(
    layers: Sequence[RecurrentLayer],
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None,
    initial: State | None,
    reverse: bool,
    kernel: Literal["cudnn", "pallas"],
    noises: Sequence[Noise],
) -> tuple[Float[Array, "batch time feat"], State]:
    """Layers of one size over time; arguments and results are those of `lstm.unroll`, the second's features after the first's.

    Args:
        layers: lstms without zoneout; the second of two reads backwards.
        inputs: in the type of the matrix products.
        mask: real positions; for cudnn they come first.
        initial: side by side, as final states are; None: zeros.
        reverse: a single layer reads backwards.
        kernel: what computes it.
        noises: of each layer; for cudnn there are none.
    """
    batch, time = inputs.shape[:2]
    initial = initial or zero_state(layers[0], (batch, len(layers)), inputs.dtype)
    initial = State(*(part.reshape(batch, len(layers), -1) for part in initial))
    gates = tuple(layer.gates() for layer in layers)
    keeps = [noise.keep for noise in noises if noise.keep is not None]
    match kernel:
        case "cudnn":
            outputs, final = cudnn_layer(gates, inputs, mask, initial, reverse)
        case "pallas":
            from flax_s2s.model.pallas import pallas_layer  # here, because Pallas takes longer to import than our own modules together

            outputs, final = pallas_layer(gates, inputs, mask, initial, reverse, jnp.stack(keeps, axis=1) if keeps else None)
        case _:
            assert_never(kernel)
    return outputs.reshape(batch, time, -1), jax.tree.map(lambda part: part.reshape(batch, -1), final)
