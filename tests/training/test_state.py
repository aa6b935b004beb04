import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_s2s.config import Config, ModelConfig, OptimizerConfig
from flax_s2s.runtime.parallel import make_devices
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import abstract_state, count_parameters, create_state, evaluated_params, hash_state, not_finite

SIZES = (11, 13)
MODEL = ModelConfig(embedding_size=4, hidden_size=6)


def config_of(seed=1, **fields):
    return Config(seed=seed, model=MODEL, optimizer=OptimizerConfig(schedule="constant", **fields))


@functools.cache  # each makes a compiled program
def create(config, devices):
    return create_state(config, SIZES, make_optimizer(config.optimizer), make_devices(devices, {}))


EVERYTHING = config_of(accumulate_batches=3, average_decay=0.9)


# Hash


class Named(NamedTuple):
    a: np.ndarray
    b: np.ndarray


STATE = {"a": np.arange(4, dtype=np.float32), "b": {"c": np.zeros((2, 3), np.int32)}}


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "a": np.arange(4, dtype=np.float32) + np.float32(1e-6)},
        {**STATE, "a": -STATE["a"]},  # 0.0 becomes -0.0
        {**STATE, "a": np.arange(4, dtype=np.int32)},
        {**STATE, "a": STATE["a"].reshape(2, 2)},
        {**STATE, "b": {"c": STATE["b"]["c"].astype(np.uint32)}},
        {**STATE, "b": {"c": STATE["b"]["c"].reshape(3, 2)}},
        {**STATE, "b": {"d": STATE["b"]["c"]}},
        {"a": STATE["a"], "c": STATE["b"]},
        {"a": STATE["a"]},
        {**STATE, "d": np.zeros(0)},
        {"a": STATE["b"], "b": STATE["a"]},
        Named(STATE["a"], STATE["b"]["c"]),
    ],
    ids=["value", "sign of zero", "type", "shape", "inner type", "inner shape", "inner name", "name", "fewer", "more", "swapped", "tree"],
)
def test_the_hash_tells_any_change(other):
    assert hash_state(other) != hash_state(STATE)


def test_the_hash_is_of_the_contents():
    copy = {"b": {"c": np.asfortranarray(STATE["b"]["c"])}, "a": jnp.asarray(STATE["a"])}
    assert hash_state(copy) == hash_state(STATE)
    assert re.fullmatch("[0-9a-f]{64}", hash_state(STATE))
    nan = {"a": np.array([np.nan, np.inf], np.float32)}
    assert hash_state(nan) == hash_state(jax.tree.map(np.copy, nan))


# The state before the first step


def test_the_seed_decides_the_state_on_any_number_of_devices():
    first = hash_state(jax.device_get(create(EVERYTHING, 1)))
    assert hash_state(jax.device_get(create.__wrapped__(EVERYTHING, 1))) == first
    assert hash_state(jax.device_get(create(EVERYTHING, 8))) == first


def test_the_seed_decides_parameters_and_dropout():
    one, two = (jax.device_get(create(config, 1)) for config in (config_of(), config_of(seed=2)))
    assert not np.array_equal(one.key, two.key)
    assert not np.array_equal(one.params["target_table"], two.params["target_table"])


@pytest.mark.parametrize(("config", "count"), [(EVERYTHING, 8), (EVERYTHING, 1), (config_of(), 1)])
def test_the_abstract_state_is_the_states_description(config, count):
    devices, created = make_devices(count, {}), create(config, count)
    described = abstract_state(config, SIZES, make_optimizer(config.optimizer), devices)
    assert jax.tree.structure(created) == jax.tree.structure(described)
    for made, leaf in zip(jax.tree.leaves(created), jax.tree.leaves(described), strict=True):
        assert isinstance(leaf, jax.ShapeDtypeStruct)
        assert (leaf.shape, leaf.dtype) == (made.shape, made.dtype)
        assert leaf.sharding == made.sharding == devices.replicated


def test_the_state_starts_at_nothing():
    state = jax.device_get(create(EVERYTHING, 8))
    assert (state.step, state.skipped, state.bad_evaluations, state.evaluated) == (0, 0, 0, 0)
    assert (state.bad_in_a_row, state.rollbacks, state.usual_loss) == (0, 0, 0)
    assert state.best_score == -np.inf
    assert state.position.tolist() == [0, 0]
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.accumulated))
    assert jax.tree.structure(state.accumulated.gradients) == jax.tree.structure(state.params)


def test_averages_and_sums_are_there_only_where_they_are_wanted():
    plain = create(config_of(), 1)
    assert (plain.average, plain.accumulated) == (None, None)


def test_the_average_starts_as_the_parameters_in_memory_of_its_own():
    state = create(EVERYTHING, 1)
    for parameter, average in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.average), strict=True):
        np.testing.assert_array_equal(np.asarray(parameter), np.asarray(average))
        assert parameter.unsafe_buffer_pointer() != average.unsafe_buffer_pointer()  # or neither could be donated


def test_evaluation_uses_the_average_where_there_is_one():
    state = create(EVERYTHING, 1)
    assert evaluated_params(state) is state.average
    assert evaluated_params(state._replace(average=None)) is state.params


@pytest.mark.parametrize("part", ["params", "optimizer", "average"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(part, value):
    state = create(EVERYTHING, 1)
    assert not_finite(state) == ""
    leaves, tree = jax.tree.flatten(getattr(state, part))
    for index in np.random.default_rng().permutation(len(leaves))[:3]:
        if jnp.issubdtype(leaves[index].dtype, jnp.floating):
            spoilt = list(leaves)
            spoilt[index] = leaves[index].at[(-1,) * leaves[index].ndim].set(value)
            names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path({part: getattr(state, part)})]
            assert not_finite(state._replace(**{part: jax.tree.unflatten(tree, spoilt)})) == names[index]


def test_parameters_are_counted():
    assert count_parameters({"a": np.zeros((3, 4)), "b": {"c": np.zeros(5), "d": np.zeros(())}}) == 18
    state = create(config_of(), 1)
    lstm = {"source": 2 * (4 * 12 + 3 * 12 + 12), "target": 4 * 24 + 6 * 24 + 24}
    tables = 11 * 4 + 13 * 4 + 13 * 6 + 13
    attention = 6 * 6 + 12 * 6  # general score, readout
    assert count_parameters(state.params) == lstm["source"] + lstm["target"] + tables + attention
