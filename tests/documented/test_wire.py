"""What is sent is what is received, so that a difference between minibloom and the oracle is none of the wire's."""

from __future__ import annotations

import io

import numpy
from hypothesis import given
from hypothesis import strategies as st

from ..strategies import some
from .wire import flat, receive, send

ARRAYS = [numpy.arange(6.0).reshape(2, 3), numpy.ones((1, 0), "float32"), numpy.array(3), numpy.array([True, False])]
leaves = st.sampled_from([None, True, 7, 0.1, "array", "é"]) | st.sampled_from(ARRAYS)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["array", "tuple", "items", "x"]), inner)
    ),
    max_leaves=8,
)


def assert_equal(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, numpy.ndarray):
        numpy.testing.assert_array_equal(a, b, strict=True)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert_equal(list(a.values()), list(b.values()))
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


@some
@given(st.lists(values.filter(lambda value: value is not None), max_size=3))
def test_what_is_sent_is_received(sent):
    stream = io.BytesIO()
    for value in sent:
        send(stream, value)
    stream.seek(0)
    for value in sent:
        assert_equal(receive(stream), value)
    assert receive(stream) is None


def test_flat_names_every_array_by_the_way_to_it():
    one, two = numpy.ones(2), numpy.zeros(3)
    value = {"logits": one, "past_key_values": ((one, two), (two, one)), "loss": None, "h": {"0": [two]}}
    names = [
        "logits",
        "past_key_values.0.0",
        "past_key_values.0.1",
        "past_key_values.1.0",
        "past_key_values.1.1",
        "h.0.0",
    ]
    assert list(flat(value)) == names
    assert flat(value)["past_key_values.0.1"] is two
