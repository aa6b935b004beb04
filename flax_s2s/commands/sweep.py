"""`sweep CONFIG`: one configuration with several seeds, on one corpus or several: mean and deviation of its scores, and its ensemble.

Each training is a process of its own and resumes like any other, so that a sweep that was stopped goes on where it was.
"""

import dataclasses
import os
import re
import signal
import statistics
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from rich.table import Table

from flax_s2s.commands import children, evaluate, report
from flax_s2s.commands.wiring import console, keep_buckets, optional_file, write_json
from flax_s2s.config import Config, Failure, UserError, change, differences
from flax_s2s.data import corpus, vocab
from flax_s2s.data.files import refuse_pipe
from flax_s2s.errors import DONE, INTERRUPTED, PREEMPTED, USER_ERROR
from flax_s2s.rules import check
from flax_s2s.runs import rundir
from flax_s2s.runtime.job import STOPPING
from flax_s2s.runtime.runlog import make_console


class Options(NamedTuple):
    """What is trained, and what is said of it."""

    seeds: tuple[int, ...]
    each: tuple[str, ...]
    ensemble: bool
    evaluation: evaluate.Options
    report: bool = False  # of all runs, into the folder


_PLACE = "{each}"


class _Stopped(Exception):  # noqa: N818  # nothing is wrong
    """What was trained is saved; the same command goes on."""


def run(config: Config, run_dir: str, options: Options) -> int:
    """Trains and evaluates; returns 0, or 75 when it was stopped and what was trained is saved.

    Raises:
        UserError: a seed comes twice, the folder holds something else than a sweep of this configuration, or what the trainings
            and the evaluation raise.
        Failure: a training fails.
    """
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        got = " ".join(map(str, options.seeds)) or "nothing"
        raise UserError(f"--seeds must be one or more different numbers, got {got}; give for example 1 2 3")
    for seed in options.seeds:
        check(dataclasses.replace(config, seed=seed))
    for name in options.evaluation.references:
        refuse_pipe(rundir.make_path(name))
    folder, found = rundir.make_path(run_dir), dict[str, dict[str, evaluate.Found]]()
    configs = _of_each(config, options)
    try:
        with optional_file(options.evaluation.json) as file:
            for one in configs.values():  # what is wrong with it is said before the trainings
                evaluate.load_examples(evaluate.choose(check(one), options.evaluation), options.evaluation)
            for name, one in configs.items():
                found[name] = _sweep(check(one), folder / name if name else folder, options)
            swept = {name: _describe(of_name) for name, of_name in found.items()}
            if file:
                write_json(file, {"each": swept, "macro": _average(swept)} if options.each else swept[""])
    except _Stopped:
        return PREEMPTED
    for name, of_name in found.items():  # last: no output device can cost what was computed
        for run_name, of_run in of_name.items():
            console().print(f"{name} {run_name}".strip())
            evaluate.print_found(of_run)
        _print(swept[name], name)
    if options.each:
        _print_each(swept)
    if options.report:
        runs = [os.fspath(folder / name / f"seed-{seed}") for name in configs for seed in options.seeds]
        report.run(runs, os.fspath(folder / rundir.REPORT), report.Options(options.evaluation.split))
    return DONE


def _of_each(config: Config, options: Options) -> dict[str, Config]:
    """The configuration of each corpus, by its name; of the only one by none.

    Raises:
        UserError: a name is no folder's or comes twice, or no field of the data says where the names stand.
    """
    if not options.each:
        return {"": config}
    for name in options.each:
        if not re.fullmatch(r"[\w][\w.-]*", name) or options.each.count(name) > 1:
            raise UserError(f"--each {' '.join(options.each)} must be different names of letters, digits, '.', '_' and '-', got {name!r}")
    if options.evaluation.references:
        raise UserError(
            f"--references {' '.join(options.evaluation.references)} are of one corpus, and --each names several; leave them out"
        )
    fields = {name: value for name, value in vars(config.data).items() if isinstance(value, str) and _PLACE in value}
    if not fields:
        raise UserError(
            f"--each {' '.join(options.each)} puts its names in place of {_PLACE} in fields of the data, and none has it; give for example "
            f"--data.train {_PLACE}.train --data.valid {_PLACE}.valid --data.test {_PLACE}.test"
        )
    return {
        each: dataclasses.replace(
            config, data=change(config.data, {name: value.replace(_PLACE, each) for name, value in fields.items()}, "data")
        )
        for each in options.each
    }


def _sweep(config: Config, folder: epath.Path, options: Options) -> dict[str, evaluate.Found]:
    """What each seed's evaluation found, and that of all together."""
    _prepare(folder, config)
    run_dirs = [folder / f"seed-{seed}" for seed in options.seeds]
    for seed, one in zip(options.seeds, run_dirs, strict=True):
        _train(folder, one, seed)
    results = {f"seed {seed}": _evaluate([one], options) for seed, one in zip(options.seeds, run_dirs, strict=True)}
    if len(run_dirs) == 1:
        return results
    own = corpus.depends_on_seed(config.data, options.evaluation.split)
    if own:
        console().print("each seed is evaluated on other pairs, which it held out or generated: the deviation is that of the pairs too")
    if options.ensemble:
        if own or len({_vocabulary(one, config) for one in run_dirs}) > 1:
            console().print("no ensemble: each seed trains on other pairs")
        else:
            results["ensemble"] = _evaluate(run_dirs, options)
    return results


def _vocabulary(run_dir: epath.Path, config: Config) -> str:
    found = vocab.load(run_dir / rundir.VOCAB, config.vocab.joint, config.model.copy)
    return found.sha256 if found else ""


def _prepare(folder: epath.Path, config: Config) -> None:
    """Writes the configuration; one that is there must be the same in all that decides what is learned, but the seed."""
    if (folder / "config.json").exists():
        if not (folder / rundir.PRESET).exists():
            raise UserError(f"{folder} is a run directory, not the folder of a sweep; give another --run-dir")
        kept = rundir.read_config_file(folder)
        config = keep_buckets(kept, config)
        other = [line for line in differences(kept, config, "identity") if line[:5] != "seed:"]
        if other:
            raise UserError(f"{folder} holds a sweep of another configuration:\n  " + "\n  ".join(other) + "\ngive another --run-dir")
    rundir.make_folder(folder)
    children.write(folder, config)


def _train(folder: epath.Path, run_dir: epath.Path, seed: int) -> None:
    console().print(f"seed {seed}: {run_dir}")
    child = subprocess.Popen(children.make_command(folder, run_dir, "--seed", str(seed)))
    asked = list[int]()

    def pass_on(number: int, _: Any) -> None:
        asked.append(number)
        if number != signal.SIGINT:  # which a terminal sends to the training too
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in STOPPING}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == USER_ERROR:
        raise UserError(f"the training of seed {seed} was refused, see above")
    if code not in (DONE, PREEMPTED):
        raise Failure(f"the training of seed {seed} ended with exit code {code}, see above; the same command goes on")
    if code == DONE and asked:
        console().print("stopped after this training; the same command goes on from here")
    if code == PREEMPTED or asked:
        raise _Stopped


def _evaluate(run_dirs: Sequence[epath.Path], options: Options) -> evaluate.Found:
    return evaluate.evaluate([str(one) for one in run_dirs], "best", None, options.evaluation)


def _describe(found: dict[str, evaluate.Found]) -> dict[str, Any]:
    """What is written of a sweep."""
    results = {name: one.result for name, one in found.items()}
    return {"runs": results, "summary": _summarize(results)}


def _average(swept: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each metric the mean over corpora (macro-average): of the seeds' means, and of the ensembles where all have one."""
    every, macro = list(swept.values()), {}
    for metric in every[0]["summary"]:
        macro[metric] = {"mean": statistics.mean(one["summary"][metric]["mean"] for one in every)}
        if all("ensemble" in one["runs"] for one in every):
            macro[metric]["ensemble"] = statistics.mean(one["runs"]["ensemble"]["metrics"][metric]["score"] for one in every)
    return macro


def _summarize(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each metric the seeds' mean, and of several their deviation (of a sample)."""
    seeds = [result for name, result in results.items() if name != "ensemble"]
    summary = {}
    for metric in seeds[0]["metrics"]:
        scores = [result["metrics"][metric]["score"] for result in seeds]
        summary[metric] = {"mean": statistics.mean(scores), **({"deviation": statistics.stdev(scores)} if len(scores) > 1 else {})}
    return summary


def _print_each(swept: dict[str, dict[str, Any]]) -> None:
    """A row for each corpus, and the mean; ensembles behind a slash."""
    macro = _average(swept)
    table = Table("", *macro, box=None)
    for name, one in swept.items():
        ensemble = one["runs"].get("ensemble")
        cells = []
        for metric in macro:
            seeds = " ± ".join(f"{value:.2f}" for value in one["summary"][metric].values())
            cells.append(seeds + (f" / {ensemble['metrics'][metric]['score']:.2f}" if ensemble else ""))
        table.add_row(name, *cells)
    table.add_row("mean", *(" / ".join(f"{value:.2f}" for value in found.values()) for found in macro.values()))
    make_console(stderr=False).print(table)


def _print(swept: dict[str, Any], name: str) -> None:
    results, summary = swept["runs"], swept["summary"]
    table = Table(name, *summary, box=None)
    for run_name, result in results.items():
        if run_name != "ensemble":
            table.add_row(run_name, *(f"{result['metrics'][metric]['score']:.2f}" for metric in summary))
    table.add_row("mean", *(" ± ".join(f"{value:.2f}" for value in found.values()) for found in summary.values()))
    if "ensemble" in results:
        table.add_row("ensemble", *(f"{results['ensemble']['metrics'][metric]['score']:.2f}" for metric in summary))
    out = make_console(stderr=False)
    out.print(table)
    for metric, value in next(iter(results.values()))["metrics"].items():
        out.print(f"{metric}: {value['signature']}")
