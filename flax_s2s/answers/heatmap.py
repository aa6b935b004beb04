"""Pictures of attention: a heatmap for a sentence, the source across and the translation down.

Enters: the file that `decode --attention` writes. Leaves: PNG files. Labels are drawn in fonts of this system that have their
characters; a character that none of them has is written as its code point, and said.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from etils import epath

from flax_s2s import languages
from flax_s2s.config import UserError
from flax_s2s.runs.rundir import writing

_INCHES_A_TOKEN, _MOST_INCHES, _DOTS_AN_INCH = 0.32, 60.0, 110
_PREFERRED = ("noto", "source", "wqy", "droid", "ipa")  # names of fonts made for text, before any other that has a character


_FACES = {"Hans": "SC", "Hant": "TC", "Kore": "KR", "Jpan": "JP"}  # how fonts for all of them end the name of the face for one script


class Font(NamedTuple):
    """A face of a font file; a collection has several."""

    path: str
    face: int = 0


def draw(alignments: epath.Path, folder: epath.Path, numbers: Sequence[int], sides: tuple[str, str] = ("", "")) -> Iterator[str]:
    """Draws some lines of a file as `FOLDER/line-N.png`.

    Args:
        alignments: what `decode --attention` wrote.
        folder: made where it is not there.
        numbers: of the lines, from 1.
        sides: names of source and target, which may say their languages: Chinese and Japanese write some characters differently.

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
                        lacking |= draw_one(record, picture, sides)
    yield f"{drawn} pictures in {folder}"
    if lacking:
        yield (
            f"no font here has {' '.join(sorted(f'U+{ord(one):04X}' for one in lacking)[:5])}{' ...' if len(lacking) > 5 else ''}; "
            "these are written by number: install a font, on Debian `apt-get install fonts-noto-cjk` or `fonts-wqy-zenhei`, and draw again"
        )


def draw_one(record: dict[str, Any], file: Any, sides: tuple[str, str] = ("", "")) -> set[str]:
    """Draws one sentence as PNG.

    Args:
        record: with `source` and `target`, pieces, and `attention`, a row for each piece of the target; where models copy with `copied`,
            which makes a column of its own, in another color, on the right.
        file: open for bytes.
        sides: see `draw`.

    Returns:
        The characters that no font has.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source, target = ([_printable(piece) for piece in record[side]] for side in ("source", "target"))
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # else it says that a font has one weight alone
    chosen = [choose_fonts("".join(pieces), _script(side)) for pieces, side in zip((source, target), sides, strict=True)]
    families, lacking = [families for families, _ in chosen], {one for _, found in chosen for one in found}
    source, target = (
        ["".join(f"U+{ord(one):04X}" if one in lacking else one for one in piece) for piece in side] for side in (source, target)
    )
    longest = [max(map(len, side)) for side in (source, target)]
    inches = [
        min(_MOST_INCHES, 0.6 + _INCHES_A_TOKEN * count + 0.13 * other)
        for count, other in ((len(source) + 1.5 * ("copied" in record), longest[1]), (len(target), longest[0]))
    ]
    figure = Figure(figsize=(inches[0], inches[1]), dpi=_DOTS_AN_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(record["attention"], cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.xaxis.tick_top()
    style: dict[str, Any] = {"parse_math": False, "fontsize": 9}
    axes.set_xticks(range(len(source)), source, rotation=90, family=families[0], **style)
    if "copied" in record:
        beyond = len(source) + 0.5  # a gap of half a token
        box = (beyond, beyond + 1, len(target) - 0.5, -0.5)
        axes.imshow([[share] for share in record["copied"]], cmap="Oranges", vmin=0.0, vmax=1.0, aspect="auto", extent=box)
        axes.set_xticks([*range(len(source)), beyond + 0.5], [*source, "copied"], rotation=90, family=families[0], **style)
        axes.set_xlim(-0.5, beyond + 1)
    axes.set_yticks(range(len(target)), target, family=families[1], **style)
    figure.savefig(file, format="png")
    return lacking


def _printable(piece: str) -> str:
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in piece)


def _script(side: str) -> str:
    """The script of a side's language; nothing where its name does not say one."""
    language = languages.infer(side)
    return languages.script(language) if language else ""


def choose_fonts(text: str, script: str = "") -> tuple[list[str], set[str]]:
    """Names of fonts that together have the characters of a text, in the order of preference, and the characters that none has.

    Args:
        text: what is written.
        script: of it, as ISO 15924: of equal fonts that one is taken whose name says so.
    """
    from matplotlib import font_manager

    chosen = [Font(str(font_manager.findfont("DejaVu Sans")))]  # comes with matplotlib
    lacking = {one for one in text if ord(one) not in _characters(chosen[0])}
    while lacking:
        covers = {font: (sum(ord(one) in _characters(font) for one in lacking), _suits(font, script)) for font in _system_fonts()}
        best = max(covers, key=lambda font: covers[font], default=None)
        if best is None or not covers[best][0]:
            break
        chosen.append(best)
        lacking = {one for one in lacking if ord(one) not in _characters(best)}
    for path in dict.fromkeys(font.path for font in chosen[1:]):
        font_manager.fontManager.addfont(path)  # all faces of it
    return [_name(font) for font in chosen], lacking


def _suits(font: Font, script: str) -> bool:
    return script in _FACES and _FACES[script] in _name(font).split()


@cache
def _system_fonts() -> list[Font]:
    """Faces of the fonts of this system, the preferred ones first."""
    from matplotlib import font_manager

    def rank(font: Font) -> tuple[int, str, int]:
        name = font.path.rpartition("/")[2].lower()
        preferred = next((i for i, known in enumerate(_PREFERRED) if name.startswith(known)), len(_PREFERRED))
        return preferred + 10 * ("bold" in name) + 5 * ("mono" in _name(font).lower()), *font

    found = [Font(path, face) for path in font_manager.findSystemFonts() for face in range(_count_faces(path))]
    return sorted(found, key=rank)


def _count_faces(path: str) -> int:
    from matplotlib.ft2font import FT2Font

    try:
        return int(FT2Font(path).num_faces)
    except (RuntimeError, OSError):
        return 0


@cache
def _name(font: Font) -> str:
    from matplotlib.ft2font import FT2Font

    return str(FT2Font(font.path, face_index=font.face).family_name)


@cache
def _characters(font: Font) -> frozenset[int]:
    """The code points that a font has a shape for."""
    from matplotlib.ft2font import FT2Font

    try:
        opened = FT2Font(font.path, face_index=font.face)
        return frozenset(opened.get_charmap()) if opened.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()
