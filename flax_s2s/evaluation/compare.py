"""Where two systems differ: in metrics with their significance, by length, by frequency of words, and in single sentences.

Enters: two systems' translations of the same sources, and the right ones. Leaves: rows of tables, for a reader and for JSON.

Source: Koehn 2004 (paired bootstrap resampling); Neubig et al. 2019, compare-mt (buckets, f-measure of words).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flax_s2s.evaluation import bootstrap
from flax_s2s.evaluation.breakdown import bucket
from flax_s2s.evaluation.metrics import Measured

_FREQUENCIES = (0, 1, 2, 5, 10, 100, 1000)  # where buckets begin; compare-mt's, 2 to 4 together


class Paired(NamedTuple):
    """A metric of both systems, in percent."""

    first: float
    second: float
    difference: float  # second - first
    p_value: float  # of the paired bootstrap test, two-sided
    first_ci: float  # half the width of the 95% confidence interval
    second_ci: float
    signature: str


class LengthBucket(NamedTuple):
    """Sentences with sources of similar length, and the metrics of both systems on them, in percent."""

    low: int  # words
    high: int
    sentences: int
    first: dict[str, float]
    second: dict[str, float]


class FrequencyBucket(NamedTuple):
    """Words of similar frequency in the training targets, and how well both systems put them where references have them."""

    low: int  # times in the training targets
    high: int | None  # None: any number
    words: int  # of the references
    first: float  # f-measure in percent, the harmonic mean of precision and recall
    second: float


def pair(first: Measured, second: Measured, resamples: int) -> Paired:
    """A metric of both systems and whether chance explains the difference; both see the same resamples."""
    scores = [one.score().score for one in (first, second)]
    drawn = [bootstrap.resample(one.statistics, one.score_fn, resamples) for one in (first, second)]
    difference = scores[1] - scores[0]
    return Paired(
        first=scores[0],
        second=scores[1],
        difference=difference,
        p_value=bootstrap.p_value(drawn[0], drawn[1], difference),
        first_ci=bootstrap.half_width(drawn[0]),
        second_ci=bootstrap.half_width(drawn[1]),
        signature=bootstrap.sign(first.signature, resamples),
    )


def bucket_lengths(lengths: Sequence[int], first: dict[str, Measured], second: dict[str, Measured], buckets: int = 5) -> list[LengthBucket]:
    """See `breakdown.bucket`.

    Args:
        lengths: of the sources, in words.
        first: the metrics of one system.
        second: of the other.
        buckets: how many at most.
    """
    found = []
    for low, high, chosen in bucket(lengths, buckets):
        scores = [{name: one.of(chosen) for name, one in system.items()} for system in (first, second)]
        found.append(LengthBucket(low, high, len(chosen), scores[0], scores[1]))
    return found


def bucket_frequencies(
    references: Sequence[Sequence[str]], first: Sequence[Sequence[str]], second: Sequence[Sequence[str]], frequency: Counter[str]
) -> list[FrequencyBucket]:
    """The f-measure of words by their frequency; a word matches as often as it is in both lines. Empty buckets are left out.

    Args:
        references: words of each reference.
        first: of each translation of one system.
        second: of the other.
        frequency: of words in the training targets.
    """
    found = []
    for low, high in zip(_FREQUENCIES, [*(edge - 1 for edge in _FREQUENCIES[1:]), None], strict=True):

        def inside(words: Sequence[str], low: int = low, high: int | None = high) -> Counter[str]:
            return Counter(word for word in words if low <= frequency[word] and (high is None or frequency[word] <= high))

        wanted = [inside(words) for words in references]
        total = sum(one.total() for one in wanted)
        if not total:
            continue
        measures = []
        for system in (first, second):
            said = [inside(words) for words in system]
            matches = sum((one & other).total() for one, other in zip(wanted, said, strict=True))
            measures.append(200 * matches / (total + sum(one.total() for one in said)))
        found.append(FrequencyBucket(low, high, total, measures[0], measures[1]))
    return found


def count_words(lines: Iterable[str], split: Callable[[str], list[str]], wanted: set[str]) -> Counter[str]:
    """How often each of the wanted words is in the lines."""
    return Counter(word for line in lines for word in split(line) if word in wanted)


def most_different(
    first: Float[np.ndarray, " sentences"], second: Float[np.ndarray, " sentences"], most: int
) -> tuple[list[int], list[int]]:
    """The sentences where the second system is better by most, and where the first is; by their scores, the largest difference first."""
    gain = second - first
    order = np.argsort(-gain, kind="stable")
    return (
        [int(i) for i in order[:most] if gain[i] > 0],
        [int(i) for i in order[::-1][:most] if gain[i] < 0],
    )
