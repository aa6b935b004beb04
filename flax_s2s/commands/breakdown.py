"""What `evaluate --by` and `--gain` say: scores of parts of a split, and how much better than its sources a translation is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from flax_s2s.commands.wiring import Opened, load_split
from flax_s2s.config import FORMATS, Config, Metric, UserError, nearest
from flax_s2s.data import corpus, rows
from flax_s2s.evaluation import breakdown, compare
from flax_s2s.evaluation.evaluate import Example
from flax_s2s.evaluation.metrics import Measured
from flax_s2s.runtime.runlog import gain

SHOWN = 20
"""Parts that are printed of those that a split has."""


class PartsError(UserError):
    """What `--by` names is not there."""


def _read_column(name: str, config: Config, chosen: corpus.Corpus, split: corpus.Split, folder: str) -> list[str]:
    """What a column of the split, which is neither source nor target, holds beside each pair.

    Raises:
        PartsError: there is none of that name.
    """
    data = config.data
    if FORMATS[data.format] == "generated":
        raise PartsError(f"--by {name} names no column, which data.format={data.format} has none of; use {', '.join(breakdown.NAMES)}")
    if name in (data.target, data.source, *rows.parts(data.source)):
        raise PartsError(f"--by {name} is the source or the target; name a column beside them, or {', '.join(breakdown.NAMES)}")
    beside = dataclasses.replace(config, data=dataclasses.replace(data, features=name))
    try:
        found = load_split(beside, split, folder).pairs
    except UserError as error:
        raise PartsError(
            f"--by {name}, neither {', '.join(breakdown.NAMES)} nor a column of text{nearest(name, breakdown.NAMES)}: {error}"
        ) from None
    if [pair[:2] for pair in found] != [pair[:2] for pair in chosen.pairs]:
        raise UserError(f"--by {name}: {chosen.name} has changed while it was read; run it again")
    return [pair.features for pair in found]


def split_by(
    name: str, config: Config, chosen: corpus.Corpus, examples: Sequence[Example], split: corpus.Split, folder: str
) -> breakdown.Parts:
    """The parts of the examples by features, by what training has seen, or by a column of the pairs."""
    if name == "features":
        return breakdown.by_features(examples)
    if name == "seen":
        data = dataclasses.replace(config.data, folder=folder) if folder else config.data
        return breakdown.by_seen(examples, corpus.Reader(data, "train", config.seed), config.vocab.unicode_form)
    column = _read_column(name, config, chosen, split, folder)
    if not config.evaluation.merge_sources:
        return breakdown.by_values([[value] for value in column])
    values: dict[tuple[str, str], list[str]] = {}
    for pair, value in zip(chosen.pairs, column, strict=True):
        values.setdefault((pair.source, pair.features), []).append(value)
    return breakdown.by_values([values[one.source, one.features] for one in examples])


def count_tokens(opened: Opened, examples: Sequence[Example]) -> list[int]:
    """Of each source, without its features."""
    sources = [one.source for one in examples]
    return [len(ids) for ids in opened.vocabularies.encode_sources(sources, [""] * len(sources))]


def score(of_name: breakdown.Parts, measured: Mapping[Metric, Measured], resamples: int) -> dict[str, Any]:
    """The scores of each part, with intervals for those that are printed."""

    def metrics(members: Sequence[int], drawn: int) -> dict[str, Any]:
        return {name: one.part(members).score(drawn)._asdict() for name, one in measured.items()}

    return {
        part: {"sources": len(members), "metrics": metrics(members, resamples if number < SHOWN else 0)}
        for number, (part, members) in enumerate(of_name.items())
    }


def measure_gain(name: Metric, copied: Measured, measured: Measured, resamples: int) -> dict[str, float]:
    """What the sources as they are would score, and how much better the translations are."""
    before, after = copied.score().score, measured.score().score
    found = {"source": before, "gain": gain(name, after) - gain(name, before)}
    return found | ({"p_value": compare.pair(copied, measured, resamples).p_value} if resamples else {})


def show(out: Console, name: str, found_by: dict[str, Any]) -> None:
    """A row for each part, of which a column may have many."""
    names = list(next(iter(found_by.values()))["metrics"]) if found_by else []
    table = Table(f"by {name}", "sources", *names, box=None)
    for part, found in list(found_by.items())[:SHOWN]:
        scores = (found["metrics"][one] for one in names)
        shown = (f"{one['score']:.2f}" + (f" ± {one['ci']:.2f}" if "|bs:" in one["signature"] else "") for one in scores)
        table.add_row(part or "(none)", f"{found['sources']:,}", *shown)
    more = len(found_by) - SHOWN
    out.print(table)
    if more > 0:
        out.print(f"and {more:,} rarer ones, which --json has")
