"""What several verbs need: a corpus made ready for a model, and a trained run opened for decoding."""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from rich.console import Console

from flax_s2s import caches, cluster, job, processor, programs, rundir
from flax_s2s.checkpoint import Checkpoints
from flax_s2s.config import Config, UserError
from flax_s2s.data import vocab
from flax_s2s.data.batching import Shape, choose_shapes
from flax_s2s.data.corpus import Reader
from flax_s2s.data.tokens import Tokens, open_tokens
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.model.seq2seq import Model, init_params, make_model
from flax_s2s.parallel import Devices, make_decoding_devices, place
from flax_s2s.rules import check
from flax_s2s.runlog import make_console
from flax_s2s.training.state import Params, count_parameters

_KEPT_PARAMETERS = 64_000_000  # with 195 M the heap grew from 4.9 to 8.5 GiB, to save 4% of a step


def begin(flags: cluster.Flags | None = None) -> None:
    """What comes before any use of a device: the folder of compiled programs, and the other processes."""
    place = cluster.find(os.environ, flags)
    programs.keep()
    job.join(place)


def keep_memory(params: Params) -> None:
    """Where programs run on the CPU, keeps what they work in; for models whose memory may be held more than once."""
    if jax.default_backend() == "cpu" and count_parameters(params) <= _KEPT_PARAMETERS:
        processor.keep_memory()


class Ready(NamedTuple):
    """A training corpus as the step sees it."""

    train: Reader
    vocabularies: Vocabularies
    tokens: Tokens
    shapes: list[Shape]


def make_ready(config: Config, vocab_folder: epath.Path | None) -> Ready:
    """Reads, tokenizes, filters and buckets the training corpus; the vocabularies are those kept in a folder, or new ones."""
    train = Reader(config.data, "train", config.seed)
    kept_there = vocab.load(vocab_folder, config.vocab.joint) if vocab_folder else None
    vocabularies = kept_there or vocab.train(train, config.vocab)
    tokens = open_tokens(train, vocabularies, config.data, caches.folder("tokens"))
    return Ready(train, vocabularies, tokens, choose_shapes(tokens.pairs, config.data))


class Opened(NamedTuple):
    """A trained run, ready to decode."""

    config: Config
    vocabularies: Vocabularies
    model: Model
    params: Params
    devices: Devices
    step: int


def open_run(run_dir: str, checkpoint: str, overrides: dict[str, Any]) -> Opened:
    """Loads configuration, vocabulary and parameters, and nothing else.

    Args:
        run_dir: the run directory.
        checkpoint: best, last, or a step.
        overrides: fields of `decoding` that are given on the command line.
    """
    begin()
    folder = rundir.make_path(run_dir)
    config = rundir.read_config(folder)
    model_config = dataclasses.replace(config.model, kernel="auto")  # a run decodes anywhere, whatever it was trained with
    config = check(dataclasses.replace(config, model=model_config, decoding=dataclasses.replace(config.decoding, **overrides)))
    checkpoints = Checkpoints(folder / rundir.CHECKPOINTS, config.training.best_metric, verify=config.training.verify_checkpoints)
    step = checkpoints.choose(checkpoint)
    vocabularies = vocab.load(folder / rundir.VOCAB, config.vocab.joint)
    if vocabularies is None:
        raise UserError(f"{folder / rundir.VOCAB} has no vocabulary; the run directory is not complete: restore it from a copy")
    devices = make_decoding_devices(config.training.devices, config.decoding.rows)
    sizes = (len(vocabularies.source), len(vocabularies.target))
    abstract = place(jax.eval_shape(lambda: init_params(config.model, *sizes, jax.random.key(0))), devices)
    keep_memory(abstract)
    params = checkpoints.load_params(step, abstract, vocabularies.sha256)
    checkpoints.close()
    return Opened(config, vocabularies, make_model(config.model, *sizes), params, devices, step)


def measure_products(rounds: int = 5) -> float:
    """FLOP/s of a float32 matrix product of 2048 x 2048 on one device: the best of several."""
    size = 2048
    square = jnp.full((size, size), 0.5, jnp.float32)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(square))
    return 2 * size**3 / min(measure(lambda: product(square)) for _ in range(rounds))


def measure(work: Callable[[], Any]) -> float:
    """Seconds that the work takes until its result is there."""
    begin = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begin


def console() -> Console:
    """Where a verb says what it does; its result goes to stdout."""
    return make_console(stderr=True, speaks=jax.process_index() == 0)
