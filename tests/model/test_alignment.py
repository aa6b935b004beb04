"""Hard attention: against every alignment there is, with all gradients; and what a search and a forced score make of it."""

import itertools
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from flax_s2s.config import BOS, EOS, PAD, UNK, DecodingConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.batching import pad
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.beam import length_penalty
from flax_s2s.decoding.forced import Scorer
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.shortlist import Shortlist
from flax_s2s.decoding.stream import make_lay_out, make_logp_fn, start_carry
from flax_s2s.decoding.translate import Translator
from flax_s2s.model.alignment import REACH
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel
from flax_s2s.training.step import batch_loss

SMALL = ModelConfig(embedding_size=3, hidden_size=2, alignment="hard", alignment_order="zeroth", compute="float32", dropout=0.3)
VOCAB, FEATURES, SRC, TGT = 7, 2, 4, 4
CONFIGS = {
    "hard": SMALL,
    "monotonic, additive, tied, deep": replace(SMALL, alignment="monotonic", attention="additive", tie="all", decoder_layers=2),
    "hard, first order, dot": replace(SMALL, alignment_order="first", attention="dot"),
    "monotonic, first order, gru, embeddings": replace(
        SMALL, alignment="monotonic", alignment_order="first", cell="gru", attend_embeddings=True, decoder_layers=3, residual_from=2
    ),
    "hard, features": replace(SMALL, feed_features=True, tie="all"),
    "monotonic, first order, features": replace(
        SMALL, alignment="monotonic", alignment_order="first", feed_features=True, reverse_source=True, bidirectional_layers=0
    ),
}
each_config = pytest.mark.parametrize("name", CONFIGS)


def draw_ids(seed, rows=4, name=""):
    """Of models with features some sources begin with one."""
    rng = np.random.default_rng(seed)
    sides = [[[*rng.integers(UNK, VOCAB, rng.integers(0, most)), EOS] for _ in range(rows)] for most in (SRC, TGT)]
    if "features" in name:
        sides[0] = [[VOCAB + rng.integers(FEATURES), *row][-SRC:] if rng.random() < 0.8 else row for row in sides[0]]
    sides[0][0] = sides[1][0] = []  # a filler row
    return tuple(pad([np.array(row) for row in side], rows, most) for side, most in zip(sides, (SRC, TGT), strict=True))


@cache
def draw_params(name):
    shapes = jax.eval_shape(lambda: init_params(CONFIGS[name], source_size(name), VOCAB, jax.random.key(0)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(-1.5, 1.5, leaf.shape).astype(np.float32), shapes)


def source_size(name):
    return VOCAB + FEATURES * CONFIGS[name].feed_features


def model(name):
    return make_model(CONFIGS[name], source_size(name), VOCAB)


@cache
def gradients_of(name):
    @jax.jit
    def run(params, batch):
        found = partial(batch_loss, model(name), batch=batch, smoothing=0.1)
        return jax.grad(lambda params: found(params).smoothed)(params), found(params)

    return run


@each_config
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_sum_over_every_alignment(name, seed):
    batch = draw_ids(seed, name=name)
    want = reference.alignment_loss(CONFIGS[name], reference.wide(draw_params(name)), *batch, 0.1)
    np.testing.assert_allclose(np.array(gradients_of(name)(draw_params(name), batch)[1]), want, rtol=1e-5)


@pytest.mark.parametrize("name", ["hard, first order, dot", "monotonic, first order, gru, embeddings"])
def test_far_positions_are_told_apart_no_more(name):
    """Sources longer than what is told apart, both ways."""
    rng = np.random.default_rng(4)
    src_ids = np.array([[*rng.integers(UNK, VOCAB, 8), EOS], [*rng.integers(UNK, VOCAB, 6), EOS, PAD, PAD]], np.int32)
    batch = src_ids, np.array([[4, 5, EOS], [6, 4, EOS]], np.int32)
    assert src_ids.shape[1] > REACH + 2
    want = reference.alignment_loss(CONFIGS[name], reference.wide(draw_params(name)), *batch, 0.1)
    np.testing.assert_allclose(np.array(gradients_of(name)(draw_params(name), batch)[1]), want, rtol=1e-5)


@each_config
def test_all_gradients_are_finite_differences_of_it(name):
    batch = draw_ids(5, rows=3, name=name)
    found = gradients_of(name)(draw_params(name), batch)[0]
    reference.assert_gradients(
        lambda params: reference.alignment_loss(CONFIGS[name], params, *batch, 0.1)[0], draw_params(name), found, 3e-5
    )


@each_config
def test_padding_changes_nothing_and_is_finite(name):
    batch = draw_ids(2, name=name)
    want, sums = gradients_of(name)(draw_params(name), batch)
    wider = tuple(np.pad(side, ((0, 2), (0, 3))) for side in batch)
    found, other = gradients_of(name)(draw_params(name), wider)
    np.testing.assert_allclose(np.array(other), np.array(sums), rtol=1e-5)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_bfloat16_is_near_float32_and_dropout_is_drawn_once_a_token():
    name = "monotonic, first order, gru, embeddings"
    batch, narrow = draw_ids(2), make_model(replace(CONFIGS[name], compute="bfloat16"), VOCAB, VOCAB)
    plain, batch = float(gradients_of(name)(draw_params(name), batch)[1].plain), tuple(map(jnp.asarray, batch))
    params = jax.tree.map(jnp.asarray, draw_params(name))
    assert float(batch_loss(narrow, params, batch, 0.1).plain) == pytest.approx(plain, rel=3e-2)
    # What is summed over a long target is summed in float32.
    rng = np.random.default_rng(6)
    long = tuple(jnp.asarray(np.tile([*rng.integers(UNK, VOCAB, length - 1), EOS], (4, 1)), jnp.int32) for length in (6, 60))
    one, other = (
        jax.tree.leaves(jax.grad(lambda params, made=made: batch_loss(made, params, long, 0.1).smoothed)(params))
        for made in (model(name), narrow)
    )
    assert reference.error(np.concatenate(list(map(np.ravel, other))), np.concatenate(list(map(np.ravel, one)))) <= 3e-2
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), len(batch[0])))
    _, aim, keep = jax.jit(lambda params: model(name).bind(params).align(batch[0], batch[1], keys))(params)
    assert keep.shape == aim.state.shape
    assert set(np.unique(np.round(np.asarray(keep), 3))) == {0.0, np.round(np.float32(256 / (256 - round(0.3 * 256))), 3)}
    dropped = batch_loss(model(name), params, batch, 0.1, keys)
    assert abs(float(dropped.plain) - plain) > 1e-2


# Step by step -------------------------------------------------------------------------------------------------------


def literal(name, source, target):
    """Log-probability of each token given those before: the sum over alignments of the beginning with it, over that without it."""
    moves, said = reference.hard_said(CONFIGS[name], reference.wide(draw_params(name)), source, target)
    forward, found = np.eye(len(source))[reference.first_place(CONFIGS[name], draw_params(name), source)], []
    for t, token in enumerate(target):
        forward = forward @ moves[t] * said[t, :, token]
        found.append(np.log(forward.sum()))
        forward /= forward.sum()
    return found


@each_config
def test_step_by_step_is_the_same_sum(name):
    """Two hypotheses of a sentence that read different tokens; all that may follow has a probability of one."""
    src_ids, tgt_ids = draw_ids(3, name=name)
    both = np.stack([tgt_ids, tgt_ids[::-1]], axis=1)

    @jax.jit
    def run(params):
        bound = model(name).bind(params)
        memory = bound.encode(jnp.asarray(src_ids))
        say = make_logp_fn(bound, bound.lay_out(), memory, src_ids)

        def position(carry, now):
            carry, logp, where = say(carry, now)
            return carry, (logp, where)

        inputs = jnp.pad(both[:, :, :-1], ((0, 0), (0, 0), (1, 0)), constant_values=BOS)
        return jax.lax.scan(position, start_carry(bound, memory, 2), inputs.transpose(2, 0, 1))[1]

    logp, where = map(np.asarray, run(draw_params(name)))  # [tgt batch beam ...]
    for row, beam in itertools.product(range(1, len(src_ids)), range(2)):
        source, target = (ids[ids != PAD] for ids in (src_ids[row], both[row, beam]))
        if not len(target):
            continue
        got = [logp[t, row, beam, token] for t, token in enumerate(target)]
        np.testing.assert_allclose(got, literal(name, source, target), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.exp(logp[: len(target), row, beam]).sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_allclose(where[: len(target), row, beam].sum(axis=-1), 1, rtol=1e-5)
        assert not where[: len(target), row, beam, len(source) :].any()


@cache
def vocabularies(name="hard"):
    pairs = [Pair("ab", "b", "X"), Pair("ab", "b", "Y")]
    return vocab_training.train(pairs, VocabConfig(kind="char", size=0, joint=True), bundles="features" in name)


@each_config
def test_a_wide_beam_finds_what_is_best_of_all_sequences(name):
    """And a forced score says the same of it, in a batch of others too."""
    assert vocabularies(name).sizes == (source_size(name), VOCAB)
    limit, words = 3, range(UNK + 1, VOCAB)
    decoding = DecodingConfig(beam_size=len(words) ** 2, compute="float32", rows=2, max_length_ratio=0.0, max_length_extra=limit - 1)
    devices, lines = parallel.make_devices(1, {}), ["a", "ba", "bb"]
    made = Translator([model(name)], vocabularies(name), decoding, devices, attention=True)
    bundles = ["Y", "X", ""] if "features" in name else ["", "", ""]
    found = made(made.lay_out([draw_params(name)]), [Request(line, features=own) for line, own in zip(lines, bundles, strict=True)])
    for line, bundle, one in zip(lines, bundles, found, strict=True):
        source, scores = np.array([*vocabularies(name).encode_sources([line], [bundle])[0], EOS]), {}
        for ids in (ids for length in range(limit) for ids in itertools.product(words, repeat=length)):
            logp = sum(literal(name, source, np.array([*ids, EOS])))
            scores[(*ids, EOS)] = logp / length_penalty(len(ids) + 1, 1.0)
        assert one.ids == max(scores, key=lambda ids: scores[ids])
        assert one.score == pytest.approx(scores[one.ids], rel=1e-4)
        assert one.attention.shape == (len(one.ids), len(source))
        scorer = Scorer([model(name)], vocabularies(name), decoding, devices)
        forced = scorer(scorer.lay_out([draw_params(name)]), [line], [list(one.ids[:-1])], [bundle])[0]
        np.testing.assert_allclose(forced.token_logp, one.token_logp, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_neighbors_and_devices_change_nothing(compute):
    name, found = "monotonic, first order, gru, embeddings", []
    decoding = DecodingConfig(beam_size=3, compute=compute, rows=2)
    lines = ["ab", "ba", "b a", "aab", "bbbb", "a"]
    made = make_model(replace(CONFIGS[name], compute=compute), VOCAB, VOCAB)
    for devices, order in ((1, lines), (8, lines), (1, lines[::-1])):
        translator = Translator([made], vocabularies(), decoding, parallel.make_devices(devices, {}))
        given = dict(zip(order, translator(translator.lay_out([draw_params(name)]), order), strict=True))
        found.append([(given[line].ids, given[line].logp, given[line].token_logp) for line in lines])
    assert found[0] == found[1] == found[2]


def test_what_a_shortlist_does_not_hold_is_never_said():
    """Not where nothing else is left either."""
    name = "hard"
    short = Shortlist(np.zeros((VOCAB, 4), np.int32), np.zeros((VOCAB, 4), np.float32), 16)  # the special tokens alone
    made = Translator(
        [model(name)],
        vocabularies(),
        DecodingConfig(beam_size=2, compute="float32", rows=2, min_tokens=2),
        parallel.make_devices(1, {}),
        shortlist=short,
    )
    (found,) = made(made.lay_out([draw_params(name)]), ["ab"])
    assert (found.text, found.reason) == ("", "impossible")


@pytest.mark.parametrize(
    "settings", [{"groups": 2, "beam_size": 4}, {"temperature": 1.0, "beam_size": 2}, {"coverage_penalty": 0.2}, {"no_repeat_ngram": 1}]
)
def test_every_rule_of_decoding_goes_with_it(settings):
    name = "monotonic, first order, gru, embeddings"
    decoding = DecodingConfig(**{"beam_size": 3, "compute": "float32", "rows": 2, **settings})
    made = Translator([model(name)] * 2, vocabularies(), decoding, parallel.make_devices(1, {}), blocklist=["aa"])
    lines = ["ab", "ba", "b a", "aab"]
    requests = [Request(line, prefix="b" if line == "aab" else "") for line in lines]
    found = made(made.lay_out([draw_params(name)] * 2), requests)
    assert all("aa" not in one.text and np.isfinite(one.logp) for one in found)
    assert found[3].text.startswith("b")
    scorer = Scorer([model(name)], vocabularies(), decoding, parallel.make_devices(1, {}))
    for line, one in zip(lines, found, strict=True):
        forced = scorer(make_lay_out((model(name),))([draw_params(name)]), [line], [list(one.ids[:-1] if one.finished else one.ids)])[0]
        np.testing.assert_allclose(forced.token_logp[: len(one.ids)], one.token_logp[: len(forced.token_logp)], rtol=1e-3, atol=1e-4)
