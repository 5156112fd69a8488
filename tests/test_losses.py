"""Cross-entropy: the mean surprise of the labels that count."""

from __future__ import annotations

import math
import warnings

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.losses import IGNORE, cross_entropy, shift

from .gradients import assert_gradient
from .strategies import normal, seeds, some


@st.composite
def logits_and_labels(draw: st.DrawFn, ignored: bool = True) -> tuple[numpy.ndarray, numpy.ndarray]:
    """`[B, S, V]` and `[B, S]`, in which at least one label counts."""
    B, S, V = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(2, 6))
    seed = draw(seeds)
    labels = numpy.random.default_rng(seed).integers(0, V, (B, S))
    if ignored:
        count = draw(st.integers(0, B * S - 1))
        labels.ravel()[draw(st.permutations(range(B * S)))[:count]] = IGNORE
    return normal(seed, B, S, V), labels


@some
@given(logits_and_labels())
def test_mean_surprise_of_the_labels_that_count(case):
    logits, labels = case
    surprise = []
    for position in numpy.ndindex(*labels.shape):
        if labels[position] != IGNORE:
            p = numpy.exp(logits[position]) / numpy.exp(logits[position]).sum()
            surprise.append(-math.log(p[labels[position]]))
    assert float(cross_entropy(logits, labels)[0]) == pytest.approx(sum(surprise) / len(surprise), rel=1e-12)


@some
@given(logits_and_labels())
def test_backward(case):
    logits, labels = case
    _, dlogits = cross_entropy(logits, labels)
    assert_gradient(lambda: cross_entropy(logits, labels)[0], logits, dlogits)
    numpy.testing.assert_allclose(dlogits.sum(-1), 0, atol=1e-12)  # a shift of a row changes no probability
    assert not dlogits[labels == IGNORE].any()


def test_logits_without_preference_are_as_surprised_as_the_vocabulary_is_large():
    loss, _ = cross_entropy(numpy.zeros((2, 3, 7)), numpy.array([[0, 1, 2], [3, 4, 5]]))
    assert float(loss) == pytest.approx(math.log(7))


@some
@given(logits_and_labels(ignored=False), seeds)
def test_ignored_rows_might_as_well_not_be_there(case, seed):
    logits, labels = case
    more = normal(seed, 1, *logits.shape[1:]), numpy.full((1, labels.shape[1]), IGNORE)
    loss, dlogits = cross_entropy(numpy.concatenate([logits, more[0]]), numpy.concatenate([labels, more[1]]))
    alone, dalone = cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(float(alone), rel=1e-12)
    numpy.testing.assert_allclose(dlogits[:-1], dalone, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_a_label_that_counts_there_is_no_mean(dtype):
    """The loss is NaN, as in the reference; the gradient is 0, so that no parameter becomes NaN; nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, dlogits = cross_entropy(normal(0, 2, 3, 5, dtype=dtype), numpy.full((2, 3), IGNORE))
    assert numpy.isnan(loss) and not dlogits.any() and dlogits.dtype == dtype


@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e37), ("float64", 1e300)])
def test_large_logits_do_not_overflow(dtype, large):
    logits = numpy.array([[large, 0.0], [-large, 0.0]], dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, dlogits = cross_entropy(logits, numpy.array([0, 1]))
        wrong, _ = cross_entropy(logits, numpy.array([1, 0]))
    assert loss == 0 and not dlogits.any() and loss.dtype == dlogits.dtype == dtype
    assert wrong == logits[0, 0]


@some
@given(logits_and_labels(), st.floats(-100, 100))
def test_a_shift_of_the_logits_changes_nothing(case, by):
    logits, labels = case
    assert float(cross_entropy(logits + by, labels)[0]) == pytest.approx(float(cross_entropy(logits, labels)[0]))


def test_logits_are_compared_with_the_next_label():
    labels = numpy.array([[5, 6, 7], [8, IGNORE, 9]])
    assert shift(labels).tolist() == [[6, 7, IGNORE], [IGNORE, 9, IGNORE]]
    assert labels[0].tolist() == [5, 6, 7]  # the caller's stay as they are
    assert shift(numpy.array([[4]])).tolist() == [[IGNORE]]
