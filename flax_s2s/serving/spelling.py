"""Which characters of a text each of its tokens wrote.

spans(decode, ids of "▁Zwei ▁Männer </s>") -> [[0, 4], [4, 11], [11, 11]] of "Zwei Männer"
"""

from collections.abc import Callable, Sequence


def spans(decode: Callable[[Sequence[Sequence[int]]], list[str]], ids: Sequence[int]) -> list[list[int]]:
    """Begin and end of each token, in code points; they follow each other without a gap, and what writes nothing has none.

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
