r"""Words of a treebank (CoNLL-U): the columns of each, by their names.

Enters: a file, plain or packed. Leaves: a mapping for each syntactic word, one after the other; of a line of ten columns, for example,

    "1\tHunde\tHund\tNOUN\t_\tNumber=Plur\t..."  ->  {"ID": "1", "FORM": "Hunde", "LEMMA": "Hund", "UPOS": "NOUN", "XPOS": "", ...}

A multiword token (1-2) is said again by its words, and an empty node (1.1) stands nowhere in the text: both are left out.
"""

import re
from collections.abc import Iterator

from flax_s2s.config import UserError
from flax_s2s.data.files import File

COLUMNS = "ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC".split()
"""Those of a file that does not name its own, as CoNLL-U Plus does in its first line."""
_OWN_COLUMNS = re.compile(r"#\s*global\.columns\s*=(.*)")
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")


def words(file: File) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each word stands, for messages, and its columns; names are given in capitals, and what is not known (`_`) is empty.

    Raises:
        UserError: the file cannot be read; a line has other columns, or an ID that is none.
    """
    columns, path = COLUMNS, str(file.path)  # a path of epath takes long to become a string
    for number, line in enumerate(file.lines(), 1):
        if line.startswith("#"):
            own = _OWN_COLUMNS.match(line)
            columns = own[1].upper().split() if own else columns
            continue
        if not line.strip():
            continue
        where, cells = f"{path} line {number}", line.split("\t")
        if len(cells) != len(columns):
            raise UserError(
                f"{where} has {len(cells)} columns; a word of CoNLL-U has {len(columns)}, separated by tabs: {', '.join(columns)}; correct the line"
            )
        word = dict(zip(columns, cells, strict=True))
        if _NO_WORD.fullmatch(name := word.get("ID", "1")):
            continue
        if not re.fullmatch("[0-9]+", name):
            raise UserError(f"{where} has the ID {name!r}; it must be a number, or two such as 1-2 or 1.1; correct the line")
        form = word.get("FORM")
        yield where, {column: cell if cell != "_" or _is_literal(column, form) else "" for column, cell in word.items()}


def _is_literal(column: str, form: str | None) -> bool:
    """Whether `_` is itself: it may be a word, whose lemma it is then."""
    return column == "FORM" or (column == "LEMMA" and form == "_")
