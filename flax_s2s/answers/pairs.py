r"""Lines that ask how probable targets are, and lines that answer them: one out for each one in, whatever it holds.

Enters: a row of columns, two lines of aligned files, or an object with `source` and `target` (or the run's own fields), with `source`
and `candidates` (n-best rescoring), or as `decode` answers. Leaves: an `Asked`, and its answer as bytes: the natural log of the
probability, or an object. Besides what `lines` says of odd lines:

| a line that | is |
|---|---|
| is blank, or has a blank source and only blank targets | given a probability of 1, and no tokens: `decode` answers it so |
| has a blank source and another target | skipped |
| is no row with both columns, or no object with a source and targets | skipped |
| has a target of more tokens than any source is decoded to | skipped; of several candidates that one alone |

What is skipped is answered by an empty line, or by an object with an `error`, and counted. A header row is answered by `logp`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import (
    BLANK_LINES,
    HEADER_LINES,
    INVALID,
    NO_SOURCE,
    NO_TARGET,
    LineError,
    Raw,
    is_answer,
    read_bundle,
    read_object,
    read_row,
    read_side,
    read_string,
    read_text,
)
from flax_s2s.answers.replies import one_line, to_json
from flax_s2s.data import rows
from flax_s2s.decoding.forced import Forced

TOO_LONG = "the target has more tokens than any source is decoded to"


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
    is_header: bool = False
    features: str = ""  # the bundle beside the source


def ask(raw: Raw, layout: Layout) -> Asked:
    """What a line asks for; in the form `text` its target is the line beside it."""
    line, problems = read_text(raw)
    if raw.first and layout.header:
        return Asked("", (), (*problems, HEADER_LINES), is_header=True)
    if layout.form == "text":
        target, more = read_text(raw.beside or Raw(b""))
        return check_source(Asked(line, (Target(target),), (*problems, *(problem for problem in more if problem not in problems))))
    if not line.strip():
        return check_source(Asked("", (Target(""),), tuple(problems)))
    record: dict[str, Any] = {}
    try:
        if layout.form == "jsonl":
            record = read_object(line)
            asked = Asked(read_side(record, layout, 0), _targets(record, layout), tuple(problems), record.get("id"))
            asked = asked._replace(features=read_bundle(record, layout))
            return check_source(asked._replace(is_list="candidates" in record or bool(record.get("others"))))
        source, read, bundle = read_row(line, layout)
        if read is None:
            raise LineError(NO_TARGET, f"there is no column {layout.target}, counted from 0; --target-field says where the target stands")
        return check_source(Asked(source, (Target(read),), tuple(problems), features=bundle))
    except LineError as error:
        return Asked("", (), (*problems, error.cause), record.get("id"), str(error))


def _targets(record: dict[str, Any], layout: Layout) -> tuple[Target, ...]:
    """The targets of an object: its candidates, its target, or what `decode` found, where the model did not abstain."""
    if "candidates" in record:
        candidates = record["candidates"]
        if not isinstance(candidates, list) or not candidates:
            raise LineError(INVALID, "candidates must be a list of strings, at least one")
        return tuple(Target(read_string(one, "candidates")) for one in candidates)
    if "target" in record or "text" not in record or (not is_answer(record) and _has(record, layout.fields[1])):
        return (Target(read_side(record, layout, 1)),)
    others = record.get("others", [])
    if not isinstance(others, list) or not all(isinstance(one, dict) for one in others):
        raise LineError(INVALID, "others must be a list of objects")
    found = [one for one in (record, *others) if one.get("abstained") is not True]
    if not found:
        raise LineError(NO_TARGET, "the model abstained, and there are no others")
    return tuple(Target(read_string(one.get("text"), "text"), _pieces(one)) for one in found)


def _has(record: dict[str, Any], path: str) -> bool:
    try:
        rows.get(record, path)
    except KeyError:
        return False
    return True


def _pieces(record: dict[str, Any]) -> tuple[str, ...] | None:
    pieces = record.get("tokens")
    return tuple(pieces) if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces) else None


def check_source(asked: Asked) -> Asked:
    """The same, with an error where a target has no source; a blank line is counted."""
    if asked.source.strip():
        return asked
    if any(target.text.strip() for target in asked.targets):
        return asked._replace(targets=(), problems=(*asked.problems, NO_SOURCE), error="the source is blank, and a target is not")
    return asked._replace(problems=(*asked.problems, BLANK_LINES))


def write(asked: Asked, found: Sequence[Forced | None], layout: Layout) -> bytes:
    """The line that answers, its end included.

    Args:
        asked: by one line.
        found: for each of its targets; None for what was too long.
        layout: of the file.
    """
    if asked.is_header:
        return b"logp\n"
    if layout.output == "text":
        return (f"{found[0].logp:.6f}\n" if found and found[0] else "\n").encode()
    if layout.output != "jsonl":
        raise AssertionError(f"pairs are not answered in the form {layout.output!r}")
    if asked.error or not asked.is_list:
        return to_json({"id": asked.id, **({"error": asked.error} if asked.error else _described(found[0]))})
    ranked = sorted(range(len(found)), key=lambda i: (-one.score if (one := found[i]) else float("inf"), i))
    candidates = [{"index": i, "text": one_line(asked.targets[i].text), **_described(found[i])} for i in ranked]
    features = {"features": asked.features} if layout.features or layout.features_field else {}
    return to_json({"id": asked.id, "source": asked.source, **features, "candidates": candidates})


def _described(one: Forced | None) -> dict[str, Any]:
    if one is None:
        return {"error": TOO_LONG}
    unknown = {"flags": ["unknown"]} if one.unknown_source or one.unknown_target else {}
    return {"logp": one.logp, "score": one.score, "tokens": list(one.pieces), "token_logp": list(one.token_logp), **unknown}
