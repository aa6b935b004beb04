import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import changed

from flax_s2s.config import OptimizerConfig, UserError
from flax_s2s.presets import load_preset
from flax_s2s.rules import check
from flax_s2s.training.optimizer import freeze, make_optimizer, make_schedule

PEAK = 0.01
FLOAT32 = 2e-6  # relative: a few roundings of float32


def rates(steps, **fields):
    """Learning rates of updates number 1, 2, ... as listed."""
    schedule = make_schedule(OptimizerConfig(learning_rate=PEAK, **fields))
    return [float(schedule(step - 1)) for step in steps]


PARAMS = {"encoder": {"layers": {"0": {"bias": 1.0}, "1": {"bias": 2.0}}}, "encoder_table": 3.0, "table": 4.0}


@pytest.mark.parametrize(
    ("frozen", "changed"),
    [
        (("encoder/layers/0",), [False, True, True, True]),
        (("encoder",), [False, False, True, True]),
        (("table", "encoder/layers/1/bias"), [True, False, True, False]),
    ],
)
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_what_is_frozen_stays_and_counts_in_no_norm(name, frozen, changed):
    params = jax.tree.map(lambda value: jnp.full((2, 2), value), PARAMS)
    decay = {"weight_decay": 0.1} if name == "adamw" else {}
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=0.1, clip_norm=1.0, frozen=frozen, **decay))
    state, start = optimizer.init(params), params
    for _ in range(3):
        gradients = jax.grad(lambda params: sum(leaf.sum() for leaf in jax.tree.leaves(freeze(params, frozen))))(params)
        assert [bool(leaf.any()) for leaf in jax.tree.leaves(gradients)] == changed
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert [bool(np.any(a != b)) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True)] == changed
    if name == "sgd":
        moved = np.concatenate([np.ravel(update) for update in jax.tree.leaves(updates)])
        assert np.linalg.norm(moved) == pytest.approx(0.1)


def test_a_frozen_path_that_is_not_there_is_named_and_something_must_be_left():
    for frozen, message in (
        (("encoder/layer",), "there is no parameter 'encoder/layer'; did you mean 'encoder/layers'"),
        (("encoder", "encoder_table", "table"), "frozen=encoder,encoder_table,table leaves nothing to train"),
    ):
        with pytest.raises(UserError, match=message):
            make_optimizer(OptimizerConfig(frozen=frozen)).init(PARAMS)


def test_constant_is_the_peak():
    assert rates([1, 2, 1000], schedule="constant") == pytest.approx([PEAK] * 3, rel=FLOAT32)


@pytest.mark.parametrize(
    "fields",
    [
        {"schedule": "constant"},
        {"schedule": "inverse_sqrt"},
        {"schedule": "cosine", "decay_steps": 200},
        {"schedule": "halving", "halve_from_step": 50, "halve_every_steps": 10},
    ],
    ids=lambda fields: fields["schedule"],
)
def test_warm_up_is_linear_and_ends_at_the_peak_without_a_jump(fields):
    warm = rates([1, 2, 5, 9, 10], warmup_steps=10, **fields)
    assert warm == pytest.approx([PEAK * step / 10 for step in (1, 2, 5, 9, 10)], rel=FLOAT32)
    (after,) = rates([11], warmup_steps=10, **fields)
    assert 0.95 * PEAK < after <= PEAK * (1 + FLOAT32)


def test_inverse_sqrt_falls_with_the_root_of_the_step():
    steps = [10, 11, 40, 1000]
    assert rates(steps, schedule="inverse_sqrt", warmup_steps=10) == pytest.approx([PEAK * math.sqrt(10 / s) for s in steps], rel=FLOAT32)


def test_cosine_reaches_half_in_the_middle_and_zero_at_its_end():
    steps = [10, 35, 60, 110, 111, 500]
    expected = [PEAK * 0.5 * (1 + math.cos(math.pi * min(1, (s - 10) / 100))) for s in steps]
    found = rates(steps, schedule="cosine", warmup_steps=10, decay_steps=110)
    assert found == pytest.approx(expected, rel=FLOAT32, abs=PEAK * 1e-6)
    assert found[2] == pytest.approx(PEAK / 2, rel=FLOAT32)
    assert found[3:] == [0, 0, 0]


def test_a_shortened_preset_has_a_shortened_schedule():
    """The quickstart's warm-up is a third of 300 steps, and the rate falls to zero in the others; as measured it falls until its last step."""
    preset = load_preset("quickstart")
    steps = preset.training.steps
    short = check(changed(preset, {"training.steps": 300})).optimizer
    peak, found = short.learning_rate, make_schedule(short)
    expected = [peak / 100, peak, peak * 0.5 * (1 + math.cos(math.pi / 4)), peak / 2, peak * 0.5 * (1 + math.cos(math.pi * 199 / 200)), 0]
    assert [float(found(step - 1)) for step in (1, 100, 150, 200, 299, 300)] == pytest.approx(expected, rel=1e-5, abs=peak * 1e-6)
    measured = make_schedule(check(preset).optimizer)
    assert [float(measured(step - 1)) for step in (100, (steps + 100) // 2, steps)] == pytest.approx(
        [peak, peak / 2, 0], rel=FLOAT32, abs=peak * 1e-6
    )
    literal = make_schedule(changed(preset, {"optimizer.decay_steps": steps}).optimizer)
    assert all(float(measured(step)) == float(literal(step)) for step in (0, 99, 100, 1234, steps - 2))


def test_a_warm_up_beyond_the_decay_is_all_there_is():
    assert rates([1, 20], schedule="cosine", warmup_steps=40, decay_steps=20) == pytest.approx([PEAK / 40, PEAK / 2], rel=FLOAT32)


def test_halving_begins_at_its_step_and_repeats():
    """Update number halve_from_step + 1 is the first with half the rate: halve_from_step whole updates come before."""
    steps = [1, 100, 101, 120, 121, 140, 141]
    expected = [PEAK, PEAK, PEAK / 2, PEAK / 2, PEAK / 4, PEAK / 4, PEAK / 8]
    assert rates(steps, schedule="halving", halve_from_step=100, halve_every_steps=20) == pytest.approx(expected, rel=FLOAT32)


def test_a_schedule_takes_a_traced_count():
    schedule = make_schedule(OptimizerConfig(learning_rate=PEAK, warmup_steps=4))
    assert float(jax.jit(schedule)(jnp.int32(1))) == pytest.approx(PEAK / 2, rel=FLOAT32)


# Update rules, against literal NumPy in float64


def tree():
    rng = np.random.default_rng(0)
    params = {"bias": rng.normal(size=4), "kernel": rng.normal(size=(3, 4))}
    gradients = [{name: rng.normal(size=value.shape) for name, value in params.items()} for _ in range(3)]
    return params, gradients


def run(config, params, gradients):
    """The parameters after one update per gradient."""
    optimizer = make_optimizer(config)
    params = jax.tree.map(jnp.float32, params)
    state = optimizer.init(params)
    for gradient in gradients:
        changes, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, changes)
    return params


def literal_adam(params, gradients, rates, beta1, beta2, epsilon, decay):
    """Kingma & Ba 2015, algorithm 1; the decay of Loshchilov & Hutter 2019, algorithm 2, on matrices only."""
    params = {name: value.copy() for name, value in params.items()}
    first, second = ({name: 0.0 for name in params} for _ in range(2))
    for step, (rate, gradient) in enumerate(zip(rates, gradients, strict=True), 1):
        for name, g in gradient.items():
            first[name] = beta1 * first[name] + (1 - beta1) * g
            second[name] = beta2 * second[name] + (1 - beta2) * g**2
            change = (first[name] / (1 - beta1**step)) / (np.sqrt(second[name] / (1 - beta2**step)) + epsilon)
            params[name] -= rate * (change + (decay * params[name] if params[name].ndim > 1 else 0))
    return params


def assert_near(found, expected, tolerance=1e-6):
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.0), ("adamw", 0.3)])
def test_adam_is_the_papers(name, decay):
    params, gradients = tree()
    fields = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}
    config = OptimizerConfig(
        name=name, learning_rate=PEAK, schedule="constant", warmup_steps=2, clip_norm=0.0, weight_decay=decay, **fields
    )
    assert_near(run(config, params, gradients), literal_adam(params, gradients, [PEAK / 2, PEAK, PEAK], **fields, decay=decay))


def test_weight_decay_leaves_vectors_alone():
    params, gradients = tree()
    zeros = jax.tree.map(np.zeros_like, gradients[0])
    config = OptimizerConfig(name="adamw", learning_rate=PEAK, schedule="constant", weight_decay=0.5)
    found = run(config, params, [zeros])
    assert_near(found, {"bias": params["bias"], "kernel": params["kernel"] * (1 - PEAK * 0.5)})


def test_sgd_walks_along_the_gradient():
    params, gradients = tree()
    found = run(OptimizerConfig(name="sgd", learning_rate=PEAK, schedule="constant", clip_norm=0.0), params, gradients[:1])
    assert_near(found, {name: params[name] - PEAK * gradients[0][name] for name in params})


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    params, (gradient, *_) = tree()
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
    for limit, scale in [(norm / 2, 0.5), (norm * 2, 1.0), (0.0, 1.0)]:
        found = run(OptimizerConfig(name="sgd", learning_rate=PEAK, schedule="constant", clip_norm=limit), params, [gradient])
        assert_near(found, {name: params[name] - PEAK * scale * gradient[name] for name in params})
