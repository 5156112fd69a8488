"""The fast path of `linear` for small weights: the weight in blocks of rows that fit a core's cache.

A small weight is never widened whole: each block becomes float32 in a buffer that stays in the cache, and is used up
there, so that only its 1 or 2 bytes a number come from memory. `tests/layers/test_row_blocks.py` holds it to the plain
product.

Measured on 2 cores of an AMD EPYC (Zen 3), shared and noisy:

    a token of bloom-560m's shape, the quietest 17 of 44 in turns: float32 156 ms, int8 140, bfloat16 232, float16 323
    one core, ns of its time a weight: float32 0.26 (waiting for memory), int8 0.27 (0.15 is widening), bfloat16 0.41
    int8, 16384 x 1024, ms for 2, 3, 4 rows: 64 of the weight's rows at a time 5.7, 5.5, 5.0, each row 4.1, 3.9, 4.6

So int8 is a quarter of the memory for the same time or a little less: NumPy computes with it about as long as it waits
for float32. Smaller blocks cost more (int8 on both cores: 0.44 ns with 2^17 numbers, 0.17 with 2^20), as between two
calls of NumPy's a thread waits for Python's lock; of 2^21 they no longer fit.

Tried and left: for 2 or 3 rows one product with all of them, slower (above).
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable

import numpy

from ..backend import Array
from ..threads import each
from .few_rows import HEIGHT, MOST, at_a_time
from .small_weights import SmallWeight

BLOCK = 2**20  # numbers of the weight at a time: 4 MiB as float32, which stay in the cache that the cores share
FEW = 3  # rows of x up to which a product with each, from the cache, is faster than one with all
MANY = 256  # rows of x from which blocks are larger: each product looks through all of x once more

_local = threading.local()


def blocked_linear(x: Array, weight: SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]`. Each core takes a block of the weight through to the product."""
    (N, I), O = x.shape, len(weight)  # noqa: E741
    parts = weight.part(x)  # [P, N, I/P]
    columns = [numpy.ascontiguousarray(part.T) for part in parts] if FEW < N <= MOST else []  # [I/P, N] each
    P, height = len(parts), max(HEIGHT, BLOCK // I // HEIGHT * HEIGHT, min(N, MANY))
    y = numpy.empty((N, O), x.dtype)

    def fill(start: int) -> None:
        rows = slice(start, min(start + height, O))
        block = weight.fill(rows, _buffer(P, rows.stop - start, I // P))
        pairs = list(zip(block, parts, strict=True))
        if N <= FEW:
            for n in range(N):
                y[n, rows] = sum_of(w @ part[n] for w, part in pairs)  # [R, I/P] [I/P] -> [R]
        elif columns and block.shape[1] % HEIGHT == 0:
            y[:, rows] = sum_of(map(at_a_time, block, columns)).T
        else:
            y[:, rows] = sum_of(part @ w.T for w, part in pairs)  # [N, I/P] [I/P, R] -> [N, R]

    each(fill, range(0, O, height))
    if weight.scale is not None:
        y *= weight.scale  # of a row of W, so of a column of y
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
