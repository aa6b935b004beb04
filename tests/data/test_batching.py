import dataclasses
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from etils import epath
from hypothesis import strategies as st
from tiny import DEBUG, changed

from flax_s2s.commands.train import as_begun
from flax_s2s.commands.wiring import choose_evaluation_shapes, make_ready
from flax_s2s.config import EOS, PAD, DataConfig, UserError
from flax_s2s.data.batching import (
    Filtered,
    Shape,
    TokenPairs,
    add_end,
    assign,
    choose_shapes,
    keep_fitting,
    make_batch,
    make_ragged,
    pad,
    rows_of,
)
from flax_s2s.data.pipeline import Pipeline
from flax_s2s.presets import load_preset
from flax_s2s.runs import rundir

ROOT = Path(__file__).parents[2]
MULTI30K = ROOT / ".." / "shared" / "data" / "multi30k"


def lengths_of(pairs):
    return pairs.source.lengths, pairs.target.lengths


def pairs_of(lengths):
    """pairs_of([(2, 3)]): tokens are numbered from 10, each sequence ends with EOS; lengths count EOS."""
    number, sides = 10, ([], [])
    for pair in lengths:
        for side, length in zip(sides, pair, strict=True):
            side.append([*range(number, number + length - 1), EOS])
            number += length - 1
    return TokenPairs(make_ragged(sides[0]), make_ragged(sides[1]))


def tokens_of(pairs):
    return Counter([*pairs.source.flat.tolist(), *pairs.target.flat.tolist()])


LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=60)
CONFIGS = st.builds(
    lambda **fields: DataConfig(**fields),
    batch_tokens=st.integers(320, 1000),
    row_multiple=st.sampled_from([1, 2, 8]),
    buckets=st.integers(1, 6),
)
FEW = hypothesis.settings(max_examples=40, deadline=None)


def padding(pairs, shapes):
    """Padded tokens of all pairs, filler rows left out."""
    return sum(shapes[i].src + shapes[i].tgt for i in assign(pairs, shapes))


# Ragged


def test_ragged_is_flat_tokens_and_starts():
    ragged = make_ragged([[5, 6], [], [7]])
    assert ragged.flat.tolist() == [5, 6, 7]
    assert ragged.flat.dtype == np.int32
    assert ragged.starts.tolist() == [0, 2, 2, 3]
    assert ragged.lengths.tolist() == [2, 0, 1]
    assert make_ragged([]).lengths.tolist() == []


def test_take_chooses_in_the_order_given():
    taken = pairs_of([(2, 1), (1, 3), (3, 2)]).take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.source.flat.tolist() == [13, 14, EOS, 10, EOS]
    assert taken.target.flat.tolist() == [15, EOS, EOS]


def test_add_end_appends_the_end_mark():
    ended = add_end([[5, 6], []])
    assert ended.flat.tolist() == [5, 6, EOS, EOS]
    assert ended.lengths.tolist() == [3, 1]


# Filter


def test_pairs_are_left_out_for_the_first_reason_that_holds():
    lengths = [(5, 5), (6, 1), (6, 9), (5, 9), (1, 5), (5, 2), (2, 5), (5, 7)]
    config = DataConfig(max_source_tokens=5, max_target_tokens=7, max_ratio=2.5)
    kept, filtered = keep_fitting(pairs_of(lengths), config)
    assert filtered == Filtered(long_source=2, long_target=1, ratio=1)
    assert kept.tolist() == [0, 5, 6, 7]
    assert str(filtered) == "2 long source, 1 long target, 1 length ratio"


@FEW
@hypothesis.given(LENGTHS, st.integers(1, 40), st.integers(1, 40), st.floats(1, 10))
def test_every_pair_is_kept_or_counted_once(lengths, source, target, ratio):
    config = DataConfig(max_source_tokens=source, max_target_tokens=target, max_ratio=ratio)
    fitting = [i for i, (s, t) in enumerate(lengths) if s <= source and t <= target and max(s, t) <= ratio * min(s, t)]
    hypothesis.assume(fitting)
    kept, filtered = keep_fitting(pairs_of(lengths), config)
    assert kept.tolist() == fitting
    assert len(kept) + sum(filtered) == len(lengths)


# Shapes


@FEW
@hypothesis.given(LENGTHS, CONFIGS)
def test_shapes_are_few_fit_the_budget_and_hold_every_pair(lengths, config):
    pairs = pairs_of(lengths)
    shapes = choose_shapes(*lengths_of(pairs), config)
    assert 1 <= len(shapes) <= config.buckets
    assert len(set(shapes)) == len(shapes)
    for shape in shapes:
        assert shape.rows > 0
        assert shape.rows % config.row_multiple == 0
        assert shape.rows * max(shape.src, shape.tgt) <= config.batch_tokens
        assert (shape.rows + config.row_multiple) * max(shape.src, shape.tgt) > config.batch_tokens  # as many rows as fit
    for (source, target), chosen in zip(lengths, assign(pairs, shapes), strict=True):
        assert source <= shapes[chosen].src
        assert target <= shapes[chosen].tgt


@FEW
@hypothesis.given(LENGTHS, CONFIGS)
def test_more_buckets_never_pad_more(lengths, config):
    pairs = pairs_of(lengths)
    paddings = [padding(pairs, choose_shapes(*lengths_of(pairs), dataclasses.replace(config, buckets=buckets))) for buckets in range(1, 6)]
    assert paddings == sorted(paddings, reverse=True)
    assert paddings[0] == len(lengths) * (max(s for s, _ in lengths) + max(t for _, t in lengths))


def test_shapes_depend_on_nothing_but_the_lengths():
    one, two = pairs_of([(3, 4), (9, 2), (5, 5)] * 7), pairs_of([(5, 5), (3, 4), (9, 2)] * 7)
    assert choose_shapes(*lengths_of(one), DataConfig()) == choose_shapes(*lengths_of(two), DataConfig())


def test_two_sizes_make_two_exact_shapes():
    pairs = pairs_of([(3, 4)] * 10 + [(20, 25)] * 5)
    config = DataConfig(batch_tokens=200, row_multiple=4, buckets=5)
    assert choose_shapes(*lengths_of(pairs), config) == [Shape(48, 3, 4), Shape(8, 20, 25)]


def test_rows_are_the_multiple_that_the_budget_holds():
    config = DataConfig(batch_tokens=100, row_multiple=8)
    assert [rows_of(*size, config) for size in [(10, 5), (5, 10), (6, 6), (12, 13), (13, 1), (50, 50)]] == [8, 8, 16, 8, 8, 8]


@FEW
@hypothesis.given(LENGTHS, CONFIGS)
def test_a_pair_goes_to_the_smallest_shape_that_holds_it(lengths, config):
    pairs = pairs_of(lengths)
    shapes = choose_shapes(*lengths_of(pairs), config)
    for (source, target), chosen in zip(lengths, assign(pairs, shapes), strict=True):
        fitting = [shape.src + shape.tgt for shape in shapes if source <= shape.src and target <= shape.tgt]
        assert shapes[chosen].src + shapes[chosen].tgt == min(fitting)


def test_a_pair_that_fits_nowhere_is_the_users_error():
    with pytest.raises(UserError, match=r"^pair 1 has 4\+3 tokens and fits into none of the shapes 8x\(3\+5\), 8x\(5\+2\)$"):
        assign(pairs_of([(3, 5), (4, 3)]), [Shape(8, 3, 5), Shape(8, 5, 2)])


# Batches


def test_pad_fills_rows_and_columns():
    padded = pad([np.array([5, 2], np.int32), np.array([7, 8, 2], np.int32)], 3, 4)
    assert padded.tolist() == [[5, 2, 0, 0], [7, 8, 2, 0], [0, 0, 0, 0]]
    assert padded.dtype == np.int32


def test_a_batch_holds_the_chosen_pairs_in_order():
    batch = make_batch(pairs_of([(2, 3), (1, 1), (3, 2)]), np.array([2, 0]), Shape(3, 4, 3))
    assert batch.src_ids.tolist() == [[13, 14, EOS, PAD], [10, EOS, PAD, PAD], [PAD] * 4]
    assert batch.tgt_ids.tolist() == [[15, EOS, PAD], [11, 12, EOS], [PAD] * 3]


@FEW
@hypothesis.given(LENGTHS, CONFIGS)
def test_every_real_token_appears_once_in_an_epoch(lengths, config):
    pairs = pairs_of(lengths)
    pipeline = Pipeline(pairs, choose_shapes(*lengths_of(pairs), config), seed=3)
    seen = Counter()
    for planned in pipeline.plan(0):
        batch = pipeline.batch(planned)
        assert batch.src_ids.shape == (planned.shape.rows, planned.shape.src)
        assert batch.tgt_ids.shape == (planned.shape.rows, planned.shape.tgt)
        seen.update([*batch.src_ids.ravel().tolist(), *batch.tgt_ids.ravel().tolist()])
    del seen[PAD]
    assert seen == tokens_of(pairs)


@pytest.mark.skipif(not MULTI30K.is_dir(), reason=f"the corpora of {MULTI30K} are not here")
def test_multi30k_is_padded_by_less_than_15_percent():
    config = load_preset(str(ROOT / "configs" / "multi30k_en_de.py"))
    ready = make_ready(dataclasses.replace(config, data=dataclasses.replace(config.data, folder=str(MULTI30K))), None)
    pipeline = Pipeline(ready.tokens.pairs, ready.shapes, config.seed)
    waste = pipeline.waste(pipeline.plan(0))
    print(f"padding waste {waste:.2%}, shapes {', '.join(map(str, ready.shapes))}; left out: {ready.tokens.filtered}")
    assert waste < 0.15
    assert len(ready.tokens.pairs) + sum(ready.tokens.filtered) == 29_000


def test_without_a_number_a_further_shape_saves_enough():
    """0 buckets: as many as each save the least number of tokens, and no more; the same ones as if so many were asked for."""
    rng = np.random.default_rng(5)
    pairs = pairs_of(rng.integers(1, 40, (300, 2)).tolist())
    free, counts = DataConfig(batch_tokens=256, row_multiple=2, buckets=0), []
    asked = {count: choose_shapes(*lengths_of(pairs), dataclasses.replace(free, buckets=count)) for count in range(1, 14)}
    saved = {count: padding(pairs, asked[count - 1]) - padding(pairs, asked[count]) for count in range(2, 14)}
    for least in (0.0, 50.0, 200.0, 1000.0, 1e9):
        shapes = choose_shapes(*lengths_of(pairs), free, least)
        counts.append(len(shapes))
        assert shapes == asked[len(shapes)]
        assert all(saved[count] > least for count in range(2, len(shapes) + 1))
        assert len(shapes) == 12 or saved[len(shapes) + 1] <= least
    assert counts == sorted(counts, reverse=True) and counts[0] == 12 and counts[-1] == 1 and len(set(counts)) > 3


def test_more_steps_pay_for_more_shapes_of_training_and_a_run_keeps_its_own(tmp_path):
    config = changed(load_preset(DEBUG), {"data.buckets": 0, "data.max_train_pairs": 400})
    few, many = (changed(config, {"training.steps": steps}) for steps in (2, 10**7))
    ready = make_ready(few, None)
    assert len(ready.shapes) == 1 and ready.shapes[-1] == make_ready(many, None).shapes[-1]
    assert len(make_ready(many, None).shapes) > 4
    assert len(make_ready(changed(few, {"data.buckets": 3}), None).shapes) == 3  # as many as are asked for
    # What is measured must not depend on how long is trained: the best score is part of the state.
    found = [choose_evaluation_shapes(each, ready.vocabularies, ready.tokens.pairs) for each in (few, many)]
    assert found[0] == found[1]
    rundir.write_config(epath.Path(tmp_path), changed(few, {"data.buckets": 3}))
    assert as_begun(epath.Path(tmp_path), many).data.buckets == 3
    assert as_begun(epath.Path(tmp_path), changed(many, {"data.buckets": 5})).data.buckets == 5
    assert as_begun(epath.Path(tmp_path / "new"), many).data.buckets == 0
