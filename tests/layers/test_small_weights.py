"""Weights in fewer bits: how near to the numbers they stand for, and that every way to use them means the same."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minibloom import InputError
from minibloom.layers.small_weights import (
    BFloat16Weight,
    Float16Weight,
    Int8Weight,
    SmallWeight,
    row_scales,
    to_bfloat16,
    to_int8,
)

from ..strategies import assert_product, normal, seeds, some

KINDS = ("bfloat16", "float16", "int8")
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def small(kind: str, matrix: numpy.ndarray) -> SmallWeight:
    if kind == "bfloat16":
        return BFloat16Weight(to_bfloat16(matrix))
    if kind == "float16":
        return Float16Weight(matrix.astype("float16"))
    scale = row_scales(matrix)
    return Int8Weight(to_int8(matrix, scale), scale)


@some
@given(arrays.arrays("float32", shapes, elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_int8_is_off_by_at_most_half_a_step_of_its_row(matrix):
    weight = small("int8", matrix)
    off = numpy.abs(weight.widen().astype("float64") - matrix).max(1)
    step = numpy.abs(matrix.astype("float64")).max(1) / 127
    assert (off <= 0.5 * step * (1 + 1e-5) + 2.0**-126).all()  # float32 rounds the scale, and knows nothing smaller
    assert (numpy.abs(weight.stored.astype(int)) <= 127).all()  # so -128, which has no counterpart, is never used


def test_int8_keeps_zeros_and_the_largest_number_of_each_row():
    weight = small("int8", numpy.array([[0, 0, 0], [1, -127, 63]], "float32"))
    numpy.testing.assert_array_equal(weight.widen(), [[0, 0, 0], [1, -127, 63]])
    numpy.testing.assert_array_equal(weight.scale, [1, 1])


@pytest.mark.parametrize(("kind", "code"), [("bfloat16", "uint16"), ("float16", "uint16")])
def test_every_finite_16_bit_number_is_filled_in_exactly(kind, code):
    """All 65,536 of them, subnormal ones and both zeros too, at odd and at even places."""
    bits = numpy.arange(2**16, dtype=code)
    with numpy.errstate(invalid="ignore"):
        values = BFloat16Weight(bits[None]).widen()[0] if kind == "bfloat16" else bits.view("f2").astype("float32")
    bits, values = bits[numpy.isfinite(values)], values[numpy.isfinite(values)]
    for shift in (0, 1):
        rows = numpy.roll(bits, shift).reshape(2, -1)
        weight = BFloat16Weight(rows) if kind == "bfloat16" else Float16Weight(rows.view("f2"))
        halves = weight.fill(slice(None), numpy.empty((2, 2, rows.shape[1] // 2), "float32"))
        both = numpy.stack([halves[0], halves[1]], -1).reshape(-1)
        numpy.testing.assert_array_equal(both.view("u4"), numpy.roll(values, shift).view("u4"))


@some
@given(st.sampled_from(KINDS), shapes, seeds, st.data())
def test_parts_and_blocks_give_the_product_with_the_widened_rows(kind, shape, seed, data):
    weight, x = small(kind, normal(seed, *shape, dtype="float32")), normal(seed + 1, 3, shape[1], dtype="float32")
    start = data.draw(st.integers(0, shape[0] - 1))
    rows = slice(start, data.draw(st.integers(start + 1, shape[0])))
    parts = weight.part(x)
    block = numpy.empty((len(parts), rows.stop - start, shape[1] // len(parts)), "float32")
    assert weight.fill(rows, block) is block
    y = (parts @ block.swapaxes(1, 2)).sum(0)
    if weight.scale is not None:
        y *= weight.scale[rows]
    assert_product(y, x, weight.widen(rows))
    numpy.testing.assert_array_equal(weight.widen(rows), weight.widen()[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_looked_up_by_number_as_in_an_array(kind):
    weight = small(kind, normal(0, 7, 4, dtype="float32"))
    ids = numpy.array([[6, 0], [3, 3]])
    numpy.testing.assert_array_equal(weight[ids], weight.widen()[ids])
    assert weight[ids].dtype == "float32"


@pytest.mark.parametrize(("kind", "bytes"), [("bfloat16", 2), ("float16", 2), ("int8", 1)])
def test_what_a_weight_says_of_itself(kind, bytes):
    weight = small(kind, normal(0, 7, 4, dtype="float32"))
    assert (weight.shape, weight.size, weight.ndim, len(weight), weight.dtype) == ((7, 4), 28, 2, 7, kind)
    assert weight.nbytes == 28 * bytes + (7 * 4 if kind == "int8" else 0)
    assert repr(weight) == f"{type(weight).__name__}([7, 4], {weight.nbytes} bytes)"


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf, -numpy.nan])
def test_what_is_not_finite_is_no_float16_weight(value):
    matrix = numpy.ones((2, 2), "float16")
    matrix[1, 0] = value
    with pytest.raises(InputError, match="holds NaN or infinity"):
        Float16Weight(matrix)
    Float16Weight(numpy.array([[65504, -65504]], "float16"))  # the largest are
