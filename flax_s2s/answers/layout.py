r"""How the lines of a file hold a source and a target, and how they are answered: found once for a file, before anything is made of it.

Enters: how the run was trained, what is asked for, a file's name and its first lines. Leaves: a `Layout`, or the reason why there
is none. For a run that was trained with `data.format=tsv data.source=word data.target=ipa data.header=True`, for example,

    x.tsv, "ipa\tword"  ->  Layout("tsv", source=1, target=0, header=("ipa", "word"))
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from flax_s2s.answers.files import Files, Form, OutputForm, ending, find_form
from flax_s2s.config import FORMATS, DataConfig, UserError
from flax_s2s.data import rows
from flax_s2s.data.account import is_header
from flax_s2s.data.corpus import Pair

FIRST_LINES = 100
"""So many lines of a file are looked at before it is read."""

_MOST_ALIKE = 0.9  # of lines of text that have equally many tabs: then they are a table
# Endings of what is no lines of text and does not begin with bytes that say so; none that is a language's code in use, as pt is.
_NO_LINES = frozenset(
    "avro conllu htm html ipynb mqxliff orc pickle pkl po rtf sdlxliff sgml srt tfrecord tmx vtt xhtml xlf xliff xml yaml yml".split()
)
_MARKUP = re.compile(r"<(\?xml|!doctype|html|tmx|xliff|srcset|refset|tstset)\b|\{\\rtf", re.IGNORECASE)
_ARRAY = re.compile(r'\s*\[\s*\{\s*"')  # of objects
_CONVERT = "make lines of text of it, rows of TSV or CSV, or one JSON object a line"


class Sides(NamedTuple):
    """Where source and target stand, as it is known before a file is seen."""

    columns: tuple[str, str] = ("0", "1")  # of a table: numbers or names
    fields: tuple[str, str] = ("source", "target")  # of objects
    header: bool = False  # the first row of a table holds names
    table: bool = False  # the run was trained on columns
    given: tuple[str, ...] = ()  # what the command line says of it
    features: tuple[str, str] | None = None  # the column and the field of features; None: the run was trained without


class Layout(NamedTuple):
    """How the lines of a file are read and answered."""

    form: Form
    source: int = 0  # column, from 0
    target: int | None = 1  # None: there is none
    fields: tuple[str, str] = ("source", "target")
    header: tuple[str, ...] = ()  # the first row, where it holds names
    output: OutputForm = "text"
    features: tuple[int, ...] = ()  # columns of the features; none: there are none
    more: tuple[int, ...] = ()  # further columns that the source is joined of
    features_field: str = ""  # of objects; empty: there are none

    @property
    def title(self) -> str:
        """What stands for the header row where texts are given out."""
        return self.header[self.target] if self.target is not None and self.target < len(self.header) else "target"

    def describe(self) -> dict[str, Any]:
        """What an output depends on; what is as it always was is left out, so that a job of an earlier version goes on."""
        usual = Layout(self.form, output="jsonl" if self.form == "jsonl" else "text")
        said: dict[str, Any] = {"form": self.form}
        said |= {"columns": [self.source, self.target]} if (self.source, self.target) != (0, 1) else {}
        named = ("fields", "header", "features", "features_field", "more")
        said |= {name: getattr(self, name) for name in named if getattr(self, name) != getattr(usual, name)}
        return said | ({"output_form": self.output} if self.output != usual.output else {})


def find_sides(data: DataConfig, files: Files) -> Sides:
    """Where source and target stand: as the command line says, else as the run was trained, else in the first columns or by these names.

    Args:
        data: of the run; of the first one, where several work as one.
        files: what the command line says.
    """
    table, objects = FORMATS[data.format] == "table", FORMATS[data.format] == "objects"
    header = files.header == "yes" or (files.header == "auto" and table and data.header)
    own, usual = (data.source, data.target), Sides()
    count = len(rows.parts(data.source))  # where nothing else is known: the source's parts, the target, the features
    first = ("+".join(map(str, range(count))), str(count), str(count + 1))
    columns = own if table or (objects and header) else first[:2]
    fields = own if objects or (table and data.header) else usual.fields
    if files.header == "yes" and files.source_field:  # the first columns are not meant
        columns = (columns[0], data.target)
    if files.features_field and not data.features:
        raise UserError(f"--features-field {files.features_field} is for runs that were trained with data.features; leave it out")
    own_features = (
        data.features if table or (objects and header) else first[2],
        data.features if objects or (table and data.header) else "features",
    )
    features = (files.features_field or own_features[0], files.features_field or own_features[1]) if data.features else None
    asked = (files.source_field, files.target_field)
    columns, fields = ((one[0] or two[0], one[1] or two[1]) for one, two in ((asked, columns), (asked, fields)))
    options = [("--source-field", asked[0]), ("--target-field", asked[1]), ("--header", "" if files.header == "auto" else files.header)]
    options.insert(2, ("--features-field", files.features_field))
    return Sides(columns, fields, header, table, tuple(f"{name} {value}" for name, value in options if value), features)


def find(
    files: Files,
    sides: Sides,
    name: str,
    first: Sequence[str],
    *,
    pairs: bool = False,
    aligned: bool = False,
    asked: Literal["auto", "text", "jsonl", "nbest"] = "auto",
    output: str = "",
) -> Layout:
    """The layout of a file.

    Args:
        files: what the command line says.
        sides: where the sides stand.
        name: of the file; empty: stdin.
        first: its first lines, at most `FIRST_LINES`.
        pairs: whether a target must be there.
        aligned: whether the target stands beside it, in a file of its own.
        asked: the form of the output that is asked for.
        output: its name, whose ending says the form where nothing is asked for; empty: stdout.

    Raises:
        UserError: it is no file of lines, or has no such columns.
    """
    form, said = find_form(files, name), name or "stdin"
    chosen = find_output_form(asked, form, output)
    if form == "text":
        if pairs and not aligned:
            raise UserError(f"{said} would hold lines of text, not pairs; give --form tsv, csv or jsonl, or --source and --target")
        if sides.given:
            raise UserError(
                f"{sides.given[0]} is for columns and objects, and {said} would hold lines of text; give --form tsv, csv or jsonl"
            )
        if files.form == "auto":
            _refuse_other_text(said, first, sides)
        if sides.features:
            raise UserError(
                f"the run was trained with features beside the source, which lines of text have none of, and {said} would hold those; give "
                + ("one file by --input, " if aligned else "")
                + "--form tsv, csv or jsonl, and --features-field where they stand elsewhere than as the run was trained"
            )
        return Layout(form, output=chosen)
    if aligned:
        raise UserError(f"{said} holds {form.upper()} by its name, and aligned files are lines of text; give it as --input, or --form text")
    if form == "jsonl":
        if any(option.startswith("--header") for option in sides.given):
            raise UserError(f"--header is for columns, and {said} would hold JSON objects; leave it out")
        if name:
            _refuse_other_json(name, first)
        return Layout(form, fields=sides.fields, output=chosen, features_field=sides.features[1] if sides.features else "")
    if files.form == "auto" and form == "csv":
        _refuse_semicolons(said, first)
    return _find_columns(form, sides, said, first, pairs)._replace(output=chosen)


def warn_header(layout: Layout, files: Files, data: DataConfig, name: str, first: Sequence[str]) -> str:
    """A warning where the first row of columns is read as a sentence and looks like their names; empty where it does not.

    Args:
        layout: of the file.
        files: what the command line says.
        data: of the run, which names its sides.
        name: of the file; empty: stdin.
        first: its first lines.
    """
    if layout.form not in ("tsv", "csv") or layout.header or files.header != "auto" or not first:
        return ""
    try:
        cells = rows.split(first[0].removesuffix("\r"), layout.form)
    except ValueError:  # no row
        return ""
    sides = (data.source,) if data.source in cells else tuple(rows.parts(data.source))
    own = [side for side in (*sides, data.target) if not side.isdecimal() and side in cells]
    chosen = [cells[column] for column in (layout.source, *layout.more, layout.target) if column is not None and column < len(cells)]
    if len(own) < 2 and not (len(chosen) > 1 and is_header(Pair(chosen[0], chosen[-1]))):
        return ""
    fields = f" --source-field {own[0]} --target-field {own[1]}" if len(own) == 2 and chosen != own else ""
    return (
        f"WARNING the first row of {name or 'stdin'} looks like names of columns, and is read as a sentence: "
        f"{', '.join(map(repr, cells))}; give --header yes{fields}, or --header no where it is none"
    )


def find_output_form(asked: Literal["auto", "text", "jsonl", "nbest"], form: Form, output: str) -> OutputForm:
    """The form of the answers: what is asked for, else by the output's ending, else objects for objects and text for all else."""
    if asked != "auto":
        return asked
    return "jsonl" if form == "jsonl" or ending(output) == "jsonl" else "text"


def _find_columns(form: Literal["tsv", "csv"], sides: Sides, name: str, first: Sequence[str], pairs: bool) -> Layout:
    header: list[str] | None = None
    if sides.header and first:
        try:
            header = rows.split(first[0], form)
        except ValueError as error:
            raise UserError(f"the header of {name} cannot be read: {error}; where it has none, give --header no") from None
    where = [f"{option} {column} of {name}" for option, column in zip(("--source-field", "--target-field"), sides.columns, strict=True)]
    if header is None and sides.header:  # an empty file
        return Layout(form)
    source, *more = (_find_column(part, header, where[0]) for part in rows.parts(sides.columns[0], header))
    own = _find_other(sides, header, where[1], pairs)
    if own in (source, *more):
        if pairs or any(option.startswith("--target-field") for option in sides.given):
            raise UserError(f"{where[0]} and {where[1]} are one column; name two, with --source-field and --target-field")
        own = None
    beside = sides.features[0] if sides.features else ""
    bundle = [_find_column(part, header, f"--features-field {beside} of {name}") for part in rows.parts(beside, header) if beside]
    if {*bundle} & {source, *more, own}:
        if {*bundle} & {source, *more} or pairs or any(option.startswith("--target-field") for option in sides.given):
            raise UserError(
                f"--features-field {'+'.join(map(str, bundle))} of {name} is the column of the source or of the target; name another, or these with "
                "--source-field and --target-field"
            )
        own = None
    return Layout(form, source, own, header=tuple(header or ()), features=tuple(bundle), more=tuple(more))


def _find_other(sides: Sides, header: Sequence[str] | None, where: str, pairs: bool) -> int | None:
    """The target's column; None where there is none, and need be none."""
    column = sides.columns[1]
    if pairs or header is None or column in header:
        return _find_column(column, header, where)
    return int(column) if column.isdecimal() and int(column) < len(header) else None


def _find_column(column: str, header: Sequence[str] | None, where: str) -> int:
    if header is None and not column.isdecimal():
        raise UserError(f"{where} must be a column's number, from 0; where the first row holds names, give --header yes")
    number = rows.find(column, header, where)
    if header is not None and number >= len(header):
        raise UserError(f"{where}: the header has {len(header)} columns, counted from 0: {', '.join(map(repr, header))}; give another")
    return number


def _refuse_other_text(name: str, first: Sequence[str], sides: Sides) -> None:
    """Refuses what is no lines of text though nobody said what it is: markup and other files by their ending or beginning, JSON, tables."""
    lines = [line for line in first if line.strip()]
    if ending(name) in _NO_LINES or (lines and _MARKUP.match(lines[0].lstrip())):
        what = f"a .{ending(name)} file" if ending(name) in _NO_LINES else "a file of markup"
        raise UserError(f"{name} is {what}, no lines of text; {_CONVERT}; or give --form text to read its lines as they are")
    if lines and all(map(_is_object, lines)):
        raise UserError(f"{name} holds JSON objects; give --form jsonl, which reads a field of each, or --form text to read whole lines")
    if _ARRAY.match("\n".join(lines[:3])):
        _refuse_other_json(name, lines)
    tabs = Counter(line.count("\t") for line in lines)
    most, rows_alike = tabs.most_common(1)[0] if tabs else (0, 0)
    alike = most > 0 and rows_alike >= _MOST_ALIKE * len(lines)
    if alike or (sides.table and lines and "\t" in lines[0]):
        raise UserError(
            f"{name} looks like a table: its lines have tabs; give --form tsv, which reads columns as the run was trained, "
            "or --form text to read whole lines"
        )


def _refuse_semicolons(name: str, first: Sequence[str]) -> None:
    """Refuses what is called CSV and has semicolons where commas should be, as spreadsheets write it in some languages."""
    lines = [line for line in first if line.strip()]
    if lines and ";" in lines[0] and "," not in lines[0]:
        raise UserError(
            f"{name} has columns that are separated by semicolons, and those of CSV are by commas; write it so, or give --form csv to "
            "read it as it is"
        )


def _is_object(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value)


def _refuse_other_json(name: str, first: Sequence[str]) -> None:
    """Refuses JSON that is not one object a line: an array, or an object over several lines."""
    line = next((line.strip() for line in first if line.strip()), "")
    if line.startswith("["):
        raise UserError(f"{name} is a JSON array; lines are read as one object each: jq -c '.[]' {name} > lines.jsonl")
    if ending(name) == "json" and line:
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{name} is JSON over several lines; lines are read as one object each: jq -c . {name} > lines.jsonl") from None
