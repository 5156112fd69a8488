"""Past keys and values. A position's key and value never change once computed, so they are kept.

A pass over S new positions then costs S queries against T = past + S keys, not T against T: it gives the
same numbers as the whole sequence at once, because a key depends only on the tokens up to its own.

A `Cache` grows as it is filled; a `StaticCache` has room for a fixed number of positions from the start. Over the
years, transformers has kept past keys and values as tuples in four layouts: `LAYOUTS` has them. Both kinds of cache
are turned into such tuples, and `Cache.from_tuple` makes a growing one from them.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy

from .alignment import at_a_line
from .backend import Array, asarray, namespace
from .errors import InputError, suggest
from .fields import whole

# Which axes keys and values have, from batch B, heads H, positions T and head size D, and who used them so.
LAYOUTS = {
    "documented": ("[B*H, D, T]", "[B*H, T, D]"),  # BLOOM's own from late 2022 to mid-2024, and the documentation's
    "standard": ("[B, H, D, T]", "[B, H, T, D]"),  # the same with the batch apart: `_convert_to_standard_cache`
    "first": ("[B, T, H, D]", "[B, T, H, D]"),  # mid-2022, when BLOOM came
    "today": ("[B, H, T, D]", "[B, H, T, D]"),  # all models, since mid-2024; minibloom's own
}


class Cache:
    """A cache that grows: for every block, keys and values `[B, H, T, D]`.

    `cache[i]` is block i's `(keys, values)` as views, `len(cache)` the number of blocks, `cache.length` the
    number of positions T. A model updates the cache that it is given, in place; `copy()` one to go on from
    the same past twice. Views may be written to until the next pass; after it, take new ones for that.
    """

    max_length: int | None = None  # positions there can be; None: as many as memory holds
    window: int | None = None  # positions that a query sees, its own included; None: all

    def __init__(self, layers: int) -> None:
        layers = whole(1).check("layers", layers)
        self.length = 0
        self._keys: list[Array | None] = [None] * layers  # [B, H, capacity, D], filled up to `length`
        self._values: list[Array | None] = [None] * layers
        self._norms: list[Array | None] = [None] * layers  # see `key_norms`
        self._longest: list[Array | None] = [None] * layers  # see `longest_keys`
        self.states: Array | None = None  # last hidden states `[B, T, E]`, of length 1: contrastive search keeps them
        self.draft: Any = None  # a draft model, its own cache and the ids in it: speculation keeps them

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, layer: int) -> tuple[Array, Array]:
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None or not self.length:
            raise InputError("the cache is empty: no forward pass has filled it yet.")
        self._norms[layer] = self._longest[layer] = None  # they may be written to
        return keys[:, :, self._here], values[:, :, self._here]

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        room = "" if self.max_length is None else f", max_length={self.max_length}"
        return f"{type(self).__name__}(layers={len(self)}, length={self.length}{room}, bytes={self.nbytes:,})"

    @property
    def seen(self) -> int:
        """Positions that were ever put in: all that it holds, but for a cache that drops some."""
        return self.length

    @property
    def _here(self) -> slice:
        """Where the positions that count stand in the arrays."""
        return slice(0, self.length)

    @property
    def batch_size(self) -> int | None:
        """Rows in the batch, or None where the next pass may bring any."""
        held = self._held()
        return None if held is None else held.shape[0]

    @property
    def filled_in_place(self) -> bool:
        """Whether a pass may write what `extend` gives room for, as `update` does: not where a subclass has another."""
        return type(self).update is Cache.update

    @property
    def nbytes(self) -> int:
        """Bytes that the cache holds, room for growth included."""
        return sum(a.nbytes for a in (*self._keys, *self._values) if a is not None)

    def check(self, layers: int, heads: int, head_dim: int, dtype: str, batch: int, new: int, xp: ModuleType) -> None:
        """Raise an InputError if a pass of this kind over `new` positions cannot use this cache."""
        if len(self) != layers:
            raise InputError(f"past_key_values is a cache of {len(self)} blocks, expected {layers}.")
        if self.batch_size not in (None, batch):
            raise InputError(f"past_key_values holds a batch of {self.batch_size}, the input one of {batch}.")
        if (held := self._held()) is not None:
            asarray(held, xp, "past_key_values", move=False)  # an error, if it is of another library
            if (held.shape[1], held.shape[3]) != (heads, head_dim) or held.dtype != dtype:
                given = f"{held.shape[1]} heads of size {held.shape[3]} in {held.dtype}"
                expected = f"{heads} heads of size {head_dim} in {dtype}"
                raise InputError(f"past_key_values holds {given}, expected {expected}: it belongs to another model.")
        if self.max_length is not None and self.length + new > self.max_length:
            raise InputError(
                f"past_key_values is full: it has room for {self.max_length} positions, of which {self.length} are "
                f"taken, and the input has {new}. Make one with a larger max_length."
            )

    def _held(self) -> Array | None:
        """The keys `[B, H, capacity, D]` of the first block, which new ones must fit; None while there are none."""
        return self._keys[0] if self.length else None

    def update(self, layer: int, key: Array, value: Array) -> tuple[Array, Array]:
        """Write new `key`, `value` `[B, H, S, D]` behind the past ones; return all `T` of them, as views.

        They count only after `advance`, which ends a pass: one that fails midway leaves the cache as it was.
        """
        keys, values, here = self.extend(layer, key, value)
        self._longest[layer] = None
        new = slice(here.stop - key.shape[2], here.stop)
        keys[:, :, new] = key
        values[:, :, new] = value
        return keys[:, :, here], values[:, :, here]

    def extend(self, layer: int, key: Array, value: Array) -> tuple[Array, Array, slice]:
        """Make room for a `key` and a `value` of these shapes, which the caller writes.

        Returns all keys and values of the block `[B, H, room, D]`, and where in `room` the `T` are that count then.
        """
        begin, end, norms = self._here.start, self._here.stop + key.shape[2], self._norms[layer]
        if not self.length:
            self._longest[layer] = None
        if norms is not None:  # a crop or a failed pass left some behind: of later positions or, before any, other rows
            self._norms[layer] = norms[:, :, : self.length] if self.length else None
        self._keys[layer] = keys = self._room(self._keys[layer], key, end)
        self._values[layer] = values = self._room(self._values[layer], value, end)
        return keys, values, slice(begin, end)

    def key_norms(self, layer: int, keys: Array) -> Array:
        """|k| `[B, H, T]` of `keys [B, H, T, D]`, which `update` returned: those asked for before are kept.

        By them, tiled attention knows which far keys it need not read.
        """
        xp, kept = namespace(keys), self._norms[layer]
        known = 0 if kept is None else min(kept.shape[2], self.length)
        norms = xp.sqrt(xp.square(keys[:, :, known:]).sum(-1))
        if kept is not None:
            norms = xp.concatenate([kept[:, :, :known], norms], axis=2)
        self._norms[layer] = norms
        return norms

    def longest_keys(self, layer: int) -> Array:
        """A length that no key of a head exceeds, `[B, H]`; -1 where nobody has measured it: who does writes it there.

        It never falls, as when a window drops long keys; by it, few keys less are left out.
        """
        held = self._longest[layer]
        if held is None:
            keys = self._keys[layer]
            assert keys is not None  # `extend` has been called
            self._longest[layer] = held = namespace(keys).full(keys.shape[:2], -1, dtype=keys.dtype)
        return held

    def advance(self, positions: int) -> None:
        """The pass over `positions` new positions is complete."""
        self.length += positions

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on.

        The next pass writes over them, also where `cache[i]` or a trace of an earlier pass shows them.
        """
        if not 0 <= length <= self.length:
            raise InputError(f"cannot crop a cache of {self.length} positions to {length}.")
        self.length = length
        self.states = None if self.states is None else self.states[:, :length]

    def copy(self, rows: Array | None = None) -> Cache:
        """An independent copy: of all, or of the given batch rows as `select` keeps them.

        Of all, what is copied are the positions that count, not the room behind them.
        """
        twin, here = copy.copy(self), self._here
        twin.draft = None  # which is read further, and so is of one cache alone
        if rows is not None and self._held() is not None:
            twin.select(rows)  # which makes new arrays, and leaves the old
            return twin

        def copied(a: Array | None) -> Array | None:
            if a is None:
                return None
            b = at_a_line(namespace(a).empty, a.shape, a.dtype)
            b[:, :, here] = a[:, :, here]
            return b

        twin._keys, twin._values = [copied(a) for a in self._keys], [copied(a) for a in self._values]
        twin._norms = list(self._norms)  # which are never written to
        twin._longest = [None if a is None else a.copy() for a in self._longest]
        return twin

    def select(self, rows: Array) -> None:
        """Keep the given batch rows, in the given order, repeats allowed. An empty cache has none yet."""
        held = self._held()
        if held is None:
            return
        rows = rows_of(held, rows)
        self._keys = [None if a is None else a[rows] for a in self._keys]
        self._values = [None if a is None else a[rows] for a in self._values]
        self._norms = [None if a is None else a[rows] for a in self._norms]
        self._longest = [None if a is None else a[rows] for a in self._longest]
        self.states = None if self.states is None else self.states[rows]

    def reorder(self, rows: Array, start: int) -> None:
        """The same for positions from `start` on, in place: for rows that have all earlier ones in common."""
        held = self._held()
        if held is None:
            return
        rows = rows_of(held, rows)
        for buffers in (self._keys, self._values):
            for a in buffers:
                if a is not None:
                    a[:, :, start : self.length] = a[rows, :, start : self.length]
        self._norms = [None if a is None else a[:, :, :start] for a in self._norms]
        self._longest = [None if a is None else a[rows] for a in self._longest]
        self.states = None

    def to_tuple(self, layout: str = "today") -> tuple[tuple[Array, Array], ...]:
        """Keys and values of every block as `((key, value), ...)`, copied into one of `LAYOUTS`."""
        axes = _axes(layout)
        return tuple(tuple(_from_today(x, to).copy() for x, to in zip(pair, axes, strict=True)) for pair in self)

    @staticmethod
    def from_tuple(past: Any, batch: int, heads: int, head_dim: int, layout: str | None = None) -> Cache:
        """A cache with a copy of the keys and values in `past`, a tuple `((key, value), ...)` of one pair a block.

        batch, heads, head_dim: B, H and D. layout: one of `LAYOUTS`; without it, the one that the shapes of `past`
        have. Shapes that two layouts have are an InputError, and so are shapes that none has: nothing is guessed.
        """
        pairs = _pairs(past)
        layouts = list(LAYOUTS) if layout is None else [layout]
        fitting = [name for name in layouts if _fit(pairs, name, {"B": batch, "H": heads, "D": head_dim})]
        if len(fitting) != 1:
            key, value = (list(x.shape) for x in pairs[0])
            shapes = f"past_key_values has keys {key} and values {value} in its first block"
            sizes = f"B = {batch}, H = {heads}, D = {head_dim} and one T"
            if fitting:
                raise InputError(
                    f"{shapes}, which with {sizes} could be {_in_words(fitting)}. "
                    f"Say which it is: Cache.from_tuple(past, {batch}, {heads}, {head_dim}, layout={fitting[0]!r})."
                )
            raise InputError(f"{shapes}; expected {_in_words(layouts)} in every block, with {sizes}.")
        kinds = sorted({str(x.dtype) for pair in pairs for x in pair})
        if len(kinds) != 1:
            raise InputError(f"past_key_values holds arrays of {' and '.join(kinds)}, expected one dtype.")
        axes, cache = _axes(fitting[0]), Cache(len(pairs))
        for layer, pair in enumerate(pairs):
            cache.update(layer, *(_to_today(x, of, batch) for x, of in zip(pair, axes, strict=True)))
        cache.advance(cache._keys[0].shape[2])  # type: ignore[union-attr]
        return cache

    def _room(self, buffer: Array | None, new: Array, end: int) -> Array:
        """`buffer`, or a copy of it with room for `end` positions. Doubling keeps the copies rare."""
        B, H, _, D = new.shape
        xp = namespace(new)
        if buffer is None or not self.length:  # a pass that failed may have left a buffer of other rows
            return at_a_line(xp.empty, (B, H, end, D), new.dtype)
        if buffer.shape[2] >= end:
            return buffer
        larger = at_a_line(xp.empty, (B, H, max(end, 2 * buffer.shape[2]), D), new.dtype)
        larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger


class StaticCache(Cache):
    """A cache that has all its memory from the start, for `batch` rows of `max_length` positions. No pass moves it.

    Nor do `crop` and `reorder`; `select` makes new arrays, of as many rows as it is given. A pass that it has no room
    for is an InputError, and leaves it as it was. `model.init_cache(batch, max_length)` makes one that fits a model.
    """

    max_length: int

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        max_length: int,
        head_dim: int,
        dtype: str = "float32",
        xp: ModuleType = numpy,
    ) -> None:
        super().__init__(layers)
        shape = (batch, heads, max_length, head_dim)
        for name, size in zip(("batch", "heads", "max_length", "head_dim"), shape, strict=True):
            whole(1).check(name, size)
        self.max_length = max_length
        self._keys = [at_a_line(xp.zeros, shape, dtype) for _ in range(layers)]  # [B, H, max_length, D]
        self._values = [at_a_line(xp.zeros, shape, dtype) for _ in range(layers)]

    def buffers(self, layer: int) -> tuple[Array, Array]:
        """Block `layer`'s keys and values with all their room, `[B, H, max_length, D]`."""
        keys, values = self._keys[layer], self._values[layer]
        assert keys is not None and values is not None  # they are there from the start
        self._norms[layer] = self._longest[layer] = None  # they may be written to
        return keys, values

    def _held(self) -> Array | None:
        return self._keys[0]

    def _room(self, buffer: Array | None, new: Array, end: int) -> Array:
        return buffer  # `check` has seen that it is large enough


def rows_of(held: Array, rows: Any) -> Array:
    """`rows` as an array that picks rows of the keys `held [B, H, T, D]`; on the host, an InputError if it cannot."""
    rows = asarray(rows, namespace(held), "rows")
    try:
        # Of no heads, so nothing is copied. A device looks at no index, so that nobody has to wait for it.
        one_each = held[:, :0][rows].ndim == held.ndim
    except IndexError:
        one_each = False
    if not one_each:
        B = held.shape[0]
        raise InputError(f"rows is {reprlib.repr(rows)}, expected a list of whole numbers from 0 to {B - 1}.")
    return rows


# --- the layouts of tuples ---


def _axes(layout: str) -> tuple[list[str], list[str]]:
    """The axes of keys and of values in the layout of this name: ["B*H", "D", "T"]."""
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}, expected one of {_in_words(list(LAYOUTS))}.{suggest(layout, LAYOUTS)}")
    key, value = LAYOUTS[layout]
    return key[1:-1].split(", "), value[1:-1].split(", ")


def _in_words(layouts: Sequence[str]) -> str:
    return ", or ".join(f"{name!r} (keys {LAYOUTS[name][0]}, values {LAYOUTS[name][1]})" for name in layouts)


def _pairs(past: Any) -> list[tuple[Array, Array]]:
    well = isinstance(past, tuple | list) and past and all(isinstance(p, tuple | list) and len(p) == 2 for p in past)
    if not well or not all(hasattr(x, "shape") for pair in past for x in pair):
        raise InputError(
            f"past_key_values is a {type(past).__name__}, expected a Cache, or a tuple of a pair of arrays "
            "(key, value) for each block."
        )
    namespace(*(x for pair in past for x in pair))  # all of one library
    return [tuple(pair) for pair in past]


def _fit(pairs: Sequence[tuple[Array, Array]], layout: str, sizes: dict[str, int]) -> bool:
    """Whether all keys and values have the shapes of this layout, with one T that is not 0."""
    sizes = {**sizes, "B*H": sizes["B"] * sizes["H"]}
    lengths = set()
    for pair in pairs:
        for x, axes in zip(pair, _axes(layout), strict=True):
            if len(x.shape) != len(axes) or any(sizes.get(a, n) != n for a, n in zip(axes, x.shape, strict=True)):
                return False
            lengths.add(x.shape[axes.index("T")])
    return len(lengths) == 1 and 0 not in lengths


def _to_today(x: Array, axes: list[str], batch: int) -> Array:
    """`x` with the named axes -> `[B, H, T, D]`, as a view."""
    if axes[0] == "B*H":
        x, axes = x.reshape(batch, -1, *x.shape[1:]), ["B", "H", *axes[1:]]
    return x.transpose([axes.index(a) for a in "BHTD"])


def _from_today(x: Array, axes: list[str]) -> Array:
    """`x [B, H, T, D]` -> an array with the named axes."""
    apart = ["B", "H", *axes[1:]] if axes[0] == "B*H" else axes
    x = x.transpose(["BHTD".index(a) for a in apart])
    return x.reshape(-1, *x.shape[2:]) if axes[0] == "B*H" else x
