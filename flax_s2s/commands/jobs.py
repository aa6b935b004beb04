"""Files that are answered in parts, by one process or several; whoever is killed, the same command makes what is missing."""

import contextlib
import os
import time
from collections.abc import Sequence

from etils import epath
from rich.console import Console

from flax_s2s.answers import parts
from flax_s2s.answers.files import Files
from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import Raw, raw_lines
from flax_s2s.commands.answerer import Answerer, Made, Outcome, Verb, explain_unanswered, refuse_unanswered, sentence
from flax_s2s.commands.wiring import console
from flax_s2s.config import UserError
from flax_s2s.errors import FAILURE, PREEMPTED
from flax_s2s.runtime import cluster, job

_SAY_EVERY_SECS = 10.0


def run_jobs(
    files: Files,
    works: Sequence[tuple[epath.Path, epath.Path, Layout | None]],
    second: tuple[epath.Path | None, epath.Path | None],
    verb: Verb,
    shard: tuple[int, int],
) -> Outcome:
    """Makes this process' share of every file's parts."""
    if files.overwrite and shard[1] > 1:
        raise UserError(
            f"--overwrite is for one process, and --shard {files.shard} is one of {shard[1]}, which would remove each other's parts; "
            f"remove {files.output}, its .summary.json and its .parts, or leave --shard out"
        )
    before, whole, explained = 0, True, []
    with job.listen():
        answerer, made_with = verb.open_answerer(False)
        say_others(files)
        for source, output, layout in works:
            assert layout  # they are files
            one = parts.open_job(
                source,
                output,
                files.part_bytes,
                {**made_with, **layout.describe()},
                aligned=second[0],
                beside=second[1],
                one_for_one=layout.output != "nbest",
                overwrite=files.overwrite,
            )
            begin = time.monotonic()
            if not _make_parts(one, layout, answerer, (shard[0] - before, shard[1])):
                return Outcome(PREEMPTED, False)
            if _finish(one, layout, answerer, time.monotonic() - begin, shard[1]):
                explained.append(explain_unanswered(str(source), parts.read_summary(one)))
            else:
                whole = False
            before += len(one.plan.parts)
    refuse_unanswered(explained)
    return Outcome(0 if whole or shard[1] > 1 else FAILURE, whole)


def _make_parts(one: parts.Job, layout: Layout, answerer: Answerer, shard: tuple[int, int]) -> bool:
    """Makes this process' share of what is missing; False where it was stopped."""
    out = console()
    progress = _Progress(one, out)
    for part in parts.missing(one):
        if job.stop_requested():
            out.print(f"stopped; {parts.done_lines(one):,} of {one.plan.lines:,} lines are made, the same command goes on from here")
            return False
        if (part.number - shard[0]) % shard[1] == 0:
            answers = answerer.answer(_read_part(one, part), layout, part.first_line)
            parts.write_part(one, part, *answers)
            progress.say()
    return True


def _read_part(one: parts.Job, part: parts.Part) -> list[Raw]:
    with one.source.open("rb") as file:
        file.seek(part.begin)
        found = list(raw_lines(file, part.end))
    if one.aligned is None:
        return found
    with one.aligned.open("rb") as file:
        file.seek(part.aligned_begin)
        return [raw._replace(beside=other) for raw, other in zip(found, raw_lines(file, part.aligned_end), strict=True)]


def _finish(one: parts.Job, layout: Layout, answerer: Answerer, seconds: float, count: int) -> bool:
    """Puts the parts together if none is missing; whether the output is whole."""
    out = console()
    if parts.is_whole(one):
        out.print(f"{one.output} is whole: {one.plan.lines:,} lines")
        return True
    if left := parts.missing(one):
        told = f"{one.output} is not there yet: {len(left)} of {len(one.plan.parts)} parts"
        if count > 1:
            out.print(f"{told} are left to the other {count - 1} shards; who makes the last puts it together")
        else:
            out.print(f"{told} have gone from {one.folder} since they were made; the same command makes them again")
        return False
    summary = parts.merge(one, round(seconds, 3), lambda counts, output: answerer.conclude(counts, Made(layout, one.source, output)))
    out.print(f"{one.output}: {sentence({name: value for name, value in summary.items() if name != 'job'})}")
    return True


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


def say_others(files: Files) -> None:
    """Says it where several processes were started, as by mpirun, and nobody asked them to share the work."""
    if files.shard:
        return
    with contextlib.suppress(UserError):
        index, count = cluster.find_share(os.environ)
        if count > 1:
            console().print(f"this is process {index} of {count} by its environment, and makes all; with --shard auto each makes its share")
