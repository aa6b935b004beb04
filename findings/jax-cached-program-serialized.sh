#!/usr/bin/env bash
# jax and jaxlib 0.10.2 on CPUs: a program that jax took from its persistent cache is serialized without its machine code.
#
# Guess: `serialize_executable.serialize` gives the same bytes for a program, whether it was compiled in this process or read from the cache.
# Seen: what was compiled here comes back and runs; what came from the cache is written without an error, is smaller, is read back
# without an error, and is refused when it is first called: a function of it is not found. Nothing before the call tells them apart but the size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat >"$folder/serialize.py" <<'P'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None)
lowered = jax.jit(lambda x: jnp.tanh(jnp.sort(x) @ x.T)).lower(jnp.ones((64, 64)))
hits.clear()
program = lowered.compile()
kept = serialize_executable.serialize(program)
with open(sys.argv[2], "wb") as file:
    pickle.dump(kept, file)
print("read from the cache:" if hits else "compiled here:", len(kept[0]), "bytes")
P
cat >"$folder/run.py" <<'P'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

with open(sys.argv[1], "rb") as file:
    program = serialize_executable.deserialize_and_load(*pickle.load(file))
try:
    program(jnp.ones((64, 64))).block_until_ready()
    print("runs")
except jax.errors.JaxRuntimeError as error:
    print("refused:", " ".join(str(error).split())[:100])
P
export JAX_PLATFORMS=cpu
for turn in first second; do
  "$folder/env/bin/python" "$folder/serialize.py" "$folder/cache" "$folder/$turn"
  "$folder/env/bin/python" "$folder/run.py" "$folder/$turn" | tee "$folder/$turn.said"
done
if ! grep -q '^runs' "$folder/first.said" || ! grep -q '^refused' "$folder/second.said"; then
  echo "this has changed" >&2
  exit 1
fi
