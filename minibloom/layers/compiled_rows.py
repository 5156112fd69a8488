"""The fast path of `linear` for a few rows, and for many where the weight is small: tile by tile, compiled by Numba.

A float32 weight that is multiplied with a few rows takes as long as it is read. BLAS, which is made for many rows,
copies it around first. And NumPy multiplies no numbers of two dtypes without a widened copy, so with it a small weight
costs what widening costs (`row_blocks.py`). Here tiles of four rows by four (`compiled_tile.py`) go over x and the
weight: that is read once, as it is stored, and nothing is written but the result.

Measured on 2 cores of an AMD EPYC (Zen 4), medians in turns: a token of bloom-560m's shape (with 30,000 in its
vocabulary) in ms, and products with a weight of 3072 x 1024 from memory in us, without Numba and with it:

                a token      1 row     2 rows     4 rows      8 rows     16 rows     64 rows       512 rows
    float32     53   29    479 495    833 556    617 503     763 514     795 778   3494 2426    17015 19531
    int8        73   11    642 151    525 169    501 205     698 321     984 553   4375 1999    23663 15557
    bfloat16    74   17    680 239    819 246    761 251     946 341    1238 567   4496 1999    24998 15484
    float16    109   19    962 233   1101 240   1067 251    1213 333    1537 571   4816 2003    25243 15526

So int8 and 16 bits multiply faster than BLAS does float32: less comes from the caches. With vectors of 8 numbers and 16
registers of them, as Haswell has (the same machine, told so; BLAS with its kernels): float32 439 and 886 us for 4 rows,
903 and 1176 for 16, 1699 and 1805 for 32; int8 of many rows at 145 billion operations a second, BLAS at 205. `MOST` has
where that ends. (Not measured on ARM.)

Rows of 256 numbers are over before the next ones that were asked for are there. Asked for three rows earlier, 8 rows of
x through 1 MB of weights in the third cache take 28 in place of 37 us (Zen 5); of 1,024, one row is enough (`AHEAD`).

Long rows end that sooner: float32, 1024 x 16384, 32 rows 24 in place of 23 ms, 64 rows 51 and 33 (`LARGE`).

Many rows are taken `SIZE` numbers at a time: 2,048 rows times 1024 x 4096 at 182, 184, 179 and 155 billion
operations a second with 2^15, 2^16, 2^17 and 2^18, and at 65 all at once.

Tried and left: plain loops, two rows of x by four of the weight (514 -> 900 us for 8 rows); widening each row of a
weight once for all rows of x (int8, 4 rows: 5.6 in place of 3.1 ms).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from ..backend import Array
from ..buffers import empty
from ..compiled import at_hand, compiled, loops_allowed
from ..compiled_tile import FOUR, four_by_four, one_by_four, one_by_one, registers, two_by_four
from ..threads import each, parts, threads
from .small_weights import SmallWeight

MANY = 2**21  # numbers in a weight for which Numba is imported: a small model generates a text meanwhile
SHARED = 2**22  # multiplications, of two rows at least, from which on other threads are worth their waking
float32 = numpy.float32
KINDS = {"float32": "f4", "int8": "i1", "bfloat16": "u2", "float16": "i2"}  # dtype of a weight: as it is stored
# Rows of x, up to which it is faster than BLAS, by numbers in a vector: for float32, and for the others.
MOST = {16: (256, 2**31), 8: (16, 512), 4: (8, 12)}
LARGE = 2**19  # numbers of x, from which on BLAS is faster for float32 in any case
AHEAD = 800  # numbers in rows between those that are read and those that are asked for, or one row
name_of = functools.lru_cache(maxsize=16)(str)  # of a dtype, which NumPy takes 2 us to spell
SIZE, HEIGHT = 2**16, 16  # numbers of x at a time, a quarter of the cache of a core; or so many rows, if these are long


def rows_numbers(x: Array, stored: Array, y: Array) -> None:
    """`x [N, I]` float32, `stored [O, I]` -> x Wᵀ without a scale, into `y [N, O]`, tile by tile."""
    N, far = x.shape[0], stored.shape[0] // FOUR
    height, soon = max(SIZE // x.shape[1] // 4 * 4, HEIGHT), max(1, AHEAD // x.shape[1])
    for first in range(0, N, height):  # of rows that stay in the cache, while the weight flows through it
        last = min(first + height, N)
        rest = last - (last - first) % 4
        for o in range(far):
            ahead = min(o + soon, far) if N >= 4 else o  # with fewer rows memory never rests: none but what is read
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

        return MOST[registers(numba)[0]]
    except Exception:  # as in `compiled`
        return 0, 0


def suits_compiled_rows(x: Array, weight: Array | SmallWeight) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    if isinstance(weight, SmallWeight) and weight.streamed:
        return False  # as memory is short: Numba takes more than two blocks
    stored, dtype = _stored(weight), name_of(weight.dtype)
    if dtype == "float32" and (len(x) > MOST[16][0] or x.size > LARGE):
        return False  # on no processor, for which Numba need not be asked
    return (
        type(x) is type(stored) is numpy.ndarray
        and x.dtype == float32
        and dtype in KINDS
        and (stored.size >= MANY or at_hand())
        and loops_allowed()
        and len(x) <= most_rows()[dtype != "float32"]
        and stored.flags.c_contiguous
        and stored.flags.aligned
        and ready(dtype) is not None
    )


def compiled_rows(x: Array, weight: Array | SmallWeight) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]` without a scale, each core a part of the weight's rows."""
    dtype = name_of(weight.dtype)
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
