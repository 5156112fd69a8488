"""The kernels of GELU are the functions of `layers/mlp.py`."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minibloom.cuda import gelu as kernels
from minibloom.layers import mlp as plain
from minibloom.layers.mlp import A, C

from ..strategies import normal, seeds
from .kernels import assert_as_near, examples, launches, on_devices, there, wide

pytestmark = on_devices
rows = st.lists(st.integers(1, 4), min_size=0, max_size=2)
widths = st.sampled_from([1, 5, 32, 255, 300])
sizes = st.sampled_from([0.1, 1.0, 10.0])


@examples
@example([], 1, 19261, 10.0)  # x = -4.6: by tanh the kernel kept no digit of what gelu lets through there
@given(rows, widths, seeds, sizes)
def test_gelu_and_its_slope(leading, width, seed, size):
    x, dy = normal(seed, *leading, width, dtype="float32") * numpy.float32(size), normal(seed + 1, *leading, width)
    dy = dy.astype("float32")
    gate, slope = plain.gate(wide(x)), C * (1 + 3 * A * wide(x) ** 2)  # u'
    moves = 1 + abs(2 * C * x * (1 + A * wide(x) ** 2))  # a rounding of exp's argument is |2u| roundings of exp
    exact = plain.gelu(wide(x))
    assert_as_near(kernels.gelu(there(x)), plain.gelu(x), exact, (abs(exact) * moves).max())
    terms = abs(dy) * (gate + 2 * abs(x) * gate * (1 - gate) * slope)
    exact = plain.gelu_backward(wide(dy), wide(x))
    assert_as_near(kernels.gelu_backward(there(dy), there(x)), plain.gelu_backward(dy, x), exact, (terms * moves).max())


@examples
@given(rows, widths, seeds, st.booleans())
def test_with_the_bias_it_is_gelu_of_the_sum_to_the_bit(leading, width, seed, keep):
    up, bias = normal(seed, *leading, width, dtype="float32"), normal(seed + 1, width, dtype="float32")
    here = there(up)
    act = kernels.bias_gelu(here, there(bias), keep)
    assert (act.get() == kernels.gelu(there(up + bias)).get()).all()  # so that watching the sum changes no bit
    assert (here.get() == (up + bias if keep else act.get())).all()


@pytest.mark.parametrize("x", [-1e12, -100, 100, 1e12])
def test_far_from_0_it_is_0_or_x(x):
    one, there_ = numpy.float32([1]), there(numpy.float32([x]))
    assert kernels.gelu(there_).get() == max(0, numpy.float32(x))
    assert kernels.gelu_backward(there(one), there_).get() == (x > 0)


def test_the_layer_takes_them_for_float32_on_a_device_alone():
    x = normal(0, 3, 4, dtype="float32")
    with launches() as names:
        plain.gelu(there(x))
        plain.gelu_backward(there(x), there(x))
    assert names == ["gelu", "gelu_backward"]
    with launches() as names:
        plain.gelu(there(wide(x)))
        plain.gelu(x)
    assert names == []
