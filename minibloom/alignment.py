"""Arrays that begin where a line of memory does.

A processor fetches memory by lines of 64 bytes, and a vector of 16 float32 is as long. NumPy's arrays begin 16 bytes
behind the start of a line, so that each vector that is read of them lies on two lines, and takes two looks into the
cache in place of one. What products read over and over, weights, keys and values, begins at a line here.

Measured on 2 cores of an AMD EPYC (Zen 5, AVX-512), microseconds for 1 MB of weights by the tiles of
`compiled_tile.py` on one core, medians, as NumPy has them and so:

    rows of x                               1            4            8            64
    1024 x 256, from the third cache    17.9 15.3    20.4 19.4    30.1 25.6    256 216
    256 x 1024                          19.6 12.5    23.8 20.4    41.1 32.6    236 198
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from .backend import Array, namespace

LINE = 64  # bytes
IN_LINE = LINE // 4  # float32 numbers


def at_a_line(make: Callable[..., Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """`make(shape, dtype)`, for `numpy.empty` or `numpy.zeros` an array whose first number is the first in a line.

    A device's arrays begin so anyway.
    """
    if make not in (numpy.empty, numpy.zeros):
        return make(shape, dtype=dtype)
    size = math.prod(shape) * numpy.dtype(dtype).itemsize
    room = make(size + LINE, dtype="u1")
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
    """`numpy.empty`, at a line."""
    return at_a_line(numpy.empty, shape, dtype)


def aligned_copy(a: Array) -> Array:
    """A copy of `a`, at a line."""
    copy = at_a_line(namespace(a).empty, a.shape, a.dtype)
    copy[...] = a
    return copy
