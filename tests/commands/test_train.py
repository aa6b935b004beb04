"""`train` as a user runs it: resuming, stopping, devices, refusals."""

import io
import json
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib.image
import numpy as np
import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event
from tiny import DEBUG, PLAIN, REPOSITORY, TINY, changed

from flax_s2s.cli.verbs import main
from flax_s2s.commands import initial
from flax_s2s.commands.train import as_begun
from flax_s2s.commands.wiring import make_ready, open_runs
from flax_s2s.config import UserError, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.presets import load_preset
from flax_s2s.rules import check
from flax_s2s.runs import rundir

SIX = ["--training.steps=6", "--training.evaluate-every-steps=3", "--training.save-every-steps=3"]


def train(folder: Path, *options: str) -> int:
    return main(["train", DEBUG, "--run-dir", str(folder), *TINY, *options])


def program(folder: Path, *options: str) -> list[str]:
    """`train` as a program of its own."""
    start = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from flax_s2s.__main__ import main; main()"
    return [sys.executable, "-c", start, "train", DEBUG, "--run-dir", str(folder), *TINY, *options]


def records(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def final_hash(folder: Path) -> str:
    last = max(int(path.parent.name) for path in folder.glob("checkpoints/*/manifest.json"))
    manifest = json.loads((folder / "checkpoints" / str(last) / "manifest.json").read_text())
    return f"{last} {manifest['state_sha256']}"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert train(folder, *SIX) == 0
    return folder


def learned(folder: Path, checkpoint: str = "last") -> dict[str, Any]:
    """The parameters that a run decodes with, by their path."""
    opened = open_runs([str(folder)], checkpoint)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(opened.params[0])
    }


def test_a_run_starts_from_another_one_s_parameters(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = learned(trained_run)
    rooms = sorted({path.split("/")[0] for path in before})
    options = [*PLAIN, "--init-from", str(trained_run), "--optimizer.learning-rate=0.01", "--data.max-train-pairs=300"]
    most = [*options, "--optimizer.frozen", *sorted(set(rooms) - {"output_bias"}), "--model.dropout=0.25", "--training.keep-last=9"]
    assert train(tmp_path / "same", *most) == 0
    assert f"starting from the parameters of {trained_run}; unlike it: model.dropout: 0.1 -> 0.25\n" in capsys.readouterr().err
    assert (tmp_path / "same/vocab/joint.model").read_bytes() == (trained_run / "vocab/joint.model").read_bytes()
    begin, after = learned(tmp_path / "same", "0"), learned(tmp_path / "same")
    assert all(np.array_equal(before[path], begin[path]) for path in before)
    assert [path for path in before if not np.array_equal(before[path], after[path])] == ["output_bias"]
    assert json.loads((tmp_path / "same/checkpoints/0/manifest.json").read_text())["regular"]  # training may go back to it
    assert train(tmp_path / "some", *options, "--optimizer.frozen", "encoder") == 0
    after = learned(tmp_path / "some")
    assert {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])} == set(rooms) - {"encoder"}
    capsys.readouterr()
    assert train(tmp_path / "some", *options, "--optimizer.frozen", "encoder", "--training.steps=5") == 0
    assert f"continuing {tmp_path / 'some'} at step 4; {trained_run} is not read again" in capsys.readouterr().err


def test_a_run_starts_from_the_best_checkpoint_of_another_one(tmp_path: Path) -> None:
    unstable = [*PLAIN, "--optimizer.learning-rate=3.0"]
    assert train(tmp_path / "old", *unstable) == 0
    losses = [record["loss"] for record in records(tmp_path / "old", "valid")]
    assert losses[0] < losses[1]
    assert train(tmp_path / "new", *unstable, "--init-from", str(tmp_path / "old"), "--training.keep-last=9") == 0
    best, last, begin = learned(tmp_path / "old", "best"), learned(tmp_path / "old"), learned(tmp_path / "new", "0")
    assert all(np.array_equal(best[path], begin[path]) for path in best)
    assert not all(np.array_equal(last[path], begin[path]) for path in best)


@pytest.mark.parametrize(
    "tokens",
    [
        ["--vocab.kind=bpe", "--vocab.size=300", "--vocab.sampling=0.2", "--data.max-train-pairs=150"],
        ["--data.hallucination=0.5", "--data.max-train-pairs=80"],
    ],
    ids=["sampled tokens", "made-up pairs"],
)
def test_everything_random_goes_on_as_it_would_have(tmp_path: Path, tokens: list[str]) -> None:
    """Stopped in the second epoch."""
    random = [
        *tokens,
        "--model.dropout-masks=sentence",
        "--model.zoneout=0.1",
        "--model.recurrent-dropout=0.2",
        "--model.word-dropout=0.1",
        "--optimizer.scheduled-sampling=0.3",
    ]
    every = [*PLAIN, "--training.evaluate-every-steps=4", "--training.save-every-steps=4"]
    assert train(tmp_path / "straight", *random, *every, "--training.steps=12") == 0
    assert train(tmp_path / "resumed", *random, *every, "--training.steps=8") == 0
    assert records(tmp_path / "resumed", "train")[-1]["epoch"] == 1
    assert train(tmp_path / "resumed", *random, *every, "--training.steps=12") == 0
    assert final_hash(tmp_path / "resumed") == final_hash(tmp_path / "straight")
    losses = [[record["loss"] for record in records(tmp_path / name, "train")] for name in ("straight", "resumed")]
    assert losses[0] == losses[1]


def test_sampled_tokens_are_others_in_each_epoch_and_with_each_seed() -> None:
    config = changed(load_preset(DEBUG), {"vocab.kind": "bpe", "vocab.size": 300, "vocab.sampling": 0.2, "data.max_train_pairs": 200})
    seeds = [make_ready(changed(config, {"seed": seed}), None).draw for seed in (1, 1, 2)]
    drawn = [draw(epoch).source.flat.tobytes() for draw in seeds if draw for epoch in (0, 1, 2)]
    assert drawn[:3] == drawn[3:6]
    assert len(set(drawn)) == 6
    pipeline = make_ready(config, None).make_pipeline(1)  # what training reads
    read = [sorted(pipeline.batch(planned).src_ids.tobytes() for planned in pipeline.plan(epoch)) for epoch in (0, 1)]
    assert [pipeline.count(epoch)[0] for epoch in (0, 1)] == [len(np.frombuffer(one, np.uint16)) for one in drawn[:2]]
    assert read[0] != read[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.hidden-size=20", "has another model than this run:\n  model.hidden_size: 32 -> 20\ngive the old values"),
        ("--vocab.size=120", "has another vocabulary than this run asks for:\n  vocab.size:"),
        ("--init-from=nowhere", "nowhere"),
        ("--optimizer.frozen=encoders", "optimizer.frozen: there is no parameter 'encoders'; did you mean 'encoder'"),
    ],
)
def test_a_run_that_cannot_be_started_from_is_refused(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert train(tmp_path / "run", "--init-from", str(trained_run), option) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_the_other_direction_is_refused_unless_both_share_a_vocabulary(tmp_path: Path) -> None:
    for joint in (True, False):
        there = changed(load_preset(DEBUG), {"vocab.joint": joint, "data.source": "en", "data.target": "zh"})
        back = changed(there, {"data.source": "zh", "data.target": "en"})
        rundir.write_config(epath.Path(tmp_path), there)
        crossed = "reads en and writes zh, each with a vocabulary of its own, and this run reads zh"
        for config, refusal in ((there, "has no complete checkpoint yet"), (back, "has no complete checkpoint yet" if joint else crossed)):
            with pytest.raises(UserError, match=refusal):
                initial.find(str(tmp_path), config)


def test_a_run_to_start_from_must_have_its_vocabulary(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is said before another one is trained."""
    shutil.copytree(trained_run, tmp_path / "old")
    shutil.rmtree(tmp_path / "old/vocab")
    assert train(tmp_path / "new", "--init-from", str(tmp_path / "old")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / 'old/vocab'} has no vocabulary; the run directory is not complete" in said and "parameters" not in said


def test_a_run_directory_is_complete(trained_run: Path) -> None:
    assert {path.name for path in trained_run.iterdir()} - {"calibration.json"} == {  # other tests calibrate it
        *("config.json", "summary.json", "vocab", "checkpoints", "metrics.jsonl", "tensorboard", "logs", "lease.json")
    }
    train_lines = records(trained_run, "train")
    assert [record["step"] for record in train_lines] == [1, 2, 3, 4]
    assert all({"loss", "perplexity", "tokens_per_sec", "learning_rate", "gradient_norm"} <= record.keys() for record in train_lines)
    assert [record["step"] for record in records(trained_run, "valid")] == [2, 4]
    assert {"loss", "perplexity", "exact_match", "chrf", "wer"} <= records(trained_run, "valid")[0].keys()
    assert [record["checkpoint"] for record in records(trained_run, "checkpoint")] == [2, 4]
    facts = json.loads((trained_run / "summary.json").read_text())
    log = (trained_run / "logs/process-0.log").read_text()
    assert facts["train"].startswith("400 pairs of ") and all(text in log for text in facts.values())


def test_tensorboard_gets_the_samples_of_each_evaluation_and_what_the_first_looked_at(trained_run: Path) -> None:
    (file,) = (trained_run / "tensorboard").iterdir()
    data, pictures, texts = file.read_bytes(), [], []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        pictures += [(event.step, value.image) for value in event.summary.value if value.tag == "valid/attention"]
        texts += [
            (event.step, value.tensor.string_val[0].decode()) for value in event.summary.value if value.tag == "valid/samples/text_summary"
        ]
    log = (trained_run / "logs/process-0.log").read_text()
    assert [step for step, _ in texts] == [step for step, _ in pictures] == [2, 4]
    for _, text in texts:
        lines = [line.removeprefix("    ") for line in text.split("\n")]
        assert len(lines) == 3 and all(line in log for line in lines) and lines[0].startswith("  source     ")
    for _, picture in pictures:
        image = matplotlib.image.imread(io.BytesIO(picture.encoded_image_string))
        assert image.shape[:2] == (picture.height, picture.width) and image.std() > 0.01


def test_three_steps_and_three_more_equal_six_bitwise(tmp_path: Path, straight: Path) -> None:
    assert train(tmp_path, *SIX, "--training.steps=3") == 0
    assert train(tmp_path, *SIX) == 0
    assert final_hash(tmp_path) == final_hash(straight)
    again = [(record["step"], record["loss"]) for record in records(tmp_path, "train")]
    assert again == [(record["step"], record["loss"]) for record in records(straight, "train")]


def test_a_finished_run_is_left_as_it_is(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = final_hash(straight), (straight / "metrics.jsonl").read_text()
    assert train(straight, *SIX) == 0
    assert (final_hash(straight), (straight / "metrics.jsonl").read_text()) == before
    assert "done at step 6" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on_bitwise(tmp_path: Path, straight: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(program(tmp_path, *SIX, "--training.steps=100000"), stderr=subprocess.PIPE, text=True)
    while not ((tmp_path / "metrics.jsonl").exists() and records(tmp_path, "train")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert "the same command goes on from here" in said
    stopped_at = int(final_hash(tmp_path).split()[0])
    assert f"stopped and saved at step {stopped_at}" in said
    if stopped_at < 6:
        assert train(tmp_path, *SIX) == 0
        assert final_hash(tmp_path) == final_hash(straight)


def test_eight_devices_have_the_losses_of_one(tmp_path: Path, straight: Path) -> None:
    assert train(tmp_path, *SIX, "--training.devices=8") == 0
    losses = [[record["loss"] for record in records(folder, "train")] for folder in (tmp_path, straight)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_another_identity_is_refused_with_the_difference(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = final_hash(straight)
    assert train(straight, *SIX, "--model.hidden-size=16", "--optimizer.learning-rate=0.1") == 2
    said = capsys.readouterr().err
    assert "model.hidden_size: 32 -> 16" in said and "optimizer.learning_rate: 0.005 -> 0.1" in said
    assert f"give the old values (`train {straight}` alone has them), or another --run-dir\n" in said
    assert final_hash(straight) == before


@pytest.mark.parametrize(
    ("options", "tuned"),
    [
        (["--data.max-train-pairs=300"], True),
        (["--optimizer.learning-rate=0.1", "--model.dropout=0.2"], True),
        (["--optimizer.learning-rate=0.1", "--vocab.size=300"], False),
        (["--data.max-train-pairs=300", "--model.bridge=dense"], False),
        (["--seed=2"], False),
    ],
)
def test_a_refusal_names_init_from_where_that_is_the_way(
    options: list[str], tuned: bool, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(straight), *options]) == 2
    assert (f"; with --init-from {straight} it begins with what this one has learned" in capsys.readouterr().err) == tuned


def test_a_cosine_ends_where_the_run_was_begun_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever steps a preset has by then: a run that goes on does so with the learning rates that it was begun with."""
    preset = load_preset("quickstart")
    steps = preset.training.steps
    begun = check(changed(preset, {"training.steps": 300}))
    rundir.write_config(epath.Path(tmp_path), begun)
    folder = epath.Path(tmp_path)
    for fewer in (300, 200):
        again = check(as_begun(folder, changed(preset, {"training.steps": fewer})))
        assert again.optimizer == begun.optimizer
    for arguments in (["quickstart", "--run-dir", str(tmp_path)], [str(tmp_path), f"--training.steps={steps}"]):
        assert main(["train", *arguments]) == 2
        assert (
            f"{tmp_path} was begun with a learning rate that is zero at step 300 (optimizer.schedule=cosine), got training.steps={steps}; use "
            "fewer steps, or train further with what it has learned, as a new run: "
            f"train {tmp_path} --run-dir NEW --init-from {tmp_path} --optimizer.decay-steps 0 --data.buckets 0 --training.steps {steps}\n"
        ) in capsys.readouterr().err
    new = check(as_begun(epath.Path(tmp_path / "new"), changed(begun, {"optimizer.decay_steps": 0, "training.steps": steps})))
    assert new == check(preset)  # what is proposed is right
    # Of a run from before `decay_steps=0`, whose config.json says it, and of one whose schedule is another:
    old = changed(begun, {"optimizer.decay_steps": 500})
    rundir.write_config(folder, old)
    assert check(as_begun(folder, changed(preset, {"training.steps": 300}))) == old
    constant = changed(preset, {"optimizer.schedule": "constant"})
    rundir.write_config(folder, check(constant))
    assert check(as_begun(folder, changed(constant, {"training.steps": 9000}))).training.steps == 9000


def test_another_corpus_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c").mkdir()
    text = "".join(f"line number {i} of text\n" for i in range(60))
    for name in ("train.en", "train.zh", "valid.en", "valid.zh"):
        (tmp_path / "c" / name).write_text(text)
    options = [*PLAIN, "--data.format=text", f"--data.folder={tmp_path / 'c'}", "--training.steps=1", "--data.max-source-tokens=40"]
    assert train(tmp_path / "run", *options) == 0
    (tmp_path / "c" / "train.en").write_text(text.replace("text", "words"))
    assert train(tmp_path / "run", *options) == 2
    assert "the training pairs are not those" in capsys.readouterr().err


def test_an_operational_change_is_applied_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run holds its configuration, and its log the commands."""
    warm = [*PLAIN, "--optimizer.warmup-steps=3", "--training.steps=1"]
    assert train(tmp_path, *warm) == 0
    warning = (
        "warning: optimizer.warmup_steps=3 takes more than half of training.steps=1; in so many steps --optimizer.warmup-steps 1 would"
    )
    assert warning in capsys.readouterr().err
    assert main(["train", str(tmp_path), "--training.steps=2"]) == 0
    assert "changed: training.steps: 1 -> 2" in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text())["training"]["steps"] == 2
    log = (tmp_path / "logs/process-0.log").read_text()
    commands = re.findall("^[-0-9]+ [0-9:]+ command: (.*)", log, re.MULTILINE)
    first, second = (shlex.split(command) for command in commands)
    start = ["python", "-m", "flax_s2s", "train"]
    assert first == [*start, DEBUG, "--run-dir", str(tmp_path), *TINY, *warm]
    assert second == [*start, str(tmp_path), "--training.steps=2"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_earlier_checkpoints_live(small_disk: Path) -> None:
    options = [*PLAIN, "--training.save-every-steps=1", "--training.keep-last=50", "--training.evaluate-every-steps=50"]
    done = subprocess.run(program(small_disk / "run", *options, "--training.steps=30"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: no space left for a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    complete = sorted(int(path.parent.name) for path in (small_disk / "run" / "checkpoints").glob("*/manifest.json"))
    assert len(complete) >= 2
    shutil.copytree(small_disk / "run", small_disk.parent / "roomy")
    assert train(small_disk.parent / "roomy", *PLAIN, f"--training.steps={complete[-1] + 1}") == 0


ON_AND_ON = [*PLAIN, "--training.steps=100000", "--training.save-every-steps=2", "--training.evaluate-every-steps=100000"]


def while_training(folder: Path, happens: Callable[[], object]) -> "subprocess.CompletedProcess[str]":
    """How a run ends to which something happens once it has saved."""
    run = subprocess.Popen(program(folder, *ON_AND_ON), stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("checkpoints/*/manifest.json")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    happens()
    said = run.communicate(timeout=60)[1]
    return subprocess.CompletedProcess(run.args, run.returncode, "", said)


def test_a_run_directory_that_vanishes_is_named(tmp_path: Path) -> None:
    """As when a shared folder is unmounted: the mount point may stay, and is empty."""
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def vanish() -> None:
        folder.rename(elsewhere)
        folder.mkdir()

    done = while_training(folder, vanish)
    assert done.returncode == 2 and f"the run directory {folder} is gone: deleted, or unmounted" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert not list(folder.glob("checkpoints/*/manifest.json"))
    step = int(final_hash(elsewhere).split()[0])
    assert train(elsewhere, *PLAIN, f"--training.steps={step + 1}") == 0


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Makes `run` read-only, as Linux does with a disk that has failed."""
    folder, sealed = tmp_path / "run", tmp_path / "sealed"
    for path in (folder, sealed):
        path.mkdir()
    if subprocess.run(["mount", "--bind", folder, sealed], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    subprocess.run(["mount", "-o", "remount,bind,ro", sealed], check=True)  # while no file is open through it
    yield lambda: subprocess.run(["mount", "--bind", sealed, folder], check=True)
    subprocess.run(["umount", sealed], check=True)
    subprocess.run(["umount", folder], check=False)  # where it was sealed


def test_a_disk_that_becomes_read_only_is_named(tmp_path: Path, read_only: Callable[[], None]) -> None:
    folder = tmp_path / "run"
    done = while_training(folder, read_only)
    assert done.returncode == 2 and "read-only" in done.stderr.lower() and str(folder) in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    before = final_hash(folder)
    again = subprocess.run(program(folder, *ON_AND_ON), capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "read-only" in again.stderr.lower() and "Traceback" not in again.stderr
    assert final_hash(folder) == before


def test_training_stops_when_it_no_longer_improves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--training.steps=50",
        "--training.evaluate-every-steps=1",
        "--training.patience=2",
        "--optimizer.learning-rate=1e-30",
        "--training.best-metric=wer",
        "--optimizer.average-decay=0",  # whose rounding moves a model that learns nothing
    ]
    assert train(tmp_path, *options) == 0
    assert "no longer improving at step 3" in capsys.readouterr().err
    assert final_hash(tmp_path).split()[0] == "3"


@pytest.mark.slow
def test_what_is_not_finite_is_not_saved_and_the_end_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finite gradient, but an update beyond the largest float32."""
    options = ["--data.buckets=1", "--evaluation.valid-pairs=0", "--training.best-metric=loss", "--training.save-every-steps=1"]
    huge = ["--optimizer.name=adamw", "--optimizer.learning-rate=3e38", "--optimizer.weight-decay=1000"]
    assert train(tmp_path, *options, "--training.steps=2", *huge) == 2
    said = capsys.readouterr().err
    assert "step 1 IS NOT SAVED: ['average']" in said and "step 2 IS NOT SAVED: " in said
    assert "error: done at step 2, which is not saved: ['average']" in said
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").iterdir())


def test_accumulated_batches_make_one_update(tmp_path: Path) -> None:
    assert train(tmp_path, *PLAIN, "--training.steps=2", "--optimizer.accumulate-batches=2") == 0
    assert [record["step"] for record in records(tmp_path, "train")] == [1, 2]


def test_before_the_first_checkpoint_the_vocabulary_is_that_of_the_text(tmp_path: Path) -> None:
    """A run that was killed early leaves one; the text may have been corrected since."""
    (tmp_path / "vocab").mkdir()
    stale = vocab_training.train([Pair("other text", "别的")] * 9, VocabConfig(kind="char", size=30)).source
    (tmp_path / "vocab/joint.model").write_bytes(stale.model)
    assert train(tmp_path, *PLAIN, "--training.steps=1") == 0
    assert (tmp_path / "vocab/joint.model").read_bytes() != stale.model


# Losses of the debug preset's first steps, CPU, jax 0.10.2: they change only where what is computed changes.
GOLDEN = [5.0469, 5.0183, 4.9832, 4.9268]


def test_golden_losses(trained_run: Path) -> None:
    assert [record["loss"] for record in records(trained_run, "train")] == pytest.approx(GOLDEN, abs=2e-3)
