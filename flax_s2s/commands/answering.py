"""What `decode` and `score` share: lines in, one answer out for each, as they come, or files as jobs that may be killed."""

import contextlib
import gzip
import queue
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from etils import epath
from rich.console import Console

from flax_s2s import job, manifests, rundir
from flax_s2s.commands.wiring import Opened, console
from flax_s2s.config import UserError
from flax_s2s.decoding import parts
from flax_s2s.decoding.lines import Raw, raw_lines
from flax_s2s.errors import PREEMPTED
from flax_s2s.files import Files, Form, find_form, find_inputs, find_outputs, find_shard
from flax_s2s.rundir import make_path, writing

_TOGETHER, _TOGETHER_BYTES = 1 << 13, 1 << 20  # lines read and answered together, so that memory does not grow with the file
_SAY_EVERY_SECS = 10.0


class Answers(NamedTuple):
    """To some lines."""

    body: bytes  # as many lines
    counts: Counter[str]  # what was seen
    beside: bytes = b""  # as many lines of the second output, where there is one


class Made(NamedTuple):
    """A whole output, and what it answers."""

    form: Form
    source: epath.Path
    output: epath.Path


@runtime_checkable
class Answerer(Protocol):
    """What a verb does with lines."""

    def answer(self, read: Sequence[Raw], form: Form, first_line: int) -> Answers:
        """The answers to lines, in their order; the first of them has this number, from 0."""

    def conclude(self, counts: Counter[str], made: Made | None) -> dict[str, Any]:
        """What is said of the whole, by name, the counts among it; `made` is None for what was streamed."""


class Outcome(NamedTuple):
    """How it ended."""

    code: int
    whole: bool  # all outputs are there


def run(files: Files, open_answerer: Callable[[bool], tuple[Answerer, dict[str, Any]]], *, aligned: str = "", beside: str = "") -> Outcome:
    """Answers stdin, files or a folder of files.

    Args:
        files: what is read and written.
        open_answerer: `interactive -> (answerer, what the answers depend on)`; called once what is read and written has been found good.
        aligned: file of as many lines as the input, which are read together; empty: none.
        beside: file of as many lines as the output, which is written together with it; empty: none.
    """
    inputs = find_inputs(files)
    outputs = find_outputs(files, inputs)
    second = _find_second(inputs, outputs, aligned, beside)
    if inputs and outputs and not any(path.suffix == ".gz" for path in (*inputs, *second[:1]) if path):
        shard = find_shard(files)
        with job.listen():
            answerer, made_with = open_answerer(False)
            return _run_jobs(files, list(zip(inputs, outputs, strict=True)), second, answerer, made_with, shard)
    if files.shard:
        raise UserError(
            f"--shard {files.shard} cuts files that are written to files into parts; stdin, stdout and gzip files are streams: "
            "give --input and --output of plain files, or leave --shard out"
        )
    interactive = not inputs and sys.stdin.isatty()
    answerer, _ = open_answerer(interactive)
    return _stream(files, inputs, outputs, second, answerer, interactive)


def _find_second(
    inputs: Sequence[epath.Path], outputs: Sequence[epath.Path], aligned: str, beside: str
) -> tuple[epath.Path | None, epath.Path | None]:
    """The aligned file and the second output, checked."""
    paths = [*(path.resolve() for path in (*inputs, *outputs))]
    if (aligned or beside) and len(inputs) > 1:
        raise UserError(f"{aligned or beside} belongs to one input, and {len(inputs)} are given; give one at a time")
    if aligned:
        find_inputs(Files(input=(aligned,)))
        if make_path(aligned).is_dir() or make_path(aligned).resolve() in paths[len(inputs) :]:
            raise UserError(f"{aligned} must be a file of lines, and no output")
    if beside and make_path(beside).resolve() in paths:
        raise UserError(f"{beside} is read or written already; give another file")
    if beside and (make_path(beside).is_dir() or not make_path(beside).parent.is_dir()):
        raise UserError(f"{beside} cannot be written: its folder is not there, or it is one itself")
    return make_path(aligned) if aligned else None, make_path(beside) if beside else None


def identify(opened: Opened, run_dirs: Sequence[str]) -> dict[str, Any]:
    """What of the runs the answers depend on."""
    folders = [make_path(run_dir) / rundir.CHECKPOINTS for run_dir in run_dirs]
    states = [manifests.read(folder / str(step)).state_sha256 for folder, step in zip(folders, opened.steps, strict=True)]
    return {"states_sha256": states, "vocabulary_sha256": opened.vocabularies.sha256}


# Files, in parts ------------------------------------------------------------------------------------------------------


def _run_jobs(
    files: Files,
    pairs: Sequence[tuple[epath.Path, epath.Path]],
    second: tuple[epath.Path | None, epath.Path | None],
    answerer: Answerer,
    made_with: dict[str, Any],
    shard: tuple[int, int],
) -> Outcome:
    """Makes this process' share of every file's parts."""
    (index, count), out, before, whole = shard, console(), 0, True
    for source, output in pairs:
        form = find_form(files, source)
        one = parts.open_job(source, output, files.part_bytes, {**made_with, "form": form}, aligned=second[0], beside=second[1])
        begin, progress = time.monotonic(), _Progress(one, out)
        for part in parts.missing(one):
            if job.stop_requested():
                out.print(f"stopped; {parts.done_lines(one):,} of {one.plan.lines:,} lines are made, the same command goes on from here")
                return Outcome(PREEMPTED, False)
            if (before + part.number) % count == index:
                answers = answerer.answer(_read_part(one, part), form, part.first_line)
                parts.write_part(one, part, *answers)
                progress.say()
        whole &= _finish(one, answerer, out, time.monotonic() - begin, count)
        before += len(one.plan.parts)
    return Outcome(0, whole)


def _read_part(one: parts.Job, part: parts.Part) -> list[Raw]:
    with one.source.open("rb") as file:
        file.seek(part.begin)
        found = list(raw_lines(file, part.end))
    if one.aligned is None:
        return found
    with one.aligned.open("rb") as file:
        file.seek(part.aligned_begin)
        return [raw._replace(beside=other) for raw, other in zip(found, raw_lines(file, part.aligned_end), strict=True)]


def _finish(one: parts.Job, answerer: Answerer, out: Console, seconds: float, count: int) -> bool:
    """Puts the parts together if none is missing; whether the output is whole."""
    if parts.is_whole(one):
        out.print(f"{one.output} is whole: {one.plan.lines:,} lines")
        return True
    if left := parts.missing(one):
        out.print(f"{len(left)} of {len(one.plan.parts)} parts of {one.output} are left to the other {count - 1} shards")
        return False
    form: Form = one.identity["form"]
    summary = parts.merge(one, round(seconds, 3), lambda counts, output: answerer.conclude(counts, Made(form, one.source, output)))
    out.print(f"{one.output}: {_sentence({name: value for name, value in summary.items() if name != 'job'})}")
    return True


def _sentence(said: dict[str, Any]) -> str:
    """What a summary says, in a line."""
    words = []
    for name, value in said.items():
        if isinstance(value, dict):
            words.append(f"{name} {value['score']:.2f} ({value['signature']})")
        elif isinstance(value, float):
            words.append(f"{name} {value:,.3f}")
        elif isinstance(value, str):
            words.append(value)
        elif value or name == "lines":
            words.append(f"{value:,} {name}")
    return ", ".join(words)


class _Progress:
    """Says now and then how far all processes are."""

    def __init__(self, one: parts.Job, out: Console) -> None:
        self._job, self._out = one, out
        self._begin, self._said, self._before = time.monotonic(), time.monotonic(), parts.done_lines(one)

    def say(self) -> None:
        """A line, if the last one is some seconds ago."""
        now = time.monotonic()
        if now - self._said < _SAY_EVERY_SECS:
            return
        self._said, done = now, parts.done_lines(self._job)
        rate = (done - self._before) / (now - self._begin)
        left = (self._job.plan.lines - done) / max(rate, 1e-9)
        share = done / max(self._job.plan.lines, 1)
        self._out.print(f"{self._job.output}: {done:,} of {self._job.plan.lines:,} lines ({share:.0%}), {rate:.0f}/s, ETA {left:.0f} s")


# As lines come --------------------------------------------------------------------------------------------------------


def _stream(
    files: Files,
    inputs: Sequence[epath.Path],
    outputs: Sequence[epath.Path],
    second: tuple[epath.Path | None, epath.Path | None],
    answerer: Answerer,
    interactive: bool,
) -> Outcome:
    """From stdin or files to stdout, or to a file that appears whole or not at all."""
    counts: Counter[str] = Counter()
    aligned, beside = second
    try:
        with writing(str(beside)) if beside else contextlib.nullcontext() as file_beside:
            for i, source in enumerate(inputs or [None]):
                name, first_line = str(outputs[i]) if outputs else "", 0
                with contextlib.ExitStack() as stack:
                    raws: Iterable[Raw] = raw_lines(stack.enter_context(_open_input(source)))
                    if aligned:
                        raws = _beside(raws, raw_lines(stack.enter_context(_open_input(aligned))), source, aligned)
                    target = stack.enter_context(writing(name)) if name else sys.stdout.buffer
                    form = find_form(files, source)
                    for read in _batches(raws, files.batch_wait, interactive):
                        answers = answerer.answer(read, form, first_line)
                        first_line += len(read)
                        counts.update({"lines": len(read), **answers.counts})
                        target.write(answers.body)
                        target.flush()
                        if file_beside:
                            file_beside.write(answers.beside)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has left, as `head` does: nothing is wrong
        return Outcome(0, False)
    said = answerer.conclude(counts, None)
    if outputs or said.keys() - {"lines", "tokens"}:
        console().print(_sentence(said))
    return Outcome(0, True)


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
def _open_input(path: epath.Path | None) -> Iterator[Any]:
    if path is None:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else contextlib.nullcontext(file) as opened:
        yield opened


def _batches(raws: Iterable[Raw], wait: float, interactive: bool) -> Iterator[list[Raw]]:
    """Lines that are there together: after the first, all that come within `wait` seconds. A thread reads, so that none is waited for."""
    arrived: queue.Queue[Raw | Exception | None] = queue.Queue(64)  # few: each may have megabytes

    def read() -> None:
        try:
            for raw in raws:
                arrived.put(raw)
            arrived.put(None)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            arrived.put(UserError(f"the input is not a whole gzip file: {error}; copy or compress it again"))
        except Exception as error:
            arrived.put(error)

    threading.Thread(target=read, name="input", daemon=True).start()
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
