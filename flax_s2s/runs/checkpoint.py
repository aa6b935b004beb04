"""Checkpoints of a run: saved in the background, verified before they are used. The only importer of orbax.

Enters: a `TrainState`, or a folder. Leaves: `checkpoints/STEP/`, or a `TrainState` on the devices.

Orbax writes the arrays; then our manifest (see `manifests`), with the state's hash in it, is written last. Only then are older
steps deleted. A checkpoint that does not match its manifest is named and passed over in favor of the one before.
"""

import concurrent.futures
import contextlib
import errno
import logging
import math
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from flax_s2s.config import Failure, UserError
from flax_s2s.runs import manifests
from flax_s2s.runs.manifests import Bound, Manifest, describe_leaves
from flax_s2s.runtime.parallel import from_first
from flax_s2s.training.state import Params, TrainState, hash_state, not_finite

_NONE, _NONE_SOUND = -1, -2  # instead of a step
_SMALL_FILES_BYTES = 2**17  # what a checkpoint's small files take on a disk beyond their length

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every file it touches, and every error it then raises


_hook = sys.unraisablehook


def _leave_out_late_answers(unraisable: Any) -> None:
    """Writes that were under way when a save failed answer to nobody, each with a traceback from a thread of C++."""
    if str(unraisable.exc_value) != "Event loop is closed":
        _hook(unraisable)


sys.unraisablehook = _leave_out_late_answers


def _parts(state: TrainState) -> dict[str, Any]:
    """The checkpointables: what decoding needs stands apart from the rest."""
    average = {} if state.average is None else {"average": state.average}
    return {"params": state.params, **average, "rest": state._replace(params={}, average=None)}


def _whole(parts: dict[str, Any]) -> TrainState:
    rest: TrainState = parts["rest"]
    return rest._replace(params=parts["params"], average=parts.get("average"))


def _without_best(state: TrainState) -> TrainState:
    best, bad = (jax.device_put(value, state.step.sharding) for value in (np.float32(-np.inf), np.int32(0)))
    return state._replace(best_score=best, bad_evaluations=bad)


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(
        self,
        folder: epath.Path,
        metric: str = "loss",
        keep_last: int = 1,
        keep_best: int = 0,
        speaks: bool = True,
        confirm: Callable[[], int] | None = None,
        verify: bool = True,
    ) -> None:
        """A folder of checkpoints.

        Args:
            folder: where they are.
            metric: what the best are the best by.
            keep_last: how many of the newest are kept.
            keep_best: how many of the best are kept besides.
            speaks: True on process 0, which writes manifests and deletes.
            confirm: asked before anything becomes valid or is deleted: the fence of the lease on the run directory, or an error.
            verify: compare the content of every file with the manifest before it is used; else only that every file is there.

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
        self.folder, self.metric, self.keep_last, self.keep_best, self.speaks = folder.resolve(), metric, keep_last, keep_best, speaks
        self._confirm, self._compares_content = confirm or (lambda: 0), verify
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

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

    def save(self, state: TrainState, score: float | None, bound: Bound, on_saved: Callable[[Manifest], None], regular: bool = True) -> str:
        """Saves in the background; returns as soon as the state may be donated.

        Args:
            state: what is saved.
            score: gain of the metric, if it was measured at this step.
            bound: what the checkpoint is bound to.
            on_saved: told when it is complete.
            regular: False where it is saved only because training stops here.

        Returns:
            What of the state holds a number that is not finite, in which case nothing is saved; else nothing.

        Raises:
            UserError: the previous save failed, or there is no space for this one.
        """
        self.wait()
        if spoilt := not_finite(state):
            return spoilt
        if self.speaks:
            self._confirm()
        self._make_sure_of_space(state)
        step = int(state.step)
        copy = jax.tree.map(lambda leaf: np.array(leaf), state) if self.speaks else None
        manifest = Manifest(
            step,
            score,
            "",
            {},
            bound,
            manifests.versions(),
            {},
            self.metric,
            0,
            int(state.bad_in_a_row),
            regular,
            manifests.computing_cores(),
        )
        with _disk_errors(self.folder):
            response = ocp.save_checkpointables_async(self.folder / str(step), _parts(state), overwrite=True)
        self._pending = self._background.submit(self._finish, response, copy, manifest, on_saved)
        return ""

    def _make_sure_of_space(self, state: TrainState) -> None:
        """Asked before orbax begins: a save that fails in the middle leaves its threads behind, each with an error of its own."""
        if not self.speaks or "://" in os.fspath(self.folder):
            return
        self.folder.mkdir(exist_ok=True)
        newest = [pathlib.Path(self.folder) / str(step) for step in self.steps()[-1:]]
        before = sum(path.stat().st_size for folder in newest for path in folder.rglob("*"))
        size = max(sum(leaf.nbytes for leaf in jax.tree.leaves(state)), before)
        needed, (_, _, free) = size + size // 10 + _SMALL_FILES_BYTES, shutil.disk_usage(self.folder)
        if free < needed:
            raise UserError(
                f"no space left for a checkpoint in {self.folder}: it needs {needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free; "
                "earlier checkpoints are intact: make room, then run the same command again"
            )

    def _finish(self, response: Any, copy: Any, manifest: Manifest, on_saved: Callable[[Manifest], None]) -> None:
        with _disk_errors(self.folder):
            response.result()
            if not self.speaks:
                return
            manifest = manifest._replace(
                state_sha256=hash_state(copy),
                leaves=describe_leaves(_parts(copy)),
                files=manifests.hash_files(self.folder / str(manifest.step)),
                fence=self._confirm(),
            )
            self._write(manifest)
            self._prune()
        on_saved(manifest)

    def _write(self, manifest: Manifest) -> None:
        manifests.write(self.folder / str(manifest.step), manifest)

    def rate(self, step: int, score: float, regular: bool = False) -> None:
        """Gives a score to a checkpoint that was saved before its evaluation, and makes it regular where that makes it so."""
        if self.speaks and step in self.steps():
            self._confirm()
            manifest = self.manifest(step)
            with _disk_errors(self.folder):
                self._write(manifest._replace(score=score, metric=self.metric, regular=manifest.regular or regular))

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
            UserError: it failed.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Waits, and ends the background thread."""
        try:
            self.wait()
        finally:
            self._background.shutdown()

    def _prune(self) -> None:
        """Deletes what is neither among the last nor among the best, nor what training would go back to."""
        steps = self.steps()
        for step in set(steps) - set(steps[-self.keep_last :]) - set(self.best(self.keep_best)) - {self._last_good()}:
            self._delete(step)

    def _delete(self, step: int) -> None:
        (self.folder / str(step) / manifests.FILE).unlink()  # first: without it, it is none
        (self.folder / str(step)).rmtree()

    def _last_good(self) -> int:
        """The newest step that training may go back to; 0: there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(UserError):
                if self.manifest(step).good:
                    return step
        return 0

    def _sweep(self, say: Callable[[str], None]) -> None:
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

    def restore(self, abstract: TrainState, bound: Bound, say: Callable[[str], None]) -> TrainState | None:
        """The newest sound checkpoint, on the devices of `abstract`; None when there is none yet.

        What a kill left is removed, and a damaged checkpoint is set aside as `STEP.damaged`, so that it counts no longer.

        Raises:
            UserError: it was made with another corpus, vocabulary or model; or all there are are damaged.
        """
        if self.speaks:
            self._confirm()
            self._sweep(say)
        chosen, damaged = self._newest_sound(say)
        if chosen == _NONE_SOUND:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged; restore the run directory from a copy, or use another --run-dir"
            )
        if chosen == _NONE:
            return None
        manifest = self.manifest(chosen)
        manifests.refuse_others(manifest, self.folder.parent, bound, describe_leaves(_parts(abstract)))
        if other := manifests.describe_other_means(manifest):
            say(f"WARNING: {self.folder / str(chosen)} was computed by other means ({other}); training goes on, but not to the same bits")
        state = self._load(manifest, abstract, say)
        if damaged:
            self._confirm()
            self._set_aside(damaged)
        return state

    def _newest_sound(self, say: Callable[[str], None], good: bool = False) -> tuple[int, list[int]]:
        """The newest step that is as it was written, as process 0 finds it, and the damaged ones above it; perhaps only a good one."""
        steps, chosen, damaged = self.steps(), _NONE, list[int]()
        for step in reversed(steps) if self.speaks else ():
            manifest, damage = manifests.verify(self.folder / str(step), self._compares_content)
            if manifest is None:
                say(f"checkpoint {self.folder / str(step)} is damaged and passed over: {damage}")
                damaged.append(step)
            elif manifest.good or not good:
                chosen = step
                break
        if chosen == _NONE and damaged == steps[::-1] != []:
            chosen = _NONE_SOUND
        return int(from_first(np.asarray(chosen, np.int32))), damaged

    def _load(self, manifest: Manifest, abstract: TrainState, say: Callable[[str], None]) -> TrainState:
        """A checkpoint that was verified; where the best have been the best by another metric, the search for it begins anew."""
        where = self.folder / str(manifest.step)
        state = _whole(ocp.load_checkpointables(where, _parts(abstract)))
        if self.speaks and self._compares_content:
            digest = hash_state(jax.tree.map(np.asarray, state))
            if digest != manifest.state_sha256:
                raise Failure(
                    f"{where} was restored as another state than was saved ({digest}, not {manifest.state_sha256}); is the memory sound?"
                )
            say(f"restored {where}, state {digest}")
        return state if manifest.metric in ("", self.metric) else _without_best(state)

    def roll_back(self, abstract: TrainState, say: Callable[[str], None]) -> TrainState | None:
        """Restores the newest sound checkpoint that is good, and deletes all later ones; None when there is none.

        Only after it has been restored is anything deleted: whoever is killed meanwhile finds a checkpoint of before, from
        which training comes to the same place and goes back again. All processes go back to what process 0 has chosen.

        Raises:
            UserError: the last save failed.
        """
        self.wait()
        chosen, damaged = self._newest_sound(say, good=True)
        state = self._load(self.manifest(chosen), abstract, say) if chosen >= 0 else None
        if self.speaks:
            self._confirm()
            self._set_aside(damaged)
            for step in self.steps():
                if step > chosen:
                    self._delete(step)
        return state

    def _set_aside(self, damaged: list[int]) -> None:
        for step in damaged if self.speaks else ():
            aside = self.folder / f"{step}.damaged"
            if aside.exists():
                aside.rmtree()
            (self.folder / str(step)).rename(aside)

    def load_params(self, step: int, abstract: Params, vocab_sha256: str) -> Params:
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
        loaded: Params = ocp.load_checkpointables(self.folder / str(step), wanted)[name]
        return loaded


class _disk_errors:  # noqa: N801  # used like a function
    """Turns a full or read-only disk into a message; anything else passes."""

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        text = str(error)
        if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (error and "No space left" in text):
            raise UserError(
                f"no space left for a checkpoint in {self.folder}; earlier checkpoints are intact: make room, then run the same command again"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
            raise UserError(f"{self.folder} cannot be written: {text}; earlier checkpoints are intact") from error
