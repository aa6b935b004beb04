from functools import partial

import jax
import numpy as np
import pytest

from flax_s2s import parallel
from flax_s2s.config import DecodingConfig, EvaluationConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.evaluate import family_scores, make_examples, make_translation_evaluation, show
from flax_s2s.decoding.score import score
from flax_s2s.decoding.translate import BLANK, Translator
from flax_s2s.model.seq2seq import init_params, make_model

PAIRS = [Pair("a dog", "ein Hund"), Pair("a cat", "eine Katze"), Pair("no", "nein"), Pair("go", "los"), Pair("two", "zwei")]
EXAMPLES = make_examples(PAIRS, False)
FAMILIES = ("noun", "noun", "word", "word", "number")


class Dictionary(Translator):
    """Knows its translations beforehand; the parameters are what it answers to everything else."""

    def __init__(self, known):
        self.known, self.rows = known, 2

    def lay_out(self, params):
        return params

    def __call__(self, params, lines, on_batch=None):
        return [BLANK._replace(text=self.known.get(line, params[0])) for line in lines]


KNOWN = {pair.source: pair.target for pair in PAIRS[:3]}


def evaluate(samples=3, metrics=("bleu", "exact_match", "wer"), pairs=PAIRS):
    config = EvaluationConfig(metrics=metrics, samples=samples)
    return make_translation_evaluation(Dictionary(KNOWN), pairs, config, "de")("?", 7)


def test_metrics_are_the_scores_of_the_translations():
    config = EvaluationConfig(metrics=("bleu", "exact_match", "wer"))
    wanted = score(["ein Hund", "eine Katze", "nein", "?", "?"], [[pair.target] for pair in PAIRS], config, "de")
    assert evaluate().metrics == {name: value.score for name, value in wanted.items()}
    assert evaluate().metrics["exact_match"] == 60


@pytest.mark.parametrize(("samples", "count"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (9, 5)])
def test_samples_are_pairs_with_their_translations(samples, count):
    shown = evaluate(samples).samples
    assert len(shown) == len(set(shown)) == count
    known = [show(one, KNOWN.get(one.source, "?")) for one in EXAMPLES]
    assert [known.index(sample) for sample in shown] == sorted(known.index(sample) for sample in shown)


def test_samples_come_from_all_over_the_corpus():
    pairs = [Pair(f"source {i}", f"target {i}") for i in range(100)]
    shown = evaluate(4, pairs=pairs).samples
    assert [int(sample.split("\n")[0].split()[-1]) for sample in shown] == [0, 25, 50, 75]


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (3, [0, 3, 6]), (6, [0, 1, 3, 5, 6, 8]), (99, range(10))])
def test_the_pairs_that_are_translated_come_from_all_over(count, chosen):
    pairs = [Pair("w" * (1 + number), str(number)) for number in range(10)]  # sorted by length, as some corpora are
    dictionary = Dictionary({pair.source: pair.target for pair in pairs if int(pair.target) in chosen})
    config = EvaluationConfig(metrics=("exact_match",), valid_pairs=count, samples=99)
    report = make_translation_evaluation(dictionary, pairs, config, "de")("?", 1)
    assert report.metrics == {"exact_match": 100.0}
    assert len(report.samples) == len(chosen)


def test_a_sample_has_source_reference_and_translation():
    lines = [line.split(maxsplit=1) for line in show(EXAMPLES[0], "ein Huhn").split("\n")]
    assert lines == [["source", "a dog"], ["reference", "ein Hund"], ["translated", "ein Huhn"]]


def test_a_real_translator_with_its_parameters():
    vocabularies = vocab.train(PAIRS, VocabConfig(kind="char", size=60, joint=False))
    config = ModelConfig(embedding_size=4, hidden_size=6)
    sizes = len(vocabularies.source), len(vocabularies.target)
    abstract = jax.eval_shape(partial(init_params, config, *sizes), jax.random.key(0))
    rng = np.random.default_rng(1)
    drawn = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract) for _ in range(2)]
    translate = Translator([make_model(config, *sizes)], vocabularies, DecodingConfig(beam_size=1, rows=8), parallel.make_devices(1, {}))
    measure = make_translation_evaluation(translate, PAIRS, EvaluationConfig(metrics=("chrf", "wer"), samples=5), "de")
    reports = [measure(params, step) for step, params in enumerate(drawn)]
    assert reports[0].samples != reports[1].samples
    assert measure(drawn[0], 9) == reports[0]
    for params, report in zip(drawn, reports, strict=True):
        found = translate(translate.lay_out([params]), [pair.source for pair in PAIRS])
        assert report.samples == [show(one, translation.text) for one, translation in zip(EXAMPLES, found, strict=True)]
        assert list(report.metrics) == ["chrf", "wer"]


def test_family_scores_are_the_exact_matches_of_each_family():
    found = [t.text for t in Dictionary(KNOWN)(["?"], [pair.source for pair in PAIRS])]
    scores = family_scores(make_examples(PAIRS, False, FAMILIES), found)
    assert {family: value.score for family, value in scores.items()} == {"noun": 100, "number": 0, "word": 50}
    assert list(scores) == sorted(scores)


def test_a_corpus_without_families_has_no_family_scores():
    found = [t.text for t in Dictionary(KNOWN)(["?"], [pair.source for pair in PAIRS])]
    assert family_scores(EXAMPLES, found) == {}


SAME = [Pair("a", "x"), Pair("b", "y"), Pair("a", "z"), Pair("a", "x")]


def test_pairs_of_one_source_are_merged_where_asked_for():
    assert [one.references for one in make_examples(SAME, False)] == [("x",), ("y",), ("z",), ("x",)]
    assert make_examples(SAME, True) == [("a", ("x", "z"), ""), ("b", ("y",), "")]


def test_further_references_go_with_their_pairs():
    others = [["1", "", "3", "x"], ["", "", "z", "5"]]
    assert [one.references for one in make_examples(SAME, False, (), others)] == [("x", "1"), ("y",), ("z", "3", "z"), ("x", "x", "5")]
    assert [one.references for one in make_examples(SAME, True, (), others)] == [("x", "1", "z", "3", "5"), ("y",)]


def test_a_source_counts_once_and_any_of_its_targets_is_right():
    for merge, share in ((True, 100.0), (False, 75.0)):
        config = EvaluationConfig(metrics=("exact_match",), merge_sources=merge)
        report = make_translation_evaluation(Dictionary({"a": "x", "b": "y"}), SAME, config, "de")("?", 1)
        assert report.metrics == {"exact_match": share}
