"""`decode`: one line out for each line in, in order, whatever the lines are."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import REPOSITORY

from flax_s2s.cli import main
from flax_s2s.config import VocabConfig
from flax_s2s.data import vocab
from flax_s2s.data.corpus import Pair

LINES = ["May 5, 2023", "", "   ", "3 hours", "¥100", "x" * 300, "一 二", "May 5, 2023", "a\u2028b", "tab\there"]


def decode(run: Path, tmp_path: Path, content: bytes, *options: str) -> list[str]:
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_hostile_bytes_keep_the_number_of_lines(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = decode(trained_run, tmp_path, b"\xff\xfe\n\x00\nplain\r\n\xf0\x9f\x98\x80\n")
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
        (["--input", "{tmp}"], "cannot be read: Is a directory"),
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
    assert main(["decode", str(trained_run), *(option.replace("{tmp}", str(tmp_path)) for option in options)]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"in": "3 hours\n"}


def test_gzip_and_a_byte_order_mark_are_read(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = decode(trained_run, tmp_path, b"3 hours\nMay 5, 2023\n")
    assert decode(trained_run, tmp_path, b"\xef\xbb\xbf3 hours\nMay 5, 2023\n") == plain
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"3 hours\nMay 5, 2023\n"))
    assert main(["decode", str(trained_run), "--input", str(tmp_path / "in.gz"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text().split("\n")[:-1] == plain
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"3 hours\n" * 99)[:-9])
    assert main(["decode", str(trained_run), "--input", str(tmp_path / "in.gz"), "--output", str(tmp_path / "out")]) == 2
    assert "is not a whole gzip file" in capsys.readouterr().err
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
    other = vocab.train([Pair("3 hours of other text", "3小时")] * 9, VocabConfig(kind="char", size=30)).source
    (tmp_path / "run/vocab/joint.model").write_bytes(other.model)
    (tmp_path / "in").write_text("3 hours\n")
    assert main(["decode", str(trained_run), str(tmp_path / "run"), "--input", str(tmp_path / "in")]) == 2
    assert "has another vocabulary than" in capsys.readouterr().err


def test_another_vocabulary_than_the_runs_is_refused(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    model = tmp_path / "run/vocab/joint.model"
    other = vocab.train([Pair("3 hours of other text", "3小时")] * 9, VocabConfig(kind="char", size=30)).source
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
