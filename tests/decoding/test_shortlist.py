"""The shortlist against literal sums: IBM model 1 pair by pair, and candidates token by token."""

from collections import defaultdict

import numpy as np
import pytest
from etils import epath

from flax_s2s.config import BOS, EOS, PAD, UNK, UserError
from flax_s2s.data.batching import TokenPairs, make_ragged
from flax_s2s.decoding import shortlist

SOURCE, TARGET = 12, 15
SPECIAL = {PAD, BOS, EOS, UNK}


def draw(rng, count=60):
    """Each source token has two translations, and now and then a token is there that translates none."""
    pairs = []
    for _ in range(count):
        source = rng.integers(4, SOURCE, rng.integers(1, 6)).tolist()
        target = [4 + (2 * token + int(rng.integers(2))) % (TARGET - 4) for token in source]
        pairs.append((source, target + rng.integers(4, TARGET, rng.integers(0, 2)).tolist()))
    return pairs


def learn(pairs):
    sides = [make_ragged([[*side, EOS] for side in both]) for both in zip(*pairs, strict=True)]
    return shortlist.learn(TokenPairs(*sides), SOURCE, TARGET)


def literal(pairs, iterations):
    """Expectation maximization, one pair of positions after the other; PAD is the null word."""
    probability = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        expected, total = defaultdict(float), defaultdict(float)
        for source, target in pairs:
            for token in target:
                whole = sum(probability[word, token] for word in [*source, PAD])
                for word in [*source, PAD]:
                    expected[word, token] += probability[word, token] / whole
                    total[word] += probability[word, token] / whole
        probability = {pair: value / total[pair[0]] for pair, value in expected.items()}
    return probability


@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_ibm_model_1(seed):
    pairs = draw(np.random.default_rng(seed))
    found, wanted = learn(pairs), literal(pairs, 4)
    got = {
        (word, token): value
        for word in range(SOURCE)
        for token, value in zip(found.tokens[word].tolist(), found.probability[word].tolist(), strict=True)
        if value
    }
    assert got.keys() == wanted.keys()
    for pair, value in wanted.items():
        assert got[pair] == pytest.approx(value, rel=1e-5), pair
    for word in range(4, SOURCE):
        assert (np.diff(found.probability[word]) <= 0).all()  # likeliest first
        assert {4 + (2 * word + side) % (TARGET - 4) for side in (0, 1)} == set(found.tokens[word, :2].tolist())


@pytest.mark.parametrize("size", [4, 6, 9, 40])
def test_candidates_are_those_of_the_largest_sums(size):
    rng = np.random.default_rng(size)
    found = learn(draw(rng))._replace(size=size)
    for _ in range(20):
        source, wanted = rng.integers(4, SOURCE, 3).tolist(), rng.integers(4, TARGET, rng.integers(0, 3)).tolist()
        sums = np.zeros(TARGET)
        for word in [PAD, *source]:
            np.add.at(sums, found.tokens[word], found.probability[word])
        given = SPECIAL | set(wanted)
        likeliest = sorted((token for token in range(TARGET) if sums[token] and token not in given), key=lambda token: -sums[token])
        got = found.candidates(source, wanted)
        assert got.tolist() == sorted(got.tolist())
        assert len(got) == min(max(size, len(given)), len(given) + len(likeliest))
        assert given <= set(got.tolist())
        least = min((sums[token] for token in got if token not in given), default=np.inf)
        assert all(sums[token] <= least + 1e-6 for token in likeliest if token not in got)


def test_a_file_comes_back_as_it_was_or_says_what_is_wrong(tmp_path):
    found, file = learn(draw(np.random.default_rng(9))), epath.Path(tmp_path / "shortlist.npz")
    with pytest.raises(UserError, match="make it once"):
        shortlist.load(file, 8)
    shortlist.save(found, file)
    read = shortlist.load(file, 8)
    assert read.size == 8
    np.testing.assert_array_equal(read.tokens, found.tokens)
    np.testing.assert_array_equal(read.probability, found.probability)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged"):
        shortlist.load(file, 8)
