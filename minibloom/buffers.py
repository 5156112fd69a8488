"""The memory of a training step, and of a pass over a long prompt, kept for the next one.

A step makes some hundred megabytes of arrays that live until backward has used them. Freed at its end, the system
takes their memory back, and in the next step hands out new pages, each cleared when it is first touched. So a model
keeps the memory of its last step, of arrays of 1 to 16 MB, and lays those of the next one into blocks of it that nobody
has any more. A pass makes fewer, one block of the model after the other in the place of the last: of 512 tokens,
bloom-560m's shape keeps 24 MB.

A block is free when nothing but a list here refers to it, for every view of an array refers to the one that owns its
memory. So what a caller still has of a step (logits, a trace, a slice of one) is never written over. Only blocks that
the last step used are kept, no longer than the model, and no gradients, which are the caller's. CuPy has its own pool.

Measured on 2 cores of an Intel Xeon beside other work, a step of 5 million parameters (8 rows of 256 tokens), medians
in turns: 0.75 s without and 0.68 with, in a later run 0.83 and 0.78; 22,000 pages to be cleared, and none. In the
bench, where another contestant runs between two steps, 0.91 and 0.76, 0.97 and 0.82. A step of 1 x 512 tokens on
bloom-560m's shape takes 3.1 GB in place of 2.4.

A pass over 512 tokens of that shape, in turns on 2 cores of an AMD EPYC (Zen 5), four times ten: medians 938, 946, 934
and 957 ms without, 912 and 909 with. Of 4 MB on, NumPy asks for pages of 2 MB, and while the system looks for memory
of that length, a pass takes up to 0.1 s longer: without, every other one did.

Tried and left: keeping larger arrays too, as fast, and then 3.6 GB; only those below 4 MB, where NumPy does not ask for
large pages yet, half of the gain, and 2.7 GB.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from .backend import Array

LEAST = 2**20  # bytes; the memory of smaller arrays stays with the process anyway
MOST = 2**24  # of larger ones, which are few, much memory would be kept


class Buffers:
    """The blocks of a model's last step, by their size in bytes."""

    def __init__(self) -> None:
        self.kept: dict[int, list[Array]] = {}

    def __reduce__(self) -> Any:
        return Buffers, ()  # a copy of the model begins with none

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Within this block, `empty` in this thread takes memory of the last step."""
        before = getattr(_local, "step", None)
        _local.step = step = _Step(self.kept)
        self.kept = {}  # the step's alone: another thread may train the same model
        try:
            yield
        finally:
            _local.step = before
            self.kept = step.taken


class _Step:
    """The blocks that a step may take, and those that it has taken."""

    def __init__(self, kept: dict[int, list[Array]]) -> None:
        self.kept = kept
        self.taken: dict[int, list[Array]] = {}

    def block(self, size: int) -> Array:
        """A block of `size` bytes that nobody has."""
        taken, kept = self.taken.setdefault(size, []), self.kept.get(size, [])
        for i in range(len(taken)):
            if _references(taken, i) == NOBODY:
                return taken[i]
        for i in range(len(kept)):
            if _references(kept, i) == NOBODY:
                taken.append(kept.pop(i))
                return taken[-1]
        taken.append(numpy.empty(size, dtype=numpy.uint8))
        return taken[-1]


def _references(blocks: list[Array], i: int) -> int:
    return sys.getrefcount(blocks[i])


NOBODY = _references([numpy.empty(0)], 0)  # what Python counts where only the list has it, which differs by version
_local = threading.local()  # .step: the one under way in this thread


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """`numpy.empty`; in a training step one of some megabytes lies in memory that an earlier array has left."""
    step, dtype = getattr(_local, "step", None), numpy.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if step is None or not LEAST <= size < MOST:
        return numpy.empty(shape, dtype=dtype)
    return step.block(size).view(dtype).reshape(shape)
