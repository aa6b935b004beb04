"""Proves by killing it that a decode job survives: SIGKILL at random moments, the number of shards changed again and again.

    python tests/soak/decode.py RUN_DIR FILE --kills 30 --seed 1 [-- OPTIONS OF decode]

Prints the figures; the exit code is 1 if the output differs by a byte from that of an undisturbed job, or anything is left over.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1])]

from processes import PROGRAM, environment  # noqa: E402


class Killed(NamedTuple):
    """How it went."""

    same: bool  # as the undisturbed job's, to the byte
    kills: int
    shardings: list[int]  # how many shards each life was one of
    parts_kept: int  # made by lives that were killed
    left: list[str]  # files besides the input, the output and the summary


def kill_decoding(run: Path, folder: Path, draw: random.Random, kills: int, options: Sequence[str] = ()) -> Killed:
    """Decodes FOLDER/in to FOLDER/out, once undisturbed in another folder, once killed so often; each life makes at least one part."""
    calm = folder / "calm"
    calm.mkdir()
    shutil.copy(folder / "in", calm / "in")
    subprocess.run(_command(run, calm, options), env=environment(1), check=True, stderr=subprocess.DEVNULL)
    killed, shardings, kept = 0, [], 0
    while not (folder / "out.summary.json").exists():
        # Of one shard, of two, of three, for a third of the kills each; behind the last kill all that is left.
        count = 1 + 3 * killed // max(kills, 1) if killed < kills else 1
        shard = () if count == 1 else ("--shard", f"{draw.randrange(count)}/{count}")
        shardings.append(count)
        process = subprocess.Popen([*_command(run, folder, options), *shard], env=environment(1), stderr=subprocess.DEVNULL)
        if killed < kills:
            before, wanted = _parts(folder), draw.randint(1, 2)
            while process.poll() is None and _parts(folder) < before + wanted:
                time.sleep(0.005)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0, 0.3))
            killed += process.poll() is None
            process.kill()
            kept += _parts(folder) - before
        process.wait()
    found = (folder / "out").read_bytes() == (calm / "out").read_bytes()
    shutil.rmtree(calm)
    left = sorted(path.name for path in folder.iterdir() if path.name not in ("in", "out", "out.summary.json"))
    return Killed(found, killed, shardings, kept, left)


def _command(run: Path, folder: Path, options: Sequence[str]) -> list[str]:
    return [*PROGRAM, "decode", str(run), "--input", str(folder / "in"), "--output", str(folder / "out"), *options]


def _parts(folder: Path) -> int:
    parts = folder / "out.parts"
    return sum(path.name.isdecimal() for path in parts.iterdir()) if parts.exists() else 0


def main() -> int:
    """Prints the figures of one such job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = [*sys.argv[1:], "--"]
    cut = arguments.index("--")
    given, options = parser.parse_args(arguments[:cut]), arguments[cut + 1 : -1]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(given.file, Path(folder) / "in")
        found = kill_decoding(given.run.absolute(), Path(folder), random.Random(given.seed), given.kills, options)
    print(f"kills {found.kills}, lives {len(found.shardings)}, shards of each {found.shardings}, parts kept {found.parts_kept}")
    print(f"the same bytes: {found.same}; left over: {found.left}")
    return 0 if found.same and not found.left else 1


if __name__ == "__main__":
    sys.exit(main())
