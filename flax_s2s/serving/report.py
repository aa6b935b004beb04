"""The page of a report: one file that opens offline, and asks nothing of any network.

Enters: a document, which is plain data (`commands.report` gathers it). Leaves: HTML with style, program, charts and data inside. The page's
own policy lets nothing run and nothing be fetched but what is in it: text of a corpus is data, and is shown as text.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flax_s2s.serving.webpage import hash_source

_HERE = Path(__file__).parent
_SCRIPTS = ("charts/uPlot.iife.min.js", "report_page/parts.js", "report_page/curves.js", "report_page/sentences.js", "report_page/page.js")
_STYLES = ("charts/uPlot.min.css", "report_page/page.css")


def make_page(document: Mapping[str, Any]) -> bytes:
    """The page of a document, the same bytes for the same document."""
    scripts, styles = ([_read(name) for name in names] for names in (_SCRIPTS, _STYLES))
    policy = (
        f"default-src 'none'; script-src {' '.join(map(hash_source, scripts))}; style-src {' '.join(map(hash_source, styles))}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "{{policy}}": policy,
        "{{license}}": _read("charts/LICENSE").strip(),
        "{{styles}}": "\n".join(f"<style>{text}</style>" for text in styles),
        "{{data}}": to_text(document),
        "{{scripts}}": "\n".join(f"<script>{text}</script>" for text in scripts),
    }
    page = _read("report_page/page.html")
    pieces = [page]
    for name, content in parts.items():  # each split once: what is put in is never looked at again
        before, _, after = pieces.pop().partition(name)
        pieces += [before, content, after]
    return "".join(pieces).encode(errors="replace")


def _read(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


def to_text(document: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: no `<` in it can end that, or begin a comment."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def pack(attention: Float[np.ndarray, "tgt src"]) -> str:
    """Shares from 0 to 1 as a byte each, row by row, in base64."""
    return base64.b64encode(np.rint(np.clip(attention, 0, 1) * 255).astype(np.uint8).tobytes()).decode()


def choose(orders: Sequence[Sequence[int]], count: int) -> list[int]:
    """So many different ones, taken in turn from the beginnings of several orders; in rising order."""
    chosen: dict[int, None] = {}
    for number in _in_turn(orders):
        if len(chosen) >= count:
            break
        chosen[number] = None
    return sorted(chosen)


def _in_turn(orders: Sequence[Sequence[int]]) -> Iterator[int]:
    for row in zip_longest(*orders):
        yield from (number for number in row if number is not None)
