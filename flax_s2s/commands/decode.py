"""`decode RUN_DIR`: translates lines, one out for each one in, in order."""

import codecs
import contextlib
import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from flax_s2s.commands.wiring import Opened, console, make_translator, open_runs
from flax_s2s.config import DecodingConfig, UserError
from flax_s2s.data.files import read_lines
from flax_s2s.rundir import make_path, writing

_TOGETHER = 1 << 14  # lines read and sorted by length at a time, so that memory does not grow with the file


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, blocklist: str, input_file: str, output_file: str) -> int:
    """Translates a file or stdin to a file or stdout; an output file appears whole or not at all."""
    _refuse_same_file(input_file, output_file)
    blocked = [line for line in read_lines(blocklist) if line.strip()] if blocklist else []
    try:
        with (
            _open_input(input_file) as source,
            writing(output_file) if output_file else contextlib.nullcontext(sys.stdout.buffer) as target,
        ):
            _translate(open_runs(run_dirs, checkpoint, decoding), blocked, source, target, says_all=bool(output_file))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has left, as `head` does: nothing is wrong
    return 0


def _translate(opened: Opened, blocked: Sequence[str], source: Any, target: Any, says_all: bool) -> None:
    """From an open file to another, a limited number of lines at a time."""
    out = console()
    translator = make_translator(opened, blocked)
    counts = {"lines": 0, "cut sources": 0, "cut translations": 0, "invalid UTF-8": 0}
    with out.status("translating"):
        while chunk := _read_lines(source, counts):
            found = translator(opened.params, chunk)
            counts["lines"] += len(found)
            counts["cut sources"] += sum(t.cut_source for t in found)
            counts["cut translations"] += sum(not t.finished for t in found)
            target.write("".join(t.text + "\n" for t in found).encode())
            target.flush()
    if says_all or any(count for name, count in counts.items() if name != "lines"):
        out.print(", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "lines"))


@contextlib.contextmanager
def _open_input(name: str) -> Iterator[Any]:
    if not name:
        yield sys.stdin.buffer
        return
    path = make_path(name)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None
    with file, gzip.open(file) if path.suffix == ".gz" else contextlib.nullcontext(file) as lines:
        yield lines


def _refuse_same_file(input_file: str, output_file: str) -> None:
    if input_file and output_file and make_path(input_file).resolve() == make_path(output_file).resolve():
        raise UserError(f"--input and --output are both {input_file}; give another --output")


def _next_line(source: Any) -> bytes:
    try:
        line: bytes = source.readline()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"the input is not a whole gzip file: {error}; copy or compress it again") from None
    return line


def _read_lines(source: Any, counts: dict[str, int]) -> list[str]:
    r"""The next lines; a line ends with `\n` alone, what is not UTF-8 becomes U+FFFD and is counted."""
    lines: list[str] = []
    while len(lines) < _TOGETHER and (raw := _next_line(source)):
        raw = raw if counts["lines"] or lines else raw.removeprefix(codecs.BOM_UTF8)
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            counts["invalid UTF-8"] += 1
            lines.append(line.decode(errors="replace"))
    return lines
