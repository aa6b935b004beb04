"""Which target tokens are worth trying for a source: a lexical table, learned from the training pairs.

Enters: token pairs. Leaves: for each source token its likeliest translations, and of them the candidates of a sentence. With
some hundred candidates instead of the whole vocabulary the softmax layer, most of a step's work, is done in a fraction of the time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from flax_s2s.config import PAD, UNK, UserError
from flax_s2s.data.batching import TokenPairs

_MOST_ENTRIES = 30_000_000  # pairs of a source and a target position that are counted: about 1 GB
_ITERATIONS = 4
_KEPT = 128  # translations of a source token, and of the null word


class Shortlist(NamedTuple):
    """The table, and how much of it is used."""

    tokens: np.ndarray  # [source vocabulary, kept]: likeliest first, filled up with PAD; the row of PAD is the null word's
    probability: np.ndarray  # [source vocabulary, kept]
    size: int = _KEPT

    def candidates(self, source: Sequence[int], wanted: Sequence[int] = ()) -> np.ndarray:
        """The tokens that are tried for a source, in order: special ones, those wanted, and the likeliest to be in a translation, `size` in all.

        How often a token is expected in a translation is, by the model, the sum of its probabilities over the source's tokens.
        """
        rows = [PAD, *source]
        tokens, place = np.unique(self.tokens[rows], return_inverse=True)
        expected = np.bincount(place.ravel(), self.probability[rows].ravel())
        given = np.union1d(np.arange(UNK + 1), np.asarray(wanted, np.int64))
        others = tokens[np.argsort(-expected, kind="stable")]
        others = others[~np.isin(others, given)][: max(0, self.size - len(given))]
        return np.sort(np.concatenate([given, others])).astype(np.int32)


def learn(pairs: TokenPairs, source_vocab: int, target_vocab: int) -> Shortlist:
    """Learns translation probabilities by IBM model 1 (Brown et al. 1993), with a null word, from as many pairs as fit into memory."""
    chosen = _fitting(pairs)
    keys, positions, count = [], [], 0
    for i in chosen:
        source, target = (side.sequence(i)[:-1].astype(np.int64) for side in (pairs.source, pairs.target))
        # What the vocabulary lacks, where models copy, is unknown; PAD stands for the null word.
        source, target = np.append(np.where(source < source_vocab, source, UNK), PAD), np.where(target < target_vocab, target, UNK)
        keys.append((source[:, None] * target_vocab + target[None, :]).ravel())
        positions.append(np.tile(np.arange(count, count + len(target)), len(source)))
        count += len(target)
    unique, key = np.unique(np.concatenate(keys), return_inverse=True)
    position, source_of = np.concatenate(positions), unique // target_vocab
    probability = np.ones(len(unique))
    for _ in range(_ITERATIONS):
        weight = probability[key]
        expected = np.bincount(key, weight / np.bincount(position, weight)[position], len(unique))
        probability = expected / np.bincount(source_of, expected, source_vocab)[source_of]
    order = np.lexsort((unique, -probability, source_of))
    starts = np.searchsorted(source_of[order], np.arange(source_vocab + 1))
    tokens, likely = np.full((source_vocab, _KEPT), PAD, np.int32), np.zeros((source_vocab, _KEPT), np.float32)
    for token in range(source_vocab):
        best = order[starts[token] : starts[token + 1]][:_KEPT]
        tokens[token, : len(best)], likely[token, : len(best)] = unique[best] % target_vocab, probability[best]
    return Shortlist(tokens, likely)


def _fitting(pairs: TokenPairs) -> np.ndarray:
    """Every n-th pair, so many that their entries fit."""
    entries = pairs.source.lengths.astype(np.int64) * pairs.target.lengths
    return np.arange(0, len(pairs), -(-int(entries.sum()) // _MOST_ENTRIES) or 1)


def save(shortlist: Shortlist, file: epath.Path) -> None:
    """Writes it; the file appears whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as opened:
        np.savez(opened, tokens=shortlist.tokens, probability=shortlist.probability)
    partial.replace(file)


def load(file: epath.Path, size: int) -> Shortlist:
    """Reads what `save` wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as read:
            return Shortlist(read["tokens"], read["probability"], size)
    except FileNotFoundError:
        raise UserError(f"{file} is not there; make it once: python -m flax_s2s shortlist {file.parent}") from None
    except Exception as error:  # numpy lets through whatever the zip format raises
        raise UserError(f"{file} is damaged ({error}); make it again: python -m flax_s2s shortlist {file.parent}") from None
