"""`sweep`: seeds in one table, resumed like the runs they are."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import DEBUG, REPOSITORY, TINY

from flax_s2s.cli import main


def sweep(folder: Path, *options: str) -> int:
    return main(["sweep", DEBUG, "--run-dir", str(folder), *TINY, *options])


def test_a_sweep_trains_each_seed_and_says_mean_and_deviation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    options = ["--metrics", "chrf", "wer", "--json", str(tmp_path / "j"), "--data.valid=valid"]
    assert sweep(tmp_path / "sweep", *options, "--seeds", "3", "5") == 0
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "j").read_text())
    assert list(found["runs"]) == ["seed 3", "seed 5"] or list(found["runs"]) == ["seed 3", "seed 5", "ensemble"]
    for metric in ("chrf", "wer"):
        scores = [found["runs"][name]["metrics"][metric]["score"] for name in ("seed 3", "seed 5")]
        assert found["summary"][metric] == {"mean": statistics.mean(scores), "deviation": pytest.approx(statistics.stdev(scores))}
        assert f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}" in printed
    seeds = [json.loads((tmp_path / f"sweep/seed-{seed}/config.json").read_text())["seed"] for seed in (3, 5)]
    assert seeds == [3, 5]
    newest = [path.stat().st_mtime for path in sorted(tmp_path.glob("sweep/seed-3/checkpoints/*/manifest.json"))]
    assert sweep(tmp_path / "sweep", *options, "--seeds", "3") == 0  # nothing is trained again
    assert newest == [path.stat().st_mtime for path in sorted(tmp_path.glob("sweep/seed-3/checkpoints/*/manifest.json"))]
    assert json.loads((tmp_path / "j").read_text())["summary"]["chrf"]["deviation"] == 0
    capsys.readouterr()
    assert sweep(tmp_path / "sweep", "--model.dropout=0.25") == 2
    assert "holds a sweep of another configuration:\n  model.dropout: 0.1 -> 0.25" in capsys.readouterr().err
    assert sweep(tmp_path / "other", "--seeds", "1", "1") == 2
    assert "--seeds 1 1 must be one or more different numbers" in capsys.readouterr().err


@pytest.mark.parametrize("everyone", [True, False], ids=["SIGINT to all, as by Ctrl-C", "SIGTERM to the sweep alone"])
def test_a_sweep_that_is_stopped_says_so_and_leaves_a_run_that_goes_on(tmp_path: Path, everyone: bool) -> None:
    command = [sys.executable, "-m", "flax_s2s", "sweep", DEBUG, "--run-dir", str(tmp_path / "sweep"), *TINY, "--training.steps=4000"]
    child = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("sweep/seed-1/checkpoints/*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(child.pid, signal.SIGINT) if everyone else child.terminate()
    _, said = child.communicate(timeout=120)
    assert child.returncode == 75
    assert "the same command goes on from here" in said and "Traceback" not in said
