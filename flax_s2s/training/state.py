"""Everything that decides a future step."""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from flax_s2s.config import Config
from flax_s2s.model.seq2seq import init_params
from flax_s2s.runtime.parallel import Devices, place

Params = dict[str, Any]


class Accumulated(NamedTuple):
    """Sums over the batches of an unfinished update."""

    gradients: Params
    loss: Any  # training.loss.Loss
    batches: Int[Array, ""]


class TrainState(NamedTuple):
    """The state of a run after an update; the same on every device."""

    step: Int[Array, ""]  # updates made or skipped
    position: Int[Array, "2"]  # epoch, and batches of it that have been read
    params: Params
    optimizer: Any
    average: Params | None  # moving average of params
    accumulated: Accumulated | None
    key: UInt32[Array, "2"]  # raw data of the key that dropout starts from
    skipped: Int[Array, ""]  # bad updates so far: loss or gradient was not finite, or the loss a spike
    bad_in_a_row: Int[Array, ""]  # of them the last ones; 0 after a good update
    usual_loss: Float[Array, ""]  # running mean of the good updates' loss per token
    rollbacks: Int[Array, ""]  # how often training has gone back to an earlier checkpoint
    best_score: Float[Array, ""]  # best value of training.best_metric so far, as a gain (losses negative)
    bad_evaluations: Int[Array, ""]  # evaluations since then
    evaluated: Int[Array, ""]  # step of the last evaluation: one that a stop prevented is made up for


def create_state(config: Config, vocab_sizes: tuple[int, int], optimizer: optax.GradientTransformation, devices: Devices) -> TrainState:
    """The state before the first step, made directly on the devices."""
    created: TrainState = jax.jit(lambda: _create(config, vocab_sizes, optimizer), out_shardings=devices.replicated)()
    return created


def abstract_state(config: Config, vocab_sizes: tuple[int, int], optimizer: optax.GradientTransformation, devices: Devices) -> TrainState:
    """Shapes, types and shardings of the state; nothing is computed."""
    described: TrainState = place(jax.eval_shape(lambda: _create(config, vocab_sizes, optimizer)), devices)
    return described


def _create(config: Config, vocab_sizes: tuple[int, int], optimizer: optax.GradientTransformation) -> TrainState:
    params_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    params = init_params(config.model, *vocab_sizes, params_key)
    zero, nothing = jnp.int32(0), jnp.float32(0)
    accumulated = None
    if config.optimizer.accumulate_batches > 1:
        accumulated = Accumulated(jax.tree.map(jnp.zeros_like, params), (nothing, nothing, nothing), zero)
    return TrainState(
        step=zero,
        position=jnp.zeros(2, jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if config.optimizer.average_decay else None,
        accumulated=accumulated,
        key=jax.random.key_data(dropout_key),
        skipped=zero,
        bad_in_a_row=zero,
        usual_loss=nothing,
        rollbacks=zero,
        best_score=jnp.float32(-jnp.inf),
        bad_evaluations=zero,
        evaluated=zero,
    )


def evaluated_params(state: TrainState) -> Params:
    """The parameters that are evaluated and decoded with: the moving average where there is one."""
    return state.params if state.average is None else state.average


def not_finite(state: TrainState) -> str:
    """Names a part of what was learned that holds a number that is not finite; empty when there is none."""
    learned = {"params": state.params, "average": state.average, "optimizer": state.optimizer}
    fine = jax.device_get(_finite([leaf for leaf in jax.tree.leaves(learned) if jnp.issubdtype(leaf.dtype, jnp.floating)]))
    names = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(learned)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return next((name for name, good in zip(names, fine, strict=True) if not good), "")


@jax.jit
def _finite(leaves: list[Any]) -> Bool[Array, " leaf"]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def count_parameters(params: Params) -> int:
    """Numbers in all."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def hash_state(state: Any) -> str:
    """sha256 over every leaf's path, type, shape and bytes, of a state on the host."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
