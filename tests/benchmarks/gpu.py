"""What the training step does on an NVIDIA GPU: first whether it is right, then how fast, then against cuDNN and nnx.RNN.

    python tests/benchmarks/gpu.py                     everything, in about 8 minutes
    python tests/benchmarks/gpu.py --parts check gnmt

Needs this package's requirements with jax for CUDA, and PyTorch for the comparison (left out where it is missing). Every
part is a process of its own, so that one that fails or runs out of memory takes nothing else with it. What it prints is one
table for each part; `--output` keeps every number as JSON.

check   layer and gradients by each kernel and type, against loops in float64 (tests/reference.py)
gnmt    the whole train step of GNMT 4 + 4 x 1024, vocabulary 32,000, dropout and Adam included, 32 + 32 real tokens a row:
        source + target tokens a second, and model FLOPs over the bfloat16 product's rate
layers  one layer, 32 steps, forward and backward: scan and cuDNN of ours, nnx.RNN, torch.nn.LSTM
loop    what could make the loop's launches cheaper: unrolling, CUDA graphs around it
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve()
STEPS, ROUNDS, CALLS = 32, 10, 5
GNMT_ROWS = (128, 256, 512, 1024)
LAYERS = [(hidden, rows) for hidden in (512, 1024, 2048) for rows in (64, 128, 256, 512)]
GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL --xla_gpu_graph_min_graph_size=1"


def seconds(work):
    """Median seconds of a call, over rounds of several calls that are waited for together."""
    import jax

    jax.block_until_ready(work())
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(CALLS):
            result = work()
        jax.block_until_ready(result)
        taken.append((time.perf_counter() - begin) / CALLS)
    return statistics.median(taken)


def product_rate(dtype, size=8192):
    """FLOP/s of a matrix product on random numbers."""
    import jax

    square = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / seconds(lambda: product(square))


# Right? ----------------------------------------------------------------------------------------------------------------


def check(_):
    """Largest errors of outputs and gradients, as shares of the largest entry; random lengths, both directions."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import reference
    from flax import nnx

    from flax_s2s.model.cells import RecurrentLayer, State
    from flax_s2s.model.lstm import unroll

    rows, steps, inputs, hidden = 5, 9, 6, 8
    init = nnx.initializers.zeros
    graph = nnx.graphdef(nnx.eval_shape(lambda: RecurrentLayer(inputs, hidden, kernel_init=init, rngs=nnx.Rngs(0))))
    for kernel, dtype, precision, allowed in (
        ("scan", "float32", "highest", 1e-5),
        ("scan", "float32", "default", 5e-3),
        ("scan", "bfloat16", "default", 3e-2),
        ("cudnn", "float32", "highest", 1e-5),
        ("cudnn", "float32", "default", 5e-3),
    ):
        worst = 0.0
        for seed in range(4):
            draws = np.random.default_rng(seed)
            shapes = {"inputs": (rows, steps, inputs), "kernel_in": (inputs, 4 * hidden), "kernel_rec": (hidden, 4 * hidden)}
            shapes |= {"bias": (4 * hidden,), "hidden": (rows, hidden), "cell": (rows, hidden)}
            arrays = {name: draws.normal(size=shape) for name, shape in shapes.items()}
            mask = np.arange(steps)[None, :] < draws.integers(0, steps + 1, rows)[:, None]
            asked = [draws.normal(size=shape) for shape in ((rows, steps, hidden), (rows, hidden), (rows, hidden))]
            asked[0] *= mask[:, :, None]
            reverse = bool(seed % 2)

            def ours(arrays, mask=mask, asked=asked, reverse=reverse, kernel=kernel, dtype=dtype):
                layer = nnx.merge(graph, {name: arrays[name] for name in ("kernel_in", "kernel_rec", "bias")})
                initial = State(arrays["hidden"], arrays["cell"])
                outputs, final = unroll(layer, arrays["inputs"].astype(dtype), jnp.asarray(mask), initial, reverse, kernel)
                parts = zip(asked, (outputs, *final), strict=True)
                return sum(jnp.sum(jnp.asarray(a, jnp.float32) * part.astype(jnp.float32)) for a, part in parts), (outputs, *final)

            def literal(mask=mask, asked=asked, reverse=reverse, **arrays):
                found = reference.layer(**arrays, mask=mask, reverse=reverse)
                return sum(np.sum(a * part) for a, part in zip(asked, found, strict=True))

            single = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
            with jax.default_matmul_precision(precision):
                gradients, found = jax.jit(jax.grad(ours, has_aux=True))(single)
            want = reference.layer(**arrays, mask=mask, reverse=reverse)
            worst = max(worst, reference.error(np.where(mask[:, :, None], found[0], 0), np.where(mask[:, :, None], want[0], 0)))
            worst = max(worst, *(reference.error(got, wanted) for got, wanted in zip(found[1:], want[1:], strict=True)))
            for name, wanted in reference.gradients(literal, arrays).items():
                worst = max(worst, reference.error(gradients[name], wanted))
        yield {"kernel": kernel, "type": f"{dtype}, {precision}", "error": f"{worst:.1e}", "allowed": allowed, "ok": bool(worst <= allowed)}


# The whole step --------------------------------------------------------------------------------------------------------


def gnmt(_):
    """Tokens a second of the train step."""
    import dataclasses

    import jax
    import numpy as np

    from flax_s2s.model.flops import count_flops
    from flax_s2s.model.lstm import choose_means
    from flax_s2s.model.seq2seq import make_model
    from flax_s2s.presets import load_preset
    from flax_s2s.runtime.parallel import feed_all, feed_rows, make_devices
    from flax_s2s.training.optimizer import make_optimizer
    from flax_s2s.training.state import create_state
    from flax_s2s.training.step import make_train_step

    devices, preset = make_devices(1, {}), load_preset(str(HERE.parents[2] / "configs" / "gnmt_wmt16_en_de.py"))
    after, size, rate = feed_all(devices, np.array([0, 1], np.int32)), preset.vocab.size, product_rate("bfloat16")
    yield {"product, bfloat16, 8192": f"{rate / 1e12:.0f} TFLOP/s"}
    for compute, attention in (("bfloat16", "additive"), ("bfloat16", "general"), ("float32", "additive")):
        model_config = dataclasses.replace(preset.model, compute=compute, attention=attention, kernel="auto")
        config = dataclasses.replace(preset, model=model_config)
        model, optimizer = make_model(config.model, size, size), make_optimizer(config.optimizer)
        step = make_train_step(model, optimizer, config, devices)
        for rows in GNMT_ROWS:
            draws = np.random.default_rng(rows)
            batch = feed_rows(devices, tuple(draws.integers(4, size, (rows, STEPS)).astype(np.int32) for _ in range(2)))
            try:
                program = step.compile(create_state(config, (size, size), optimizer, devices), batch, after)
                box = [create_state(config, (size, size), optimizer, devices)]

                def work(program=program, box=box, batch=batch):
                    box[0], update = program(box[0], batch, after)
                    return update

                taken = seconds(work)
                loss = work().loss
            except jax.errors.JaxRuntimeError as error:
                yield {"means": str(choose_means(model_config)), "attention": attention, "rows": rows, "failed": str(error).split("\n")[0]}
                continue
            flops = count_flops(config.model, box[0].params).training(rows * STEPS, rows * STEPS, STEPS)
            yield {
                "means": str(choose_means(model_config)),
                "attention": attention,
                "rows": rows,
                "step ms": round(taken * 1e3, 2),
                "src+tgt tokens/s": round(2 * rows * STEPS / taken),
                "of the product": f"{flops / taken / rate:.1%}",
                "temp GiB": round(program.gradients.memory_analysis().temp_size_in_bytes / 2**30, 2),
                "loss": round(float(loss.plain / loss.tokens), 3),
            }


# Layers ----------------------------------------------------------------------------------------------------------------


def layer_work(name, hidden, rows):
    """Forward and backward of one layer by one of ours, or by nnx.RNN."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    sys.path.insert(0, str(HERE.parent))
    from training import nnx_layer

    from flax_s2s.model.cells import RecurrentLayer
    from flax_s2s.model.lstm import unroll

    layer = RecurrentLayer(hidden, hidden, forget_bias=1.0, kernel_init=nnx.initializers.glorot_uniform(), rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    dtype = "bfloat16" if "bfloat16" in name else "float32"
    inputs = jax.random.normal(jax.random.key(0), (rows, STEPS, hidden)).astype(dtype)
    weights = jax.random.normal(jax.random.key(1), inputs.shape)
    run = nnx_layer if "nnx" in name else partial(unroll, kernel="cudnn" if "cudnn" in name else "scan")

    @jax.jit
    def gradients(params, inputs):
        def loss(params, inputs):
            return jnp.sum(weights * run(nnx.merge(graph, params), inputs)[0].astype(jnp.float32))

        return jax.grad(loss, argnums=(0, 1))(params, inputs)

    return lambda: gradients(params, inputs)


def torch_seconds(name, hidden, rows):
    """The same by torch.nn.LSTM (cuDNN)."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    lstm = torch.nn.LSTM(hidden, hidden, batch_first=True).to("cuda", dtype)
    inputs = torch.randn(rows, STEPS, hidden, device="cuda", dtype=dtype, requires_grad=True)
    weights = torch.randn(rows, STEPS, hidden, device="cuda", dtype=dtype)

    def work():
        lstm.zero_grad(set_to_none=True)
        inputs.grad = None
        (weights * lstm(inputs)[0]).sum().backward()

    work()
    taken = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(CALLS):
            work()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - begin) / CALLS)
    return statistics.median(taken)


def layers(_):
    """Milliseconds by each, for every size; one after the other in one process."""
    try:
        import torch  # noqa: F401
    except ImportError:
        peers = ()
    else:
        peers = ("torch tf32", "torch bfloat16")
    for hidden, rows in LAYERS:
        row = {"hidden": hidden, "rows": rows}
        taken = {
            name: seconds(layer_work(name, hidden, rows)) for name in ("cudnn", "scan", "scan bfloat16", "nnx.RNN", "nnx.RNN bfloat16")
        }
        taken |= {name: torch_seconds(name, hidden, rows) for name in peers}
        row |= {f"{name} ms": round(value * 1e3, 3) for name, value in taken.items()}
        best = min(taken["cudnn"], taken["scan"])
        if peers:
            row |= {
                "tf32 torch/ours": round(taken["torch tf32"] / best, 2),
                "bf16 torch/ours": round(taken["torch bfloat16"] / taken["scan bfloat16"], 2),
            }
        row |= {"tf32 nnx/ours": round(taken["nnx.RNN"] / best, 2)}
        yield row | {"bf16 nnx/ours": round(taken["nnx.RNN bfloat16"] / taken["scan bfloat16"], 2)}


def loop(variant):
    """The scan in bfloat16 with the loop unrolled; the process was started with or without CUDA graphs."""
    from jax import lax

    from flax_s2s.model import lstm

    for unroll in (1, 2, 4, 8):
        lstm.lax = SimpleNamespace(**{**vars(lax), "scan": partial(lax.scan, unroll=unroll)})
        for hidden, rows in ((512, 64), (1024, 128), (1024, 512)):
            taken = seconds(layer_work("scan bfloat16", hidden, rows))
            microseconds = round(taken / (2 * STEPS) * 1e6, 1)
            yield {"graphs": variant, "unroll": unroll, "hidden": hidden, "rows": rows, "us per step and direction": microseconds}


# The run ---------------------------------------------------------------------------------------------------------------

PARTS = {"check": check, "gnmt": gnmt, "layers": layers, "loop": loop}


def run_part(name, variant="", flags=""):
    """A part in a process of its own: its rows."""
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[2]), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE), "--serve", name, variant]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return rows if done.returncode == 0 else [*rows, {"failed": f"{name} {variant} ended with {done.returncode}"}]


def show(rows):
    """Rows as a table; the columns are those of the row that has most."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    widths = [max(len(name), *(len(str(row.get(name, ""))) for row in rows)) for name in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        print("  ".join(str(row.get(name, "")).rjust(width) for name, width in zip(columns, widths, strict=True)), flush=True)
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="a file for all numbers, as JSON")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        for row in PARTS[given.serve[0]](given.serve[1]):
            print(json.dumps(row), flush=True)
        return
    found = {}
    for name in given.parts:
        begin = time.perf_counter()
        variants = [("off", ""), ("on", GRAPHS)] if name == "loop" else [("", "")]
        found[name] = [row for variant, flags in variants for row in run_part(name, variant, flags)]
        print(f"{name} ({time.perf_counter() - begin:.0f} s)")
        show(found[name])
        if given.output:
            given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
