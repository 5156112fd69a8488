"""A walk shows every step of the pass, in order, with what it is, and ends with what comes next."""

from __future__ import annotations

import numpy
import pytest

from minibloom import BloomForCausalLM, step_names, walk
from minibloom.errors import InputError
from minibloom.layers.softmax import softmax
from minibloom.trace import STEPS, formula

from . import tiny
from .strategies import random_model

TRAINING = ("dropout", "head_mask", ".grad", ".dhidden", ".dweight")  # steps that a plain pass does not have


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model() -> BloomForCausalLM:
    return random_model(tiny.config(), 0, "float32")


def test_every_step_is_there_in_forward_order(model, tokenizer):
    steps = walk("the cat sat", model, tokenizer).trace
    assert list(steps) == [name for name in step_names(2) if not name.endswith(TRAINING)]


def test_a_model_whose_calls_return_tuples_is_walked_alike(model, tokenizer):
    tuples = random_model(tiny.config(return_dict=False), 0, "float32")
    assert str(walk("the cat sat", tuples, tokenizer)) == str(walk("the cat sat", model, tokenizer))


def test_each_part_says_name_formula_shape_dtype_and_values_and_fits_a_terminal(model, tokenizer):
    result = walk("the cat sat", model, tokenizer)
    tokens, *parts, following = result.parts()
    assert tokens == f"{len(result.tokens)} tokens: " + " ".join(map(repr, result.tokens))
    for (name, value), part in zip(result.trace.items(), parts, strict=True):
        for said in (name, formula(name), str(list(value.shape)), str(value.dtype), "mean", "std", "min", "max"):
            assert said in part
        assert all(len(line) <= 100 for line in part.splitlines())
    assert all(all(step) for step in STEPS.values())
    assert following.count("%") == len(result.next_tokens) == 5
    assert str(result) == "\n".join([tokens, *parts, following])


def test_the_end_is_the_models_own_answer(model, tokenizer):
    prompt = "the dog sat"
    ids = tokenizer(prompt)["input_ids"]
    logits = model([ids]).logits[0, -1]
    result = walk(prompt, model, tokenizer, top=3)
    assert "".join(result.tokens) == prompt
    numpy.testing.assert_allclose(result.trace["lm_head"][0, -1], logits, rtol=1e-5)
    expected = softmax(logits)[: len(tokenizer)]
    best = sorted(range(len(expected)), key=lambda i: -expected[i])[:3]
    assert [token for token, _ in result.next_tokens] == [tokenizer.decode([i]) for i in best]
    assert [p for _, p in result.next_tokens] == pytest.approx(expected[best].tolist(), rel=1e-4)


def test_rows_past_the_tokenizer_are_no_tokens(model, tokenizer):
    result = walk("the", model, tokenizer, top=10**6)
    assert len(result.next_tokens) == len(tokenizer) < model.config.vocab_size


def test_bad_input_is_named(model, tokenizer):
    for arguments, message in [
        (("", model, tokenizer), "the prompt is empty"),
        (("the", model, tokenizer, 0), "top is 0"),
        (("the", model, tokenizer, 1.5), "top is 1.5"),
        (("the", model), "tokenizer is missing"),
        (("the", None, tokenizer), "model is missing"),
    ]:
        with pytest.raises(InputError, match=message):
            walk(*arguments)
