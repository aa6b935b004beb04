"""Decoding speed side by side: ours, OpenNMT-py and JoeyNMT with one trained model, the same sentences, rounds interleaved.

    python tests/benchmarks/decoding.py RUN_DIR --torch-python ~/peers/bin/python --rounds 5
    python tests/benchmarks/decoding.py RUN_DIR --torch-python ~/peers/bin/python --one-at-a-time 200

The peers stand in the environment that training.py describes, with one more: `pip install --no-deps joeynmt` (2.3.0), and what
its modules import: importlib_metadata matplotlib sentencepiece subword-nmt.

All compute the same function. RUN_DIR is a run of Multi30k with one bidirectional encoder layer, one decoder layer, input
feeding, general attention of states alone and bridge "copy": configs/multi30k_en_de.py with --model.no-attend-embeddings. Its tables are untied and its readout
is filled up with zeros to the size of the hidden state, which is what both peers have; our own process decodes this wider model
too ("ours"), and the run as it is ("ours, as trained"). The BLEU of each is printed: it must be the same, but for ties and
for how the peers' searches end.

What is timed: for ours all from lines of text to lines of text, for the peers the search alone, from token ids, in batches of
sentences sorted by length; models are loaded and every shape is warm. A round is: the float32 product of two matrices of 2048,
then every contender over all sentences. Medians are printed, with the spread between the quartiles.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from contenders import Contender, quartiles

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))
PEERS = HERE.with_name("decoding_peers.py")
CORPUS = HERE.parents[2] / ".." / "shared" / "data" / "multi30k"
OURS = (
    "ours",
    "ours, shortlist",
    "ours, int8",
    "ours, int8, shortlist",
    "ours, float32",
    "ours, as trained",
    "ours, as trained, shortlist",
)
NAMES = (*OURS, "OpenNMT-py", "JoeyNMT")


def read(side):
    return (CORPUS / f"test.{side}").read_text().split("\n")[:-1]


def widen(config, params):
    """The same function with untied tables, and a readout as wide as the hidden state."""
    import jax.numpy as jnp

    params = dict(params)
    more, hidden = config.hidden_size - config.embedding_size, config.hidden_size
    assert (config.tie, config.attention, config.input_feeding, config.bridge) == ("all", "general", True, "copy"), config
    assert not config.attend_embeddings, config
    table, decoder = params["target_table"], dict(params["decoder"])
    layer = dict(decoder["layers"]["0"])
    layer["kernel_in"] = jnp.pad(layer["kernel_in"], ((0, more), (0, 0)))
    decoder["layers"] = {"0": layer}
    decoder["kernel_readout"] = jnp.pad(decoder["kernel_readout"], ((0, 0), (0, more)))
    params |= {"source_table": table, "output_table": jnp.pad(table, ((0, 0), (0, more))), "decoder": decoder}
    assert params["output_table"].shape[1] == hidden
    return dataclasses.replace(config, tie="none"), params


def flatten(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {name: value for key, item in tree.items() for name, value in flatten(item, f"{prefix}/{key}" if prefix else key).items()}


# Our side of the line --------------------------------------------------------------------------------------------------


def serve(name, run, folder, beam, rows):
    """Answers the number of copies of the test set with the seconds for it; `one N` with those of each of N sentences."""
    import numpy as np

    from flax_s2s.commands.wiring import make_translator, measure_products, open_runs
    from flax_s2s.model.flops import count_flops
    from flax_s2s.model.seq2seq import make_model
    from flax_s2s.runs import rundir

    decoding = rundir.read_config(rundir.make_path(run)).decoding
    changed = {"beam_size": beam, "rows": rows, "shortlist": 256 if "shortlist" in name else 0}
    decoding = dataclasses.replace(decoding, **changed, compute=next((kind for kind in ("float32", "int8") if kind in name), "auto"))
    opened = open_runs([run], "best", decoding, join=False)
    params = opened.params[0]
    if "as trained" not in name:
        config, params = widen(opened.models[0].config, params)  # in the type that `decoding.compute=auto` chooses, or as named
        sizes = (len(opened.vocabularies.source), len(opened.vocabularies.target))
        opened = opened._replace(models=[make_model(config, *sizes)], params=[params])
    if name == "ours":
        source = [[*ids[: decoding.max_source_tokens - 1], 2] for ids in opened.vocabularies.source.encode(read("en"))]
        np.savez(f"{folder}/weights.npz", **{key: np.asarray(value) for key, value in flatten(params).items()})
        Path(folder, "source.json").write_text(json.dumps(source))
    translator, lines = make_translator(opened), read("en")
    weights = translator.lay_out([params])
    warm = translator(weights, lines)
    ids = [[token for token in translation.ids if token != 2] for translation in warm]
    Path(folder, f"{name}.json").write_text(json.dumps(ids))
    tokens = sum(translation.tokens for translation in warm)
    flops = count_flops(opened.models[0].config, params)
    print(json.dumps({"tokens": tokens, "flops": getattr(flops, "step", 0)}), flush=True)
    for command in sys.stdin:
        what, _, count = command.strip().partition(" ")
        if what == "product":
            print(json.dumps([measure_products(5)]), flush=True)
        elif what == "all":
            begin = time.perf_counter()
            translator(weights, lines * int(count))
            print(json.dumps([time.perf_counter() - begin]), flush=True)
        else:
            seconds = []
            for line in lines[: int(count)]:
                begin = time.perf_counter()
                translator(weights, [line])
                seconds.append(time.perf_counter() - begin)
            print(json.dumps(seconds), flush=True)


# The run ---------------------------------------------------------------------------------------------------------------


def bleu(run, ids):
    """Of token ids, by the run's vocabulary."""
    import sacrebleu

    from flax_s2s.data import vocab
    from flax_s2s.runs import rundir

    folder = rundir.make_path(run)
    texts = vocab.load(folder / rundir.VOCAB, rundir.read_config(folder).vocab.joint).target.decode(ids)
    return sacrebleu.corpus_bleu(texts, [read("de")[: len(texts)]]).score


def compare(given, beam, rows, contenders, folder):
    """One table."""
    ours, products, seconds = contenders["ours"], [], {name: [] for name in contenders}
    for number in range(given.rounds):
        print(f"beam {beam}, batch {rows}, round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
        products += ours.ask("product")
        for name, contender in contenders.items():
            seconds[name] += contender.ask(f"one {given.one_at_a_time}" if given.one_at_a_time else f"all {given.copies}")
    product, spread = quartiles(products)
    print(f"beam {beam}, batch {rows}; float32 product {product / 1e9:.0f} GFLOP/s, spread {spread:.0%}")
    base = None
    for name in [*[peer for peer in contenders if peer not in OURS], *[name for name in contenders if name in OURS]]:
        score = bleu(given.run, json.loads(Path(folder, f"{name}.json").read_text()))
        if given.one_at_a_time:
            cuts = statistics.quantiles(seconds[name], n=20)
            base = base or cuts[9]
            print(f"  {name:28}p50 {cuts[9] * 1e3:7.1f} ms  p95 {cuts[18] * 1e3:7.1f} ms   {base / cuts[9]:5.2f}x lower   BLEU {score:.2f}")
            continue
        median, spread = quartiles(seconds[name])
        count, tokens = 1000 * given.copies, contenders[name].described["tokens"] * given.copies
        base = base or median
        rates = f"{count / median:8.1f} sentences/s {tokens / median:8.0f} tokens/s   {base / median:5.2f}x   spread {spread:4.0%}"
        print(f"  {name:28}{rates}   BLEU {score:.2f}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--torch-python", default="", help="Python of the environment with the peers; empty: without them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=1, help="of the 1,000 test sentences")
    parser.add_argument("--beams", type=int, nargs="+", default=[5])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--one-at-a-time", type=int, default=0, help="sentences, one after the other, instead of all together")
    parser.add_argument("--names", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0], given.run, given.serve[1], given.beams[0], given.rows)
        return
    rows = 1 if given.one_at_a_time else given.rows
    for beam in given.beams:
        with tempfile.TemporaryDirectory() as folder:
            contenders = {}
            for name in dict.fromkeys(["ours", *given.names]):  # ours comes first: it writes what the peers read
                python, script = (sys.executable, HERE) if name in OURS else (given.torch_python, PEERS)
                if python:
                    command = [python, str(script), given.run, "--beams", str(beam), "--rows", str(rows), "--serve", name, folder]
                    contenders[name] = Contender(command)
            compare(given, beam, rows, contenders, folder)
            for contender in contenders.values():
                contender.process.kill()
                contender.process.wait()


if __name__ == "__main__":
    main()
