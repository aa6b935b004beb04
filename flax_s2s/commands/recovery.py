"""What `train` does about bad updates: a report on each, and the way back to the last good checkpoint."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from flax_s2s.config import PAD, TrainingConfig, UserError
from flax_s2s.data.vocab import Vocabularies, Vocabulary
from flax_s2s.runs import rundir
from flax_s2s.runs.checkpoint import Checkpoints
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import Devices, feed_all
from flax_s2s.runtime.runlog import RunLog
from flax_s2s.training.guard import BadUpdate
from flax_s2s.training.state import TrainState

_MOST_REPORTS = 100  # of a process in a run directory: who needs more of them needs another corpus or learning rate


class Reports:
    """Writes `reports/STEP-process-N.json` for every bad update; each process its own sentences."""

    def __init__(self, folder: epath.Path, modules: list[str], vocabularies: Vocabularies, log: RunLog) -> None:
        """Writes nothing yet.

        Args:
            folder: of the run.
            modules: the names of the gradient's norms.
            vocabularies: to decode the sentences with.
            log: where each bad update is said.
        """
        self.folder, self._modules, self._vocabularies, self._log = folder / rundir.REPORTS, modules, vocabularies, log

    def __call__(self, bad: BadUpdate) -> None:
        """Says what is wrong, and writes the report while there are not too many."""
        index, _ = parallel.process()
        again = f"-rollback-{bad.rollbacks}" if bad.rollbacks else ""
        name = f"step-{bad.step:08}{again}-process-{index}.json"
        there = [path.name for path in self.folder.glob(f"step-*-process-{index}.json")] if self.folder.is_dir() else []
        if name not in there and len(there) >= _MOST_REPORTS:  # one of a run that was killed is written again
            where = f"no report: there are {_MOST_REPORTS} in {self.folder}"
        else:
            where = self._write(name, self._describe(bad))
        self._log.warn(f"step {bad.step:>6} skipped, {int(bad.update.bad_in_a_row)} in a row: {bad.why}; {where}")

    def _write(self, name: str, report: dict[str, Any]) -> str:
        """Whole or not at all; a full disk is the next checkpoint's to say."""
        partial = self.folder / f"{name}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
            partial.replace(self.folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            return f"no report: {self.folder / name} cannot be written: {error.strerror or error}"
        return f"its sentences are in {self.folder / name}"

    def _describe(self, bad: BadUpdate) -> dict[str, Any]:
        update, vocabularies = bad.update, self._vocabularies
        return {
            "step": bad.step,
            "rollbacks": bad.rollbacks,
            "why": bad.why,
            "loss": _number(bad.loss),
            "usual_loss": _number(update.usual_loss),
            "target_tokens": _number(update.loss.tokens),
            "learning_rate": _number(update.learning_rate),
            "gradient_norm": _number(update.gradient_norm),
            "norms": {name: _number(norm) for name, norm in zip(self._modules, np.asarray(update.norms), strict=True)},
            "bad_in_a_row": int(update.bad_in_a_row),
            "batches": [
                {
                    "epoch": epoch,
                    "batch": batch,
                    "source": _side(rows[0], vocabularies.source, vocabularies.features),
                    "target": _side(rows[1], vocabularies.target, ()),
                }
                for (epoch, batch), rows in zip(bad.positions, bad.batches, strict=True)
            ],
        }


def _number(value: Any) -> float | str:
    """JSON has no word for what is not finite: `nan`, `inf` or `-inf`."""
    return float(value) if math.isfinite(value) else str(float(value))


def _side(ids: np.ndarray, vocabulary: Vocabulary, features: Sequence[str]) -> list[dict[str, Any]]:
    """The sentences of one side of a batch, without filler rows and padding; features, which are no text, by themselves.

    Symbols that the vocabulary lacks are there as ids alone.
    """
    rows = [row[row != PAD].tolist() for row in ids]
    rows = [row for row in rows if row]
    known = len(vocabulary)
    texts = vocabulary.decode([[i for i in row if i < known] for row in rows])
    bundles = [[features[i - known] for i in row if 0 <= i - known < len(features)] for row in rows]
    return [
        {"text": text, **({"features": bundle} if bundle else {}), "ids": row}
        for text, bundle, row in zip(texts, bundles, rows, strict=True)
    ]


def make_roll_back(
    checkpoints: Checkpoints,
    abstract: TrainState,
    create: Callable[[], TrainState],
    config: TrainingConfig,
    devices: Devices,
    log: RunLog,
) -> Callable[[TrainState], TrainState]:
    """Makes the function that goes back to the last good checkpoint, or to the beginning, and on behind the data seen so far.

    Nothing of it need be saved: a run that is killed before the next checkpoint comes from an earlier one over the same
    updates to the same place, and goes back again.

    Args:
        checkpoints: where to look for it.
        abstract: describes the state.
        create: makes the state before the first step.
        config: how often.
        devices: where the state is.
        log: where it is said, and taken back what was measured since.
    """

    def roll_back(state: TrainState) -> TrainState:
        step, before, position = int(state.step), int(state.rollbacks), np.array(state.position)
        row = f"{config.roll_back_after} bad updates in a row up to step {step - 1}"
        if before >= config.max_rollbacks:
            raise UserError(
                f"{row}, after {before} rollbacks (training.max_rollbacks); earlier checkpoints are intact. What was wrong is in "
                f"{checkpoints.folder.parent / rundir.REPORTS}: where the same sentences come back, correct the corpus; else use a new "
                "--run-dir with a lower optimizer.learning_rate, a longer optimizer.warmup_steps or a lower optimizer.clip_norm"
            )
        for leaf in jax.tree.leaves(state):  # a device may not hold two states
            leaf.delete()
        good = checkpoints.roll_back(abstract, log.line)
        if good is None:
            good = create()
        begin = np.array(good.position)
        log.rewind(int(good.step))
        log.warn(
            f"{row}: BACK TO STEP {int(good.step)}, rollback {before + 1} of at most {config.max_rollbacks}; "
            f"skipped: the data from {_place(begin)} to {_place(position)}"
        )
        after, rollbacks = feed_all(devices, (position, np.int32(before + 1)))
        return good._replace(position=after, rollbacks=rollbacks)

    return roll_back


def _place(position: np.ndarray) -> str:
    return f"epoch {position[0] + 1} batch {position[1]}"
