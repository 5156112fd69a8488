"""The loss in chunks is the loss of all logits at once, and so are its gradients; recomputing changes no bit."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom import BloomForCausalLM, InputError, chunked_loss
from minibloom.chunked_loss import chunked_cross_entropy
from minibloom.layers import linear as linear_layer
from minibloom.layers.linear import linear, linear_backward
from minibloom.losses import IGNORE, cross_entropy
from minibloom.threads import shared_out

from .strategies import few, masks, models, normal, seeds, some, token_ids


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_loss, "FEWEST", 2)
        patch.setattr(chunked_loss, "NUMBERS", 1)
        patch.setattr(linear_layer, "ROWS", 2)
        with threadpool_limits(3, "blas"), shared_out():
            yield


@some
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(2, 7), st.floats(0, 1), seeds)
def test_in_chunks_or_at_once(B, S, E, V, ignored, seed):
    rng = numpy.random.default_rng(seed)
    hidden, weight, labels = normal(seed, B, S, E), normal(seed + 1, V, E), rng.integers(0, V, (B, S))
    labels[rng.random((B, S)) < ignored] = IGNORE
    loss, dhidden, dweight = chunked_cross_entropy(hidden, weight, labels)
    expected, dlogits = cross_entropy(linear(hidden, weight), labels)
    expected_dhidden, expected_dweight, _ = linear_backward(dlogits, hidden, weight)
    numpy.testing.assert_allclose(loss, expected, rtol=1e-12, equal_nan=True)
    numpy.testing.assert_allclose(dhidden, expected_dhidden, atol=1e-13)
    numpy.testing.assert_allclose(dweight, expected_dweight, atol=1e-13)
    again, none, nothing = chunked_cross_entropy(hidden, weight, labels, backward=False)
    numpy.testing.assert_array_equal(again, loss)
    assert none is nothing is None


@few
@given(models(), st.data(), st.booleans())
def test_a_training_step_without_logits(model, data, recompute):
    ids = data.draw(token_ids(model.config, shortest=2))
    call = {"input_ids": ids, "attention_mask": data.draw(masks(ids.shape)), "labels": ids}
    out, grads = model.value_and_grad(**call)
    lean, lean_grads = model.value_and_grad(**call, output_logits=False, recompute=recompute)
    assert lean.logits is None and lean.keys() == ["loss"]
    numpy.testing.assert_allclose(lean.loss, out.loss, rtol=1e-12)
    numpy.testing.assert_array_equal(model(**call, output_logits=False).loss, lean.loss)
    assert list(lean_grads) == list(grads)
    for name, gradient in grads.items():
        numpy.testing.assert_allclose(lean_grads[name], gradient, rtol=0, atol=1e-11 * max(1e-3, abs(gradient).max()))


@few
@given(models(hidden_dropout=0.2, attention_dropout=0.3), st.data(), seeds)
def test_recomputed_blocks_draw_the_same_dropout_and_give_the_same_bits(model, data, seed):
    ids = data.draw(token_ids(model.config, shortest=2))
    call = {"input_ids": ids, "labels": ids, "train": True, "seed": seed}
    _, grads = model.value_and_grad(**call)
    _, again = model.value_and_grad(**call, recompute=True)
    for name, gradient in grads.items():
        numpy.testing.assert_array_equal(again[name], gradient)


def test_what_cannot_be_done_is_said():
    model = BloomForCausalLM.from_pretrained()
    with pytest.raises(InputError, match="output_logits=False needs labels"):
        model([[1, 2]], output_logits=False)
    past = model([[1, 2]]).past_key_values
    with pytest.raises(InputError, match="recompute cannot be used with past_key_values"):
        model.value_and_grad([[1, 2]], labels=[[1, 2]], past_key_values=past, recompute=True)
