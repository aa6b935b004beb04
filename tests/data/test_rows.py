"""Columns of tables and fields of objects."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.config import UserError
from flax_s2s.data import rows


def test_a_quotation_mark_is_a_character_in_tsv_and_quotes_in_csv():
    assert rows.split('"a\t1"\tb', "tsv") == ['"a', '1"', "b"]
    assert rows.split('"a,1",b', "csv") == ["a,1", "b"]
    assert rows.split('"say ""hi""",', "csv") == ['say "hi"', ""]
    assert rows.split("", "csv") == rows.split("", "tsv") == [""]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])), min_size=1))
def test_what_python_writes_as_csv_is_read(cells):
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    assert rows.split(out.getvalue(), "csv") == cells


@pytest.mark.parametrize("line", ['"open', '"a" b,c'])
def test_a_line_that_is_no_row_of_csv_is_an_error(line):
    with pytest.raises(ValueError, match="no row of CSV"):
        rows.split(line, "csv")


def test_columns_are_found_by_number_and_by_name():
    assert rows.find("1", None, "x") == 1
    assert rows.find("word", ["id", "word"], "x") == 1
    assert rows.find("2", ["id", "word"], "x") == 2
    assert rows.find("2", ["2", "word"], "x") == 0
    for column, header, said in (
        ("word", None, "set data.header"),
        ("wrd", ["id", "word"], "did you mean 'word'"),
        ("a", ["a", "a"], "2 times"),
    ):
        with pytest.raises(UserError, match=said):
            rows.find(column, header, "data.source")


def test_fields_are_found_by_their_path():
    record = {"translation": {"en": "a", "x.y": {"z": "c"}}, "translation.de": "b", "n": 1}
    assert [rows.get(record, path) for path in ("translation.en", "translation.de", "n", "translation.x.y")] == ["a", "b", 1, {"z": "c"}]
    for path in ("translation.fr", "n.x", "en", "", "translation.en.x"):
        with pytest.raises(KeyError):
            rows.get(record, path)
