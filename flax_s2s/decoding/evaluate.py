"""Translation quality as an Evaluation: `(params, step) -> Report`, for the loop and for the verb."""

from collections.abc import Callable, Sequence
from typing import Any

from flax_s2s.config import EvaluationConfig
from flax_s2s.data.corpus import Corpus, Pair
from flax_s2s.decoding.score import Score, exact_match, score
from flax_s2s.decoding.translate import Translation, Translator
from flax_s2s.runlog import Report


def make_translation_evaluation(
    translator: Translator,
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    language: str,
    on_batch: Callable[[int], None] | None = None,
) -> Callable[[Any, int], Report]:
    """Translates the pairs' sources, scores them, and shows a few next to their references; `on_batch` as in `Translator`."""

    def evaluate(params: Any, step: int) -> Report:
        found = translator(params, [pair.source for pair in pairs], on_batch)
        scores = score([t.text for t in found], [pair.target for pair in pairs], config, language)
        shown = range(0, len(pairs), max(1, len(pairs) // max(config.samples, 1)))[: config.samples]
        return Report({name: value.score for name, value in scores.items()}, [show(pairs[i], found[i]) for i in shown])

    return evaluate


def show(pair: Pair, found: Translation) -> str:
    """Three lines: source, reference, translation."""
    return f"  source     {pair.source}\n  reference  {pair.target}\n  translated {found.text}"


def family_scores(corpus: Corpus, found: Sequence[Translation]) -> dict[str, Score]:
    """Exact match of each family of phrases; empty where the corpus has none."""
    scores = {}
    for family in dict.fromkeys(sorted(corpus.families)):
        chosen = [i for i, other in enumerate(corpus.families) if other == family]
        scores[family] = exact_match([found[i].text for i in chosen], [corpus.pairs[i].target for i in chosen])
    return scores
