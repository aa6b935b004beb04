"""`decode RUN_DIR...`: translates lines, one out for each one in, in order: as they come, or files as jobs that may be killed."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from flax_s2s import languages
from flax_s2s.answers import heatmap, lines, replies
from flax_s2s.answers import layout as layouts
from flax_s2s.answers.files import Files, find_form, find_inputs, find_outputs
from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import Raw
from flax_s2s.answers.replies import Translated
from flax_s2s.commands import answering
from flax_s2s.commands.answerer import SKIPPED, Answerer, Answers, Made, Verb, first_error
from flax_s2s.commands.wiring import Opened, console, make_translator, open_runs
from flax_s2s.config import EOS, Config, DecodingConfig, Tokenizer, UserError
from flax_s2s.data import features
from flax_s2s.data.corpus import Pair
from flax_s2s.data.files import read_lines
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.stream import Weights
from flax_s2s.decoding.translate import Translation, Translator
from flax_s2s.evaluation.evaluate import make_examples, score_defined
from flax_s2s.evaluation.metrics import open_tokenizer
from flax_s2s.runs import rundir
from flax_s2s.runs.rundir import is_stream, make_path

_MOST_SCORED_LINES = 1_000_000  # of an output with references: more are not held in memory


class Options(NamedTuple):
    """What is asked of the translations."""

    output_form: Literal["auto", "text", "jsonl", "nbest"]
    language: str
    tokenizer: Tokenizer
    blocklist: str
    abstain_below: float
    placeholder: str
    attention: str
    pictures: str
    picture_lines: tuple[int, ...]


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, files: Files, options: Options) -> int:
    """Translates stdin, files or a folder of files."""
    _check(options, decoding, files)
    _check_measuring(rundir.read_config(make_path(run_dirs[0])), options)
    if options.attention:
        check_attention(run_dirs, [rundir.read_config(make_path(run_dir)) for run_dir in run_dirs])
    blocked = [line for line in read_lines(options.blocklist) if line.strip()] if options.blocklist else []

    def open_answerer(interactive: bool) -> tuple[Answerer, dict[str, Any]]:
        chosen = dataclasses.replace(decoding, rows=1) if interactive else decoding
        opened = open_runs(run_dirs, checkpoint, chosen, join=False)
        return _Answerer(opened, options, blocked), _identify(opened, run_dirs, options, blocked)

    data = rundir.read_config(make_path(run_dirs[0])).data
    sides = layouts.find_sides(data, files)

    def find_layout(name: str, output: str, first: Sequence[str]) -> Layout:
        layout = layouts.find(files, sides, name, first, asked=options.output_form, output=output)
        if said := layouts.warn_header(layout, files, data, name, first):
            console().print(said)
        return layout

    outcome = answering.run(files, Verb(find_layout, open_answerer), beside=options.attention)
    if outcome.whole and options.pictures:
        named = (data.source, data.target)
        for said in heatmap.draw(make_path(options.attention), make_path(options.pictures), options.picture_lines, named):
            console().print(said)
    return outcome.code


def translate(
    translator: Translator, weights: Sequence[Weights], requests: Sequence[Request]
) -> list[tuple[Translation, tuple[str, ...], list[int]]]:
    """Of each request the translation, what looks wrong with it (see `replies.find_flags`), and the tokens of its source."""
    found = translator(weights, requests)
    vocabularies = translator.vocabularies
    source_ids = vocabularies.encode_sources([one.source for one in requests], [one.features for one in requests])
    beside = [len(features.split(one.features)) if vocabularies.features else 0 for one in requests]  # tokens that are no text
    return [
        (translation, replies.find_flags(one.source, translation, len(ids) - count), ids)
        for one, translation, ids, count in zip(requests, found, source_ids, beside, strict=True)
    ]


class _Answerer:
    """Answers lines with a model."""

    def __init__(self, opened: Opened, options: Options, blocked: Sequence[str]) -> None:
        self._opened, self._options = opened, options
        self._translator = make_translator(opened, blocked, attention=bool(options.attention))
        self._weights = self._translator.lay_out(opened.params)

    def answer(self, read: Sequence[Raw], layout: Layout, first_line: int) -> Answers:
        """The translations of lines, and what was seen in them."""
        asked = [lines.ask(raw, layout) for raw in read]
        found = translate(self._translator, self._weights, [one.request for one in asked])
        vocabularies = self._opened.vocabularies
        counts: Counter[str] = Counter()
        answers, alignments = [], []
        for number, (one, (translation, flags, ids)) in enumerate(zip(asked, found, strict=True), first_line + 1):
            abstained = bool(translation.tokens) and translation.confidence < self._options.abstain_below
            answers.append(Translated(one, translation, flags, translation.confidence, abstained))
            counts.update(one.problems)
            counts.update(flags)
            counts[SKIPPED] += bool(one.error)
            counts["tokens"] += translation.tokens
            counts["cut sources"] += translation.cut_source
            counts["cut translations"] += translation.reason == "limit"
            counts["impossible"] += translation.reason == "impossible"
            counts["abstained"] += abstained
            counts.update(self._count_others(translation))
            counts["references"] += bool(one.reference.strip())
            if self._options.attention:
                seen = [] if translation.attention is None else [*ids[: translation.attention.shape[1] - 1], EOS]
                lacking = vocabularies.find_lacking([one.request.source])[0]
                alignments.append(replies.write_alignment(number, answers[-1], vocabularies.source_pieces(seen, lacking)))
        first = first_line - bool(layout.header)  # the header row is no sentence
        body = [replies.write(one, layout, self._options.placeholder, number) for number, one in enumerate(answers, first)]
        return Answers(b"".join(body), +counts, b"".join(alignments), first_error(asked, first_line))

    def _count_others(self, translation: Translation) -> dict[str, int]:
        """How often fewer hypotheses than n_best are given out, since no more differ; of samples, how many are drawn again."""
        decoding = self._opened.config.decoding
        texts = [translation.text, *(other.text for other in translation.others)]
        if not translation.tokens or decoding.n_best == 1:
            return {}
        return {"fewer than n_best": len(texts) < decoding.n_best, "drawn again": len(texts) - len(set(texts))}

    def conclude(self, counts: Counter[str], made: Made | None) -> dict[str, Any]:
        """The counts, and how good the translations are where every line of a whole output has a reference."""
        said: dict[str, Any] = dict(counts)
        if made is None or not counts["references"]:
            return said
        texts: list[str] = []
        pairs: list[Pair] = []
        with made.source.open("rb") as source, made.output.open("rb") as output:
            found = replies.read_texts(output, made.layout)
            for number, raw in enumerate(lines.raw_lines(source), 1):
                asked = lines.ask(raw, made.layout)
                if asked.is_header:
                    continue
                text, reference = next(found), asked.reference
                if not reference.strip() or len(texts) == _MOST_SCORED_LINES:
                    why = f"there are more than {_MOST_SCORED_LINES:,} lines" if reference.strip() else f"line {number} has no reference"
                    return said | {"unscored": f"not scored, since {why}"}
                texts.append(text)
                pairs.append(Pair(asked.request.source, reference, asked.request.features))
        config = _measuring(self._opened.config, self._options)
        scores, lacks = score_defined(
            make_examples(pairs, False, form=config.vocab.unicode_form), texts, config.evaluation, config.data.target
        )
        said |= {name: {"score": value.score, "signature": value.signature} for name, value in scores.items()}
        return said | ({"unscored": "; ".join(f"not scored by {name}: {why}" for name, why in lacks.items())} if lacks else {})


def _measuring(config: Config, options: Options) -> Config:
    """The run's configuration with what is measured of translations that have references."""
    metrics = tuple(dict.fromkeys(("bleu", "chrf", *config.evaluation.metrics)))
    evaluation = dataclasses.replace(config.evaluation, metrics=metrics, language=options.language, tokenizer=options.tokenizer)
    return dataclasses.replace(config, evaluation=evaluation)


def _check_measuring(config: Config, options: Options) -> None:
    """Refuses what was asked for and cannot be; what only the run's configuration asks for is said in the summary."""
    if options.language:
        languages.find_target(_measuring(config, options).evaluation, config.data.target)
    if options.tokenizer not in ("auto", config.evaluation.tokenizer):
        open_tokenizer(options.tokenizer)


def _check(options: Options, decoding: DecodingConfig, files: Files) -> None:
    if decoding.n_best > 1 and "text" in _output_forms(options, files):
        raise UserError(f"n_best={decoding.n_best} needs --output-form jsonl or nbest, which have a place for the others")
    if options.pictures and (not options.attention or is_stream(options.attention)):
        raise UserError(f"--pictures {options.pictures} are drawn from what --attention FILE writes; give it too, and no pipe")
    if any(number < 1 for number in options.picture_lines):
        raise UserError(f"--picture-lines {' '.join(map(str, options.picture_lines))} are numbers of lines, from 1")
    if not 0 <= options.abstain_below <= 1:
        raise UserError(f"--abstain-below {options.abstain_below} is a probability, from 0 to 1")
    if "\n" in options.placeholder:
        raise UserError("--placeholder must be one line")


def _output_forms(options: Options, files: Files) -> set[str]:
    inputs = find_inputs(files)
    outputs = find_outputs(files, inputs)
    named = [(str(path), str(outputs[i % len(outputs)]) if outputs else "") for i, path in enumerate(inputs)] or [("", files.output)]
    return {layouts.find_output_form(options.output_form, find_form(files, name), output) for name, output in named}


def check_attention(run_dirs: Sequence[str], configs: Sequence[Config]) -> None:
    """Refuses models that have none where it is asked for.

    Raises:
        UserError: one of the runs was trained so.
    """
    for run_dir, config in zip(run_dirs, configs, strict=True):
        if config.model.attention == "none":
            raise UserError(f"--attention needs models that have it, and {run_dir} was trained with model.attention=none; leave it out")


def _identify(opened: Opened, run_dirs: Sequence[str], options: Options, blocked: Sequence[str]) -> dict[str, Any]:
    """What the translations depend on besides the input."""
    settings = dataclasses.asdict(opened.config.decoding)
    if opened.config.decoding.shortlist:
        settings["shortlist_sha256"] = hashlib.sha256((opened.folder / rundir.SHORTLIST).read_bytes()).hexdigest()
    settings |= {"blocklist_sha256": hashlib.sha256(json.dumps(list(blocked)).encode()).hexdigest()}
    settings |= {"abstain_below": options.abstain_below, "placeholder": options.placeholder, "attention": bool(options.attention)}
    return {**answering.identify(opened, run_dirs), **settings}
