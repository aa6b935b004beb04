"""The loop around functions that do nothing: what it says, evaluates and saves, and when."""

import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from flax_s2s.config import TrainingConfig
from flax_s2s.parallel import make_devices
from flax_s2s.runlog import Report, RunLog
from flax_s2s.training import loop
from flax_s2s.training.loss import Loss
from flax_s2s.training.state import TrainState
from flax_s2s.training.step import Update

DEVICES = make_devices(1, {})


def start_state(step=0):
    values = dict.fromkeys(TrainState._fields, None) | {"step": np.int32(step), "params": {}, "evaluated": np.int32(0)}
    return TrainState(**{**values, "best_score": np.float32(-np.inf), "bad_evaluations": np.int32(0)})


def run(folder, plain, tokens, stop_after=1_000, bleu=(), **fields):
    """Trains over batches of these losses; returns the records of train, the steps that were saved and the outcome."""
    saved, seen = [], []

    def train_step(state, batch, after):
        number = len(seen)
        seen.append(number)
        loss = Loss(np.float32(0), np.float32(plain[number]), np.float32(tokens[number]))
        return state._replace(step=state.step + 1), Update(loss, np.float32(1), np.float32(1), np.int32(0))

    scores = iter(bleu)
    work = loop.Work(
        train_step,
        [lambda params, step: Report({"bleu": next(scores), "loss": 1.0}, [])] if bleu else [],
        lambda state, score: saved.append(int(state.step)),
        lambda: len(seen) >= stop_after,
    )
    if not bleu:
        work = work._replace(evaluations=[lambda params, step: Report({"loss": 1.0}, [])])
    config = TrainingConfig(steps=len(plain), best_metric="bleu" if bleu else "loss", **fields)
    log = RunLog(epath.Path(folder), speaks=True)
    batch = np.ones((8, 3), np.int32)
    stream = (((0, number + 1), (batch, batch)) for number in range(1_000))
    _, outcome = loop.run(start_state(), stream, work, config, 1, DEVICES, log)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == "train"], saved, outcome


def test_a_line_says_the_loss_per_token_since_the_last_line(tmp_path: Path) -> None:
    records, _, outcome = run(tmp_path, [10, 2, 6, 6, 8], [5, 1, 2, 3, 4], log_every_steps=2)
    assert outcome == "done"
    assert [(record["step"], record["loss"]) for record in records] == [(2, 12 / 6), (4, pytest.approx(12 / 5)), (5, 2.0)]


def test_a_stop_saves_the_step_it_was_asked_at(tmp_path: Path) -> None:
    _, saved, outcome = run(tmp_path, [1] * 9, [1] * 9, stop_after=5, save_every_steps=2, log_every_steps=1)
    assert (saved, outcome) == ([2, 4, 5], "stopped")


def test_patience_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    bleu = [10.0, 12.0, 11.0, 11.5, 30.0]
    _, saved, outcome = run(tmp_path, [1] * 9, [1] * 9, bleu=bleu, patience=2, evaluate_every_steps=1, save_every_steps=100)
    assert (saved, outcome) == ([4], "no longer improving")
