import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import collectives, computations, inside_loops
from jax import lax
from jax.sharding import PartitionSpec
from planted import MARKS, mark, plant

from flax_s2s.config import BOS, EOS, PAD, Config, ModelConfig, OptimizerConfig, TrainingConfig, UserError
from flax_s2s.data.batching import Batch
from flax_s2s.model.dropout import row_keys
from flax_s2s.model.seq2seq import make_model
from flax_s2s.runtime.parallel import AXIS, feed_all, feed_rows, make_devices
from flax_s2s.training import loss as loss_module
from flax_s2s.training import step as step_module
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import abstract_state, count_parameters, create_state
from flax_s2s.training.step import batch_loss, make_eval_step, make_train_step, mix_inputs, module_names, sampling_rate, shift_right

VOCAB = 11
ROWS, SRC, TGT = 8, 5, 6
MODEL = {"embedding_size": 6, "hidden_size": 8, "tie": "all"}


def config_of(
    dropout=0.0, accumulate_batches=1, average_decay=0.0, name="sgd", learning_rate=1.0, clip_norm=0.0, coverage_loss=0.0, **model
):
    optimizer = OptimizerConfig(
        name=name,
        learning_rate=learning_rate,
        schedule="constant",
        clip_norm=clip_norm,
        label_smoothing=0.1,
        accumulate_batches=accumulate_batches,
        average_decay=average_decay,
        coverage_loss=coverage_loss,
    )
    return Config(model=ModelConfig(**{**MODEL, **model}, dropout=dropout), optimizer=optimizer)


FULL = config_of(dropout=0.25, average_decay=0.9, name="adam", learning_rate=0.01, clip_norm=0.1)
PLAIN = config_of()  # SGD at rate 1: the parameters move by minus the gradient
SUMMED = config_of(accumulate_batches=2)


def make_rows(rows, seed):
    """Random sentences of random lengths, EOS, then PAD."""
    rng = np.random.default_rng(seed)

    def side(length):
        ids = rng.integers(4, VOCAB, (rows, length)).astype(np.int32)
        ends = rng.integers(0, length, (rows, 1))
        position = np.arange(length)[None, :]
        return np.where(position < ends, ids, np.where(position == ends, EOS, PAD)).astype(np.int32)

    return Batch(side(SRC), side(TGT))


BATCHES = [make_rows(ROWS, seed) for seed in range(4)]


@functools.cache
def step_of(config, count):
    devices = make_devices(count, {})
    return make_train_step(make_model(config.model, VOCAB, VOCAB), make_optimizer(config.optimizer), config, devices), devices


@functools.cache
def first_state(config):
    """The first state, on the host."""
    made = create_state(config, (VOCAB, VOCAB), make_optimizer(config.optimizer), make_devices(1, {}))
    return jax.tree.map(np.array, made)


def run(config, batches, count=1, state=None, first=1, step=None):
    """States and Updates after each batch, on the host; batch i of the epoch is read at position `first + i`."""
    made, devices = step_of(config, count)
    state, seen = feed_all(devices, first_state(config) if state is None else state), []
    for number, batch in enumerate(batches, first):
        state, update = (step or made)(state, feed_rows(devices, batch), feed_all(devices, np.array([0, number], np.int32)))
        seen.append(jax.tree.map(np.array, (state, update)))
    return seen


def largest_difference(one, two):
    return max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def learned(state):
    return state.params, state.optimizer, state.average


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@functools.cache
def lowered(config, count=8):
    """The step compiled for several devices."""
    step, devices = step_of(config, count)
    state = abstract_state(config, (VOCAB, VOCAB), make_optimizer(config.optimizer), devices)
    ids = [jax.ShapeDtypeStruct((ROWS, length), jnp.int32, sharding=devices.by_row) for length in (SRC, TGT)]
    return step.compile(state, Batch(*ids), jax.ShapeDtypeStruct((2,), jnp.int32, sharding=devices.replicated))


# Scheduled sampling


def literal_inputs(params, batch, config):
    """What the decoder reads where every token is the model's own, and what it reads otherwise."""
    bound = make_model(config.model, VOCAB, VOCAB).bind(jax.tree.map(jnp.asarray, params))
    right = np.concatenate([np.full((ROWS, 1), BOS, np.int32), batch.tgt_ids[:, :-1]], axis=1)
    table, bias = bound.output()
    own = np.argmax(
        np.asarray(bound(jnp.asarray(batch.src_ids), jnp.asarray(right)), np.float64) @ np.asarray(table.T) + np.asarray(bias), axis=-1
    )
    own = np.where(batch.tgt_ids == PAD, PAD, own)
    return np.concatenate([right[:, :1], own[:, :-1]], axis=1), right


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_scheduled_sampling_reads_so_many_of_its_own_tokens(rate):
    params, found = jax.tree.map(jnp.asarray, first_state(config_of(compute="float32")).params), []
    keys = row_keys(jax.random.key_data(jax.random.key(3)), jnp.int32(0), ROWS)
    model = make_model(config_of(compute="float32").model, VOCAB, VOCAB)
    for batch in BATCHES:
        own, right = literal_inputs(params, batch, config_of(compute="float32"))
        mixed = np.asarray(mix_inputs(model, params, (jnp.asarray(batch.src_ids), jnp.asarray(batch.tgt_ids)), keys, jnp.float32(rate)))
        assert np.all((mixed == own) | (mixed == right))
        found += (mixed == own)[own != right].tolist()
    assert np.mean(found) == pytest.approx(rate, abs=0.2 if 0 < rate < 1 else 0)


@pytest.mark.parametrize(("over", "rates"), [(0, [0.8, 0.8, 0.8, 0.8]), (4, [0.0, 0.2, 0.6, 0.8])])
def test_scheduled_sampling_rises_in_a_line(over, rates):
    config = OptimizerConfig(scheduled_sampling=0.8, scheduled_sampling_steps=over)
    assert [float(sampling_rate(config, jnp.int32(step))) for step in (0, 1, 3, 100)] == pytest.approx(rates)


def test_scheduled_sampling_rises_and_knows_no_devices():
    plain = config_of(compute="float32")
    sampling = dataclasses.replace(
        plain, optimizer=dataclasses.replace(plain.optimizer, scheduled_sampling=0.9, scheduled_sampling_steps=2)
    )
    without, one, eight = (run(config, BATCHES[:3], count) for config, count in ((plain, 1), (sampling, 1), (sampling, 8)))
    assert without[0][1].loss.plain == pytest.approx(one[0][1].loss.plain, rel=1e-6)  # at step 0 nothing is replaced
    assert largest_difference(without[1][0].params, one[1][0].params) > 1e-4
    assert largest_difference(learned(one[-1][0]), learned(eight[-1][0])) < 1e-5


# Freezing


def test_what_is_frozen_counts_in_no_norm_of_a_step():
    plain = config_of(compute="float32", clip_norm=0.01)
    frozen = dataclasses.replace(plain, optimizer=dataclasses.replace(plain.optimizer, frozen=("encoder", "target_table")))
    (_, whole), (after, part) = (run(config, BATCHES[:1])[0] for config in (plain, frozen))
    names = module_names(after.params)
    fixed = np.array([name.startswith(("encoder", "target_table")) for name in names])
    assert fixed.any() and not fixed.all()
    assert np.array_equal(part.norms, np.where(fixed, 0, whole.norms)) and whole.norms[fixed].all()
    assert part.gradient_norm == pytest.approx(np.linalg.norm(whole.norms[~fixed]), rel=1e-6)
    moved = jax.tree.map(lambda new, old: new - old, after.params, first_state(frozen).params)
    assert np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])) == pytest.approx(0.01, rel=1e-4)


# Devices


def with_lacking(batch, seed):
    """Some words of the sources are symbols that the vocabulary lacks, and some of the targets are copied from there."""
    rng = np.random.default_rng(seed)
    src_ids, tgt_ids = batch.src_ids.copy(), batch.tgt_ids.copy()
    src_ids[(src_ids > EOS) & (rng.random(src_ids.shape) < 0.4)] = VOCAB
    for source, target in zip(src_ids, tgt_ids, strict=True):
        if (source == VOCAB).any():
            target[(target > EOS) & (rng.random(target.shape) < 0.5)] = VOCAB
    return Batch(src_ids, tgt_ids)


ALIGNING = config_of(dropout=0.25, name="adam", learning_rate=0.01, alignment="monotonic", alignment_order="first")
COVERING = config_of(dropout=0.25, name="adam", learning_rate=0.01, coverage=True, input_feeding=True, coverage_loss=0.7)
COPYING = config_of(dropout=0.25, average_decay=0.9, name="adam", learning_rate=0.01, clip_norm=0.1, copy=True, input_feeding=True)


@pytest.mark.parametrize("config", [FULL, COPYING, ALIGNING, COVERING], ids=["generating", "copying", "monotonic", "coverage"])
def test_the_number_of_devices_changes_nothing(config):
    """With dropout on: were a mask to depend on the device, losses would differ in the second digit."""
    batches = [with_lacking(batch, seed) for seed, batch in enumerate(BATCHES)] if config.model.copy else BATCHES
    assert (batches[0].tgt_ids == VOCAB).any() == config.model.copy
    straight = run(config, batches)
    for several in (run(config, batches, 2), run(config, batches, 8, step=lowered(config))):
        for (state, update), (other, done) in zip(straight, several, strict=True):
            assert largest_difference(learned(state), learned(other)) < 1e-5
            assert done.loss.smoothed / done.loss.tokens == pytest.approx(update.loss.smoothed / update.loss.tokens, abs=1e-5)
            assert done.loss.tokens == update.loss.tokens


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_devices_give_the_same_bits(count):
    assert bits(run(FULL, BATCHES, count)) == bits(run(FULL, BATCHES, count))


@pytest.mark.parametrize("kind", ["dropout", "recurrent_dropout", "word_dropout", "zoneout"])
def test_the_place_in_the_data_decides_the_masks(kind):
    config = config_of(**{kind: 0.25})  # nothing else is random
    here, again, there = (run(config, BATCHES[:1], first=first)[0][1].loss for first in (1, 1, 2))
    assert here.smoothed == again.smoothed
    assert abs(here.smoothed - there.smoothed) > 1e-3


def test_without_masks_the_place_in_the_data_changes_nothing():
    without = [run(PLAIN, BATCHES[:1], first=first)[0][1].loss.smoothed for first in (1, 2)]
    assert without[0] == without[1]


KINDS = {
    "attention": FULL,
    "feeding": config_of(input_feeding=True),
    "fixed vector": config_of(attention="none"),
    "copying": COPYING,
    "monotonic": ALIGNING,
    "coverage": COVERING,
    "accumulation": SUMMED,
    "chunks": config_of(dropout=0.125),
}


@pytest.mark.parametrize(("kind", "count"), [*((kind, 8) for kind in KINDS), ("attention", 2)])
def test_what_is_sent_between_devices_is_the_gradient_once(kind, count, monkeypatch):
    """And the three sums of the loss; a tied table, a weight used at every step, is sent like any other."""
    config = KINDS[kind]
    if kind == "chunks":  # of two tokens: the softmax is a loop
        monkeypatch.setattr(loss_module, "_CHUNK_LOGITS", 2 * VOCAB)
    text = lowered(config, count).gradients.as_text()
    assert inside_loops(computations(text))  # the text was understood: the LSTM is a loop
    sent = collectives(text)
    assert {(one.kind, one.inside_loop, *one.types) for one in sent} == {("all-reduce", False, "f32")}
    params = abstract_state(config, (VOCAB, VOCAB), make_optimizer(config.optimizer), make_devices(8, {})).params
    assert sum(one.bytes for one in sent) == 4 * count_parameters(params) + 4 * 3


def test_a_sum_inside_a_loop_would_be_seen():
    devices = make_devices(8, {})

    @partial(jax.shard_map, mesh=devices.mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(), check_vma=False)
    def looped(rows):
        return lax.fori_loop(0, 5, lambda _, total: total + lax.psum(rows.sum(axis=0) * total, AXIS), jnp.ones(3))

    text = jax.jit(looped).lower(jax.ShapeDtypeStruct((8, 3), jnp.float32)).compile().as_text()
    assert {one.inside_loop for one in collectives(text)} == {True}


def test_whole_graphs_want_a_gpu():
    config = dataclasses.replace(PLAIN, training=TrainingConfig(whole_graphs=True))
    with pytest.raises(UserError, match=r"training\.whole_graphs=True needs NVIDIA GPUs, got cpu; use training\.whole_graphs=False"):
        step_of(config, 1)


def test_each_shape_is_compiled_once():
    wide = Batch(*(np.concatenate(sides) for sides in zip(*BATCHES[:2], strict=True)))
    run(PLAIN, [*BATCHES, wide, BATCHES[0], wide])
    step = step_of(PLAIN, 1)[0]
    assert (step.gradients._cache_size(), step.update._cache_size()) == (2, 1)


# The state


def test_the_old_state_is_given_to_the_new_one():
    step, devices = step_of(PLAIN, 1)
    state = feed_all(devices, first_state(PLAIN))
    new, _ = step(state, feed_rows(devices, BATCHES[0]), feed_all(devices, np.array([0, 1], np.int32)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_step_and_position_are_recorded():
    seen = [state for state, _ in run(FULL, BATCHES[:3], first=5)]
    assert [int(state.step) for state in seen] == [1, 2, 3]
    assert [state.position.tolist() for state in seen] == [[0, 5], [0, 6], [0, 7]]
    assert {int(state.skipped) for state in seen} == {0}
    assert all(np.array_equal(state.key, first_state(FULL).key) for state in seen)


def test_the_average_follows_the_parameters():
    average = jax.tree.map(np.float64, first_state(FULL).params)
    for count, (state, _) in enumerate(run(FULL, BATCHES)):
        decay = min(0.9, (1 + count) / (10 + count))
        average = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, average, state.params)
        assert largest_difference(state.average, average) < 1e-6
    assert largest_difference(state.average, state.params) > 1e-3


def poison(state, **entries):
    """The state with the first entries of a parameter set."""
    params = jax.tree.map(np.copy, state.params)
    for name, values in entries.items():
        params[name][: len(values)] = values
    return state._replace(params=params)


@pytest.mark.parametrize("bias", [[np.nan], [np.inf], [-np.inf] * VOCAB, [3e38, -3e38] * 5], ids=["nan", "inf", "all -inf", "an overflow"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(bias):
    (before, _), (sound, _) = run(FULL, BATCHES[:2])
    poisoned = poison(before, output_bias=bias)
    (one, update), (two, _) = run(FULL, BATCHES[1:3], state=poisoned, first=2)
    assert not np.isfinite(update.loss.smoothed)
    assert (int(one.skipped), int(update.skipped), int(two.skipped)) == (1, 1, 2)
    assert bits(one.params) == bits(two.params) == bits(poisoned.params)
    assert bits(one.optimizer) == bits(two.optimizer) == bits(before.optimizer)
    assert (int(one.step), one.position.tolist()) == (int(before.step) + 1, [0, 2])
    assert bits(one.average) == bits(two.average) == bits(before.average)
    healed = one._replace(params=before.params)
    ((after, _),) = run(FULL, BATCHES[1:2], state=healed, first=2)
    assert (int(after.skipped), int(after.bad_in_a_row)) == (1, 0)
    assert bits(learned(after)) == bits(learned(sound))


USUAL = 3  # updates, in the tests
SPIKED = dataclasses.replace(FULL, optimizer=dataclasses.replace(FULL.optimizer, spike_factor=3.0))


@functools.cache
def planted_step(config, count):
    """The step that goes wrong where a batch is marked."""
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        patch.setattr(step_module, "_USUAL_UPDATES", USUAL)
        step_of.cache_clear()
        made = lowered.__wrapped__(config, count)
        step_of.cache_clear()
        return made


def run_planted(config, count, batches, state=None):
    """`batches`: position in the data -> batch."""
    states = []
    for number, batch in batches.items():
        ((state, update),) = run(config, [batch], count, state, number, planted_step(config, count))
        states.append((state, update))
    return states


def unseen(state):
    """A state without what tells that batches were skipped."""
    return bits(state._replace(**dict.fromkeys(("step", "position", "skipped", "bad_in_a_row"), np.int32(0))))


def test_training_is_as_if_bad_batches_had_never_been():
    """Any of the last nine of twelve: parameters, optimizer, average, usual loss, bit for bit; and those alone are counted."""
    rng = np.random.default_rng()
    batches = {number: make_rows(ROWS, int(rng.integers(1 << 31))) for number in range(1, 13)}
    bad = {int(number): str(rng.choice(list(MARKS))) for number in rng.choice(np.arange(4, 13), rng.integers(1, 9), replace=False)}
    marked = {number: mark(batch, bad[number]) if number in bad else batch for number, batch in batches.items()}
    seen = run_planted(SPIKED, 2, marked)
    clean = run_planted(SPIKED, 2, {number: batch for number, batch in batches.items() if number not in bad})
    ended, without = seen[-1][0], clean[-1][0]
    assert (int(ended.step), int(ended.skipped), int(without.skipped)) == (12, len(bad), 0), bad
    assert unseen(ended) == unseen(without), bad
    row, usual, good = 0, 0.0, 0
    for number, (state, update) in enumerate(seen, 1):
        kind = bad.get(number, "none")
        row = row + 1 if number in bad else 0
        assert int(state.bad_in_a_row) == int(update.bad_in_a_row) == row
        finite = [np.isfinite(value) for value in (update.loss.smoothed, update.gradient_norm)]
        assert finite == [kind != "loss", kind not in ("loss", "gradient")]
        assert float(update.usual_loss) == pytest.approx(usual, rel=1e-5)
        if kind == "none":
            good += 1
            usual += (float(update.loss.plain / update.loss.tokens) - usual) / min(good, USUAL)


def test_a_bad_batch_spoils_its_update_of_several():
    """And no other: the sums begin anew."""
    batches = {number: make_rows(ROWS, number) for number in range(1, 7)}
    for bad in (3, 4):
        seen = run_planted(SUMMED, 1, {number: mark(batch) if number == bad else batch for number, batch in batches.items()})
        clean = run_planted(SUMMED, 1, {number: batch for number, batch in batches.items() if number not in (3, 4)})
        assert [int(state.skipped) for state, _ in seen] == [0, 0, 0, 1, 1, 1]
        assert unseen(seen[-1][0]) == unseen(clean[-1][0])


@pytest.mark.parametrize(("updates", "times", "skipped"), [(USUAL - 1, 3.1, 0), (USUAL, 3.1, 1), (USUAL, 2.9, 0)])
def test_a_spike_is_one_only_after_enough_updates_and_beyond_the_factor(updates, times, skipped):
    batch = {1: BATCHES[0]}
    loss = run_planted(SPIKED, 2, batch)[0][1].loss
    usual = np.float32(loss.plain / loss.tokens / times)
    state = first_state(SPIKED)._replace(step=np.int32(updates + 7), skipped=np.int32(7), usual_loss=usual)
    ((after, _),) = run_planted(SPIKED, 2, batch, state)
    assert int(after.skipped) - 7 == skipped


def test_without_the_option_no_finite_loss_is_skipped():
    state = first_state(FULL)._replace(step=np.int32(1000), usual_loss=np.float32(1e-3))
    ((after, _),) = run(FULL, BATCHES[:1], state=state)
    assert int(after.skipped) == 0


def test_the_norms_of_the_modules_make_up_the_norm():
    params, ((state, update),) = first_state(PLAIN).params, run(PLAIN, BATCHES[:1])
    names = module_names(params)
    assert names == [
        "decoder/attention",
        "decoder",
        "decoder/layers/0",
        "encoder/layers/0/0",
        "encoder/layers/0/1",
        "output_bias",
        "target_table",
    ]
    moved = jax.tree.map(lambda old, new: float(np.sum(np.square(np.float64(old) - new))), params, state.params)  # SGD at rate 1
    found = dict(zip(names, update.norms, strict=True))
    parts = {
        "decoder/attention": moved["decoder"]["attention"],
        "decoder": moved["decoder"]["kernel_readout"],
        "encoder/layers/0/1": moved["encoder"]["layers"]["0"]["1"],
        "target_table": moved["target_table"],
    }
    for name, part in parts.items():  # 1e-6: each parameter is rounded to about 3e-8
        assert found[name] == pytest.approx(sum(jax.tree.leaves(part)) ** 0.5, rel=1e-4, abs=1e-6)
    assert update.gradient_norm == pytest.approx(float(np.sqrt(np.sum(np.square(update.norms)))), rel=1e-6)


# The gradient and the loss


@functools.cache
def probe():
    """Jitted: parameters and a batch -> loss, and the logits of all positions."""
    model = make_model(PLAIN.model, VOCAB, VOCAB)

    def probe(params, batch):
        bound = model.bind(params)
        table, bias = bound.output()
        readouts = bound(batch[0], shift_right(batch[1]))
        return batch_loss(model, params, batch, PLAIN.optimizer.label_smoothing), readouts @ table.T + bias[None, None, :]

    return jax.jit(probe)


def test_the_decoder_reads_what_stands_before():
    ids = jnp.array([[7, 8, EOS, PAD], [9, 9, 9, EOS]])
    assert shift_right(ids).tolist() == [[BOS, 7, 8, EOS], [BOS, 9, 9, 9]]


def test_the_loss_is_label_smoothed_over_real_tokens():
    params, batch = jax.tree.map(lambda leaf: 3 * leaf, first_state(PLAIN).params), BATCHES[0]  # away from uniform
    logits = np.float64(probe()(params, tuple(batch))[1])
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    real = batch.tgt_ids != PAD
    right = np.take_along_axis(logp, batch.tgt_ids[:, :, None], axis=2)[:, :, 0]
    plain, smoothed = -right[real].sum(), -(0.9 * right + 0.1 * logp.mean(-1))[real].sum()
    loss = run(PLAIN, [batch], state=first_state(PLAIN)._replace(params=params))[0][1].loss
    assert (loss.smoothed, loss.plain, loss.tokens) == pytest.approx((smoothed, plain, real.sum()), rel=1e-6)
    assert abs(smoothed - plain) > 1e-2
    for count in (1, 8):
        devices = make_devices(count, {})
        loss = make_eval_step(make_model(FULL.model, VOCAB, VOCAB), devices)(feed_all(devices, params), feed_rows(devices, batch))
        assert (loss.smoothed, loss.plain, loss.tokens) == pytest.approx((plain, plain, real.sum()), rel=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    """Central differences over 0.02 in float32: rounding and curvature stay below 1e-3 of the gradient's norm."""
    params, batch = first_state(PLAIN).params, tuple(BATCHES[0])
    (after, update) = run(PLAIN, BATCHES[:1])[0]
    leaves, structure = jax.tree.flatten(params)
    gradient = np.concatenate([(old - new).ravel() for old, new in zip(leaves, jax.tree.leaves(after.params), strict=True)])
    norm = np.linalg.norm(gradient)
    assert update.gradient_norm == pytest.approx(norm, rel=1e-5)
    rng = np.random.default_rng(0)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def loss_at(offset):
        parts = np.split(np.float32(offset), ends)
        moved = [leaf + part.reshape(leaf.shape) for leaf, part in zip(leaves, parts, strict=True)]
        loss = probe()(jax.tree.unflatten(structure, moved), batch)[0]
        return float(loss.smoothed) / float(loss.tokens)

    directions = [gradient, *(rng.normal(size=gradient.size) for _ in range(4))]
    for leaf, start in zip(leaves, [0, *ends], strict=True):  # and each parameter by itself
        directions.append(np.zeros(gradient.size))
        directions[-1][start : start + leaf.size] = gradient[start : start + leaf.size]
    for direction in directions:
        unit = direction / np.linalg.norm(direction)
        slope = (loss_at(0.01 * unit) - loss_at(-0.01 * unit)) / 0.02
        assert slope == pytest.approx(gradient @ unit, abs=1e-3 * float(norm))


def test_filler_rows_change_no_update():
    filled = Batch(*(np.concatenate([side, np.full_like(side, PAD)]) for side in BATCHES[0]))
    (state, update), (other, done) = run(PLAIN, BATCHES[:1])[0], run(PLAIN, [filled])[0]
    assert largest_difference(state.params, other.params) < 1e-6
    assert done.loss.tokens == update.loss.tokens
    assert done.loss.smoothed == pytest.approx(update.loss.smoothed, rel=1e-6)


def test_a_batch_of_nothing_moves_nothing():
    empty = Batch(*(np.zeros_like(side) for side in BATCHES[0]))
    ((state, update),) = run(PLAIN, [empty])
    assert bits(state.params) == bits(first_state(PLAIN).params)
    assert (update.loss.tokens, update.gradient_norm, state.skipped) == (0, 0, 0)


def test_rate_and_norm_are_reported_the_norm_before_clipping():
    ((_, update),) = run(FULL, BATCHES[:1])
    assert update.learning_rate == pytest.approx(0.01, rel=1e-6)
    assert update.gradient_norm > 2 * FULL.optimizer.clip_norm


# Accumulation


def test_two_batches_accumulated_are_one_step_on_their_union():
    union = Batch(*(np.concatenate(sides) for sides in zip(*BATCHES[:2], strict=True)))
    ((expected, update),) = run(PLAIN, [union])
    (half, waiting), (state, done) = run(SUMMED, BATCHES[:2])
    assert bits(half.params) == bits(first_state(SUMMED).params)
    assert (int(half.step), int(state.step), int(half.accumulated.batches), int(state.accumulated.batches)) == (0, 1, 1, 0)
    assert half.position.tolist() == [0, 1]
    assert waiting.loss.smoothed == run(PLAIN, BATCHES[:1])[0][1].loss.smoothed
    assert largest_difference(state.params, expected.params) < 1e-6
    assert done.loss.tokens == update.loss.tokens
    assert done.loss.smoothed == pytest.approx(update.loss.smoothed, rel=1e-6)
    assert done.gradient_norm == pytest.approx(update.gradient_norm, rel=1e-5)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.accumulated))


def test_a_sum_is_not_used_twice():
    """The third and fourth batch make the update that they would make alone."""
    straight = run(SUMMED, BATCHES)[3][0]
    later = run(SUMMED, BATCHES[2:], state=run(SUMMED, BATCHES[:2])[1][0], first=3)[1][0]
    assert bits(later) == bits(straight)
    ((union, _),) = run(PLAIN, [Batch(*(np.concatenate(sides) for sides in zip(*BATCHES[2:], strict=True)))], state=plain_of(BATCHES[:2]))
    assert largest_difference(straight.params, union.params) < 1e-6


def plain_of(batches):
    """The state of PLAIN after one step on the union of the batches."""
    return run(PLAIN, [Batch(*(np.concatenate(sides) for sides in zip(*batches, strict=True)))])[0][0]
