"""A small task as a whole, build beside build: CPU seconds, seconds and peak memory of the commands that a user types.

    git worktree add ../old 445408d
    python tests/benchmarks/small_task.py --build now=. --build old=../old --rounds 3
    python tests/benchmarks/small_task.py --build now=. --only cold first decode --run runs/multi30k_en_de

The rows:

cold        the first 8,000 words of CMUdict and 1,000 of its validation set, `cmudict_g2p`, 172 steps, one validation at the end, with
            empty caches
warm        the same again, in another run directory, with the caches that `cold` left
first       seconds from the command to the first line of progress, cold
multi30k    `multi30k_en_de`, 200 steps and one validation, cold
quickstart  the work of launch/quickstart.sh, cold: training, the scores of the test split, five phrases; and the scores
line        `decode` of one line by the run that `warm` made, warm
decode      Multi30k's test set on one core, beam 5, warm, by the run that --run names; with `decode-short` with a shortlist of 200
bench       tokens/s of a step by `bench`, of quickstart, cmudict_g2p and multi30k_en_de
yoyodyne    the first row's task with yoyodyne and a model like it: --yoyodyne PYTHON, of an environment of its own:
            python -m venv ~/yoyodyne && ~/yoyodyne/bin/pip install yoyodyne==0.5.27

Every build is started as a user starts it, by this Python, from its own folder. Its caches are in a folder of their own. What is counted
is what the operating system says of the process when it has ended (wait4): user and system time; the largest resident size. Rounds are
interleaved, builds in turn; medians are printed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve()
SHARED = HERE.parents[3] / "shared" / "data"
PHRASES = "May 14 – Jun 13, 2023\n$1,234.50\n3 hours, 12 minutes\n25 kilometers per hour\nSunday, March 5, 2023 at 4:05 PM\n"
ROWS = ("cold", "warm", "first", "multi30k", "quickstart", "line", "decode", "decode-short", "bench", "yoyodyne")


class Build:
    """One checkout, and the folders where it keeps what it makes."""

    def __init__(self, name: str, folder: Path, work: Path) -> None:
        self.name, self.folder, self.work = name, folder.resolve(), work / name
        self.work.mkdir(parents=True)

    def run(self, arguments: Sequence[str], caches: str, given: str = "", cores: str = "") -> dict[str, float]:
        """A command of this build, measured; `first` is when the first line of progress came."""
        rest = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "GLIBC_", "PYTHON"))}
        env = {**rest, "PYTHONPATH": str(self.folder), "XDG_CACHE_HOME": str(self.work / caches)}
        command = [*(["taskset", "-c", cores] if cores else []), sys.executable, "-m", "flax_s2s", *arguments]
        return measured(command, env, self.folder, given)


def measured(command: Sequence[str], env: dict[str, str], folder: Path, given: str = "") -> dict[str, float]:
    begin, first = time.perf_counter(), []
    process = subprocess.Popen(
        command, env=env, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said: list[str] = []

    def read(stream) -> None:
        for line in stream:
            said.append(line)
            if not first and re.match(r"step +\d+/", line):
                first.append(time.perf_counter() - begin)

    readers = [threading.Thread(target=read, args=(stream,)) for stream in (process.stdout, process.stderr)]
    for reader in readers:
        reader.start()
    process.stdin.write(given)
    process.stdin.close()
    for reader in readers:
        reader.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    secs = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(said[-20:])}")
    found = {"cpu s": usage.ru_utime + usage.ru_stime, "s": secs, "MB": usage.ru_maxrss / 1024}
    found |= {"first line s": first[0]} if first else {}
    return found | bench_rates("".join(said))


def bench_rates(text: str) -> dict[str, float]:
    """What `bench` printed, if that was the command."""
    if not text.startswith("{"):
        return {}
    said = json.loads(text.split("\n")[0])
    return {"target tok/s": said["train_target_tokens_per_sec"], "compile s": said["compile_secs"]}


def cut_cmudict(folder: Path) -> Path:
    """The small task's corpus."""
    folder.mkdir()
    for split, count in (("train", 8000), ("valid", 1000)):
        for side in ("word", "phones"):
            lines = (SHARED / "cmudict" / f"{split}.{side}").read_text().split("\n")[:count]
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def train(preset: str, run: Path, steps: int, *options: str) -> list[str]:
    every = [f"--training.{name}={steps}" for name in ("steps", "evaluate-every-steps", "save-every-steps")]
    return ["train", f"configs/{preset}.py", "--run-dir", str(run), *every, *options]


def measure(row: str, build: Build, work: Path, number: int, run: str) -> dict[str, float]:
    """One row of one build."""
    small = ["--data.folder", str(work / "cmudict"), "--data.test", ""]
    match row:
        case "cold" | "warm":
            return build.run(train("cmudict_g2p", build.work / f"{row}{number}", 172, *small), f"caches{number}")
        case "first":
            return build.run(train("cmudict_g2p", build.work / f"first{number}", 60, *small), f"first-caches{number}")
        case "multi30k":
            return build.run(train("multi30k_en_de", build.work / f"multi30k{number}", 200), f"multi30k-caches{number}")
        case "quickstart":
            folder, caches = build.work / f"quickstart{number}", f"quickstart-caches{number}"
            parts = [build.run(["train", "configs/quickstart.py", "--run-dir", str(folder)], caches)]
            parts.append(build.run(["evaluate", str(folder), "--split", "test", "--json", str(folder / "test.json")], caches))
            parts.append(build.run(["decode", str(folder)], caches, PHRASES))
            scores = json.loads((folder / "test.json").read_text())["metrics"]
            whole = {name: sum(part[name] for part in parts) for name in ("cpu s", "s")}
            return {**whole, "MB": max(part["MB"] for part in parts), **{name: score["score"] for name, score in scores.items()}}
        case "line":
            build.run(["decode", str(build.work / "warm0")], "caches0", "example\n")
            return build.run(["decode", str(build.work / "warm0")], "caches0", "example\n")
        case "decode" | "decode-short":
            options = ["decode", run, "--beam-size", "5", *(["--shortlist", "200"] if row == "decode-short" else [])]
            options += ["--input", str(SHARED / "multi30k" / "test.en"), "--output"]
            for warm in range(0 if number else 2):
                build.run([*options, str(build.work / f"{row}-warm{warm}")], "decode-caches", "", "0")
            return build.run([*options, str(build.work / f"{row}{number}")], "decode-caches", "", "0")
        case "bench":
            found = {}
            for preset in ("quickstart", "cmudict_g2p", "multi30k_en_de"):
                found |= {
                    f"{preset} {name}": value
                    for name, value in build.run(["bench", f"configs/{preset}.py"], "caches").items()
                    if "tok" in name
                }
            return found
    raise SystemExit(f"there is no row {row}; rows: {', '.join(ROWS)}")


def yoyodyne(python: str, work: Path) -> dict[str, float]:
    """Two epochs with bidirectional encoder layers of 512 and attention, batches of about as many words."""
    for split in ("train", "valid"):
        sides = [(work / "cmudict" / f"{split}.{side}").read_text().split("\n")[:-1] for side in ("word", "phones")]
        (work / f"{split}.tsv").write_text("".join(f"{word}\t{phones}\n" for word, phones in zip(*sides, strict=True)))
    options = {
        "data.train": work / "train.tsv", "data.val": work / "valid.tsv", "data.model_dir": work / "yoyodyne", "data.target_sep": " ",
        "data.batch_size": 93, "trainer.max_epochs": 2, "trainer.accelerator": "cpu", "trainer.default_root_dir": work / "yoyodyne",
        "model": "yoyodyne.models.SoftAttentionLSTMModel", "model.source_encoder": "yoyodyne.models.modules.LSTMEncoder",
        "model.source_encoder.init_args.embedding_size": 128, "model.source_encoder.init_args.hidden_size": 512,
        "model.source_encoder.init_args.layers": 2, "model.decoder_hidden_size": 512, "model.embedding_size": 128, "model.decoder_layers": 2,
    }  # fmt: skip
    command = [str(Path(python).parent / "yoyodyne"), "fit", *(f"--{name}={value}" for name, value in options.items())]
    return measured(command, dict(os.environ), work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--only", nargs="+", default=list(ROWS[:-1]), choices=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", default="", help="a run of Multi30k, for decode")
    parser.add_argument("--yoyodyne", default="", metavar="PYTHON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cut_cmudict(work / "cmudict")
        builds = [Build(name, Path(path), work) for name, _, path in (each.partition("=") for each in given.build)]
        for row in given.only:
            if (row.startswith("decode") and not given.run) or (row == "yoyodyne" and not given.yoyodyne):
                continue
            found: dict[str, list[dict[str, float]]] = {}
            for number in range(given.rounds):
                for build in builds if row != "yoyodyne" else builds[:1]:
                    name = row if row == "yoyodyne" else build.name
                    one = yoyodyne(given.yoyodyne, work) if row == "yoyodyne" else measure(row, build, work, number, given.run)
                    found.setdefault(name, []).append(one)
            medians = {name: {key: statistics.median(one[key] for one in many) for key in many[0]} for name, many in found.items()}
            for name, median in medians.items():
                base = medians[builds[-1].name] if row != "yoyodyne" else median
                print(
                    f"{row:12} {name:8} " + "  ".join(f"{key} {value:,.2f} ({value / base[key]:.2f})" for key, value in median.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
