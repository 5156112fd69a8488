"""The fast path of `linear` for one row, of which decoding a token consists: each weight is read once and used once.

Nothing is to be gained here but bandwidth, by two ways of reading.

A small weight is read by the thread that asks, with a scalar product for each of its rows. BLAS's product of a matrix
and a vector reads several rows of the weight side by side. Where they are neighbours and short, all of them lie in one
page of memory, and the processor, which fetches ahead within a page, waits at each new one. A scalar product reads one
row after another, from end to end, as memory likes it.

A large one is read by all cores, and for that BLAS has its own threads, which a pass otherwise keeps from it
(`threads.py`). They wait awake for what comes next, and start and meet within a few microseconds. Ours sleep, and to
wake one and to be woken at the end costs 0.1 to 0.2 ms, as much as half of such a product.

Each number is the same sum, to rounding.

Measured on 2 cores of an AMD EPYC (Zen 3), weights from memory, medians of 11 in turns, microseconds: scalar products
by one thread, BLAS's product by one; each of them by two of our threads; BLAS's product by its own two. The first line
is what is done here below 2^20 numbers, the last from there on:

    weight       768 x 256  256 x 1024  1024 x 512  1024 x 1024  3072 x 1024  4096 x 1024  1024 x 4096  250880 x 1024
    one, scalar         68          78         134          335          914         1234         1127          68006
    one, BLAS           87          68         166          290          741         1051          827          57928
    two, scalar         91         106         182          304          759         1120         1105          38368
    two, BLAS          115          93         214          273          670          919          874          30823
    BLAS's own          93          91         122          176          522          668          476          31407

A token of bloom-560m's shape, 128 and 1,024 cached: 115 and 130 ms with two of our threads, 87 and 110 so.

That holds while the cores are ours. Where other work takes one, a thread that waits awake loses its turn, and all
others wait for it: beside a load of 4 to 5, a token takes 740 to 1,660 ms by BLAS's threads (transformers, whose
threads do the same, 910), and 220 to 310 by ours. So a product that takes longer than any machine needs is taken for a
sign of that, and the next ones are shared out among ours, until BLAS is asked once more. The bits are the same, but
where BLAS parts rows at another place than `parts`: a few of thousands of numbers then differ in their last digit, as
they do by the number of threads.

Tried and left: 2, 4 and 8 streams of scalar products, alike; the transposed weight, as fast but a second copy; unequal
parts for two of our threads, so that the one that wakes late has less (8% better than equal ones); the head, where
waking counts for nothing, by ours (a token 104 ms in place of 81), as BLAS's are still awake on the core that it needs.
"""

from __future__ import annotations

import time

import numpy

from ..backend import Array
from ..threads import SMALL_WEIGHT, blas_on_all_cores, each, parts, threads

LEAST = 2**16  # numbers in the weight: smaller ones may still be in the cache, where the order does not matter
SLOW = 1e-9  # seconds a number; BLAS needs 0.2e-9, and more than this only if its threads wait for one put aside
PATIENCE = 200  # products, two tokens of bloom-560m, for which BLAS's threads are then not asked


class _Crowd:
    """Whether other work is on the cores, as far as the last products told."""

    products = 0  # to come for which that is assumed


def suits_one_row(x: Array, weight: Array) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    return (
        len(x) == 1
        and type(weight) is numpy.ndarray
        and weight.size >= LEAST
        and weight.flags.c_contiguous
        and x.dtype == weight.dtype
    )


def one_row(x: Array, weight: Array) -> Array:
    """`x [1, I]`, `weight [O, I]` -> `x Wᵀ [1, O]`."""
    if weight.size < SMALL_WEIGHT:
        return numpy.vecdot(weight, x)[None]  # [O, I] [1, I] -> [O]
    if _Crowd.products > 0:  # two passes at once may count one product twice
        _Crowd.products -= 1
        y = numpy.empty((1, len(weight)), x.dtype)
        each(lambda rows: numpy.matmul(weight[rows], x[0], out=y[0, rows]), parts(len(weight), threads()))
        return y
    start = time.perf_counter()
    with blas_on_all_cores():
        y = (weight @ x[0])[None]  # [O, I] [I] -> [O]
    if time.perf_counter() - start > SLOW * weight.size:
        _Crowd.products = PATIENCE
    return y
