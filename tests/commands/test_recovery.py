"""Bad updates in a run, with the real step, real checkpoints and real reports: skipped, reported, gone back from; killed anywhere."""

import contextlib
import dataclasses
import functools
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from planted import MARKS, mark, plant
from processes import environment
from tiny import DEBUG, REPOSITORY, TINY

from flax_s2s.commands import recovery
from flax_s2s.commands.recovery import Reports, make_roll_back
from flax_s2s.config import EOS, Config, ModelConfig, OptimizerConfig, TrainingConfig, UserError, VocabConfig
from flax_s2s.data import vocab, vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.model.seq2seq import make_model
from flax_s2s.runs import manifests
from flax_s2s.runs.checkpoint import Checkpoints
from flax_s2s.runs.manifests import Bound
from flax_s2s.runtime.parallel import make_devices
from flax_s2s.runtime.runlog import Report, RunLog
from flax_s2s.training import loop
from flax_s2s.training import step as step_module
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import abstract_state, create_state, hash_state, not_finite
from flax_s2s.training.step import make_train_step, module_names

VOCABULARY = vocab_training.train([Pair("abcdefghijkl", "abcdefghijkl")] * 9, VocabConfig(kind="char", size=17)).source
SIZES = (len(VOCABULARY), len(VOCABULARY))
ROWS, LENGTH, EPOCH = 4, 5, 64
BOUND = Bound("{}", "vocabulary", "corpus")
CONFIG = Config(
    model=ModelConfig(embedding_size=4, hidden_size=4, tie="all", dropout=0.25, attention="none", bidirectional_layers=0),
    optimizer=OptimizerConfig(schedule="constant", average_decay=0.9, learning_rate=0.01, spike_factor=3.0),
)
TRAINING = TrainingConfig(steps=30, log_every_steps=5, evaluate_every_steps=3, save_every_steps=4, keep_last=1, keep_best=1)
TEN = range(14, 24)  # batches in a row


@functools.cache
def program(count: int, accumulate: int) -> Any:
    """The real step, compiled, on so many devices; and what describes its state."""
    config = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, accumulate_batches=accumulate))
    devices, optimizer = make_devices(count, {}), make_optimizer(config.optimizer)
    abstract = abstract_state(config, SIZES, optimizer, devices)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=devices.by_row)
    after = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=devices.replicated)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        patch.setattr(step_module, "_USUAL_UPDATES", 4)  # from then on a loss may be a spike
        step = make_train_step(make_model(config.model, *SIZES), optimizer, config, devices).compile(abstract, (ids, ids), after)
    return step, abstract, jax.tree.map(np.array, create_state(config, SIZES, optimizer, devices)), devices


def batch_at(number: int, bad: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    sides = []
    for _ in range(2):
        side = rng.integers(4, SIZES[0], (ROWS, LENGTH)).astype(np.int32)
        side[np.arange(ROWS), rng.integers(1, LENGTH, ROWS)] = EOS
        sides.append(np.where(np.cumsum(side == EOS, axis=1) - (side == EOS) > 0, 0, side).astype(np.int32))
    kind = bad.get(number, "") if isinstance(bad, dict) else "loss" * (number in bad)
    return mark((sides[0], sides[1]), kind) if kind else (sides[0], sides[1])


def stream(position: Any, bad: Any) -> Any:
    epoch, batch = map(int, position)
    for number in range(epoch * EPOCH + batch, 100_000):
        yield divmod(number + 1, EPOCH), batch_at(number, bad)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of this process touches the disk any more."""


class Fate:
    """Kills at one of the events of a run; counts them."""

    def __init__(self, at: float = float("inf")) -> None:
        self.at, self.events = at, 0

    def __call__(self) -> None:
        self.events += 1
        if self.events >= self.at:
            raise Killed


class Mortal(Checkpoints):
    """Checkpoints whose every change of the disk may be the last."""

    fate = Fate()

    def _write(self, manifest: Any) -> None:
        self.fate()
        super()._write(manifest)
        self.fate()

    def _delete(self, step: int) -> None:
        self.fate()
        (self.folder / str(step) / manifests.FILE).unlink()
        self.fate()
        (self.folder / str(step)).rmtree()
        self.fate()

    def _load(self, *arguments: Any) -> Any:
        self.fate()
        return super()._load(*arguments)


def train(folder: Path, bad: Any = (), fate: Fate | None = None, stop_after: int = 0, count: int = 1, **options: Any) -> Any:
    """One process that trains in the folder until it ends, is stopped after so many updates, or is killed."""
    accumulate, fate = options.pop("accumulate", 1), fate or Fate()
    training = dataclasses.replace(TRAINING, **options)
    step, abstract, first, devices = program(count, accumulate)
    checkpoints = Mortal(epath.Path(folder / "checkpoints"), keep_last=training.keep_last, keep_best=training.keep_best)
    checkpoints.fate, seen = fate, []
    log = RunLog(epath.Path(folder))
    folder.mkdir(exist_ok=True)

    def create() -> Any:
        return jax.device_put(first, devices.replicated)

    def train_step(state: Any, batch: Any, after: Any) -> Any:
        fate()
        seen.append(after)
        return step(state, batch, after)

    def evaluate(params: Any, step: int) -> Report:
        return Report({"loss": 5 + float(np.sin(40 * np.asarray(params["output_bias"]).sum()))}, [])  # anything that the parameters decide

    def save(state: Any, score: float | None, regular: bool) -> None:
        fate()
        assert checkpoints.save(state, score, BOUND, lambda _: None, regular) == ""

    reports = Reports(epath.Path(folder), module_names(abstract.params), vocab.Vocabularies(VOCABULARY, VOCABULARY), log)
    roll_back = make_roll_back(checkpoints, abstract, create, training, devices, log)
    work = loop.Work(train_step, [evaluate], save, checkpoints.rate, lambda: len(seen) == stop_after * accumulate > 0, reports, roll_back)
    try:
        state = checkpoints.restore(abstract, BOUND, log.line)
        state = create() if state is None else state
        state, outcome = loop.run(state, stream(np.array(state.position), bad), work, training, accumulate, devices, log)
        checkpoints.wait()
    finally:
        with contextlib.suppress(Killed):
            checkpoints.close()
    return jax.tree.map(np.array, state), outcome, len(seen)


def reports_of(folder: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "reports").iterdir())}


def saved_states(folder: Path, count: int = 1, accumulate: int = 1) -> list[Any]:
    checkpoints = Checkpoints(epath.Path(folder / "checkpoints"))
    states = [checkpoints._load(checkpoints.manifest(step), program(count, accumulate)[1], print) for step in checkpoints.steps()]
    checkpoints.close()
    return states


# One bad batch


@pytest.mark.parametrize("count", [1, 2])
def test_a_bad_batch_is_skipped_counted_and_reported_and_training_goes_on(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    state, outcome, _ = train(tmp_path / "a", bad={6}, steps=9, count=count)
    assert (outcome, int(state.step), int(state.skipped), int(state.rollbacks), int(state.bad_in_a_row)) == ("done", 9, 1, 0, 0)
    assert not any(map(not_finite, saved_states(tmp_path / "a", count)))
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped, " in line]
    what = "the loss is not finite"
    name = "step-00000007-process-0.json"
    assert said == [f"step      7 skipped, 1 in a row: {what}; its sentences are in {tmp_path / 'a' / 'reports' / name}"]
    ((found, report),) = reports_of(tmp_path / "a").items()
    assert (found, report["step"], report["why"], report["bad_in_a_row"], report["rollbacks"]) == (name, 7, what, 1, 0)
    assert report["loss"] == report["gradient_norm"] == "nan"
    assert set(report["norms"]) == set(module_names(state.params)) and "nan" in report["norms"].values()
    (batch,) = report["batches"]
    assert (batch["epoch"], batch["batch"]) == (0, 7)
    for side, ids in zip(("source", "target"), batch_at(6, {6}), strict=True):
        assert [row["ids"] for row in batch[side]] == [row[row != 0].tolist() for row in ids]
        assert [row["text"] for row in batch[side]] == VOCABULARY.decode(ids.tolist())


def test_a_report_of_several_batches_has_them_all(tmp_path: Path) -> None:
    state, _, _ = train(tmp_path, bad={7}, steps=5, accumulate=2)
    assert int(state.skipped) == 1
    ((name, report),) = reports_of(tmp_path).items()
    assert name == "step-00000004-process-0.json"
    assert [batch["batch"] for batch in report["batches"]] == [7, 8]
    for number, batch in zip((6, 7), report["batches"], strict=True):
        assert [row["ids"] for row in batch["source"]] == [row[row != 0].tolist() for row in batch_at(number, {7})[0]]


def test_a_report_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, _, _ = train(tmp_path, bad={6: "gradient", 8: "spike", 9: "loss"}, steps=12)
    assert int(state.skipped) == 3
    gradient, spike, loss = reports_of(tmp_path).values()
    assert gradient["why"] == "the gradient is not finite" and np.isfinite(gradient["loss"]) and gradient["gradient_norm"] == "nan"
    assert loss["why"] == "the loss is not finite" and loss["loss"] == "nan"
    assert spike["why"] == f"the loss of {spike['loss']:.2f} is a spike: usual is {spike['usual_loss']:.2f}"
    assert spike["loss"] == pytest.approx(50 * spike["usual_loss"], rel=0.5)
    assert spike["gradient_norm"] == pytest.approx(np.sqrt(np.sum(np.square(list(spike["norms"].values())))), rel=1e-4)
    assert [line.split(": ")[1].split(";")[0] for line in capsys.readouterr().err.splitlines() if "skipped, " in line][0::2] == [
        gradient["why"],
        loss["why"],
    ]


def test_the_last_step_is_reported_too(tmp_path: Path) -> None:
    state, _, _ = train(tmp_path, bad={8}, steps=9)
    assert (int(state.bad_in_a_row), list(reports_of(tmp_path))) == (1, ["step-00000009-process-0.json"])


def test_reports_come_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recovery, "_MOST_REPORTS", 3)
    train(tmp_path, bad={3, 4, 5, 8, 9}, steps=12)
    assert list(reports_of(tmp_path)) == [f"step-0000000{step}-process-0.json" for step in (4, 5, 6)]
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped, " in line]
    assert [f"no report: there are 3 in {tmp_path / 'reports'}" in line for line in said] == [False] * 3 + [True] * 2


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reports").write_text("a file is in the way")
    assert train(tmp_path, bad={3}, steps=5)[1] == "done"
    assert "cannot be written: " in capsys.readouterr().err


# Several in a row


def undisturbed(folder: Path, bad: Any, **options: Any) -> tuple[Any, int, int]:
    """The last state of a run that nothing disturbs, its batches, its events."""
    fate = Fate()
    state, outcome, batches = train(folder, bad, fate, **options)
    assert outcome == "done"
    return state, batches, fate.events


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (2, 1), (1, 2)])
def test_ten_in_a_row_go_back_once_and_their_data_are_skipped(
    tmp_path: Path, count: int, accumulate: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of ten updates in a row five make training go back to step 12, four of the rest are skipped again."""
    bad = range(14 * accumulate, 24 * accumulate)
    state, _, batches = train(tmp_path / "run", bad, count=count, accumulate=accumulate)
    said = capsys.readouterr().err
    assert "5 bad updates in a row up to step 19: BACK TO STEP 12, rollback 1 of at most 3" in said
    assert f"skipped: the data from epoch 1 batch {12 * accumulate} to epoch 1 batch {20 * accumulate}" in said
    assert (int(state.step), int(state.rollbacks), int(state.skipped)) == (30, 1, 4)
    assert batches == (30 + 20 - 12) * accumulate == EPOCH * int(state.position[0]) + int(state.position[1])
    assert not not_finite(state) and not any(map(not_finite, saved_states(tmp_path / "run", count, accumulate)))
    first, second = ([*range(15, 21)], [*range(13, 17)])
    assert list(reports_of(tmp_path / "run")) == sorted(
        [f"step-{step:08}-process-0.json" for step in first] + [f"step-{step:08}-rollback-1-process-0.json" for step in second]
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == sorted(set(steps)) == [1, 5, 10, 15, 20, 25, 30]
    rng = np.random.default_rng()
    stops = [19, int(rng.integers(1, 20))]  # the first right before it would go back
    for stop in stops:
        train(tmp_path / "again", bad, stop_after=stop, count=count, accumulate=accumulate)
    again, _, _ = train(tmp_path / "again", bad, count=count, accumulate=accumulate)
    assert hash_state(again) == hash_state(state), stops


def test_the_window_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    """But for its place in the data: who starts at step 12 behind it comes to the same."""
    state, _, _ = train(tmp_path / "run", TEN)
    train(tmp_path / "other", steps=12)
    step, abstract, _, devices = program(1, 1)
    checkpoints = Checkpoints(epath.Path(tmp_path / "other/checkpoints"))
    other = checkpoints.restore(abstract, BOUND, lambda _: None)
    assert other is not None
    for after, batch in stream((0, 20), TEN):
        if int(other.step) == 30:
            break
        other, _ = step(other, jax.device_put(batch, devices.by_row), jax.device_put(np.array(after, np.int32), devices.replicated))
    learned = [hash_state((one.params, one.optimizer, one.average, one.usual_loss)) for one in (state, other)]
    assert learned[0] == learned[1]
    checkpoints.close()


@pytest.mark.parametrize("bad", [range(2, 12), range(0, 6)], ids=["before the first checkpoint", "from the first update on"])
def test_without_a_checkpoint_training_begins_anew_behind_the_window(tmp_path: Path, bad: range) -> None:
    state, _, batches = train(tmp_path, bad, save_every_steps=8)
    assert (int(state.step), int(state.rollbacks)) == (30, 1)
    assert batches == 30 + bad.start + 6


def test_too_many_rollbacks_are_an_error_that_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as error:
        train(tmp_path, range(14, 1000), max_rollbacks=2)
    message = str(error.value)
    assert message.startswith(
        "5 bad updates in a row up to step 17, after 2 rollbacks (training.max_rollbacks); earlier checkpoints are intact."
    )
    assert str(tmp_path / "reports") in message and "optimizer.learning_rate" in message
    assert capsys.readouterr().err.count("BACK TO STEP 12") == 2
    assert not any(map(not_finite, saved_states(tmp_path)))
    with pytest.raises(UserError, match="after 2 rollbacks"):  # and again, when it is tried again
        train(tmp_path, range(14, 1000), max_rollbacks=2)


@pytest.mark.slow
def test_a_run_that_may_go_back_once_more_goes_on(tmp_path: Path) -> None:
    """As if it had been allowed to from the beginning."""
    with pytest.raises(UserError, match="after 1 rollbacks"):
        train(tmp_path / "run", range(14, 29), max_rollbacks=1)
    state, _, _ = train(tmp_path / "run", range(14, 29))
    straight, _, _ = train(tmp_path / "straight", range(14, 29))
    assert int(state.rollbacks) == 2
    assert hash_state(state) == hash_state(straight)


def test_who_never_wants_to_go_back_does_not(tmp_path: Path) -> None:
    state, _, _ = train(tmp_path, TEN, roll_back_after=0)
    assert (int(state.rollbacks), int(state.skipped), int(state.step)) == (0, 10, 30)


# Killed and stopped


def until_done(folder: Path, bad: Any, rng: np.random.Generator, most: int, **options: Any) -> tuple[Any, list[Any]]:
    """Starts again and again, each time killed or stopped somewhere, a few times in all."""
    ends: list[Any] = []
    while True:
        fate, stop_after = Fate(), 0
        if len(ends) < 4:
            if rng.random() < 0.5:
                fate = Fate(int(rng.integers(1, most)))
            else:
                stop_after = int(rng.integers(1, 38))
            ends.append((fate.at, stop_after))
        with contextlib.suppress(Killed):
            state, outcome, _ = train(folder, bad, fate, stop_after, **options)
            if outcome == "done":
                return state, ends


def test_a_run_killed_and_stopped_anywhere_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    """Bad windows that overlap saves and evaluations, of all kinds of bad updates; four ends at random."""
    rng = np.random.default_rng()
    numbers = [*TEN, *range(32, 32 + int(rng.integers(1, 7))), int(rng.integers(5, 40))]
    bad = {number: str(rng.choice(list(MARKS))) for number in numbers}
    expected, _, events = undisturbed(tmp_path / "undisturbed", bad)
    state, ends = until_done(tmp_path / "run", bad, rng, events)
    assert hash_state(state) == hash_state(expected), (bad, ends)
    assert not any(map(not_finite, saved_states(tmp_path / "run")))


@pytest.mark.slow
@pytest.mark.parametrize("bad", [TEN, range(2, 12)], ids=["ten", "before the first checkpoint"])
def test_a_run_killed_at_each_of_its_events_ends_as_the_undisturbed_one(tmp_path: Path, bad: range) -> None:
    expected, _, events = undisturbed(tmp_path / "undisturbed", bad)
    for at in range(1, events + 1):
        with contextlib.suppress(Killed):
            train(tmp_path / str(at), bad, Fate(at))
        state, _, _ = train(tmp_path / str(at), bad)
        assert hash_state(state) == hash_state(expected), at


@pytest.mark.slow
@pytest.mark.parametrize("bad", [TEN, range(2, 12)], ids=["ten", "before the first checkpoint"])
def test_a_run_stopped_at_each_of_its_steps_ends_as_the_undisturbed_one(tmp_path: Path, bad: range) -> None:
    expected, batches, _ = undisturbed(tmp_path / "undisturbed", bad)
    for at in range(1, batches):
        assert train(tmp_path / str(at), bad, stop_after=at)[1] == "stopped"
        state, _, _ = train(tmp_path / str(at), bad)
        assert hash_state(state) == hash_state(expected), at


# As programs

# Batches 5 to 14 of the first epoch are bad: after step 10 training goes back to step 4.
PROGRAM = [sys.executable, str(REPOSITORY / "tests/planted.py"), "5", "14", "train", DEBUG, *TINY]
PROGRAM += ["--data.buckets=1", "--evaluation.valid-pairs=0", "--training.best-metric=loss", "--training.devices=0"]
PROGRAM += ["--training.steps=12", "--training.save-every-steps=4", "--training.evaluate-every-steps=50"]


@pytest.mark.slow
def test_two_processes_go_back_together_and_each_reports_its_own_sentences(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    marks = [environment(1, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(index)) for index in range(2)]
    started = [subprocess.Popen([*PROGRAM, f"--run-dir={tmp_path}"], env=env, stderr=subprocess.PIPE, text=True) for env in marks]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "5 bad updates in a row up to step 10: BACK TO STEP 4, rollback 1 of at most 3" in said[0]
    assert "BACK" not in said[1]
    reports = reports_of(tmp_path)
    steps = [*(f"step-{step:08}" for step in range(6, 12)), *(f"step-{step:08}-rollback-1" for step in range(5, 9))]
    assert list(reports) == sorted(f"{step}-process-{index}.json" for step in steps for index in range(2))
    for step in steps:
        one, two = (reports[f"{step}-process-{index}.json"] for index in range(2))
        assert one["norms"].keys() == two["norms"].keys() and one["step"] == two["step"]
        pairs = [{(row["text"], other["text"]) for row, other in zip(b["source"], b["target"], strict=True)} for b in one["batches"]]
        others = [{(row["text"], other["text"]) for row, other in zip(b["source"], b["target"], strict=True)} for b in two["batches"]]
        assert all(not (mine & yours) and len(mine) > 1 for mine, yours in zip(pairs, others, strict=True))
    manifest = json.loads((tmp_path / "checkpoints/12/manifest.json").read_text())
    assert (manifest["bad_in_a_row"], manifest["regular"]) == (0, True)


def last_hash(folder: Path) -> str:
    return str(json.loads((folder / "checkpoints/12/manifest.json").read_text())["state_sha256"])


@pytest.mark.slow
def test_a_program_killed_anywhere_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    """SIGKILL: before the window, in it, after the rollback, and at random."""
    undisturbed = subprocess.run([*PROGRAM, f"--run-dir={tmp_path / 'undisturbed'}"], env=environment(1), capture_output=True, text=True)
    assert undisturbed.returncode == 0, undisturbed.stderr
    rng, killed = np.random.default_rng(), tmp_path / "killed"
    signs = ["metrics.jsonl", "reports/step-00000006-*", "reports/step-00000009-*", "reports/*rollback-1*", "checkpoints/8/manifest.json"]
    for sign in [*signs, *rng.choice(signs, 3)]:
        process = subprocess.Popen([*PROGRAM, f"--run-dir={killed}"], env=environment(1), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        for old in killed.glob("reports/*"):
            old.unlink()
        while not any(killed.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.wait()
    done = subprocess.run([*PROGRAM, f"--run-dir={killed}"], env=environment(1), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert last_hash(killed) == last_hash(tmp_path / "undisturbed")
