"""How fast and how small the input pipeline is with a large corpus.

    python tests/benchmarks/input_pipeline.py --pairs 10000000 --folder /a/folder/with/5/GB

Generates a corpus (once), then starts twice, each time as a process of its own: the first start tokenizes, the second
finds the tokens. Each reports the seconds until its first batch, the tokens per second of the pipeline alone, and the
resident memory of the process after that.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCHES = 2_000
WORDS = 30_000


def generate(folder: Path, pairs: int) -> None:
    """Sentences of 1 to 30 words, the words as unevenly frequent as those of a language."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = np.array(["".join(rng.choice(letters, 1 + int(rng.gamma(3, 1.5)))) for _ in range(WORDS)])
    for side in ("en", "de"):
        partial = folder / f"train.{side}.partial"
        with partial.open("w") as file:
            for start in range(0, pairs, 100_000):
                lengths = 1 + np.minimum(rng.poisson(11, min(100_000, pairs - start)), 29)
                chosen = words[np.minimum(rng.zipf(1.2, lengths.sum()), WORDS) - 1].tolist()
                ends = np.cumsum(lengths).tolist()
                file.write("".join(" ".join(chosen[a:b]) + "\n" for a, b in zip([0, *ends], ends, strict=False)))
        partial.rename(folder / f"train.{side}")
    for side in ("en", "de"):
        with (folder / f"train.{side}").open() as file, (folder / f"valid.{side}").open("w") as valid:
            valid.writelines(next(file) for _ in range(1_000))


def start(folder: Path, began: float) -> None:
    """What `train` does before its first step, and then the pipeline alone."""
    from flax_s2s.commands.wiring import make_ready
    from flax_s2s.config import PAD, Config, DataConfig, VocabConfig
    from flax_s2s.data import vocab
    from flax_s2s.data.pipeline import Position
    from flax_s2s.runtime import caches

    data = DataConfig(format="text", folder=str(folder), source="en", target="de", batch_tokens=4096)
    config = dataclasses.replace(Config(), data=data, vocab=VocabConfig(kind="bpe", size=8000))
    from etils import epath

    kept = epath.Path(folder) / "vocab"
    ready = make_ready(config, kept)
    vocab.save(ready.vocabularies, kept)
    assert caches.folder("tokens")
    stream = ready.make_pipeline(config.seed).stream(Position(0, 0))
    next(stream)
    first = time.time() - began
    begin, tokens = time.perf_counter(), 0
    for _ in range(BATCHES):
        _, batch = next(stream)
        tokens += sum(int(np.count_nonzero(side != PAD)) for side in batch)
    rate = tokens / (time.perf_counter() - begin)
    resident = next(line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith("VmRSS"))
    print(
        json.dumps({"first_batch_secs": round(first, 1), "tokens_per_sec": round(rate), "resident_mib": int(resident.split()[1]) // 1024})
    )


def main() -> None:
    """Generates and starts twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--began", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.began:
        start(given.folder, given.began)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if not (given.folder / "valid.de").exists():
        generate(given.folder, given.pairs)
    environment = {**os.environ, "XDG_CACHE_HOME": str(given.folder / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    for number in ("first", "second"):
        command = [sys.executable, __file__, "--folder", str(given.folder), "--began", str(time.time())]
        print(
            number,
            "start:",
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip(),
            flush=True,
        )


if __name__ == "__main__":
    main()
