#!/usr/bin/env bash
# jaxlib 0.10.2 on CPUs, glibc: MALLOC_ARENA_MAX=1, a usual advice against the memory of many threads, slows the compiler down.
#
# Guess: malloc is a small part of compiling, so one arena for all threads costs a few percent.
# Seen: the program of a gradient takes a fifth more processor time and 1.4 times as long with one arena as with glibc's default: XLA
# compiles the parts of one program in threads, which wait for each other's malloc. Larger
# programs lose more: a whole train step 1.6 times as long. On one core nothing is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat >"$folder/compile.py" <<'P'
import os
import time

import jax
import jax.numpy as jnp
from jax import lax


def layer(weights, inputs):
    def step(carry, now):
        hidden, cell = carry
        i, f, g, o = jnp.split(now @ weights["in"] + hidden @ weights["rec"] + weights["bias"], 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros = jnp.zeros((inputs.shape[1], 64))
    return lax.scan(step, (zeros, zeros), inputs)[1]


def loss(layers, inputs):
    for weights in layers:
        inputs = layer(weights, inputs)
    return jnp.mean(inputs**2)


layers = [{"in": jnp.ones((64, 256)), "rec": jnp.ones((64, 256)), "bias": jnp.ones(256)} for _ in range(6)]
lowered = jax.jit(jax.value_and_grad(loss)).lower(layers, jnp.ones((10, 8, 64)))
before, begin = os.times(), time.perf_counter()
lowered.compile()
wall, after = time.perf_counter() - begin, os.times()
print(after.user + after.system - before.user - before.system, wall)
P
JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=false "$folder/env/bin/python" - "$folder/compile.py" <<'P'
import os
import statistics
import subprocess
import sys

if len(os.sched_getaffinity(0)) < 2:
    sys.exit("this needs two cores")
found = {"1": [], "": []}
for _ in range(3):
    for arenas, seen in found.items():
        env = {**os.environ, **({"MALLOC_ARENA_MAX": arenas} if arenas else {})}
        seen.append(tuple(map(float, subprocess.run([sys.executable, sys.argv[1]], env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.split())))
medians = {arenas: [statistics.median(values) for values in zip(*seen)] for arenas, seen in found.items()}
for arenas, (cpu, wall) in medians.items():
    print(f"{'one arena' if arenas else 'the default':<12} {cpu:5.2f} s of processor time, {wall:5.2f} s")
ratio = medians["1"][1] / medians[""][1]
print(f"{ratio:.2f} times as long")
assert ratio > 1.2, "this has changed"
P
