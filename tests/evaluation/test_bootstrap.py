import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from flax_s2s.config import EvaluationConfig
from flax_s2s.evaluation import bootstrap
from flax_s2s.evaluation.compare import pair
from flax_s2s.evaluation.metrics import measure

METRICS = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF, "ter": sacrebleu.TER}


def draw_systems(seed, count):
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(list("abcdef"), rng.integers(5, 12))) for _ in range(count)]
    systems = [[" ".join(w if rng.random() < share else "x" for w in line.split()) for line in references] for share in (0.75, 0.8)]
    return references, systems


def test_resamples_are_those_of_sacrebleu():
    rng = np.random.default_rng(12345)
    drawn = rng.choice(13, size=(20, 13), replace=True)
    for times, one in zip(bootstrap.draw(13, 20), drawn, strict=True):
        np.testing.assert_array_equal(times, [(one == i).sum() for i in range(13)])


def test_a_pair_is_sacrebleus_paired_bootstrap_test():
    references, systems = draw_systems(1, 50)
    named = [("a", systems[0]), ("b", systems[1])]
    signatures, wanted = PairedTest(named, {name: make() for name, make in METRICS.items()}, [references], "bs", 400)()
    for name in METRICS:
        key = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}[name]
        first, second = (measure(name, texts, [[one] for one in references], EvaluationConfig(), "en") for texts in systems)
        found = pair(first, second, 400)
        baseline, other = wanted[key]
        assert (found.first, found.second) == pytest.approx((baseline.score, other.score))
        assert (found.first_ci, found.second_ci) == pytest.approx((baseline.ci, other.ci), abs=1e-3)
        assert found.p_value == pytest.approx(other.p_value, abs=1 / 400) and 0 < found.p_value < 1
        assert found.difference == pytest.approx(other.score - baseline.score)
        assert found.signature == str(signatures[key])


def test_the_same_system_twice_does_not_differ_and_a_far_better_one_does():
    references, systems = draw_systems(2, 60)
    wanted = [[one] for one in references]
    right, first = (measure("per", texts, wanted, EvaluationConfig(), "en") for texts in (references, systems[0]))
    same, better = pair(first, first, 200), pair(first, right, 200)
    assert same.difference == 0 and same.p_value == 1
    assert better.difference == -first.score().score and better.p_value == pytest.approx(1 / 201)
