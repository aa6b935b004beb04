"""How well runs translate a split, for a report: scores, calibration, and sentences with what was seen while they were translated.

Enters: run directories. Leaves: plain data. The numbers are those of `evaluate`, which finds them.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from flax_s2s.commands import breakdown, evaluate
from flax_s2s.commands.evaluate import Looked
from flax_s2s.commands.wiring import console, make_translator
from flax_s2s.config import EOS, Config, DecodingConfig, UserError
from flax_s2s.data import corpus
from flax_s2s.data.vocab import Vocabularies, Vocabulary
from flax_s2s.decoding.requests import SOURCE_LENGTHS, padded_length
from flax_s2s.decoding.stream import most_tokens
from flax_s2s.decoding.trace import Place, Places, Step, fell_out, hypotheses, trace
from flax_s2s.decoding.translate import Translation
from flax_s2s.evaluation.evaluate import Example, measure_examples, spread
from flax_s2s.runtime import parallel
from flax_s2s.serving import report

_MOST_SENTENCES = 2_000  # that a page shows, with attention or without
_ALTERNATIVES, _LEAST = 4, 0.005  # that are shown of a place; and how likely


class Options(NamedTuple):
    """What is shown."""

    split: Literal["auto", "train", "valid", "test"] = "auto"  # auto: test, or valid where there is none
    checkpoint: str = "best"
    data_folder: str = ""
    sentences: int = 200  # with what was seen while they were translated
    by: tuple[str, ...] = ()
    resamples: int = 1000


class _Tested(NamedTuple):
    """A run on its split."""

    number: int  # of the run
    split: corpus.Split
    looked: Looked
    lengths: list[int]  # of the sources, in tokens
    chrf: Float[np.ndarray, " sentences"]  # of each sentence, percent
    confidence: Float[np.ndarray, " sentences"]


def describe(runs: Sequence[tuple[str, Config]], options: Options, notes: Sequence[list[str]]) -> list[dict[str, Any]]:
    """What each test set showed; runs that have one test set are shown beside each other.

    Args:
        runs: folder and configuration of each.
        options: what is shown.
        notes: of each run; why it was not tested, or not wholly, is added.
    """
    found = [_test(number, *one, options, notes[number]) for number, one in enumerate(runs)]
    tested = [one for one in found if one]
    groups: list[list[_Tested]] = []
    for one in tested:
        same = (group for group in groups if group[0].looked.examples == one.looked.examples and group[0].split == one.split)
        if (group := next(same, None)) is None:
            groups.append([one])
        else:
            group.append(one)
    return [_describe_group(group, options) for group in groups]


def _test(number: int, folder: str, config: Config, options: Options, notes: list[str]) -> _Tested | None:
    """Evaluates a run, calibrated where that can be; None where it cannot be evaluated.

    Raises:
        PartsError: what is asked for by `--by` is not there.
    """
    split: corpus.Split = ("test" if config.data.test else "valid") if options.split == "auto" else options.split
    by = tuple(dict.fromkeys(("length", *(("features",) if config.data.features else ()), *options.by)))
    evaluation = config.evaluation
    asked = evaluate.Options(
        split,
        options.data_folder,
        samples=0,
        metrics=(),
        merge_sources=False,
        language=evaluation.language,
        tokenizer=evaluation.tokenizer,
        references=(),
        resamples=options.resamples,
        calibration="",
        json="",
        by=by,
    )
    evaluate.check(asked)
    for calibrates, lacks in ((True, "no calibration"), (False, "no scores and no sentences")):
        try:
            looked = evaluate.look([folder], options.checkpoint, None, asked, join=False, calibrates=calibrates)
        except breakdown.PartsError:
            raise
        except UserError as error:
            reason = f"{lacks}: {error}"
            continue
        if not calibrates:
            notes.append(reason)
        notes += looked.found.notes
        return _measure(number, split, looked)
    notes.append(reason)
    return None


def _measure(number: int, split: corpus.Split, looked: Looked) -> _Tested:
    examples, texts = looked.examples, [one.text for one in looked.translations]
    config = looked.opened.config
    chrf = looked.measured.get("chrf") or measure_examples("chrf", examples, texts, config.evaluation, config.data.target)
    confidence = np.array([one.confidence for one in looked.translations])
    return _Tested(number, split, looked, breakdown.count_tokens(looked.opened, examples), chrf.each(), confidence)


def _describe_group(group: Sequence[_Tested], options: Options) -> dict[str, Any]:
    examples = group[0].looked.examples
    detailed = report.choose(_orders(group), options.sentences)
    most = max(_MOST_SENTENCES, len(detailed))
    shown = report.choose([detailed, spread(len(examples), most)], most)
    details = [_look_inside(one, detailed) for one in group] if parallel.process()[0] == 0 else []
    return {
        "split": group[0].split,
        "runs": [one.number for one in group],
        "results": [one.looked.found.result for one in group],
        "total": len(examples),
        "sentences": [_describe_sentence(i, examples[i], group) for i in shown],
        "details": {str(i): [of_run[place] for of_run in details] for place, i in enumerate(detailed)},
    }


def _orders(group: Sequence[_Tested]) -> list[list[int]]:
    """Which sentences are worth a look: the worst first, the least sure, the longest, those that runs differ on; and some from all over."""
    chrf, confidence = (np.stack([getattr(one, name) for one in group]) for name in ("chrf", "confidence"))
    keys = [chrf.mean(axis=0), confidence.min(axis=0), -np.array(group[0].lengths)]
    if len(group) > 1:
        keys.append(chrf.min(axis=0) - chrf.max(axis=0))
    count = len(group[0].lengths)
    return [*(np.argsort(key, kind="stable").tolist() for key in keys), spread(count, max(1, count // 4))]


def _describe_sentence(i: int, example: Example, group: Sequence[_Tested]) -> dict[str, Any]:
    """A row of the table; `runs` has a part for each run."""
    found = [(one.looked.translations[i], float(one.chrf[i])) for one in group]
    named = {"features": example.features, "family": example.family}
    return {
        "number": i + 1,
        "source": example.source,
        "references": list(example.right),
        "length": group[0].lengths[i],
        **{name: text for name, text in named.items() if text},
        "runs": [
            {
                "text": translation.text,
                "chrf": round(chrf, 2),
                "confidence": round(translation.confidence, 4),
                "right": translation.text.strip() in {one.strip() for one in example.right},
                **({} if translation.finished else {"cut": True}),
            }
            for translation, chrf in found
        ],
    }


def _look_inside(tested: _Tested, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Translates sentences once more, all in one shape, and keeps what was seen: tokens, attention, what else was likely, the beam."""
    opened, examples = tested.looked.opened, [tested.looked.examples[i] for i in chosen]
    if not examples:
        return []
    decoding, vocabularies = opened.config.decoding, opened.vocabularies
    sources, bundles, requests = [one.source for one in examples], [one.features for one in examples], [one.request for one in examples]
    pieces = vocabularies.read_sources(sources, bundles, decoding.max_source_tokens)
    lacking = vocabularies.find_lacking(sources)
    translator = make_translator(opened, attention=True, lengths=[padded_length(max(map(len, pieces)), SOURCE_LENGTHS)])
    weights = translator.lay_out(opened.params)
    with console().status("looking inside"):
        found, steps = translator(weights, requests), trace(translator, weights, requests)
        own = [one.ids[: len(one.ids) - one.finished] for one in found]
        references = _read_references(examples, vocabularies, lacking, decoding)
        longest = max(len(ids) + 1 for ids in (*pieces, *own, *references))
        places = Places(opened.models, vocabularies, decoding, opened.devices, [padded_length(longest)])
        said, told = places(weights, sources, own, bundles), places(weights, sources, references, bundles)
    inside = map(_Inside, pieces, lacking, found, said, references, told, steps)
    return [_describe_inside(one, tested.looked.translations[i].text, vocabularies.target) for i, one in zip(chosen, inside, strict=True)]


class _Inside(NamedTuple):
    """What was seen of a sentence."""

    source: list[str]  # its tokens, as they are written
    lacking: tuple[str, ...]
    found: Translation
    said: list[Place]  # of the translation
    reference: list[int]
    told: list[Place]  # of the reference
    steps: list[Step]


def _read_references(
    examples: Sequence[Example], vocabularies: Vocabularies, lacking: Sequence[Sequence[str]], decoding: DecodingConfig
) -> list[list[int]]:
    """The tokens of each first reference, as far as any translation may go."""
    most = most_tokens(decoding.max_source_tokens, decoding) - 1
    return [ids[:most] for ids in vocabularies.encode_targets([one.references[0] for one in examples], lacking)]


def _describe_inside(one: _Inside, before: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """What was seen; nothing where the last bits of another shape's products made another translation than the one that was scored."""
    found = one.found
    if found.text != before or not found.tokens:
        return {}
    fell = fell_out(one.steps, one.reference)
    live = [] if fell is None or fell >= len(one.steps) else hypotheses(one.steps)[fell]
    return {
        "source": one.source,
        "target": list(found.pieces),
        **_describe_places(one.said[: len(found.ids)], one.lacking, vocabulary),
        **({} if found.attention is None else {"attention": report.pack(np.asarray(found.attention))}),
        **({} if found.copied is None else {"copied": [round(share, 3) for share in found.copied]}),
        "reference": {
            "pieces": vocabulary.pieces([*one.reference, EOS], one.lacking),
            **_describe_places(one.told, one.lacking, vocabulary),
            "fell": fell,
            "live": vocabulary.decode(live, [one.lacking] * len(live)),
        },
    }


def _describe_places(places: Sequence[Place], lacking: Sequence[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """The probability of each token, and the likeliest ones at its place."""
    likely = [[(token, value) for token, value in one.alternatives[:_ALTERNATIVES] if value >= _LEAST] for one in places]
    return {
        "probability": [round(one.probability, 4) for one in places],
        "alternatives": [[[vocabulary.pieces([token], lacking)[0], round(value, 4)] for token, value in own] for own in likely],
    }
