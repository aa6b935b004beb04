"""One LSTM layer over time by cuDNN, through `jax.experimental.rnn`: NVIDIA GPUs, float32 (TF32 products where jax allows).

Enters and leaves what `lstm.unroll` does; real positions must come before padding. Outputs at padding are zeros.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental import rnn
from jaxtyping import Array, Bool, Float, Int


def cudnn_layer(
    kernels: tuple[Float[Array, "emb gates"], Float[Array, "hid gates"], Float[Array, " gates"]],
    inputs: Float[Array, "batch time emb"],
    mask: Bool[Array, "batch time"] | None,
    hidden: Float[Array, "batch hid"],
    cell: Float[Array, "batch hid"],
    reverse: bool,
) -> tuple[Float[Array, "batch time hid"], Float[Array, "batch hid"], Float[Array, "batch hid"]]:
    """Outputs and final state of a layer with these kernels: of the input, of the recurrence, and the bias."""
    batch, time, size = inputs.shape
    real = jnp.full(batch, time, jnp.int32) if mask is None else mask.sum(axis=1, dtype=jnp.int32)
    lengths = jnp.maximum(real, 1)  # cuDNN takes no empty row; its result is not used
    kernel_in, kernel_rec, bias = kernels
    weights = jnp.concatenate([kernel_in.T.ravel(), kernel_rec.T.ravel(), bias, jnp.zeros_like(bias)])
    read = _flip(inputs, lengths) if reverse else inputs
    outputs, last_hidden, last_cell = rnn.lstm(read, hidden[None], cell[None], weights, lengths, size, hidden.shape[1], 1, 0.0, False)
    if reverse:
        outputs = _flip(outputs, lengths)
    some = (real > 0)[:, None]
    outputs = outputs if mask is None else jnp.where(mask[:, :, None], outputs, 0)
    return outputs, jnp.where(some, last_hidden[0], hidden), jnp.where(some, last_cell[0], cell)


def _flip(sequences: Float[Array, "batch time emb"], lengths: Int[Array, " batch"]) -> Any:
    """Reverses the first `lengths` positions of each row."""
    position = jnp.arange(sequences.shape[1])[None, :]
    order = jnp.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return jnp.take_along_axis(sequences, order[:, :, None], axis=1)
