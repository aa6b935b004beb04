from collections import Counter

import numpy as np
import pytest

from flax_s2s.config import EvaluationConfig
from flax_s2s.evaluation.compare import bucket_frequencies, bucket_lengths, count_words, most_different
from flax_s2s.evaluation.metrics import find_split, make_split, measure


def test_length_buckets_have_the_scores_of_their_sentences():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, 40).tolist()
    references = [" ".join(rng.choice(list("abc"), length)) for length in lengths]
    systems = [[" ".join(w if rng.random() < 0.7 else "x" for w in line.split()) for line in references] for _ in range(2)]

    def measured(chosen, texts):
        return measure("per", [texts[i] for i in chosen], [[references[i]] for i in chosen], EvaluationConfig(), "en")

    first, second = ({"per": measured(range(40), texts)} for texts in systems)
    found = bucket_lengths(lengths, first, second, 4)
    assert sum(one.sentences for one in found) == 40 and 2 <= len(found) <= 4
    assert [one.high for one in found[:-1]] < [one.low for one in found[1:]]
    for one in found:
        chosen = [i for i, length in enumerate(lengths) if one.low <= length <= one.high]
        assert len(chosen) == one.sentences
        for texts, scores in zip(systems, (one.first, one.second), strict=True):
            assert scores["per"] == pytest.approx(measured(chosen, texts).score().score)


def test_sentences_of_one_length_are_one_bucket():
    measured = {"exact_match": measure("exact_match", ["a"] * 6, [["a"]] * 6, EvaluationConfig(), "en")}
    assert [one[:3] for one in bucket_lengths([3] * 6, measured, measured)] == [(3, 3, 6)]
    assert bucket_lengths([], {}, {}) == []


def test_word_buckets_against_a_literal_count():
    rng = np.random.default_rng(2)
    words = list("abcdefgh")
    frequency = Counter(dict(zip(words, [0, 1, 2, 4, 7, 50, 500, 5000], strict=True)))
    lines = [[rng.choice(words, rng.integers(1, 7)).tolist() for _ in range(30)] for _ in range(3)]
    found = {(one.low, one.high): one for one in bucket_frequencies(*lines, frequency)}
    for low, high in ((0, 0), (1, 1), (2, 4), (5, 9), (10, 99), (100, 999), (1000, None)):
        inside = [word for word in words if low <= frequency[word] <= (high or (low if low < 1000 else 10**9))]
        one = found.pop((low, high))
        for system, value in zip(lines[1:], (one.first, one.second), strict=True):
            matches = sum(min(r.count(w), h.count(w)) for r, h in zip(lines[0], system, strict=True) for w in inside)
            wanted, said = (sum(line.count(w) for line in side for w in inside) for side in (lines[0], system))
            precision, recall = matches / said, matches / wanted
            assert one.words == wanted and value == pytest.approx(200 * precision * recall / (precision + recall))
    assert not found


def test_a_bucket_without_reference_words_is_left_out():
    found = bucket_frequencies([["a", "a"]], [["a"]], [["b"]], Counter(a=3, b=10))
    assert [(one.low, one.words) for one in found] == [(2, 2)]
    assert (found[0].first, found[0].second) == (pytest.approx(200 / 3), 0)


def test_words_are_counted_as_bleu_splits_them():
    split = make_split(EvaluationConfig(), "en")
    assert split("No, no.") == ["No", ",", "no", "."]
    assert count_words(["No, no.", "no?"], split, {"no", "x"}) == Counter(no=2)
    assert make_split(EvaluationConfig(), "zh_Hans")("两只狗") == ["两", "只", "狗"]


@pytest.mark.parametrize(
    ("side", "name", "words"),
    [
        ("en", "13a", ["No", ",", "no", "."]),
        ("zho_Hant", "zh", ["No", ",", "no", "."]),
        ("jpn", "char", ["N", "o", ",", "n", "o", "."]),
        *((side, "white space", ["No,", "no."]) for side in ("cmd", "word", "src", "0", "question+context")),
    ],
)
def test_words_of_a_side_that_is_no_language_are_what_white_space_separates(side, name, words):
    found, split = find_split(EvaluationConfig(), side)
    assert (found, split("No, no.")) == (name, words)


def test_the_sentences_that_differ_most_come_first():
    first, second = np.array([50.0, 20.0, 30.0, 90.0, 0.0]), np.array([60.0, 80.0, 30.0, 10.0, 5.0])
    assert most_different(first, second, 2) == ([1, 0], [3])
    assert most_different(first, second, 9) == ([1, 0, 4], [3])
    assert most_different(first, first, 2) == ([], [])
