"""Parts of a split that are scored by themselves: by length, by what training has seen, by features, or by any column.

Enters: examples, or what is known of each. Leaves: the name of each part, and which examples are in it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from flax_s2s.config import UnicodeForm
from flax_s2s.data import features
from flax_s2s.data.corpus import Pair
from flax_s2s.data.vocab import in_form
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


def by_seen(examples: Sequence[Example], train: Iterable[Pair], form: UnicodeForm = "given") -> Parts:
    """By whether the source, such as a lemma, is in the training pairs, and where there are features whether their bundle is.

    Args:
        examples: of a split.
        train: read once.
        form: that text is read in; the order of features counts for nothing.
    """

    def read(one: Example | Pair) -> tuple[str, tuple[str, ...]]:
        return in_form(one.source, form), tuple(sorted(features.split(one.features)))

    asked = [read(one) for one in examples]
    sources, every = ({one[part] for one in asked} for part in range(2))
    seen_sources, seen_bundles = set[str](), set[tuple[str, ...]]()
    for pair in train:
        source, bundle = read(pair)
        seen_sources |= {source} & sources
        seen_bundles |= {bundle} & every
    bundles = any(one.features for one in examples)
    found: Parts = {}
    for i, (text, own) in enumerate(asked):
        source, bundle_name = ("seen" if known else "unseen" for known in (text in seen_sources, own in seen_bundles))
        found.setdefault(f"source {source}, features {bundle_name}" if bundles else f"source {source}", []).append(i)
    return dict(sorted(found.items()))
