"""`inspect CONFIG or RUN_DIR`: what a configuration amounts to, before anything is trained."""

from collections import Counter
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from flax_s2s.commands.wiring import Ready, begin, make_ready, measure_products, warn_of_tokens
from flax_s2s.config import Config, UserError
from flax_s2s.data import account, corpus, vocab
from flax_s2s.data.batching import Shape
from flax_s2s.model.flops import Flops, count_flops
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.rules import check, find_misfits
from flax_s2s.runs import rundir
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import Devices
from flax_s2s.runtime.runlog import make_console
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import abstract_state, count_parameters
from flax_s2s.training.step import abstract_batch, make_train_step


def run(config: Config, run_dir: str, memory: bool) -> int:
    """Prints parameters and FLOPs; and, where the corpus is at hand, shapes, padding, memory and what speed to compare with."""
    config = check(config, measures=not run_dir)  # a run need not be measured to be looked at
    begin()
    devices = parallel.make_devices(config.training.devices, {"data.row_multiple": config.data.row_multiple})
    out = make_console(stderr=False)
    lack: UserError | None = None
    try:
        ready = make_ready(config, epath.Path(run_dir) / rundir.VOCAB if run_dir else None)
    except UserError as error:
        ready, lack = None, error
        out.print(f"without its corpus, so without shapes and memory: {error}\n")
    kept = vocab.load(rundir.make_path(run_dir) / rundir.VOCAB, config.vocab.joint) if run_dir else None
    vocabularies = ready.vocabularies if ready else kept
    sizes = (len(vocabularies.source), len(vocabularies.target)) if vocabularies else vocab.planned_sizes(config.vocab)
    if sizes is None:  # and so no parameters either
        raise lack or UserError("vocab.size=0 takes all that the text has; give the text, or a vocab.size")
    params = jax.eval_shape(lambda: init_params(config.model, *sizes, jax.random.key(0)))
    flops = count_flops(config.model, params)
    out.print(_parameters(params))
    out.print(
        f"vocabulary {sizes[0]:,} and {sizes[1]:,}; training FLOPs: {3 * flops.source_token / 1e6:.2f} M per source token, "
        f"{3 * flops.target_token / 1e6:.2f} M per target token, {3 * flops.attended / 1e3:.2f} k per pair of both\n"
    )
    for misfit in find_misfits(config):
        out.print(f"warning: {misfit}\n")
    if ready:
        for warning in warn_of_tokens(config, ready, _validation(config)):
            out.print(f"warning: {warning}\n")
        _describe_batches(config, ready, sizes, flops, devices, memory, out)
    return 0


def _validation(config: Config) -> list[corpus.Pair]:
    """The validation pairs, none where they are not at hand."""
    try:
        return corpus.load(config.data, "valid", config.seed).pairs
    except UserError:
        return []


def _parameters(params: Any) -> Table:
    table = Table("parameters", "shape", "numbers", box=None)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        table.add_row("/".join(str(part.key) for part in path), "x".join(map(str, leaf.shape)), f"{leaf.size:,}")
    table.add_row("all", "", f"{count_parameters(params):,}")
    return table


def _describe_batches(
    config: Config, ready: Ready, sizes: tuple[int, int], flops: Flops, devices: Devices, memory: bool, out: Console
) -> None:
    pipeline = ready.make_pipeline(config.seed)
    plan = pipeline.plan(0)
    source, target = pipeline.count(0)
    counted = Counter(planned.shape for planned in plan)
    table = Table("shape rows x (src + tgt)", "batches an epoch", "memory per device", box=None)
    for shape in ready.shapes:
        table.add_row(str(shape), f"{counted[shape]:,}", _memory(config, shape, sizes, devices) if memory else "not asked for")
    out.print(table)
    work = flops.training(source, target, source / len(ready.tokens.pairs))
    rate = measure_products() * (1 if jax.default_backend() == "cpu" else devices.count)
    out.print(
        f"{account.describe_train(ready.tokens, ready.train.name, config.data)}\nfirst {account.show(ready.tokens.counts.first)}\n"
        f"{source:,} source and {target:,} target tokens an epoch in {len(plan):,} batches, padding {pipeline.waste(plan):.1%}\n"
        f"{rate * (source + target) / work:,.0f} tokens/s, were every operation as fast as a float32 matrix product here "
        f"({rate / 1e9:,.0f} GFLOP/s)"
    )
    for warning in account.warn_train(ready.tokens, ready.train.name, config.data):
        out.print(warning)


def _memory(config: Config, shape: Shape, sizes: tuple[int, int], devices: Devices) -> str:
    """What the compiled train step of one shape takes: state, batch and temporaries."""
    model, optimizer = make_model(config.model, *sizes), make_optimizer(config.optimizer)
    step = make_train_step(model, optimizer, config, devices)
    after = jax.ShapeDtypeStruct((2,), np.int32, sharding=devices.replicated)
    analysis = (
        step.lower(abstract_state(config, sizes, optimizer, devices), abstract_batch(shape, devices), after).compile().memory_analysis()
    )
    state, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    return f"{(state + temporary) / 2**20:,.0f} MiB ({state / 2**20:,.0f} state, {temporary / 2**20:,.0f} temporary)"
