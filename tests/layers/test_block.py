"""One block: two layers that add onto the residual stream."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig
from minibloom.config import parameter_shapes
from minibloom.layers.block import block, block_backward
from minibloom.layers.layer_norm import layer_norm

from ..gradients import assert_gradients, assert_linear
from ..strategies import configs, few, normal, passes, random_params, seeds

rates = st.sampled_from([0.0, 0.3])


def block_params(config: BloomConfig, seed: int) -> dict[str, numpy.ndarray]:
    return random_params({n: s for n, s in parameter_shapes(config).items() if n.startswith("h.0.")}, seed)


@pytest.mark.parametrize("after_norm", [False, True])
def test_what_the_layers_add_to(after_norm):
    """With output projections of zero a block adds nothing: the stream passes, or the last norm's output does."""
    config = BloomConfig(
        vocab_size=5, hidden_size=6, n_layer=1, n_head=3, apply_residual_connection_post_layernorm=after_norm
    )
    params, x = block_params(config, 0), normal(1, 1, 4, 6)
    for name in ("self_attention.dense", "mlp.dense_4h_to_h"):
        params[f"h.0.{name}.weight"][:] = params[f"h.0.{name}.bias"][:] = 0

    def norm(x: numpy.ndarray, name: str) -> numpy.ndarray:
        return layer_norm(x, params[f"h.0.{name}.weight"], params[f"h.0.{name}.bias"], config.layer_norm_epsilon)

    expected = norm(norm(x, "input_layernorm"), "post_attention_layernorm") if after_norm else x
    numpy.testing.assert_array_equal(block(x, params, 0, passes(config, 1, 4)[0]), expected)


def test_the_mlp_reads_what_attention_added():
    config = BloomConfig(vocab_size=5, hidden_size=6, n_layer=1, n_head=3)
    params, x = block_params(config, 0), normal(1, 1, 4, 6)
    run, tape = passes(config, 1, 4)
    y = block(x, params, 0, run)
    middle = x + tape["h.0.self_attention.dense"]
    numpy.testing.assert_array_equal(tape["h.0.attention_residual"], middle)
    numpy.testing.assert_array_equal(y, middle + tape["h.0.mlp.dense_4h_to_h"])


def test_dropout_thins_out_what_is_added_never_the_stream():
    config = BloomConfig(vocab_size=5, hidden_size=6, n_layer=1, n_head=3, hidden_dropout=0.5)
    params, x = block_params(config, 0), normal(1, 1, 4, 6)
    run, tape = passes(config, 1, 4, rng=numpy.random.default_rng(0))
    y = block(x, params, 0, run)
    for name in ("self_attention", "mlp"):
        assert set(tape[f"h.0.{name}.hidden_dropout"].ravel().tolist()) == {0.0, 2.0}
    added = tape["h.0.self_attention.dense"] * tape["h.0.self_attention.hidden_dropout"]
    numpy.testing.assert_array_equal(tape["h.0.attention_residual"], x + added)
    added = tape["h.0.mlp.dense_4h_to_h"] * tape["h.0.mlp.hidden_dropout"]
    numpy.testing.assert_array_equal(y, tape["h.0.attention_residual"] + added)


@few
@given(st.data(), rates, rates, st.integers(1, 2), st.integers(1, 3), seeds)
def test_backward(data, hidden_dropout, attention_dropout, B, S, seed):
    config = data.draw(configs(n_layer=1, hidden_dropout=hidden_dropout, attention_dropout=attention_dropout))
    params, x = block_params(config, seed), normal(seed + 1, B, S, config.hidden_size)
    x[..., 0] += 2.0  # away from a variance of 0, where the norm bends sharply
    dy = normal(seed + 2, *x.shape)

    def forward() -> tuple[numpy.ndarray, dict[str, numpy.ndarray]]:
        run, tape = passes(config, B, S, rng=numpy.random.default_rng(seed))
        return block(x, params, 0, run), tape

    _, tape = forward()
    grads: dict[str, numpy.ndarray] = {}
    grads["x"] = block_backward(dy, x, params, 0, config, tape, grads)
    assert_gradients(lambda: (dy * forward()[0]).sum(), {"x": x, **params}, {n: grads[n] for n in ("x", *params)})
    assert_linear(lambda dy: (block_backward(dy, x, params, 0, config, tape, {}),), dy)
