"""What a run says and keeps."""

import io
import json
import math
import struct
import time
from pathlib import Path

import pytest
from etils import epath
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from flax_s2s.config import TrainingConfig
from flax_s2s.runtime.runlog import Meter, RunLog, cut_metrics, duration, gain


def test_metrics_are_one_json_object_a_line_and_reach_tensorboard(tmp_path: Path) -> None:
    log = RunLog(epath.Path(tmp_path))
    log.start(0, 10)
    log.metrics(1, "train", {"loss": 2.5})
    log.metrics(2, "valid", {"bleu": 30.0, "note": "你好"})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "split": "train", "loss": 2.5}, {"step": 2, "split": "valid", "bleu": 30.0, "note": "你好"}]
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes() and b"valid/bleu" in events.read_bytes()


def test_what_is_not_finite_is_null_and_no_point_of_a_curve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """tensorboardX 2.6.5 (x2num.check_nan) logs a warning on stderr for each."""
    log = RunLog(epath.Path(tmp_path))
    log.start(0, 10)
    log.metrics(1, "train", {"loss": 2.5, "eta_secs": math.nan})
    log.metrics(2, "train", {"loss": math.inf, "eta_secs": 7.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["loss"], line["eta_secs"]) for line in lines] == [(2.5, None), (None, 7.0)]
    assert (shown(tmp_path, "train/loss"), shown(tmp_path, "train/eta_secs")) == ([(1, 2.5)], [(2, 7.0)])
    assert not caplog.records


def test_other_processes_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(epath.Path(tmp_path), 1)
    log.start(0, 10)
    log.line("hello")
    log.metrics(1, "train", {"loss": 2.5})
    log.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")


def test_a_line_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunLog(epath.Path(tmp_path)).line("[bold]ein Satz[/bold] :smile:" + "x" * 300)
    assert capsys.readouterr().err == "[bold]ein Satz[/bold] :smile:" + "x" * 300 + "\n"


def test_cutting_takes_out_what_came_later_and_half_a_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 3}\n{"step": 2}\n{"step": 4}\n\0\0\n{"st')
    cut_metrics(epath.Path(tmp_path), 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
    cut_metrics(epath.Path(tmp_path / "none"), 2)


def test_going_back_takes_back_what_was_measured_since(tmp_path: Path) -> None:
    log = RunLog(epath.Path(tmp_path))
    log.start(0, 10)
    for step in (1, 2, 3):
        log.metrics(step, "train", {"loss": 2.5})
    log.rewind(2)
    log.metrics(3, "train", {"loss": 1.5})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.5), (2, 2.5), (3, 1.5)]
    assert shown(tmp_path, "train/loss") == [(1, 2.5), (2, 2.5), (3, 1.5)]
    RunLog(epath.Path(tmp_path), 1).rewind(0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(("done", "expected"), [(2, [1, 2, 3, 4]), (0, [1, 2, 3, 4])])
def test_tensorboard_shows_each_step_once_where_a_run_goes_on(tmp_path: Path, monkeypatch, done: int, expected: list[int]) -> None:
    """From a checkpoint, and from the beginning where a run was killed before its first one."""
    for now, begin, end in ((1e9, 0, 3), (1e9 + 60, done, 4)):  # a file is named by the second
        log = RunLog(epath.Path(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr("tensorboardX.event_file_writer.time.time", lambda second=now: second)
            log.start(begin, 4)
        for step in range(begin + 1, end + 1):
            log.show(step, [f"said by {begin}"], {})
            log.metrics(step, "train", {"loss": float(begin)})
        log.close()
    assert [step for step, _ in shown(tmp_path, "valid/samples/text_summary")] == expected
    points = shown(tmp_path, "train/loss")
    assert [step for step, _ in points] == expected
    assert {value for step, value in points if step > done} == {float(done)}


def shown(folder: Path, name: str) -> list[tuple[int, float]]:
    """The points of a curve that TensorBoard shows: it drops those that are at or behind the step of a start, as 2.21 does
    (tensorboard/backend/event_processing/event_accumulator.py, `_CheckForRestartAndMaybePurge` and `_Purge`)."""
    kept: list[tuple[int, float]] = []
    for file in sorted((folder / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # the length and its checksum, the event and its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                kept = [(step, value) for step, value in kept if step < event.step]
            kept += [(event.step, value.simple_value) for value in event.summary.value if value.tag == name]
    return kept


class Clock:
    """A training by its clock: what each thing that it does takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, **intervals: int) -> None:
        self.now, self.step = 100.0, step
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        self.meter = Meter(step, TrainingConfig(**intervals))

    def steps(self, count: int, secs: float, warm: bool = True) -> None:
        for _ in range(count):
            self.now, self.step = self.now + secs, self.step + 1
            self.meter.add(100, warm)

    def waits(self, secs: float) -> None:
        self.now += secs
        self.meter.waited(secs)

    def evaluates(self, secs: float, compiling_secs: float = 0.0) -> None:
        self.now += secs
        self.meter.evaluated(secs, compiling_secs)

    def saves(self, secs: float) -> None:
        self.now += secs
        self.meter.saved(secs)

    def read(self) -> tuple[float, float]:
        rate, left = self.meter.read(self.step).values()
        return round(rate, 3), round(left, 3)


def test_rates_are_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 10, steps=90)
    clock.waits(60.0)
    clock.steps(5, 0.5)
    clock.evaluates(9.0)
    clock.saves(1.0)
    assert clock.read()[0] == 200
    assert clock.read()[0] == 0


def test_the_time_left_is_that_of_warm_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on two cores in round numbers: 75 s of compiling before and among the first 50 of 3,000 steps, 73 s in the first
    evaluation; the first line said 1:14:25 for what were five minutes."""
    clock = Clock(monkeypatch, 0, steps=3000, evaluate_every_steps=1500, save_every_steps=500)
    clock.waits(60.0)
    clock.steps(20, 0.25, warm=False)
    assert math.isnan(clock.meter.left_secs(clock.step))  # nothing is known yet
    clock.waits(15.0)
    clock.steps(10, 0.2)
    clock.steps(20, 0.07)
    rate, first = clock.read()
    said = clock.now
    assert rate == pytest.approx(50 * 100 / (20 * 0.25 + 10 * 0.2 + 20 * 0.07), abs=1)
    for _ in range(29):
        clock.steps(50, 0.07)
    clock.evaluates(73.0, 72.0)
    at_half = clock.read()[1]
    said_at_half = clock.now
    for _ in range(30):
        clock.steps(50, 0.07)
    clock.evaluates(1.0, 0.0)
    assert first / (clock.now - said) == pytest.approx(1.0, abs=0.03)
    assert at_half / (clock.now - said_at_half) == pytest.approx(1.0, abs=0.03)
    assert clock.read()[1] == 0


def test_the_time_left_has_the_evaluations_and_saves_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 99, steps=250, evaluate_every_steps=20, save_every_steps=50)
    clock.steps(21, 1.0)
    clock.evaluates(7.0, 9.0)  # compiled by several threads: nothing is known but that it was more than this
    assert clock.read()[1] == pytest.approx(130 * 1.0)
    clock.steps(20, 1.0)
    clock.evaluates(7.0)
    assert clock.read()[1] == pytest.approx(110 * 1.0 + 6 * 7.0)  # at 160, 180, ..., 240 and 250
    clock.steps(10, 1.0)
    clock.saves(3.0)
    assert clock.read()[1] == pytest.approx(100 * 1.0 + 6 * 7.0 + 2 * 3.0)  # at 200 and 250


def test_the_time_left_follows_a_machine_that_others_begin_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0, steps=10_000, evaluate_every_steps=10_000, save_every_steps=10_000)
    clock.steps(4_000, 0.1)
    assert clock.read()[1] == pytest.approx(6_000 * 0.1)
    clock.steps(2_000, 0.3)
    assert clock.read()[1] == pytest.approx(4_000 * 0.3, rel=0.02)


def test_a_step_beside_the_compiler_is_not_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is the one in which it ends, nor are the next ten, in which programs run for the first time."""
    clock = Clock(monkeypatch, 0, steps=1000, evaluate_every_steps=1000, save_every_steps=1000)
    clock.steps(9, 5.0, warm=False)
    clock.steps(11, 5.0)
    clock.steps(9, 0.1)
    assert math.isnan(clock.read()[1])
    clock.steps(1, 0.1)
    assert clock.read()[1] == pytest.approx(970 * 0.1)


def test_what_goes_on_is_said_where_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("flax_s2s.runtime.runlog._SILENCE_SECS", 0.02)
    log, done = RunLog(epath.Path(tmp_path)), []
    with log.doing(lambda: f"compiling: {len(done)} of 4"):
        for shape in range(4):
            time.sleep(0.06)
            done.append(shape)
    with log.doing("reading"):
        time.sleep(0.1)
        with log.doing("tokenizing"):
            time.sleep(0.1)
    said = capsys.readouterr().err
    assert "... compiling: 1 of 4, for 0 s\n" in said and "... compiling: 3 of 4, for 0 s\n" in said
    assert "... reading, for" in said and said.rpartition("... reading")[2].count("... tokenizing") > 1
    time.sleep(0.1)
    assert capsys.readouterr().err == "" and log._doing == ""


def test_what_is_soon_done_is_not_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(epath.Path(tmp_path)).doing("reading"):
        pass
    assert capsys.readouterr().err == ""


def test_the_bar_says_what_goes_on_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_s2s.runtime.runlog._SILENCE_SECS", 0.02)
    log = RunLog(epath.Path(tmp_path))
    log.console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    log.start(0, 10)
    with log.doing("compiling: 1 of 4"):
        time.sleep(0.3)
    log.advance(3, 65.0)
    time.sleep(0.3)
    log.close()
    shown = log.console.file.getvalue()
    assert "ETA ? compiling: 1 of 4, for 0 s" in shown
    assert "3/10" in shown and "ETA 0:01:05" in shown
    assert "..." not in shown


def test_durations_and_gains() -> None:
    assert [duration(seconds) for seconds in (0.0, 59.9, 3723.0, math.nan)] == ["0:00:00", "0:00:59", "1:02:03", "?"]
    assert gain("bleu", 3.0) == 3.0 and gain("loss", 3.0) == gain("wer", 3.0) == -3.0
