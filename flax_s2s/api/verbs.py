"""`train`, `evaluate` and `inspect` as functions.

Enters: a `Config`, run directories, options. Leaves: what was reached or found, as data.
"""

import json
import math
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack, get_args

from flax_s2s.api.calls import Path, Settings, as_messages, find_name, find_names, settle
from flax_s2s.commands import evaluate as evaluating
from flax_s2s.commands import inspect as inspecting
from flax_s2s.commands import train as training
from flax_s2s.commands.inspect import Inspection as Inspection
from flax_s2s.config import Config, Metric, Tokenizer, UserError, from_python
from flax_s2s.data.corpus import Split
from flax_s2s.evaluation.metrics import Score as Score
from flax_s2s.runs.rundir import make_path, read_config
from flax_s2s.runtime import cluster, job
from flax_s2s.training.loop import Outcome


class Reached(NamedTuple):
    """What a training came to."""

    run_dir: str
    step: int
    outcome: Outcome
    metric: str  # training.best_metric
    best: float | None  # its best value so far; None: nothing was evaluated
    validation: dict[str, float]  # what the last evaluation of the validation split measured: loss, perplexity, metrics


class Evaluation(NamedTuple):
    """How well a split was translated."""

    metrics: dict[str, Score]  # percent, signature and half the width of the 95% confidence interval
    families: dict[str, float]  # exact match of each family of phrases, in percent
    samples: list[str]
    notes: list[str]  # what lowered the scores
    result: dict[str, Any]  # all numbers, as `evaluate --json` writes them


def train(config: Config, run_dir: Path, *, init_from: Path = "", progress: bool = False) -> Reached:
    """Trains, or goes on with what is there; the run directory is that of the verb.

    Ctrl-C (and SIGTERM) is heard after the step that is being made: what was trained is saved, then KeyboardInterrupt is raised (SIGTERM
    does what it did before), and the same call goes on from there. A second Ctrl-C does not wait. One training at a time.

    Args:
        config: as presets make it; see `load_preset`.
        run_dir: folder of the run.
        init_from: folder of another run, whose parameters and vocabulary a new run starts from (fine-tuning).
        progress: whether it is said on stderr what goes on; what must be seen is a Python warning where it is not.

    Raises:
        UserError: the configuration, the corpus or the run directory is no good, with what to do.
        Failure: something outside failed, and the same call may go on.
    """
    _refuse_several_processes()
    if not _training.acquire(blocking=False):
        raise UserError("this process is training already, in another thread; wait until that has ended, or use another process")
    try:
        with job.borrow(), as_messages():
            name = find_name(run_dir)
            config = _read(config)
            found = training.train(config, name, init_from=find_name(init_from) if init_from else "", quiet=not progress)
    finally:
        _training.release()
    metric = config.training.best_metric
    return Reached(name, found.step, found.outcome, metric, found.best, _last_validation(name))


_training = threading.Lock()


def evaluate(
    run_dir: Path | Sequence[Path],
    split: Split = "test",
    metrics: Sequence[Metric] = (),
    *,
    checkpoint: str | int = "best",
    data_folder: Path = "",
    samples: int = 0,
    merge_sources: bool = False,
    language: str | None = None,
    tokenizer: Tokenizer | None = None,
    references: Sequence[Path] = (),
    resamples: int = 1000,
    calibration: Path = "",
    by: Sequence[str | int] = (),
    gain: bool = False,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> Evaluation:
    """Translates a split of the corpus and scores it; several runs translate as one.

    Args:
        run_dir: the run directory, or several.
        split: train, valid or test.
        metrics: what is measured; none: as configured.
        checkpoint: best, last, or a step.
        data_folder: folder of the corpus, where it has moved.
        samples: how many translations come next to their references.
        merge_sources: whether pairs with the same source are one sentence with several right targets, as where the run says so.
        language: of the target, where data.target does not say it; None: as configured.
        tokenizer: sacreBLEU's; None: as configured.
        references: files of further references.
        resamples: bootstrap resamples for the confidence intervals; 0: no intervals.
        calibration: picture (.png, .pdf or .svg) of how often the model is right at a given confidence; its numbers are in `result`.
        by: what parts of the split are made by, each with scores of its own in `result`: length, seen, features, or a column.
        gain: whether `result` has what the sources would score as they are.
        progress: whether it is said on stderr what goes on.
        **settings: fields of `DecodingConfig`, where they are to differ from the first run's.

    Raises:
        UserError: there is no such run, checkpoint or split, or a metric is not defined for its target.
    """
    _refuse_several_processes()
    with as_messages():
        run_dirs = find_names(run_dir)
        if split not in get_args(Split):
            raise UserError(f"there is no split {split!r}; splits: {', '.join(get_args(Split))}")
        for name, value in (("metrics", metrics), ("references", references), ("by", by)):
            if isinstance(value, str):
                raise UserError(f"{name} must be a list, such as [{value!r}], got a string")
        measured = read_config(make_path(run_dirs[0])).evaluation
        options = evaluating.Options(
            split,
            os.fspath(data_folder),
            samples,
            tuple(metrics),
            merge_sources,
            measured.language if language is None else language,
            measured.tokenizer if tokenizer is None else tokenizer,
            tuple(os.fspath(one) for one in references),
            resamples,
            os.fspath(calibration),
            json="",
            by=tuple(str(one) for one in by),
            gain=gain,
        )
        evaluating.check(options)
        found = evaluating.evaluate(run_dirs, str(checkpoint), settle(run_dirs, settings), options, quiet=not progress)
        scores = {name: Score(**value) for name, value in found.result["metrics"].items()}
        return Evaluation(scores, found.result["families"], found.samples, found.notes, found.result)


def inspect(what: Config | Path, *, memory: bool = True) -> Inspection:
    """Says what a configuration or a run amounts to, without training it; `str` of the result is what the verb prints.

    Args:
        what: a configuration, or a run directory.
        memory: whether the train step of every shape is compiled, to say the memory it takes.

    Raises:
        UserError: the configuration is no good, or there is no such run.
    """
    _refuse_several_processes()
    with as_messages():
        if isinstance(what, Config):
            return inspecting.inspect(from_python(what), "", memory)
        name = find_name(what, "a configuration or a run directory")
        return inspecting.inspect(read_config(make_path(name)), name, memory)


def _read(config: Any) -> Config:
    if not isinstance(config, Config):
        raise UserError(f"config must be a Config, such as load_preset makes, got {type(config).__name__}")
    return from_python(config)


def _refuse_several_processes() -> None:
    place = cluster.find(os.environ)
    if place.count > 1:
        raise UserError(
            f"Python works in one process, and by its environment this is one of {place.count} ({place.name}); start several with "
            "`flax-s2s train`, which is made for them, or start this program alone"
        )


def _last_validation(run_dir: str) -> dict[str, float]:
    """What was measured last, as the run keeps it."""
    file = make_path(run_dir) / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    last: dict[str, Any] = next((record for record in reversed(records) if record["split"] == "valid"), {})
    return {name: math.nan if value is None else value for name, value in last.items() if name not in ("step", "split")}
