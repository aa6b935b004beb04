r"""Pairs from the files of a split: aligned lines, rows of TSV and CSV, and objects, which are those of JSONL and JSON, words, units or rows.

Enters: the files that `files.find` finds. Leaves: strings, a source, a target and features, which are empty where none are asked for. A
blank line, in whatever format, leaves empty strings, so that it is counted as every pair with a blank side is.
"""

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, assert_never

from flax_s2s.config import DataConfig, UserError, nearest
from flax_s2s.data import conllu, features, files, parquet, rows, tmx
from flax_s2s.data.files import File, one_line

Strings: TypeAlias = tuple[str, str, str]

_BLANK = ("", "", "")
_JSON = re.compile(r'\s*(\[?\s*\{\s*"|\[\s*(\{|$))')  # how JSON begins, of which not all is taken for text


def read(data: DataConfig, split: str) -> Iterator[Strings]:
    """The pairs of a split, and their features.

    Raises:
        UserError: what `files.find` raises; what is not as the format asks for.
    """
    found = files.find(data, split)
    match data.format:
        case "text":
            at = len(rows.parts(data.source))
            return _aligned(found[:at], found[at], found[at + 1 :])
        case "tsv" | "csv":
            return _cells(found[0], data)
        case "jsonl":
            return _objects(found[0], data)
        case "json":
            return _elements(found[0], data)
        case "conllu":
            asked = dataclasses.replace(data, source=data.source.upper(), target=data.target.upper(), features=data.features.upper())
            return (_fields(word, asked, where) for where, word in conllu.words(found[0]))
        case "tmx":
            languages = [*rows.parts(data.source), data.target]
            return (_fields(unit, data, where) for where, unit in tmx.units(found[0], languages))
        case "parquet":
            sides = [data.source, data.target, *([data.features] if data.features else [])]
            return (_fields(row, data, where) for file in found for where, row in parquet.read(file, sides))
        case "tfds" | "phrases":
            raise AssertionError(f"data.format={data.format} has no files")
        case _:
            assert_never(data.format)


def _aligned(sources: Sequence[File], target: File, bundles: Sequence[File]) -> Iterator[Strings]:
    first = sources[0]
    count = first.count_lines()
    for other in (*sources[1:], target, *bundles):
        if (lines := other.count_lines()) != count:
            slip = _slip(first, other) if other is target and len(sources) == 1 else ""  # a part, and features, may be blank
            raise UserError(f"{first.path} has {count} lines and {other.path} {lines}; aligned files must have equally many{slip}")
    return zip(_together(sources, count), target.lines(), _together(bundles, count), strict=True)


def _together(side: Sequence[File], count: int) -> Iterator[str]:
    """The lines of a side, of several files joined by a space; empty ones where there is none."""
    return (" ".join(lines) for lines in zip(*(file.lines() for file in side), strict=True)) if side else itertools.repeat("", count)


def _slip(source: File, target: File) -> str:
    for number, (left, right) in enumerate(zip(source.lines(), target.lines(), strict=False), 1):
        if bool(left.strip()) != bool(right.strip()):
            return f"; the first line where only one is blank is {number}"
    return ""


# Tables ------------------------------------------------------------------------------------------------------------


def _cells(file: File, data: DataConfig) -> Iterator[Strings]:
    """Two or three columns of a table, whose first row is a pair too unless `data.header` is set."""
    columns = None if data.header else _columns(file, data, None)
    first = True
    for number, row in _csv_rows(file) if data.format == "csv" else _tsv_rows(file):
        if not any(cell.strip() for cell in row):
            yield _BLANK
            continue
        if first and _JSON.match(row[0]):
            raise UserError(f"{file.path} line {number} begins as JSON does, but data.format={data.format}{_give(_json_kind(row[0]))}")
        first = False
        if columns is None:
            columns = _columns(file, data, row)
            continue
        if len(row) <= (last := max(column for side in columns for column in side)):
            raise UserError(
                f"{file.path} line {number} has {len(row)} columns; {_fields_of(data)} "
                f"count from 0 and need at least {last + 1}{_hint(row, data)}"
            )
        source, target, bundle = (" ".join(one_line(row[column], "") for column in side) for side in columns)
        yield source, target, bundle


def _fields_of(data: DataConfig) -> str:
    """`data.source=0 and data.target=1`, or with features three of them."""
    features = f", data.features={data.features}" if data.features else ""
    return f"data.source={data.source} and data.target={data.target}{features}"


def _columns(file: File, data: DataConfig, header: list[str] | None) -> tuple[list[int], list[int], list[int]]:
    """The source's, which is joined of one or several, the target's, and those of the features, none where there are none."""
    of = f" of {file.path}" if header else ""
    asked = {"source": data.source, "target": data.target} | ({"features": data.features} if data.features else {})
    named = {side: [name] if side == "target" else rows.parts(name, header) for side, name in asked.items()}
    columns = {side: [rows.find(part, header, f"data.{side}={asked[side]!r}{of}") for part in named[side]] for side in asked}
    for one, other in itertools.combinations(asked, 2):
        if both := {*columns[one]} & {*columns[other]}:
            raise UserError(
                f"data.{one}={asked[one]!r} and data.{other}={asked[other]!r}{of} are both column {min(both)}; they must name two"
            )
    return columns["source"], columns["target"], columns.get("features", [])


def _tsv_rows(file: File) -> Iterator[tuple[int, list[str]]]:
    """Rows and their numbers; a quotation mark is a character like any other."""
    return ((number, rows.split(line, "tsv")) for number, line in enumerate(file.lines(), 1))


def _csv_rows(file: File) -> Iterator[tuple[int, list[str]]]:
    """Rows, and the numbers of the lines that they begin in."""
    row: list[str] = []  # the lines of the row that is being read

    def lines() -> Iterator[str]:
        for line in file.lines():
            row.append(line)
            yield f"{line}\n"

    reader = csv.reader(lines(), strict=True)
    while True:
        number = reader.line_num + 1
        row.clear()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{file.path} {_explain(str(error), row, number)}") from None
        if cells is None:
            return
        yield number, cells


def _explain(error: str, row: Sequence[str], number: int) -> str:
    """What is wrong with a row of CSV: the words of Python's reader, turned into ours."""
    last = number + len(row) - 1
    if "end of data" in error or "field limit" in error:
        longer = f" within {rows.LONGEST_CELL:,} characters" if "limit" in error else ""
        return (
            f"line {_opened(row, number)}: a quotation mark opens a cell there, and none closes it{longer}; close it, or double the mark "
            'where it is text (""), or use data.format=tsv where no cell is quoted'
        )
    begun = f", in the row that begins in line {number}" if last > number else ""
    if "expected after" in error:
        return (
            f'line {last}{begun}: text follows a closing quotation mark, where only a comma may; double a mark that is text (""), and '
            "separate cells by commas"
        )
    return f"line {last}{begun}: a carriage return stands in a cell without quotation marks; convert the line breaks with dos2unix -c mac"


def _opened(row: Sequence[str], number: int) -> int:
    """The line with the mark that opens the cell which is not closed; doubled marks neither open nor close."""
    is_open, opened = False, number
    for at, line in enumerate(row, number):
        for marks in re.findall('"+', line):
            if len(marks) % 2:
                is_open, opened = not is_open, opened if is_open else at
    return opened


def _hint(row: Sequence[str], data: DataConfig) -> str:
    """The format that a row of too few columns seems to have."""
    line, columns = row[0], [int(name) for name in (*rows.parts(data.source), data.target) if name.isdecimal()]
    enough = max(columns, default=1)
    if len(row) > 1:
        return ""
    if line.count("\t") >= enough and data.format == "csv":
        return _give("tsv")
    if line.count(",") >= enough and data.format == "tsv":
        return _give("csv")
    if line.count(";") >= enough:
        return f"; columns are separated by {'commas' if data.format == 'csv' else 'tabs'}, not by semicolons; write it so"
    return ""


def _give(form: str) -> str:
    return f"; give --data.format {form}"


def _json_kind(line: str) -> str:
    return "json" if line.lstrip().startswith("[") else "jsonl"


# Objects -----------------------------------------------------------------------------------------------------------


def _objects(file: File, data: DataConfig) -> Iterator[Strings]:
    """Fields of one JSON object a line."""
    first = True
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            yield _BLANK
            continue
        where = f"{file.path} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON: {error}; each line must be one object{_other(line) if first else ''}") from None
        if first and isinstance(record, list) and all(isinstance(one, dict) for one in record):
            raise UserError(f"{where} is an array of objects, and each line must be one object{_give('json')}")
        first = False
        yield _fields(record, data, where)


def _other(line: str) -> str:
    """The format of a first line that is no object."""
    if line.lstrip().startswith("["):
        return _give("json")
    if line.lstrip().startswith("{"):
        return "; one object over several lines is written into one by jq -c"
    return _give("tsv") if "\t" in line else _give("csv") if "," in line else ""


def _elements(file: File, data: DataConfig) -> Iterator[Strings]:
    """Fields of the objects of one JSON array, which is read whole."""
    text = "\n".join(file.lines())
    if not text.strip():
        return
    try:
        array = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = _give("jsonl") if _is_object(text.lstrip().partition("\n")[0]) else ""
        raise UserError(f"{file.path} is not JSON: {error}; data.format=json reads one array of objects{lines}") from None
    if not isinstance(array, list):
        raise UserError(f"{file.path} must be one array of objects, got {_describe(array, data)}")
    for number, record in enumerate(array, 1):
        yield _fields(record, data, f"{file.path} element {number}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _describe(value: object, data: DataConfig) -> str:
    if not isinstance(value, dict):
        return type(value).__name__
    if isinstance(value.get(data.source), str):
        return f"one object{_give('jsonl')}"
    within = next((name for name, inner in value.items() if isinstance(inner, list)), None)
    take = f"; take out the array in it: jq '.[{json.dumps(within)}]' FILE > NEW" if within is not None else ""
    return f"an object with {', '.join(map(repr, value)) or 'nothing'}{take}"


def _fields(record: object, data: DataConfig, where: str) -> Strings:
    source, target = _joined(record, data.source, where, _text), _text(_field(record, data.target, where), data.target, where)
    return source, target, _joined(record, data.features, where, _bundle) if data.features else ""


def _joined(record: object, path: str, where: str, read: Callable[[object, str, str], str]) -> str:
    """A field, or several joined by a space."""
    paths = rows.fields(record, path) if isinstance(record, dict) else [path]
    return " ".join(read(_field(record, part, where), part, where) for part in paths)


def _field(record: object, path: str, where: str) -> object:
    if not isinstance(record, dict):
        raise UserError(f"{where} must be an object such as {{{path!r}: ...}}, got {type(record).__name__}")
    try:
        return rows.get(record, path)
    except KeyError:
        names = list(_paths(record))
        raise UserError(f"{where} has no field {path!r}, only {', '.join(map(repr, names)) or 'none'}{nearest(path, names)}") from None


def _bundle(value: object, path: str, where: str) -> str:
    """Features as a bundle, or as a list of them."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = features.join(value)
    return _text(value, path, where)


def _text(value: object, path: str, where: str) -> str:
    if isinstance(value, dict):
        inner = ", ".join(repr(f"{path}.{name}") for name in value)
        raise UserError(f"{where}, field {path!r}, must be a string, got an object; name a field in it{f': {inner}' if inner else ''}")
    return one_line(value, f"{where}, field {path!r},")


def _paths(record: Mapping[str, object], before: str = "") -> Iterator[str]:
    """`{"id": 1, "translation": {"en": "a"}}` -> `id`, `translation.en`."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"
