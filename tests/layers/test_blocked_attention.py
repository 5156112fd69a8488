"""Blocked attention is plain attention, to rounding, rows of padding included."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.layers import blocked_attention as blocked
from minibloom.layers.alibi import alibi_bias
from minibloom.layers.scores import attention_scores
from minibloom.layers.softmax import softmax


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK", 4)


@given(
    B=st.integers(1, 3), H=st.integers(1, 6), S=st.integers(1, 19), past=st.integers(0, 9),
    padding=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_equals_plain_attention(B, H, S, past, padding, seed):
    rng, D, T = numpy.random.default_rng(seed), 5, past + S
    q, k, v = (3 * rng.standard_normal((B, H, length, D)) for length in (S, T, T))
    mask = numpy.ones((B, T), dtype=int)
    if padding:  # on the left, with a hole
        mask[0, : rng.integers(0, T)] = 0
        mask[-1, rng.integers(0, T)] = 0
    causal = numpy.arange(T) <= numpy.arange(past, T)[:, None]
    visible = causal & (mask == 1)[:, None, None, :]
    alibi = alibi_bias(mask, H, "float64")

    plain = softmax(attention_scores(q, k, alibi, visible)) @ v
    fast = blocked.blocked_attention(q, k, v, alibi, visible)
    assert numpy.abs(fast - plain).max() < 1e-13


def test_a_long_pass_gives_the_same_logits_watched_and_not():
    """A watched pass takes the plain path, one that nobody watches the blocked one: they agree to rounding."""
    from minibloom.layers.attention import BLOCK

    model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3))
    ids = numpy.random.default_rng(0).integers(0, 50, (2, BLOCK + 70))
    mask = numpy.ones_like(ids)
    mask[1, :100] = 0
    fast, plain = model(ids, attention_mask=mask), model(ids, attention_mask=mask, trace=Trace("ln_f"))
    assert numpy.abs(fast.logits - plain.logits).max() < 1e-5 * numpy.abs(plain.logits).max()
    assert not numpy.array_equal(fast.logits, plain.logits)  # two paths did run
