"""The fast path of `linear` for 2 to 32 rows, as decoding a batch consists of: the weight, few of its rows at a time.

BLAS copies a matrix into the order that its kernel likes before it multiplies. Where each number is then used hundreds
of times, that is well spent; for a few rows it costs more than the product, most of all as the copy goes through
memory. Of few rows at a time it stays in the core's own cache, and where a product is small enough, OpenBLAS leaves the
copy out. Each number is the same sum, to rounding.

Rows that are short are taken far apart, as in `one_row.py` and for its reason: neighbours lie in one page of memory,
and the processor waits at each new one; from 16 pages it fetches ahead at once.

Measured on 2 cores of an AMD EPYC (Zen 4), weights from memory, medians, microseconds: one product with all, 64
neighbours at a time on both cores, and as it is done here:

    weight       768 x 256     4096 x 256     1024 x 1024      3072 x 1024       1024 x 4096         16384 x 1024
     2 rows    201 126  56   1006 326 252    790 247 247    1323  496  499    2132  749  707     7619  2331  2379
     8         222 125  82    827 354 281    685 368 348    1905  731  727    2814 1340 1164     8436  3189  3094
    16         247 135  90    748 377 304   1056 427 298    1749 1141  705    2070 1505 1601     9391  4997  3312
    32         297 192 144    916 630 492    772 703 553    4560 3438 2365    5461 4505 5308    24632 15629 11829

With OpenBLAS's kernels for older processors, which always copy, the order of the three is the same. With 64 rows BLAS's
own order wins. A second thread is worth its waking only for large weights (768 x 256, 8 rows: 109 on one, 139 on two).
Tried and left: 32 or 64 short rows far apart, slower; long ones far apart, alike; each row of x by itself, alike for 2
and 3 and slower for more; the transposed weight, a second copy.
"""

from __future__ import annotations

import numpy

from ..backend import Array
from ..threads import SMALL_WEIGHT, each, parts, threads

HEIGHT = 64  # rows of the weight at a time, at most
UNCOPIED = 10**6  # multiplications in a product, up to which OpenBLAS makes no copy
APART = 16  # rows of the weight that are taken together, far apart, where rows are short
SHORT = 512  # numbers in a row of the weight, up to which it is short
MOST = 32  # rows of x
LEAST = 2**16  # numbers in the weight: of fewer, BLAS's copy is cheap


def suits_few_rows(x: Array, weight: Array) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    return (
        1 < len(x) <= MOST
        and type(x) is type(weight) is numpy.ndarray
        and weight.size >= LEAST
        and len(weight) % HEIGHT == 0
        and weight.flags.c_contiguous
        and x.dtype == weight.dtype
    )


def few_rows(x: Array, weight: Array) -> Array:
    """`x [N, I]`, `weight [O, I]` -> `x Wᵀ [N, O]`."""
    columns = numpy.ascontiguousarray(x.T)  # [N, I] -> [I, N]
    y = numpy.empty((len(x), len(weight)), x.dtype)
    product = far_apart if weight.shape[1] <= SHORT else at_a_time

    def fill(rows: slice) -> None:
        y[:, rows] = product(weight[rows], columns).T

    if weight.size >= SMALL_WEIGHT:
        each(fill, parts(len(weight), threads(), HEIGHT))
    else:
        fill(slice(len(weight)))
    return y


def at_a_time(weight: Array, columns: Array) -> Array:
    """`weight [R, I]`, R a multiple of 64, `columns [I, N]` -> `[R, N]`, of so many neighbouring rows at a time."""
    height = HEIGHT
    while height > 16 and height * columns.size > UNCOPIED:
        height //= 2
    return (weight.reshape(-1, height, len(columns)) @ columns).reshape(len(weight), -1)  # [R/h, h, I] [I, N] -> [R, N]


def far_apart(weight: Array, columns: Array) -> Array:
    """The same, of 16 rows at a time, one from each 16th of the weight."""
    I, N = columns.shape  # noqa: E741
    y = numpy.empty((len(weight), N), weight.dtype)
    rows, sums = weight.reshape(APART, -1, I), y.reshape(APART, -1, N)  # [R, ...] -> [16, R/16, ...]
    numpy.matmul(rows.swapaxes(0, 1), columns, out=sums.swapaxes(0, 1))  # [R/16, 16, I] [I, N] -> [R/16, 16, N]
    return y
