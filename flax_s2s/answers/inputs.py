"""The lines of an input: a file, a pipe, a device or stdin, plain or packed (gzip, bzip2, xz, zstd), which is opened once and read as it comes.

Enters: a path. Leaves: its lines as they are, those together that are there together. What is no text is refused by its first bytes and lines.
"""

import contextlib
import io
import queue
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from flax_s2s.answers import parts
from flax_s2s.answers.layout import FIRST_LINES
from flax_s2s.answers.lines import NOT_UTF8, Raw, raw_lines, read_text
from flax_s2s.config import UserError
from flax_s2s.data.files import HEAD_BYTES, find_packing, refuse_compressed, unpack
from flax_s2s.runs.rundir import is_stream, open_stream

_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x7f]")
_TOGETHER, _TOGETHER_BYTES = 1 << 13, 1 << 20  # lines read and answered together, so that memory does not grow with the file


def is_packed(path: epath.Path) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with path.open("rb") as file:
        return find_packing(file.read(HEAD_BYTES)) is not None


def first_lines(path: epath.Path) -> list[Raw]:
    """The lines that a file begins with, enough to see what it is.

    Raises:
        UserError: it is no text by its first bytes, or no whole packed file.
    """
    found: list[Raw] = []
    with _open(path) as file:
        for raw in raw_lines(file):
            found.append(raw)
            if len(found) == FIRST_LINES or sum(len(one.content) for one in found) >= _TOGETHER_BYTES:
                break
    return found


def refuse_no_text(name: str, first: Sequence[Raw]) -> None:
    """Refuses what is no text in UTF-8 by its first lines: where more than half of them are not UTF-8, or hold control characters.

    A few such lines are read as they are, see `lines`.

    Args:
        name: of the input, for the message.
        first: its first lines; blank ones do not count.

    Raises:
        UserError: it is no text.
    """
    first = [raw for raw in first if raw.content.strip()]
    controls = sum(bool(_CONTROLS.search(raw.content)) for raw in first)
    invalid = sum(NOT_UTF8 in read_text(raw)[1] for raw in first)
    either = sum(bool(_CONTROLS.search(raw.content)) or NOT_UTF8 in read_text(raw)[1] for raw in first)
    if 2 * either > len(first):
        raise UserError(
            f"{name} is no text in UTF-8: of its first {len(first):,} lines {invalid:,} are not UTF-8, and {controls:,} hold control characters; "
            "where it is text of another encoding, convert it with iconv -f ENCODING -t UTF-8"
        )


def read(source: epath.Path | None, aligned: epath.Path | None) -> Iterator[Raw]:
    """The lines of an input, each with the one of the aligned file at its place; opened when the first is asked for."""
    with _open(source) as file:
        if aligned is None:
            yield from raw_lines(file)
            return
        with _open(aligned) as other:
            yield from _beside(raw_lines(file), raw_lines(other), source, aligned)


def _beside(raws: Iterable[Raw], others: Iterable[Raw], source: Any, aligned: Any) -> Iterator[Raw]:
    """Lines of two files, each with the one at its place."""
    lines = 0
    rest = iter(others)
    for raw in raws:
        other = next(rest, None)
        lines += 1
        if other is None:
            parts.refuse_different(source, lines + sum(1 for _ in raws), aligned, lines - 1)
        yield raw._replace(beside=other)
    parts.refuse_different(source, lines, aligned, lines + sum(1 for _ in rest))


@contextlib.contextmanager
def _open(path: epath.Path | None) -> Iterator[Any]:
    """An input, open for bytes, once: unpacked if it is compressed, by its first bytes.

    Raises:
        UserError: it cannot be opened, is no text by its first bytes, or is no whole packed file.
    """
    name = str(path or "stdin")
    with contextlib.ExitStack() as stack:
        file: Any = sys.stdin.buffer
        if path is not None:
            file = stack.enter_context(open_stream(name, "rb") if is_stream(str(path)) else path.open("rb"))
        file = file if hasattr(file, "peek") else io.BufferedReader(file)
        if packing := find_packing(file.peek(HEAD_BYTES)):
            file = stack.enter_context(unpack(file, packing, name))
        refuse_compressed(file.peek(HEAD_BYTES)[:HEAD_BYTES], name)
        yield file


def batches(raws: Iterable[Raw], wait: float, interactive: bool) -> Iterator[list[Raw]]:
    """Lines that are there together: after the first, all that come within `wait` seconds. A thread reads, so that none is waited for."""
    arrived: queue.Queue[Raw | Exception | None] = queue.Queue(64)  # few: each may have megabytes

    def work() -> None:
        try:
            for raw in raws:
                arrived.put(raw)
            arrived.put(None)
        except Exception as error:
            arrived.put(error)

    threading.Thread(target=work, name="input", daemon=True).start()
    while True:
        if interactive:
            print("> ", end="", file=sys.stderr, flush=True)
        batch: list[Raw] = []
        size = 0
        end, deadline = arrived.get(), time.monotonic() + wait
        while isinstance(end, Raw):
            batch.append(end)
            size += len(end.content)
            if len(batch) == _TOGETHER or size >= _TOGETHER_BYTES:
                break
            try:
                end = arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
        if isinstance(end, Exception):
            raise end
        if batch:
            yield batch
        if end is None:
            return
