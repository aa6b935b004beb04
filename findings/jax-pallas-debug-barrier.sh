#!/usr/bin/env bash
# jax 0.10.2, Pallas by Triton: `debug_barrier`, which "synchronizes all kernel executions in the grid", is a barrier of one block's threads.
#
# Guess: as its docstring says, no program of the grid goes on before all have come, so that a kernel can go through time with its units split
# over the multiprocessors, each reading at a step what the others wrote at the one before.
# Seen: the PTX for an H100 has `bar.sync 0`, which is of one block, and neither an atomic nor a cooperative or cluster barrier. Blocks of a grid go on
# without each other: on a GPU that would be a race, which no compiler tells of. And the interpreter cannot run it: "not found for platform cpu".
# No GPU is needed: jax's plugin compiles for one that is described to it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/env/bin/pip" install --quiet --no-deps jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2 nvidia-cuda-nvcc==13.5.37 nvidia-nvvm==13.5.37
JAX_PLATFORMS=cpu "$folder/env/bin/python" - "$folder/dump" <<'P'
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental import topologies
from jax.experimental.pallas import triton

H100 = """gpu_device_info { name: "NVIDIA H100" cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES } threads_per_warp: 32
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 shared_memory_per_block_optin: 232448 shared_memory_per_block: 49152
  threads_per_block_limit: 1024 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 registers_per_block_limit: 65536
  registers_per_core_limit: 65536 device_vendor: "NVIDIA Corporation" driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" } platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H100" """


def shift(values, between, out):
    """Each program reads what another has written."""
    here, programs = pl.program_id(0), pl.num_programs(0)
    between[here, :] = values[here, :] + 1
    triton.debug_barrier()
    out[here, :] = between[(here + 1) & (programs - 1), :]


def run(values, **how):
    shapes = [jax.ShapeDtypeStruct(values.shape, values.dtype)] * 2
    return pl.pallas_call(shift, grid=(8,), out_shape=shapes, compiler_params=triton.CompilerParams(), name="shift", **how)(values)


print("jax", jax.__version__, "-", triton.debug_barrier.__doc__)
devices = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices
mesh = jax.sharding.Mesh(np.array(devices), ("x",))
placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
options = {"xla_dump_to": sys.argv[1], "xla_dump_hlo_as_text": True}
jax.jit(run).lower(jax.ShapeDtypeStruct((8, 1024), jnp.float32, sharding=placed)).compile(compiler_options=options)
[ptx] = [text for path in Path(sys.argv[1]).glob("*.ptx") if ".entry shift(" in (text := path.read_text())]
found = {word: ptx.count(word) for word in ("bar.sync", "barrier.cluster", "atom.", "red.", "ld.acquire")}
print(found)
try:
    run(jnp.ones((8, 1024)), interpret=True)
    interpreted = "runs"
except NotImplementedError as error:
    interpreted = str(error).split("\n")[0]
print("interpreted:", interpreted)
assert found["bar.sync"] == 1 and sum(found.values()) == 1 and "not found for platform cpu" in interpreted, "this has changed"
P
