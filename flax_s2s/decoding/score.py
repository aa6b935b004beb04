"""How good translations are: sacreBLEU, chrF, exact match, edit-distance error rate, each with a signature."""

from collections.abc import Sequence
from typing import NamedTuple

import sacrebleu
from rapidfuzz.distance import Levenshtein

from flax_s2s.config import EvaluationConfig

_TOKENIZER_OF = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}


class Score(NamedTuple):
    """A metric's value in percent, and what exactly was measured."""

    score: float
    signature: str


def tokenizer_for(config: EvaluationConfig, language: str) -> str:
    """SacreBLEU's tokenizer for a target language such as `zh` or `zh_Hans`."""
    if config.tokenizer != "auto":
        return config.tokenizer
    return _TOKENIZER_OF.get(language.replace("-", "_").split("_")[0].lower(), "13a")


def score(hypotheses: Sequence[str], references: Sequence[str], config: EvaluationConfig, language: str) -> dict[str, Score]:
    """The configured metrics of a corpus, one reference each; all are 0 where there is no pair.

    Args:
        hypotheses: translations.
        references: as many right translations.
        config: which metrics, and the tokenizer of BLEU.
        language: of the target, for the tokenizer.
    """
    scores: dict[str, Score] = {}
    for name in config.metrics:
        if name == "bleu":
            scores[name] = _sacrebleu(sacrebleu.BLEU(tokenize=tokenizer_for(config, language)), hypotheses, references)
        elif name == "chrf":
            scores[name] = _sacrebleu(sacrebleu.CHRF(), hypotheses, references)
        elif name == "exact_match":
            scores[name] = exact_match(hypotheses, references)
        else:
            scores[name] = word_error_rate(hypotheses, references)
    return scores


def _sacrebleu(metric: sacrebleu.BLEU | sacrebleu.CHRF, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    # sacreBLEU leaves out what the longer list has more, without a word, and takes no empty one.
    pairs = list(zip(hypotheses, references, strict=True)) or [("", "")]
    found = metric.corpus_score([h for h, _ in pairs], [[r for _, r in pairs]])
    return Score(float(found.score), str(metric.get_signature()))


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Share of translations equal to their reference, surrounding white space aside."""
    right = sum(h.strip() == r.strip() for h, r in zip(hypotheses, references, strict=True))
    return Score(100 * right / max(len(references), 1), "nrefs:1|case:mixed|space:stripped")


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Edits over reference tokens, tokens split at white space: the phone error rate where those are phones."""
    pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
    edits = sum(Levenshtein.distance(h, r) for h, r in pairs)
    return Score(100 * edits / max(sum(len(r) for _, r in pairs), 1), "nrefs:1|case:mixed|tok:space|edits:levenshtein")
