"""From a gradient to an update: the learning rate's schedule and the optax chain."""

from collections.abc import Sequence
from functools import partial
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import optax
from jax import lax

from flax_s2s.config import OptimizerConfig, UserError, nearest


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """The learning rate of update `count`, counted from 0.

    Every schedule begins with a linear warm-up, from `peak / warmup_steps` at the first update to the peak. Source:
    inverse_sqrt Vaswani et al. 2017, section 5.3; halving Sutskever et al. 2014, section 3.4, and Luong et al. 2015.
    """
    peak, warmup = config.learning_rate, config.warmup_steps

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32) + 1
        ramp = jnp.minimum(1.0, step / max(warmup, 1))
        match config.schedule:
            case "constant":
                return peak * ramp
            case "inverse_sqrt":
                return peak * ramp * jnp.sqrt(warmup / jnp.maximum(step, warmup))
            case "cosine":
                assert config.decay_steps  # `rules.check` says how many 0 is
                done = jnp.clip((step - warmup) / max(config.decay_steps - warmup, 1), 0.0, 1.0)
                return peak * ramp * 0.5 * (1 + jnp.cos(jnp.pi * done))
            case "halving":
                halvings = jnp.floor((step - 1 - config.halve_from_step) / config.halve_every_steps) + 1
                return peak * ramp * 0.5 ** jnp.maximum(halvings, 0)
            case _:
                assert_never(config.schedule)

    return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping by global norm, then the update rule; weight decay leaves vectors (biases) alone, and what is frozen changes by nothing.

    Raises (when it meets the parameters):
        UserError: there is none of a path to be frozen.
    """
    schedule = make_schedule(config)
    match config.name:
        case "sgd":
            rule = optax.sgd(schedule)
        case "adam":
            rule = optax.adam(schedule, config.beta1, config.beta2, config.epsilon)
        case "adamw":
            matrices = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
            rule = optax.adamw(schedule, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay, mask=matrices)
        case _:
            assert_never(config.name)
    chain = [optax.clip_by_global_norm(config.clip_norm), rule] if config.clip_norm else [rule]
    if config.frozen:  # a decay needs no gradient
        chain.append(optax.masked(optax.set_to_zero(), partial(_is_frozen, config.frozen)))
    return optax.chain(*chain)


def freeze(params: Any, frozen: Sequence[str]) -> Any:
    """The parameters, those below the paths without a gradient, so that they count in no norm."""
    if not frozen:
        return params
    return jax.tree.map(lambda stays, leaf: lax.stop_gradient(leaf) if stays else leaf, _is_frozen(frozen, params), params)


def _is_frozen(frozen: Sequence[str], params: Any) -> Any:
    """A tree of truth values."""
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    chosen = [[f"{path}/".startswith(f"{name}/") for path in paths] for name in frozen]
    for name, found in zip(frozen, chosen, strict=True):
        if not any(found):
            prefixes = dict.fromkeys("/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 2))
            raise UserError(f"optimizer.frozen: there is no parameter {name!r}{nearest(name, prefixes)}; `inspect` lists them all")
    stay = [any(found) for found in zip(*chosen, strict=True)]
    if all(stay):
        raise UserError(f"optimizer.frozen={','.join(frozen)} leaves nothing to train; freeze less, or decode with what is there")
    return jax.tree.unflatten(jax.tree.structure(params), stay)
