"""ALiBi (Press et al., 2021, "Train Short, Test Long"): attention with linear biases instead of position embeddings.

Each head h adds slope_h * position(key) to its scores. Softmax does not see a constant added to a whole
row, so this equals the paper's -slope_h * distance(query, key): nearer keys score higher, and a head with a
steep slope sees only its neighbourhood.

Nothing here is learnt, so there is no backward: the gradient of the scores passes the sum unchanged.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

import numpy

from ..backend import Array, namespace


def alibi_slopes(heads: int, xp: ModuleType) -> Array:
    """The slope of each head, `[H]` float32: a geometric sequence from 2^(-8/H) down to 2^-8.

    Where H is no power of two, the sequence of the power of two below comes first, then every second slope
    of the sequence twice as long, unsorted: the order is part of the trained model.
    """
    power = 2 ** math.floor(math.log2(heads))

    def powers(base: float, exponents: Array) -> Array:
        # The base is rounded to float32 and its powers once more: these are the figures BLOOM was trained with.
        return (float(numpy.float32(base)) ** exponents).astype("float32")

    first = powers(2 ** (-8 / power), xp.arange(1, power + 1))
    between = powers(2 ** (-4 / power), xp.arange(1, 2 * (heads - power), 2))
    return xp.concatenate([first, between])


def alibi_bias(mask: Array, heads: int, dtype: str) -> Array:
    """The bias `[B, H, 1, T]` on the scores of `T` keys, of which `mask [B, T]` says 1 = token, 0 = padding.

    Positions count tokens only: a padded row gets the bias it would get alone; padding gets 0. The product
    is taken in float32 and rounded to `dtype` after, as in the reference: in bfloat16, positions above 256 would be
    rounded before it is taken.
    """
    xp = namespace(mask)
    slopes = _kept(heads) if xp is numpy else alibi_slopes(heads, xp)
    positions = (mask.cumsum(-1) - 1) * mask  # [B, T]
    bias = slopes[:, None] * positions[:, None, :].astype("float32")  # [H, 1] * [B, 1, T] -> [B, H, T]
    return bias[:, :, None, :].astype(dtype, copy=False)  # -> [B, H, 1, T]


@functools.lru_cache(maxsize=8)  # a small model's token would ask for them again: 15 us of its 500
def _kept(heads: int) -> Array:
    return alibi_slopes(heads, numpy)
