"""The kernels of a whole layer, interpreted on the CPU: against loops in float64, and a model against the scan."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from flax_s2s.config import PAD, TILE, Config, ModelConfig, OptimizerConfig
from flax_s2s.data.batching import Batch
from flax_s2s.model import kernels, lstm, together
from flax_s2s.model.cells import RecurrentLayer, State
from flax_s2s.model.lstm import unroll
from flax_s2s.model.noise import Noise
from flax_s2s.model.seq2seq import make_model
from flax_s2s.runtime.parallel import feed_all, feed_rows, make_devices
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import create_state
from flax_s2s.training.step import make_train_step

FLOAT32, BFLOAT16 = 1e-5, 3e-2
PARAMS, STATES = ("kernel_in", "kernel_rec", "bias"), ("outputs", "hidden", "cell")
DIRECTIONS = {"forwards": [False], "backwards": [True], "both": [False, True]}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Pallas' interpreter runs a grid's programs one after the other, and each in order: it has no barrier, and needs none."""
    calls = []

    def call(kernel, **how):
        calls.append(how["name"])
        return interpret(kernel, **how, interpret=True)

    interpret = kernels.pl.pallas_call
    monkeypatch.setattr(kernels.pl, "pallas_call", call)
    monkeypatch.setattr(kernels.triton, "debug_barrier", lambda: None)
    return calls


def draw(size, directions, mask, dropping, seed):
    """Arguments of a layer with these directions, what it is asked for, real positions, and what hidden states are multiplied with."""
    rows, steps, inputs, hidden = size
    draws = np.random.default_rng(seed)
    shapes = {"inputs": (rows, steps, inputs)}
    for number in range(directions):
        of_one = {"kernel_in": (inputs, 4 * hidden), "kernel_rec": (hidden, 4 * hidden), "bias": (4 * hidden,)}
        of_one |= {"hidden": (rows, hidden), "cell": (rows, hidden)}
        shapes |= {f"{name} {number}": shape for name, shape in of_one.items()}
    arrays = {name: 0.5 * draws.normal(size=shape) for name, shape in shapes.items()}
    asked = [draws.normal(size=(rows, steps, directions * hidden)), *(draws.normal(size=(rows, directions * hidden)) for _ in range(2))]
    real = {
        "none": None,
        "lengths": np.arange(steps)[None] < draws.integers(0, steps + 1, (rows, 1)),
        "holes": draws.random((rows, steps)) < 0.5,
    }
    keep = draws.choice([0, 1.5], (directions, rows, hidden)) if dropping else [None] * directions
    return arrays, dict(zip(STATES, asked, strict=True)), real[mask], keep


def layers_of(arrays, directions):
    inputs, hidden = arrays["kernel_in 0"].shape[0], arrays["kernel_rec 0"].shape[0]
    made = nnx.eval_shape(lambda: RecurrentLayer(inputs, hidden, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)))
    return [nnx.merge(nnx.graphdef(made), {name: arrays[f"{name} {number}"] for name in PARAMS}) for number in range(directions)]


def side_by_side(arrays, directions, name):
    return jnp.concatenate([arrays[f"{name} {number}"] for number in range(directions)], axis=-1)


def by_kernels(directions, dtype, mask, keep, arrays):
    mask, keep = jax.tree.map(jnp.asarray, (mask, list(keep)))
    count, noises = len(directions), [Noise(one, None) for one in keep]
    initial = State(side_by_side(arrays, count, "hidden").astype(dtype), side_by_side(arrays, count, "cell"))
    outputs, final = together.read(layers_of(arrays, count), arrays["inputs"].astype(dtype), mask, initial, directions[0], "pallas", noises)
    return dict(zip(STATES, (outputs, *final), strict=True))


def by_scan(directions, dtype, mask, keep, arrays):
    mask, keep = jax.tree.map(jnp.asarray, (mask, list(keep)))
    read = [
        unroll(
            layer,
            arrays["inputs"].astype(dtype),
            mask,
            State(arrays[f"hidden {number}"], arrays[f"cell {number}"]),
            directions[number],
            noise=Noise(keep[number], None),
        )
        for number, layer in enumerate(layers_of(arrays, len(directions)))
    ]
    outputs, final = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *read)
    return dict(zip(STATES, (outputs, *final), strict=True))


def by_loops(directions, mask, keep, arrays):
    read = []
    for number, reverse in enumerate(directions):
        own = {name: arrays[f"{name} {number}"] for name in (*PARAMS, "hidden", "cell")}
        read.append(reference.layer(arrays["inputs"], mask=mask, reverse=reverse, keep=keep[number], **own))
    return {name: np.concatenate(parts, axis=-1) for name, *parts in zip(STATES, *read, strict=True)}


def returned_and_gradients(layer_fn, asked, arrays):
    """What the layer returns, and the gradients of `sum(asked * returned)`, all of it as one program."""

    def loss(arrays):
        found = layer_fn(arrays)
        return sum(jnp.sum(asked[name].astype(np.float32) * found[name].astype(jnp.float32)) for name in STATES), found

    gradients, found = jax.jit(jax.grad(loss, has_aux=True))({name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()})
    return found | gradients


def assert_same(got, want, tolerance):
    assert set(got) == set(want)
    for name in want:
        assert reference.error(got[name], want[name]) <= tolerance, name


@pytest.mark.parametrize(
    ("directions", "mask", "dropping"),
    [("forwards", "none", False), ("backwards", "lengths", False), ("forwards", "holes", True), ("both", "lengths", True)],
)
def test_layer_and_all_gradients_match_loops_in_float64(interpreted, directions, mask, dropping):
    directions = DIRECTIONS[directions]
    arrays, asked, real, keep = draw((2, 3, 2, TILE), len(directions), mask, dropping, len(directions))
    got = returned_and_gradients(partial(by_kernels, directions, "float32", real, keep), asked, arrays)
    assert set(interpreted) == {"lstm_forward", "lstm_backward"}

    def loss(**parts):
        moved = {name: arrays[name] + 0 for name in parts}
        for name, part in parts.items():
            moved[name][rows_of(name)] = part
        found = by_loops(directions, real, keep, arrays | moved)
        return sum(np.sum(asked[name] * found[name]) for name in STATES)

    def rows_of(name):  # of a recurrent kernel some
        return [0, TILE // 2 - 1, TILE - 1] if name.startswith("kernel_rec") else slice(None)

    want = reference.gradients(loss, {name: array[rows_of(name)] for name, array in arrays.items()})
    assert_same(
        {name: np.asarray(part)[rows_of(name)] for name, part in got.items()}, by_loops(directions, real, keep, arrays) | want, FLOAT32
    )


# Rows, steps, inputs, units: rows that are no multiple of a program's, several programs, several tiles; and the least of all.
SIZES = {"three tiles": (5, 4, 3, 3 * TILE), "two programs": (17, 5, 6, TILE), "full ones": (32, 3, 4, TILE), "one step": (1, 1, 1, TILE)}


@pytest.mark.parametrize(
    ("size", "directions", "mask", "dropping"),
    [
        ("three tiles", "both", "lengths", True),
        ("two programs", "forwards", "lengths", False),
        ("two programs", "both", "holes", True),
        ("full ones", "backwards", "holes", False),
        ("full ones", "forwards", "none", True),
        ("one step", "backwards", "none", False),
    ],
)
def test_any_size_is_the_same_as_by_the_scan(size, directions, mask, dropping):
    arrays, asked, real, keep = draw(SIZES[size], len(DIRECTIONS[directions]), mask, dropping, 0)
    got, want = (
        returned_and_gradients(partial(layer_fn, DIRECTIONS[directions], "float32", real, keep), asked, arrays)
        for layer_fn in (by_kernels, by_scan)
    )
    assert_same(got, want, FLOAT32)


@pytest.mark.parametrize("directions", ["backwards", "both"])
def test_bfloat16_stays_near_the_scan_in_float32_and_keeps_its_types(directions):
    arrays, asked, real, keep = draw((17, 5, 6, TILE), len(DIRECTIONS[directions]), "lengths", False, 0)
    got = returned_and_gradients(partial(by_kernels, DIRECTIONS[directions], "bfloat16", real, keep), asked, arrays)
    assert_same(got, returned_and_gradients(partial(by_scan, DIRECTIONS[directions], "float32", real, keep), asked, arrays), BFLOAT16)
    narrow = returned_and_gradients(partial(by_scan, DIRECTIONS[directions], "bfloat16", real, keep), asked, arrays)
    assert {name: part.dtype for name, part in got.items()} == {name: part.dtype for name, part in narrow.items()}


def test_a_layer_is_two_kernels_whatever_its_steps_and_directions(interpreted):
    arrays, asked, real, keep = draw((3, 40, 2, TILE), 2, "lengths", False, 0)
    returned_and_gradients(partial(by_kernels, [False, True], "float32", real, keep), asked, arrays)
    assert interpreted == ["lstm_forward", "lstm_backward"]


@pytest.mark.parametrize("directions", ["forwards", "backwards"])
def test_what_is_kept_for_the_gradient_is_what_the_scan_keeps(directions):
    """Per row and step: 4 gates, hidden state and cell; besides them the inputs and the mask."""
    rows, steps, inputs, hidden = 16, 7, 2, TILE
    arrays, _, real, keep = draw((rows, steps, inputs, hidden), 1, "lengths", False, 0)
    kept = []
    for layer_fn in (by_kernels, by_scan):
        run = partial(layer_fn, DIRECTIONS[directions], "float32", real, keep)
        _, pull_back = jax.vjp(run, {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()})
        leaves = {leaf.unsafe_buffer_pointer(): leaf for leaf in jax.tree.leaves(pull_back)}
        kept.append(sum(leaf.nbytes for leaf in leaves.values() if leaf.shape[:2] in ((rows, steps), (steps, rows))))
    assert kept == [rows * steps * (4 * (inputs + 6 * hidden) + 1)] * 2


MODEL = ModelConfig(embedding_size=8, hidden_size=2 * TILE, dropout=0.25, recurrent_dropout=0.25, compute="float32")
VOCAB, ROWS = 11, 8


def test_a_train_step_is_the_same_as_by_the_scan_on_any_number_of_devices(monkeypatch, interpreted):
    monkeypatch.setattr(lstm, "_by_nvidia", lambda device: True)
    monkeypatch.setattr(type(jax.devices()[0]), "compute_capability", "8.0", raising=False)
    draws = np.random.default_rng(0)
    batch = Batch(*(draws.integers(4, VOCAB, (ROWS, length)).astype(np.int32) for length in (5, 6)))
    batch.src_ids[: ROWS // 2, 3:] = PAD
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=0.0)  # the parameters move by minus the gradient

    def moved(kernel, count):
        config = Config(model=replace(MODEL, kernel=kernel), optimizer=sgd)
        devices, optimizer = make_devices(count, {}), make_optimizer(config.optimizer)
        step = make_train_step(make_model(config.model, VOCAB, VOCAB), optimizer, config, devices)
        state = create_state(config, (VOCAB, VOCAB), optimizer, devices)
        before = jax.tree.map(np.array, state.params)
        state, update = step(state, feed_rows(devices, batch), feed_all(devices, np.array([0, 1], np.int32)))
        return jax.tree.map(np.asarray, update), jax.tree.map(lambda old, new: np.asarray(new) - old, before, state.params)

    want = moved("scan", 1)
    assert not interpreted
    for count in (1, 8):
        interpreted.clear()
        found = moved("pallas", count)
        assert (
            interpreted == ["lstm_forward"] * 2 + ["lstm_backward"] * 2
        )  # of the encoder's layer, in both directions, and of the decoder's
        for one, other in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5, rtol=1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want[1])) > 1e-2
