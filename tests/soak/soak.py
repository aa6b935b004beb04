"""Proves by killing it that a training run survives: every figure with its own command, seeded, as long as one likes.

    python tests/soak/soak.py kills --count 50 --seed 1
    python tests/soak/soak.py pairs failures sigterm topology damage nan
    python tests/soak/soak.py --help

Each part prints a line of its table; the exit code is 1 if any claim was found false.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from etils import epath

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import processes as real  # noqa: E402
from processes import PROGRAM, final, last_step, records, start, wait_for_step  # noqa: E402
from tiny import DEBUG, TINY  # noqa: E402

from flax_s2s.data import vocab  # noqa: E402
from flax_s2s.runs import rundir  # noqa: E402
from flax_s2s.runs.checkpoint import Checkpoints  # noqa: E402
from flax_s2s.runtime.parallel import make_devices  # noqa: E402
from flax_s2s.training.optimizer import make_optimizer  # noqa: E402
from flax_s2s.training.state import TrainState, abstract_state, not_finite  # noqa: E402

finish = functools.partial(real.finish, timeout=3600)  # whatever else runs beside it
PLANTED = [sys.executable, str(Path(__file__).parents[1] / "planted.py")]
VICTIM = [sys.executable, str(Path(__file__).with_name("victim.py"))]
# Saves and evaluations fall on the same steps and on different ones; both are frequent, so that a kill finds them.
OPTIONS = [
    *TINY,
    "--training.devices=0",
    "--training.log-every-steps=5",
    "--training.save-every-steps=6",
    "--training.evaluate-every-steps=15",
]
LONGEST_SECS = {"compilation": 0.3, "step": 0.5, "mid-save": 0.04, "between save and manifest": 0.02, "retention": 0.004, "evaluation": 0.5}
IN_TIME_SECS = 15.0


@dataclasses.dataclass
class Soak:
    """What all parts need."""

    root: Path
    draw: random.Random
    count: int
    steps: int

    def command(self, program: list[str], folder: Path, *options: str) -> list[str]:
        """A training in a folder."""
        return [*program, "train", DEBUG, "--run-dir", str(folder), *OPTIONS, f"--training.steps={self.steps}", *options]

    def straight(self, name: str, processes: int, devices: int) -> tuple[int, str]:
        """Step and hash at the end of an undisturbed run."""
        done = finish(start([self.command(PROGRAM, self.root / name)] * processes, devices))
        assert [process.returncode for process in done] == [0] * processes, done
        return final(self.root / name)

    def wish(self, phase: str, after: int, action: str = "kill") -> dict[str, str]:
        """The environment of a victim."""
        nth = self.draw.randint(1, 3) if phase != "step" else self.draw.randint(2, 8)
        delay = self.draw.uniform(0, LONGEST_SECS[phase])
        return {"SOAK_WISH": f"{phase} {nth} {after} {delay:.4f} {action}", "SOAK_NOTES": str(self.root / "notes")}

    def notes(self) -> list[str]:
        """Where kills have been."""
        file = self.root / "notes"
        return file.read_text().split("\n")[:-1] if file.exists() else []


def say(what: str, figure: str) -> None:
    """A line of the table."""
    print(f"| {what} | {figure} |", flush=True)


def steps_made(folder: Path) -> int:
    """The newest step that anything is known of."""
    return max(last_step(folder), last_step(folder, "checkpoint"))


def kills(soak: Soak) -> bool:
    """SIGKILL of a one-process run at two devices, in every phase."""
    expected = soak.straight("straight", 1, 2)
    folder, made, fresh = soak.root / "killed", 0, 0
    phases = collections.deque(LONGEST_SECS)
    lives = useful = 0
    while len(soak.notes()) < soak.count or min(collections.Counter(soak.notes())[phase] for phase in LONGEST_SECS) < min(
        5, soak.count // 10
    ):
        phases.rotate(1)
        more = soak.wish(phases[0], after=1)
        cache = tempfile.mkdtemp(dir=soak.root)
        more |= {"XDG_CACHE_HOME": cache} if phases[0] == "compilation" else {}
        (done,) = finish(start([soak.command(VICTIM, folder)], 2, [more]))
        lives += 1
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        reached = steps_made(folder)
        fresh += reached > made
        useful, made = useful + max(0, reached - made), max(reached, made)
        shutil.rmtree(cache)
        if done.returncode == 0:
            print(f"the run ended after {lives} lives, before {soak.count} kills; give more --steps", flush=True)
            break
    done = finish(start([soak.command(PROGRAM, folder)], 2))
    histogram = collections.Counter(soak.notes())
    for phase in LONGEST_SECS:
        print(f"  {phase:<26}{histogram[phase]:>4} {'#' * histogram[phase]}", flush=True)
    same = final(folder) == expected
    say(
        "SIGKILL, 1 process x 2 devices",
        f"{len(soak.notes())} kills, {fresh} with new steps since the last; final hash {'equal' if same else 'DIFFERENT'}",
    )
    say("useful steps over all steps", f"{made / max(1, made + repeated(folder)):.1%}")
    return same and len(soak.notes()) >= soak.count


def repeated(folder: Path) -> int:
    """Steps that were made again after a kill, from this process' own log."""
    text = (folder / "logs" / "process-0.log").read_text().split("\n")
    reached = again = 0
    for line in text:
        words = line.split()
        if len(words) > 3 and words[2] == "step" and "/" in words[3]:
            reached = max(reached, int(words[3].split("/")[0]))
        if "continuing" in words and "step" in words:
            at = int(words[words.index("step") + 1])
            again += max(0, reached - at)
            reached = at
    return again


def pairs(soak: Soak) -> bool:
    """SIGKILL of a random one of two processes with two devices each, half of the time during a save."""
    expected = soak.straight("straight2", 2, 2)
    folder, killed, late = soak.root / "killed2", 0, 0
    while killed < soak.count:
        phase = soak.draw.choice(["mid-save", "between save and manifest"] if killed % 2 else ["step", "evaluation", "compilation"])
        rank = soak.draw.randrange(2)
        if rank == 1 and phase == "between save and manifest":
            phase = "mid-save"  # only process 0 writes manifests
        more: list[dict[str, str]] = [{}, {}]
        more[rank] = soak.wish(phase, after=1 - rank)
        processes = start([soak.command(VICTIM, folder)] * 2, 2, more)
        codes, seconds = last_word(processes, rank)
        if codes == [0, 0]:
            print("the run ended too early; give more --steps", flush=True)
            break
        assert codes[rank] == -signal.SIGKILL and codes[1 - rank] not in (0, None), codes
        killed, late = killed + 1, late + (seconds > IN_TIME_SECS)
    done = finish(start([soak.command(PROGRAM, folder)] * 2, 2))
    same = [process.returncode for process in done] == [0, 0] and final(folder) == expected
    say(
        "SIGKILL, 2 processes x 2 devices",
        f"{killed} kills, {late} times later than {IN_TIME_SECS:.0f} s; final hash {'equal' if same else 'DIFFERENT'}",
    )
    return same and not late and killed >= soak.count


def last_word(processes: list["subprocess.Popen[str]"], victim: int) -> tuple[list[int | None], float]:
    """Waits for the victim, then for the others; their exit codes, and how long after the victim the last one ended."""
    processes[victim].wait(600)
    return gone(processes, time.monotonic())


def gone(processes: list["subprocess.Popen[str]"], since: float, limit: float = 60.0) -> tuple[list[int | None], float]:
    """Exit codes, and the seconds until the last of them had ended."""
    while any(process.poll() is None for process in processes) and time.monotonic() - since < limit:
        time.sleep(0.02)
    return [process.poll() for process in processes], time.monotonic() - since


def failures(soak: Soak) -> bool:
    """One of two processes killed, stopped, raising, or the coordinator not reached: all are gone in time, none with code 0."""
    good, slowest = 0, 0.0
    for trial in range(soak.count):
        kind, rank = ("killed", "stopped", "raising", "unreachable")[trial % 4], soak.draw.randrange(2)
        folder = soak.root / f"failure{trial}"
        more: list[dict[str, str]] = [{}, {}]
        if kind == "raising":
            more[rank] = soak.wish("step", after=0, action="raise")
        commands = [soak.command(VICTIM, folder)] * 2
        if kind == "unreachable":
            rank = 0
            processes = start([[sys.executable, "-c", ""], commands[1]], 2, connect_secs=10)[1:]
            since = time.monotonic()
        else:
            processes = start(commands, 2, more, connect_secs=10)
            if kind == "raising":
                processes[rank].wait(120)
            else:
                time.sleep(soak.draw.uniform(3, 25))
                processes[rank].send_signal(signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
            since = time.monotonic()
        waited = [process for index, process in enumerate(processes) if kind != "stopped" or index != rank]
        codes, seconds = gone(waited, since)
        told = [process for process in waited if kind != "killed" or process is not processes[rank]]
        for process in processes:
            if process.poll() is None:
                process.kill()
        said = [last_line(done.stderr) for process, done in zip(processes, finish(processes), strict=True) if process in told]
        fine = all(code not in (0, None) for code in codes) and seconds < IN_TIME_SECS + (10 if kind == "unreachable" else 0)
        print(f"  {kind:<12}rank {rank} codes {codes} after {seconds:4.1f} s", *said, sep="\n    ", flush=True)
        good, slowest = good + (fine and all(said)), max(slowest, seconds)
    say("killed / stopped / raising / unreachable", f"{good} of {soak.count} gone in time, the slowest after {slowest:.1f} s")
    return good == soak.count


def last_line(stderr: str) -> str:
    """What a process has said of why it left; empty if nothing."""
    return ([line for line in stderr.split("\n") if " of 2 on " in line or "error:" in line] or [""])[-1]


def sigterm(soak: Soak) -> bool:
    """SIGTERM to a random one of two processes at random times: all save the same step, none is lost, all end with 75."""
    good, slowest, lost = 0, 0.0, 0
    for trial in range(soak.count):
        folder = soak.root / f"sigterm{trial}"
        processes = start(
            [
                soak.command(
                    VICTIM, folder, "--training.steps=1000000", "--training.save-every-steps=1000000", "--training.log-every-steps=1"
                )
            ]
            * 2,
            2,
        )
        if trial % 4:
            wait_for_step(folder, 1, processes)
            time.sleep(soak.draw.uniform(0, 3))
        else:
            time.sleep(soak.draw.uniform(5, 12))  # joining, restoring, compiling
        since = time.monotonic()
        processes[soak.draw.randrange(2)].send_signal(signal.SIGTERM)
        codes, seconds = gone(processes, since)
        finish(processes)
        logged = last_step(folder)
        saved = final(folder)[0] if list(folder.glob("checkpoints/*/manifest.json")) else 0
        lost += max(0, logged - saved)
        fine = codes == [75, 75] and seconds < 30 and saved >= logged
        print(f"  codes {codes} after {seconds:4.1f} s, logged {logged}, saved {saved}", flush=True)
        good, slowest = good + fine, max(slowest, seconds)
    say(
        "SIGTERM to one of 2 processes",
        f"{good} of {soak.count}: same step saved, {lost} steps lost, exit 75, the slowest after {slowest:.1f} s",
    )
    return good == soak.count


def topology(soak: Soak) -> bool:
    """Saved on 2 processes x 2 devices, resumed elsewhere and back: the same state at the restore, the same batches, parameters near."""
    good, cases = 0, [(1, 1), (1, 4), (1, 8), (2, 1)][: soak.count]
    first = ["--training.steps=6"]
    done = finish(start([soak.command(PROGRAM, soak.root / "saved", *first)] * 2, 2))
    assert [process.returncode for process in done] == [0, 0], done
    shutil.copytree(soak.root / "saved", soak.root / "same")
    finish(start([soak.command(PROGRAM, soak.root / "same", "--training.steps=16")] * 2, 2))
    for processes, devices in cases:
        folder = soak.root / f"on{processes}x{devices}"
        shutil.copytree(soak.root / "saved", folder)
        done = finish(start([soak.command(PROGRAM, folder, "--training.steps=16")] * processes, devices))
        there = [process.returncode for process in done] == [0] * processes
        back = soak.root / f"back{processes}x{devices}"
        shutil.copytree(folder, back)
        done = finish(start([soak.command(PROGRAM, back, "--training.steps=22")] * 2, 2))
        fine = there and [process.returncode for process in done] == [0, 0]
        fine &= restored_bitwise(folder, 6, soak.root / "saved") and restored_bitwise(back, 16, folder)
        apart, batches = distance(folder, soak.root / "same", 16), same_batches(folder, soak.root / "same")
        fine &= apart <= 1e-5 and batches
        print(f"  2x2 -> {processes}x{devices} -> 2x2: bitwise at the restore; parameters {apart:.1e} apart after 10 steps", flush=True)
        good += fine
    say("topology", f"{good} of {len(cases)} bitwise at the restore, and back")
    return good == len(cases)


def restored_bitwise(folder: Path, step: int, source: Path) -> bool:
    """Whether the log of a continued run says that it restored the state that was saved."""
    saved = json.loads((source / "checkpoints" / str(step) / "manifest.json").read_text())["state_sha256"]
    return f"restored {folder}/checkpoints/{step}, state {saved}" in (folder / "logs" / "process-0.log").read_text()


def distance(one: Path, other: Path, step: int) -> float:
    """The largest difference of any parameter."""
    return apart(load(one, step), load(other, step))


def open_run(folder: Path) -> tuple[Checkpoints, TrainState]:
    """The checkpoints of a run, and what describes their states on one device of this process."""
    config = rundir.read_config(epath.Path(folder))
    vocabularies = vocab.load(epath.Path(folder) / "vocab", config.vocab.joint)
    sizes = (len(vocabularies.source), len(vocabularies.target))
    checkpoints = Checkpoints(epath.Path(folder) / "checkpoints", config.training.best_metric)
    return checkpoints, abstract_state(config, sizes, make_optimizer(config.optimizer), make_devices(1, {}))


def load(folder: Path, step: int) -> TrainState:
    """The state that was saved at a step."""
    checkpoints, abstract = open_run(folder)
    state = checkpoints._load(checkpoints.manifest(step), abstract, lambda _: None)
    checkpoints.close()
    return state


def apart(one: TrainState, other: TrainState) -> float:
    """The largest difference of any parameter."""
    leaves = [jax.tree.leaves(state.params) for state in (one, other)]
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(*leaves, strict=True))


def same_batches(one: Path, other: Path) -> bool:
    """Tokens are counted the same and losses agree, step by step."""
    losses = [{record["step"]: record["loss"] for record in records(folder, "train")} for folder in (one, other)]
    return losses[0].keys() == losses[1].keys() and all(abs(losses[0][step] - losses[1][step]) < 1e-4 for step in losses[0])


def damage(soak: Soak) -> bool:
    """Flipped bits, cut and deleted files in the newest checkpoint: each is noticed, and the one before is used."""
    (done,) = finish(start([soak.command(PROGRAM, soak.root / "sound", "--training.steps=12")], 2))
    assert done.returncode == 0, done
    noticed = damage_and_restore(soak, soak.root / "sound", 12, 6)
    say("damage", f"{noticed} of {soak.count} noticed and fallen back")
    return noticed == soak.count


def damage_and_restore(soak: Soak, sound: Path, newest: int, before: int) -> int:
    """Harms copies of a run whose newest checkpoint is one, and the one before another; how often the latter was used."""
    noticed = 0
    for trial in range(soak.count):
        folder, kind = soak.root / "damaged", (*["flip"] * 5, "cut", "delete")[trial % 7]
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        harmed = harm(folder / "checkpoints" / str(newest), kind, soak.draw)
        fine = fallen_back(folder, newest, before)
        noticed += fine
        if not fine:
            print(f"  NOT NOTICED: {kind} {harmed}", flush=True)
    return noticed


def harm(checkpoint: Path, kind: str, draw: random.Random) -> str:
    """Any file, the manifest too; larger ones more often; says which."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    (file,) = draw.choices(files, [path.stat().st_size for path in files])
    if kind == "delete":
        file.unlink()
        return str(file)
    content = bytearray(file.read_bytes())
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    if kind == "flip":
        content[at] ^= 1 << bit
    file.write_bytes(content if kind == "flip" else content[:at])
    return f"{file} at {at}, bit {bit}"


def fallen_back(folder: Path, newest: int, before: int) -> bool:
    """Restores as a continued run does, in this process: the state of the step before."""
    (checkpoints, abstract), said = open_run(folder), list[str]()
    state = checkpoints.restore(abstract, checkpoints.manifest(before).bound, said.append)
    checkpoints.close()
    return (
        state is not None
        and int(state.step) == before
        and any(f"{newest} {told}" in said[0] for told in ("is damaged and passed over", "has no manifest"))
    )


def nan(soak: Soak) -> bool:
    """A loss that is not finite in one batch, and in ten in a row: nothing is learned from them, and no such number is saved."""
    good = 0
    for trial in range(soak.count):
        first, width = soak.draw.randrange(8, 40), (1, 10)[trial % 2]
        folder = soak.root / f"nan{trial}"
        options = ["--training.steps=60", "--data.max-train-pairs=2000", "--training.save-every-steps=1", "--training.keep-last=99"]
        marked = [*PLANTED, str(first), str(first + width - 1)]
        (done,) = finish(start([soak.command(marked, folder, *options, "--training.evaluate-every-steps=99")], 2))
        states = {step: load(folder, step) for step in sorted(int(path.parent.name) for path in folder.glob("checkpoints/*/manifest.json"))}
        text, reports = (folder / "logs" / "process-0.log").read_text(), len(list((folder / "reports").iterdir()))
        fine = done.returncode == 0 and max(states) == 60 and not any(map(not_finite, states.values()))
        if width == 1:
            fine &= apart(states[first], states[first + 1]) == 0 < apart(states[first + 1], states[first + 2])
            fine &= reports == 1 and "BACK TO STEP" not in text
        else:
            fine &= f"BACK TO STEP {first}, rollback 1 " in text and reports == 6 + (width - 6)
        print(f"  {width:>2} from batch {first}: code {done.returncode}, {len(states)} checkpoints, {reports} reports: {fine}", flush=True)
        good += fine
    say("NaN in one batch, in ten in a row", f"{good} of {soak.count}: parameters unchanged; rolled back; reported; none saved")
    return good == soak.count


PARTS: dict[str, Callable[[Soak], bool]] = {
    "kills": kills,
    "pairs": pairs,
    "failures": failures,
    "sigterm": sigterm,
    "topology": topology,
    "damage": damage,
    "nan": nan,
}
STEPS = {"kills": 14_000, "pairs": 3000}  # not to end before the last kill
COUNTS = {"kills": 50, "pairs": 20, "failures": 20, "sigterm": 20, "topology": 4, "damage": 140, "nan": 10}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--count", type=int, default=0, help="trials of each part; 0: as many as are asked for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        help="steps of a run that is killed: enough not to end before its last kill; 0: enough for as many trials as are asked for",
    )
    parser.add_argument("--root", default="", help="folder for the runs; empty: a temporary one, removed at the end")
    given = parser.parse_args(argv)
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; parts: {', '.join(PARTS)}")
    os.environ["JAX_PLATFORMS"] = "cpu"
    fine = True
    for part in given.parts:
        root = Path(given.root or tempfile.mkdtemp(prefix="soak_")) / part
        root.mkdir(parents=True)
        begin = time.monotonic()
        fine &= PARTS[part](Soak(root, random.Random(given.seed), given.count or COUNTS[part], given.steps or STEPS.get(part, 6000)))
        print(f"  {part}: {time.monotonic() - begin:.0f} s", flush=True)
        if not given.root:
            shutil.rmtree(root.parent)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
