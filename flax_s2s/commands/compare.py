"""`compare RUN_A RUN_B`: translates a split with both, and says where they differ and whether chance explains it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from flax_s2s.commands.wiring import choose_metrics, console, load_split, make_translator, open_runs, optional_file, write_json
from flax_s2s.config import Config, DecodingConfig, EvaluationConfig, Metric, Tokenizer, UnicodeForm, UserError
from flax_s2s.data import corpus
from flax_s2s.data.vocab import in_form
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.translate import Translation
from flax_s2s.evaluation.compare import bucket_frequencies, bucket_lengths, count_words, most_different, pair
from flax_s2s.evaluation.evaluate import Example, count_cuts, explain_cuts, make_examples, measure_examples, translate_together
from flax_s2s.evaluation.metrics import Measured, find_split
from flax_s2s.runs.rundir import make_path, read_config
from flax_s2s.runtime.runlog import make_console


class Options(NamedTuple):
    """What is compared, and how much is said of it."""

    split: corpus.Split
    data_folder: str
    samples: int
    metrics: tuple[Metric, ...]
    merge_sources: bool
    language: str
    tokenizer: Tokenizer
    resamples: int
    json: str


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, options: Options) -> int:
    """Prints tables, and writes the same as JSON where asked."""
    if len(run_dirs) != 2:
        raise UserError(f"compare needs two run directories, got {len(run_dirs)}; for example: compare runs/before runs/after")
    if options.resamples < 1:
        raise UserError(f"--resamples {options.resamples} must be at least 1, for example 1000")
    with optional_file(options.json) as file:
        configs = [
            choose_metrics(read_config(make_path(run_dir)), options.metrics, options.merge_sources, options.language, options.tokenizer)
            for run_dir in run_dirs
        ]
        chosen = _load(run_dirs, configs, options)
        examples = make_examples(chosen.pairs, configs[0].evaluation.merge_sources, form=_find_form(configs))
        requests, translations, steps = [one.request for one in examples], [], []
        for number, run_dir in enumerate(run_dirs):  # one after the other: their vocabularies may differ, and memory holds one
            step, found = _translate(run_dir, checkpoint, decoding, requests, join=number == 0)
            console().print(
                f"{'AB'[number]}: step {step} of {run_dir}, {len(examples):,} sources of {chosen.name}, beam {decoding.beam_size}"
            )
            translations.append(found)
            steps.append(step)
        with console().status("comparing"):
            texts = [[in_form(one.text, _find_form(configs)) for one in found] for found in translations]
            result = _compare(configs[0], examples, texts, options, _find_form(configs))
        cuts = [count_cuts(found) for found in translations]
        result = {
            "runs": list(run_dirs),
            "checkpoints": steps,
            "split": options.split,
            "pairs": len(chosen.pairs),
            **{name: [one[name] for one in cuts] for name in cuts[0]},
            **result,
        }
        if file:
            write_json(file, result)
    print_comparison(result)  # last: no output device can cost what was computed
    for system, one in zip("AB", cuts, strict=True):
        for line in explain_cuts(one, len(examples), decoding):
            make_console(stderr=False).print(f"{system}: {line}")
    return 0


def _load(run_dirs: Sequence[str], configs: Sequence[Config], options: Options) -> corpus.Corpus:
    """The split, which must be the same of both runs."""
    for name in ("source", "target"):
        sides = [getattr(config.data, name) for config in configs]
        if sides[0] != sides[1]:
            raise UserError(
                f"{run_dirs[0]} has data.{name}={sides[0]!r} and {run_dirs[1]} {sides[1]!r}; runs are compared that translate the same"
            )
    first, second = (load_split(config, options.split, options.data_folder) for config in configs)
    if first.pairs != second.pairs and [pair[:2] for pair in first.pairs] == [pair[:2] for pair in second.pairs]:
        raise UserError(
            f"{run_dirs[0]} has data.features={configs[0].data.features!r} and {run_dirs[1]} {configs[1].data.features!r}: the same pairs with other "
            "features; runs are compared that are asked the same, and others by what `evaluate` says of each"
        )
    if first.pairs != second.pairs:
        raise UserError(
            f"{first.name} ({len(first.pairs)} pairs) of {run_dirs[0]} is not {second.name} ({len(second.pairs)} pairs) of {run_dirs[1]}; "
            "runs are compared on one corpus: name its folder with --data-folder, or another --split"
        )
    return first


def _find_form(configs: Sequence[Config]) -> UnicodeForm:
    """The form that references and translations are compared in: composed where a run's translations are."""
    return "NFC" if any(config.vocab.unicode_form != "given" for config in configs) else "given"


def _translate(
    run_dir: str, checkpoint: str, decoding: DecodingConfig, requests: Sequence[Request], join: bool
) -> tuple[int, list[Translation]]:
    opened = open_runs([run_dir], checkpoint, decoding, join=join)
    with console().status(f"translating with {run_dir}"):
        found = translate_together(make_translator(opened), opened.params, requests)
    return opened.steps[0], found


def _compare(
    config: Config, examples: Sequence[Example], texts: Sequence[Sequence[str]], options: Options, form: UnicodeForm
) -> dict[str, Any]:
    evaluation, data = config.evaluation, config.data
    names: dict[Metric, None] = dict.fromkeys((*evaluation.metrics, "chrf"))
    systems: list[dict[str, Measured]] = [
        {name: measure_examples(name, examples, found, evaluation, data.target) for name in names} for found in texts
    ]
    first, second = systems
    source_words, split_source = find_split(EvaluationConfig(), data.source)
    target_words, split = find_split(evaluation, data.target)
    words = [[split(line) for line in lines] for lines in ([one.references[0] for one in examples], *texts)]
    wanted = {word for lines in words for line in lines for word in line}
    if options.data_folder:
        data = dataclasses.replace(data, folder=options.data_folder)
    frequency = count_words((in_form(one.target, form) for one in corpus.Reader(data, "train", config.seed)), split, wanted)
    chrf = [one["chrf"].each() for one in systems]
    better = most_different(chrf[0], chrf[1], options.samples)

    def describe(chosen: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {
                "source": examples[i].source,
                **({"features": examples[i].features} if examples[i].features else {}),
                "references": examples[i].references,
                "family": examples[i].family,
                "first": texts[0][i],
                "second": texts[1][i],
                "first_chrf": float(chrf[0][i]),
                "second_chrf": float(chrf[1][i]),
            }
            for i in chosen
        ]

    return {
        "words": {"source": source_words, "target": target_words},
        "metrics": {name: pair(first[name], second[name], options.resamples)._asdict() for name in evaluation.metrics},
        "lengths": [one._asdict() for one in bucket_lengths([len(split_source(one.source)) for one in examples], first, second)],
        "frequencies": [one._asdict() for one in bucket_frequencies(words[0], words[1], words[2], frequency)],
        "second_better": describe(better[0]),
        "first_better": describe(better[1]),
    }


def print_comparison(result: dict[str, Any]) -> None:
    """Tables and sentences on stdout; A is the first run, B the second."""
    out = make_console(stderr=False)
    table = Table("metric", "A", "B", "B - A", "p-value", "signature", box=None)
    for name, one in result["metrics"].items():
        sides = [f"{one[side]:.2f} ± {one[f'{side}_ci']:.2f}" for side in ("first", "second")]
        table.add_row(name, *sides, f"{one['difference']:+.2f}", f"{one['p_value']:.4f}", one["signature"])
    out.print(table)
    names = list(result["lengths"][0]["first"]) if result["lengths"] else []
    lengths = Table(
        f"source words ({result['words']['source']})", "sentences", *(f"{name} {side}" for name in names for side in "AB"), box=None
    )
    for one in result["lengths"]:
        row = [f"{one[side][name]:.2f}" for name in names for side in ("first", "second")]
        lengths.add_row(_span(one["low"], one["high"]), f"{one['sentences']:,}", *row)
    out.print(lengths)
    words = Table("times in train", f"words of references ({result['words']['target']})", "f-measure A", "f-measure B", box=None)
    for one in result["frequencies"]:
        words.add_row(_span(one["low"], one["high"]), f"{one['words']:,}", f"{one['first']:.2f}", f"{one['second']:.2f}")
    out.print(words)
    for title, key in (("B is better by most", "second_better"), ("A is better by most", "first_better")):
        if result[key]:
            out.print(f"{title}, by sentence chrF")
        for one in result[key]:
            _print_sentence(out, one)


def _span(low: int, high: int | None) -> str:
    return f"{low} or more" if high is None else f"{low} to {high}" if high > low else str(low)


def _print_sentence(out: Console, one: dict[str, Any]) -> None:
    out.print(f"  source     {one['source']}")
    out.print(f"  reference  {' | '.join(one['references'])}")
    out.print(f"  A {one['first_chrf']:8.2f} {one['first']}")
    out.print(f"  B {one['second_chrf']:8.2f} {one['second']}\n")
