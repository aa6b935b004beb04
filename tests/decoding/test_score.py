import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.config import EvaluationConfig
from flax_s2s.decoding.score import exact_match, score, tokenizer_for, word_error_rate

EVERY = EvaluationConfig(metrics=("bleu", "chrf", "exact_match", "wer"))
CORPORA = {
    "de": (
        ["Ein Hund rennt.", "Zwei Katzen schlafen im Haus.", "Ja!"],
        ["Ein Hund rennt.", "Zwei Katzen schlafen in einem Haus.", "Nein!"],
    ),
    "zh_Hans": (["两只狗在跑。", "一个人走路", "他今天去学校了"], ["两只狗在奔跑。", "一个人在走路", "他今天去了学校"]),
    "ja": (["犬が走っています。", "猫は寝る"], ["犬が走る。", "猫は寝ています"]),
    "en": (["2 dogs, 3 cats: 5.5 animals", "no"], ["2 dogs & 3 cats: 5.5 animals", "yes"]),
}
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


@pytest.mark.parametrize("metrics", [("bleu",), ("chrf",), ("exact_match",), ("wer",), ("wer", "bleu"), ()])
def test_the_configured_metrics_and_no_others(metrics):
    found = score(*CORPORA["en"], EvaluationConfig(metrics=metrics), "en")
    assert tuple(found) == metrics
    assert found == {name: value for name, value in score(*CORPORA["en"], EVERY, "en").items() if name in metrics}


@pytest.mark.parametrize("language", CORPORA)
def test_right_translations_are_perfect(language):
    references = CORPORA[language][1]
    found = {name: value.score for name, value in score(references, references, EVERY, language).items()}
    assert found == pytest.approx({"bleu": 100, "chrf": 100, "exact_match": 100, "wer": 0})


def test_without_pairs_every_metric_is_zero():
    assert [value.score for value in score([], [], EVERY, "zh").values()] == [0, 0, 0, 0]


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
