"""The command line: help that explains, one message for a mistake, exit code 2, nothing lost."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from tiny import DEBUG, REPOSITORY, TINY

from flax_s2s.cli import VERBS, main
from flax_s2s.config import Config, flatten
from flax_s2s.lease import hold


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a wrong command line says, on one line; the exit code is 2."""
    capsys.readouterr()
    try:
        code: object = main(arguments)
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and "Traceback" not in said.err
    return " ".join(said.err.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_usage_names_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"  {verb} " in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    printed = capsys.readouterr().out
    assert (
        ended.value.code == 0 and "default" in printed and ("--checkpoint" in printed or "--data-folder" in printed)
    ) or "--model.hidden-size" in printed


def test_train_explains_every_field_with_the_presets_value(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["train", DEBUG, "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in flatten(Config()):
        assert f"--{name.replace('_', '-')}" in printed
    assert "Units of each layer. (default: 32)" in printed


def test_mistakes_of_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no verb 'trian'; did you mean 'train'" in fails(capsys, "trian")
    assert "needs a preset" in fails(capsys, "train")
    assert "did you mean 'debug'" in fails(capsys, "train", DEBUG.replace("debug", "debugg"))
    assert "--model.hidden-size INT" in fails(capsys, "train", DEBUG, "--model.hiden-size", "3")
    assert "invalid literal for int()" in fails(capsys, "train", DEBUG, "--model.hidden-size", "x")
    assert "invalid choice 'foo'" in fails(capsys, "train", DEBUG, "--model.attention", "foo")
    assert "RUN_DIR" in fails(capsys, "evaluate")
    assert "there is no run directory" in fails(capsys, "evaluate", str(tmp_path / "none"))
    assert "it has no config.json" in fails(capsys, "decode", str(tmp_path))


def test_mistakes_of_the_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def wrong(*options: str) -> str:
        return fails(capsys, "train", DEBUG, "--run-dir", str(tmp_path / "run"), *TINY, *options)

    assert "must be a multiple of the 8 devices" in wrong("--training.devices=8", "--data.row-multiple=4")
    assert "but there are 8 cpu devices" in wrong("--training.devices=9")
    assert "is larger than the text allows" in wrong("--vocab.kind=bpe", "--vocab.size=30000")
    assert "were left out" in wrong("--data.max-source-tokens=1", "--data.batch-tokens=768")
    assert "must name a file inside" in wrong("--data.format=text", "--data.folder", str(tmp_path), "--data.train=../x")
    assert "side '../x' must be" in wrong("--data.source=../x")
    assert "there is no train.en" in wrong("--data.format=text", "--data.folder", str(tmp_path))
    assert "is not known to TFDS" in wrong("--data.format=tfds", "--data.dataset=no_such_set")
    assert "model.input_feeding needs attention" in wrong("--model.attention=none", "--model.input-feeding")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lease.json", "logs"]  # nothing half-made is left


def test_a_run_directory_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made" in fails(capsys, "train", DEBUG, "--run-dir", str(tmp_path / "file" / "run"))


def test_a_run_directory_in_use_names_its_holder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with hold(epath.Path(tmp_path), print):
        assert f"in use by process {os.getpid()} on" in fails(capsys, "train", DEBUG, "--run-dir", str(tmp_path), *TINY)


def test_a_run_directory_without_checkpoint_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path, trained_run: Path) -> None:
    (tmp_path / "config.json").write_text((trained_run / "config.json").read_text())
    assert "no complete checkpoint yet" in fails(capsys, "evaluate", str(tmp_path))


def test_the_module_runs_as_a_program() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-m", "flax_s2s", "evalute"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: there is no verb 'evalute'; did you mean 'evaluate'?; verbs: {', '.join(VERBS)}\n"


def test_every_room_is_a_dataclass_with_a_docstring() -> None:
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        assert not dataclasses.is_dataclass(value) or type(value).__doc__
