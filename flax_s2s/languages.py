"""Names of languages: what a name such as `zh`, `cmn`, `zho_Hans` or `pt-BR` stands for, and which metrics need to know.

Enters: the name of a side, or one that was given as a language. Leaves: a `langcodes.Language` in its shortest form (`zho` and
`chi` are `zh`), or nothing where the name is no language.
"""

import functools
from typing import TYPE_CHECKING, Literal

from babel import Locale
from babel.core import get_global

from flax_s2s.config import METRICS, EvaluationConfig, Metric, UserError

if TYPE_CHECKING:
    import langcodes

Spacing = Literal["words", "Chinese", "none"]

# Usual names of a side, of phones and of Korea, and Logudorese Sardinian, Phoenician and Kanuri.
_NO_LANGUAGE = ("src", "phn", "kr")
_SPECIAL = ("mis", "mul", "und", "zxx")  # ISO 639's codes for no language in particular
_CHINESE = ("Hans", "Hant", "Hani", "Hanb", "Bopo")
# CLDR 48, scriptMetadata.txt, the living scripts with "LB letters"; those of the last line break between syllables.
_UNSPACED = (
    *("Jpan", "Hira", "Kana", "Hrkt", "Thai", "Laoo", "Khmr", "Mymr", "Lana", "Tale", "Talu", "Tavt", "Yiii"),
    *("Tibt", "Java", "Bali"),
)


def read(name: str) -> "langcodes.Language | None":
    """The language of a name that was given as one: any code of ISO 639-1, -2 or -3, with or without script and region (BCP 47).

    `zho_Hans` -> zh-Hans, `jpn` -> ja, `tgt` -> tgt (Central Tagbanwa), `cn` -> None.
    """
    import langcodes  # here, because its tables take as long to read as a model, and whoever only translates needs none

    found = langcodes.Language.get(name.replace("_", "-")) if langcodes.tag_is_valid(name) else None
    return found if found and (found.language not in (None, *_SPECIAL)) else None


def infer(name: str) -> "langcodes.Language | None":
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


def script(language: "langcodes.Language") -> str:
    """The script that a language is written in, as ISO 15924: Hans for zh, cmn and wuu, Hant for yue and zh-TW, Jpan for ja; or empty.

    By Babel's table of likely subtags: that of langcodes 3.5.1 has 1,866 of CLDR's 7,745, and takes all others (`cjy`, `rki`) for Latin.
    """
    if language.script:
        return language.script
    likely, wider = get_global("likely_subtags"), language.prefer_macrolanguage().language
    names = (f"{language.language}_{language.territory}", f"{wider}_{language.territory}", str(language.language), str(wider))
    return next((str(likely[name]).split("_")[1] for name in names if name in likely), "")


def spacing(language: "langcodes.Language") -> Spacing:
    """What stands between its words: white space; or nothing, as in Chinese, and in Japanese, Thai and others."""
    written = script(language)
    return "Chinese" if written in _CHINESE else "none" if written in _UNSPACED else "words"


def find_target(evaluation: EvaluationConfig, side: str) -> "langcodes.Language | None":
    """The target's language: the one that was given, else the one that the side's name says, if any.

    Raises:
        UserError: what was given is no language.
    """
    if not evaluation.language:
        return infer(side)
    found = read(evaluation.language)
    if found is None:
        raise UserError(
            f"evaluation.language={evaluation.language!r} is no language; give its code by ISO 639 or BCP 47, such as zh, deu, pt-BR or zho_Hans"
        )
    return found


def find_lack(metric: Metric, evaluation: EvaluationConfig, side: str) -> str:
    """Why a metric is not defined for a target: an error's text, empty where it is.

    BLEU, TER and ROUGE count words, which each language separates in its own way; the others compare lines, characters, or what
    white space separates.

    Raises:
        UserError: see `find_target`.
    """
    language, needs = find_target(evaluation, side), METRICS[metric].needs
    if needs == "nothing":
        return ""
    by_language = evaluation.tokenizer == "auto" or (evaluation.tokenizer == "flores200" and needs != "tokenizer")
    otherwise = (
        "; or say how words are found by --tokenizer (evaluation.tokenizer): 13a where spaces are between them, zh for Chinese, "
        "char for Japanese or Thai, none for what is split already"
    )
    if language is None and (needs == "language" or by_language):
        return (
            f"{metric} goes by the target's language, which data.target={side!r} does not tell; give it by --language "
            f"(evaluation.language), a code such as de, zho_Hans or pt-BR{'' if needs == 'language' else otherwise}"
        )
    if language and by_language and not script(language):
        return f"{metric} goes by the target's script, which CLDR does not know for {language}; give it too, such as {language}_Latn{otherwise}"
    return ""
