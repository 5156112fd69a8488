"""A weight times a few rows: what the layers make of them one after another, in one launch."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.cuda.kernels import kernel
from minibloom.cuda.matvec import MOST, matvec
from minibloom.layers.layer_norm import layer_norm
from minibloom.layers.linear import linear
from minibloom.layers.mlp import gelu
from minibloom.layers.small_weights import BFloat16Weight, Float16Weight, to_bfloat16

from ..strategies import few, normal, seeds
from .against_float64 import as_near
from .kernels import on_devices

pytestmark = on_devices

EPS = 1e-5
FEWEST = 24  # numbers whose largest errors are compared
USED = [  # of bias, norm, GELU and residual, what decoding asks for: each combination is compiled by itself
    (True, True, False, False), (True, False, False, True), (True, True, True, False), (False, True, False, False),
]  # fmt: skip
WEIGHTS: dict[str, Any] = {
    "float32": lambda w: (w.astype("f4"), w.astype("f4")),
    "float16": lambda w: (w.astype("f2"), Float16Weight(w.astype("f2"))),
    "bfloat16": lambda w: (to_bfloat16(w), BFloat16Weight(to_bfloat16(w))),
}


def weight(w: numpy.ndarray, dtype: str, xp: Any) -> tuple[numpy.ndarray, Any]:
    """`w` as numbers that `dtype` has, in float32; and as a weight of the device."""
    numbers, small = WEIGHTS[dtype](w)
    if dtype == "float32":
        return numbers, xp.asarray(numbers)
    moved = type(small).__new__(type(small))
    moved.stored = xp.asarray(numbers)
    return small.widen(), moved


def plain(x: Any, w: Any, bias: Any, norm: Any, active: bool, residual: Any) -> Any:
    y = linear(x if norm is None else layer_norm(x, *norm, EPS), w, bias)
    y = gelu(y) if active else y
    return y if residual is None else residual + y


@pytest.mark.parametrize("dtype", WEIGHTS)
@few
@given(
    st.sampled_from([1, 3, 9]), st.sampled_from([1, 7, 8, 40, 264, 300]), st.integers(1, 23),
    st.sampled_from(USED), seeds,
)  # fmt: skip
def test_it_is_norm_product_bias_gelu_and_residual(device, dtype, N, width, height, options, seed):
    repeats = -(-FEWEST // (N * height))  # of a lone number, the plain path may be right by chance
    found = [both_ways(device, dtype, N, width, height, options, seed + 9 * i) for i in range(repeats)]
    as_near(*(numpy.concatenate([one[way].ravel() for one in found]) for way in range(3)))


def both_ways(device, dtype, N, width, height, options, seed):
    """What the kernel, the plain path in float32 and that in float64 make of the same numbers."""
    with_bias, with_norm, active, with_residual = options
    x, w = 3 * normal(seed, N, width) + 1, normal(seed + 1, height, width) / numpy.sqrt(width)
    bias = normal(seed + 2, height) if with_bias else None
    norm = (1 + 0.3 * normal(seed + 3, width), normal(seed + 4, width)) if with_norm else None
    residual = normal(seed + 5, N, height) if with_residual else None
    numbers, moved = weight(w, dtype, device)

    def given_as(kind: str, xp: Any = numpy) -> list[Any]:
        def cast(a: Any) -> Any:
            return None if a is None else xp.asarray(a.astype("f4").astype(kind))

        return [cast(x), cast(numbers), cast(bias), norm and tuple(map(cast, norm)), active, cast(residual)]

    there = given_as("f4", device)
    y = device.empty((N, height), dtype="float32") if residual is None else there[5]  # in place, as decoding adds
    result = matvec(
        there[0], moved, there[2], y, norm=norm and (*there[3], EPS), gelu=active, residual=there[5]
    )  # fmt: skip
    assert result is y
    return y.get(), plain(*given_as("f4")), plain(*given_as("f8"))


def test_gelu_keeps_its_digits_where_it_lets_almost_nothing_through(device):
    """By tanh it would not: 1 + tanh u is 3e-6 there, and off by 3e-8."""
    x, w, bias = numpy.ones((1, 8), "f4"), numpy.zeros((1, 8), "f4"), numpy.float32([-4.6])
    y = matvec(*map(device.asarray, (x, w, bias)), device.empty((1, 1), dtype="float32"), gelu=True)
    numpy.testing.assert_allclose(y.get(), gelu(bias.astype("f8"))[None], rtol=1e-5)


def test_each_lane_has_a_row(device):
    x, w = normal(0, MOST, 40, dtype="f4"), normal(1, 11, 40, dtype="f4")
    y = matvec(device.asarray(x), device.asarray(w), None, device.empty((MOST, 11), dtype="float32"))
    as_near(y, x @ w.T, x.astype("f8") @ w.astype("f8").T)


def test_rows_that_are_no_power_of_two_are_compiled_with_their_neighbours(device):
    x, w = (device.asarray(normal(0, *shape, dtype="float32")) for shape in ((8, 8), (3, 8)))
    matvec(x[:5], w, None, device.empty((5, 3), dtype="float32"))
    before = kernel.cache_info().misses
    for rows in (6, 7, 8):
        matvec(x[:rows], w, None, device.empty((rows, 3), dtype="float32"))
    assert kernel.cache_info().misses == before
