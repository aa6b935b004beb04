"""Which checkpoints a folder holds: what may be used, what is the best, what is kept, what is in the way.

Enters: a folder. Leaves: step numbers and manifests; the parameters of a step; folders that are renamed or deleted. States are
`checkpoint`'s.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from etils import epath

from flax_s2s.config import UserError
from flax_s2s.runs import arrays, manifests
from flax_s2s.runs.manifests import Manifest, describe_leaves

NONE, NONE_SOUND = -1, -2  # instead of a step


class Inventory:
    """The checkpoints of a folder, by their steps."""

    def __init__(self, folder: epath.Path, metric: str = "loss", keep_last: int = 1, keep_best: int = 0, verify: bool = True) -> None:
        """See `checkpoint.Checkpoints`.

        Raises:
            UserError: it is a file, or its name is no UTF-8, which is all that orbax can write.
        """
        try:
            os.fspath(folder.resolve()).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{folder.parent} cannot be a run directory: its name is no text in {sys.getfilesystemencoding()}, the encoding of this "
                "system; use a name of ASCII characters, or set PYTHONUTF8=1 where the name is UTF-8"
            ) from error
        if folder.exists() and not folder.is_dir():  # else said only by the first save
            raise UserError(f"{folder} is a file, where a run has the folder of its checkpoints; move it away, or give another --run-dir")
        self.folder, self.metric, self.keep_last, self.keep_best = folder.resolve(), metric, keep_last, keep_best
        self._compares_content = verify

    def steps(self) -> list[int]:
        """Steps with a manifest, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (child.name for child in self.folder.iterdir() if (child / manifests.FILE).exists())
        return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))

    def manifest(self, step: int) -> Manifest:
        """Reads a manifest.

        Raises:
            UserError: it is not one.
        """
        return manifests.read(self.folder / str(step))

    def best(self, count: int) -> list[int]:
        """The `count` steps with the best scores, best first; of equals the later. What cannot be read has no score."""
        scored = []
        for step in self.steps():
            with contextlib.suppress(UserError):
                manifest = self.manifest(step)
                if manifest.score is not None and math.isfinite(manifest.score) and manifest.metric == self.metric:
                    scored.append((manifest.score, step))
        return [step for _, step in sorted(scored, reverse=True)[:count]]

    def choose(self, which: str) -> int:
        """`best` (last, if none was ever scored), `last`, or a step.

        Raises:
            UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.folder.parent} has no complete checkpoint yet; train it first, or wait for the first save")
        if which == "best":
            return (self.best(1) or steps[-1:])[0]
        if which == "last":
            return steps[-1]
        if which in map(str, steps):
            return int(which)
        raise UserError(f"there is no checkpoint {which!r}; use best, last, or one of {', '.join(map(str, steps))}")

    def last_good(self) -> int:
        """The newest step that training may go back to; 0: there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(UserError):
                if self.manifest(step).good:
                    return step
        return 0

    def newest_sound(self, content: bool, say: Callable[[str], None], good: bool = False) -> tuple[int, list[int]]:
        """The newest step that is as it was written, and the damaged ones above it; perhaps only one that training may go back to.

        Args:
            content: whether the content of every file is compared; else only that it is there.
            say: told of what is damaged.
            good: whether it must be one that training may go back to.

        Returns:
            The step; `NONE`, or `NONE_SOUND` where there are some and all are damaged. And the damaged ones, newest first.
        """
        steps, damaged = self.steps(), list[int]()
        for step in reversed(steps):
            manifest, damage = manifests.verify(self.folder / str(step), content)
            if manifest is None:
                say(f"checkpoint {self.folder / str(step)} is damaged and passed over: {damage}")
                damaged.append(step)
            elif manifest.good or not good:
                return step, damaged
        return NONE_SOUND if damaged == steps[::-1] != [] else NONE, damaged

    def prune(self) -> None:
        """Deletes what is neither among the last nor among the best, nor what training would go back to."""
        steps = self.steps()
        for step in set(steps) - set(steps[-self.keep_last :]) - set(self.best(self.keep_best)) - {self.last_good()}:
            self.delete(step)

    def delete(self, step: int) -> None:
        """Deletes a checkpoint; a kill in the middle leaves none."""
        (self.folder / str(step) / manifests.FILE).unlink()  # first: without it, it is none
        (self.folder / str(step)).rmtree()

    def set_aside(self, damaged: list[int]) -> None:
        """Renames damaged checkpoints to `STEP.damaged`, so that they count no longer."""
        for step in damaged:
            aside = self.folder / f"{step}.damaged"
            if aside.exists():
                aside.rmtree()
            (self.folder / str(step)).rename(aside)

    def sweep(self, say: Callable[[str], None]) -> None:
        """Deletes what only a save or a deletion that was cut short leaves; anything else may be a copy that somebody keeps."""
        newest = max(self.steps(), default=-1)
        for child in self.folder.iterdir() if self.folder.is_dir() else ():
            if child.name.endswith(".orbax-checkpoint-tmp"):
                child.rmtree()
            elif child.name.endswith(manifests.PARTIAL):
                child.unlink()
            elif re.fullmatch("[0-9]+", child.name) and not (child / manifests.FILE).exists():
                say(f"checkpoint {child} has no manifest, so its save or its deletion was cut short: it is passed over")
                if int(child.name) < newest:  # a later one will be written over it when training comes there
                    child.rmtree()

    def load_params(self, step: int, abstract: dict[str, Any], vocab_sha256: str) -> dict[str, Any]:
        """The parameters to decode with (their moving average where there is one); nothing else is read.

        Raises:
            UserError: the checkpoint is damaged, or of another model or vocabulary.
        """
        manifest, damage = manifests.verify(self.folder / str(step), self._compares_content)
        if manifest is None:
            raise UserError(f"checkpoint {self.folder / str(step)} is damaged ({damage}); choose another with --checkpoint")
        manifests.refuse_other_vocabulary(manifest, self.folder.parent, vocab_sha256)
        name = "average" if any(path.startswith("['average']") for path in manifest.leaves) else "params"
        wanted = {name: abstract}
        saved = {path: kind for path, kind in manifest.leaves.items() if path.startswith(f"['{name}']")}
        manifests.refuse_other_leaves(saved, describe_leaves(wanted))
        return arrays.load(self.folder / str(step), name, abstract)
