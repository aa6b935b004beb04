"""`evaluate RUN_DIR`: decodes a split and scores it."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from flax_s2s.commands.wiring import Opened, console, make_translator, open_runs
from flax_s2s.config import DecodingConfig
from flax_s2s.data import corpus
from flax_s2s.decoding.evaluate import family_scores, show, translate_together
from flax_s2s.decoding.score import Score, score
from flax_s2s.rundir import writing
from flax_s2s.runlog import make_console


def run(
    run_dirs: Sequence[str],
    checkpoint: str,
    decoding: DecodingConfig,
    split: corpus.Split,
    data_folder: str,
    samples: int,
    json_file: str,
) -> int:
    """Prints a table of scores with their signatures, and writes it as JSON where asked."""
    with writing(json_file) if json_file else contextlib.nullcontext() as file:
        result = _evaluate(open_runs(run_dirs, checkpoint, decoding), run_dirs, split, data_folder, samples)
        if file:
            file.write((json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    return 0


def _evaluate(opened: Opened, run_dirs: Sequence[str], split: corpus.Split, data_folder: str, samples: int) -> dict[str, Any]:
    config, out = opened.config, console()
    data = config.data if not data_folder else dataclasses.replace(config.data, folder=data_folder)
    chosen = corpus.load(data, split, config.seed)
    runs = ", ".join(f"step {step} of {run_dir}" for step, run_dir in zip(opened.steps, run_dirs, strict=True))
    out.print(f"{runs}: {len(chosen.pairs):,} pairs of {chosen.name}, beam {config.decoding.beam_size}")
    translator = make_translator(opened)
    with out.status("translating"):
        found = translate_together(translator, opened.params, [pair.source for pair in chosen.pairs])
    texts = [translation.text for translation in found]
    scores = score(texts, [pair.target for pair in chosen.pairs], config.evaluation, config.data.target)
    families = family_scores(chosen, texts)
    for i in range(0, len(found), max(1, len(found) // max(samples, 1)))[:samples] if samples else ():
        out.print(show(chosen.pairs[i], texts[i]))
    print_scores(scores, families)
    result: dict[str, Any] = {
        "split": split,
        "pairs": len(chosen.pairs),
        "beam_size": config.decoding.beam_size,
        "checkpoint": opened.steps[0],
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
