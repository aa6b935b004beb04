"""Several runs, each evaluated by itself on its own split, such as a run a language: a row for each, and the mean (macro-average)."""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table

from flax_s2s.commands import evaluate
from flax_s2s.commands.evaluate import Options
from flax_s2s.commands.wiring import console, optional_file, write_json
from flax_s2s.config import DecodingConfig, UserError
from flax_s2s.runs.rundir import make_path, read_config
from flax_s2s.runtime.runlog import make_console


class Asked(NamedTuple):
    """A run, and how it is evaluated: as it is configured where no option says otherwise."""

    run_dir: str
    checkpoint: str
    decoding: DecodingConfig
    options: Options


def run(asked: Sequence[Asked]) -> int:
    """Prints a table of scores, a row a run, and writes them as JSON where asked.

    Raises:
        UserError: what `evaluate` raises; or the runs are to be scored by different metrics, or something is asked for that is of one run.
    """
    options = asked[0].options
    evaluate.check(options)
    of_one = {
        "--calibration": options.calibration,
        "--references": " ".join(options.references),
        "--by": " ".join(options.by),
        "--gain": "true" if options.gain else "",
    }
    for name, value in of_one.items():
        if value:
            raise UserError(f"{name} {value} is of one run, and --macro evaluates each by itself; leave one of them out")
    paths = [one.run_dir if "://" in one.run_dir else os.path.realpath(one.run_dir) for one in asked]
    for one, path in zip(asked, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{one.run_dir} is given twice, and would count twice in a macro-average; give it once")
    configs = [evaluate.choose(read_config(make_path(one.run_dir)), one.options) for one in asked]
    measured = [config.evaluation.metrics for config in configs]
    if other := next((place for place, metrics in enumerate(measured) if set(metrics) != set(measured[0])), 0):
        raise UserError(
            f"{asked[0].run_dir} is measured by {', '.join(measured[0])}, and {asked[other].run_dir} by {', '.join(measured[other])}; say by "
            "which: --metrics"
        )
    data = {frozenset(evaluate.load_examples(config, options)[0].pairs) for config in configs}
    apart, found = len(data) == len(configs), {}
    with optional_file(options.json) as file:
        for number, one in enumerate(asked):  # one after the other: memory holds one
            found[one.run_dir] = evaluate.evaluate([one.run_dir], one.checkpoint, one.decoding, one.options, join=number == 0)
        result = average({run_dir: each.result for run_dir, each in found.items()}, apart)
        if file:
            write_json(file, {"split": options.split, **result})
    for sample in (sample for each in found.values() for sample in each.samples):
        console().print(sample)
    _print(result)
    for run_dir, note in ((run_dir, note) for run_dir, each in found.items() for note in each.notes):
        make_console(stderr=False).print(f"{run_dir}: {note}")
    return 0


def average(runs: dict[str, dict[str, Any]], apart: bool) -> dict[str, Any]:
    """The results of several runs, and of each metric the mean: what `evaluate` writes of each, under `runs` and `macro`.

    Args:
        runs: their results.
        apart: whether each has data of its own, so that the confidence interval of the mean follows from theirs; else the mean has none.
    """
    every = [one["metrics"] for one in runs.values()]
    macro = {}
    for name in every[0]:
        scores, widths = ([one[name][part] for one in every] for part in ("score", "ci"))
        signatures = {one[name]["signature"] for one in every}
        macro[name] = {
            "score": math.fsum(scores) / len(scores),
            "signature": f"macro:{len(scores)}|{signatures.pop() if len(signatures) == 1 else 'various'}",
            "ci": math.hypot(*widths) / len(widths) if apart else None,
        }
    return {"macro": macro, "runs": runs}


def _print(result: dict[str, Any]) -> None:
    names = list(result["macro"])
    table = Table("run", "pairs", *names, box=None)
    for run_dir, one in result["runs"].items():
        table.add_row(run_dir, f"{one['pairs']:,}", *(_show(one["metrics"][name]) for name in names))
    table.add_row("mean", "", *(_show(result["macro"][name]) for name in names))
    out = make_console(stderr=False)
    out.print(table)
    for name in names:
        out.print(f"{name}: {result['macro'][name]['signature']}")


def _show(score: dict[str, Any]) -> str:
    return f"{score['score']:.2f}" + (f" ± {score['ci']:.2f}" if score["ci"] else "")
