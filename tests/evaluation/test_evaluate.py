from functools import partial

import jax
import numpy as np
import pytest

from flax_s2s.config import DecodingConfig, EvaluationConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.translate import BLANK, Translator
from flax_s2s.evaluation.evaluate import (
    Example,
    family_scores,
    find_sameness,
    make_examples,
    make_translation_evaluation,
    measure_examples,
    show,
)
from flax_s2s.evaluation.metrics import measure, score
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel

PAIRS = [Pair("a dog", "ein Hund"), Pair("a cat", "eine Katze"), Pair("no", "nein"), Pair("go", "los"), Pair("two", "zwei")]
EXAMPLES = make_examples(PAIRS, False)
FAMILIES = ("noun", "noun", "word", "word", "number")


class Dictionary(Translator):
    """Knows its translations beforehand; the parameters are what it answers to everything else."""

    def __init__(self, known):
        self.known, self.rows, self.config = known, 2, DecodingConfig()

    def lay_out(self, params):
        return params

    def __call__(self, params, requests, on_batch=None):
        return [BLANK._replace(text=self.known.get(request.source, params[0])) for request in requests]


NOT_CUT = {"cut_translations": 0, "cut_sources": 0}
KNOWN = {pair.source: pair.target for pair in PAIRS[:3]}


def evaluate(samples=3, metrics=("bleu", "exact_match", "wer"), pairs=PAIRS):
    config = EvaluationConfig(metrics=metrics, samples=samples)
    return make_translation_evaluation(Dictionary(KNOWN), pairs, config, "de")("?", 7)


def test_metrics_are_the_scores_of_the_translations():
    config = EvaluationConfig(metrics=("bleu", "exact_match", "wer"))
    wanted = score(["ein Hund", "eine Katze", "nein", "?", "?"], [[pair.target] for pair in PAIRS], config, "de")
    assert evaluate().metrics == {name: value.score for name, value in wanted.items()} | NOT_CUT
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
    assert report.metrics == {"exact_match": 100.0} | NOT_CUT
    assert len(report.samples) == len(chosen)


def test_a_sample_has_source_reference_and_translation():
    lines = [line.split(maxsplit=1) for line in show(EXAMPLES[0], "ein Huhn").split("\n")]
    assert lines == [["source", "a dog"], ["reference", "ein Hund"], ["translated", "ein Huhn"]]


def test_a_real_translator_with_its_parameters():
    vocabularies = vocab_training.train(PAIRS, VocabConfig(kind="char", size=60, joint=False))
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
        assert list(report.metrics) == ["chrf", "wer", "cut_translations", "cut_sources"]


def test_family_scores_are_the_exact_matches_of_each_family():
    found = [t.text for t in Dictionary(KNOWN)(["?"], [one.request for one in EXAMPLES])]
    scores = family_scores(make_examples(PAIRS, False, FAMILIES), found)
    assert {family: value.score for family, value in scores.items()} == {"noun": 100, "number": 0, "word": 50}
    assert list(scores) == sorted(scores)


def test_a_corpus_without_families_has_no_family_scores():
    found = [t.text for t in Dictionary(KNOWN)(["?"], [one.request for one in EXAMPLES])]
    assert family_scores(EXAMPLES, found) == {}


SAME = [Pair("a", "x"), Pair("b", "y"), Pair("a", "z"), Pair("a", "x")]


def test_pairs_of_one_source_are_merged_where_asked_for():
    assert [one.references for one in make_examples(SAME, False)] == [("x",), ("y",), ("z",), ("x",)]
    assert make_examples(SAME, True) == [Example("a", ("x", "z"), "", ("x", "z")), Example("b", ("y",), "", ("y",))]


def test_further_references_go_with_their_pairs():
    others = [["1", "", "3", "x"], ["", "", "z", "5"]]
    others = [[[line] for line in lines] for lines in others]
    assert [one.references for one in make_examples(SAME, False, (), others)] == [("x", "1"), ("y",), ("z", "3", "z"), ("x", "x", "5")]
    assert [one.references for one in make_examples(SAME, True, (), others)] == [("x", "1", "z", "3", "5"), ("y",)]
    for merge, count in ((True, 2), (False, 4)):
        right = [one.right for one in make_examples(SAME, merge, (), others)]
        assert len(right) == count and set(right) == {("x", "1", "z", "3", "5"), ("y",)}


# A dictionary: sources with several right targets, pair by pair

SPOKEN = [Pair("read", "R IY D"), Pair("read", "R EH D"), Pair("lead", "L IY D"), Pair("lead", "L EH D Z"), Pair("go", "G OW")]
SAID = ["R EH D", "R EH D", "L EH D", "L EH D", "G OW"]


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("exact_match", 100 * 3 / 5),
        ("ser", 100 * 2 / 5),
        ("per", 100 * 2 / (3 + 3 + 4 + 4 + 2)),  # one edit from either pronunciation of "lead": the longest counts
        ("wer", 100 * 2 / (3 + 3 + 4 + 4 + 2)),
    ],
)
def test_any_target_that_the_split_has_for_a_source_is_right(metric, score):
    found = measure_examples(metric, make_examples(SPOKEN, False), SAID, EvaluationConfig(), "phones").score()
    assert found.score == pytest.approx(score) and found.signature.startswith("nrefs:var|")
    only = measure_examples(metric, make_examples(SPOKEN[::2], False), SAID[::2], EvaluationConfig(), "phones").score()
    assert only.signature.startswith("nrefs:1|") and only.score != found.score


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_other_metrics_count_pair_by_pair_unless_sources_are_merged(metric):
    config = EvaluationConfig(tokenizer="none")
    found = measure_examples(metric, make_examples(SPOKEN, False), SAID, config, "phones").score()
    assert found == measure(metric, SAID, [[pair.target] for pair in SPOKEN], config, "phones").score()
    merged = measure_examples(metric, make_examples(SPOKEN, True), SAID[::2], config, "phones").score()
    assert merged == measure(metric, SAID[::2], [["R IY D", "R EH D"], ["L IY D", "L EH D Z"], ["G OW"]], config, "phones").score()


def test_a_target_is_right_though_its_pair_is_not_among_those_that_are_translated():
    config = EvaluationConfig(metrics=("exact_match",), valid_pairs=2, samples=9)  # the first pair and the third
    report = make_translation_evaluation(Dictionary({"read": "R EH D", "lead": "L IY D"}), SPOKEN, config, "phones")("?", 1)
    assert report.metrics["exact_match"] == 100 and "reference  R IY D | R EH D" in report.samples[0]


def test_a_family_s_source_may_have_several_right_targets():
    scores = family_scores(make_examples(SPOKEN, False, ["verb"] * 4 + ["other"]), SAID)
    assert {family: value.score for family, value in scores.items()} == {"verb": 50, "other": 100}


def test_a_source_counts_once_where_sources_are_merged():
    for merge, share in ((True, 50.0), (False, 75.0)):
        config = EvaluationConfig(metrics=("exact_match",), merge_sources=merge)
        report = make_translation_evaluation(Dictionary({"a": "z", "b": "?"}), SAME, config, "de")("?", 1)
        assert report.metrics["exact_match"] == share


# What is to be known of the numbers


class Cut(Dictionary):
    """Ends two translations at their limit, one of a source that was cut, and finds one impossible."""

    def __call__(self, params, requests, on_batch=None):
        found = [one._replace(tokens=3) for one in super().__call__(params, requests)]
        found[0], found[2] = found[0]._replace(finished=False, cut_source=True), found[2]._replace(finished=False)
        return [*found[:4], found[4]._replace(finished=False, tokens=0)]


def test_what_was_cut_is_counted_with_the_fields_to_set():
    translator = Cut(KNOWN)
    translator.rows, translator.config = 8, DecodingConfig(max_length_ratio=1.5, max_length_extra=4, max_source_tokens=9)
    report = make_translation_evaluation(translator, PAIRS, EvaluationConfig(metrics=("chrf",)), "de")("?", 7)
    assert (report.metrics["cut_translations"], report.metrics["cut_sources"]) == (2, 1)
    assert report.notes[0].startswith("2 of 5 translations were cut at their length limit, which lowers scores: ")
    assert "decoding.max_length_ratio=1.5 * source tokens + decoding.max_length_extra=4; raise one" in report.notes[0]
    assert (
        report.notes[1] == "1 of 5 sources were cut, which lowers scores: they have more than decoding.max_source_tokens=9 tokens; raise it"
    )
    assert evaluate().notes == []


NUMBERS = [str(number) for number in range(20)]


@pytest.mark.parametrize(
    ("texts", "references", "said"),
    [
        (["the"] * 19 + ["a"], NUMBERS, "19 of 20 translations are the same, 'the'"),
        ([""] * 20, NUMBERS, "20 of 20 translations are the same, ''"),
        (["the"] * 18 + ["a", "b"], NUMBERS, ""),
        (["yes"] * 20, ["yes"] * 19 + ["no"], ""),
        (["yes"] * 20, ["yes"] * 18 + ["no"] * 2, "20 of 20 translations are the same, 'yes'"),
        (["the"] * 9, NUMBERS[:9], ""),
        ([], [], ""),
    ],
)
def test_translations_that_are_nearly_all_the_same_are_said(texts, references, said):
    found = find_sameness(texts, references)
    assert [one.startswith(said) for one in found] == ([True] if said else [])


def test_a_model_that_always_says_the_same_is_warned_of_in_training():
    pairs = [Pair(f"source {number}", number) for number in NUMBERS]
    report = make_translation_evaluation(Dictionary({}), pairs, EvaluationConfig(metrics=("chrf",)), "de")("the same", 7)
    assert [note[:46] for note in report.notes] == ["20 of 20 translations are the same, 'the same'"]
