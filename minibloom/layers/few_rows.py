"""The fast path of `linear` for 2 to 16 rows, as decoding a batch consists of: the weight, 64 of its rows at a time.

BLAS copies a matrix into the order that its kernel likes before it multiplies. Where each number is then used hundreds
of times, that is well spent; for a few rows it costs more than the product, most of all as the copy goes through
memory. Of 64 rows at a time it stays in the core's own cache. Each number is the same sum, to rounding.

Measured on 2 cores of an AMD EPYC (Zen 3), medians of 21 in turns, microseconds; one product with all, 64 at a time:

    weight           256 x 768   1024 x 256   4096 x 256   1024 x 1024   3072 x 1024   1024 x 4096   16384 x 1024
     2 rows           185  164     236  172     861  524      666  402     1476   988     1818  1320     7605   4420
     8                217  172     260  181     633  584      679  464     2011  1373     2776  1856     9338   5492
    16                230  217     247  245     760  734      757  617     1986  1608     3374  2676    10320   7506
    32                256  248     355  352    1019 1035     1052  994     3675  2865     3503  3389    14623  11201

With more rows BLAS's own order wins: 64 on 1024 x 1024 take 1473 and 1692. Tried and left: 32 of the weight's rows at
a time, slower; 128, alike; rows far apart, as in `one_row.py`, a tenth faster for small weights and slower for
large ones; each row of x by itself (alike for 2 and 3, slower for more); the transposed weight, a second copy.
"""

from __future__ import annotations

import numpy

from ..backend import Array
from ..threads import each, parts, threads

HEIGHT = 64  # rows of the weight at a time
MOST = 16  # rows of x
LEAST = 2**17  # numbers in the weight: of fewer, BLAS's copy is cheap, and another thread costs more than it gives


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

    def fill(rows: slice) -> None:
        y[:, rows] = at_a_time(weight[rows], columns).T

    each(fill, parts(len(weight), threads(), HEIGHT))
    return y


def at_a_time(weight: Array, columns: Array) -> Array:
    """`weight [R, I]`, R a multiple of 64, `columns [I, N]` -> `[R, N]`."""
    stack = weight.reshape(-1, HEIGHT, weight.shape[1])  # [R, I] -> [R/64, 64, I]
    return (stack @ columns).reshape(len(weight), -1)  # -> [R/64, 64, N] -> [R, N]
