"""Translation quality as an Evaluation: `(params, step) -> Report`, for the loop and for the verb."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax_s2s.config import METRICS, DecodingConfig, EvaluationConfig, Metric, UnicodeForm, UserError
from flax_s2s.data.corpus import Pair
from flax_s2s.data.vocab import in_form
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.translate import Translation, Translator
from flax_s2s.evaluation.metrics import Measured, Score, measure
from flax_s2s.runtime import parallel
from flax_s2s.runtime.runlog import Report

_BATCHES_TOGETHER = 8  # of a process; between them all processes look whether to stop
_SHARED = Translation._fields[: Translation._fields.index("ids")]
_SAME_SHARE, _FEW = 0.9, 10  # more translations alike than this share are a model that does not look at its source


class Example(NamedTuple):
    """A source, and its right translations."""

    source: str
    references: tuple[str, ...]  # the corpus' own first
    family: str = ""
    right: tuple[str, ...] = ()  # all that are right translations of the source, those of other pairs among them
    features: str = ""  # the bundle beside the source: the same one with others is another source

    @property
    def request(self) -> Request:
        """What is translated."""
        return Request(self.source, features=self.features)


def make_examples(
    pairs: Sequence[Pair],
    merge: bool,
    families: Sequence[str] = (),
    others: Sequence[Sequence[Sequence[str]]] = (),
    form: UnicodeForm = "given",
) -> list[Example]:
    """What is translated and scored: each pair, or each source once with all its targets.

    Args:
        pairs: of a split.
        merge: whether pairs with the same source, and the same features, are one.
        families: of each pair of phrases.
        others: further references, of each file and pair some; a blank one is none.
        form: `vocab.unicode_form`: where that is not `given`, translations are composed, and references are compared so.
    """
    as_translated: UnicodeForm = "given" if form == "given" else "NFC"
    given = [(pair.target, *(line for of_pairs in others for line in of_pairs[i] if line.strip())) for i, pair in enumerate(pairs)]
    own = [tuple(in_form(line, as_translated) for line in lines) for lines in given]
    gathered: dict[tuple[str, str], dict[str, None]] = {}
    for pair, found in zip(pairs, own, strict=True):
        gathered.setdefault((pair.source, pair.features), {}).update(dict.fromkeys(found))
    right = {source: tuple(found) for source, found in gathered.items()}
    examples: dict[Any, Example] = {}
    for i, pair in enumerate(pairs):
        source = (pair.source, pair.features)
        references = right[source] if merge else own[i]
        examples[source if merge else i] = Example(pair.source, references, families[i] if families else "", right[source], pair.features)
    return list(examples.values())


def measure_examples(name: Metric, examples: Sequence[Example], texts: Sequence[str], config: EvaluationConfig, target: str) -> Measured:
    """One metric of the examples' translations.

    Where a source has several targets in the split, any of them is right for the metrics that compare with one; the others count
    pair by pair, or source by source where those are merged.
    """
    references = [one.right if METRICS[name].any_right else one.references for one in examples]
    return measure(name, texts, references, config, target)


def measure_all(examples: Sequence[Example], texts: Sequence[str], config: EvaluationConfig, target: str) -> dict[Metric, Measured]:
    """The configured metrics of the examples' translations."""
    return {name: measure_examples(name, examples, texts, config, target) for name in config.metrics}


def score_defined(
    examples: Sequence[Example], texts: Sequence[str], config: EvaluationConfig, target: str
) -> tuple[dict[str, Score], dict[str, str]]:
    """The configured metrics that can be computed, and why the others cannot."""
    scores, lacks = dict[str, Score](), dict[str, str]()
    for name in config.metrics:
        try:
            scores[name] = measure_examples(name, examples, texts, config, target).score()
        except UserError as error:
            lacks[name] = str(error)
    return scores, lacks


def translate_together(
    translator: Translator, params: Sequence[Any], requests: Sequence[Request | str], on_part: Callable[[], None] = lambda: None
) -> list[Translation]:
    """Translates the same requests on all processes, each its part of them; every process gets all results, without their tokens.

    Args:
        translator: of this process' devices.
        params: of each model.
        requests: what to translate.
        on_part: called by all processes alike, after each part of them.
    """
    (index, count), weights = parallel.process(), translator.lay_out(params)
    together = _BATCHES_TOGETHER * translator.rows * count
    results: list[Translation] = []
    for start in range(0, len(requests), together):
        part = requests[start : start + together]
        mine = [list(found[: len(_SHARED)]) for found in translator(weights, part[index::count])]
        found = [json.loads(payload) for payload in parallel.share(json.dumps(mine).encode())]
        results += [Translation(*found[i % count][i // count]) for i in range(len(part))]
        on_part()
    return results


def make_translation_evaluation(
    translator: Translator,
    pairs: Sequence[Pair],
    config: EvaluationConfig,
    target: str,
    on_part: Callable[[], None] = lambda: None,
    form: UnicodeForm = "given",
    draw_fn: Callable[[Request, Translation], Mapping[str, bytes]] | None = None,
) -> Callable[[Any, int], Report]:
    """Translates the pairs' sources, each process its part, scores them, and shows a few next to their references.

    Args:
        translator: of one model.
        pairs: as many as the configuration says are translated, from all over: a corpus may be sorted by length.
        config: the metrics, and how many pairs.
        target: the name of the target's side.
        on_part: called by all processes alike, after each part of the pairs.
        form: see `make_examples`.
        draw_fn: draws the first sample, as a PNG by its name; None: it is not drawn.
    """
    examples = make_examples(pairs, config.merge_sources, form=form)
    examples = [examples[i] for i in spread(len(examples), config.valid_pairs)]

    def evaluate(params: Any, step: int) -> Report:
        found = translate_together(translator, [params], [one.request for one in examples], on_part)
        texts = [one.text for one in found]
        scores = {name: one.score() for name, one in measure_all(examples, texts, config, target).items()}
        cuts = count_cuts(found)
        notes = [*explain_cuts(cuts, len(found), translator.config), *find_sameness(texts, [one.references[0] for one in examples])]
        shown = [show(examples[i], texts[i]) for i in spread(len(examples), config.samples)]
        drawn: Mapping[str, bytes] = {}
        if draw_fn and shown:
            asked = examples[0].request
            drawn = draw_fn(asked, translator(translator.lay_out([params]), [asked])[0])  # once more: with its tokens
        return Report({**{name: value.score for name, value in scores.items()}, **cuts}, shown, notes, drawn)

    return evaluate


def count_cuts(found: Sequence[Translation]) -> dict[str, int]:
    """How many translations ended at their length limit, and how many sources at theirs."""
    return {"cut_translations": sum(one.reason == "limit" for one in found), "cut_sources": sum(one.cut_source for one in found)}


def explain_cuts(cuts: dict[str, int], count: int, config: DecodingConfig) -> list[str]:
    """A line for each limit that lowered the scores: how many, by which field, what to set."""
    lines = []
    if many := cuts["cut_translations"]:
        lines.append(
            f"{many:,} of {count:,} translations were cut at their length limit, which lowers scores: "
            f"decoding.max_length_ratio={config.max_length_ratio:g} * source tokens + decoding.max_length_extra={config.max_length_extra}; "
            "raise one of them, unless the model repeats itself"
        )
    if many := cuts["cut_sources"]:
        lines.append(
            f"{many:,} of {count:,} sources were cut, which lowers scores: they have more than decoding.max_source_tokens="
            f"{config.max_source_tokens} tokens; raise it"
        )
    return lines


def find_sameness(texts: Sequence[str], references: Sequence[str]) -> list[str]:
    """A line where nearly all translations are one and the same, and the references are not."""
    if len(texts) < _FEW:
        return []
    (text, count), (_, of_references) = (Counter(lines).most_common(1)[0] for lines in (texts, references))
    if count <= _SAME_SHARE * len(texts) or of_references > _SAME_SHARE * len(texts):
        return []
    return [
        f"{count:,} of {len(texts):,} translations are the same, {text[:80]!r}: the model does not look at the source yet; where this "
        "stays so, train longer, or with another optimizer.learning_rate"
    ]


def spread(count: int, samples: int) -> list[int]:
    """Up to that many of the numbers below `count`, from all over."""
    samples = min(samples, count)
    return [i * count // samples for i in range(samples)]


def show(example: Example, text: str) -> str:
    """Three lines: source, right translations, translation."""
    features = f"  ({example.features})" if example.features else ""
    return f"  source     {example.source}{features}\n  reference  {' | '.join(example.right)}\n  translated {text}"


def family_scores(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, Score]:
    """Exact match of each family of phrases; empty where the corpus has none."""
    scores = {}
    for family in sorted({one.family for one in examples if one.family}):
        chosen = [i for i, one in enumerate(examples) if one.family == family]
        found = measure_examples("exact_match", [examples[i] for i in chosen], [texts[i] for i in chosen], EvaluationConfig(), "")
        scores[family] = found.score()
    return scores
