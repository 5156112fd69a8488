"""The kernels of the layer norm are the functions of `layers/layer_norm.py`."""

from __future__ import annotations

import numpy
from hypothesis import example, given
from hypothesis import strategies as st

from minibloom.cuda import layer_norm as kernels
from minibloom.layers import layer_norm as plain

from ..strategies import normal, seeds
from .kernels import assert_as_near, examples, launches, on_devices, there, wide

pytestmark = on_devices
rows = st.lists(st.integers(1, 5), min_size=0, max_size=2)
widths = st.sampled_from([1, 2, 7, 31, 32, 33, 100, 130])


def inputs(leading: list[int], E: int, seed: int) -> tuple[numpy.ndarray, ...]:
    """x with a mean of its own, update, weight, bias and upstream."""
    shapes = [*leading, E], [*leading, E], [E], [E], [*leading, E]
    x, *others = (normal(seed + i, *shape, dtype="float32") for i, shape in enumerate(shapes))
    return x + normal(seed, 1, dtype="float32") * 10, *others


def size(exact: numpy.ndarray, x: numpy.ndarray, eps: float) -> float:
    """What rounding is measured by: a mean is off by roundings of x, which may be far larger than its spread."""
    return abs(exact).max() * max(1.0, (abs(x) / numpy.sqrt(x.var(-1, keepdims=True) + eps)).max())


@examples
@given(rows, widths, seeds, st.sampled_from([1e-5, 1e-2]))
def test_layer_norm_alone_and_of_a_sum(leading, E, seed, eps):
    x, update, weight, bias, _ = inputs(leading, E, seed)
    got, exact = (
        kernels.layer_norm(*map(there, (x, weight, bias)), eps),
        plain.layer_norm(*map(wide, (x, weight, bias)), eps),
    )
    assert_as_near(got, plain.layer_norm(x, weight, bias, eps), exact, size(exact, x, eps))
    total, y = kernels.add_and_norm(*map(there, (x, update, weight, bias)), eps)
    assert (total.get() == x + update).all()
    again = kernels.layer_norm(total, *map(there, (weight, bias)), eps)
    assert (y.get() == again.get()).all()  # so that watching the sum changes no bit


@examples
@given(rows, widths, seeds, st.integers(1, 4))
@example([4], 7, 2082925, 1)  # x about 20 for a spread of 1, and a sum in the plain order that is exact by luck
def test_backward(leading, E, seed, height):
    x, _, weight, _, dy = inputs(leading, E, seed)
    given_, before = (dy, x, weight), kernels.HEIGHT
    kernels.HEIGHT = height
    try:
        got = kernels.layer_norm_backward(*map(there, given_), 1e-3)
    finally:
        kernels.HEIGHT = before
    exact = plain.layer_norm_backward(*map(wide, given_), 1e-3)
    for one, of_32, of_64 in zip(got, plain.layer_norm_backward(*given_, 1e-3), exact, strict=True):
        assert_as_near(one, of_32, of_64, size(of_64, x, 1e-3))


def test_the_layer_takes_them_for_float32_on_a_device_alone():
    x, _, weight, bias, dy = inputs([3], 8, 0)
    with launches() as names:
        plain.layer_norm(*map(there, (x, weight, bias)), 1e-5)
        plain.layer_norm_backward(*map(there, (dy, x, weight)), 1e-5)
    assert names == ["layer_norm", "layer_norm_backward", "layer_norm_sums"]
    with launches() as names:
        plain.layer_norm(*map(there, map(wide, (x, weight, bias))), 1e-5)
        plain.layer_norm(there(x).T.copy().T, *map(there, (weight, bias)), 1e-5)  # a row's numbers far apart
        plain.layer_norm(x, weight, bias, 1e-5)
    assert names == []
