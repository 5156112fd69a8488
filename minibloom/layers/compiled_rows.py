"""The fast path of `linear` for a few rows: its loops, compiled by Numba where that is installed.

NumPy multiplies no numbers of two dtypes without a widened copy, so with it a small weight costs what widening costs
(`row_blocks.py`). A loop widens each number in a register, right where it is multiplied: the weight is read once, as it
is stored, and nothing is written but the result. And BLAS, which is made for many rows, copies a float32 weight around
before it multiplies it with 2 to 4; a loop does not. What compiles the loops is `compiled.py`.

Measured on 2 cores of an AMD EPYC (Zen 3), shared and noisy, medians: a token of bloom-560m's shape in ms, and products
with a weight of 3072 x 1024 in us, without Numba and with it:

              a token       1 row      2 rows      4 rows      8 rows     12 rows     16 rows
    float32       164         960   1503  806  1561 1027  1697 1623                 2425 2464
    int8      210  76   1443  495   1220  443   1911  713  2327 1267  2886 2243   2615 2916
    bfloat16  288 101   1869  543   1961  652   2737 1069  3066 1657  4003 2323   4060 2902
    float16   407 126   2935  821   2894 1067   3510 1315  3475 1698  4935 2720   4857 3337

Tried and left: four rows of x side by side in one loop, alike for 8 rows and a third faster for 4, for three times the
code; a row of int8 widened once for all rows of x, 10 to 25% slower.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from ..backend import Array
from ..compiled import SUMS, compiled
from ..threads import SMALL_WEIGHT, each, parts, threads
from .small_weights import SmallWeight

WIDE = 512  # numbers in a row of the weight, at the least: a small model generates a text while Numba is imported
uint32, float32 = numpy.uint32, numpy.float32


def number_rows(x: Array, stored: Array, y: Array) -> None:
    """`x [N, I]` float32, `stored [O, I]` float32 or int8 -> x Wᵀ, of int8 without the scale, into `y [N, O]`."""
    for o in range(stored.shape[0]):
        for n in range(x.shape[0]):
            total = float32(0)
            for i in range(x.shape[1]):
                total += x[n, i] * float32(stored[o, i])
            y[n, o] = total


def bfloat16_rows(x: Array, stored: Array, y: Array) -> None:
    """The same for `stored [O, I]` uint16, the upper halves of float32 numbers."""
    for o in range(stored.shape[0]):
        for n in range(x.shape[0]):
            total = float32(0)
            for i in range(x.shape[1]):
                total += x[n, i] * uint32(uint32(stored[o, i]) << uint32(16)).view(float32)
            y[n, o] = total


def float16_rows(x: Array, stored: Array, y: Array) -> None:
    """The same for `stored [O, I]` uint16, the bits of float16, moved and mended as in `Float16Weight`.

    That takes a multiple of what widening the others takes, so a row is widened once for all rows of x.
    """
    row = numpy.empty(x.shape[1], float32)
    for o in range(stored.shape[0]):
        for i in range(x.shape[1]):
            bits = uint32(stored[o, i])
            moved = (bits & uint32(0x8000)) << uint32(16) | (bits & uint32(0x7FFF)) << uint32(13)
            row[i] = uint32(moved).view(float32) * float32(2.0**112)
        for n in range(x.shape[0]):
            total = float32(0)
            for i in range(x.shape[1]):
                total += x[n, i] * row[i]
            y[n, o] = total


LOOPS: dict[str, tuple[Any, str, range]] = {  # dtype: its loop, the bits that it takes, for how many rows of x
    "float32": (number_rows, "f4", range(2, 5)),
    "int8": (number_rows, "i1", range(1, 13)),
    "bfloat16": (bfloat16_rows, "u2", range(1, 13)),
    "float16": (float16_rows, "u2", range(1, 13)),
}


def suits_compiled_rows(x: Array, weight: Array | SmallWeight) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    if isinstance(weight, SmallWeight) and weight.streamed:
        return False  # as memory is short: Numba takes more than two blocks
    stored, dtype = _stored(weight), str(weight.dtype)
    return (
        type(x) is type(stored) is numpy.ndarray
        and x.dtype == float32
        and dtype in LOOPS
        and len(x) in LOOPS[dtype][2]
        and stored.shape[1] >= WIDE
        and stored.flags.c_contiguous
        and stored.flags.aligned
        and ready(dtype) is not None
    )


def compiled_rows(x: Array, weight: Array | SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]` without a scale, each core a part of the weight's rows."""
    dtype = str(weight.dtype)
    loop, stored = ready(dtype), _stored(weight).view(LOOPS[dtype][1])
    x, y = numpy.ascontiguousarray(x), numpy.empty((len(x), len(stored)), x.dtype)
    count = threads() if stored.size >= SMALL_WEIGHT else 1
    each(lambda rows: loop(x, stored[rows], y[:, rows]), parts(len(stored), count))
    return y


def _stored(weight: Array | SmallWeight) -> Array:
    """`[O, I]`, the numbers of `weight` as they are in memory."""
    return weight.stored if isinstance(weight, SmallWeight) else weight


@functools.cache
def ready(dtype: str) -> Any:
    """The loop of `LOOPS` for weights of `dtype`, compiled; None without a Numba for this Python and NumPy."""
    loop, bits, _ = LOOPS[dtype]
    return compiled(loop, (("f4", 2, "C"), (bits, 2, "C")), (("f4", 2, "A"),), fastmath=SUMS)
