from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_s2s.config import BOS, EOS, PAD, DecodingConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.batching import pad
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.forced import Scorer, forced_logp, make_forced
from flax_s2s.decoding.stream import Weights, make_lay_out
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel

MODELS = {
    "attention": ModelConfig(embedding_size=8, hidden_size=12),
    "input feeding": ModelConfig(embedding_size=8, hidden_size=12, decoder_layers=2, input_feeding=True, attention="additive", tie="all"),
    "fixed vector": ModelConfig(embedding_size=8, hidden_size=12, attention="none", reverse_source=True, tie="softmax"),
    "gru": ModelConfig(embedding_size=8, hidden_size=12, cell="gru", input_feeding=True),
    "layer norm": ModelConfig(embedding_size=8, hidden_size=12, cell="layer_norm_lstm", zoneout=0.1),
}
each_model = pytest.mark.parametrize("name", MODELS)
VOCAB, ROWS, SRC, TGT = 13, 8, 6, 7
PAIRS = [
    Pair("a dog runs", "ein Hund rennt"),
    Pair("two cats", "zwei Katzen"),
    Pair("go", "los"),
    Pair("the old man", "der alte Mann"),
    Pair("a cat", "Katze"),
    Pair("a dog", "Hund"),
    Pair("no", "nein"),
    Pair("old cats", "alte Katzen"),
    Pair("so", "so"),
]  # of two shapes


@lru_cache
def params(name, source_vocab=VOCAB, target_vocab=VOCAB):
    make = partial(init_params, MODELS[name], source_vocab, target_vocab)
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(np.float32), jax.eval_shape(make, jax.random.key(0)))


def forced(name):
    return lambda src_ids, tgt_ids: np.asarray(compute(name)(params(name), src_ids, tgt_ids)[0])


@lru_cache
def compute(name):
    """The tokens' log-probabilities, and the readouts and the softmax layer that they are made from."""

    @jax.jit
    def run(params, src_ids, tgt_ids):
        model = make_model(MODELS[name], VOCAB, VOCAB)
        bound = model.bind(params)
        inputs = jnp.concatenate([jnp.full((len(tgt_ids), 1), BOS), tgt_ids[:, :-1]], axis=1)
        return forced_logp(model, Weights(params, bound.lay_out()), src_ids, tgt_ids), bound(src_ids, inputs), *bound.output()

    return run


def draw_ids(seed, longest):
    """Random sequences of any length up to the longest, each with its end mark."""
    rng = np.random.default_rng(seed)
    return [np.array([*rng.integers(EOS + 1, VOCAB, length), EOS]) for length in rng.integers(0, longest, ROWS)]


@each_model
def test_equals_the_literal_softmax(name):
    sources, targets = draw_ids(1, SRC), draw_ids(2, TGT)
    found, *parts = compute(name)(params(name), pad(sources, ROWS, SRC), pad(targets, ROWS, TGT))
    readouts, table, bias = (np.asarray(part, np.float64) for part in parts)
    wanted = np.zeros((ROWS, TGT))
    for row, target in enumerate(targets):
        for position, token in enumerate(target):
            logits = table @ readouts[row, position] + bias
            wanted[row, position] = logits[token] - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


@each_model
def test_one_token_more_is_less_likely(name):
    sources, targets = draw_ids(1, SRC), draw_ids(2, TGT - 2)
    longer = [np.array([*target, 5]) for target in targets]
    score = forced(name)
    shorter = score(pad(sources, ROWS, SRC), pad(targets, ROWS, TGT))
    more = score(pad(sources, ROWS, SRC), pad(longer, ROWS, TGT))
    for row, target in enumerate(targets):
        np.testing.assert_array_equal(more[row, : len(target)], shorter[row, : len(target)])
        assert (more[row, : len(target) + 1] < 0).all() and not more[row, len(target) + 1 :].any()


@each_model
def test_order_of_rows_and_padding_change_nothing(name):
    sources, targets, order = draw_ids(4, SRC), draw_ids(5, TGT), np.random.default_rng(6).permutation(ROWS)
    src_ids, tgt_ids = pad(sources, ROWS, SRC), pad(targets, ROWS, TGT)
    found = forced(name)(src_ids, tgt_ids)
    np.testing.assert_array_equal(forced(name)(src_ids[order], tgt_ids[order]), found[order])
    wider = forced(name)(pad(sources, ROWS, SRC + 3), pad(targets, ROWS, TGT + 4))
    np.testing.assert_allclose(wider[:, :TGT], found, atol=1e-5, rtol=0)
    real = np.arange(ROWS)[:, None] < 3
    some = forced(name)(np.where(real, src_ids, PAD).astype(np.int32), np.where(real, tgt_ids, PAD).astype(np.int32))
    np.testing.assert_array_equal(some[:3], found[:3])
    assert not some[3:].any()


@pytest.mark.parametrize("mean", ["probabilities", "log-probabilities"])
def test_several_models_score_as_their_mean(mean):
    devices = parallel.make_devices(1, {"decoding.rows": ROWS})
    sources, targets = pad(draw_ids(7, SRC), ROWS, SRC), pad(draw_ids(8, TGT), ROWS, TGT)
    names = list(MODELS)
    models = tuple(make_model(MODELS[name], VOCAB, VOCAB) for name in names)
    together, weights = make_forced(models, mean, devices), make_lay_out(models)([params(name) for name in names])
    found = np.asarray(together(weights, *parallel.feed_rows(devices, (sources, targets))))
    each = np.stack([forced(name)(sources, targets) for name in names]).astype(np.float64)
    wanted = each.mean(axis=0) if mean == "log-probabilities" else np.log(np.exp(each).mean(axis=0))
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


# Lines


VOCABULARIES = vocab_training.train(PAIRS, VocabConfig(kind="char", size=60, joint=False))
TARGETS = VOCABULARIES.target.encode([pair.target for pair in PAIRS])


@lru_cache
def scorer(rows, devices, **settings):
    sizes = len(VOCABULARIES.source), len(VOCABULARIES.target)
    config = DecodingConfig(rows=rows, **settings)
    made = Scorer([make_model(MODELS["attention"], *sizes)], VOCABULARIES, config, parallel.make_devices(devices, {"decoding.rows": rows}))
    return partial(made, made.lay_out([params("attention", *sizes)]))


@lru_cache
def scored():
    return scorer(8, 1)([pair.source for pair in PAIRS], TARGETS)


def test_every_pair_is_scored_by_itself_and_the_order_restored():
    found = scored()
    assert len({one.logp for one in found}) == len(PAIRS)
    for pair, target, one in zip(PAIRS, TARGETS, found, strict=True):
        assert scorer(8, 1)([pair.source], [target]) == [one]  # bitwise
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(PAIRS)), 4)).tolist()
    again = scorer(8, 1)([PAIRS[i].source for i in order], [TARGETS[i] for i in order])
    assert again == [found[i] for i in order]


def test_tokens_are_those_of_the_target_and_the_end_mark():
    assert [one.ids for one in scored()] == [(*target, EOS) for target in TARGETS]
    assert [one.tokens for one in scored()] == [len(pair.target) + 2 for pair in PAIRS]  # and the space SentencePiece begins with
    for one in scored():
        assert len(one.token_logp) == one.tokens
        assert one.logp == pytest.approx(sum(one.token_logp), abs=1e-12)


def test_the_score_is_the_sum_over_the_length_penalty():
    found = scorer(8, 1, length_penalty=0.7)([pair.source for pair in PAIRS], TARGETS)
    for one, plain in zip(found, scored(), strict=True):
        assert one == plain._replace(score=plain.logp / ((5 + plain.tokens) / 6) ** 0.7)


def test_a_long_source_is_cut_as_for_decoding():
    (found,) = scorer(8, 1, max_source_tokens=5)(["a dog runs"], TARGETS[:1])
    (short,) = scorer(8, 1)(["a do"], TARGETS[:1])  # the space, and 4 letters: one too many
    assert found.cut_source and not short.cut_source
    assert found.token_logp == scorer(8, 1)(["a d"], TARGETS[:1])[0].token_logp


def test_an_empty_target_is_the_end_mark_alone():
    (empty,) = scorer(8, 1)(["go"], [[]])
    assert empty.tokens == 1
    assert empty.logp < 0


def test_no_pairs():
    assert scorer(8, 1)([], []) == []


@pytest.mark.parametrize(("rows", "devices"), [(3, 1), (8, 8)])
def test_batch_size_and_devices_change_nothing(rows, devices):
    chosen = [i for i, pair in enumerate(PAIRS) if len(pair.source) > 6]  # those of the longer shape
    found = scorer(rows, devices)([PAIRS[i].source for i in chosen], [TARGETS[i] for i in chosen])
    wanted = [scored()[i] for i in chosen]
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    np.testing.assert_allclose([one.logp for one in found], [one.logp for one in wanted], atol=1e-5, rtol=0)
