"""The fast path of `linear` for one row, of which decoding a token consists: a scalar product with each weight row.

Nothing is to be gained here but bandwidth: each weight is read once and used once. BLAS's product of a matrix and a
vector reads several rows of the weight side by side. Where they are neighbours and short, all of them lie in one page
of memory, and the processor, which fetches ahead within a page, waits at each new one. A scalar product reads one row
after another, from end to end, as memory likes it. Each number is the same sum, to rounding.

Measured on 2 cores of an AMD EPYC (Zen 4), weights from memory, medians of 9 in turns, microseconds: BLAS's order,
eight streams of rows, a page each, and scalar products; the last line with OpenBLAS's kernels for older processors:

    weight       768 x 256    256 x 1024   4096 x 256    1024 x 1024   3072 x 1024    4096 x 1024    250880 x 1024
                  85 47 39     68 62 54    514 261 215       256 201   497 508 461    667 629 630   32950 34826 29170
                     47 41        63 48        257 204       279 201       569 503        740 630         37570 30937

Tried and left: 2, 4 and 8 streams of scalar products, alike; the transposed weight, as fast but a second copy.
"""

from __future__ import annotations

import numpy

from ..backend import Array
from ..threads import SMALL_WEIGHT, each, parts, threads

LEAST = 2**16  # numbers in the weight: smaller ones may still be in the cache, where the order does not matter


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
    if weight.size <= SMALL_WEIGHT:
        return numpy.vecdot(weight, x)[None]  # [O, I] [1, I] -> [O]
    y = numpy.empty((1, len(weight)), x.dtype)
    each(lambda rows: numpy.vecdot(weight[rows], x, out=y[0, rows]), parts(len(weight), threads()))
    return y
