"""Attention: how a decoder state looks at the source.

Enters: queries (decoder states) and a memory (encoder outputs). Leaves: contexts and the weights that made them.
"""

from typing import NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from flax_s2s.config import Scoring
from flax_s2s.model.cells import Initializer
from flax_s2s.model.product import product
from flax_s2s.model.recurrence import Multiply, multiply_by


class Source(NamedTuple):
    """What a query reads of the source besides `Attention.kernels`; keys and vector of the additive score alone."""

    mask: Bool[Array, "batch src"]
    keys: Float[Array, "batch src keys"] | None
    vector: Float[Array, " keys"] | None
    cover: Float[Array, " keys"] | None  # what a key gains for each time that it was looked at


def masked_softmax(
    scores: Float[Array, "batch tgt src"], mask: Bool[Array, "batch src"], rounded: bool = False
) -> Float[Array, "batch tgt src"]:
    """Softmax in float32 over real source positions; a row without any gets zeros.

    `rounded` is for decoding, where the weights are rounded to bfloat16 next; it has no gradient. Exponentials are then multiples of 2^-16, whose sum is exact in
    float32 up to 256: the same in whatever order it is made, which differs with the number of rows.
    """
    real = jnp.broadcast_to(mask[:, None, :], scores.shape)
    scores = jnp.where(real, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    if not rounded:
        return jnp.where(real, jax.nn.softmax(scores, axis=-1), 0.0)
    exponentials = jnp.where(real, jnp.round(jnp.exp(scores - scores.max(axis=-1, keepdims=True)) * 2.0**16) * 2.0**-16, 0.0)
    return exponentials / jnp.maximum(exponentials.sum(axis=-1, keepdims=True), 1.0)


class Covered(NamedTuple):
    """What was looked at before (see `Attention`)."""

    seen: Float[Array, "batch tgt src"]  # the sum of all weights so far, of each query
    cover: Float[Array, " keys"]


@jax.custom_vjp
def _additive(
    queries: Float[Array, "batch tgt keys"], keys: Float[Array, "batch src keys"], vector: Float[Array, " keys"], covered: Covered | None
) -> Float[Array, "batch tgt src"]:
    """`v . tanh(q + k)` for every pair, in float32: while attention is even, the gradient of q is a difference of near equals.

    The tanh of all pairs, by far the largest array there is, is computed again for the gradient instead of kept.
    """
    return jnp.matmul(_hidden(queries, keys, covered), vector)


def _hidden(queries: Array, keys: Array, covered: Covered | None) -> Array:
    sums = queries[:, :, None, :] + keys[:, None, :, :]
    return jnp.tanh(sums if covered is None else sums + covered.seen[:, :, :, None] * covered.cover[None, None, None, :])


def _additive_backward(saved: tuple[Array, Array, Array, Covered | None], d_scores: Array) -> tuple[Array, Array, Array, Covered | None]:
    (queries, keys, vector, covered), d_scores = lax.optimization_barrier((saved, d_scores))  # else XLA finds the tanh and keeps it
    hidden = _hidden(queries, keys, covered)  # [batch tgt src keys]
    d_sums = d_scores[:, :, :, None] * vector[None, None, None, :] * (1 - hidden**2)
    d_covered = covered and Covered(jnp.matmul(d_sums, covered.cover), jnp.einsum("bts,btsk->k", covered.seen, d_sums))
    return d_sums.sum(axis=2), d_sums.sum(axis=1), jnp.einsum("bts,btsk->k", d_scores, hidden), d_covered


_additive.defvjp(lambda *arguments: (_additive(*arguments), arguments), _additive_backward)


class Attention(nnx.Module):
    """One of three scores between a query q and a memory m.

    dot: `q . m`, general: `q . (W m)` (Luong et al. 2015, equation 8), additive: `v . tanh(W q + U m)` (Bahdanau et al.
    2015, section A.1.2). With coverage (See et al. 2017, equation 11) the key of a position, `m`, `W m` or `U m`, is `c w` more, with c
    the sum of the weights that it had at all steps before: so that a decoder can know what it has said.
    """

    def __init__(
        self, score: Scoring, query: int, memory: int, hidden: int, *, coverage: bool = False, kernel_init: Initializer, rngs: nnx.Rngs
    ) -> None:
        """Declares what the score needs; `query`, `memory` and `hidden` are sizes."""
        self.score, size = score, query
        match score:
            case "dot":
                pass
            case "general":
                self.kernel_key = nnx.Param(kernel_init(rngs.params(), (memory, query), jnp.float32))
            case "additive":
                self.kernel_key = nnx.Param(kernel_init(rngs.params(), (memory, hidden), jnp.float32))
                self.kernel_query = nnx.Param(kernel_init(rngs.params(), (query, hidden), jnp.float32))
                self.vector, size = nnx.Param(kernel_init(rngs.params(), (hidden, 1), jnp.float32)[:, 0]), hidden
            case _:
                assert_never(score)
        if coverage:
            self.cover = nnx.Param(kernel_init(rngs.params(), (size, 1), jnp.float32)[:, 0])

    def keys(self, memory: Float[Array, "batch src hid"]) -> Float[Array, "batch src keys"]:
        """The part of the score that depends on the source alone, computed once for a sentence; of the additive score in float32."""
        match self.score:
            case "dot":
                return memory
            case "general":
                return product(memory, self.kernel_key[...]).astype(memory.dtype)
            case "additive":
                return product(memory, self.kernel_key[...])
            case _:
                assert_never(self.score)

    def __call__(
        self,
        queries: Float[Array, "batch tgt query"],
        keys: Float[Array, "batch src keys"],
        memory: Float[Array, "batch src hid"],
        mask: Bool[Array, "batch src"],
    ) -> tuple[Float[Array, "batch tgt hid"], Float[Array, "batch tgt src"]]:
        """Contexts and weights of any number of queries at once."""
        return self.look(multiply_by(self.kernels(keys, memory)), self.source(keys, mask), queries)

    def kernels(self, keys: Float[Array, "batch src keys"], memory: Float[Array, "batch src hid"]) -> dict[str, Array]:
        """What queries are multiplied with, by name: parameters, and each row's own source."""
        match self.score:
            case "dot" | "general":
                return {"keys": keys.swapaxes(1, 2), "values": memory}
            case "additive":
                return {"query": self.kernel_query[...], "values": memory}
            case _:
                assert_never(self.score)

    def source(self, keys: Float[Array, "batch src keys"], mask: Bool[Array, "batch src"]) -> Source:
        """What else a query reads."""
        cover = self.cover[...] if hasattr(self, "cover") else None
        match self.score:
            case "dot" | "general":
                return Source(mask, None, None, cover)
            case "additive":
                return Source(mask, keys, self.vector[...], cover)
            case _:
                assert_never(self.score)

    def scores(
        self,
        multiply: Multiply,
        source: Source,
        queries: Float[Array, "batch tgt query"],
        seen: Float[Array, "batch tgt src"] | None = None,
    ) -> Float[Array, "batch tgt src"]:
        """Scores of any number of queries with all source positions; arguments as for `look`."""
        covered = None if seen is None or source.cover is None else Covered(seen, source.cover)
        if source.keys is not None and source.vector is not None:
            return _additive(multiply("query", queries), source.keys, source.vector, covered)
        scores = multiply("keys", queries)
        if covered is None:
            return scores
        # A sum, not a product with a vector, whose last digits on CPUs depend on how many rows there are.
        moved = jnp.sum(queries.astype(jnp.float32) * covered.cover[None, None, :], axis=-1)
        return scores + moved[:, :, None] * covered.seen

    def look(
        self,
        multiply: Multiply,
        source: Source,
        queries: Float[Array, "batch tgt query"],
        rounded: bool = False,
        seen: Float[Array, "batch tgt src"] | None = None,
    ) -> tuple[Float[Array, "batch tgt hid"], Float[Array, "batch tgt src"]]:
        """Contexts and weights of any number of queries at once; `multiply` is by `kernels`, `rounded` as in `masked_softmax`.

        With coverage `seen` is what each query's decoder has looked at before.
        """
        scores = self.scores(multiply, source, queries, seen)
        weights = masked_softmax(scores, source.mask, rounded and queries.dtype == jnp.bfloat16)
        return multiply("values", weights.astype(queries.dtype)).astype(queries.dtype), weights


def score_products(score: Scoring, query: int, memory: int, hidden: int) -> int:
    """Multiplications of one query's score with one source position, of the sizes that `Attention` is declared with."""
    match score:
        case "dot":
            return memory
        case "general":
            return query
        case "additive":
            return hidden
        case _:
            assert_never(score)
