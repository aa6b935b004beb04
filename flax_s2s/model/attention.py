"""Attention: how a decoder state looks at the source.

Enters: queries (decoder states) and a memory (encoder outputs). Leaves: contexts and the weights that made them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from flax_s2s.model.lstm import Initializer


def masked_softmax(scores: Float[Array, "batch tgt src"], mask: Bool[Array, "batch src"]) -> Float[Array, "batch tgt src"]:
    """Softmax in float32 over real source positions; a row without any gets zeros."""
    real = jnp.broadcast_to(mask[:, None, :], scores.shape)
    scores = jnp.where(real, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    return jnp.where(real, jax.nn.softmax(scores, axis=-1), 0.0)


class Attention(nnx.Module):
    """One of three scores between a query q and a memory m.

    dot: `q . m`, general: `q . (W m)` (Luong et al. 2015, equation 8), additive: `v . tanh(W q + U m)` (Bahdanau et al.
    2015, section A.1.2).
    """

    def __init__(self, score: str, query: int, memory: int, hidden: int, *, kernel_init: Initializer, rngs: nnx.Rngs) -> None:
        """Declares what the score needs; `query`, `memory` and `hidden` are sizes."""
        self.score = score
        if score == "dot":
            return
        self.kernel_key = nnx.Param(kernel_init(rngs.params(), (memory, query if score == "general" else hidden), jnp.float32))
        if score == "additive":
            self.kernel_query = nnx.Param(kernel_init(rngs.params(), (query, hidden), jnp.float32))
            self.vector = nnx.Param(kernel_init(rngs.params(), (hidden, 1), jnp.float32)[:, 0])

    def keys(self, memory: Float[Array, "batch src hid"]) -> Float[Array, "batch src keys"]:
        """The part of the score that depends on the source alone; computed once for a sentence."""
        return memory if self.score == "dot" else memory @ self.kernel_key[...].astype(memory.dtype)

    def __call__(
        self,
        queries: Float[Array, "batch tgt query"],
        keys: Float[Array, "batch src keys"],
        memory: Float[Array, "batch src hid"],
        mask: Bool[Array, "batch src"],
    ) -> tuple[Float[Array, "batch tgt hid"], Float[Array, "batch tgt src"]]:
        """Contexts and weights of any number of queries at once."""
        weights = masked_softmax(self._scores(queries, keys), mask)
        return jnp.einsum("bts,bsh->bth", weights.astype(memory.dtype), memory), weights

    def _scores(self, queries: Any, keys: Any) -> Any:
        if self.score != "additive":
            return jnp.einsum("btk,bsk->bts", queries, keys, preferred_element_type=jnp.float32)
        projected = queries @ self.kernel_query[...].astype(queries.dtype)
        hidden = jnp.tanh(projected[:, :, None, :] + keys[:, None, :, :])  # [batch tgt src keys]
        return jnp.matmul(hidden, self.vector[...].astype(hidden.dtype), preferred_element_type=jnp.float32)
