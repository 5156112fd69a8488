"""Self-attention with ALiBi.

    q, k, v = split(x W_qkvᵀ + b)                       the fused projection, interleaved per head: [H, 3, D]
    scores  = q kᵀ / √D + alibi                         the lowest number where the causal or padding mask hides a key
    probs   = softmax(scores)                           each query's weights over the keys, sum 1
    weights = probs * factors                           dropout and head mask; without them, probs
    out     = merge(weights v) W_denseᵀ + b             the heads side by side again

Backward, from the end. Each line is the linear rule (dA = dC Bᵀ, dB = Aᵀ dC) on one product of the forward:

    dweights = dcontext vᵀ      dv = weightsᵀ dcontext
    dprobs = dweights * factors
    dscores = softmax_backward(dprobs)                  adding ALiBi and the mask passes gradients unchanged
    dq = dscores k / √D         dk = dscoresᵀ q / √D

A hidden key has probability 0, and so no gradient. Only a row that sees no key at all is an exception: its scores do
not depend on q and k any more, but its gradient is computed as if they did. That is what the reference does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, MutableMapping

import numpy

from ..backend import Array, namespace
from ..buffers import empty
from ..cuda import attention as kernels
from ..threads import matmul
from . import tiled_attention as tiles
from .dropout import dropout
from .linear import linear, linear_backward, sliced_linear
from .run import Run, keep
from .scores import attention_scores
from .softmax import softmax, softmax_backward
from .tiled_attention import tiled_attention, tiled_attention_backward


def split_heads(fused: Array, heads: int) -> tuple[Array, Array, Array]:
    """`fused [B, S, 3E]` -> query, key, value `[B, H, S, D]` each, as views."""
    B, S, width = fused.shape
    split = fused.reshape(B, S, heads, 3, width // (3 * heads))  # BLOOM's layout: q, k, v side by side in each head
    q, k, v = split.transpose(3, 0, 2, 1, 4)  # [B, S, H, 3, D] -> [3, B, H, S, D]
    return q, k, v


def merge_heads(x: Array) -> Array:
    """`[B, H, S, D]` -> `[B, S, E]`."""
    B, H, S, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, S, H * D)


def plain_attention(q: Array, k: Array, v: Array, layer: int, run: Run) -> Array:
    """`q [B, H, S, D]`, `k`, `v` `[B, H, T, D]` -> `[B, S, E]`, through all scores at once: what attention is."""
    name, watch = f"h.{layer}.self_attention", run.watch
    scores = watch(f"{name}.scores", attention_scores(q, k, run.alibi, run.visible))  # [B, H, S, T]
    probs = watch(f"{name}.probs", softmax(scores))
    weights = dropout(probs, run.config.attention_dropout, f"{name}.dropout", run)
    if run.head_mask is not None:
        weights = weights * watch(f"{name}.head_mask", run.head_mask[layer][:, None, None])  # [H, 1, 1]
    weights = watch(f"{name}.weights", weights)
    return merge_heads(matmul(weights, v))  # [B, H, S, D] -> [B, S, E]


def in_tiles(q: Array, k: Array, layer: int, run: Run) -> bool:
    """Whether tiles on the host are to stand in for the plain path: many scores, and no step between is asked for."""
    (B, H, S, _), T = q.shape, k.shape[2]
    return B * H * S * T >= tiles.LARGE and namespace(q) is numpy and nothing_between(layer, run)


def nothing_between(layer: int, run: Run) -> bool:
    """Whether nobody asks for what stands between scores and context, or changes it."""
    if run.window is not None or run.head_mask is not None:
        return False
    if run.rng is not None and run.config.attention_dropout > 0:
        return False
    steps = ("scores", "probs", "dropout", "head_mask", "weights")
    return not any(run.watch.wants(f"h.{layer}.self_attention.{step}") for step in steps)


def self_attention(x: Array, params: Mapping[str, Array], layer: int, run: Run) -> Array:
    """`x [B, S, E]` -> `[B, S, E]`. With `run.cache`, keys and values of earlier passes are seen too."""
    name, watch = f"h.{layer}.self_attention", run.watch
    fused = linear(x, params[f"{name}.query_key_value.weight"], params[f"{name}.query_key_value.bias"])
    q, k, v = split_heads(watch(f"{name}.query_key_value", fused), run.config.n_head)  # [B, S, 3E] -> 3x [B, H, S, D]
    if run.cache is not None:
        k, v = run.cache.update(layer, k, v)  # [B, H, S, D] -> [B, H, T, D]
    held = k
    q, k, v = watch(f"{name}.query", q), watch(f"{name}.key", k), watch(f"{name}.value", v)

    if kernels.suits_attention(q, k, v, run.alibi, run.mask) and nothing_between(layer, run):
        context = kernels.attention(q, k, v, run.alibi, run.mask)
    elif in_tiles(q, k, layer, run):
        kept = run.cache is not None and k is held  # the norms that a cache keeps are not those of edited keys
        norms = functools.partial(run.cache.key_norms, layer, k) if kept else None
        context = tiled_attention(q, k, v, run.alibi, run.mask, norms)
    else:
        context = plain_attention(q, k, v, layer, run)
    context = watch(f"{name}.context", context)  # [B, S, E]

    weight, bias = params[f"{name}.dense.weight"], params[f"{name}.dense.bias"]
    out = linear(context, weight, bias) if run.slices == 1 else sliced_linear(context, weight, bias, run.slices)
    return watch(f"{name}.dense", out)


def self_attention_backward(
    dy: Array,
    x: Array,
    params: Mapping[str, Array],
    layer: int,
    tape: Mapping[str, Array],
    grads: MutableMapping[str, Array],
) -> Array:
    """Upstream `dy [B, S, E]` and the forward's `x` -> `dx [B, S, E]`; the weights' gradients go into `grads`.

    tape: the steps of the forward pass, by name, as `run.watch` saw them.
    """
    name = f"h.{layer}.self_attention"
    dense, fused = f"{name}.dense", f"{name}.query_key_value"
    q, k, v = tape[f"{name}.query"], tape[f"{name}.key"], tape[f"{name}.value"]
    (B, H, S, D), T = q.shape, k.shape[2]

    context = tape[f"{name}.context"]
    weight = params[f"{dense}.weight"]
    d, grads[f"{dense}.weight"], grads[f"{dense}.bias"] = linear_backward(keep(grads, dense, dy), context, weight)
    keep(grads, f"{name}.context", d)
    xp, shape = namespace(q), (B, T, 3 * H * D)
    dfused = empty(shape, q.dtype) if xp is numpy else xp.empty(shape, dtype=q.dtype)
    dfused[...] = 0
    dq, dk, dv = split_heads(dfused, H)  # views, to be filled [B, H, T, D]
    dq = dq[:, :, T - S :]  # [B, H, S, D]
    if f"{name}.probs" in tape:
        dcontext = d.reshape(B, S, H, D).transpose(0, 2, 1, 3)  # [B, S, E] -> [B, H, S, D]
        dv[...] = matmul(tape[f"{name}.weights"].swapaxes(-1, -2), dcontext)
        dprobs = keep(grads, f"{name}.weights", matmul(dcontext, v.swapaxes(-1, -2)))  # [B, H, S, T]
        for factors in ("dropout", "head_mask"):
            if f"{name}.{factors}" in tape:
                dprobs *= tape[f"{name}.{factors}"]
        dscores = softmax_backward(keep(grads, f"{name}.probs", dprobs), tape[f"{name}.probs"])
        keep(grads, f"{name}.scores", dscores)
        dscores *= 1.0 / math.sqrt(D)
        dq[...] = matmul(dscores, k)
        dk[...] = matmul(dscores.swapaxes(-1, -2), q)
    elif namespace(q) is numpy:
        tiled_attention_backward(d, q, k, v, tape["alibi"], tape["attention_mask"], dq, dk, dv)
    else:
        dq[...], dk[...], dv[...] = kernels.attention_backward(
            d, context, q, k, v, tape["alibi"], tape["attention_mask"]
        )

    for step, gradient in (("query", dq), ("key", dk), ("value", dv)):
        keep(grads, f"{name}.{step}", gradient)
    dfused = dfused[:, T - S :]  # -> [B, S, 3E]: keys and values that came from a cache are constants
    keep(grads, fused, dfused)
    dx, grads[f"{fused}.weight"], grads[f"{fused}.bias"] = linear_backward(dfused, x, params[f"{fused}.weight"])
    return dx
