import itertools
from collections import Counter

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from flax_s2s.config import EOS, PAD, DataConfig
from flax_s2s.data.batching import Batch, Shape, TokenPairs, choose_shapes, make_ragged
from flax_s2s.data.pipeline import Pipeline, Planned, Position, Share, in_order


def lengths_of(pairs):
    return pairs.source.lengths, pairs.target.lengths


SHAPES = [Shape(4, 3, 4), Shape(4, 8, 8)]


def corpus(count, longest=8):
    """Pairs whose tokens tell their number: source [10 + i, .., EOS], target [1000 + i, .., EOS]."""
    lengths = np.random.default_rng(0).integers(1, longest + 1, (count, 2))
    source = [[10 + i] * (length - 1) + [EOS] for i, length in enumerate(lengths[:, 0])]
    target = [[1000 + i] * (length - 1) + [EOS] for i, length in enumerate(lengths[:, 1])]
    return TokenPairs(make_ragged(source), make_ragged(target))


def order_of(pipeline, epoch):
    return [(planned.shape, planned.pairs.tolist()) for planned in pipeline.plan(epoch)]


def equal(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_pair_comes_once_an_epoch(epoch):
    plan = Pipeline(corpus(50), SHAPES, seed=1).plan(epoch)
    assert Counter(np.concatenate([planned.pairs for planned in plan]).tolist()) == Counter(range(50))
    assert all(0 < len(planned.pairs) <= planned.shape.rows for planned in plan)
    short = Counter(planned.shape for planned in plan if len(planned.pairs) < planned.shape.rows)
    assert all(count == 1 for count in short.values())  # only the last batch of a shape has filler


def test_the_order_is_a_function_of_seed_and_epoch():
    pairs = corpus(50)
    first = Pipeline(pairs, SHAPES, seed=1)
    assert order_of(first, 3) == order_of(Pipeline(corpus(50), SHAPES, seed=1), 3)
    first.plan(8)  # what was asked before does not matter
    assert order_of(first, 3) == order_of(Pipeline(pairs, SHAPES, seed=1, share=Share(1, 2)), 3)
    orders = [order_of(Pipeline(pairs, SHAPES, seed=seed), epoch) for seed in (1, 2, 3) for epoch in (0, 1, 2)]
    assert all(one != two for one, two in itertools.combinations(orders, 2))


def test_the_order_of_a_tiny_corpus_has_not_changed():
    """A run that is continued with another order would see pairs twice."""
    pairs = TokenPairs(make_ragged([[9, EOS]] * 6 + [[9] * 7 + [EOS]] * 6), make_ragged([[9, EOS]] * 12))
    pipeline = Pipeline(pairs, SHAPES, seed=1)
    assert [planned.pairs.tolist() for planned in pipeline.plan(0)] == [[2, 3], [10, 6], [4, 5, 0, 1], [8, 11, 7, 9]]
    assert [planned.pairs.tolist() for planned in pipeline.plan(1)] == [[8, 10], [3, 5], [6, 9, 7, 11], [2, 4, 1, 0]]


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(1, 30), st.integers(0, 40))
def test_the_stream_from_any_position_is_the_tail_of_the_whole(count, steps):
    """Across the ends of epochs: nothing is repeated, nothing left out."""
    pipeline = Pipeline(corpus(count), SHAPES, seed=1)
    whole = list(itertools.islice(pipeline.stream(Position(0, 0)), steps + 20))
    start = whole[steps - 1][0] if steps else Position(0, 0)
    tail = list(itertools.islice(Pipeline(corpus(count), SHAPES, seed=1).stream(start), 20))
    assert [position for position, _ in tail] == [position for position, _ in whole[steps:]]
    assert all(equal(one, two) for (_, one), (_, two) in zip(tail, whole[steps:], strict=True))


def test_the_stream_is_one_epoch_after_the_other():
    pipeline = Pipeline(corpus(20), SHAPES, seed=1)
    plans = [(epoch, number, planned) for epoch in range(3) for number, planned in enumerate(pipeline.plan(epoch))]
    stream = pipeline.stream(Position(0, 0))
    for (_, _, planned), following in itertools.pairwise(plans):
        position, batch = next(stream)
        assert position == Position(*following[:2])  # the position behind a batch is where the next one stands
        assert equal(batch, pipeline.batch(planned))


def test_tokens_may_differ_from_epoch_to_epoch():
    """Also where the stream is taken up in the middle of an epoch, and each epoch's pairs are made once for its stream."""
    epochs = [corpus(20, longest) for longest in (8, 3, 6, 8)]
    asked = []

    def draw(epoch):
        asked.append(epoch)
        return epochs[epoch]

    pipeline = Pipeline(draw, SHAPES, seed=1)
    for epoch, pairs in enumerate(epochs):
        same = Pipeline(pairs, SHAPES, seed=1)
        assert order_of(pipeline, epoch) == order_of(same, epoch)
        assert all(equal(pipeline.batch(planned), same.batch(planned)) for planned in pipeline.plan(epoch))
        assert pipeline.count(epoch) == tuple(int(lengths.sum()) for lengths in lengths_of(pairs))
    assert asked == [0, 1, 2, 3]
    whole = list(itertools.islice(Pipeline(draw, SHAPES, seed=1).stream(Position(0, 0)), 20))
    for start in (3, 9):
        tail = itertools.islice(Pipeline(draw, SHAPES, seed=1).stream(whole[start - 1][0]), 20 - start)
        assert all(equal(one, two) for (_, one), (_, two) in zip(tail, whole[start:], strict=True))


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_the_processes_are_the_whole_batch(processes):
    pairs = corpus(30)
    streams = [Pipeline(pairs, SHAPES, seed=1, share=Share(i, processes)).stream(Position(0, 0)) for i in range(processes)]
    whole = Pipeline(pairs, SHAPES, seed=1).stream(Position(0, 0))
    for _ in range(25):
        position, expected = next(whole)
        parts = [next(stream) for stream in streams]
        assert {part[0] for part in parts} == {position}
        assert {part[1].src_ids.shape[0] for part in parts} == {4 // processes}
        assert equal(Batch(*map(np.concatenate, zip(*(part[1] for part in parts), strict=True))), expected)


def test_a_share_is_a_slice_of_rows_even_of_a_short_batch():
    planned = Planned(Shape(8, 3, 4), np.array([5, 6, 7]))
    parts = [Share(process, 4).of(planned) for process in range(4)]
    assert [part.pairs.tolist() for part in parts] == [[5, 6], [7], [], []]
    assert {part.shape for part in parts} == {Shape(2, 3, 4)}
    assert Share().of(planned).pairs.tolist() == [5, 6, 7]


def test_in_order_visits_every_pair_once_in_the_shapes_of_training():
    pairs = corpus(30)
    batches = list(in_order(pairs, SHAPES))
    assert {(batch.src_ids.shape, batch.tgt_ids.shape) for batch in batches} == {((4, 3), (4, 4)), ((4, 8), (4, 8))}
    seen = Counter(np.concatenate([np.concatenate([ids.ravel() for ids in batch]) for batch in batches]).tolist())
    del seen[PAD]
    assert seen == Counter([*pairs.source.flat.tolist(), *pairs.target.flat.tolist()])
    again = list(in_order(pairs, SHAPES))
    assert all(equal(one, two) for one, two in zip(batches, again, strict=True))


@pytest.mark.parametrize("processes", [2, 4])
def test_in_order_is_shared_like_training(processes):
    shared = [list(in_order(corpus(30), SHAPES, Share(process, processes))) for process in range(processes)]
    for expected, *parts in zip(in_order(corpus(30), SHAPES), *shared, strict=True):
        assert equal(Batch(*map(np.concatenate, zip(*parts, strict=True))), expected)


def test_waste_is_the_share_of_positions_without_a_token():
    pairs = TokenPairs(make_ragged([[9, EOS], [8, 9, EOS], [EOS]]), make_ragged([[9, EOS], [EOS], [9, 9, EOS]]))
    pipeline = Pipeline(pairs, [Shape(2, 3, 3)], seed=1)  # two batches of 2 x (3 + 3) for 6 + 6 tokens
    assert pipeline.waste(pipeline.plan(0)) == 1 - 12 / 24
    one = Pipeline(pairs, [Shape(3, 3, 3)], seed=1)
    assert one.waste(one.plan(0)) == pytest.approx(1 - 12 / 18, abs=1e-12)


def test_waste_counts_what_the_batches_hold():
    pairs = corpus(40)
    pipeline = Pipeline(pairs, choose_shapes(*lengths_of(pairs), DataConfig(batch_tokens=64, row_multiple=4, buckets=3)), seed=1)
    ids = [ids for planned in pipeline.plan(2) for ids in pipeline.batch(planned)]
    assert pipeline.waste(pipeline.plan(2)) == pytest.approx(sum((i == PAD).sum() for i in ids) / sum(i.size for i in ids), abs=1e-12)
