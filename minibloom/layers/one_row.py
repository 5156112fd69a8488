"""The fast path of `linear` for one row, which is what decoding a token consists of: the weight in eight streams.

Nothing is to be gained here but bandwidth: each weight is read once and used once. BLAS reads four rows of the weight
side by side; where they are neighbours and short, all four lie in one page of memory, and the processor, which fetches
ahead within a page, waits at each new one. Here a step takes a row from each eighth of the weight in place of eight
neighbours, so that eight pages are fetched ahead at once. Each number is the same sum in the same order, to the bit.

Measured on one core of an AMD EPYC (Zen 3), shared, the least of 25 in turns, microseconds:

    weight, from memory     256 x 256   768 x 256   1024 x 256   256 x 1024   4096 x 256   1536 x 512   3072 x 1024
    BLAS's own order               32          80          100           59          418          297           878
    in eight streams               18          45           58           48          211          205           712

Tried and left: the transposed weight, as fast but a second copy; 4 streams, the same; 16, slower; huge pages, which
the system did not give.
"""

from __future__ import annotations

import numpy

from ..backend import Array
from ..threads import SMALL_WEIGHT, each, parts, threads

STREAMS = 8
LEAST = 2**16  # numbers in the weight: smaller ones may still be in the cache, where the order does not matter


def suits_streams(x: Array, weight: Array) -> bool:
    """Whether `x [N, I]` times `weight [O, I]` is to be computed here: the one place where that is chosen."""
    return (
        len(x) == 1
        and type(weight) is numpy.ndarray
        and weight.size >= LEAST
        and len(weight) % STREAMS == 0
        and weight.flags.c_contiguous
        and x.dtype == weight.dtype
    )


def one_row(x: Array, weight: Array) -> Array:
    """`x [1, I]`, `weight [O, I]` -> `x Wᵀ [1, O]`."""
    O, I = weight.shape  # noqa: E741
    y = numpy.empty((1, O), x.dtype)

    def fill(rows: slice) -> None:
        streams = weight[rows].reshape(STREAMS, -1, I).swapaxes(0, 1)  # [R, I] -> [R/8, 8, I]
        numpy.matmul(streams, x[0], out=y[0, rows].reshape(STREAMS, -1).T)  # [R/8, 8, I] [I] -> [R/8, 8]

    if weight.size > SMALL_WEIGHT:
        each(fill, parts(O, threads()))
    else:
        fill(slice(O))
    return y
