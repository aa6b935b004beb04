#!/usr/bin/env bash
# jax 0.10.2 on CPUs: `lax.top_k(x, k)[0][..., -1:]`, the k-th largest value, sorts the whole axis.
#
# Guess: a slice of the k values is taken after the top-k, and costs nothing.
# Seen: XLA moves the slice into the call, no longer takes it for a top-k, and compiles a sort of all columns (32 rows of 32,000
# columns: some 70 times the time). `.min(axis=-1, keepdims=True)` of the same k values keeps the TopK call and gives the same
# numbers; so does a slice that begins with the first column. Of bfloat16 there is a sort whatever is done with the result.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'P'
import jax
import jax.numpy as jnp
from jax import lax

print("jax", jax.__version__)
CASES = {
    "the k-th by a slice of the last column": (lambda x: lax.top_k(x, 10)[0][:, -1:], jnp.float32, "sort"),
    "the k-th by a minimum": (lambda x: lax.top_k(x, 10)[0].min(axis=1, keepdims=True), jnp.float32, "TopK"),
    "the first three columns": (lambda x: lax.top_k(x, 10)[0][:, :3], jnp.float32, "TopK"),
    "the k-th by a minimum, of bfloat16": (lambda x: lax.top_k(x, 10)[0].min(axis=1, keepdims=True), jnp.bfloat16, "sort"),
}
found = {}
for name, (function, dtype, expected) in CASES.items():
    text = jax.jit(function).lower(jax.ShapeDtypeStruct((32, 32000), dtype)).compile().as_text()
    kinds = {kind for kind, sign in (("TopK", "TopK"), ("sort", " sort(")) if sign in text}
    print(f"{name:<42} {', '.join(sorted(kinds))}")
    found[name] = kinds == {expected}
x = jax.random.normal(jax.random.key(1), (32, 32000))
first, second = (jax.jit(CASES[name][0])(x) for name in list(CASES)[:2])
assert (first == second).all()
assert all(found.values()), "this has changed"
P
