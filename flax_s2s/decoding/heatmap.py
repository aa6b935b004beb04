"""Pictures of attention: a heatmap for a sentence, the source across and the translation down.

Enters: the file that `decode --attention` writes. Leaves: PNG files. Labels are drawn in fonts of this system that have their
characters; a character that none of them has is written as its code point, and said.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from etils import epath

from flax_s2s.config import UserError
from flax_s2s.rundir import writing

_INCHES_A_TOKEN, _MOST_INCHES, _DOTS_AN_INCH = 0.32, 60.0, 110
_PREFERRED = ("noto", "source", "wqy", "droid", "ipa")  # names of fonts made for text, before any other that has a character


def draw(alignments: epath.Path, folder: epath.Path, numbers: Sequence[int]) -> Iterator[str]:
    """Draws some lines of a file as `FOLDER/line-N.png`.

    Args:
        alignments: what `decode --attention` wrote.
        folder: made where it is not there.
        numbers: of the lines, from 1.

    Yields:
        What a user should know, a line each.

    Raises:
        UserError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--pictures {folder} cannot be made a folder: {error.strerror or error}") from None
    left, drawn, lacking = set(numbers), 0, set()
    with alignments.open("rb") as file:
        for line in file:
            if not left:
                break
            record = json.loads(line)
            if record["line"] in left:
                left.remove(record["line"])
                if record["attention"]:
                    drawn += 1
                    with writing(str(folder / f"line-{record['line']}.png")) as picture:
                        lacking |= draw_one(record, picture)
    yield f"{drawn} pictures in {folder}"
    if lacking:
        yield (
            f"no font here has {' '.join(sorted(f'U+{ord(one):04X}' for one in lacking)[:5])}{' ...' if len(lacking) > 5 else ''}; "
            "these are written by number: install a font, on Debian `apt-get install fonts-noto-cjk` or `fonts-wqy-zenhei`, and draw again"
        )


def draw_one(record: dict[str, Any], file: Any) -> set[str]:
    """Draws one sentence as PNG.

    Args:
        record: with `source` and `target`, pieces, and `attention`, a row for each piece of the target.
        file: open for bytes.

    Returns:
        The characters that no font has.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source, target = ([_printable(piece) for piece in record[side]] for side in ("source", "target"))
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # else it says that a font has one weight alone
    families, lacking = choose_fonts("".join([*source, *target]))
    source, target = (
        ["".join(f"U+{ord(one):04X}" if one in lacking else one for one in piece) for piece in side] for side in (source, target)
    )
    longest = [max(map(len, side)) for side in (source, target)]
    inches = [
        min(_MOST_INCHES, 0.6 + _INCHES_A_TOKEN * count + 0.13 * other)
        for count, other in ((len(source), longest[1]), (len(target), longest[0]))
    ]
    figure = Figure(figsize=(inches[0], inches[1]), dpi=_DOTS_AN_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(record["attention"], cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.xaxis.tick_top()
    style: dict[str, Any] = {"family": families, "parse_math": False, "fontsize": 9}
    axes.set_xticks(range(len(source)), source, rotation=90, **style)
    axes.set_yticks(range(len(target)), target, **style)
    figure.savefig(file, format="png")
    return lacking


def _printable(piece: str) -> str:
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in piece)


def choose_fonts(text: str) -> tuple[list[str], set[str]]:
    """Names of fonts that together have the characters of a text, in the order of preference, and the characters that none has."""
    from matplotlib import font_manager

    chosen = [str(font_manager.findfont("DejaVu Sans"))]  # comes with matplotlib
    lacking = {one for one in text if ord(one) not in _characters(chosen[0])}
    while lacking:
        covers = {path: sum(ord(one) in _characters(path) for one in lacking) for path in _system_fonts()}
        best = max(covers, key=lambda path: covers[path], default="")
        if not best or not covers[best]:
            break
        chosen.append(best)
        lacking = {one for one in lacking if ord(one) not in _characters(best)}
    for path in chosen[1:]:
        font_manager.fontManager.addfont(path)
    return [font_manager.FontProperties(fname=path).get_name() for path in chosen], lacking


@cache
def _system_fonts() -> list[str]:
    """Files of fonts, the preferred ones first."""
    from matplotlib import font_manager

    def rank(path: str) -> tuple[int, str]:
        name = path.rpartition("/")[2].lower()
        return next((i for i, known in enumerate(_PREFERRED) if name.startswith(known)), len(_PREFERRED)) + 10 * ("bold" in name), path

    return sorted(font_manager.findSystemFonts(), key=rank)


@cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font has a shape for."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()
