"""What `decode` and `score` share: lines in, one answer out for each, as they come, or files as jobs that may be killed."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from etils import epath
from rich.console import Console

from flax_s2s import errors
from flax_s2s.answers import inputs, parts
from flax_s2s.answers.files import Files, find_inputs, find_outputs, find_shard
from flax_s2s.answers.layout import FIRST_LINES, Layout
from flax_s2s.answers.lines import BLANK_LINES, CAUSES, HEADER_LINES, NOT_UTF8, Raw, raw_lines, read_text
from flax_s2s.commands.wiring import Opened, console
from flax_s2s.config import UserError
from flax_s2s.errors import FAILURE, PREEMPTED
from flax_s2s.runs import manifests, rundir
from flax_s2s.runs.rundir import is_stream, make_path, writing
from flax_s2s.runtime import cluster, job

SKIPPED = "skipped"
"""What lines are counted as that got no answer."""

_SAY_EVERY_SECS = 10.0


class Answers(NamedTuple):
    """To some lines."""

    body: bytes  # as many lines, or in an n-best list more
    counts: Counter[str]  # what was seen
    beside: bytes = b""  # as many lines of the second output, where there is one
    first_error: str = ""  # why the first line that was skipped was


class Made(NamedTuple):
    """A whole output, and what it answers."""

    layout: Layout
    source: epath.Path
    output: epath.Path


@runtime_checkable
class Answerer(Protocol):
    """What a verb does with lines."""

    def answer(self, read: Sequence[Raw], layout: Layout, first_line: int) -> Answers:
        """The answers to lines, in their order; the first of them has this number, from 0."""

    def conclude(self, counts: Counter[str], made: Made | None) -> dict[str, Any]:
        """What is said of the whole, by name, the counts among it; `made` is None for what was streamed."""


class Verb(NamedTuple):
    """What a verb asks for, and what it makes."""

    find_layout: Callable[[str, str, Sequence[str]], Layout]  # (name of the input, of the output, first lines) -> how they are read
    open_answerer: Callable[[bool], tuple[Answerer, dict[str, Any]]]  # interactive -> (answerer, what the answers depend on)


class Outcome(NamedTuple):
    """How it ended."""

    code: int
    whole: bool  # all outputs are there


def run(files: Files, verb: Verb, *, aligned: str = "", beside: str = "") -> Outcome:
    """Answers stdin, files or a folder of files.

    Args:
        files: what is read and written.
        verb: its answerer is opened once what is read and written has been found good, as far as that can be seen.
        aligned: file of as many lines as the input, which are read together; empty: none.
        beside: file of as many lines as the output, which is written together with it; empty: none.

    Raises:
        UserError: what is read or written is no good; or no line of a file could be answered, which is said when all is written.
    """
    sources = find_inputs(files)
    outputs = find_outputs(files, sources)
    _refuse_closed(sources, outputs)
    second = _find_second(sources, outputs, aligned, beside)
    shard = find_shard(files)
    layouts = [_look(path, _output_of(outputs, i), verb) for i, path in enumerate(sources)]
    if second[0]:
        _look(second[0], None, verb)
    if _are_files(sources, outputs, second):
        return _run_jobs(files, list(zip(sources, outputs, layouts, strict=True)), second, verb, shard)
    if files.shard and (files.shard != "auto" or shard[1] > 1):
        raise UserError(
            f"--shard {files.shard} cuts files that are written to files into parts; stdin, stdout, pipes and gzip files are streams: "
            "give --input and --output of plain files, or leave --shard out"
        )
    interactive = not sources and sys.stdin.isatty()
    answerer, _ = verb.open_answerer(interactive)
    _say_others(files)
    return _stream(files, _Streams(sources or [None], outputs, layouts or [None], *second), verb, answerer, interactive)


def _refuse_closed(sources: Sequence[epath.Path], outputs: Sequence[epath.Path]) -> None:
    if not sources and errors.is_closed(sys.stdin):
        raise UserError("stdin is closed, so there is nothing to read; give lines there, or --input FILE")
    if not outputs and errors.is_closed(sys.stdout):
        raise UserError("stdout is closed, so there is no place for the answers; give one, or --output FILE")


def _find_second(
    sources: Sequence[epath.Path], outputs: Sequence[epath.Path], aligned: str, beside: str
) -> tuple[epath.Path | None, epath.Path | None]:
    """The aligned file and the second output, checked."""
    paths = [*(path.resolve() for path in (*sources, *outputs))]
    if (aligned or beside) and len(sources) > 1:
        raise UserError(f"{aligned or beside} belongs to one input, and {len(sources)} are given; give one at a time")
    if aligned:
        find_inputs(Files(input=(aligned,)))
        if make_path(aligned).is_dir() or make_path(aligned).resolve() in paths[len(sources) :]:
            raise UserError(f"{aligned} must be a file of lines, and no output")
    if beside and make_path(beside).resolve() in paths:
        raise UserError(f"{beside} is read or written already; give another file")
    if beside and not is_stream(beside) and (make_path(beside).is_dir() or not make_path(beside).parent.is_dir()):
        raise UserError(f"{beside} cannot be written: its folder is not there, or it is one itself")
    return make_path(aligned) if aligned else None, make_path(beside) if beside else None


def _are_files(sources: Sequence[epath.Path], outputs: Sequence[epath.Path], second: tuple[epath.Path | None, epath.Path | None]) -> bool:
    """Whether all that is read and written are files, whose parts can be read and written by themselves."""
    read = [*sources, *([second[0]] if second[0] else [])]
    written = [*outputs, *([second[1]] if second[1] else [])]
    return bool(sources and outputs) and not any(_is_stream(path) for path in (*read, *written)) and not any(map(inputs.is_packed, read))


def _is_stream(path: epath.Path) -> bool:
    return is_stream(str(path))


def _look(path: epath.Path, output: epath.Path | None, verb: Verb) -> Layout | None:
    """The layout of a file, by its first lines; None for a stream, which is looked at when it comes."""
    return None if _is_stream(path) else _find_layout(path, output, inputs.first_lines(path), verb)


def _find_layout(path: epath.Path | None, output: epath.Path | None, first: Sequence[Raw], verb: Verb) -> Layout:
    inputs.refuse_no_text(str(path or "stdin"), first[:FIRST_LINES])
    return verb.find_layout(str(path or ""), str(output or ""), [read_text(raw)[0] for raw in first[:FIRST_LINES]])


def _output_of(outputs: Sequence[epath.Path], number: int) -> epath.Path | None:
    """The output of an input: its own, or one for all; None: stdout."""
    return outputs[number % len(outputs)] if outputs else None


def _say_others(files: Files) -> None:
    """Says it where several processes were started, as by mpirun, and nobody asked them to share the work."""
    if files.shard:
        return
    with contextlib.suppress(UserError):
        index, count = cluster.find_share(os.environ)
        if count > 1:
            console().print(f"this is process {index} of {count} by its environment, and makes all; with --shard auto each makes its share")


def identify(opened: Opened, run_dirs: Sequence[str]) -> dict[str, Any]:
    """What of the runs the answers depend on."""
    folders = [make_path(run_dir) / rundir.CHECKPOINTS for run_dir in run_dirs]
    states = [manifests.read(folder / str(step)).state_sha256 for folder, step in zip(folders, opened.steps, strict=True)]
    return {"states_sha256": states, "vocabulary_sha256": opened.vocabularies.sha256}


# What could not be answered -------------------------------------------------------------------------------------------


def first_error(asked: Iterable[Any], first_line: int) -> str:
    """The first error of some lines, with its line's number, from 1; empty where there is none.

    Args:
        asked: what they ask for, with their `error`.
        first_line: the number of the first, from 0.
    """
    return next((f"line {number}: {one.error}" for number, one in enumerate(asked, first_line + 1) if one.error), "")


def _explain_unanswered(name: str, said: dict[str, Any]) -> str:
    """What is wrong with an input of which no line could be answered; empty where one could, or all are blank.

    Args:
        name: of the input.
        said: its summary.
    """
    asked = said["lines"] - said.get(BLANK_LINES, 0) - said.get(HEADER_LINES, 0)
    if 0 < asked <= said.get(NOT_UTF8, 0):
        return f"{name}: {asked:,} of {asked:,} lines are not UTF-8; convert it with iconv -f ENCODING -t UTF-8"
    if not said.get(SKIPPED) or said[SKIPPED] < asked or said.get("tokens"):
        return ""
    causes = [cause for cause in CAUSES if said.get(cause)]
    why = " and ".join(f"{'are' if cause.startswith('no ') else 'come'} {cause}" for cause in causes) or "are too long"
    return f"{name}: {asked:,} of {asked:,} lines {why}" + (f"; {said['first_error']}" if said.get("first_error") else "")


def _refuse_unanswered(explained: Iterable[str]) -> None:
    """Ends as an error, when all is written, where an input was none of the kind that it was read as."""
    if found := [one for one in explained if one]:
        raise UserError("; ".join(found))


# Files, in parts ------------------------------------------------------------------------------------------------------


def _run_jobs(
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
        _say_others(files)
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
                explained.append(_explain_unanswered(str(source), parts.read_summary(one)))
            else:
                whole = False
            before += len(one.plan.parts)
    _refuse_unanswered(explained)
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
            words.append(f"first error: {value}" if name == "first_error" else value)
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


class _Streams(NamedTuple):
    """What is read and written as it comes."""

    sources: Sequence[epath.Path | None]  # None: stdin
    outputs: Sequence[epath.Path]  # one for each input, or one pipe for all; none: stdout
    layouts: Sequence[Layout | None]  # None: seen when the first lines come
    aligned: epath.Path | None
    beside: epath.Path | None


def _stream(files: Files, streams: _Streams, verb: Verb, answerer: Answerer, interactive: bool) -> Outcome:
    """From stdin or files to stdout, or to a file that appears whole or not at all."""
    counts: Counter[str] = Counter()
    explained, errors = [], []
    own = len(streams.outputs) == len(streams.sources)
    try:
        with _open_output(streams.beside) if streams.beside else contextlib.nullcontext() as beside, contextlib.ExitStack() as stack:
            shared = None if own else stack.enter_context(_open_output(_output_of(streams.outputs, 0)))
            for i, source in enumerate(streams.sources):
                with _open_output(streams.outputs[i]) if own else contextlib.nullcontext(shared) as target:
                    counted, error = _answer_stream(files, streams, i, verb, answerer, (target, beside), interactive)
                counts.update(counted)
                errors.append(error)
                explained.append(_explain_unanswered(str(source or "stdin"), {**counted, "first_error": error}))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has left, as `head` does: nothing is wrong
        return Outcome(0, False)
    said = answerer.conclude(counts, None) | ({"first_error": next(filter(None, errors))} if any(errors) else {})
    if streams.outputs or said.keys() - {"lines", "tokens"}:
        console().print(_sentence(said))
    _refuse_unanswered(explained)
    return Outcome(0, True)


def _answer_stream(
    files: Files, streams: _Streams, number: int, verb: Verb, answerer: Answerer, written: tuple[Any, Any], interactive: bool
) -> tuple[Counter[str], str]:
    """Answers one input; what was counted, and the first error."""
    source, layout, error = streams.sources[number], streams.layouts[number], ""
    counts = Counter({"lines": 0})
    for read in inputs.batches(inputs.read(source, streams.aligned), files.batch_wait, interactive):
        layout = layout or _find_layout(source, _output_of(streams.outputs, number), read, verb)
        answers = answerer.answer(read, layout, counts["lines"])
        counts.update({"lines": len(read), **answers.counts})
        error = error or answers.first_error
        written[0].write(answers.body)
        written[0].flush()
        if written[1]:
            written[1].write(answers.beside)
    return counts, error


@contextlib.contextmanager
def _open_output(path: epath.Path | None) -> Iterator[Any]:
    if path is None:
        yield sys.stdout.buffer
        return
    with writing(str(path)) as file:
        yield file
