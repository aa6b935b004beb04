"""`evaluate RUN_DIR`: decodes a split and scores it."""

import contextlib
import dataclasses
import json
from typing import Any

from rich.table import Table

from flax_s2s.commands.wiring import console, open_run
from flax_s2s.data import corpus
from flax_s2s.decoding.evaluate import family_scores, show
from flax_s2s.decoding.score import Score, score
from flax_s2s.decoding.translate import Translator
from flax_s2s.rundir import writing
from flax_s2s.runlog import make_console


def run(
    run_dir: str, split: corpus.Split, checkpoint: str, data_folder: str, overrides: dict[str, Any], samples: int, json_file: str
) -> int:
    """Prints a table of scores with their signatures, and writes it as JSON where asked."""
    with writing(json_file) if json_file else contextlib.nullcontext() as file:
        result = _evaluate(run_dir, split, checkpoint, data_folder, overrides, samples)
        if file:
            file.write((json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    return 0


def _evaluate(
    run_dir: str, split: corpus.Split, checkpoint: str, data_folder: str, overrides: dict[str, Any], samples: int
) -> dict[str, Any]:
    opened, out = open_run(run_dir, checkpoint, overrides), console()
    config = opened.config
    data = config.data if not data_folder else dataclasses.replace(config.data, folder=data_folder)
    chosen = corpus.load(data, split, config.seed)
    out.print(f"step {opened.step} of {run_dir}: {len(chosen.pairs):,} pairs of {chosen.name}, beam {config.decoding.beam_size}")
    translator = Translator(opened.model, opened.vocabularies, config.decoding, opened.devices)
    with out.status("translating"):
        found = translator(opened.params, [pair.source for pair in chosen.pairs])
    scores = score([t.text for t in found], [pair.target for pair in chosen.pairs], config.evaluation, config.data.target)
    families = family_scores(chosen, found)
    for i in range(0, len(found), max(1, len(found) // max(samples, 1)))[:samples] if samples else ():
        out.print(show(chosen.pairs[i], found[i]))
    print_scores(scores, families)
    result: dict[str, Any] = {
        "split": split,
        "pairs": len(chosen.pairs),
        "beam_size": config.decoding.beam_size,
        "checkpoint": opened.step,
        "metrics": {name: value._asdict() for name, value in scores.items()},
        "families": {name: value.score for name, value in families.items()},
        "cut_translations": sum(not t.finished for t in found),
        "cut_sources": sum(t.cut_source for t in found),
    }
    return result


def print_scores(scores: dict[str, Score], families: dict[str, Score]) -> None:
    """A table on stdout."""
    table = Table("metric", "score", "signature", box=None)
    for name, value in scores.items():
        table.add_row(name, f"{value.score:.2f}", value.signature)
    for name, value in families.items():
        table.add_row(f"  {name}", f"{value.score:.2f}", "exact match of the family")
    make_console(stderr=False).print(table)
