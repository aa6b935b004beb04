"""Translation quality as an Evaluation: `(params, step) -> Report`, for the loop and for the verb."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from flax_s2s import parallel
from flax_s2s.config import EvaluationConfig
from flax_s2s.data.corpus import Corpus, Pair
from flax_s2s.decoding.score import Score, exact_match, score
from flax_s2s.decoding.translate import Translation, Translator
from flax_s2s.runlog import Report

_BATCHES_TOGETHER = 8  # of a process; between them all processes look whether to stop
_SHARED = Translation._fields[: Translation._fields.index("ids")]


def translate_together(
    translator: Translator, params: Sequence[Any], sources: Sequence[str], on_part: Callable[[], None] = lambda: None
) -> list[Translation]:
    """Translates the same lines on all processes, each its part of them; every process gets all results, without their tokens.

    Args:
        translator: of this process' devices.
        params: of each model.
        sources: lines.
        on_part: called by all processes alike, after each part of the lines.
    """
    index, count = parallel.process()
    together = _BATCHES_TOGETHER * translator.rows * count
    results: list[Translation] = []
    for start in range(0, len(sources), together):
        part = sources[start : start + together]
        mine = [list(found[: len(_SHARED)]) for found in translator(params, part[index::count])]
        found = [json.loads(payload) for payload in parallel.share(json.dumps(mine).encode())]
        results += [Translation(*found[i % count][i // count]) for i in range(len(part))]
        on_part()
    return results


def make_translation_evaluation(
    translator: Translator,
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    language: str,
    on_part: Callable[[], None] = lambda: None,
) -> Callable[[Any, int], Report]:
    """Translates the pairs' sources, each process its part, scores them, and shows a few next to their references.

    Args:
        translator: of one model.
        pairs: what is translated.
        config: the metrics.
        language: of the target.
        on_part: called by all processes alike, after each part of the pairs.
    """

    def evaluate(params: Any, step: int) -> Report:
        texts = [found.text for found in translate_together(translator, [params], [pair.source for pair in pairs], on_part)]
        scores = score(texts, [pair.target for pair in pairs], config, language)
        shown = range(0, len(pairs), max(1, len(pairs) // max(config.samples, 1)))[: config.samples]
        return Report({name: value.score for name, value in scores.items()}, [show(pairs[i], texts[i]) for i in shown])

    return evaluate


def show(pair: Pair, text: str) -> str:
    """Three lines: source, reference, translation."""
    return f"  source     {pair.source}\n  reference  {pair.target}\n  translated {text}"


def family_scores(corpus: Corpus, texts: Sequence[str]) -> dict[str, Score]:
    """Exact match of each family of phrases; empty where the corpus has none."""
    scores = {}
    for family in dict.fromkeys(sorted(corpus.families)):
        chosen = [i for i, other in enumerate(corpus.families) if other == family]
        scores[family] = exact_match([texts[i] for i in chosen], [corpus.pairs[i].target for i in chosen])
    return scores
