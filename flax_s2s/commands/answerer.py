"""What a verb does with lines, as `answering` calls it; and what is said of lines that could not be answered."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from etils import epath

from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import BLANK_LINES, CAUSES, HEADER_LINES, NOT_UTF8, Raw
from flax_s2s.config import UserError

SKIPPED = "skipped"
"""What lines are counted as that got no answer."""


class Answers(NamedTuple):
    """To some lines."""

    body: bytes  # as many lines, or in an n-best list more
    counts: Counter[str]  # what was seen
    beside: bytes = b""  # as many lines of the second output, where there is one
    first_error: str = ""  # why the first line that was skipped was


class Made(NamedTuple):
    """A whole output, and what it answers."""

    layout: Layout
    source: epath.Path
    output: epath.Path


@runtime_checkable
class Answerer(Protocol):
    """What a verb does with lines."""

    def answer(self, read: Sequence[Raw], layout: Layout, first_line: int) -> Answers:
        """The answers to lines, in their order; the first of them has this number, from 0."""

    def conclude(self, counts: Counter[str], made: Made | None) -> dict[str, Any]:
        """What is said of the whole, by name, the counts among it; `made` is None for what was streamed."""


class Verb(NamedTuple):
    """What a verb asks for, and what it makes."""

    find_layout: Callable[[str, str, Sequence[str]], Layout]  # (name of the input, of the output, first lines) -> how they are read
    open_answerer: Callable[[bool], tuple[Answerer, dict[str, Any]]]  # interactive -> (answerer, what the answers depend on)


class Outcome(NamedTuple):
    """How it ended."""

    code: int
    whole: bool  # all outputs are there


def first_error(asked: Iterable[Any], first_line: int) -> str:
    """The first error of some lines, with its line's number, from 1; empty where there is none.

    Args:
        asked: what they ask for, with their `error`.
        first_line: the number of the first, from 0.
    """
    return next((f"line {number}: {one.error}" for number, one in enumerate(asked, first_line + 1) if one.error), "")


def explain_unanswered(name: str, said: dict[str, Any]) -> str:
    """What is wrong with an input of which no line could be answered; empty where one could, or all are blank.

    Args:
        name: of the input.
        said: its summary.
    """
    asked = said["lines"] - said.get(BLANK_LINES, 0) - said.get(HEADER_LINES, 0)
    if 0 < asked <= said.get(NOT_UTF8, 0):
        return f"{name}: {asked:,} of {asked:,} lines are not UTF-8; convert it with iconv -f ENCODING -t UTF-8"
    if not said.get(SKIPPED) or said[SKIPPED] < asked or said.get("tokens"):
        return ""
    causes = [cause for cause in CAUSES if said.get(cause)]
    why = " and ".join(f"{'are' if cause.startswith('no ') else 'come'} {cause}" for cause in causes) or "are too long"
    return f"{name}: {asked:,} of {asked:,} lines {why}" + (f"; {said['first_error']}" if said.get("first_error") else "")


def refuse_unanswered(explained: Iterable[str]) -> None:
    """Ends as an error, when all is written, where an input was none of the kind that it was read as."""
    if found := [one for one in explained if one]:
        raise UserError("; ".join(found))


def sentence(said: dict[str, Any]) -> str:
    """What a summary says, in a line."""
    words = []
    for name, value in said.items():
        if isinstance(value, dict):
            words.append(f"{name} {value['score']:.2f} ({value['signature']})")
        elif isinstance(value, float):
            words.append(f"{name} {value:,.3f}")
        elif isinstance(value, str):
            words.append(f"first error: {value}" if name == "first_error" else value)
        elif value or name == "lines":
            words.append(f"{value:,} {name}")
    return ", ".join(words)
