"""Weights of far keys are dropped before they slow the processor down, and nobody can tell."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM
from minibloom.layers import compiled_steps, one_token, tiled_attention
from minibloom.layers.alibi import alibi_bias
from minibloom.layers.softmax import softmax
from minibloom.layers.subnormals import drop_subnormals, steep_heads

from ..strategies import normal, seeds, some


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@some
@given(st.integers(1, 4), st.integers(1, 300), st.floats(0, 8), seeds)
def test_what_is_dropped_changes_no_digit_of_what_is_summed(dtype, rows, keys, fall, seed):
    """All that is dropped of a row, together, is below a millionth of the last digit of its largest weight."""
    scores = (5 * normal(seed, rows, keys) + fall * numpy.arange(keys)).astype(dtype)
    weights = numpy.exp(scores - scores.max(-1, keepdims=True))
    kept = weights.copy()
    drop_subnormals(kept)
    assert ((kept == weights) | (kept == 0)).all() and kept.dtype == dtype
    assert (weights - kept).sum(-1).max() < 1e-6 * numpy.finfo(dtype).eps
    v = normal(seed + 1, keys, 3).astype(dtype)
    numpy.testing.assert_allclose(kept @ v, weights @ v, rtol=0, atol=numpy.finfo(dtype).eps / 4)


def test_heads_whose_alibi_falls_far_are_named():
    alibi = alibi_bias(numpy.ones((1, 256), int), 8, "float32")[0]  # slopes 1/2, 1/4, ...
    assert steep_heads(alibi) == [0]  # 255 / 2 is above 64, 255 / 4 is not
    assert steep_heads(alibi[:, :, :100]) == []


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("together", [True, False])
def test_no_product_of_tiles_sees_a_subnormal_weight(together, loops, monkeypatch):
    """As many as one in fifty would be, of what goes through a tile by itself, and of several heads together."""
    if loops:
        pytest.importorskip("numba", reason="Numba is optional")
    S = 500 if together else 700
    place, name = (compiled_steps, "weigh") if loops else (tiled_attention, "_weigh")
    seen, weigh = [], getattr(place, name)

    def watched(scores, *given):
        found = weigh(scores, *given)
        seen.append(scores.copy())  # weights now
        return found

    monkeypatch.setattr(place, name, watched)
    monkeypatch.setattr(compiled_steps, "MANY", 0 if loops else 2**60)
    x = {name: normal(i, 1, 4, S, 8).astype("float32") for i, name in enumerate(("q", "k", "v"))}
    mask = numpy.ones((1, S), int)
    given = {**x, "alibi": alibi_bias(mask, 4, "float32"), "mask": mask}
    tiled_attention.tiled_attention(**given)
    gradients = {name: numpy.zeros_like(x[name[1]]) for name in ("dq", "dk", "dv")}
    tiled_attention.tiled_attention_backward(normal(3, 1, S, 32).astype("float32"), **given, **gradients)
    assert len(seen) > 4 and all(not subnormal(weights).any() for weights in seen)


def test_one_token_drops_them_and_stays_the_block_to_the_bit(monkeypatch):
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=256, n_layer=2, n_head=4), dtype="float32")
    ids, dropped = numpy.arange(401)[None] % 31, []
    counting = lambda weights: dropped.append(subnormal(weights).any()) or drop_subnormals(weights)  # noqa: E731
    monkeypatch.setattr(one_token, "drop_subnormals", counting)
    cache = model(ids[:, :-1], use_cache=True).past_key_values
    fast = model(ids[:, -1:], past_key_values=cache.copy()).logits
    assert dropped == [True, True]
    plain = model(ids[:, -1:], past_key_values=cache.copy(), output_attentions=True)
    assert subnormal(plain.attentions[0]).any()  # who looks sees them as they are
    numpy.testing.assert_array_equal(fast, plain.logits)


def test_few_cached_tokens_are_not_looked_through(monkeypatch):
    monkeypatch.setattr(one_token, "drop_subnormals", None)  # cannot be called
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=256, n_layer=1, n_head=8), dtype="float32")
    cache = model(numpy.arange(9)[None], use_cache=True).past_key_values
    model(numpy.array([[1]]), past_key_values=cache)


def test_softmax_itself_is_left_alone():
    assert subnormal(softmax(numpy.float32([[0, -90]]))).any()


def subnormal(weights: numpy.ndarray) -> numpy.ndarray:
    return (weights > 0) & (weights < numpy.finfo(weights.dtype).tiny)
