from collections import Counter

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_s2s.config import EvaluationConfig
from flax_s2s.decoding.score import measure, tokenizer_for
from flax_s2s.decoding.score import score as score_any

EVERY = EvaluationConfig(metrics=("bleu", "chrf", "ter", "exact_match", "ser", "wer", "per"))
CORPORA = {
    "de": (
        ["Ein Hund rennt.", "Zwei Katzen schlafen im Haus.", "Ja!"],
        ["Ein Hund rennt.", "Zwei Katzen schlafen in einem Haus.", "Nein!"],
    ),
    "zh_Hans": (["两只狗在跑。", "一个人走路", "他今天去学校了"], ["两只狗在奔跑。", "一个人在走路", "他今天去了学校"]),
    "ja": (["犬が走っています。", "猫は寝る"], ["犬が走る。", "猫は寝ています"]),
    "en": (["2 dogs, 3 cats: 5.5 animals", "no"], ["2 dogs & 3 cats: 5.5 animals", "yes"]),
}


def score(hypotheses, references, config, language, resamples=0):
    """With one reference each."""
    return score_any(hypotheses, [[one] for one in references], config, language, resamples)


def exact_match(hypotheses, references):
    return measure("exact_match", hypotheses, [[one] for one in references], EVERY, "de").score()


def word_error_rate(hypotheses, references):
    return measure("wer", hypotheses, [[one] for one in references], EVERY, "de").score()


words = st.lists(st.sampled_from("abcd"), max_size=9)
lines = st.lists(st.tuples(words, words), max_size=6)


@pytest.mark.parametrize("language", CORPORA)
def test_bleu_and_chrf_are_those_of_sacrebleu(language):
    hypotheses, references = CORPORA[language]
    found = score(hypotheses, references, EVERY, language)
    tokenizer = {"de": "13a", "zh_Hans": "zh", "ja": "char", "en": "13a"}[language]
    bleu, chrf = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer), sacrebleu.corpus_chrf(hypotheses, [references])
    assert 0 < found["bleu"].score == bleu.score < 100
    assert 0 < found["chrf"].score == chrf.score < 100
    version = sacrebleu.__version__
    assert found["bleu"].signature == f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:{version}"
    assert found["chrf"].signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        ("zh", "zh"),
        ("zh_Hans", "zh"),
        ("zh-CN", "zh"),
        ("ZH", "zh"),
        ("ja", "char"),
        ("ja_JP", "char"),
        ("th", "char"),
        ("my", "char"),
        ("de", "13a"),
        ("de-AT", "13a"),
        ("zhx", "13a"),
        ("3", "13a"),
        ("", "13a"),
    ],
)
def test_the_tokenizer_follows_the_language(language, tokenizer):
    assert tokenizer_for(EVERY, language) == tokenizer


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
def test_a_chosen_tokenizer_is_used(tokenizer):
    config = EvaluationConfig(metrics=("bleu",), tokenizer=tokenizer)
    hypotheses, references = CORPORA["zh_Hans"]
    found = score(hypotheses, references, config, "zh")
    assert list(found) == ["bleu"]
    assert f"|tok:{tokenizer}|" in found["bleu"].signature
    assert found["bleu"].score == sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer, force=True).score


@pytest.mark.parametrize("metrics", [("bleu",), ("chrf",), ("exact_match",), ("wer",), ("wer", "bleu"), ("per", "ser", "ter"), ()])
def test_the_configured_metrics_and_no_others(metrics):
    found = score(*CORPORA["en"], EvaluationConfig(metrics=metrics), "en")
    assert tuple(found) == metrics
    assert found == {name: value for name, value in score(*CORPORA["en"], EVERY, "en").items() if name in metrics}


@pytest.mark.parametrize("language", CORPORA)
def test_right_translations_are_perfect(language):
    references = CORPORA[language][1]
    found = {name: value.score for name, value in score(references, references, EVERY, language).items()}
    assert found == pytest.approx({"bleu": 100, "chrf": 100, "ter": 0, "exact_match": 100, "ser": 0, "wer": 0, "per": 0})


def test_without_pairs_every_metric_is_zero():
    assert [value.score for value in score([], [], EVERY, "zh").values()] == [0] * 7


@pytest.mark.parametrize("metric", EVERY.metrics)
def test_a_missing_translation_is_an_error(metric):
    with pytest.raises(ValueError, match=r"zip\(\)"):
        score(["one"], ["one", "two"], EvaluationConfig(metrics=(metric,)), "en")


def test_exact_match_counts_equal_lines():
    assert exact_match(["a b", " c", "d", "E"], ["a b", "c ", "dd", "e"]).score == 50
    assert exact_match(["a  b"], ["a b"]).score == 0
    assert exact_match([""], [""]).score == 100


@given(lines)
def test_exact_match_is_the_share_of_equal_lines(pairs):
    hypotheses, references = (["".join(pair[side]) for pair in pairs] for side in (0, 1))
    equal = [h == r for h, r in pairs]
    assert exact_match(hypotheses, references).score == pytest.approx(100 * np.mean(equal) if equal else 0)


def edits(hypothesis, reference):
    """Levenshtein's distance by its recurrence."""
    table = np.zeros((len(hypothesis) + 1, len(reference) + 1), int)
    table[:, 0], table[0] = range(len(hypothesis) + 1), range(len(reference) + 1)
    for i, h in enumerate(hypothesis, 1):
        for j, r in enumerate(reference, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (h != r))
    return int(table[-1, -1])


@given(lines)
def test_word_error_rate_is_edits_over_reference_words(pairs):
    hypotheses, references = ([" ".join(pair[side]) for pair in pairs] for side in (0, 1))
    total = sum(len(reference) for _, reference in pairs)
    wanted = 100 * sum(edits(*pair) for pair in pairs) / max(total, 1)
    assert word_error_rate(hypotheses, references).score == pytest.approx(wanted)


def test_word_error_rate_counts_words_not_characters():
    assert word_error_rate(["the  cats sat"], ["the cat sat"]).score == pytest.approx(100 / 3)
    assert word_error_rate(["", "a b c d"], ["x", "a"]).score == 200
    assert word_error_rate(["a"], [""]).score == 100


# Several references


MANY = [["a b c", "a b", "x"], ["d", "e f"], ["g"]]


def test_any_reference_makes_a_line_right_and_the_nearest_counts():
    found = score_any(["a b", "e  f", "h"], MANY, EvaluationConfig(metrics=("exact_match", "ser", "wer", "per")), "en")
    assert {name: value.score for name, value in found.items()} == pytest.approx(
        {"exact_match": 100 / 3, "ser": 200 / 3, "wer": 100 * (0 + 0 + 1) / (2 + 2 + 1), "per": 100 / 5}
    )
    assert all(value.signature.startswith("nrefs:var|") for value in found.values())


def test_of_equally_near_references_the_longest_counts():
    for references in (["a", "a b c"], ["a b c", "a"]):
        found = score_any(["a b"], [references], EvaluationConfig(metrics=("per",)), "en")["per"]
        assert found.score == pytest.approx(100 / 3) and found.signature.startswith("nrefs:2|")


def longest_common(one, two):
    """Length of the longest common subsequence, by its recurrence."""
    table = np.zeros((len(one) + 1, len(two) + 1), int)
    for i, a in enumerate(one, 1):
        for j, b in enumerate(two, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if a == b else max(table[i - 1, j], table[i, j - 1])
    return int(table[-1, -1])


def f1(common, one, two):
    return 2 * common / (one + two) if one + two else 0.0


@settings(deadline=None)  # the library is imported by the first of them
@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_rouge_is_the_mean_of_each_line_s_best_f1(examples):
    def by_hand(name, hypothesis, reference):
        if name == "rougeL":
            return f1(longest_common(hypothesis, reference), len(hypothesis), len(reference))
        size = int(name[-1])
        found, wanted = (Counter(zip(*(line[i:] for i in range(size)), strict=False)) for line in (hypothesis, reference))
        return f1((found & wanted).total(), found.total(), wanted.total())

    lines = [(" ".join(hypothesis), [" ".join(one) for one in references]) for hypothesis, references in examples]
    for name in ("rouge1", "rouge2", "rougeL"):
        found = score_any([h for h, _ in lines], [r for _, r in lines], EvaluationConfig(metrics=(name,)), "en")[name]
        want = np.mean([max(by_hand(name, hypothesis, one) for one in references) for hypothesis, references in examples])
        assert found.score == pytest.approx(100 * want)
        assert "|stem:porter|f1|version:0.1.2" in found.signature


def test_rouge_reads_stems_without_case_or_marks():
    found = score(["Tools, for PLAYING"], ["a tool for players: play"], EvaluationConfig(metrics=("rouge1",)), "en")["rouge1"]
    assert found.score == pytest.approx(100 * 2 * 3 / (3 + 5))


def test_sacrebleu_sees_all_references():
    config = EvaluationConfig(metrics=("bleu", "chrf", "ter"))
    hypotheses = ["the cat sat on the mat today", "e f", "h"]
    references = [["the cat sat on the mat", "a cat sat on a mat today"], ["e f", "f e"], ["g", "h"]]
    streams = [list(stream) for stream in zip(*references, strict=True)]
    found = score_any(hypotheses, references, config, "en")
    for name, metric in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF()), ("ter", sacrebleu.TER())):
        assert found[name].score == pytest.approx(metric.corpus_score(hypotheses, streams).score)
        assert found[name].signature == str(metric.get_signature()) and found[name].signature.startswith("nrefs:2|")


def test_ter_takes_chinese_apart():
    config = EvaluationConfig(metrics=("ter",))
    found = score(["两只狗在跑", "一只猫"], ["两只狗在跳", "一只猫"], config, "zh_Hans")["ter"]
    assert found.score == pytest.approx(100 / 8) and "|asian:yes|" in found.signature
    assert "|asian:no|" in score(["a"], ["b"], config, "de")["ter"].signature


# Confidence intervals


def draw_lines(seed, count, length=12):
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(list("abcdef"), rng.integers(5, length))) for _ in range(count)]
    hypotheses = [" ".join(word if rng.random() < 0.8 else "x" for word in line.split()) for line in references]
    return hypotheses, references


@pytest.mark.parametrize("count", [7, 60])
def test_intervals_and_signatures_are_those_of_sacrebleu(count):
    hypotheses, references = draw_lines(count, count)
    found = score(hypotheses, references, EVERY, "en", resamples=300)
    for name, metric in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF()), ("ter", sacrebleu.TER())):
        wanted = metric.corpus_score(hypotheses, [references], n_bootstrap=300)
        assert found[name].ci == pytest.approx(wanted._ci, abs=1e-3) and found[name].ci > 0.1
        assert found[name].signature == str(metric.get_signature())
    assert found["per"].signature == "nrefs:1|bs:300|seed:12345|case:mixed|tok:space|edits:levenshtein"


@pytest.mark.parametrize("name", ["exact_match", "ser", "wer", "per"])
def test_intervals_equal_those_of_scores_computed_anew(name):
    hypotheses, references = draw_lines(3, 25, length=8)
    config = EvaluationConfig(metrics=(name,))
    rng, scores = np.random.default_rng(12345), []
    for _ in range(200):
        drawn = rng.choice(25, size=25, replace=True).tolist()
        scores.append(score([hypotheses[i] for i in drawn], [references[i] for i in drawn], config, "en")[name].score)
    found = score(hypotheses, references, config, "en", resamples=200)[name]
    assert found.ci == pytest.approx((sorted(scores)[194] - sorted(scores)[5]) / 2)
    assert found == score(hypotheses, references, config, "en", resamples=200)[name]


def test_what_is_always_right_has_no_interval_and_without_resamples_there_is_none():
    hypotheses, references = draw_lines(4, 9)
    assert score(references, references, EVERY, "en", resamples=50)["exact_match"].ci == 0
    assert all(value.ci == 0 and "|bs:" not in value.signature for value in score(hypotheses, references, EVERY, "en").values())


def test_a_score_of_some_sentences_is_the_score_of_those():
    hypotheses, references = draw_lines(5, 12)
    chosen = [0, 3, 7, 8]
    for name in EVERY.metrics:
        whole = measure(name, hypotheses, [[one] for one in references], EVERY, "en")
        alone = measure(name, [hypotheses[i] for i in chosen], [[references[i]] for i in chosen], EVERY, "en")
        assert whole.of(chosen) == pytest.approx(alone.score().score)
