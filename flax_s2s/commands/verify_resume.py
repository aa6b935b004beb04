"""`verify-resume CONFIG`: proves, here and with this configuration, that a killed run ends as an undisturbed one does.

Trains twice into a folder, as processes of its own: once straight through, once killed with SIGKILL at random moments and
continued. Started by a place as several processes, each of them trains one part of the job and kills it at moments of its own.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from etils import epath

from flax_s2s import cluster, rundir
from flax_s2s.checkpoint import Checkpoints
from flax_s2s.cluster import Place
from flax_s2s.commands import presets
from flax_s2s.config import Config, Failure, UserError
from flax_s2s.errors import DONE, PREEMPTED, USER_ERROR
from flax_s2s.rules import check

_APART_SECS = 12.0  # between two lives of a job with several processes: so long the others may need to see that one is gone
_MOST_IDLE_LIVES = 10  # without a new checkpoint and without a kill of ours


def run(config: Config, run_dir: str, kills: int, seed: int) -> int:
    """Trains straight and killed; returns 0 if both end with the same state.

    Args:
        config: what is trained.
        run_dir: folder for both runs, and for the configuration; it must not exist yet.
        kills: how often the second run is killed (by each process).
        seed: of the moments.

    Raises:
        UserError: the folder exists, or the configuration is the user's mistake (its message comes from the training).
        Failure: the states differ, or a run makes no progress.
    """
    config, folder, place = check(config), rundir.make_path(run_dir), cluster.find(os.environ)
    if place.index == 0:
        _prepare(folder, config)
    straight, killed = folder / "straight", folder / "killed"
    life, begin = _Lives(folder, straight, place), time.monotonic()
    while life.live(None) != DONE:
        pass
    took, startup = time.monotonic() - begin, life.startup
    saves = max(config.training.steps // config.training.save_every_steps, 1)
    _say(f"trained straight through in {took:.0f} s, {startup:.0f} s of it before the first checkpoint; now with {kills} kills")
    draw, life, code = random.Random(f"{seed} {place.index}"), _Lives(folder, killed, place), -1
    while code != DONE:
        wait_for = draw.randint(0, 2 * saves // (kills + 1))
        moment = Moment(wait_for, draw.uniform(0, (took - startup) / saves if wait_for else startup))
        code = life.live(moment if life.kills < kills else None)
    if kills and not life.kills:
        raise Failure("the training ended before it could be killed; give more --training.steps, or fewer between two checkpoints")
    if place.index == 0:
        _compare(straight, killed, life)
    return DONE


class Moment(NamedTuple):
    """When a training is killed."""

    checkpoints: int  # so many new ones are waited for
    secs: float  # and then so long


class _Lives:
    """A training that is started again and again."""

    def __init__(self, folder: epath.Path, run_dir: epath.Path, place: Place) -> None:
        self.command = presets.make_command(folder, run_dir)
        self.said = Path(folder) / f"{run_dir.name}-{place.index}.err"
        self.checkpoints, self.place = Checkpoints(run_dir / rundir.CHECKPOINTS), place
        self.kills = self.ended = self.idle = self.new = 0
        self.seen = -1
        self.startup = 0.0  # seconds to the first checkpoint

    def live(self, moment: Moment | None) -> int:
        """Trains until the end, or until it is killed; the exit code, negative for a signal."""
        if self.place.count > 1 and self.kills + self.ended:
            time.sleep(_APART_SECS)
        before, begin = self._newest(), time.monotonic()
        with self.said.open("wb") as file:  # a pipe that nobody reads would stop the training
            child = subprocess.Popen(self.command, stderr=file)
        before_signal = signal.signal(signal.SIGTERM, _interrupt)  # else it would leave its training behind
        try:
            while child.poll() is None and not (moment and self._has_come(moment, begin)):
                time.sleep(0.02)
                if not self.startup and self._newest() >= 0:
                    self.startup = time.monotonic() - begin
        finally:
            mine = child.poll() is None
            child.kill()
            child.wait()
            signal.signal(signal.SIGTERM, before_signal)
        said = self.said.read_text(errors="replace").strip()
        if child.returncode == USER_ERROR:
            raise UserError(f"the training ended with exit code {USER_ERROR}:\n{said}")
        self._count(child.returncode, mine, before, said)
        return child.returncode

    def _has_come(self, moment: Moment, begin: float) -> bool:
        """Waits until it has, once the checkpoints are there."""
        newest = self._newest()
        if newest > self.seen:
            self.seen, self.new = newest, self.new + 1
        if self.new < moment.checkpoints:
            return False
        self.new = 0
        time.sleep(moment.secs if moment.checkpoints else max(0, begin + moment.secs - time.monotonic()))
        return True

    def _newest(self) -> int:
        return max(self.checkpoints.steps(), default=-1)

    def _count(self, code: int, mine: bool, before: int, said: str) -> None:
        if mine:
            self.kills += 1
            _say(f"kill {self.kills}, newest checkpoint {max(self._newest(), 0)}")
        elif code != DONE:
            self.ended += 1
            self.idle = 0 if self._newest() > before else self.idle + 1
            if code != PREEMPTED and (self.place.count == 1 or self.idle > _MOST_IDLE_LIVES):
                raise Failure(f"the training ended with exit code {code}:\n{said[-2000:]}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _prepare(folder: epath.Path, config: Config) -> None:
    if folder.exists():
        raise UserError(f"{folder} exists; give another --run-dir, so that both runs begin with nothing")
    folder.mkdir(parents=True)
    presets.write(folder, config)


def _compare(straight: epath.Path, killed: epath.Path, life: _Lives) -> None:
    last = [Checkpoints(run_dir / rundir.CHECKPOINTS) for run_dir in (straight, killed)]
    manifests = [checkpoints.manifest(checkpoints.choose("last")) for checkpoints in last]
    ends = [f"step {manifest.step}, state {manifest.state_sha256}" for manifest in manifests]
    if ends[0] != ends[1]:
        raise Failure(f"after {life.kills} kills the run ended at {ends[1]}, undisturbed at {ends[0]}")
    print(f"equal after {life.kills} kills: {ends[0]}", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
