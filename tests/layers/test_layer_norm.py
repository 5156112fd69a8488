"""Layer normalisation and what it does not see: a shift and a scale of its input."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from minibloom.layers.layer_norm import layer_norm, layer_norm_backward

from ..gradients import assert_gradients, assert_linear
from ..strategies import normal, seeds, some

EPS = 1e-5
widths = st.integers(2, 7)
leading = st.lists(st.integers(1, 3), max_size=2)


@some
@given(leading, widths, seeds)
def test_mean_is_the_bias_and_deviation_the_weight(leading, E, seed):
    x = normal(seed, *leading, E)
    y = layer_norm(x, numpy.full(E, 3.0), numpy.full(E, 0.5), eps=0.0)
    numpy.testing.assert_allclose(y.mean(-1), 0.5, atol=1e-12)
    numpy.testing.assert_allclose(y.std(-1), 3.0, atol=1e-12)  # the biased deviation: / E


@some
@given(leading, widths, seeds, st.floats(-10, 10), st.floats(0.1, 10))
def test_shift_and_scale_of_the_input_cancel(leading, E, seed, shift, scale):
    x, weight, bias = normal(seed, *leading, E), normal(seed + 1, E), normal(seed + 2, E)
    x[..., 0] += 3.0  # away from a variance of 0
    y = layer_norm(x, weight, bias, eps=0.0)
    numpy.testing.assert_allclose(layer_norm(scale * x + shift, weight, bias, eps=0.0), y, atol=1e-9)


def test_epsilon_is_added_to_the_variance():
    x = numpy.array([[-1.0, 1.0], [0.0, 0.0]])  # variances 1 and 0
    numpy.testing.assert_allclose(layer_norm(x, numpy.ones(2), numpy.zeros(2), eps=3.0), x / 2)


def test_a_large_mean_costs_no_precision():
    """The mean is taken off before squares are: E[x²] - E[x]² would leave nothing of the variance here."""
    x = normal(0, 4, 64, dtype="float32")
    weight, bias = numpy.ones(64, dtype="float32"), numpy.zeros(64, dtype="float32")
    near, far = layer_norm(x, weight, bias, EPS), layer_norm(x + numpy.float32(4096), weight, bias, EPS)
    assert near.dtype == "float32"
    numpy.testing.assert_allclose(far, near, atol=1e-3)  # 4096 + x itself is rounded to 2^-11


@some
@given(leading, widths, seeds)
def test_backward(leading, E, seed):
    x, weight, bias = normal(seed, *leading, E), normal(seed + 1, E), normal(seed + 2, E)
    x[..., 0] += 3.0
    dy = normal(seed + 3, *leading, E)
    dx, dweight, dbias = layer_norm_backward(dy, x, weight, EPS)
    assert_gradients(
        lambda: (dy * layer_norm(x, weight, bias, EPS)).sum(),
        {"x": x, "weight": weight, "bias": bias},
        {"x": dx, "weight": dweight, "bias": dbias},
    )
    assert_linear(lambda dy: layer_norm_backward(dy, x, weight, EPS), dy)


@some
@given(leading, widths, seeds)
def test_no_gradient_along_what_the_norm_does_not_see(leading, E, seed):
    x, weight, dy = normal(seed, *leading, E), normal(seed + 1, E), normal(seed + 2, *leading, E)
    x[..., 0] += 3.0
    dx, _, _ = layer_norm_backward(dy, x, weight, eps=0.0)
    numpy.testing.assert_allclose(dx.sum(-1), 0, atol=1e-12)  # a shift
    numpy.testing.assert_allclose((dx * x).sum(-1), 0, atol=1e-10)  # a scale
