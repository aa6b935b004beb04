"""Marian's CPU wheel: a like model is trained, and lines are translated as they come or in batches; runs in an environment of its own.

    python -m venv ~/peers && ~/peers/bin/pip install pymarian==1.12.42
    ~/peers/bin/python tests/benchmarks/marian.py train ../shared/data/multi30k/train.en ../shared/data/multi30k/train.de FOLDER --epochs 3
    ~/peers/bin/python tests/benchmarks/marian.py translate FOLDER/model.npz FOLDER/vocab.spm --beam-size 5 --batch 64 < in > out

The model is of type `s2s` with LSTM cells, one layer in each direction and one in the decoder, as wide as `multi30k_en_de`, its joint vocabulary of 6,000 pieces and tied tables.
"""

import argparse
import itertools
import sys
from pathlib import Path


def train(given: argparse.Namespace) -> None:
    from pymarian import Trainer

    folder = Path(given.folder)
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "type": "s2s", "train-sets": f"{given.source} {given.target}", "model": folder / "model.npz",
        "vocabs": f"{folder / 'vocab.spm'} {folder / 'vocab.spm'}", "dim-vocabs": "6000 6000", "enc-cell": "lstm", "dec-cell": "lstm",
        "dim-emb": 256, "dim-rnn": 512, "tied-embeddings-all": "true", "dropout-rnn": 0.2, "learn-rate": 0.001, "mini-batch": 64, "maxi-batch": 100,
        "cpu-threads": given.threads, "workspace": 2000, "after-epochs": given.epochs, "disp-freq": 50, "max-length": 60, "seed": 1,
        "overwrite": "true", "clip-norm": 1, "exponential-smoothing": "0.001",
    }  # fmt: skip
    Trainer(" ".join(f"--{name} {value}" for name, value in options.items())).train()


def translate(given: argparse.Namespace) -> None:
    from pymarian import Translator

    options = f"--models {given.model} --vocabs {given.vocabulary} {given.vocabulary} --beam-size {given.beam_size} --normalize 1 --cpu-threads {given.threads}"
    options += f" --mini-batch {given.batch} --maxi-batch 16 --maxi-batch-sort src --quiet --quiet-translation --max-length-factor 2"
    translator = Translator(options)
    lines = (line.rstrip("\n") for line in sys.stdin)
    while some := list(itertools.islice(lines, 1 if given.batch == 1 else 16 * given.batch)):
        print("\n".join(translator.translate(some)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("source")
    verb.add_argument("target")
    verb.add_argument("folder")
    verb.add_argument("--epochs", type=int, default=3)
    verb.add_argument("--threads", type=int, default=2)
    verb.set_defaults(act=train)
    verb = verbs.add_parser("translate")
    verb.add_argument("model")
    verb.add_argument("vocabulary")
    verb.add_argument("--beam-size", type=int, default=5)
    verb.add_argument("--batch", type=int, default=1)
    verb.add_argument("--threads", type=int, default=1)
    verb.set_defaults(act=translate)
    given = parser.parse_args()
    given.act(given)


if __name__ == "__main__":
    main()
