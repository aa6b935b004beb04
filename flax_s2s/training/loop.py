"""The loop: read, step, log, evaluate, save, go back, stop.

Enters: a state, a stream of batches, the functions that do the work. Leaves: the last state, and why it ended.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from flax_s2s.config import PAD, TrainingConfig
from flax_s2s.runtime.parallel import Devices, feed_all, feed_rows
from flax_s2s.runtime.runlog import Meter, Report, RunLog, duration, gain, least_gain
from flax_s2s.training.guard import BadUpdate, Guard
from flax_s2s.training.loss import Loss
from flax_s2s.training.state import Params, TrainState, evaluated_params
from flax_s2s.training.step import Update

_BATCHES_AHEAD = 2

Outcome = Literal["done", "stopped", "no longer improving"]
Evaluation = Callable[[Params, int], Report]


class Interrupted(Exception):  # noqa: N818  # nothing went wrong
    """Raised by an evaluation that was asked to stop; it is made up for when the run continues."""


class Work(NamedTuple):
    """The functions that the loop calls."""

    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, Update]]
    evaluations: Sequence[Evaluation]
    save: Callable[[TrainState, float | None, bool], None]  # the state; the gain of best_metric if it was just measured; see `_saves`
    rate: Callable[[int, float, bool], None]  # a step that was saved before it was evaluated, its gain; see `_saves`
    stop_requested: Callable[[], bool]
    report: Callable[[BadUpdate], None]
    roll_back: Callable[[TrainState], TrainState]  # the last good state, with the data behind the one given
    stop_before: Callable[..., bool] = lambda *_: False  # whether to stop while a step with these arguments is still being compiled
    warm: Callable[[], bool] = lambda: True  # whether nothing is being compiled
    compile_secs: Callable[[], float] = lambda: 0.0  # spent in compiling so far


def run(
    state: TrainState,
    stream: Iterator[tuple[Sequence[int], Any]],
    work: Work,
    config: TrainingConfig,
    accumulate: int,
    devices: Devices,
    log: RunLog,
) -> tuple[TrainState, Outcome]:
    """Trains to `config.steps` updates, or until asked to stop, or until the validation set no longer improves.

    Args:
        state: where to begin; it is donated.
        stream: (position after the batch, this process' rows of the batch), endless.
        work: step, evaluations, saving.
        config: how often each.
        accumulate: batches per update.
        devices: where batches are put.
        log: where it is said.
    """
    coming = _ahead(stream, devices)
    while True:
        state, outcome = _train(state, coming, work, config, accumulate, devices, log)
        if outcome:
            return state, outcome
        state = work.roll_back(state)


def _train(
    state: TrainState,
    coming: Iterator["_Coming"],
    work: Work,
    config: TrainingConfig,
    accumulate: int,
    devices: Devices,
    log: RunLog,
) -> tuple[TrainState, Outcome | None]:
    """Trains until it ends, or, without an outcome, until too many updates in a row were bad."""
    step = int(state.step)
    meter, guard = Meter(step, config), Guard(state, work.report, config.roll_back_after)
    lines, stopping = _Lines(meter, log), False
    if step and _due(step, config):  # unless it was made before a stop, which comes first
        state, score, stopping = _evaluate(state, step, work, config, devices, meter, log)
        if score is not None:
            work.rate(step, score, _saves(step, config, int(state.bad_evaluations) == 0))
    bad_evaluations = int(state.bad_evaluations)  # read here and after an evaluation: elsewhere it would wait for the device
    outcome, saved = _outcome(bad_evaluations, config, stopping, step), step
    while outcome is None:
        batches = [next(coming) for _ in range(accumulate)]
        begin = time.perf_counter()
        stopping = any(work.stop_before(state, batch.fed, batch.after) for batch in batches)
        meter.waited(time.perf_counter() - begin)
        if stopping:
            lines.say()
            guard.read()
            if saved < step:
                work.save(state, None, False)
            return state, "stopped"
        for batch in batches:
            state, update = work.train_step(state, batch.fed, batch.after)
        lines.say()  # fetched only now: the device is busy with the next step meanwhile
        too_many = guard.read()  # likewise of the step before, also where that was the last one before a stop
        step += 1
        guard.watch(step, update, [batch.position for batch in batches], [batch.rows for batch in batches])
        if too_many:
            guard.read()
            return state, None
        meter.add(sum(batch.tokens for batch in batches) * jax.process_count(), work.warm())
        log.advance(step, meter.left_secs(step))
        lines.add(step, batches[-1].position[0], update, _is_said(step, config))
        stopping, score, improved = work.stop_requested(), None, False
        if not stopping and _due(step, config):
            lines.say()
            state, score, stopping = _evaluate(state, step, work, config, devices, meter, log)
            bad_evaluations = int(state.bad_evaluations)
            improved = score is not None and bad_evaluations == 0
        outcome = _outcome(bad_evaluations, config, stopping, step)
        if _saves(step, config, improved) or outcome:
            lines.say()
            guard.read()  # a run that begins after this step would not report it
            begin = time.perf_counter()
            work.save(state, score, _saves(step, config, improved))
            meter.saved(time.perf_counter() - begin)
            saved = step
    return state, outcome


def _saves(step: int, config: TrainingConfig, improved: bool) -> bool:
    """Whether a step is saved in every run with these settings, stopped or not; training goes back to no other."""
    return step % config.save_every_steps == 0 or improved


def _is_said(step: int, config: TrainingConfig) -> bool:
    """Whether a step has a line of progress: the first too, so that it is soon seen that all is well."""
    return step == 1 or step % config.log_every_steps == 0 or step >= config.steps


def _due(step: int, config: TrainingConfig) -> bool:
    """Whether this step is to be evaluated."""
    return step % config.evaluate_every_steps == 0 or step >= config.steps


class _Coming(NamedTuple):
    """A batch on its way to the devices."""

    fed: Any
    after: Any  # the position behind it, on every device
    position: tuple[int, int]  # the same: epoch, and batches of it that have been read
    rows: Any  # of this process, on the host
    tokens: int  # real ones, of this process' rows


def _ahead(stream: Iterator[tuple[Sequence[int], Any]], devices: Devices) -> Iterator[_Coming]:
    """Batches that were sent to the devices before the step needs them."""
    sent: deque[_Coming] = deque()
    for after, batch in stream:
        tokens = sum(int(np.count_nonzero(side != PAD)) for side in batch)
        fed, position = feed_rows(devices, tuple(batch)), (int(after[0]), int(after[1]))
        sent.append(_Coming(fed, feed_all(devices, np.array(after, np.int32)), position, batch, tokens))
        if len(sent) > _BATCHES_AHEAD:
            yield sent.popleft()


def _outcome(bad_evaluations: int, config: TrainingConfig, stopping: bool, step: int) -> Outcome | None:
    if stopping:
        return "stopped"
    if step >= config.steps:
        return "done"
    if config.patience and bad_evaluations >= config.patience:
        return "no longer improving"
    return None


class _Pending(NamedTuple):
    """A line of progress whose numbers are still on the device."""

    step: int
    epoch: int
    update: Update
    losses: list[Loss]  # of all updates since the last line


class _Lines:
    """Lines of progress, each said when the device has its numbers ready, and something else to do."""

    def __init__(self, meter: Meter, log: RunLog) -> None:
        self._meter, self._log = meter, log
        self._pending: _Pending | None = None
        self._losses: list[Loss] = []  # since the last line: batches of long sentences and of short ones differ too much to say one

    def add(self, step: int, epoch: int, update: Update, due: bool) -> None:
        """An update; where a line is due, it waits to be said."""
        self._losses.append(update.loss)
        if due:
            self._pending, self._losses = _Pending(step, epoch, update, self._losses), []

    def say(self) -> None:
        """Says the line that waits, if there is one."""
        _say(self._pending, self._meter, self._log)
        self._pending = None


def _say(pending: _Pending | None, meter: Meter, log: RunLog) -> None:
    """One line of progress, and its record."""
    if pending is None:
        return
    step, epoch, update, losses = jax.device_get(pending)
    known = [part for part in losses if math.isfinite(part.plain)]  # one that is not has its own line
    loss = float(sum(part.plain for part in known) / max(sum(part.tokens for part in known), 1)) if known else math.nan
    values = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "learning_rate": float(update.learning_rate),
        "gradient_norm": float(update.gradient_norm),
        "epoch": epoch,
        "skipped": int(update.skipped),
        **meter.read(step),
    }
    skipped = f" skipped {values['skipped']}" if values["skipped"] else ""
    log.line(
        f"step {step:>6}/{meter.steps} epoch {epoch + 1:>3} loss {loss:.3f} ppl {values['perplexity']:.2f} "
        f"lr {values['learning_rate']:.2e} gnorm {values['gradient_norm']:.2f} {values['tokens_per_sec']:,.0f} tok/s "
        f"ETA {duration(values['eta_secs'])}{skipped}"
    )
    log.metrics(step, "train", values)


def _evaluate(
    state: TrainState, step: int, work: Work, config: TrainingConfig, devices: Devices, meter: Meter, log: RunLog
) -> tuple[TrainState, float | None, bool]:
    """Runs all evaluations, unless this step has been evaluated; the state then knows whether the best has been beaten.

    Returns:
        The state; the gain of best_metric, if it was measured; whether a stop was asked for before all was measured.
    """
    if int(state.evaluated) == step:
        return state, None, False
    metrics: dict[str, float] = {}
    samples, notes, pictures = list[str](), list[str](), dict[str, bytes]()
    begin, compiled = time.perf_counter(), work.compile_secs()
    try:
        with log.doing(f"evaluating step {step}"):
            for evaluation in work.evaluations:
                report = evaluation(evaluated_params(state), step)
                metrics |= report.metrics
                samples += report.samples
                notes += report.notes
                pictures |= report.pictures
    except Interrupted:
        return state, None, True
    took = time.perf_counter() - begin
    meter.evaluated(took, work.compile_secs() - compiled)
    for sample in samples:
        log.line(sample)
    numbers = " ".join(f"{name} {value:.2f}" for name, value in metrics.items() if isinstance(value, float))
    log.line(f"valid {step:>6} {numbers} ({took:.0f} s)")
    log.show(step, samples, pictures)
    log.metrics(step, "valid", metrics)
    score = gain(config.best_metric, metrics[config.best_metric])
    nothing = score == least_gain(config.best_metric) and score >= float(state.best_score)  # no evaluation so far ranks any checkpoint
    if nothing:
        notes.append(
            f"training.best_metric={config.best_metric} is {abs(score):.2f}: it tells no checkpoint from another yet, the latest is kept"
        )
    for note in notes:
        log.line(note)
    better = nothing or np.float32(score) > float(state.best_score)  # which was rounded: a score is not better than itself
    best, bad = (score, 0) if better else (float(state.best_score), int(state.bad_evaluations) + 1)
    best_score, bad_evaluations, evaluated = feed_all(devices, (np.float32(best), np.int32(bad), np.int32(step)))
    return state._replace(best_score=best_score, bad_evaluations=bad_evaluations, evaluated=evaluated), score, False


def make_loss_evaluation(eval_step: Callable[[Params, Any], Loss], batches: Callable[[], Iterable[Any]], devices: Devices) -> Evaluation:
    """The validation set's loss per token and perplexity."""

    def evaluate(params: Params, step: int) -> Report:
        sums = [jax.device_get(eval_step(params, feed_rows(devices, tuple(batch)))) for batch in batches()]
        loss = float(sum(part.plain for part in sums) / sum(part.tokens for part in sums))
        return Report({"loss": loss, "perplexity": math.exp(min(loss, 700.0))}, [])

    return evaluate
