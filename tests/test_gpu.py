"""Every preset's programs compiled for NVIDIA GPUs, ahead of time and without one: what they launch, send and need.

Nothing here has run on a GPU. Times, and which kernel cuBLASLt or Triton would take for a product, cannot be known so.
"""

import functools

import gpus
import pytest
from ahead import LENGTH, PRESETS, describe, lower_search, needed_bytes, train_step
from hlo import collectives, computations, host_transfers, inside_loops

from flax_s2s.training.state import count_parameters

if gpus.missing():
    pytest.skip(f"not installed: {', '.join(gpus.missing())}; see tests/run.sh --gpu-aot", allow_module_level=True)

BYTES = 80 * 10**9  # memory of an A100 or H100
MOST = 8  # launches of a step of a layer
# What is compiled where there is little time: one model with input feeding, one without, one without attention.
QUICK = {("multi30k_en_de", "sm_90", 1), ("transliteration", "sm_90", 8), ("sutskever_reversed", "sm_90", 1)}
MACHINES = [("sm_90", 1), ("sm_90", 8)]
OTHERS = [(preset, kind, 1) for preset in ("gnmt_wmt16_en_de", "multi30k_en_de") for kind in ("sm_80", "sm_100")]
CASES = [
    pytest.param(path, kind, count, id=f"{path.stem}-{kind}-{count}", marks=() if (path.stem, kind, count) in QUICK else pytest.mark.slow)
    for path in PRESETS
    for kind, count in [*MACHINES, *((kind, count) for preset, kind, count in OTHERS if preset == path.stem)]
]

pytestmark = pytest.mark.gpu_aot


@functools.cache
def gpus_of(kind, count):
    return gpus.gpus(kind, count)


def layers_by_themselves(config):
    """Layers and directions that have a loop of their own; with input feeding the decoder's are one loop."""
    encoder = config.encoder_layers + min(config.encoder_layers, config.bidirectional_layers)
    return encoder + (0 if _feeds(config) else config.decoder_layers)


def loops_over_time(config):
    """How many there are in one direction of the gradient; with hard attention the loss is one."""
    return layers_by_themselves(config) + _feeds(config) + config.hard


def _feeds(config):
    return config.input_feeding and config.attention != "none"


def check_products(text):
    assert "__cublas$lt$matmul" in text
    assert " dot(" not in text


@pytest.mark.parametrize(("preset", "kind", "count"), CASES)
def test_the_train_step(preset, kind, count):
    what = describe(preset, gpus_of(kind, count))
    step, arguments = train_step(what)
    lowered = step.lower_gradients(*arguments)
    program, launches = gpus.compiled(lowered)
    update, launches_of_update = gpus.compiled(step.lower_update(lowered, arguments[0], arguments[2]))
    text = program.as_text()
    assert inside_loops(computations(text))
    sent = collectives(text)
    assert {(one.kind, one.inside_loop) for one in sent} == ({("all-reduce", False)} if count > 1 else set())
    assert sum(one.bytes for one in sent) == (4 * count_parameters(what.state.params) + 4 * 3 if count > 1 else 0)
    assert not collectives(update.as_text())
    assert not host_transfers(text) + host_transfers(update.as_text())
    assert needed_bytes(program) + needed_bytes(update) < BYTES  # as if no byte were in both
    check_products(text)

    assert all(loop.trips for loop in launches.loops)  # so the host waits for none of them
    assert all(loop.graphs <= 1 for loop in launches.loops)
    over_time = [loop for loop in launches.loops if loop.trips == LENGTH and loop.step["product"]]
    assert len(over_time) == 2 * loops_over_time(what.config.model)
    assert launches_of_update.graphs + launches_of_update.single == 1
    assert not launches_of_update.loops
    layers = [loop for loop in over_time if loop.step["product"] == 1 and loop.step.total() <= MOST]
    assert len(layers) >= 2 * layers_by_themselves(what.config.model)


@pytest.mark.parametrize(("preset", "kind", "count"), CASES)
def test_the_beam_search(preset, kind, count):
    program, launches = gpus.compiled(lower_search(describe(preset, gpus_of(kind, count))))
    text = program.as_text()
    assert not collectives(text)
    assert not host_transfers(text)
    assert needed_bytes(program) < BYTES
    check_products(text)
    assert launches.loops[0].graphs == 1
