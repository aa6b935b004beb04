"""`decode`: one line out for each line in, in order, whatever the lines are."""

import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from soak.decode import kill_decoding
from tiny import REPOSITORY

import flax_s2s
from flax_s2s.cli.verbs import main
from flax_s2s.config import VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.translate import BLANK, Translator

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
LINES = ["May 5, 2023", "", "   ", "3 hours", "¥100", "x" * 300, "一 二", "May 5, 2023", "a\u2028b", "tab\there"]


def decode(run: Path, tmp_path: Path, content: bytes, *options: str) -> list[str]:
    for old in tmp_path.glob("out*"):
        old.unlink()
    (tmp_path / "in").write_bytes(content)
    assert main(["decode", str(run), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *options]) == 0
    text = (tmp_path / "out").read_bytes().decode()
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


def test_lines_keep_their_number_and_order(trained_run: Path, tmp_path: Path) -> None:
    found = decode(trained_run, tmp_path, "\n".join(LINES).encode())
    assert len(found) == len(LINES)
    assert found[1] == found[2] == "" and found[0] == found[7]
    assert decode(trained_run, tmp_path, "\n".join(reversed(LINES)).encode()) == found[::-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "out.summary.json"]


def test_in_eight_bits(trained_run: Path, tmp_path: Path) -> None:
    found = decode(trained_run, tmp_path, "\n".join(LINES).encode(), "--compute", "int8")
    assert found == [one.text for one in flax_s2s.load(trained_run).translate(LINES, compute="int8")]
    assert decode(trained_run, tmp_path, "\n".join(reversed(LINES)).encode(), "--compute", "int8", "--rows", "3") == found[::-1]


def test_hostile_bytes_keep_the_number_of_lines(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = decode(trained_run, tmp_path, b"plain\r\n\xff\xfe\n\x00\n\xf0\x9f\x98\x80\n")
    assert len(found) == 4
    assert "4 lines" in capsys.readouterr().err.replace("\n", " ")


def test_an_empty_file_gives_an_empty_file(trained_run: Path, tmp_path: Path) -> None:
    assert decode(trained_run, tmp_path, b"") == []


def test_a_long_source_is_cut_and_counted(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decode(trained_run, tmp_path, b"1" * 100)
    assert "1 cut sources" in capsys.readouterr().err


def test_stdin_to_stdout(trained_run: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"3 hours\nMay 5\n")))
    assert main(["decode", str(trained_run), "--beam-size", "1"]) == 0
    assert capfdbinary.readouterr().out.count(b"\n") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "{tmp}/none"], "none cannot be read"),
        (["--input", "{tmp}/empty"], "has no file; give at least one"),
        (["--input", "{tmp}/in", "{tmp}/in", "--output", "{tmp}/new"], "two of the input files have one name"),
        (["--input", "{tmp}/in", "--output", "{tmp}/out", "--shard", "4/4"], "--shard 4/4 must be I/N"),
        (["--input", "{tmp}/in", "--output", "{tmp}/out", "--shard", "one"], "--shard one must be I/N"),
        (["--input", "{tmp}/in", "--output", "{tmp}/out", "--n-best", "2"], "n_best=2 needs --output-form jsonl or nbest"),
        (["--input", "{tmp}/in", "--output", "{tmp}/out", "--abstain-below", "2"], "--abstain-below 2.0 is a probability"),
        (["--input", "{tmp}/in", "--output", "{tmp}/out", "--blocklist", "{tmp}/none"], "there is no file"),
        (["--input", "{tmp}/in", "--output", "{tmp}/out", "--shortlist", "64"], "shortlist.npz is not there; make it once"),
        (["--shortlist", "9"], "decoding.shortlist=9 leaves nothing to say; use at least 16"),
        (["--max-length-ratio", "1e30"], "allow more than 1,000,000 tokens"),
        (["--max-length-extra", "999999999"], "allow more than 1,000,000 tokens"),
        (["--batch-wait", "inf"], "--batch-wait inf must be 0 to 3600 seconds"),
        (["--input", "{tmp}/in", "--source-field", "1"], "--source-field 1 is for columns and objects"),
        (["--input", "{tmp}/in", "--n-best", "2", "--output-form", "text"], "n_best=2 needs --output-form jsonl or nbest"),
        (["--input", "{tmp}/in", "--attention", "/dev/null", "--pictures", "{tmp}/p"], "give it too, and no pipe"),
        (["--shard", "0/2"], "--shard 0/2 cuts files that are written to files into parts"),
        (["--groups", "3"], "decoding.groups=3 must divide decoding.beam_size"),
        (["--input", "{tmp}/in", "--output", "{tmp}/in"], "--input and --output are both"),
        (["--input", "{tmp}/in", "--output", "{tmp}/none/out"], "cannot be written"),
        (["--checkpoint", "99"], "there is no checkpoint '99'; use best, last, or one of 2, 4"),
        (["--input", "{tmp}/in", "--output", "{tmp}"], "cannot be written: Is a directory"),
        (["--checkpoint", "²"], "there is no checkpoint '²'; use best, last, or one of 2, 4"),
        (["--input", "foo://x"], "'foo://x' cannot be opened: KeyError"),
    ],
)
def test_bad_input_is_one_message(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "in").write_text("3 hours\n")
    (tmp_path / "empty").mkdir()
    assert main(["decode", str(trained_run), *(option.replace("{tmp}", str(tmp_path)) for option in options)]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {"in": "3 hours\n"}


def test_gzip_and_a_byte_order_mark_are_read(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = decode(trained_run, tmp_path, b"3 hours\nMay 5, 2023\n")
    assert decode(trained_run, tmp_path, b"\xef\xbb\xbf3 hours\nMay 5, 2023\n") == plain
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"3 hours\nMay 5, 2023\n"))
    for old in tmp_path.glob("out*"):
        old.unlink()
    assert main(["decode", str(trained_run), "--input", str(tmp_path / "in.gz"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text().split("\n")[:-1] == plain
    for pack in (bz2.compress, lzma.compress, zstd.compress):
        assert decode(trained_run, tmp_path, pack(b"\xef\xbb\xbf3 hours\nMay 5, 2023\n")) == plain
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"3 hours\n" * 99)[:-9])
    assert main(["decode", str(trained_run), "--input", str(tmp_path / "in.gz"), "--output", str(tmp_path / "out")]) == 2
    assert "is not a whole packed file" in capsys.readouterr().err
    assert (tmp_path / "out").read_text().split("\n")[:-1] == plain  # what was there stays


def test_a_run_of_more_devices_decodes_here(trained_run: Path, tmp_path: Path) -> None:
    plain = decode(trained_run, tmp_path, b"3 hours\n")
    shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["training"]["devices"] = 64
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert decode(tmp_path / "run", tmp_path, b"3 hours\n") == plain


def test_every_run_of_several_must_fit_the_settings(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["model"] |= {"attention": "none", "input_feeding": False}
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    (tmp_path / "in").write_text("3 hours\n")
    options = ["--input", str(tmp_path / "in"), "--coverage-penalty", "0.2"]
    assert main(["decode", str(trained_run), str(tmp_path / "run"), *options]) == 2
    assert "decoding.coverage_penalty=0.2 needs attention" in capsys.readouterr().err


def test_runs_with_different_vocabularies_do_not_translate_as_one(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    other = vocab_training.train([Pair("3 hours of other text", "3小时")] * 9, VocabConfig(kind="char", size=30)).source
    (tmp_path / "run/vocab/joint.model").write_bytes(other.model)
    (tmp_path / "in").write_text("3 hours\n")
    assert main(["decode", str(trained_run), str(tmp_path / "run"), "--input", str(tmp_path / "in")]) == 2
    assert "has another vocabulary than" in capsys.readouterr().err


def test_another_vocabulary_than_the_runs_is_refused(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    model = tmp_path / "run/vocab/joint.model"
    other = vocab_training.train([Pair("3 hours of other text", "3小时")] * 9, VocabConfig(kind="char", size=30)).source
    model.write_bytes(other.model)
    (tmp_path / "in").write_text("3 hours\n")
    assert main(["decode", str(tmp_path / "run"), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 2
    assert "is not the one it was trained with" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(trained_run: Path) -> None:
    """Neither of decode's output nor of the usage."""
    decoding = (
        f"yes '3 hours' | head -n 2000 | {sys.executable} -m flax_s2s decode {trained_run} --beam-size 1 | true; echo ${{PIPESTATUS[2]}}"
    )
    asking = f"{sys.executable} -m flax_s2s --help | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for command in (decoding, asking):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
        assert (done.stdout.strip(), done.stderr) == ("0", "")


# Jobs


def plain(trained_run: Path, tmp_path: Path, lines: list[str], *options: str) -> bytes:
    """What an undisturbed job makes of lines."""
    decode(trained_run, tmp_path, "".join(line + "\n" for line in lines).encode(), *options)
    return (tmp_path / "out").read_bytes()


def job_of(run: Path, tmp_path: Path, *options: str) -> list[str]:
    arguments = [
        "decode",
        str(run),
        "--input",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "out"),
        "--beam-size",
        "2",
        "--part-bytes",
        "60",
    ]
    return [*arguments, *options]


def some_lines(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice(["May 5, 2023", "3 hours", "", "12 minutes", "Tuesday", "1/2/2019", "¥100", "x"]) for _ in range(count)]


def test_shards_restarts_order_and_neighbors_change_no_byte(trained_run: Path, tmp_path: Path) -> None:
    lines, out = some_lines(60, 1), tmp_path / "out"
    wanted = plain(trained_run, tmp_path, lines, "--beam-size", "2")
    known = dict(zip(lines, wanted.split(b"\n"), strict=False))
    for count in (1, 2, 4):
        for old in tmp_path.glob("out*"):
            old.unlink()
        for index in range(count):
            assert not out.exists()
            assert main(job_of(trained_run, tmp_path, "--shard", f"{index}/{count}")) == 0
        assert out.read_bytes() == wanted
    for shuffled in (random.Random(2).sample(lines, len(lines)), lines[::7], [*lines[:9], "some other neighbors", "7 o'clock"]):
        found = plain(trained_run, tmp_path, shuffled, "--beam-size", "2", "--part-bytes", "35").split(b"\n")
        assert [one for one, line in zip(found, shuffled, strict=False) if line in known] == [
            known[line] for line in shuffled if line in known
        ]


def test_a_finished_job_is_left_and_another_in_its_place_refused(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = plain(trained_run, tmp_path, ["3 hours"], "--beam-size", "2", "--part-bytes", "60")
    assert main(job_of(trained_run, tmp_path)) == 0
    assert "is whole: 1 lines" in capsys.readouterr().err
    assert main(job_of(trained_run, tmp_path, "--length-penalty", "0.5")) == 2
    assert "was begun with another length_penalty (" in capsys.readouterr().err
    assert (tmp_path / "out").read_bytes() == wanted
    assert main(job_of(trained_run, tmp_path, "--output-form", "jsonl")) == 2
    assert "was begun with another output_form (None, now 'jsonl')" in capsys.readouterr().err
    assert main(job_of(trained_run, tmp_path, "--output-form", "jsonl", "--overwrite", "--shard", "0/2")) == 2
    assert "--overwrite is for one process" in capsys.readouterr().err
    assert main(job_of(trained_run, tmp_path, "--output-form", "jsonl", "--overwrite")) == 0
    assert json.loads((tmp_path / "out").read_text())["text"] == wanted.decode().removesuffix("\n")


def test_a_shard_is_found_in_a_slurm_array(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plain(trained_run, tmp_path, some_lines(30, 3), "--beam-size", "2")
    for old in tmp_path.glob("out*"):
        old.unlink()
    for name, value in (("COUNT", "2"), ("MIN", "1"), ("MAX", "3"), ("STEP", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for task in ("3", "1"):
        assert not (tmp_path / "out").exists()
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert main(job_of(trained_run, tmp_path, "--shard", "auto")) == 0
    assert (tmp_path / "out").read_bytes() == wanted
    monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "1")
    assert main(job_of(trained_run, tmp_path, "--shard", "auto")) == 2


def test_a_job_that_is_killed_again_and_again_ends_with_the_same_bytes(trained_run: Path, tmp_path: Path) -> None:
    """The short version of `tests/soak/soak.py decode`."""
    (tmp_path / "in").write_text("".join(line + "\n" for line in some_lines(3000, 4)))
    killed = kill_decoding(trained_run, tmp_path, random.Random(5), kills=4, options=("--part-bytes", "60", "--beam-size", "2"))
    assert killed.same and killed.kills == 4 and killed.left == []


def test_a_folder_of_files(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name, lines in (("a", ["3 hours"]), ("b", ["May 5, 2023", "", "Tuesday"]), ("empty", [])):
        (tmp_path / "texts" / name).write_text("".join(line + "\n" for line in lines))
    assert main(["decode", str(trained_run), "--input", str(tmp_path / "texts"), "--output", str(tmp_path / "made")]) == 0
    assert [(tmp_path / "made" / name).read_text().count("\n") for name in ("a", "b", "empty")] == [1, 3, 0]


def test_objects_with_prefix_and_phrases_and_what_is_wrong_with_some(trained_run: Path, tmp_path: Path) -> None:
    records = [{"id": 1, "source": "3 hours", "prefix": "1"}, {"id": "two", "source": "May 5", "exclude": ["2"]}, {"source": ""}]
    text = "".join(json.dumps(record) + "\n" for record in records) + "no object\n"
    (tmp_path / "in").write_text(text)
    options = ["--form", "jsonl", "--n-best", "2", "--output", str(tmp_path / "out")]
    assert main(["decode", str(trained_run), "--input", str(tmp_path / "in"), *options]) == 0
    found = [json.loads(line) for line in (tmp_path / "out").read_text().split("\n")[:-1]]
    assert [one.get("id") for one in found] == [1, "two", None, None]
    assert found[0]["text"].startswith("1") and found[0]["reason"] in ("end", "limit") and len(found[0]["others"]) == 1
    assert "2" not in found[1]["text"] + found[1]["others"][0]["text"]
    assert (found[2]["text"], found[2]["reason"]) == ("", "blank")
    assert "Expecting value" in found[3]["error"]
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert (summary["no JSON objects"], summary["skipped"], summary["first_error"][:31]) == (1, 1, "line 4: a line must be a JSON o")


def trained_with(run: Path, folder: Path, **data: object) -> Path:
    """The run as if its corpus had another form."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= data
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_reads_columns_and_fields_as_it_was_trained(trained_run: Path, tmp_path: Path) -> None:
    """Every run read columns 0 and 1, and the fields source and target: one of other columns translated its targets, unsaid."""
    sources, options = ["3 hours", "May 5, 2023"], ("--beam-size", "1")
    wanted = decode(trained_run, tmp_path, "\n".join(sources).encode(), *options)
    table = trained_with(trained_run, tmp_path / "table", format="tsv", source="1", target="0")
    objects = trained_with(trained_run, tmp_path / "objects", format="jsonl", source="pair.en", target="pair.zh")
    columns = "".join(f"一\t{source}\n" for source in sources).encode()
    records = "".join(json.dumps({"pair": {"en": source}}) + "\n" for source in sources).encode()
    assert decode(table, tmp_path, columns, "--form", "tsv", *options) == wanted
    assert json.loads((tmp_path / "out.summary.json").read_text())["references"] == 2
    assert decode(trained_run, tmp_path, columns, "--form", "tsv", "--source-field", "1", "--target-field", "0", *options) == wanted
    assert [json.loads(line)["text"] for line in decode(objects, tmp_path, records, "--form", "jsonl", *options)] == wanted
    assert decode(objects, tmp_path, records, "--form", "jsonl", "--output-form", "text", *options) == wanted


def test_an_n_best_list_of_plain_text_is_that_of_the_objects(trained_run: Path, tmp_path: Path) -> None:
    options, content = ("--beam-size", "2", "--n-best", "2", "--part-bytes", "9"), b"3 hours\n\nMay 5, 2023\n"
    objects = [json.loads(line) for line in decode(trained_run, tmp_path, content, "--output-form", "jsonl", *options)]
    listed = [line.split(" ||| ") for line in decode(trained_run, tmp_path, content, "--output-form", "nbest", *options)]
    found = [(i, one) for i, record in enumerate(objects) for one in (record, *record["others"])]
    assert [(int(number), text, float(score)) for number, text, _, score in listed] == [
        (i, one["text"], pytest.approx(one["score"], abs=1e-6)) for i, one in found
    ]
    assert len(listed) == 5 and json.loads((tmp_path / "out.summary.json").read_text())["lines"] == 3


def test_abstaining_and_a_blocklist_are_counted_and_kept(trained_run: Path, tmp_path: Path) -> None:
    lines = ["3 hours", "", "May 5, 2023"]
    free = decode(trained_run, tmp_path, "\n".join(lines).encode())
    assert decode(trained_run, tmp_path, "\n".join(lines).encode(), "--abstain-below", "1", "--placeholder", "???") == ["???", "", "???"]
    assert json.loads((tmp_path / "out.summary.json").read_text())["abstained"] == 2
    (tmp_path / "blocked").write_text("".join(f"{letter}\n" for letter in sorted(set("".join(free).replace(" ", "")))))
    blocked = decode(trained_run, tmp_path, "\n".join(lines).encode(), "--blocklist", str(tmp_path / "blocked"))
    assert not set("".join(blocked)) & set("".join(free).replace(" ", ""))


def test_what_a_model_cannot_know_or_say_is_flagged_and_counted(trained_run: Path, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [
        {"source": "3 hours"},
        {"source": "3 \u732b"},
        {"source": "3 hours", "include": ["\u732b", "1"], "exclude": ["\u732b"]},
    ]
    content = "".join(json.dumps(one) + "\n" for one in asked).encode()
    found = [json.loads(line) for line in decode(trained_run, tmp_path, content, "--form", "jsonl", "--beam-size", "4")]
    assert [set(one["flags"]) & {"unknown", "unmet"} for one in found] == [set(), {"unknown"}, {"unmet"}]
    assert [one.get("unmet", [])[:1] for one in found] == [[], [], ["\u732b"]]
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert (summary["unknown"], summary["unmet"]) == (1, 1)


def test_lines_are_answered_as_they_come(trained_run: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "flax_s2s", "decode", str(trained_run), "--beam-size", "1"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for line in (b"3 hours\n", b"\n", b"May 5\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")  # though the input has not ended
        process.stdin.close()
        assert process.wait(60) == 0


def test_clean_lines_come_out_the_same_among_hostile_ones(trained_run: Path, tmp_path: Path) -> None:
    draw, clean = random.Random(6), [line.encode() for line in some_lines(220, 7)]  # most, or it would be refused as no text
    wanted = plain(trained_run, tmp_path, [line.decode() for line in clean], "--beam-size", "2").split(b"\n")[:-1]
    hostile = [draw.randbytes(draw.randrange(30)).replace(b"\n", b"") for _ in range(150)]
    hostile += [b"x" * 1_000_000, b"y " * 100_000, b"\x00", "\u2028\u0085".encode(), b"\r", b"\xef\xbb\xbf", b"\xed\xa0\x80"]
    mixed = [(line, True) for line in clean] + [(line, False) for line in hostile]
    order = sorted(range(len(mixed)), key=lambda i: draw.random())
    place = {i: number for number, i in enumerate(order)}
    decode(trained_run, tmp_path, b"\n".join(mixed[i][0] for i in order), "--beam-size", "2")
    found = (tmp_path / "out").read_bytes().split(b"\n")[:-1]
    assert len(found) == len(mixed)
    assert [found[place[i]] for i in range(len(clean))] == wanted


# References


def test_references_of_every_line_are_scored(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["3 hours\t3小时", "May 5, 2023\t2023年5月5日", "Tuesday\t周二\tmore"]
    texts = decode(trained_run, tmp_path, "\n".join(lines).encode(), "--form", "tsv", "--part-bytes", "9")
    summary, references = json.loads((tmp_path / "out.summary.json").read_text()), [line.split("\t")[1] for line in lines]
    for name, metric in (("bleu", sacrebleu.BLEU(tokenize="zh")), ("chrf", sacrebleu.CHRF())):
        assert summary[name] == {"score": metric.corpus_score(texts, [references]).score, "signature": str(metric.get_signature())}
    assert summary["bleu"]["signature"] in capsys.readouterr().err
    assert decode(trained_run, tmp_path, "\n".join(line.split("\t")[0] for line in lines).encode()) == texts
    decode(trained_run, tmp_path, "\n".join([*lines, "Monday"]).encode(), "--form", "tsv")
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert summary["unscored"] == "not scored, since line 4 has no reference" and "bleu" not in summary


def test_references_are_scored_as_evaluate_does_or_it_is_said_why_not(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 13a, which was taken for any name, BLEU of this pair is 0.00 (sacreBLEU 2.6.0, tokenizer_13a.py)."""
    shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["target"], config["evaluation"]["tokenizer"] = "chinese", "auto"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    said, right = "他今天去学校了，然后回家。", "他今天去学校了，又回家了。"
    monkeypatch.setattr(Translator, "__call__", lambda self, weights, lines: [BLANK._replace(text=said, tokens=1) for _ in lines])
    lines = f"a\t{right}\nb\t{right}\na\t{said}\n".encode()
    found = []
    for options in ([], ["--language", "cmn"], ["--tokenizer", "zh"]):
        decode(tmp_path / "run", tmp_path, lines, "--form", "tsv", *options)
        found.append(json.loads((tmp_path / "out.summary.json").read_text()))
        assert found[-1]["exact_match"]["score"] == pytest.approx(100 * 2 / 3)  # either of the targets of "a" is right
    assert "bleu" not in found[0] and found[0]["chrf"] == found[1]["chrf"]
    assert found[0]["unscored"].startswith("not scored by bleu: bleu goes by the target's language, which data.target='chinese' does not")
    assert found[0]["unscored"] in capsys.readouterr().err
    wanted = sacrebleu.corpus_bleu([said] * 3, [[right, right, said]], tokenize="zh").score
    assert found[1]["bleu"] == found[2]["bleu"] and found[1]["bleu"]["score"] == pytest.approx(wanted) and wanted > 50
    assert "unscored" not in found[1]


# Attention


def test_attention_is_whole_and_in_order_whatever_the_shards(trained_run: Path, tmp_path: Path) -> None:
    lines, made = some_lines(30, 8), tmp_path / "out.attention"
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in lines))
    command = [*job_of(trained_run, tmp_path), "--attention", str(made)]
    assert main(command) == 0
    wanted = made.read_bytes()
    for old in tmp_path.glob("out*"):
        old.unlink()
    for shard in ("1/2", "0/2"):
        assert not made.exists()
        assert main([*command, "--shard", shard]) == 0
    assert (tmp_path / "out.attention").read_bytes() == wanted
    records = [json.loads(line) for line in wanted.splitlines()]
    assert [record["line"] for record in records] == [*range(1, 31)]
    for line, record in zip(lines, records, strict=True):
        assert "".join(record["source"]).replace("\u2581", " ").strip() == (f"{line}</s>" if line else "")
        assert len(record["attention"]) == len(record["target"])
        for row in record["attention"]:
            assert len(row) == len(record["source"]) and sum(row) == pytest.approx(1, abs=0.01)


def test_pictures_of_chosen_lines_are_drawn_and_drawn_again(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--attention", str(tmp_path / "out.attention"), "--pictures", str(tmp_path / "drawn"), "--picture-lines"]
    decode(trained_run, tmp_path, b"3 hours\n\nMay 5, 2023\nTuesday\n", *options, "1", "2", "3")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["line-1.png", "line-3.png"]
    assert "2 pictures in" in capsys.readouterr().err
    assert (tmp_path / "drawn/line-1.png").read_bytes().startswith(b"\x89PNG")
    arguments = ["decode", str(trained_run), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*arguments, *options, "4"]) == 0  # the output is whole, and stays
    assert (tmp_path / "drawn/line-4.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pictures", "{tmp}/drawn"], "are drawn from what --attention FILE writes"),
        (["--attention", "{tmp}/a", "--picture-lines", "0"], "are numbers of lines, from 1"),
        (["--attention", "{tmp}/in"], "is read or written already"),
        (["--attention", "{tmp}/none/a"], "cannot be written"),
    ],
)
def test_attention_goes_where_it_can(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "in").write_text("3 hours\n")
    arguments = ["decode", str(trained_run), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*arguments, *(option.replace("{tmp}", str(tmp_path)) for option in options)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_attention_needs_a_model_that_has_it(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "none"
    shutil.copytree(trained_run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= {"attention": "none", "input_feeding": False}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "in").write_text("3 hours\n")
    assert main(["decode", str(folder), "--input", str(tmp_path / "in"), "--attention", str(tmp_path / "a")]) == 2
    assert "was trained with model.attention=none; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
