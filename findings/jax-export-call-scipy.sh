#!/usr/bin/env bash
# jax and jaxlib 0.10.2 on CPUs: to call an exported function imports SciPy's linear algebra, be it used or not.
#
# Guess: a function read by `jax.export.deserialize` starts faster than one that is traced, by what tracing and lowering it take.
# Seen: less than that: when the first one is lowered jax makes LAPACK ready, for whatever the function may hold, and for that imports
# `scipy.linalg`: a tenth of a second, five times as long as to lower the call itself. The same function under `jax.jit` imports none of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 scipy==1.17.0 flatbuffers==25.12.19
cat >"$folder/lower.py" <<'P'
import sys
import time

import jax
import jax.numpy as jnp
from jax import export

argument = jax.ShapeDtypeStruct((8,), jnp.float32)


def add(x):
    return x + 1


how, file = sys.argv[1:]
if how == "write":
    with open(file, "wb") as opened:
        opened.write(export.export(jax.jit(add))(argument).serialize())
    sys.exit()
if how == "exported":
    with open(file, "rb") as opened:
        add = export.deserialize(bytearray(opened.read())).call
begin = time.perf_counter()
jax.jit(add).lower(argument)
secs = time.perf_counter() - begin
print(f"{how}: lowered in {1000 * secs:.0f} ms; scipy.linalg", "was imported" if "scipy.linalg" in sys.modules else "was not imported")
P
export JAX_PLATFORMS=cpu
for how in write traced exported; do
  "$folder/env/bin/python" "$folder/lower.py" $how "$folder/add" | tee -a "$folder/said"
done
if ! grep -q '^traced: .*was not imported' "$folder/said" || ! grep -q '^exported: .*was imported' "$folder/said"; then
  echo "this has changed" >&2
  exit 1
fi
