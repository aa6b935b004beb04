r"""Translation memories (TMX): the texts of each translation unit, by language.

Enters: a file, plain or packed, and the languages that are asked for. Leaves: a mapping from these to texts for each unit, one after the other;
of en and de, for example,

    <tu><tuv xml:lang="EN-US"><seg>A <bpt i="1">&lt;b&gt;</bpt>dog.</seg></tuv></tu>  ->  {"en": "A dog.", "de": ""}

Codes of the program that made it (bpt, ept, it, ph, ut) are left out; a text inside one (sub) stands between spaces.
"""

import re
from collections.abc import Iterator, Sequence
from xml.parsers import expat

from flax_s2s.config import UserError, nearest
from flax_s2s.data.files import File

_CODES = ("bpt", "ept", "it", "ph", "ut")
_SPACE = re.compile(r"[ \t\r\n]+")
_READ_BYTES = 1 << 16


def units(file: File, languages: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each unit stands, for messages, and its texts in the languages; one that it lacks is empty.

    Args:
        file: the memory, in any encoding that its first line names.
        languages: as `xml:lang` names them, in capitals or not; where a unit lacks `en` itself, EN-US or any other English is taken.

    Raises:
        UserError: the file cannot be read, is not well-formed, is no TMX, declares entities, or has nothing in one of the languages.
    """
    asked = {language: _normal(language) for language in languages}
    names, met, path = dict[str, str](), set[str](), str(file.path)
    for line, unit in _parse(file, names):
        texts = {}
        for language, name in asked.items():
            text = _choose(unit, name, [*asked.values()])
            texts[language] = text or ""
            met |= set() if text is None else {language}
        yield f"{path} line {line}", texts
    for language in asked:
        if names and language not in met:
            written = list(names.values())
            raise UserError(f"{path} has nothing in {language!r}, only in {', '.join(map(repr, written))}{nearest(language, written)}")


def _normal(language: str) -> str:
    return language.replace("_", "-").lower()


def _choose(unit: dict[str, str], name: str, asked: Sequence[str]) -> str | None:
    """The text in a language, else the first in a variety of it that is not asked for itself."""
    if name in unit:
        return unit[name]
    return next((text for other, text in unit.items() if other.partition("-")[0] == name and other not in asked), None)


def _parse(file: File, names: dict[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The units and the lines that they begin in; `names` receives the languages, as they are written."""
    reader = _Reader(str(file.path), names)
    with file.open("UTF-16") as opened:
        while not reader.ended:
            reader.feed(opened.read(_READ_BYTES))
            yield from reader.found
            reader.found.clear()


class _Reader:
    """What the parser calls: it keeps no more than the unit that is being read, and those that are found and not yet taken."""

    def __init__(self, path: str, names: dict[str, str]) -> None:
        self.found: list[tuple[int, dict[str, str]]] = []
        self.ended = False
        self._path, self._names = path, names
        self._unit, self._line, self._language = dict[str, str](), 0, ""
        self._text: list[str] = []
        self._kept: list[bool] = []  # of the elements that are open in a segment: whether text in them is kept
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._check_root
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._take
        self._parser.EntityDeclHandler = lambda name, *_: self._refuse_entity(name, "is declared")
        self._parser.SkippedEntityHandler = lambda name, *_: self._refuse_entity(name, "is not defined")

    def feed(self, content: bytes) -> None:
        try:
            self._parser.Parse(content, not content)
        except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that nobody knows
            raise UserError(
                f"{self._path} line {self._parser.ErrorLineNumber} is not well-formed XML: {str(error).partition(':')[0]}, at column "
                f"{self._parser.ErrorColumnNumber + 1}; correct it there, or write what can be read: xmllint --recover FILE > NEW"
            ) from None
        self.ended = not content

    def _refuse_entity(self, name: str, what: str) -> None:
        raise UserError(
            f"{self._path} line {self._parser.CurrentLineNumber}: the entity {name!r} {what}; only XML's own, such as &amp;, are read: write the "
            "characters that it stands for"
        )

    def _check_root(self, name: str, _: dict[str, str]) -> None:
        if name != "tmx":
            raise UserError(
                f"{self._path} is XML that begins with <{name}>; TMX begins with <tmx>: give a file of that, or another --data.format"
            )
        self._parser.StartElementHandler = self._start

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._kept:
            self._kept.append(name == "sub" or (name not in _CODES and self._kept[-1]))
            self._text += [" "] if name == "sub" else []
        elif name == "tu":
            self._unit, self._line = {}, self._parser.CurrentLineNumber
        elif name == "tuv":
            language = attributes.get("xml:lang") or attributes.get("lang") or ""
            self._language = _normal(language)
            self._names.setdefault(self._language, language)
        elif name == "seg":
            self._text, self._kept = [], [True]

    def _take(self, text: str) -> None:
        if self._kept and self._kept[-1]:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if self._kept:
            self._kept.pop()
            self._text += [" "] if name == "sub" else []
            if not self._kept:
                self._unit.setdefault(self._language, _SPACE.sub(" ", "".join(self._text)).strip(" "))
        elif name == "tu":
            self.found.append((self._line, self._unit))
