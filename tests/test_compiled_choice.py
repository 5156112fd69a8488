"""How a loop chooses a token: as `argmax`, and as `tests/generation/test_compiled_draw.py` says of draws."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.compiled_choice import number_at, order, place_of_largest

from .strategies import some

NEGATIVE_NAN = numpy.array(0xFFC00000, "uint32").view("float32")[()]  # what processors make of inf - inf

floats = st.floats(width=32, allow_nan=False) | st.sampled_from([-numpy.inf, numpy.inf, 0.0, -0.0, 1.0])


@some
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_order_is_that_of_the_numbers_and_can_be_undone(numbers):
    numbers = [numpy.float32(x) for x in numbers]
    largest = max(order(x) for x in numbers)
    assert number_at(largest) == max(numbers)
    for nan in (numpy.float32("nan"), NEGATIVE_NAN):
        assert order(nan) > order(numpy.float32("inf")) and numpy.isnan(number_at(order(nan)))


@some
@given(st.lists(floats, min_size=1, max_size=40))
def test_the_likeliest_is_the_first_of_the_largest(numbers):
    logits = numpy.array(numbers, "float32")
    assert place_of_largest(logits) == logits.argmax()


@pytest.mark.parametrize("place", [0, 1, 4])
def test_where_one_is_not_a_number_nothing_is_chosen(place):
    logits = numpy.array([1, 5, 2, -numpy.inf, numpy.inf], "float32")
    assert place_of_largest(logits) == 4
    logits[place] = numpy.nan
    assert place_of_largest(logits) == -1
