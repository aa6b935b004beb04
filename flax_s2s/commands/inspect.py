"""`inspect CONFIG or RUN_DIR`: what a configuration amounts to, before anything is trained."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from flax_s2s.commands.wiring import Ready, begin, make_ready, measure_products, warn_of_tokens
from flax_s2s.config import Config, UserError
from flax_s2s.data import account, corpus, vocab, vocab_training
from flax_s2s.data.batching import Shape
from flax_s2s.model.flops import Flops, count_flops
from flax_s2s.model.seq2seq import abstract_params, make_model
from flax_s2s.rules import check, find_misfits
from flax_s2s.runs import rundir
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import Devices
from flax_s2s.runtime.runlog import make_console
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import TrainState, abstract_state, count_parameters
from flax_s2s.training.step import TrainStep, abstract_batch, make_train_step

_COMPILE_SECS = 0.003  # a line of a lowered program; a CPU's programs on a server of 2026


class Planned(NamedTuple):
    """A shape of batches."""

    rows: int
    source_tokens: int  # of a row, padding included
    target_tokens: int
    batches: int  # an epoch
    state_bytes: int | None  # that the train step takes on each device for the state and the batch; None: not asked for
    temporary_bytes: int | None  # and for what it works in


class Epoch(NamedTuple):
    """One pass over the training pairs."""

    shapes: list[Planned]
    source_tokens: int  # real ones
    target_tokens: int
    padding: float  # the share of all tokens that is padding, 0 to 1
    tokens_per_sec: float  # of both sides, were every operation as fast as a float32 matrix product
    product_flops: float  # how fast that is here, floating-point operations a second
    corpus: str  # how many pairs, and what is left out
    warnings: list[str]
    compile_secs: float  # of one core, about, until the train step of all shapes is compiled where nothing is kept
    why: str  # there are so many shapes


class Inspection(NamedTuple):
    """What a configuration amounts to; as text, what `inspect` prints."""

    parameters: int
    parameter_shapes: dict[str, tuple[int, ...]]  # by name, as `decoder/layers/0/kernel_in`
    vocabulary: tuple[int, int]  # tokens of the source and of the target
    flops: Flops  # forward; training takes three times as many
    warnings: list[str]
    epoch: Epoch | None  # None where the corpus is not at hand
    lack: str = ""  # why it is not
    overlap: list[str] = []  # noqa: RUF012  # never changed; a line for each held-out split: how much of it is in training, too

    def __str__(self) -> str:
        """The tables and lines that the verb prints."""
        out = make_console(stderr=False)
        with out.capture() as captured:
            _print_model(self, out)
            if self.epoch:
                _print_epoch(self.epoch, out)
        return captured.get()


def run(config: Config, run_dir: str, memory: bool) -> int:
    """Prints parameters and FLOPs; and, where the corpus is at hand, shapes, padding, memory and what speed to compare with."""
    found, plan = _look(config, run_dir, memory)
    out = make_console(stderr=False)
    _print_model(found, out)
    if plan:
        _print_epoch(plan(), out)
    return 0


def inspect(config: Config, run_dir: str, memory: bool) -> Inspection:
    """What `run` prints, as numbers.

    Args:
        config: of a run to be, or of the run.
        run_dir: of a run, which has its vocabulary; empty: there is none.
        memory: whether the train step of every shape is compiled, to say the memory it takes.

    Raises:
        UserError: the configuration is no good; or its vocabulary is as large as that of a corpus that is not at hand.
    """
    found, plan = _look(config, run_dir, memory)
    return found._replace(epoch=plan() if plan else None)


def _look(config: Config, run_dir: str, memory: bool) -> tuple[Inspection, Callable[[], Epoch] | None]:
    """The model, at once; and what finds out about an epoch, which takes a while, where the corpus is at hand."""
    config = check(config, measures=not run_dir)  # a run need not be measured to be looked at
    begin()
    devices = parallel.make_devices(config.training.devices, {"data.row_multiple": config.data.row_multiple})
    lack: UserError | None = None
    try:
        ready = make_ready(config, epath.Path(run_dir) / rundir.VOCAB if run_dir else None)
    except UserError as error:
        ready, lack = None, error
    kept = vocab.load(rundir.make_path(run_dir) / rundir.VOCAB, config.vocab.joint, config.model.copy) if run_dir else None
    vocabularies = ready.vocabularies if ready else kept
    sizes = vocabularies.sizes if vocabularies else vocab_training.planned_sizes(config.vocab)
    if sizes is None:  # and so no parameters either
        raise lack or UserError("vocab.size=0 takes all that the text has; give the text, or a vocab.size")
    params = abstract_params(config.model, *sizes)
    shapes = {"/".join(str(part.key) for part in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    flops, warnings, overlap = count_flops(config.model, params), find_misfits(config), list[str]()
    if ready:
        splits, unread = hold_out(config)
        overlap = [*account.describe_overlap(ready.train, list(splits.values())), *unread]
        warnings = [*warnings, *warn_of_tokens(config, ready, splits["valid"].pairs if "valid" in splits else [])]
    found = Inspection(count_parameters(params), shapes, sizes, flops, warnings, None, str(lack or ""), overlap)
    return found, partial(_plan, config, ready, sizes, flops, devices, memory) if ready else None


def hold_out(config: Config) -> tuple[dict[corpus.Split, corpus.Corpus], list[str]]:
    """Validation and test, where they can be read; and why one cannot, a line each."""
    splits: tuple[corpus.Split, ...] = ("valid", "test")
    found, unread = {}, []
    for split in splits[: 1 + bool(config.data.test)]:
        try:
            found[split] = corpus.load(config.data, split, config.seed)
        except UserError as error:
            unread.append(f"{split} cannot be read: {error}")
    return found, unread


def _plan(config: Config, ready: Ready, sizes: tuple[int, int], flops: Flops, devices: Devices, memory: bool) -> Epoch:
    pipeline = ready.make_pipeline(config.seed)
    plan = pipeline.plan(0)
    source, target = pipeline.count(0)
    counted = Counter(planned.shape for planned in plan)
    model, optimizer = make_model(config.model, *sizes), make_optimizer(config.optimizer)
    step, state = make_train_step(model, optimizer, config, devices), abstract_state(config, sizes, optimizer, devices)
    after = jax.ShapeDtypeStruct((2,), np.int32, sharding=devices.replicated)
    shapes = []
    for shape in ready.shapes:
        taken = _memory(step.compile(state, abstract_batch(shape, devices), after), state) if memory else (None, None)
        shapes.append(Planned(shape.rows, shape.src, shape.tgt, counted[shape], *taken))
    gradients = step.lower_gradients(state, abstract_batch(ready.shapes[-1], devices), after)
    update = step.lower_update(gradients, state, after)
    lines = len(shapes) * gradients.as_text().count("\n") + update.as_text().count("\n")
    work = flops.training(source, target, source / len(ready.tokens.pairs))
    rate = measure_products() * (1 if jax.default_backend() == "cpu" else devices.count)
    name = ready.train.name
    corpus_text = f"{account.describe_train(ready.tokens, name, config.data)}\nfirst {account.show(ready.tokens.counts.first)}"
    warnings = account.warn_train(ready.tokens, name, config.data)
    fastest = rate * (source + target) / work
    return Epoch(shapes, source, target, pipeline.waste(plan), fastest, rate, corpus_text, warnings, lines * _COMPILE_SECS, _why(config))


def _memory(compiled: TrainStep, state: TrainState) -> tuple[int, int]:
    """Bytes that the train step of a shape takes: for state and batch, and temporaries, the gradient among them."""
    gradients, update = (program.memory_analysis() for program in (compiled.gradients, compiled.update))
    kept, read = (sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part)) for part in (state, state.params))
    temporary = max(gradients.temp_size_in_bytes, update.temp_size_in_bytes) + gradients.output_size_in_bytes
    return kept + gradients.argument_size_in_bytes - read, temporary


def _why(config: Config) -> str:
    if config.data.buckets:
        return f"as many as data.buckets={config.data.buckets} says"
    return f"one more would save less work in training.steps={config.training.steps} than it takes to compile, or there are 12"


def _print_model(found: Inspection, out: Console) -> None:
    if found.lack:
        out.print(f"without its corpus, so without shapes and memory: {found.lack}\n")
    table = Table("parameters", "shape", "numbers", box=None)
    for name, shape in found.parameter_shapes.items():
        table.add_row(name, "x".join(map(str, shape)), f"{math.prod(shape):,}")
    table.add_row("all", "", f"{found.parameters:,}")
    out.print(table)
    flops = found.flops
    out.print(
        f"vocabulary {found.vocabulary[0]:,} and {found.vocabulary[1]:,}; training FLOPs: {3 * flops.source_token / 1e6:.2f} M per source token, "
        f"{3 * flops.target_token / 1e6:.2f} M per target token, {3 * flops.attended / 1e3:.2f} k per pair of both\n"
    )
    for line in found.overlap:
        out.print(line)
    for warning in found.warnings:
        out.print(f"warning: {warning}\n")


def _print_epoch(epoch: Epoch, out: Console) -> None:
    table = Table("shape rows x (src + tgt)", "batches an epoch", "memory per device", box=None)
    for one in epoch.shapes:
        table.add_row(str(Shape(one.rows, one.source_tokens, one.target_tokens)), f"{one.batches:,}", _describe_memory(one))
    out.print(table)
    out.print(
        f"{epoch.corpus}\n"
        f"{epoch.source_tokens:,} source and {epoch.target_tokens:,} target tokens an epoch in {sum(one.batches for one in epoch.shapes):,} "
        f"batches, padding {epoch.padding:.1%}\n"
        f"compiling {len(epoch.shapes)} shapes and the update takes about {epoch.compile_secs:,.0f} s of one core where nothing is kept: {epoch.why}\n"
        f"{epoch.tokens_per_sec:,.0f} tokens/s, were every operation as fast as a float32 matrix product here "
        f"({epoch.product_flops / 1e9:,.0f} GFLOP/s)"
    )
    for warning in epoch.warnings:
        out.print(warning)


def _describe_memory(one: Planned) -> str:
    if one.state_bytes is None or one.temporary_bytes is None:
        return "not asked for"
    whole, state, temporary = (size / 2**20 for size in (one.state_bytes + one.temporary_bytes, one.state_bytes, one.temporary_bytes))
    return f"{whole:,.0f} MiB ({state:,.0f} state, {temporary:,.0f} temporary)"
