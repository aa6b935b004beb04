"""Checkpoints of a run: saved in the background, verified before they are used. The only importer of orbax.

Enters: a `TrainState`, or a folder. Leaves: `checkpoints/STEP/`, or a `TrainState` on the devices.

Orbax writes the arrays; then our manifest (a sha256 of every file and of itself, the state's hash, shapes and types,
configuration, versions) is written last. No manifest, no checkpoint; only then are older steps deleted. A checkpoint that does not
match its manifest is named and passed over in favor of the one before.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from flax_s2s import __version__
from flax_s2s.config import Failure, UserError
from flax_s2s.parallel import from_first
from flax_s2s.training.state import Params, TrainState, hash_state, not_finite

MANIFEST = "manifest.json"
_NONE, _NONE_SOUND = -1, -2  # instead of a step
_SMALL_FILES_BYTES = 2**17  # what a checkpoint's small files take on a disk beyond their length
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "sentencepiece")

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every file it touches, and every error it then raises


class Bound(NamedTuple):
    """What a checkpoint is bound to: it is not restored into anything else."""

    config: str  # JSON
    vocab_sha256: str
    corpus_sha256: str


class Manifest(NamedTuple):
    """What is known of a complete checkpoint."""

    step: int
    score: float | None  # gain of `metric`, if it was measured at this step
    state_sha256: str
    leaves: dict[str, str]  # path -> type and shape
    bound: Bound
    versions: dict[str, str]
    files: dict[str, str]  # path -> sha256
    metric: str = ""  # what score is a gain of
    fence: int = 0  # of the lease that it was written under
    bad_in_a_row: int = 0  # bad updates that end with this step
    regular: bool = True  # saved by every run with these settings: not only because it was stopped here

    @property
    def good(self) -> bool:
        """Whether training may go back to it: were it to go back to where it was stopped, a stop would change the result."""
        return self.regular and self.bad_in_a_row == 0


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


def describe_leaves(parts: Any) -> dict[str, str]:
    """`{"['params']['encoder']...": "float32 (256, 2048)"}` of arrays or their abstract stand-ins."""
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {leaf.shape}" for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}


def versions() -> dict[str, str]:
    """Versions of the packages that decide results."""
    found = {"flax_s2s": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


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
        """
        self.folder, self.metric, self.keep_last, self.keep_best, self.speaks = folder.resolve(), metric, keep_last, keep_best, speaks
        self._confirm, self._compares_content = confirm or (lambda: 0), verify
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps with a manifest, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (child.name for child in self.folder.iterdir() if (child / MANIFEST).exists())
        return sorted(int(name) for name in names if re.fullmatch("[0-9]+", name))

    def manifest(self, step: int) -> Manifest:
        """Reads a manifest.

        Raises:
            UserError: it is not one.
        """
        try:
            tree = json.loads((self.folder / str(step) / MANIFEST).read_text())
            if tree.pop("sha256") != _hash_tree(tree):
                raise ValueError("its content is not what was written")
            return Manifest(**{**tree, "bound": Bound(**tree["bound"])})
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise UserError(f"the manifest of {self.folder / str(step)} cannot be read: {error}") from None

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
        self._make_sure_of_space(state)
        step = int(state.step)
        copy = jax.tree.map(lambda leaf: np.array(leaf), state) if self.speaks else None
        manifest = Manifest(step, score, "", {}, bound, versions(), {}, self.metric, 0, int(state.bad_in_a_row), regular)
        with _disk_errors(self.folder):
            response = ocp.save_checkpointables_async(self.folder / str(step), _parts(state), overwrite=True)
        self._pending = self._background.submit(self._finish, response, copy, manifest, on_saved)
        return ""

    def _make_sure_of_space(self, state: TrainState) -> None:
        """Asked before orbax begins: a save that fails in the middle leaves its threads behind, each with an error of its own."""
        if not self.speaks or "://" in os.fspath(self.folder):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
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
                files=hash_files(self.folder / str(manifest.step)),
                fence=self._confirm(),
            )
            self._write(manifest)
            self._prune()
        on_saved(manifest)

    def _write(self, manifest: Manifest) -> None:
        partial = self.folder / f"{manifest.step}.{MANIFEST}.partial"
        tree = {**manifest._asdict(), "bound": manifest.bound._asdict()}
        partial.write_text(json.dumps({**tree, "sha256": _hash_tree(tree)}, indent=1))
        partial.replace(self.folder / str(manifest.step) / MANIFEST)

    def rate(self, step: int, score: float, regular: bool = False) -> None:
        """Gives a score to a checkpoint that was saved before its evaluation, and makes it regular where that makes it so."""
        if self.speaks and step in self.steps():
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
        (self.folder / str(step) / MANIFEST).unlink()  # first: without it, it is none
        (self.folder / str(step)).rmtree()

    def _last_good(self) -> int:
        """The newest step that training may go back to; 0: there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(UserError):
                if self.manifest(step).good:
                    return step
        return 0

    def _sweep(self) -> None:
        """Deletes what only a save that was cut short leaves; anything else may be a copy that somebody keeps."""
        for child in self.folder.iterdir() if self.folder.is_dir() else ():
            if child.name.endswith(".orbax-checkpoint-tmp"):
                child.rmtree()
            elif child.name.endswith(f".{MANIFEST}.partial"):
                child.unlink()

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
            self._sweep()
        chosen, damaged = self._newest_sound(say)
        if chosen == _NONE_SOUND:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged; restore the run directory from a copy, or use another --run-dir"
            )
        if chosen == _NONE:
            return None
        manifest = self.manifest(chosen)
        self._refuse_others(manifest, bound, describe_leaves(_parts(abstract)))
        state = self._load(manifest, abstract, say)
        self._set_aside(damaged)
        return state

    def _newest_sound(self, say: Callable[[str], None], good: bool = False) -> tuple[int, list[int]]:
        """The newest step that is as it was written, as process 0 finds it, and the damaged ones above it; perhaps only a good one."""
        steps, chosen, damaged = self.steps(), _NONE, list[int]()
        for step in reversed(steps) if self.speaks else ():
            manifest, damage = self._verify(step)
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
        manifest, damage = self._verify(step)
        if manifest is None:
            raise UserError(f"checkpoint {self.folder / str(step)} is damaged ({damage}); choose another with --checkpoint")
        self._refuse_other_vocabulary(manifest, vocab_sha256)
        name = "average" if any(path.startswith("['average']") for path in manifest.leaves) else "params"
        wanted = {name: abstract}
        _compare({path: kind for path, kind in manifest.leaves.items() if path.startswith(f"['{name}']")}, describe_leaves(wanted))
        loaded: Params = ocp.load_checkpointables(self.folder / str(step), wanted)[name]
        return loaded

    def _verify(self, step: int) -> tuple[Manifest | None, str]:
        """The manifest if every file is as it says, else what is wrong."""
        try:
            manifest = self.manifest(step)
        except UserError as error:
            return None, str(error)
        found = hash_files(self.folder / str(step), self._compares_content)
        for name in manifest.files.keys() | found.keys():
            if name not in found or name not in manifest.files or (self._compares_content and manifest.files[name] != found[name]):
                return None, f"{name} is {'missing' if name not in found else 'not the file that was written'}"
        return manifest, ""

    def _refuse_others(self, manifest: Manifest, bound: Bound, leaves: dict[str, str]) -> None:
        if manifest.bound.corpus_sha256 != bound.corpus_sha256:
            raise UserError(
                f"the training pairs are not those that {self.folder.parent} was trained on (sha256 {bound.corpus_sha256[:12]} instead of "
                f"{manifest.bound.corpus_sha256[:12]}); give the same data, or another --run-dir"
            )
        self._refuse_other_vocabulary(manifest, bound.vocab_sha256)
        _compare(manifest.leaves, leaves)

    def _refuse_other_vocabulary(self, manifest: Manifest, vocab_sha256: str) -> None:
        if manifest.bound.vocab_sha256 != vocab_sha256:
            raise UserError(f"the vocabulary in {self.folder.parent} is not the one it was trained with; restore it from a copy")


def _compare(saved: dict[str, str], wanted: dict[str, str]) -> None:
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise UserError(
                f"the checkpoint does not fit the model: {path} is {saved.get(path, 'absent')} there and {wanted.get(path, 'absent')} here"
            )


def _hash_tree(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def hash_files(folder: epath.Path, read: bool = True) -> dict[str, str]:
    """sha256 of every file below a folder but the manifest, by relative path; empty ones unless the files are to be read."""
    found: dict[str, str] = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            found |= {f"{child.name}/{name}": digest for name, digest in hash_files(child, read).items()}
        elif child.name != MANIFEST:
            found[child.name] = hashlib.sha256(child.read_bytes()).hexdigest() if read else ""
    return found


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
