"""The likeliest tokens by groups: what `keep_top_k` leaves, side by side, of numbers of any kind."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.generation import filters as module
from minibloom.generation.filters import TopK, compressed, filtered, keep_top_k, spread
from minibloom.generation.top_k import GROUPS, WIDTH, suits_groups, top_k

from ..strategies import normal, seeds, some


def same(found, logits, k):
    """What was found is what `keep_top_k` leaves; where it leaves few, in the very arrays that `compressed` makes."""
    expected = compressed(keep_top_k(logits, k))
    numpy.testing.assert_array_equal(spread(*found, logits.shape[-1]), spread(*expected, logits.shape[-1]))
    if expected[0] is not None:
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            numpy.testing.assert_array_equal(ours, theirs)


@some
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(0, 100), st.sampled_from([1000, 2, 0.5]),
    st.sampled_from(["float32", "float64"]), seeds,
)  # fmt: skip
def test_they_are_those_of_the_plain_way(rows, k, more, steps, dtype, seed):
    logits = normal(seed, rows, k * GROUPS * WIDTH + more).astype(dtype)
    logits = (logits * steps).round().astype(dtype)  # with few steps, many are equal
    logits[normal(seed + 1, *logits.shape) > 1.5] = -numpy.inf  # and some are ruled out
    assert suits_groups(logits, k)
    found = top_k(logits, k)
    assert found is not None
    same(found, logits, k)


@pytest.mark.parametrize("value", [-numpy.inf, numpy.nan])
def test_numbers_that_have_no_order_take_the_plain_way(value):
    logits = numpy.full((2, 4096), value, "float32")
    logits[:, [5, 7]] = 1, 2
    assert top_k(logits, 3) is None
    same(filtered(logits, [TopK(3)]), logits, 3)


def test_it_is_chosen_for_large_vocabularies_as_the_first_that_leaves_few(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "top_k", lambda logits, k: seen.append(logits.shape) or top_k(logits, k))
    logits = normal(0, 2, 4096)
    same(filtered(logits, [lambda x: x / 2, TopK(50)]), logits / 2, 50)
    filtered(logits, [TopK(50), TopK(5)])
    filtered(logits[:, :3199], [TopK(50)])
    assert seen == [(2, 4096), (2, 4096)]
