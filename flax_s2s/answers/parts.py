"""A file decoded in parts, by any number of processes that need not know of each other, and again after any of them was killed.

Enters: a file of lines. Leaves: a file of as many lines, which appears whole or not at all. The input is cut at line ends into
parts of about so many bytes; each part's result is written beside its place in OUTPUT.parts/, synced, and renamed; its first line
says what it was made of. Who comes again makes only what is missing; who finds nothing missing puts the parts together.

Two things may come in pairs: the input, with an aligned file of as many lines; and the output, with a file beside it that has
as many lines too. A part then holds a range of both. An output may have several lines for one of the input, as an n-best list has:
its parts have as many as come out.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from flax_s2s.config import UserError

_BLOCK = 1 << 20
_TRIES, _RETRY_SECS = 50, 0.02  # while another process ends the part that it is writing


class Part(NamedTuple):
    """A range of the input that begins and ends with lines."""

    number: int
    begin: int  # bytes
    end: int
    first_line: int
    lines: int
    aligned_begin: int = 0  # bytes, in the aligned file
    aligned_end: int = 0


class Plan(NamedTuple):
    """The parts of an input, and the hash of it."""

    parts: list[Part]
    sha256: str
    lines: int
    aligned_sha256: str = ""


class Job(NamedTuple):
    """What is decoded, where to, and what it is made with."""

    source: epath.Path
    output: epath.Path
    identity: dict[str, Any]
    plan: Plan
    aligned: epath.Path | None = None
    beside: epath.Path | None = None  # written beside the output, line for line
    one_for_one: bool = True  # the output has as many lines as the input

    @property
    def folder(self) -> epath.Path:
        """Where the parts are."""
        return self.output.parent / f"{self.output.name}.parts"

    @property
    def summary(self) -> epath.Path:
        """What says that the output is whole, and what it was made with."""
        return self.output.parent / f"{self.output.name}.summary.json"


def make_plan(source: epath.Path, part_bytes: int) -> Plan:
    """Cuts a file: part k ends with the first line end at or behind `part_bytes` bytes. Reads it once, in little memory."""
    parts: list[Part] = []
    digest, begin, first = hashlib.sha256(), 0, 0
    with source.open("rb") as file:
        while True:
            position, lines, last = begin, 0, b""
            while position - begin < part_bytes and (block := file.read(min(_BLOCK, part_bytes - (position - begin)))):
                digest.update(block)
                position, lines, last = position + len(block), lines + block.count(b"\n"), block
            while last and not last.endswith(b"\n") and (block := file.readline(_BLOCK)):
                digest.update(block)
                position, lines, last = position + len(block), lines + block.count(b"\n"), block
            if position == begin:
                return Plan(parts, digest.hexdigest(), first)
            lines += not last.endswith(b"\n")
            parts.append(Part(len(parts), begin, position, first, lines))
            begin, first = position, first + lines


def align(plan: Plan, source: epath.Path, aligned: epath.Path) -> Plan:
    """The same parts, with the ranges of the aligned file's lines. Reads it once, in little memory.

    Raises:
        UserError: it has another number of lines.
    """
    digest, position, lines, ends_line = hashlib.sha256(), 0, 0, True
    starts, begins = deque(part.first_line for part in plan.parts), []
    with aligned.open("rb") as file:
        while chunk := file.readline(_BLOCK):
            digest.update(chunk)
            if ends_line and starts and starts[0] == lines:
                begins.append(position)
                starts.popleft()
            ends_line = chunk.endswith(b"\n")
            position, lines = position + len(chunk), lines + ends_line
    refuse_different(source, plan.lines, aligned, lines + (not ends_line))
    ranges = zip(plan.parts, begins, [*begins[1:], position], strict=True)
    parts = [part._replace(aligned_begin=begin, aligned_end=end) for part, begin, end in ranges]
    return plan._replace(parts=parts, aligned_sha256=digest.hexdigest())


def refuse_different(source: Any, lines: int, aligned: Any, aligned_lines: int) -> None:
    """Refuses files that cannot be aligned.

    Raises:
        UserError: they have different numbers of lines.
    """
    if lines != aligned_lines:
        raise UserError(
            f"{source} has {lines:,} lines and {aligned} {aligned_lines:,}; they must have equally many, "
            "since a pair is what stands at the same place: compare the files where they begin to differ"
        )


def open_job(
    source: epath.Path,
    output: epath.Path,
    part_bytes: int,
    made_with: dict[str, Any],
    *,
    aligned: epath.Path | None = None,
    beside: epath.Path | None = None,
    one_for_one: bool = True,
    overwrite: bool = False,
) -> Job:
    """A job, new or begun before.

    Args:
        source: the input.
        output: what appears when it is whole.
        part_bytes: how much of the input makes a part.
        made_with: what else the output depends on.
        aligned: a file of as many lines, read together with the input.
        beside: a second output.
        one_for_one: whether the output has as many lines as the input.
        overwrite: whether what is there goes where it was begun with something else.

    Raises:
        UserError: what is there was begun with something else, or the inputs have different numbers of lines.
    """
    plan = make_plan(source, part_bytes)
    plan = align(plan, source, aligned) if aligned else plan
    identity = {"input_sha256": plan.sha256, "lines": plan.lines, "part_bytes": part_bytes, **made_with}
    identity |= {"aligned_sha256": plan.aligned_sha256} if aligned else {}
    identity = json.loads(json.dumps(identity))
    job = Job(source, output, identity, plan, aligned, beside, one_for_one)
    for file, there in ((job.summary, (output, job.summary)), (job.folder / "job.json", (job.folder,))):
        with contextlib.suppress(FileNotFoundError):
            other = json.loads(file.read_text())["job"]
            if other == identity:
                continue
            if not overwrite:
                _refuse_other(other, identity, output, " and ".join(map(str, there)))
            for path in reversed(there):  # the summary first: it says that the output is whole
                path.rmtree() if path.is_dir() else path.unlink(missing_ok=True)
    if not is_whole(job):
        job.folder.mkdir(parents=True, exist_ok=True)
        _write(job.folder / "job.json", json.dumps({"job": identity}, indent=1).encode())
    return job


def _refuse_other(there: dict[str, Any], identity: dict[str, Any], output: epath.Path, remedy: str) -> None:
    for key in sorted(there.keys() | identity.keys()):
        if there.get(key) != identity.get(key):
            raise UserError(
                f"{output} was begun with another {key} ({there.get(key)!r}, now {identity.get(key)!r}); "
                f"give the same, or another --output, or remove {remedy}, as --overwrite does"
            )


def is_whole(job: Job) -> bool:
    """Whether the output is there, made by this job."""
    return job.summary.exists() and job.output.exists() and (job.beside is None or job.beside.exists())


def missing(job: Job) -> list[Part]:
    """The parts that are not there, or not as they were written; none where the output is whole."""
    return [] if is_whole(job) else [part for part in job.plan.parts if _read_part(job, part) is None]


def write_part(job: Job, part: Part, body: bytes, counts: Counter[str], beside: bytes = b"", first_error: str = "") -> None:
    """Puts a part's result in its place, whole; it is not needed any more where another process has put the parts together meanwhile.

    Args:
        job: that it is a part of.
        part: what was made.
        body: the answers.
        counts: what was seen in them.
        beside: as many lines of the second output.
        first_error: why the first line that could not be answered was not.

    Raises:
        RuntimeError: it has another number of lines than the part; a bug.
    """
    for lines in (*([body.count(b"\n")] if job.one_for_one else []), *([beside.count(b"\n")] if job.beside else [])):
        if lines != part.lines:
            raise RuntimeError(f"part {part.number} has {part.lines} lines, and {lines} came out")
    header = {"job": job.identity, "part": part._asdict(), "counts": counts, "bytes": len(body), "first_error": first_error}
    header["sha256"] = hashlib.sha256(body + beside).hexdigest()
    try:
        _write(_place(job, part), json.dumps(header).encode() + b"\n" + body + beside)
    except FileNotFoundError:
        if not is_whole(job):
            raise


def merge(job: Job, seconds: float, conclude_fn: Callable[[Counter[str], epath.Path], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Puts the parts together, checked, under the final name; the parts go. Another process may be doing the same.

    Args:
        job: nothing of it is missing.
        seconds: how long it took, for the summary.
        conclude_fn: `(counts of all parts, the whole output) -> what the summary says`; None: the counts.

    Returns:
        The summary, which is also written beside the output.
    """
    counts: Counter[str] = Counter()
    first_error = ""
    targets = [job.output, *([job.beside] if job.beside else [])]
    partials = [target.parent / f".{target.name}.{uuid.uuid4().hex}.partial" for target in targets]
    try:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(partial.open("wb")) for partial in partials]
            for part in job.plan.parts:
                found = _read_part(job, part)
                if found is None:
                    raise FileNotFoundError(str(_place(job, part)))
                *bodies, counted, error = found
                for file, body in zip(files, bodies, strict=False):
                    file.write(body)
                counts.update(counted)
                first_error = first_error or error
            for file in files:
                _sync(file)
        said = conclude_fn(counts, partials[0]) if conclude_fn else dict(counts)
        said |= {"first_error": first_error} if first_error else {}
        for partial, target in reversed(list(zip(partials, targets, strict=True))):  # the output last
            partial.replace(target)
        summary = {"job": job.identity, "lines": job.plan.lines, **said, "seconds": seconds}
        _write(job.summary, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())
        _remove(job.folder)
    except FileNotFoundError:
        if not is_whole(job):  # else another process was faster
            raise
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return read_summary(job)


def read_summary(job: Job) -> dict[str, Any]:
    """What is said of an output that is whole."""
    return dict(json.loads(job.summary.read_text()))


def done_lines(job: Job) -> int:
    """How many lines are made, by all processes."""
    if is_whole(job):
        return job.plan.lines
    there = {path.name for path in job.folder.iterdir()} if job.folder.exists() else set()
    return sum(part.lines for part in job.plan.parts if _place(job, part).name in there)


def _place(job: Job, part: Part) -> epath.Path:
    return job.folder / f"{part.number:06d}"


def _read_part(job: Job, part: Part) -> tuple[bytes, bytes, Counter[str], str] | None:
    """A part's result, what goes beside it, what was counted and its first error, if it is there and whole."""
    try:
        head, _, body = _place(job, part).read_bytes().partition(b"\n")
        header = json.loads(head)
    except (FileNotFoundError, ValueError):
        return None
    same = header.get("job") == job.identity and header.get("part") == part._asdict()
    if not same or hashlib.sha256(body).hexdigest() != header.get("sha256"):
        return None
    return body[: header["bytes"]], body[header["bytes"] :], Counter(header["counts"]), header.get("first_error", "")


def _write(path: epath.Path, content: bytes) -> None:
    partial = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        with partial.open("wb") as file:
            file.write(content)
            _sync(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove(folder: epath.Path) -> None:
    """Removes the parts; another process may put one more there in this moment."""
    for _ in range(_TRIES):
        try:
            return folder.rmtree()
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            time.sleep(_RETRY_SECS)
    folder.rmtree()


def _sync(file: Any) -> None:
    """Onto the disk, where there is one: a bucket's file is synced when it is closed."""
    with contextlib.suppress(OSError, AttributeError, NotImplementedError):
        file.flush()
        os.fsync(file.fileno())
