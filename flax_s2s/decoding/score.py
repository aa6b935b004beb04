"""How good translations are: sacreBLEU, chrF, TER, exact match, error rates, ROUGE; each with a signature and a confidence interval.

Enters: translations, and one or more right ones of each. Leaves: a `Measured` for each metric, which holds statistics of each
sentence, or the `Score` that follows from their sums.

| metric | percent of | several references |
|---|---|---|
| bleu, chrf, ter | as sacreBLEU defines them | as there: n-grams of all, the best one, the fewest edits over the mean length |
| exact_match | lines equal to a reference, white space around them aside | any |
| ser | lines equal to none: the sentence error rate, which pronunciation tasks call word error rate (WER), a line being a word | any |
| wer | edits (Levenshtein) over reference words, words being what white space separates | the nearest |
| per | the same where what white space separates are phones: the phone error rate | the nearest |
| rouge1, rouge2, rougeL | F1 of words, of pairs of words, of the longest common subsequence (Lin 2004), each line's by itself, then the mean; words are Porter stems of letters a-z and digits: for English | the best |
"""

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import sacrebleu
from rapidfuzz.distance import Levenshtein

from flax_s2s.config import EvaluationConfig
from flax_s2s.decoding import bootstrap

_TOKENIZER_OF = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}
_SPLIT_BY_TER = ("zh", "ja")  # TER's tokenizer can take their characters apart


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
        return self.score_fn(self.statistics[list(sentences)].sum(axis=0).tolist())

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


def _language(name: str) -> str:
    return name.replace("-", "_").split("_")[0].lower()


def tokenizer_for(config: EvaluationConfig, language: str) -> str:
    """SacreBLEU's tokenizer for a target language such as `zh` or `zh_Hans`."""
    if config.tokenizer != "auto":
        return config.tokenizer
    return _TOKENIZER_OF.get(_language(language), "13a")


def make_split(config: EvaluationConfig, language: str) -> Callable[[str], list[str]]:
    """What takes a line apart into the words that BLEU counts."""
    tokenizer = sacrebleu.BLEU(tokenize=tokenizer_for(config, language)).tokenizer
    return lambda line: tokenizer(line).split()


def score(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], config: EvaluationConfig, language: str, resamples: int = 0
) -> dict[str, Score]:
    """The configured metrics of a corpus; all are 0 where there is no sentence.

    Args:
        hypotheses: translations.
        references: of each the right ones, at least one.
        config: which metrics, and the tokenizer of BLEU.
        language: of the target, for the tokenizers.
        resamples: for the confidence intervals; 0: none.
    """
    return {name: measure(name, hypotheses, references, config, language).score(resamples) for name in config.metrics}


def measure(name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], config: EvaluationConfig, language: str) -> Measured:
    """One metric's statistics of each sentence; see `score`."""
    pairs = list(zip(hypotheses, references, strict=True)) or [("", [""])]
    if name == "bleu":
        return _sacrebleu(sacrebleu.BLEU(tokenize=tokenizer_for(config, language)), pairs)
    if name == "chrf":
        return _sacrebleu(sacrebleu.CHRF(), pairs)
    if name == "ter":
        apart = _language(language) in _SPLIT_BY_TER
        return _sacrebleu(sacrebleu.TER(normalized=apart, asian_support=apart), pairs)
    if name.startswith("rouge"):
        return _rouge(name, pairs)
    count = {len(found) for _, found in pairs}
    start = f"nrefs:{count.pop() if len(count) == 1 else 'var'}|case:mixed"
    if name in ("exact_match", "ser"):
        right = [any(hypothesis.strip() == one.strip() for one in found) for hypothesis, found in pairs]
        counted = [one == (name == "exact_match") and len(hypotheses) > 0 for one in right]
        return Measured(np.array([counted, [1] * len(pairs)], np.float64).T, _share, f"{start}|space:stripped")
    nearest = [_nearest(hypothesis.split(), [one.split() for one in found]) for hypothesis, found in pairs]
    return Measured(np.array(nearest, np.float64), _share, f"{start}|tok:space|edits:levenshtein")


def _rouge(name: str, pairs: Sequence[tuple[str, Sequence[str]]]) -> Measured:
    """The reference implementation's scores, whose mean over lines is reported."""
    from rouge_score import rouge_scorer  # here, because it takes a second

    scorer = rouge_scorer.RougeScorer([name], use_stemmer=True)
    found = [scorer.score_multi(list(references), hypothesis)[name].fmeasure for hypothesis, references in pairs]
    count = {len(references) for _, references in pairs}
    signature = f"nrefs:{count.pop() if len(count) == 1 else 'var'}|case:lc|stem:porter|f1|version:{metadata.version('rouge-score')}"
    return Measured(np.array([found, [1] * len(pairs)], np.float64).T, _share, signature)


def _sacrebleu(metric: Any, pairs: Sequence[tuple[str, Sequence[str]]]) -> Measured:
    """SacreBLEU's own statistics, which it has no public function for; tests compare what comes of them with its results."""
    most = max(len(found) for _, found in pairs)
    streams = [[found[k] if k < len(found) else None for _, found in pairs] for k in range(most)]
    statistics = np.array(metric._extract_corpus_statistics([hypothesis for hypothesis, _ in pairs], streams), np.float64)
    return Measured(statistics, lambda sums: float(metric._compute_score_from_stats(sums).score), str(metric.get_signature()))


def _share(sums: Sequence[float]) -> float:
    """Percent that the first is of the second."""
    return 100 * sums[0] / max(sums[1], 1)


def _nearest(hypothesis: list[str], references: Sequence[list[str]]) -> tuple[int, int]:
    """Edits to the nearest reference and its tokens; of equally near ones the longest."""
    found = [(Levenshtein.distance(hypothesis, reference), len(reference)) for reference in references]
    return min(found, key=lambda one: (one[0], -one[1]))
