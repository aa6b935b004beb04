"""The loop around functions that do nothing: what it says, evaluates and saves, and when."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import jax
import numpy as np
import pytest
from etils import epath

from flax_s2s.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from flax_s2s.model.seq2seq import make_model
from flax_s2s.runtime.parallel import feed_all, make_devices
from flax_s2s.runtime.runlog import Report, RunLog, gain, least_gain
from flax_s2s.training import loop
from flax_s2s.training.loss import Loss
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import TrainState, create_state
from flax_s2s.training.step import Update, make_eval_step, make_train_step

DEVICES = make_devices(1, {})


def start_state(step=0):
    counts = dict.fromkeys(("evaluated", "bad_evaluations", "bad_in_a_row", "rollbacks"), np.int32(0))
    values = dict.fromkeys(TrainState._fields, None) | {"step": np.int32(step), "params": {}, "best_score": np.float32(-np.inf), **counts}
    return TrainState(**values)


ONE, NONE = np.float32(1), np.int32(0)


def update_of(loss, number=ONE, count=NONE, bad_in_a_row=NONE):
    return Update(loss, number, number, count, np.ones(1, np.float32), bad_in_a_row, number)


def never(*_):
    raise AssertionError("no update is bad")


class Ran(NamedTuple):
    train: list[dict[str, Any]]
    valid: list[int]  # steps that were evaluated
    saved: dict[int, float | None]  # step -> gain
    state: TrainState
    outcome: str
    batches: int
    regular: dict[int, bool]  # step -> whether every run saves it


def run(folder, plain, tokens=None, stop_at=None, bleu=None, state=None, accumulate=1, saved=None, **fields):
    """Trains over batches of these losses per token; `bleu` gives the score of a step."""
    state, saved, seen, regulars = state or start_state(), {} if saved is None else saved, [], {}
    tokens = tokens or [1] * len(plain)

    def train_step(state, batch, after):
        number = len(seen)
        seen.append(number)
        loss = Loss(np.float32(0), np.float32(plain[number % len(plain)]), np.float32(tokens[number % len(plain)]))
        done = len(seen) % accumulate == 0
        return state._replace(step=state.step + done), update_of(loss)

    def evaluate(params, step):
        return Report({"loss": 1.0} if bleu is None else {"loss": 1.0, "bleu": bleu[step]}, [])

    def keep(step, score, regular):
        saved[step], regulars[step] = score, regular

    work = loop.Work(
        train_step,
        [evaluate],
        lambda state, score, regular: keep(int(state.step), score, regular),
        keep,
        lambda: stop_at is not None and int(state.step) + len(seen) // accumulate >= stop_at,
        never,
        never,
    )
    config = TrainingConfig(**{"steps": len(plain), "best_metric": "loss" if bleu is None else "bleu", **fields})
    batch = np.ones((8, 3), np.int32)
    stream = (((0, number + 1), (batch, batch)) for number in range(1_000))
    state, outcome = loop.run(state, stream, work, config, accumulate, DEVICES, RunLog(epath.Path(folder)))
    file = folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    train, valid = ([record for record in records if record["split"] == split] for split in ("train", "valid"))
    return Ran(train, [record["step"] for record in valid], saved, state, outcome, len(seen), regulars)


def test_a_line_says_the_loss_per_token_since_the_last_line(tmp_path: Path) -> None:
    ran = run(tmp_path, [10, 2, 6, 6, 8], [5, 1, 2, 3, 4], log_every_steps=2)
    assert ran.outcome == "done"
    assert [(record["step"], record["loss"]) for record in ran.train] == [(1, 10 / 5), (2, 2 / 1), (4, pytest.approx(12 / 5)), (5, 2.0)]
    assert all(record["tokens_per_sec"] > 0 for record in ran.train)


def test_every_line_counts_the_tokens_of_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added, read = [], []
    monkeypatch.setattr(loop.Meter, "add", lambda self, tokens, warm: added.append(tokens))
    monkeypatch.setattr(loop.Meter, "read", lambda self, step: read.append((step, len(added))) or {"tokens_per_sec": 0.0, "eta_secs": 0.0})
    run(tmp_path, [1] * 7, log_every_steps=2)
    assert read == [(1, 1), (2, 2), (4, 4), (6, 6), (7, 7)]


class OnDevice:
    """A number that is still being computed: who wants it must wait."""

    def __init__(self, value, waited):
        self.value, self.waited = value, waited

    def __array__(self, *_, **__):
        self.waited()
        return np.asarray(self.value)

    def __int__(self):
        self.waited()
        return int(self.value)

    def __add__(self, other):
        return OnDevice(self.value + other, self.waited)


def test_numbers_of_a_step_are_fetched_when_the_next_one_is_on_its_way(tmp_path: Path) -> None:
    """The flag of every step, and the rest of those that are said. Nothing else is waited for: with early stopping neither."""
    dispatched, waits = [], []

    def train_step(state, batch, after):
        number = len(dispatched)
        dispatched.append(number)

        def later(value):
            return OnDevice(value, lambda: waits.append((number, len(dispatched) - 1)))

        after_it = {"step": later(number + 1), "bad_evaluations": later(0), "evaluated": later(0), "best_score": later(0)}
        loss = Loss(later(np.float32(1)), later(np.float32(1)), later(np.float32(1)))
        return state._replace(**after_it), update_of(loss, later(np.float32(1)), later(np.int32(0)), later(np.int32(0)))

    work = loop.Work(train_step, [], lambda *_: None, lambda *_: None, lambda: len(dispatched) == 9, never, never)
    batch = np.ones((8, 3), np.int32)
    stream = (((0, number + 1), (batch, batch)) for number in range(100))
    config = TrainingConfig(steps=100, log_every_steps=2, evaluate_every_steps=50, save_every_steps=50, patience=3)
    _, outcome = loop.run(start_state(), stream, work, config, 1, DEVICES, RunLog(epath.Path(tmp_path)))
    assert outcome == "stopped"
    assert all(latest > number for number, latest in waits if number < 8)  # the last one is saved
    assert all(waits.count((number, number + 1)) == 1 for number in range(2, 8, 2))  # the flag alone; the loss is for the next line
    assert {latest - number for number, latest in waits if number % 2 or number == 0} == {1}
    assert {number for number, _ in waits} == {*range(9)}


def test_nothing_goes_to_the_devices_unasked(tmp_path: Path) -> None:
    """A real step and a real evaluation; the guard refuses every transfer that the program does not spell out.

    Only those to the devices: on a CPU the guard sees none from them; what waits for a step is tested above."""
    config = Config(model=ModelConfig(embedding_size=4, hidden_size=4), optimizer=OptimizerConfig(average_decay=0.9))
    model, optimizer = make_model(config.model, 9, 9), make_optimizer(config.optimizer)
    step, eval_step = make_train_step(model, optimizer, config, DEVICES), make_eval_step(model, DEVICES)
    batch = tuple(np.random.default_rng(0).integers(3, 9, (8, 5)).astype(np.int32) for _ in range(2))
    work = loop.Work(
        step,
        [loop.make_loss_evaluation(eval_step, lambda: [batch], DEVICES)],
        lambda *_: None,
        lambda *_: None,
        lambda: False,
        never,
        never,
    )
    state = create_state(config, (9, 9), optimizer, DEVICES)
    training = TrainingConfig(steps=7, log_every_steps=2, evaluate_every_steps=3, patience=5)
    log = RunLog(epath.Path(tmp_path))
    with jax.transfer_guard("disallow"):
        state, outcome = loop.run(state, (((0, n), batch) for n in range(1, 99)), work, training, 1, DEVICES, log)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            step(state, batch, feed_all(DEVICES, np.array([0, 8], np.int32)))
    assert outcome == "done"
    assert [record["step"] for record in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())] == [1, 2, 3, 4, 6, 6, 7, 7]


def test_an_update_takes_as_many_batches_as_are_accumulated(tmp_path: Path) -> None:
    ran = run(tmp_path, [1] * 3, accumulate=4)
    assert (int(ran.state.step), ran.batches) == (3, 12)


def test_the_moving_average_is_what_is_evaluated(tmp_path: Path) -> None:
    evaluated = []

    def evaluate(params: Any, step: int) -> Report:
        evaluated.append(params)
        return Report({"loss": 1.0}, [])

    work = loop.Work(a_flagged_step(set(), []), [evaluate], lambda *_: None, lambda *_: None, lambda: False, never, never)
    stream = (((0, number + 1), (np.ones((8, 3), np.int32),) * 2) for number in range(9))
    params, average = {"bias": np.zeros(1)}, {"bias": np.ones(1)}
    for state in (start_state()._replace(params=params, average=average), start_state()._replace(params=params)):
        loop.run(state, stream, work, TrainingConfig(steps=1, best_metric="loss"), 1, DEVICES, RunLog(epath.Path(tmp_path)))
    assert evaluated[0] is average and evaluated[1] is params


def test_a_stop_saves_the_step_it_was_asked_at(tmp_path: Path) -> None:
    ran = run(tmp_path, [1] * 9, stop_at=5, save_every_steps=2, log_every_steps=1)
    assert (list(ran.saved), ran.outcome) == ([2, 4, 5], "stopped")


def test_patience_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    bleu = [0.0, 10.0, 12.0, 11.0, 11.5, 30.0, 0.0, 0.0, 0.0, 0.0]
    ran = run(tmp_path, [1] * 9, bleu=bleu, patience=2, evaluate_every_steps=1, save_every_steps=100)
    assert (int(ran.state.step), ran.outcome) == (4, "no longer improving")


@pytest.mark.parametrize("score", [1 / 3, 2 / 3, 40.7, 40.8])  # rounded up or down
def test_a_score_is_not_better_than_itself(tmp_path: Path, score: float) -> None:
    ran = run(tmp_path, [1] * 9, bleu=[score] * 10, patience=2, evaluate_every_steps=1, save_every_steps=100)
    assert (int(ran.state.step), ran.outcome) == (3, "no longer improving")


def test_a_metric_at_its_worst_ranks_no_checkpoint(tmp_path: Path) -> None:
    """Its first 0.00 is no best that later ones fail to beat: the latest is kept, and patience waits until it has moved."""
    bleu = [0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 0.0, 6.0, 0.0]
    (tmp_path / "logs").mkdir()
    ran = run(tmp_path, [1] * 8, bleu=bleu, patience=2, evaluate_every_steps=1, save_every_steps=100)
    assert (int(ran.state.step), ran.outcome, float(ran.state.best_score)) == (7, "no longer improving", 7.0)
    assert ran.saved == {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 7.0, 7: 6.0}
    said = (tmp_path / "logs/process-0.log").read_text()
    assert said.count("training.best_metric=bleu is 0.00: it tells no checkpoint from another yet, the latest is kept") == 4


def test_the_worst_of_each_metric_that_has_one() -> None:
    found = {name: least_gain(name) for name in get_args(get_type_hints(TrainingConfig)["best_metric"])}
    never, nothing = dict.fromkeys(("loss", "wer", "cer", "ter", "per"), -math.inf), dict.fromkeys(("rouge1", "rouge2", "rougeL"), 0.0)
    assert found == {"bleu": 0.0, "chrf": 0.0, "chrf++": 0.0, "exact_match": 0.0, "ser": gain("ser", 100.0), **nothing, **never}


def test_notes_and_counts_of_an_evaluation_are_said_and_kept(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log, state = RunLog(epath.Path(tmp_path)), start_state()
    report = Report({"loss": 2.0, "chrf": 40.0, "cut_translations": 3}, ["a sample"], ["3 of 9 translations were cut"])
    work = loop.Work(never, [lambda params, step: report], *[never] * 5)
    loop._evaluate(state, 3, work, TrainingConfig(), DEVICES, loop.Meter(0, TrainingConfig()), log)
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "logs/process-0.log").read_text().splitlines()]
    assert (
        lines[0] == "a sample" and lines[1].startswith("valid      3 loss 2.00 chrf 40.00 (") and lines[2] == "3 of 9 translations were cut"
    )
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "split": "valid", **report.metrics}


def test_what_is_better_than_all_before_is_saved_at_once(tmp_path: Path) -> None:
    """Whatever the interval of saves: the best is on disk, with its score."""
    bleu = [0, 0, 10.0, 0, 50.0, 0, 20.0, 0, 30.0]
    ran = run(tmp_path, [1] * 8, bleu=bleu, evaluate_every_steps=2, save_every_steps=3)
    assert ran.saved == {2: 10.0, 3: None, 4: 50.0, 6: 20.0, 8: 30.0}


def test_a_stop_makes_no_step_one_to_go_back_to(tmp_path: Path) -> None:
    """Those are saved in every run: by the interval, or, once that is known, for their score."""
    bleu, intervals = [0, 0, 10.0, 0, 5.0, 0, 20.0, 0, 1.0], {"evaluate_every_steps": 2, "save_every_steps": 3}
    straight = run(tmp_path, [1] * 8, bleu=bleu, **intervals)
    assert straight.regular == {2: True, 3: True, 6: True, 8: False}
    for stop_at in range(1, 8):
        stopped = run(tmp_path, [1] * 8, bleu=bleu, stop_at=stop_at, **intervals)
        assert stopped.regular[stop_at] == (stop_at % 3 == 0)
        again = run(tmp_path, [1] * 8, bleu=bleu, state=stopped.state, **intervals)
        both = {step: stopped.regular.get(step, False) or again.regular.get(step, False) for step in (*stopped.regular, *again.regular)}
        assert {step for step in both if both[step]} == {2, 3, 6}, stop_at


def a_flagged_step(bad, dispatched):
    """A train step whose updates are bad at these numbers."""
    row = [0]

    def train_step(state, batch, after):
        dispatched.append(tuple(np.asarray(after).tolist()))
        row[0] = row[0] + 1 if len(dispatched) in bad else 0
        loss = Loss(ONE, ONE, ONE)
        return state._replace(step=state.step + 1, bad_in_a_row=np.int32(row[0])), update_of(loss, bad_in_a_row=np.int32(row[0]))

    return train_step


@pytest.mark.parametrize(("limit", "seen"), [(3, [4, 5, 6, 7, 10]), (2, [4, 5, 6, 10]), (0, [4, 5, 6, 7, 10])])
def test_too_many_bad_updates_in_a_row_make_it_go_back_once_the_next_is_dispatched(tmp_path: Path, limit: int, seen: list[int]) -> None:
    """And each is reported with its batch, the one dispatched meanwhile too; the data go on behind it."""
    dispatched: list[Any] = []
    reported, went_back = [], []

    def roll_back(state):
        went_back.append(int(state.step))
        return state._replace(step=np.int32(2), bad_in_a_row=np.int32(0), rollbacks=np.int32(1))

    step = a_flagged_step({4, 5, 6, 7, 10} if limit != 2 else {4, 5, 6, 10}, dispatched)
    work = loop.Work(step, [], lambda *_: None, lambda *_: None, lambda: len(dispatched) == 12, reported.append, roll_back)
    stream = (((0, number + 1), (np.full((8, 3), number + 1, np.int32),) * 2) for number in range(100))
    config = TrainingConfig(steps=100, evaluate_every_steps=50, save_every_steps=50, roll_back_after=limit)
    loop.run(start_state(), stream, work, config, 1, DEVICES, RunLog(epath.Path(tmp_path)))
    assert [batch for _, batch in dispatched] == list(range(1, 13))
    assert [int(bad.batches[0][0][0, 0]) for bad in reported] == [bad.positions[0][1] for bad in reported] == seen
    assert went_back == {3: [7], 2: [6], 0: []}[limit]
    assert [bad.rollbacks for bad in reported] == [0] * (len(seen) - 1) + [1 if limit else 0]


@pytest.mark.parametrize("stop_at", [2, 4, 6])
def test_an_evaluation_that_a_stop_prevented_is_made_up(tmp_path: Path, stop_at: int) -> None:
    """And its score goes to the checkpoint of the stop: the best is the same as without it, at the last step too."""
    bleu, intervals = [0, 0, 30.0, 0, 10.0, 0, 40.0], {"evaluate_every_steps": 2, "save_every_steps": 2}
    stopped = run(tmp_path, [1] * 6, bleu=bleu, stop_at=stop_at, **intervals)
    assert (stopped.outcome, stopped.saved[stop_at]) == ("stopped", None)
    ran = run(tmp_path, [1] * 6, bleu=bleu, state=stopped.state, saved=stopped.saved, **intervals)
    assert ran.outcome == "done"
    assert ran.saved == {2: 30.0, 4: 10.0, 6: 40.0}
    assert ran.valid == [2, 4, 6]
    assert float(ran.state.best_score) == 40.0
