"""`verify-resume CONFIG`: proves, here and with this configuration, that a killed run ends as an undisturbed one does.

Trains twice into a folder, as processes of its own: once straight through, once killed with SIGKILL and continued. Where a kill
falls is seen in the files of the run, from outside: the first quarter before the first checkpoint, the others after checkpoints all
over the run, in turn between steps, while it evaluates and while it saves, each at a random moment. Started by a place as several
processes, each of them trains one part of the job and kills it at moments of its own. It is proved for the devices, and on a CPU
for the number of cores, that it is tried with.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from etils import epath

from flax_s2s.commands import children
from flax_s2s.config import Config, Failure, TrainingConfig, UserError
from flax_s2s.errors import DONE, PREEMPTED, USER_ERROR
from flax_s2s.rules import check
from flax_s2s.runs import manifests, rundir
from flax_s2s.runs.checkpoint import Checkpoints
from flax_s2s.runtime import cluster
from flax_s2s.runtime.places import Place

_APART_SECS = 12.0  # between two lives of a job with several processes: so long the others may need to see that one is gone
_MOST_IDLE_LIVES = 10  # without a new checkpoint and without a kill of ours
_LOOK_SECS = 0.02


_STARTING, _STEPPING, _EVALUATING, _SAVING = "before a step", "between steps", "in an evaluation", "in a save"
_PHASES = (_STEPPING, _EVALUATING, _SAVING)  # in turn, after a checkpoint
_EVALUATION_SECS, _SAVE_SECS = 0.3, 0.05  # from where it is seen to the latest kill in it


def run(config: Config, run_dir: str, kills: int, seed: int) -> int:
    """Trains straight and killed; returns 0 if both end with the same state.

    Args:
        config: what is trained.
        run_dir: folder for both runs, and for the configuration; it must not exist yet.
        kills: how often the second run is killed (by each process).
        seed: of the moments.

    Raises:
        UserError: the folder exists, or the configuration is the user's mistake (its message comes from the training).
        Failure: the states differ, a run makes no progress, or no kill was after a checkpoint, so that nothing is proved.
    """
    config, folder, place = check(config), rundir.make_path(run_dir), cluster.find(os.environ)
    training = config.training
    checkpoints = [
        step
        for step in range(1, training.steps)
        if step % training.save_every_steps == 0 or step == training.evaluate_every_steps  # the first one evaluated is the best so far
    ]
    if kills and not checkpoints:
        raise UserError(f"there is no checkpoint before the end, so a kill would prove nothing: {_remedy(config)}")
    if place.index == 0:
        _prepare(folder, config)
    straight, killed = folder / "straight", folder / "killed"
    life, begin = _Lives(folder, straight, place, training), time.monotonic()
    _say(f"training straight through; what it says is in {life.said}")
    while life.live(None) != DONE:
        pass
    took, startup = time.monotonic() - begin, life.startup
    _say(f"trained straight through in {took:.0f} s, {startup:.0f} s of it before the first checkpoint; now with {kills} kills")
    moments = _choose(kills, checkpoints, startup, (took - startup) / len(checkpoints), random.Random(f"{seed} {place.index}"))
    life, code = _Lives(folder, killed, place, training), -1
    while code != DONE:
        code = life.live(moments[len(life.kills)] if len(life.kills) < kills else None)
    said = _tell(life.kills, kills)
    if kills and not any(kill.checkpoint for kill in life.kills):
        raise Failure(f"nothing is proved, as no kill was after a checkpoint: {said}; {_remedy(config)}")
    if place.index == 0:
        _compare(straight, killed, said)
    return DONE


class Moment(NamedTuple):
    """When a training is killed: once there is a checkpoint, and it is seen in a phase, and so long after that."""

    checkpoint: int  # the newest is at least this; 0: there is none
    phase: str
    secs: float


class Kill(NamedTuple):
    """Where one fell."""

    checkpoint: int  # the newest; 0: none
    new: bool  # whether that had come since the last kill
    phase: str


def _choose(kills: int, checkpoints: Sequence[int], startup_secs: float, apart_secs: float, draw: random.Random) -> list[Moment]:
    """The moments: a quarter of them, but not the only one, before the first checkpoint."""
    early = max(kills // 4, 1) if kills > 1 else 0
    moments = [Moment(0, _STARTING, draw.uniform(0, startup_secs)) for _ in range(early)]
    longest = {_STEPPING: apart_secs / 2, _EVALUATING: _EVALUATION_SECS, _SAVING: _SAVE_SECS}
    for number in range(kills - early):
        phase = _PHASES[number % len(_PHASES)]
        moments.append(Moment(checkpoints[number * len(checkpoints) // (kills - early)], phase, draw.uniform(0, longest[phase])))
    return moments


def _tell(kills: Sequence[Kill], wanted: int) -> str:
    """3 kills: 1 before the first checkpoint, 1 after a new one, 1 after one that was continued before; 2 between steps, 1 in a save."""
    after = [kill for kill in kills if kill.checkpoint]
    new = sum(kill.new for kill in after)
    places = {
        "before the first checkpoint": len(kills) - len(after),
        "after a new one": new,
        "after one that was continued before": len(after) - new,
    }
    phases = Counter(kill.phase for kill in kills)
    parts = [", ".join(f"{count} {where}" for where, count in counts.items() if count) for counts in (places, phases)]
    lacking = f" ({wanted} were asked for, but the training had ended before)" if len(kills) < wanted else ""
    return f"{len(kills)} kills{lacking}" + (f": {'; '.join(parts)}" if kills else "")


def _remedy(config: Config) -> str:
    training = config.training
    return (
        f"give more --training.steps (now {training.steps}), or fewer --training.save-every-steps (now {training.save_every_steps}) "
        "between two checkpoints"
    )


class _Seen(NamedTuple):
    """What the files of a run show of a life."""

    newest: int  # checkpoint; 0: none
    step: int  # the last that it has said something of; 0: none
    evaluated: int  # likewise
    saving: bool

    def phase(self, training: TrainingConfig) -> str:
        """Where it is."""
        due = self.step % training.evaluate_every_steps == 0 or self.step >= training.steps
        if self.saving:
            return _SAVING
        if self.step:
            return _EVALUATING if due and self.evaluated < self.step else _STEPPING
        return _STARTING


class _Watch:
    """Looks at a run from outside, from the beginning of a life on."""

    def __init__(self, run_dir: epath.Path, index: int) -> None:
        self.checkpoints, self._log = Checkpoints(run_dir / rundir.CHECKPOINTS), run_dir / "logs" / f"process-{index}.log"
        self._read, self._old, self._said = self._size(), self._unfinished(), (0, 0)
        self.at_first = self.newest()

    def newest(self) -> int:
        """The newest checkpoint; 0: there is none."""
        return max(self.checkpoints.steps(), default=0)

    def look(self) -> _Seen:
        """What is there now."""
        size = self._size()
        if size > self._read:
            with self._log.open("rb") as file:
                file.seek(self._read)
                whole = file.read(size - self._read).rpartition(b"\n")[0]
            self._read += len(whole)
            said = [
                max([before, *(int(step) for step in re.findall(pattern, whole))])
                for before, pattern in zip(self._said, (rb" step +(\d+)/", rb" valid +(\d+) "), strict=True)
            ]
            self._said = (said[0], said[1])
        newest = self.newest()  # before what is unfinished: what is finished between both is neither, for the moment
        unfinished = self._unfinished()
        self._old &= unfinished  # what was there at the beginning and has gone is new when it comes again
        made = max(self._said[0], newest if newest > self.at_first else 0)
        return _Seen(newest, made, max(self._said[1], newest if newest == made else 0), bool(unfinished - self._old))

    def _size(self) -> int:
        return self._log.stat().length if self._log.exists() else 0

    def _unfinished(self) -> set[str]:
        """Checkpoints that are being written, or were when their training was killed."""
        folder = self.checkpoints.folder
        if not folder.is_dir():
            return set()
        return {child.name for child in folder.iterdir() if child.name[:1].isdigit() and not (child / manifests.FILE).exists()}


class _Lives:
    """A training that is started again and again."""

    def __init__(self, folder: epath.Path, run_dir: epath.Path, place: Place, training: TrainingConfig) -> None:
        self.command, self.run_dir, self.training = children.make_command(folder, run_dir), run_dir, training
        self.said = Path(folder) / f"{run_dir.name}-{place.index}.err"
        self.place = place
        self.kills: list[Kill] = []
        self.ended = self.idle = 0
        self.startup = 0.0  # seconds to the first checkpoint

    def live(self, moment: Moment | None) -> int:
        """Trains until the end, or until it is killed; the exit code, negative for a signal."""
        if self.place.count > 1 and len(self.kills) + self.ended:
            time.sleep(_APART_SECS)
        watch, begin = _Watch(self.run_dir, self.place.index), time.monotonic()
        with self.said.open("wb") as file:  # a pipe that nobody reads would stop the training
            child = subprocess.Popen(self.command, stderr=file)
        before_signal = signal.signal(signal.SIGTERM, _interrupt)  # else it would leave its training behind
        come, seen = float("inf"), watch.look()
        try:
            while child.poll() is None and time.monotonic() < come:
                time.sleep(_LOOK_SECS)
                seen = watch.look()
                if not self.startup and seen.newest:
                    self.startup = time.monotonic() - begin
                if moment:
                    come = min(come, self._when(moment, seen, begin))
        finally:
            mine = child.poll() is None
            child.kill()
            child.wait()
            signal.signal(signal.SIGTERM, before_signal)
        said = self.said.read_text(errors="replace").strip()
        if child.returncode == USER_ERROR:
            raise UserError(f"the training ended with exit code {USER_ERROR}:\n{said}")
        self._count(child.returncode, mine, watch, seen, said)
        return child.returncode

    def _when(self, moment: Moment, seen: _Seen, begin: float) -> float:
        """When to kill, by what is seen now: at once before the chance is gone, at the time that was drawn, or not yet."""
        now, phase = time.monotonic(), seen.phase(self.training)
        if not moment.checkpoint:
            return begin + moment.secs if phase == _STARTING else now
        if seen.newest < moment.checkpoint or phase == _STARTING:
            return float("inf")
        if phase == moment.phase:
            return now + moment.secs
        return now if phase == _SAVING else float("inf")

    def _count(self, code: int, mine: bool, watch: _Watch, seen: _Seen, said: str) -> None:
        newest = watch.newest()
        if mine:
            before = max((kill.checkpoint for kill in self.kills), default=0)
            self.kills.append(Kill(newest, newest > before, seen.phase(self.training)))
            _say(f"kill {len(self.kills)} {self.kills[-1].phase}, newest checkpoint {newest}")
        elif code != DONE:
            self.ended += 1
            self.idle = 0 if newest > watch.at_first else self.idle + 1
            if code != PREEMPTED and (self.place.count == 1 or self.idle > _MOST_IDLE_LIVES):
                raise Failure(f"the training ended with exit code {code}:\n{said[-2000:]}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _prepare(folder: epath.Path, config: Config) -> None:
    if folder.exists():
        raise UserError(f"{folder} exists; give another --run-dir, so that both runs begin with nothing")
    folder.mkdir(parents=True)
    children.write(folder, config)


def _compare(straight: epath.Path, killed: epath.Path, said: str) -> None:
    last = [Checkpoints(run_dir / rundir.CHECKPOINTS) for run_dir in (straight, killed)]
    ends = [checkpoints.manifest(checkpoints.choose("last")) for checkpoints in last]
    told = [f"step {manifest.step}, state {manifest.state_sha256}" for manifest in ends]
    if told[0] != told[1]:
        raise Failure(f"the killed run ended at {told[1]}, undisturbed at {told[0]}; {said}")
    cores = f" on {ends[0].cores} cores" if ends[0].cores else ""  # with another number other bits
    print(f"equal{cores}: {told[0]}; {said}", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
