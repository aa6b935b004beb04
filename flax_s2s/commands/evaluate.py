"""`evaluate RUN_DIR`: decodes a split and scores it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from flax_s2s.answers import layout as layouts
from flax_s2s.answers.files import Files, ending
from flax_s2s.commands import answering, breakdown
from flax_s2s.commands.wiring import (
    Opened,
    choose_metrics,
    console,
    keep_calibration,
    load_split,
    make_translator,
    open_runs,
    optional_file,
    write_json,
)
from flax_s2s.config import Config, DataConfig, DecodingConfig, Metric, Tokenizer, UserError
from flax_s2s.data import corpus, rows
from flax_s2s.data.corpus import Pair
from flax_s2s.data.files import read_lines
from flax_s2s.data.vocab import in_form
from flax_s2s.decoding.translate import Translation
from flax_s2s.evaluation import reliability
from flax_s2s.evaluation.breakdown import NAMES, Parts, by_features, by_length
from flax_s2s.evaluation.calibration import Forecaster, Group, Reliability, calibrate, group_by_confidence, spearman
from flax_s2s.evaluation.evaluate import (
    Example,
    count_cuts,
    explain_cuts,
    family_scores,
    make_examples,
    measure_all,
    measure_examples,
    show,
    spread,
    translate_together,
)
from flax_s2s.evaluation.metrics import Measured
from flax_s2s.runs.rundir import make_path, read_config
from flax_s2s.runtime import parallel
from flax_s2s.runtime.runlog import make_console

_EDITS: tuple[Metric, ...] = ("wer", "cer", "per")  # edits over tokens, whose mean over lines is a number of its own


class Options(NamedTuple):
    """What is evaluated, and what is said of it."""

    split: corpus.Split
    data_folder: str
    samples: int
    metrics: tuple[Metric, ...]
    merge_sources: bool
    language: str
    tokenizer: Tokenizer
    references: tuple[str, ...]
    resamples: int
    calibration: str
    json: str
    by: tuple[str, ...] = ()
    gain: bool = False


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, options: Options) -> int:
    """Prints a table of scores with their signatures, and writes it as JSON where asked."""
    check(options)
    with optional_file(options.json) as file:
        found = evaluate(run_dirs, checkpoint, decoding, options)
        if file:
            write_json(file, found.result)
    print_found(found)  # last: no output device can cost what was computed
    return 0


class Found(NamedTuple):
    """What an evaluation found."""

    result: dict[str, Any]  # as it is written as JSON
    samples: list[str]
    notes: list[str]  # what to know of the scores


def check(options: Options) -> None:
    """Refuses what can be seen to be wrong before anything is read.

    Raises:
        UserError: something is.
    """
    if options.resamples < 0:
        raise UserError(f"--resamples {options.resamples} must be 0 (no confidence intervals) or more, for example 1000")
    for name in options.by:
        if not name or options.by.count(name) > 1:
            raise UserError(f"--by {' '.join(options.by)} must name each column, or {', '.join(NAMES)}, once; got {name!r}")
    if options.calibration and _form(options.calibration) not in ("png", "pdf", "svg"):
        raise UserError(f"--calibration {options.calibration} must be a picture; end its name with .png, .pdf or .svg")


def _form(picture: str) -> str:
    return picture.rpartition(".")[2].lower()


class Calibration(NamedTuple):
    """What was found of tokens and of translations."""

    before: Reliability
    after: Reliability
    correlation: float  # Spearman's, of confidence and sentence chrF
    groups: list[Group]


class Looked(NamedTuple):
    """An evaluation, and what its numbers were found in."""

    found: Found
    opened: Opened
    examples: list[Example]
    translations: list[Translation]  # of each example, without its tokens
    measured: dict[Metric, Measured]
    calibration: Calibration | None


def evaluate(
    run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig | None, options: Options, *, quiet: bool = False, join: bool = True
) -> Found:
    """Translates and scores as `run` does, and prints none of it; what goes on is said unless it is to be quiet; `join` as in `open_runs`."""
    with optional_file(options.calibration) as picture:
        looked = look(run_dirs, checkpoint, decoding, options, quiet=quiet, join=join, calibrates=bool(picture))
        if picture and (drawn := looked.calibration):
            reliability.draw(picture, _form(options.calibration), (drawn.before, drawn.after), drawn.groups)
            if parallel.process()[0] == 0 and options.split != "valid":  # on which it was fitted
                states = answering.identify(looked.opened, run_dirs)["states_sha256"]
                keep_calibration(looked.opened.folder, states, drawn.after.temperature)
    return looked.found


def look(
    run_dirs: Sequence[str],
    checkpoint: str,
    decoding: DecodingConfig | None,
    options: Options,
    *,
    quiet: bool = False,
    join: bool = True,
    calibrates: bool = False,
) -> Looked:
    """What `evaluate` does, with all that its numbers were found in; `calibrates` is whether a temperature is fitted, too."""
    # What is asked for is read first, since a mistake in it is soon said, and models are loaded for seconds.
    configured = choose(read_config(make_path(run_dirs[0])), options)
    _check_seeds(run_dirs, configured, options)
    chosen, examples = load_examples(configured, options)
    if "features" in options.by and not configured.data.features:
        raise breakdown.PartsError("--by features is for runs that were trained with data.features; name a column, length, or seen")
    split = {
        name: breakdown.split_by(name, configured, chosen, examples, options.split, options.data_folder)
        for name in options.by
        if name != "length"
    }
    fitting = load_split(configured, "valid", options.data_folder) if calibrates else chosen
    opened = open_runs(run_dirs, checkpoint, decoding, join=join)
    opened = opened._replace(config=choose(opened.config, options))
    out = make_console(stderr=True, speaks=False) if quiet else console()
    looked = _evaluate(opened, run_dirs, chosen, examples, options, split, out)
    if calibrates:
        with out.status("calibrating"):
            calibration = _calibrate(opened, fitting.pairs, chosen.pairs, examples, looked.translations)
        looked.found.result["calibration"] = _describe(calibration)
        looked = looked._replace(calibration=calibration)
    return looked


def choose(config: Config, options: Options) -> Config:
    """The configuration with the metrics that the options ask for; see `choose_metrics`."""
    return choose_metrics(config, options.metrics, options.merge_sources, options.language, options.tokenizer)


def _check_seeds(run_dirs: Sequence[str], config: Config, options: Options) -> None:
    """Refuses runs that were trained on pairs which the first one holds out."""
    seeds = [str(read_config(make_path(run_dir)).seed) for run_dir in run_dirs]
    if options.split == "valid" and not config.data.valid and not options.data_folder and len(set(seeds)) > 1:
        raise UserError(
            f"runs with the seeds {', '.join(seeds)} hold out other pairs for validation, and each was trained on those of the others; "
            "evaluate them on another --split or --data-folder, or each alone"
        )


def _evaluate(
    opened: Opened,
    run_dirs: Sequence[str],
    chosen: corpus.Corpus,
    examples: Sequence[Example],
    options: Options,
    split: dict[str, Parts],
    out: Console,
) -> Looked:
    config = opened.config
    runs = ", ".join(f"step {step} of {run_dir}" for step, run_dir in zip(opened.steps, run_dirs, strict=True))
    merged = f" with {len(examples):,} sources" if config.evaluation.merge_sources else ""
    left_out = f", left out: {chosen.blank:,} blank" if chosen.blank else ""
    out.print(f"{runs}: {len(chosen.pairs):,} pairs of {chosen.name}{left_out}{merged}, beam {config.decoding.beam_size}")
    translator = make_translator(opened)
    with out.status("translating"):
        found = translate_together(translator, opened.params, [one.request for one in examples])
    texts = [translation.text for translation in found]
    with out.status("scoring"):
        measured = measure_all(examples, texts, config.evaluation, config.data.target)
        scores = {name: one.score(options.resamples) for name, one in measured.items()}
        found_by = {}
        for name in options.by:
            of_name = split[name] if name in split else by_length(breakdown.count_tokens(opened, examples))
            found_by[name] = breakdown.score(of_name, measured, options.resamples)
    families, cuts = family_scores(examples, texts), count_cuts(found)
    result: dict[str, Any] = {
        "split": options.split,
        "pairs": len(chosen.pairs),
        "sources": len(examples),
        "beam_size": config.decoding.beam_size,
        "checkpoint": opened.steps[0],
        "metrics": {name: value._asdict() for name, value in scores.items()},
        "families": {name: value.score for name, value in families.items()},
        **cuts,
    }
    if mean_edits := {name: measured[name].statistics[:, 0].sum() / len(examples) for name in _EDITS if name in measured}:
        result["mean_edits"] = mean_edits
    if by_feature := by_features(examples):
        right = measure_examples("exact_match", examples, texts, config.evaluation, config.data.target)
        result["features"] = {name: {"exact_match": right.of(members), "sources": len(members)} for name, members in by_feature.items()}
    if found_by:
        result["by"] = found_by
    if options.gain:
        form = config.vocab.unicode_form  # references are composed where that is one, see `make_examples`
        copied = measure_all(
            examples,
            [one.source if form == "given" else in_form(one.source, "NFC") for one in examples],
            config.evaluation,
            config.data.target,
        )
        result["gain"] = {name: breakdown.measure_gain(name, copied[name], measured[name], options.resamples) for name in measured}
    samples = [show(examples[i], texts[i]) for i in spread(len(found), options.samples)]
    said = Found(result, samples, explain_cuts(cuts, len(found), config.decoding))
    return Looked(said, opened, list(examples), found, measured, None)


def _calibrate(
    opened: Opened, fitting: Sequence[Pair], pairs: Sequence[Pair], examples: Sequence[Example], found: Sequence[Translation]
) -> Calibration:
    forecaster = Forecaster(opened.models, opened.vocabularies, opened.config.decoding, opened.devices)
    before, after = calibrate(forecaster, opened.params, fitting, pairs)
    said = [i for i, translation in enumerate(found) if translation.tokens]
    texts, translated = [found[i].text for i in said], [examples[i] for i in said]
    config, target = opened.config.evaluation, opened.config.data.target
    metrics: tuple[Metric, ...] = ("chrf", "exact_match") if "exact_match" in config.metrics else ("chrf",)
    measured = {str(name): measure_examples(name, translated, texts, config, target) for name in metrics}
    quality = {name: one.each()[: len(said)] for name, one in measured.items()}
    confidence = np.array([found[i].confidence for i in said])
    return Calibration(before, after, spearman(confidence, quality["chrf"]), group_by_confidence(confidence, quality))


def _describe(calibration: Calibration) -> dict[str, Any]:
    curves = {
        name: {**curve._asdict(), "bins": [one._asdict() for one in curve.bins]}
        for name, curve in (("before", calibration.before), ("after", calibration.after))
    }
    sentences = {"spearman_chrf": calibration.correlation, "groups": [one._asdict() for one in calibration.groups]}
    return {"fitted_on": "valid", "temperature": calibration.after.temperature, **curves, "sentences": sentences}


def print_found(found: Found) -> None:
    """Samples on stderr, tables and notes on stdout."""
    for sample in found.samples:
        console().print(sample)
    result, out = found.result, make_console(stderr=False)
    table = Table("metric", "score", "signature", box=None)
    for name, value in result["metrics"].items():
        interval = f" ± {value['ci']:.2f}" if "|bs:" in value["signature"] else ""
        table.add_row(name, f"{value['score']:.2f}{interval}", value["signature"])
    for name, value in result["families"].items():
        table.add_row(f"  {name}", f"{value:.2f}", "exact match of the family")
    for name, value in result.get("mean_edits", {}).items():
        table.add_row(f"  {name}", f"{value:.2f}", "edits a line")
    for name, value in result.get("gain", {}).items():
        chance = f", p = {value['p_value']:.3f}" if "p_value" in value else ""
        table.add_row(f"  {name}", f"{value['gain']:+.2f}", f"gain over the source as it is, {value['source']:.2f}{chance}")
    out.print(table)
    if "features" in result and "features" not in result.get("by", {}):
        _print_features(out, result["features"])
    for name, found_by in result.get("by", {}).items():
        breakdown.show(out, name, found_by)
    for note in found.notes:
        out.print(note)
    if "calibration" in result:
        _print_calibration(out, result["calibration"])


def _print_features(out: Console, features: dict[str, Any]) -> None:
    """Those that most sources have."""
    table = Table("feature", "sources", "exact match", box=None)
    for name, found in list(features.items())[: breakdown.SHOWN]:
        table.add_row(name, f"{found['sources']:,}", f"{found['exact_match']:.2f}")
    more = len(features) - breakdown.SHOWN
    out.print(table)
    if more > 0:
        out.print(f"and {more:,} rarer features, which --json has")


def _print_calibration(out: Console, calibration: dict[str, Any]) -> None:
    """Two tables: of tokens, and of translations."""
    tokens = Table("temperature", "ECE", "accuracy", "mean probability", "nats per token", box=None)
    for curve in (calibration["before"], calibration["after"]):
        tokens.add_row(*(f"{curve[name]:.4f}" for name in ("temperature", "ece", "accuracy", "confidence", "nll")))
    groups = calibration["sentences"]["groups"]
    names = list(groups[0]["quality"]) if groups else []
    sentences = Table("confidence", "translations", *names, box=None)
    for one in groups:
        qualities = (f"{one['quality'][name]:.2f}" for name in names)
        sentences.add_row(f"{one['low']:.3f} to {one['high']:.3f}", f"{one['sentences']:,}", *qualities)
    out.print(f"calibration on {calibration['before']['tokens']:,} reference tokens; the temperature was fitted on the validation split")
    out.print(tokens)
    out.print(f"translations by confidence; rank correlation with sentence chrF {calibration['sentences']['spearman_chrf']:.3f} (Spearman)")
    out.print(sentences)


def load_examples(config: Config, options: Options) -> tuple[corpus.Corpus, list[Example]]:
    """The split, and what of it is translated and compared with what.

    Raises:
        UserError: there is no such split, or a file of references does not belong to it.
    """
    chosen = load_split(config, options.split, options.data_folder)
    others = [
        read_targets(name, chosen.pairs, config.data) if ending(name) in ("tsv", "csv") else [[line] for line in read_lines(name)]
        for name in options.references
    ]
    for name, lines in zip(options.references, others, strict=True):
        if len(lines) != len(chosen.pairs):
            left_out = f" (pairs with a blank side, {chosen.blank} here, are left out)" if chosen.blank else ""
            raise UserError(
                f"{name} has {len(lines)} lines; a file of references has a line for each of the {len(chosen.pairs)} pairs of {chosen.name}{left_out}"
            )
    return chosen, make_examples(chosen.pairs, config.evaluation.merge_sources, chosen.families, others, config.vocab.unicode_form)


def read_targets(name: str, pairs: Sequence[Pair], data: DataConfig) -> list[list[str]]:
    """Of each pair the targets that a file of columns, which stand as in the run's own data, has for its source and features."""
    found: dict[tuple[str, str], list[str]] = {}
    lines, files = read_lines(name), Files()
    sides = layouts.find_sides(data, files)
    layout = layouts.find(files, sides, name, lines[: layouts.FIRST_LINES], pairs=True)
    target, columns = layout.target or 0, 2 + len(layout.more) + len(layout.features)
    last = max(layout.source, target, *layout.more, *layout.features)
    for number, line in enumerate(lines, 1):
        if (number == 1 and layout.header) or not line.strip():
            continue
        try:
            cells = rows.split(line, "csv" if layout.form == "csv" else "tsv")
        except ValueError as error:
            raise UserError(f"{name} line {number}: {error}") from None
        if len(cells) <= last or (len(cells) != columns and not sides.table):
            features = f", features in {'+'.join(map(str, layout.features))}" if layout.features else ""
            raise UserError(
                f"{name} line {number} has {len(cells)} columns; references stand where the run's data have them, here a source in column "
                f"{layout.source} and a right target in column {target}, from 0{features}, and are {columns} columns where the run was trained on none"
            )
        key = tuple(" ".join(cells[column] for column in side) for side in ((layout.source, *layout.more), layout.features))
        found.setdefault((key[0], key[1]), []).append(cells[target])
    if not any((pair.source, pair.features) in found for pair in pairs):
        raise UserError(f"{name} has no source of the split; give the file that belongs to it")
    return [found.get((pair.source, pair.features), []) for pair in pairs]
