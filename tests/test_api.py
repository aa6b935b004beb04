"""Python's face: the numbers of the verbs, as data; nothing printed, nothing ended, nothing left changed."""

import asyncio
import dataclasses
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import typing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import DEBUG, REPOSITORY, TINY, changed

import flax_s2s
from flax_s2s import DecodingConfig, UserError
from flax_s2s.cli.verbs import main
from flax_s2s.commands import evaluate
from flax_s2s.runs.inventory import Inventory
from flax_s2s.runtime import job

TEXTS = ["May 5, 2023", "", "3 hours", "¥100", "1" * 50, "a\u2028b", "half \ud800 of a pair"]
SMALL = {name: value for option in TINY for name, _, value in [option.removeprefix("--").replace("-", "_").partition("=")]}


@pytest.fixture(scope="module")
def model(trained_run: Path) -> flax_s2s.TrainedModel:
    return flax_s2s.load(trained_run)


@pytest.fixture(autouse=True)
def _leaves_no_trace(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a call does: afterwards signals and streams are what they were."""

    def found() -> list[Any]:
        return [*(signal.getsignal(number) for number in job.STOPPING), sys.excepthook, os.getcwd()]

    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
    before = found()
    yield
    assert found() == before
    signal.signal(signal.SIGINT, ours)


def debug_config(**fields: Any) -> flax_s2s.Config:
    """The configuration of `trained_run`, with other values of some fields."""
    return changed(flax_s2s.load_preset(DEBUG), {**{name: int(value) for name, value in SMALL.items()}, **fields})


def misspelt() -> flax_s2s.Config:
    """With a number that is text, as Python lets pass."""
    config = debug_config()
    object.__setattr__(config.model, "hidden_size", "3")
    return config


def unchecked(function: Any) -> Any:
    """The function without this test run's check of its annotations."""
    return function.__func__.__wrapped__


def answers(run: Path, folder: Path, verb: str, records: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    """What a verb answers to lines of JSON."""
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = [str(run), "--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl"), "--overwrite"]
    assert main([verb, *arguments, *options]) == 0
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


# The same numbers --------------------------------------------------------------------------------------------------


def draw_settings(draw: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings, and what each text asks for: one of two wishes, since each kind is a program."""
    beam = draw.choice([2, 3, 4])
    settings: dict[str, Any] = {"beam_size": beam, "n_best": draw.randint(1, beam), "length_penalty": draw.choice([0, 0.6, 1.0])}
    if draw.random() < 0.5:
        settings |= {"temperature": 0.5, "seed": draw.randrange(100)}
    kinds: list[dict[str, Any]] = [{"prefix": "", "include": [], "exclude": []}]
    kinds.append({"prefix": draw.choice("23三"), "include": draw.sample(["3", "年"], 1), "exclude": draw.sample(["1", "月"], 1)})
    return settings, [draw.choice(kinds) for _ in TEXTS]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_translations_are_those_of_decode(model: flax_s2s.TrainedModel, trained_run: Path, tmp_path: Path, seed: int) -> None:
    settings, wishes = draw_settings(random.Random(seed))
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    records = [{"source": text, **wish} for text, wish in zip(TEXTS, wishes, strict=True)]
    wanted = answers(trained_run, tmp_path, "decode", records, *options)
    asked = {name: [wish[name] for wish in wishes] for name in wishes[0]}
    found = model.translate(TEXTS, **asked, **settings)
    assert len(found) == len(wanted) == len(TEXTS)
    for one, record in zip(found, wanted, strict=True):
        assert one.source == record["source"] and list(one.flags) == record["flags"] and one.confidence == record["confidence"]
        for hypothesis, said in zip((one, *one.others), (record, *record["others"]), strict=True):
            assert hypothesis.text == str(hypothesis) == said["text"]
            assert (hypothesis.score, hypothesis.logp, hypothesis.reason) == (said["score"], said["logp"], said["reason"])
            assert list(hypothesis.tokens) == said["tokens"] and list(hypothesis.token_logp) == said["token_logp"]
            assert list(hypothesis.unmet) == said.get("unmet", [])
    assert any(one.others for one in found) == any(record["others"] for record in wanted)


def test_one_wish_for_all_is_the_wish_of_each(model: flax_s2s.TrainedModel) -> None:
    texts = ["3 hours", "May 5"]
    one = model.translate(texts, prefix="2", include="年", exclude=("1", "月"), beam_size=2)
    assert one == model.translate(texts, prefix=["2", "2"], include=[["年"], ("年",)], exclude=[["1", "月"]] * 2, beam_size=2)
    assert one[0] == model.translate(texts[0], prefix="2", include=["年"], exclude=["1", "月"], beam_size=2)
    assert model.translate([]) == [] and model.translate("").reason == "blank"


def test_seeds_are_those_of_lines(model: flax_s2s.TrainedModel, trained_run: Path, tmp_path: Path) -> None:
    records = [{"source": "3 hours", "seed": seed} for seed in (1, 2)]
    wanted = [one["text"] for one in answers(trained_run, tmp_path, "decode", records, "--temperature", "1", "--beam-size", "2")]
    assert [one.text for one in model.translate(["3 hours"] * 2, seeds=[1, 2], temperature=1, beam_size=2)] == wanted
    assert wanted[0] != wanted[1]


def test_attention_is_what_a_translation_looked_at(model: flax_s2s.TrainedModel, trained_run: Path, tmp_path: Path) -> None:
    found = model.translate(["3 hours", ""], attention=True)
    assert [one.attention for one in model.translate(["3 hours", ""])] == [None, None] and found[1].attention is None
    weights = found[0].attention
    assert weights is not None and weights.shape == (len(found[0].tokens), len(" 3 hours") + 1)
    assert found[0].source_tokens == (*"\u25813\u2581hours", "</s>") and found[1].source_tokens == ()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    (tmp_path / "in").write_text("3 hours\n")
    command = ["decode", str(trained_run), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*command, "--attention", str(tmp_path / "attention")]) == 0
    said = json.loads((tmp_path / "attention").read_text())
    assert [[round(weight, 4) for weight in row] for row in weights.tolist()] == said["attention"]


def test_scores_are_those_of_score(model: flax_s2s.TrainedModel, trained_run: Path, tmp_path: Path) -> None:
    pairs = [("May 5, 2023", "2023年5月5日"), ("3 hours", ""), ("", ""), ("¥100", "Ω, which nobody has seen")]
    records = [{"source": source, "target": target} for source, target in pairs]
    wanted = answers(trained_run, tmp_path, "score", records, "--length-penalty", "0.5")
    for found, record in zip(model.score(pairs, length_penalty=0.5), wanted, strict=True):
        assert (found.logp, found.score) == (record["logp"], record["score"])
        assert list(found.tokens) == record["tokens"] and list(found.token_logp) == record["token_logp"]
        assert list(found.flags) == record.get("flags", [])
    best = model.translate("3 hours", beam_size=2)
    [again] = model.score([("3 hours", best)])  # its own tokens, however the vocabulary would split its text
    assert again.tokens[: len(best.tokens)] == best.tokens
    assert again.token_logp[: len(best.tokens)] == pytest.approx(best.token_logp, abs=1e-4)


@pytest.fixture
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each split only some pairs are evaluated."""
    load = evaluate.load_split

    def load_few(*arguments: Any) -> Any:
        chosen = load(*arguments)
        return dataclasses.replace(chosen, pairs=chosen.pairs[:20], families=chosen.families[:20])

    monkeypatch.setattr(evaluate, "load_split", load_few)


@pytest.mark.usefixtures("_few_pairs")
def test_an_evaluation_is_that_of_the_verb(trained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(trained_run), "--split", "valid", "--beam-size", "1", "--resamples", "20", "--samples", "1"]
    assert main([*command, "--json", str(tmp_path / "j")]) == 0
    assert capfd.readouterr().out
    found = flax_s2s.evaluate(trained_run, "valid", beam_size=1, resamples=20, samples=1)
    assert capfd.readouterr() == ("", "")
    assert found.result == json.loads((tmp_path / "j").read_text())
    assert {name: value._asdict() for name, value in found.metrics.items()} == found.result["metrics"]
    assert found.metrics["chrf"].ci > 0 and len(found.samples) == 1 and "cut at their length limit" in found.notes[0]


def test_an_inspection_is_that_of_the_verb(trained_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(trained_run), "--no-memory"]) == 0
    printed = capfd.readouterr().out
    found = flax_s2s.inspect(trained_run, memory=False)
    assert capfd.readouterr() == ("", "")
    measured = "tokens/s, were every operation"  # how fast this machine is just now
    assert [line for line in str(found).splitlines() if measured not in line] == [
        line for line in printed.splitlines() if measured not in line
    ]
    assert found.parameters == sum(int(np.prod(shape)) for shape in found.parameter_shapes.values()) == 15_213
    assert found.epoch and found.epoch.shapes[0].state_bytes is None and found.epoch.tokens_per_sec > 0
    assert found.epoch.padding == pytest.approx(1 - (found.epoch.source_tokens + found.epoch.target_tokens) / padded(found.epoch))
    assert flax_s2s.inspect(debug_config(), memory=False).parameter_shapes == found.parameter_shapes
    far = flax_s2s.inspect(changed(flax_s2s.load_preset("iwslt15_en_vi"), {"data.folder": "nowhere"}))
    assert far.epoch is None and "nowhere" in far.lack and far.parameters > 1_000_000


def padded(epoch: Any) -> int:
    return sum(one.batches * one.rows * (one.source_tokens + one.target_tokens) for one in epoch.shapes)


# Again and again ---------------------------------------------------------------------------------------------------


def test_settings_change_without_loading_and_programs_are_used_again(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, again = (flax_s2s.load(trained_run, beam_size=1, rows=3) for _ in range(2))  # so many rows as no other test
    assert model.config.decoding.beam_size == 1 and model.steps == (4,)
    monkeypatch.setattr(Inventory, "load_params", None)

    def compiled(call: Callable[[], Any]) -> int:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            call()
        return sum("Compiling" in record.getMessage() for record in caplog.records)

    def translate(**settings: Any) -> None:
        model.translate(["3 hours", "May 5"], **settings)

    assert compiled(translate) > 0
    assert compiled(translate) == compiled(lambda: again.translate(["3 hours", "May 5"])) == 0
    sampling = {"temperature": 1.0, "beam_size": 2}
    assert compiled(lambda: translate(**sampling, seed=1)) > 0
    assert compiled(lambda: translate(**sampling, seed=2)) == compiled(translate) == 0  # seeds are data
    assert compiled(lambda: model.score([("a", "b")])) > 0
    assert compiled(lambda: model.score([("c", "d")])) == compiled(lambda: again.score([("c", "d")])) == 0
    for penalty in range(20):
        model.translate("", length_penalty=float(penalty))
    assert len(model._kept) == 8


@pytest.mark.usefixtures("_few_pairs")
def test_it_works_twice_in_one_process_in_a_thread_and_beside_an_event_loop(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As in a notebook: train, load, evaluate, fail, and all again; and the runs as one."""
    config = debug_config(**{"training.steps": 2, "evaluation.valid_pairs": 0, "training.best_metric": "loss"})
    streams = sys.stdout, sys.stderr

    def work(name: str, **options: Any) -> None:
        reached = flax_s2s.train(config, tmp_path / name, **options)
        assert (reached.run_dir, reached.step, reached.outcome) == (str(tmp_path / name), 2, "done")
        assert reached.metric == "loss" and reached.best == pytest.approx(reached.validation["loss"])
        assert flax_s2s.load(tmp_path / name).translate("3 hours", beam_size=1).reason
        found = flax_s2s.evaluate(tmp_path / name, "valid", beam_size=1, resamples=0)
        assert found.metrics.keys() == {"exact_match", "chrf", "wer"} and found.result["pairs"] == 20
        with pytest.raises(UserError, match="there is no checkpoint '9'; use best, last, or one of "):
            flax_s2s.load(tmp_path / name, checkpoint=9)

    async def in_a_notebook() -> None:
        work("first")

    asyncio.run(in_a_notebook())
    failed: list[BaseException] = []

    def in_a_thread() -> None:
        try:
            work("second", init_from=tmp_path / "first")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert failed == [] and (sys.stdout, sys.stderr) == streams
    runs = [tmp_path / "first", tmp_path / "second"]
    assert flax_s2s.load(runs).translate("3 hours", beam_size=1).tokens
    assert capfd.readouterr() == ("", "")


def test_a_training_that_is_interrupted_is_saved_and_goes_on_to_the_same_bits(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """To those of the verb's run."""
    asked, poll = [], job.stop_requested

    def press_at_the_second() -> bool:
        asked.append(0)
        if len(asked) == 2:
            with pytest.raises(UserError, match="this process is training already"):
                flax_s2s.train(debug_config(), tmp_path / "other")
            signal.raise_signal(signal.SIGINT)
        return poll()

    monkeypatch.setattr(job, "stop_requested", press_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        flax_s2s.train(debug_config(), tmp_path / "run")
    monkeypatch.undo()
    assert saved(tmp_path / "run")[-1][0] < 4
    reached = flax_s2s.train(debug_config(), tmp_path / "run")
    assert reached.step == 4 and reached.outcome == "done" and reached.metric == "exact_match" and reached.best == 0
    assert reached.validation.keys() >= {"loss", "perplexity", "exact_match", "chrf", "wer"}
    assert saved(tmp_path / "run")[-1] == saved(trained_run)[-1]
    assert capfd.readouterr() == ("", "")


def saved(run: Path) -> list[tuple[int, str]]:
    """Step and hash of each checkpoint that was made."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["state_sha256"]) for record in records if record["split"] == "checkpoint"]


def test_what_is_interrupted_before_the_first_step_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_s2s.commands.train.make_ready", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        flax_s2s.train(debug_config(), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


def test_progress_is_said_where_it_is_asked_for_and_a_doubt_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    doubtful = debug_config(
        **{"training.steps": 2, "training.save_every_steps": 1, "training.best_metric": "loss"},
        **{"evaluation.valid_pairs": 0, "optimizer.warmup_steps": 9},
    )
    with pytest.warns(UserWarning, match="optimizer.warmup_steps=9 takes more than half of training.steps=2"):
        flax_s2s.train(doubtful, tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    flax_s2s.train(doubtful, tmp_path / "run", progress=True)
    printed = capfd.readouterr()
    assert "done at step 2" in printed.err and "warning: optimizer.warmup_steps=9" in printed.err and printed.out == ""
    largest = max((tmp_path / "run/checkpoints/2").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[::-1])
    with pytest.warns(UserWarning, match="checkpoints/2 is damaged and passed over"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "warning: optimizer.warmup_steps=9")
        assert flax_s2s.train(doubtful, tmp_path / "run").step == 2
    assert capfd.readouterr() == ("", "")


# What is refused ---------------------------------------------------------------------------------------------------


MISUSED = {
    'flax_s2s.train(config, "")': "the name of a run directory is empty; name a folder, '.' for this one",
    "flax_s2s.train(config, None)": "a run directory must be given as a path, got NoneType",
    'flax_s2s.train("debug", "new")': "config must be a Config, such as load_preset makes, got str",
    'flax_s2s.load("")': "the name of a run directory is empty; name a folder, '.' for this one",
    "flax_s2s.load(None)": "a run directory must be given as a path, got NoneType",
    "flax_s2s.load([run, 3])": "a run directory must be given as a path, got int",
    "flax_s2s.load([])": "no run directory is given; give one, or several",
    'flax_s2s.evaluate(run, "dev")': "there is no split 'dev'; splits: train, valid, test",
    'flax_s2s.evaluate(run, metrics="chrf")': "metrics must be a list, such as ['chrf'], got a string",
    'flax_s2s.evaluate(run, references="a.txt")': "references must be a list, such as ['a.txt'], got a string",
    "flax_s2s.inspect({})": "a configuration or a run directory must be given as a path, got dict",
    "flax_s2s.load_preset(3)": "a preset is given by its name or its file, got int",
    'model.score(["ab"])': "pair 0 must be a source and a target, such as ('a', 'b'), got str",
    'model.score(("ab", "cd"))': "pair 0 must be a source and a target, such as ('a', 'b'), got str",
    'model.score([("a", "b", "c")])': "pair 0 must be a source and a target, such as ('a', 'b'), got 3 of them",
    'model.translate({"a"})': "text must be a string, or a list of strings, got set",
}


def test_what_is_of_another_kind_is_said(trained_run: Path, tmp_path: Path) -> None:
    """In a process of its own, where nothing checks annotations, as at a user's."""
    code = (
        "import json, sys, flax_s2s\nrun, calls, said = sys.argv[1], json.loads(sys.argv[2]), []\n"
        "config, model = flax_s2s.load_preset(sys.argv[3]), flax_s2s.load(run)\n"
        "for call in calls:\n    try:\n        eval(call)\n        said.append('nothing')\n"
        "    except flax_s2s.UserError as error:\n        said.append(str(error))\nprint(json.dumps(said))"
    )
    command = [sys.executable, "-c", code, str(trained_run), json.dumps(list(MISUSED)), DEBUG]
    place = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True, check=True)
    assert dict(zip(MISUSED, json.loads(done.stdout), strict=True)) == MISUSED
    assert not any(tmp_path.iterdir())


def test_what_is_loaded_needs_its_folder_no_more(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained_run.parent)
    model = flax_s2s.load(trained_run.name, beam_size=1)
    monkeypatch.chdir(tmp_path)
    assert model.translate("3 hours", attention=True).attention is not None


def test_errors_are_exceptions_with_the_message_of_the_command_line(
    trained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, none = str(trained_run), str(tmp_path / "none")
    other = debug_config(seed=7)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    calls: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: flax_s2s.load(none), ["decode", none]),
        (lambda: flax_s2s.load(run, checkpoint=99), ["decode", run, "--checkpoint", "99"]),
        (lambda: flax_s2s.load(run, groups=3), ["decode", run, "--groups", "3"]),
        (lambda: flax_s2s.evaluate(none), ["evaluate", none]),
        (
            lambda: flax_s2s.evaluate(run, metrics=["bleu"], tokenizer="flores200"),
            ["evaluate", run, "--metrics", "bleu", "--tokenizer", "flores200"],
        ),
        (lambda: flax_s2s.evaluate(run, resamples=-1), ["evaluate", run, "--resamples", "-1"]),
        (lambda: flax_s2s.inspect(tmp_path), ["inspect", str(tmp_path)]),
        (lambda: flax_s2s.train(other, run), ["train", DEBUG, "--run-dir", run, "--seed", "7", *options]),
        (
            lambda: flax_s2s.train(debug_config(), tmp_path / "new", init_from=none),
            ["train", DEBUG, "--run-dir", str(tmp_path / "new2"), "--init-from", none, *options],
        ),
        (lambda: flax_s2s.load_preset("quickstat"), ["bench", "quickstat"]),
    ]
    for call, command in calls:
        with pytest.raises(UserError) as caught:
            call()
        assert capfd.readouterr() == ("", "")
        assert main(command) == 2
        printed = capfd.readouterr().err
        assert " ".join(str(caught.value).split()) in " ".join(printed.split()), command


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.translate("x", beam=3), "unknown field 'decoding.beam'; did you mean 'beam_size'?"),
        (lambda model: model.translate("x", beam_size="3"), "decoding.beam_size='3' must be of type int, got str"),
        (lambda model: model.translate("x", beam_size=0), "decoding.beam_size=0 must be greater than 0"),
        (lambda model: model.translate("x", shortlist=64), "shortlist.npz is not there; make it once"),
        (lambda model: unchecked(model.translate)(model, ["x", 3]), "text 1: source must be a string, got int"),
        (lambda model: unchecked(model.translate)(model, 3), "text must be a string, or a list of strings, got int"),
        (lambda model: model.translate(["x"], prefix=["a", "b"]), "prefix has 2 values for 1 texts; give one for all, or one for each"),
        (lambda model: model.translate("x", prefix=3), "prefix must be one for all texts, or a list with one for each, got int"),
        (lambda model: model.translate(["x"], include=[[3]]), "text 0: include must be a list of strings that are not empty"),
        (lambda model: model.translate(["x"], include=[3]), "text 0: include must be a list of strings that are not empty"),
        (lambda model: model.translate("x", exclude=" "), "text 0: exclude must be a list of strings that are not empty"),
        (lambda model: model.translate(["x"], seeds=[-1]), "text 0: seed must be a whole number from 0 to 2**31 - 1"),
        (lambda model: model.score([("", "x")]), "pair 0: the source is blank, and a target is not; leave it out"),
        (lambda model: model.score([("x", "x"), ("x", "x" * 9999)]), "pair 1: the target has more tokens than any source is decoded to"),
        (lambda model: unchecked(model.score)(model, "abc"), "what is scored must be a list of pairs, got str"),
        (lambda model: flax_s2s.load([]), "no run directory is given"),
        (lambda model: flax_s2s.train(misspelt(), "x"), "model.hidden_size='3' must be of type int, got str"),
    ],
)  # fmt: skip
def test_what_is_no_good_is_said(model: flax_s2s.TrainedModel, call: Callable[[flax_s2s.TrainedModel], Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call(model)
    assert message in str(caught.value)


def test_attention_needs_a_model_that_has_it(trained_run: Path, model: flax_s2s.TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    without = changed(flax_s2s.load_preset(DEBUG), {"model.attention": "none"})
    monkeypatch.setattr(model, "_opened", model._opened._replace(configs=[without]))
    with pytest.raises(UserError, match=r"was trained with model\.attention=none; leave it out"):
        model.translate("x", attention=True)


def test_one_of_several_processes_is_refused(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JAX_NUM_PROCESSES", "2"), ("JAX_PROCESS_ID", "1"), ("JAX_COORDINATOR_ADDRESS", "localhost:1234")):
        monkeypatch.setenv(name, value)
    for call in (
        lambda: flax_s2s.train(debug_config(), tmp_path),
        lambda: flax_s2s.evaluate(trained_run),
        lambda: flax_s2s.inspect(trained_run),
    ):
        with pytest.raises(UserError, match="by its environment this is one of 2"):
            call()


def test_a_full_disk_is_a_message(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/disk")

    monkeypatch.setattr("flax_s2s.commands.wiring.open_runs", full)
    with pytest.raises(UserError, match=r"no space left on the disk \(/disk\)"):
        flax_s2s.load(trained_run)


# Types -------------------------------------------------------------------------------------------------------------


def test_all_names_are_there() -> None:
    assert {name for name in flax_s2s.__all__ if getattr(flax_s2s, name, None) is None} == set()
    assert set(flax_s2s.__all__) <= set(dir(flax_s2s))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = flax_s2s.trian


def test_settings_are_the_fields_of_decoding() -> None:
    assert typing.get_type_hints(flax_s2s.Settings) == typing.get_type_hints(DecodingConfig)


SCRIPT = """
import dataclasses
import flax_s2s

config: flax_s2s.Config = flax_s2s.load_preset("debug")
config = dataclasses.replace(config, decoding=flax_s2s.DecodingConfig(beam_size=2), data=flax_s2s.DataConfig(format="phrases"))
try:
    reached = flax_s2s.train(config, "runs/mine", init_from="runs/other", progress=True)
except flax_s2s.UserError as error:
    raise SystemExit(str(error)) from None
step: int = reached.step
loss: float = reached.validation["loss"] + (reached.best or 0.0)
model: flax_s2s.TrainedModel = flax_s2s.load(["runs/mine", "runs/other"], checkpoint="last", beam_size=2)
one: flax_s2s.Translation = model.translate("a", n_best=2, attention=True, prefix="b", include=["c"], exclude="d", temperature=1.0)
many: list[flax_s2s.Translation] = model.translate(["a", "b"], prefix=["c", ""], include=[["d"], []], seeds=[1, 2], beam_size=3)
others: tuple[flax_s2s.Hypothesis, ...] = one.others
seen = None if one.attention is None else one.attention.sum(axis=0)
score: flax_s2s.PairScore = model.score([("a", "b"), ("a", one)], length_penalty=1.0)[0]
found: flax_s2s.Evaluation = flax_s2s.evaluate("runs/mine", "valid", ["bleu", "chrf"], beam_size=1)
bleu: flax_s2s.Score = found.metrics["bleu"]
look: flax_s2s.Inspection = flax_s2s.inspect(config, memory=False)
count: int = look.parameters + (look.epoch.source_tokens if look.epoch else 0)
print(look, score.logp, many[0].flags, bleu.ci)
model.translate("a", beam=3)  # wrong
model.translate(3)  # wrong
flax_s2s.trian(config)  # wrong
"""


def test_types_are_seen_by_a_users_checker(tmp_path: Path) -> None:
    """Of a script that uses every function, mypy refuses the wrong lines and no other."""
    (tmp_path / "user.py").write_text(SCRIPT)
    # By the project's own settings, which are strict: with others, what was found out of the package would be found out anew.
    command = [sys.executable, "-m", "mypy", "--no-pretty", "--no-error-summary", str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    wrong = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if line.endswith("# wrong")]
    assert sorted({int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}) == wrong, done.stdout + done.stderr
