"""Word forms and pronunciations beside yoyodyne 0.5.27: right answers, processor time to get there, and decoding.

    python -m venv ~/yoyodyne && ~/yoyodyne/bin/pip install yoyodyne==0.5.27
    python tests/benchmarks/yoyodyne.py --yoyodyne ~/yoyodyne/bin/python --task inflection --languages izh mlt --seeds 1 --work runs/beside
    python tests/benchmarks/yoyodyne.py --yoyodyne ~/yoyodyne/bin/python --task g2p --work runs/beside

Each system in turn, nothing beside it, in processes of their own; what is counted is what the operating system says of a process when it
has ended (wait4). Ours: the presets `inflection` and `g2p`, caches empty. Theirs: the models that its README recommends, with the sizes
and the trainer that its own tests give for real data (embeddings of 64, 256 units, dropout of 0.2, label smoothing of 0.1, a gradient of at
most 3, 50 epochs at most, stopped after 10 without a better loss), the checkpoint with the best accuracy, beam of 5 where the model has one:

soft        SoftAttentionLSTMModel
pointer     PointerGeneratorLSTMModel
monotonic   HardAttentionLSTMModel, enforce_monotonic, attention_context of 1 (greedy: it has no beam)

A run that is there is not trained again; results are lines of JSON in WORK/results.jsonl. Learning rates: its tests' 0.01, for their small
corpora, and its documentation's 0.001: --rate.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
DATA = HERE.parents[3] / "shared" / "data"
LANGUAGES = {"inflection": ("izh", "mlt", "tgl", "lug", "kaz"), "g2p": ("rum", "hin", "ice", "lit")}
CLASSES = {"soft": "SoftAttentionLSTMModel", "pointer": "PointerGeneratorLSTMModel", "monotonic": "HardAttentionLSTMModel"}


def measured(command: Sequence[str], log: Path, env: dict[str, str]) -> dict[str, float]:
    """Runs it; its processor time, seconds and peak memory."""
    begin = time.perf_counter()
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; see {log}")
    return {"cpu": usage.ru_utime + usage.ru_stime, "secs": time.perf_counter() - begin, "mb": usage.ru_maxrss / 1024}


def start(folder: Path) -> Path:
    """An empty folder: what a run left that was broken off goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def read_targets(task: str, language: str) -> list[str]:
    return [line.split("\t")[1] for line in (DATA / task / f"{language}.test.tsv").read_text().splitlines()]


def share_right(found: Sequence[str], task: str, language: str) -> float:
    wanted = read_targets(task, language)
    if len(found) != len(wanted):
        raise SystemExit(f"{len(found)} answers for {len(wanted)} questions")
    return 100 * sum(one.strip() == other.strip() for one, other in zip(found, wanted, strict=True)) / len(wanted)


# Ours --------------------------------------------------------------------------------------------------------------


def ours(task: str, language: str, seed: int, work: Path, options: Sequence[str]) -> dict[str, Any]:
    folder = start(work / "-".join(["ours", task, language, str(seed), *(option.lstrip("-").replace("/", "_") for option in options)]))
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "GLIBC_", "PYTHON"))}
    env = {**rest, "PYTHONPATH": str(HERE.parents[2]), "XDG_CACHE_HOME": str(folder / "caches")}
    splits = [f"--data.{split}={language}.{split}" for split in ("train", "valid", "test")]
    train = ["train", str(HERE.parents[2] / f"configs/{task}.py"), "--run-dir", str(folder / "run"), f"--seed={seed}", *splits, *options]
    program = [sys.executable, "-m", "flax_s2s"]
    training = measured([*program, *train, f"--data.folder={DATA / task}"], folder / "log", env)
    decode = ["decode", str(folder / "run"), "--input", str(DATA / task / f"{language}.test.tsv"), "--output", str(folder / "out")]
    decoding = measured([*program, *decode], folder / "log", env)
    right = share_right((folder / "out").read_text().splitlines(), task, language)
    return {"right": right, "train": training, "decode": decoding}


# Theirs ------------------------------------------------------------------------------------------------------------


def config_of(model: str, task: str, language: str, seed: int, folder: Path, rate: float, epochs: int) -> dict[str, Any]:
    """Everything that `yoyodyne fit` and `predict` are told."""
    encoder = {
        "class_path": "yoyodyne.models.modules.LSTMEncoder",
        "init_args": {"dropout": 0.2, "embedding_size": 64, "hidden_size": 256},
    }
    how: dict[str, Any] = {
        "source_encoder": encoder,
        "decoder_dropout": 0.2,
        "decoder_hidden_size": 256,
        "embedding_size": 64,
        "label_smoothing": 0.1,
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": rate}},
    }
    if task == "inflection":
        how["features_encoder"] = encoder
    how |= {"enforce_monotonic": True, "attention_context": 1} if model == "monotonic" else {}
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 10}}
    files = {
        split: str(DATA / task / f"{language}.{name}.tsv") for split, name in (("train", "train"), ("val", "valid"), ("predict", "test"))
    }
    separators = {"features_col": 3} if task == "inflection" else {"target_sep": " "}
    return {
        "seed_everything": seed,
        "model": {"class_path": f"yoyodyne.models.{CLASSES[model]}", "init_args": how},
        "data": {**files, **separators, "model_dir": str(folder), "batch_size": 32},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "gradient_clip_val": 3,
            "callbacks": [stop],
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder)}},
            "enable_progress_bar": False,
        },
        "checkpoint": {"dirpath": str(folder), "filename": "best", "mode": "max", "monitor": "val_accuracy"},
        "prediction": {"path": str(folder / "out")},
    }


def theirs(model: str, task: str, language: str, seed: int, work: Path, python: str, rate: float, epochs: int) -> dict[str, Any]:
    folder = start(work / f"{model}-{rate}-{epochs}-{task}-{language}-{seed}")
    config = config_of(model, task, language, seed, folder, rate, epochs)
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    beam = config | {
        "model": config["model"] | {"init_args": config["model"]["init_args"] | ({} if model == "monotonic" else {"beam_width": 5})}
    }
    (folder / "predict.yaml").write_text(json.dumps(beam))  # with a beam, `fit` ends in its first validation
    program = [str(Path(python).parent / "yoyodyne")]
    training = measured([*program, "fit", "--config", str(folder / "config.yaml")], folder / "log", dict(os.environ))
    how = ["predict", "--config", str(folder / "predict.yaml"), "--ckpt_path", str(folder / "best.ckpt")]
    decoding = measured([*program, *how], folder / "log", dict(os.environ))
    found = [line.split("\t")[0] for line in (folder / "out").read_text().split("\n")[:-1]]
    return {"right": share_right(found, task, language), "train": training, "decode": decoding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yoyodyne", required=True, metavar="PYTHON")
    parser.add_argument("--task", choices=LANGUAGES, required=True)
    parser.add_argument("--languages", nargs="+", default=[])
    parser.add_argument("--systems", nargs="+", default=["ours", *CLASSES], choices=["ours", *CLASSES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--epochs", type=int, default=50, help="theirs at most")
    parser.add_argument("--option", action="append", default=[], dest="options", help="a further option of ours: --option=--model.copy")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results = given.work / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in given.seeds:
        for language in given.languages or LANGUAGES[given.task]:
            for system in given.systems:
                what = {"task": given.task, "language": language, "system": system, "seed": seed}
                what |= {"options": given.options} if system == "ours" else {"rate": given.rate, "epochs": given.epochs}
                if any(all(one.get(name) == value for name, value in what.items()) for one in done):
                    continue
                if system == "ours":
                    found = ours(given.task, language, seed, given.work, given.options)
                else:
                    found = theirs(system, given.task, language, seed, given.work, given.yoyodyne, given.rate, given.epochs)
                with results.open("a") as file:
                    file.write(json.dumps(what | found) + "\n")
                times = " ".join(f"{part} {found[part]['cpu']:8.1f} s CPU {found[part]['mb']:6.0f} MB" for part in ("train", "decode"))
                print(f"{language} {system:10} seed {seed}: {found['right']:6.2f}% right, {times}", flush=True)


if __name__ == "__main__":
    main()
