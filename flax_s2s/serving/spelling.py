"""Which characters of a text each of its tokens stands for.

spans(decode, ids of "▁Zwei ▁Männer </s>") -> [[0, 4], [4, 11], [11, 11]] of "Zwei Männer"
source_spans("Two 猫 men", ["▁Two", "▁", "猫", "▁men"], known) -> [[0, 3], [3, 4], [4, 5], [5, 9]]
"""

import re
from collections.abc import Callable, Sequence

_SPACE = "\u2581"
_NEAR = 16  # characters within which a piece is looked for; further, where those before it were not found
_BYTE = re.compile("<0x([0-9A-F]{2})>")


def spans(decode: Callable[[Sequence[Sequence[int]]], list[str]], ids: Sequence[int]) -> list[list[int]]:
    """Begin and end of each token of a text that tokens make, in code points; they follow each other without a gap.

    A character that several tokens write, as bytes do, counts for the last of them.

    Args:
        decode: `lists of tokens -> their texts`.
        ids: the tokens; an end mark writes nothing.
    """
    if not ids:
        return []
    *texts, whole = decode([ids[: count + 1] for count in range(len(ids))])
    found, begin = [], 0
    for text in (*texts, whole):
        end = max(begin, _alike(text, whole))
        found.append([begin, end])
        begin = end
    return found


def _alike(text: str, whole: str) -> int:
    """How many characters two texts begin with alike."""
    return next((place for place, (one, other) in enumerate(zip(text, whole, strict=False)) if one != other), min(len(text), len(whole)))


def source_spans(text: str, pieces: Sequence[str], known: Callable[[str], bool], *, join: bool) -> list[list[int]]:
    """Begin and end of each token of a text that is taken apart, in code points of the text as it was sent.

    Each piece is looked for from the end of the one before it on; one that the text does not have so, since its Unicode form was
    another, has what lies between its neighbors.

    Args:
        text: as it was sent.
        pieces: of it, as they are written, with SentencePiece's sign for a space.
        known: whether the vocabulary has a piece.
        join: whether neighbors that it does not have are one token.
    """
    found, at, spelled, missed = list[list[int]](), 0, b"", _NEAR
    before = True  # whether the piece before was known
    for number, piece in enumerate(pieces):
        if byte := _BYTE.fullmatch(piece):
            spelled += bytes.fromhex(byte[1])
            wanted = spelled.decode(errors="ignore")
            spelled = b"" if wanted else spelled
        else:
            wanted, spelled = piece.replace(_SPACE, " "), b""
        if number == 0 and not text.startswith(wanted):
            wanted = wanted.removeprefix(" ")  # a line is taken to begin with one
        begin, there = at, None
        if wanted:
            there = re.compile(r"\s+".join(map(re.escape, wanted.split(" ")))).search(text, at, at + missed + len(wanted))
            at, missed = (there.end(), _NEAR) if there else (at, missed + 2 * len(wanted))
        if join and not before and not known(piece):
            found[-1][1] = at
        else:
            found.append([begin, at])
        before = known(piece)
    return found
