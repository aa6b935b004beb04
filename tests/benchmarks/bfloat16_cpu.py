"""Matrix products on this CPU by type, library and shape: where bfloat16 is faster, and where it is lost.

    python tests/benchmarks/bfloat16_cpu.py --torch-python ~/peers/bin/python      (see training.py)

GFLOP/s, medians, the two libraries in turn. XLA is measured by default and with its oneDNN and YNNPACK switches.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial

SHAPES = [(2048, 2048, 2048), (1216, 512, 8000), (64, 512, 2048)]  # rows, inner, columns
FLAGS = {
    "XLA": "",
    "XLA, oneDNN": "--xla_cpu_use_onednn=true",
    "XLA, no fusion into libraries": "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_use_xnnpack=false",
}
ROUNDS = 9


def median_rate(work, flops):
    work()
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(4):
            work()
        taken.append((time.perf_counter() - begin) / 4)
    return flops / statistics.median(taken) / 1e9


def by_jax():
    import jax
    import jax.numpy as jnp

    multiplied = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))

    def product(left, right):
        return multiplied(left, right).block_until_ready()

    for dtype in ("float32", "bfloat16"):
        for rows, inner, columns in SHAPES:
            left = jax.random.normal(jax.random.key(0), (rows, inner)).astype(dtype)
            right = jax.random.normal(jax.random.key(1), (inner, columns)).astype(dtype)
            yield dtype, median_rate(partial(product, left, right), 2 * rows * inner * columns)


def by_torch():
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        for rows, inner, columns in SHAPES:
            left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
            yield str(dtype).split(".")[1], median_rate(partial(torch.mm, left, right), 2 * rows * inner * columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default="")
    parser.add_argument("--serve", choices=("jax", "torch"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        print(json.dumps(list(by_jax() if given.serve == "jax" else by_torch())))
        return
    print(f"{'GFLOP/s':32}{'':10}" + "".join(f"{'x'.join(map(str, shape)):>18}" for shape in SHAPES))
    contenders = [(name, sys.executable, "jax", flags) for name, flags in FLAGS.items()]
    contenders += [("PyTorch", given.torch_python, "torch", "")] if given.torch_python else []
    for name, python, side, flags in contenders:
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([python, __file__, "--serve", side], env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:32}does not run: {done.stderr.strip().splitlines()[-1][:100]}")
            continue
        found = json.loads(done.stdout)
        for dtype in ("float32", "bfloat16"):
            print(f"{name:32}{dtype:10}" + "".join(f"{rate:18.0f}" for kind, rate in found if kind == dtype), flush=True)


if __name__ == "__main__":
    main()
