"""What all blocks share in one forward pass: gathered once, so that a block's signature stays short."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy

from ..backend import Array, namespace, number
from ..compiled_choice import Ahead
from .subnormals import steep_heads


class Watch(Protocol):
    """Sees every named step; what it returns flows on."""

    def __call__(self, name: str, value: Array) -> Array: ...

    def wants(self, name: str) -> bool:
        """Whether anybody looks at this step, or edits it. What nobody wants need not exist."""


class Unwatched:
    """Nobody watches: every step passes through as it is."""

    def __call__(self, name: str, value: Array) -> Array:
        return value

    def wants(self, name: str) -> bool:
        return False


def keep(grads: MutableMapping[str, Array], step: str, d: Array) -> Array:
    """`d`, the gradient that has come back to `step`: if `grads` has a place of that name, a copy is put there."""
    if step in grads:
        grads[step] = d.copy()
    return d


@dataclass
class Run:
    """One forward pass over `S` new positions that see `T` keys (`T` = cached + new)."""

    config: Any  # BloomConfig
    new: int  # S
    mask: Array  # [B or 1, T]: 1 = token, 0 = padding
    alibi: Array  # [B, H, 1, T], the bias on the scores
    padded: bool | None = None  # may there be padding? None: `mask` is read, for which a GPU must have finished
    cache: Any = None  # a Cache, or None: keys and values are not kept
    window: int | None = None  # positions that a query sees, its own included; None: all
    head_mask: Array | None = None  # [L, H], factors on the attention of each head
    rng: numpy.random.Generator | None = None  # draws dropout. None: dropout is off
    rng_states: list[Any] = field(default_factory=list)  # before each block: backward may have to draw it again
    head: tuple[str, int] | None = None  # the weight [V, E] behind the stack, for how many last positions (0: all)
    logits: Array | None = None  # [B, 1, V], what came of it, where it and the stack were one loop
    ahead: Ahead | None = None  # how a loop may go on with the next tokens by itself
    more: int = 0  # positions that it has read so, behind the new ones
    watch: Watch = field(default_factory=Unwatched)

    def again(self, layer: int, watch: Watch) -> Run:
        """This pass as it was before block `layer`, to compute that once more."""
        rng = None
        if self.rng is not None:
            rng = numpy.random.default_rng()
            rng.bit_generator.state = self.rng_states[layer]
        return replace(self, watch=watch, rng=rng, cache=None)

    @cached_property
    def visible(self) -> Array | None:
        """Which query may see which key, `[B or 1, 1, S, T]` bool: tokens up to its own place. None: each sees all."""
        return visible(self.mask, self.new, self.window, self.padded)

    @cached_property
    def steep(self) -> bool:
        """Whether ALiBi falls so far that attention has weights to drop, see `subnormals.py`."""
        return bool(steep_heads(self.alibi.reshape(-1, *self.alibi.shape[2:])))  # [B, H, 1, T] -> [B H, 1, T]

    @property
    def slices(self) -> int:
        """Into how many parts the sums of the two output projections are cut; see `sliced_linear`."""
        return self.config.pretraining_tp if self.config.slow_but_exact else 1


def visible(mask: Array, new: int, window: int | None = None, padded: bool | None = None) -> Array | None:
    """Which of the `new` last positions may see which of all, by the mask `[B or 1, T]`: `[B or 1, 1, S, T]` bool."""
    xp, T = namespace(mask), mask.shape[1]
    padded = not number(mask.all()) if padded is None else padded
    if new == 1 and not padded and window is None:
        return None
    queries = xp.arange(T - new, T)[:, None]
    causal = xp.arange(T) <= queries  # [S, T]: no query sees a later key
    if window is not None:
        causal &= xp.arange(T) > queries - window  # nor one that a window's cache may drop
    return causal & (mask == 1)[:, None, None, :] if padded else causal[None, None]
