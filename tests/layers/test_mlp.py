"""The MLP and its GELU."""

from __future__ import annotations

import math

import numpy
from hypothesis import given
from hypothesis import strategies as st

from minibloom.config import parameter_shapes
from minibloom.layers.linear import linear
from minibloom.layers.mlp import gate, gelu, gelu_backward, mlp, mlp_backward

from ..gradients import assert_gradient, assert_gradients, assert_linear
from ..strategies import arrays, configs, few, normal, passes, random_params, seeds, some

LINE = numpy.linspace(-12, 12, 2001)


def test_gelu_is_the_tanh_form():
    """Known values, and far nearer to tanh with all digits of √(2/π) than to the form with erf."""
    by_tanh = LINE / 2 * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (LINE + 0.044715 * LINE**3)))
    by_erf = LINE / 2 * (1 + numpy.array([math.erf(x / math.sqrt(2)) for x in LINE]))
    assert gelu(numpy.zeros(1)) == 0
    assert abs(gelu(LINE) - by_tanh).max() < 1e-9
    assert 4e-4 < abs(gelu(LINE) - by_erf).max() < 5e-4


def test_gelu_lets_a_share_of_each_number_through():
    share = gate(LINE)
    assert (share >= 0).all() and (share <= 1).all() and (numpy.diff(share) >= 0).all()
    numpy.testing.assert_allclose(gelu(LINE), LINE * share)
    numpy.testing.assert_allclose(gelu(LINE) - gelu(-LINE), LINE, atol=1e-12)  # the shares of x and -x sum to 1
    numpy.testing.assert_allclose(gelu(LINE[LINE > 6]), LINE[LINE > 6])
    numpy.testing.assert_allclose(gelu(LINE[LINE < -6]), 0, atol=1e-9)


def test_gelu_of_large_floats_is_exact_and_keeps_its_type():
    x = numpy.array([-1e12, -100, 100, 1e12], dtype="float32")
    assert gelu(x).dtype == gelu_backward(x, x).dtype == "float32"
    assert gelu(x).tolist() == [0, 0, x[2], x[3]]
    assert gelu_backward(numpy.ones_like(x), x).tolist() == [0, 0, 1, 1]


@some
@given(arrays(), seeds)
def test_gelu_backward(x, seed):
    dy = normal(seed, *x.shape)
    assert_gradient(lambda: (dy * gelu(3 * x)).sum(), x, 3 * gelu_backward(dy, 3 * x))
    assert_linear(lambda dy: (gelu_backward(dy, x),), dy)


@few
@given(configs(n_layer=1), st.integers(1, 2), st.integers(1, 3), seeds)
def test_mlp_and_its_backward(config, B, S, seed):
    params = random_params({n: s for n, s in parameter_shapes(config).items() if ".mlp." in n}, seed)
    x, dy = normal(seed + 1, B, S, config.hidden_size), normal(seed + 2, B, S, config.hidden_size)

    def forward() -> tuple[numpy.ndarray, dict[str, numpy.ndarray]]:
        run, tape = passes(config, B, S)
        return mlp(x, params, 0, run), tape

    y, tape = forward()
    w_up, b_up, w_down, b_down = params.values()
    assert w_up.shape == (4 * config.hidden_size, config.hidden_size)  # four times as wide inside
    numpy.testing.assert_allclose(y, linear(gelu(linear(x, w_up, b_up)), w_down, b_down), atol=1e-11)

    grads: dict[str, numpy.ndarray] = {}
    grads["x"] = mlp_backward(dy, x, params, 0, tape, grads)
    assert_gradients(lambda: (dy * forward()[0]).sum(), {"x": x, **params}, {n: grads[n] for n in ("x", *params)})
    assert_linear(lambda dy: (mlp_backward(dy, x, params, 0, tape, {}),), dy)
