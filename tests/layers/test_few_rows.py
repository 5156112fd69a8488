"""A few rows times a weight, few of its rows at a time: the plain product, whatever the shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom.layers import few_rows as module
from minibloom.layers.few_rows import HEIGHT, MOST, SHORT, few_rows, suits_few_rows
from minibloom.layers.linear import linear
from minibloom.threads import each, shared_out

from ..strategies import assert_product, normal, seeds, some


@some
@given(
    st.integers(2, MOST), st.integers(1, 5), st.integers(1, 2 * SHORT), st.sampled_from(["float32", "float64"]),
    st.integers(1, 3), st.sampled_from([module.UNCOPIED, 10**5, 1]), seeds,
)  # fmt: skip
def test_it_is_the_plain_product(N, blocks, width, dtype, threads, uncopied, seed):
    x, weight = normal(seed, N, width).astype(dtype), normal(seed + 1, HEIGHT * blocks, width).astype(dtype)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(threads, "blas"), shared_out():
        patch.setattr(module, "SMALL_WEIGHT", 2**15)  # larger ones are for all threads
        patch.setattr(module, "UNCOPIED", uncopied)
        y = few_rows(x, weight)
    assert y.dtype == x.dtype and y.flags.c_contiguous
    assert_product(y, x, weight)


@pytest.mark.parametrize(("small", "shares"), [(0, 3), (1, 0)])
def test_only_a_large_weight_is_for_all_threads(small, shares, monkeypatch):
    x, weight, shared = normal(0, 2, 256), normal(1, 6 * HEIGHT, 256), []
    monkeypatch.setattr(module, "SMALL_WEIGHT", weight.size + small)
    monkeypatch.setattr(module, "each", lambda task, items: shared.extend(items) or each(task, shared))
    with threadpool_limits(3, "blas"), shared_out():
        assert_product(few_rows(x, weight), x, weight)
    assert len(shared) == shares


@pytest.mark.parametrize(
    ("x", "weight", "suits"),
    [
        (normal(0, 2, 256), normal(0, 512, 256), True),
        (normal(0, MOST, 256), normal(0, 512, 256), True),
        (normal(0, 1, 256), normal(0, 512, 256), False),  # see one_row.py
        (normal(0, MOST + 1, 256), normal(0, 512, 256), False),  # BLAS's own order pays
        (normal(0, 2, 8), normal(0, 64, 8), False),  # so small that BLAS's copy costs little
        (normal(0, 2, 256), normal(0, 513, 256), False),  # no blocks of 64
        (normal(0, 2, 512), normal(0, 512, 512).T, False),  # its columns, not its rows, lie in a row
        (normal(0, 2, 256).astype("float32"), normal(0, 512, 256), False),
    ],
)
def test_what_suits_it(x, weight, suits):
    assert suits_few_rows(x, weight) is suits
    assert_product(linear(x, weight), x, weight)
