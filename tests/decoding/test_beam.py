import collections
import inspect
from functools import cache, lru_cache
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_beam as reference

from flax_s2s.decoding import beam, constraints, lexical
from flax_s2s.decoding.constraints import Steps

ROWS, STEPS, STATES, BOS, SRC = 64, 6, 6, 1, 3
TEXTS = ("", "", "a", "b", "ab", "ba", "aa", "c")  # of tokens; the end mark, and those that are never generated, leave no trace


class Setting(NamedTuple):
    """What a program is compiled for; what differs from row to row is drawn."""

    beam_size: int = 3
    alpha: float = 0.0
    n_best: int = 1
    eos: int = 0
    vocab: int = 5
    kinds: str = "nptTz"  # of the random models
    steps: int = STEPS
    groups: int = 1
    diversity: float = 0.0
    coverage: float = 0.0
    least: bool = False
    end_factor: float = np.inf
    ngram: int = 0
    penalty: float = 1.0
    prefix: bool = False
    blocked: bool = False
    phrases: bool = False
    allowed: bool = False
    members: int = 1

    @property
    def name(self):
        changed = {name: value for name, value in self._asdict().items() if value != Setting._field_defaults[name]}
        return ",".join(f"{name}={value}" for name, value in changed.items())


# Where scores are not exact to the last bit (logarithms, means of probabilities) there are no ties: kinds without t and T.
SETTINGS = [
    Setting(1, n_best=1, eos=2),
    Setting(2, n_best=2, eos=2, vocab=4),
    Setting(3, 0.6, eos=2),
    Setting(3, 1.0, n_best=3, eos=2, kinds="npTTz"),
    Setting(4, vocab=6),
    Setting(5, 1.0, n_best=2, eos=4),
    Setting(6, 0.6, n_best=6, eos=2, vocab=3),
    Setting(8, 2.0, n_best=4, eos=3, vocab=4),
    Setting(1, 1.0, eos=2, vocab=4),
    Setting(4, 0.6, n_best=2, coverage=0.4, kinds="npz"),
    Setting(3, coverage=1.0, kinds="np", least=True),
    Setting(2, 1.0, coverage=0.2, kinds="np", phrases=True, vocab=6),
    Setting(5, n_best=5, coverage=0.5, kinds="np", penalty=1.5),
    Setting(4, n_best=4, groups=2, diversity=0.5),
    Setting(4, 0.6, n_best=2, groups=4, diversity=1.0, vocab=6),
    Setting(6, 1.0, n_best=6, groups=3, diversity=0.25, ngram=2),
    Setting(6, n_best=3, groups=2, diversity=2.0, prefix=True, least=True),
    Setting(3, 0.6, least=True, end_factor=1.5),
    Setting(2, end_factor=0.5, n_best=2, vocab=3),
    Setting(4, 1.0, end_factor=1.0, n_best=2, blocked=True, vocab=7),
    Setting(5, end_factor=1.2, least=True, penalty=1.25, kinds="npTz"),
    Setting(3, ngram=1, vocab=4),
    Setting(4, 0.6, ngram=3, n_best=3, vocab=3),
    Setting(2, ngram=2, penalty=2.0, n_best=2),
    Setting(3, 1.0, penalty=1.5, prefix=True, kinds="npTTz"),
    Setting(1, penalty=1.5, ngram=2, least=True),
    Setting(3, prefix=True, n_best=3, blocked=True, vocab=6),
    Setting(4, 0.6, prefix=True, allowed=True, n_best=2, vocab=8),
    Setting(1, blocked=True, prefix=True, vocab=8),
    Setting(5, 1.0, blocked=True, ngram=2, n_best=5, vocab=5),
    Setting(3, phrases=True, vocab=6),
    Setting(4, 1.0, phrases=True, n_best=4, vocab=5),
    Setting(6, 0.6, phrases=True, n_best=2, vocab=5, blocked=True),
    Setting(5, phrases=True, prefix=True, vocab=4, least=True),
    Setting(1, phrases=True, vocab=6, allowed=True),
    Setting(3, 0.6, allowed=True, members=2),
    Setting(4, members=4, kinds="np", n_best=4, ngram=3),
    Setting(2, 1.0, members=2, allowed=True, vocab=8, groups=2, diversity=0.5),
    Setting(3, members=2, phrases=True, vocab=6, kinds="nptT", penalty=1.25),
    Setting(1, members=2, end_factor=1.5, eos=3, kinds="npTz"),
]
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


class Drawn(NamedTuple):
    """Random models, the settings of each row's search, and the arrays that the search gets."""

    members: list
    limit: np.ndarray
    rules: list
    arrays: dict


def draw(setting):
    """Limits are from 0 to the most there may be."""
    rng = np.random.default_rng(SETTINGS.index(setting) if setting in SETTINGS else 1)
    vocab, eos = setting.vocab, setting.eos
    members = [reference.draw_automata(rng, ROWS, STATES, vocab, BOS, setting.kinds, SRC) for _ in range(setting.members)]
    limit = np.where(np.arange(ROWS) % 2, setting.steps, rng.integers(0, setting.steps + 1, ROWS)).astype(np.int32)
    others = [token for token in range(vocab) if token != eos]
    texts = [""] * vocab
    for token, text in zip(others, TEXTS[2:], strict=False):
        texts[token] = text
    rules = [reference.Rules(texts=tuple(texts), end_factor=setting.end_factor, ngram=setting.ngram, penalty=setting.penalty)] * ROWS
    arrays = {}
    if setting.least:
        arrays["least"] = rng.integers(0, setting.steps, ROWS).astype(np.int32)
        rules = [one._replace(least=int(least)) for one, least in zip(rules, arrays["least"], strict=True)]
    if setting.coverage:
        rules = [one._replace(coverage=setting.coverage) for one in rules]
    if setting.prefix:
        prefixes = [tuple(rng.choice(others, rng.integers(0, 4)).tolist()) for _ in rules]
        arrays["prefix"] = np.array([[*prefix, *[0] * (3 - len(prefix))] for prefix in prefixes], np.int32)
        arrays["prefix_length"] = np.array([len(prefix) for prefix in prefixes], np.int32)
        rules = [one._replace(prefix=prefix) for one, prefix in zip(rules, prefixes, strict=True)]
    if setting.allowed:
        banned = rng.choice(others, (len(others) + 1) // 3, replace=False).tolist()
        arrays["banned"] = np.isin(np.arange(vocab), banned)
        rules = [one._replace(allowed=frozenset(range(vocab)) - set(banned)) for one in rules]
    if setting.blocked:
        shared = setting.beam_size % 2
        lists = [tuple("".join(rng.choice(list("abc"), rng.integers(1, 4))) for _ in range(rng.integers(1, 4))) for _ in rules]
        lists = [lists[0]] * ROWS if shared else lists
        made = [
            constraints.make_automaton([p.encode() for p in one], [text.encode() for text in texts])
            for one in lists[: 1 if shared else None]
        ]
        states = max(len(table) for table, _ in made)
        tables = [np.stack([np.pad(one[part], ((0, states - len(one[part])), (0, 0))) for one in made]) for part in (0, 1)]
        arrays["automaton"] = constraints.Automaton(*tables)
        rules = [one._replace(blocked=blocked) for one, blocked in zip(rules, lists, strict=True)]
    if setting.phrases:
        free = [token for token in others if not setting.allowed or token not in banned]
        wanted = [
            [[rng.choice(free, rng.integers(1, 4)).tolist() for _ in range(rng.integers(1, 3))] for _ in range(rng.integers(1, 3))]
            for _ in rules
        ]
        arrays["phrases"] = lexical.make_phrases(wanted, 2, 2, 3)
        rules = [one._replace(phrases=tuple(tuple(map(tuple, phrase)) for phrase in row)) for one, row in zip(rules, wanted, strict=True)]
    rules = [one._replace(attention_fn=mean_of([member.attention_fn(row) for member in members])) for row, one in enumerate(rules)]
    return Drawn(members, limit, rules, arrays)


def mean_of(functions):
    """The mean of several models' numbers: exact for log-probabilities of two, which are multiples of powers of two."""
    return functions[0] if len(functions) == 1 else lambda prefix: np.stack([fn(prefix) for fn in functions]).mean(axis=0)


def make_search(setting, **more):
    shared = [getattr(setting, name) for name in ("eos", "alpha", "n_best", "groups", "diversity")]
    how = beam.Search(setting.beam_size, setting.steps, BOS, *shared, attention=True, **more)

    def run(members, limit, arrays):
        size, steps = setting.groups, []
        for next_state, logp, attention, carry in members:
            steps.append(Steps(reference.Automata.step_fn(next_state, logp, attention), carry))
        made = constraints.ensemble(steps, "log-probabilities") if len(steps) > 1 else steps[0]
        if setting.penalty != 1 or setting.ngram:
            made = constraints.avoid_repetition(made, setting.ngram, setting.penalty, setting.eos, size, setting.steps)
        if setting.end_factor < np.inf:
            made = constraints.end_if_likely(made, setting.end_factor, setting.eos)
        if setting.least:
            made = constraints.end_after(made, arrays["least"], setting.eos, size)
        if setting.blocked:
            made = constraints.block(made, arrays["automaton"], size, ROWS)
        if setting.allowed:
            made = constraints.forbid(made, arrays["banned"])
        if setting.coverage:
            made = constraints.cover(made, jnp.ones((ROWS, SRC), bool), setting.coverage, size)
        if setting.prefix:
            made = constraints.force_prefix(made, arrays["prefix"], arrays["prefix_length"], size)
        return beam.search(made.step_fn, made.carry, limit, how, arrays.get("phrases"), SRC)

    return jax.jit(run)


compiled = lru_cache(make_search)
draw_once = lru_cache(draw)


def run(setting, drawn, search=None):
    tables = [(one.next_state, one.logp, one.attention, one.start(setting.groups)) for one in drawn.members]
    arrays = jax.tree.map(jnp.asarray, drawn.arrays)
    return jax.tree.map(np.asarray, (search or compiled(setting))(tables, jnp.asarray(drawn.limit), arrays))


@lru_cache
def searched(setting):
    return run(setting, draw_once(setting))


def model(setting, row):
    return mean_of([member.logp_fn(row) for member in draw_once(setting).members])


def options(setting):
    return {name: getattr(setting, name) for name in ("beam_size", "alpha", "n_best", "eos", "groups", "diversity")}


@cache
def wanted(setting, row):
    """What the literal search finds."""
    return expected(setting, row)


def expected(setting, row, search=reference.beam_search, **changed):
    drawn = draw_once(setting)
    return search(model(setting, row), int(drawn.limit[row]), **({**options(setting), "rules": drawn.rules[row]} | changed))


def present(found, row):
    """The hypotheses of a row as the reference gives them; the absent ones are checked on the way."""
    there = []
    for k in range(found.ids.shape[1]):
        ids, length = found.ids[row, k], int(found.length[row, k])
        assert not ids[length:].any()
        if found.score[row, k] == -np.inf:
            assert (length, found.logp[row, k], found.finished[row, k]) == (0, -np.inf, False)
        else:
            assert len(there) == k  # absent ones come last
            there.append(
                reference.Found(tuple(ids[:length].tolist()), found.logp[row, k], found.score[row, k], bool(found.finished[row, k]))
            )
    return there


def agree(found, wanted, exact=True):
    """Tokens and flags exactly, and sums where their terms are exact; scores to rounding, because logarithms may be rounded in two ways."""
    same = [(one.ids, one.finished) for one in found] == [(one.ids, one.finished) for one in wanted]
    same &= not exact or [one.logp for one in found] == [one.logp for one in wanted]
    return same and all(
        np.allclose([getattr(one, n) for one in found], [getattr(one, n) for one in wanted], rtol=1e-6, atol=1e-6)
        for n in ("logp", "score")
    )


# Agreement with the definition


@each_setting
def test_equals_the_literal_beam_search(setting):
    found = searched(setting)
    for row in range(ROWS):
        assert agree(present(found, row), wanted(setting, row)), row
    check_sums(setting, found)
    check_ends(setting, found)
    check_order(setting, found)
    check_rules(setting, found)
    check_greedy(setting, found)


def test_every_option_has_its_cases():
    """More than 2,000 cases in all, each option in 200 and ties in 300 of them."""
    cases = collections.Counter()
    for setting in SETTINGS:
        cases["all"] += ROWS
        cases["ties"] += sum(setting.kinds[row % len(setting.kinds)] in "tT" for row in range(ROWS))
        changed = {name for name, value in setting._asdict().items() if value != Setting._field_defaults[name]}
        cases.update({name: ROWS for name in changed | ({"greedy"} if setting.beam_size == 1 else set())})
    options = "greedy alpha n_best groups diversity coverage least end_factor ngram penalty prefix blocked phrases allowed members"
    assert cases["all"] >= 2000
    assert cases["ties"] >= 300
    assert {name: cases[name] for name in options.split() if cases[name] < 200} == {}


def test_exiting_early_loses_nothing():
    exits = 0
    for setting in SETTINGS:
        for row in range(0, ROWS, 8):
            assert agree(expected(setting, row, early_exit=False), wanted(setting, row)), (setting, row)
            exits += expected(setting, row, count_steps) < expected(setting, row, count_steps, early_exit=False)
    assert exits > 20  # the cases exercise it


def test_enough_finished_hypotheses_do_not_end_what_can_still_win():
    """P(a)=.6 P(end)=.3 P(other)=.1, then P(c|a)=.55 P(end|a)=.4, P(end|c)=1: `a c` is the best, and ends after two others have."""
    a, c, end = 3, 4, 2
    logp = np.full((1, 5, 5, 5), -np.inf, np.float32)  # [row state last-but-one next]; the state is the last token
    logp[0, BOS, :, [a, end, c]] = np.log([[0.6], [0.3], [0.1]])
    logp[0, a, :, [c, end]] = np.log([[0.55], [0.4]])
    logp[0, c, :, end] = 0.0
    next_state = np.tile(np.arange(5), (1, 5, 1)).astype(np.int32)
    models = reference.Automata(next_state, logp, np.zeros((1, 5, 5, SRC), np.float32), BOS)
    for beam_size in (1, 2, 3, 4):
        for alpha in (0.0, 1.0):
            setting = Setting(beam_size, alpha, eos=end)
            found = run(setting, Drawn([models], np.array([STEPS], np.int32), [], {}), make_search(setting))
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


def check_greedy(setting, found):
    """A beam of one is greedy search, and any beam is at least as good, where scores are sums of log-probabilities."""
    drawn = draw_once(setting)
    plain = not (setting.alpha or setting.coverage or setting.penalty != 1) and setting.beam_size > setting.groups
    if setting.phrases or (setting.beam_size > 1 and not plain):
        return
    ended = 0
    for row in range(ROWS):
        greedy = reference.greedy_search(model(setting, row), int(drawn.limit[row]), setting.eos, drawn.rules[row])
        got = present(found, row)
        if setting.beam_size == 1:
            assert [(one.ids, one.logp, one.finished) for one in got] == ([(greedy.ids, greedy.logp, greedy.finished)] if greedy else []), (
                row
            )
        elif greedy and greedy.finished:
            assert got[0].finished
            assert got[0].score >= greedy.score, row
        ended += greedy is not None and greedy.finished
    assert ended > 5


def test_a_beam_keeps_the_greedy_hypothesis_though_others_look_better_meanwhile():
    """P(a)=.5 P(b)=.4, but P(x|a)=.2 and P(b|b)=.5: `a x` is not among the best two, yet it alone can end well."""
    a, b, x, end = 3, 4, 5, 2
    logp = np.full((1, 6, 6, 6), -20, np.float32)  # [row state last-but-one next]; the state is the last token
    logp[0, BOS, :, [a, b]] = np.log([[0.5], [0.4]])
    logp[0, a, :, x] = np.log(0.2)
    logp[0, b, :, [b, a]] = np.log([[0.5], [0.4]])
    logp[0, x, :, end] = 0.0
    next_state = np.tile(np.arange(6), (1, 6, 1)).astype(np.int32)
    models = reference.Automata(next_state, logp, np.zeros((1, 6, 6, SRC), np.float32), BOS)
    setting = Setting(2, eos=end, vocab=6)
    found = run(setting, Drawn([models], np.array([4], np.int32), [], {}), make_search(setting))
    assert found.ids[0, 0, :3].tolist() == [a, x, end]


EXHAUSTIVE = [
    Setting(64, 0.0, eos=2, vocab=4, steps=4, kinds="np"),
    Setting(64, 0.8, eos=2, vocab=4, steps=4, kinds="np"),
    Setting(81, 1.0, vocab=3, steps=5, kinds="np", ngram=2, least=True),
    Setting(64, 0.6, vocab=4, steps=4, kinds="np", phrases=True, prefix=True),
    Setting(64, 0.6, vocab=4, steps=4, kinds="np", blocked=True, coverage=0.3, penalty=1.5),
    Setting(128, 0.0, vocab=8, steps=3, kinds="np", end_factor=1.5, allowed=True, members=2),
    Setting(243, 0.5, vocab=3, steps=6, kinds="np", eos=1),
]


@pytest.mark.parametrize("setting", EXHAUSTIVE, ids=lambda setting: setting.name)
def test_a_beam_as_wide_as_all_sequences_is_exhaustive_search(setting):
    drawn, found, narrow = draw_once(setting), searched(setting), 0
    for row in range(ROWS):
        limit = int(drawn.limit[row])
        best = reference.exhaustive_search(model(setting, row), limit, setting.vocab, setting.eos, setting.alpha, drawn.rules[row])
        got = present(found, row)
        assert agree([one for one in got if one.finished], [best] if best else [], exact=False), row
        small = expected(setting, row, beam_size=2)
        narrow += best is not None and small[:1] != [best]
    assert narrow > 5  # a narrow beam does not find the same


@pytest.mark.parametrize("kept", [0, 12])
def test_a_recurrent_network_as_the_model(kept):
    """Who keeps more than is wanted finds the same, and others after them."""
    rng = np.random.default_rng(3)
    models = reference.draw_networks(rng, ROWS, 3, 6, BOS)
    how, more = beam.Search(4, STEPS, BOS, eos=2, alpha=0.6, n_best=4, kept=kept), []

    @jax.jit
    def search(tables, carry, limit):
        return beam.search(reference.Networks.step_fn(*tables), carry, limit, how)

    limit = rng.integers(0, STEPS + 1, ROWS).astype(np.int32)
    found = jax.tree.map(np.asarray, search(models[:3], models.start(1), limit))
    for row in range(ROWS):
        wanted = reference.beam_search(models.logp_fn(row), int(limit[row]), beam_size=4, eos=2, alpha=0.6, n_best=4)
        got = present(found, row)
        more += got[4:]
        assert [one.score for one in got] == sorted((one.score for one in got), reverse=True)
        got = got[:4]
        assert [(one.ids, one.finished) for one in got] == [(one.ids, one.finished) for one in wanted], row
        np.testing.assert_allclose([one.logp for one in got], [one.logp for one in wanted], rtol=1e-5, atol=1e-5)
    assert bool(more) == bool(kept)


# What a hypothesis says of itself


def check_sums(setting, found):
    """The sum is that of the tokens, and the score that of the sum."""
    drawn, seen = draw_once(setting), 0
    for row in range(ROWS):
        for k, one in enumerate(present(found, row)):
            if one.ids:
                again = reference.forced(model(setting, row), one.ids, setting.eos, setting.alpha, drawn.rules[row])
                assert agree([one], [again]), row
                logps = [model(setting, row)(one.ids[:position])[token] for position, token in enumerate(one.ids)]
                assert found.token_logp[row, k].tolist() == [*logps, *[0] * (setting.steps - len(logps))]
                seen_at = [drawn.rules[row].attention_fn(one.ids[:position]) for position in range(len(one.ids))]
                np.testing.assert_allclose(found.attention[row, k, : len(one.ids)], seen_at, rtol=1e-6)
                assert not found.attention[row, k, len(one.ids) :].any()
                seen += 1
    assert seen > ROWS // 3


def check_ends(setting, found):
    """The end mark stands at the end, or the limit is reached."""
    limit, cut = draw_once(setting).limit, 0
    for row in range(ROWS):
        for one in present(found, row):
            assert setting.eos not in one.ids[:-1]
            assert one.finished == (one.ids[-1:] == (setting.eos,))
            assert one.finished or len(one.ids) == limit[row]
            assert len(one.ids) <= limit[row]
            cut += not one.finished
    assert cut > 0


def check_order(setting, found):
    """The best come first, and no two are the same."""
    for row in range(ROWS):
        there = present(found, row)
        scores = [one.score for one in there]
        assert scores == sorted(scores, reverse=True) or (setting.phrases and not there[0].finished)
        assert len({one.ids for one in there}) == len(there) or setting.groups > 1
        assert len({one.finished for one in there}) <= 1  # never finished and live ones together


def check_rules(setting, found):
    """What was asked for is so, said of the hypotheses themselves."""
    drawn = draw_once(setting)
    for row in range(ROWS):
        rules = drawn.rules[row]
        for one in present(found, row):
            body = one.ids[:-1] if one.finished else one.ids
            free = body[len(rules.prefix) :]
            assert body[: len(rules.prefix)] == rules.prefix[: len(body)]
            assert not one.finished or len(one.ids) >= rules.least or body == rules.prefix[: len(body)]
            assert not one.finished or rules.complete(body)
            if not rules.prefix:
                assert not any(phrase in "".join(rules.texts[token] for token in body) for phrase in rules.blocked)
                grams = [body[i : i + setting.ngram] for i in range(len(body) - setting.ngram + 1)]
                assert not setting.ngram or len(set(grams)) == len(grams)
            assert rules.allowed is None or set(free) <= rules.allowed


def test_a_row_that_is_no_sentence_has_one_empty_hypothesis():
    setting = SETTINGS[3]
    found = run(setting, draw_once(setting)._replace(limit=np.zeros(ROWS, np.int32)))
    for row in range(ROWS):
        assert present(found, row) == [((), 0.0, 0.0, False, 0, False)]


def test_a_hypothesis_of_the_limits_length_may_still_end():
    setting = SETTINGS[1]
    drawn = draw_once(setting)
    only_end = np.full_like(drawn.members[0].logp, -np.inf)
    only_end[:, :, :, setting.eos] = -1.0
    found = run(setting, drawn._replace(members=[drawn.members[0]._replace(logp=only_end)], limit=np.ones(ROWS, np.int32)))
    for row in range(ROWS):
        assert present(found, row) == [((setting.eos,), -1.0, -1.0, True, 0, False)]


def test_where_no_token_is_possible_there_is_no_hypothesis():
    setting = SETTINGS[1]
    drawn = draw_once(setting)
    nothing = drawn.members[0]._replace(logp=np.full_like(drawn.members[0].logp, -np.inf))
    found = run(setting, drawn._replace(members=[nothing], limit=np.maximum(drawn.limit, 1)))
    assert [present(found, row) for row in range(ROWS)] == [[]] * ROWS


def test_a_shorter_limit_than_the_shapes_changes_nothing():
    setting = SETTINGS[2]
    drawn = draw_once(setting)._replace(limit=np.full(ROWS, 4, np.int32))
    wide, tight = run(setting, drawn), run(setting, drawn, make_search(setting._replace(steps=4)))
    assert not wide.ids[:, :, 4:].any()
    np.testing.assert_array_equal(wide.ids[:, :, :4], tight.ids)
    np.testing.assert_array_equal(wide.score, tight.score)


# Rows never look at each other


@pytest.mark.parametrize("setting", [SETTINGS[2], SETTINGS[3], SETTINGS[15], SETTINGS[32]], ids=lambda setting: setting.name)
def test_a_row_depends_on_nothing_but_itself(setting):
    drawn, alone, rng = draw_once(setting), searched(setting), np.random.default_rng(7)

    def mix(kept, mine, order, others):
        return np.where(kept.reshape((-1,) + (1,) * (mine.ndim - 1)), mine[order], others) if len(mine) == ROWS else mine

    for _ in range(5):
        order, kept = rng.permutation(ROWS), rng.random(ROWS) < 0.5
        others = reference.draw_automata(rng, ROWS, STATES, setting.vocab, BOS, setting.kinds, SRC)
        tables = [mix(kept, mine, order, other) for mine, other in zip(drawn.members[0][:3], others[:3], strict=True)]
        arrays = jax.tree.map(lambda part: np.asarray(part)[order] if len(part) == ROWS else part, drawn.arrays)  # noqa: B023
        limit = np.where(kept, drawn.limit[order], rng.integers(0, setting.steps + 1, ROWS)).astype(np.int32)
        found = run(setting, drawn._replace(members=[reference.Automata(*tables, BOS)], limit=limit, arrays=arrays))
        for got, wanted in zip(found, alone, strict=True):
            np.testing.assert_array_equal(got[kept], wanted[order][kept])


def test_rows_that_are_no_sentences_change_nothing():
    setting = SETTINGS[3]
    drawn, alone = draw_once(setting), searched(setting)
    real = np.arange(ROWS) < 3
    found = run(setting, drawn._replace(limit=np.where(real, drawn.limit, 0).astype(np.int32)))
    for got, wanted in zip(found, alone, strict=True):
        np.testing.assert_array_equal(got[real], wanted[real])


@pytest.mark.parametrize("steps_at_once", [2, 4, 9])
@pytest.mark.parametrize("setting", [SETTINGS[index] for index in (0, 3, 15, 21, 32, 34, 38)], ids=lambda setting: setting.name)
def test_several_steps_between_two_looks_change_no_bit(setting, steps_at_once):
    found = run(setting, draw_once(setting), make_search(setting, steps_at_once=steps_at_once))
    for got, wanted in zip(found, searched(setting), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("steps_at_once", [1, 4])
def test_a_row_may_be_given_to_another_sentence_while_the_others_go_on(steps_at_once):
    """Rows of three sets of sentences pass through one search, each put where one is done; every one ends as it does alone."""
    setting = SETTINGS[3]
    drawn, alone = draw_once(setting), searched(setting)
    how = beam.Search(
        setting.beam_size, setting.steps, BOS, setting.eos, setting.alpha, setting.n_best, attention=True, steps_at_once=steps_at_once
    )
    one, few = drawn.members[0], 8

    @jax.jit
    def go(tables, state, until):
        return beam.run(reference.Automata.step_fn(*tables), state, how, until=until)

    def tables_of(rows):
        return [part[rows] for part in one[:3]]

    @jax.jit
    def begin(tables, limit):
        return beam.start(reference.Automata.step_fn(*tables), carry, limit, how, src=SRC)

    waiting, places = list(range(ROWS)), np.full(few, -1)
    carry = {name: part[:few] for name, part in one.start(1).items()}
    state = begin(tables_of(places), np.zeros(few, np.int32))
    finished, rounds = {}, 0
    while waiting or (places >= 0).any():
        free = np.flatnonzero(np.asarray(state.done))
        ends = jax.tree.map(np.asarray, beam.finish(state, how))
        for place in free:
            if places[place] >= 0:
                finished[int(places[place])] = jax.tree.map(lambda part, p=place: part[p], ends)
            places[place] = waiting.pop(0) if waiting else -1
        fresh = begin(tables_of(places), np.where(places >= 0, drawn.limit[places], 0).astype(np.int32))
        state = beam.put(jnp.asarray(np.isin(np.arange(few), free)), fresh, state)
        state = go(tables_of(places), state, int(np.asarray(state.done).sum()) + 1 if waiting else few)
        rounds += 1
    assert rounds > 10 / steps_at_once
    for row, found in finished.items():
        for got, wanted in zip(found, alone, strict=True):
            np.testing.assert_array_equal(got, wanted[row])


# The length penalty


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_length_penalty(alpha):
    for length in range(1, 100):
        assert beam.length_penalty(length, alpha) == pytest.approx(((5 + length) / 6) ** alpha)
    assert beam.length_penalty(1, alpha) == 1


# The comparison catches bugs: each one, planted in a copy of the literal search, makes some case differ

BUGS = {
    "an ended hypothesis lives on": ("if one.ids[-1] != eos]\n            turns", "]\n            turns"),
    "an end among more than the best": ("count(banks[i]) < size or", "count(banks[i]) < 2 * size or"),
    "the live ones are chosen before the ended are taken out": (
        "for one, bank in zip(extensions, banks, strict=True) if",
        "for one, bank in zip(extensions[:size], banks[:size], strict=True) if",
    ),
    "penalty without the end mark": ("one.rank / penalty(length, alpha)", "one.rank / penalty(length - 1, alpha)"),
    "penalty of the limit": ("one.rank / penalty(length, alpha)", "one.rank / penalty(limit, alpha)"),
    "cut ones without penalty": ("total / penalty(limit, alpha), False", "total, False"),
    "one token more": ("range(1, limit + 1)", "range(1, limit + 2)"),
    "one token less": ("range(1, limit + 1)", "range(1, limit)"),
    "greedy search goes on": ("if size == 1 and ends[group]:", "if False:"),
    "the shortest hypothesis is returned": (
        "finished = sorted((one for group in ends for one in group), key=lambda one: -one.score)",
        "finished = sorted((one for group in ends for one in group), key=lambda one: len(one.ids))",
    ),
    "ties to the later": (
        "key=lambda i: -np.float32(extensions[i].rank - malus[i])",
        "key=lambda i: (-np.float32(extensions[i].rank - malus[i]), -i)",
    ),
    "live ones among the finished": ("(finished or cut)", "(finished + cut)"),
    "live ones preferred": ("(finished or cut)", "(cut or finished)"),
    "state of another hypothesis": (
        "logp = logp_fn(parent.ids)\n                ranks",
        "logp = logp_fn(lives[group][0].ids)\n                ranks",
    ),
    "gives up too early": ("one.score <= ended[wanted - 1].score for", "one.rank <= ended[wanted - 1].score for"),
    "greedy search unprotected": ("greedy=group == 0 and size > 1 and not rules.phrases", "greedy=False"),
    "groups all alike": ("chosen.count(token)", "0"),
    "diversity is kept in the sum": ("False, total, greedy)", "False, total - malus[-1] if malus else total, greedy)"),
    "an end without the phrases": ("or (token == eos and not rules.complete(parent.ids))", ""),
    "no bank for what has met more": ("key=lambda i: (turns[i], -living[i][1])", "key=lambda i: i"),
    "coverage of the limit": ("+ rules.bonus(one.ids))\n", "+ rules.bonus(one.ids[:1]))\n"),
    "repetition penalized as improbable": ("ranks[token] * np.float32(self.penalty)", "ranks[token] / np.float32(self.penalty)"),
    "n-grams of one token more": ("(*ids[len(ids) - self.ngram + 1 :], token)", "(*ids[len(ids) - self.ngram :], token)"),
    "prefix of one token less": ("if len(ids) < len(self.prefix):", "if len(ids) < len(self.prefix) - 1:"),
    "phrases blocked as tokens": ("any(text[:end].endswith(phrase)", "any(text[len(before):end].endswith(phrase)"),
    "end mark one token early": ("len(ids) + 1 < self.least", "len(ids) + 2 < self.least"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug):
    source, (right, wrong) = inspect.getsource(reference), BUGS[bug]
    assert source.count(right) == 1
    mutant = ModuleType("mutant")
    exec(source.replace(right, wrong), mutant.__dict__)

    def differs(setting, row):
        rules = mutant.Rules(*draw_once(setting).rules[row])
        return not agree(wanted(setting, row), expected(setting, row, mutant.beam_search, rules=rules))

    assert any(differs(setting, row) for row in range(ROWS) for setting in SETTINGS)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_take", lambda values, index: jax.vmap(lambda row, chosen: row[(chosen + 1) % len(row)])(values, index)),  # the neighbors
        ("put", lambda flags, new, old: old),  # nothing is frozen
        ("length_penalty", lambda length, alpha: ((4.0 + length) / 6.0) ** alpha),
        ("_better_in_bank", lambda bank, counts: jnp.cumsum(counts, axis=1) - 1),  # one bank
        ("_hopeless", lambda live, ended, limit, how: jnp.isfinite(ended.score).any(axis=1)),
    ],
    ids=["parents", "frozen", "penalty", "banks", "first end"],
)
def test_a_bug_in_the_search_itself_is_caught(monkeypatch, name, wrong):
    setting = SETTINGS[31] if name == "_better_in_bank" else SETTINGS[3]
    right = searched(setting)
    monkeypatch.setattr(beam, name, wrong)
    found = run(setting, draw_once(setting), make_search(setting))
    assert not all(agree(present_or_none(found, row), present(right, row)) for row in range(ROWS))


def present_or_none(found, row):
    try:
        return present(found, row)
    except AssertionError:
        return []
