import dataclasses
import re
from functools import lru_cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_s2s import parallel
from flax_s2s.config import BOS, EOS, PAD, UNK, DecodingConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab
from flax_s2s.data.batching import pad
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.forced import forced_logp
from flax_s2s.decoding.translate import BLANK, Translation, Translator, make_search, most_tokens, padded_length
from flax_s2s.model.seq2seq import init_params, make_model

PAIRS = [
    Pair("a dog runs", "ein Hund rennt"),
    Pair("two cats", "zwei Katzen"),
    Pair("the old man", "der alte Mann"),
    Pair("so it goes", "so geht es"),
    Pair("a big red car", "ein rotes Auto"),
    Pair("not now", "nicht jetzt"),
    Pair("she sings", "sie singt"),
    Pair("cold tea", "kalter Tee"),
    Pair("her dogs", "ihre Hunde"),
    Pair("a girl ran", "ein Kind lief"),
    Pair("old hats", "alte Kappen"),
]
LINES = [pair.source for pair in PAIRS]  # all padded to 16 tokens
SHORT, LONG = ["go", "a dog", "tea"], ["the old man sings now", "a cold dog ran so"]  # to 8 and to 24
MODELS = {
    "attention": ModelConfig(embedding_size=8, hidden_size=12),
    "input feeding": ModelConfig(embedding_size=8, hidden_size=12, decoder_layers=2, input_feeding=True, tie="softmax"),
    "fixed vector": ModelConfig(embedding_size=8, hidden_size=12, attention="none", reverse_source=True),
}
SCALE = 1.5  # of the random parameters: large enough to tell sentences apart
SEEDS = {"attention": 6, "input feeding": 2, "fixed vector": 6}  # some of the translations end before the limit, others do not
DECODING = DecodingConfig(beam_size=3, length_penalty=0.0, rows=8, max_length_ratio=1.0, max_length_extra=4)
each_model = pytest.mark.parametrize("name", MODELS)


@lru_cache
def vocabularies():
    return vocab.train(PAIRS, VocabConfig(kind="char", size=60, joint=False))


@lru_cache
def model(name):
    return make_model(MODELS[name], len(vocabularies().source), len(vocabularies().target))


def draw(config, vocabularies, seed):
    """Random parameters."""
    make = partial(init_params, config, len(vocabularies.source), len(vocabularies.target))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(-SCALE, SCALE, leaf.shape).astype(np.float32), jax.eval_shape(make, jax.random.key(0)))


@lru_cache
def params(name, end=1.0):
    """What must not be generated is tempting."""
    drawn = draw(MODELS[name], vocabularies(), SEEDS[name])
    drawn["output_bias"][[PAD, BOS, UNK, EOS]] = 3.0, 3.0, 3.0, end
    return drawn


@lru_cache
def translator(name, devices=1, **fields):
    config = dataclasses.replace(DECODING, **fields)
    return Translator(model(name), vocabularies(), config, parallel.make_devices(devices, {"decoding.rows": config.rows}))


@lru_cache
def translated(name, **options):
    return translator(name, **options)(params(name), LINES)


def close(found, wanted):
    """The same text, and the same numbers to rounding."""
    assert [t._replace(logp=0, score=0) for t in found] == [t._replace(logp=0, score=0) for t in wanted]
    np.testing.assert_allclose([t.logp for t in found], [t.logp for t in wanted], atol=1e-5, rtol=0)
    np.testing.assert_allclose([t.score for t in found], [t.score for t in wanted], atol=1e-5, rtol=0)


# Lines in, lines out


@each_model
def test_every_line_is_translated_by_itself(name):
    translate, together = translator(name), translated(name)
    assert len({t.text for t in together}) > len(LINES) // 2  # the cases exercise it
    assert {t.finished for t in together} == {True, False}
    for line, found in zip(LINES, together, strict=True):
        assert translate(params(name), [line]) == [found]  # bitwise


@each_model
def test_neighbors_order_and_number_of_lines_change_nothing(name):
    translate, known = translator(name), dict(zip(LINES, translated(name), strict=True))
    rng = np.random.default_rng(1)
    for count in (2, 5, 11, 40):
        lines = [LINES[i] for i in rng.integers(0, len(LINES), count)]
        assert translate(params(name), lines) == [known[line] for line in lines]  # bitwise


def test_lines_of_all_lengths_come_back_in_their_order():
    translate, lines = translator("attention"), [*SHORT, *LONG, *LINES, ""]
    known = dict(zip(lines, translate(params("attention"), lines), strict=True))
    for order in np.random.default_rng(2).permuted(np.tile(np.arange(len(lines)), (5, 1)), axis=1):
        mixed = [lines[i] for i in order]
        assert translate(params("attention"), mixed) == [known[line] for line in mixed]
    assert {line: known[line] for line in LINES} == dict(zip(LINES, translated("attention"), strict=True))


def test_blank_lines_stay_blank_in_their_places():
    translate, known = translator("attention"), dict(zip(LINES, translated("attention"), strict=True))
    lines = ["", LINES[0], "  ", LINES[1], "\t", "\u3000", ""]
    found = translate(params("attention"), lines)
    assert found == [known.get(line, BLANK) for line in lines]
    assert [t.text for t in found if t.tokens == 0] == [""] * 5


def test_no_lines():
    assert translator("attention")(params("attention"), []) == []
    assert translator("attention")(params("attention"), ["", " "]) == [BLANK, BLANK]


def test_batches_are_announced():
    counts = []
    translator("attention")(params("attention"), [*LINES, "", *LINES], on_batch=counts.append)
    assert sum(counts) == 2 * len(LINES)
    assert max(counts) <= DECODING.rows


@given(lengths=st.lists(st.integers(0, 40), max_size=30), rows=st.integers(1, 9))
def test_every_sentence_is_in_one_batch_of_its_own_length(lengths, rows):
    made = Translator(model("attention"), vocabularies(), dataclasses.replace(DECODING, rows=rows), parallel.make_devices(1, {}))
    batches = made._batches({i: [4] * length for i, length in enumerate(lengths)})
    assert sorted(i for lines, _ in batches for i in lines) == list(range(len(lengths)))
    assert all(1 <= len(lines) <= rows for lines, _ in batches)
    assert all(padded_length(lengths[i] + 1) == length for lines, length in batches for i in lines)
    assert [length for _, length in batches] == sorted((length for _, length in batches), reverse=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", {"rows": 1}),
        ("attention", {"rows": 64}),
        ("attention", {"devices": 8}),
        ("input feeding", {"devices": 8}),
        ("fixed vector", {"rows": 64, "devices": 8}),
    ],
    ids=str,
)
def test_batch_size_and_devices_change_nothing(name, options):
    close(translated(name, **options), translated(name))


# Limits


@each_model
def test_a_translation_ends_at_its_limit(name):
    sources = vocabularies().source.encode(LINES)
    found = translator(name)(params(name, end=-30.0), LINES)
    for source, translation in zip(sources, found, strict=True):
        assert not translation.finished
        assert translation.tokens == most_tokens(len(source) + 1, DECODING) == len(source) + 6


def test_the_limit_follows_ratio_and_extra():
    sources = vocabularies().source.encode(LINES)
    ratio = 0.5 - 1e-9  # in float32 it would be 0.5
    found = translator("attention", max_length_ratio=ratio, max_length_extra=1, beam_size=2)(params("attention", end=-30.0), LINES)
    assert [t.tokens for t in found] == [len(source) // 2 + 2 for source in sources]


def test_long_sources_are_cut_and_marked():
    made = translator("attention", max_source_tokens=8)
    found = made(params("attention"), ["a dog", "a dog runs", "a dog says no to tea", "tea"])  # cut after the space
    assert [t.cut_source for t in found] == [False, True, True, False]
    assert [t._replace(cut_source=False) for t in found] == made(params("attention"), ["a dog", "a dog ", "a dog ", "tea"])


@given(st.integers(1, 5000))
def test_padded_length_holds_the_sentence_and_little_more(tokens):
    length = padded_length(tokens)
    assert length >= tokens
    assert length % 8 == 0
    assert length < max(9, 1.5 * tokens + 1) or length - tokens < 256
    assert padded_length(length) == length
    assert padded_length(tokens + 1) >= length


@given(tokens=st.integers(1, 3000), ratio=st.floats(0, 10), extra=st.integers(0, 100))
def test_most_tokens_allows_the_end_mark_and_grows_with_the_source(tokens, ratio, extra):
    config = DecodingConfig(max_length_ratio=ratio, max_length_extra=extra)
    assert 1 <= most_tokens(tokens, config) <= most_tokens(tokens + 1, config)
    assert most_tokens(tokens, config) == np.floor(tokens * ratio) + extra + 1


# What the search returns


@lru_cache
def searched(name, **fields):
    """Sources as ids, some rows without any, and the hypotheses that the translator's search finds for them."""
    src_ids = pad([np.array([*ids, EOS]) for ids in vocabularies().source.encode(LINES[:6])], DECODING.rows, 16)
    translate = translator(name, **fields)
    return src_ids, jax.tree.map(np.asarray, translate._search(params(name), parallel.feed_rows(translate.devices, src_ids)))


@each_model
def test_the_sum_is_what_forced_scoring_gives_the_same_tokens(name):
    src_ids, found = searched(name)
    forced = jax.jit(partial(forced_logp, model(name)))(params(name), src_ids, found.ids[:, 0])
    np.testing.assert_allclose(found.logp[:6, 0], forced[:6], atol=1e-4, rtol=0)
    assert len(set(found.logp[:6, 0].tolist())) == 6


def test_the_score_is_the_sum_over_the_length_penalty():
    for found in translated("attention", length_penalty=0.6):
        assert found.score == pytest.approx(found.logp / ((5 + found.tokens) / 6) ** 0.6, abs=1e-5)
    for found in translated("attention"):
        assert found.score == found.logp


@each_model
def test_a_beam_finds_no_less_than_greedy_search(name):
    greedy, wide = translated(name, beam_size=1), translated(name)
    gains = [w.logp - g.logp for g, w in zip(greedy, wide, strict=True) if g.finished == w.finished]
    assert len(gains) > 3
    assert min(gains) > -1e-5
    assert max(gains) > 0.01


@each_model
@pytest.mark.parametrize("options", [{"beam_size": 1}, {}], ids=str)
def test_special_tokens_are_never_generated(name, options):
    _, found = searched(name, **options)
    real = np.arange(found.ids.shape[2]) < found.length[:, :, None]
    assert real.any()
    assert not np.isin(found.ids[real], [PAD, BOS, UNK]).any()
    assert not found.ids[~real].any()
    assert ((found.ids == EOS).sum(axis=2) == found.finished).all()


@each_model
def test_rows_that_are_no_sentences_stay_empty(name):
    _, found = searched(name)
    assert not found.ids[6:].any()
    assert not found.length[6:].any()
    assert (found.length[:6] > 0).all()
    assert np.isfinite(found.logp).all()


@each_model
def test_the_translation_is_the_decoded_best_hypothesis(name):
    _, found = searched(name)
    texts = vocabularies().target.decode([found.ids[row, 0, : found.length[row, 0]].tolist() for row in range(6)])
    fields = [[part[row, 0].item() for part in (found.logp, found.score, found.length, found.finished)] for row in range(6)]
    assert translated(name)[:6] == [Translation(text, *rest, False) for text, rest in zip(texts, fields, strict=True)]


def test_a_translation_is_one_line():
    bytewise = vocab.train(PAIRS, VocabConfig(kind="char", size=320, byte_fallback=True))
    newline = bytewise.target.pieces(range(len(bytewise.target))).index("<0x0A>")
    drawn = draw(MODELS["attention"], bytewise, 2)
    drawn["output_bias"][newline] = 9.0
    made = Translator(
        make_model(MODELS["attention"], len(bytewise.source), len(bytewise.target)), bytewise, DECODING, parallel.make_devices(1, {})
    )
    found = made(drawn, ["dogs", "no"])
    for translation in found:
        assert translation.tokens > 4
        assert "\n" not in translation.text
        assert translation.text.count(" ") > 4  # each break became a space


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_vocabulary_is_never_sorted(devices, beam_size):
    """XLA sorts what it does not know as a top-k: over a hundred times slower."""
    config, size = ModelConfig(embedding_size=4, hidden_size=4, attention="none"), 1000
    search = make_search(make_model(config, size, size), DecodingConfig(beam_size=beam_size, rows=8), parallel.make_devices(devices, {}))
    abstract = jax.eval_shape(lambda: init_params(config, size, size, jax.random.key(0)))
    compiled = search.lower(abstract, jax.ShapeDtypeStruct((8, 8), np.int32)).compile().as_text()
    sorts = re.findall(r"f32\[([\d,]+)\]\S* sort\(|\(f32\[([\d,]+)\][^=]* sort\(", compiled)
    assert "TopK" in compiled
    assert all(int(shape.split(",")[-1]) < size for shape in map("".join, sorts))
