"""`report`: what it shows is what the run and its evaluation say, whatever of a run is there."""

import base64
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reported import HOSTILE, command, read_document, write_corpus
from tiny import DEBUG, PLAIN, TINY

from flax_s2s.cli.verbs import main
from flax_s2s.serving import report

NOTHING = ["--resamples", "20", "--sentences", "3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds; the second writes its report itself."""
    folder = tmp_path_factory.mktemp("reported")
    write_corpus(folder / "corpus")
    assert main(command(folder, 1)) == 0
    assert main(command(folder, 2, "--report")) == 0
    return [folder / "seed-1", folder / "seed-2"]


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    assert make(runs[0].parent / "both.html", *runs, options=["--by", "kind", "--sentences", "8"]) == 0
    return runs[0].parent / "both.html"


def make(output: Path, *run_dirs: Path, options: list[str] = NOTHING) -> int:
    return main(["report", *map(str, run_dirs), "--output", str(output), *options])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_scores_are_those_of_evaluate(runs: list[Path], page: Path, tmp_path: Path) -> None:
    [test] = read_document(page)["tests"]
    assert test["runs"] == [0, 1] and test["split"] == "test" and test["total"] == 12
    for run, found in zip(runs, test["results"], strict=True):
        how = ["--by", "length", "features", "kind", "--calibration", str(tmp_path / "c.png"), "--json", str(tmp_path / "j")]
        assert main(["evaluate", str(run), *how]) == 0
        assert found == json.loads((tmp_path / "j").read_text())
    assert "|bs:1000|" in test["results"][0]["metrics"]["chrf"]["signature"]
    assert "<b>kind</b>" in test["results"][0]["by"]["kind"]


def test_curves_are_the_lines_of_the_run(runs: list[Path], page: Path) -> None:
    document = read_document(page)
    for run, shown in zip(runs, document["runs"], strict=True):
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for split, names in (
            ("train", ("loss", "perplexity", "learning_rate", "gradient_norm", "tokens_per_sec")),
            ("valid", ("loss", "chrf")),
        ):
            own = [record for record in records if record["split"] == split]
            assert shown[split]["step"] == [record["step"] for record in own]
            for name in names:
                assert shown[split][name] == pytest.approx([record[name] for record in own], rel=1e-6)
        assert [one["step"] for one in shown["checkpoints"]] == [3, 6]
        assert (shown["step"], shown["steps"]) == (6, 6)
    [band] = [family["bands"]["train"]["loss"] for family in document["families"]]
    both = [shown["train"]["loss"] for shown in document["runs"]]
    assert band["low"] == list(map(min, *both)) and band["high"] == list(map(max, *both))
    assert band["mean"] == pytest.approx(np.mean(both, axis=0).tolist())


def test_it_says_what_was_trained_on_what(page: Path) -> None:
    shown = read_document(page)["runs"][0]
    assert shown["facts"]["train"].startswith("40 pairs of train of ")
    assert {"valid", "vocabulary", "parameters", "shapes", "batches", "versions"} <= shown["facts"].keys()
    assert any("test" in line and "are in train" in line for line in shown["overlap"])
    assert shown["versions"]["jax"] and len(shown["hashes"]["corpus"]) == 64
    fields = {row["name"]: row for row in read_document(page)["config"]}
    assert fields["seed"]["values"] == ["1", "2"] and fields["training.steps"]["set"] and not fields["model.copy"]["set"]


def test_every_sentence_can_be_sorted_and_the_most_telling_come_with_what_was_seen(page: Path) -> None:
    [test] = read_document(page)["tests"]
    assert [one["number"] for one in test["sentences"]] == list(range(1, 13))
    for one in test["sentences"]:
        assert one["length"] > 0 and len(one["runs"]) == 2
        assert all(0 <= run["chrf"] <= 100 and 0 <= run["confidence"] <= 1 and run["right"] in (True, False) for run in one["runs"])
    assert len(test["details"]) == 8
    longest = max(test["sentences"], key=lambda one: int(one["length"]))
    assert str(longest["number"] - 1) in test["details"]
    for seen in (of_run for detail in test["details"].values() for of_run in detail if of_run):
        attention = np.frombuffer(base64.b64decode(seen["attention"]), np.uint8).reshape(len(seen["target"]), len(seen["source"]))
        assert np.all(np.abs(attention.sum(axis=1, dtype=int) - 255) <= len(seen["source"]))
        assert seen["source"][0] in ("F0", "F1") and seen["source"][-1] == "</s>"
        assert len(seen["probability"]) == len(seen["alternatives"]) == len(seen["target"])
        for probability, likely in zip(seen["probability"], seen["alternatives"], strict=True):
            assert probability <= likely[0][1] + 1e-3 and sorted(likely, key=lambda one: -one[1]) == likely
        reference = seen["reference"]
        assert len(reference["pieces"]) == len(reference["probability"]) and 0 <= reference["fell"] <= len(reference["pieces"])
        assert not reference["live"] or len(reference["live"]) <= 2


def test_text_of_a_corpus_never_becomes_part_of_the_page(page: Path) -> None:
    text, document = page.read_text("utf-8"), read_document(page)
    assert any(one["source"] == HOSTILE for one in document["tests"][0]["sentences"])
    assert "<img" not in text and "<b>kind" not in text
    assert text.count("</script") == text.count("<script") == 1 + len(report._SCRIPTS)
    assert report.to_text({"<": "</script><!--"}) == '{"\\u003c":"\\u003c/script>\\u003c!--"}'


def test_the_page_asks_nothing_of_a_network_and_is_small_without_its_data() -> None:
    page = report.make_page({}).decode()
    assert len(page) < 150_000
    assert not re.search(
        r"""<(?:link|iframe|object|base|form)\b|\b(?:src|action)=|@import|url\(|fetch\(|XMLHttpRequest|innerHTML\s*=\s*[^"]""", page
    )
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert "Permission is hereby granted" in page and "{{" not in page.split("</style>")[0]


def test_the_same_run_gives_the_same_bytes_and_is_only_read(runs: list[Path], tmp_path: Path) -> None:
    before = content(runs[0])
    assert make(tmp_path / "a.html", runs[0]) == make(tmp_path / "b.html", runs[0]) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert content(runs[0]) == before
    assert sorted(os.listdir(tmp_path)) == ["a.html", "b.html"]


def test_training_writes_it_at_the_end_where_it_is_asked_to(runs: list[Path]) -> None:
    assert not (runs[0] / "report.html").exists()
    document = read_document(runs[1] / "report.html")
    assert [run["name"] for run in document["runs"]] == ["seed-2"] and document["tests"][0]["results"][0]["checkpoint"] in (3, 6)


@pytest.mark.parametrize("lost", ["checkpoints", "tensorboard", "summary.json", "vocab", "logs"])
def test_what_is_lost_of_a_run_is_said_and_the_rest_is_there(runs: list[Path], tmp_path: Path, lost: str) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    where = tmp_path / "run" / lost
    shutil.rmtree(where) if where.is_dir() else where.unlink()
    assert make(tmp_path / "r.html", tmp_path / "run") == 0
    document = read_document(tmp_path / "r.html")
    [run] = document["runs"]
    assert len(run["train"]["loss"]) == 6
    expected = {"checkpoints": ["no complete checkpoint yet"], "vocab": ["vocabulary"]}.get(lost, [])
    notes = [note for note in run["notes"] if "were cut" not in note]
    assert len(notes) == len(expected) and all(part in note for part, note in zip(expected, notes, strict=True))
    assert bool(document["tests"]) == (not expected)
    assert bool(run["facts"]) == (lost != "summary.json")


def test_a_run_that_is_training_is_shown_as_far_as_it_is(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    file = tmp_path / "run/metrics.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], b"\x00spoilt", lines[1], lines[2][:9]]))
    (tmp_path / "run/lease.json").write_text("{}")
    before = content(tmp_path / "run")
    assert make(tmp_path / "r.html", tmp_path / "run") == 0
    [run] = read_document(tmp_path / "r.html")["runs"]
    assert run["train"]["step"] == [1, 2] and (run["step"], run["steps"]) == (2, 6)
    assert "1 lines of metrics.jsonl cannot be read" in run["notes"][0] and "no complete checkpoint" in run["notes"][1]
    assert content(tmp_path / "run") == before
    file.unlink()
    assert make(tmp_path / "r.html", tmp_path / "run") == 0
    assert "no curves" in read_document(tmp_path / "r.html")["runs"][0]["notes"][0]


def test_without_its_corpus_a_run_has_curves_and_another_folder_brings_the_scores_back(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["folder"] = str(tmp_path / "gone")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert make(tmp_path / "r.html", tmp_path / "run") == 0
    document = read_document(tmp_path / "r.html")
    assert not document["tests"] and document["runs"][0]["train"]["loss"]
    [note] = document["runs"][0]["notes"]
    assert note.startswith("no scores and no sentences: ") and str(tmp_path / "gone") in note
    assert "cannot be read" in document["runs"][0]["overlap"][0]
    shutil.copytree(runs[0].parent / "corpus", tmp_path / "corpus")
    (tmp_path / "corpus/valid.tsv").unlink()
    assert make(tmp_path / "r.html", tmp_path / "run", options=[*NOTHING, "--data-folder", str(tmp_path / "corpus")]) == 0
    document = read_document(tmp_path / "r.html")
    assert "calibration" not in document["tests"][0]["results"][0] and document["runs"][0]["notes"][0].startswith("no calibration: ")


def test_a_bad_update_is_shown_with_its_sentences(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    there = tmp_path / "run/reports"
    there.mkdir()
    pairs = {side: [{"text": f"{side} {i}", "ids": [5, 2]} for i in range(9)] for side in ("source", "target")}
    told = {"step": 4, "rollbacks": 0, "why": "the loss is not finite", "loss": "nan", "usual_loss": 2.5, "learning_rate": 0.1}
    told |= {"gradient_norm": "inf", "norms": {"encoder": 1.5, "decoder": "inf"}, "batches": [{"epoch": 0, "batch": 3, **pairs}]}
    (there / "step-00000004-process-0.json").write_text(json.dumps(told))
    (there / "step-00000005-process-0.json").write_text("{")
    assert make(tmp_path / "r.html", tmp_path / "run") == 0
    first, second = read_document(tmp_path / "r.html")["runs"][0]["bad"]
    assert (first["step"], first["loss"], first["norms"], first["pairs"]) == (4, "nan", [["decoder", "inf"], ["encoder", 1.5]], 9)
    assert first["sentences"][0] == ["source 0", "target 0"] and len(first["sentences"]) == 4
    assert second["why"] == "this report cannot be read"


def test_runs_of_other_data_and_without_attention_stand_beside_each_other(runs: list[Path], tmp_path: Path) -> None:
    plain = tmp_path / "fixed"
    how = ["--model.attention=none", "--model.no-input-feeding"]
    assert main(["train", DEBUG, "--run-dir", str(plain), *TINY, *PLAIN, *how]) == 0
    assert make(tmp_path / "r.html", runs[0], plain, options=["--resamples", "0", "--sentences", "2", "--split", "valid"]) == 0
    document = read_document(tmp_path / "r.html")
    assert [family["runs"] for family in document["families"]] == [[0], [1]] and not any(family["bands"] for family in document["families"])
    assert [test["runs"] for test in document["tests"]] == [[0], [1]]
    fixed = document["tests"][1]
    assert fixed["total"] == 1000 and len(fixed["details"]) == 2
    assert all("attention" not in of_run and of_run["target"] for detail in fixed["details"].values() for of_run in detail)
    assert "|bs:" not in json.dumps(fixed["results"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "{tmp}/no/folder.html"], "cannot be written"),
        (["--output", "{tmp}"], "cannot be written"),
        (["--output", ""], "--output is empty"),
        (["--sentences", "-1"], "--sentences -1 must be 0"),
        (["--resamples", "-1"], "--resamples -1 must be 0"),
        (["--by", "no_such"], "--by no_such names no column"),
        (["--by", "features"], "--by features is for runs that were trained with data.features"),
    ],
)
def test_what_cannot_be_is_one_message_and_no_file(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(trained_run), *(option.format(tmp=tmp_path) for option in options)]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_twice_and_no_run_are_refused(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path / "r.html", trained_run, trained_run) == 2
    assert "is given twice" in capsys.readouterr().err
    assert make(tmp_path / "r.html", tmp_path / "nothing") == 2
    assert "no run directory" in capsys.readouterr().err


def test_sentences_are_taken_in_turn_from_what_is_worth_a_look() -> None:
    assert report.choose([[5, 4, 3], [0, 1, 2], [5, 9, 8]], 5) == [0, 1, 4, 5, 9]
    assert report.choose([[1, 2]], 9) == [1, 2]
    assert report.choose([[1, 2], []], 0) == []


def test_shares_are_a_byte_each() -> None:
    packed: Any = base64.b64decode(report.pack(np.array([[0.0, 1.0], [0.5, 0.25]], np.float32)))
    assert list(packed) == [0, 255, 128, 64]
