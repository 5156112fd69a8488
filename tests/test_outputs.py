"""Outputs are read by attribute, by key or by index; what was not computed is not there."""

from __future__ import annotations

import itertools

import numpy
import pytest

from minibloom.outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)

LOGITS, HIDDEN = numpy.ones((1, 2, 3)), (numpy.zeros((1, 2, 4)),)
FIELDS = {
    BaseModelOutputWithPast: ["last_hidden_state", "past_key_values", "hidden_states", "attentions"],
    CausalLMOutputWithPast: ["loss", "logits", "past_key_values", "hidden_states", "attentions"],
    SequenceClassifierOutputWithPast: ["loss", "logits", "past_key_values", "hidden_states", "attentions"],
    TokenClassifierOutput: ["loss", "logits", "hidden_states", "attentions"],
    QuestionAnsweringModelOutput: ["loss", "start_logits", "end_logits", "hidden_states", "attentions"],
}
EACH = pytest.mark.parametrize("kind", FIELDS)


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


@EACH
def test_order_is_the_documented_one(kind):
    values = range(len(FIELDS[kind]))
    out = kind(*values)
    assert out.keys() == FIELDS[kind] and out.to_tuple() == out.values() == tuple(values)
    assert out.items() == list(zip(FIELDS[kind], values, strict=True))


@EACH
def test_by_attribute_by_key_and_by_index_whatever_is_there(kind):
    """Every choice of fields. An empty array is there, and so is a zero: only None is not."""
    for there in itertools.product([False, True], repeat=len(FIELDS[kind])):
        values = {name: numpy.zeros(i) for i, name in enumerate(FIELDS[kind]) if there[i]}
        out = kind(**values)
        assert out.keys() == list(out) == list(values) and len(out) == len(values)
        for i, (name, value) in enumerate(values.items()):
            assert getattr(out, name) is out[name] is out[i] is out[i - len(values)] is value and name in out
        for name in FIELDS[kind]:
            assert name in values or (getattr(out, name) is None and name not in out)
        assert out[:] == out.to_tuple() == tuple(values.values())


def test_a_key_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(KeyError, match=r"no 'logit' in this output, which has \['logits'\].* Did you mean 'logits'"):
        CausalLMOutputWithPast(logits=LOGITS)["logit"]
    with pytest.raises(IndexError):
        CausalLMOutputWithPast(logits=LOGITS)[1]
