"""Larger than memory: parameters that stay in their files and are read block by block, while the pass goes on.

`StreamedParams` is a mapping under the same names as the dictionary it stands in for, so the pass reads it as ever. The
pass asks for block after block, and after the last for the first again, one token later. So the mapping holds the
block that was asked for last; when the next one's turn comes it drops it, and a thread reads the one after that while
this one computes. Memory: the embedding, the norms outside the blocks, and two blocks, all as the file has them; 16-bit
and int8 matrices are widened while they are used, as in `layers/small_weights.py`.

What a token then costs is the time of reading all blocks once, or of computing with them, whichever is longer.
Measured on a checkpoint of 4.06 GB in bfloat16 (40 blocks, hidden size 2048) under a limit of 1.29 GB (RLIMIT_DATA),
what was read dropped from the system's cache at once, on 2 cores of an AMD EPYC (Zen 3) and a virtual disk, both shared
with other work: peak memory 0.28 GB; medians of 6 in turns, a token 2.9 s, 1.4 GB a second, and reading alone the same
way 2.5 s. So generation runs at 85% of the disk's own rate, at 59 to 81% where other work takes more of the cores:
reading needs a third of a second of processor time a GB, as the system copies what it has read.

On paper, the model of 176 billion parameters, 352 GB in bfloat16: a block has 4.93 GB, the embedding 7.19 GB, so it
needs 17 GB of memory, or 10 with `hold_embedding=False`. A token reads 345 GB: 4 minutes at the 1.4 GB a second
measured here, 49 seconds at the 7 of a fast disk; computing takes, at 0.41 ns of a core a weight, 36 seconds on two.
As int8 it reads half. A batch reads no more than a row.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy

from .alignment import aligned_empty
from .backend import Array
from .checkpoint import block_number
from .layers.small_weights import KINDS, SmallWeight
from .memory import physical_memory
from .tensor_file import STORED, Empty, Shape, TensorEntry, read_tensor


def read_as_stored(entry: TensorEntry, empty: Empty = aligned_empty) -> Array | SmallWeight:
    """A tensor in float32, but for a matrix that the file has in fewer bits: a small weight, with no number changed."""
    tensor = read_tensor(entry, weights=entry.kind if entry.kind in KINDS else None, empty=empty)
    if isinstance(tensor, SmallWeight):
        tensor.streamed = True
    return tensor


class FileWeight(SmallWeight):
    """A matrix that stays in its file: each time, the rows that are asked for are read. In memory: int8's scales."""

    streamed = True

    def __init__(self, entry: TensorEntry) -> None:
        self.entry, self.dtype = entry, entry.kind
        self.scale = None if entry.scale is None else read_tensor(entry.scale)
        self._first = read_as_stored(self._rows(0, 1))

    def __array_namespace__(self) -> ModuleType:
        return numpy

    @property
    def shape(self) -> Shape:
        return self.entry.shape

    @property
    def nbytes(self) -> int:
        return 0 if self.scale is None else self.scale.nbytes

    def _rows(self, start: int, stop: int) -> TensorEntry:
        """The place of some rows, as if they were a tensor of their own."""

        def cut(entry: TensorEntry, width: int) -> TensorEntry:
            width *= numpy.dtype(STORED[entry.dtype]).itemsize
            shape = (stop - start, *entry.shape[1:])
            return entry._replace(shape=shape, begin=entry.begin + start * width, end=entry.begin + stop * width)

        scale = None if self.entry.scale is None else cut(self.entry.scale, 1)
        return cut(self.entry, self.entry.shape[1])._replace(scale=scale)

    def widen(self, rows: Any = slice(None)) -> Array:
        if not isinstance(rows, slice):  # row numbers, of any shape: each row is read once
            numbers, places = numpy.unique(rows, return_inverse=True)
            found = numpy.concatenate([self.widen(slice(n, n + 1)) for n in numbers.tolist()])
            return found[places.reshape(numpy.shape(rows))]
        start, stop, _ = rows.indices(len(self))
        part = read_as_stored(self._rows(start, max(start, stop)))
        return part.widen() if isinstance(part, SmallWeight) else part

    def part(self, x: Array) -> Array:
        return self._first.part(x) if isinstance(self._first, SmallWeight) else super().part(x)

    def fill(self, rows: slice, block: Array) -> Array:
        part = read_as_stored(self._rows(rows.start, rows.stop))
        if isinstance(part, SmallWeight):
            return part.fill(slice(None), block)
        block[0] = part
        return block


class Memory:
    """Room for the tensors of one block. It can be used again when the arrays in it are gone.

    New memory is not free: the system fills each page with zeros when it is first written to, which takes a third of
    the time of reading a file from its cache.
    """

    def __init__(self, size: int) -> None:
        self._pages = mmap.mmap(-1, max(1, size), access=mmap.ACCESS_COPY)  # after a fork, each process has its own
        self._whole: Callable[[], Array | None] = lambda: None  # a weak reference: all arrays in the pages share it

    @property
    def free(self) -> bool:
        return self._whole() is None

    def allocator(self) -> Empty:
        """A function like `numpy.empty` that gives out this memory from its start."""
        whole, used = numpy.frombuffer(self._pages, "u1"), 0
        self._whole = weakref.ref(whole)

        def empty(shape: Shape, dtype: str) -> Array:
            nonlocal used
            size = math.prod(shape) * numpy.dtype(dtype).itemsize
            start, used = used, used + aligned(size)
            return whole[start : start + size].view(dtype).reshape(shape)

        return empty


class StreamedParams(Mapping[str, Array]):
    """The parameters that `entries` (name -> place) tell of, at most two blocks of them in memory.

    What is returned never changes while somebody holds it; whoever holds on to a block's arrays has their memory too.

    hold_embedding: keep the embedding matrix (and a head's own) in memory; if not, its rows are read when they are
        used, which costs a token the time to read the whole matrix once more.

    What was read is left in the system's cache of files only if the files would fit into memory. If they do not, then
    reading in a circle finds nothing in the cache: it lost each block before its turn came again.
    """

    def __init__(self, entries: Mapping[str, TensorEntry], hold_embedding: bool = True) -> None:
        self._made_of = dict(entries), hold_embedding
        self._names = list(entries)
        self._blocks: dict[int, dict[str, TensorEntry]] = {}
        self._held: dict[str, Array] = {}
        for name, entry in entries.items():
            layer = block_number(name)
            if layer is not None:
                self._blocks.setdefault(layer, {})[name] = entry
            elif len(entry.shape) == 2 and not hold_embedding:
                self._held[name] = FileWeight(entry)
            else:
                self._held[name] = read_as_stored(entry)
        total = sum(entry.end - entry.begin for entry in entries.values())
        self._keep_cached = total < physical_memory()
        self._room = max(
            sum(aligned(entry.end - entry.begin) for entry in block.values()) for block in self._blocks.values()
        )
        self._begin()

    def __reduce__(self) -> Any:
        return StreamedParams, self._made_of  # a copy reads the same files, by a thread of its own

    def _begin(self) -> None:
        """Start to read the first block, by a thread of this process."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="minibloom reader")
        self._memories: list[Memory] = []
        self._at = -1  # the number of the block that was asked for last
        self._block: dict[str, Array] = {}
        self._ahead = self._start(min(self._blocks))

    def __getitem__(self, name: str) -> Array:
        if name in self._held:
            return self._held[name]
        layer = block_number(name)
        if layer not in self._blocks or name not in self._blocks[layer]:
            raise KeyError(name)
        if self._process != os.getpid():  # a fork, which threads do not survive
            self._begin()
        with self._lock:
            if layer != self._at:
                self._turn_to(layer)
            return self._block[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:  # Mapping's would read the block
        return name in self._names

    def _turn_to(self, layer: int) -> None:
        """Wait for `layer`, drop the block that was held for it, and have the next one read meanwhile."""
        number, reading = self._ahead
        failed = reading.done() and reading.exception() is not None  # in an earlier call, which said so, or ahead of it
        if number != layer or failed:  # out of turn: what is being read is not what is wanted
            reading.cancel()
            number, reading = self._ahead = self._start(layer)
        self._block, self._at = reading.result(), layer
        self._ahead = self._start(self._after(layer))

    def _start(self, layer: int) -> tuple[int, Future[dict[str, Array]]]:
        return layer, self._reader.submit(self._read, layer)

    def _read(self, layer: int) -> dict[str, Array]:
        memory = next((memory for memory in self._memories if memory.free), None) or Memory(self._room)
        self._memories = [memory, *(other for other in self._memories if not other.free)]
        block, empty = {}, memory.allocator()
        for name, entry in self._blocks[layer].items():
            block[name] = read_as_stored(entry, empty)
            if not self._keep_cached:
                forget(entry)
        return block

    def _after(self, layer: int) -> int:
        """The block whose turn is next; after the last, the first, for the next token."""
        return (layer + 1) % len(self._blocks)


def aligned(size: int) -> int:
    """`size` bytes, and what is missing to the next start of a cache line."""
    return -(-size // 64) * 64


def forget(entry: TensorEntry) -> None:
    """Tell the system that its cached copy of this part of the file will not be needed."""
    if hasattr(os, "posix_fadvise"):
        with entry.file.open("rb") as file:
            os.posix_fadvise(file.fileno(), entry.begin, entry.end - entry.begin, os.POSIX_FADV_DONTNEED)
