"""Outputs are read by attribute, by key or by index; what was not computed is not there."""

from __future__ import annotations

import numpy
import pytest

from minibloom.outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

LOGITS, HIDDEN = numpy.ones((1, 2, 3)), (numpy.zeros((1, 2, 4)),)


def test_attribute_key_and_index_are_the_same():
    out = CausalLMOutputWithPast(logits=LOGITS, hidden_states=HIDDEN)
    assert out.logits is out["logits"] is out[0] is LOGITS
    assert out.hidden_states is out["hidden_states"] is out[1] is out[-1] is HIDDEN
    assert out[:1] == (LOGITS,)
    assert out.to_tuple() == (LOGITS, HIDDEN)


def test_what_is_none_is_left_out():
    out = CausalLMOutputWithPast(logits=LOGITS)
    assert out.keys() == list(out) == ["logits"] and len(out) == 1
    assert "logits" in out and "loss" not in out and out.loss is None
    assert dict(**out) == {"logits": LOGITS}


def test_order_is_that_of_transformers():
    out = CausalLMOutputWithPast(*range(5))
    assert out.keys() == ["loss", "logits", "past_key_values", "hidden_states", "attentions"]
    assert out.to_tuple() == (0, 1, 2, 3, 4)
    base = BaseModelOutputWithPast(*range(4))
    assert base.keys() == ["last_hidden_state", "past_key_values", "hidden_states", "attentions"]


def test_a_key_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(KeyError, match=r"no 'logit' in this output, which has \['logits'\].* Did you mean 'logits'"):
        CausalLMOutputWithPast(logits=LOGITS)["logit"]
    with pytest.raises(IndexError):
        CausalLMOutputWithPast(logits=LOGITS)[1]
