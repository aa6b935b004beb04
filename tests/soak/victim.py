"""The program, with a wish: it kills itself, or raises, in a phase that it is told, and notes where it was.

    SOAK_WISH="PHASE NTH AFTER DELAY ACTION" SOAK_NOTES=FILE python victim.py train ...

PHASE is one of PHASES; it acts DELAY seconds after it entered the phase for the NTH time since the AFTER-th checkpoint was
complete. ACTION is kill (a real SIGKILL) or raise.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

_LATEST_SECS = 90.0  # then it kills itself wherever it is: the phase may not come so often
PHASES = ("compilation", "step", "mid-save", "between save and manifest", "retention", "evaluation")


class Wish:
    """What this process is to do to itself."""

    def __init__(self) -> None:
        phase, nth, after, delay, self.action = os.environ["SOAK_WISH"].rsplit(" ", 4)
        self.phase, self.nth, self.after, self.delay = phase, int(nth), int(after), float(delay)
        self.active: list[str] = []
        self.saved = 0
        self.lock = threading.Lock()
        late = threading.Timer(_LATEST_SECS, self.kill)
        late.daemon = True  # no hindrance to a run that ends by itself
        if self.action == "kill":
            late.start()

    @contextlib.contextmanager
    def during(self, phase: str):
        """Counts a phase; sets the clock when it is the one."""
        with self.lock:
            self.active.append(phase)
            wanted = phase == self.phase and self.saved >= self.after
            self.nth -= wanted
            due = wanted and self.nth == 0
        if due and self.action == "raise":
            raise RuntimeError("planted")
        if due:
            timer = threading.Timer(self.delay, self.kill_there)
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            with self.lock:
                self.active.remove(phase)

    def kill_there(self) -> None:
        """Dies if it is still in the phase that it is to die in; else waits for the next time."""
        with self.lock:
            there = self.active in ([], ["step"]) if self.phase == "step" else self.phase in self.active
            self.nth = 1
        if there:
            self.kill()

    def kill(self) -> None:
        """Notes where it is, and dies."""
        where = self.phase if self.phase in self.active else self.active[-1] if self.active else "step"
        file = os.open(os.environ["SOAK_NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{where}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: object, name: str, wish: Wish, phase: str) -> None:
    """A function that is a phase."""
    original = getattr(owner, name)

    def inside(*arguments, **named):
        with wish.during(phase):
            return original(*arguments, **named)

    setattr(owner, name, inside)


class Saving:
    """Orbax's answer: what follows it up to the manifest is a phase of its own."""

    def __init__(self, response: object, wish: Wish) -> None:
        self.response, self.wish, self.between = response, wish, contextlib.ExitStack()

    def result(self) -> None:
        """Waits for orbax."""
        with self.wish.during("mid-save"):
            self.response.result()
        self.between.enter_context(self.wish.during("between save and manifest"))


def prepare(wish: Wish) -> None:
    """Puts the phases around the functions of the program that they are."""
    from jax._src import compiler

    from flax_s2s.runs import checkpoint
    from flax_s2s.training import loop

    wrap(compiler, "compile_or_get_cached", wish, "compilation")
    wrap(loop, "_evaluate", wish, "evaluation")
    wrap(loop, "_say", wish, "step")
    wrap(checkpoint.Checkpoints, "prune", wish, "retention")
    wrap(checkpoint.ocp, "save_checkpointables_async", wish, "mid-save")
    finish, write = checkpoint.Checkpoints._finish, checkpoint.Checkpoints._write
    current: list[Saving] = []

    def watched(self, response, *arguments):
        current[:] = [Saving(response, wish)]
        with current[0].between:
            finish(self, current[0], *arguments)

    def written(self, manifest):
        write(self, manifest)
        wish.saved += 1
        if current:
            current.pop().between.close()

    checkpoint.Checkpoints._finish, checkpoint.Checkpoints._write = watched, written


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from flax_s2s.__main__ import main

    if os.environ.get("SOAK_WISH"):
        prepare(Wish())
    main()
