"""What OpenNMT-py reaches on the data of one of our runs, with its vocabulary, scored alike.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 sentencepiece sacrebleu pyyaml numpy configargparse six rapidfuzz \
        pyonmttok pyahocorasick ctranslate2 flask waitress tensorboard fasttext-wheel importlib_metadata
    PEER/bin/pip install --only-binary :all: spacy    # apart: with the others pip tried one release after the other
    PEER/bin/pip install --no-deps OpenNMT-py==3.5.1
    PEER/bin/python tests/benchmarks/opennmt_recipe.py RUN_DIR FOLDER_OF_THE_CORPUS WORK_FOLDER --seed 1

A bidirectional LSTM encoder, an LSTM decoder with input feeding and general attention, Adam halved every tenth of
the steps from the middle on; the checkpoint with the best validation perplexity translates the test set with beam 5. Options change
what OpenNMT-py calls by the same names; what it prints ends with one JSON line.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import sacrebleu
import sentencepiece

SPECIAL = 4  # padding, start, end, unknown: OpenNMT-py adds its own
ESCAPED = str.maketrans({"\u3000": "\u2420", "\u00a0": "\u2421"})  # white space inside of tokens, which it would split at
PLAIN = {ord(after): before for before, after in ESCAPED.items()}


def read(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def tokenize(run, data, folder, work):
    """Pieces, a line each; a vocabulary of each side; and what makes text of the target's pieces."""
    sides = ("joint", "joint") if (run / "vocab/joint.model").exists() else ("source", "target")
    processors = [sentencepiece.SentencePieceProcessor(model_file=str(run / f"vocab/{side}.model")) for side in sides]
    for side, processor in zip((data["source"], data["target"]), processors, strict=True):
        pieces = [processor.id_to_piece(i) for i in range(SPECIAL, processor.get_piece_size())]
        (work / f"vocab.{side}").write_text("".join(f"{piece.translate(ESCAPED)}\t1\n" for piece in pieces), encoding="utf-8")
        for split in ("train", "valid", "test"):
            lines = processor.encode(read(folder / f"{split}.{side}"), out_type=str)
            (work / f"{split}.{side}").write_text("".join(" ".join(line).translate(ESCAPED) + "\n" for line in lines), encoding="utf-8")
    return processors[1], sides[0] == sides[1]


def settings(arguments, data, work, shared):
    paths = {
        split: {"path_src": str(work / f"{split}.{data['source']}"), "path_tgt": str(work / f"{split}.{data['target']}")}
        for split in ("train", "valid")
    }
    return {
        "data": {"corpus_1": {**paths["train"], "transforms": ["filtertoolong"]}, "valid": paths["valid"]},
        "src_vocab": str(work / f"vocab.{data['source']}"),
        "tgt_vocab": str(work / f"vocab.{data['target']}"),
        **({"share_vocab": True, "share_embeddings": True} if shared else {}),
        "share_decoder_embeddings": arguments.word_vec_size == arguments.hidden_size,
        "src_seq_length": 100,
        "tgt_seq_length": 100,
        "save_model": str(work / "model"),
        "encoder_type": "brnn",
        "decoder_type": "rnn",
        "rnn_type": "LSTM",
        "enc_layers": arguments.layers,
        "dec_layers": arguments.layers,
        "hidden_size": arguments.hidden_size,
        "word_vec_size": arguments.word_vec_size,
        "global_attention": "general",
        "input_feed": 1,
        "dropout": [arguments.dropout],
        "label_smoothing": 0.1,
        "optim": "adam",
        "learning_rate": arguments.learning_rate,
        "start_decay_steps": arguments.train_steps // 2,
        "decay_steps": arguments.train_steps // 10,
        "learning_rate_decay": 0.5,
        "max_grad_norm": 1.0,
        "param_init": 0.0,
        "param_init_glorot": True,
        "batch_type": "tokens",
        "batch_size": arguments.batch_size,
        "normalization": "tokens",
        "bucket_size": 32768,
        "num_workers": 0,
        "train_steps": arguments.train_steps,
        "valid_steps": arguments.train_steps // 10,
        "save_checkpoint_steps": arguments.train_steps // 10,
        "report_every": 100,
        "seed": arguments.seed,
        "world_size": 1,
        "gpu_ranks": [],
    }


def best_step(log):
    """The step with the lowest validation perplexity, of those that were saved."""
    steps = [int(found) for found in re.findall(r"Saving checkpoint \S*_step_(\d+)\.pt", log)]
    perplexities = [float(found) for found in re.findall(r"[Vv]alidation perplexity: ([\d.eE+-]+)", log)]
    return min(zip(perplexities, steps, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train-steps", type=int, default=8000)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--word-vec-size", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=1408)
    arguments = parser.parse_args()
    if arguments.train_steps % 10:
        parser.error("--train-steps must be a multiple of 10: it is evaluated and saved ten times")
    data = json.loads((arguments.run_dir / "config.json").read_text())["data"]
    arguments.work.mkdir(parents=True, exist_ok=True)
    processor, shared = tokenize(arguments.run_dir, data, arguments.folder, arguments.work)
    (arguments.work / "config.yaml").write_text(json.dumps(settings(arguments, data, arguments.work, shared)))  # JSON is YAML
    begin, log = time.monotonic(), arguments.work / "train.log"
    with log.open("w") as file:
        subprocess.run(
            [sys.executable, "-m", "onmt.bin.train", "-config", str(arguments.work / "config.yaml")], stdout=file, stderr=file, check=True
        )
    took = time.monotonic() - begin
    perplexity, step = best_step(log.read_text())
    source, out = arguments.work / f"test.{data['source']}", arguments.work / "test.out"
    model = f"{arguments.work}/model_step_{step}.pt"
    translate = ["onmt.bin.translate", "-model", model, "-src", str(source), "-output", str(out), "-beam_size", "5", "-batch_size", "64"]
    with (arguments.work / "translate.log").open("w") as file:
        # Its checkpoints hold objects, which torch no longer loads by itself from 2.6 on.
        trusting = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        subprocess.run([sys.executable, "-m", *translate], stdout=file, stderr=file, check=True, env=trusting)
    texts = [processor.decode(line.translate(PLAIN).split(" ")) for line in read(out)]
    references = read(arguments.folder / f"test.{data['target']}")
    bleu = sacrebleu.BLEU(tokenize="zh" if data["target"].startswith("zh") else "13a")
    score = bleu.corpus_score(texts, [references]).score
    result = {"bleu": score, "signature": str(bleu.get_signature()), "chrf": sacrebleu.corpus_chrf(texts, [references]).score}
    print(json.dumps({**result, "step": step, "valid_perplexity": perplexity, "training_secs": took, **vars(arguments)}, default=str))


if __name__ == "__main__":
    main()
