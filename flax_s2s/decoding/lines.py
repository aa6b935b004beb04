r"""Lines that ask for translations, and lines that answer them: text, TSV and JSONL, one out for each one in, whatever it holds.

Enters: bytes up to `\n`, which alone ends a line. Leaves: an `Asked`, and its answer as bytes. What is wrong with a line is
answered in its place and counted:

| a line that | is |
|---|---|
| is not UTF-8, or holds half of a surrogate pair | read with U+FFFD in place of what is wrong |
| ends with `\r\n`; is the first and begins with a byte order mark | read without them |
| holds NUL, U+0085, U+2028 or other odd characters | read as it is; no line break ever comes out inside a line |
| is empty or blank | answered by an empty line (in JSONL, as no object) |
| is longer than 4 MiB | cut there |
| has more than decoding.max_source_tokens tokens | cut there |
| is no JSON object with a string `source` (JSONL) | answered by an object with an `error` |
"""

import codecs
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flax_s2s.decoding.translate import Request, Translation
from flax_s2s.files import Form

LONGEST_BYTES = 1 << 22
_BREAKS = re.compile("[\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029]+")


class Raw(NamedTuple):
    """A line as it was read, without its end."""

    content: bytes
    cut: bool = False  # it was longer
    first: bool = False  # of its file
    beside: "Raw | None" = None  # the line at the same place of an aligned file


class Asked(NamedTuple):
    """A line that asks for a translation."""

    request: Request
    problems: tuple[str, ...] = ()  # what is counted
    id: Any = None  # JSONL: given back as it is
    reference: str = ""  # TSV: the second column, a right translation
    error: str = ""  # JSONL: why there is nothing to translate


class Translated(NamedTuple):
    """What comes out for a line."""

    asked: Asked
    translation: Translation
    flags: tuple[str, ...] = ()  # what looks wrong, see `flags`
    confidence: float = 1.0
    abstained: bool = False


def raw_lines(file: Any, end: int | None = None) -> Iterator[Raw]:
    """The lines of an open file up to a position; never more than one in memory. A file without `end` begins with its first line."""
    position = file.tell() if end is not None else 0
    while end is None or position < end:
        content = file.readline(LONGEST_BYTES)
        if not content:
            return
        first, cut, last = position == 0, False, content
        position += len(content)
        while not last.endswith(b"\n") and len(last) == LONGEST_BYTES:
            last = file.readline(LONGEST_BYTES)
            position, cut = position + len(last), cut or last not in (b"", b"\n")
        yield Raw(content.removesuffix(b"\n").removesuffix(b"\r"), cut, first)


def ask(raw: Raw, form: Form) -> Asked:
    """What a line asks for."""
    line, problems = read_text(raw)
    if form == "jsonl":
        return _ask_json(line, problems)
    if form == "text":
        return _count_blank(Asked(Request(line), tuple(problems)))
    source, _, others = line.partition("\t")
    return _count_blank(Asked(Request(source), tuple(problems), reference=others.split("\t")[0]))


def read_text(raw: Raw) -> tuple[str, list[str]]:
    """A line as text, and what was wrong with it."""
    problems = ["cut lines"] if raw.cut else []
    content = raw.content.removeprefix(codecs.BOM_UTF8) if raw.first else raw.content
    try:
        return content.decode(), problems
    except UnicodeDecodeError:
        return content.decode(errors="replace"), [*problems, "invalid UTF-8"]


def read_object(line: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: it is none.
    """
    try:
        record = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(record, dict):
        raise ValueError(f"a line must be an object with a source, got {type(record).__name__}")
    return record


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no number of JSON")
    return value


def _ask_json(line: str, problems: list[str]) -> Asked:
    record: dict[str, Any] = {}
    try:
        record = read_object(line)
        request = Request(
            read_string(record, "source"),
            read_string(record, "prefix", ""),
            _texts(record, "include"),
            _texts(record, "exclude"),
            _seed(record),
        )
    except ValueError as error:
        return Asked(Request(""), (*problems, "bad JSON"), record.get("id"), error=str(error))
    if any("\ufffd" in text for text in (request.source, request.prefix)) and "\\ud" in line.lower():
        problems.append("invalid UTF-8")
    return _count_blank(Asked(request, tuple(problems), record.get("id")))


def _count_blank(asked: Asked) -> Asked:
    return asked if asked.request.source.strip() else asked._replace(problems=(*asked.problems, "blank lines"))


def read_string(record: dict[str, Any], name: str, default: str | None = None) -> str:
    """A string of an object, half surrogate pairs replaced.

    Raises:
        ValueError: it is not there, or none.
    """
    value = record.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {'nothing' if value is None else type(value).__name__}")
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _texts(record: dict[str, Any], name: str) -> tuple[str, ...]:
    value = record.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError(f"{name} must be a list of strings that are not empty")
    return tuple(read_string({name: one}, name) for one in value)


def _seed(record: dict[str, Any]) -> int | None:
    value = record.get("seed")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31):
        raise ValueError("seed must be a whole number from 0 to 2**31 - 1")
    return value


def write(answer: Translated, form: Form, placeholder: str, pieces: Any) -> bytes:
    """The line that answers, its end included.

    Args:
        answer: of one line.
        form: of the lines.
        placeholder: the text where the model abstains.
        pieces: makes tokens readable: `ids -> list of strings`.
    """
    text = placeholder if answer.abstained else one_line(answer.translation.text)
    if form != "jsonl":
        return f"{text}\n".encode()
    if answer.asked.error:
        record: dict[str, Any] = {"id": answer.asked.id, "error": answer.asked.error}
    else:
        record = {
            "id": answer.asked.id,
            "source": answer.asked.request.source,
            "text": text,
            "abstained": answer.abstained,
            "flags": list(answer.flags),
        }
        record |= {"confidence": answer.confidence, **_described(answer.translation, pieces)}
        record["others"] = [{"text": one_line(other.text), **_described(other, pieces)} for other in answer.translation.others]
    return to_json(record)


def to_json(record: dict[str, Any]) -> bytes:
    """An object as a line, its end included; an `id` that is None is left out."""
    if record["id"] is None:
        record = {name: value for name, value in record.items() if name != "id"}
    return (_BREAKS.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(record, ensure_ascii=False)) + "\n").encode(errors="replace")


def write_alignment(number: int, answer: Translated, source: Sequence[str], target: Sequence[str]) -> bytes:
    """What a translation looked at, as a line: pieces of both sides with their end marks, and a row of attention for each of the target's.

    Args:
        number: of the line, from 1.
        answer: of the line.
        source: its tokens, as far as they were read.
        target: those of the translation.
    """
    record: dict[str, Any] = {"line": number, "id": answer.asked.id, "source": list(source), "target": list(target)}
    weights = answer.translation.attention
    record["attention"] = [] if weights is None else [[round(weight, 4) for weight in row] for row in weights.tolist()]
    return to_json(record | ({"error": answer.asked.error} if answer.asked.error else {}))


def _described(translation: Translation, pieces: Any) -> dict[str, Any]:
    described = {
        "score": translation.score,
        "logp": translation.logp,
        "reason": translation.reason,
        "tokens": pieces(translation.ids),
        "token_logp": list(translation.token_logp),
    }
    if translation.attention is not None:
        described["alignment"] = translation.attention.argmax(axis=1).tolist()
    return described


def one_line(text: str) -> str:
    """Text without line breaks of any kind."""
    return _BREAKS.sub(" ", text)


def find_flags(source: str, translation: Translation, source_tokens: int) -> tuple[str, ...]:
    """What looks wrong with a translation.

    empty: nothing for something. repetition: one to six tokens three times and more in a row, at least six tokens together. copied:
    the source itself, of at least five tokens. length: more than three times, or less than a third, of the source's tokens, and more than 10 apart.
    """
    if not source.strip():
        return ()
    found, ids = [], [token for token in translation.ids if translation.reason != "end" or token != translation.ids[-1]]
    if not translation.text.strip():
        found.append("empty")
    if any(_repeats(ids, period) for period in range(1, 7)):
        found.append("repetition")
    if source_tokens >= 5 and translation.text.split() == source.split():
        found.append("copied")
    shorter, longer = sorted((len(ids), source_tokens))
    if longer > 3 * shorter and longer - shorter > 10:
        found.append("length")
    return tuple(found)


def _repeats(ids: list[int], period: int) -> bool:
    run = 0
    for one, other in zip(ids, ids[period:], strict=False):
        run = run + 1 if one == other else 0
        if run >= max(2 * period, 6 - period):
            return True
    return False
