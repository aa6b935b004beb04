"""A model that OpenNMT-py trained, translated by `onmt_translate` and, imported, by `decode`: which lines differ, and whose are likelier.

    python tests/benchmarks/opennmt_recipe.py ...           # in an environment of its own, see there: trains the model
    python tests/benchmarks/opennmt_import.py WORK/model_step_8000.pt --peer PEER/bin/python --model runs/multi30k/vocab/joint.model \
        --lines ../shared/data/multi30k/test.en --count 200

Runs in an environment with this package and its extra `import`. Both read tokens of the same SentencePiece model. Where texts differ, the imported run scores both: the
search of one of them has missed the likelier one. Greedy search misses nothing, so there every line must be the same, but for ties.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece

import flax_s2s

ESCAPED = str.maketrans({"\u3000": "\u2420", "\u00a0": "\u2421"})  # as opennmt_recipe.py writes white space inside of tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--peer", required=True, help="Python of the environment with OpenNMT-py")
    parser.add_argument("--model", required=True, help="SentencePiece model of both sides")
    parser.add_argument("--lines", required=True)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    lines = Path(given.lines).read_text(encoding="utf-8").split("\n")[: given.count]
    processor = sentencepiece.SentencePieceProcessor(model_file=given.model)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        command = [
            sys.executable,
            "-m",
            "flax_s2s",
            "import",
            given.checkpoint,
            "--run-dir",
            str(work / "run"),
            "--source-model",
            given.model,
        ]
        subprocess.run(command, check=True)
        imported = flax_s2s.load(work / "run")
        tokens = [" ".join(pieces).translate(ESCAPED) for pieces in processor.encode(lines, out_type=str)]
        (work / "source").write_text("".join(f"{line}\n" for line in tokens), encoding="utf-8")
        for beam in (1, 5):
            command = [
                given.peer,
                "-m",
                "onmt.bin.translate",
                "-model",
                given.checkpoint,
                "-src",
                str(work / "source"),
                "-output",
                str(work / "out"),
            ]
            trusting = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
            command += ["-beam_size", str(beam), "-batch_size", "64"]
            subprocess.run(command, check=True, env=trusting, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            theirs = [processor.decode(line.split(" ")) for line in (work / "out").read_text(encoding="utf-8").split("\n")[:-1]]
            ours = imported.translate(lines, beam_size=beam, compute="float32")
            differing = [i for i, one in enumerate(ours) if one.text != theirs[i]]
            scores = imported.score([(lines[i], theirs[i]) for i in differing]) if differing else []
            likelier = sum(ours[i].logp >= score.logp - 1e-4 for i, score in zip(differing, scores, strict=True))
            print(
                f"beam {beam}: {len(lines) - len(differing)} of {len(lines)} texts are equal; of the others ours is as likely or likelier in {likelier}"
            )
            for i, score in [*zip(differing, scores, strict=True)][:5]:
                print(f"  {lines[i]}\n    ours   {ours[i].logp:.4f} {ours[i].text}\n    theirs {score.logp:.4f} {theirs[i]}")


if __name__ == "__main__":
    main()
