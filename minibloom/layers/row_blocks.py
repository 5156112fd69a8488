"""The fast path of `linear` for small weights: the weight in blocks of rows that fit a core's cache.

A small weight is never widened whole: each block becomes float32 in a buffer that stays in the cache, and is used up
there, so that only its 1 or 2 bytes a number come from memory. For one row times int8, NumPy does that by itself: its
`einsum` widens some thousand numbers at a time into a buffer of its own, in one call for as many rows as there are, for
which a thread does not wait for Python's lock. `tests/layers/test_row_blocks.py` holds both to the plain product.

Measured on 2 cores of an AMD EPYC (Zen 3), shared and noisy:

    a token of bloom-560m's shape, the quietest 17 of 44 in turns: float32 156 ms, int8 140, bfloat16 232, float16 323
    one core, ns of its time a weight: float32 0.26 (waiting for memory), int8 0.27 (0.15 is widening), bfloat16 0.41
    int8, 16384 x 1024, ms for 2, 3, 4 rows: 64 of the weight's rows at a time 5.7, 5.5, 5.0, each row 4.1, 3.9, 4.6

    int8 on an Intel Xeon (AVX-512), 40 weights of 4096 x 1024 by both cores, ns a number: in blocks of 2^17 numbers
    0.55, 2^18 0.35, 2^20 0.30, by `einsum` 0.20; a token of bloom-560m's shape 168 ms in blocks, so 142 (float32 106)
    the same on a Zen 1: in blocks of 2^17 numbers 0.31, 2^18 0.22, 2^20 0.49, by `einsum` 0.27; a token 162 (127)

So int8 is a quarter of the memory for the same time or a little less: NumPy computes with it about as long as it waits
for float32. Smaller blocks cost more (int8 on both cores: 0.44 ns with 2^17 numbers, 0.17 with 2^20), as between two
calls of NumPy's a thread waits for Python's lock; of 2^21 they no longer fit.

Tried and left: a copy of the int8 block into the cache before it is widened (one core 0.27 in place of 0.31 ns, both
0.44 in place of 0.27: one call more to wait for); for 2 or 3 rows one product with all of them, slower (above).
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable

import numpy

from ..backend import Array
from ..threads import SMALL_WEIGHT, each, parts, threads
from .compiled_rows import compiled_rows, suits_compiled_rows
from .few_rows import HEIGHT, MOST, at_a_time
from .small_weights import Int8Weight, SmallWeight

BLOCK = 2**20  # numbers of the weight at a time: 4 MiB as float32, which stay in the cache that the cores share
FEW = 3  # rows of x up to which a product with each, from the cache, is faster than one with all
MANY = 256  # rows of x from which blocks are larger: each product looks through all of x once more

_local = threading.local()


def blocked_linear(x: Array, weight: SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]`."""
    if suits_compiled_rows(x, weight):
        y = compiled_rows(x, weight)
    elif len(x) == 1 and isinstance(weight, Int8Weight):  # in memory; what stays in its file is another, read in blocks
        y = one_row_of_int8(x, weight.stored)
    else:
        y = in_blocks(x, weight)
    if weight.scale is not None:
        y *= weight.scale  # of a row of W, so of a column of y
    return y


def one_row_of_int8(x: Array, stored: Array) -> Array:
    """`x [1, I]`, `stored [O, I]` int8 -> `[1, O]`, each core a half in one call: `einsum` widens as it goes."""
    y = numpy.empty((1, len(stored)), x.dtype)

    def fill(rows: slice) -> None:
        numpy.einsum("oi,i->o", stored[rows], x[0], out=y[0, rows], dtype=x.dtype, casting="unsafe")

    each(fill, parts(len(stored), threads() if stored.size >= SMALL_WEIGHT else 1))
    return y


def in_blocks(x: Array, weight: SmallWeight) -> Array:
    """`x Wᵀ [N, O]` without the scale. Each core takes a block of the weight through to the product."""
    (N, I), O = x.shape, len(weight)  # noqa: E741
    pieces = weight.part(x)  # [P, N, I/P]
    columns = [numpy.ascontiguousarray(piece.T) for piece in pieces] if FEW < N <= MOST else []  # [I/P, N] each
    P, height = len(pieces), max(HEIGHT, BLOCK // I // HEIGHT * HEIGHT, min(N, MANY))
    y = numpy.empty((N, O), x.dtype)

    def fill(start: int) -> None:
        rows = slice(start, min(start + height, O))
        block = weight.fill(rows, _buffer(P, rows.stop - start, I // P))
        pairs = list(zip(block, pieces, strict=True))
        if N <= FEW:
            for n in range(N):
                y[n, rows] = sum_of(w @ piece[n] for w, piece in pairs)  # [R, I/P] [I/P] -> [R]
        elif columns and block.shape[1] % HEIGHT == 0:
            y[:, rows] = sum_of(map(at_a_time, block, columns)).T
        else:
            y[:, rows] = sum_of(piece @ w.T for w, piece in pairs)  # [N, I/P] [I/P, R] -> [N, R]

    each(fill, range(0, O, height))
    return y


def sum_of(arrays: Iterable[Array]) -> Array:
    """The sum of one array or more, into the first."""
    return functools.reduce(numpy.ndarray.__iadd__, arrays)


def _buffer(*shape: int) -> Array:
    """An array of `shape`, of float32, whose memory this thread keeps from call to call."""
    size = math.prod(shape)
    if getattr(_local, "buffer", None) is None or _local.buffer.size < size:
        _local.buffer = numpy.empty(size, "<f4")
    return _local.buffer[:size].reshape(shape)
