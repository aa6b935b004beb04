"""Training by several real processes on this machine, which stand in for hosts."""

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import PROGRAM, final, finish, last_step, records, start, wait_for_step
from tiny import DEBUG, PLAIN, REPOSITORY, TINY

ALL_DEVICES = "--training.devices=0"


def train(folder: Path, *options: str) -> list[str]:
    return [*PROGRAM, "train", DEBUG, "--run-dir", str(folder), *TINY, ALL_DEVICES, *options]


def test_two_processes_train_as_one_does(tmp_path: Path, trained_run: Path) -> None:
    done = finish(start([train(tmp_path / "run")] * 2, 2))
    assert [process.returncode for process in done] == [0, 0], done
    losses = [[record["loss"] for record in records(folder, "train")] for folder in (tmp_path / "run", trained_run)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert "4 x cpu in 2 process(es)" in done[0].stderr
    assert "step" not in done[1].stderr  # process 0 alone speaks, but every one keeps a log
    assert "done at step 4" in (tmp_path / "run/logs/process-1.log").read_text()


FORMS = """--data.format=tsv --data.source=0 --data.target=1 --data.features=2 --data.max-train-pairs=0 --data.valid=valid --data.test= --vocab.kind=char
    --data.max-source-tokens=16 --data.max-target-tokens=16 --data.batch-tokens=256 --data.hallucination=0.5 --model.feed-features
    --model.dropout=0.1 --training.steps=6""".split()


@pytest.mark.parametrize(
    "model",
    [
        ["--model.copy", "--model.coverage", "--model.input-feeding", "--optimizer.coverage-loss=0.5"],
        pytest.param(["--model.alignment=monotonic"], marks=pytest.mark.slow),
    ],
    ids=["copying", "monotonic"],
)
def test_two_processes_learn_word_forms_as_one_does(tmp_path: Path, model: list[str]) -> None:
    """Features, made-up pairs, copying and coverage, or monotonic attention; and each translates its part of the validation set."""
    for split, letters in (("train", "aeioublk"), ("valid", "mnpr")):
        words = [f"{one}{other}{third}" for one in letters for other in letters for third in letters]
        rows = (f"{word}\t{word}{ending}\t{bundle}\n" for word in words for ending, bundle in (("s", "N;PL"), ("ed", "V;PST")))
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    options = [*FORMS, f"--data.folder={tmp_path}", *model, "--evaluation.metrics", "exact_match", "--evaluation.valid-pairs=20"]
    for name, count in (("two", 2), ("one", 1)):
        done = finish(start([train(tmp_path / name, *options)] * count, 4 // count))
        assert [process.returncode for process in done] == [0] * count, done
    for split in ("train", "valid"):
        losses = [[record["loss"] for record in records(tmp_path / name, split)] for name in ("two", "one")]
        assert len(losses[0]) >= 1
        np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_a_process_may_come_late_to_its_first_collective() -> None:
    """By more than the 30 s that Gloo waits."""
    late = """
import os, time, numpy as np
from flax_s2s.runtime import cluster, job, parallel
with job.listen():
    job.join(cluster.find(os.environ))
    time.sleep(40 * parallel.process()[0])
    print(parallel.from_each(np.int32(parallel.process()[0] + 5)).tolist())
    job.end(0)
"""
    done = finish(start([[sys.executable, "-c", late]] * 2, 1))
    assert [(process.returncode, "[5, 6]" in process.stdout) for process in done] == [(0, True)] * 2, done


def test_processes_that_see_different_folders_end_with_that(tmp_path: Path) -> None:
    done = finish(start([train(tmp_path / "here", *PLAIN), train(tmp_path / "there", *PLAIN)], 1))
    assert [process.returncode for process in done] == [2, 2], done
    for process in done:
        assert "is not the same place for all 2 processes: process 1 does not see there what process 0 wrote" in process.stderr
    assert {path.name for path in (tmp_path / "there").iterdir()} == set()
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"lease.json"}


LONG = (*PLAIN, "--training.steps=1000000", "--training.save-every-steps=1000000", "--training.evaluate-every-steps=1000000")


def test_a_signal_to_one_process_saves_the_same_step_on_all(tmp_path: Path) -> None:
    processes = start([train(tmp_path, *LONG)] * 2, 2)
    wait_for_step(tmp_path, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    done = finish(processes, timeout=30)
    assert [process.returncode for process in done] == [75, 75], done
    step, _ = final(tmp_path)
    assert step >= last_step(tmp_path)  # nothing that was logged is lost
    assert f"stopped and saved at step {step}; the same command goes on from here" in done[0].stderr
    assert "SIGTERM at process 1" in done[0].stderr


def test_when_a_process_is_killed_the_others_say_so_and_end(tmp_path: Path) -> None:
    """Process 0 too, that the others found each other by."""
    processes = start([train(tmp_path, *LONG)] * 2, 2)
    wait_for_step(tmp_path, 3, processes)
    processes[0].kill()
    begin = time.monotonic()
    done = finish(processes, timeout=60)
    assert time.monotonic() - begin < 15
    assert [process.returncode for process in done] == [-signal.SIGKILL, 1], done
    assert "process 1 of 2 on " in done[1].stderr and "has given no sign of life for 8 s: killed, stopped or cut off" in done[1].stderr


def test_when_a_process_raises_the_others_hear_why(tmp_path: Path) -> None:
    victim = [sys.executable, str(REPOSITORY / "tests/soak/victim.py")]
    commands = [[*victim, *train(tmp_path, *LONG)[len(PROGRAM) :]]] * 2
    done = finish(start(commands, 2, [{}, {"SOAK_WISH": "step 3 0 0 raise"}]), timeout=120)
    assert [process.returncode for process in done] == [1, 1], done
    assert "RuntimeError: planted" in done[1].stderr
    assert "process 1 on " in done[0].stderr and "has ended (RuntimeError: planted)" in done[0].stderr
