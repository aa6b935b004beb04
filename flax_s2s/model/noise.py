"""What regularizes a model in training: which random masks lie where.

Enters: the configuration and a key for each row. Leaves: features with some dropped, and the `Noise` of a layer's states. Each
place in the model has a number, its site, so that it has masks of its own:

    i, TARGET + i     what enters an encoder's layer i; a decoder's (layer 0 reads the embeddings)
    READOUT           what the softmax layer reads
    WORD, WORD + 1    whole tokens of the source; of the target
    STATE + 2 i + d   the hidden state of an encoder's layer i in direction d on its way to the next step; of a decoder's TARGET + i more
    ZONES             so much more than that: zoneout of the hidden state; of the cell
    OWN               which tokens scheduled sampling replaces
"""

from typing import NamedTuple, assert_never

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from flax_s2s.config import ModelConfig
from flax_s2s.model.cells import Zones
from flax_s2s.model.dropout import choose, drop

TARGET, READOUT, WORD, STATE, ZONES, OWN = 100, 200, 210, 300, (200, 400), 2000

RowKeys = UInt32[Array, "batch 2"] | None


class Noise(NamedTuple):
    """What regularizes a layer's states; None: nothing does."""

    keep: Float[Array, "batch hid"] | None  # what the hidden state is multiplied with on its way to the next step
    zones: Zones | None  # of all steps, [batch time hid]


def is_random(config: ModelConfig) -> bool:
    """Whether anything is dropped in training."""
    return any((config.dropout, config.recurrent_dropout, config.word_dropout, config.zoneout))


def drop_features(
    config: ModelConfig, features: Float[Array, "batch time feat"], keys: RowKeys, site: int
) -> Float[Array, "batch time feat"]:
    """Dropout of what passes from layer to layer."""
    match config.dropout_masks:
        case "step":
            return drop(features, keys, site, config.dropout, "values")
        case "sentence":
            return drop(features, keys, site, config.dropout, "features")
        case _:
            assert_never(config.dropout_masks)


def drop_words(config: ModelConfig, embedded: Float[Array, "batch time emb"], keys: RowKeys, site: int) -> Float[Array, "batch time emb"]:
    """Dropout of whole tokens."""
    return drop(embedded, keys, site, config.word_dropout, "steps")


def make_noise(config: ModelConfig, keys: RowKeys, layer: int, steps: int, hidden: int) -> Noise:
    """The noise of a layer, which is numbered as above."""
    if keys is None:
        return Noise(None, None)
    keep, zones, site, rate = None, None, STATE + layer, config.recurrent_dropout
    if rate:
        keep = drop(jnp.ones((keys.shape[0], 1, hidden)), keys, site, rate)[:, 0]
    if config.zoneout:
        zones = Zones(*(choose(keys, site + more, config.zoneout, steps, hidden) for more in ZONES))
    return Noise(keep, zones)
