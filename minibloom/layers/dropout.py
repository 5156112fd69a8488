"""Dropout (Srivastava et al., 2014): in training, each number is set to 0 with a given probability.

What remains is divided by 1 - probability, so that the expected value stays, and inference needs no dropout.
Forward and backward multiply by the same factors.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace


def dropout_factors(like: Array, probability: float, rng: numpy.random.Generator) -> Array:
    """An array of `like`'s shape, library and dtype: 0 with the given probability, else 1 / (1 - probability).

    The numbers are drawn on the host, so that a seed gives the same run on every backend.
    """
    kept = rng.random(like.shape, dtype=numpy.float32) >= probability
    return namespace(like).asarray(kept).astype(like.dtype) * (1.0 / (1.0 - probability))
