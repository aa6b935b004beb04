"""NVIDIA GPUs that are not here, and programs compiled for them down to machine code.

Needs jax's plugin for CUDA, ptxas and libdevice (tests/requirements-gpu-aot.txt; `bash tests/run.sh --gpu-aot` installs them); no GPU,
driver, cuDNN, cuBLAS or NCCL. JAX_PLATFORMS=cpu must be set before jax starts, or it asks for all of these.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import thunks
from jax.experimental import rnn, topologies
from jax.experimental.compilation_cache import compilation_cache
from thunks import Launches

from flax_s2s.model import lstm
from flax_s2s.runtime.parallel import Devices, devices_of

Kind = Literal["sm_80", "sm_90", "sm_100"]


class Figures(NamedTuple):
    """A GPU as NVIDIA's data sheets describe it."""

    name: str
    capability: str
    cores: int  # streaming multiprocessors
    units: int  # for float32, of a core
    shared_bytes: int  # shared memory that a block may ask for
    cache_bytes: int
    memory_gib: int
    bandwidth: int  # bytes a second
    clock_ghz: float


KINDS: dict[Kind, Figures] = {
    "sm_80": Figures("NVIDIA A100-SXM4-80GB", "major: 8", 108, 64, 163 << 10, 40 << 20, 80, 2_039 * 10**9, 1.41),
    "sm_90": Figures("NVIDIA H100 80GB HBM3", "major: 9 feature_extension: ACCELERATED_FEATURES", 132, 128, 227 << 10, 50 << 20, 80, 3_352 * 10**9, 1.98),
    "sm_100": Figures("NVIDIA B200", "major: 10 feature_extension: ACCELERATED_FEATURES", 148, 128, 227 << 10, 126 << 20, 180, 8_000 * 10**9, 1.96),
}  # fmt: skip


def _target(gpu: Figures) -> str:
    """What XLA must know of a GPU: its GpuTargetConfigProto. The driver's version decides what CUDA graphs may hold."""
    return f"""
gpu_device_info {{
  name: "{gpu.name}"
  cuda_compute_capability {{ {gpu.capability} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  shared_memory_per_block_optin: {gpu.shared_bytes}
  shared_memory_per_block: {48 << 10}
  shared_memory_per_core: {gpu.shared_bytes + 1024}
  l2_cache_size: {gpu.cache_bytes}
  device_memory_size: {gpu.memory_gib << 30}
  memory_bandwidth: {gpu.bandwidth}
  clock_rate_ghz: {gpu.clock_ghz}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  device_vendor: "NVIDIA Corporation"
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


def missing() -> list[str]:
    """What of the plugin and its compiler is not installed."""
    return [
        name for name in ("jax_cuda13_plugin", "jax_plugins.xla_cuda13", "nvidia.cu13.bin", "nvidia.cu13.nvvm") if not _is_installed(name)
    ]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def gpus(kind: Kind, count: int) -> Devices:
    """The GPUs of a host."""
    found = topologies.get_topology_desc(platform="cuda", target_config=_target(KINDS[kind]), topology=f"1x1x{count}")
    return devices_of(found.devices)


def compiled(lowered: Any, **options: Any) -> tuple[Any, Launches]:
    """A program, and what it launches.

    Products by cuBLASLt: without a GPU to try them on each would get a Triton kernel of one fixed size, for some an impossible one.
    """
    with tempfile.TemporaryDirectory() as folder, _no_cache():
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        as_it_is_run = {"xla_backend_optimization_level": 3}  # conftest.py asks for less
        program = lowered.compile({**dump, **as_it_is_run, "xla_gpu_enable_triton_gemm": False, **options})
        return program, thunks.read(Path(folder))


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """jax's cache keeps such programs, and cannot read them."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether there is one is looked up once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def pretend_cudnn(patch: Any) -> None:
    """Lets cuDNN be chosen where there is none. Its workspaces get made-up sizes: memory then means nothing."""
    patch.setattr(lstm, "_by_nvidia", lambda device: True)
    patch.setattr(
        rnn.gpu_rnn,
        "compute_rnn_workspace_reserve_space_sizes",
        lambda _, hidden, __, rows, steps, *___: (8 * rows * hidden, 6 * steps * rows * hidden),
    )
