"""Softmax: weights that sum to 1, blind to a shift of the whole row."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.layers.softmax import softmax, softmax_backward

from ..gradients import assert_gradient, assert_linear
from ..strategies import arrays, normal, seeds, some


@some
@given(arrays(dims=3))
def test_rows_are_positive_and_sum_to_one(x):
    p = softmax(x)
    assert p.shape == x.shape and (p > 0).all()
    numpy.testing.assert_allclose(p.sum(-1), 1)


def test_exponentials_shared_out():
    numpy.testing.assert_allclose(softmax(numpy.log([[1.0, 2.0, 5.0]])), [[1 / 8, 2 / 8, 5 / 8]])


@some
@given(arrays(), st.floats(-1000, 1000))
def test_a_shift_of_the_row_changes_nothing(x, shift):
    numpy.testing.assert_allclose(softmax(x + shift), softmax(x), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_floats_do_not_overflow(dtype):
    low, high = numpy.finfo(dtype).min, numpy.finfo(dtype).max
    p = softmax(numpy.array([[high, high], [low, low], [low, 0.0], [80.0, -80.0]], dtype=dtype))
    assert p.dtype == dtype
    numpy.testing.assert_allclose(p, [[0.5, 0.5], [0.5, 0.5], [0, 1], [1, 0]], atol=1e-30)


@some
@given(arrays(), seeds)
def test_backward(x, seed):
    dp = normal(seed, *x.shape)
    dx = softmax_backward(dp, softmax(x))
    assert_gradient(lambda: (dp * softmax(x)).sum(), x, dx)
    assert_linear(lambda dp: (softmax_backward(dp, softmax(x)),), dp)
    numpy.testing.assert_allclose(dx.sum(-1), 0, atol=1e-12)  # none along the shift that softmax does not see


@some
@given(arrays())
def test_in_place_gives_the_same_bits(x):
    expected = softmax(x)
    assert softmax(x, out=x) is x
    numpy.testing.assert_array_equal(x, expected)
