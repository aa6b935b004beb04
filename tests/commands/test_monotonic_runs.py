"""Hard monotonic attention, from training to decode, score, evaluate with a picture of how sure it is, and pictures of what it looks at."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny import DEBUG

import flax_s2s
from flax_s2s.cli.verbs import main

SOUNDS = {"sh": "S", "ch": "C", "ee": "I", "a": "A", "b": "B", "d": "D", "k": "K", "m": "M", "o": "O", "x": "KS"}
OPTIONS = """--data.format=tsv --data.source=0 --data.target=1 --data.max-train-pairs=0 --data.batch-tokens=512 --data.row-multiple=2
    --data.max-source-tokens=32 --data.max-target-tokens=32 --data.buckets=1 --data.test=test --data.valid=valid --model.dropout=0
    --vocab.kind=char --vocab.size=0 --model.alignment=monotonic --model.hidden-size=64
    --optimizer.learning-rate=0.01 --optimizer.average-decay=0 --training.steps=300 --training.log-every-steps=100
    --training.evaluate-every-steps=150 --training.save-every-steps=150 --training.devices=1 --evaluation.metrics exact_match""".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("monotonic"), random.Random(1)
    for split, count, most in (("train", 1200, 6), ("valid", 60, 6), ("test", 100, 6)):
        rows = [[rng.choice(list(SOUNDS)) for _ in range(rng.randint(2, most))] for _ in range(count)]
        (folder / f"{split}.tsv").write_text("".join(f"{''.join(row)}\t{''.join(SOUNDS[one] for one in row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(corpus: Path) -> Path:
    folder = corpus / "run"
    assert main(["train", DEBUG, "--run-dir", str(folder), f"--data.folder={corpus}", *OPTIONS]) == 0
    return folder


def test_a_model_learns_and_never_looks_back(run: Path, corpus: Path, tmp_path: Path) -> None:
    scores, picture = tmp_path / "scores.json", tmp_path / "sure.svg"
    assert main(["evaluate", str(run), "--split", "test", "--json", str(scores), "--calibration", str(picture)]) == 0
    found = json.loads(scores.read_text())
    assert found["metrics"]["exact_match"]["score"] > 80
    before, after = (found["calibration"][name]["nll"] for name in ("before", "after"))
    assert 0 <= after <= before + 0.02 < 1
    arguments = ["decode", str(run), "--input", str(corpus / "test.tsv"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--attention", str(tmp_path / "seen"), "--pictures", str(tmp_path), "--picture-lines", "1"]) == 0
    assert (tmp_path / "line-1.png").stat().st_size > 1000
    records = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    ends = [np.argmax(record["attention"][-2]) == len(record["source"]) - 1 for record in records]
    assert np.mean(ends) < 0.1  # the last letter is said of a letter, not of the end mark, of which all can be said
    for record in records:
        weights = np.array(record["attention"])
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=2e-3)
        reached = weights.cumsum(axis=1)  # the probability of having come no farther never rises
        assert (np.diff(reached, axis=0) < 5e-2).all()


def test_what_is_found_is_scored_as_it_was_found(run: Path) -> None:
    model = flax_s2s.load(run)
    found = model.translate(["shabeex", "koomsh", "dab"], n_best=2, beam_size=4)
    assert found[0].text == "SABIKS"
    for one in found:
        for each in (one, *one.others):
            (scored,) = model.score([(one.source, each)])
            assert scored.logp == pytest.approx(each.logp, abs=1e-3)
    both = flax_s2s.load([run, run]).translate("shabeex")
    assert (both.text, both.logp) == (found[0].text, pytest.approx(found[0].logp, abs=1e-4))
    assert main(["shortlist", str(run)]) == 0
    assert flax_s2s.load(run, shortlist=16).translate("shabeex").text == found[0].text


def test_a_run_that_stops_halfway_ends_with_the_same_bits(run: Path, corpus: Path) -> None:
    for steps in (150, 300):
        options = [*OPTIONS, f"--training.steps={steps}"]
        assert main(["train", DEBUG, "--run-dir", str(corpus / "halfway"), f"--data.folder={corpus}", *options]) == 0
    hashes = []
    for one in (run, corpus / "halfway"):
        lines = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
        hashes.append(next(line["state_sha256"] for line in lines if "checkpoint" in line and line["step"] == 300))
    assert hashes[0] == hashes[1]
