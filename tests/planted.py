"""Losses and gradients that are not finite, or spikes, planted into the real train step at chosen batches."""

import jax.numpy as jnp

from flax_s2s.training import step as step_module
from flax_s2s.training.loss import Loss

MARK = 10
"""A source of nothing but this token, without an end, makes its batch a bad one."""

_real = step_module.batch_loss


def marked(src_ids):
    return (src_ids == MARK).all(axis=1).any()


def mark(batch):
    """The batch with a marked first sentence."""
    src_ids, tgt_ids = batch[0].copy(), batch[1]
    src_ids[0] = MARK
    return type(batch)(src_ids, tgt_ids) if hasattr(batch, "_fields") else (src_ids, tgt_ids)


def spoil(loss, bad, kind):
    """`loss`: NaN. `gradient`: a finite loss whose gradient is NaN. `spike`: 50 times the loss."""
    if kind == "gradient":
        one = jnp.where(bad, 0.0, 1.0)  # the root's slope at 0 is infinite, and times 0 it is NaN
        return loss._replace(smoothed=loss.smoothed + (jnp.sqrt(0 * loss.smoothed + one) - one))
    factor = jnp.where(bad, jnp.nan if kind == "loss" else 50.0, 1.0)
    return Loss(loss.smoothed * factor, loss.plain * factor, loss.tokens)


def plant(monkeypatch, kind="loss", is_bad=marked):
    """From now on the train step computes this for a bad batch; one that was compiled before does not know."""

    def planted(model, params, batch, smoothing, keys=None):
        return spoil(_real(model, params, batch, smoothing, keys), is_bad(batch[0]), kind)

    monkeypatch.setattr(step_module, "batch_loss", planted)
