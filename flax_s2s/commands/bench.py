"""`bench CONFIG`: measured speed of the train step and of decoding, as one JSON line."""

import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_s2s.commands.wiring import Ready, begin, console, make_ready, measure, measure_products
from flax_s2s.config import PAD, Config, UserError
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.translate import Translator
from flax_s2s.model.flops import count_flops
from flax_s2s.model.lstm import choose_means
from flax_s2s.model.seq2seq import make_model
from flax_s2s.rules import check
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import Devices, feed_all, feed_rows
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import create_state
from flax_s2s.training.step import make_train_step

_STEPS = 10  # train steps in one measurement
_LINES = 256  # lines decoded in one measurement


def run(config: Config, rounds: int) -> int:
    """The same work every time: batches that stand for an epoch, the first lines of the corpus.

    Raises:
        UserError: there is no round to measure, or it was started as several processes.
    """
    config = check(config)
    if rounds < 1:
        raise UserError(f"--rounds={rounds} must be at least 1")
    begin()
    if parallel.process()[1] > 1:
        raise UserError(f"bench measures one process with all its devices, got {parallel.process()[1]}; train shows the rate of several")
    out = console()
    devices = parallel.make_devices(config.training.devices, {"data.row_multiple": config.data.row_multiple})
    with out.status("preparing the corpus"):
        ready = make_ready(config, None)
    with out.status("measuring"):
        result = _measure_all(config, ready, devices, rounds)
    print(json.dumps(result))
    return 0


def _measure_all(config: Config, ready: Ready, devices: Devices, rounds: int) -> dict[str, Any]:
    sizes = ready.vocabularies.sizes
    model, optimizer = make_model(config.model, *sizes), make_optimizer(config.optimizer)
    state = create_state(config, sizes, optimizer, devices)
    pipeline = ready.make_pipeline(config.seed)
    batches = [pipeline.batch(planned) for planned in pipeline.sample(_STEPS)]
    step, after = make_train_step(model, optimizer, config, devices), feed_all(devices, np.array([0, 1], np.int32))
    fed = [feed_rows(devices, tuple(batch)) for batch in batches]
    begin = time.perf_counter()
    programs = {shape: step.compile(state, batch, after) for shape, batch in {_shape(batch): batch for batch in fed}.items()}
    compile_secs = time.perf_counter() - begin
    box, first_params = [state], jax.tree.map(jnp.copy, state.params)  # decoded with: what it takes depends on what is learned

    def train() -> Any:
        for batch in fed:
            box[0], update = programs[_shape(batch)](box[0], batch, after)
        return update

    jax.block_until_ready(train())
    translator = Translator([model], ready.vocabularies, config.decoding, devices)
    asked = [Request(pair.source, features=pair.features) for pair in itertools.islice(ready.train, _LINES)]
    weights = translator.lay_out([first_params])

    def decode() -> Any:
        return translator(weights, asked)

    decoded = sum(translation.tokens for translation in decode())
    train_secs, decode_secs, products = _interleaved([train, decode], rounds)
    source, target, attended = _count_tokens(batches)
    padded = sum(side.size for batch in batches for side in batch)
    time_steps = sum(side.shape[1] for batch in batches for side in batch)
    work = count_flops(config.model, box[0].params).training(source, target, attended)
    fastest = products * (1 if jax.default_backend() == "cpu" else devices.count)
    return {
        "backend": jax.default_backend(),
        "device": devices.mesh.devices.flat[0].device_kind,
        "devices": devices.count,
        "means": str(choose_means(config.model)),
        "batches": [f"{source.shape[0]}x({source.shape[1]}+{target.shape[1]})" for source, target in batches],
        "train_source_tokens_per_sec": source / train_secs,
        "train_target_tokens_per_sec": target / train_secs,
        "padding": 1 - (source + target) / padded,
        "matrix_product_flops": products,  # in float32, whatever the model computes in
        "model_flop_utilization": work / train_secs / fastest,
        "train_microsecs_per_time_step": 1e6 * train_secs / time_steps,  # a position of source or target: all rows, layers, the update
        "compile_secs": compile_secs,  # of all shapes; programs kept on disk from an earlier start are read from there
        "peak_memory_bytes": _peak_memory(devices),
        "decode_sentences_per_sec": len(asked) / decode_secs,  # of a model that has learned nothing: see the tokens
        "decode_tokens_per_sec": decoded / decode_secs,
        "decode_beam_size": config.decoding.beam_size,
        "rounds": rounds,
    }


def _count_tokens(batches: Sequence[Any]) -> tuple[int, int, float]:
    """Real ones of source and target; and how many of the source a target token looks at, in the mean."""
    source, target = (sum(int(np.count_nonzero(side != PAD)) for side in sides) for sides in zip(*batches, strict=True))
    lengths = [[np.count_nonzero(side != PAD, axis=1) for side in batch] for batch in batches]
    return source, target, sum(float((src * tgt).sum()) for src, tgt in lengths) / target


def _shape(batch: Any) -> Any:
    return tuple(side.shape for side in batch)


def _peak_memory(devices: Devices) -> int:
    """The most that was in use at once: on an accelerator its own memory, else the process'."""
    stats = devices.mesh.devices.flat[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _interleaved(works: list[Callable[[], Any]], rounds: int) -> tuple[float, float, float]:
    """Medians of the seconds of each work, and of the matrix product's FLOP/s, measured in turn."""
    seconds: list[list[float]] = [[] for _ in works]
    products = []
    for _ in range(rounds):
        products.append(measure_products(1))
        for kept, work in zip(seconds, works, strict=True):
            kept.append(measure(work))
    train, decode = (statistics.median(kept) for kept in seconds)
    return train, decode, statistics.median(products)
