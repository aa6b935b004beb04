"""The command line: help that explains, one message for a mistake, exit code 2, nothing lost."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from etils import epath
from tiny import DEBUG, REPOSITORY, TINY

from flax_s2s import __version__
from flax_s2s.cli import verbs
from flax_s2s.cli.options import Decode, Evaluate, Inspect, Train
from flax_s2s.cli.verbs import VERBS, main
from flax_s2s.config import Config, flatten
from flax_s2s.presets import load_preset
from flax_s2s.runs.lease import hold
from flax_s2s.runs.rundir import write_config


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
    """All of them, after those that are used most, which there are."""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    head, start, options = capsys.readouterr().out.partition("-h, --help")
    assert ended.value.code == 0 and start and "default" in options
    assert verb not in ("train", "inspect", "bench", "sweep", "verify-resume") or "--model.hidden-size" in options
    most_used = re.findall(r"^  (--[a-z.-]+)", head, re.MULTILINE)
    assert (4 <= len(most_used) <= 10) == (verb not in ("shortlist", "import"))  # which have few
    for option in re.findall(r"--[a-z][a-z.-]+", head if verb != "shortlist" else ""):
        assert re.search(rf" {re.escape(option)}[ ,\n]", options), option


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
    assert "Unrecognized options: --training.step, 3" in fails(capsys, "train", DEBUG, "--training.step", "3")
    assert "Unrecognized options: --config" in fails(capsys, "train", DEBUG, "--config")
    assert "Unrecognized options: mine" in fails(capsys, "train", DEBUG, "mine")
    assert "For full helptext, run flax-s2s train debug --help" in fails(capsys, "train", "debug", "mine")
    assert "needs a preset" in fails(capsys, "train")
    assert "did you mean 'debug'" in fails(capsys, "train", DEBUG.replace("debug", "debugg"))
    assert "--model.hidden-size INT" in fails(capsys, "train", DEBUG, "--model.hiden-size", "3")
    assert "invalid literal for int()" in fails(capsys, "train", DEBUG, "--model.hidden-size", "x")
    assert "invalid choice 'foo'" in fails(capsys, "train", DEBUG, "--model.attention", "foo")
    assert "RUN_DIR" in fails(capsys, "evaluate")
    assert "there is no run directory" in fails(capsys, "evaluate", str(tmp_path / "none"))
    assert "it has no config.json" in fails(capsys, "decode", str(tmp_path))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        *((word, "`decode RUN_DIR` translates lines") for word in ("translate", "predict", "Generate", "infer")),
        ("server", "`serve RUN_DIR` answers over HTTP"),
        *((word, "`evaluate RUN_DIR` translates a split") for word in ("test", "eval", "validate")),
        ("resume", "`train RUN_DIR` goes on with a run"),
        ("finetune", "--init-from RUN_DIR"),
        ("quickstart", "`train quickstart` trains that preset"),
        (DEBUG, f"`train {DEBUG}` trains that preset"),
        (str(REPOSITORY), f"`evaluate {REPOSITORY}` scores it"),
        ("--training.steps", "options come after the verb"),
        ("--verison", "did you mean '--version'"),
        ("version", "did you mean '--version'"),
    ],
)
def test_a_word_that_is_no_verb_is_answered_with_one(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, word)
    assert f"there is no verb {word!r}" in said and hint in said and "verbs: train, evaluate" in said


def test_what_other_names_lead_to_are_verbs() -> None:
    assert all(verb in VERBS for text in verbs._OTHER_NAMES.values() for verb in re.findall("`([a-z-]+)", text))
    assert not set(verbs._OTHER_NAMES) & set(VERBS)


@pytest.mark.parametrize("argument", ["--version", "-V"])
def test_the_version(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 0
    assert capsys.readouterr().out == f"flax_s2s {__version__}\n"


def test_a_preset_where_a_run_belongs_and_the_reverse(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", DEBUG):
        said = fails(capsys, "evaluate", name)
        assert f"{name} is a preset, and evaluate needs the run directory of a model, such as runs/{Path(name).stem}, which `train" in said
    assert "is a preset, and --init-from needs the run directory" in fails(capsys, "train", "debug", "--init-from=quickstart")
    assert "is a preset, and shortlist needs the run directory" in fails(capsys, "shortlist", DEBUG)
    Path("lines.txt").touch()
    assert "lines.txt is a file, and decode takes run directories there" in fails(capsys, "decode", "lines.txt")
    write_run("runs/mine")
    assert "no run directory mine; did you mean 'runs/mine'?" in fails(capsys, "decode", "mine")
    assert "no run directory runs/mime; did you mean 'runs/mine'?" in fails(capsys, "decode", "runs/mime")
    for verb in ("bench", "sweep", "verify-resume"):
        assert f"runs/mine is a folder, and {verb} needs a preset" in fails(capsys, verb, "runs/mine")
    assert "runs/mine/config.json is a file, and decode takes run directories there; use runs/mine" in fails(
        capsys, "decode", "runs/mine/config.json"
    )
    assert "no config.json; run directories in it: runs/mine; `train" in fails(capsys, "decode", "runs")
    Path("runs/mine/checkpoints/20").mkdir(parents=True)
    said = fails(capsys, "decode", "runs/mine/checkpoints/20")
    assert "; the run directory is runs/mine, and --checkpoint 20 chooses that one of it; `train" in said
    write_run("runs/three")
    write_run("runs/three/seed-1")
    Path("runs/three/preset.py").touch()
    for arguments in (["train", "runs/three"], ["train", "debug", "--run-dir=runs/three"], ["evaluate", "runs/three"]):
        said = fails(capsys, *arguments)
        assert "runs/three is the folder of a sweep or of verify-resume, not a run directory; its runs: runs/three/seed-1" in said


def write_run(name: str) -> Config:
    """A run directory with a configuration, and nothing else."""
    Path(name).mkdir(parents=True)
    config = Config(seed=5)
    write_config(epath.Path(name), config)
    return config


def test_what_train_is_given_first(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset, by name or file; or a run directory, which holds its configuration; or that as --run-dir alone."""
    monkeypatch.chdir(tmp_path)
    given: list[tuple[Any, ...]] = []

    def run(config: Config, run_dir: str, place: object, init_from: str, command: str, *, report: bool) -> int:
        assert not report
        given.append((config, run_dir, init_from, command))
        return 0

    monkeypatch.setattr("flax_s2s.commands.train.run", run)
    held, start = write_run("runs/mine"), "python -m flax_s2s train"
    shorter = dataclasses.replace(held, training=dataclasses.replace(held.training, steps=3))
    for arguments, *expected in (
        (["debug"], load_preset(DEBUG), "runs/debug", "", f"{start} debug"),
        ([DEBUG, "--run-dir", "a b"], load_preset(DEBUG), "a b", "", f"{start} {DEBUG} --run-dir 'a b'"),
        (["runs/mine"], held, "runs/mine", "", f"{start} runs/mine"),
        (["--run-dir", "runs/mine"], held, "runs/mine", "", f"{start} --run-dir runs/mine"),
        (["--run_dir=runs/mine"], held, "runs/mine", "", f"{start} --run_dir=runs/mine"),
        (["--training.steps=3", "--run-dir=runs/mine"], shorter, "runs/mine", "", f"{start} --training.steps=3 --run-dir=runs/mine"),
        (["runs/mine", "--run-dir=b", "--init-from=c"], held, "b", "c", f"{start} runs/mine --run-dir=b --init-from=c"),
    ):
        assert main(["train", *arguments]) == 0
        assert given.pop() == tuple(expected)
    Path("debug").mkdir()
    assert main(["train", "debug"]) == 0 and given.pop()[1] == "runs/debug"  # a folder of the name is a run only if it holds one
    write_run("quickstart")
    assert main(["train", "quickstart"]) == 0 and given.pop()[:2] == (held, "quickstart")
    needs = "train needs a preset or a run directory"
    for arguments, message in (
        ([], f"{needs} as its first argument, for example: train quickstart"),
        (["--run-dir", "none"], f"{needs} (there is no run in none yet) as its first argument"),
        (["--run-dir", "none", DEBUG], f"the preset comes first, its options after it: train {DEBUG} ..."),
        (["--run-dir", "runs/mine", DEBUG], f"Unrecognized options: {DEBUG}"),
        (["debug", "--run-dir="], "--run-dir is empty, perhaps because a shell variable is not set"),
        (["none"], "there is no preset 'none'; presets: "),
        (["runs/none"], "there is no preset and no run directory 'runs/none'"),
        (["configs/quickstart.py"], "there is no preset 'configs/quickstart.py'; did you mean 'quickstart'?"),
        (["runs/mine/config.json"], "must be a Python file, NAME.py; of a run give the folder"),
        (["runs"], "runs is not a run directory: it has no config.json"),
    ):
        assert message.replace(" ", "") in fails(capsys, "train", *arguments).replace(" ", "")
    assert given == []


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


def test_a_language_and_a_tokenizer_have_the_same_names_in_every_verb(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb in ("train", "sweep", "inspect", "bench", "verify-resume"):
        said = fails(capsys, verb, DEBUG, *(["--run-dir", str(tmp_path / "run")] if verb in ("train", "sweep") else []), "--language", "cn")
        assert "evaluation.language='cn' is no language" in said
        assert "evaluation.tokenizer" in fails(capsys, verb, DEBUG, "--tokenizer=mecab")
    for verb in ("evaluate", "compare", "decode"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        printed = capsys.readouterr().out
        assert "--language STR" in printed and "--tokenizer {auto,13a,intl,zh,char,none,flores200,ja-mecab,ko-mecab}" in printed
    assert not (tmp_path / "run").exists()


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


def test_the_program_looks_for_no_garbage_as_it_ends() -> None:
    """It would be a fifth of what a short `decode` takes."""
    code = """
import atexit, gc, sys
from flax_s2s.__main__ import main
atexit.register(lambda: print("frozen", len(gc.get_objects()) < gc.get_freeze_count()))
sys.argv = ["another.py", "--version"]
main()
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.endswith("frozen True\n")


@pytest.mark.parametrize(
    "default", [Decode(), Evaluate(Config().decoding), Train(Config(), "runs/tiny"), Inspect(Config())], ids=lambda one: type(one).__name__
)
def test_without_options_a_verb_is_given_its_defaults_as_tyro_gives_them(default: Any) -> None:
    assert verbs._parse(type(default), "verb", [], default) is default
    assert tyro.cli(type(default), args=[], default=default) == default


def test_settings_of_the_search_stand_below_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["decode", "--help"])
    boxes = capsys.readouterr().out.partition("-h, --help")[2]
    places = [boxes.index(f" {option} ") for option in ("--checkpoint", "--input", "--output", "--beam-size", "--max-source-tokens")]
    assert places == sorted(places)


def test_every_room_is_a_dataclass_with_a_docstring() -> None:
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        assert not dataclasses.is_dataclass(value) or type(value).__doc__
