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
        assert len(parity["runtimes"]) == 2 and len(parity["translations"]) == parity["lines"] > 10
        for name, one in parity["runtimes"].items():
            assert parity["lines"] == one["equal"] + one["differ"] and one["differ"] == one["ties"]
            assert f"{name}: {one['equal']} of {parity['lines']} translations are those of decode, scores within" in said
            assert one["largest_score_difference"] < 1e-4
            assert one["metrics"] == pytest.approx(parity["metrics"]) and parity["metrics"]
    lines = ["3 hours", "", "May 14, 2023", "日"]
    wanted = flax_s2s.load(trained_run).translate(lines, beam_size=3, compute="float32")
    for options in ([], ["--batch=64"], ["--engine=numpy"], ["--engine=numpy", "--batch=2"]):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "out/translate.py"), *options],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split("\n")[:-1] == [one.text for one in wanted]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"README.md", "GRAPHS.md", "model.json", "parity.json", "translate.py", "weights.npz", "encoder.onnx", "step.onnx"}
    sizes = {name: (tmp_path / "out" / name).stat().st_size for name in files}
    assert sizes["encoder.onnx"] + sizes["step.onnx"] < 2**15 < sizes["weights.npz"]  # the weights are there once
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_in_int8_it_is_a_quarter_and_says_what_that_costs(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("none", "int8"):
        assert main(["export", str(trained_run), "--output", str(tmp_path / name), "--quantize", name, "--beam-size=3"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    sizes = [(tmp_path / name / "weights.npz").stat().st_size for name in ("none", "int8")]
    assert sizes[1] < 0.45 * sizes[0]  # scales weigh something in a model as small as this
    parity = json.loads((tmp_path / "int8/parity.json").read_text())
    for name, one in parity["runtimes"].items():
        assert one["equal"] >= 0.5 * parity["lines"]  # of a model that has hardly learned, whose scores lie close together
        assert f"{name}: {one['equal']} of {parity['lines']}" in said
        differing = [row for row in parity["translations"] if row[name].get("differs")]
        assert len(differing) == one["differ"] - one["ties"]
        for metric, score in one["metrics"].items():
            assert abs(score - parity["metrics"][metric]) < 10
            assert not one["differ"] or f"{metric} {score:.2f}, decode {parity['metrics'][metric]:.2f}" in said
    assert json.loads((tmp_path / "int8/model.json").read_text())["weights"] == "int8"


def test_a_model_that_says_something_else_is_not_written(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = runtime.Graphs.step

    def wrong(self: Any, *given: Any) -> Any:
        states, totals, chosen, weights = step(self, *given)
        return states, totals, chosen[:, ::-1].copy(), weights

    monkeypatch.setattr(runtime.Graphs, "step", wrong)
    assert main(["export", str(trained_run), "--output", str(tmp_path / "out")]) == 1
    assert "the exported model does not say the same as decode" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_extra_that_is_missing_is_named(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["export", str(trained_run), "--output", str(tmp_path / "out")]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"for which {package} is not installed: pip install 'flax_s2s[export]'" in said
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
