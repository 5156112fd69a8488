"""The window: the same numbers as one pass in which older keys are masked, and exact accounts of what was dropped."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, InputError, Trace, WindowCache
from minibloom.layers import run

from .gradients import assert_gradients
from .strategies import few, models, random_model, seeds

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3)


def masked(model: BloomForCausalLM, ids: numpy.ndarray, mask: numpy.ndarray | None, window: int) -> numpy.ndarray:
    """The definition: logits of one pass without a cache, in which no query sees further back than the window."""
    plain = run.visible

    def narrow(mask: numpy.ndarray, new: int, *_: Any) -> numpy.ndarray:
        seen = plain(mask, new)
        near = numpy.arange(new)[:, None] - numpy.arange(new) < window
        return near[None, None] if seen is None else seen & near

    with mock.patch.object(run, "visible", narrow):
        return model(ids, attention_mask=mask, use_cache=False).logits


@st.composite
def pieces(draw: st.DrawFn, total: int) -> list[int]:
    cuts = draw(st.sets(st.integers(1, total - 1))) if total > 1 else set()
    return numpy.diff([0, *sorted(cuts), total]).tolist()


@given(data=st.data(), model=models(kind=BloomForCausalLM), window=st.integers(1, 9), seed=seeds)
@few
def test_any_split_into_passes_equals_one_pass_with_older_keys_masked(data, model, window, seed):
    rng = numpy.random.default_rng(seed)
    B, S = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40))
    ids = rng.integers(0, model.config.vocab_size, (B, S))
    mask = None
    if data.draw(st.booleans()):  # padding on the left, of which at most one token is left
        mask = (numpy.arange(S) >= rng.integers(0, S, (B, 1))).astype("int64")
    cache, logits, start = WindowCache(model.config.n_layer, window), [], 0
    for length in data.draw(pieces(S)):
        kept = None if mask is None else mask[:, cache.dropped : start + length]
        out = model(ids[:, start : start + length], past_key_values=cache, attention_mask=kept)
        logits.append(out.logits)
        start += length
        assert cache.seen == start and cache.length == min(start, window - 1)
        assert list(cache.kept) == list(range(start))[-cache.length :] * bool(cache.length)
    got, expected = numpy.concatenate(logits, axis=1), masked(model, ids, mask, window)
    real = numpy.ones((B, S), bool) if mask is None else mask == 1
    # Slopes that are no powers of two make biases that are rounded to float32, to other numbers from another origin.
    H, exact = model.config.n_head, 1e-10
    tolerance = exact if H & (H - 1) == 0 else 40 * 2**-23
    numpy.testing.assert_allclose(got[real], expected[real], rtol=0, atol=tolerance * abs(expected).max())


def test_what_it_keeps_are_the_last_keys_and_values_and_memory_stays_bounded():
    model, ids = random_model(CONFIG, 0), numpy.random.default_rng(0).integers(0, 13, (2, 300))
    cache = WindowCache(2, 8)
    model(ids[:, :100], past_key_values=cache)
    for i in range(100, 300):
        model(ids[:, i : i + 1], past_key_values=cache)
        assert cache.nbytes == 2 * 2 * (2 * 3 * 16 * 4) * 8  # layers, keys and values, [B, H, 2 W, D], float64
    first = model(ids[:, 293:], use_cache=True).past_key_values  # block 0 sees the embeddings alone
    for ours, theirs in zip(cache[0], first[0], strict=True):
        numpy.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert (cache.seen, cache.dropped, cache.kept) == (300, 293, range(293, 300))
    assert repr(cache) == f"WindowCache(layers=2, window=8, length=7, dropped=293, bytes={cache.nbytes:,})"


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_every_gradient_is_the_derivative_of_the_loss(window, past):
    """Backward reads keys of this pass that the window drops at its end."""
    model, ids = random_model(CONFIG, 0), numpy.random.default_rng(0).integers(0, 13, (2, 9))
    cache = WindowCache(2, window)
    if past:
        model(ids[:, :past], past_key_values=cache)
    call = {"input_ids": ids[:, past:], "labels": ids[:, past:]}
    _, grads = model.value_and_grad(**call, past_key_values=cache.copy())
    assert_gradients(lambda: model(**call, past_key_values=cache.copy()).loss, model.params, grads, few=0)


def test_a_trace_keeps_the_keys_that_a_window_drops():
    model, ids = random_model(CONFIG, 0), [[1, 2, 3, 4]]
    trace, plain = Trace("*.key"), Trace("*.key")
    model(ids, past_key_values=WindowCache(2, 3), trace=trace)
    model(ids, trace=plain)
    name = "h.0.self_attention.key"  # of the embeddings alone, which see no window
    numpy.testing.assert_array_equal(trace[name], plain[name])


def test_a_window_that_is_not_full_yet_changes_nothing():
    model, ids = random_model(CONFIG, 0), [[1, 2, 3, 4, 5]]
    out = model(ids, past_key_values=WindowCache(2, 5))
    numpy.testing.assert_allclose(out.logits, model(ids).logits, rtol=0, atol=1e-12)
    out.past_key_values.select(numpy.array([0, 0]))
    assert out.past_key_values.batch_size == 2


def test_rows_are_selected_reordered_and_copied_with_it():
    model, ids = random_model(CONFIG, 0), numpy.random.default_rng(0).integers(0, 13, (3, 20))
    cache = model(ids, past_key_values=WindowCache(2, 6)).past_key_values
    other = cache.copy()
    cache.reorder(numpy.array([2, 0, 0]), 0)
    other.select(numpy.array([2, 0, 0]))
    for ours, theirs in zip(cache, other, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            numpy.testing.assert_array_equal(a, b)
    assert other.kept == cache.kept == range(15, 20)


@few
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=12), window=st.integers(1, 6), seed=seeds)
def test_a_copy_has_what_is_kept_wherever_that_stands_in_the_arrays(lengths, window, seed):
    cache, rng = WindowCache(2, window), numpy.random.default_rng(seed)
    for length in lengths:
        for layer in range(2):
            cache.update(layer, *rng.standard_normal((2, 1, 2, length, 3)))
        cache.advance(length)
        with mock.patch.object(numpy, "empty", lambda shape, dtype: numpy.full(shape, numpy.nan, dtype)):
            twin = cache.copy()
        assert (twin.kept, twin.nbytes) == (cache.kept, cache.nbytes)
        if not cache.length:
            continue  # as in a window of 1
        for ours, theirs in zip(twin, cache, strict=True):
            numpy.testing.assert_array_equal(ours, theirs)
        twin.select([0, 0])  # and goes its own way
        twin.reorder([1, 0], 0)
        new = rng.standard_normal((2, 2, 2, 1, 3))
        keys, values = twin.update(0, *new)
        numpy.testing.assert_array_equal(keys[:1], numpy.concatenate([cache[0][0], new[0, :1]], axis=2))
        numpy.testing.assert_array_equal(values[1:], numpy.concatenate([cache[0][1], new[1, 1:]], axis=2))


def test_it_goes_back_only_as_far_as_nothing_is_dropped():
    model = random_model(CONFIG, 0)
    cache = model([[1, 2, 3, 4]], past_key_values=WindowCache(2, 6)).past_key_values
    cache.crop(2)
    assert cache.kept == range(2)
    model([[3, 4, 5, 6]], past_key_values=cache)
    with pytest.raises(InputError, match="dropped 1 positions"):
        cache.crop(3)


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "a"])
def test_a_window_has_a_size(window):
    with pytest.raises(InputError, match="window is"):
        WindowCache(2, window)
