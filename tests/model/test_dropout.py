"""Dropout: the share that is kept, and that a mask depends on key, site and the row's place in the global batch alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_s2s.model.dropout import drop, fold_in, random_bytes, row_keys, threefry

KEY = jax.random.key(3)
RAW = jax.random.key_data(KEY)
ROWS, TIME, FEATURES = 8, 25, 40
ones = jnp.ones((ROWS, TIME, FEATURES))


def keys(rows=ROWS):
    return row_keys(RAW, jnp.int32(0), rows)


def kept(site=0, rate=0.25, first_row=0, features=ones, key=RAW):
    return np.asarray(dropped(features, jnp.int32(first_row), key, site, rate))


@partial(jax.jit, static_argnums=(3, 4))
def dropped(features, first_row, key, site, rate):
    return drop(features, row_keys(key, first_row, features.shape[0]), site, rate)


@pytest.mark.parametrize(("rate", "rounded"), [(0.2, 51 / 256), (0.5, 0.5), (0.001, 0.0), (0.002, 1 / 256), (0.99, 253 / 256)])
def test_rate_is_rounded_to_a_256th_and_the_mean_stays(rate, rounded):
    found = kept(rate=rate)
    assert set(np.unique(found)) == ({0, np.float32(1 / (1 - rounded))} if rounded else {1})
    share = np.mean(found > 0)
    # Five standard deviations of the mean of 8000 coins.
    assert abs(share - (1 - rounded)) <= 5 * np.sqrt(rounded * (1 - rounded) / found.size)
    assert np.mean(found) == pytest.approx(share / (1 - rounded), rel=1e-5)


@pytest.mark.parametrize(("site", "rate"), [(0, 1 / 256), (3, 77 / 256), (200, 0.75)])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_any_key_keeps_its_share(site, rate, seed):
    share = np.mean(kept(site, rate, key=jax.random.key_data(jax.random.key(seed))) > 0)
    # Seven standard deviations: one wrong alarm in 10^11 examples.
    assert abs(share - (1 - rate)) <= 7 * np.sqrt(rate * (1 - rate) / ones.size)


def test_without_keys_or_rate_nothing_is_dropped():
    features = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(drop(features, None, 0, 0.9), features)
    np.testing.assert_array_equal(drop(features, keys(rows=2), 0, 0.0), features)


@pytest.mark.parametrize(("of", "same_along"), [("features", 1), ("steps", 2)])
def test_a_mask_is_shared(of, same_along):
    found = np.asarray(drop(ones, keys(), 5, 0.25, of))
    assert set(np.unique(found)) == {0, np.float32(4 / 3)}
    first = np.take(found, [0], axis=same_along)
    np.testing.assert_array_equal(found, np.broadcast_to(first, found.shape))
    count = first.size
    assert abs(np.mean(first > 0) - 0.75) <= 5 * np.sqrt(0.1875 / count)
    assert all(np.any(first[row] != first[0]) for row in range(1, ROWS))
    longer = np.asarray(drop(jnp.ones((ROWS, TIME + 3, FEATURES)), keys(), 5, 0.25, of))
    np.testing.assert_array_equal(longer[:, :TIME], found)


def test_kept_features_are_scaled_and_gradients_follow_the_mask():
    features = jax.random.normal(KEY, ones.shape)
    np.testing.assert_allclose(kept(features=features), kept() * np.asarray(features), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: dropped(x, jnp.int32(0), RAW, 0, 0.25).sum())(features), kept())


def test_bfloat16_stays_bfloat16():
    found = kept(rate=0.5, features=ones.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), kept(rate=0.5))


def test_same_keys_make_the_same_mask_and_others_another():
    np.testing.assert_array_equal(kept(), kept())
    for other in (kept(site=1), kept(site=100), kept(first_row=ROWS), kept(key=jax.random.key_data(jax.random.key(4)))):
        # Two independent masks that keep 3/4 agree at 10/16 of the places.
        assert np.mean((kept() > 0) == (other > 0)) == pytest.approx(10 / 16, abs=0.05)


def test_rows_differ_from_each_other():
    agreement = [np.mean((kept()[0] > 0) == (kept()[row] > 0)) for row in range(1, ROWS)]
    assert max(agreement) < 0.75  # 10/16 is expected, 1 would be the same mask


def test_a_row_knows_only_its_place_in_the_global_batch():
    whole = kept()
    for first, rows in ((0, 4), (4, 4), (3, 2), (7, 1)):
        np.testing.assert_array_equal(kept(first_row=first, features=ones[:rows]), whole[first : first + rows])


def test_more_padding_columns_keep_the_masks_of_the_others():
    for extra in (1, 2, 7):
        longer = jnp.ones((ROWS, TIME + extra, FEATURES))
        np.testing.assert_array_equal(kept(features=longer)[:, :TIME], kept())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 4096])
def test_bytes_of_a_longer_row_begin_with_those_of_a_shorter(count):
    found = random_bytes(keys(), 7, count)
    assert (found.shape, found.dtype) == ((ROWS, count), jnp.uint8)
    np.testing.assert_array_equal(found, random_bytes(keys(), 7, 4096)[:, :count])


def test_bytes_are_uniform():
    counts = np.bincount(np.asarray(random_bytes(keys(), 7, 4096)).ravel(), minlength=256)
    expected = ROWS * 4096 / 256
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert chi_squared < 255 + 5 * np.sqrt(2 * 255)  # mean 255, variance 510


KNOWN = [  # key, counter and words of Random123's file of known answers, kat_vectors, with 20 rounds
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("key", "counter", "words"), KNOWN)
def test_words_are_those_of_the_authors(key, counter, words):
    assert tuple(map(int, threefry(*(tuple(map(jnp.uint32, pair)) for pair in (key, counter))))) == words


@given(seed=st.integers(0, 2**31 - 1), first=st.integers(0, 2**31 - ROWS))
@settings(max_examples=25, deadline=None)
def test_random_numbers_are_those_of_jax(seed, first):
    key = jax.random.key(seed)
    raw = jax.random.key_data(key)
    np.testing.assert_array_equal(fold_in(raw, jnp.array([0, first])), jax.random.key_data(jax.random.fold_in(key, first)))
    rows = row_keys(raw, jnp.int32(first), ROWS)
    theirs = [jax.random.fold_in(key, first + row) for row in range(ROWS)]
    np.testing.assert_array_equal(rows, [jax.random.key_data(each) for each in theirs])
    words = np.stack([jax.random.bits(each, (9,)) for each in theirs])  # theirs count from (0, 0)
    np.testing.assert_array_equal(random_bytes(rows, 0, 34), words.view(np.uint8)[:, :34])
    assert not np.array_equal(random_bytes(rows, 1, 34), words.view(np.uint8)[:, :34])
