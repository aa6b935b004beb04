r"""Lines that ask how probable targets are, and lines that answer them: one out for each one in, whatever it holds.

Enters: a line of two columns, two lines of aligned files, or an object with `source` and `target`, with `source` and
`candidates` (n-best rescoring), or as `decode` answers. Leaves: an `Asked`, and its answer as bytes: the natural log of the
probability, or an object. Besides what `lines` says of odd lines:

| a line that | is |
|---|---|
| has a blank source and only blank targets | given a probability of 1, and no tokens: `decode` answers it so |
| has a blank source and another target | skipped |
| has no second column, or is no object with a source and targets | skipped |
| has a target of more tokens than any source is decoded to | skipped; of several candidates that one alone |

What is skipped is answered by an empty line, or by an object with an `error`, and counted.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax_s2s.decoding.forced import Forced
from flax_s2s.decoding.lines import Raw, one_line, read_object, read_string, read_text, to_json
from flax_s2s.files import Form


class Target(NamedTuple):
    """A text whose probability is asked for."""

    text: str
    pieces: tuple[str, ...] | None = None  # its tokens as `decode` wrote them


class Asked(NamedTuple):
    """A line that asks for scores."""

    source: str
    targets: tuple[Target, ...]
    problems: tuple[str, ...] = ()  # what is counted
    id: Any = None  # JSONL: given back as it is
    error: str = ""  # why there is nothing to score
    is_list: bool = False  # candidates, which are answered by a list, even where there is one


def ask(raw: Raw, form: Form) -> Asked:
    """What a line asks for; in the form `text` its target is the line beside it."""
    line, problems = read_text(raw)
    if form == "jsonl":
        return _ask_json(line, problems)
    source, tab, others = line.partition("\t")
    if form == "text":
        source, tab, (others, more) = line, "\t", read_text(raw.beside or Raw(b""))
        problems += [problem for problem in more if problem not in problems]
    if not tab:
        return Asked(source, (), (*problems, "without target"), error="there is no second column")
    return _check_source(Asked(source, (Target(others.split("\t")[0] if form == "tsv" else others),), tuple(problems)))


def _ask_json(line: str, problems: list[str]) -> Asked:
    record: dict[str, Any] = {}
    try:
        record = read_object(line)
        asked = Asked(read_string(record, "source"), _targets(record), tuple(problems), record.get("id"))
    except ValueError as error:
        return Asked("", (), (*problems, "bad JSON"), record.get("id"), str(error))
    return _check_source(asked._replace(is_list="candidates" in record or bool(record.get("others"))))


def _targets(record: dict[str, Any]) -> tuple[Target, ...]:
    """The targets of an object: its candidates, its target, or what `decode` found, where the model did not abstain."""
    if "candidates" in record:
        candidates = record["candidates"]
        if not isinstance(candidates, list) or not candidates:
            raise ValueError("candidates must be a list of strings, at least one")
        return tuple(Target(read_string({"candidates": one}, "candidates")) for one in candidates)
    if "target" in record or "text" not in record:
        return (Target(read_string(record, "target")),)
    others = record.get("others", [])
    if not isinstance(others, list) or not all(isinstance(one, dict) for one in others):
        raise ValueError("others must be a list of objects")
    found = [one for one in (record, *others) if one.get("abstained") is not True]
    if not found:
        raise ValueError("the model abstained, and there are no others")
    return tuple(Target(read_string(one, "text"), _pieces(one)) for one in found)


def _pieces(record: dict[str, Any]) -> tuple[str, ...] | None:
    pieces = record.get("tokens")
    return tuple(pieces) if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces) else None


def _check_source(asked: Asked) -> Asked:
    if asked.source.strip():
        return asked
    if any(target.text.strip() for target in asked.targets):
        return asked._replace(targets=(), problems=(*asked.problems, "without source"), error="the source is blank, and a target is not")
    return asked._replace(problems=(*asked.problems, "blank lines"))


def write(asked: Asked, found: Sequence[Forced | None], form: Form, pieces: Any) -> bytes:
    """The line that answers, its end included.

    Args:
        asked: by one line.
        found: for each of its targets; None for what was too long.
        form: of the lines.
        pieces: makes tokens readable: `ids -> list of strings`.
    """
    if form != "jsonl":
        return (f"{found[0].logp:.6f}\n" if found and found[0] else "\n").encode()
    if asked.error or not asked.is_list:
        return to_json({"id": asked.id, **({"error": asked.error} if asked.error else _described(found[0], pieces))})
    ranked = sorted(range(len(found)), key=lambda i: (-one.score if (one := found[i]) else float("inf"), i))
    candidates = [{"index": i, "text": one_line(asked.targets[i].text), **_described(found[i], pieces)} for i in ranked]
    return to_json({"id": asked.id, "source": asked.source, "candidates": candidates})


def _described(one: Forced | None, pieces: Any) -> dict[str, Any]:
    if one is None:
        return {"error": "the target has more tokens than any source is decoded to"}
    return {"logp": one.logp, "score": one.score, "tokens": pieces(one.ids), "token_logp": list(one.token_logp)}
