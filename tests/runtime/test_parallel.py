import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from flax_s2s.config import UserError
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import AXIS, feed_all, feed_rows, localize, make_decoding_devices, make_devices, my_devices, place


@pytest.mark.parametrize(("count", "found"), [(0, 8), (1, 1), (2, 2), (8, 8)])
def test_the_mesh_is_of_the_first_devices(count, found):
    devices = make_devices(count, {"data.row_multiple": 8})
    assert devices.count == found
    assert devices.mesh.devices.tolist() == jax.devices()[:found]
    assert devices.mesh.axis_names == (AXIS,)
    assert devices.mesh.axis_types == (AxisType.Auto,)
    assert (devices.replicated.spec, devices.by_row.spec) == (PartitionSpec(), PartitionSpec(AXIS))


def test_too_many_devices_are_answered_with_the_number_there_is():
    with pytest.raises(UserError, match=r"^training.devices=9, but there are 8 cpu devices; use at most 8$"):
        make_devices(9, {})
    assert make_devices(8, {}).count == 8


@pytest.mark.parametrize(("value", "count"), [(12, 8), (12, 0), (3, 8), (7, 2), (9, 6), (17, 8), (1, 8)])
def test_rows_that_do_not_divide_are_answered_with_two_remedies(value, count):
    with pytest.raises(UserError) as error:
        make_devices(count, {"decoding.rows": 24, "data.row_multiple": value})
    message = rf"^data.row_multiple={value} must be a multiple of the {count or 8} devices; use (\d+), or training.devices=(\d+)$"
    rows, fewer = map(int, re.match(message, str(error.value)).groups())
    assert make_devices(count, {"data.row_multiple": rows}).count == (count or 8)
    assert make_devices(fewer, {"data.row_multiple": value}).count == fewer


@pytest.mark.parametrize(("most", "found"), [(0, 8), (16, 8), (2, 2), (5, 5), (1, 1)])
def test_decoding_takes_the_devices_there_are(most, found):
    """A run that was trained on more devices than there are decodes all the same."""
    assert make_decoding_devices(most).count == found


def test_rows_go_to_the_devices_and_come_back():
    devices = make_devices(8, {})
    tree = (np.arange(48, dtype=np.int32).reshape(16, 3), {"b": np.random.default_rng(0).normal(size=(8, 2, 2)).astype(np.float32)})
    fed = feed_rows(devices, tree)
    for rows, array in zip(jax.tree.leaves(tree), jax.tree.leaves(fed), strict=True):
        assert array.sharding == devices.by_row
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), rows[shard.index])
        assert [shard.data.shape[0] for shard in array.addressable_shards] == [len(rows) // 8] * 8
        np.testing.assert_array_equal(np.asarray(array), rows)


def test_everything_goes_to_every_device():
    devices = make_devices(8, {})
    fed = feed_all(devices, (np.arange(3), np.float32(2)))
    for value, array in zip((np.arange(3), np.float32(2)), fed, strict=True):
        assert array.sharding == devices.replicated
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), value)


def test_abstract_arrays_are_placed_on_every_device():
    devices = make_devices(2, {})
    placed = place({"a": jax.ShapeDtypeStruct((2, 3), np.int32)}, devices)["a"]
    assert (placed.shape, placed.dtype, placed.sharding) == ((2, 3), np.int32, devices.replicated)


def test_a_process_takes_its_own_devices_and_what_they_hold():
    devices = make_devices(4, {})
    mine = my_devices(devices)
    assert mine.mesh.devices.tolist() == devices.mesh.devices.tolist()
    held = feed_all(devices, {"a": np.arange(6.0, dtype=np.float32)})
    here = localize(mine, held)["a"]
    assert here.sharding == mine.replicated
    np.testing.assert_array_equal(np.asarray(here), np.arange(6.0))
    assert localize(mine, {"a": np.ones(3, np.float32)})["a"].sharding == mine.replicated


def test_this_process_is_the_only_one():
    assert parallel.process() == (0, 1)
