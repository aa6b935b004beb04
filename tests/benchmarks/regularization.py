"""What each way of regularizing does to a small model on a third of Multi30k: three seeds each, validation perplexity and BLEU.

    python tests/benchmarks/regularization.py FOLDER [NAME ...]

Each variant is a `sweep` in FOLDER that differs from `base` in the options below; one that is done is only read again. Ten thousand
pairs and half of the preset's units, so that it overfits within minutes, which is where such things are told apart. All take as
many steps: one that makes more tokens of the text sees it less often. Prints a table for the README.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PRESET = Path(__file__).parents[2] / "configs/multi30k_en_de.py"
SHORT = {
    "data.max-train-pairs": 10_000,
    "data.buckets": 4,
    "vocab.size": 4000,
    "model.embedding-size": 128,
    "model.hidden-size": 256,
    "model.dropout": 0.2,
    "optimizer.decay-steps": 2000,
    "training.steps": 2000,
    "training.evaluate-every-steps": 2000,
    "training.save-every-steps": 2000,
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
}


def run(folder, name):
    """Perplexities and BLEU of each seed."""
    place = folder / name.replace(" ", "-")
    place.parent.mkdir(parents=True, exist_ok=True)
    options = [
        f"--{key}={value}" if not isinstance(value, bool) else f"--{key}" if value else f"--{key.replace('.', '.no-')}"
        for key, value in (SHORT | VARIANTS[name]).items()
    ]
    command = [sys.executable, "-m", "flax_s2s", "sweep", str(PRESET), "--run-dir", str(place), "--split", "valid", "--no-ensemble"]
    subprocess.run([*command, "--json", str(place) + ".json", *options], check=True)
    found = json.loads(Path(f"{place}.json").read_text())["runs"]
    perplexities = []
    for seed in found:
        lines = (place / seed.replace(" ", "-") / "metrics.jsonl").read_text().splitlines()
        perplexities.append([line["perplexity"] for line in map(json.loads, lines) if line["split"] == "valid"][-1])
    return perplexities, [one["metrics"]["bleu"]["score"] for one in found.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(VARIANTS)}; all without")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(VARIANTS)
    if unknown:
        parser.error(f"no variant is called {', '.join(sorted(unknown))}")
    rows = []
    for name in arguments.names or VARIANTS:
        perplexities, scores = run(arguments.folder, name)
        means = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in (perplexities, scores)]
        rows.append(f"| {name} | {' | '.join(means)} |")
        print("| | validation perplexity | BLEU |\n|---|---|---|\n" + "\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
