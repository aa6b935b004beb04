"""Features of a pair beside its source, such as what form of a word is asked for: a bundle as it is written, taken apart.

Enters: the text of a bundle. Leaves: the features in it, in their order, each of which is a token of its own in the source's vocabulary.

split("V;IMP;ACC(2,SG)") -> ["V", "IMP", "ACC(2)", "ACC(SG)"]      split("Case=Nom|Number=Sing") -> ["Case=Nom", "Number=Sing"]
"""

import re
from collections.abc import Sequence

_BETWEEN = re.compile(r"[;|\s]+")
_PARTS = re.compile(r"([(),])")
_LONGEST = 256  # characters of one that is taken apart


def split(bundle: str) -> list[str]:
    """The features of a bundle.

    They stand between `;` (UniMorph), `|` (Universal Dependencies) or white space. One with others in brackets, as UniMorph writes the
    agreement of a verb with several, is one for each of these, with the names around it, however deep: so that none depends on its
    place, and each is learned wherever it stands. Brackets that do not match are characters like any other.
    """
    found: list[str] = []
    for whole in filter(None, _BETWEEN.split(bundle)):
        found += _leaves(whole) if "(" in whole and len(whole) <= _LONGEST else [whole]
    return found


def _leaves(whole: str) -> list[str]:
    """`ARG(A(1,PL),SG)` -> `ARG(A(1))`, `ARG(A(PL))`, `ARG(SG)`."""
    leaves, around, name = list[str](), list[str](), ""
    closed = False  # what came last was a bracket's end, after which a name is no feature
    for part in _PARTS.split(whole):
        if part == "(":
            if closed:
                return [whole]
            around.append(name)
            name, closed = "", False
        elif part in (")", ","):
            if not around:
                return [whole]
            if not closed:
                leaves.append("(".join([*around, name]) + ")" * len(around))
            name, closed = "", part == ")"
            if closed:
                around.pop()
        elif part and closed:
            return [whole]
        else:
            name = part or name
    return [whole] if around else leaves


def join(features: str | Sequence[str]) -> str:
    """A bundle of features that were given one by one; what is a bundle stays as it is."""
    return features if isinstance(features, str) else ";".join(features)
