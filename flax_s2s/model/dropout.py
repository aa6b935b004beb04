"""Dropout that depends on a row's place in the global batch, never on the device that computes the row.

Random words are Threefry-2x32 (Salmon et al. 2011, with 20 rounds), as in `jax.random`, with a counter of (site, place) under the
key of a row: one call for each site. `jax.random` would fold the site into each key first; on CPUs each call is a loop of many small
programs, a third of what it takes to compile a train step.
"""

from functools import partial
from typing import Any, Literal, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

Of = Literal["values", "features", "steps"]


_ROTATIONS = np.array([[13, 15, 26, 6], [17, 29, 16, 24], [13, 15, 26, 6], [17, 29, 16, 24], [13, 15, 26, 6]], np.uint32)
_PARITY = np.uint32(0x1BD11BDA)


@jax.jit
def threefry(
    key: tuple[UInt32[Array, "*#words"], UInt32[Array, "*#words"]], counter: tuple[UInt32[Array, "*words"], UInt32[Array, "*words"]]
) -> tuple[UInt32[Array, "*words"], UInt32[Array, "*words"]]:
    """Two random words for two words of a key and two of a counter."""
    schedule = [*key, key[0] ^ key[1] ^ _PARITY]
    added = jnp.stack([jnp.stack([schedule[i % 3], schedule[(i + 1) % 3] + np.uint32(i)]) for i in range(1, 6)])

    def rounds(words: Any, now: Any) -> tuple[Any, None]:
        (first, second), (rotations, added) = words, now
        for rotation in rotations:
            first = first + second
            second = (second << rotation | second >> (32 - rotation)) ^ first
        return (first + added[0], second + added[1]), None

    def run(unroll: bool, words: Any, added: Any) -> Any:
        return lax.scan(rounds, words, (jnp.asarray(_ROTATIONS), added), unroll=unroll)[0]

    start = counter[0] + key[0], counter[1] + key[1]  # a GPU's loop has to be started step by step
    return lax.platform_dependent(start, added, cuda=partial(run, True), default=partial(run, False))


def fold_in(key: UInt32[Array, "2"], data: Int[Array, "2"]) -> UInt32[Array, "2"]:
    """Another key for each pair of numbers; for (0, n) that of `jax.random.fold_in`."""
    words = data.astype(jnp.uint32)
    return jnp.stack(threefry((key[0], key[1]), (words[0], words[1])))


def row_keys(key: UInt32[Array, "2"], first_row: Int[Array, ""], rows: int) -> UInt32[Array, "batch 2"]:
    """One key per row: `key` folded with the row's index in the global batch."""
    index = (first_row + jnp.arange(rows)).astype(jnp.uint32)
    return jnp.stack(threefry((key[:1], key[1:]), (jnp.zeros_like(index), index)), axis=1)


def drop(
    features: Float[Array, "batch time emb"], keys: UInt32[Array, "batch 2"] | None, site: int, rate: float, of: Of = "values"
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


def choose(keys: UInt32[Array, "batch 2"], site: int, rate: float, time: int, size: int) -> Bool[Array, "batch time size"]:
    """True with probability `rate`, rounded as by `drop`."""
    return random_bytes(keys, site, time * size).reshape(-1, time, size) < round(rate * 256)


def random_bytes(keys: UInt32[Array, "batch 2"], site: int, count: int) -> UInt8[Array, "batch count"]:
    """Uniform bytes, `count` for each row; a longer row begins with the bytes of a shorter one."""
    size = keys.shape[0], -(-count // 4)
    place = jnp.broadcast_to(jnp.arange(size[1], dtype=jnp.uint32)[None, :], size)
    first, second = threefry((keys[:, :1], keys[:, 1:]), (jnp.full(size, site, jnp.uint32), place))
    return lax.bitcast_convert_type(first ^ second, jnp.uint8).reshape(size[0], -1)[:, :count]
