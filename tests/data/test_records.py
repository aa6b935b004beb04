"""Formats of corpora: what is read, and what is said of a file that is of another format."""

import csv
import io
import json

import hypothesis
import pytest
from hypothesis import strategies as st
from tiny import sides

from flax_s2s.config import DataConfig, UserError
from flax_s2s.data.corpus import Reader


def reader(folder, form, content, name="", **fields):
    """A reader of a file with that content."""
    folder.mkdir(exist_ok=True)
    name = name or f"train.{form}"
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    sides = {"source": "en", "target": "de"} if form in ("json", "jsonl") or fields.get("header") else {"source": "0", "target": "1"}
    return Reader(DataConfig(**{"format": form, "folder": str(folder), "train": name, **sides, **fields}), "train", 1)


def message(*arguments, **fields):
    with pytest.raises(UserError) as caught:
        list(reader(*arguments, **fields))
    return str(caught.value)


AB, CD = '{"en": "a", "de": "b"}', '{"en": "c", "de": "d"}'


@pytest.mark.parametrize(
    ("form", "content", "blank"),
    [
        ("tsv", "a\tb\n\nc\td\n", 1),
        ("tsv", "a\tb\nc\td\n\n", 1),
        ("tsv", "\r\na\tb\r\n \t \r\nc\td\r\n\r\n", 3),
        ("csv", "a,b\n\nc,d\n", 1),
        ("csv", 'a,b\r\n""\r\n , \r\nc,d\r\n\r\n', 3),
        ("jsonl", f"{AB}\n\n{CD}\n", 1),
        ("jsonl", f"{AB}\n{CD}\n  \n\n", 2),
        ("json", f'[{AB},\n\n{{"en": "", "de": "x"}}, {CD}]\n\n', 1),
        ("text", "a\n\nc\n", 1),
    ],
)
def test_a_blank_line_is_blank_in_every_format(tmp_path, form, content, blank):
    if form == "text":
        (tmp_path / "train.0").write_text(content)
        (tmp_path / "train.1").write_text("b\n\nd\n")
    pairs = reader(tmp_path, form, content, name="train" if form == "text" else "")
    assert sides(pairs) == [("a", "b"), ("c", "d")]
    assert pairs.counts.left_out == {"blank": blank}


# CSV


def test_csv_has_quoted_cells_and_line_breaks_become_spaces(tmp_path):
    content = b'\xef\xbb\xbf"x, 1","say ""hi"""\r\n"two\r\n\r\nlines",\t"q\n\n\'a\',b\n'
    assert sides(reader(tmp_path, "csv", content)) == [("x, 1", 'say "hi"'), ("two lines", '\t"q'), ("'a'", "b")]


def test_a_cell_may_be_long(tmp_path):
    """Python 3.11's csv module refuses cells of more than 131,072 characters: csv.field_size_limit."""
    long = "b" * 200_000
    assert sides(reader(tmp_path, "csv", f'a,"{long}"\n')) == [("a", long)]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")).filter(lambda text: text.strip())


@hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(pairs=st.lists(st.tuples(texts, texts), min_size=1))
def test_what_programs_write_as_csv_and_json_comes_back(tmp_path, pairs):
    hypothesis.assume(not pairs[0][0].startswith("\ufeff"))
    out = io.StringIO()
    csv.writer(out).writerows([("0", "1"), *pairs])
    assert sides(reader(tmp_path, "csv", out.getvalue(), header=True, source="1", target="0")) == [(b, a) for a, b in pairs]
    records = json.dumps([{"t": {"0": a, "1": b}} for a, b in pairs])
    assert sides(reader(tmp_path, "json", records, source="t.0", target="t.1")) == pairs


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('a,b\nc,"d\ne,f\n', "line 2: a quotation mark opens a cell there, and none closes it; close it, or double the mark"),
        ('a,b\n"c\nx","d\ne,""f\ng,h\n', "line 3: a quotation mark opens a cell there"),
        ('a,b\n"c","""\n', "line 2: a quotation mark opens a cell there"),
        (
            'a,"b\n' + "x" * 999 + "\n" + ("y" * 1_000_000 + "\n") * 17,
            "line 1: a quotation mark opens a cell there, and none closes it within 16,",
        ),
        ('a,b\n"c" d,e\n', "line 2: text follows a closing quotation mark, where only a comma may"),
        ('a,b\n"c,d\ne,"f"\n', "line 3, in the row that begins in line 2: text follows a closing quotation mark"),
        ("a,b\rc,d\r", "line 1: a carriage return stands in a cell without quotation marks; convert the line breaks"),
        ("a,b\n\nc\n", "line 3 has 1 columns; data.source=0 and data.target=1 count from 0 and need at least 2"),
        ('a,b\n"c\nd"\n', "line 2 has 1 columns"),
        (b"a,b\nc,\xff\n", "line 2 is not UTF-8: invalid start byte at byte 3"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, content, said):
    assert f"{tmp_path}/train.csv {said}" in message(tmp_path, "csv", content)


# Headers


@pytest.mark.parametrize(
    ("form", "content"), [("tsv", "id\ten\tde\n1\ta\tb\n"), ("tsv", "\n\ufeffid\ten\tde\n1\ta\tb\n"), ("csv", '"id",en,"de"\r\n1,a,b\r\n')]
)
def test_columns_by_name(tmp_path, form, content):
    for fields in ({}, {"source": "1", "target": "2"}, {"target": "2"}):
        assert sides(reader(tmp_path, form, content, header=True, **fields)) == [("a", "b")]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"source": "e"}, "data.source='e' of {}: the header has no 'e', only 'id', 'en', 'de'"),
        ({"source": "den"}, "did you mean 'en'?"),
        ({"source": "1", "target": "en"}, "data.source='1' and data.target='en' of {} are both column 1; they must name two"),
        ({"target": "3"}, "{} line 2 has 3 columns; data.source=en and data.target=3 count from 0 and need at least 4"),
        (
            {"header": False, "source": "en"},
            "data.source='en' must be a column number, from 0; where the first row holds names, set data.header",
        ),
    ],
)
def test_columns_that_are_not_there(tmp_path, fields, said):
    told = message(tmp_path, "tsv", "id\ten\tde\n1\ta\tb\n", **{"header": True, **fields})
    assert said.format(f"{tmp_path}/train.tsv") in told


def test_a_header_alone_is_no_corpus(tmp_path):
    assert message(tmp_path, "csv", "en,de\n", header=True).endswith("has no pairs; check data.train")


# Objects


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_fields_inside_fields(tmp_path, form):
    record = '{"id": 1, "translation": {"en": "a\\nb", "de": "c"}}'
    content = record if form == "jsonl" else f"[{record}]"
    fields = {"source": "translation.en", "target": "translation.de"}
    assert sides(reader(tmp_path, form, content, **fields)) == [("a b", "c")]
    where = f"{tmp_path}/train.{form} {'line' if form == 'jsonl' else 'element'} 1"
    assert message(tmp_path, form, content) == f"{where} has no field 'en', only 'id', 'translation.en', 'translation.de'"
    told = message(tmp_path, form, content, source="translation")
    assert told == f"{where}, field 'translation', must be a string, got an object; name a field in it: 'translation.en', 'translation.de'"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"version": 1, "data": [' + AB + "]}",
            "must be one array of objects, got an object with 'version', 'data'; take out the array in it: jq '.[\"data\"]'",
        ),
        ("{}", "got an object with nothing"),
        ("3", "must be one array of objects, got int"),
        (f"[{AB},", "is not JSON: Expecting value: line 1 column 25 (char 24); data.format=json reads one array of objects"),
        ('["a"]', "element 1 must be an object such as {'en': ...}, got str"),
        (f'[{AB}, {{"en": ["a"], "de": "b"}}]', "element 2, field 'en', must be a string, got list"),
    ],
)
def test_json_errors(tmp_path, content, said):
    assert said in message(tmp_path, "json", content)


# A file of another format


@pytest.mark.parametrize(
    ("form", "content", "right"),
    [
        ("tsv", "a,b\nc,d\n", "csv"),
        ("csv", "a\tb\nc\td\n", "tsv"),
        ("tsv", f"{AB}\n", "jsonl"),
        ("csv", f"{AB}\n", "jsonl"),  # whose commas make columns
        ("csv", f"[{AB},\n{CD}]\n", "json"),
        ("tsv", f"[\n  {AB}]\n", "json"),
        ("jsonl", f"[{AB},\n{CD}]\n", "json"),
        ("jsonl", f"[{AB}]\n", "json"),
        ("jsonl", f"[\n{AB}]\n", "json"),
        ("jsonl", "a\tb\n", "tsv"),
        ("jsonl", "a,b\n", "csv"),
        ("json", f"{AB}\n{CD}\n", "jsonl"),
        ("json", f"{AB}\n", "jsonl"),
    ],
)
def test_a_file_of_another_format_is_told_by_its_first_line(tmp_path, form, content, right):
    assert message(tmp_path, form, content).endswith(f"; give --data.format {right}")


def test_semicolons_separate_nothing(tmp_path):
    assert message(tmp_path, "csv", "a;b\n").endswith("; columns are separated by commas, not by semicolons; write it so")
    assert message(tmp_path, "tsv", "a;b\n").endswith("; columns are separated by tabs, not by semicolons; write it so")
