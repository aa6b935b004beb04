#!/usr/bin/env bash
# jax 0.10.2, Pallas by Triton: `step % 2` of a loop's counter fails to lower, without a word of why; `lax.rem(step, 2)` does not.
#
# Guess: a remainder of whole numbers is among the plainest things in a kernel (which of two buffers is whose turn), and lowers.
# Seen: AssertionError: ('i32', 'i1') for step % 2, step % 3 and (step + 1) % 2; lax.rem, step & 1, and all of them in interpret mode are right.
# No GPU is needed: lowering is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
"$folder/env/bin/pip" install --quiet --no-deps jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'P'
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

STEPS = 7
ways = {
    "step % 2": lambda step: step % 2,
    "step % 3": lambda step: step % 3,
    "(step + 1) % 2": lambda step: (step + 1) % 2,
    "lax.rem(step, 2)": lambda step: lax.rem(step, 2),
    "step & 1": lambda step: step & 1,
}
print("jax", jax.__version__)
found = {}
for name, way in ways.items():

    def kernel(out, way=way):
        def one(step, _):
            out[step] = way(step)

        lax.fori_loop(0, STEPS, one, None)

    def run(kernel=kernel, **how):
        shape = jax.ShapeDtypeStruct((8,), jnp.int32)
        return pl.pallas_call(kernel, out_shape=shape, compiler_params=triton.CompilerParams(), **how)()

    right = np.array_equal(np.asarray(run(interpret=True))[:STEPS], [way(step) if "rem" not in name else step % 2 for step in range(STEPS)])
    try:
        jax.jit(run).trace().lower(lowering_platforms=("cuda",))
        found[name] = "lowers"
    except AssertionError as error:
        found[name] = f"AssertionError: {error}"
    print(f"{name:<18}interpreted: {'right' if right else 'wrong'}; for a GPU: {found[name]}")
    assert right, "this has changed"
assert [name for name, said in found.items() if said == "lowers"] == ["lax.rem(step, 2)", "step & 1"], "this has changed"
P
