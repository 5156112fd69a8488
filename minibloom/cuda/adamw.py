"""The end of a training step as kernels: all parameters in one launch, however many there are.

    adamw           `AdamW.step` of `optimizer.py`, which is the specification
    squares, scale  the two halves of `clip_gradients`, there too

An array at a time, a step of bloom-560m would be three thousand launches. Here a table tells the kernel where in memory
each array begins, and a block finds its own by the count of chunks before it. The table is made for each launch: it
refers to the arrays that the dictionaries hold now, and they outlive the launch, as memory that is freed after it is
given to later work only.

Not measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy

from ..backend import Array, namespace
from .kernels import kernel, launch, suits_kernels

CHUNK, THREADS = 2**14, 256  # numbers of an array that a block does, and by how many threads


def suits_all(*arrays: Array) -> bool:
    """Whether all of `arrays` are to be computed with at once, here: the one place where that is chosen."""
    return suits_kernels(*arrays)


def adamw(
    groups: Sequence[tuple[Array, Array, Array, Array]],
    beta1: float,
    beta2: float,
    v_scale: float,
    eps: float,
    rate: float,
    decay: float,
) -> None:
    """Update each parameter, in place, with its mean and its square; `groups`: (parameter, gradient, mean, square).

    rate: the step's, times the scale of the mean. decay: what matrices are multiplied with before the step.
    """
    xp = namespace(groups[0][0])
    table, blocks = _table(xp, [[*group, group[0].ndim > 1] for group in groups])
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, v_scale, eps, rate, decay)
    launch(_kernel(xp, "adamw"), blocks, THREADS, table, numpy.int32(len(groups)), *map(numpy.float32, numbers))


def squares(arrays: Sequence[Array]) -> Array:
    """The sum of the squares of all numbers of all arrays, in float64, as an array without dimensions."""
    xp = namespace(arrays[0])
    table, blocks = _table(xp, [[x] for x in arrays])
    sums = xp.empty(blocks, dtype="float32")
    launch(_kernel(xp, "squares"), blocks, THREADS, table, numpy.int32(len(arrays)), sums)
    return sums.astype("float64").sum()


def scale(arrays: Sequence[Array], factor: float) -> None:
    """Multiply all numbers of all arrays, in place."""
    xp = namespace(arrays[0])
    table, blocks = _table(xp, [[x] for x in arrays])
    launch(_kernel(xp, "scale"), blocks, THREADS, table, numpy.int32(len(arrays)), numpy.float32(factor))


def _kernel(xp: ModuleType, name: str) -> object:
    return kernel(xp, "adamw", name, CHUNK=CHUNK)


def _table(xp: ModuleType, rows: Sequence[Sequence[Any]]) -> tuple[Array, int]:
    """For each row, whose first array has the size of the others, what `adamw.cu` says; and the number of chunks."""
    sizes = [row[0].size for row in rows]
    ends = numpy.cumsum([-(-size // CHUNK) for size in sizes])
    words = [[int(x) if isinstance(x, bool) else x.data.ptr for x in row] for row in rows]
    table = numpy.array([[size, end, *row] for size, end, row in zip(sizes, ends, words, strict=True)], "uint64")
    return xp.asarray(table), int(ends[-1])
