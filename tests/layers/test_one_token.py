"""A block for one token a row: that of `block`, to the bit, and only where nobody asks for more."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.cache import Cache
from minibloom.layers import one_token as module
from minibloom.layers import transformer
from minibloom.layers.few_rows import MOST
from minibloom.layers.linear import linear
from minibloom.layers.one_token import suits_one_token
from minibloom.layers.run import Run
from minibloom.layers.small_weights import Int8Weight, row_scales, to_int8
from minibloom.window_cache import WindowCache

from ..strategies import seeds, some


def decoded(model, prompt, rows, plain, mask=None, cache=None):
    """The logits of a few tokens a row, one after another; and whether the block for one token computed them."""
    real, chosen = transformer.suits_one_token, []

    def choose(x, run):
        chosen.append(not plain and real(x, run))
        return chosen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "suits_one_token", choose)
        masks = [None] * 9 if mask is None else [mask[:, : prompt.shape[1] + i] for i in range(9)]
        cache = model(prompt, past_key_values=cache, attention_mask=masks[0], use_cache=True).past_key_values
        outs = [
            model(one, past_key_values=cache, attention_mask=mask).logits
            for one, mask in zip(rows.T[:, :, None], masks[1:], strict=False)
        ]
    assert chosen == [False] + [not plain] * len(outs)
    return outs


@pytest.mark.parametrize("weights", ["float32", "float64", "int8"])
@some
@given(st.integers(1, 4), st.sampled_from([1, 2, 4, 8]), st.integers(2, 9), st.integers(1, 3), st.booleans(), seeds)
def test_it_is_the_block_to_the_bit(weights, width, heads, length, batch, padded, seed):
    rng = numpy.random.default_rng(seed)
    config = BloomConfig(vocab_size=31, hidden_size=256 + 8 * width, n_layer=2, n_head=heads)
    model = BloomForCausalLM(config, seed=seed, dtype="float64" if weights == "float64" else "float32")
    for name, p in model.params.items():
        p += rng.normal(size=p.shape) / 10  # biases too, and the weights of norms
        if weights == "int8" and name.endswith("dense_h_to_4h.weight"):
            scales = row_scales(p)
            model.params[name] = Int8Weight(to_int8(p, scales), scales)
    ids, rows = rng.integers(0, 31, (batch, length)), rng.integers(0, 31, (batch, 3))
    mask = numpy.arange(length + 3) >= rng.integers(0, length, (batch, 1)) if padded else None
    ours, theirs = (decoded(model, ids, rows, plain, mask) for plain in (False, True))
    numpy.testing.assert_array_equal(ours, theirs)


def test_it_sees_through_a_window_what_the_block_sees():
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=256, n_layer=2, n_head=4))
    ids = numpy.random.default_rng(0).integers(0, 31, (2, 9))
    ours, theirs = (decoded(model, ids[:, :6], ids[:, 6:], plain, cache=WindowCache(2, 3)) for plain in (False, True))
    numpy.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(numpy.asfortranarray, id="columns in a row, as a kernel of Flax turned round"),
        pytest.param(lambda weight: numpy.repeat(weight, 2, axis=1)[:, ::2], id="a view with gaps"),
        pytest.param(lambda weight: weight.astype("float16"), id="of another type than what it multiplies"),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_the_block_however_a_weight_lies_in_memory(change, batch):
    """Weights that a user put in place: `linear` has a faster way for them than a scalar product of each row."""
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=256, n_layer=1, n_head=4, initializer_range=0.1))
    for name in ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
        model.params[f"h.0.{name}.weight"] = change(model.params[f"h.0.{name}.weight"])
    ids = numpy.arange(12).reshape(2, 6)[:batch]
    ours, theirs = (decoded(model, ids, ids[:, :2], plain) for plain in (False, True))
    numpy.testing.assert_array_equal(ours, theirs)


def test_what_is_asked_beyond_the_result_takes_the_block():
    config = BloomConfig(vocab_size=9, hidden_size=256, n_layer=1, n_head=2)
    x, mask = numpy.zeros((1, 1, 256), "float32"), numpy.ones((1, 2), "int64")
    run = Run(config=config, new=1, mask=mask, alibi=None, cache=Cache(1))
    assert suits_one_token(x, run)
    for other in (numpy.zeros((MOST + 1, 1, 256)), numpy.zeros((1, 1, 128))):
        assert not suits_one_token(other, run)
    for change in (
        {"new": 2},
        {"cache": None},
        {"watch": Trace()},
        {"rng": numpy.random.default_rng(0)},
        {"head_mask": numpy.ones((1, 2))},
        {"mask": numpy.ones((1, 2**16), "int64")},
        {"config": config.replace(slow_but_exact=True, pretraining_tp=2)},
        {"config": config.replace(apply_residual_connection_post_layernorm=True)},
    ):
        assert not suits_one_token(x, dataclasses.replace(run, **change)), change


def test_larger_weights_are_shared_out(monkeypatch):
    model = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=256, n_layer=1, n_head=4))
    ids, called = numpy.arange(6)[None], []
    monkeypatch.setattr(module, "SMALL_WEIGHT", 2**17)
    monkeypatch.setattr(module, "linear", lambda *args: called.append(args[1].shape) or linear(*args))
    ours, theirs = (decoded(model, ids, ids[:, :1], plain) for plain in (False, True))
    numpy.testing.assert_array_equal(ours, theirs)
    assert called == [(768, 256), (1024, 256), (256, 1024)]
