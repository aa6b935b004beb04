"""Losses and gradients that are not finite, and spikes, planted into the real train step at marked batches.

As a program, `python planted.py FIRST LAST ARGUMENTS` runs `flax-s2s ARGUMENTS` with these batches of the first epoch marked.
"""

import sys

import jax.numpy as jnp

from flax_s2s.training import step as step_module
from flax_s2s.training.loss import Loss

MARKS = {"loss": 2, "gradient": 1, "spike": 3}
"""A source that is nothing but this token (EOS, BOS, UNK), which no sentence is, marks its batch."""

_real = step_module.batch_loss


def mark(batch, kind="loss"):
    """The batch with a marked first sentence."""
    src_ids, tgt_ids = batch[0].copy(), batch[1]
    src_ids[0] = MARKS[kind]
    return type(batch)(src_ids, tgt_ids) if hasattr(batch, "_fields") else (src_ids, tgt_ids)


def planted(model, params, batch, smoothing, *rest):
    """`batch_loss`, but of a marked batch: NaN; or a finite loss whose gradient is NaN; or 50 times the loss."""
    loss = _real(model, params, batch, smoothing, *rest)
    bad, steep, spike = ((batch[0] == MARKS[kind]).all(axis=1).any() for kind in ("loss", "gradient", "spike"))
    one = jnp.where(steep, 0.0, 1.0)  # the root's slope at 0 is infinite, and times 0 it is NaN
    factor = jnp.where(bad, jnp.nan, jnp.where(spike, 50.0, 1.0))
    smoothed = loss.smoothed + (jnp.sqrt(0 * loss.smoothed + one) - one)
    return Loss(smoothed * factor, loss.plain * factor, loss.tokens)


def plant(monkeypatch):
    """From now on the train step knows of marked batches; one that was compiled before does not."""
    monkeypatch.setattr(step_module, "batch_loss", planted)


def mark_stream(batches):
    """Marks these batches of the first epoch in all that `train` reads; each process marks a row of its own."""
    from flax_s2s.data.pipeline import Pipeline

    real = Pipeline.stream

    def stream(self, start):
        for after, batch in real(self, start):
            yield after, mark(batch) if after.epoch == 0 and after.batch - 1 in batches else batch

    Pipeline.stream = stream


if __name__ == "__main__":
    from flax_s2s.cli.verbs import main

    step_module.batch_loss = planted
    mark_stream(range(int(sys.argv[1]), int(sys.argv[2]) + 1))
    sys.exit(main(sys.argv[3:]))
