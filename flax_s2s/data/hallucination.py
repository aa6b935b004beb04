"""Pairs made up from real ones: what source and target share, such as a stem, gets other letters, the same on both sides.

Enters: a pair of characters. Leaves: one that shows the same change of form (data hallucination, Anastasopoulos and Neubig 2019):

    jooš -> joošin        becomes, for example,        jokš -> jokšin

so that of a few hundred pairs a model learns to copy stems that it has never seen, and how a form differs from its lemma. What a target
repeats (sulat -> susulat) or drops stays: only letters that both have equally often are replaced.
"""

import functools
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from flax_s2s.data.corpus import Pair

_LEAST = 3  # characters that both have in a row; the first and the last of these stay, where endings meet the stem
_SHARE = 0.5  # of the letters between them that are drawn anew


def hallucinate(pairs: Sequence[Pair], rate: float, seed: Sequence[int]) -> list[Pair]:
    """The same pairs, some of them made up, as features and the ends of shared runs are.

    Args:
        pairs: whose letters are what is drawn from, each as often as it comes.
        rate: probability that a pair is replaced; one that shares too little stays.
        seed: of the draws, which depend on nothing else.
    """
    rng = np.random.default_rng(seed)
    letters = [one for pair in pairs for one in pair.source + pair.target if one.isalpha()]
    return [_draw(pair, letters, rng) if chosen else pair for pair, chosen in zip(pairs, rng.random(len(pairs)) < rate, strict=True)]


def _draw(pair: Pair, letters: Sequence[str], rng: np.random.Generator) -> Pair:
    source, target = list(pair.source), list(pair.target)
    places = _shared(pair.source, pair.target)
    for (here, there), changed, letter in zip(
        places, rng.random(len(places)) < _SHARE, rng.integers(max(len(letters), 1), size=len(places)), strict=True
    ):
        if changed:
            source[here] = target[there] = letters[letter]
    return pair._replace(source="".join(source), target="".join(target))


@functools.lru_cache(1 << 16)  # every epoch asks for the same ones
def _shared(source: str, target: str) -> tuple[tuple[int, int], ...]:
    """Where letters stand inside of the runs that both have."""
    blocks = SequenceMatcher(None, source, target, autojunk=False).get_matching_blocks()
    inside = ((block, at) for block in blocks if block.size >= _LEAST for at in range(1, block.size - 1))
    places = ((block.a + at, block.b + at) for block, at in inside if source[block.a + at].isalpha())
    return tuple((here, there) for here, there in places if source.count(source[here]) == target.count(source[here]))
