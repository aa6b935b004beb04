"""Curves: read out of what a run wrote, thinned without losing what stands out, several as a band."""

import json
import math

import pytest

from flax_s2s.serving import curves
from flax_s2s.serving.curves import Columns


def lines(*records: dict[str, object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_lines_become_columns_in_the_order_of_steps_and_of_equal_steps_the_later_holds() -> None:
    found = curves.read(
        lines(
            {"step": 2, "split": "train", "loss": 1.5, "epoch": 0},
            {"step": 1, "split": "train", "loss": 9.0},
            {"step": 1, "split": "train", "loss": 2.5, "gradient_norm": None},
            {"step": 2, "split": "valid", "bleu": 12.25},
            {"step": 2, "split": "checkpoint", "checkpoint": 2, "state_sha256": "ab"},
        )
    )
    assert found.train == {"step": [1, 2], "loss": [2.5, 1.5], "gradient_norm": [None, None], "epoch": [None, 0]}
    assert found.valid == {"step": [2], "bleu": [12.25]}
    assert found.saved == [2] and found.spoilt == 0


@pytest.mark.parametrize(
    "spoilt", [b"{\n", b"\xff\xfe\n", b"[1]\n", b'"train"\n', b'{"step": "x", "split": "train"}\n', b'{"step": 1}\n', b"null\n"]
)
def test_a_spoilt_line_is_counted_and_the_others_are_read(spoilt: bytes) -> None:
    good = lines({"step": 1, "split": "train", "loss": 1.0}), lines({"step": 2, "split": "train", "loss": 0.5})
    found = curves.read(good[0] + spoilt + good[1])
    assert found.train["loss"] == [1.0, 0.5] and found.spoilt == 1


def test_a_line_that_is_being_written_is_no_fault() -> None:
    found = curves.read(lines({"step": 1, "split": "train", "loss": 1.0}) + b'{"step": 2, "spl')
    assert found.train["step"] == [1] and found.spoilt == 0
    assert curves.read(b"").train == {"step": []}


def wave(count: int) -> Columns:
    return {
        "step": [float(i) for i in range(count)],
        "loss": [math.sin(i) for i in range(count)],
        "epoch": [float(i // 9) for i in range(count)],
    }


def test_thinning_keeps_both_ends_and_all_that_stands_out() -> None:
    columns = wave(50_000)
    columns["loss"][31_234], columns["loss"][7] = 40.0, None
    found = curves.thin(columns, 1000)
    assert 400 <= len(found["step"]) <= 1000 and len(found["step"]) == len(found["loss"]) == len(found["epoch"])
    assert (found["step"][0], found["step"][-1]) == (0, 49_999)
    assert found["loss"][found["step"].index(31_234)] == 40.0
    assert all(columns["loss"][int(step)] == value for step, value in zip(found["step"], found["loss"], strict=True) if step is not None)
    assert curves.thin(wave(1000), 1000) == wave(1000)


def test_a_band_has_least_mean_and_greatest_at_the_steps_that_all_have() -> None:
    one: Columns = {"step": [1, 2, 3], "loss": [4.0, 2.0, None]}
    other: Columns = {"step": [2, 3, 4], "loss": [1.0, 1.0, 1.0]}
    assert curves.band([one, other], "loss") == ([2, 3], [1.0, None], [1.5, None], [2.0, None])
    assert curves.band([one, other], "bleu") == ([], [], [], [])
    assert len(curves.band([wave(5000), wave(5000)], "loss").steps) <= curves.MOST_ROWS


def test_the_last_number_is_the_newest_that_is_known() -> None:
    assert curves.last({"step": [1, 2], "loss": [3.0, None]}, "loss") == 3.0
    assert curves.last({"step": []}, "loss") is None
