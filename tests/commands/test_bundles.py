"""Features beside the source, from training to decode, score, Python and evaluate: the same word gets another form with each."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import own, serving
from tiny import DEBUG

import flax_s2s
from flax_s2s import UserError
from flax_s2s.cli.verbs import main
from flax_s2s.commands import decode, evaluate, recovery
from flax_s2s.config import EOS, DataConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.batching import pad
from flax_s2s.data.corpus import Pair
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.requests import Request, draw_seed
from flax_s2s.decoding.translate import Translation
from flax_s2s.evaluation.evaluate import make_examples

WORDS = ["".join(letters) for letters in itertools.product("aeiou", "klmnprst", "aeiou")]
FORMS = {"V;SG": lambda word: f"{word}s", "V;PL": lambda word: f"{word}p{word[0]}", "N;SG": lambda word: word[1:]}
OPTIONS = """--data.format=tsv --data.source=0 --data.target=1 --data.features=2 --data.max-train-pairs=0 --data.batch-tokens=512
    --data.max-source-tokens=16 --data.max-target-tokens=16 --data.buckets=1 --data.test=test --data.valid=valid --model.dropout=0
    --model.hidden-size=64 --optimizer.learning-rate=0.01 --optimizer.average-decay=0 --training.steps=240 --training.log-every-steps=80
    --training.evaluate-every-steps=240 --training.save-every-steps=240 --training.devices=1 --evaluation.metrics exact_match""".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    for split, of in (("train", lambda i: i % 10 < 8), ("valid", lambda i: i % 10 == 8), ("test", lambda i: i % 10 == 9)):
        rows = [f"{word}\t{form(word)}\t{bundle}\n" for i, word in enumerate(WORDS) for bundle, form in FORMS.items() if of(i)]
        (folder / f"{split}.tsv").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def run(corpus: Path) -> Path:
    folder = corpus / "run"
    assert main(["train", DEBUG, "--run-dir", str(folder), f"--data.folder={corpus}", *OPTIONS]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> flax_s2s.TrainedModel:
    return flax_s2s.load(run)


def ask(run: Path, tmp_path: Path, verb: str, content: str, *options: str, form: str = "tsv") -> list[str]:
    (tmp_path / f"in.{form}").write_text(content)
    arguments = [verb, str(run), "--input", str(tmp_path / f"in.{form}"), "--output", str(tmp_path / "out"), "--overwrite", *options]
    assert main(arguments) == 0
    return (tmp_path / "out").read_text().split("\n")[:-1]


def test_a_model_learns_what_they_say(run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words never seen, each with three forms that only the features tell apart: without them at most a third could be right."""
    rows = [line.split("\t") for line in (corpus / "test.tsv").read_text().split("\n")[:-1]]
    found = ask(run, tmp_path, "decode", (corpus / "test.tsv").read_text())
    right = sum(one == form for one, (_, form, _) in zip(found, rows, strict=True))
    assert right > 0.8 * len(rows), (right, len(rows))
    assert main(["evaluate", str(run), "--split", "test", "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["metrics"]["exact_match"]["score"] == pytest.approx(100 * right / len(rows))
    # By category: of the rows that have a feature, counted by hand; the most frequent first.
    said = " ".join(capsys.readouterr().out.split())
    assert list(scores["features"]) == ["SG", "V", "N", "PL"]
    for name, of_it in scores["features"].items():
        mine = [one == form for one, (_, form, bundle) in zip(found, rows, strict=True) if name in bundle.split(";")]
        assert of_it == {"exact_match": pytest.approx(100 * sum(mine) / len(mine)), "sources": len(mine)}
        assert f"{name} {len(mine)} {of_it['exact_match']:.2f}" in said


def test_every_way_to_ask_answers_the_same(run: Path, model: flax_s2s.TrainedModel, tmp_path: Path) -> None:
    words, bundles = ["eka", "eka", "imi", "imi", "olo"], ["V;SG", "N;SG", "PL|V", "", "V;DU"]
    table = ask(run, tmp_path, "decode", "".join(f"{word}\t\t{bundle}\n" for word, bundle in zip(words, bundles, strict=True)))
    elsewhere = "".join(f"{bundle}\t{word}\n" for word, bundle in zip(words, bundles, strict=True))
    assert ask(run, tmp_path, "decode", elsewhere, "--source-field", "1", "--features-field", "0") == table
    apart = "".join(f"{bundle.replace(';', '|')}\t\t{word}\n" for word, bundle in zip(words, bundles, strict=True))
    assert ask(run, tmp_path, "decode", apart, "--source-field", "2", "--features-field", "0+1") == table
    records = [{"source": word, "features": bundle} for word, bundle in zip(words, bundles, strict=True)]
    records[2]["features"] = ["PL", "V"]  # type: ignore[assignment]
    lines = ask(run, tmp_path, "decode", "".join(json.dumps(record) + "\n" for record in records), form="jsonl")
    answers = [json.loads(line) for line in lines]
    assert [answer["text"] for answer in answers] == table
    assert [answer["features"] for answer in answers] == ["V;SG", "N;SG", "PL;V", "", "V;DU"]
    assert ["unknown" in answer["flags"] for answer in answers] == [False, False, False, False, True]
    given: list[Any] = [record["features"] for record in records]
    found = model.translate(words, features=given)
    assert [one.text for one in found] == table
    assert [(one.logp, one.features, list(one.flags)) for one in found] == [(a["logp"], a["features"], a["flags"]) for a in answers]
    assert found[0].source_tokens[:2] == ("V", "SG")
    alone = model.translate("imi", features=["PL", "V"])
    assert (alone.text, alone.logp) == (found[2].text, found[2].logp)
    # What `decode` answered is scored as it was found, in JSONL and in Python.
    scored = [json.loads(line) for line in ask(run, tmp_path, "score", "".join(f"{line}\n" for line in lines), form="jsonl")]
    in_python = model.score([(one.source, one) for one in found], features=given)
    for one, answer, same in zip(scored, answers, in_python, strict=True):
        assert one["logp"] == pytest.approx(answer["logp"], abs=1e-5) and one["logp"] == same.logp
    rows = "".join(f"{one.source}\t{one.text}\t{one.features}\n" for one in found)
    assert [float(line) for line in ask(run, tmp_path, "score", rows)] == pytest.approx([one["logp"] for one in scored], abs=1e-4)


def test_they_change_how_probable_a_form_is(model: flax_s2s.TrainedModel) -> None:
    right, wrong, none = model.score([("eka", "ekas")] * 3, features=["V;SG", "N;SG", ""])
    assert right.logp > math.log(0.5) and right.logp > wrong.logp + 1 and right.logp > none.logp
    same, turned = model.translate(["eka"] * 2, features=["V;SG", "SG|V"], temperature=1.0, beam_size=2, seeds=[1, 1])
    assert same.source == turned.source and same.source_tokens != turned.source_tokens
    drawn = model.translate(["eka"] * 3, features=["V;SG", "V;SG", "V;PL"], temperature=1.0, seed=4)
    assert drawn[0] == drawn[1]
    assert len({draw_seed(1, Request("eka", features=bundle)) for bundle in ("", "V", "N", "V;N")}) == 4


def test_attention_has_a_column_for_each(run: Path, tmp_path: Path) -> None:
    ask(run, tmp_path, "decode", "eka\t\tV;SG\n", "--attention", str(tmp_path / "attention.jsonl"))
    (record,) = map(json.loads, (tmp_path / "attention.jsonl").read_text().splitlines())
    assert record["source"][:2] == ["V", "SG"] and record["source"][-1] == "</s>"
    assert all(len(row) == len(record["source"]) for row in record["attention"])


def test_parts_of_a_split_have_scores_of_their_own(run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By length, by what training has seen, by feature, and by a further column; and what the sources would score as they are."""
    table = [line.split("\t") for line in (corpus / "test.tsv").read_text().split("\n")[:-1]]
    train = [line.split("\t") for line in (corpus / "train.tsv").read_text().split("\n")[:-1]]
    table += [[*row[:2], "V;DU"] for row in train[:3]] + [["", "blank", "V"], *train[3:7], ["ekalomi", "ekalomis", "V;SG"]]
    genres = ["spoken" if i % 3 else "written, old" for i in range(len(table))]
    (tmp_path / "test.tsv").write_text("".join("\t".join([*row, genre]) + "\n" for row, genre in zip(table, genres, strict=True)))
    shutil.copy(corpus / "train.tsv", tmp_path)
    asked = ["--data-folder", str(tmp_path), "--metrics", "exact_match", "cer", "--json", str(tmp_path / "scores.json")]
    capsys.readouterr()
    assert main(["evaluate", str(run), *asked, "--by", "length", "seen", "features", "3", "--gain"]) == 0
    said, scores = " ".join(capsys.readouterr().out.split()), json.loads((tmp_path / "scores.json").read_text())
    kept = [(*row, genre) for row, genre in zip(table, genres, strict=True) if row[0]]
    found = flax_s2s.load(run).translate([row[0] for row in kept], features=[row[2] for row in kept])
    right = [
        one.text in {row[1] for row in kept if row[::2] == (word, bundle)} for one, (word, _, bundle, _) in zip(found, kept, strict=True)
    ]

    def check(by: str, name: str, members: list[bool]) -> None:
        part, chosen = scores["by"][by][name], [one for one, member in zip(right, members, strict=True) if member]
        assert part["sources"] == len(chosen) > 0
        assert part["metrics"]["exact_match"]["score"] == pytest.approx(100 * sum(chosen) / len(chosen))
        assert {*part["metrics"]} == {"exact_match", "cer"} and "|bs:1000" in part["metrics"]["cer"]["signature"]
        assert f"{name} {len(chosen)} {part['metrics']['exact_match']['score']:.2f} ±" in said

    words, bundles = {row[0] for row in train}, {row[2] for row in train}
    assert {*scores["by"]["seen"]} == {"source seen, features seen", "source seen, features unseen", "source unseen, features seen"}
    for name in scores["by"]["seen"]:
        known = [f"source {'seen' if row[0] in words else 'unseen'}, features {'seen' if row[2] in bundles else 'unseen'}" for row in kept]
        check("seen", name, [one == name for one in known])
    for genre in ("spoken", "written, old"):
        check("3", genre, [row[3] == genre for row in kept])
    for feature in ("V", "N", "SG", "PL", "DU"):
        check("features", feature, [feature in row[2].split(";") for row in kept])
    lengths = {"3 tokens": [len(row[0]) == 3 for row in kept], "7 tokens": [len(row[0]) == 7 for row in kept]}
    tokens = scores["by"]["length"]
    assert sum(part["sources"] for part in tokens.values()) == len(kept) and len(tokens) == 2, tokens
    for (name, _), members in zip(tokens.items(), lengths.values(), strict=True):
        check("length", name, members)
    # Of the sources as they are, by hand; no form here is its word, so that each costs edits.
    assert scores["gain"]["exact_match"]["source"] == 0
    assert scores["gain"]["exact_match"]["gain"] == pytest.approx(scores["metrics"]["exact_match"]["score"])
    assert scores["gain"]["cer"]["source"] > scores["metrics"]["cer"]["score"]
    assert scores["gain"]["cer"]["gain"] == pytest.approx(scores["gain"]["cer"]["source"] - scores["metrics"]["cer"]["score"])
    assert scores["gain"]["cer"]["p_value"] < 0.01
    characters = sum(len(row[1]) for row in kept)
    assert scores["mean_edits"]["cer"] == pytest.approx(scores["metrics"]["cer"]["score"] / 100 * characters / len(kept), rel=0.2)
    assert f"cer {scores['mean_edits']['cer']:.2f} edits a line" in said
    assert main(["evaluate", str(run), *asked, "--by", "3", "--merge-sources"]) == 0
    merged = json.loads((tmp_path / "scores.json").read_text())["by"]["3"]  # a source is in each part that has one of its pairs
    for genre in ("spoken", "written, old"):
        assert merged[genre]["sources"] == len({row[::2] for row in kept if row[3] == genre})
    in_python = flax_s2s.evaluate(run, metrics=["exact_match"], data_folder=tmp_path, by=[3], gain=True, resamples=0).result
    assert in_python["by"]["3"]["spoken"]["sources"] == scores["by"]["3"]["spoken"]["sources"]
    assert in_python["gain"]["exact_match"] == {"source": 0.0, "gain": pytest.approx(scores["gain"]["exact_match"]["gain"])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "0"], "--by 0 is the source or the target; name a column beside them, or features, length, seen"),
        (
            ["--by", "seem"],
            "--by seem, neither features, length, seen nor a column of text; did you mean 'seen'?: data.features='seem' must be a column number",
        ),
        (["--by", "7"], "--by 7, neither features, length, seen nor a column of text: "),
        (["--by", "seen", "seen"], "--by seen seen must name each column, or features, length, seen, once; got 'seen'"),
        (["--gain", "--macro"], "--gain true is of one run, and --macro evaluates each by itself"),
        (["--by", "seen", "--macro"], "--by seen is of one run, and --macro evaluates each by itself"),
    ],
)
def test_parts_that_there_are_none_of(run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_run_without_columns_or_features_has_no_parts_by_them(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--by", "features"], "--by features is for runs that were trained with data.features"),
        (["--by", "genre"], "--by genre names no column, which data.format=phrases has none of; use features, length, seen"),
    ):
        assert main(["evaluate", str(trained_run), *options]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_references_go_by_source_and_features(tmp_path: Path) -> None:
    """A word that is right with other features alone is not right."""
    (tmp_path / "more.tsv").write_text("a\tright\tV;SG\na\tother\tV;PL\na\tsecond\tV;SG\n")
    data = DataConfig(format="tsv", source="0", target="1", features="2")
    pairs = [Pair("a", "x", "V;SG"), Pair("a", "y", "V;PL"), Pair("a", "z", "N")]
    assert evaluate.read_targets(str(tmp_path / "more.tsv"), pairs, data) == [["right", "second"], ["other"], []]
    assert [one.right for one in make_examples(pairs, merge=True)] == [("x",), ("y",), ("z",)]


def test_right_targets_go_by_source_and_features(run: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "more.tsv").write_text("".join(f"{line}x\tV;SG\n" for line in ("eka\t", "unu\t")) + (corpus / "test.tsv").read_text())
    arguments = [
        "evaluate",
        str(run),
        "--split",
        "test",
        "--references",
        str(tmp_path / "more.tsv"),
        "--json",
        str(tmp_path / "found.json"),
    ]
    assert main(arguments) == 0
    with_more = json.loads((tmp_path / "found.json").read_text())
    assert main(["evaluate", str(run), "--split", "test", "--merge-sources", "--json", str(tmp_path / "found.json")]) == 0
    merged = json.loads((tmp_path / "found.json").read_text())
    assert merged["sources"] == with_more["pairs"]  # one word with other features is another source
    assert merged["metrics"]["exact_match"]["score"] == with_more["metrics"]["exact_match"]["score"]


# What is wrong -----------------------------------------------------------------------------------------------------


def test_lines_without_them_are_skipped_and_counted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(run, tmp_path, "decode", "eka\t\tV;SG\neka\n\nimi\t\n")
    assert found[0] and found[1:] == ["", "", ""]
    said = capsys.readouterr().err.replace("\n", " ")
    assert "2 without features" in said and "there are 1 columns, and none has the number 2, from 0, of the features" in said
    record = json.loads(ask(run, tmp_path, "decode", '{"source": "eka", "features": ""}\n{"source": "eka"}\n', form="jsonl")[1])
    assert record["error"].startswith("there is no field 'features', only 'source', and the model was trained with features; give a bundle")
    wrong = json.loads(ask(run, tmp_path, "decode", '{"source": "eka", "features": ""}\n{"source": "a", "features": 3}\n', form="jsonl")[1])
    assert wrong["error"] == "features must be a string or a list of strings, got int"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("in.txt", [], "trained with features beside the source, which lines of text have none of"),
        ("in.tsv", ["--features-field", "0"], "--features-field 0 of {name} is the column of the source or of the target; name another"),
        ("in.tsv", ["--features-field", "tag"], "--features-field tag of {name} must be a column's number, from 0"),
    ],
)
def test_files_that_cannot_hold_them_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: list[str], said: str
) -> None:
    (tmp_path / name).write_text("eka\n" if name == "in.txt" else "eka\tx\tV;SG\n")
    assert main(["decode", str(run), "--input", str(tmp_path / name), "--output", str(tmp_path / "out"), *options]) == 2
    assert said.format(name=tmp_path / name).replace(" ", "") in "".join(capsys.readouterr().err.split())


def test_python_says_what_is_missing(model: flax_s2s.TrainedModel) -> None:
    with pytest.raises(UserError, match="the model was trained with features; give them"):
        model.translate("eka")
    with pytest.raises(UserError, match="features has 1 values for 2 texts"):
        model.translate(["eka", "imi"], features=["V;SG"])
    with pytest.raises(UserError, match="text 1: features must be a string or a list of strings"):
        model.translate(["eka", "imi"], features=["V;SG", ["V", 3]])  # type: ignore[list-item]
    with pytest.raises(UserError, match="the model was trained with features"):
        model.score([("eka", "ekas")])


def test_models_without_them_refuse_them(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"features are for models that were trained with data.features"):
        flax_s2s.load(trained_run).translate("3 hours", features="V")
    (tmp_path / "in.tsv").write_text("a\tb\n")
    arguments = ["decode", str(trained_run), "--input", str(tmp_path / "in.tsv"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--features-field", "2"]) == 2
    assert "--features-field 2 is for runs that were trained with data.features" in " ".join(capsys.readouterr().err.split())
    record = {"source": "3 hours", "features": {"any": "thing"}}  # a field like any other
    (answer,) = ask(trained_run, tmp_path, "decode", json.dumps(record) + "\n", form="jsonl")
    assert "features" not in json.loads(answer) and "error" not in json.loads(answer)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.features", "1"], "data.features='1' is the source or the target; name what stands beside them"),
        (["--data.features", "3"], "has 3 columns; data.source=0 and data.target=1, data.features=3 count from 0 and need at least 4"),
    ],
)
def test_training_says_where_they_are_missing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["train", DEBUG, "--run-dir", str(tmp_path / "x"), f"--data.folder={corpus}", *OPTIONS, *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert main(["train", DEBUG, "--run-dir", str(tmp_path / "x"), "--data.features", "2"]) == 2
    assert "data.format=phrases has no features" in " ".join(capsys.readouterr().err.split())


def test_features_of_validation_that_training_lacks_are_named(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.tsv").write_text((corpus / f"{split}.tsv").read_text())
    (folder / "valid.tsv").write_text((folder / "valid.tsv").read_text().replace("V;PL", "V;DU;(X"))
    assert main(["inspect", DEBUG, f"--data.folder={folder}", *OPTIONS, "--no-memory"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 features of the validation pairs are not in the vocabulary, such as '(X', 'DU'" in said
    assert "of 60 pairs (0.0%), 0 of 20 sources (0.0%)" in said and "2 of 3 bundles (66.7%), 3 of 5 features (60.0%) are in train" in said


def test_a_run_goes_on_only_with_its_features(run: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [option for option in OPTIONS if not option.startswith("--data.features")]
    assert main(["train", DEBUG, "--run-dir", str(run), f"--data.folder={corpus}", *options]) == 2
    assert "data.features: '2' -> ''" in capsys.readouterr().err


def test_a_run_from_before_there_were_features_goes_on_and_decodes(trained_run: Path, tmp_path: Path) -> None:
    """Its config.json has no such fields."""
    shutil.copytree(trained_run, tmp_path / "old")
    saved = json.loads((tmp_path / "old" / "config.json").read_text())
    assert (saved["data"].pop("features"), saved["vocab"].pop("symbols")) == ("", [])
    (tmp_path / "old" / "config.json").write_text(json.dumps(saved))
    now, before = (ask(folder, tmp_path, "decode", "3 hours\n", form="txt") for folder in (trained_run, tmp_path / "old"))
    assert now == before
    assert main(["train", str(tmp_path / "old"), "--training.steps", "5"]) == 0


# Other verbs -------------------------------------------------------------------------------------------------------


def test_calibration_and_shortlist_know_them(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "calibration.png"
    arguments = ["evaluate", str(run), "--split", "test", "--calibration", str(picture), "--json", str(tmp_path / "found.json")]
    assert main(arguments) == 0
    before = json.loads((tmp_path / "found.json").read_text())["calibration"]["before"]
    assert before["accuracy"] > 0.8 and before["nll"] < 0.5  # of reference tokens, which without features are a guess
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert main(["shortlist", str(copy)]) == 0
    found = ask(copy, tmp_path, "decode", "eka\t\tV;SG\nimi\t\tV;XX\n", "--shortlist", "64")  # more than there are tokens
    assert found == ask(run, tmp_path, "decode", "eka\t\tV;SG\nimi\t\tV;XX\n")


def test_a_new_run_begins_with_what_they_mean(
    run: Path, corpus: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*OPTIONS, "--training.steps=2", "--training.evaluate-every-steps=2", "--optimizer.learning-rate=1e-9"]
    start = ["train", DEBUG, f"--data.folder={corpus}", "--run-dir"]
    assert main([*start, str(tmp_path / "fine"), "--init-from", str(run), *few]) == 0
    rows = (corpus / "test.tsv").read_text()
    assert ask(tmp_path / "fine", tmp_path, "decode", rows) == ask(run, tmp_path, "decode", rows)
    capsys.readouterr()
    without = [option for option in few if not option.startswith("--data.features")]
    assert main([*start, str(tmp_path / "none"), "--init-from", str(run), *without]) == 2
    assert "was trained with data.features='2', which is features, and this run asks for none" in " ".join(capsys.readouterr().err.split())
    assert main([*start, str(tmp_path / "new"), "--init-from", str(trained_run), *few]) == 2
    assert "which is none, and this run asks for features" in " ".join(capsys.readouterr().err.split())


def test_a_bad_update_is_reported_with_its_features() -> None:
    made = vocab_training.train([Pair("ab", "c", "V;SG"), Pair("ba", "c", "N")], VocabConfig(kind="char"), bundles=True)
    batch = pad([np.array([*ids, EOS]) for ids in made.encode_sources(["ab", "ba", "ab"], ["V;SG", "", "X"])], 4, 9)
    found = recovery._side(batch, made.source, made.features)
    assert [(row["text"], row.get("features")) for row in found] == [("ab", ["V", "SG"]), ("ba", None), ("ab", None)]
    copying = vocab_training.train([Pair("ab", "c", "V;SG")], VocabConfig(kind="char", joint=True), bundles=True, copy=True)
    batch = pad([np.array([*ids, EOS]) for ids in copying.encode_sources(["aŋb"], ["V"])], 2, 9)
    (row,) = recovery._side(batch, copying.source, copying.features)
    assert (row["text"], row["features"], len(row["ids"])) == ("ab", ["V"], 6)  # what the vocabulary lacks is there as a number


def test_a_form_that_is_its_word_is_no_copy(model: flax_s2s.TrainedModel) -> None:
    """`copied` is of five tokens and more, of text."""
    found = Translation("so", -1.0, -1.0, 4, True, False, ids=(5, 6, 7, EOS))
    known: Any = Known(model._opened.vocabularies, found)
    ((_, flags, ids),) = decode.translate(known, [], [Request("so", features="N;SG;V;PL;N;SG")])
    assert flags == () and len(ids) > 8


class Known:
    """Finds what it was given."""

    def __init__(self, vocabularies: Vocabularies, found: Translation) -> None:
        self.vocabularies, self.found = vocabularies, found

    def __call__(self, weights: Any, requests: Any) -> list[Translation]:
        return [self.found for _ in requests]


def test_a_macro_average_is_the_mean_of_runs_each_on_its_own_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config["data"]["test"] = "valid"
    config["decoding"] |= {"beam_size": 1, "length_penalty": 0.0}
    (other / "config.json").write_text(json.dumps(config))
    asked = ["evaluate", str(run), str(other), "--macro", "--metrics", "exact_match", "cer"]
    assert main([*asked, "--json", str(tmp_path / "macro.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    found, each = json.loads((tmp_path / "macro.json").read_text()), []
    for one in (run, other):
        assert main(["evaluate", str(one), "--metrics", "exact_match", "cer", "--json", str(tmp_path / f"{one.name}.json")]) == 0
        each.append(json.loads((tmp_path / f"{one.name}.json").read_text()))
        assert found["runs"][str(one)] == each[-1]  # as each is configured
    assert [one["beam_size"] for one in found["runs"].values()] == [each[0]["beam_size"], 1]
    for name, score in found["macro"].items():
        assert score["score"] == pytest.approx(sum(one["metrics"][name]["score"] for one in each) / 2)
        assert score["ci"] == pytest.approx(math.hypot(*(one["metrics"][name]["ci"] for one in each)) / 2)
        assert score["signature"] == "macro:2|" + each[0]["metrics"][name]["signature"]
        assert f"{score['score']:.2f}" in said
    capsys.readouterr()
    for wrong, message in (
        (["--calibration", str(tmp_path / "a.png")], "is of one run, and --macro evaluates each by itself; leave one of them out"),
        (["--references", "a.txt"], "--references a.txt is of one run, and --macro evaluates each by itself"),
        ([f"{run}/"], "is given twice, and would count twice in a macro-average; give it once"),
    ):
        assert main([*asked[:3], *wrong, "--macro"]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    config["evaluation"]["metrics"] = ["chrf"]
    (other / "config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(run), str(other), "--macro"]) == 2
    assert "is measured by exact_match, and" in " ".join(capsys.readouterr().err.split())
    config["data"]["test"], config["evaluation"]["metrics"] = "test", ["exact_match"]
    (other / "config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(run), str(other), "--macro", "--json", str(tmp_path / "same.json")]) == 0
    same = json.loads((tmp_path / "same.json").read_text())["macro"]["exact_match"]
    assert same["ci"] is None and same["score"] > 0  # of the same words: no interval follows


def test_read_at_every_step_they_go_with_monotonic_attention(corpus: Path, tmp_path: Path) -> None:
    """Which never looks at them; the same from Python, in JSON, and by a forced score."""
    run, how = tmp_path / "run", ["--model.feed-features", "--model.alignment=monotonic", "--training.steps=300"]
    assert main(["train", DEBUG, "--run-dir", str(run), f"--data.folder={corpus}", *OPTIONS, *how]) == 0
    assert main(["evaluate", str(run), "--split", "test", "--json", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["exact_match"]["score"] > 80
    model = flax_s2s.load(run)
    found = model.translate(["eka", "eka", "imi"], features=["V;SG", "N;SG", ["PL", "V"]], attention=True)
    assert len({one.text for one in found}) == 3
    for one in found:
        assert one.attention is not None and not np.any(one.attention[:, :2])
        np.testing.assert_allclose(one.attention.sum(axis=1), 1, rtol=1e-4)
    scores = model.score([(one.source, one) for one in found], features=["V;SG", "N;SG", "PL;V"])
    np.testing.assert_allclose([one.logp for one in scores], [one.logp for one in found], rtol=1e-4)


def test_a_server_asks_for_features(run: Path, corpus: Path, tmp_path: Path) -> None:
    rows = [line.split("\t") for line in (corpus / "test.tsv").read_text().split("\n")[:12]]
    asked = "".join(json.dumps({"source": word, "features": bundle}) + "\n" for word, _, bundle in rows)
    wanted = [json.loads(line) for line in ask(run, tmp_path, "decode", asked, "--form", "jsonl", "--rows", "8", form="jsonl")]
    for client in serving([str(run)], max_source_tokens=16):
        assert client.get("/v1/info").json()["runs"][0]["features"] is True
        for (word, _, bundle), one in zip(rows, wanted, strict=True):
            (found,) = own(client, source=word, features=bundle)
            (listed,) = own(client, source=word, features=bundle.split(";"), attention=True)
            assert {name: value for name, value in found.items() if name != "spans"} == one
            assert listed["source_tokens"][:2] == bundle.split(";")
            assert listed["source_spans"][:2] == [[0, 0], [0, 0]] and listed["text"] == found["text"]
        for path, fields in (("/v1/translate", {"source": "ele"}), ("/translate", {"q": "ele"})):
            refused = client.post(path, json=fields)
            assert refused.status_code == 400
            assert "trained with features" in refused.json()["error"]
