"""`score`: one answer for each line in, in order, whatever the lines are; and what `decode` says of its own output."""

import io
import json
import math
import random
import shutil
from pathlib import Path

import pytest

from flax_s2s.cli.verbs import main

PAIRS = [("3 hours", "3小时"), ("May 5, 2023", "2023年5月5日"), ("Tuesday", ""), ("1/2/2019", "2019/1/2")]


def score(run: Path, tmp_path: Path, content: bytes, *options: str, ending: str = "tsv") -> tuple[list[str], dict]:
    for old in tmp_path.glob("out*"):
        old.unlink()
    (tmp_path / f"in.{ending}").write_bytes(content)
    assert main(["score", str(run), "--input", str(tmp_path / f"in.{ending}"), "--output", str(tmp_path / "out"), *options]) == 0
    text = (tmp_path / "out").read_bytes().decode()
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1], json.loads((tmp_path / "out.summary.json").read_text())


def as_columns(pairs: list[tuple[str, str]]) -> bytes:
    return "".join(f"{source}\t{target}\n" for source, target in pairs).encode()


def aligned(run: Path, tmp_path: Path, pairs: list[tuple[str, str]], *options: str) -> list[str]:
    for name, side in (("s", 0), ("t", 1)):
        (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
    return ["score", str(run), "--source", str(tmp_path / "s"), "--target", str(tmp_path / "t"), *options]


def test_what_decode_says_of_its_own_output_is_what_score_says(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"id": i, "source": pair[0]}) + "\n" for i, pair in enumerate(PAIRS)))
    arguments = ["decode", str(trained_run), "--input", str(tmp_path / "asked.jsonl"), "--output", str(tmp_path / "answers.jsonl")]
    assert main([*arguments, "--beam-size", "12", "--n-best", "12", "--length-penalty", "0.6"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    found, summary = score(trained_run, tmp_path, (tmp_path / "answers.jsonl").read_bytes(), "--length-penalty", "0.6", ending="jsonl")
    compared = 0
    for answer, line in zip(answers, found, strict=True):
        record, given = json.loads(line), [answer, *answer["others"]]
        assert record["id"] == answer["id"]
        candidates = record.get("candidates", [{**record, "index": 0, "text": answer["text"]}])  # where only one was found
        assert [one["score"] for one in candidates] == sorted((one["score"] for one in candidates), reverse=True)
        for one in candidates:
            wanted = given[one["index"]]
            assert one["text"] == wanted["text"]
            assert one["logp"] == pytest.approx(sum(one["token_logp"]), abs=1e-9)
            if wanted["reason"] == "end":
                compared += 1
                assert one["tokens"] == wanted["tokens"]
                assert one["token_logp"] == pytest.approx(wanted["token_logp"], abs=1e-4)
                assert (one["logp"], one["score"]) == pytest.approx((wanted["logp"], wanted["score"]), abs=1e-4)
            else:  # the text that was cut, and its end
                assert one["tokens"] == [*wanted["tokens"], "</s>"]
                assert one["token_logp"][:-1] == pytest.approx(wanted["token_logp"], abs=1e-4)
    assert compared
    assert summary["targets"] == sum(1 + len(answer["others"]) for answer in answers)


def test_the_forms_agree_and_the_total_is_that_of_the_lines(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns, summary = score(trained_run, tmp_path, as_columns(PAIRS))
    assert all(float(line) < 0 for line in columns)
    tokens = sum(len(target) + 1 + bool(target) for _, target in PAIRS)  # end marks, and SentencePiece's leading space
    assert (summary["lines"], summary["targets"], summary["tokens"]) == (4, 4, tokens)
    assert summary["logp"] == pytest.approx(sum(map(float, columns)), abs=1e-9)
    assert summary["perplexity"] == pytest.approx(math.exp(-summary["logp"] / tokens))
    assert f"perplexity {summary['perplexity']:.3f}" in capsys.readouterr().err
    records = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS)
    objects = [json.loads(line) for line in score(trained_run, tmp_path, records.encode(), ending="jsonl")[0]]
    assert [f"{one['logp']:.6f}" for one in objects] == columns
    for one in objects:
        assert len(one["tokens"]) == len(one["token_logp"]) and one.keys() == {"logp", "score", "tokens", "token_logp"}
    assert main(aligned(trained_run, tmp_path, PAIRS)) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == columns
    assert f"perplexity {summary['perplexity']:.3f}" in printed.err


def test_a_run_of_other_columns_scores_those(trained_run: Path, tmp_path: Path) -> None:
    wanted, _ = score(trained_run, tmp_path, as_columns(PAIRS))
    shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"] |= {"format": "csv", "source": "of", "target": "to", "header": True}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    rows = "to,of\n" + "".join(f'"{target}","{source}"\n' for source, target in PAIRS)
    found, summary = score(tmp_path / "run", tmp_path, rows.encode(), ending="csv")
    assert found == ["logp", *wanted] and (summary["lines"], summary["header lines"], summary["targets"]) == (5, 1, 4)


def test_what_the_vocabulary_does_not_have_is_counted(trained_run: Path, tmp_path: Path) -> None:
    pairs = [("3 hours", "3小时"), ("3 \u732b", "3小时"), ("3 hours", "3\u732b")]
    summary = score(trained_run, tmp_path, as_columns(pairs))[1]
    assert (summary["unknown sources"], summary["unknown targets"]) == (1, 1)
    objects = "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in pairs)
    found = score(trained_run, tmp_path, objects.encode(), ending="jsonl")[0]
    assert [json.loads(line).get("flags") for line in found] == [None, ["unknown"], ["unknown"]]


def test_two_equal_runs_score_as_one(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what they say is the mean; that different ones do too is tested in tests/decoding."""
    wanted, _ = score(trained_run, tmp_path, as_columns(PAIRS))
    command = aligned(trained_run, tmp_path, PAIRS)
    capsys.readouterr()
    for mean in ("probabilities", "log-probabilities"):
        assert main([*command[:2], str(trained_run), *command[2:], "--ensemble", mean]) == 0
        assert [float(line) for line in capsys.readouterr().out.splitlines()] == pytest.approx([float(line) for line in wanted], abs=1e-4)


@pytest.mark.parametrize("with_aligned", [False, True])
def test_shards_restarts_order_and_neighbors_change_no_byte_and_no_total(trained_run: Path, tmp_path: Path, with_aligned: bool) -> None:
    draw = random.Random(1)
    pairs = [draw.choice(PAIRS) for _ in range(60)]
    wanted, whole = score(trained_run, tmp_path, as_columns(pairs))
    by_pair = dict(zip(pairs, wanted, strict=True))
    command = aligned(trained_run, tmp_path, pairs)
    if not with_aligned:
        command = ["score", str(trained_run), "--input", str(tmp_path / "in.tsv")]
    for count in (1, 3):
        for old in tmp_path.glob("out*"):
            old.unlink()
        for index in reversed(range(count)):
            assert not (tmp_path / "out").exists()
            options = ["--output", str(tmp_path / "out"), "--part-bytes", "70", "--shard", f"{index}/{count}"]
            assert main([*command, *options]) == 0
        assert (tmp_path / "out").read_text().splitlines() == wanted
        summary = json.loads((tmp_path / "out.summary.json").read_text())
        assert {name: summary[name] for name in ("logp", "perplexity", "tokens")} == {
            name: whole[name] for name in ("logp", "perplexity", "tokens")
        }
    draw.shuffle(pairs)
    pairs = [*pairs[:11], ("some other", "neighbors")]
    assert score(trained_run, tmp_path, as_columns(pairs))[0][:11] == [by_pair[pair] for pair in pairs[:11]]


def test_odd_lines_are_answered_in_their_place_and_counted(trained_run: Path, tmp_path: Path) -> None:
    lines = [b"3 hours\t3", b"no target", b"", b"\t", b"\tx", b"\xff\t\xfe", b"a\x00\tb\x00", b"x\t" + b"y " * 9999, b"3 hours\t3\tmore"]
    found, summary = score(trained_run, tmp_path, b"\n".join(lines))
    assert [bool(line) for line in found] == [True, False, True, True, False, True, True, False, True]
    assert found[0] == found[8] and float(found[2]) == float(found[3]) == 0
    assert (summary["skipped"], summary["without target"], summary["without source"], summary["too long"]) == (3, 1, 1, 1)
    assert (summary["blank lines"], summary["invalid UTF-8"], summary["first_error"][:25]) == (2, 1, "line 2: there is no colum")
    objects = [
        b'{"source": "3 hours", "candidates": ["3", "' + b"y " * 9999 + b'"]}',
        b'{"id": 7, "source": "3 hours"}',
        b'{"source": "3 hours", "candidates": []}',
        b'{"id": 8, "error": "of decode"}',
        b'{"source": "3 hours", "text": "[?]", "abstained": true, "others": []}',
        b'{"source": "3 hours", "candidates": [5]}',
        b"nothing",
        b'{"source": "3 hours", "text": "3", "tokens": ["no such token"], "others": []}',
    ]
    found, summary = score(trained_run, tmp_path, b"\n".join(objects), ending="jsonl")
    records = [json.loads(line) for line in found]
    assert [one["index"] for one in records[0]["candidates"]] == [0, 1]
    assert "more tokens than any source" in records[0]["candidates"][1]["error"]
    assert records[1] == {"id": 7, "error": "there is no field 'target', only 'id', 'source'"}
    assert ["error" in one for one in records[1:]] == [True] * 6 + [False]
    assert records[7]["logp"] == pytest.approx(records[0]["candidates"][0]["logp"], abs=1e-5)
    assert (summary["skipped"], summary["targets"]) == (7, 2)
    causes = ("no JSON objects", "without source", "without target", "with invalid fields")
    assert [summary[cause] for cause in causes] == [1, 1, 2, 2]


def test_columns_come_from_stdin(trained_run: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(as_columns(PAIRS))))
    assert main(["score", str(trained_run)]) == 0
    assert capfdbinary.readouterr().out.count(b"\n") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "{tmp}/s"], "--source and --target belong together"),
        (["--source", "{tmp}/s", "--target", "{tmp}/t"], "has 2 lines and {tmp}/t 1; they must have equally many"),
        (["--source", "{tmp}/s", "--target", "{tmp}/t", "--output", "{tmp}/out"], "has 2 lines and {tmp}/t 1; they must have equally many"),
        (["--source", "{tmp}/t", "--target", "{tmp}/s"], "has 1 lines and {tmp}/s 2; they must have equally many"),
        (["--source", "{tmp}/s", "--target", "{tmp}/none"], "none cannot be read"),
        (["--source", "{tmp}/s", "--target", "{tmp}/t", "--form", "tsv"], "--form tsv is for --input"),
        (["--source", "{tmp}/s", "--target", "{tmp}/t", "--input", "{tmp}/s"], "cannot both be given"),
        (["--source", "{tmp}/s", "--target", "{tmp}/t", "--output", "{tmp}/t"], "must be a file of lines, and no output"),
        (["--input", "{tmp}/s"], "would hold lines of text, not pairs"),
        (["--input", "{tmp}/none.tsv"], "none.tsv cannot be read"),
    ],
)
def test_bad_input_is_one_message(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "s").write_text("3 hours\nMay 5, 2023\n")
    (tmp_path / "t").write_text("3小时\n")
    assert main(["score", str(trained_run), *(option.replace("{tmp}", str(tmp_path)) for option in options)]) == 2
    printed = capsys.readouterr().err
    assert message.replace("{tmp}", str(tmp_path)) in printed and "Traceback" not in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "t"]
