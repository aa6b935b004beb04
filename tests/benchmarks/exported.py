"""Ways to run one model outside of the trainer, as whole processes: raw lines in, raw lines out.

    python tests/benchmarks/exported.py RUN --lines ../shared/data/multi30k/test.en --references ../shared/data/multi30k/test.de
    python tests/benchmarks/exported.py RUN --lines ... --references ... --marian ~/peers/bin/python MODEL.npz VOCAB.spm

The contenders: `decode` in float32 and in what `decoding.compute=auto` chooses, the exported folder by onnxruntime in float32 and in int8, the folder by NumPy, and
Marian's CPU wheel with a model of its own (marian.py trains it), in float32: the wheel cannot convert a model to int8.

What is measured, each in a process of its own on one core and on two (`--cores`), beam 1 and 5:

sentences/s  lines of the file, less the first, over the seconds that they take more than one line alone: loading is not in it
p50          a line sent, its answer awaited, then the next (`--single` lines)
start        from the command to the first answer, of such a process
MB           its largest resident size, of the whole file in batches of 64; as the operating system counts it
disk         what must be copied to run it

Warm: every process runs once before it is measured. Rounds are interleaved; medians are printed.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]


@dataclasses.dataclass
class Contender:
    """A way to run a model: the command for whole files, the one for single lines, and what it needs on disk."""

    name: str
    whole: list[str]
    single: list[str]
    disk: float  # MB


def measured(command: Sequence[str], given: Path, cores: str) -> tuple[float, float, list[str]]:
    """Seconds, the largest resident size in MB, and the lines that came out."""
    begin = time.perf_counter()
    with given.open() as lines:
        process = subprocess.Popen(
            ["taskset", "-c", cores, *command], cwd=ROOT, env=environment(cores), text=True, stdin=lines, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, out.split("\n")[:-1]


def environment(cores: str) -> dict[str, str]:
    threads = str(len(cores.split(",")))
    return {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}


def one_by_one(command: Sequence[str], lines: Sequence[str], cores: str) -> tuple[float, float]:
    """Seconds to the first answer, and the median of the answers after it."""
    begin = time.perf_counter()
    with subprocess.Popen(
        ["taskset", "-c", cores, *command], cwd=ROOT, env=environment(cores), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        times = []
        for line in lines:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            process.stdout.readline()
            times.append(time.perf_counter() - begin)
            begin = time.perf_counter()
        process.stdin.close()
    return times[0], statistics.median(times[1:])


def size(folder: Path, *names: str) -> float:
    paths = [folder / name for name in names] if names else [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in paths) / 2**20


def contenders(given: argparse.Namespace, work: Path, beam: int, threads: int) -> list[Contender]:
    """All of them, for a beam."""
    python, found = sys.executable, []
    for name, compute in (("decode, float32", "float32"), ("decode", "auto")):
        command = [python, "-m", "flax_s2s", "decode", given.run, "--beam-size", str(beam), "--compute", compute]
        found.append(
            Contender(name, [*command, "--input", "{file}", "--output", "{out}"], command, size(Path(given.run), *checkpoint(given.run)))
        )
    for name, folder, engine in (
        ("exported, float32", "float32", "onnx"),
        ("exported, int8", "int8", "onnx"),
        ("NumPy", "float32", "numpy"),
    ):
        command = [python, str(work / folder / "translate.py"), "--beam-size", str(beam), "--engine", engine, "--threads", str(threads)]
        found.append(Contender(name, [*command, "--batch", "64"], command, size(work / folder)))
    if given.marian:
        peer, model, vocabulary = given.marian
        command = [
            peer,
            str(HERE.with_name("marian.py")),
            "translate",
            model,
            vocabulary,
            "--beam-size",
            str(beam),
            "--threads",
            str(threads),
        ]
        found.append(Contender("Marian", [*command, "--batch", "64"], command, size(Path(model).parent, Path(model).name)))
    return [one for one in found if one.name in given.names] if given.names else found


def checkpoint(run: str) -> list[str]:
    folder = Path(run)
    newest = max((path for path in (folder / "checkpoints").iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    return [str(path.relative_to(folder)) for path in newest.rglob("*") if path.is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--lines", required=True)
    parser.add_argument("--references", default="")
    parser.add_argument("--metric", default="bleu", choices=["bleu", "wer"])
    parser.add_argument("--marian", nargs=3, default=[], metavar=("PYTHON", "MODEL", "VOCABULARY"))
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--cores", nargs="+", default=["0", "0,1"])
    parser.add_argument("--beams", nargs="+", type=int, default=[5, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single", type=int, default=200)
    given = parser.parse_args()
    lines = Path(given.lines).read_text(encoding="utf-8").split("\n")[:-1]
    references = Path(given.references).read_text(encoding="utf-8").split("\n")[:-1] if given.references else []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for folder in ("float32", "int8"):
            command = [sys.executable, "-m", "flax_s2s", "export", given.run, "--output", str(work / folder)]
            subprocess.run([*command, *(["--quantize", "int8"] if folder == "int8" else [])], cwd=ROOT, env=environment("0"), check=True)
        for cores in given.cores:
            for beam in given.beams:
                table(
                    given,
                    contenders(given, work, beam, len(cores.split(","))),
                    lines,
                    references,
                    cores,
                    f"cores {cores}, beam {beam}",
                    work,
                )


def run_whole(one: Contender, lines: Sequence[str], cores: str, work: Path) -> tuple[float, float, list[str]]:
    file, out = work / "lines", Path(tempfile.mkdtemp(dir=work)) / "out"  # a job that was there would be gone on with
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    secs, memory, found = measured([part.format(file=file, out=out) for part in one.whole], file, cores)
    return secs, memory, out.read_text(encoding="utf-8").split("\n")[:-1] if out.exists() else found


def table(
    given: argparse.Namespace,
    all_: Sequence[Contender],
    lines: Sequence[str],
    references: Sequence[str],
    cores: str,
    title: str,
    work: Path,
) -> None:
    rows: dict[str, list[dict[str, float]]] = {one.name: [] for one in all_}
    texts = {}
    for number in range(given.rounds + 1):
        for one in all_:
            least, _, _ = run_whole(one, lines[:1], cores, work)
            secs, memory, texts[one.name] = run_whole(one, lines, cores, work)
            start, middle = one_by_one(one.single, lines[: given.single], cores)
            row = {
                "sentences/s": (len(lines) - 1) / (secs - least),
                "p50 ms": 1e3 * middle,
                "start s": start,
                "MB": memory,
                "disk MB": one.disk,
            }
            rows[one.name] += [row] if number else []
    print(f"\n{title}")
    for name, many in rows.items():
        medians = {key: statistics.median(row[key] for row in many) for key in many[0]}
        quality = f"  {given.metric} {score(given, texts[name], references):.2f}" if references else ""
        same = sum(text == other for text, other in zip(texts[name], texts[all_[0].name], strict=True))
        print(f"{name:20}" + "".join(f"  {key} {value:,.2f}" for key, value in medians.items()) + f"{quality}  same {same}", flush=True)


def score(given: argparse.Namespace, texts: Sequence[str], references: Sequence[str]) -> float:
    if given.metric == "bleu":
        import sacrebleu

        return sacrebleu.corpus_bleu(list(texts), [list(references)]).score
    return 100 * sum(text != reference for text, reference in zip(texts, references, strict=True)) / len(references)


if __name__ == "__main__":
    main()
