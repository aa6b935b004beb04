"""Arrays of a checkpoint that orbax wrote, read for decoding, which waits for them: orbax takes longer to import than they to be read.

Enters: a checkpoint that has been verified, and what its arrays are. Leaves: those arrays on the devices.
"""

import logging
from typing import Any
from urllib.parse import quote

import jax
import tensorstore
from etils import epath


def load(checkpoint: epath.Path, name: str, abstract: dict[str, Any]) -> dict[str, Any]:
    """One part of a checkpoint, a pure dict of arrays.

    Args:
        checkpoint: its folder.
        name: of the part, such as `params`.
        abstract: shapes, types and shardings of its arrays.
    """
    found = None if jax.process_count() > 1 else _read(checkpoint / name, abstract)  # several put their arrays together by orbax
    if found is None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # as in `checkpoint`
        from orbax.checkpoint import v1 as ocp  # here, because it is seldom needed

        found = ocp.load_checkpointables(checkpoint, {name: abstract})[name]
    return found


def _read(folder: epath.Path, abstract: dict[str, Any]) -> dict[str, Any] | None:
    """As orbax 0.12 lays them out on a disk: Zarr arrays in one OCDBT store, by the keys that lead to them; None where they are not so."""
    if "://" in str(folder):
        return None
    store = {"driver": "ocdbt", "base": f"file://{quote(str(folder))}/"}
    wanted = jax.tree_util.tree_leaves_with_path(abstract)
    names = [".".join(key.key for key in path) for path, _ in wanted]
    try:
        specs = [{"driver": "zarr3", "kvstore": {**store, "path": f"{name}/"}, "fill_missing_data_reads": False} for name in names]
        opened = [tensorstore.open(spec, open=True, read=True) for spec in specs]
        read = [array.result().read() for array in opened]
        arrays = [array.result() for array in read]
    except (ValueError, NotImplementedError):
        return None
    if any((array.shape, array.dtype) != (leaf.shape, leaf.dtype) for array, (_, leaf) in zip(arrays, wanted, strict=True)):
        return None
    shardings = [leaf.sharding for _, leaf in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract), jax.device_put(arrays, shardings))
