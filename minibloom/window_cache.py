"""A cache of fixed size: it keeps the last keys and values, and knows exactly what it has dropped.

With a window of W, each position sees itself and the W - 1 before it, in every block: the result of any split into
passes is that of one pass in which older keys are masked. Dropping keys is sound with ALiBi, for positions enter only
as differences: `slope * position(key)` counted from another origin adds the same number to all scores of a query,
which softmax takes out again (to the rounding of these products, which are float32 in any model). Through L blocks, a
position still hears of the L * (W - 1) before it.
"""

from __future__ import annotations

from .alignment import at_a_line
from .backend import Array, namespace
from .cache import Cache, rows_of
from .errors import InputError
from .fields import whole


class WindowCache(Cache):
    """A cache of the last `window - 1` positions: what the next one sees beside itself.

        cache = WindowCache(model.config.n_layer, window=256)
        model.generate(ids, past_key_values=cache, max_new_tokens=10_000)
        cache.seen, cache.dropped, cache.kept        # 10_011, 9_756, range(9_756, 10_011)

    An `attention_mask` beside it covers the positions that it keeps, and the new ones. Its arrays have room for two
    windows, so that moving what is kept to the front is rare. A pass over many positions makes them larger until it is
    over, and has scores of all its positions `[B, H, S, T]`: `generate` reads a long prompt in pieces, so that memory
    is fixed, unless the call asks for attentions, hidden states or a trace of the prompt, or searches contrastively.
    """

    def __init__(self, layers: int, window: int) -> None:
        super().__init__(layers)
        self.window = whole(1).check("window", window)
        self.dropped = 0  # positions
        self._start = 0  # where the kept ones begin in the arrays

    @property
    def seen(self) -> int:
        """Positions that were ever put in."""
        return self.dropped + self.length

    @property
    def kept(self) -> range:
        """The positions that are still there."""
        return range(self.dropped, self.seen)

    @property
    def _here(self) -> slice:
        return slice(self._start, self._start + self.length)

    def __repr__(self) -> str:
        return (
            f"WindowCache(layers={len(self)}, window={self.window}, length={self.length}, dropped={self.dropped}, "
            f"bytes={self.nbytes:,})"
        )

    def advance(self, positions: int) -> None:
        """The pass over `positions` new positions is complete. What no later one sees is dropped."""
        self.length += positions
        excess = max(0, self.length - (self.window or 0) + 1)
        self.dropped += excess
        self._start += excess
        self.length -= excess
        if self._start >= self.length and excess:
            for buffers in (self._keys, self._values):
                for layer, buffer in enumerate(buffers):
                    buffers[layer] = self._moved(buffer)
            self._start = 0

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on: not possible any more when some have been dropped."""
        if self.dropped and length != self.length:
            raise InputError(
                f"cannot crop a window that has dropped {self.dropped} positions: it would have to hold them again."
            )
        super().crop(length)

    def reorder(self, rows: Array, start: int) -> None:
        held = self._held()
        if held is None:
            return
        rows = rows_of(held, rows)
        here = self._here  # what rows have in common may be dropped already
        for buffers in (self._keys, self._values):
            for a in buffers:
                if a is not None:
                    a[:, :, here] = a[rows, :, here]
        self._longest = [None if a is None else a[rows] for a in self._longest]

    def _moved(self, buffer: Array) -> Array:
        """What is kept, at the front of a new array with room for two windows.

        Of a new one, as views of the old one are what a trace has of the pass, and what backward is about to read.
        """
        B, H, _, D = buffer.shape
        front = at_a_line(namespace(buffer).empty, (B, H, 2 * (self.window or 0), D), buffer.dtype)
        front[:, :, : self.length] = buffer[:, :, self._here]
        return front

    def _room(self, buffer: Array | None, new: Array, end: int) -> Array:
        B, H, _, D = new.shape
        held = self._start + self.length
        if buffer is not None and held and buffer.shape[2] >= end:
            return buffer
        larger = at_a_line(namespace(new).empty, (B, H, max(end, 2 * (self.window or 0)), D), new.dtype)
        if buffer is not None and held:
            larger[:, :, :held] = buffer[:, :, :held]
        return larger
