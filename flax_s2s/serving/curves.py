"""The curves of a run: what it measured, step by step.

Enters: the bytes of a `metrics.jsonl`, which may be written to at this moment, or spoilt. Leaves: columns of numbers.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Columns: TypeAlias = dict[str, list[float | None]]
"""Numbers by name, of the steps in `step`; None where one was not finite, or not measured."""

MOST_ROWS = 1000
"""Rows that a page keeps of a split; what is left out lies between larger and smaller numbers that are kept."""
_KEPT = ("loss", "gradient_norm")  # their extremes are


class Curves(NamedTuple):
    """What a run measured."""

    train: Columns
    valid: Columns
    saved: list[int]  # steps of checkpoints
    spoilt: int  # lines that cannot be read


def read(content: bytes) -> Curves:
    """Reads the lines of a `metrics.jsonl`; of equal steps the later holds, and a last line without its end is still being written."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    spoilt = 0
    for line in content.split(b"\n")[:-1]:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            rows.setdefault(record["split"], {})[int(record["step"])] = record
        except (ValueError, KeyError, TypeError, OverflowError):
            spoilt += 1
    train, valid = (_columns(rows.get(split, {})) for split in ("train", "valid"))
    return Curves(train, valid, sorted(rows.get("checkpoint", {})), spoilt)


def _columns(rows: Mapping[int, Mapping[str, Any]]) -> Columns:
    steps = sorted(rows)
    names = dict.fromkeys(name for step in steps for name in rows[step] if name not in ("split", "step"))
    found: Columns = {"step": [float(step) for step in steps]}
    for name in names:
        values = [rows[step].get(name) for step in steps]
        if all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values):
            found[name] = [None if value is None or not math.isfinite(value) else float(f"{value:.7g}") for value in values]
    return found


def thin(columns: Columns, most: int = MOST_ROWS) -> Columns:
    """At most so many rows: of each of equal parts the rows with the largest and the smallest loss and gradient norm; and first and last.

    Args:
        columns: of a split.
        most: at least 8.
    """
    count = len(columns["step"])
    if count <= most:
        return columns
    kept, parts = {0, count - 1}, (most - 2) // 4
    for part in range(parts):
        rows = range(part * count // parts, (part + 1) * count // parts)
        for name in _KEPT:
            known = [(value, row) for row in rows if (value := columns.get(name, [None] * count)[row]) is not None]
            kept |= {min(known)[1], max(known)[1]} if known else {rows[0]}
    chosen = sorted(kept)
    return {name: [values[row] for row in chosen] for name, values in columns.items()}


def last(columns: Columns, name: str) -> float | None:
    """The newest number of a column that is known."""
    return next((value for value in reversed(columns.get(name, [])) if value is not None), None)


class Band(NamedTuple):
    """Several curves as one, at the steps that all of them have."""

    steps: list[float]
    low: list[float | None]
    mean: list[float | None]
    high: list[float | None]


def band(curves: Sequence[Columns], name: str) -> Band:
    """The least, the mean and the greatest of a column; None at a step where one of them is not known."""
    of_each = [{step: value for step, value in zip(one["step"], one.get(name, []), strict=False) if step is not None} for one in curves]
    steps = sorted(set.intersection(*map(set, of_each)))
    steps = steps[:: -(-len(steps) // MOST_ROWS) or 1]
    rows = [[value for one in of_each if (value := one[step]) is not None] for step in steps]
    known = [row if len(row) == len(curves) else [] for row in rows]
    return Band(
        steps,
        [min(row) if row else None for row in known],
        [sum(row) / len(row) if row else None for row in known],
        [max(row) if row else None for row in known],
    )
