"""The fast path for small weights equals the plain one, whatever the blocks and the number of threads."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom.layers import few_rows, row_blocks
from minibloom.layers.linear import linear, sliced_linear
from minibloom.threads import shared_out

from ..strategies import assert_product, normal, seeds, some
from .test_small_weights import KINDS, small


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Blocks of a few rows and three threads, so that what is tested has several of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "BLOCK", 16)
        patch.setattr(row_blocks, "MANY", 2)
        patch.setattr(row_blocks, "suits_compiled_rows", lambda x, weight: False)  # as where Numba is not installed
        for module in (row_blocks, few_rows):
            patch.setattr(module, "HEIGHT", 2)
        with threadpool_limits(3, "blas"), shared_out():
            yield


@some
@given(st.sampled_from(KINDS), st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), seeds)
def test_blocks_give_the_plain_product(kind, N, O, I, seed):  # noqa: E741
    matrix, x = normal(seed, O, I, dtype="float32"), normal(seed + 1, N, I, dtype="float32")
    weight = small(kind, matrix)
    y = linear(x, weight)
    assert (y.shape, y.dtype) == ((N, O), numpy.float32)
    assert_product(y, x, weight.widen())


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_weight_has_a_bias_leading_axes_and_slices_like_an_array(kind):
    weight, bias = small(kind, normal(0, 7, 6, dtype="float32")), normal(1, 7, dtype="float32")
    x = normal(2, 2, 3, 6, dtype="float32")
    plain = linear(x, weight.widen(), bias)
    off = 1e-6 * abs(plain).max()
    numpy.testing.assert_allclose(linear(x, weight, bias), plain, rtol=0, atol=off)
    numpy.testing.assert_allclose(sliced_linear(x, weight, bias, 3), plain, rtol=0, atol=off)


@pytest.mark.parametrize("width", [1024, 1536, 2560, 4096, 14336])
def test_a_few_rows_find_blocks_that_suit_them_whatever_the_width(width, monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK", 2**17)
    monkeypatch.setattr(row_blocks, "HEIGHT", 64)
    seen = []
    monkeypatch.setattr(row_blocks, "at_a_time", lambda weight, columns: seen.append(len(weight)) or weight @ columns)
    x, matrix = normal(0, 8, width, dtype="float32"), normal(1, 192, width, dtype="float32")
    weight = small("int8", matrix)
    assert_product(linear(x, weight), x, weight.widen())
    assert sum(seen) == 192
