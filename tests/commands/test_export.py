"""`export`: from a trained run to a folder, compared before it is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flax_s2s
from flax_s2s.cli.verbs import main
from flax_s2s.export import runtime


def test_a_run_is_exported_and_says_the_same(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a folder that is used by itself; with n-best lists too."""
    for beam, n_best in ((2, 2), (3, 1)):
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
        assert main(["export", str(trained_run), "--output", str(tmp_path / "out"), f"--beam-size={beam}", f"--n-best={n_best}"]) == 0
        said = " ".join(capsys.readouterr().err.split())
        parity, about = (json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("parity", "model"))
        assert (parity["beam_size"], about["decoding"]["beam_size"]) == (beam, beam)
        assert parity["lines"] == parity["equal"] + parity["differ"] > 10 and parity["differ"] == parity["ties"]
        assert f"{parity['equal']} of {parity['lines']} translations are those of decode, scores within" in said
        assert parity["largest_score_difference"] < 1e-4
    lines = ["3 hours", "", "May 14, 2023", "日"]
    wanted = flax_s2s.load(trained_run).translate(lines, beam_size=3, compute="float32")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "out/translate.py")],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:-1] == [one.text for one in wanted]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "model.json", "parity.json", "translate.py", "weights.npz"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_that_says_something_else_is_not_written(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = runtime.Model.step

    def wrong(self: Any, *given: Any) -> Any:
        states, feed, logp, weights = step(self, *given)
        return states, feed, logp[:, ::-1].copy(), weights

    monkeypatch.setattr(runtime.Model, "step", wrong)
    assert main(["export", str(trained_run), "--output", str(tmp_path / "out")]) == 1
    assert "the exported model does not say the same as decode" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "export needs --output, a folder to write"),
        (["--output", "{file}"], "is there already; give another --output"),
        (["--output", "{new}", "--min-tokens", "2"], "decoding.min_tokens=2 is not held by an exported search"),
        (["--output", "{new}", "--parity", "{empty}"], "has no lines with text; give some sources, one a line"),
        (["--output", "{file}/in/it"], "cannot be written: "),
        (["--output", "{new}", "--beam-size", "5", "--n-best", "9"], "decoding.n_best=9 must be at most decoding.beam_size=5"),
    ],
)
def test_what_cannot_be_exported(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    names = {"file": tmp_path / "file", "new": tmp_path / "new", "empty": tmp_path / "empty"}
    names["file"].write_text("mine")
    names["empty"].touch()
    assert main(["export", str(trained_run), *(option.format(**names) for option in options)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert names["file"].read_text() == "mine" and not names["new"].exists()


def test_several_runs_are_refused(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained_run), str(trained_run), "--output", str(tmp_path / "out")]) == 2
    assert "2 runs cannot be exported as one" in capsys.readouterr().err
