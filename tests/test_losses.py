"""Losses: the mean surprise of the labels that count, of yes and no, and the mean squared error."""

from __future__ import annotations

import math
import warnings

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.losses import IGNORE, binary_cross_entropy, cross_entropy, mean_squared_error, shift

from .gradients import assert_gradient
from .strategies import arrays, normal, seeds, some


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
@given(seeds, st.floats(0, 30))
def test_in_float32_a_small_loss_keeps_its_digits_beside_large_logits(seed, surprise_of_the_rest):
    logits = normal(seed, 4, 5)
    labels = logits.argmax(-1)  # the label is the likeliest, so that its surprise is small
    logits[numpy.arange(4), labels] += surprise_of_the_rest
    logits = numpy.float32(logits + 1000)  # a shift that changes nothing, but for the digits that a sum with it costs
    exact, _ = cross_entropy(logits.astype(numpy.float64), labels)
    loss, _ = cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(float(exact), rel=1e-5, abs=1e-6)


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


# --- yes or no; numbers ---

LOSSES = pytest.mark.parametrize("loss", [binary_cross_entropy, mean_squared_error], ids=lambda loss: loss.__name__)


def probabilities(shape: tuple[int, ...], seed: int) -> numpy.ndarray:
    """Targets in [0, 1], some of them at its ends."""
    return numpy.random.default_rng(seed).uniform(-0.5, 1.5, shape).clip(0, 1)


@some
@given(arrays(), seeds)
def test_mean_surprise_of_yes_and_no(z, seed):
    y = probabilities(z.shape, seed)
    p = 1 / (1 + numpy.exp(-z))
    expected = -(y * numpy.log(p) + (1 - y) * numpy.log(1 - p)).mean()
    assert float(binary_cross_entropy(z, y)[0]) == pytest.approx(expected, rel=1e-12)


@some
@given(arrays(), seeds)
def test_yes_or_no_is_a_choice_among_two(z, seed):
    """A logit z for yes is the same as the logits (0, z) for no and yes."""
    y = numpy.random.default_rng(seed).integers(0, 2, z.shape)
    loss, dz = binary_cross_entropy(z, y.astype("float64"))
    of_two, dtwo = cross_entropy(numpy.stack([numpy.zeros_like(z), z], -1), y)
    assert float(loss) == pytest.approx(float(of_two), rel=1e-12)
    numpy.testing.assert_allclose(dz, dtwo[..., 1], atol=1e-15)


@some
@given(arrays(), seeds)
def test_mean_squared_error_by_hand(z, seed):
    y = normal(seed, *z.shape)
    pairs = list(zip(z.ravel(), y.ravel(), strict=True))
    assert float(mean_squared_error(z, y)[0]) == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    assert float(mean_squared_error(z, z)[0]) == 0 and not mean_squared_error(z, z)[1].any()


@LOSSES
@some
@given(z=arrays(), seed=seeds)
def test_backward_of_both(loss, z, seed):
    y = probabilities(z.shape, seed)
    assert_gradient(lambda: loss(z, y)[0], z, loss(z, y)[1])


@LOSSES
@some
@given(z=arrays(), seed=seeds, share=st.floats(0, 1))
def test_what_is_linear_in_the_targets(loss, z, seed, share):
    """Both gradients, and the surprise itself: a target half way between two is the mean of both."""
    a, b = probabilities(z.shape, seed), probabilities(z.shape, seed + 1)
    between = share * a + (1 - share) * b
    numpy.testing.assert_allclose(
        loss(z, between)[1], share * loss(z, a)[1] + (1 - share) * loss(z, b)[1], atol=1e-12 * abs(z).max()
    )
    if loss is binary_cross_entropy:
        mixed = share * loss(z, a)[0] + (1 - share) * loss(z, b)[0]
        assert float(loss(z, between)[0]) == pytest.approx(mixed, rel=1e-12)


@some
@given(arrays(), seeds)
def test_yes_and_no_are_mirrored(z, seed):
    y = probabilities(z.shape, seed)
    (loss, dz), (mirrored, dmirrored) = binary_cross_entropy(z, y), binary_cross_entropy(-z, 1 - y)
    assert float(loss) == pytest.approx(float(mirrored), rel=1e-12)
    numpy.testing.assert_allclose(dz, -dmirrored, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits_neither_overflow_nor_lose_what_they_say(dtype):
    """Where p rounds to 0 or 1, the logarithm of p would be infinite; the surprise is |z|, or what is left of it."""
    largest = numpy.finfo(dtype).max / 8
    z = numpy.array([largest, -largest, 1000, -1000, 0], dtype)
    right = numpy.array([1, 0, 1, 0, 0.5], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [binary_cross_entropy(z[i : i + 1], right[i : i + 1]) for i in range(5)]
        wrong = [binary_cross_entropy(z[i : i + 1], 1 - right[i : i + 1]) for i in range(5)]
    assert [float(loss) for loss, _ in losses] == [0, 0, 0, 0, pytest.approx(math.log(2))]
    assert [float(loss) for loss, _ in wrong[:4]] == abs(z[:4]).tolist()
    assert [float(dz[0]) for _, dz in wrong] == [1, -1, 1, -1, 0]
    assert all(dz.dtype == loss.dtype == dtype for loss, dz in losses)
    tiny, _ = binary_cross_entropy(numpy.array([50], "float64"), numpy.array([1.0]))
    assert float(tiny) == pytest.approx(math.exp(-50), rel=1e-12)  # log(1 + x), not log of 1 + x rounded


@LOSSES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mean_is_over_all_numbers_and_keeps_their_type(loss, dtype):
    z, y = normal(0, 3, 4, dtype=dtype), probabilities((3, 4), 0).astype(dtype)
    (mean, gradient), twice = loss(z, y), loss(numpy.concatenate([z, z]), numpy.concatenate([y, y]))
    assert mean.shape == () and mean.dtype == gradient.dtype == dtype and gradient.shape == (3, 4)
    numpy.testing.assert_allclose(twice[0], mean, rtol=1e-6)
    numpy.testing.assert_allclose(twice[1], numpy.concatenate([gradient, gradient]) / 2, rtol=1e-6)


@some
@given(st.integers(1, 5), st.integers(2, 7), seeds)
def test_a_gradient_that_takes_the_place_of_the_logits_is_the_same(N, V, seed):
    logits, labels = normal(seed, N, V), numpy.random.default_rng(seed).integers(0, V, N)
    loss, dlogits = cross_entropy(logits.copy(), labels)
    same, there = cross_entropy(logits, labels, in_place=True)
    assert float(same) == float(loss)
    numpy.testing.assert_array_equal(there, dlogits)
