"""Past keys and values. A position's key and value never change once computed, so they are kept.

A pass over S new positions then costs S queries against T = past + S keys, not T against T: it gives the
same numbers as the whole sequence at once, because a key depends only on the tokens up to its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from .backend import Array, namespace
from .errors import InputError


class Cache:
    """A cache that grows: for every block, keys and values `[B, H, T, D]`.

    `cache[i]` is block i's `(keys, values)` as views, `len(cache)` the number of blocks, `cache.length` the
    number of positions T. A model updates the cache that it is given, in place; `copy()` one to go on from
    the same past twice.
    """

    def __init__(self, layers: int) -> None:
        self.length = 0
        self._keys: list[Array | None] = [None] * layers  # [B, H, capacity, D], filled up to `length`
        self._values: list[Array | None] = [None] * layers

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, layer: int) -> tuple[Array, Array]:
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None or not self.length:
            raise InputError("the cache is empty: no forward pass has filled it yet.")
        return keys[:, :, : self.length], values[:, :, : self.length]

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={len(self)}, length={self.length}, bytes={self.nbytes:,})"

    @property
    def batch_size(self) -> int | None:
        """Rows in the batch, or None while the cache is empty."""
        return self[0][0].shape[0] if self.length else None

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds, room for growth included."""
        return sum(a.nbytes for a in (*self._keys, *self._values) if a is not None)

    def update(self, layer: int, key: Array, value: Array) -> tuple[Array, Array]:
        """Write new `key`, `value` `[B, H, S, D]` behind the past ones; return all `T` of them, as views.

        They count only after `advance`, which ends a pass: one that fails midway leaves the cache as it was.
        """
        end = self.length + key.shape[2]
        self._keys[layer] = keys = self._room(self._keys[layer], key, end)
        self._values[layer] = values = self._room(self._values[layer], value, end)
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, positions: int) -> None:
        """The pass over `positions` new positions is complete."""
        self.length += positions

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on."""
        if not 0 <= length <= self.length:
            raise InputError(f"cannot crop a cache of {self.length} positions to {length}.")
        self.length = length

    def copy(self) -> Cache:
        """An independent copy."""
        twin = Cache(len(self))
        twin.length = self.length
        twin._keys = [None if a is None else a.copy() for a in self._keys]
        twin._values = [None if a is None else a.copy() for a in self._values]
        return twin

    def select(self, rows: Array) -> None:
        """Keep the given batch rows, in the given order, repeats allowed."""
        self._keys = [None if a is None else a[rows] for a in self._keys]
        self._values = [None if a is None else a[rows] for a in self._values]

    def _room(self, buffer: Array | None, new: Array, end: int) -> Array:
        """`buffer`, or a copy of it with room for `end` positions. Doubling keeps the copies rare."""
        B, H, _, D = new.shape
        xp = namespace(new)
        if buffer is None or not self.length:  # a pass that failed may have left a buffer of other rows
            return xp.empty((B, H, end, D), dtype=new.dtype)
        if buffer.shape[2] >= end:
            return buffer
        larger = xp.empty((B, H, max(end, 2 * buffer.shape[2]), D), dtype=new.dtype)
        larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger
