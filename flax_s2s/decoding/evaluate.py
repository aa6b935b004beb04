"""Translation quality as an Evaluation: `(params, step) -> Report`, for the loop and for the verb."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax_s2s import parallel
from flax_s2s.config import EvaluationConfig
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.score import Score, measure, score
from flax_s2s.decoding.translate import Translation, Translator
from flax_s2s.runlog import Report

_BATCHES_TOGETHER = 8  # of a process; between them all processes look whether to stop
_SHARED = Translation._fields[: Translation._fields.index("ids")]


class Example(NamedTuple):
    """A source, and its right translations."""

    source: str
    references: tuple[str, ...]  # the corpus' own first
    family: str = ""


def make_examples(
    pairs: Sequence[Pair], merge: bool, families: Sequence[str] = (), others: Sequence[Sequence[Sequence[str]]] = ()
) -> list[Example]:
    """What is translated and scored: each pair, or each source once with all its targets.

    Args:
        pairs: of a split.
        merge: whether pairs with the same source are one.
        families: of each pair of phrases.
        others: further references, of each file and pair some; a blank one is none.
    """
    examples: dict[Any, Example] = {}
    for i, pair in enumerate(pairs):
        found = (pair.target, *(line for of_pairs in others for line in of_pairs[i] if line.strip()))
        key = pair.source if merge else i
        before = examples[key].references if key in examples else ()
        references = tuple(dict.fromkeys(before + found)) if merge else found
        examples[key] = Example(pair.source, references, families[i] if families else "")
    return list(examples.values())


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
    (index, count), weights = parallel.process(), translator.lay_out(params)
    together = _BATCHES_TOGETHER * translator.rows * count
    results: list[Translation] = []
    for start in range(0, len(sources), together):
        part = sources[start : start + together]
        mine = [list(found[: len(_SHARED)]) for found in translator(weights, part[index::count])]
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
        pairs: as many as the configuration says are translated, from all over: a corpus may be sorted by length.
        config: the metrics, and how many pairs.
        language: of the target.
        on_part: called by all processes alike, after each part of the pairs.
    """
    examples = make_examples(pairs, config.merge_sources)
    examples = [examples[i] for i in spread(len(examples), config.valid_pairs)]

    def evaluate(params: Any, step: int) -> Report:
        texts = [found.text for found in translate_together(translator, [params], [one.source for one in examples], on_part)]
        scores = score(texts, [one.references for one in examples], config, language)
        shown = [show(examples[i], texts[i]) for i in spread(len(examples), config.samples)]
        return Report({name: value.score for name, value in scores.items()}, shown)

    return evaluate


def spread(count: int, samples: int) -> list[int]:
    """Up to that many of the numbers below `count`, from all over."""
    samples = min(samples, count)
    return [i * count // samples for i in range(samples)]


def show(example: Example, text: str) -> str:
    """Three lines: source, reference, translation."""
    return f"  source     {example.source}\n  reference  {' | '.join(example.references)}\n  translated {text}"


def family_scores(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, Score]:
    """Exact match of each family of phrases; empty where the corpus has none."""
    scores = {}
    for family in sorted({one.family for one in examples if one.family}):
        chosen = [i for i, one in enumerate(examples) if one.family == family]
        found, references = [texts[i] for i in chosen], [examples[i].references for i in chosen]
        scores[family] = measure("exact_match", found, references, EvaluationConfig(), "").score()
    return scores
