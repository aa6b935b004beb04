"""What `decode` and `score` share: lines in, one answer out for each, as they come, or files as jobs that may be killed."""

import contextlib
import gzip
import queue
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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

_TOGETHER = 1 << 13  # lines read and answered together, so that memory does not grow with the file
_SAY_EVERY_SECS = 10.0

Answer = Callable[[Sequence[Raw], Form], tuple[bytes, Counter[str]]]
"""Lines in, as many out in their order, and what is counted."""


def run(files: Files, open_answer: Callable[[bool], tuple[Answer, dict[str, Any]]]) -> int:
    """Answers stdin, files or a folder of files, and returns the exit code.

    Args:
        files: what is read and written.
        open_answer: `interactive -> (answer, what the answers depend on)`; called once what is read and written has been found good.
    """
    inputs = find_inputs(files)
    outputs = find_outputs(files, inputs)
    if inputs and outputs and not any(path.suffix == ".gz" for path in inputs):
        shard = find_shard(files)
        with job.listen():
            answer, made_with = open_answer(False)
            return _run_jobs(files, list(zip(inputs, outputs, strict=True)), answer, made_with, shard)
    interactive = not inputs and sys.stdin.isatty()
    answer, _ = open_answer(interactive)
    return _stream(files, inputs, outputs, answer, interactive)


def identify(opened: Opened, run_dirs: Sequence[str]) -> dict[str, Any]:
    """What of the runs the answers depend on."""
    folders = [make_path(run_dir) / rundir.CHECKPOINTS for run_dir in run_dirs]
    states = [manifests.read(folder / str(step)).state_sha256 for folder, step in zip(folders, opened.steps, strict=True)]
    return {"states_sha256": states, "vocabulary_sha256": opened.vocabularies.sha256}


# Files, in parts ------------------------------------------------------------------------------------------------------


def _run_jobs(
    files: Files, pairs: Sequence[tuple[epath.Path, epath.Path]], answer: Answer, made_with: dict[str, Any], shard: tuple[int, int]
) -> int:
    """Makes this process' share of every file's parts."""
    (index, count), out, before = shard, console(), 0
    for source, output in pairs:
        form = find_form(files, source)
        one = parts.open_job(source, output, files.part_bytes, {**made_with, "form": form})
        begin, progress = time.monotonic(), _Progress(one, out)
        for part in parts.missing(one):
            if job.stop_requested():
                out.print(f"stopped; {parts.done_lines(one):,} of {one.plan.lines:,} lines are made, the same command goes on from here")
                return PREEMPTED
            if (before + part.number) % count == index:
                parts.write_part(one, part, *answer(_read_part(one, part), form))
                progress.say()
        _finish(one, out, time.monotonic() - begin, count)
        before += len(one.plan.parts)
    return 0


def _read_part(one: parts.Job, part: parts.Part) -> list[Raw]:
    with one.source.open("rb") as file:
        file.seek(part.begin)
        return list(raw_lines(file, part.end))


def _finish(one: parts.Job, out: Console, seconds: float, count: int) -> None:
    if parts.is_whole(one):
        out.print(f"{one.output} is whole: {one.plan.lines:,} lines")
        return
    if left := parts.missing(one):
        out.print(f"{len(left)} of {len(one.plan.parts)} parts of {one.output} are left to the other {count - 1} shards")
        return
    summary = parts.merge(one, round(seconds, 3))
    out.print(f"{one.output}: " + ", ".join(f"{value:,} {name}" for name, value in summary.items() if name != "job" and value))


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


def _stream(files: Files, inputs: Sequence[epath.Path], outputs: Sequence[epath.Path], answer: Answer, interactive: bool) -> int:
    """From stdin or files to stdout, or to a file that appears whole or not at all."""
    counts: Counter[str] = Counter()
    try:
        for i, source in enumerate(inputs or [None]):
            name = str(outputs[i]) if outputs else ""
            with _open_input(source) as file, writing(name) if name else contextlib.nullcontext(sys.stdout.buffer) as target:
                form = find_form(files, source)
                for read in _batches(file, files.batch_wait, interactive):
                    answers, counted = answer(read, form)
                    counts.update({"lines": len(read), **counted})
                    target.write(answers)
                    target.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has left, as `head` does: nothing is wrong
        return 0
    if outputs or counts.keys() - {"lines", "tokens"}:
        console().print(", ".join(f"{value:,} {name}" for name, value in counts.items() if value or name == "lines"))
    return 0


@contextlib.contextmanager
def _open_input(path: epath.Path | None) -> Iterator[Any]:
    if path is None:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else contextlib.nullcontext(file) as opened:
        yield opened


def _batches(file: Any, wait: float, interactive: bool) -> Iterator[list[Raw]]:
    """Lines that are there together: after the first, all that come within `wait` seconds. A thread reads, so that none is waited for."""
    arrived: queue.Queue[Raw | Exception | None] = queue.Queue(_TOGETHER)

    def read() -> None:
        try:
            for raw in raw_lines(file):
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
        end, deadline = arrived.get(), time.monotonic() + wait
        while isinstance(end, Raw):
            batch.append(end)
            if len(batch) == _TOGETHER:
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
