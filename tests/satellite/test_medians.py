"""Medians without NaN: the same as numpy's, whatever the length and the gaps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satellite.medians import median_first, median_last, median_of, median_of_parts, plain_median


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.one_of(st.floats(-1e3, 1e3), st.just(float("nan"))),
    )
)
def test_agrees_with_numpy(values: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = np.nanmedian(values, axis=-1)
    assert np.array_equal(median_last(values), expected, equal_nan=True)
    assert np.array_equal(median_first(values.T), expected, equal_nan=True)


@pytest.mark.parametrize("length", [24, 25])
def test_both_ways_of_sorting_and_any_shape(length: int) -> None:
    values = np.random.default_rng(1).normal(size=(3, 5, length)).astype(np.float32)
    assert np.array_equal(median_last(values), np.median(values.astype(np.float64), axis=-1))
    assert median_last(np.empty((2, 0))).tolist() == pytest.approx([np.nan, np.nan], nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([5, 24, 25, 60]))
def test_of_chosen_parts(seed: int, length: int) -> None:
    """Some of the last axis, some of the first, and with numbers left out."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((length, 3, 70)) < 0.2, np.nan, rng.integers(0, 9, (length, 3, 70)).astype(float))
    chosen, allowed = rng.integers(0, 70, (4, length)), rng.random((4, length)) < 0.7
    member = rng.random((4, length)) < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        some = np.nanmedian(np.where(allowed, values[:, :, chosen], np.nan), axis=-1)
        parts = np.stack([np.nanmedian(values[m], axis=0) for m in member])
    assert np.array_equal(median_of(values, chosen, allowed), some, equal_nan=True)
    assert np.array_equal(median_of_parts(values, member), parts, equal_nan=True)
    assert plain_median(values[values == values]) == np.nanmedian(values)
    assert median_of_parts(values, member[:0]).shape == (0, 3, 70)
