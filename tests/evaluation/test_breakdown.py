"""Parts of a split: each example where it belongs."""

import numpy as np
import pytest

from flax_s2s.data.corpus import Pair
from flax_s2s.evaluation import breakdown
from flax_s2s.evaluation.evaluate import Example


@pytest.mark.parametrize("seed", range(5))
def test_buckets_hold_every_sentence_once_and_lengths_in_order(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 12, 50).tolist()
    found = breakdown.by_length(lengths)
    assert sorted(i for chosen in found.values() for i in chosen) == list(range(50))
    assert 1 < len(found) <= 5
    last = 0
    for name, chosen in found.items():
        here = [lengths[i] for i in chosen]
        low, high = min(here), max(here)
        assert name == (f"{low} to {high} tokens" if low < high else f"{low} tokens")
        assert low > last
        last = high
    assert breakdown.by_length([]) == {}


def test_values_are_sorted_by_how_many_have_them_and_an_example_may_have_several() -> None:
    assert breakdown.by_values([["b"], ["a"], ["b", "c", "b"], [], [""]]) == {"b": [0, 2], "": [4], "a": [1], "c": [2]}
    examples = [Example("x", ("y",), features="V;PL"), Example("x", ("y",), features="PL|ACC(1,SG)")]
    assert breakdown.by_features(examples) == {"PL": [0, 1], "ACC(1)": [1], "ACC(SG)": [1], "V": [0]}


def test_what_training_has_seen() -> None:
    train = [Pair("a", "1", "X"), Pair("b", "2", "Y"), Pair("a", "3", "Y")]
    examples = [
        Example("a", ("",), features="Y"),
        Example("a", ("",), features="Z"),
        Example("c", ("",), features="X"),
        Example("c", ("",), features="Q"),
    ]
    assert breakdown.by_seen(examples, iter(train)) == {
        "source seen, features seen": [0],
        "source seen, features unseen": [1],
        "source unseen, features seen": [2],
        "source unseen, features unseen": [3],
    }
    alone = [Example("c", ("",)), Example("a", ("",)), Example("b", ("",))]
    assert breakdown.by_seen(alone, iter(train)) == {"source seen": [1, 2], "source unseen": [0]}
