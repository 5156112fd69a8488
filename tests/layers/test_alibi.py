"""ALiBi: the published slopes, and positions that count tokens only."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minibloom.layers.alibi import alibi_bias, alibi_slopes
from minibloom.layers.softmax import softmax

from ..strategies import masks, some


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (2, [2**-4, 2**-8]),
        (3, [2**-4, 2**-8, 2**-2]),
        (6, [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]),
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
    ],
)
def test_published_slopes(heads, slopes):
    assert alibi_slopes(heads, numpy).tolist() == slopes


def test_slopes_of_the_176b_model():
    """112 heads: the 64 slopes of 64 heads, then every second one of 128 heads, up to 48. Not sorted."""
    slopes = alibi_slopes(112, numpy)
    assert slopes.dtype == "float32" and len(slopes) == 112
    numpy.testing.assert_allclose(slopes[:64], [2 ** (-8 * i / 64) for i in range(1, 65)], rtol=1e-5)
    numpy.testing.assert_allclose(slopes[64:], [2 ** (-8 * i / 128) for i in range(1, 97, 2)], rtol=1e-5)


@some
@given(st.integers(1, 130))
@example(112)
def test_slopes_are_distinct_and_fall_from_at_most_one(heads):
    slopes = alibi_slopes(heads, numpy)
    power = 1 << (heads.bit_length() - 1)  # the power of two below
    assert slopes.shape == (heads,) and len(set(slopes.tolist())) == heads
    assert (slopes > 0).all() and (slopes < 1).all()
    assert (numpy.diff(slopes[:power]) < 0).all() and (numpy.diff(slopes[power:]) < 0).all()
    numpy.testing.assert_array_equal(slopes[:power], alibi_slopes(power, numpy))


def test_padding_has_position_zero_and_no_place_in_the_count():
    """A fact of the reference: mask 00111 at slope ½ (the first of 8 heads) gives 0 0 0 ½ 1."""
    bias = alibi_bias(numpy.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1]]), 8, "float32")
    assert bias.shape == (2, 8, 1, 5) and bias.dtype == "float32"
    assert bias[0, 0, 0].tolist() == [0, 0, 0, 0.5, 1]
    assert bias[1, 0, 0].tolist() == [0, 0, 0.5, 0, 1]  # a hole is as if the token were not there


@some
@given(st.integers(1, 12), st.data())
def test_padded_keys_do_not_move_the_others(heads, data):
    mask = data.draw(masks((2, 7), kinds=("left", "right", "holes")))
    bias = alibi_bias(mask, heads, "float64")
    for row, tokens in zip(bias, mask.astype(bool), strict=True):
        alone = alibi_bias(numpy.ones((1, tokens.sum()), dtype="int64"), heads, "float64")
        numpy.testing.assert_array_equal(row[..., tokens], alone[0])
        assert not row[..., ~tokens].any()


@some
@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 100))
def test_only_distance_matters_to_softmax(heads, T, shift):
    """slope * position(key) and -slope * distance(query, key) differ by a constant in each row: it cancels."""
    bias = alibi_bias(numpy.ones((1, T), dtype="int64"), heads, "float64")[0, :, 0]  # [H, T]
    slopes, position = alibi_slopes(heads, numpy).astype("float64")[:, None], numpy.arange(T)
    for same in (slopes * (position + shift), -slopes * (T - 1 - position)):
        numpy.testing.assert_allclose(softmax(same), softmax(bias), rtol=2e-6)  # the product is rounded to float32


def test_the_product_is_rounded_not_its_factors():
    """In float16, which has no 2051, a rounded position would be off by one before the slope is applied."""
    slope = alibi_slopes(12, numpy)[8]  # √½
    half, double = (
        alibi_bias(numpy.ones((1, 2052), dtype="int64"), 12, d)[0, 8, 0, 2051] for d in ("float16", "float64")
    )
    assert half == numpy.float16(slope * numpy.float32(2051))
    assert half != numpy.float16(slope) * numpy.float16(2051)
    assert double == slope * numpy.float32(2051)  # and in float64 it is no more exact than the reference's
