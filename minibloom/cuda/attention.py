"""Attention of whole passes as a kernel: in tiles, with memory that grows with the length, not with its square.

    context = merge(softmax(q kᵀ / √D + alibi, masked) v)        `plain_attention` of `layers/attention.py`: what it is

The idea is that of `layers/tiled_attention.py`, which says how a softmax runs along and why far keys may be skipped. A
block of the GPU has some queries of one head, and goes over its keys 32 at a time, from the nearest to the farthest.
Before each tile, it asks for each of its queries the same question: is the share of all keys up to this one below a
quarter of float32's resolution,

    |q| N_J / √D + alibi_J + ln C - top  <  ln(2^-23 / 4)

N_J and alibi_J are here the largest |k| and the largest bias of tokens up to the end of the tile (padding has no share
at all), and C counts them: J + 1. Where that holds for all of them, those keys cannot change a digit of the sum, and
are not read. A kernel before finds N_J and alibi_J once for each head. Queries of padding, which see no key, give the
mean of all values, as equal weights do in the plain path.

`tiles.cu` has what the kernels share, `attention.cu` the forward's and `attention_backward.cu` those of the gradients.
The products are float32's own, not those of tensor cores, which round what they multiply to 10 or 11 bits.

Biases are taken relative to that of the query's own place: a softmax does not see the difference, but those of near
keys are small numbers then, and a sum with them is rounded less than in the plain path.

Backward computes the probabilities again, from what a first kernel finds of each query (its largest score, and the sum
of exp(score - largest)) on its way to dq:

    dscores = probs * (dcontext vᵀ - Σ dcontext * context)        dq = dscores k / √D
    dk = dscoresᵀ q / √D                                          dv = probsᵀ dcontext

where the sum, of each query, is Σ_j dprobs_j probs_j. A second kernel has blocks of keys, each of which goes over the
queries that see it: so every number is summed by one thread, in one order, and the same call gives the same bits.

Not measured on a GPU yet.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy

from ..backend import Array, namespace
from .kernels import LOWEST, can_launch, kernel, launch

DEEPEST = 128  # the largest head size: a thread keeps a 32nd of so many numbers for each of its queries
SHARED = 48 * 1024  # bytes of shared memory that a block may have
SHAPES = ((16, 4), (8, 4), (4, 4), (4, 2))  # rows of a warp and warps of a block, of which the first that fits is taken
LEAST = math.log(2.0**-23 / 4)  # of the logarithm of a share that may not be skipped


def can_tile(xp: ModuleType, dtype: str, D: int) -> bool:
    """Whether heads of size D of this dtype are computed with here, if nobody asks for a step between."""
    return can_launch(xp) and dtype == "float32" and D <= DEEPEST


def suits_attention(q: Array, k: Array, v: Array, alibi: Array, mask: Array) -> bool:
    """Whether attention without steps between is to be computed here: the one place where that is chosen."""
    return (
        type(q) is not numpy.ndarray
        and can_tile(namespace(q, k, v, alibi, mask), str(q.dtype), q.shape[-1])
        and all(x.dtype == "float32" for x in (k, v, alibi))
        and all(x.strides[-1] == x.itemsize for x in (q, k, v))
        and k.strides == v.strides
        and mask.dtype == "int64"
        and alibi.flags.c_contiguous
        and mask.flags.c_contiguous
    )


def attention(q: Array, k: Array, v: Array, alibi: Array, mask: Array) -> Array:
    """`q [B, H, S, D]`, `k, v [B, H, T, D]`, `alibi [B or 1, H, 1, T]`, `mask [B or 1, T]` -> `[B, S, E]`.

    q, k and v may be views of larger arrays, but for their last axis.
    """
    xp, (B, H, S, D), T = namespace(q), q.shape, k.shape[2]
    rows, warps = shape(D, 1)
    tiles, of_batch = -(-T // 32), (_of_batch(alibi, B), _of_batch(mask, B))
    far, out = xp.empty((B, H, tiles, 2), dtype=q.dtype), xp.empty((B, S, H * D), dtype=q.dtype)
    if tiles > 1:  # where all keys are one tile, none is far
        args = k, alibi, mask, far, numpy.int32(T), *_strides(k), *of_batch
        launch(_kernel(xp, "farthest", D), (H, B), 32 * min(32, tiles), *args)
    sizes = numpy.int32(S), numpy.int32(T), numpy.float32(1.0 / math.sqrt(D))
    args = q, k, v, alibi, mask, far, out, *sizes, *_strides(q), *_strides(k), *of_batch
    launch(_kernel(xp, "attention", D), (-(-S // (rows * warps)), H, B), 32 * warps, *args)
    return out


def attention_backward(
    dcontext: Array, context: Array, q: Array, k: Array, v: Array, alibi: Array, mask: Array
) -> tuple[Array, Array, Array]:
    """Upstream `dcontext [B, S, E]`, the forward's result and arguments -> `dq [B, H, S, D]`, `dk, dv [B, H, T, D]`."""
    xp, (B, H, S, D), T = namespace(q), q.shape, k.shape[2]
    rows, warps = shape(D, 2)
    dq, dk, dv, kept = (xp.empty(x, dtype=q.dtype) for x in (q.shape, k.shape, v.shape, (3, B, H, S)))
    sizes = numpy.int32(S), numpy.int32(T), numpy.float32(1.0 / math.sqrt(D))
    places = *_strides(q), *_strides(k), _of_batch(alibi, B), _of_batch(mask, B)
    for name, length, arrays in (
        ("attention_dq", S, (dcontext, context, dq, kept)),
        ("attention_dkv", T, (dcontext, kept, dk, dv)),
    ):
        blocks = -(-length // (rows * warps)), H, B
        launch(_kernel_back(xp, name, D), blocks, 32 * warps, q, k, v, alibi, mask, *arrays, *sizes, *places)
    return dq, dk, dv


def shape(D: int, pairs: int) -> tuple[int, int]:
    """Rows of a warp and warps of a block, which keeps `pairs` arrays of rows and as many tiles in shared memory."""
    row = 4 * -(-D // 4)  # in numbers, without what pads a tile's

    def used(rows: int, warps: int) -> int:
        return 4 * (pairs * (rows * warps * row + 32 * (row + 4)) + rows * warps * 32)

    return next(one for one in SHAPES if used(*one) <= SHARED)


def _kernel(xp: ModuleType, name: str, D: int) -> Any:
    rows, warps = shape(D, 1)
    words = {"DEPTH": D, "ROWS": rows, "WARPS": warps, "LOWEST": LOWEST, "LEAST": f"{LEAST}f"}
    return kernel(xp, "tiles attention", name, **words)


def _kernel_back(xp: ModuleType, name: str, D: int) -> Any:
    rows, warps = shape(D, 2)
    return kernel(xp, "tiles attention_backward", name, DEPTH=D, ROWS=rows, WARPS=warps, LOWEST=LOWEST)


def _strides(x: Array) -> tuple[numpy.int64, ...]:
    """How far apart rows of the batch, heads and positions of `x [B, H, T, D]` lie, in numbers."""
    return tuple(numpy.int64(stride // x.itemsize) for stride in x.strides[:3])


def _of_batch(x: Array, B: int) -> numpy.int64:
    """How far apart the batch's rows of `x` lie, in numbers: not at all, where all have the same."""
    return numpy.int64(x.size // len(x) if len(x) == B else 0)
