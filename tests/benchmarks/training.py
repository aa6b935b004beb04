"""Training speed side by side: ours, flax's nnx.RNN, PyTorch, OpenNMT-py; same model, same batches, rounds interleaved.

    python tests/benchmarks/training.py --task model --torch-python ~/peers/bin/python
    python tests/benchmarks/training.py --task feeding --torch-python ~/peers/bin/python
    python tests/benchmarks/training.py --task layers --torch-python ~/peers/bin/python

The peers stand in an environment of their own, made once:

    python -m venv ~/peers
    ~/peers/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    ~/peers/bin/pip install --no-deps OpenNMT-py==3.5.1
    ~/peers/bin/pip install numpy configargparse pyyaml six rapidfuzz sacrebleu pyonmttok pyahocorasick ctranslate2 flask waitress tensorboard fasttext-wheel spacy

Every contender is a process that waits while another is measured. A round is: the float32 product of two matrices of 2048
(in our process), then every contender over all batches. Medians are printed, with the spread between the quartiles; a run
whose product rate spreads by more than 10% says nothing.

"ours" computes in the type that `model.compute=auto` chooses here (bfloat16 where the processor has instructions for it), and so
does "nnx.RNN"; "float32" is said where it is asked for. The product is in float32 always.

`model` and `feeding` are model R on Multi30k: vocabulary 8,000 joint, embedding 256, one bidirectional encoder layer of
2 x 256, decoder 512, general attention, softmax over 512 features, about 64 sentences a batch; one whole update each,
dropout, label smoothing, clipping and Adam included. `layers` is two layers of 512 over 32 steps of 64 rows, forward and
backward. "kept" is OpenNMT-py with glibc told by mallopt to keep its memory (M_MMAP_MAX, M_TRIM_THRESHOLD), which its users do
not have; ours has huge pages (`flax_s2s.runtime.processor.use_huge_pages`).
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from contenders import Contender, quartiles

HERE = Path(__file__).resolve()
PEERS = HERE.with_name("torch_peers.py")
CORPUS = HERE.parents[2] / ".." / "shared" / "data" / "multi30k"
OF_LAYERS = ("ours", "ours float32", "nnx.RNN", "nnx.RNN float32", "torch", "torch bfloat16")
CONTENDERS = {
    "model": (*OF_LAYERS, "OpenNMT-py", "OpenNMT-py kept"),
    "feeding": ("ours", "ours float32", "OpenNMT-py", "OpenNMT-py kept"),
    "layers": OF_LAYERS,
}
LAYERS = {"rows": 64, "steps": 32, "size": 512}


def reference_model(feeding):
    """Model R."""
    from flax_s2s.config import Config, DataConfig, ModelConfig, OptimizerConfig, VocabConfig

    return Config(
        data=DataConfig(format="text", folder=str(CORPUS), source="en", target="de", batch_tokens=1248),
        vocab=VocabConfig(kind="bpe", size=8000),
        model=ModelConfig(embedding_size=256, hidden_size=512, attention="general", input_feeding=feeding, dropout=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant"),
    )


def write_batches(file, count):
    """Batches that stand for an epoch, for all contenders: evenly spaced in its batches sorted by shape."""
    import numpy as np

    from flax_s2s.commands.wiring import make_ready

    config = reference_model(False)
    ready = make_ready(config, None)
    pipeline = ready.make_pipeline(config.seed)
    batches = [pipeline.batch(planned) for planned in pipeline.sample(count)]
    np.savez(file, **{f"{side}{i}": ids for i, batch in enumerate(batches) for side, ids in zip(("src", "tgt"), batch, strict=True)})
    return len(ready.vocabularies.source)


# Our side of the line --------------------------------------------------------------------------------------------------


def nnx_layer(layer, inputs, mask=None, initial=None, reverse=False, kernel="scan", recompute=False, noise=None):
    """`unroll` by flax: the cell's two products inside the loop, and autodiff; everything around it is the same."""
    import jax.numpy as jnp
    from flax import nnx

    from flax_s2s.model.cells import State

    hidden = layer.kernel_rec.shape[0]
    cell = nnx.OptimizedLSTMCell(inputs.shape[-1], hidden, dtype=inputs.dtype, rngs=nnx.Rngs(0))
    cell.dense_i.kernel.value = layer.kernel_in[...]
    cell.dense_h.kernel.value = layer.kernel_rec[...]
    cell.dense_h.bias.value = layer.bias[...]
    lengths = None if mask is None else mask.sum(axis=1)
    carry = None if initial is None else (initial.cell, initial.hidden.astype(jnp.float32))
    rnn = nnx.RNN(cell, return_carry=True, reverse=reverse, keep_order=True)
    (last_cell, last_hidden), outputs = rnn(inputs, initial_carry=carry, seq_lengths=lengths)
    if mask is not None:
        outputs = jnp.where(mask[:, :, None], outputs, 0)
    dtype = inputs.dtype  # its carry, and so what it returns, is float32 in any case
    return outputs.astype(dtype), State(last_hidden.astype(dtype), last_cell.astype(jnp.float32))


def jax_model(name, task, file, vocab):
    """A function that makes one update on every batch, and the FLOPs and target tokens of that."""
    import jax
    import numpy as np

    from flax_s2s.config import PAD
    from flax_s2s.model import decoder, encoder, seq2seq
    from flax_s2s.model.flops import count_flops
    from flax_s2s.runtime.parallel import feed_all, feed_rows, make_devices
    from flax_s2s.training.optimizer import make_optimizer
    from flax_s2s.training.state import create_state
    from flax_s2s.training.step import make_train_step

    if "nnx.RNN" in name:
        encoder.unroll = decoder.unroll = nnx_layer
    config, devices = reference_model(task == "feeding"), make_devices(1, {})
    if "float32" in name:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute="float32"))
    model, optimizer = seq2seq.make_model(config.model, vocab, vocab), make_optimizer(config.optimizer)
    box = [create_state(config, (vocab, vocab), optimizer, devices)]
    step, after = make_train_step(model, optimizer, config, devices), feed_all(devices, np.array([0, 1], np.int32))
    stored = np.load(file)
    batches = [(stored[f"src{i}"], stored[f"tgt{i}"]) for i in range(len(stored) // 2)]
    fed = [feed_rows(devices, batch) for batch in batches]

    def work():
        for batch in fed:
            box[0], update = step(box[0], batch, after)
        jax.block_until_ready(update)

    lengths = np.concatenate([[(side != PAD).sum(axis=1) for side in batch] for batch in batches], axis=1)
    source, target = lengths.sum(axis=1).tolist()
    attended = float((lengths[0] * lengths[1]).sum() / target)
    return work, count_flops(config.model, box[0].params).training(source, target, attended), target


def jax_layers(name):
    """Forward and backward through two layers."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from flax_s2s.config import ModelConfig
    from flax_s2s.model.cells import RecurrentLayer
    from flax_s2s.model.lstm import choose_means, unroll

    size, init = LAYERS["size"], nnx.initializers.glorot_uniform()
    layers = [RecurrentLayer(size, size, forget_bias=1.0, kernel_init=init, rngs=nnx.Rngs(i)) for i in range(2)]
    graph, params = nnx.split(layers)
    compute = "float32" if "float32" in name else choose_means(ModelConfig()).compute
    inputs = jax.random.normal(jax.random.key(0), (LAYERS["rows"], LAYERS["steps"], size)).astype(compute)
    run_layer = nnx_layer if "nnx.RNN" in name else unroll

    @jax.jit
    def gradients(params, inputs):
        def loss(params, inputs):
            features = inputs
            for layer in nnx.merge(graph, params):
                features, _ = run_layer(layer, features)
            return jnp.sum(features.astype(jnp.float32) ** 2)

        return jax.grad(loss, argnums=(0, 1))(params, inputs)

    tokens = LAYERS["rows"] * LAYERS["steps"]
    return lambda: jax.block_until_ready(gradients(params, inputs)), 3 * 2.0 * tokens * 2 * 8 * size * size, tokens


def serve(name, task, file, vocab):
    """Answers `go` with the seconds of a round and `product` with its FLOP/s."""
    from flax_s2s.commands.wiring import measure, measure_products
    from flax_s2s.runtime import programs

    programs.keep()
    work, flops, tokens = jax_layers(name) if task == "layers" else jax_model(name, task, file, vocab)
    work()
    print(json.dumps({"flops": flops, "tokens": tokens}), flush=True)
    for line in sys.stdin:
        print(measure_products(5) if line.strip() == "product" else measure(work), flush=True)


# The run ---------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=CONTENDERS, default="model")
    parser.add_argument("--torch-python", default="", help="Python of the environment with the peers; empty: without them")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[2]))
    if given.serve:
        serve(given.serve[0], given.task, given.serve[1], int(given.serve[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        file, vocab = f"{folder}/batches.npz", 0
        if given.task != "layers":
            vocab = write_batches(file, given.batches)
        contenders = {}
        for name in CONTENDERS[given.task]:
            python, script = (sys.executable, HERE) if name.startswith(("ours", "nnx")) else (given.torch_python, PEERS)
            if not python:
                continue
            contenders[name] = Contender([python, str(script), "--task", given.task, "--serve", name, file, str(vocab)])
        products, seconds = [], {name: [] for name in contenders}
        for _ in range(given.rounds):
            products.append(contenders["ours"].ask("product"))
            for name, contender in contenders.items():
                seconds[name].append(contender.ask("go"))
    report(products, seconds, contenders["ours"].described)


def report(products, seconds, described):
    product, spread = quartiles(products)
    print(f"float32 product {product / 1e9:.0f} GFLOP/s, spread {spread:.0%}{'  VOID: more than 10%' if spread > 0.1 else ''}")
    print(f"{'':16}{'target tokens/s':>16}{'of the product':>16}{'ours / it':>12}{'spread':>8}")
    ours, _ = quartiles(seconds["ours"])
    for name, values in seconds.items():
        median, spread = quartiles(values)
        rate = described["flops"] / median / product
        print(f"{name:16}{described['tokens'] / median:16,.0f}{rate:16.1%}{median / ours:12.2f}{spread:8.0%}")


if __name__ == "__main__":
    from flax_s2s.runtime import processor

    processor.use_huge_pages()
    main()
