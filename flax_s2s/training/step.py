"""The pure functions of training: the train step, in two programs, and the evaluation step.

Enters: a state and a batch, rows spread over the devices. Leaves: the next state, on every device, and what happened.

The gradient of a batch is a program for each shape; the update that follows from it knows no shape, and is compiled once.

Each device computes loss and gradient of its rows inside one `shard_map`; one `psum` adds them up. Left to the
partitioner, a tied table would be reduced once per use and a weight gradient inside a loop at every step.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from flax_s2s.config import BOS, PAD, Config, OptimizerConfig, UserError
from flax_s2s.model.copying import point
from flax_s2s.model.decoder import Readings
from flax_s2s.model.dropout import fold_in, random_bytes, row_keys
from flax_s2s.model.noise import OWN, is_random
from flax_s2s.model.seq2seq import Model, Seq2Seq
from flax_s2s.runtime import lowered
from flax_s2s.runtime.parallel import AXIS, Devices
from flax_s2s.training.loss import Copies, Loss, cross_entropy, likeliest, marginal
from flax_s2s.training.optimizer import freeze, make_schedule
from flax_s2s.training.state import Accumulated, Params, TrainState

# Good updates that the usual loss is the mean of (an exponential one behind them): enough to hold batches of all lengths.
# Before as many no loss is a spike: it falls fastest then.
_USUAL_UPDATES = 100
_IN_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE,COLLECTIVES"


class Update(NamedTuple):
    """What a call of the train step did; without an update (accumulation) the loss is that of the batches so far."""

    loss: Loss
    gradient_norm: Float[Array, ""]  # of the loss per token, before clipping
    learning_rate: Float[Array, ""]
    skipped: Int[Array, ""]  # updates skipped so far
    norms: Float[Array, " module"]  # the gradient's norm in each of `module_names`
    bad_in_a_row: Int[Array, ""]  # updates skipped up to this one, without a good one between; 0: this one is good
    usual_loss: Float[Array, ""]  # per token, before this update


def shift_right(tgt_ids: Int[Array, "batch tgt"]) -> Int[Array, "batch tgt"]:
    """What the decoder reads: `a b EOS` -> `BOS a b`."""
    return jnp.pad(tgt_ids[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)


def batch_loss(
    model: Model, params: Params, batch: Any, smoothing: float, keys: Any = None, inputs: Any = None, coverage: float = 0.0
) -> Loss:
    """The loss of a batch (source and target ids) on one device.

    Args:
        model: what predicts.
        params: its parameters.
        batch: source and target ids.
        smoothing: of labels.
        keys: one for each row; None: deterministic.
        inputs: what the decoder reads; None: the target, shifted.
        coverage: weight of the coverage loss (See et al. 2017, equation 12), of models that know what they have looked at.
    """
    bound, (src_ids, tgt_ids) = model.bind(params), batch
    inputs = shift_right(tgt_ids) if inputs is None else inputs
    if model.config.hard:
        return marginal(model.config, *bound.align(src_ids, inputs, keys), *bound.output(), tgt_ids, smoothing)
    readings = bound.read(src_ids, inputs, keys)
    copies = _copies(bound, readings, src_ids)
    loss = cross_entropy(readings.readouts, *bound.output(), tgt_ids, smoothing, copies and point(*copies, tgt_ids))
    if not coverage or readings.again is None:
        return loss
    return loss._replace(smoothed=loss.smoothed + coverage * jnp.sum(readings.again * (tgt_ids != PAD)))


def _copies(bound: Seq2Seq, readings: Readings, src_ids: Any) -> Copies | None:
    if not bound.config.copy:
        return None
    assert readings.attention is not None
    return Copies(bound.gate(readings.readouts), readings.attention, bound.as_targets(src_ids))


def mix_inputs(model: Model, params: Params, batch: Any, keys: Any, rate: Float[Array, ""]) -> Int[Array, "batch tgt"]:
    """The decoder's inputs for scheduled sampling: with probability `rate` what the model itself would have said.

    That is its likeliest token after the right ones, found for all positions in one pass more (Duckworth et al. 2019, with
    one pass), not after its own as in Bengio et al. 2015, which would cost a loop.
    """
    bound, (src_ids, tgt_ids) = model.bind(params), batch
    readings = bound.read(src_ids, shift_right(tgt_ids), keys)
    own = likeliest(readings.readouts, *bound.output(), _copies(bound, readings, src_ids))
    chosen = random_bytes(keys, OWN, tgt_ids.shape[1]) < rate * 256
    return shift_right(jnp.where(chosen & (tgt_ids != PAD), own, tgt_ids))


def sampling_rate(config: OptimizerConfig, step: Int[Array, ""]) -> Float[Array, ""]:
    """How often the decoder reads its own token at a step: rising from 0 at the first one, or the same from there on."""
    rising = step / config.scheduled_sampling_steps if config.scheduled_sampling_steps else 1.0
    return jnp.float32(config.scheduled_sampling) * jnp.minimum(1.0, rising)


def abstract_batch(shape: tuple[int, int, int], devices: Devices) -> tuple[Any, Any]:
    """A batch to compile for; `shape` is (rows, source length, target length)."""
    rows, *lengths = shape
    source, target = (jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=devices.by_row) for length in lengths)
    return source, target


class TrainStep:
    """`(state, batch, after) -> (state, Update)`: two programs, jitted or compiled. The state is donated.

    `after` is the data position behind the batch; dropout's masks are a function of it and of a row's place in the batch, so that
    they are the same on any number of devices.
    """

    def __init__(self, gradients: Any, update: Any) -> None:
        """Compiles nothing yet.

        Args:
            gradients: `(params, key, step, batch, after) -> (gradients, Loss)`, both summed over all tokens of all devices.
            update: `(state, gradients, Loss, after) -> (state, Update)`.
        """
        self.gradients, self.update = gradients, update
        self._lock, self._compiled_update = threading.Lock(), Future[Any]()
        self._compiling = False

    def __call__(self, state: TrainState, batch: Any, after: Int[Array, "2"]) -> tuple[TrainState, Update]:
        """One step."""
        gradients, loss = self.gradients(state.params, state.key, state.step, batch, after)
        new, update = self.update(state, gradients, loss, after)
        return new, update

    def compile(self, state: TrainState, batch: Any, after: Any, options: dict[str, Any] | None = None) -> "TrainStep":
        """The step of a batch's shape, compiled; the update, for the first of them, at the same time as the gradient."""
        gradients = self.lower_gradients(state, batch, after)
        with self._lock:
            first, self._compiling = not self._compiling, True
        if first:
            try:
                threading.Thread(target=self._compile_update, args=(gradients, state, after, options), name="compile").start()
            except RuntimeError as error:  # there can be no more threads
                self._compiled_update.set_exception(error)
        return TrainStep(gradients.compile(options), self._compiled_update.result())

    def lower_gradients(self, state: TrainState, batch: Any, after: Any) -> Any:
        """The program of a shape, before it is compiled."""
        return self.gradients.lower(state.params, state.key, state.step, batch, after)

    def lower_update(self, gradients: Any, state: TrainState, after: Any) -> Any:
        """The update's, for what `lower_gradients` made."""
        everywhere = state.step.sharding
        described = jax.tree.map(lambda out: jax.ShapeDtypeStruct(out.shape, out.dtype, sharding=everywhere), gradients.out_info)
        return self.update.lower(state, *described, after)

    def _compile_update(self, gradients: Any, state: Any, after: Any, options: Any) -> None:
        try:
            self._compiled_update.set_result(self.lower_update(gradients, state, after).compile(options))
        except BaseException as error:
            self._compiled_update.set_exception(error)


def make_train_step(model: Model, optimizer: optax.GradientTransformation, config: Config, devices: Devices) -> TrainStep:
    """Makes the train step, jitted; a bad update (see `_make_update`) is skipped on the device."""
    gradients_and_loss, change = _make_gradients(model, config, devices), _make_update(optimizer, config.optimizer)
    accumulate = _make_accumulate(change, config.optimizer)

    def gradients(params: Params, key: Any, step: Any, batch: Any, after: Int[Array, "2"]) -> tuple[Params, Loss]:
        return gradients_and_loss(params, tuple(batch), fold_in(key, after), step)

    def update(state: TrainState, gradients: Params, loss: Loss, after: Int[Array, "2"]) -> tuple[TrainState, Update]:
        return (change if state.accumulated is None else accumulate)(state._replace(position=after), gradients, loss)

    everywhere, options = devices.replicated, _options(config, devices)
    shardings = (everywhere, everywhere, everywhere, devices.by_row, everywhere)
    about = (config.model, config.optimizer)
    return TrainStep(
        lowered.jit(gradients, about, in_shardings=shardings, out_shardings=everywhere, compiler_options=options),
        lowered.jit(update, about, in_shardings=everywhere, out_shardings=everywhere, donate_argnums=0, compiler_options=options),
    )


def _options(config: Config, devices: Devices) -> dict[str, Any] | None:
    """XLA's, where they are asked for.

    Raises:
        UserError: there are no CUDA graphs here.
    """
    if not config.training.whole_graphs:
        return None
    device = devices.mesh.devices.flat[0]
    if device.platform != "gpu":
        raise UserError(f"training.whole_graphs=True needs NVIDIA GPUs, got {device.device_kind}; use training.whole_graphs=False")
    return {"xla_gpu_enable_command_buffer": _IN_GRAPHS, "xla_gpu_command_buffer_unroll_loops": True}


def _make_accumulate(update: Callable[..., tuple[TrainState, Update]], config: OptimizerConfig) -> Callable[..., tuple[TrainState, Update]]:
    """Makes `(state, gradients, loss) -> (state, Update)`: every so many batches one update, of the sum of their gradients."""
    schedule = make_schedule(config)

    def accumulate(state: TrainState, gradients: Params, loss: Loss) -> tuple[TrainState, Update]:
        assert state.accumulated is not None
        sums = Accumulated(
            jax.tree.map(jnp.add, state.accumulated.gradients, gradients),
            tuple(jax.tree.map(jnp.add, tuple(state.accumulated.loss), tuple(loss))),
            state.accumulated.batches + 1,
        )
        return lax.cond(sums.batches == config.accumulate_batches, finish, wait, state._replace(accumulated=sums))

    def finish(state: TrainState) -> tuple[TrainState, Update]:
        assert state.accumulated is not None
        new, done = update(state, state.accumulated.gradients, Loss(*state.accumulated.loss))
        return new._replace(accumulated=jax.tree.map(jnp.zeros_like, state.accumulated)), done

    def wait(state: TrainState) -> tuple[TrainState, Update]:
        assert state.accumulated is not None
        loss, norms = Loss(*state.accumulated.loss), jnp.zeros(len(module_names(state.params)))
        rate = schedule(state.step - state.skipped)
        return state, Update(loss, jnp.float32(0), rate, state.skipped, norms, state.bad_in_a_row, state.usual_loss)

    return accumulate


def _make_gradients(model: Model, config: Config, devices: Devices) -> Callable[..., tuple[Params, Loss]]:
    """Makes `(params, batch, key, step) -> (gradients, loss)`, both summed over all tokens of all devices."""

    @partial(
        jax.shard_map,
        mesh=devices.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    def gradients_and_loss(params: Params, batch: Any, key: Any, step: Any) -> tuple[Params, Loss]:
        rows, share = batch[0].shape[0], config.optimizer.scheduled_sampling
        keys = row_keys(key, lax.axis_index(AXIS) * rows, rows) if is_random(config.model) or share else None
        inputs = None
        if share:
            inputs = mix_inputs(model, params, batch, keys, sampling_rate(config.optimizer, step))

        def objective(params: Params) -> tuple[Any, Loss]:
            own, how = freeze(params, config.optimizer.frozen), config.optimizer
            loss = batch_loss(model, own, batch, how.label_smoothing, keys, inputs, how.coverage_loss)
            return loss.smoothed, loss

        gradients, loss = jax.grad(objective, has_aux=True)(params)
        return (gradients, loss) if devices.count == 1 else lax.psum((gradients, loss), AXIS)  # XLA would copy them all

    return gradients_and_loss


def _make_update(
    optimizer: optax.GradientTransformation, config: OptimizerConfig
) -> Callable[[TrainState, Params, Loss], tuple[TrainState, Update]]:
    """Makes `(state, gradients, loss) -> (state, Update)`.

    An update is bad when its loss or gradient is not finite, or its loss a spike. It is counted, and changes nothing else:
    neither parameters nor optimizer, neither the moving average nor the usual loss.
    """
    schedule = make_schedule(config)

    def update(state: TrainState, gradients: Params, loss: Loss) -> tuple[TrainState, Update]:
        tokens = jnp.maximum(loss.tokens, 1)
        gradients = jax.tree.map(lambda gradient: gradient / tokens, gradients)
        norm, norms = _norms(gradients)
        good_before = state.step - state.skipped  # optax counts no skipped update either
        spike = (config.spike_factor > 0) & (good_before >= _USUAL_UPDATES) & (loss.plain / tokens > config.spike_factor * state.usual_loss)
        good = jnp.isfinite(norm) & jnp.isfinite(loss.smoothed) & jnp.isfinite(loss.plain) & ~spike

        def change(old: Any) -> Any:
            params, moments, average, usual = old
            changes, moments = optimizer.update(gradients, moments, params)
            params = optax.apply_updates(params, changes)
            usual = usual + (loss.plain / tokens - usual) / jnp.minimum(good_before + 1, _USUAL_UPDATES)
            return params, moments, _average(average, params, good_before, config.average_decay), usual

        params, moments, average, usual = _change_if(good, change, (state.params, state.optimizer, state.average, state.usual_loss))
        bad = (~good).astype(jnp.int32)
        new = state._replace(
            step=state.step + 1,
            params=params,
            optimizer=moments,
            average=average,
            skipped=state.skipped + bad,
            bad_in_a_row=(state.bad_in_a_row + 1) * bad,
            usual_loss=usual,
        )
        return new, Update(loss, norm, schedule(good_before), new.skipped, norms, new.bad_in_a_row, state.usual_loss)

    return update


def module_names(params: Params) -> list[str]:
    """Where a parameter belongs: `encoder/layers/0` has several, a table of the top level stands by itself; in their order."""
    return list(dict.fromkeys(_module(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)))


def _module(path: Any) -> str:
    return jax.tree_util.keystr(path[:-1] or path, simple=True, separator="/")


def _norms(gradients: Params) -> tuple[Float[Array, ""], Float[Array, " module"]]:
    """The norm of the whole, and of each module: one reading of the gradient for both."""
    squares = dict.fromkeys(module_names(gradients), jnp.float32(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        squares[_module(path)] += jnp.sum(jnp.square(leaf))
    by_module = jnp.stack(list(squares.values()))
    return jnp.sqrt(jnp.sum(by_module)), jnp.sqrt(by_module)


def _change_if(condition: Bool[Array, ""], change: Callable[[Any], Any], old: Any) -> Any:
    """Changed or as it was; a branch saves a CPU a third of the update, and costs a GPU a wait for the host."""

    def select(old: Any) -> Any:
        return jax.tree.map(lambda new, old: jnp.where(condition, new, old), change(old), old)

    return lax.platform_dependent(old, cpu=lambda old: lax.cond(condition, change, lambda old: old, old), default=select)


def _average(average: Params | None, params: Params, updates: Int[Array, ""], decay: float) -> Params | None:
    """The moving average; its decay starts low, so that the first parameters are soon forgotten."""
    if average is None:
        return None
    count = updates.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(lambda old, new: old + rate * (new - old), average, params)


def make_eval_step(model: Model, devices: Devices) -> Any:
    """Makes `(params, batch) -> Loss`, jitted: no dropout, no smoothing."""

    @partial(jax.shard_map, mesh=devices.mesh, in_specs=(PartitionSpec(), PartitionSpec(AXIS)), out_specs=PartitionSpec(), check_vma=False)
    def eval_step(params: Params, batch: Any) -> Loss:
        return lax.psum(batch_loss(model, params, batch, 0.0), AXIS)

    def evaluate(params: Params, batch: Any) -> Loss:
        return eval_step(params, tuple(batch))

    return lowered.jit(evaluate, model.config)
