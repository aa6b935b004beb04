"""How the layer is handed to cuDNN: its place is taken by jax's own definition of what cuDNN computes."""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from jax.experimental import rnn

from flax_s2s.config import ModelConfig, UserError
from flax_s2s.model import lstm, together
from flax_s2s.model.cells import RecurrentLayer, State
from flax_s2s.model.lstm import choose_means, unroll
from flax_s2s.model.noise import Noise
from flax_s2s.runtime import processor

ROWS, TIME, INPUTS, HIDDEN = 4, 6, 3, 5
LENGTHS = np.array([6, 3, 1, 0])  # the last row is filler


def by_definition(x, h_0, c_0, weights, seq_lengths, input_size, hidden_size, num_layers, dropout, bidirectional):
    assert bool((seq_lengths > 0).all()) or isinstance(seq_lengths, jax.core.Tracer)  # cuDNN takes no empty row
    unpacked = rnn.unpack_lstm_weights(weights, input_size, hidden_size, num_layers, bidirectional)
    return rnn.lstm_ref(x, h_0, c_0, *unpacked, seq_lengths, input_size, hidden_size, num_layers, dropout, bidirectional)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_layer_and_all_gradients_match_the_reference(monkeypatch, masked, reverse):
    monkeypatch.setattr(rnn, "lstm", by_definition)
    draws = np.random.default_rng(0)
    shapes = {"inputs": (ROWS, TIME, INPUTS), "kernel_in": (INPUTS, 4 * HIDDEN), "kernel_rec": (HIDDEN, 4 * HIDDEN), "bias": (4 * HIDDEN,)}
    shapes |= {"hidden": (ROWS, HIDDEN), "cell": (ROWS, HIDDEN)}
    arrays = {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    mask = np.arange(TIME)[None, :] < LENGTHS[:, None] if masked else None
    real = np.ones((ROWS, TIME), bool) if mask is None else mask
    asked = {name: draws.normal(size=shape) for name, shape in (("outputs", (ROWS, TIME, HIDDEN)), ("hidden", (ROWS, HIDDEN)))}
    asked |= {"cell": draws.normal(size=(ROWS, HIDDEN))}
    asked["outputs"] *= real[:, :, None]  # at padding there is nothing to rely on

    def ours(arrays):
        graph, state = nnx.split(RecurrentLayer(INPUTS, HIDDEN, forget_bias=1.0, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)))
        nnx.replace_by_pure_dict(state, {name: arrays[name] for name in ("kernel_in", "kernel_rec", "bias")})
        initial = State(arrays["hidden"], arrays["cell"])
        given = None if mask is None else jnp.asarray(mask)
        outputs, final = unroll(nnx.merge(graph, state), arrays["inputs"], given, initial, reverse, "cudnn")
        return {"outputs": outputs, **final._asdict()}

    def loss(arrays):
        found = ours(arrays)
        return sum(jnp.sum(asked[name].astype(np.float32) * found[name]) for name in asked), found

    gradients, found = jax.grad(loss, has_aux=True)({name: jnp.asarray(array) for name, array in arrays.items()})
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}

    def literal(**arrays):
        return dict(zip(("outputs", "hidden", "cell"), reference.layer(**arrays, mask=mask, reverse=reverse), strict=True))

    want = literal(**exact)
    assert reference.error(np.asarray(found["outputs"])[real], want["outputs"][real]) <= 1e-5
    for name in ("hidden", "cell"):
        assert reference.error(found[name], want[name]) <= 1e-5
    for name, gradient in reference.gradients(lambda **a: sum(np.sum(asked[n] * literal(**a)[n]) for n in asked), exact).items():
        assert reference.error(gradients[name], gradient) <= 1e-5, name


@pytest.mark.parametrize("masked", [False, True])
def test_both_directions_are_one_call(monkeypatch, masked):
    calls = []

    def counted(*arguments):
        calls.append(arguments[-1])
        return by_definition(*arguments)

    draws = np.random.default_rng(1)
    layers = [RecurrentLayer(INPUTS, HIDDEN, kernel_init=nnx.initializers.normal(), rngs=nnx.Rngs(seed)) for seed in range(2)]
    inputs = jnp.asarray(draws.normal(size=(ROWS, TIME, INPUTS)), jnp.float32)
    initial = State(*(jnp.asarray(draws.normal(size=(ROWS, 2 * HIDDEN)), jnp.float32) for _ in range(2)))
    mask = jnp.asarray(np.arange(TIME)[None, :] < LENGTHS[:, None]) if masked else None
    asked = jnp.asarray(draws.normal(size=(ROWS, TIME, 2 * HIDDEN)), jnp.float32) * (1 if mask is None else mask[:, :, None])

    def loss(params, inputs, initial, read):
        found, final = read([nnx.merge(graph, part) for (graph, _), part in zip(parts, params, strict=True)], inputs, initial)
        return jnp.sum(asked * found) + jnp.sum(final.hidden**2) + jnp.sum(final.cell), (found, final)

    def by_cudnn(layers, inputs, initial):
        return together.read(layers, inputs, mask, initial, False, "cudnn", [Noise(None, None)] * 2)

    def by_scan(layers, inputs, initial):
        states = [State(*pair) for pair in zip(*(jnp.split(part, 2, axis=-1) for part in initial), strict=True)]
        read = [unroll(layer, inputs, mask, first, bool(number)) for number, (layer, first) in enumerate(zip(layers, states, strict=True))]
        return jax.tree.map(lambda *both: jnp.concatenate(both, axis=-1), *read)

    parts = [nnx.split(layer) for layer in layers]
    monkeypatch.setattr(rnn, "lstm", counted)
    results = [
        jax.grad(loss, argnums=(0, 1, 2), has_aux=True)([state for _, state in parts], inputs, initial, read)
        for read in (by_cudnn, by_scan)
    ]
    assert calls == [True]
    real = np.ones((ROWS, TIME), bool) if mask is None else np.asarray(mask)
    (gradients, (outputs, final)), (want_gradients, (want_outputs, want_final)) = results
    assert reference.error(np.asarray(outputs)[real], np.asarray(want_outputs)[real]) <= 1e-5
    for got, want in zip(jax.tree.leaves((gradients, final)), jax.tree.leaves((want_gradients, want_final)), strict=True):
        assert reference.error(got, want) <= 1e-5


class Device(NamedTuple):
    platform: str
    device_kind: str
    compute_capability: str = ""


CPU, TPU, MI300X = Device("cpu", "cpu"), Device("tpu", "TPU v5 lite"), Device("gpu", "AMD Instinct MI300X", "9.4")
H200, V100 = Device("gpu", "NVIDIA H200", "9.0"), Device("gpu", "Tesla V100 NVIDIA", "7.0")


@pytest.mark.parametrize(
    ("device", "kernel", "compute", "chosen"),
    [
        (CPU, "auto", "auto", "scan, float32"),
        (CPU, "auto", "bfloat16", "scan, bfloat16"),
        (TPU, "auto", "auto", "scan, bfloat16"),
        (TPU, "auto", "float32", "scan, float32"),
        (H200, "auto", "auto", "scan, bfloat16"),
        (H200, "auto", "float32", "cudnn, float32"),
        (H200, "auto", "bfloat16", "scan, bfloat16"),
        (H200, "scan", "float32", "scan, float32"),
        (H200, "cudnn", "auto", "cudnn, float32"),
        (H200, "pallas", "auto", "pallas, bfloat16; compiled for this kind of device, measured on none"),
        (H200, "pallas", "float32", "pallas, float32; compiled for this kind of device, measured on none"),
        (V100, "auto", "auto", "cudnn, float32"),
        (MI300X, "auto", "auto", "scan, float32"),
    ],
)
def test_the_device_chooses_kernel_and_type_where_nothing_else_is_asked(monkeypatch, device, kernel, compute, chosen):
    monkeypatch.setattr(lstm.jax, "devices", lambda: [device])
    assert str(choose_means(ModelConfig(kernel=kernel, compute=compute))) == chosen


OTHERS = [{"cell": "gru"}, {"cell": "layer_norm_lstm"}, {"recurrent_dropout": 0.1}, {"zoneout": 0.1}]


@pytest.mark.parametrize("fields", OTHERS, ids=str)
def test_what_cudnn_does_not_compute_is_not_given_to_it(monkeypatch, fields):
    monkeypatch.setattr(lstm.jax, "devices", lambda: [H200])
    assert str(choose_means(ModelConfig(compute="float32", **fields))) == "scan, float32"
    with pytest.raises(UserError, match=r"^model\.kernel=cudnn computes model\.cell=lstm without .*, got .*; use model\.kernel=auto$"):
        choose_means(ModelConfig(kernel="cudnn", **fields))


@pytest.mark.parametrize("kernel", ["cudnn", "pallas"])
@pytest.mark.parametrize("device", [CPU, TPU, MI300X])
def test_what_is_of_nvidia_is_refused_elsewhere(monkeypatch, device, kernel):
    monkeypatch.setattr(lstm.jax, "devices", lambda: [device])
    with pytest.raises(UserError, match=rf"^model\.kernel={kernel} needs an NVIDIA GPU, got .*; use model\.kernel=auto$"):
        choose_means(ModelConfig(kernel=kernel))


def test_pallas_is_refused_on_gpus_that_it_was_not_compiled_for(monkeypatch):
    monkeypatch.setattr(lstm.jax, "devices", lambda: [V100])
    with pytest.raises(UserError, match=r"^model\.kernel=pallas is compiled for compute capability 8\.0 and above, got .* 7\.0; use model"):
        choose_means(ModelConfig(kernel="pallas"))


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_with_instructions_for_it_computes_in_bfloat16(monkeypatch, feature):
    monkeypatch.setattr(processor, "features", lambda: f"flags\t\t: fpu avx512f {feature} sse2")
    assert str(choose_means(ModelConfig())) == "scan, bfloat16"
    assert str(choose_means(ModelConfig(compute="float32"))) == "scan, float32"


def test_every_kernel_can_be_asked_for():
    assert {"auto", *get_args(lstm.Kernel)} == set(get_args(ModelConfig.__annotations__["kernel"]))
