"""What all blocks share in one forward pass: gathered once, so that a block's signature stays short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from ..backend import Array

Watch = Callable[[str, Array], Array]  # sees every named step; what it returns flows on


def unwatched(name: str, value: Array) -> Array:
    """Nobody watches: every step passes through as it is."""
    return value


@dataclass
class Run:
    """One forward pass over `S` new positions that see `T` keys (`T` = cached + new)."""

    config: Any  # BloomConfig
    alibi: Array  # [B, H, 1, T], the bias on the scores
    visible: Array | None  # [B or 1, 1, S, T] bool: which query may see which key. None: every one sees all
    cache: Any = None  # a Cache, or None: keys and values are not kept
    new: int = 0  # S, which the cache is to count when the whole pass has succeeded
    head_mask: Array | None = None  # [L, H], factors on the attention of each head
    rng: numpy.random.Generator | None = None  # draws dropout. None: dropout is off
    watch: Watch = unwatched

    @property
    def slices(self) -> int:
        """Into how many parts the sums of the two output projections are cut; see `sliced_linear`."""
        return self.config.pretraining_tp if self.config.slow_but_exact else 1
