"""`verify-resume` as a user runs it."""

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from etils import epath
from processes import PROGRAM, finish, start
from tiny import DEBUG, PLAIN, TINY

from flax_s2s.cli.verbs import main
from flax_s2s.commands import verify_resume
from flax_s2s.commands.verify_resume import Kill, _choose, _compare, _Lives, _tell, _Watch
from flax_s2s.config import Failure, TrainingConfig
from flax_s2s.presets import load_preset
from flax_s2s.runs import manifests


def verify(folder: Path, *options: str) -> list[str]:
    return [*PROGRAM, "verify-resume", DEBUG, "--run-dir", str(folder), *TINY, *PLAIN, *options]


def test_a_killed_run_ends_as_the_straight_one(tmp_path: Path) -> None:
    (done,) = finish(
        start(
            [
                verify(
                    tmp_path / "both",
                    "--training.steps=24",
                    "--training.evaluate-every-steps=12",
                    "--training.save-every-steps=2",
                    "--kills=2",
                )
            ],
            1,
        )
    )
    assert done.returncode == 0, done.stderr
    told = re.fullmatch(
        r"equal on \d+ cores: step 24, state \w{64}; 2 kills: 1 before the first checkpoint, 1 after a new one; (.*)\n", done.stdout
    )
    assert told, done.stdout
    assert sum(int(count) for count in re.findall(r"\d+", told[1])) == 2
    assert re.search(r"kill 2 .*, newest checkpoint [1-9]", done.stderr)


def test_kills_are_spread_over_checkpoints_and_phases() -> None:
    """The debug preset has one checkpoint before its end: three of four kills come after it, in three phases."""
    draw = random.Random(1)
    moments = _choose(4, [20], 30.0, 8.0, draw)
    assert [(moment.checkpoint, moment.phase) for moment in moments] == [
        (0, "before a step"),
        (20, "between steps"),
        (20, "in an evaluation"),
        (20, "in a save"),
    ]
    assert all(0 <= moment.secs <= longest for moment, longest in zip(moments, (30.0, 4.0, 0.3, 0.05), strict=True))
    assert [moment.checkpoint for moment in _choose(9, [*range(2, 22, 2)], 1.0, 1.0, draw)] == [0, 0, 2, 4, 6, 10, 12, 16, 18]
    assert [moment.checkpoint for moment in _choose(1, [20], 1.0, 1.0, draw)] == [20]
    assert _choose(0, [20], 1.0, 1.0, draw) == []


def test_the_end_says_where_the_kills_fell() -> None:
    kills = [Kill(0, False, "before a step"), Kill(20, True, "in a save"), Kill(20, False, "between steps")]
    assert _tell(kills, 3) == (
        "3 kills: 1 before the first checkpoint, 1 after a new one, 1 after one that was continued before; "
        "1 before a step, 1 in a save, 1 between steps"
    )
    assert (
        _tell(kills[:1], 4)
        == "1 kills (4 were asked for, but the training had ended before): 1 before the first checkpoint; 1 before a step"
    )


def test_a_life_is_watched_from_outside(tmp_path: Path) -> None:
    """Of what lies there from lives before nothing is taken for new."""
    log, checkpoints = tmp_path / "logs/process-0.log", tmp_path / "checkpoints"
    for folder in (log.parent, checkpoints / "10", checkpoints / "20.orbax-checkpoint-tmp"):
        folder.mkdir(parents=True)
    (checkpoints / "10/manifest.json").touch()
    log.write_text("step     15/40 a line of the life before\n")
    watch, training = _Watch(epath.Path(tmp_path), 0), TrainingConfig(steps=40, evaluate_every_steps=20, save_every_steps=10)

    def seen(line: str = "") -> tuple[int, str]:
        with log.open("a") as file:
            file.write(line)
        now = watch.look()
        return now.newest, now.phase(training)

    assert seen() == (10, "before a step")
    (checkpoints / "20.orbax-checkpoint-tmp").rmdir()  # as a life does when it begins
    assert seen("2026 continuing at step 10\n2026 step     1") == (10, "before a step")
    assert seen("5/40 epoch   1\n") == (10, "between steps")
    assert seen("2026 step     20/40 epoch   1\n") == (10, "in an evaluation")
    assert seen("2026 valid     20 loss 1.00\n") == (10, "between steps")
    (checkpoints / "20.orbax-checkpoint-tmp").mkdir()
    assert seen() == (10, "in a save")
    (checkpoints / "20.orbax-checkpoint-tmp").rename(checkpoints / "20")
    (checkpoints / "20/manifest.json").touch()
    assert seen() == (20, "between steps")


def test_what_would_prove_nothing_is_refused_before_it_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--training.steps=20", "--training.evaluate-every-steps=20", "--training.save-every-steps=20"]
    assert main(["verify-resume", DEBUG, "--run-dir", str(tmp_path / "new"), *few]) == 2
    said = capsys.readouterr().err
    assert "there is no checkpoint before the end" in said
    assert "give more --training.steps (now 20), or fewer --training.save-every-steps (now 20)" in said
    assert not (tmp_path / "new").exists()


def test_nothing_is_claimed_where_no_kill_was_after_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def live(self: _Lives, moment: object) -> int:
        self.kills += [Kill(0, False, "before a step")] if moment else []
        return -9 if len(self.kills) == 1 else 0

    monkeypatch.setattr(_Lives, "live", live)
    with pytest.raises(
        Failure, match=r"nothing is proved, as no kill was after a checkpoint: 2 kills: 2 before the first checkpoint;.*; give"
    ):
        verify_resume.run(load_preset(DEBUG), str(tmp_path / "new"), 2, 1)


def test_a_stop_leaves_no_training_behind(tmp_path: Path) -> None:
    (process,) = start([verify(tmp_path / "both", "--training.steps=100000")], 1)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "both/straight").glob("checkpoints/*")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


def test_another_end_is_a_failure(tmp_path: Path, trained_run: Path) -> None:
    other = tmp_path / "checkpoints/4"
    other.mkdir(parents=True)
    manifest = json.loads((trained_run / "checkpoints/4/manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(changed_hash(manifest)))
    with pytest.raises(Failure, match=r"the killed run ended at step 4, state 0{64}, undisturbed at step 4, state .*; 3 kills"):
        _compare(epath.Path(trained_run), epath.Path(tmp_path), "3 kills")


def changed_hash(manifest: dict) -> dict:
    tree = {**manifest, "state_sha256": "0" * 64}
    del tree["sha256"]
    return {**tree, "sha256": manifests._hash_tree(tree)}


def test_the_users_mistakes_are_answered_as_by_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", DEBUG, "--run-dir", str(tmp_path), *TINY]) == 2
    assert "exists; give another --run-dir" in capsys.readouterr().err
    assert main(["verify-resume", DEBUG, "--run-dir", str(tmp_path / "new"), *TINY, "--training.devices=999"]) == 2
    assert "but there are" in capsys.readouterr().err
