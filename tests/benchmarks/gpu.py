"""What the training step does on an NVIDIA GPU: first whether it is right, then how fast, then against cuDNN and nnx.RNN.

    python tests/benchmarks/gpu.py                     everything, in at most ten minutes
    python tests/benchmarks/gpu.py --parts check gnmt
    JAX_PLATFORMS=cpu python tests/benchmarks/gpu.py --tiny      whether this script works

Needs this package's requirements with jax for CUDA, and PyTorch for the comparison (left out where it is missing). Every
part is a process of its own, so that one that fails or runs out of memory takes nothing else with it. What it prints is one
table for each part; `--output` keeps every number as JSON.

check   layer and gradients by each kernel and type, against loops in float64 (tests/reference.py)
gnmt    the whole train step of GNMT 4 + 4 x 1024, vocabulary 32,000, dropout and Adam included, 32 + 32 real tokens a row:
        source + target tokens a second, and model FLOPs over the bfloat16 product's rate; by each kernel, and as one CUDA graph
decode  its beam search, beam 5, 128 rows, 32 tokens: tokens of hypotheses that are given out a second, by how many steps are
        taken before the host waits for the device
layers  one layer, 32 steps, forward and backward: each kernel of ours, nnx.RNN, torch.nn.LSTM
loop    what could make the loop's launches cheaper: steps of a graph, CUDA graphs around the loop
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

HERE = Path(__file__).resolve()
ROUNDS, CALLS, SECONDS = 10, 5, 580
TINY = "--tiny" in sys.argv
STEPS, BEAM_ROWS, PRODUCT = (4, 4, 64) if TINY else (32, 128, 8192)
GNMT_ROWS = (2,) if TINY else (128, 256, 512, 1024)
LAYERS = [(8, 2)] if TINY else [(hidden, rows) for hidden in (512, 1024, 2048) for rows in (64, 128, 256, 512)]
LOOPS = [(8, 2)] if TINY else [(512, 64), (1024, 128), (1024, 512)]
GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL --xla_gpu_command_buffer_unroll_loops=true"


def kernels():
    """The model's kernels, and the type that each computes in: cuDNN's interface in jax is float32 only."""
    from typing import get_args

    from flax_s2s.model.lstm import Kernel

    return [(name, "float32" if name == "cudnn" else "bfloat16") for name in get_args(Kernel) if not (TINY and name == "cudnn")]


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


def product_rate(dtype, size=PRODUCT):
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
    types = [("float32", "highest", 1e-5), ("float32", "default", 5e-3), ("bfloat16", "default", 3e-2)]
    cases = [(name, *how) for name, _ in kernels() for how in types if (name, how[0]) != ("cudnn", "bfloat16")]
    for kernel, dtype, precision, allowed in cases:
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


def gnmt_config(**model):
    """The preset, on one GPU."""
    import dataclasses

    from flax_s2s.presets import load_preset

    preset = load_preset(str(HERE.parents[2] / "configs" / "gnmt_wmt16_en_de.py"))
    if TINY:
        small = {"embedding_size": 8, "hidden_size": 8, "attention_size": 8, "bidirectional_size": 0}
        preset = dataclasses.replace(preset, vocab=dataclasses.replace(preset.vocab, size=64))
        model = small | model
    return dataclasses.replace(preset, model=dataclasses.replace(preset.model, **model))


def gnmt(_):
    """Tokens a second of the train step."""
    import dataclasses

    import jax
    import numpy as np

    from flax_s2s.model.flops import count_flops
    from flax_s2s.model.seq2seq import make_model
    from flax_s2s.runtime.parallel import feed_all, feed_rows, make_devices
    from flax_s2s.training.optimizer import make_optimizer
    from flax_s2s.training.state import create_state
    from flax_s2s.training.step import make_train_step

    devices = make_devices(1, {})
    after, rate = feed_all(devices, np.array([0, 1], np.int32)), product_rate("bfloat16")
    yield {f"product, bfloat16, {PRODUCT}": f"{rate / 1e12:.3g} TFLOP/s"}
    ways = [
        (kernel, compute, graphs) for kernel, compute in kernels() for graphs in ((False,) if TINY or kernel == "cudnn" else (False, True))
    ]
    for kernel, compute, graphs in ways:
        config = gnmt_config(compute=compute, kernel=kernel)
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, whole_graphs=graphs))
        size = config.vocab.size
        for rows in GNMT_ROWS:
            draws = np.random.default_rng(rows)
            batch = feed_rows(devices, tuple(draws.integers(4, size, (rows, STEPS)).astype(np.int32) for _ in range(2)))
            row = {"kernel": kernel, "compute": compute, "one graph": graphs, "rows": rows}
            try:
                model, optimizer = make_model(config.model, size, size), make_optimizer(config.optimizer)
                begin = time.perf_counter()
                step = make_train_step(model, optimizer, config, devices)
                program = step.compile(create_state(config, (size, size), optimizer, devices), batch, after)
                compiling = time.perf_counter() - begin
                box = [create_state(config, (size, size), optimizer, devices)]

                def work(program=program, box=box, batch=batch):
                    box[0], update = program(box[0], batch, after)
                    return update

                taken = seconds(work)
                loss = work().loss
            except jax.errors.JaxRuntimeError as error:
                yield row | {"failed": str(error).split("\n")[0]}
                continue
            flops = count_flops(config.model, box[0].params).training(rows * STEPS, rows * STEPS, STEPS)
            yield row | {
                "compile s": round(compiling, 1),
                "step ms": round(taken * 1e3, 2),
                "src+tgt tokens/s": round(2 * rows * STEPS / taken),
                "of the product": f"{flops / taken / rate:.1%}",
                "temp GiB": round(program.gradients.memory_analysis().temp_size_in_bytes / 2**30, 2),
                "loss": round(float(loss.plain / loss.tokens), 3),
            }


def decode(_):
    """Tokens a second of the beam search; random parameters say no end mark, so that all hypotheses are as long as they may be."""
    import dataclasses

    import jax
    import numpy as np

    from flax_s2s.config import EOS
    from flax_s2s.decoding import stream
    from flax_s2s.model.seq2seq import init_params, make_model
    from flax_s2s.runtime.parallel import feed_rows, make_devices

    devices, config = make_devices(1, {}), gnmt_config(compute="bfloat16", kernel="scan")
    size, rows = config.vocab.size, BEAM_ROWS
    model = make_model(config.model, size, size)
    params = init_params(config.model, size, size, jax.random.key(0))
    params["output_bias"] = params["output_bias"].at[EOS].set(-1e3)
    decoding = dataclasses.replace(config.decoding, beam_size=5, rows=rows, max_length_ratio=1.0, max_length_extra=0)
    ids = np.random.default_rng(0).integers(4, size, (rows, STEPS)).astype(np.int32)
    limit, chosen, take = np.full(rows, STEPS, np.int32), np.arange(rows, dtype=np.int32), np.ones(rows, bool)
    weights = stream.make_lay_out((model,))([params])
    for steps_at_once in (1, 2, 4, 8):
        stream._STEPS_AT_ONCE = steps_at_once
        stream.make_stream.cache_clear()
        made = stream.make_stream((model,), decoding, devices)
        waiting = made.admit(weights, None, stream.Sentences(*feed_rows(devices, (ids, limit))))
        fed = feed_rows(devices, (chosen, take, np.array([rows], np.int32)))

        def work(made=made, waiting=waiting, fed=fed):
            return made.go(weights, None, made.empty(waiting), waiting, *fed)[1:]

        taken = seconds(work)
        said = int(np.asarray(work()[1].length)[:, 0].sum())
        yield {"steps at once": steps_at_once, "ms": round(taken * 1e3, 2), "tokens": said, "tokens/s": round(said / taken)}


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
    run = nnx_layer if "nnx" in name else partial(unroll, kernel=name.split()[0])

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
        import torch
    except ImportError:
        peers = ()
    else:
        peers = ("torch float32", "torch bfloat16") if torch.cuda.is_available() else ()
    ours = [f"{name} float32" for name, _ in kernels()] + [f"{name} bfloat16" for name, compute in kernels() if compute == "bfloat16"]
    for hidden, rows in LAYERS:
        taken = {name: seconds(layer_work(name, hidden, rows)) for name in (*ours, "nnx.RNN float32", "nnx.RNN bfloat16")}
        taken |= {name: torch_seconds(name, hidden, rows) for name in peers}
        row = {"hidden": hidden, "rows": rows} | {f"{name} ms": round(value * 1e3, 3) for name, value in taken.items()}
        for dtype in ("float32", "bfloat16"):
            best = min(value for name, value in taken.items() if name in ours and dtype in name)
            row |= {f"{name} / ours": round(value / best, 2) for name, value in taken.items() if name not in ours and dtype in name}
        yield row


def loop(variant):
    """The scan in bfloat16, by how many steps are one of the loop; the process was started with or without CUDA graphs around it."""
    from flax_s2s.model import lstm

    for steps in (1, 4, 8, 16):
        lstm._STEPS_OF_A_GRAPH = steps
        for hidden, rows in LOOPS:
            taken = seconds(layer_work("scan bfloat16", hidden, rows))
            microseconds = round(taken / (2 * STEPS) * 1e6, 1)
            yield {"whole graphs": variant, "steps": steps, "hidden": hidden, "rows": rows, "us per step and direction": microseconds}


# The run ---------------------------------------------------------------------------------------------------------------

PARTS = {"check": check, "gnmt": gnmt, "decode": decode, "layers": layers, "loop": loop}


def run_part(name, variant, flags, until):
    """A part in a process of its own: its rows, of what is done by then."""
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[2]), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE), "--serve", name, variant, *(["--tiny"] if TINY else [])]
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=max(1.0, until - time.perf_counter()))
        out, ended = done.stdout, f"ended with {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        out, ended = error.stdout or b"", "had no more time"
    rows = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{") and line.endswith("}")]
    return [*rows, {"failed": f"{name} {variant} {ended}"}] if ended else rows


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
    parser.add_argument("--tiny", action="store_true", help="sizes of a toy, on whatever device there is")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which nothing more is measured")
    parser.add_argument("--output", type=Path, help="a file for all numbers, as JSON")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        for row in PARTS[given.serve[0]](given.serve[1]):
            print(json.dumps(row), flush=True)
        return
    found, until = {}, time.perf_counter() + given.seconds
    for name in given.parts:
        begin = time.perf_counter()
        variants = [("no", ""), ("yes", GRAPHS)] if name == "loop" else [("", "")]
        found[name] = [row for variant, flags in variants for row in run_part(name, variant, flags, until)]
        print(f"{name} ({time.perf_counter() - begin:.0f} s)")
        show(found[name])
        if given.output:
            given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
