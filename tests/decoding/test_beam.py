import inspect
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_beam as reference

from flax_s2s.decoding import beam

ROWS, STEPS, STATES, BOS = 64, 7, 6, 1


class Setting(NamedTuple):
    beam_size: int
    alpha: float
    n_best: int
    eos: int
    vocab: int
    kinds: str  # of the random models


# Models with ties stand only where scores are exact: at an alpha of 0 or 1.
SETTINGS = [
    Setting(1, 0.0, 1, eos=2, vocab=5, kinds="nptTz"),
    Setting(2, 0.0, 2, eos=2, vocab=4, kinds="nptTz"),
    Setting(3, 0.6, 1, eos=2, vocab=5, kinds="npz"),
    Setting(3, 1.0, 3, eos=2, vocab=5, kinds="npTTz"),
    Setting(4, 0.0, 1, eos=0, vocab=6, kinds="nptTz"),
    Setting(5, 1.0, 2, eos=4, vocab=5, kinds="nptTz"),
    Setting(6, 0.6, 6, eos=2, vocab=3, kinds="npz"),
    Setting(8, 2.0, 4, eos=3, vocab=4, kinds="npz"),
    Setting(1, 1.0, 1, eos=2, vocab=4, kinds="nptTz"),
]
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def make_search(setting):
    def run(next_state, logp, carry, limit):
        step_fn = reference.Automata.step_fn(next_state, logp)
        options = dict(zip(("beam_size", "alpha", "n_best", "eos"), setting[:4], strict=True))
        return beam.search(step_fn, carry, limit, max_steps=STEPS, bos=BOS, **options)

    return jax.jit(run)


compiled = lru_cache(make_search)


def draw(setting):
    """Random models, and limits from 0 to the most there may be."""
    rng = np.random.default_rng(SETTINGS.index(setting))
    models = reference.draw_automata(rng, ROWS, STATES, setting.vocab, BOS, setting.kinds)
    return models, np.where(np.arange(ROWS) % 2, STEPS, rng.integers(0, STEPS + 1, ROWS)).astype(np.int32)


def run(setting, models, limit, search=None):
    found = (search or compiled(setting))(models.next_state, models.logp, models.start(setting.beam_size), limit)
    return jax.tree.map(np.asarray, found)


@lru_cache
def searched(setting):
    return run(setting, *draw(setting))


def expected(setting, row, search=reference.beam_search, **options):
    models, limit = draw_once(setting)
    named = dict(zip(("beam_size", "alpha", "n_best", "eos"), setting[:4], strict=True))
    return search(models.logp_fn(row), int(limit[row]), **(named | options))


draw_once = lru_cache(draw)


def present(found, row):
    """The hypotheses of a row as the reference gives them; the absent ones are checked on the way."""
    there = []
    for k in range(found.ids.shape[1]):
        ids, length = found.ids[row, k], int(found.length[row, k])
        if found.score[row, k] == -np.inf:
            assert (length, found.logp[row, k], found.finished[row, k]) == (0, -np.inf, False)
        else:
            assert not ids[length:].any()
            assert len(there) == k  # absent ones come last
            there.append(
                reference.Found(tuple(ids[:length].tolist()), found.logp[row, k], found.score[row, k], bool(found.finished[row, k]))
            )
    return there


def agree(found, wanted):
    """Tokens, sums and flags exactly; scores to rounding, because powers may be rounded in two ways."""
    same = [(one.ids, one.logp, one.finished) for one in found] == [(one.ids, one.logp, one.finished) for one in wanted]
    return same and np.allclose([one.score for one in found], [one.score for one in wanted], rtol=1e-6, atol=0)


# Agreement with the definition


@each_setting
def test_equals_the_literal_beam_search(setting):
    found = searched(setting)
    for row in range(ROWS):
        assert agree(present(found, row), expected(setting, row)), row


def test_exiting_early_loses_nothing():
    exits = 0
    for setting in SETTINGS:
        found = searched(setting)
        for row in range(ROWS):
            assert agree(present(found, row), expected(setting, row, early_exit=False)), (setting, row)
            exits += expected(setting, row, count_steps) < expected(setting, row, count_steps, early_exit=False)
    assert exits > 20  # the cases exercise it


def test_enough_finished_hypotheses_do_not_end_what_can_still_win():
    """P(a)=.6 P(end)=.3 P(other)=.1, then P(c|a)=.55 P(end|a)=.4, P(end|c)=1: `a c` is the best, and ends after two others have."""
    a, c, end = 3, 4, 2
    logp = np.full((1, 5, 5, 5), -np.inf, np.float32)  # [row state last-but-one next]; the state is the last token
    logp[0, BOS, :, [a, end, c]] = np.log([[0.6], [0.3], [0.1]])
    logp[0, a, :, [c, end]] = np.log([[0.55], [0.4]])
    logp[0, c, :, end] = 0.0
    models = reference.Automata(np.tile(np.arange(5), (1, 5, 1)).astype(np.int32), logp, BOS)
    for beam_size in (1, 2, 3, 4):
        for alpha in (0.0, 1.0):
            setting = Setting(beam_size, alpha, 1, eos=end, vocab=5, kinds="")
            found = run(setting, models, np.array([STEPS], np.int32), make_search(setting))
            assert np.asarray(found.ids)[0, 0, :3].tolist() == [a, c, end], setting


def count_steps(logp_fn, limit, **options):
    """How many tokens the literal search went deep."""
    longest = 0

    def counted(prefix):
        nonlocal longest
        longest = max(longest, len(prefix) + 1)
        return logp_fn(prefix)

    reference.beam_search(counted, limit, **options)
    return longest


def test_one_live_hypothesis_is_greedy_search():
    setting = SETTINGS[0]
    models, limit = draw_once(setting)
    found = searched(setting)
    for row in range(ROWS):
        greedy = reference.greedy_search(models.logp_fn(row), int(limit[row]), setting.eos)
        assert agree(present(found, row), [greedy] if greedy else []), row


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_a_beam_as_wide_as_all_sequences_is_exhaustive_search(alpha):
    vocab, steps = 4, 4
    setting = Setting(vocab**steps, alpha, 1, eos=2, vocab=vocab, kinds="np")
    models = reference.draw_automata(np.random.default_rng(1), ROWS, STATES, vocab, BOS, "np")
    found = run(setting, models, np.full(ROWS, steps, np.int32))
    narrow = 0
    for row in range(ROWS):
        best = reference.exhaustive_search(models.logp_fn(row), steps, vocab, setting.eos, alpha)
        assert agree(present(found, row), [best]), row
        greedy = reference.beam_search(models.logp_fn(row), steps, beam_size=2, eos=setting.eos, alpha=alpha)
        narrow += greedy[0].ids != best.ids
    assert narrow > 5  # a narrow beam does not find the same


def test_a_recurrent_network_as_the_model():
    setting = Setting(4, 0.6, 4, eos=2, vocab=6, kinds="")
    rng = np.random.default_rng(3)
    models = reference.draw_networks(rng, ROWS, 3, setting.vocab, BOS)

    @jax.jit
    def search(tables, carry, limit):
        step_fn = reference.Networks.step_fn(*tables)
        return beam.search(step_fn, carry, limit, beam_size=4, max_steps=STEPS, bos=BOS, eos=2, alpha=0.6, n_best=4)

    limit = rng.integers(0, STEPS + 1, ROWS).astype(np.int32)
    found = jax.tree.map(np.asarray, search(models[:3], models.start(4), limit))
    for row in range(ROWS):
        wanted = reference.beam_search(models.logp_fn(row), int(limit[row]), beam_size=4, eos=2, alpha=0.6, n_best=4)
        got = present(found, row)
        assert [(one.ids, one.finished) for one in got] == [(one.ids, one.finished) for one in wanted], row
        np.testing.assert_allclose([one.logp for one in got], [one.logp for one in wanted], rtol=1e-5, atol=1e-5)


# What a hypothesis says of itself


@each_setting
def test_the_sum_is_that_of_the_tokens_and_the_score_that_of_the_sum(setting):
    models, _ = draw_once(setting)
    found, seen = searched(setting), 0
    for row in range(ROWS):
        for one in present(found, row):
            if one.ids:
                again = reference.forced(models.logp_fn(row), one.ids, setting.eos, setting.alpha)
                assert agree([one], [again]), row
                seen += 1
    assert seen > ROWS // 2


@each_setting
def test_the_end_mark_stands_at_the_end_or_the_limit_is_reached(setting):
    _, limit = draw_once(setting)
    found, cut = searched(setting), 0
    for row in range(ROWS):
        for one in present(found, row):
            assert setting.eos not in one.ids[:-1]
            assert one.finished == (one.ids[-1:] == (setting.eos,))
            assert one.finished or len(one.ids) == limit[row]
            assert len(one.ids) <= limit[row]
            cut += not one.finished
    assert cut > 0


@each_setting
def test_the_best_come_first_and_no_two_are_the_same(setting):
    found = searched(setting)
    for row in range(ROWS):
        there = present(found, row)
        scores = [one.score for one in there]
        assert scores == sorted(scores, reverse=True)
        assert len({one.ids for one in there}) == len(there)
        assert len({one.finished for one in there}) <= 1  # never finished and live ones together


def test_a_row_that_is_no_sentence_has_one_empty_hypothesis():
    setting = SETTINGS[3]
    models, _ = draw_once(setting)
    found = run(setting, models, np.zeros(ROWS, np.int32))
    for row in range(ROWS):
        assert present(found, row) == [((), 0.0, 0.0, False)]


def test_a_hypothesis_of_the_limits_length_may_still_end():
    setting = SETTINGS[1]
    models, _ = draw_once(setting)
    only_end = np.full_like(models.logp, -np.inf)
    only_end[:, :, :, setting.eos] = -1.0
    found = run(setting, models._replace(logp=only_end), np.ones(ROWS, np.int32))
    for row in range(ROWS):
        assert present(found, row) == [((setting.eos,), -1.0, -1.0, True)]


def test_where_no_token_is_possible_there_is_no_hypothesis():
    setting = SETTINGS[1]
    models, limit = draw_once(setting)
    found = run(setting, models._replace(logp=np.full_like(models.logp, -np.inf)), np.maximum(limit, 1))
    assert [present(found, row) for row in range(ROWS)] == [[]] * ROWS


def test_a_shorter_limit_than_the_shapes_changes_nothing():
    models, _ = draw_once(SETTINGS[2])
    wide = run(SETTINGS[2], models, np.full(ROWS, 4, np.int32))

    @jax.jit
    def search(next_state, logp, carry, limit):
        return beam.search(reference.Automata.step_fn(next_state, logp), carry, limit, beam_size=3, max_steps=4, bos=BOS, eos=2, alpha=0.6)

    tight = run(SETTINGS[2], models, np.full(ROWS, 4, np.int32), search)
    assert not wide.ids[:, :, 4:].any()
    np.testing.assert_array_equal(wide.ids[:, :, :4], tight.ids)
    np.testing.assert_array_equal(wide.score, tight.score)


# Rows never look at each other


@pytest.mark.parametrize("setting", SETTINGS[2:5], ids=str)
def test_a_row_depends_on_nothing_but_itself(setting):
    models, limit = draw_once(setting)
    alone = searched(setting)
    rng = np.random.default_rng(7)
    for _ in range(5):
        order = rng.permutation(ROWS)
        kept = rng.random(ROWS) < 0.5
        others = reference.draw_automata(rng, ROWS, STATES, setting.vocab, BOS, setting.kinds)
        mixed = models._replace(
            next_state=np.where(kept[:, None, None], models.next_state[order], others.next_state),
            logp=np.where(kept[:, None, None, None], models.logp[order], others.logp),
        )
        found = run(setting, mixed, np.where(kept, limit[order], rng.integers(0, STEPS + 1, ROWS)).astype(np.int32))
        for got, wanted in zip(found, alone, strict=True):
            np.testing.assert_array_equal(got[kept], wanted[order][kept])


def test_rows_that_are_no_sentences_change_nothing():
    setting = SETTINGS[3]
    models, limit = draw_once(setting)
    alone = searched(setting)
    real = np.arange(ROWS) < 3
    found = run(setting, models, np.where(real, limit, 0))
    for got, wanted in zip(found, alone, strict=True):
        np.testing.assert_array_equal(got[real], wanted[real])


# The length penalty


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_length_penalty(alpha):
    lengths = np.arange(1, 100)
    wanted = [((5 + int(length)) / 6) ** alpha for length in lengths]
    np.testing.assert_allclose(beam.length_penalty(jnp.asarray(lengths), alpha), wanted, rtol=1e-6)
    assert beam.length_penalty(1, alpha) == 1


# The comparison catches bugs: each one, planted in a copy of the literal search, makes some case differ

BUGS = {
    "an ended hypothesis lives on": ("if one.ids[-1] != eos][:beam_size]", "][:beam_size]"),
    "an end among more than the best": ("extensions[:beam_size]:", "extensions[: 2 * beam_size]:"),
    "the live ones are chosen before the ended are taken out": (
        "live = [one for one in extensions if one.ids[-1] != eos][:beam_size]",
        "live = [one for one in extensions[:beam_size] if one.ids[-1] != eos]",
    ),
    "penalty without the end mark": ("one.logp / penalty(length, alpha)", "one.logp / penalty(length - 1, alpha)"),
    "penalty of the limit": ("one.logp / penalty(length, alpha)", "one.logp / penalty(limit, alpha)"),
    "cut ones without penalty": ("total / penalty(limit, alpha)", "total"),
    "one token more": ("range(1, limit + 1)", "range(1, limit + 2)"),
    "one token less": ("range(1, limit + 1)", "range(1, limit)"),
    "stops at the first end": ("if beam_size == 1 and finished:", "if finished:"),
    "stops at enough ends": ("if beam_size == 1 and finished:", "if len(finished) >= beam_size:"),
    "greedy search goes on": ("if beam_size == 1 and finished:", "if False:"),
    "ties to the later": ("extensions.sort(key", "extensions.reverse(); extensions.sort(key"),
    "ties of finished ones to the later": ("finished.sort(key", "finished.reverse(); finished.sort(key"),
    "live ones among the finished": ("(finished or live)", "(finished + live)"),
    "live ones preferred": ("(finished or live)", "(live or finished)"),
    "state of another hypothesis": ("enumerate(logp_fn(parent.ids))", "enumerate(logp_fn(live[0].ids))"),
    "tokens of another hypothesis": ("Found((*parent.ids, token)", "Found((*live[0].ids, token)"),
    "gives up too early": ("all(one.score <= finished", "all(one.logp <= finished"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug):
    source, (right, wrong) = inspect.getsource(reference), BUGS[bug]
    assert source.count(right) == 1
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)
    agreeing = [
        [(one.ids, one.logp, one.score, one.finished) for one in expected(setting, row, mutant.beam_search)]
        == [(one.ids, one.logp, one.score, one.finished) for one in expected(setting, row)]
        for setting in SETTINGS
        for row in range(ROWS)
    ]
    assert not all(agreeing)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_take", lambda values, index: jax.vmap(lambda row, chosen: row[(chosen + 1) % len(row)])(values, index)),  # the neighbors
        ("_like", lambda flags, values: jnp.zeros((len(flags),) + (1,) * (values.ndim - 1), bool)),  # nothing is frozen
        ("length_penalty", lambda length, alpha: ((4.0 + length) / 6.0) ** alpha),
    ],
    ids=["parents", "frozen", "penalty"],
)
def test_a_bug_in_the_search_itself_is_caught(monkeypatch, name, wrong):
    setting = SETTINGS[3]
    monkeypatch.setattr(beam, name, wrong)
    found = run(setting, *draw_once(setting), make_search(setting))
    fields = [[field[row].tolist() for field in found] == [field[row].tolist() for field in searched(setting)] for row in range(ROWS)]
    assert not all(fields)
