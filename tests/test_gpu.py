"""Every preset's programs compiled for NVIDIA GPUs, ahead of time and without one: what they launch, send and need.

Nothing here has run on a GPU. Times, and which kernel cuBLASLt or Triton would take for a product, cannot be known so.
"""

import functools

import gpus
import pytest
from ahead import LENGTH, PRESETS, describe, lower_search, needed_bytes, train_step
from hlo import collectives, computations, host_transfers, inside_loops

from flax_s2s.presets import load_preset
from flax_s2s.training.state import count_parameters

if gpus.missing():
    pytest.skip(f"not installed: {', '.join(gpus.missing())}; see tests/run.sh --gpu-aot", allow_module_level=True)

BYTES = 80 * 10**9  # memory of an A100 or H100
UNROLLED = 8  # steps of a layer that are one of its loop
MOST = 4.5  # launches of one of those: 3.5, but where XLA copies hidden states one by one (GNMT's decoder on 8 GPUs)
MOST_ELSE = 6  # where rows are no multiple of 8, which cuBLAS' tensor cores want: a product is padded, and cut after it; or in a toy
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


def others_over_time(config):
    """Loops over time besides: with input feeding the decoder, with hard attention the loss."""
    return _feeds(config) + config.hard


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
    parts = len(launches.loops) + len(sent) + 1  # what lies between loops, which an all-reduce may part once more
    assert launches.graphs <= sum(loop.trips for loop in launches.loops if loop.graphs) + parts
    over_time = [loop for loop in launches.loops if loop.trips == LENGTH // UNROLLED or loop.trips == LENGTH]
    layers = [loop for loop in over_time if loop.trips == LENGTH // UNROLLED and loop.step["product"] == UNROLLED]
    assert len(layers) == 2 * layers_by_themselves(what.config.model)
    rows = arguments[1][0].shape[0] // count
    assert all(loop.step.total() <= (MOST_ELSE if rows % 8 or what.config.model.hidden_size < 64 else MOST) * UNROLLED for loop in layers)
    assert sum(loop.trips == LENGTH and loop.step["product"] > 0 for loop in over_time) == 2 * others_over_time(what.config.model)
    assert launches_of_update.graphs + launches_of_update.single == 1
    assert not launches_of_update.loops


@pytest.mark.parametrize(
    ("preset", "count"), [("multi30k_en_de", 1), *(pytest.param("gnmt_wmt16_en_de", count, marks=pytest.mark.slow) for count in (1, 8))]
)
def test_a_train_step_as_one_graph(preset, count):
    what = describe(PRESETS[0].with_stem(preset), gpus_of("sm_90", count), whole_graphs=True)
    step, arguments = train_step(what)
    _, launches = gpus.compiled(step.lower_gradients(*arguments))
    assert (launches.graphs, launches.single) == (1, 0)


CUDNN = [
    path
    for path in PRESETS
    if not any((config := load_preset(str(path)).model).__dict__[name] for name in ("recurrent_dropout", "zoneout"))
]


@pytest.mark.parametrize(
    "preset",
    [pytest.param(path, marks=() if path.stem in ("debug", "sutskever_reversed") else pytest.mark.slow) for path in CUDNN],
    ids=lambda path: path.stem,
)
def test_by_cudnn(monkeypatch, preset):
    gpus.pretend_cudnn(monkeypatch)
    what = describe(preset, gpus_of("sm_90", 1), "float32", "cudnn")
    step, arguments = train_step(what)
    program, launches = gpus.compiled(step.lower_gradients(*arguments))
    model = what.config.model
    calls = layers_by_themselves(model) - min(model.encoder_layers, model.bidirectional_layers)  # both directions of a layer are one
    text = program.as_text()
    assert text.count('custom_call_target="cudnn_rnn_ffi"') == text.count('custom_call_target="cudnn_rnn_bwd_ffi"') == calls
    assert not any(loop.trips == LENGTH // UNROLLED and loop.step["product"] == UNROLLED for loop in launches.loops)
    assert sum(loop.trips == LENGTH and loop.step["product"] > 0 for loop in launches.loops) == 2 * others_over_time(what.config.model)


@pytest.mark.parametrize(("preset", "kind", "count"), CASES)
def test_the_beam_search(preset, kind, count):
    program, launches = gpus.compiled(lower_search(describe(preset, gpus_of(kind, count))))
    text = program.as_text()
    assert not collectives(text)
    assert not host_transfers(text)
    assert needed_bytes(program) < BYTES
    check_products(text)
    search, steps = launches.loops[:2]
    # The host waits at every fourth step, and counts; a second loop, for who asks for fewer steps, comes after it.
    assert (search.trips, search.step.total() <= 2, steps.trips, steps.graphs) == (None, True, 4, 1)
