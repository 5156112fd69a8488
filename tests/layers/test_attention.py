"""Self-attention: held to its definition, written with loops, and to differences."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy
from hypothesis import example, given
from hypothesis import strategies as st

from minibloom import BloomConfig, Cache, Trace, scale
from minibloom.config import parameter_shapes
from minibloom.layers import tiled_attention as tiles
from minibloom.layers.attention import (
    attention_scores,
    merge_heads,
    self_attention,
    self_attention_backward,
    split_heads,
)

from ..gradients import assert_gradients, assert_linear
from ..strategies import HEADS_OF_176B, configs, few, normal, passes, random_model, random_params, seeds, some

NAME = "h.0.self_attention"


def attention_params(config: BloomConfig, seed: int) -> dict[str, numpy.ndarray]:
    return random_params({n: s for n, s in parameter_shapes(config).items() if n.startswith(NAME)}, seed)


def by_definition(x: numpy.ndarray, params: dict[str, numpy.ndarray], config: BloomConfig, alibi: Any) -> numpy.ndarray:
    """One query and one head at a time; a query sees itself and what came before. `x [B, S, E]` -> `[B, S, E]`."""
    H, D = config.n_head, config.head_dim
    w, bias, w_dense, b_dense = params.values()
    fused = x @ w.T + bias
    out = numpy.zeros_like(x)
    for b, s in numpy.ndindex(x.shape[:2]):
        heads = []
        for h in range(H):
            first = 3 * D * h  # q, k and v of one head stand side by side
            q = fused[b, s, first : first + D]
            k, v = fused[b, : s + 1, first + D : first + 2 * D], fused[b, : s + 1, first + 2 * D : first + 3 * D]
            weights = numpy.exp(k @ q / math.sqrt(D) + alibi[b, h, 0, : s + 1])
            heads.append(weights @ v / weights.sum())
        out[b, s] = numpy.concatenate(heads) @ w_dense.T + b_dense
    return out


@some
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), seeds)
def test_splitting_into_heads_is_undone_by_merging(B, S, H, D, seed):
    fused = normal(seed, B, S, 3 * H * D)
    parts = split_heads(fused, H)
    assert all(part.shape == (B, H, S, D) and numpy.shares_memory(part, fused) for part in parts)
    by_head = fused.reshape(B, S, H, 3 * D)
    for i, part in enumerate(parts):
        numpy.testing.assert_array_equal(merge_heads(part).reshape(B, S, H, D), by_head[..., i * D : (i + 1) * D])


def test_query_key_and_value_of_a_head_stand_side_by_side():
    """BLOOM's layout is [H, 3, D]; GPT-2's, [3, H, D], would give 0 1 2 3, 4 5 6 7, 8 9 10 11."""
    q, k, v = (part.ravel().tolist() for part in split_heads(numpy.arange(12.0).reshape(1, 1, 12), 2))
    assert (q, k, v) == ([0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11])


def test_scores_scale_the_product_but_not_alibi():
    q, k = numpy.full((1, 1, 1, 4), 3.0), numpy.ones((1, 1, 2, 4))
    alibi = numpy.array([0.0, 0.5]).reshape(1, 1, 1, 2)
    assert attention_scores(q, k, alibi, None).ravel().tolist() == [12 / 2, 12 / 2 + 0.5]


def test_hidden_keys_get_the_lowest_finite_score():
    """ALiBi, however large, brings none of them back."""
    for dtype in ("float32", "float64"):
        q, k, alibi = (numpy.full((1, 1, n, m), 1e3, dtype=dtype) for n, m in ((1, 4), (2, 4), (1, 2)))
        scores = attention_scores(q, k, alibi, numpy.array([True, False]))
        assert scores.dtype == dtype and scores[..., 1] == numpy.finfo(dtype).min and scores[..., 0] > 0


@few
@given(configs(n_layer=1), st.integers(1, 2), st.integers(1, 4), seeds)
@example(HEADS_OF_176B, 1, 3, 0)
def test_attention_is_its_definition(config, B, S, seed):
    params, x = attention_params(config, seed), normal(seed + 1, B, S, config.hidden_size)
    run, tape = passes(config, B, S)
    y = self_attention(x, params, 0, run)
    numpy.testing.assert_allclose(y, by_definition(x, params, config, run.alibi), atol=1e-11)
    probs = tape[f"{NAME}.probs"]
    assert probs.shape == (B, config.n_head, S, S)
    numpy.testing.assert_allclose(probs.sum(-1), 1)
    assert not numpy.triu(probs, 1).any()  # nothing of the future


@few
@given(configs(n_layer=1, attention_dropout=0.4), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2), seeds,
       st.booleans(), st.booleans())  # fmt: skip
@example(HEADS_OF_176B, 1, 2, 1, 0, True, False)
def test_backward(config, B, S, past, seed, train, masked_heads):
    """With and without dropout, head mask, and keys and values of `past` positions, which are constants."""
    H, D, E = config.n_head, config.head_dim, config.hidden_size
    params, x, dy = attention_params(config, seed), normal(seed + 1, B, S, E), normal(seed + 2, B, S, E)
    old_keys, old_values = normal(seed + 3, 2, B, H, past, D)
    head_mask = normal(seed + 4, 1, H) if masked_heads else None

    def forward() -> tuple[numpy.ndarray, dict[str, numpy.ndarray]]:
        cache = Cache(1)
        cache.update(0, old_keys, old_values)
        cache.advance(past)
        rng = numpy.random.default_rng(seed) if train else None
        run, tape = passes(config, B, S, past, cache=cache, rng=rng, head_mask=head_mask)
        return self_attention(x, params, 0, run), tape

    _, tape = forward()
    assert (f"{NAME}.dropout" in tape, f"{NAME}.head_mask" in tape) == (
        train and config.attention_dropout > 0,
        masked_heads,
    )
    grads: dict[str, numpy.ndarray] = {}
    grads["x"] = self_attention_backward(dy, x, params, 0, tape, grads)
    assert_gradients(lambda: (dy * forward()[0]).sum(), {"x": x, **params}, {n: grads[n] for n in ("x", *params)})
    assert_linear(lambda dy: (self_attention_backward(dy, x, params, 0, tape, {}),), dy)


@few
@given(configs(n_layer=1), st.integers(2, 4), seeds)
def test_key_biases_have_no_gradient(config, S, seed):
    """q · b is the same for all keys of a row: softmax does not see it."""
    params, x = attention_params(config, seed), normal(seed + 1, 1, S, config.hidden_size)
    run, tape = passes(config, 1, S)
    self_attention(x, params, 0, run)
    grads: dict[str, numpy.ndarray] = {}
    self_attention_backward(normal(seed + 2, *x.shape), x, params, 0, tape, grads)
    by_head = grads[f"{NAME}.query_key_value.bias"].reshape(config.n_head, 3, config.head_dim)
    numpy.testing.assert_allclose(by_head[:, 1], 0, atol=1e-11)


@some
@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from([None, 0.0, 1e-3, 30.0])), min_size=2, max_size=5), seeds)
@example([(24, 1e-3), (12, None)], 0)  # small norms of an edit may not stay for those who see the key itself
@example([(24, None), (4, 30.0)], 0)  # nor may those of keys stay for an edit that makes them large
def test_keys_edited_in_some_passes_are_skipped_in_none_where_they_count(passes_over, seed):
    """In tiles with a cache, which keeps the norms of keys, as by the plain path, which skips none."""
    config = BloomConfig(vocab_size=9, hidden_size=8, n_layer=2, n_head=2)
    model = random_model(config, seed)
    for layer in range(2):
        model.params[f"h.{layer}.self_attention.query_key_value.weight"] *= 5  # far keys, which count only if they fit
    ids = numpy.random.default_rng(seed).integers(0, 9, (2, sum(length for length, _ in passes_over)))
    logits = {}
    for large in (0, 10**9):  # tiles, and the plain path
        cache, done, logits[large] = Cache(2), 0, []
        with mock.patch.multiple(tiles, QUERIES=2, KEYS=3, LARGE=large):
            for length, factor in passes_over:
                edits = {} if factor is None else {"*.self_attention.key": scale(factor)}
                trace, new = Trace("ln_f", edits=edits), ids[:, done : done + length]
                logits[large].append(model(new, past_key_values=cache, trace=trace).logits)
                done += length
    for got, expected in zip(logits[0], logits[10**9], strict=True):
        numpy.testing.assert_allclose(got, expected, rtol=0, atol=1e-9 * abs(expected).max())
