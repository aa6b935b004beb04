"""What is said of a search agrees with searches that are written as their definition says, and with forced scoring."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_s2s.config import BOS, EOS, PAD, UNK, DecodingConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.forced import Scorer, at_each_place
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.shortlist import Shortlist
from flax_s2s.decoding.trace import Branch, Places, fell_out, trace
from flax_s2s.decoding.translate import Translator
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel

PAIRS = [
    Pair("a dog runs", "ein Hund rennt"),
    Pair("two cats", "zwei Katzen"),
    Pair("the old man goes", "der alte Mann geht"),
    Pair("go", "los"),
]
LINES = [pair.source for pair in PAIRS]
MODELS = {
    "attention": ModelConfig(embedding_size=8, hidden_size=12),
    "input feeding": ModelConfig(embedding_size=8, hidden_size=12, input_feeding=True, attention="additive"),
}
BEAM = 3
DECODING = DecodingConfig(beam_size=BEAM, length_penalty=0.0, rows=2, max_length_ratio=1.0, max_length_extra=4)
NEVER = (PAD, BOS, UNK)


@lru_cache
def vocabularies():
    return vocab_training.train(PAIRS, VocabConfig(kind="char", size=60, joint=False))


@lru_cache
def made(name, short=False, count=1, **fields):
    sizes = vocabularies().sizes
    make = partial(init_params, MODELS[name], *sizes)
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda leaf: rng.uniform(-1.5, 1.5, leaf.shape).astype(np.float32), jax.eval_shape(make, jax.random.key(0)))
    params["output_bias"][EOS] = -1.0
    model, devices = make_model(MODELS[name], *sizes), parallel.make_devices(count, {})
    translator = Translator(
        [model], vocabularies(), dataclasses.replace(DECODING, **fields), devices, shortlist=some_tokens() if short else None
    )
    return translator, translator.lay_out([params]), model, devices


def tokens_of(steps):
    """The tokens of each live hypothesis after each step."""
    found, before = [], [()]
    for step in steps:
        before = [(*before[branch.parent], branch.token) for branch in step]
        found.append(before)
    return found


def literal(name, line, steps):
    """The live hypotheses after each step: the best BEAM extensions that do not end, the likeliest of the likeliest never dropped."""
    _, weights, model, _ = made(name)
    whole = jax.jit(lambda src, tgt: at_each_place((model,), "probabilities", weights, src, tgt, lambda logp, ids: logp))
    src = np.array([[*vocabularies().encode_sources([line], [""])[0], EOS]] * 16)  # of fewer rows a product may round otherwise
    live, greedy, found = {(): 0.0}, (), []
    for place in range(steps):
        extensions, following = {}, {}
        for ids, total in live.items():
            padded = np.full((16, steps + 1), PAD, np.int32)
            padded[:, :place] = ids
            logp = np.asarray(whole(src, padded))[0, place]
            following[ids] = logp
            extensions |= {(*ids, token): total + float(logp[token]) for token in range(len(logp)) if token not in NEVER}
        ranked = sorted(extensions, key=lambda ids: -extensions[ids])
        kept = [ids for ids in ranked if ids[-1] != EOS][:BEAM]
        if greedy is not None:
            likeliest = max((token for token in range(len(following[greedy])) if token not in NEVER), key=lambda t: following[greedy][t])
            greedy = None if likeliest == EOS else (*greedy, likeliest)
            if greedy is not None and greedy not in kept:
                kept[-1] = greedy
        live = {ids: extensions[ids] for ids in kept}
        found.append(live)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_steps_are_those_of_a_search_by_lists_and_sorting(name):
    translator, weights, *_ = made(name)
    traced = trace(translator, weights, [Request(line) for line in LINES])
    assert sum(map(len, traced)) > 20
    for line, steps in zip(LINES, traced, strict=True):
        for read, step, wanted in zip(tokens_of(steps), steps, literal(name, line, len(steps)), strict=True):
            assert set(read) == set(wanted)
            assert all(abs(branch.logp - wanted[ids]) < 1e-4 for ids, branch in zip(read, step, strict=True))
            assert [branch.logp for branch in step] == sorted((branch.logp for branch in step), reverse=True)


@lru_cache
def some_tokens():
    """A shortlist of odd tokens, so that the search counts them otherwise than the vocabulary."""
    source, target = vocabularies().sizes
    odd = np.arange(5, target, 2)
    return Shortlist(np.tile(odd, (source, 1)), np.ones((source, len(odd)), np.float32), 12)


@pytest.mark.parametrize(("count", "rows"), [(1, 16), (8, 2)])
def test_sentences_of_several_lengths_are_looked_at_from_their_first_step_on(count, rows):
    """They are encoded apart, and all seated before any goes on."""
    translator, weights, _, _ = made("attention", count=count, rows=rows)
    requests = [Request("go" if i % 16 else "the old man goes") for i in range(16)]
    assert len({one.length for one in translator.read(dict(enumerate(requests))).values()}) == 2
    together = trace(translator, weights, requests)
    alone = {request.source: trace(translator, weights, [request])[0] for request in requests[:2]}
    assert together == [alone[request.source] for request in requests]


@pytest.mark.parametrize("short", [False, True])
def test_what_was_found_was_live_until_its_end(short):
    translator, weights, *_ = made("attention", short)
    found = translator(weights, LINES)
    assert max(one.tokens for one in found) > 4  # the cases exercise it
    for one, steps in zip(found, trace(translator, weights, [Request(line) for line in LINES]), strict=True):
        ids = one.ids[:-1] if one.finished else one.ids
        assert fell_out(steps, ids) is None
        assert not ids or tokens_of(steps)[len(ids) - 1].count(ids) == 1


def test_a_prefix_leaves_one_live_hypothesis_and_blank_lines_have_no_steps():
    translator, weights, *_ = made("attention")
    blank, forced = trace(translator, weights, [Request(" "), Request("a dog runs", prefix="ein")])
    assert blank == []
    (prefix,) = vocabularies().encode_targets(["ein"], [()])
    assert [len(step) for step in forced[: len(prefix) + 1]] == [1] * len(prefix) + [BEAM]


def test_where_a_target_falls_out_of_the_beam():
    steps = [(Branch(0, 5, -1.0), Branch(0, 6, -2.0)), (Branch(1, 7, -2.5), Branch(0, 8, -3.0)), (Branch(0, 9, -4.0),)]
    assert fell_out(steps, [6, 7, 9]) is None
    assert fell_out(steps, [5, 8, 9]) == 2
    assert fell_out(steps, [5, 7, 9]) == 1  # 7 goes on with 6 alone
    assert fell_out(steps, [4]) == 0
    assert fell_out(steps, [6, 7, 9, 9]) == 3
    assert fell_out(steps, []) is None


def test_places_say_what_forced_scoring_says():
    _, weights, model, devices = made("attention")
    targets = vocabularies().encode_targets([pair.target for pair in PAIRS], [() for _ in PAIRS])
    scored = Scorer([model], vocabularies(), DECODING, devices)(weights, LINES, targets)
    places = Places([model], vocabularies(), DECODING, devices)(weights, LINES, targets)
    for one, found in zip(scored, places, strict=True):
        assert len(found) == len(one.ids)
        np.testing.assert_allclose([place.probability for place in found], np.exp(one.token_logp), rtol=1e-5)
        for place, token in zip(found, one.ids, strict=True):
            probabilities = [probability for _, probability in place.alternatives]
            assert probabilities == sorted(probabilities, reverse=True)
            known = dict(place.alternatives)
            assert known.get(token, place.probability) == pytest.approx(place.probability, rel=1e-5)
            assert token in known or place.probability <= probabilities[-1]


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_a_temperature_divides_the_logits(temperature):
    _, weights, model, devices = made("attention")
    targets = vocabularies().encode_targets(["ein"], [()])
    src = jnp.array([[*vocabularies().encode_sources(["a dog"], [""])[0], EOS]])
    tgt = jnp.array([[*targets[0], EOS]])
    logp = np.asarray(jax.jit(lambda: at_each_place((model,), "probabilities", weights, src, tgt, lambda logp, ids: logp))(), np.float64)[0]
    wanted = np.exp(logp / temperature) / np.exp(logp / temperature).sum(axis=1, keepdims=True)
    (found,) = Places([model], vocabularies(), DECODING, devices)(weights, ["a dog"], targets, temperature=temperature)
    for place, token, row in zip(found, [*targets[0], EOS], wanted, strict=True):
        assert place.probability == pytest.approx(row[token], rel=1e-4)
        assert [t for t, _ in place.alternatives] == np.argsort(-row, kind="stable")[: len(place.alternatives)].tolist()
