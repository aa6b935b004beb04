"""What the train step needs in memory, and what saving memory costs in time.

    python tests/benchmarks/memory.py                  loss, recompute, gnmt, one after the other
    python tests/benchmarks/memory.py --parts loss

loss       cross-entropy and its gradient of 4,096 tokens: ours in chunks, and the plain formula differentiated by jax
recompute  long inputs: a train step that keeps gates, and one that computes them again (model.recompute)
gnmt       a train step of GNMT 4 + 4 x 1024 with a vocabulary of 32,000: the most that the process ever held

`working memory` is what the compiled program allocates besides its arguments and results. Every part is a process of its own.
"""

import argparse
import dataclasses
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROUNDS = 5


def seconds(work):
    import jax

    jax.block_until_ready(work())
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        jax.block_until_ready(work())
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def working_mib(program):
    return program.memory_analysis().temp_size_in_bytes / 2**20


def loss():
    import jax
    import jax.numpy as jnp

    from flax_s2s.training.loss import cross_entropy

    rows, length, readout = 128, 32, 512
    keys = jax.random.split(jax.random.key(0), 3)
    readouts = jax.random.normal(keys[0], (rows, length, readout))
    for vocab in (8_000, 32_000, 80_000):
        table, bias = 0.05 * jax.random.normal(keys[1], (vocab, readout)), jnp.zeros(vocab)
        tgt_ids = jax.random.randint(keys[2], (rows, length), 4, vocab)

        def ours(readouts, table, bias, tgt_ids):
            return cross_entropy(readouts, table, bias, tgt_ids, 0.1).smoothed

        def plain(readouts, table, bias, tgt_ids):
            logp = jax.nn.log_softmax(readouts @ table.T + bias)
            right = jnp.take_along_axis(logp, tgt_ids[:, :, None], axis=-1)[:, :, 0]
            return -jnp.sum((0.9 * right + 0.1 * logp.mean(axis=-1)) * (tgt_ids != 0))

        for name, function in (("chunks", ours), ("plain", plain)):
            arguments = (readouts, table, bias, tgt_ids)
            program = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2))).lower(*arguments).compile()
            taken = seconds(lambda program=program, arguments=arguments: program(*arguments))
            value = float(program(*arguments)[0])
            print(
                f"loss       {vocab:6,} {name:7} working memory {working_mib(program):7,.0f} MiB  {taken * 1e3:7,.0f} ms  value {value:.4f}"
            )


def make_step(config, size):
    """The train step, and a state."""
    from flax_s2s.model.seq2seq import make_model
    from flax_s2s.runtime.parallel import make_devices
    from flax_s2s.training.optimizer import make_optimizer
    from flax_s2s.training.state import create_state
    from flax_s2s.training.step import make_train_step

    devices = make_devices(1, {})
    model, optimizer = make_model(config.model, size, size), make_optimizer(config.optimizer)
    state = create_state(config, (size, size), optimizer, devices)
    return make_train_step(model, optimizer, config, devices), state, devices


def run_step(config, size, shape):
    """The compiled program of a shape (rows, source, target), the median seconds of a step, and the loss after each."""
    import numpy as np

    from flax_s2s.runtime.parallel import feed_all, feed_rows

    step, state, devices = make_step(config, size)
    draws, (rows, *lengths) = np.random.default_rng(0), shape
    batch = feed_rows(devices, tuple(draws.integers(4, size, (rows, length)).astype(np.int32) for length in lengths))
    after = feed_all(devices, np.array([0, 1], np.int32))
    program, box, losses = step.compile(state, batch, after), [state], []
    del state

    def work():
        box[0], update = program(box[0], batch, after)
        losses.append(update.loss)
        return update

    taken = seconds(work)
    return program, taken, [float(part.plain / part.tokens) for part in losses]


def recompute():
    from flax_s2s.config import Config, ModelConfig, OptimizerConfig

    for name, choices in {
        "no input feeding, 3 + 3 layers": {"encoder_layers": 3, "decoder_layers": 3},
        "input feeding": {"input_feeding": True},
        "input feeding, additive": {"input_feeding": True, "attention": "additive"},
    }.items():
        for shape in ((64, 50, 50), (64, 400, 100)):
            for again in (False, True):
                model = ModelConfig(embedding_size=256, hidden_size=512, recompute=again, **choices)
                program, taken, _ = run_step(Config(model=model, optimizer=OptimizerConfig(schedule="constant")), 8000, shape)
                rows, source, target = shape
                kept = "computed again" if again else "kept"
                print(
                    f"recompute  {name:31} {rows}x({source}+{target}) {kept:14} "
                    f"working memory {working_mib(program):6,.0f} MiB  {taken * 1e3:7,.0f} ms a step"
                )


def gnmt():
    from flax_s2s.presets import load_preset

    preset = load_preset(str(HERE.parents[2] / "configs" / "gnmt_wmt16_en_de.py"))
    config = dataclasses.replace(preset, model=dataclasses.replace(preset.model, compute="float32"))
    program, taken, losses = run_step(config, preset.vocab.size, (64, 32, 32))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"gnmt       64x(32+32) working memory {working_mib(program):6,.0f} MiB  {taken:.1f} s a step  the process at most {most:.2f} GiB  "
        f"loss {' '.join(f'{value:.3f}' for value in losses)}"
    )


PARTS = {"loss": loss, "recompute": recompute, "gnmt": gnmt}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--serve", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[2]))
    if given.serve:
        PARTS[given.serve]()
        return
    for part in given.parts:
        subprocess.run([sys.executable, "-u", str(HERE), "--serve", part], check=True)


if __name__ == "__main__":
    from flax_s2s.runtime import processor

    processor.use_huge_pages()
    main()
