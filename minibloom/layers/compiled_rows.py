"""The fast path of `linear` for a few rows: its loops, compiled by Numba where that is installed.

NumPy multiplies no numbers of two dtypes without a widened copy, so with it a small weight costs what widening costs
(`row_blocks.py`). A loop widens each number in a register, right where it is multiplied: the weight is read once, as it
is stored, and nothing is written but the result. What compiles the loops is `compiled.py`.

Measured on 2 cores of an AMD EPYC (Zen 3), shared and noisy, medians: a token of bloom-560m's shape in ms, and products
with a weight of 3072 x 1024 in us, without Numba and with it:

              a token       1 row      2 rows      4 rows      8 rows     12 rows     16 rows
    int8      210  76   1443  495   1220  443   1911  713  2327 1267  2886 2243   2615 2916
    bfloat16  288 101   1869  543   1961  652   2737 1069  3066 1657  4003 2323   4060 2902
    float16   407 126   2935  821   2894 1067   3510 1315  3475 1698  4935 2720   4857 3337

A float32 weight needs no widening, but BLAS, which is made for many rows, copies it around before it multiplies it with
a few, and reads it for one at 36 GB/s on a Zen 4 that has 57. The loop takes two rows of x at once, so that each number
that comes from memory is used twice, and four of the weight. Those are not neighbours but one from each quarter of it:
the processor fetches ahead within a page of memory, and waits at each new one. On 2 cores of that Zen 4, in us, without
Numba and with it; the first are all of a small model's weights (6 blocks, hidden size 256, and 4,096 rows of its head),
which stay in the cache that cores share, by one core:

                       1 row      2 rows      4 rows      8 rows     16 rows
    small model      674 490   1610 790   1970 1040  2330 1560   2930 3500
    3072 x 1024                 502 399    537  473   671  569    717  801
    1024 x 4096                 601 532    668  616  1043  804   1579 1271
    16384 x 1024               2396 1916  2531 2479  3313 3018   3426 4327

Tried and left: of int8, four rows of x side by side in one loop, alike for 8 rows and a third faster for 4, for three
times the code; a row widened once for all rows of x, 10 to 25% slower. Of float32, neighbours in place of quarters (one
row of the small model 920, eight 2060); two quarters or eighths, alike for one row; four rows of x at once, 5 to 15%
faster for 8 in twice the code.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from ..backend import Array
from ..compiled import SUMS, at_hand, compiled
from ..threads import each, parts, threads
from .small_weights import SmallWeight

MANY = 2**21  # numbers in a weight for which Numba is imported: a small model generates a text meanwhile
SHARED = 2**21  # multiplications, from which on other threads are worth their waking
uint32, float32 = numpy.uint32, numpy.float32


def float32_rows(x: Array, weight: Array, y: Array) -> None:
    """`x [N, I]`, `weight [O, I]` -> x Wᵀ, into `y [N, O]`: two rows by four at a time, these from four quarters."""
    rows, far = x.shape[0], weight.shape[0] // 4
    for o in range(far):
        p, q, r = o + far, o + 2 * far, o + 3 * far
        for m in range(0, rows - 1, 2):
            n = m + 1
            a, b, c, d = float32(0), float32(0), float32(0), float32(0)
            e, f, g, h = float32(0), float32(0), float32(0), float32(0)
            for i in range(x.shape[1]):
                a += x[m, i] * weight[o, i]
                b += x[m, i] * weight[p, i]
                c += x[m, i] * weight[q, i]
                d += x[m, i] * weight[r, i]
                e += x[n, i] * weight[o, i]
                f += x[n, i] * weight[p, i]
                g += x[n, i] * weight[q, i]
                h += x[n, i] * weight[r, i]
            y[m, o], y[m, p], y[m, q], y[m, r] = a, b, c, d
            y[n, o], y[n, p], y[n, q], y[n, r] = e, f, g, h
        if rows % 2 == 1:
            n = rows - 1
            a, b, c, d = float32(0), float32(0), float32(0), float32(0)
            for i in range(x.shape[1]):
                a += x[n, i] * weight[o, i]
                b += x[n, i] * weight[p, i]
                c += x[n, i] * weight[q, i]
                d += x[n, i] * weight[r, i]
            y[n, o], y[n, p], y[n, q], y[n, r] = a, b, c, d
    for o in range(4 * far, weight.shape[0]):
        for n in range(rows):
            a = float32(0)
            for i in range(x.shape[1]):
                a += x[n, i] * weight[o, i]
            y[n, o] = a


def int8_rows(x: Array, stored: Array, y: Array) -> None:
    """`x [N, I]` float32, `stored [O, I]` int8 -> x Wᵀ without the scale, into `y [N, O]`."""
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
    "float32": (float32_rows, "f4", range(1, 9)),
    "int8": (int8_rows, "i1", range(1, 13)),
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
        and (stored.size >= MANY or at_hand())
        and stored.flags.c_contiguous
        and stored.flags.aligned
        and ready(dtype) is not None
    )


def compiled_rows(x: Array, weight: Array | SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]` without a scale, each core a part of the weight's rows."""
    dtype = str(weight.dtype)
    loop, stored = ready(dtype), _stored(weight).view(LOOPS[dtype][1])
    x, y = numpy.ascontiguousarray(x), numpy.empty((len(x), len(stored)), x.dtype)
    count = threads() if stored.size * len(x) >= SHARED else 1
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
