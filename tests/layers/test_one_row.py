"""One row times a weight, by a scalar product with each of its rows: the plain product, whatever the shape."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom import threads
from minibloom.layers import one_row as module
from minibloom.layers.linear import linear
from minibloom.layers.one_row import one_row, suits_one_row
from minibloom.threads import each, shared_out

from ..strategies import assert_product, normal, seeds, some


@some
@given(st.integers(1, 200), st.integers(1, 300), st.sampled_from(["float32", "float64"]), seeds)
def test_it_is_the_plain_product(height, width, dtype, seed):
    x, weight = normal(seed, 1, width).astype(dtype), normal(seed + 1, height, width).astype(dtype)
    assert_product(one_row(x, weight), x, weight)


def test_a_large_weight_is_for_blas_and_its_own_threads(monkeypatch):
    x, weight = normal(1, 1, 256), normal(2, 300, 256)
    monkeypatch.setattr(module, "SMALL_WEIGHT", weight.size)
    monkeypatch.setattr(module, "SLOW", 1.0)
    monkeypatch.setattr(module._Crowd, "products", 0)  # whatever other tests have seen of the cores
    allowed: list[int] = []
    with threadpool_limits(3, "blas"), shared_out():
        monkeypatch.setattr(threads, "_allow", lambda library, count: allowed.append(count))
        one_row(x, weight[1:])
        assert not allowed  # a smaller one is read by the thread that asks
        assert_product(one_row(x, weight), x, weight)
        assert allowed[0] == 3 and allowed[-1] == 1
        monkeypatch.undo()
    assert one_row(x, weight).shape == (1, 300)


def test_where_blas_waits_for_a_core_ours_share_the_rows_for_a_while(monkeypatch):
    x, weight = normal(1, 1, 256), normal(2, 300, 256)
    expected, shared = x @ weight.T, []

    def shares(task, items):
        shared.append(list(items))
        each(task, items)

    for name, value in {"SMALL_WEIGHT": weight.size, "SLOW": 0.0, "PATIENCE": 3, "each": shares}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module._Crowd, "products", 0)
    with threadpool_limits(3, "blas"), shared_out():
        for product in range(8):  # BLAS, three by ours, BLAS again, three by ours
            numpy.testing.assert_allclose(one_row(x, weight), expected, atol=1e-13)
            assert len(shared) == product - product // 4
        monkeypatch.setattr(module, "SLOW", 1.0)
        one_row(x, weight)  # now it is fast
        one_row(x, weight)
        assert len(shared) == 6
        module._Crowd.products = -1  # as two threads may leave it that count down together
        one_row(x, weight)
        assert len(shared) == 6
    assert all(len(parts) == 3 for parts in shared)  # one for each thread


@pytest.mark.parametrize(
    ("x", "weight", "suits"),
    [
        (normal(0, 1, 256), normal(0, 256, 256), True),
        (normal(0, 2, 256), normal(0, 256, 256), False),  # BLAS has a product for several rows
        (normal(0, 1, 8), normal(0, 8, 8), False),
        (normal(0, 1, 257), normal(0, 259, 257), True),
        (normal(0, 1, 256), normal(0, 256, 256).T, False),  # its columns, not its rows, lie in a row
        (normal(0, 1, 256).astype("float32"), normal(0, 256, 256), False),
    ],
)
def test_what_suits_it(x, weight, suits):
    assert suits_one_row(x, weight) is suits
    assert_product(linear(x, weight), x, weight)
