"""What each way of regularizing, and distillation, does to a small model on half of Multi30k: three seeds each, validation perplexity and
BLEU of the checkpoint with the lowest.

    python tests/benchmarks/regularization.py FOLDER [NAME ...] [--corpus ../shared/data/multi30k]

Each variant is a `sweep` in FOLDER that differs from `base` in the options below; one that is done is only read again. Six epochs of half
of the pairs, with few units and without input feeding, take five minutes each; with fewer pairs or updates attention is learned by one
seed and not by the next. All take as many steps: one that makes more tokens of the text sees it less often. `student` learns what the
three seeds of `base` say as one of the training sources (Kim and Rush 2016), `student of both` that and the right targets, with
vocabularies of their own, so that their perplexities are no other's. Prints the table of RESULTS.md.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

PRESET = Path(__file__).parents[2] / "configs/multi30k_en_de.py"
PAIRS = 14_500
SHORT = {
    "data.batch-tokens": 512,
    "data.buckets": 3,
    "data.max-source-tokens": 40,
    "data.max-target-tokens": 40,
    "vocab.size": 3000,
    "model.embedding-size": 128,
    "model.hidden-size": 192,
    "model.input-feeding": False,
    "model.dropout": 0.2,
    "optimizer.warmup-steps": 300,
    "optimizer.decay-steps": 5000,
    "training.steps": 5000,
    "training.evaluate-every-steps": 1000,
    "training.save-every-steps": 1000,
    "training.best-metric": "loss",
    "evaluation.valid-pairs": 0,
    "decoding.length-penalty": 1.0,
}
VARIANTS = {
    "base": {},
    "no dropout": {"model.dropout": 0.0},
    "dropout 0.4": {"model.dropout": 0.4},
    "one mask for a sentence": {"model.dropout-masks": "sentence"},
    "recurrent dropout 0.2": {"model.recurrent-dropout": 0.2},
    "word dropout 0.1": {"model.word-dropout": 0.1},
    "zoneout 0.1": {"model.zoneout": 0.1},
    "BPE dropout 0.05": {"vocab.sampling": 0.05},
    "unigram vocabulary": {"vocab.kind": "unigram"},
    "unigram vocabulary, sampling 0.5": {"vocab.kind": "unigram", "vocab.sampling": 0.5},
    "weight decay 0.1": {"optimizer.name": "adamw", "optimizer.weight-decay": 0.1},
    "learning rate 2e-3": {"optimizer.learning-rate": 2e-3},
    "no source embeddings in attention": {"model.attend-embeddings": False},
    "no label smoothing": {"optimizer.label-smoothing": 0.0},
    "no moving average": {"optimizer.average-decay": 0.0},
    "scheduled sampling 0.2": {"optimizer.scheduled-sampling": 0.2, "optimizer.scheduled-sampling-steps": 1000},
    "layer-normalized LSTM": {"model.cell": "layer_norm_lstm"},
    "GRU": {"model.cell": "gru"},
    "fixed vector": {"model.attention": "none", "model.attend-embeddings": False},
    "student": {},
    "student of both": {},
}


def flax_s2s(*arguments):
    subprocess.run([sys.executable, "-m", "flax_s2s", *map(str, arguments)], check=True)


def make_corpus(folder, corpus):
    """The first pairs of the training set, and all of the other splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("en", "de"):
        lines = (corpus / f"train.{side}").read_bytes().split(b"\n")[:PAIRS]
        (folder / f"train.{side}").write_bytes(b"".join(line + b"\n" for line in lines))
        for split in ("valid", "test"):
            shutil.copy(corpus / f"{split}.{side}", folder)
    return folder


def distill(folder, corpus, both):
    """The corpus with what the seeds of `base` say as one of its training sources, instead of its own targets or besides them."""
    if not (folder / "base.json").exists():
        raise SystemExit("the student learns from `base`: train that first")
    data, said = make_corpus(folder / ("both" if both else "distilled"), corpus), folder / "said.de"
    if not said.exists():
        flax_s2s("decode", *sorted((folder / "base").glob("seed-*")), "--input", data / "train.en", "--output", said)
    sources, targets = (data / "train.en").read_bytes(), (data / "train.de").read_bytes()
    (data / "train.en").write_bytes(sources * (1 + both))
    (data / "train.de").write_bytes(targets * both + said.read_bytes())
    return data


def run(folder, name, corpus):
    """Perplexities and BLEU of each seed."""
    place, results = folder / name.replace(" ", "-"), folder / f"{name.replace(' ', '-')}.json"
    if not results.exists():
        students = ["student", "student of both"]
        data = distill(folder, corpus, name == students[1]) if name in students else make_corpus(folder / "corpus", corpus)
        options = [
            f"--{key}={value}" if not isinstance(value, bool) else f"--{key}" if value else f"--{key.replace('.', '.no-')}"
            for key, value in (SHORT | VARIANTS[name]).items()
        ]
        command = ["sweep", PRESET, "--run-dir", place, "--split", "valid", "--no-ensemble", "--json", results]
        flax_s2s(*command, f"--data.folder={data}", *options)
    found = json.loads(results.read_text())["runs"]
    perplexities = []
    for seed in found:
        lines = (place / seed.replace(" ", "-") / "metrics.jsonl").read_text().splitlines()
        perplexities.append(min(line["perplexity"] for line in map(json.loads, lines) if line["split"] == "valid"))
    return perplexities, [one["metrics"]["bleu"]["score"] for one in found.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(VARIANTS)}; all without")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/data/multi30k"))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(VARIANTS)
    if unknown:
        parser.error(f"no variant is called {', '.join(sorted(unknown))}")
    rows = []
    for name in arguments.names or VARIANTS:
        perplexities, scores = run(arguments.folder, name, arguments.corpus)
        means = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in (perplexities, scores)]
        rows.append(f"| {name} | {' | '.join(means)} |")
        print("| | validation perplexity | BLEU |\n|---|---|---|\n" + "\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
