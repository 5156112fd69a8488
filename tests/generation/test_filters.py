"""Filters against their definitions, row by row; what an earlier filter left is filtered just as it is in its place."""

from __future__ import annotations

import math

import numpy
from hypothesis import assume, given
from hypothesis import strategies as st

from minibloom.generation.filters import (
    compressed,
    filtered,
    filters,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_h,
    keep_top_k,
    keep_top_p,
    keep_typical,
    processed,
    spread,
)
from minibloom.generation.settings import GenerationConfig

from ..strategies import normal, seeds
from .test_generate import kept, logit_rows, probabilities


def left(filter_: object, logits: numpy.ndarray, *arguments: float) -> list[set[int]]:
    """The tokens that a filter leaves in each row."""
    return [set(numpy.flatnonzero(row)) for row in kept(filter_(logits, *arguments), logits)]


def likeliest(row: numpy.ndarray) -> list[int]:
    return sorted(range(len(row)), key=lambda i: -row[i])


@given(logits=logit_rows(), p=st.floats(0.01, 1), keep=st.integers(1, 3))
def test_min_p_and_cutoffs_leave_what_is_likely_enough_and_the_likeliest_in_any_case(logits, p, keep):
    limits = {
        keep_min_p: lambda probs: p * max(probs),
        keep_epsilon: lambda probs: p,
        keep_eta: lambda probs: min(p, math.sqrt(p) * math.exp(sum(q * math.log(q) for q in probs))),
    }
    for filter_, limit in limits.items():
        for row, tokens in zip(logits, left(filter_, logits, p, keep), strict=True):
            probs = probabilities(row)
            assume(all(abs(q - limit(probs)) > 1e-9 for q in probs) or filter_ is keep_min_p)
            enough = {i for i, q in enumerate(probs) if q >= limit(probs) - 1e-12}
            assert tokens == enough | set(likeliest(row)[:keep])


@given(logits=logit_rows(), p=st.floats(0.01, 0.999), keep=st.integers(1, 3))
def test_typical_tokens_are_those_whose_surprise_is_nearest_to_the_expected(logits, p, keep):
    for row, tokens in zip(logits, left(keep_typical, logits, p, keep), strict=True):
        probs, held, expected = probabilities(row), 0.0, set()
        entropy = -sum(q * math.log(q) for q in probs)
        order = sorted(range(len(row)), key=lambda i: abs(-math.log(probs[i]) - entropy))
        for i in order:
            expected.add(i)
            held += probs[i]
            assume(abs(held - p) > 1e-9)
            if held >= p:
                break
        assert tokens == expected | set(order[:keep])


@given(logits=logit_rows(), h=st.floats(0.05, 0.999))
def test_top_h_keeps_a_share_of_the_entropy(logits, h):
    for row, tokens in zip(logits, left(keep_top_h, logits, h), strict=True):
        probs, expected, held = probabilities(row), set(), 0.0
        entropy = -sum(q * math.log(q) for q in probs)
        for i in likeliest(row):
            held -= probs[i] * math.log(probs[i])
            assume(abs(held - h * entropy) > 1e-9)
            if expected and held > h * entropy:
                break
            expected.add(i)
        assert tokens == expected


@given(seed=seeds, p=st.floats(0.01, 0.9999), size=st.sampled_from([100, 129, 500, 5000]))
def test_top_p_sorts_as_many_tokens_as_it_takes(seed, p, size):
    logits = 3 * normal(seed, 2, size)
    for row, tokens in zip(logits, left(keep_top_p, logits, p), strict=True):
        probs = numpy.exp(row - row.max()) / numpy.exp(row - row.max()).sum()
        order = numpy.argsort(-probs)
        count = int((numpy.cumsum(probs[order]) - probs[order] < p).sum())
        assert tokens == set(order[:count].tolist())


settings = st.fixed_dictionaries({}, optional={
    "temperature": st.floats(0.2, 4), "top_k": st.integers(0, 30), "top_p": st.floats(0.1, 1),
    "min_p": st.floats(0, 1), "typical_p": st.floats(0.1, 1), "epsilon_cutoff": st.floats(0, 0.5),
    "eta_cutoff": st.floats(0, 0.5), "top_h": st.floats(0.1, 1),
})  # fmt: skip


@given(seed=seeds, size=st.sampled_from([10, 300]), asked=settings)
def test_filtering_what_is_left_side_by_side_is_filtering_in_place(seed, size, asked):
    logits = 3 * normal(seed, 3, size)
    expected = processed(logits, **asked)
    steps = filters(GenerationConfig(**asked).complete())
    got = spread(*filtered(logits, steps), size) if steps else logits
    numpy.testing.assert_array_equal(got, expected)


@given(seed=seeds, share=st.floats(0, 1))
def test_compressing_loses_nothing(seed, share):
    logits = normal(seed, 3, 64)
    out = numpy.random.default_rng(seed).random(logits.shape) < share
    out[:, 5] = False
    logits[out] = -math.inf
    ids, values = compressed(logits)
    numpy.testing.assert_array_equal(spread(ids, values, 64), logits)
    assert ids is None or ids.shape[1] == (~out).sum(1).max()


def test_what_the_last_filter_leaves_is_drawn_from_side_by_side():
    logits = numpy.random.default_rng(0).standard_normal((2, 300))
    ids, values = filtered(logits, [lambda x: keep_top_k(x, 5)])
    assert ids.shape == values.shape == (2, 5)
    numpy.testing.assert_array_equal(numpy.sort(ids), numpy.sort(numpy.argsort(logits)[:, -5:]))
    numpy.testing.assert_array_equal(values, numpy.take_along_axis(logits, ids, axis=1))
