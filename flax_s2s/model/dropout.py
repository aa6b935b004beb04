"""Dropout that depends on a row's place in the global batch, never on the device that computes the row."""

from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

Of = Literal["values", "features", "steps"]


def row_keys(key: Key[Array, ""], first_row: Int[Array, ""], rows: int) -> Key[Array, " batch"]:
    """One key per row: `key` folded with the row's index in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first_row + jnp.arange(rows))


def drop(
    features: Float[Array, "batch time emb"], keys: Key[Array, " batch"] | None, site: int, rate: float, of: Of = "values"
) -> Float[Array, "batch time emb"]:
    """Zeroes with probability `rate` and scales what is kept, so that the mean stays.

    The rate is rounded to a multiple of 1/256, because one random byte decides a feature: a quarter of the random
    words of a float per feature. More padding columns do not change the masks of the others.

    Args:
        features: what is dropped from.
        keys: one key per row; None means deterministic, nothing is dropped.
        site: number of the place in the model, so that each place has masks of its own.
        rate: probability, below 1.
        of: what is dropped or kept as one: each value, a feature at all steps (Gal and Ghahramani 2016), or all features of a step.
    """
    threshold = round(rate * 256)
    if keys is None or threshold == 0:
        return features
    _, time, size = features.shape
    match of:
        case "values":
            drawn = time, size
        case "features":
            drawn = 1, size
        case "steps":
            drawn = time, 1
        case _:
            assert_never(of)
    dropped = choose(keys, site, rate, *drawn)
    return jnp.where(dropped, 0, features * (256 / (256 - threshold))).astype(features.dtype)


def choose(keys: Key[Array, " batch"], site: int, rate: float, time: int, size: int) -> Bool[Array, "batch time size"]:
    """True with probability `rate`, rounded as by `drop`."""
    return random_bytes(keys, site, time * size).reshape(-1, time, size) < round(rate * 256)


def random_bytes(keys: Key[Array, " batch"], site: int, count: int) -> UInt8[Array, "batch count"]:
    """Uniform bytes, `count` for each row; a longer row begins with the bytes of a shorter one."""
    words = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, site), (-(-count // 4),)))(keys)
    return lax.bitcast_convert_type(words, jnp.uint8).reshape(keys.shape[0], -1)[:, :count]
