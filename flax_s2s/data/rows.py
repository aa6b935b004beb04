r"""Where a side stands in a row of a table, or in an object: by number, by the name in the header, or by a path of fields; or in several.

split("a\tb", "tsv") -> ["a", "b"]      split('"a,1",b', "csv") -> ["a,1", "b"]
find("1", None) -> 1                     find("word", ["id", "word"]) -> 1
parts("0+2") -> ["0", "2"]
get({"translation": {"en": "a"}}, "translation.en") -> "a"
"""

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

from flax_s2s.config import UserError, nearest

_NUMBER = "[0-9]{1,9}"
LONGEST_CELL = 1 << 24
"""Characters of a cell of CSV; more are taken for a quotation mark that is not closed."""
csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))  # Python's own limit is 131,072: of all readers, there is no other


def split(line: str, form: Literal["tsv", "csv"]) -> list[str]:
    """The cells of a row that is one line: of TSV, where a quotation mark is a character like any other, or of CSV (RFC 4180).

    Raises:
        ValueError: a quotation mark of CSV is not closed in the line, or text follows it.
    """
    if form == "tsv":
        return line.split("\t")
    if form != "csv":
        assert_never(form)
    try:
        return next(csv.reader([line], strict=True)) or [""]
    except csv.Error as error:
        raise ValueError(f"the line is no row of CSV: {error}") from None


def find(column: str, header: Sequence[str] | None, where: str) -> int:
    """The number of a column, from 0.

    Args:
        column: its number, or its name in the header; a header that has a number for a name is asked first.
        header: the names, where there is a row of them.
        where: what asks, for messages, such as `data.source='word' of train.tsv`.

    Raises:
        UserError: there is no such column.
    """
    if header is not None and column in header:
        if header.count(column) > 1:
            raise UserError(f"{where}: the header has {column!r} {header.count(column)} times; give the column's number, from 0")
        return header.index(column)
    if re.fullmatch(_NUMBER, column):
        return int(column)
    if header is None:
        raise UserError(f"{where} must be a column number, from 0; where the first row holds names, set data.header")
    raise UserError(f"{where}: the header has no {column!r}, only {', '.join(map(repr, header))}{nearest(column, header)}")


def parts(name: str, header: Sequence[str] | None = None) -> list[str]:
    """The sides that one is joined of, by a space: `0+2` -> `0`, `2`; a column whose name in the header has a `+` is one."""
    return [name] if header is not None and name in header else name.split("+")


def fields(record: Mapping[str, object], path: str) -> list[str]:
    """The paths of the fields that a side is joined of; a field whose own name has a `+` is one."""
    try:
        get(record, path)
    except KeyError:
        return parts(path)
    return [path]


def get(record: Mapping[str, object], path: str) -> object:
    """What an object holds at a path of fields: a field of that very name, or one inside another (`translation.en`).

    Raises:
        KeyError: there is nothing.
    """
    if path in record:
        return record[path]
    outer, dot, inner = path.partition(".")
    within = record.get(outer)
    if not dot or not isinstance(within, Mapping):
        raise KeyError(path)
    return get(within, inner)
