"""`train --init-from RUN_DIR`: the parameters and the vocabulary that a new run takes over from another one."""

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from flax_s2s.commands.wiring import load_vocabularies
from flax_s2s.config import Config, UserError, differences
from flax_s2s.model.seq2seq import abstract_params
from flax_s2s.runs import rundir
from flax_s2s.runs.inventory import Inventory
from flax_s2s.runtime.parallel import Devices, place
from flax_s2s.training.state import TrainState

_HOW_IT_IS_USED = "vocab.sampling"  # the one field of the vocabulary that is not about what tokens there are
_ANY_SIZES = (8, 8)  # of vocabularies that are the same


class Initial(NamedTuple):
    """A run to start from."""

    folder: epath.Path
    config: Config

    @property
    def vocab(self) -> epath.Path:
        """Where its vocabulary is."""
        return self.folder / rundir.VOCAB

    def checkpoints(self) -> Inventory:
        """Where its parameters are."""
        training = self.config.training
        return Inventory(self.folder / rundir.CHECKPOINTS, training.best_metric, verify=training.verify_checkpoints)

    def describe(self, config: Config) -> str:
        """What a new run starts from, and how its model differs."""
        other = ", ".join(_of_room(self.config, config, "model."))
        return f"starting from the parameters of {self.folder}" + (f"; unlike it: {other}" if other else "")

    def take_over(self, state: TrainState, vocab_sha256: str, sizes: tuple[int, int], config: Config, devices: Devices) -> TrainState:
        """A new run's state with the parameters that the other run decodes with; its optimizer starts from nothing.

        Raises:
            UserError: the models differ, or there is no whole checkpoint.
        """
        if not _have_same_shapes(self.config, config, sizes):
            raise UserError(
                f"--init-from {self.folder} has another model than this run:\n  "
                + "\n  ".join(_of_room(self.config, config, "model."))
                + "\ngive the old values; only what has no parameters, such as dropout, may differ"
            )
        mine = _abstract(config, sizes)
        checkpoints = self.checkpoints()
        params = checkpoints.load_params(checkpoints.choose("best"), place(mine, devices), vocab_sha256)
        return state._replace(params=params, average=None if state.average is None else jax.tree.map(jnp.copy, params))


def find(run_dir: str, config: Config) -> Initial:
    """The run to start from.

    Raises:
        UserError: it is no run directory, lacks checkpoints or vocabulary, or is configured for another vocabulary.
    """
    folder = rundir.make_path(run_dir)
    old = rundir.read_config(folder)
    other = _other_vocabulary(old, config)
    if other:
        raise UserError(
            f"--init-from {os.fspath(folder)} has another vocabulary than this run asks for:\n  "
            + "\n  ".join(other)
            + "\ngive the old values: its tokens are what its parameters are about"
        )
    if _crossed(old, config):
        raise UserError(
            f"--init-from {os.fspath(folder)} reads {old.data.source} and writes {old.data.target}, each with a vocabulary of its own, and this run "
            f"reads {config.data.source} and writes {config.data.target}; give a run of the same direction"
        )
    if _bundled(old) != _bundled(config):
        has, asks = ("features" if _bundled(one) else "none" for one in (old, config))
        raise UserError(
            f"--init-from {os.fspath(folder)} was trained with data.features={old.data.features!r}, which is {has}, and this run asks for {asks}: "
            f"data.features={config.data.features!r}; features are a part of the vocabulary, which is taken over: begin a new run"
        )
    found = Initial(folder, old)
    found.checkpoints().choose("best")
    load_vocabularies(folder)
    return found


def could_start(old: Config, new: Config) -> bool:
    """Whether a new run could start from one with the old configuration, as far as configurations tell."""
    return (
        not _other_vocabulary(old, new)
        and not _crossed(old, new)
        and _bundled(old) == _bundled(new)
        and _have_same_shapes(old, new, _ANY_SIZES)
    )


def _other_vocabulary(old: Config, new: Config) -> list[str]:
    return [line for line in _of_room(old, new, "vocab.") if not line.startswith(_HOW_IT_IS_USED)]


def _bundled(config: Config) -> bool:
    """Whether its vocabulary has features."""
    return bool(config.data.features)


def _crossed(old: Config, new: Config) -> bool:
    """Whether a vocabulary of one side would be read as that of the other."""
    return (new.data.source == old.data.target or new.data.target == old.data.source) and not new.vocab.joint


def _abstract(config: Config, sizes: tuple[int, int]) -> Any:
    return abstract_params(dataclasses.replace(config.model, kernel="auto"), *sizes)


def _have_same_shapes(old: Config, new: Config, sizes: tuple[int, int]) -> bool:
    theirs, mine = (jax.tree.map(lambda leaf: leaf.shape, _abstract(own, sizes)) for own in (old, new))
    return bool(theirs == mine)


def _of_room(old: Config, new: Config, room: str) -> list[str]:
    return [line for line in differences(old, new, "identity") if line.startswith(room)]
