"""Generation against transformers' `generate`: the same tokens where nothing is drawn, else the same probabilities."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from minibloom import BloomForCausalLM
from minibloom.generation import processed
from minibloom.layers.softmax import softmax

from .cases import Case, cases, padding
from .oracle import Oracle, float64_kept, slopes_of_minibloom

draws = settings(max_examples=20)
PAD = 1


def theirs(model: BloomForCausalLM, ids: numpy.ndarray, mask: numpy.ndarray, **options: Any) -> Any:
    """What transformers' `generate` returns, in float64: where two tokens are close, rounding decides nothing."""
    with torch.no_grad(), float64_kept(), slopes_of_minibloom():
        return Oracle(model).module.generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), pad_token_id=PAD, **options
        )


def prompts(case: Case, data: st.DataObject) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Ids `[B, S]` and a mask that pads on the left."""
    ids = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 10))
    rng = numpy.random.default_rng(case.seed)
    kinds = data.draw(st.lists(st.sampled_from(["none", "left"]), min_size=ids[0], max_size=ids[0]))
    mask = numpy.stack([padding(kind, ids[1], rng) for kind in kinds])
    return rng.integers(0, case.config.vocab_size, ids), mask


@given(case=cases(), data=st.data())
@draws
def test_greedy_gives_the_same_tokens(case, data):
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    count = data.draw(st.integers(1, 6))
    ends = data.draw(st.lists(st.integers(0, case.config.vocab_size - 1), max_size=3, unique=True))
    expected = theirs(model, ids, mask, max_new_tokens=count, do_sample=False, eos_token_id=ends or None)
    got = model.generate(ids, attention_mask=mask, max_new_tokens=count, eos_token_id=ends, pad_token_id=PAD)
    numpy.testing.assert_array_equal(got, expected.numpy())


@given(
    case=cases(),
    data=st.data(),
    temperature=st.floats(0.2, 5),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.05, 1),
)
@draws
def test_tokens_are_drawn_with_the_same_probabilities(case, data, temperature, top_k, top_p):
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    out = theirs(
        model, ids, mask, max_new_tokens=1, do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p,
        eos_token_id=None, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    expected = softmax(out.scores[0].numpy())
    logits = model(ids, attention_mask=mask).logits[:, -1]
    got = softmax(processed(logits, temperature, top_k, top_p))
    numpy.testing.assert_array_equal(got > 0, expected > 0)  # the same tokens are ruled out
    numpy.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)  # transformers rounds logits to float32 here
