"""`verify-resume` as a user runs it."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from processes import PROGRAM, finish, start
from tiny import DEBUG, TINY

from flax_s2s import manifests
from flax_s2s.cli import main
from flax_s2s.commands import verify_resume
from flax_s2s.commands.verify_resume import _compare, _Lives
from flax_s2s.config import Failure


def verify(folder: Path, *options: str) -> list[str]:
    return [*PROGRAM, "verify-resume", DEBUG, "--run-dir", str(folder), *TINY, *options]


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
    assert done.stdout.startswith("equal after 2 kills: step 24, state ")
    assert "kill 2, newest checkpoint" in done.stderr


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
    from etils import epath

    other = tmp_path / "checkpoints/4"
    other.mkdir(parents=True)
    manifest = json.loads((trained_run / "checkpoints/4/manifest.json").read_text())
    with pytest.raises(Failure, match=r"after 0 kills the run ended at .*, undisturbed at step 4, state"):
        (other / "manifest.json").write_text(json.dumps(changed_hash(manifest)))
        life = _Lives(epath.Path(tmp_path), epath.Path(tmp_path), verify_resume.cluster.ALONE)
        _compare(epath.Path(trained_run), epath.Path(tmp_path), life)


def changed_hash(manifest: dict) -> dict:
    tree = {**manifest, "state_sha256": "0" * 64}
    del tree["sha256"]
    return {**tree, "sha256": manifests._hash_tree(tree)}


def test_the_users_mistakes_are_answered_as_by_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-resume", DEBUG, "--run-dir", str(tmp_path), *TINY]) == 2
    assert "exists; give another --run-dir" in capsys.readouterr().err
    assert main(["verify-resume", DEBUG, "--run-dir", str(tmp_path / "new"), *TINY, "--training.devices=999"]) == 2
    assert "but there are" in capsys.readouterr().err
