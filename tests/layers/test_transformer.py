"""The whole stack: embedding, norm, blocks, norm."""

from __future__ import annotations

from typing import Any

import numpy
from hypothesis import given
from hypothesis import strategies as st

from minibloom.config import parameter_shapes
from minibloom.layers.block import block
from minibloom.layers.layer_norm import layer_norm
from minibloom.layers.transformer import transformer, transformer_backward

from ..gradients import assert_gradients, assert_linear
from ..strategies import configs, normal, passes, random_params, seeds, token_ids, without_shrinking

TABLE = "word_embeddings.weight"


@without_shrinking
@given(configs(), st.data(), seeds)
def test_norm_blocks_norm(config, data, seed):
    ids, params = data.draw(token_ids(config)), random_params(parameter_shapes(config), seed)
    eps = config.layer_norm_epsilon

    def norm(x: numpy.ndarray, name: str) -> numpy.ndarray:
        return layer_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], eps)

    x = norm(params[TABLE][ids], "word_embeddings_layernorm")
    for layer in range(config.n_layer):
        x = block(x, params, layer, passes(config, *ids.shape)[0])
    expected = norm(x, "ln_f")
    numpy.testing.assert_array_equal(transformer(ids, None, params, passes(config, *ids.shape)[0]), expected)
    embeds = params[TABLE][ids]
    numpy.testing.assert_array_equal(transformer(None, embeds, params, passes(config, *ids.shape)[0]), expected)


@without_shrinking
@given(configs(), st.data(), seeds, st.booleans())
def test_backward(config, data, seed, from_ids):
    """Onto what a tied head has left at the embedding matrix; that gets nothing more where embeddings were given."""
    ids, params = data.draw(token_ids(config, longest=4)), random_params(parameter_shapes(config), seed)
    d = normal(seed + 1, *ids.shape, config.hidden_size)
    inputs: Any = (ids, None) if from_ids else (None, normal(seed + 2, *ids.shape, config.hidden_size))

    def forward() -> tuple[numpy.ndarray, dict[str, numpy.ndarray]]:
        run, tape = passes(config, *ids.shape)
        return transformer(*inputs, params, run), tape

    _, tape = forward()

    def backward(d: numpy.ndarray) -> dict[str, numpy.ndarray]:
        grads: dict[str, numpy.ndarray] = {}
        transformer_backward(d, params, config, tape, grads)
        return grads

    grads = backward(d)
    assert_linear(lambda d: tuple(backward(d).values()), d)
    assert_gradients(lambda: (d * forward()[0]).sum(), params, {name: grads[name] for name in params}, few=0)

    left = {TABLE: numpy.ones_like(params[TABLE])}
    transformer_backward(d, params, config, tape, left)
    numpy.testing.assert_allclose(left[TABLE], 1 + grads[TABLE], atol=1e-12 * abs(left[TABLE]).max())
    assert from_ids or (left[TABLE] == 1).all()
