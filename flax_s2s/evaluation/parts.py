"""Parts of a split that are scored by themselves: by length, by what training has seen, by features, or by any column.

Enters: examples, or what is known of each. Leaves: the name of each part, and which examples are in it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from flax_s2s.data import features
from flax_s2s.data.corpus import Pair
from flax_s2s.evaluation.evaluate import Example

Parts: TypeAlias = dict[str, list[int]]

NAMES = ("features", "length", "seen")
"""What parts are made by, beside columns."""


class Bucket(NamedTuple):
    """Sentences of similar length."""

    low: int
    high: int
    chosen: list[int]


def bucket(lengths: Sequence[int], buckets: int = 5) -> list[Bucket]:
    """Buckets of about as many sentences each, the shortest first; sentences of one length stay together.

    Args:
        lengths: of each sentence.
        buckets: how many at most.
    """
    edges = np.unique(np.quantile(lengths, np.arange(1, buckets) / buckets, method="lower")) if lengths else np.zeros(0)
    of_sentence, found = np.searchsorted(edges, lengths), []
    for number in range(len(edges) + 1):
        chosen = np.flatnonzero(of_sentence == number).tolist()
        if chosen:
            here = [lengths[i] for i in chosen]
            found.append(Bucket(min(here), max(here), chosen))
    return found


def by_length(lengths: Sequence[int]) -> Parts:
    """By tokens of the source."""
    return {f"{one.low} to {one.high} tokens" if one.low < one.high else f"{one.low} tokens": one.chosen for one in bucket(lengths)}


def by_values(values: Sequence[Iterable[str]]) -> Parts:
    """By the values that each example has, of which it may have several; the most frequent first."""
    found: Parts = {}
    for i, own in enumerate(values):
        for value in dict.fromkeys(own):
            found.setdefault(value, []).append(i)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def by_features(examples: Sequence[Example]) -> Parts:
    """By each feature of the bundles."""
    return by_values([features.split(one.features) for one in examples])


def by_seen(examples: Sequence[Example], train: Iterable[Pair]) -> Parts:
    """By whether the source, such as a lemma, is in the training pairs, and where there are features whether their bundle is.

    Args:
        examples: of a split.
        train: read once.
    """
    wanted = [{one.source for one in examples}, {one.features for one in examples}]
    seen: list[set[str]] = [set(), set()]
    for pair in train:
        for own, of_all, text in zip(seen, wanted, (pair.source, pair.features), strict=True):
            if text in of_all:
                own.add(text)
    bundles = any(one.features for one in examples)
    found: Parts = {}
    for i, one in enumerate(examples):
        source, bundle = ("seen" if known else "unseen" for known in (one.source in seen[0], one.features in seen[1]))
        found.setdefault(f"source {source}, features {bundle}" if bundles else f"source {source}", []).append(i)
    return dict(sorted(found.items()))
