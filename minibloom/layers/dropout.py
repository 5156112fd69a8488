"""Dropout (Srivastava et al., 2014): in training, each number is set to 0 with a given probability.

What remains is divided by 1 - probability, so that the expected value stays, and inference needs no dropout.
Forward and backward multiply by the same factors.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .run import Run


def dropout(x: Array, probability: float, step: str, run: Run) -> Array:
    """`x` of any shape, thinned out by factors that are the step called `step`; outside of training, `x` itself."""
    if run.rng is None or not probability:
        return x
    return x * run.watch(step, dropout_factors(x, probability, run.rng))


def dropout_factors(like: Array, probability: float, rng: numpy.random.Generator) -> Array:
    """An array of `like`'s shape, library and dtype: 0 with the given probability, else 1 / (1 - probability).

    A device draws the numbers itself, from a seed that `rng` draws: the same seed gives the same run on the same
    device, and another one than on the host.
    """
    xp = namespace(like)
    if xp is not numpy:
        seed = int(rng.integers(2**63))
        rng = xp.random.default_rng(xp.random.Philox4x3210(seed))
    kept = rng.random(like.shape, dtype=numpy.float32) >= probability
    return kept.astype(like.dtype) * (1.0 / (1.0 - probability))
