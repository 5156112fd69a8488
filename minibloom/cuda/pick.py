"""The draw: which token of each row a number falls on.

The specification is `pick` of `minibloom/generation/filters.py`. Array code adds up a row of 250,880 probabilities in
float64 in a dozen launches and as many arrays; here it is one launch and no array. Differences of logits are taken in
float64 too, so that a bound between two tokens may be off by float32's rounding from where the specification has it.

Not measured on a GPU yet.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .kernels import can_launch, kernel, launch

THREADS = 256  # of a block
PIECE, MOST = 2048, 128  # logits for a block at least, and blocks for a row at most: no more than threads


def suits_pick(logits: Array) -> bool:
    """Whether the draw from `logits [B, V]` is to be computed here: the one place where that is chosen."""
    on_device = type(logits) is not numpy.ndarray and can_launch(namespace(logits))
    return on_device and logits.dtype == "float32" and logits.flags.c_contiguous


def picked(logits: Array, u: Array) -> Array:
    """The id `[B]` int64 that `u [B]`, float64 numbers in [0, 1), falls on; `logits [B, V]` are float32."""
    xp, (B, V) = namespace(logits, u), logits.shape
    pieces = min(MOST, -(-V // PIECE))
    sums, tops = xp.empty((B, pieces)), xp.empty((B, pieces), dtype="float32")
    chosen = xp.empty(B, dtype="int64")
    run = kernel(xp, "pick", "pick", THREADS=THREADS)
    launch(run, (pieces, B), THREADS, logits, u, sums, tops, xp.zeros(B, dtype="int32"), chosen, numpy.int32(V))
    return chosen
