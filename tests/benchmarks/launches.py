"""What each preset's train step and beam search launch on an NVIDIA H100, counted from the programs; no GPU is needed.

    PYTHONPATH=.venv-gpu-aot python tests/benchmarks/launches.py [--presets NAME ...] [--kernel cudnn] [--options NAME=VALUE ...]

after `bash tests/run.sh --gpu-aot -k none`, which fetches CUDA's compiler. Options are XLA's, without `--`. Columns:

graphs    CUDA graphs that the host launches in a train step: gradients and update
others    what it launches by itself: kernels, products, copies
step      launches of a step of a layer that has a loop of its own, in graphs or not, forward / backward (with input feeding the
          decoder has none; with hard attention the loss is counted with them)
GiB       a train step's memory, of the largest batch of 32 + 32 tokens
search    launches of a step of the beam search; how many steps the host takes in one go before it waits for the device
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax: else it asks for all of CUDA's libraries
HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

import gpus  # noqa: E402
from ahead import LENGTH, PRESETS, describe, lower_search, needed_bytes, train_step  # noqa: E402


def train(what, options):
    """Graphs, others, launches of a layer's step, GiB."""
    step, arguments = train_step(what)
    lowered = step.lower_gradients(*arguments)
    program, launches = gpus.compiled(lowered, **options)
    _, update = gpus.compiled(step.lower_update(lowered, arguments[0], arguments[2]), **options)
    layers = [loop for loop in launches.loops if (loop.trips or 0) * loop.step["product"] == LENGTH]
    half = len(layers) // 2
    steps = " / ".join(
        _range([loop.step.total() / loop.step["product"] for loop in part]) for part in (layers[:half], layers[half:]) if part
    )
    return launches.graphs + update.graphs, launches.single + update.single, steps, f"{needed_bytes(program) / 2**30:.2f}"


def _range(numbers):
    least, most = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return least if least == most else f"{least} to {most}"


def search(what, options):
    """Launches of a step, steps in one go."""
    _, launches = gpus.compiled(lower_search(what), **options)
    outer = launches.loops[0]
    inner = [loop for loop in launches.loops[1:] if loop.trips and not outer.step["product"] and loop.step["product"]]
    step, steps = (inner[0], inner[0].trips) if inner else (outer, 1)
    return f"{step.step.total()}, {'all' if outer.in_graph else steps}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=[path.stem for path in PRESETS])
    parser.add_argument("--gpus", type=int, default=1, help="GPUs")
    parser.add_argument("--kernel", default="scan", choices=("scan", "cudnn"))
    parser.add_argument("--whole-graphs", action="store_true", help="as by training.whole_graphs")
    parser.add_argument("--options", nargs="+", default=[], help="of XLA, such as xla_gpu_command_buffer_unroll_loops=True")
    given = parser.parse_args()
    options = {name: {"True": True, "False": False}.get(value, value) for name, value in (each.split("=", 1) for each in given.options)}
    devices = gpus.gpus("sm_90", given.gpus)
    print("| preset | graphs | others | step | GiB | search |\n|---|---|---|---|---|---|")
    for path in PRESETS:
        if path.stem in given.presets:
            what = describe(path, devices, "float32" if given.kernel == "cudnn" else "bfloat16", given.kernel, given.whole_graphs)
            cells = (*train(what, options), search(what, options))
            print(f"| {path.stem} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
