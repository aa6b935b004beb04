"""What a run says: lines and a progress bar for the terminal, `metrics.jsonl` and TensorBoard for later.

Only process 0 says anything; every process keeps a file of its own.
"""

import contextlib
import json
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from flax_s2s.config import METRICS, Metric, TrainingConfig

_SILENCE_SECS = 6.0  # after which it is said what goes on
_REMEMBERED_STEPS = 500  # about as many say how long a step takes: others may begin to use the machine
_WARM_STEPS = 10  # so many are passed over, since programs run slowly for the first time, and as many say how long a step takes
_WIDTH_OF_A_FILE = 160  # of tables; lines are never wrapped


class Report(NamedTuple):
    """What an evaluation found: numbers by name, and lines to read."""

    metrics: dict[str, float]  # those that are whole numbers are counts
    samples: list[str]
    notes: Sequence[str] = ()  # what to know of the numbers
    pictures: Mapping[str, bytes] = {}  # never changed; PNG, by name


def gain(metric: Literal["loss", Metric], value: float) -> float:
    """The value of a metric turned so that more is better."""
    return -value if _worst(metric) > 0 else value


def least_gain(metric: Literal["loss", Metric]) -> float:
    """What it is where every translation is wrong, which ranks nothing; a loss, and edits per word, can always be worse."""
    return gain(metric, _worst(metric))


def _worst(metric: Literal["loss", Metric]) -> float:
    return math.inf if metric == "loss" else METRICS[metric].worst


class _Console(Console):
    """rich's own ends the process where the reader of a pipe has left."""

    def on_broken_pipe(self) -> None:
        raise  # it is called where the error is handled


def make_console(stderr: bool, speaks: bool = True) -> Console:
    """A console on stderr or stdout that prints text as it is: `[b]` and `:smile:` may be data."""
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else _WIDTH_OF_A_FILE
    jupyter = False  # a notebook gets lines, as a file does
    return _Console(
        file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=not speaks, force_jupyter=jupyter
    )


class RunLog:
    """Lines, progress and metrics of one training run."""

    def __init__(self, folder: epath.Path, process: int = 0, *, quiet: bool = False) -> None:
        """Of process 0, which speaks, or of another one; if it is quiet, into files alone."""
        self.speaks, self.folder, self._quiet = process == 0, folder, quiet
        self.file = folder / "logs" / f"process-{process}.log"
        self.console = make_console(stderr=True, speaks=self.speaks and not quiet)
        self._progress: Progress | None = None
        self._board: Any = None
        self._doing: str | Callable[[], str] = ""
        self._said = time.monotonic()

    def line(self, text: str) -> None:
        """One line, or several, above the progress bar."""
        self._said = time.monotonic()
        with contextlib.suppress(OSError):  # a console that has gone, or is full, ends no training
            self.console.print(text)
        self.note(text)

    def warn(self, text: str) -> None:
        """A line that must be seen: a warning of Python's where nothing is printed."""
        self.line(text)
        if self._quiet and self.speaks:
            warnings.warn(text, stacklevel=2)

    def note(self, text: str) -> None:
        """A line of the file alone."""
        if self.file.parent.exists():
            with contextlib.suppress(OSError), self.file.open("ab") as file:  # a full disk is said where something is lost by it
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="backslashreplace"))

    @contextlib.contextmanager
    def doing(self, what: str | Callable[[], str]) -> Iterator[None]:
        """Says what goes on while it does: in the bar, or, where there is none, in a line whenever nothing was said for a while."""
        before, self._doing = self._doing, what
        begin, over = time.monotonic(), threading.Event()

        def tell() -> None:
            while not over.wait(min(1.0, _SILENCE_SECS)):
                if self._doing is not what:  # something inside of it
                    continue
                text = f"{what if isinstance(what, str) else what()}, for {time.monotonic() - begin:.0f} s"
                if self._progress:
                    self._progress.update(self._task, doing=text)
                elif time.monotonic() - self._said >= _SILENCE_SECS:
                    self.line(f"... {text}")

        thread = threading.Thread(target=tell, name="doing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._doing = before
            if self._progress:
                self._progress.update(self._task, doing="")

    def start(self, done: int, steps: int) -> None:
        """Opens the progress bar (on a terminal) and the TensorBoard file."""
        if not self.speaks:
            return
        (self.folder / "tensorboard").mkdir(parents=True, exist_ok=True)
        # Not SummaryWriter: its thread ends at the first error of the disk, and the training then waits for its queue for ever.
        self._board = EventsWriter(str(self.folder / "tensorboard" / "events"))
        self._go_on_behind(done)
        if self.console.is_terminal and not self.console.quiet:
            ends = TextColumn("ETA {task.fields[left]} {task.fields[doing]}")
            self._progress = Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), ends, console=self.console)
            self._task = self._progress.add_task("training", total=steps, completed=done, left=duration(math.nan), doing="")
            self._progress.start()

    def advance(self, step: int, left_secs: float = math.nan) -> None:
        """Moves the progress bar."""
        if self._progress:
            self._progress.update(self._task, completed=step, left=duration(left_secs))

    def rewind(self, step: int) -> None:
        """Takes back what was measured after `step`: it will be measured anew."""
        if not self.speaks:
            return
        cut_metrics(self.folder, step)
        self.advance(step)
        if self._board:
            self._go_on_behind(step)

    def _go_on_behind(self, step: int) -> None:
        """What was said after a step is said again: TensorBoard drops all points at and behind the step that a start carries."""
        self._board.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def metrics(self, step: int, split: str, values: Mapping[str, float | int | str]) -> None:
        """Appends a line to `metrics.jsonl` and the numbers to TensorBoard."""
        if not self.speaks:
            return
        finite = {name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in values.items()}
        record = {"step": step, "split": split, **finite}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        if not self._board:
            return
        for name, value in finite.items():  # tensorboardX warns of others, in words of its own
            if isinstance(value, (int, float)):
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=scalar(f"{split}/{name}", value)))
        self._board.flush()

    def show(self, step: int, samples: Sequence[str], pictures: Mapping[str, bytes]) -> None:
        """Gives TensorBoard samples, each of some lines, and pictures (PNG); the next numbers flush them."""
        if not self._board:
            return
        lines = "\n\n".join("\n".join(f"    {line}" for line in sample.split("\n")) for sample in samples)  # code, in Markdown: as it is
        summaries = [text("valid/samples", lines)] if samples else []
        for name, png in pictures.items():
            width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # of its header
            drawn = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
            summaries.append(Summary(value=[Summary.Value(tag=f"valid/{name}", image=drawn)]))
        for summary in summaries:
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Ends the bar, flushes TensorBoard."""
        if self._progress:
            self._progress.stop()
            self._progress = None
        if self._board:
            with contextlib.suppress(OSError):  # nothing is left to write, unless a flush has failed, which was said
                self._board.close()
            self._board = None


def cut_metrics(folder: epath.Path, step: int) -> None:
    """Takes out of `metrics.jsonl` what was measured after `step`, so that a continued run does not say it twice."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return
    lines = [line for line in file.read_bytes().split(b"\n") if line]
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        partial = folder / "metrics.jsonl.partial"
        partial.write_bytes(b"".join(line + b"\n" for line in kept))
        partial.replace(file)


def _step_of(line: bytes) -> float:
    """The step of a line; infinite for one that was half written, or spoilt with its disk."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Meter:
    """Rates since the last reading, and the time that is left.

    A step is warm when nothing was compiled beside it: others say nothing of the steps to come. What is not training is neither in
    the rates nor in a step's time, but in the time that is left as often as it is to come.
    """

    def __init__(self, step: int, config: TrainingConfig) -> None:
        """Starts at `step`."""
        self.steps, self._config, self._tokens = config.steps, config, 0
        self._since = self._last = time.perf_counter()
        self._warm, self._warm_steps = False, 0
        self._step_secs, self._weight = 0.0, 0.0  # of warm steps, each with less weight the longer it was ago
        self._waited_secs, self._evaluation_secs, self._save_secs = 0.0, math.nan, 0.0

    def add(self, tokens: int, warm: bool = True) -> None:
        """A step: real tokens of both sides; whether nothing is being compiled now."""
        now = time.perf_counter()
        if warm and self._warm:
            self._warm_steps += 1
            if self._warm_steps > _WARM_STEPS:
                kept = 1 - 1 / _REMEMBERED_STEPS
                self._step_secs, self._weight = kept * self._step_secs + now - self._last, kept * self._weight + 1
        self._warm, self._last = warm, now
        self._tokens += tokens

    def waited(self, seconds: float) -> None:
        """Leaves out that a step waited for its program."""
        self._waited_secs += seconds
        self._pause(seconds)

    def evaluated(self, seconds: float, compiling_secs: float) -> None:
        """Leaves out an evaluation; the next one takes as long, but for what was compiled."""
        self._evaluation_secs = max(seconds - compiling_secs, 0.0)
        self._pause(seconds)

    def saved(self, seconds: float) -> None:
        """Leaves out a save; the next one takes as long."""
        self._save_secs = seconds
        self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        self._since += seconds
        self._last += seconds

    def read(self, step: int) -> dict[str, float]:
        """Tokens per second since the last reading, and the seconds left, see `left_secs`."""
        now = time.perf_counter()
        rate = self._tokens / max(now - self._since, 1e-9)
        self._since, self._tokens = now, 0
        return {"tokens_per_sec": rate, "eta_secs": self.left_secs(step)}

    def left_secs(self, step: int) -> float:
        """Seconds to the end: steps at the mean pace of the last warm ones, evaluations and saves; not finite while none is known."""
        if step >= self.steps:
            return 0.0
        if self._warm_steps < 2 * _WARM_STEPS:
            return math.nan
        training = (self.steps - step) * self._step_secs / self._weight
        # The first evaluation compiles about as much as training did.
        evaluation = self._evaluation_secs if math.isfinite(self._evaluation_secs) else 0.0
        first = 0.0 if math.isfinite(self._evaluation_secs) else self._waited_secs
        evaluations, saves = (
            _count(step, self.steps, every) for every in (self._config.evaluate_every_steps, self._config.save_every_steps)
        )
        return training + first + evaluations * evaluation + saves * self._save_secs


def _count(step: int, steps: int, every: int) -> int:
    """How often something still comes that is done every so many steps, and at the end."""
    return steps // every - step // every + bool(steps % every)


def duration(seconds: float) -> str:
    """`3 723.0` seconds -> `1:02:03`; `?` for a time that is not known."""
    if not math.isfinite(seconds):
        return "?"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
