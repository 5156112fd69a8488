"""The fast path of all blocks for one new token a row: the same arithmetic, without what naming and sharing steps cost.

A small model's token is a few hundred calls on short arrays, and between two of them its weights flow through the
caches and push Python's own code and data out: whatever is called, looked up or allocated costs a multiple of what it
does in a warm loop. So the functions of the layers are written out here, in place on as few arrays as can be, and
nothing is named, watched or thinned out: `suits_one_token` says once a pass that nobody asks for that. Each number
comes from the same operations in the same order; `tests/layers/test_one_token.py` holds the result to that of `block`,
to the bit.

Measured on 2 quiet cores of an AMD EPYC (Zen 3): a token of 5 million parameters (6 blocks, hidden size 256, 128 tokens
cached), 400 of each in turns, three runs: by `block` 1.87 to 1.90 ms at the least and 1.99 to 2.12 in the median, here
1.62 to 1.65 and 1.73 to 1.83. What remains, line by line on a slower machine of that kind (2.4 GHz, 4.5 ms a token):
2.8 ms are the 24 products, at the rate of its memory; 1.2 ms some 50 other calls of NumPy a block, 4 to 5 us each, a
multiple of what they take in a warm loop; 0.5 ms what goes before and after the blocks. On a Zen 1: sums of a single
row as numbers in place of arrays of one, 4.19 -> 3.98 ms; NumPy's error state set once for all blocks and parameters
fetched by one call, 5.50 -> 5.12 with the former, or 4.14 -> 3.84 at the least.

Tried and left: a batch in two halves, each by a thread of its own (8 rows on Zen 4: 4.0 ms in place of 3.7), as the
two hand Python's lock to and fro; two threads that share the weights' reading, handed over once (1.67 ms in place of
1.65), or at each product (2.1); a thread that reads the weights ahead into the cache that the cores share (5.3 ms a
token in place of 5.3); BLAS's own threads (2.3 ms for the products in place of 2.1).

Where Numba is installed, `compiled_blocks.py` takes the place of this, sooner or later.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy

from ..backend import Array
from ..threads import SMALL_WEIGHT
from . import tiled_attention as tiles
from .few_rows import MOST
from .linear import linear
from .mlp import A, C
from .one_row import LEAST, suits_one_row
from .run import Run, Unwatched
from .subnormals import drop_subnormals


def suits_one_token(x: Array, run: Run) -> bool:
    """Whether blocks are to be computed here, from `x [B, S, E]` on: the one place where that is chosen."""
    return (
        run.new == 1
        and len(x) <= MOST
        and x.shape[-1] ** 2 >= LEAST
        and len(x) * run.config.n_head * run.mask.shape[1] < tiles.LARGE  # longer ones are for tiles
        and is_bare(x, run)
    )


def is_bare(x: Array, run: Run) -> bool:
    """Whether nobody asks a pass with a cache for more than its result, or for another than the usual one."""
    return (
        run.cache is not None
        and type(run.watch) is Unwatched
        and run.rng is None
        and run.head_mask is None
        and run.slices == 1
        and not run.config.apply_residual_connection_post_layernorm
        and type(x) is numpy.ndarray
    )


@functools.cache
def block_parameters(layer: int) -> operator.itemgetter[Any]:
    """Gets the parameters of a block out of all, in the order in which they are used."""
    modules = (
        "input_layernorm",
        "self_attention.query_key_value",
        "self_attention.dense",
        "post_attention_layernorm",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )
    return operator.itemgetter(*(f"h.{layer}.{module}.{kind}" for module in modules for kind in ("weight", "bias")))


def one_token_blocks(x: Array, params: Mapping[str, Array], run: Run) -> Array:
    """The residual stream `x [B, 1, E]` before the first block -> after the last `[B, 1, E]`."""
    x = x[:, 0]
    with numpy.errstate(over="ignore"):  # as in `gate`
        for layer in range(run.config.n_layer):
            x = one_token_block(x, params, layer, run)
    return x[:, None]


def one_token_block(x: Array, params: Mapping[str, Array], layer: int, run: Run) -> Array:
    """The same for block number `layer`, of `x [B, E]`."""
    w_1, b_1, w_fused, b_fused, w_dense, b_dense, w_2, b_2, w_up, b_up, w_down, b_down = block_parameters(layer)(params)
    H, eps = run.config.n_head, run.config.layer_norm_epsilon

    fused = _linear(_norm(x, w_1, b_1, eps), w_fused, b_fused)  # [B, 3E]
    q, k, v = fused.reshape(len(x), 1, H, 3, -1).transpose(3, 0, 2, 1, 4)  # -> 3x [B, H, 1, D]
    k, v = run.cache.update(layer, k, v)  # [B, H, T, D]
    weights = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.swapaxes(-1, -2)  # the scores [B, H, 1, T], and then in place
    weights += run.alibi
    if run.visible is not None:  # padding, or a window
        numpy.copyto(weights, numpy.finfo(weights.dtype).min, where=~run.visible)
    weights -= numpy.maximum.reduce(weights, -1, keepdims=True)
    numpy.exp(weights, out=weights)
    if run.steep:
        drop_subnormals(weights)
    weights /= numpy.add.reduce(weights, -1, keepdims=True)
    middle = _linear((weights @ v).reshape(x.shape), w_dense, b_dense)  # [B, H, 1, D] -> [B, E]
    middle += x

    up = _linear(_norm(middle, w_2, b_2, eps), w_up, b_up)  # [B, 4E]
    act = up * up  # `gate`, and then gelu
    act *= -2.0 * C * A
    act += -2.0 * C
    act *= up
    numpy.exp(act, out=act)
    act += 1.0
    numpy.reciprocal(act, out=act)
    act *= up
    out = _linear(act, w_down, b_down)
    out += middle
    return out


def _norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """`layer_norm` of `x [B, E]`."""
    width = x.shape[1]
    if len(x) == 1:  # its sums are numbers, which cost less than arrays of one
        n = x[0] - numpy.add.reduce(x[0]) / width
        n *= 1.0 / numpy.sqrt(numpy.add.reduce(n * n) / width + eps)
        n *= weight
        n += bias
        return n[None]
    n = x - numpy.add.reduce(x, 1, keepdims=True) / width
    spread = numpy.add.reduce(n * n, 1, keepdims=True)
    spread /= width
    spread += eps
    numpy.sqrt(spread, out=spread)
    n *= 1.0 / spread
    n *= weight
    n += bias
    return n


def _linear(x: Array, weight: Array, bias: Array) -> Array:
    """`linear` of `x [B, I]`, and where it is `one_row` that stays on this thread, that written out."""
    if weight.size >= SMALL_WEIGHT or not suits_one_row(x, weight):
        return linear(x, weight, bias)
    y = numpy.vecdot(weight, x)  # [O, I] [1, I] -> [O]
    y += bias
    return y[None]
