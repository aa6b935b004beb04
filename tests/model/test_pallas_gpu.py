"""The kernels of a whole layer, compiled for NVIDIA GPUs without one: launches, registers, shared memory, tensor cores, barriers.

Nothing here has run on a GPU.
"""

import importlib.util
import re
import subprocess
from pathlib import Path

import gpus
import jax
import jax.numpy as jnp
import pytest
import thunks
from flax import nnx

from flax_s2s.model import together
from flax_s2s.model.cells import RecurrentLayer, State
from flax_s2s.model.noise import Noise

if gpus.missing():
    pytest.skip(f"not installed: {', '.join(gpus.missing())}; see tests/run.sh --gpu-aot", allow_module_level=True)

pytestmark = pytest.mark.gpu_aot

KERNELS = ("lstm_forward", "lstm_backward")
ARCHITECTURES = {"sm_80": "sm_80", "sm_90": "sm_90a", "sm_100": "sm_100a"}
ROWS, STEPS, INPUTS = 64, 8, 128
SPILLED = {("sm_90", 2048, "bfloat16", "lstm_forward"): 16}  # bytes of a thread
QUICK = {("sm_80", 256, "bfloat16"), ("sm_90", 1024, "bfloat16"), ("sm_90", 1024, "float32"), ("sm_100", 512, "bfloat16")}
CASES = [
    pytest.param(kind, hidden, dtype, marks=() if (kind, hidden, dtype) in QUICK else pytest.mark.slow)
    for kind in ARCHITECTURES
    for hidden in (64, 192, 256, 512, 1024, 2048)
    for dtype in ("bfloat16", "float32")
]


def lower_gradient(devices, hidden, dtype):
    """Of a bidirectional layer with lengths, first states and dropout of the hidden state: everything that the kernels know."""

    def loss(layers, inputs, mask, initial, keep):
        outputs, final = together.read(layers, inputs, mask, initial, False, "pallas", [Noise(keep, None)] * 2)
        return sum(jnp.sum(part.astype(jnp.float32) ** 2) for part in (outputs, *final))

    def abstract(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=devices.replicated)

    layer = nnx.eval_shape(lambda: RecurrentLayer(INPUTS, hidden, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)))
    layers = [jax.tree.map(lambda part: abstract(*part.shape), layer) for _ in range(2)]
    initial = State(abstract(ROWS, 2 * hidden, dtype=dtype), abstract(ROWS, 2 * hidden))
    mask, keep = abstract(ROWS, STEPS, dtype="bool"), abstract(ROWS, hidden)
    with jax.sharding.use_abstract_mesh(devices.mesh.abstract_mesh):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 3)))
        return gradient.lower(layers, abstract(ROWS, STEPS, INPUTS, dtype=dtype), mask, initial, keep)


def measure(lowered, architecture, folder):
    """What is launched; and of each kernel its shared memory in bytes, its PTX and what ptxas says of it."""
    dump = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True, "xla_backend_optimization_level": 3}
    lowered.compile({**dump, "xla_gpu_enable_triton_gemm": False})
    [package] = importlib.util.find_spec("nvidia.cu13.bin").submodule_search_locations
    text, found = max(folder.glob("*.thunk_sequence*.txt")).read_text(), {}
    for name in KERNELS:
        [shared] = re.findall(rf"{name} grid: \[2, 4, 1\] threads: \[\d+, 1, 1\] +shared_memory: (\d+) bytes", text)
        [ptx] = [path for path in folder.glob("*.ptx") if f".entry {name}(" in path.read_text()]
        said = subprocess.run(
            [Path(package) / "ptxas", "-v", f"-arch={architecture}", ptx, "-o", "/dev/null"], capture_output=True, text=True, check=True
        ).stderr
        of_kernel = re.search(rf"Function properties for {name}\n(?:.*\n)*?.*Used.*", said)
        found[name] = int(shared), re.search(rf"\.entry {name}\((?:.*\n)*?}}", ptx.read_text())[0], of_kernel[0]
    return thunks.read(folder), found


@pytest.mark.parametrize(("kind", "hidden", "dtype"), CASES)
def test_both_directions_are_a_kernel_forward_and_one_backward_that_fit_the_chip(tmp_path, kind, hidden, dtype):
    launches, found = measure(lower_gradient(gpus.gpus(kind, 1), hidden, dtype), ARCHITECTURES[kind], tmp_path)
    assert not launches.loops
    for name in KERNELS:
        shared, ptx, said = found[name]
        print(kind, hidden, dtype, name, shared, *re.findall(r"Used \d+ registers|\d+ bytes spill \w+", said))
        assert 0 < shared <= gpus.KINDS[kind].shared_bytes
        assert int(re.findall(r"(\d+) bytes spill stores", said)[0]) <= SPILLED.get((kind, hidden, dtype, name), 0)
        assert "mma.sync" in ptx
        assert begins_steps_with_a_barrier(ptx)


def begins_steps_with_a_barrier(ptx):
    """Whether the outermost loop that multiplies, that over time, starts with a barrier of the block, and with no load before it."""
    labels = {place[1]: place.start() for place in re.finditer(r"^(\$L\w+):", ptx, re.MULTILINE)}
    loops = [(labels[jump[1]], jump.end()) for jump in re.finditer(r"bra[.\w]* *\t?(\$L\w+);", ptx) if labels[jump[1]] < jump.start()]
    start, end = max((loop for loop in loops if "mma.sync" in ptx[loop[0] : loop[1]]), key=lambda loop: loop[1] - loop[0])
    before = ptx[start:end].split("bar.sync")[0]
    return "bar.sync" in ptx[start:end] and not re.search(r"\b(ld|st|cp\.async)\b", before)
