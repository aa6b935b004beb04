"""`train CONFIG --run-dir DIR`: trains, or continues what it finds there."""

import contextlib
import dataclasses
import io
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from flax_s2s import errors
from flax_s2s.answers import heatmap
from flax_s2s.commands import initial
from flax_s2s.commands.recovery import Reports, make_roll_back
from flax_s2s.commands.steps import Steps, by_first_use, make_steps
from flax_s2s.commands.summary import describe, find_facts, find_faults
from flax_s2s.commands.wiring import Ready, begin, choose_evaluation_shapes, keep_buckets, make_ready, warn_of_tokens
from flax_s2s.config import Config, TrainingConfig, UserError, differences, to_json
from flax_s2s.data import corpus, vocab
from flax_s2s.data.batching import Shape, TokenPairs
from flax_s2s.data.corpus import Corpus
from flax_s2s.data.pipeline import Pipeline, Position, Share, in_order
from flax_s2s.data.tokens import tokenize
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.requests import SOURCE_LENGTHS, Request
from flax_s2s.decoding.translate import Translation, Translator
from flax_s2s.evaluation.evaluate import make_translation_evaluation
from flax_s2s.evaluation.metrics import check_metrics
from flax_s2s.model.seq2seq import Model, make_model
from flax_s2s.rules import check, find_misfits
from flax_s2s.runs import lease, rundir
from flax_s2s.runs.checkpoint import Checkpoints
from flax_s2s.runs.lease import Lease
from flax_s2s.runs.manifests import Bound, Manifest
from flax_s2s.runtime import job, parallel
from flax_s2s.runtime.cluster import Flags
from flax_s2s.runtime.parallel import Devices
from flax_s2s.runtime.programs import compile_secs
from flax_s2s.runtime.runlog import RunLog, cut_metrics
from flax_s2s.training import loop
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import TrainState, abstract_state, count_parameters, create_state, not_finite
from flax_s2s.training.step import module_names


class Reached(NamedTuple):
    """What training came to."""

    step: int
    outcome: loop.Outcome
    best: float | None  # of training.best_metric; None: nothing was evaluated


def run(config: Config, run_dir: str, flags: Flags | None = None, init_from: str = "", command: str = "", *, report: bool = False) -> int:
    """Trains, and writes a report of the run where that is asked for; returns 0, or 75 when stopped and saved. See `train`."""
    reached = train(config, run_dir, flags, init_from, command)
    if reached.outcome == "stopped":
        return errors.PREEMPTED
    if report:
        from flax_s2s.commands import report as reporting  # only here: what it stands on is needed for nothing else of this

        reporting.run([run_dir], os.fspath(rundir.make_path(run_dir) / rundir.REPORT), reporting.Options())
    return errors.DONE


def train(
    config: Config, run_dir: str, flags: Flags | None = None, init_from: str = "", command: str = "", *, quiet: bool = False
) -> Reached:
    """Trains to `training.steps`, or until stopped, or until it no longer improves; all is saved then.

    Args:
        config: what is trained.
        run_dir: its folder.
        flags: where this process stands among others.
        init_from: another run, whose parameters a new run starts from; empty: they are drawn.
        command: the command line, for the log.
        quiet: whether nothing is printed; what must be seen is a Python warning then.

    Raises:
        UserError: see the checks of each room.
    """
    folder = rundir.make_path(run_dir)
    rundir.refuse_several(folder)
    config = check(as_begun(folder, config))
    if config.evaluation.valid_pairs:
        check_metrics(config.evaluation, config.data.target)
    begin(flags)
    devices = parallel.make_devices(config.training.devices, {"data.row_multiple": config.data.row_multiple})
    index, _ = parallel.process()
    rundir.make_folder(folder)
    log = RunLog(folder, index, quiet=quiet)
    with lease.hold(folder, log.line) if index == 0 else contextlib.nullcontext() as held:
        _meet(folder, held)
        (folder / "logs").mkdir(exist_ok=True)
        job.keep_log(os.fspath(log.file))
        if command:
            log.note(f"command: {command}")
        _settle_config(folder, config, log)
        try:
            return _train(config, folder, devices, log, held, init_from)
        finally:
            log.close()


def _meet(folder: epath.Path, held: Lease | None) -> None:
    """Every process proves that it sees the run directory that process 0 holds.

    Raises:
        UserError: some do not; raised on all of them.
    """
    index, count = parallel.process()
    if count == 1:
        return
    token = parallel.from_first(np.frombuffer(bytes.fromhex(held.id if held else "00" * 16), np.uint8)).tobytes().hex()
    seen = parallel.from_each(np.bool_(lease.shows(folder, token)))
    if not seen.all():
        blind = ", ".join(str(number) for number in np.flatnonzero(~seen))
        raise UserError(
            f"{folder} is not the same place for all {count} processes: process {blind} does not see there what process 0 wrote "
            f"(this is process {index} on {socket.gethostname()}); give a folder that all machines share"
        )


class _Setup(NamedTuple):
    """What is trained on what: read, and found good."""

    config: Config  # as the run keeps it
    ready: Ready
    valid: Corpus
    fitting: TokenPairs  # of the validation pairs
    evaluation_shapes: list[Shape]
    model: Model
    optimizer: Any
    pipeline: Pipeline
    bound: Bound
    abstract: TrainState  # its shapes, on the devices
    create: Callable[[], TrainState]  # the state that a new run begins with


def _train(config: Config, folder: epath.Path, devices: Devices, log: RunLog, held: Lease | None, init_from: str) -> Reached:
    """Restores or begins, trains, saves, and says what comes next."""
    training = config.training
    checkpoints = _open_checkpoints(folder, training, held, log)
    # Before the first checkpoint nothing is bound to a vocabulary that is there, and the text may have been corrected since.
    given = initial.find(init_from, config) if init_from and not checkpoints.steps() else None
    setup = _set_up(config, folder / rundir.VOCAB if checkpoints.steps() else given and given.vocab, given, devices, log)
    config = setup.config
    with log.doing("restoring the newest checkpoint"):
        state = checkpoints.restore(setup.abstract, setup.bound, log.line, log.warn)
    facts = find_facts(config, setup.ready, setup.valid, setup.fitting, setup.pipeline, devices, count_parameters(setup.abstract.params))
    _say_what(config, setup, facts, log, f" in a new run: {folder} keeps what it was begun with" if state else "")
    if state is None:
        state = setup.create()
        if given:
            log.line(given.describe(config))
    else:
        log.line(f"continuing {folder} at step {int(state.step)}" + (f"; {init_from} is not read again" if init_from else ""))
    begin, position = int(state.step), Position(*np.asarray(state.position).tolist())
    shapes = by_first_use(setup.pipeline, position), setup.evaluation_shapes
    steps = make_steps(config, setup.model, setup.optimizer, setup.abstract, shapes, devices, log)
    evaluations = _evaluations(config, setup, steps, devices)
    if log.speaks:  # nothing is written before everything has been read and found good
        rundir.write_config(folder, config)
        rundir.write_summary(folder, facts)
        vocab.save(setup.ready.vocabularies, folder / rundir.VOCAB)
        cut_metrics(folder, begin)
    save = _make_save(checkpoints, setup.bound, log)
    if given:
        save(state, None, True)  # so that the beginning is there to go back to, whatever becomes of the other run
    log.start(begin, training.steps)
    # Checkpoints are closed on every way out: what is being saved is finished, and its error comes before that of a smaller write.
    with contextlib.closing(steps), contextlib.closing(checkpoints), job.guard():
        work = loop.Work(
            steps.train,
            evaluations,
            save,
            checkpoints.rate,
            lambda: _stop_requested(held),
            Reports(folder, module_names(setup.abstract.params), setup.ready.vocabularies, log),
            make_roll_back(checkpoints, setup.abstract, setup.create, training, devices, log),
            steps.stop_before,
            steps.warm,
            compile_secs,
        )
        stream = setup.pipeline.stream(position)
        state, outcome = loop.run(state, stream, work, training, config.optimizer.accumulate_batches, devices, log)
        with log.doing("saving the last step"):
            checkpoints.wait()
    reached = Reached(int(state.step), outcome, abs(float(state.best_score)) if np.isfinite(state.best_score) else None)
    _say_next(folder, reached, not_finite(state), config, log)
    return reached


def _open_checkpoints(folder: epath.Path, training: TrainingConfig, held: Lease | None, log: RunLog) -> Checkpoints:
    return Checkpoints(
        folder / rundir.CHECKPOINTS,
        training.best_metric,
        training.keep_last,
        training.keep_best,
        log.speaks,
        held.confirm if held else None,
        training.verify_checkpoints,
    )


def _set_up(config: Config, vocab_folder: epath.Path | None, given: initial.Initial | None, devices: Devices, log: RunLog) -> _Setup:
    """Reads the corpus, learns the vocabulary unless it is there, builds the model; `given` is what a new run starts from."""
    ready = make_ready(config, vocab_folder, log.doing)
    with log.doing("reading the validation pairs"):
        valid = corpus.load(config.data, "valid", config.seed)
    fitting = _fitting(valid, ready)
    sizes = ready.vocabularies.sizes
    model, optimizer = make_model(config.model, *sizes), make_optimizer(config.optimizer)
    pipeline = ready.make_pipeline(config.seed, Share(*parallel.process()))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, buckets=config.data.buckets or len(ready.shapes)))
    bound = Bound(to_json(config), ready.vocabularies.sha256, ready.tokens.sha256)
    abstract = abstract_state(config, sizes, optimizer, devices)

    def create() -> TrainState:
        new = create_state(config, sizes, optimizer, devices)
        return given.take_over(new, ready.vocabularies.sha256, sizes, config, devices) if given else new

    evaluation_shapes = choose_evaluation_shapes(config, ready.vocabularies, fitting)
    return _Setup(config, ready, valid, fitting, evaluation_shapes, model, optimizer, pipeline, bound, abstract, create)


def _say_what(config: Config, setup: _Setup, facts: dict[str, str], log: RunLog, kept: str) -> None:
    """The block at the start, and what is doubtful about it; `kept` ends a line on fields that are settled already."""
    log.line(describe(facts))
    for warning in find_faults(config, setup.ready, setup.valid, setup.fitting):
        log.warn(warning)
    for warning in [*(f"{misfit}{kept}" for misfit in find_misfits(config)), *warn_of_tokens(config, setup.ready, setup.valid.pairs)]:
        log.warn(f"warning: {warning}")


def _make_save(checkpoints: Checkpoints, bound: Bound, log: RunLog) -> Callable[[TrainState, float | None, bool], None]:
    """The loop's way to save; a state that is not finite is said and not saved."""

    def on_saved(manifest: Manifest) -> None:
        log.metrics(manifest.step, "checkpoint", {"checkpoint": manifest.step, "state_sha256": manifest.state_sha256})

    def save(state: TrainState, score: float | None, regular: bool) -> None:
        with log.doing(f"saving step {int(state.step)}"):
            spoilt = checkpoints.save(state, score, bound, on_saved, regular)
        if spoilt:
            log.warn(f"step {int(state.step)} IS NOT SAVED: {spoilt} holds numbers that are not finite; earlier checkpoints are intact")

    return save


def _stop_requested(held: Lease | None) -> bool:
    if held:
        held.check()
    return job.stop_requested()


def as_begun(folder: epath.Path, config: Config) -> Config:
    """Where the run is there, `data.buckets=0` and `optimizer.decay_steps=0` are as many as it was begun with.

    Raises:
        UserError: its learning rate is zero before the steps that are asked for.
    """
    if not (folder / rundir.CONFIG).exists():
        return config
    kept = rundir.read_config(folder)
    config, begun, steps = keep_buckets(kept, config), kept.optimizer, config.training.steps
    now = dataclasses.replace(config.optimizer, decay_steps=config.optimizer.decay_steps or begun.decay_steps)
    if begun.schedule == now.schedule == "cosine" and steps > now.decay_steps == begun.decay_steps:
        raise UserError(
            f"{folder} was begun with a learning rate that is zero at step {begun.decay_steps} (optimizer.schedule=cosine), got "
            f"training.steps={steps}; use fewer steps, or train further with what it has learned, as a new run: "
            f"train {folder} --run-dir NEW --init-from {folder} --optimizer.decay-steps 0 --data.buckets 0 --training.steps {steps}"
        )
    return dataclasses.replace(config, optimizer=now)


def _settle_config(folder: epath.Path, config: Config, log: RunLog) -> None:
    """Refuses another identity, says what else differs."""
    if not (folder / rundir.CONFIG).exists():
        return
    old = rundir.read_config(folder)
    identity = differences(old, config, "identity")
    if identity:
        tuned = any(line.startswith(("data.", "optimizer.")) for line in identity) and initial.could_start(old, config)
        raise UserError(
            f"{folder} was trained with other values of fields that decide what is learned:\n  "
            + "\n  ".join(identity)
            + f"\ngive the old values (`train {folder}` alone has them), or another --run-dir"
            + (f"; with --init-from {folder} it begins with what this one has learned" if tuned else "")
        )
    for line in differences(old, config, "operational"):
        log.line(f"changed: {line}")


def _fitting(valid: Corpus, ready: Ready) -> TokenPairs:
    """The validation pairs that fit into a shape of the training pairs."""
    pairs, largest = tokenize(valid.pairs, ready.vocabularies), ready.shapes[-1]
    fitting = np.flatnonzero((pairs.source.lengths <= largest.src) & (pairs.target.lengths <= largest.tgt))
    if not len(fitting):
        raise UserError(f"no pair of {valid.name} fits into the largest shape, {largest}; give validation pairs like the training pairs")
    return pairs.take(fitting)


def _evaluations(config: Config, setup: _Setup, steps: Steps, devices: Devices) -> list[loop.Evaluation]:
    """The loss, and the metrics of greedy translations where the run asks for them."""
    share, shapes = Share(*parallel.process()), setup.evaluation_shapes
    evaluations = [loop.make_loss_evaluation(steps.evaluate, lambda: steps.interrupted(in_order(setup.fitting, shapes, share)), devices)]
    if config.evaluation.valid_pairs:
        greedy = dataclasses.replace(config.decoding, beam_size=1)
        longest = shapes[-1].src
        lengths = [*sorted({shape.src for shape in shapes}), *(length for length in SOURCE_LENGTHS if length > longest)]
        vocabularies, attends = setup.ready.vocabularies, config.evaluation.samples > 0
        translator = Translator([setup.model], vocabularies, greedy, parallel.my_devices(devices), lengths=lengths, attention=attends)
        draw_fn = _make_draw(vocabularies, config) if share.process == 0 else None
        form = config.vocab.unicode_form
        evaluations.append(
            make_translation_evaluation(translator, setup.valid.pairs, config.evaluation, config.data.target, _poll, form, draw_fn)
        )
    return evaluations


def _make_draw(vocabularies: Vocabularies, config: Config) -> Callable[[Request, Translation], dict[str, bytes]]:
    """Draws what a translation looked at, where the model has attention."""

    def draw(asked: Request, found: Translation) -> dict[str, bytes]:
        if found.attention is None:
            return {}
        [source] = vocabularies.read_sources([asked.source], [asked.features], config.decoding.max_source_tokens)
        record = {"source": source, "target": found.pieces, "attention": found.attention}
        picture = io.BytesIO()
        heatmap.draw_one(record, picture, (config.data.source, config.data.target))
        return {"attention": picture.getvalue()}

    return draw


def _poll(*_: Any) -> None:
    if job.stop_requested():
        raise loop.Interrupted


def _say_next(folder: epath.Path, reached: Reached, spoilt: str, config: Config, log: RunLog) -> None:
    """How it ended, and what to type next; `spoilt` is what of the last state is not finite.

    Raises:
        UserError: it ended with something that is not, and so is not saved.
    """
    step = reached.step
    if reached.outcome == "stopped":
        saved = "not saved (see above)" if spoilt else "saved"
        log.line(f"stopped and {saved} at step {step}; the same command goes on from {'the last checkpoint' if spoilt else 'here'}")
        return
    if spoilt:
        raise UserError(
            f"{reached.outcome} at step {step}, which is not saved: {spoilt} holds numbers that are not finite; earlier checkpoints are "
            "intact: decode with one of them, or train anew with a lower optimizer.learning_rate or a larger optimizer.epsilon"
        )
    best = "" if reached.best is None else f"; best {config.training.best_metric} so far: {reached.best:.3f}"
    split = "" if config.data.test else " --split valid"
    log.line(f"{reached.outcome} at step {step}{best}\nnext: python -m flax_s2s evaluate {folder}{split}")
