"""The fast path of `linear` for few rows and for small weights: the weight in blocks of rows that fit a core's cache.

FILL IN
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable

import numpy

from ..backend import Array
from ..threads import share
from .small_weights import SmallWeight

BLOCK = 2**17  # numbers of the weight at a time: 512 KiB as float32, what a core's own cache holds
LARGE_BLOCK = 2**21  # the same for many rows: 8 MiB, which the cores share
SINGLE = 4  # rows of x up to which a product with each, from the cache, is faster than one with all
FEW = 8  # rows of x up to which cores divide the weight; above, OpenBLAS divides each product
ALONE = 2**18  # multiplications up to which OpenBLAS stays on the thread that calls it

_local = threading.local()


def suits_blocks(x: Array, weight: Array | SmallWeight) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    if isinstance(weight, SmallWeight):
        return True
    few = 1 < len(x) <= FEW and weight.size >= BLOCK
    return few and isinstance(x, numpy.ndarray) and x.dtype == weight.dtype == numpy.float32


def blocked_linear(x: Array, weight: Array | SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]`."""
    y = numpy.empty((len(x), weight.shape[0]), x.dtype)
    if isinstance(weight, SmallWeight):
        (few_rows if len(x) <= FEW else many_rows)(x, weight, y)
        if weight.scale is not None:
            y *= weight.scale  # of a row of W, so of a column of y
    else:
        few_rows(x, weight, y)
    return y


def few_rows(x: Array, weight: Array | SmallWeight, y: Array) -> None:
    """Fill `y [N, O]`. Each core takes rows of the weight of its own, through to the product."""
    N, I = x.shape  # noqa: E741
    small = isinstance(weight, SmallWeight)
    parts = weight.part(x) if small else x[None]  # [P, N, I/P]
    P, size = len(parts), max(1, (BLOCK if N <= SINGLE else ALONE // N) // I)

    def fill(span: slice) -> None:
        buffer = _buffer(size * I if small else 0)
        for start in range(span.start, span.stop, size):
            rows = slice(start, min(start + size, span.stop))
            R = rows.stop - start
            block = weight.fill(rows, buffer[: R * I].reshape(P, R, I // P)) if small else weight[None, rows]
            if N <= SINGLE:
                for n in range(N):
                    y[n, rows] = sum_of(numpy.dot(block[p], parts[p, n]) for p in range(P))  # [R, I/P] [I/P] -> [R]
            else:
                y[:, rows] = sum_of(parts[p] @ block[p].T for p in range(P))  # [N, I/P] [I/P, R] -> [N, R]

    share(fill, len(weight), ALONE // I)


def many_rows(x: Array, weight: SmallWeight, y: Array) -> None:
    """Fill `y [N, O]`. The cores widen a large block together, then multiply it together."""
    parts, I = weight.part(x), x.shape[1]  # noqa: E741
    size = min(len(weight), max(1, LARGE_BLOCK // I))
    buffer = numpy.empty((len(parts), size, I // len(parts)), "<f4")
    for start in range(0, len(weight), size):
        rows = slice(start, min(start + size, len(weight)))
        block = buffer[:, : rows.stop - start]

        def widen(span: slice, start: int = start, block: Array = block) -> None:
            weight.fill(slice(start + span.start, start + span.stop), block[:, span])

        share(widen, rows.stop - start, ALONE // I)
        y[:, rows] = sum_of(part @ half.T for part, half in zip(parts, block, strict=True))


def sum_of(arrays: Iterable[Array]) -> Array:
    """The sum of one array or more, into the first."""
    return functools.reduce(numpy.ndarray.__iadd__, arrays)


def _buffer(size: int) -> Array:
    """This thread's buffer of at least `size` float32 numbers, kept from call to call."""
    if getattr(_local, "buffer", None) is None or _local.buffer.size < size:
        _local.buffer = numpy.empty(size, "<f4")
    return _local.buffer
