"""The train step and the evaluation step of a run, compiled shape by shape; a wait for the compiler may be interrupted."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_s2s.config import Config
from flax_s2s.data.batching import Shape
from flax_s2s.data.pipeline import Pipeline, Position
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime import job, parallel
from flax_s2s.runtime.parallel import Devices
from flax_s2s.runtime.programs import Programs
from flax_s2s.runtime.runlog import RunLog
from flax_s2s.training import loop
from flax_s2s.training.state import TrainState
from flax_s2s.training.step import abstract_batch, make_eval_step, make_train_step


class Steps(NamedTuple):
    """Both steps, each to be compiled for every shape."""

    train: Programs
    evaluate: Programs
    log: RunLog  # says how far the compiler is

    def stop_before(self, state: TrainState, batch: Any, after: Any) -> bool:
        """Waits until the train step of a batch is compiled; whether a stop was asked for before."""
        ready = self.train.prepare(_shape(batch))
        return ready is not None and self._wait(ready, "train", self.train)

    def interrupted(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Batches to be evaluated, each when its program is compiled.

        Raises:
            Interrupted: a stop was asked for.
        """
        for batch in batches:
            shape = _shape(batch)
            ready = self.evaluate.prepare(shape._replace(rows=shape.rows * parallel.process()[1]))
            if job.stop_requested() if ready is None else self._wait(ready, "evaluation", self.evaluate):
                raise loop.Interrupted
            yield batch

    def _wait(self, ready: Future[None], name: str, programs: Programs) -> bool:
        with self.log.doing(lambda: "compiling the {} step: {} of {} shapes are done".format(name, *programs.progress())):
            return job.stop_before(ready)

    def warm(self) -> bool:
        """Whether nothing is being compiled."""
        return self.train.idle and self.evaluate.idle

    def close(self) -> None:
        """Compiles nothing more."""
        self.evaluate.close()
        self.train.close()


def make_steps(
    config: Config, model: Model, optimizer: Any, state: TrainState, shapes: Sequence[Sequence[Shape]], devices: Devices, log: RunLog
) -> Steps:
    """The steps for a state, and for shapes of training and of evaluation, the first of which are needed first; compiles nothing yet."""
    of_training, of_evaluation = shapes

    def batch(shape: Shape) -> Any:
        return abstract_batch(shape, devices)

    after = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=devices.replicated)
    train_step, eval_step = make_train_step(model, optimizer, config, devices), make_eval_step(model, devices)
    return Steps(
        Programs(
            train_step.compile, {shape: (state, batch(shape), after) for shape in of_training}, lambda state, batch, after: _shape(batch)
        ),
        Programs(
            lambda *arguments: eval_step.lower(*arguments).compile(),
            {shape: (state.params, batch(shape)) for shape in of_evaluation},
            lambda params, batch: _shape(batch),
        ),
        log,
    )


def by_first_use(pipeline: Pipeline, position: Position) -> list[Shape]:
    """All shapes, those that the stream asks for next before the others."""
    coming = [planned.shape for planned in pipeline.plan(position.epoch)[position.batch :]]
    return list(dict.fromkeys([*coming, *pipeline.shapes]))


def _shape(batch: Any) -> Shape:
    (rows, src), (_, tgt) = (side.shape for side in batch)
    return Shape(rows, src, tgt)
