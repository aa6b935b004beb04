r"""Lines that ask for translations: text, TSV, CSV and JSONL; each is answered by one (see `replies`), whatever it holds.

Enters: bytes up to `\n`, which alone ends a line. Leaves: an `Asked`. What is wrong with a line is answered in its place and counted,
unless most of the first lines say that the file is no text in UTF-8, see `inputs`:

| a line that | is |
|---|---|
| is not UTF-8, or holds half of a surrogate pair | read with U+FFFD in place of what is wrong |
| ends with `\r\n`; is the first and begins with a byte order mark | read without them |
| holds NUL, U+0085, U+2028 or other odd characters | read as it is; no line break ever comes out inside a line |
| is empty or blank, whatever its form | answered by an empty translation |
| is the first of a table with a header | answered by the name of the target's column |
| is longer than 4 MiB | cut there |
| has more than decoding.max_source_tokens tokens | cut there |
| is no JSON object, no row of CSV, or has no source | answered by an empty line, or by an object with an `error` |
"""

import codecs
import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flax_s2s.answers.layout import Layout
from flax_s2s.data import features, rows
from flax_s2s.decoding.requests import Request

LONGEST_BYTES = 1 << 22
NO_OBJECT, NO_ROW, NO_SOURCE, NO_TARGET = "no JSON objects", "no rows of CSV", "without source", "without target"
NO_FEATURES, INVALID = "without features", "with invalid fields"
CAUSES = (NO_OBJECT, NO_ROW, NO_SOURCE, NO_TARGET, NO_FEATURES, INVALID)
"""Why lines are not answered, as it is counted."""
BLANK_LINES, HEADER_LINES, NOT_UTF8 = "blank lines", "header lines", "invalid UTF-8"


class Raw(NamedTuple):
    """A line as it was read, without its end."""

    content: bytes
    cut: bool = False  # it was longer
    first: bool = False  # of its file
    beside: "Raw | None" = None  # the line at the same place of an aligned file


class LineError(ValueError):
    """A line that cannot be answered: why, and what it is counted as, one of `CAUSES`."""

    def __init__(self, cause: str, why: str) -> None:
        super().__init__(why)
        self.cause = cause


class Asked(NamedTuple):
    """A line that asks for a translation."""

    request: Request
    problems: tuple[str, ...] = ()  # what is counted
    id: Any = None  # JSONL: given back as it is
    reference: str = ""  # of a table: the target's column, a right translation
    error: str = ""  # why there is nothing to translate
    is_header: bool = False


def raw_lines(file: Any, end: int | None = None) -> Iterator[Raw]:
    """The lines of an open file up to a position; never more than one in memory. A file without `end` begins with its first line."""
    position = file.tell() if end is not None else 0
    while end is None or position < end:
        content = file.readline(LONGEST_BYTES)
        if not content:
            return
        first, cut, last = position == 0, False, content
        position += len(content)
        while not last.endswith(b"\n") and len(last) == LONGEST_BYTES:
            last = file.readline(LONGEST_BYTES)
            position, cut = position + len(last), cut or last not in (b"", b"\n")
        yield Raw(content.removesuffix(b"\n").removesuffix(b"\r"), cut, first)


def ask(raw: Raw, layout: Layout) -> Asked:
    """What a line asks for."""
    line, problems = read_text(raw)
    if raw.first and layout.header:
        return Asked(Request(""), (*problems, HEADER_LINES), is_header=True)
    if layout.form == "text" or not line.strip():
        return _count_blank(Asked(Request(line if layout.form == "text" else ""), tuple(problems)))
    if layout.form == "jsonl":
        return _ask_json(line, layout, problems)
    try:
        source, reference, bundle = read_row(line, layout)
    except LineError as error:
        return Asked(Request(""), (*problems, error.cause), error=str(error))
    return _count_blank(Asked(Request(source, features=bundle), tuple(problems), reference=reference or ""))


def read_text(raw: Raw) -> tuple[str, list[str]]:
    """A line as text, and what was wrong with it."""
    problems = ["cut lines"] if raw.cut else []
    content = raw.content.removeprefix(codecs.BOM_UTF8) if raw.first else raw.content
    try:
        return content.decode(), problems
    except UnicodeDecodeError:
        return content.decode(errors="replace"), [*problems, NOT_UTF8]


def read_row(line: str, layout: Layout) -> tuple[str, str | None, str]:
    """The source of a row, its target if it has one, and its features; all empty where all cells are blank.

    Raises:
        LineError: it is no row, or has no source, or no features where the model was trained with some.
    """
    match layout.form:
        case "tsv" | "csv":
            form = layout.form
        case _:
            raise AssertionError(f"lines of the form {layout.form!r} are no rows")
    try:
        cells = rows.split(line, form)
    except ValueError:
        raise LineError(
            NO_ROW, f"{_RECORD}: a quotation mark opens a cell, and none closes it, or text follows the one that does"
        ) from None
    if layout.form == "csv" and line.count('"') % 2 and _CLOSES.search(line):
        raise LineError(NO_ROW, f"{_RECORD}: a quotation mark closes a cell, and none opens it")
    if not any(cell.strip() for cell in cells):
        return "", "", ""
    if (last := max(layout.source, *layout.more, 0)) >= len(cells):
        raise LineError(
            NO_SOURCE,
            f"there are {len(cells)} columns, and none has the number {last}, from 0; --source-field says where the source stands",
        )
    target = layout.target
    if (last := max((0, *layout.features))) >= len(cells):
        raise LineError(
            NO_FEATURES,
            f"there are {len(cells)} columns, and none has the number {last}, from 0, of the features that the model was trained with; "
            "--features-field says where they stand",
        )
    return (
        " ".join(cells[column] for column in (layout.source, *layout.more)),
        cells[target] if target is not None and target < len(cells) else None,
        " ".join(cells[column] for column in layout.features),
    )


_RECORD = "a record of CSV must be one line (RFC 4180)"
_CLOSES = re.compile('"(,|$)')  # the second half of a record that went over a line end has one


def read_object(line: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        LineError: it is none.
    """
    try:
        record = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise LineError(NO_OBJECT, f"a line must be a JSON object: {error.msg} at character {error.pos + 1}") from None
    except LineError:
        raise
    except (ValueError, RecursionError):  # Python reads integers of at most 4,300 digits
        raise LineError(NO_OBJECT, "a line must be a JSON object, and this one is nested too deeply, or has a number too long") from None
    if not isinstance(record, dict):
        raise LineError(NO_OBJECT, f"a line must be a JSON object with a source, got {_kind(record)}")
    return record


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise LineError(NO_OBJECT, f"{number} is no number of JSON")
    return value


def _ask_json(line: str, layout: Layout, problems: list[str]) -> Asked:
    record: dict[str, Any] = {}
    try:
        record = read_object(line)
        request = make_request(read_side(record, layout, 0), record)._replace(features=read_bundle(record, layout))
    except LineError as error:
        return Asked(Request(""), (*problems, error.cause), record.get("id"), error=str(error))
    if any("\ufffd" in text for text in (request.source, request.prefix)) and "\\ud" in line.lower():
        problems.append(NOT_UTF8)
    return _count_blank(Asked(request, tuple(problems), record.get("id")))


def make_request(source: Any, wishes: Mapping[str, Any]) -> Request:
    """A request whose fields are checked: the source, and what is wished of its translation, each by its name in `Request` or not there.

    Raises:
        LineError: one is not of its kind.
    """
    source, prefix = read_string(source, "source"), read_string(wishes.get("prefix", ""), "prefix")
    return Request(source, prefix, _texts(wishes, "include"), _texts(wishes, "exclude"), _seed(wishes))


def _count_blank(asked: Asked) -> Asked:
    return asked if asked.request.source.strip() else asked._replace(problems=(*asked.problems, BLANK_LINES))


def read_side(record: dict[str, Any], layout: Layout, side: int) -> str:
    """The source (0) or target (1) of an object: in the field that has it, else in the one of this name; in this one alone of what `decode` answered.

    Raises:
        LineError: it is not there, or no string.
    """
    usual = Layout("jsonl").fields[side]
    names = [usual] if is_answer(record) else list(dict.fromkeys((layout.fields[side], usual)))
    for name in names:
        with contextlib.suppress(KeyError):
            return _joined(record, name, read_string) if side == 0 else read_string(rows.get(record, name), name)
    raise LineError(
        (NO_SOURCE, NO_TARGET)[side], f"there is no field {' or '.join(map(repr, names))}, only {', '.join(map(repr, record)) or 'none'}"
    )


def _joined(record: dict[str, Any], name: str, read: Callable[[Any, str], str]) -> str:
    """A field, or several joined by a space, as a corpus is read."""
    return " ".join([read(rows.get(record, part), part) for part in rows.fields(record, name)])


def read_bundle(record: dict[str, Any], layout: Layout) -> str:
    """The features of an object, a bundle or a list of them, in the field that has them, else in the one called `features`.

    Raises:
        LineError: the model was trained with features, and there are none, or they are no text.
    """
    if not layout.features_field:
        return ""
    names = dict.fromkeys(("features",) if is_answer(record) else (layout.features_field, "features"))
    for name in names:
        with contextlib.suppress(KeyError):
            return _joined(record, name, read_features)
    raise LineError(
        NO_FEATURES,
        f"there is no field {' or '.join(map(repr, names))}, only {', '.join(map(repr, record)) or 'none'}, and the model was trained with "
        'features; give a bundle, a list, or "" for none',
    )


def read_features(value: Any, name: str) -> str:
    """Features as a bundle or as a list of them.

    Raises:
        LineError: they are neither.
    """
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return read_string(features.join(value), name)
    if not isinstance(value, str):
        raise LineError(INVALID, f"{name} must be a string or a list of strings, got {_kind(value)}")
    return read_string(value, name)


def is_answer(record: dict[str, Any]) -> bool:
    """Whether an object is one of those that `decode` answers with; others may have fields of these names."""
    return "source" in record and "text" in record and isinstance(record.get("others"), list)


def read_string(value: Any, name: str) -> str:
    """A string of an object, half surrogate pairs replaced.

    Raises:
        LineError: it is none.
    """
    if not isinstance(value, str):
        raise LineError(INVALID, f"{name} must be a string, got {_kind(value)}")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = record.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise LineError(INVALID, f"{name} must be a list of strings that are not empty")
    return tuple(read_string(one, name) for one in value)


def _seed(record: Mapping[str, Any]) -> int | None:
    value = record.get("seed")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31):
        raise LineError(INVALID, "seed must be a whole number from 0 to 2**31 - 1")
    return value
