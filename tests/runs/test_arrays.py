import sys
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint import v1 as ocp

from flax_s2s.runs import arrays
from flax_s2s.runtime.parallel import make_devices, place

SAVED = {
    "layers": {"0": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4) / 7}, "10": {"kernel": np.float32([[1e-30, -0.0]])}},
    "bias": np.arange(5).astype(ml_dtypes.bfloat16),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> epath.Path:
    folder = epath.Path(tmp_path) / "a run, 100%" / "7"
    folder.parent.mkdir()
    ocp.save_checkpointables(folder, {"params": jax.tree.map(jax.numpy.asarray, SAVED), "rest": {"step": jax.numpy.int32(7)}})
    return folder


def abstract(devices: int = 2) -> dict[str, Any]:
    found: dict[str, Any] = place(SAVED, make_devices(devices, {}))
    return found


def same(found: Any) -> bool:
    assert jax.tree.structure(found) == jax.tree.structure(SAVED)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(*map(jax.tree.leaves, (SAVED, found)), strict=True))


@pytest.mark.parametrize("devices", [1, 8])
def test_what_orbax_wrote_is_read_bitwise_without_it(checkpoint: epath.Path, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    found = arrays.load(checkpoint, "params", abstract(devices))
    assert same(jax.tree.map(np.asarray, found))
    assert {leaf.sharding for leaf in jax.tree.leaves(found)} == {make_devices(devices, {}).replicated}


def test_what_lies_otherwise_is_read_by_orbax(checkpoint: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = arrays._read(checkpoint / "rest", abstract()), arrays._read(epath.Path("gs://bucket/7/params"), abstract())
    assert asked == (None, None)
    monkeypatch.setattr(arrays, "_read", lambda *_: None)
    assert same(jax.tree.map(np.asarray, arrays.load(checkpoint, "params", abstract())))


def test_several_processes_read_by_orbax(checkpoint: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone each would put its arrays on all devices, which waits for the others; and one that finds its own unfit would wait for nobody."""
    asked: list[Any] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(ocp, "load_checkpointables", lambda *arguments: asked.append(arguments) or {"params": "by orbax"})
    wanted = abstract()
    assert arrays.load(checkpoint, "params", wanted) == "by orbax"
    assert asked == [(checkpoint, {"params": wanted})]


def test_arrays_of_another_shape_or_type_are_not_taken(checkpoint: epath.Path) -> None:
    for bias in (np.zeros(4, ml_dtypes.bfloat16), np.zeros(5, np.float32)):
        assert arrays._read(checkpoint / "params", place({**SAVED, "bias": bias}, make_devices(1, {}))) is None
