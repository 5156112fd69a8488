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
from ..buffers import empty
from ..compiled import at_hand, compiled
from ..compiled_tile import FOUR, four_by_four, one_by_four, one_by_one, registers, two_by_four
from ..threads import each, parts, threads
from .small_weights import SmallWeight

MANY = 2**21  # numbers in a weight for which Numba is imported: a small model generates a text meanwhile
SHARED = 2**22  # multiplications, of two rows at least, from which on other threads are worth their waking
float32 = numpy.float32
KINDS = {"float32": "f4", "int8": "i1", "bfloat16": "u2", "float16": "i2"}  # dtype of a weight: as it is stored
MOST = {16: (256, 2**31), 8: (16, 512), 4: (8, 12)}  # rows of x, by numbers in a vector: for float32, for the others
SIZE = 2**16  # numbers of x at a time: a quarter of the cache of a core


def rows_numbers(x: Array, stored: Array, y: Array) -> None:
    """`x [N, I]` float32, `stored [O, I]` -> x Wᵀ without a scale, into `y [N, O]`, tile by tile."""
    N, far = x.shape[0], stored.shape[0] // FOUR
    height = max(SIZE // x.shape[1] // 4, 1) * 4
    for first in range(0, N, height):  # of rows that stay in the cache, while the weight flows through it
        last = min(first + height, N)
        rest = last - (last - first) % 4
        for o in range(far):
            ahead = o + 1 if N >= 4 else o  # with fewer rows, memory never rests
            for m in range(first, rest, 4):
                four_by_four(x, m, stored, o, far, ahead, y)
            if last - rest >= 2:
                two_by_four(x, rest, stored, o, far, ahead, y)
            if (last - rest) % 2 == 1:
                one_by_four(x, last - 1, stored, o, far, ahead, y)
    for o in range(FOUR * far, stored.shape[0]):
        for n in range(N):
            one_by_one(x, n, stored, o, 0, o, y)


@functools.cache
def most_rows() -> tuple[int, int]:
    """Up to how many rows of x this is faster than BLAS: for a float32 weight, and for a smaller one."""
    try:
        import numba

        return MOST[registers(numba)[1]]
    except Exception:  # as in `compiled`
        return 0, 0


def suits_compiled_rows(x: Array, weight: Array | SmallWeight) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    if isinstance(weight, SmallWeight) and weight.streamed:
        return False  # as memory is short: Numba takes more than two blocks
    stored, dtype = _stored(weight), str(weight.dtype)
    return (
        type(x) is type(stored) is numpy.ndarray
        and x.dtype == float32
        and dtype in KINDS
        and (stored.size >= MANY or at_hand())
        and len(x) <= most_rows()[dtype != "float32"]
        and stored.flags.c_contiguous
        and stored.flags.aligned
        and ready(dtype) is not None
    )


def compiled_rows(x: Array, weight: Array | SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]` without a scale, each core a part of the weight's rows."""
    dtype = str(weight.dtype)
    loop, stored = ready(dtype), _stored(weight).view(KINDS[dtype])
    x, y = numpy.ascontiguousarray(x), empty((len(x), len(stored)), x.dtype)
    count = threads() if stored.size * max(2, len(x)) >= SHARED else 1
    each(lambda rows: loop(x, stored[rows], y[:, rows]), parts(len(stored), count))
    return y


def _stored(weight: Array | SmallWeight) -> Array:
    """`[O, I]`, the numbers of `weight` as they are in memory."""
    return weight.stored if isinstance(weight, SmallWeight) else weight


@functools.cache
def ready(dtype: str) -> Any:
    """`rows_numbers` for weights of `dtype`, compiled; None without a Numba for this Python and NumPy."""
    return compiled(rows_numbers, (("f4", 2, "C"), (KINDS[dtype], 2, "C")), (("f4", 2, "A"),))
