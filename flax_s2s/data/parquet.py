"""Rows of Parquet files, as Hugging Face and others store tables: the columns of each that are asked for.

Enters: a file, and the names of columns, of which one inside another is a path. Leaves: a mapping from these to values for each row, one after
the other; of translation.en, for example,

    {"id": 1, "translation": {"en": "a", "de": "b"}}  ->  {"translation.en": "a"}
"""

from collections.abc import Iterator, Sequence
from typing import Any

from flax_s2s.config import UserError, nearest
from flax_s2s.data import rows
from flax_s2s.data.files import File

_READ = 1_000  # rows read at once


def read(file: File, sides: Sequence[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Where each row stands, for messages, and its values; one that is null is an empty string.

    Args:
        file: the file.
        sides: a column or several joined by `+` each.

    Raises:
        UserError: the file cannot be read or is damaged; it lacks a column.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("data.format=parquet needs a package that is not installed: pip install pyarrow") from None
    path, number = str(file.path), 0
    with file.open("a Parquet file") as opened:
        try:
            table = parquet.ParquetFile(opened)
            columns = _find(dict(_leaves(table.schema_arrow)), sides, path)
            for batch in table.iter_batches(_READ, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", {column: _get(row, names) for column, names in columns.items()}
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{path} is no whole Parquet file, beyond row {number}: {said}; copy or write it again") from None


def _leaves(fields: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The columns that hold values: their paths, and the names on their way."""
    for field in fields:
        inner = [field.type.field(at) for at in range(field.type.num_fields)] if str(field.type).startswith("struct<") else []
        if inner:
            yield from _leaves(inner, (*above, field.name))
        else:
            yield ".".join((*above, field.name)), (*above, field.name)


def _find(leaves: dict[str, tuple[str, ...]], sides: Sequence[str], name: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for path in (path for side in sides for path in rows.parts(side, list(leaves))):
        if path not in leaves:
            raise UserError(f"{name} has no column {path!r}, only {', '.join(map(repr, leaves)) or 'none'}{nearest(path, leaves)}")
        found[path] = leaves[path]
    return found


def _get(row: Any, names: Sequence[str]) -> object:
    for name in names:
        row = None if row is None else row[name]
    return "" if row is None else row
