"""Dropout: zeros and what makes up for them."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.layers.dropout import dropout_factors

from ..strategies import seeds, some


def factors(probability: float, seed: int, size: int = 40_000, dtype: str = "float64") -> numpy.ndarray:
    return dropout_factors(numpy.zeros(size, dtype=dtype), probability, numpy.random.default_rng(seed))


@some
@given(st.floats(0.01, 0.9), seeds)
def test_the_expected_factor_is_one(probability, seed):
    drawn = factors(probability, seed)
    assert set(drawn.tolist()) <= {0.0, 1.0 / (1.0 - probability)}
    deviation = numpy.sqrt(probability / (1 - probability) / drawn.size)  # of the mean
    assert abs(drawn.mean() - 1) <= 6 * deviation
    assert abs((drawn == 0).mean() - probability) <= 6 * numpy.sqrt(probability * (1 - probability) / drawn.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probability_zero_drops_nothing(dtype):
    drawn = factors(0.0, 0, dtype=dtype)
    assert (drawn == 1).all() and drawn.dtype == dtype


@some
@given(st.floats(0.1, 0.9), seeds)
def test_a_seed_gives_the_same_zeros_in_every_dtype(probability, seed):
    first = factors(probability, seed, 100)
    numpy.testing.assert_array_equal(first, factors(probability, seed, 100))
    numpy.testing.assert_array_equal(first == 0, factors(probability, seed, 100, "float32") == 0)
    assert (first != factors(probability, seed + 1, 100)).any()
