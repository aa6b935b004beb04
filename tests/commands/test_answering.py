"""What is read and written, whatever answers the lines: here they are made upper case, without a model."""

import gzip
import io
import json
import os
import threading
from collections import Counter

import pytest

from flax_s2s.answers import layout as layouts
from flax_s2s.answers import lines, parts, replies
from flax_s2s.answers.files import Files
from flax_s2s.commands import answerer, answering
from flax_s2s.config import DataConfig, UserError
from flax_s2s.decoding.translate import Translation

TEXT, TSV = DataConfig(format="text"), DataConfig(format="tsv", source="1", target="0")


class _Upper:
    def answer(self, read, layout, first_line):
        asked = [lines.ask(raw, layout) for raw in read]
        counts = Counter(problem for one in asked for problem in one.problems)
        counts.update({answerer.SKIPPED: sum(bool(one.error) for one in asked), "tokens": sum(bool(one.request.source) for one in asked)})
        answers = [replies.Translated(one, Translation(one.request.source.upper(), -1.0, -1.0, 1, True, False)) for one in asked]
        body = b"".join(replies.write(one, layout, "", number) for number, one in enumerate(answers, first_line))
        return answerer.Answers(body, +counts, b"{}\n" * len(read), answerer.first_error(asked, first_line))

    def conclude(self, counts, made):
        return dict(counts)


def run(data=TEXT, *, aligned="", beside="", asked="auto", **options):
    """Answers lines; how it ended."""
    files = Files(**options)
    sides = layouts.find_sides(data, files)
    opened = []

    def open_answerer(interactive):
        opened.append(interactive)
        return _Upper(), {}

    def find_layout(name, output, first):
        return layouts.find(files, sides, name, first, aligned=bool(aligned), asked=asked, output=output)

    try:
        return answering.run(files, answerer.Verb(find_layout, open_answerer), aligned=aligned, beside=beside)
    except UserError as error:
        error.add_note(f"{len(opened)} opened")
        raise


@pytest.fixture
def pipe(tmp_path):
    """Makes a pipe with something in it, or one whose content is kept."""

    def make(name, content=None):
        path = tmp_path / name
        os.mkfifo(path)
        kept = []
        work = (lambda: path.write_bytes(content)) if content is not None else (lambda: kept.append(path.read_bytes()))
        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def read():
            thread.join(20)
            return kept[0]

        return str(path), read

    return make


@pytest.fixture
def stdin(monkeypatch):
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


# Pipes


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pipes_are_read_and_written_as_they_come(tmp_path, pipe, pack):
    """`--input <(...)` was not seekable, a named pipe lost its lines to a look at it, and `--output >(...)` was made a file in parts."""
    content = pack(b"a b\n\nc\n")
    (tmp_path / "in").write_bytes(content)
    for name, inputs in (("one", str(tmp_path / "in")), ("two", pipe("in_two", content)[0]), ("three", pipe("in_three", content)[0])):
        (output, read) = (str(tmp_path / name), (tmp_path / name).read_bytes) if name == "two" else pipe(name)
        assert run(input=(inputs,), output=output) == (0, True)
        assert read() == b"A B\n\nC\n"


def test_a_descriptor_of_the_shell_is_a_pipe(tmp_path, capfdbinary):
    reading, writing = os.pipe()
    os.write(writing, b"a\nb\n")
    os.close(writing)
    assert run(input=(f"/dev/fd/{reading}",), output="/dev/stdout") == (0, True)
    os.close(reading)
    assert capfdbinary.readouterr().out == b"A\nB\n"


def test_one_pipe_takes_the_answers_to_all_inputs(tmp_path, pipe):
    (tmp_path / "in").write_bytes(b"a\n")
    output, read = pipe("out")
    assert run(input=(str(tmp_path / "in"), pipe("first", b"b\n")[0], pipe("second", b"c\n")[0]), output=output).whole
    assert read() == b"A\nB\nC\n"


@pytest.mark.parametrize("whole", [True, False])
def test_aligned_files_and_what_is_written_beside_may_be_pipes(tmp_path, pipe, whole):
    (tmp_path / "in").write_bytes(b"a\nb\n")
    aligned, (beside, read) = pipe("aligned", b"x\ny\n")[0], pipe("beside")
    assert run(input=(str(tmp_path / "in") if whole else pipe("in_too", b"a\nb\n")[0],), aligned=aligned, beside=beside).whole
    assert read() == b"{}\n{}\n"


def test_pipes_are_no_files_to_share_or_to_align(tmp_path, pipe):
    (tmp_path / "in").write_bytes(b"a\n")
    with pytest.raises(UserError, match="--shard 0/2 cuts files that are written to files into parts; stdin, stdout, pipes"):
        run(input=(str(tmp_path / "in"),), output="/dev/null", shard="0/2")
    with pytest.raises(UserError, match=r"pipe has 3 lines and .*in 1; they must have equally many"):
        run(input=(pipe("pipe", b"a\nb\nc\n")[0],), aligned=str(tmp_path / "in"))


def test_gzip_is_told_by_its_content(tmp_path):
    (tmp_path / "packed.txt").write_bytes(gzip.compress(b"a\n"))
    (tmp_path / "plain.gz").write_bytes(b"b\n")
    for name, wanted in (("packed.txt", b"A\n"), ("plain.gz", b"B\n")):
        run(input=(str(tmp_path / name),), output=str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == wanted
        (tmp_path / "out").unlink()


# Shares


def test_nothing_is_shared_where_nobody_asks_for_it(tmp_path, monkeypatch, capsys):
    """In a Slurm array, which may be one over files or settings, each task took a share of the parts, left out the rest and said 0."""
    (tmp_path / "in").write_bytes(b"a\nb\nc\nd\n")
    for name, value in (("ID", "1"), ("COUNT", "4"), ("MIN", "0")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    job = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "part_bytes": 1}
    assert run(**job | {"output": str(tmp_path / "of_auto")}, shard="auto") == (0, False)
    assert "of_auto is not there yet: 3 of 4 parts are left to the other 3 shards" in capsys.readouterr().err
    assert run(**job) == (0, True)
    assert (tmp_path / "out").read_bytes() == b"A\nB\nC\nD\n"
    assert "this is process 1 of 4 by its environment, and makes all; with --shard auto" in capsys.readouterr().err
    for variable in ("MAX", "ID"):  # --array=1,3,7,9, and what is no task of an array of four
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{variable}", "9")
        with pytest.raises(UserError, match="--shard I/4"):
            run(**job, shard="auto")
        monkeypatch.delenv("SLURM_ARRAY_TASK_MAX", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert run(**job, shard="auto") == (0, True)  # no place: all
    with pytest.raises(UserError, match="--overwrite is for one process"):
        run(**job, shard="0/2", overwrite=True)


@pytest.mark.parametrize("place", [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES")])
def test_processes_that_were_started_together_each_make_all_or_share(tmp_path, monkeypatch, place):
    (tmp_path / "in").write_bytes(b"a\nb\nc\n")
    monkeypatch.setenv(place[1], "2")
    for shard, wholes in (("", [True, True]), ("auto", [False, True])):
        found = []
        for rank in ("1", "0"):
            monkeypatch.setenv(place[0], rank)
            found.append(run(input=(str(tmp_path / "in"),), output=str(tmp_path / f"out{shard}"), part_bytes=1, shard=shard).whole)
        assert found == wholes and (tmp_path / f"out{shard}").read_bytes() == b"A\nB\nC\n"


def test_an_output_that_is_not_there_is_no_success(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").write_bytes(b"a\nb\nc\n")
    job = {"input": (str(tmp_path / "in"),), "output": str(tmp_path / "out"), "part_bytes": 1}
    written = parts.write_part
    monkeypatch.setattr(parts, "write_part", lambda one, part, *answers: part.number == 1 or written(one, part, *answers))
    assert run(**job) == (1, False)
    assert "out is not there yet: 1 of 3 parts have gone" in capsys.readouterr().err
    assert run(**job, shard="0/2") == (0, False)  # it has made its own
    assert "1 of 3 parts are left to the other 1 shards" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(**job) == (0, True)


# What is no lines


@pytest.mark.parametrize("form", ["auto", "text"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x04\x22\x4d\x18\x64\x40\xa7a\n", "compressed by lz4"),
        (b"PK\x03\x04\x14\x00\x06\x00\n", "a zip archive"),
        (b"%PDF-1.7\n%\xe2\xe3\n", "a PDF document"),
        (b"PAR1\x15\x04\x15\n", "a Parquet file"),
        ("\ufeffa\nb\n".encode("utf-16-le"), "text in UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_whatever_it_is_called(tmp_path, pipe, stdin, form, content, what):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=what) as error:
        run(input=(str(tmp_path / "x.txt"),), output=str(tmp_path / "out"), form=form)
    assert error.value.__notes__ == ["0 opened"]  # before a model is
    with pytest.raises(UserError, match=what):
        run(input=(pipe("pipe", content)[0],), form=form)
    stdin(content)
    with pytest.raises(UserError, match=f"stdin is {what}"):
        run(form=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["auto", "text", "jsonl"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (bytes(range(256)) * 9, "of its first 10 lines 9 are not UTF-8, and 10 hold control characters"),
        (b"a\x00b\n" * 9, "of its first 9 lines 0 are not UTF-8, and 9 hold control characters"),
        ("caf\xe9\n\n".encode("latin-1") * 200, "of its first 50 lines 50 are not UTF-8, and 0 hold control characters"),
        ("\u4f60\u597d\n".encode("gbk"), "convert it with iconv"),
        (b"Hello\n" + "\u65e5\u672c\n".encode("shift-jis") * 2, "is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\n\x04", "is no text in UTF-8"),
    ],
)
def test_where_most_of_the_first_lines_are_no_text_all_is_refused(tmp_path, stdin, form, content, what):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=what) as error:
        run(input=(str(tmp_path / "x"),), output=str(tmp_path / "out"), form=form)
    assert error.value.__notes__ == ["0 opened"]
    stdin(content)
    with pytest.raises(UserError, match="stdin is no text in UTF-8"):
        run(form=form)


def test_a_few_lines_that_are_no_text_are_answered(stdin, capfdbinary):
    stdin(b"plain\n\xff\xe9\na\x00b\nmore\n")
    assert run() == (0, True)
    assert capfdbinary.readouterr().out == "PLAIN\n\ufffd\ufffd\nA\x00B\nMORE\n".encode()


@pytest.mark.parametrize("how", ["file", "stream"])
def test_where_no_line_is_utf8_it_is_no_success(tmp_path, stdin, how):
    content = b"\n" * layouts.FIRST_LINES + b"caf\xe9\n" * 3  # the first lines say nothing
    (tmp_path / "x").write_bytes(content)
    stdin(content)
    with pytest.raises(UserError, match="3 of 3 lines are not UTF-8; convert it with iconv"):
        run(**({"input": (str(tmp_path / "x"),), "output": str(tmp_path / "out")} if how == "file" else {}))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.json", b'[{"source": "a"},\n{"source": "b"}]\n', "is a JSON array"),
        ("x.txt", b"a\tb\nc\td\ne\tf\n", "looks like a table"),
        ("x.xliff", b"a\n", "is a .xliff file"),
    ],
)
def test_what_is_no_lines_of_text_is_refused_before_a_model_is_opened(tmp_path, pipe, stdin, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=what) as error:
        run(input=(str(tmp_path / name),), output=str(tmp_path / "out"))
    assert error.value.__notes__ == ["0 opened"]
    with pytest.raises(UserError, match=what):
        run(input=(pipe(f"pipe.{name}", content)[0],))
    if name == "x.txt":
        stdin(content)
        with pytest.raises(UserError, match=f"stdin {what}"):
            run()


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        (
            {"form": "jsonl"},
            b"a\n\n[1]\n",
            "2 of 2 lines are no JSON objects; line 1: a line must be a JSON object: Expecting value at character 1",
        ),
        ({"form": "jsonl"}, b'{"src": "a"}\n', "1 of 1 lines come without source; line 1: there is no field 'source', only 'src'"),
        ({"form": "csv"}, b'"a\n"b\n', "2 of 2 lines are no rows of CSV; line 1: "),
        ({"form": "tsv", "source_field": "3"}, b"a\tb\n", "1 of 1 lines come without source; line 1: there are 2 columns"),
        ({"form": "tsv", "source_field": "1", "header": "yes"}, b"s\tt\na\n\n", "1 of 1 lines come without source; line 2: there are 1"),
        ({"form": "jsonl"}, b"a\n{}\n", "2 of 2 lines are no JSON objects and come without source; line 1"),
    ],
)
@pytest.mark.parametrize("how", ["file", "stream"])
def test_where_no_line_could_be_answered_it_is_no_success(tmp_path, stdin, capfdbinary, options, content, message, how):
    if how == "stream":
        stdin(content)
        with pytest.raises(UserError) as error:
            run(**options)
        assert f"stdin: {message}" in str(error.value)
        assert capfdbinary.readouterr().out.count(b"\n") == content.count(b"\n")  # what can be written is
        return
    (tmp_path / "in").write_bytes(content)
    for _ in range(2):  # and it stays none where the output is whole already
        with pytest.raises(UserError) as error:
            run(input=(str(tmp_path / "in"),), output=str(tmp_path / "out"), part_bytes=3, **options)
        assert f"in: {message}" in str(error.value)
        assert (tmp_path / "out").read_bytes().count(b"\n") == content.count(b"\n")
    assert message.rpartition("; ")[2] in json.loads((tmp_path / "out.summary.json").read_text())["first_error"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b'a\n{"source": "b"}\n'])
def test_nothing_to_answer_and_some_answers_are_a_success(stdin, content):
    stdin(content)
    assert run(form="jsonl") == (0, True)


# Columns


@pytest.mark.parametrize("part_bytes", [1, 1 << 17])
def test_only_the_first_line_of_a_file_is_a_header(tmp_path, part_bytes):
    data = DataConfig(format="tsv", source="of", target="to", header=True)
    (tmp_path / "in").mkdir()
    for name, content in (("a.tsv", b"\xef\xbb\xbfof\tto\na\tA\nof\tto\n"), ("b.csv", b'n,to,of\n1,B,"b,"\n'), ("c.tsv", b"")):
        (tmp_path / "in" / name).write_bytes(content)
    for index in (0, 1):
        assert run(data, input=(str(tmp_path / "in"),), output=str(tmp_path / "out"), part_bytes=part_bytes, shard=f"{index}/2").code == 0
    assert [(tmp_path / "out" / name).read_bytes() for name in ("a.tsv", "b.csv", "c.tsv")] == [b"to\nA\nOF\n", b"to\nB,\n", b""]
    assert json.loads((tmp_path / "out" / "a.tsv.summary.json").read_text())["header lines"] == 1


def test_columns_and_a_header_of_stdin(stdin, capfdbinary):
    stdin(b"A\ta\nB\tb\n")
    run(TSV, form="tsv")
    assert capfdbinary.readouterr().out == b"A\nB\n"
    stdin(b"to,of\nB,b\n")
    run(TSV, form="csv", header="yes", source_field="of", target_field="to")
    assert capfdbinary.readouterr().out == b"to\nB\n"


def test_columns_that_are_not_there_are_refused_before_a_model_is_opened(tmp_path):
    (tmp_path / "in.tsv").write_bytes(b"a\tb\n")
    data = DataConfig(format="tsv", source="of", target="to", header=True)
    with pytest.raises(UserError, match="the header has no 'of', only 'a', 'b'") as error:
        run(data, input=(str(tmp_path / "in.tsv"),), output=str(tmp_path / "out"))
    assert error.value.__notes__ == ["0 opened"]


def test_what_a_job_depends_on_holds_its_columns_and_forms(tmp_path):
    (tmp_path / "in.tsv").write_bytes(b"a\tb\n")
    job = {"input": (str(tmp_path / "in.tsv"),), "output": str(tmp_path / "out")}
    run(**job)
    for data, options, key in ((TSV, {}, "columns"), (TEXT, {"header": "yes"}, "header"), (TEXT, {"form": "csv"}, "form")):
        with pytest.raises(UserError, match=f"was begun with another {key} "):
            run(data, **job, **options)
        assert (tmp_path / "out").read_bytes() == b"A\n"
    run(TSV, **job, overwrite=True)
    assert (tmp_path / "out").read_bytes() == b"B\n"


def test_text_in_and_an_n_best_list_or_objects_out(tmp_path):
    (tmp_path / "in").write_bytes(b"a\n\nc\n")
    run(input=(str(tmp_path / "in"),), output=str(tmp_path / "list"), asked="nbest", part_bytes=1)
    assert [line.split(" ||| ")[:2] for line in (tmp_path / "list").read_text().splitlines()] == [["0", "A"], ["1", ""], ["2", "C"]]
    run(input=(str(tmp_path / "in"),), output=str(tmp_path / "out.jsonl"))
    assert [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["A", "", "C"]
