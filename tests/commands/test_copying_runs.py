"""Copying, from training to decode, score, Python, evaluate and pictures: symbols that no training pair has are said as themselves."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import DEBUG

import flax_s2s
from flax_s2s import UserError
from flax_s2s.cli.verbs import main

NEVER = "þðŋʃ日本"  # in no training pair
OPTIONS = """--data.format=tsv --data.source=0 --data.target=1 --data.max-train-pairs=0 --data.batch-tokens=512
    --data.max-source-tokens=16 --data.max-target-tokens=16 --data.buckets=1 --data.test=test --data.valid=valid --model.dropout=0
    --vocab.kind=char --vocab.size=0 --vocab.joint --vocab.character-coverage=0.985 --model.attention=general --model.input-feeding
    --model.hidden-size=64 --optimizer.learning-rate=0.01 --optimizer.average-decay=0 --training.steps=300 --training.log-every-steps=100
    --training.evaluate-every-steps=150 --training.save-every-steps=150 --training.devices=1 --evaluation.metrics exact_match""".split()


def make_rows(rng: random.Random, count: int, rare: str, share: float) -> list[tuple[str, str]]:
    """`abcd` -> `dabc`, the last letter first, as no rule of a vocabulary can say of a letter that it lacks."""
    rows = []
    for _ in range(count):
        word = [rng.choice("abcdefgh") for _ in range(rng.randint(2, 6))]
        for place in range(len(word)):
            if rng.random() < share:
                word[place] = rng.choice(rare)
        rows.append(("".join(word), "".join([word[-1], *word[:-1]])))
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("copying"), random.Random(1)
    rare = "".join(map(chr, range(0x400, 0x450)))  # so rare, each, that the vocabulary leaves them out
    for split, rows in {
        "train": make_rows(rng, 1500, rare, 0.05),
        "valid": make_rows(rng, 100, NEVER, 0.2),
        "test": make_rows(rng, 100, NEVER, 0.2),
    }.items():
        (folder / f"{split}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in rows))
    return folder


@pytest.fixture(scope="module")
def run(corpus: Path) -> Path:
    folder = corpus / "run"
    assert main(["train", DEBUG, "--run-dir", str(folder), f"--data.folder={corpus}", *OPTIONS, "--model.copy"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> flax_s2s.TrainedModel:
    return flax_s2s.load(run)


def test_a_model_learns_to_say_what_no_training_pair_has(run: Path, corpus: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run), "--split", "test", "--json", str(tmp_path / "scores.json")]) == 0
    assert main(["decode", str(run), "--input", str(corpus / "test.tsv"), "--output", str(tmp_path / "out")]) == 0
    rows = [line.split("\t") for line in (corpus / "test.tsv").read_text().splitlines()]
    found = (tmp_path / "out").read_text().splitlines()
    right = [one == target for one, (_, target) in zip(found, rows, strict=True)]
    odd = [bool(set(source) & set(NEVER)) for source, _ in rows]
    assert np.mean([fine for fine, is_odd in zip(right, odd, strict=True) if is_odd]) > 0.7
    assert sum(odd) > 40
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["exact_match"]["score"] == pytest.approx(100 * np.mean(right))


def test_a_run_that_stops_halfway_ends_with_the_same_bits(run: Path, corpus: Path) -> None:
    folder = corpus / "halfway"
    for steps in (150, 300):
        options = ["--model.copy", f"--training.steps={steps}"]
        assert main(["train", DEBUG, "--run-dir", str(folder), f"--data.folder={corpus}", *OPTIONS, *options]) == 0
    hashes = []
    for one in (run, folder):
        lines = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
        hashes.append(next(line["state_sha256"] for line in lines if "checkpoint" in line and line["step"] == 300))
    assert hashes[0] == hashes[1]


def test_every_way_to_ask_answers_the_same(run: Path, model: flax_s2s.TrainedModel, tmp_path: Path) -> None:
    words = ["abþ", "ŋdef", "日本a", "cab", "þþa"]
    (tmp_path / "in").write_text("".join(f"{word}\n" for word in words))
    arguments = ["decode", str(run), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out.jsonl"), "--output-form", "jsonl"]
    assert main([*arguments, "--attention", str(tmp_path / "seen.jsonl"), "--pictures", str(tmp_path), "--picture-lines", "1"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    found = model.translate(words, attention=True)
    assert [one.text for one in found] == [answer["text"] for answer in answers]
    assert sum(one.text == word[-1] + word[:-1] for one, word in zip(found, words, strict=True)) >= 4
    for one, answer, record, word in zip(found, answers, seen, words, strict=True):
        assert list(one.tokens) == answer["tokens"] == record["target"]
        assert list(one.source_tokens) == record["source"] == ["▁", *word, "</s>"]
        assert one.copied is not None
        assert record["copied"] == pytest.approx(list(one.copied), abs=1e-4)
        by_piece = dict(zip(one.tokens, one.copied, strict=True))
        assert all(by_piece[symbol] > 0.99 for symbol in set(one.text) & set(NEVER))
        assert ("unknown" in one.flags) == bool(set(word) & set(NEVER))
    assert (tmp_path / "line-1.png").read_bytes()[:4] == b"\x89PNG"
    # What was found is scored as it was found: by its tokens, and by its text.
    scored = model.score([(one.source, one) for one in found])
    again = model.score([(one.source, one.text) for one in found])
    for one, by_tokens, by_text in zip(found, scored, again, strict=True):
        assert by_tokens.logp == pytest.approx(one.logp, abs=1e-3) and by_text.logp == by_tokens.logp
        assert by_tokens.tokens == one.tokens
    assert model.translate("abþ").copied is None
    odd = model.score([("abþ", "þab"), ("abc", "þab")])
    assert odd[0].logp > -3 and "þ" in odd[0].tokens
    assert "<unk>" in odd[1].tokens and odd[1].flags == ("unknown",)


def test_calibration_and_shortlist(run: Path, model: flax_s2s.TrainedModel, tmp_path: Path) -> None:
    picture, scores = tmp_path / "sure.png", tmp_path / "scores.json"
    assert main(["evaluate", str(run), "--split", "test", "--calibration", str(picture), "--json", str(scores)]) == 0
    said: dict[str, Any] = json.loads(scores.read_text())
    before, after = (said["calibration"][name]["nll"] for name in ("before", "after"))
    assert 0 <= after <= before + 0.02 < 1
    assert main(["shortlist", str(run)]) == 0
    short = flax_s2s.load(run, shortlist=16)
    words = ["abþ", "ŋdef", "cab"]
    assert [one.text for one in short.translate(words)] == [one.text for one in model.translate(words)]


def test_several_runs_copy_as_one_or_not_at_all(run: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = flax_s2s.load([run, run])
    assert both.translate("abþ").text == flax_s2s.load(run).translate("abþ").text
    other = corpus / "plain"
    arguments = ["train", DEBUG, "--run-dir", str(other), f"--data.folder={corpus}", *OPTIONS, "--training.steps=1"]
    assert main([*arguments, "--training.evaluate-every-steps=1", "--training.save-every-steps=1"]) == 0
    with pytest.raises(UserError, match=r"has model.copy=True, and .* False; of runs that translate as one all copy, or none"):
        flax_s2s.load([other, run])
    capsys.readouterr()
    assert main(["train", DEBUG, "--run-dir", str(other), f"--data.folder={corpus}", *OPTIONS, "--model.copy"]) == 2
    assert "model.copy: False -> True" in capsys.readouterr().err
    assert main(["train", DEBUG, "--run-dir", str(corpus / "third"), "--init-from", str(run), f"--data.folder={corpus}", *OPTIONS]) == 2
    assert "model.copy: True -> False" in capsys.readouterr().err


def test_a_vocabulary_that_lacks_nothing_teaches_nothing_about_what_it_lacks(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [option for option in OPTIONS if "coverage" not in option]
    assert main(["inspect", DEBUG, f"--data.folder={corpus}", *options, "--model.copy", "--vocab.character-coverage=1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "symbols of 0 in validation and none in training, so that nothing is learned of copying such" in said
    assert main(["inspect", DEBUG, f"--data.folder={corpus}", *OPTIONS, "--model.copy"]) == 0
    assert "nothing is learned of copying" not in " ".join(capsys.readouterr().out.split())
