"""Processors against their definitions, written out slowly; padding is never taken for text."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.errors import InputError
from minibloom.generation.processors import (
    Allowed,
    decaying_length,
    forced_at,
    no_repeat_ngram,
    no_stop_before,
    only_numbers,
    processors,
    repetition_penalty,
    sequence_bias,
    suppressed,
)
from minibloom.generation.settings import GenerationConfig

from ..strategies import normal, seeds

V = 6


@st.composite
def texts(draw: st.DrawFn) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Ids `[B, T]`, -1 at padding, of few tokens, so that they repeat; and logits `[B, V]`."""
    B, T, seed = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(seeds)
    rng = numpy.random.default_rng(seed)
    ids = rng.integers(0, draw(st.integers(1, V)), (B, T))
    for row in ids:
        row[: draw(st.integers(0, T - 1))] = -1
    return ids, normal(seed, B, V)


def unpadded(ids: numpy.ndarray) -> list[list[int]]:
    return [[i for i in row if i >= 0] for row in ids.tolist()]


def same(got: numpy.ndarray, expected: numpy.ndarray) -> None:
    numpy.testing.assert_allclose(got, expected, rtol=1e-12)


@given(texts(), st.floats(0.2, 5))
def test_repetition_penalty_makes_what_is_there_less_likely(text, penalty):
    ids, logits = text
    before, expected = logits.copy(), logits.copy()
    for row, there in zip(expected, unpadded(ids), strict=True):
        for token in set(there):
            row[token] = row[token] * penalty if row[token] < 0 else row[token] / penalty
    same(repetition_penalty(penalty)(ids, logits), expected)
    same(logits, before)


@given(texts(), st.integers(1, 5))
def test_no_run_of_tokens_occurs_twice(text, size):
    ids, logits = text
    expected = logits.copy()
    for row, there in zip(expected, unpadded(ids), strict=True):
        runs = {tuple(there[i : i + size]) for i in range(len(there) - size + 1)}
        for token in range(V):
            begun = there[len(there) - size + 1 :]
            if len(begun) == size - 1 and (*begun, token) in runs:
                row[token] = -math.inf
    same(no_repeat_ngram(size)(ids, logits), expected)


words = st.dictionaries(
    st.lists(st.integers(0, V - 1), min_size=1, max_size=3).map(tuple),
    st.floats(-5, 5) | st.just(-math.inf), min_size=1, max_size=5,
)  # fmt: skip


@given(texts(), words)
def test_a_bias_is_added_to_the_token_that_completes_a_word(text, biases):
    ids, logits = text
    expected = logits.copy()
    for row, there in zip(expected, unpadded(ids), strict=True):
        for word, bias in biases.items():
            if len(word) == 1 or tuple(there[-len(word) + 1 :]) == word[:-1]:
                row[word[-1]] += bias
    same(sequence_bias(biases)(ids, logits), expected)


@given(texts(), st.integers(0, 14))
def test_tokens_are_forced_and_ruled_out_by_length(text, at):
    ids, logits = text
    there, ends = ids.shape[1] == at, [1, 4]
    forced = forced_at(at, ends)(ids, logits)
    same(forced, [[0 if i in ends else -math.inf for i in range(V)]] * len(ids) if there else logits)
    out = [[-math.inf if i in ends else x for i, x in enumerate(row)] for row in logits]
    same(suppressed(ends, at)(ids, logits), out if there else logits)
    same(suppressed(ends)(ids, logits), out)
    same(no_stop_before(at, ends)(ids, logits), out if ids.shape[1] < at else logits)


def test_stop_tokens_grow_likelier_and_invalid_numbers_valid():
    ids, logits = numpy.zeros((1, 7), int), numpy.array([[-2.0, 1.0, -math.inf]])
    same(decaying_length(5, 1.5, [0, 2])(ids, logits), [[-2 + 2 * (1.5**2 - 1), 1, -math.inf]])
    same(decaying_length(7, 1.5, [0])(ids, logits), logits)
    for factor, least in ((1.5, 1e29), (1e300, 1e29), (0.5, -4)):  # however long the text, and steep the factor
        raised = decaying_length(5, factor, [0])(numpy.zeros((1, 5000), dtype="int64"), logits.astype("float32"))
        assert numpy.isfinite(raised[0, 0]) and raised[0, 0] >= least
    fixed = only_numbers(ids, numpy.array([[math.nan, math.inf, -math.inf]]))
    assert fixed[0, 0] == 0 and numpy.isfinite(fixed).all()


def test_a_word_that_ends_a_row_is_never_a_bad_word():
    settings = GenerationConfig(bad_words_ids=[[2], [3], [1, 4]]).complete()
    (process,) = processors(settings, prompt=1, length=9, ends=[2], own=[])
    same(process(numpy.array([[1]]), numpy.zeros((1, V))), [[0, 0, 0, -math.inf, -math.inf, 0]])


def test_what_is_not_chosen_first_may_be_forced_first():
    settings = GenerationConfig(forced_bos_token_id=2, begin_suppress_tokens=[2]).complete()
    for prompt, place in ((1, 2), (3, 3)):  # with one token, the first choice is that after the forced one
        ids, logits = numpy.ones((1, place), int), numpy.zeros((1, V))
        for process in processors(settings, prompt, 9, [], []):
            logits = process(ids, logits)
        same(logits, [[0, 0, -math.inf, 0, 0, 0]])


@pytest.mark.parametrize("answer", [[], None, [6], [-1], [0.5], "x"])
def test_a_function_that_allows_no_token_is_named(answer):
    allowed = Allowed(lambda number, ids: answer, beams=False)
    with pytest.raises(InputError, match="prefix_allowed_tokens_fn returned .* for number 3, expected at least one id"):
        allowed(numpy.zeros((1, 2), int), numpy.zeros((1, V)), numpy.array([3]))


def test_a_users_own_processor_comes_last_and_its_answer_is_looked_at():
    settings = GenerationConfig(suppress_tokens=[0]).complete()
    chain = processors(settings, 1, 9, [], [lambda ids, logits: 2 * logits])
    logits = numpy.ones((1, V))
    for process in chain:
        logits = process(numpy.array([[1]]), logits)
    same(logits, [[-math.inf, 2, 2, 2, 2, 2]])
    for wrong in (lambda ids, logits: None, lambda ids, logits: logits[:, 1:]):
        with pytest.raises(InputError, match="logits_processor returned"):
            processors(settings, 1, 9, [], [wrong])[-1](numpy.array([[1]]), logits)
