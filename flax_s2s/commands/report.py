"""`report RUN_DIR...`: one page on what runs were trained on, how it went, and how well they translate.

It only reads: a run may be training meanwhile. What cannot be read is said on the page, and the rest is there.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from flax_s2s import __version__
from flax_s2s.commands import specimens
from flax_s2s.commands.inspect import hold_out
from flax_s2s.commands.specimens import Options as Options
from flax_s2s.commands.wiring import console
from flax_s2s.config import Config, DataConfig, UserError, differences, flatten
from flax_s2s.data import account, corpus
from flax_s2s.runs import rundir
from flax_s2s.runs.inventory import Inventory
from flax_s2s.runtime import parallel
from flax_s2s.runtime.runlog import make_console
from flax_s2s.serving import curves, report
from flax_s2s.serving.curves import Curves

_SENTENCES_SHOWN, _NORMS_SHOWN = 4, 4  # that are shown of a bad update


class Run(NamedTuple):
    """A run, as it is read."""

    name: str  # on the page
    folder: str
    config: Config
    curves: Curves


def run(run_dirs: Sequence[str], output: str, options: Options) -> int:
    """Writes the page, and says where; of several processes the first does.

    Raises:
        UserError: one of them is no run, an option is no good, or the page cannot be written.
    """
    _check(run_dirs, options)
    first = parallel.process()[0] == 0
    with rundir.writing(output) if first else contextlib.nullcontext() as file:
        page = report.make_page(describe(run_dirs, options))
        if file:
            file.write(page)
    if first:
        make_console(stderr=False).print(f"{output}: {len(page):,} bytes; it opens in any browser, offline")
    return 0


def _check(run_dirs: Sequence[str], options: Options) -> None:
    for name, value, example in (("sentences", options.sentences, 200), ("resamples", options.resamples, 1000)):
        if value < 0:
            raise UserError(f"--{name} {value} must be 0 (none) or more, for example {example}")
    paths = [one if "://" in one else os.path.realpath(one) for one in run_dirs]
    for one, path in zip(run_dirs, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{one} is given twice; give each run once")


def describe(run_dirs: Sequence[str], options: Options) -> dict[str, Any]:
    """All that the page shows, as plain data; every process of a job takes part, since they translate together."""
    runs = [_read(name, run_dir) for name, run_dir in zip(_name(run_dirs), run_dirs, strict=True)]
    notes: list[list[str]] = [[] for _ in runs]
    tests = specimens.describe([(one.folder, one.config) for one in runs], options, notes)
    overlaps = _overlaps([one.config for one in runs], options.data_folder)
    described = [_describe_run(one) for one in runs]
    for one, overlap, own, found in zip(runs, overlaps, notes, described, strict=True):
        found |= {"overlap": overlap, "notes": [*_warn(one), *own]}
        for note in found["notes"]:
            console().print(f"{one.name}: {note}")
    return {
        "version": __version__,
        "runs": described,
        "families": [_describe_family(runs, members) for members in _families([one.config for one in runs])],
        "config": _describe_config([one.config for one in runs]),
        "tests": tests,
    }


def _name(run_dirs: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that differ."""
    parts = [[part for part in one.split("/") if part] if "://" in one else epath.Path(os.path.abspath(one)).parts for one in run_dirs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return list(run_dirs)


def _read(name: str, run_dir: str) -> Run:
    folder = rundir.make_path(run_dir)
    config = rundir.read_config(folder)
    try:
        content = (folder / rundir.METRICS).read_bytes()
    except OSError:
        content = b""
    return Run(name, run_dir, config, curves.read(content))


def _warn(run: Run) -> list[str]:
    """What of its curves is missing."""
    notes = []
    if not run.curves.train["step"]:
        notes.append(f"no curves: {rundir.METRICS} has no line of training yet")
    if run.curves.spoilt:
        notes.append(f"{run.curves.spoilt:,} lines of {rundir.METRICS} cannot be read, and are left out")
    return notes


def _families(configs: Sequence[Config]) -> list[list[int]]:
    """Runs that differ in nothing that decides what is learned but the seed."""
    found: list[list[int]] = []
    for number, config in enumerate(configs):
        same = (one for one in found if all(line[:5] == "seed:" for line in differences(configs[one[0]], config, "identity")))
        if (family := next(same, None)) is None:
            found.append([number])
        else:
            family.append(number)
    return found


def _describe_family(runs: Sequence[Run], members: Sequence[int]) -> dict[str, Any]:
    """Which runs, and where there are several the bands of their curves."""
    bands: dict[str, Any] = {}
    if len(members) > 1:
        for split in ("train", "valid"):
            columns = [getattr(runs[number].curves, split) for number in members]
            names = [name for name in columns[0] if name != "step" and all(name in one for one in columns)]
            bands[split] = {name: curves.band(columns, name)._asdict() for name in names}
    return {"runs": list(members), "bands": bands}


def _describe_run(run: Run) -> dict[str, Any]:
    folder, training = rundir.make_path(run.folder), run.config.training
    step = curves.last(run.curves.train, "step") or 0
    return {
        "name": run.name,
        "seed": run.config.seed,
        "step": int(step),
        "steps": training.steps,
        "left_secs": curves.last(run.curves.train, "eta_secs"),
        "best_metric": training.best_metric,
        "facts": rundir.read_summary(folder),
        "origin": run.config.data.origin,
        "train": curves.thin(run.curves.train),
        "valid": curves.thin(run.curves.valid),
        **_describe_checkpoints(folder, training.best_metric),
        "bad": list(_bad_updates(folder)),
    }


def _describe_checkpoints(folder: epath.Path, metric: str) -> dict[str, Any]:
    """The checkpoints that are there now, and what made the newest of them; a run that is training may take one away meanwhile."""
    found: dict[str, Any] = {"checkpoints": [], "versions": {}, "hashes": {}}
    inventory = Inventory(folder / rundir.CHECKPOINTS, metric)
    best = inventory.best(1)
    for step in inventory.steps():
        with contextlib.suppress(UserError):
            manifest = inventory.manifest(step)
            score = None if manifest.score is None else abs(manifest.score)
            found["checkpoints"].append({"step": step, "metric": manifest.metric, "score": score, "best": step in best})
            found["versions"] = manifest.versions
            bound = manifest.bound
            found["hashes"] = {"state": manifest.state_sha256, "corpus": bound.corpus_sha256, "vocabulary": bound.vocab_sha256}
    return found


def _bad_updates(folder: epath.Path) -> Iterator[dict[str, Any]]:
    """The reports on bad updates, the most telling of each; one that is spoilt is said to be."""
    there = folder / rundir.REPORTS
    for file in sorted(there.glob("step-*.json")) if there.is_dir() else ():
        try:
            report_ = json.loads(file.read_bytes())
            norms = sorted(report_["norms"].items(), key=lambda item: (_size(item[1]), item[0]), reverse=True)
            pairs = [pair for batch in report_["batches"] for pair in zip(batch["source"], batch["target"], strict=False)]
            yield {
                **{name: report_[name] for name in ("step", "rollbacks", "why", "loss", "usual_loss", "learning_rate", "gradient_norm")},
                "norms": norms[:_NORMS_SHOWN],
                "pairs": len(pairs),
                "sentences": [[source["text"], target["text"]] for source, target in pairs[:_SENTENCES_SHOWN]],
                "file": file.name,
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            yield {"file": file.name, "why": "this report cannot be read"}


def _size(norm: float | str) -> float:
    """A norm as `commands.recovery` writes it: what is not finite is larger than any other."""
    return math.inf if isinstance(norm, str) else norm


def _overlaps(configs: Sequence[Config], data_folder: str) -> list[list[str]]:
    """Of each run how much of what it is measured on stands in its training pairs; read once where runs have the same."""
    known: dict[tuple[DataConfig, int], list[str]] = {}
    found = []
    for config in configs:
        data = dataclasses.replace(config.data, folder=data_folder) if data_folder else config.data
        own = any(corpus.depends_on_seed(data, split) for split in ("train", "valid", "test"))
        key = (data, config.seed if own else 0)
        if key not in known:
            with console().status("comparing the splits"):
                known[key] = _overlap(dataclasses.replace(config, data=data))
        found.append(known[key])
    return found


def _overlap(config: Config) -> list[str]:
    splits, unread = hold_out(config)
    try:
        return [*account.describe_overlap(corpus.Reader(config.data, "train", config.seed), list(splits.values())), *unread]
    except UserError as error:
        return [f"train cannot be read: {error}"]


def _describe_config(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """A row for each field: its value in each run, and whether it is another than the default."""
    flat, usual = [flatten(config) for config in configs], flatten(Config())
    rows = []
    for name, (value, role) in usual.items():
        values = [one[name][0] for one in flat]
        rows.append({"name": name, "role": role, "values": list(map(_shown, values)), "set": any(one != value for one in values)})
    return rows


def _shown(value: object) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
