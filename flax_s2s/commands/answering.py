"""What `decode` and `score` share: lines in, one answer out for each, as they come, or files as `jobs` that may be killed."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from flax_s2s import errors
from flax_s2s.answers import inputs
from flax_s2s.answers.files import Files, find_inputs, find_outputs, find_shard
from flax_s2s.answers.layout import FIRST_LINES, Layout
from flax_s2s.answers.lines import Raw, read_text
from flax_s2s.commands.answerer import Answerer, Outcome, Verb, explain_unanswered, refuse_unanswered, sentence
from flax_s2s.commands.jobs import run_jobs, say_others
from flax_s2s.commands.wiring import Opened, console
from flax_s2s.config import UserError
from flax_s2s.runs import manifests, rundir
from flax_s2s.runs.rundir import is_stream, make_path, writing


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
        return run_jobs(files, list(zip(sources, outputs, layouts, strict=True)), second, verb, shard)
    if files.shard and (files.shard != "auto" or shard[1] > 1):
        raise UserError(
            f"--shard {files.shard} cuts files that are written to files into parts; stdin, stdout, pipes and packed files are streams: "
            "give --input and --output of plain files, or leave --shard out"
        )
    interactive = not sources and sys.stdin.isatty()
    answerer, _ = verb.open_answerer(interactive)
    say_others(files)
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


def identify(opened: Opened, run_dirs: Sequence[str]) -> dict[str, Any]:
    """What of the runs the answers depend on."""
    folders = [make_path(run_dir) / rundir.CHECKPOINTS for run_dir in run_dirs]
    states = [manifests.read(folder / str(step)).state_sha256 for folder, step in zip(folders, opened.steps, strict=True)]
    return {"states_sha256": states, "vocabulary_sha256": opened.vocabularies.sha256}


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
                explained.append(explain_unanswered(str(source or "stdin"), {**counted, "first_error": error}))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has left, as `head` does: nothing is wrong
        return Outcome(0, False)
    said = answerer.conclude(counts, None) | ({"first_error": next(filter(None, errors))} if any(errors) else {})
    if streams.outputs or said.keys() - {"lines", "tokens"}:
        console().print(sentence(said))
    refuse_unanswered(explained)
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
