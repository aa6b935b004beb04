"""What a run says and keeps."""

import json
import struct
from pathlib import Path

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog

from flax_s2s.runlog import Meter, RunLog, cut_metrics, duration, gain


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
    file.write_text('{"step": 1}\n{"step": 3}\n{"step": 2}\n{"step": 4}\n{"st')
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
            log.metrics(step, "train", {"loss": float(begin)})
        log.close()
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


def test_the_meter_counts_tokens_and_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter(10, 30)
    meter.add(500)
    now[0] = 107.0
    meter.pause(2.0)
    assert meter.read(15) == {"tokens_per_sec": 100.0, "eta_secs": 15.0}
    assert meter.read(15)["tokens_per_sec"] == 0


def test_durations_and_gains() -> None:
    assert [duration(seconds) for seconds in (0.0, 59.9, 3723.0)] == ["0:00:00", "0:00:59", "1:02:03"]
    assert gain("bleu", 3.0) == 3.0 and gain("loss", 3.0) == gain("wer", 3.0) == -3.0
