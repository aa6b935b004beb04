"""Devices and processes: the mesh, its two shardings, and the way of host arrays onto it.

One mesh axis, `data`: rows of a batch are spread over it, everything else is on every device.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flax_s2s.config import UserError

AXIS = "data"
_LONGEST_SECS = 24 * 3600
_meetings = itertools.count()


@dataclasses.dataclass(frozen=True)
class Devices:
    """The mesh and its two shardings."""

    mesh: Mesh
    replicated: NamedSharding
    by_row: NamedSharding

    @property
    def count(self) -> int:
        """Devices of the mesh, over all processes."""
        return int(self.mesh.devices.size)


def make_devices(count: int, rows: dict[str, int]) -> Devices:
    """The mesh of the first `count` devices (0: all).

    Args:
        count: devices wanted.
        rows: fields whose rows are spread over the devices, by name.

    Raises:
        UserError: there are fewer devices, or the devices do not divide the rows.
    """
    found = jax.devices()
    if count > len(found):
        raise UserError(f"training.devices={count}, but there are {len(found)} {found[0].platform} devices; use at most {len(found)}")
    chosen = found[: count or len(found)]
    for name, value in rows.items():
        if value % len(chosen):
            fitting = value - value % len(chosen) or len(chosen)
            raise UserError(
                f"{name}={value} must be a multiple of the {len(chosen)} devices; use {fitting}, or training.devices={_largest_divisor(value, len(chosen))}"
            )
    return devices_of(chosen)


def devices_of(chosen: Sequence[jax.Device]) -> Devices:
    """The mesh of these devices, which need not be here: programs can be compiled for others."""
    mesh = jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)
    return Devices(mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS)))


def make_decoding_devices(most: int) -> Devices:
    """The mesh of this process' own devices, at most `most` (0: all): a run decodes anywhere, and no process waits for another."""
    found = jax.local_devices()
    return devices_of(found[: most or len(found)])


def my_devices(devices: Devices) -> Devices:
    """Those of the devices that are this process' own, as a mesh of their own."""
    return devices_of([device for device in devices.mesh.devices.flat if device.process_index == jax.process_index()])


def localize(devices: Devices, tree: Any) -> Any:
    """Arrays that every device of the job has, as arrays of this process' devices alone; nothing is copied."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return jax.device_put(leaf, devices.replicated)
        wanted = set(devices.mesh.devices.flat)
        parts = [shard.data for shard in leaf.addressable_shards if shard.device in wanted]
        return jax.make_array_from_single_device_arrays(leaf.shape, devices.replicated, parts)

    return jax.tree.map(one, tree)


def _largest_divisor(value: int, most: int) -> int:
    return next(count for count in range(most, 0, -1) if value % count == 0)


def feed_rows(devices: Devices, tree: Any) -> Any:
    """This process' rows as global arrays, spread over the devices."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(devices.by_row, rows), tree)


def feed_or_pass(devices: Devices, tree: Any) -> Any:
    """As `feed_rows`, for a program with shardings of its own, which takes NumPy's arrays sooner; where there are several processes jax refuses them."""
    return tree if jax.process_count() == 1 else feed_rows(devices, tree)


def feed_all(devices: Devices, tree: Any) -> Any:
    """Host arrays, equal on every process, onto every device."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(devices.replicated, np.asarray(array)), tree)


def place(abstract: Any, devices: Devices) -> Any:
    """Abstract arrays, to be made or restored on every device."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.replicated), abstract)


def meet(name: str = "") -> None:
    """Waits until every process has come here; asked by all at the same points of their programs, or by a name of its own.

    Collectives of CPUs give up, and abort, when a process comes to its first one more than 30 s after another: it may have
    compiled, or read a checkpoint, for longer. How long is waited here does not matter: who loses a peer ends (see `job`).
    """
    if jax.process_count() > 1:
        board().wait_at_barrier(f"flax_s2s meeting {name or next(_meetings)}", 1000 * _LONGEST_SECS)


def board() -> Any:
    """The coordination service as this process sees it: its barriers and key-value store, which jax keeps to itself."""
    from jax._src import distributed

    return distributed.global_state.client


def from_first(array: np.ndarray) -> np.ndarray:
    """Process 0's array, on every process."""
    meet()
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def from_each(value: np.generic) -> np.ndarray:
    """Every process' value, on every process, in their order."""
    meet()
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def share(payload: bytes) -> list[bytes]:
    """Every process' bytes, on every process, in their order."""
    if process()[1] == 1:
        return [payload]
    from jax.experimental import multihost_utils

    lengths = from_each(np.int32(len(payload)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(gathered, lengths, strict=True)]


def process() -> tuple[int, int]:
    """This process' index, and how many there are."""
    return jax.process_index(), jax.process_count()
