"""Checkpoints of a run: saved in the background, verified before they are used. Only here and in `arrays` orbax is imported.

Enters: a `TrainState`, or a folder. Leaves: `checkpoints/STEP/`, or a `TrainState` on the devices.

Orbax writes the arrays; then our manifest (see `manifests`), with the state's hash in it, is written last. Only then are older
steps deleted. A checkpoint that does not match its manifest is named and passed over in favor of the one before.
"""

import concurrent.futures
import logging
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from flax_s2s.config import Failure, UserError
from flax_s2s.runs import manifests
from flax_s2s.runs.disk import errors_said, make_sure_of_space
from flax_s2s.runs.inventory import NONE, NONE_SOUND, Inventory
from flax_s2s.runs.manifests import Bound, Manifest, describe_leaves
from flax_s2s.runtime.parallel import from_first
from flax_s2s.training.state import TrainState, hash_state, not_finite

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


class Checkpoints(Inventory):
    """The checkpoints of one run directory: their inventory, and the arrays in them."""

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
            UserError: see `Inventory`.
        """
        super().__init__(folder, metric, keep_last, keep_best, verify)
        self.speaks, self._confirm = speaks, confirm or (lambda: 0)
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None

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
            make_sure_of_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)), max(self.steps(), default=None))
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
        with errors_said(self.folder):
            response = ocp.save_checkpointables_async(self.folder / str(step), _parts(state), overwrite=True)
        self._pending = self._background.submit(self._finish, response, copy, manifest, on_saved)
        return ""

    def _finish(self, response: Any, copy: Any, manifest: Manifest, on_saved: Callable[[Manifest], None]) -> None:
        with errors_said(self.folder):
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
            self.prune()
        on_saved(manifest)

    def _write(self, manifest: Manifest) -> None:
        manifests.write(self.folder / str(manifest.step), manifest)

    def rate(self, step: int, score: float, regular: bool = False) -> None:
        """Gives a score to a checkpoint that was saved before its evaluation, and makes it regular where that makes it so."""
        if self.speaks and step in self.steps():
            self._confirm()
            manifest = self.manifest(step)
            with errors_said(self.folder):
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

    def restore(
        self, abstract: TrainState, bound: Bound, say: Callable[[str], None], warn: Callable[[str], None] | None = None
    ) -> TrainState | None:
        """The newest sound checkpoint, on the devices of `abstract`; None when there is none yet.

        What a kill left is removed, and a damaged checkpoint is set aside as `STEP.damaged`, so that it counts no longer.

        Args:
            abstract: shapes, types and shardings of the state.
            bound: what it must have been made with.
            say: told what is done.
            warn: told what must be seen: a damaged checkpoint, other means; None: `say`.

        Raises:
            UserError: it was made with another corpus, vocabulary or model; or all there are are damaged.
        """
        if self.speaks:
            self._confirm()
            self.sweep(say)
        warn = warn or say
        chosen, damaged = self._agree_on_newest_sound(warn)
        if chosen == NONE_SOUND:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged; restore the run directory from a copy, or use another --run-dir"
            )
        if chosen == NONE:
            return None
        manifest = self.manifest(chosen)
        manifests.refuse_others(manifest, self.folder.parent, bound, describe_leaves(_parts(abstract)))
        if other := manifests.describe_other_means(manifest):
            warn(f"WARNING: {self.folder / str(chosen)} was computed by other means ({other}); training goes on, but not to the same bits")
        state = self._load(manifest, abstract, say)
        if damaged:
            self._confirm()
            self.set_aside(damaged)
        return state

    def _agree_on_newest_sound(self, say: Callable[[str], None], good: bool = False) -> tuple[int, list[int]]:
        """As `newest_sound`, as process 0 finds it; the others know of no damaged ones."""
        chosen, damaged = self.newest_sound(self._compares_content, say, good) if self.speaks else (NONE, list[int]())
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
        chosen, damaged = self._agree_on_newest_sound(say, good=True)
        state = self._load(self.manifest(chosen), abstract, say) if chosen >= 0 else None
        if self.speaks:
            self._confirm()
            self.set_aside(damaged)
            for step in self.steps():
                if step > chosen:
                    self.delete(step)
        return state
