"""Bootstrap resampling: how far a score may be off because the test set is a sample, and whether two systems really differ.

Enters: a metric's statistics of each sentence, whose sums decide its score. Leaves: confidence intervals and p-values. The
sentences that are drawn, the interval and the p-value are those of sacreBLEU with its seed, but of any size of test set in
little memory, and for every metric.

Source: Koehn 2004, Statistical significance tests for machine translation evaluation.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

SEED = 12345  # sacreBLEU's


def draw(sentences: int, resamples: int) -> Iterator[Float[np.ndarray, " sentences"]]:
    """For each resample how often each sentence was drawn; always the same for the same sizes."""
    rng = np.random.default_rng(SEED)
    for _ in range(resamples):
        yield np.bincount(rng.choice(sentences, size=sentences), minlength=sentences).astype(np.float64)


def resample(
    statistics: Float[np.ndarray, "sentences sums"], score_fn: Callable[[Sequence[float]], float], resamples: int
) -> Float[np.ndarray, " resamples"]:
    """The score of each resample."""
    return np.array([score_fn((times @ statistics).tolist()) for times in draw(len(statistics), resamples)], np.float64)


def half_width(scores: Float[np.ndarray, " resamples"]) -> float:
    """Half the width of the interval that leaves out 2.5% of the resamples' scores at each end."""
    ordered, outside = np.sort(scores), len(scores) // 40
    return float(ordered[len(scores) - outside - 1] - ordered[outside]) / 2


def p_value(first: Float[np.ndarray, " resamples"], second: Float[np.ndarray, " resamples"], difference: float) -> float:
    """How often chance alone makes two systems differ by more than they do, two-sided; below 0.05 is commonly called significant.

    Args:
        first: scores of one system.
        second: scores of the other, of the same resamples.
        difference: of their scores on the whole test set.
    """
    differences = np.abs(second - first)
    further = np.sum(differences - differences.mean() >= abs(difference))  # sacreBLEU has >: equal systems would differ significantly
    return float(further + 1) / (len(differences) + 1)


def sign(signature: str, resamples: int) -> str:
    """A metric's signature with the number of resamples and the seed, where sacreBLEU has them: behind the number of references."""
    references, _, others = signature.partition("|")
    return f"{references}|bs:{resamples}|seed:{SEED}|{others}"
