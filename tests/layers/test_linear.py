"""The linear layer, and the one that is summed in slices."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from minibloom.layers.linear import linear, linear_backward, sliced_linear

from ..gradients import assert_gradients, assert_linear
from ..strategies import normal, seeds, some

sizes = st.integers(1, 5)


@some
@given(st.lists(sizes, max_size=3), sizes, sizes, seeds)
def test_each_output_is_a_row_of_the_weight_times_the_input_plus_its_bias(leading, inner, outer, seed):
    x, weight, bias = normal(seed, *leading, inner), normal(seed + 1, outer, inner), normal(seed + 2, outer)
    y = linear(x, weight, bias)
    assert y.shape == (*leading, outer)
    for position in numpy.ndindex(*leading):
        for o in range(outer):
            numpy.testing.assert_allclose(y[position][o], sum(x[position] * weight[o]) + bias[o], atol=1e-12)
    numpy.testing.assert_allclose(linear(x, weight), y - bias, atol=1e-12)


@some
@given(st.lists(sizes, max_size=3), sizes, sizes, seeds)
def test_backward(leading, inner, outer, seed):
    x, weight, bias = normal(seed, *leading, inner), normal(seed + 1, outer, inner), normal(seed + 2, outer)
    dy = normal(seed + 3, *leading, outer)
    dx, dweight, dbias = linear_backward(dy, x, weight)
    assert_gradients(
        lambda: (dy * linear(x, weight, bias)).sum(),
        {"x": x, "weight": weight, "bias": bias},
        {"x": dx, "weight": dweight, "bias": dbias},
    )
    assert_linear(lambda dy: linear_backward(dy, x, weight), dy)


@some
@given(st.integers(1, 4), sizes, sizes, seeds)
def test_slices_add_up_to_the_whole(slices, width, outer, seed):
    """So `linear_backward` is the backward of the sliced layer too, and the bias is added once."""
    x, weight, bias = normal(seed, 2, slices * width), normal(seed + 1, outer, slices * width), normal(seed + 2, outer)
    numpy.testing.assert_allclose(sliced_linear(x, weight, bias, slices), linear(x, weight, bias), atol=1e-12)


def test_slices_are_added_in_order():
    """The rounding of 1e8 + 1 - 1e8 in float32 shows which sum came first."""
    x, weight, bias = (numpy.array(values, dtype="float32") for values in ([[1e8, 1, -1e8]], [[1, 1, 1]], [0.5]))
    assert sliced_linear(x, weight, bias, 3) == 0.5
