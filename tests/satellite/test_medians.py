"""Medians without NaN: the same as numpy's, whatever the length and the gaps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satellite.medians import median_first, median_last


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
