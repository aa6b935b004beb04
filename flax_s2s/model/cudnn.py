"""A layer over time by cuDNN, through `jax.experimental.rnn`: NVIDIA GPUs, float32 (TF32 products where jax allows).

Enters and leaves what `together.read` does; real positions must come before padding. Outputs at padding are zeros. Both directions
are one call.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental import rnn
from jaxtyping import Array, Bool, Float, Int

from flax_s2s.model.cells import Gates, State


def cudnn_layer(
    layers: tuple[Gates, ...],
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None,
    initial: State,
    reverse: bool,
) -> tuple[Float[Array, "batch time dir hid"], State]:
    """One direction, which `reverse` lets read backwards, or two.

    Args:
        layers: the parameters of each direction.
        inputs: of both.
        mask: real positions.
        initial: [batch dir hid].
        reverse: of a single direction.

    Returns:
        Outputs, and the final state [batch dir hid].
    """
    (batch, time, size), hid, directions = inputs.shape, initial.cell.shape[-1], len(layers)
    real = jnp.full(batch, time, jnp.int32) if mask is None else mask.sum(axis=1, dtype=jnp.int32)
    lengths = jnp.maximum(real, 1)  # cuDNN takes no empty row; its result is not used
    kernels = [kernel.T.ravel() for layer in layers for kernel in (layer.kernel_in, layer.kernel_rec)]
    biases = [bias for layer in layers for bias in (layer.bias, jnp.zeros_like(layer.bias))]
    read = _flip(inputs, lengths) if reverse else inputs
    first = [part.swapaxes(0, 1) for part in initial]
    how = (lengths, size, hid, 1, 0.0, directions == 2)
    outputs, *last = rnn.lstm(read, *first, jnp.concatenate([*kernels, *biases]), *how)
    if reverse:
        outputs = _flip(outputs, lengths)
    outputs = outputs if mask is None else jnp.where(mask[:, :, None], outputs, 0)
    some = (real > 0)[:, None, None]
    final = State(*(jnp.where(some, new.swapaxes(0, 1), old) for new, old in zip(last, initial, strict=True)))
    return outputs.reshape(batch, time, directions, hid), final


def _flip(sequences: Float[Array, "batch time emb"], lengths: Int[Array, " batch"]) -> Any:
    """Reverses the first `lengths` positions of each row."""
    position = jnp.arange(sequences.shape[1])[None, :]
    order = jnp.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return jnp.take_along_axis(sequences, order[:, :, None], axis=1)
