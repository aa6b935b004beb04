"""Phrases that a hypothesis must contain: how much of them it has met, and which of its extensions a beam has to look at.

Enters: phrases as token ids. Leaves: progress, banks and extensions, for `beam`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Phrases(NamedTuple):
    """What the hypotheses of each sentence must contain; made by `make_phrases`.

    A phrase has variants (as at the beginning of a word and inside of one), of which one is enough. What a hypothesis has
    met of a variant is the longest beginning of it that ends the hypothesis, or all of it once it was met (Knuth, Morris,
    Pratt 1977).
    """

    tokens: Int[Array, "batch phrase variant token"]  # -1 beyond the end
    length: Int[Array, "batch phrase variant"]  # 0: no such phrase or variant
    goto: Int[Array, "batch phrase variant token token"]  # progress after progress p and the phrase's own token j
    special: Int[Array, "batch special"]  # all tokens of a sentence's phrases, each once, in order; -1 beyond the end


def make_phrases(sentences: list[list[list[list[int]]]], phrases: int, variants: int, tokens: int) -> Phrases:
    """Of each sentence's phrases the variants as token ids; the sizes are those of the arrays."""
    shape = (len(sentences), phrases, variants)
    ids, length = np.full((*shape, tokens), -1, np.int32), np.zeros(shape, np.int32)
    goto, special = np.zeros((*shape, tokens, tokens), np.int32), np.full((len(sentences), phrases * variants * tokens), -1, np.int32)
    for row, wanted in enumerate(sentences):
        found = sorted({token for phrase in wanted for variant in phrase for token in variant})
        special[row, : len(found)] = found
        for number, phrase in enumerate(wanted):
            for kind, variant in enumerate(phrase):
                ids[row, number, kind, : len(variant)], length[row, number, kind] = variant, len(variant)
                for progress in range(len(variant)):
                    for position, token in enumerate(variant):
                        read = [*variant[:progress], token]
                        longest = next(n for n in range(len(read), -1, -1) if n <= len(variant) and read[len(read) - n :] == variant[:n])
                        goto[row, number, kind, progress, position] = longest
    return Phrases(*map(jnp.asarray, (ids, length, goto, special)))


def progress_after(
    phrases: Phrases, progress: Int[Array, "batch beam phrase variant"], token: Int[Array, "batch beam"]
) -> Int[Array, "batch beam phrase variant"]:
    """What is met after one more token of each hypothesis; a token of -1, the end, leaves everything as it is."""
    same = (phrases.tokens[:, None] == token[:, :, None, None, None]) & (token >= 0)[:, :, None, None, None]
    start = jnp.minimum(progress, phrases.tokens.shape[3] - 1)
    phrase, variant = jnp.arange(start.shape[2])[:, None], jnp.arange(start.shape[3])[None, :]
    after = jax.vmap(lambda goto, rows: jax.vmap(lambda at: goto[phrase, variant, at])(rows))(
        phrases.goto, start
    )  # [batch beam phrase variant token]
    after = jnp.where(same, after, 0).max(axis=-1)
    keep = (progress == phrases.length[:, None]) | (token < 0)[:, :, None, None]
    return jnp.where(keep, progress, after)


def _met(phrases: Phrases, progress: Int[Array, "batch beam phrase variant"]) -> Bool[Array, "batch beam phrase"]:
    there = phrases.length[:, None] > 0
    return (there & (progress == phrases.length[:, None])).any(axis=-1) | ~there.any(axis=-1)


def all_met(phrases: Phrases, progress: Int[Array, "batch beam phrase variant"]) -> Bool[Array, "batch beam"]:
    """Whether a hypothesis contains every phrase."""
    return _met(phrases, progress).all(axis=-1)


def tokens_met(phrases: Phrases, progress: Int[Array, "batch beam phrase variant"]) -> Int[Array, "batch beam"]:
    """How many tokens of the phrases a hypothesis has met: of each the variant that is furthest, all of the longest once it is met."""
    whole = jnp.broadcast_to(phrases.length.max(axis=-1)[:, None], progress.shape[:3])
    return jnp.where(_met(phrases, progress), whole, progress.max(axis=-1)).sum(axis=-1)


def best_of_each_bank(
    phrases: Phrases, totals: Float[Array, "batch beam vocab"], eos: int, count: int
) -> tuple[Float[Array, "batch extension"], Int[Array, "batch extension"], Int[Array, "batch extension"]]:
    """Extensions among which the best `count` of every bank are: rank, parent and token, best first.

    Tokens of no phrase lead a hypothesis into one and the same bank, so of those the best of each hypothesis are enough;
    all others, and the end mark, are taken one by one.
    """
    rows, beams, vocab = totals.shape
    special = jnp.concatenate([jnp.full((rows, 1), eos), phrases.special], axis=1)
    is_special = jax.vmap(lambda tokens: jnp.zeros(vocab, bool).at[tokens].set(True, mode="drop"))(jnp.where(special < 0, vocab, special))
    _, ordinary = lax.top_k(jnp.where(is_special[:, None, :], -jnp.inf, totals), min(count, vocab))
    tokens = jnp.concatenate([ordinary, jnp.broadcast_to(jnp.maximum(special, 0)[:, None, :], (rows, beams, special.shape[1]))], axis=2)
    counts = jnp.concatenate(
        [
            ~jnp.take_along_axis(jnp.broadcast_to(is_special[:, None, :], totals.shape), ordinary, axis=2),
            jnp.broadcast_to((special >= 0)[:, None, :], (rows, beams, special.shape[1])),
        ],
        axis=2,
    )
    rank = jnp.where(counts, jnp.take_along_axis(totals, tokens, axis=2), -jnp.inf)
    index = jnp.arange(beams)[None, :, None] * vocab + tokens
    negative, index = lax.sort((-rank.reshape(rows, -1), index.reshape(rows, -1)), num_keys=2)
    return -negative, index // vocab, index % vocab
