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
from reported import read_document
from tiny import DEBUG, PLAIN, REPOSITORY, TINY

from flax_s2s.cli.verbs import main


def sweep(folder: Path, *options: str, report: bool = False) -> int:
    return main(["sweep", DEBUG, "--run-dir", str(folder), *TINY, *PLAIN, *options, *([] if report else ["--no-report"])])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for a corpus whose splits are files, so that all seeds have one vocabulary and one test set."""
    folder, words = tmp_path_factory.mktemp("corpus"), "one two three four five six seven".split()
    for split, count in (("train", 300), ("valid", 20), ("test", 20)):
        lines = [" ".join(words[(i * k + len(split)) % 7] for k in range(1, 2 + i % 5)) for i in range(1, count + 1)]
        (folder / f"{split}.a").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{split}.b").write_text("".join(f"{line.upper()}\n" for line in lines))
    return ["--data.format=text", f"--data.folder={folder}", "--data.source=a", "--data.target=b", "--vocab.size=40"]


def unread(**_: bool) -> None:
    raise ValueError("no reader")


def test_a_sweep_trains_each_seed_and_says_mean_deviation_and_ensemble(
    tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    options = ["--metrics", "chrf", "wer", "--json", str(tmp_path / "j"), *corpus]
    assert sweep(tmp_path / "sweep", *options, "--seeds", "3", "5", report=True) == 0
    [test] = read_document(tmp_path / "sweep/report.html")["tests"]
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "j").read_text())
    assert list(found["runs"]) == ["seed 3", "seed 5", "ensemble"]
    for metric in ("chrf", "wer"):
        scores = [found["runs"][name]["metrics"][metric]["score"] for name in ("seed 3", "seed 5")]
        assert found["summary"][metric] == {"mean": statistics.mean(scores), "deviation": pytest.approx(statistics.stdev(scores))}
        assert f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}" in printed
    of_seeds = [{name: one["score"] for name, one in result["metrics"].items()} for result in test["results"]]
    assert [found["chrf"] for found in of_seeds] == [found["runs"][f"seed {seed}"]["metrics"]["chrf"]["score"] for seed in (3, 5)]
    cut = found["runs"]["seed 5"]["cut_translations"]
    assert cut > 0 and f"{cut} of 20 translations were cut at their length limit" in printed
    both = [str(tmp_path / f"sweep/seed-{seed}") for seed in (3, 5)]
    assert main(["evaluate", *both, "--split", "test", "--metrics", "chrf", "wer", "--json", str(tmp_path / "e")]) == 0
    together = {name: value["score"] for name, value in json.loads((tmp_path / "e").read_text())["metrics"].items()}
    assert {name: value["score"] for name, value in found["runs"]["ensemble"]["metrics"].items()} == together
    capsys.readouterr()
    assert [json.loads((tmp_path / f"sweep/seed-{seed}/config.json").read_text())["seed"] for seed in (3, 5)] == [3, 5]
    newest = [path.stat().st_mtime for path in sorted(tmp_path.glob("sweep/seed-3/checkpoints/*/manifest.json"))]
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="no reader"):
        patch.setattr("flax_s2s.commands.evaluate.make_console", unread)
        sweep(tmp_path / "sweep", *options, "--seeds", "3")  # nothing is trained again, and what was found is there though nobody reads it
    assert newest == [path.stat().st_mtime for path in sorted(tmp_path.glob("sweep/seed-3/checkpoints/*/manifest.json"))]
    assert list(json.loads((tmp_path / "j").read_text())["summary"]["chrf"]) == ["mean"]  # one seed has no deviation
    assert sweep(tmp_path / "sweep", *options, "--seeds", "3", "--no-ensemble", "--model.dropout=0.25") == 2
    assert "holds a sweep of another configuration:\n  model.dropout: 0.1 -> 0.25" in capsys.readouterr().err
    before = (tmp_path / "sweep/seed-3/config.json").read_bytes()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("{")
    (tmp_path / "damaged/preset.py").touch()
    assert sweep(tmp_path / "damaged", *options) == 2
    assert f"{tmp_path / 'damaged/config.json'}: " in " ".join(capsys.readouterr().err.split())
    assert sweep(tmp_path / "sweep/seed-3", *options) == 2
    assert "is a run directory, not the folder of a sweep" in capsys.readouterr().err
    assert (tmp_path / "sweep/seed-3/config.json").read_bytes() == before


def test_a_sweep_over_corpora_has_a_row_for_each_and_the_mean(
    tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    folder = Path(next(option for option in corpus if option.startswith("--data.folder=")).partition("=")[2])
    for each, lines in (("x", 300), ("y", 200)):
        for split in ("train", "valid", "test"):
            for side in "ab":
                text = (folder / f"{split}.{side}").read_text().splitlines(keepends=True)
                (tmp_path / f"{each}.{split}.{side}").write_text("".join(text[:lines] if each == "x" else text[:lines:-1] or text[::-1]))
    options = [*corpus, f"--data.folder={tmp_path}", "--metrics", "chrf", "wer", "--json", str(tmp_path / "j"), "--seeds", "3", "5"]
    options += [f"--data.{split}={{each}}.{split}" for split in ("train", "valid", "test")]
    assert sweep(tmp_path / "sweep", *options, "--each", "x", "y") == 0
    printed, found = " ".join(capsys.readouterr().out.split()), json.loads((tmp_path / "j").read_text())
    assert list(found["each"]) == ["x", "y"]
    for each, one in found["each"].items():
        config = json.loads((tmp_path / f"sweep/{each}/seed-5/config.json").read_text())
        assert (config["seed"], config["data"]["train"], config["data"]["test"]) == (5, f"{each}.train", f"{each}.test")
        means = {metric: one["summary"][metric]["mean"] for metric in ("chrf", "wer")}
        assert means == {
            metric: statistics.mean(one["runs"][f"seed {seed}"]["metrics"][metric]["score"] for seed in (3, 5)) for metric in means
        }
        row = [
            f"{means[metric]:.2f} ± {one['summary'][metric]['deviation']:.2f} / {one['runs']['ensemble']['metrics'][metric]['score']:.2f}"
            for metric in means
        ]
        assert f"{each} {' '.join(row)}" in printed
    for metric in ("chrf", "wer"):
        every = list(found["each"].values())
        assert found["macro"][metric] == {
            "mean": statistics.mean(one["summary"][metric]["mean"] for one in every),
            "ensemble": statistics.mean(one["runs"]["ensemble"]["metrics"][metric]["score"] for one in every),
        }
    assert f"mean {found['macro']['chrf']['mean']:.2f} / {found['macro']['chrf']['ensemble']:.2f}" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--each", "x", "x"], "--each x x must be different names of letters, digits, '.', '_' and '-', got 'x'"),
        (["--each", "a/b"], "--each a/b must be different names"),
        (
            ["--each", "x"],
            "--each x puts its names in place of {each} in fields of the data, and none has it; give for example --data.train {each}.train",
        ),
        (["--each", "x", "--data.train={each}", "--references", "f"], "--references f are of one corpus, and --each names several"),
        (["--seeds", "1", "1"], "--seeds must be one or more different numbers, got 1 1; give for example 1 2 3"),
        (["--run-dir", "/dev/null/sweep"], "the run directory /dev/null/sweep cannot be made: Not a directory; give another --run-dir"),
        (["--seeds", "1", "-2"], "seed=-2 must not be negative"),
        (["--references", "nowhere.tsv"], "nowhere.tsv"),
        (["--references", "/dev/null"], "/dev/null is a pipe or a device, and is read several times; write it into a file first"),
        (["--data.test="], "there is no test split"),
        (["--metrics", "bleu"], "bleu goes by the target's language, which data.target='b' does not tell; give it by --language"),
        (["--language", "cn"], "evaluation.language='cn' is no language"),
        (["--json", "nowhere/j"], "nowhere/j cannot be written"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    tmp_path: Path, corpus: list[str], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert sweep(tmp_path / "sweep", *corpus, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


TRAINING = """
import os, signal, sys, time
asked = []
def hear(number, _):
    asked.append(number)
    open(sys.argv[1] + "-heard-" + str(len(asked)), "w").close()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, hear)
open(sys.argv[1], "w").close()
while len(asked) < int(sys.argv[2]):
    time.sleep(0.01)
sys.exit(int(sys.argv[3]))
"""
SWEEP = """
import sys
from flax_s2s.cli import verbs
from flax_s2s.commands import children
training = [sys.executable, "-c", sys.argv[1], *sys.argv[2:5]]
children.make_command = lambda folder, run_dir, *options: [*training[:3], training[3] + options[1], *training[4:]]
sys.exit(verbs.main(sys.argv[5:]))
"""


@pytest.mark.parametrize(
    ("signals", "ends_with", "code", "said"),
    [
        ([signal.SIGTERM], 75, 75, ""),
        ([signal.SIGUSR1], 75, 75, ""),
        ([signal.SIGINT], 0, 75, "stopped after this training; the same command goes on from here"),
        ([signal.SIGTERM], 0, 75, "stopped after this training"),
        ([signal.SIGINT, signal.SIGINT], 130, 130, "interrupted"),
        ([signal.SIGTERM], 1, 1, "the training of seed 1 ended with exit code 1"),
        ([signal.SIGTERM], 2, 2, "the training of seed 1 was refused"),
    ],
    ids=str,
)
def test_signals_end_a_sweep_with_its_training(
    tmp_path: Path, corpus: list[str], signals: list[signal.Signals], ends_with: int, code: int, said: str
) -> None:
    """The training is another program here, which ends as it is told, when it has heard of all signals."""
    (tmp_path / "j").write_text("of before")
    verb = ["sweep", DEBUG, "--run-dir", str(tmp_path / "sweep"), *corpus, "--json", str(tmp_path / "j")]
    begun = tmp_path / "begun-"
    command = [sys.executable, "-c", SWEEP, TRAINING, str(begun), str(len(signals)), str(ends_with), *verb]
    child = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(Path(f"{begun}1"))
    for count, number in enumerate(signals, 1):
        os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
        wait_for(Path(f"{begun}1-heard-{count}"))
    _, heard = child.communicate(timeout=60)
    assert (child.returncode, said in heard, "Traceback" in heard) == (code, True, False), heard
    assert not Path(f"{begun}2").exists()
    assert (tmp_path / "j").read_text() == "of before"


@pytest.mark.parametrize("everyone", [True, False], ids=["SIGINT to all, as by Ctrl-C", "SIGTERM to the sweep alone"])
def test_a_sweep_that_is_stopped_says_so_and_leaves_a_run_that_goes_on(tmp_path: Path, everyone: bool) -> None:
    command = [
        sys.executable,
        "-m",
        "flax_s2s",
        "sweep",
        DEBUG,
        "--run-dir",
        str(tmp_path / "sweep"),
        *TINY,
        *PLAIN,
        "--training.steps=4000",
    ]
    child = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("sweep/seed-1/checkpoints/*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(child.pid, signal.SIGINT) if everyone else child.terminate()
    _, said = child.communicate(timeout=120)
    assert child.returncode == 75
    assert "the same command goes on from here" in said and "Traceback" not in said
