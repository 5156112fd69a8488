"""Where arrays begin: at a line of memory, whoever makes what products read over and over."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM
from minibloom.alignment import LINE, aligned_copy, aligned_empty, at_a_line
from minibloom.cache import Cache, StaticCache
from minibloom.layers.small_weights import SmallWeight
from minibloom.window_cache import WindowCache

from .strategies import some

dtypes = st.sampled_from(["float32", "float64", "uint16", "int8"])
shapes = st.lists(st.integers(1, 12), max_size=4).map(tuple)


def begins_at_a_line(a: numpy.ndarray) -> bool:
    return a.ctypes.data % LINE == 0


@some
@given(shape=shapes, dtype=dtypes)
def test_an_array_begins_at_a_line_and_is_as_any_other(shape, dtype):
    a = aligned_empty(shape, dtype)
    assert begins_at_a_line(a) and (a.shape, a.dtype) == (shape, dtype)
    assert a.flags.c_contiguous and a.flags.writeable
    zeros = at_a_line(numpy.zeros, shape, dtype)
    assert begins_at_a_line(zeros) and zeros.shape == shape and not zeros.any()


@some
@given(shape=shapes, dtype=dtypes)
def test_a_copy_has_the_same_numbers_at_a_line(shape, dtype):
    a = numpy.arange(int(numpy.prod(shape))).astype(dtype).reshape(shape).T
    copy = aligned_copy(a)
    assert begins_at_a_line(copy) and copy.dtype == a.dtype and not numpy.shares_memory(a, copy)
    numpy.testing.assert_array_equal(copy, a)


def test_what_a_device_makes_is_as_its_library_makes_it():
    def make(shape, dtype):
        return shape, dtype

    assert at_a_line(make, (2, 3), "float16") == ((2, 3), "float16")


@pytest.fixture(scope="module")
def model():
    return BloomForCausalLM(BloomConfig(vocab_size=37, hidden_size=24, n_layer=2, n_head=3))


def matrices(model):
    return [p.stored if isinstance(p, SmallWeight) else p for p in model.params.values() if p.ndim == 2]


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "int8"])
def test_weights_that_are_new_or_read_or_widened_begin_at_a_line(model, stored, tmp_path):
    assert all(map(begins_at_a_line, matrices(model)))
    model.save_pretrained(tmp_path, dtype=stored)
    read = BloomForCausalLM.from_pretrained(tmp_path)
    assert all(map(begins_at_a_line, matrices(read)))
    assert all(map(begins_at_a_line, matrices(read.widened())))
    small = BloomForCausalLM.from_pretrained(tmp_path, weights="bfloat16" if stored == "float16" else "float16")
    assert all(map(begins_at_a_line, matrices(small)))


@pytest.mark.parametrize("make", [lambda: Cache(2), lambda: WindowCache(2, 3), lambda: StaticCache(2, 2, 3, 30, 8)])
def test_keys_and_values_begin_at_a_line_wherever_they_are_moved(model, make):
    cache, ids = make(), numpy.arange(6).reshape(2, 3)
    for _ in range(4):
        model(ids, past_key_values=cache)
        assert all(map(begins_at_a_line, [*cache._keys, *cache._values]))
    assert all(map(begins_at_a_line, [*cache.copy()._keys, *cache.copy()._values]))
