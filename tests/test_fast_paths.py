"""Tests that are to run on the fast paths too do, and take every one: counted, so that none is left out unseen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from . import fast_paths, test_chunked_loss, test_models
from .fast_paths import OF_SMALL_WEIGHTS, counted, some


def test_properties_of_models_take_every_fast_path():
    with fast_paths.fast_paths(), counted() as calls:
        some(test_models.test_a_padded_batch_equals_its_rows_alone)()
        some(test_models.test_cached_decoding_split_anywhere_equals_the_uncached_pass)()
        some(test_models.test_cached_decoding_in_float32_is_that_of_float64_rounded)()
        some(test_models.test_gradients_in_float32_are_those_of_float64_rounded)()
        some(test_chunked_loss.test_a_training_step_without_logits)()
    assert [name for name, count in calls.items() if not count] == list(OF_SMALL_WEIGHTS)


@given(st.none())
def test_they_are_taken_where_pytest_says_fast(backend, nothing):
    """A test as those that `conftest.py` lists, and listed there: pytest runs it twice."""
    assert fast_paths.taken() == (backend == "fast")


def test_sizes_are_put_back():
    before = [getattr(module, name) for module, sizes in fast_paths.SIZES.items() for name in sizes]
    with fast_paths.fast_paths():
        pass
    assert before == [getattr(module, name) for module, sizes in fast_paths.SIZES.items() for name in sizes]
    assert not fast_paths.taken()
