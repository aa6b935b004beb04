"""Symbols that no vocabulary has, said again: by search, by score, under constraints, with a shortlist, by several models."""

import itertools
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
import reference

from flax_s2s.config import BOS, EOS, UNK, DecodingConfig, ModelConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.data.tokens import tokenize
from flax_s2s.decoding import shortlist
from flax_s2s.decoding.beam import length_penalty
from flax_s2s.decoding.forced import Scorer
from flax_s2s.decoding.requests import Request, Requests
from flax_s2s.decoding.translate import Translator
from flax_s2s.evaluation.calibration import Forecaster
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel

CONFIG = ModelConfig(embedding_size=6, hidden_size=8, copy=True, feed_features=True, attention="additive", tie="all", compute="float32")
DECODING = DecodingConfig(beam_size=4, compute="float32", rows=4, max_length_ratio=1.0, max_length_extra=3)
PAIRS = [Pair("bad cab", "dab", "V;PST"), Pair("ace dace", "face", "N"), Pair("fed", "deaf cab", "V")]
LINES = ["bŋd", "aʃe ŋʃŋ", "cab", "日本 dab", "ʘ"]


@cache
def vocabularies():
    return vocab_training.train(PAIRS, VocabConfig(kind="char", size=0, joint=True), bundles=True, copy=True)


@cache
def draw_params(seed, copy_bias=1.0):
    shapes = jax.eval_shape(lambda: init_params(CONFIG, *vocabularies().sizes, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda leaf: rng.uniform(-1.5, 1.5, leaf.shape).astype(np.float32), shapes)
    return drawn | {"copy_bias": np.float32(copy_bias)}


def models(count=1):
    return [make_model(CONFIG, *vocabularies().sizes)] * count


def translate(lines, params=None, requests=None, devices=1, **settings):
    how = {name: settings.pop(name) for name in ("shortlist", "blocklist", "attention") if name in settings}
    given = params or [draw_params(0)]
    decoding = replace(DECODING, **settings)
    made = Translator(models(len(given)), vocabularies(), decoding, parallel.make_devices(devices, {}), **how)
    return made(made.lay_out(given), requests or [Request(line, features="V;PST") for line in lines])


def score(lines, targets, params=None, **settings):
    given = params or [draw_params(0)]
    made = Scorer(models(len(given)), vocabularies(), replace(DECODING, **settings), parallel.make_devices(1, {}))
    return made(made.lay_out(given), lines, targets, ["V;PST"] * len(lines))


def said(line, ids, params=None, features="V;PST"):
    """Literal probabilities of what may follow the beginnings of a sequence."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params or draw_params(0))
    source = np.array([*vocabularies().encode_sources([line], [features])[0], EOS])
    return source, reference.said(CONFIG, wide, source, np.array([BOS, *ids]), len(source))


# Tokens -------------------------------------------------------------------------------------------------------------


def test_tokens_of_both_sides_that_the_vocabulary_lacks_are_one_and_come_back():
    made, (source, target) = vocabularies(), vocabularies().sizes
    lacking = made.find_lacking(["aʃe ŋʃŋ"])[0]
    assert lacking == ("ʃ", "ŋ")
    ids = made.encode_sources(["aʃe ŋʃŋ"], ["V"])[0]
    assert [i - source for i in ids if i >= source] == [0, 1, 0, 1]
    assert made.source_pieces(ids, lacking) == ["V", "▁", "a", "ʃ", "e", "▁", "ŋ", "ʃ", "ŋ"]
    wanted = made.encode_targets(["ŋa ʘʃ"], [lacking])[0]
    assert [i - target if i >= target else i for i in wanted if i == UNK or i >= target] == [1, UNK, 0]
    assert made.target.decode([[i for i in wanted if i != UNK]], [lacking]) == ["ŋa ʃ"]
    assert made.target.pieces(wanted[:3], lacking) == ["▁", "ŋ", "a"]
    assert made.count_unknown(ids) == 4


@pytest.mark.parametrize("kind", ["char", "word", "unigram", "bpe"])
def test_every_line_comes_back_whatever_the_vocabulary_lacks(kind):
    """From its own pieces; neighbors that it lacks are tokens of their own, and no word loses the space before it."""
    lines = ["the old cat runs", "a new dog barks", "dogs run so far away"] * 9
    pairs = [Pair(line, line) for line in lines]
    config = VocabConfig(kind=kind, size=0 if kind in ("char", "word") else 26, joint=True)
    made = vocab_training.train(pairs, config, copy=True)
    odd = ["the ŋʃ dog ŋ", "Foo Bar the", "ŋ", "日本 a 日本", "x ŋ ŋ Foo", "ŋthe catŋ"]
    lacking = made.find_lacking(odd)
    ids = made.encode_targets(odd, lacking)
    assert made.target.decode(ids, lacking) == odd
    assert not any(UNK in row for row in ids)
    assert "ŋ" in "".join(lacking[0])
    assert max(len(texts) for texts in lacking) <= 6
    known = ["the old cat runs", "a new dog"]
    assert made.encode_targets(known, [(), ()]) == made.target.encode(known)
    assert vocab_training.train(pairs, config).sha256 != made.sha256


def test_tokens_of_a_corpus_are_drawn_with_the_same_symbols():
    pairs = [Pair(line, line) for line in ("the old cat runs", "the cats run", "old cats ran there")] * 9
    made = vocab_training.train(pairs, VocabConfig(kind="bpe", size=26, joint=True), copy=True)
    always = made.encode_sources(["the cat ŋ ʃ ŋ"], [""])[0]
    drawn = [made.encode_sources(["the cat ŋ ʃ ŋ"], [""], (0.5, seed))[0] for seed in range(5)]
    beyond = [[i for i in row if i >= made.sizes[0]] for row in (always, *drawn)]
    assert beyond == [[made.sizes[0], made.sizes[0] + 1, made.sizes[0]]] * 6
    assert len({tuple(row) for row in drawn}) > 1


def test_a_corpus_keeps_the_symbols_of_a_pair():
    found = tokenize([Pair("aʃ", "ʃb", "V"), Pair("ŋ", "ʃ", "N")], vocabularies())
    (source, target) = vocabularies().sizes
    assert [int(i) - source for i in found.source.flat if i >= source] == [0, 0]
    assert [int(i) - target if i >= target else UNK for i in found.target.flat if i >= target or i == UNK] == [0, UNK]


# Search and score ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["ŋ", "bŋ", "ʃŋ"])
def test_a_wide_beam_finds_what_is_best_of_all_sequences(line):
    """All of them, by literal probabilities."""
    lacking = len(vocabularies().find_lacking([line])[0])
    vocabulary, limit = vocabularies().sizes[1], 3
    words = [token for token in range(vocabulary + lacking) if token > UNK]
    scores = {}
    for length in range(limit):
        for ids in itertools.product(words, repeat=length):
            found = said(line, ids)[1]
            logp = sum(np.log(found[t, token]) for t, token in enumerate((*ids, EOS)))
            scores[(*ids, EOS)] = logp / length_penalty(length + 1, 1.0), logp
    best = max(scores, key=lambda ids: scores[ids][0])
    found = translate([line], beam_size=len(words) ** 2, max_length_ratio=0.0, max_length_extra=limit - 1)[0]
    assert found.ids == best
    assert found.score == pytest.approx(scores[best][0], rel=1e-4)
    assert found.logp == pytest.approx(scores[best][1], rel=1e-4)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_symbol_that_no_vocabulary_has_is_said_as_itself(beam):
    """Whatever is found has the probability that a forced score and the literal model give it."""
    found = translate(LINES, [draw_params(3, 8.0)], beam_size=beam, attention=True, n_best=min(beam, 2))
    odd = "ŋʃ日本ʘ"
    assert sum(one in translation.text for translation in found for one in odd) >= 4
    assert all("\u2047" not in translation.text for translation in found)
    for line, best in zip(LINES, found, strict=True):
        for one in (best, *best.others):
            assert set(one.text) & set(odd) <= set(line)
            assert one.unknown_source == sum(symbol in odd for symbol in line)
            ids = one.ids[:-1] if one.finished else one.ids
            source, literal = said(line, ids, draw_params(3, 8.0))
            chosen = np.array([literal[t, token] for t, token in enumerate(one.ids)])
            np.testing.assert_allclose(one.token_logp, np.log(chosen), rtol=2e-3, atol=2e-5)
            assert "".join(one.pieces[: len(ids)]).replace("▁", " ").removeprefix(" ") == one.text
            # What is copied is what the same model without copying could not have said.
            never = said(line, ids, draw_params(3, -60.0))[1]
            assert one.attention.shape == (len(one.ids), len(source))
            assert len(one.copied) == len(one.ids)
            for share, token, p in zip(one.copied, one.ids, chosen, strict=True):
                assert -1e-6 <= share <= 1
                assert share == pytest.approx(1.0, abs=1e-3) or token < vocabularies().sizes[1]
                assert p > 0
            assert never[:, vocabularies().sizes[1] :].max() < 1e-20
            if one.finished:
                forced = score([line], [list(ids)], [draw_params(3, 8.0)])[0]
                np.testing.assert_allclose(forced.token_logp, one.token_logp, rtol=1e-3, atol=1e-5)
                assert forced.pieces == one.pieces


@pytest.mark.parametrize("devices", [1, 8])
def test_neighbors_and_devices_change_nothing(devices):
    want = [translate([line])[0] for line in LINES]
    found = translate(LINES, devices=devices)
    assert [(one.text, one.ids) for one in found] == [(one.text, one.ids) for one in want]
    np.testing.assert_array_equal([one.logp for one in found], [one.logp for one in want])


@pytest.mark.parametrize("mean", ["probabilities", "log-probabilities"])
def test_several_models_copy_as_one(mean):
    both = [draw_params(0), draw_params(2, 4.0)]
    found = translate(LINES, both, ensemble=mean, attention=True)
    for line, one in zip(LINES, found, strict=True):
        each = [said(line, one.ids[:-1], params)[1] for params in both]
        if mean == "probabilities":  # of a mean of logs no part is copying's
            never = [said(line, one.ids[:-1], alone | {"copy_bias": np.float32(-60.0)})[1] for alone in both]
            assert all(-1e-6 <= share <= 1 for share in one.copied)
            assert [share > 0.999 for share in one.copied] >= [np.mean(never, axis=0)[t, i] < 1e-9 for t, i in enumerate(one.ids)]
        else:
            assert one.copied is None
        mixed = np.mean(each, axis=0) if mean == "probabilities" else np.exp(np.mean(np.log(np.maximum(each, 1e-300)), axis=0))
        np.testing.assert_allclose(one.token_logp, [np.log(mixed[t, token]) for t, token in enumerate(one.ids)], rtol=2e-3, atol=1e-4)


# Constraints and shortlists -----------------------------------------------------------------------------------------


def test_what_cannot_be_said_is_unlikely_and_no_error():
    """Symbols that were cut off with the rest of a source, of sources shorter than what they lack, and that nothing looks at."""
    lines = ["ab" * 4 + "ŋ", "ŋʃɓɗɲʘǁ", "bŋd"]
    targets = made_targets(lines, ["ŋa", "ŋʃɓɗɲʘǁ", "ŋ"])
    for compute in ("float32", "bfloat16"):
        found = score(lines, targets, [draw_params(3, 40.0)], max_source_tokens=6, compute=compute)
        assert all(np.isfinite(one.token_logp).all() for one in found)
        assert found[0].cut_source
        assert found[0].unknown_target == 1
        assert found[0].pieces[1] == "<unk>"
        assert found[1].unknown_target == 5  # of seven symbols two are read, behind two features and the space
    shut = draw_params(3, -1e4)  # nothing is copied: still it can be begun with
    begun = translate([], [shut], [Request("bŋd", features="V;PST", prefix="ŋ")])[0]
    assert begun.text.startswith("ŋ")
    assert begun.unmet == ()
    assert np.isfinite(begun.logp)


def made_targets(lines, targets):
    return vocabularies().encode_targets(targets, vocabularies().find_lacking(lines))


def test_a_forecast_of_each_token_is_its_forced_score():
    """The numbers that are calibrated; of a source that is cut, too."""
    pairs = [
        Pair(line, target, "V;PST") for line, target in zip([*LINES, "ab" * 4 + "ŋ"], ["ŋb", "ʃŋ e", "abc", "日", "ʘʘ", "ŋa"], strict=True)
    ]
    config = replace(DECODING, max_source_tokens=9)
    forecaster = Forecaster(models(), vocabularies(), config, parallel.make_devices(1, {}))
    found = forecaster([draw_params(6)], pairs, [1.0])
    lines = [pair.source for pair in pairs]
    wanted = score(lines, made_targets(lines, [pair.target for pair in pairs]), [draw_params(6)], max_source_tokens=9)
    assert np.isfinite(found.logp).all()
    every = sorted(logp for one in wanted for logp in one.token_logp)
    np.testing.assert_allclose(sorted(found.logp[:, 0]), every, rtol=1e-3, atol=1e-4)


def test_a_shortlist_is_learned_without_what_no_vocabulary_has():
    """As if it were written as one unknown token."""
    pairs = [Pair("baŋd", "ŋab", "N"), Pair("ceʃŋ", "ʃŋec", "V"), Pair("ab", "ʘb", "V")] * 4
    found = tokenize(pairs, vocabularies())
    source, target = vocabularies().sizes
    unknown = [
        part._replace(flat=np.where(part.flat < size, part.flat, UNK)) for part, size in ((found.source, source), (found.target, target))
    ]
    assert (found.target.flat >= target).any()
    one, other = (shortlist.learn(each, source, target) for each in (found, replace(found, source=unknown[0], target=unknown[1])))
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.probability, other.probability)


@cache
def make_shortlist(size):
    pairs = tokenize(PAIRS * 3, vocabularies())
    return shortlist.learn(pairs, *vocabularies().sizes)._replace(size=size)


def test_a_shortlist_of_all_tokens_changes_nothing():
    want, found = translate(LINES), translate(LINES, shortlist=make_shortlist(16))
    assert len(vocabularies().target) <= 16
    assert [one.ids for one in found] == [one.ids for one in want]
    np.testing.assert_allclose([one.logp for one in found], [one.logp for one in want], rtol=1e-4)


def test_a_shortlist_leaves_nothing_out_that_can_be_copied():
    """However short it is: beside the special tokens, which are always there."""
    requests = Requests(vocabularies(), DECODING, (), make_shortlist(5))
    ready = requests.read({i: Request(line, features="V;DU") for i, line in enumerate(LINES)})
    for place, one in ready.items():
        known = {token for token in one.src if UNK < token < vocabularies().sizes[1]}
        assert known | set(range(UNK + 1)) <= set(one.candidates.tolist()), LINES[place]
        local = np.arange(requests.shape(one).candidates + 2)
        there = requests.tokens(local, one)
        assert there[: len(one.candidates)].tolist() == one.candidates.tolist()
        assert there[-2:].tolist() == [vocabularies().sizes[1], vocabularies().sizes[1] + 1]


@pytest.mark.parametrize("with_shortlist", [False, True])
def test_what_is_asked_for_may_hold_symbols_that_no_vocabulary_has(with_shortlist):
    params, how = [draw_params(3, 3.0)], {"shortlist": make_shortlist(8)} if with_shortlist else {}
    for line in LINES:
        odd = next((one for one in line if one in "ŋʃ日ʘ"), None)
        if odd is None:
            continue
        free, without, blocked, begun, held, impossible = translate(
            [],
            params,
            [
                Request(line, features="V;PST"),
                Request(line, features="V;PST", exclude=(odd,)),
                Request(line, features="V;PST", exclude=(f"{odd}d", odd.upper())),
                Request(line, features="V;PST", prefix=f"{odd}a"),
                Request(line, features="V;PST", include=(f"a{odd}",)),
                Request(line, features="V;PST", prefix="ɓ", include=("ɓa",)),
            ],
            **how,
        )
        assert odd not in without.text
        assert odd.casefold() not in blocked.text.casefold()
        assert begun.text.startswith(f"{odd}a")
        assert f"a{odd}" in held.text
        assert free.unmet == without.unmet == begun.unmet == held.unmet == ()
        assert impossible.unmet == ("ɓ", "ɓa")
    # Neighbors have other symbols of their own in the same places.
    for blocked in (["ŋ"], ["ʃ", "本a"], ["ab", "ŋʃ", "ʘʘ"]):
        for line, one in zip(LINES, translate(LINES, params, blocklist=blocked, **how), strict=True):
            assert not any(phrase in one.text for phrase in blocked)
            assert one.unmet == ()
            assert one == translate([line], params, blocklist=blocked, **how)[0]


def test_a_blocklist_knows_of_as_many_symbols_as_a_source_may_lack():
    lines = ["ŋʃɓɗɲʘǁɸβð", "ab", "ŋŋ", "ŋʃɓɗɲʘǁɸβðθχʁħʕɦɬɮ日本人大小"]
    for line, one in zip(lines, translate(lines, [draw_params(3, 8.0)], blocklist=["ŋ", "ð", "a"]), strict=True):
        assert not set(one.text) & set("ŋða")
        assert one.unmet == ()
        assert one == translate([line], [draw_params(3, 8.0)], blocklist=["ŋ", "ð", "a"])[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram": 1},
        {"repetition_penalty": 1.5},
        {"coverage_penalty": 0.3},
        {"groups": 2, "diversity": 1.0},
        {"temperature": 1.0, "top_k": 5},
        {"min_tokens": 3, "end_threshold": 1.2},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_rule_of_decoding_goes_with_copying(settings):
    params = [draw_params(3, 3.0)]
    for line, one in zip(LINES, translate(LINES, params, **settings), strict=True):
        if one.finished:
            forced = score([line], [list(one.ids[:-1])], params)[0]
            np.testing.assert_allclose(forced.token_logp, one.token_logp, rtol=1e-3, atol=1e-5)
        if "no_repeat_ngram" in settings:
            assert len(set(one.ids)) == len(one.ids)
        if "min_tokens" in settings:
            assert one.tokens > 3


def test_a_source_that_is_cut_gives_nothing_of_what_was_cut():
    line = "ab" * 4 + "ŋ"
    found = translate([line], [draw_params(3, 6.0)], max_source_tokens=6, beam_size=1)[0]
    assert found.cut_source
    assert "ŋ" not in found.text
    asked = translate([], [draw_params(3, 6.0)], [Request(line, prefix="ŋ")], max_source_tokens=6)[0]
    assert asked.unmet == ("ŋ",)
