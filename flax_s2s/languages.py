"""Names of languages: what a name such as `zh`, `cmn`, `zho_Hans` or `pt-BR` stands for.

Enters: the name of a side, or one that was given as a language. Leaves: a `langcodes.Language` in its shortest form (`zho` and
`chi` are `zh`), or nothing where the name is no language.
"""

import functools

import langcodes
from babel import Locale

_NO_LANGUAGE = ("src",)  # a side's usual name, and Logudorese Sardinian


def read(name: str) -> langcodes.Language | None:
    """The language of a name that was given as one: any code of ISO 639-1, -2 or -3, with or without script and region (BCP 47).

    `zho_Hans` -> zh-Hans, `jpn` -> ja, `tgt` -> tgt (Central Tagbanwa), `cn` -> None.
    """
    return langcodes.Language.get(name.replace("_", "-")) if langcodes.tag_is_valid(name) else None


def infer(name: str) -> langcodes.Language | None:
    """The language that the name of a side says by itself, None where it may be no language.

    Many a word of three letters is the code of some language in ISO 639-3 (`src`, `tgt`, `act`), so a name counts only where it has
    a script too (`arb_Arab`), or where CLDR has a name for the language, or for the one that it is a variety of, as for some 600.
    """
    found = read(name)
    if found is None or name in _NO_LANGUAGE:
        return None
    known = found.script or {found.language, found.prefer_macrolanguage().language} & _known()
    return found if known else None


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(Locale("en").languages)


def script(language: langcodes.Language) -> str:
    """The script that a language is written in, as ISO 15924: Hans for zh, cmn and wuu, Hant for yue and zh-TW, Jpan for ja."""
    return language.maximize().script or ""
