"""The memory of a training step or a long pass serves the next one, and never anything that somebody still has."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import tracemalloc

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Trace, base, buffers, threads
from minibloom.buffers import LEAST, MOST, Buffers, empty
from minibloom.compiled import numpy_alone

from .strategies import some

CONFIG = BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)


def place(x):
    return x.__array_interface__["data"][0]


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(buffers, "LEAST", 1)
    monkeypatch.setattr(base, "LEAST", 1)
    monkeypatch.setattr(threads, "SMALL_PRODUCT", 0)


@some
@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=8), max_size=5))
def test_no_two_arrays_that_live_share_memory(steps):
    """Steps of arrays of three sizes, each of which a caller keeps for good, as a view, or drops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "LEAST", 1)
        ours, kept = Buffers(), []
        for number, step in enumerate(steps):
            with ours.reused():
                for size, keep in step:
                    x = empty((size, 4), "float32")
                    x[...] = value = len(kept) + 100 * number
                    if keep:
                        kept.append((x[:, 1:].T, value))
            del step
        for x, value in kept:
            assert (x == value).all()


def test_a_dropped_array_leaves_its_memory_to_the_next_of_its_size(any_size):
    with Buffers().reused():
        first = place(empty((3, 4), "float32"))
        x = empty((4, 3), "float32")
        assert place(x) == first and x.shape == (4, 3) and x.dtype == "float32"
        assert place(empty((4, 3), "float32")) != first  # x has it
        x = x[2:]
        assert place(empty((3, 4), "float32")) != first  # a view of it is enough


def test_a_step_has_the_memory_of_the_one_before_and_what_it_does_not_use_is_given_back(any_size):
    ours, outside = Buffers(), empty((2, 2), "float32")
    with ours.reused():
        places = {place(empty((2, 2), "float32")), place(empty((5,), "float64"))}
    with ours.reused():
        assert place(empty((2, 2), "float32")) in places
    assert list(ours.kept) == [16]  # bytes; not the 40 that the last step had no use for
    assert place(outside) not in places


def test_small_arrays_large_ones_and_those_outside_of_steps_are_numpy_s_own():
    assert empty((2, 2), "float32").base is None
    with Buffers().reused():
        assert empty((LEAST - 1,), "uint8").base is None
        assert empty((LEAST,), "uint8").base is not None
        assert empty((MOST,), "uint8").base is None
    assert empty((LEAST,), "uint8").base is None


def test_another_thread_takes_nothing_of_a_step(any_size):
    seen = []
    with Buffers().reused():
        thread = threading.Thread(target=lambda: seen.append(empty((2,), "float32")))
        thread.start()
        thread.join()
    assert seen[0].base is None


def test_two_steps_of_a_model_at_once_share_no_block(any_size):
    """Between the question whether a block is free and its use, another thread could ask the same."""
    ours, seen = Buffers(), []

    def step():
        with ours.reused():
            seen.append(place(empty((2, 2), "float32")))

    step()
    with ours.reused():  # this one may take the block, but has not yet
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert seen[0] != seen[1]


def test_what_a_step_returns_and_shows_outlives_the_next_steps(any_size):
    model, rng, held = BloomForCausalLM(CONFIG), numpy.random.default_rng(0), []
    for _ in range(4):
        ids, trace = rng.integers(0, 50, (2, 9)), Trace("*.gelu", "h.1")
        out, grads = model.value_and_grad(ids, labels=ids, trace=trace)
        held.append(
            (out.logits, grads, dict(trace), [x.copy() for x in (out.logits, *grads.values(), *trace.values())])
        )
    for logits, grads, trace, copies in held:
        for now, then in zip((logits, *grads.values(), *trace.values()), copies, strict=True):
            numpy.testing.assert_array_equal(now, then)


def test_gradients_are_the_caller_s_own_and_the_same_bits_in_used_memory(any_size):
    model, ids = BloomForCausalLM(CONFIG), numpy.arange(18).reshape(2, 9)
    (_, first), (_, second) = (model.value_and_grad(ids, labels=ids) for _ in range(2))
    blocks = {place(block) for blocks in model._buffers.kept.values() for block in blocks}
    assert blocks
    for name, gradient in first.items():
        numpy.testing.assert_array_equal(gradient, second[name])
        assert gradient.ndim < 2 or place(second[name]) not in blocks


def test_a_pass_lies_in_the_memory_of_the_one_before_and_what_is_held_of_that_stays(any_size):
    model, rng, held = BloomForCausalLM(CONFIG), numpy.random.default_rng(0), []
    with numpy_alone():  # the loop over all blocks has memory of its own
        for i in range(4):
            ids = rng.integers(0, 50, (2, 9))
            before = {place(block) for blocks in model._passes.kept.values() for block in blocks}
            out = model(ids, use_cache=True)
            after = {place(block) for blocks in model._passes.kept.values() for block in blocks}
            assert after & before or i == 0
            arrays = [out.logits, *(x for pair in out.past_key_values for x in pair)]
            held.append((arrays, [x.copy() for x in arrays]))
    for arrays, copies in held:
        for now, then in zip(arrays, copies, strict=True):
            numpy.testing.assert_array_equal(now, then)


def test_the_next_block_of_a_model_takes_the_place_of_the_one_before(any_size):
    kept = []
    for layers in (1, 4):
        model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=layers, n_head=2))
        with numpy_alone():
            model(numpy.arange(9)[None])
        kept.append(sum(size * len(blocks) for size, blocks in model._passes.kept.items()))
    assert kept[0] == kept[1] > 0


def test_passes_that_are_short_or_watched_keep_no_memory_and_none_takes_that_of_steps(any_size, monkeypatch):
    model, ids = BloomForCausalLM(CONFIG), numpy.arange(18).reshape(2, 9)
    with numpy_alone():
        model(ids, trace=Trace("*"))
        model(ids, output_hidden_states=True)
        assert not model._passes.kept
        model.value_and_grad(ids, labels=ids)
        kept = copy.copy(model._buffers.kept)
        assert kept and not model._passes.kept
        model(ids)
        assert model._buffers.kept == kept and (held := list(model._passes.kept))
        monkeypatch.setattr(base, "LEAST", 9 * 4 * 16 * 4)  # bytes of the MLP's inside, of half of them
        model(ids[:, :4])
        assert list(model._passes.kept) == held  # nor does it lose what the long one left
        model(ids[:, :5])
        assert list(model._passes.kept) != held


def test_a_copy_of_a_model_and_a_pickled_one_have_no_memory_of_steps(any_size):
    model, ids = BloomForCausalLM(CONFIG), numpy.arange(9)[None]
    model.value_and_grad(ids, labels=ids)
    with numpy_alone():
        model(ids)
    assert model._buffers.kept and model._passes.kept
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other._buffers.kept and not other._passes.kept
        numpy.testing.assert_array_equal(other(ids).logits, model(ids).logits)


def test_the_memory_is_given_back_with_the_model():
    tracemalloc.start()
    model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=128, n_layer=2, n_head=2), dtype="float32")
    ids = numpy.arange(4096).reshape(4, 1024) % 50
    model.value_and_grad(ids, labels=ids, output_logits=False)
    held = tracemalloc.get_traced_memory()[0]
    assert held > 10 * LEAST
    del model
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] < held - 10 * LEAST
    tracemalloc.stop()
