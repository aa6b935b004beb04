"""Translations as lines: text, JSONL, or an n-best list; and back. One for each line that was asked, and what looks wrong with it.

Enters: a `Translated`. Leaves: bytes without a line break but the last. An n-best list has a line for each hypothesis, and at least one
for each line in, by whose number, from 0, it is found.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, assert_never

from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import Asked
from flax_s2s.decoding.translate import Translation

_BREAKS = re.compile("[\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029]+")


class Translated(NamedTuple):
    """What comes out for a line."""

    asked: Asked
    translation: Translation
    flags: tuple[str, ...] = ()  # what looks wrong, see `find_flags`
    confidence: float = 1.0
    abstained: bool = False


def write(answer: Translated, layout: Layout, placeholder: str, number: int = 0) -> bytes:
    """The line that answers, its end included; in an n-best list a line for each hypothesis.

    Args:
        answer: of one line.
        layout: of the file.
        placeholder: the text where the model abstains.
        number: of the sentence in its file, from 0.
    """
    text = placeholder if answer.abstained else one_line(answer.translation.text)
    if answer.asked.is_header:
        return {"text": f"{one_line(layout.title)}\n".encode(), "nbest": b"", "jsonl": to_json({"header": list(layout.header)})}[
            layout.output
        ]
    if layout.output == "text":
        return f"{text}\n".encode()
    if layout.output == "nbest":
        hypotheses = [(text, answer.translation), *((one_line(other.text), other) for other in answer.translation.others)]
        return "".join(_listed(number, *hypothesis) for hypothesis in hypotheses).encode()
    if layout.output != "jsonl":
        assert_never(layout.output)
    if answer.asked.error:
        return to_json({"id": answer.asked.id, "error": answer.asked.error})
    return to_json(describe(answer, placeholder, features=bool(layout.features or layout.features_field)))


def describe(answer: Translated, placeholder: str, *, features: bool) -> dict[str, Any]:
    """All that is said of a translation, as an object.

    Args:
        answer: of one line, without an error.
        placeholder: the text where the model abstains.
        features: whether the model was trained with some.
    """
    return {
        "id": answer.asked.id,
        "source": answer.asked.request.source,
        **({"features": answer.asked.request.features} if features else {}),
        "text": placeholder if answer.abstained else one_line(answer.translation.text),
        "abstained": answer.abstained,
        "flags": list(answer.flags),
        "confidence": answer.confidence,
        **_described(answer.translation),
        "others": [{"text": one_line(other.text), **_described(other)} for other in answer.translation.others],
    }


def _listed(number: int, text: str, found: Translation) -> str:
    """A hypothesis as a line of an n-best list of Moses; a row of three bars in the text as Moses escapes them."""
    text = re.sub(r"\|{3,}", lambda bars: "&#124;" * len(bars[0]), text)
    return f"{number} ||| {text} ||| logp= {found.logp:.6f} tokens= {found.tokens} ||| {found.score:.6f}\n"


def read_texts(file: Any, layout: Layout) -> Iterator[str]:
    """The translations of an open output, each line's best; the header row's answer is left out."""
    last = ""
    for count, line in enumerate(file):
        content = line.decode().removesuffix("\n")
        if layout.output == "nbest":
            number, text, _ = content.split(" ||| ", 2)
            if number == last:
                continue
            last, content = number, text.replace("&#124;", "|")
        elif count == 0 and layout.header:
            continue
        yield json.loads(content).get("text", "") if layout.output == "jsonl" else content


def to_json(record: dict[str, Any]) -> bytes:
    """An object as a line, its end included; an `id` that is None is left out."""
    if record.get("id") is None:
        record = {name: value for name, value in record.items() if name != "id"}
    return (_BREAKS.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(record, ensure_ascii=False)) + "\n").encode(errors="replace")


def write_alignment(number: int, answer: Translated, source: Sequence[str]) -> bytes:
    """What a translation looked at, as a line: pieces of both sides with their end marks, and a row of attention for each of the target's.

    Where models copy, `copied` is how much of the probability of each piece of the target copying has.

    Args:
        number: of the line, from 1.
        answer: of the line.
        source: its tokens, as far as they were read.
    """
    found = answer.translation
    record: dict[str, Any] = {"line": number, "id": answer.asked.id, "source": list(source), "target": list(found.pieces)}
    weights = found.attention
    record["attention"] = [] if weights is None else [[round(weight, 4) for weight in row] for row in weights.tolist()]
    if found.copied is not None:
        record["copied"] = [round(share, 4) for share in found.copied]
    return to_json(record | ({"error": answer.asked.error} if answer.asked.error else {}))


def _described(translation: Translation) -> dict[str, Any]:
    described = {
        "score": translation.score,
        "logp": translation.logp,
        "reason": translation.reason,
        "tokens": list(translation.pieces),
        "token_logp": list(translation.token_logp),
    }
    if translation.attention is not None:
        described["alignment"] = translation.attention.argmax(axis=1).tolist()
    if translation.unmet:
        described["unmet"] = list(translation.unmet)
    return described


def one_line(text: str) -> str:
    """Text without line breaks of any kind."""
    return _BREAKS.sub(" ", text)


def find_flags(source: str, translation: Translation, source_tokens: int) -> tuple[str, ...]:
    """What looks wrong with a translation.

    empty: nothing for something. repetition: one to six tokens three times and more in a row, at least six tokens together. copied:
    the source itself, of at least five tokens. length: more than three times, or less than a third, of the source's tokens, and more than 10 apart.
    unknown: something of the source is not in the vocabulary. unmet: something that was asked for is not met.
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
    if translation.unknown_source:
        found.append("unknown")
    if translation.unmet:
        found.append("unmet")
    return tuple(found)


def _repeats(ids: list[int], period: int) -> bool:
    run = 0
    for one, other in zip(ids, ids[period:], strict=False):
        run = run + 1 if one == other else 0
        if run >= max(2 * period, 6 - period):
            return True
    return False
