"""The recurrent layer against loops in float64, against torch.nn.LSTM, and what its own gradient promises."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from jax import lax
from jaxprs import carries, equations

from flax_s2s.config import ModelConfig
from flax_s2s.model import cells
from flax_s2s.model.cells import RecurrentLayer, State, Zones, zero_state
from flax_s2s.model.encoder import Encoder
from flax_s2s.model.lstm import project, unroll
from flax_s2s.model.noise import Noise

FLOAT32, BFLOAT16 = 1e-5, 3e-2  # largest error, as a share of the largest entry
INPUTS, STATES = ("inputs", "kernel_in", "kernel_rec", "bias", "hidden", "cell"), ("outputs", "hidden", "cell")
SIZES = {"rows3": (3, 5, 2, 4), "narrow": (2, 7, 5, 1), "one": (1, 1, 1, 2)}  # rows, steps, inputs, hidden


def draw(size, seed):
    """A layer's arguments, a mask, and the weights of the scalar loss whose gradient is taken."""
    rows, steps, inputs, hidden = size
    draws = np.random.default_rng(seed)
    shapes = [(rows, steps, inputs), (inputs, 4 * hidden), (hidden, 4 * hidden), (4 * hidden,), (rows, hidden), (rows, hidden)]
    arrays = {name: draws.normal(size=shape).astype(np.float32) for name, shape in zip(INPUTS, shapes, strict=True)}
    asked = {
        name: draws.normal(size=shape).astype(np.float32) for name, shape in zip(STATES, [(rows, steps, hidden), *shapes[4:]], strict=True)
    }
    lengths = draws.integers(0, steps + 1, rows)  # 0 is a filler row
    return arrays, np.arange(steps)[None, :] < lengths[:, None], asked


@cache
def graph(inputs, hidden, kind, zoneout):
    how = {"cell": kind, "zoneout": zoneout, "kernel_init": nnx.initializers.zeros}
    return nnx.graphdef(nnx.eval_shape(lambda: RecurrentLayer(inputs, hidden, **how, rngs=nnx.Rngs(params=0))))


def make_layer(kernel_in, kernel_rec, bias, kind="lstm", zoneout=0.0, **more):
    params = {"kernel_in": kernel_in, "kernel_rec": kernel_rec, "bias": bias, **more}
    return nnx.merge(graph(kernel_in.shape[0], kernel_rec.shape[0], kind, zoneout), params)


def ours(arrays, mask, reverse, dtype="float32", recompute=False, keep=None, kind="lstm", zoneout=0.0, zones=None):
    params = {name: array for name, array in arrays.items() if name not in ("inputs", "hidden", "cell")}
    layer = make_layer(**params, kind=kind, zoneout=zoneout)
    initial = State(arrays["hidden"], arrays["cell"]) if "hidden" in arrays else None
    outputs, final = unroll(layer, arrays["inputs"].astype(dtype), mask, initial, reverse, recompute=recompute, noise=Noise(keep, zones))
    return dict(zip(STATES, (outputs, *final), strict=True))


def plain_cell(sums, state):
    """The equations, for jax to differentiate."""
    i, f, g, o = jnp.split(sums, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return State((jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(state.hidden.dtype), cell)


def naive(arrays, mask, reverse, dtype="float32"):
    """The same layer as a Python loop that jax differentiates by itself."""
    state, outputs = State(arrays["hidden"].astype(dtype), arrays["cell"]), {}
    kernel_rec = arrays["kernel_rec"].astype(dtype)
    steps = range(arrays["inputs"].shape[1])
    for step in reversed(steps) if reverse else steps:
        recurrent = jnp.matmul(state.hidden, kernel_rec, preferred_element_type=jnp.float32)
        new = plain_cell(project(arrays["kernel_in"], arrays["bias"], arrays["inputs"][:, step].astype(dtype)) + recurrent, state)
        real = True if mask is None else mask[:, step, None]
        state = State(*(jnp.where(real, n, o) for n, o in zip(new, state, strict=True)))
        outputs[step] = state.hidden
    return dict(zip(STATES, (jnp.stack([outputs[step] for step in steps], axis=1), *state), strict=True))


@partial(jax.jit, static_argnums=(0, 1, 2))
def returned_and_gradients(layer_fn, reverse, dtype, arrays, mask, asked):
    def loss(arrays):
        found = layer_fn(arrays, mask, reverse, dtype)
        return sum(jnp.sum(asked[name] * found[name].astype(jnp.float32)) for name in STATES), found

    gradients, found = jax.grad(loss, has_aux=True)(arrays)
    return found, gradients


def evaluate(arrays, mask, asked, reverse=False, dtype="float32", layer_fn=ours):
    """What the layer returns, and the gradient of `sum(asked * returned)` with respect to every argument."""
    return returned_and_gradients(layer_fn, reverse, dtype, arrays, mask, asked)


def expected(arrays, mask, asked, reverse, **how):
    """The same from the reference."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def loss(**arrays):
        found = reference.layer(**arrays, mask=mask, reverse=reverse, **how)
        return sum(np.sum(asked[name] * part) for name, part in zip(STATES, found, strict=True))

    returned = reference.layer(**arrays, mask=mask, reverse=reverse, **how)
    return dict(zip(STATES, returned, strict=True)), reference.gradients(loss, arrays)


def assert_same(got, want, tolerance):
    for name in want:
        assert reference.error(got[name], want[name]) <= tolerance, name


@pytest.mark.parametrize(
    ("size", "masked", "reverse"),
    [*(("rows3", masked, reverse) for masked in (False, True) for reverse in (False, True)), ("narrow", True, True), ("one", True, False)],
)
def test_layer_and_all_gradients_match_the_reference(size, masked, reverse):
    for seed in range(3):
        arrays, mask, asked = draw(SIZES[size], seed)
        if seed == 2:
            mask = np.random.default_rng(seed).random(mask.shape) < 0.5  # holes anywhere, not only at the end
        mask = mask if masked else None
        found, gradients = evaluate(arrays, mask, asked, reverse=reverse)
        want, want_gradients = expected(arrays, mask, asked, reverse)
        assert_same(found, want, FLOAT32)
        assert_same(gradients, want_gradients, FLOAT32)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_hidden_state_is_masked_on_its_way_to_the_next_step(reverse, recompute):
    for seed in range(3):
        arrays, mask, asked = draw(SIZES["rows3"], seed)
        keep = np.random.default_rng(seed).choice(np.float32([0, 1.5]), arrays["hidden"].shape)
        dropping = partial(ours, recompute=recompute, keep=jnp.asarray(keep))
        found, gradients = evaluate(arrays, mask, asked, reverse=reverse, layer_fn=dropping)
        want, want_gradients = expected(arrays, mask, asked, reverse, keep=keep)
        assert_same(found, want, FLOAT32)
        assert_same(gradients, want_gradients, FLOAT32)
        assert reference.error(found["outputs"], expected(arrays, mask, asked, reverse)[0]["outputs"]) > 1e-3


CELLS = ["lstm", "layer_norm_lstm", "gru"]
NOISES = ["none", "zoneout in decoding", "zoneout in training", "recurrent dropout"]


def draw_cell(kind, size, seed):
    """The same for any cell; a gru has one state, which comes as two that are equal."""
    arrays, mask, asked = draw(size, seed)
    draws, hidden = np.random.default_rng([seed, 1]), size[3]
    if kind == "gru":
        arrays |= {name: arrays[name][:, : 3 * hidden] for name in ("kernel_in", "kernel_rec")} | {"hidden": arrays["cell"]}
        asked |= {"hidden": np.zeros_like(asked["hidden"])}
    if kind == "layer_norm_lstm":
        shapes = {"gain": 4 * hidden, "cell_gain": hidden, "cell_bias": hidden}
        arrays |= {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return arrays, mask, asked


def draw_noise(noise, size, seed):
    rows, steps, _, hidden = size
    draws = np.random.default_rng([seed, 2])
    if noise == "recurrent dropout":
        return {"keep": draws.choice(np.float32([0, 1.5]), (rows, hidden))}
    zones = Zones(*(draws.random((rows, steps, hidden)) < 0.5 for _ in range(2))) if noise == "zoneout in training" else None
    return {} if noise == "none" else {"zoneout": 0.25, "zones": zones}


def compare_with_the_reference(kind, noise, reverse, tolerance, dtype="float32", recompute=False):
    for seed in range(2):
        arrays, mask, asked = draw_cell(kind, SIZES["rows3"], seed)
        how = {"kind": kind, **draw_noise(noise, SIZES["rows3"], seed)}
        on_device = {name: part if name in ("kind", "zoneout") else jax.tree.map(jnp.asarray, part) for name, part in how.items()}
        layer_fn = partial(ours, recompute=recompute, **on_device)
        found, gradients = evaluate(arrays, mask, asked, reverse=reverse, dtype=dtype, layer_fn=layer_fn)
        want, want_gradients = expected(arrays, mask, asked, reverse, **how)
        if kind == "gru":  # of two states that are one, the gradient is wherever it is read
            for gradient in (gradients, want_gradients):
                gradient["cell"] = np.asarray(gradient["cell"], np.float64) + np.asarray(gradient.pop("hidden"), np.float64)
        assert_same(found, want, tolerance)
        assert_same(gradients, want_gradients, tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", CELLS)
def test_every_cell_and_all_gradients_match_the_reference(kind, noise, reverse):
    compare_with_the_reference(kind, noise, reverse, FLOAT32, recompute=reverse)


@pytest.mark.parametrize("kind", CELLS[1:])
def test_every_cell_in_bfloat16_stays_near_the_reference(kind):
    compare_with_the_reference(kind, "none", False, BFLOAT16, dtype="bfloat16")


@pytest.mark.parametrize("kind", CELLS[1:])
def test_padding_changes_nothing_whatever_the_cell(kind):
    arrays, mask, asked = draw_cell(kind, (3, 5, 2, 4), 11)
    layer_fn = partial(ours, kind=kind)
    found, gradients = evaluate(arrays, mask, asked, layer_fn=layer_fn)
    longer = arrays | {"inputs": np.concatenate([arrays["inputs"], np.full((3, 3, 2), 1e3, np.float32)], axis=1)}
    wider = asked | {"outputs": np.pad(asked["outputs"], ((0, 0), (0, 3), (0, 0)))}
    got, got_gradients = evaluate(longer, np.pad(mask, ((0, 0), (0, 3))), wider, layer_fn=layer_fn)
    assert not np.any(got_gradients["inputs"][:, 5:])
    assert_same(got | {"outputs": got["outputs"][:, :5]}, found, 1e-6)
    assert_same(got_gradients | {"inputs": got_gradients["inputs"][:, :5]}, gradients, 1e-6)


recomputing = partial(ours, recompute=True)


@pytest.mark.parametrize("layer_fn", [ours, recomputing], ids=["keeping", "recomputing"])
@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16_stays_near_the_reference(reverse, layer_fn):
    for seed in range(3):
        arrays, mask, asked = draw(SIZES["rows3"], seed)
        found, gradients = evaluate(arrays, mask, asked, reverse=reverse, dtype="bfloat16", layer_fn=layer_fn)
        want, want_gradients = expected(arrays, mask, asked, reverse)
        assert_same(found, want, BFLOAT16)
        assert_same(gradients, want_gradients, BFLOAT16)


@pytest.mark.parametrize("steps", [1, 5, 8, 19])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_form_for_gpus_gives_the_same(monkeypatch, reverse, steps):
    """Here on the CPU: several steps are one of the loop's, also where they do not divide the length."""
    arrays, mask, asked = draw((3, steps, 2, 4), steps)

    def in_the_form_for_gpus(arrays, mask, reverse, dtype):
        return ours(arrays, mask, reverse, dtype)

    want = evaluate(arrays, mask, asked, reverse)
    monkeypatch.setattr(lax, "platform_dependent", lambda *arguments, cuda, default: cuda(*arguments))
    for got, wanted in zip(evaluate(arrays, mask, asked, reverse, layer_fn=in_the_form_for_gpus), want, strict=True):
        assert_same(got, wanted, 1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_recomputed_gates_give_the_same_gradients(reverse, masked):
    for seed in range(3):
        arrays, mask, asked = draw(SIZES["rows3"], seed)
        found, gradients = evaluate(arrays, mask if masked else None, asked, reverse=reverse, layer_fn=recomputing)
        want, want_gradients = expected(arrays, mask if masked else None, asked, reverse)
        assert_same(found, want, FLOAT32)
        assert_same(gradients, want_gradients, FLOAT32)


@pytest.mark.parametrize(("recompute", "features"), [(False, 6), (True, 2)])
def test_what_is_kept_for_the_gradient(recompute, features):
    """Per row and step: 4 gates, hidden state and cell; besides them the inputs, the mask, the first state and the kernels."""
    rows, steps, inputs, hidden = 3, 7, 2, 4
    arrays, mask, _ = draw((rows, steps, inputs, hidden), 0)
    arrays = jax.tree.map(jnp.asarray, arrays)
    _, pull_back = jax.vjp(lambda arrays: ours(arrays, jnp.asarray(mask), False, recompute=recompute), arrays)
    kept = {leaf.unsafe_buffer_pointer(): leaf.shape for leaf in jax.tree.leaves(pull_back) if leaf.ndim == 3}
    assert sum(shape[-1] for shape in kept.values() if shape[:2] == (steps, rows)) == inputs + 1 + features * hidden


def test_recomputing_saves_the_gates_in_the_compiled_program():
    """What jax keeps says little: XLA may compute again too early, and keep that."""
    rows, steps, size, layers = 4, 64, 32, 5
    inputs = jax.ShapeDtypeStruct((rows, steps, size), jnp.float32)
    kernels = [tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size, 4 * size), (size, 4 * size), (4 * size,)))] * layers

    def loss(recompute, kernels, inputs):
        for kernel in kernels:
            inputs, _ = unroll(make_layer(*kernel), inputs, recompute=recompute)
        return (inputs**2).sum()

    def working_memory(recompute):
        program = jax.jit(jax.grad(partial(loss, recompute), argnums=(0, 1))).lower(kernels, inputs).compile()
        return program.memory_analysis().temp_size_in_bytes

    gates = rows * steps * 4 * size * 4  # of a layer, in bytes
    assert working_memory(True) < working_memory(False) - 2 * gates


def test_without_an_initial_state_the_layer_starts_from_zeros():
    arrays, mask, asked = draw(SIZES["rows3"], 5)
    zeros = arrays | {"hidden": np.zeros_like(arrays["hidden"]), "cell": np.zeros_like(arrays["cell"])}
    want, want_gradients = evaluate(zeros, mask, asked)
    found, gradients = evaluate({name: arrays[name] for name in INPUTS[:4]}, mask, asked)
    assert_same(found, want, 0)
    assert_same(gradients, {name: want_gradients[name] for name in gradients}, 0)
    state = zero_state(make_layer(*(arrays[name] for name in INPUTS[1:4])), (3, 2), jnp.bfloat16)
    assert state.hidden.shape == state.cell.shape == (3, 2, 4)
    assert (state.hidden.dtype, state.cell.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("reverse", [False, True])
def test_own_gradient_is_that_of_plain_autodiff(reverse):
    arrays, mask, asked = draw(SIZES["rows3"], 7)
    found, gradients = evaluate(arrays, mask, asked, reverse=reverse)
    want, want_gradients = evaluate(arrays, mask, asked, layer_fn=naive, reverse=reverse)
    assert_same(found, want, 1e-6)
    assert_same(gradients, want_gradients, 2e-6)


@pytest.mark.parametrize(("reverse", "dtype"), [(False, "float32"), (True, "float32"), (False, "bfloat16")])
def test_padding_columns_change_nothing(reverse, dtype):
    arrays, mask, asked = draw((3, 5, 2, 4), 11)
    found, gradients = evaluate(arrays, mask, asked, reverse=reverse, dtype=dtype)
    junk = np.full((3, 3, 2), 1e3, np.float32)  # what stands in a padded position must not matter
    longer = arrays | {"inputs": np.concatenate([arrays["inputs"], junk], axis=1)}
    wider = asked | {"outputs": np.pad(asked["outputs"], ((0, 0), (0, 3), (0, 0)))}
    got, got_gradients = evaluate(longer, np.pad(mask, ((0, 0), (0, 3))), wider, reverse=reverse, dtype=dtype)
    assert not np.any(got_gradients["inputs"][:, 5:])
    tolerance = 1e-6 if dtype == "float32" else 2**-8  # the weights' sums run over more (zero) terms, in another order
    assert_same(got | {"outputs": got["outputs"][:, :5]}, found, 1e-6)
    assert_same(got_gradients | {"inputs": got_gradients["inputs"][:, :5]}, gradients, tolerance)


def test_final_state_is_the_one_after_the_last_real_step():
    arrays, _, asked = draw((3, 5, 2, 4), 12)
    mask = np.arange(5)[None, :] < np.array([5, 2, 0])[:, None]
    found, _ = evaluate(arrays, mask, asked)
    np.testing.assert_array_equal(found["hidden"][0], found["outputs"][0, 4])
    np.testing.assert_array_equal(found["hidden"][1], found["outputs"][1, 1])
    np.testing.assert_array_equal(found["hidden"][2], arrays["hidden"][2])
    np.testing.assert_array_equal(found["cell"][2], arrays["cell"][2])


def test_permuting_rows_permutes_results():
    arrays, mask, asked = draw((3, 5, 2, 4), 13)
    order = np.array([2, 0, 1])
    by_row = ("inputs", "hidden", "cell")
    found, gradients = evaluate(arrays, mask, asked)
    permuted = arrays | {name: arrays[name][order] for name in by_row}
    got, got_gradients = evaluate(permuted, mask[order], {name: part[order] for name, part in asked.items()})
    assert_same(got, {name: part[order] for name, part in found.items()}, 0)
    assert_same(got_gradients, {name: part[order] if name in by_row else part for name, part in gradients.items()}, 1e-6)


def gradient_program(layer_fn):
    rows, steps, inputs, hidden = 2, 6, 3, 5
    arrays, mask, asked = draw((rows, steps, inputs, hidden), 0)
    program = jax.make_jaxpr(partial(evaluate, layer_fn=layer_fn))(arrays, mask, asked)
    both = inputs + hidden
    weight = {(hidden, 4 * hidden), (4 * hidden, hidden), (both, 4 * hidden), (4 * hidden, both)}
    products = [
        bool(loops) for e, loops in equations(program.jaxpr) if e.primitive.name == "dot_general" and e.outvars[0].aval.shape in weight
    ]
    return products, carries(program.jaxpr), weight


def test_the_gradient_of_both_kernels_is_one_product_after_the_loop():
    products, carried, weight = gradient_program(ours)
    assert products == [False]  # one, outside of any loop
    state = [(2, 5)] * 2  # hidden and cell
    assert [aval.shape for aval in carried] == [*state, (6, 2, 20), *state]  # forward, with the gates of all steps; backward
    assert not any(aval.shape in weight for aval in carried)


def test_looking_at_the_program_would_find_an_accumulated_gradient():
    def plain_scan(arrays, mask, reverse, dtype):
        layer = make_layer(arrays["kernel_in"], arrays["kernel_rec"], arrays["bias"])

        def step(state, x):
            state = cells.step(layer, None, x + state.hidden @ arrays["kernel_rec"], state)
            return state, state.hidden

        final, outputs = jax.lax.scan(
            step, State(arrays["hidden"], arrays["cell"]), project(arrays["kernel_in"], arrays["bias"], arrays["inputs"]).swapaxes(0, 1)
        )
        return dict(zip(STATES, (outputs.swapaxes(0, 1), *final), strict=True))

    products, carried, weight = gradient_program(plain_scan)
    assert products == [True]
    assert any(aval.shape in weight for aval in carried)


def test_types_under_bfloat16():
    arrays, mask, asked = draw(SIZES["rows3"], 0)
    found, gradients = evaluate(arrays, mask, asked, dtype="bfloat16")
    assert {name: part.dtype.name for name, part in found.items()} == {"outputs": "bfloat16", "hidden": "bfloat16", "cell": "float32"}
    assert {part.dtype.name for part in gradients.values()} == {"float32"}


def test_cell_sums_finer_than_bfloat16():
    """600 steps of +1/512: a bfloat16 sum would stop growing where 1/512 is half a unit of its last place."""
    small = float(jnp.bfloat16(np.log(1 / 511)))  # sigmoid is 1/512, but for the rounding of the projection
    step = reference.sigmoid(small)
    bias = np.array([small, 40, 40, 0], np.float32)  # i, f = 1, g = 1, o
    arrays = {"inputs": np.zeros((1, 600, 1)), "kernel_in": np.zeros((1, 4)), "kernel_rec": np.zeros((1, 4)), "bias": bias}
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    cell = ours(arrays, None, False, "bfloat16")["cell"]
    assert cell.item() == pytest.approx(600 * step, rel=1e-4)


# Parity with PyTorch ------------------------------------------------------------------------------------------------


def from_torch(stored, prefix, layers=2):
    """Our encoder's parameters from torch's names; torch has two biases, which enter as their sum."""

    def one(suffix):
        biases = [stored[f"{prefix}/bias_{part}_{suffix}"] for part in ("ih", "hh")]
        kernels = [stored[f"{prefix}/weight_{part}_{suffix}"].T for part in ("ih", "hh")]
        return {"kernel_in": kernels[0], "kernel_rec": kernels[1], "bias": biases}

    return {index: {0: one(f"l{index}"), 1: one(f"l{index}_reverse")} for index in range(layers)}


def test_encoder_equals_torch():
    with np.load(Path(__file__).with_name("torch_parity.npz")) as file:
        stored = dict(file)
    rows, steps, size = stored["outputs"].shape
    config = ModelConfig(embedding_size=5, hidden_size=size, encoder_layers=2, bidirectional_layers=2, attention="none")
    encoder = nnx.graphdef(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(params=0))))
    weights = from_torch(stored, "weight")
    params = {
        "layers": jax.tree.map(lambda leaf: sum(leaf) if isinstance(leaf, list) else leaf, weights, is_leaf=lambda x: isinstance(x, list))
    }
    mask = jnp.arange(steps)[None, :] < stored["lengths"][:, None]

    def run(params, inputs):
        outputs, finals = nnx.merge(encoder, params)(inputs, mask, None)
        found = {"outputs": jnp.where(mask[:, :, None], outputs, 0)}  # torch leaves zeros where padded
        for part in ("hidden", "cell"):  # torch: [layers * directions, rows, units]
            halves = [half for final in finals for half in jnp.split(getattr(final, part), 2, axis=-1)]
            found[part] = jnp.stack(halves)
        return sum(jnp.sum(stored[f"asked/{name}"] * found[name]) for name in STATES), found

    (_, found), (d_params, d_inputs) = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(params, stored["inputs"])
    assert rows == 4
    assert_same(found, {name: stored[name] for name in STATES}, FLOAT32)
    assert reference.error(d_inputs, stored["gradient/inputs"]) <= FLOAT32
    for index, layer in from_torch(stored, "gradient").items():
        for direction, want in layer.items():
            got = d_params["layers"][index][direction]
            assert_same(got, {name: want[name] for name in ("kernel_in", "kernel_rec")}, FLOAT32)
            for bias in want["bias"]:  # the gradient of a sum is that of each of its terms
                assert reference.error(got["bias"], bias) <= FLOAT32


def test_a_gru_is_torch_s():
    with np.load(Path(__file__).with_name("torch_gru_parity.npz")) as file:
        stored = dict(file)
    kernels = {name: stored[f"weight/weight_{part}_l0"].T for name, part in (("kernel_in", "ih"), ("kernel_rec", "hh"))}
    of_inputs, of_states = (np.split(stored[f"weight/bias_{part}_l0"], 3) for part in ("ih", "hh"))
    bias = np.concatenate([of_inputs[0] + of_states[0], of_inputs[1] + of_states[1], of_inputs[2], of_states[2]])
    mask = np.arange(6)[None, :] < stored["lengths"][:, None]
    arrays = {"inputs": stored["inputs"], **kernels, "bias": bias}
    asked = {"outputs": stored["asked/outputs"] * mask[:, :, None], "hidden": stored["asked/hidden"][0]}
    found, gradients = evaluate(arrays, mask, asked | {"cell": np.zeros_like(asked["hidden"])}, layer_fn=partial(ours, kind="gru"))
    want = {"outputs": stored["outputs"], "hidden": stored["hidden"][0]}  # torch leaves zeros where padded
    assert_same(found | {"outputs": np.asarray(found["outputs"]) * mask[:, :, None]}, want, FLOAT32)
    assert_same(gradients, {"inputs": stored["gradient/inputs"]}, FLOAT32)
    assert_same(
        gradients, {name: stored[f"gradient/weight_{part}_l0"].T for name, part in (("kernel_in", "ih"), ("kernel_rec", "hh"))}, FLOAT32
    )
    d_inputs, d_states = stored["gradient/bias_ih_l0"], stored["gradient/bias_hh_l0"]
    assert_same(gradients, {"bias": np.concatenate([d_inputs, d_states[-len(d_states) // 3 :]])}, FLOAT32)
