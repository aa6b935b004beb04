"""Several runs, each evaluated by itself on its own split, such as a run a language: a row for each, and the mean (macro-average)."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from flax_s2s.commands import evaluate
from flax_s2s.commands.evaluate import Options
from flax_s2s.commands.wiring import optional_file, write_json
from flax_s2s.config import DecodingConfig, UserError
from flax_s2s.runs.rundir import make_path, read_config
from flax_s2s.runtime.runlog import make_console


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, options: Options) -> int:
    """Prints a table of scores, a row a run, and writes them as JSON where asked; all runs are decoded with the same settings.

    Raises:
        UserError: what `evaluate` raises; or runs are to be scored by different metrics, or calibrated.
    """
    evaluate.check(options)
    if options.calibration:
        raise UserError(
            f"--calibration {options.calibration} is of one model, and --macro evaluates each run by itself; leave one of them out"
        )
    for run_dir in run_dirs:
        if run_dirs.count(run_dir) > 1:
            raise UserError(f"{run_dir} is given twice, and would count twice in a macro-average; give it once")
    measured = [evaluate.choose(read_config(make_path(run_dir)), options).evaluation.metrics for run_dir in run_dirs]
    if other := next((place for place, metrics in enumerate(measured) if set(metrics) != set(measured[0])), 0):
        raise UserError(
            f"{run_dirs[0]} is measured by {', '.join(measured[0])}, and {run_dirs[other]} by {', '.join(measured[other])}; say by which: --metrics"
        )
    with optional_file(options.json) as file:
        found = {run_dir: evaluate.evaluate([run_dir], checkpoint, decoding, options) for run_dir in run_dirs}
        result = average({run_dir: one.result for run_dir, one in found.items()})
        if file:
            write_json(file, {"split": options.split, **result})
    _print(result)
    for run_dir, one in found.items():
        for note in one.notes:
            make_console(stderr=False).print(f"{run_dir}: {note}")
    return 0


def average(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The results of several runs, and of each metric the mean: what `evaluate` writes of each, under `runs` and `macro`.

    Each run has data of its own, so that the confidence interval of their mean follows from theirs.
    """
    every = [one["metrics"] for one in runs.values()]
    macro = {}
    for name in every[0]:
        scores, widths = ([one[name][part] for one in every] for part in ("score", "ci"))
        signatures = {one[name]["signature"] for one in every}
        macro[name] = {
            "score": math.fsum(scores) / len(scores),
            "signature": f"macro:{len(scores)}|{signatures.pop() if len(signatures) == 1 else 'various'}",
            "ci": math.hypot(*widths) / len(widths),
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
    return f"{score['score']:.2f}" + (f" ± {score['ci']:.2f}" if score["ci"] or "|bs:" in score["signature"] else "")
