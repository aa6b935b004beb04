"""Coverage: attention that knows where it has looked, and a loss on looking there again; the literal model has the equations of See et al. 2017."""

import itertools
from dataclasses import replace
from functools import cache, partial

import jax
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
from flax_s2s.decoding.translate import Translator
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel
from flax_s2s.training.step import batch_loss

VOCAB, SRC, TGT, WEIGHT = 7, 5, 4, 0.7
SMALL = ModelConfig(embedding_size=3, hidden_size=2, coverage=True, input_feeding=True, compute="float32")
CONFIGS = {
    "general": replace(SMALL, bridge="dense"),
    "dot, gru": replace(SMALL, attention="dot", cell="gru"),
    "additive, tied, deep": replace(SMALL, attention="additive", attention_size=3, tie="all", decoder_layers=2, bridge="dense"),
    "additive, recompute": replace(SMALL, attention="additive", recompute=True),
    "general, copying": replace(SMALL, copy=True),
}


def draw_ids(seed):
    rng = np.random.default_rng(seed)
    sides = [[np.array([*rng.integers(UNK, VOCAB, rng.integers(0, most)), EOS]) for _ in range(4)] for most in (SRC, TGT)]
    sides[0][0], sides[1][0] = (np.array([], np.int32),) * 2  # a filler row
    return tuple(pad(side, len(side), most) for side, most in zip(sides, (SRC, TGT), strict=True))


@cache
def draw_params(config, seed=1, vocab=VOCAB):
    shapes = jax.eval_shape(lambda: init_params(config, vocab, vocab, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(-1.2, 1.2, leaf.shape).astype(np.float32), shapes)


def literal_loss(config, params, batch):
    """What is minimized, and the negative log-likelihood."""
    if config.copy:
        smoothed, plain, _ = reference.copying_loss(config, params, *batch, 0.1)
    else:
        output = params["output_table" if config.tie == "none" else "target_table"]
        inputs = np.concatenate([np.full((len(batch[1]), 1), BOS), batch[1][:, :-1]], axis=1)
        readouts = reference.seq2seq(config, params, batch[0][1:], inputs[1:])
        smoothed, plain, _ = reference.cross_entropy(readouts, output, params["output_bias"], batch[1][1:], 0.1)
    again = 0.0
    for source, target in zip(*batch, strict=True):
        source, target = source[source != PAD], target[target != PAD]
        if len(target):
            again += reference.looked_again(reference.sentence(config, params, source, np.array([BOS, *target[:-1]]), None)[1]).sum()
    return smoothed + WEIGHT * again, plain


@cache
def compiled(config, weight=WEIGHT):
    @jax.jit
    def run(params, batch):
        found = partial(batch_loss, make_model(config, VOCAB, VOCAB), batch=batch, smoothing=0.1, coverage=weight)
        return jax.grad(lambda params: found(params).smoothed)(params), found(params)

    return run


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_the_literal_model(name, seed):
    params, batch = draw_params(CONFIGS[name]), draw_ids(seed)
    found = compiled(CONFIGS[name])(params, batch)[1]
    want = literal_loss(CONFIGS[name], reference.wide(params), batch)
    np.testing.assert_allclose([found.smoothed, found.plain], want, rtol=1e-5)
    assert found.smoothed > compiled(CONFIGS[name], 0.0)(params, batch)[1].smoothed


@pytest.mark.parametrize("name", CONFIGS)
def test_all_gradients_are_finite_differences_of_the_literal_model(name):
    params, batch = draw_params(CONFIGS[name]), draw_ids(5)
    found = compiled(CONFIGS[name])(params, batch)[0]
    reference.assert_gradients(lambda tree: literal_loss(CONFIGS[name], tree, batch)[0], params, found, 3e-5)


# Search and score ---------------------------------------------------------------------------------------------------

PAIRS = [Pair("bad cab", "dab"), Pair("ace", "face"), Pair("fed", "deaf cab")]
DECODING = DecodingConfig(beam_size=4, compute="float32", rows=4, max_length_ratio=1.0, max_length_extra=3)
LINES = ["bad", "face fed", "cab", "d", "dead cab ace"]


@cache
def vocabularies(copy=False):
    return vocab_training.train(PAIRS, VocabConfig(kind="char", size=0, joint=True), copy=copy)


def translate(config, lines, devices=1, **settings):
    words = vocabularies(config.copy)
    made = Translator([make_model(config, *words.sizes)], words, replace(DECODING, **settings), parallel.make_devices(devices, {}))
    return made(made.lay_out([draw_params(config, 3, words.sizes[1])]), [Request(line) for line in lines])


def said(config, line, ids):
    """Literal log-probabilities of what may follow the beginnings of a sequence."""
    params = reference.wide(draw_params(config, 3, vocabularies().sizes[1]))
    source = np.array([*vocabularies().encode_sources([line], [""])[0], EOS])
    readouts, _ = reference.sentence(config, params, source, np.array([BOS, *ids]), None)
    logits = readouts @ params["output_table" if config.tie == "none" else "target_table"].T + params["output_bias"]
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", ["general", "additive, tied, deep"])
def test_a_wide_beam_finds_what_is_best_of_all_sequences(name):
    """Each hypothesis has looked where its own tokens made it look."""
    config, limit = CONFIGS[name], 4
    words = [token for token in range(vocabularies().sizes[1]) if token > UNK]
    line, scores = "bad", {}
    for length in range(limit):
        for ids in itertools.product(words, repeat=length):
            logp = said(config, line, ids) if length == limit - 1 or not length else None
            if logp is not None:
                for end in range(length + 1):
                    kept = (*ids[:end], EOS)
                    if kept not in scores:
                        scores[kept] = sum(logp[t, token] for t, token in enumerate(kept)) / length_penalty(end + 1, 1.0)
    found = translate(config, [line], beam_size=len(words) ** 3, max_length_ratio=0.0, max_length_extra=limit - 1)[0]
    best = max(scores, key=scores.get)
    assert found.ids == best
    assert found.score == pytest.approx(scores[best], rel=1e-4)


@pytest.mark.parametrize("name", ["general", "additive, tied, deep"])
def test_search_and_forced_score_agree_with_the_literal_model(name):
    config = CONFIGS[name]
    model = make_model(config, *vocabularies().sizes)
    scorer = Scorer([model], vocabularies(), DECODING, parallel.make_devices(1, {}))
    weights = scorer.lay_out([draw_params(config, 3, vocabularies().sizes[1])])
    for line, found in zip(LINES, translate(config, LINES), strict=True):
        ids = found.ids[:-1] if found.finished else found.ids
        logp = said(config, line, ids)
        np.testing.assert_allclose(found.token_logp, [logp[t, token] for t, token in enumerate(found.ids)], rtol=1e-3, atol=1e-5)
        forced = scorer(weights, [line], [list(ids)])[0]
        np.testing.assert_allclose(forced.token_logp[: len(found.ids)], found.token_logp, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("copy", [False, True])
def test_scores_do_not_depend_on_how_many_rows_there_are(copy):
    """Of a size at which products with a vector on CPUs do: at rows and hypotheses that are no multiple of what is computed at once."""
    config = ModelConfig(embedding_size=32, hidden_size=32, coverage=True, copy=copy, input_feeding=True, compute="float32")
    how = {"beam_size": 3, "rows": 4, "compute": "float32"}
    want, found = [translate(config, [line], **how)[0] for line in LINES], translate(config, LINES, **how)
    np.testing.assert_array_equal([one.logp for one in found], [one.logp for one in want])


@pytest.mark.parametrize("devices", [1, 8])
def test_neighbors_and_devices_change_nothing(devices):
    config = CONFIGS["general"]
    want, found = [translate(config, [line])[0] for line in LINES], translate(config, LINES, devices)
    assert [(one.text, one.ids) for one in found] == [(one.text, one.ids) for one in want]
    np.testing.assert_array_equal([one.logp for one in found], [one.logp for one in want])
