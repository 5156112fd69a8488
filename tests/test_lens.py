"""The logit lens: each state of the residual stream is read as the last one is."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given

from minibloom import BloomConfig, BloomForCausalLM, InputError, Trace
from minibloom.layers.softmax import softmax
from minibloom.lens import lens, stream

from .strategies import configs, few, seeds


@few
@given(configs(), seeds)
def test_the_last_state_says_what_the_model_says_and_a_state_is_a_model_cut_off_there(config, seed):
    model, trace = BloomForCausalLM(config, seed, dtype="float64"), Trace()
    ids = numpy.random.default_rng(seed).integers(0, config.vocab_size, (2, 3))
    logits = model(ids, trace=trace).logits
    probs = lens(model, trace, row=1)
    assert probs.shape == (config.n_layer + 1, 3, config.vocab_size)
    numpy.testing.assert_allclose(probs[-1], softmax(logits[1]), atol=1e-12)

    cut = BloomForCausalLM(config.replace(n_layer=1), dtype="float64")
    cut.params = {name: model.params[name] for name in cut.params}
    numpy.testing.assert_allclose(probs[1], softmax(cut(ids).logits[1]), atol=1e-12)


def test_the_states_of_ten_blocks_and_more_are_in_their_order():
    trace = Trace()
    BloomForCausalLM(BloomConfig(vocab_size=7, hidden_size=8, n_layer=11, n_head=2))([[1, 2]], trace=trace)
    assert stream(trace) == ["word_embeddings_layernorm", *(f"h.{i}" for i in range(11))]


def test_a_trace_without_the_stream_is_an_error_that_says_what_to_watch():
    model, trace = BloomForCausalLM(BloomConfig(vocab_size=7, hidden_size=8, n_layer=1, n_head=2)), Trace("*.probs")
    model([[1, 2]], trace=trace)
    with pytest.raises(InputError, match="no residual stream.*'h.\\[0-9\\]\\*'"):
        lens(model, trace)
