"""The fast path of a draw among the `k` likeliest tokens, which is how ids are drawn unless settings say more: a loop.

By NumPy (`top_k.py`, `pick`) it is some 20 calls on short arrays, each of which costs more than what it computes; and
beside a small model's pass, which pushes Python's own code out of the caches, several times as much. Here it is one.
Where nobody acts between two tokens, it is not even a call: see `ahead.py`.

Measured on an AMD EPYC (Zen 5), k = 50, medians, by NumPy and here, us: one row of 4,096 by itself 15 and 5, or 63 if
logits rise from the first to the last; 8 rows 54 and 35; between passes of 5 million parameters (Zen 4) 93 and 39.

What a token of that model costs beside its pass of 0.5 ms, if each has a call, us: greedily 39, of which 6 are the
call's checks and settings (a 32nd of them), 6 the largest logit, 4 cache and mask, 2 the question what has ended, the
rest Python between them; 58 where it is drawn, 14 of them here, mostly before and after the loop.

What compiles the loop is `compiled.py`. Nothing waits for Numba here: it is taken where it is in memory.

Tried and left: the same for a large vocabulary, whose passes take a hundred times as long anyway (250,880 logits, 291
in place of 126), and for many likeliest, of which each that is found moves others (k = 1,000, 1,700 in place of 800);
in order through all logits, without the bound that leaves most of them out at once (10 us in the loop, 6.5 so).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy

from ..backend import Array
from ..compiled import EXACT, at_hand, compiled
from ..compiled_choice import draw_numbers, number_at, order

PARTS = {order: EXACT, number_at: EXACT}
MOST, MOST_KEPT = 2**15, 100  # logits, and of them the likeliest, up to which it is faster


@functools.cache
def machine_code() -> Any:
    """`draw_numbers`, compiled; None without a Numba for this Python and NumPy."""
    return compiled(draw_numbers, (("f4", 2, "C"), ("f8", 1, "C")), (("f4", 1, "C"), ("i8", 1, "C")), PARTS)


def drawn(logits: Array, k: int, u: Array) -> Array | None:
    """The id `[B]` that `u [B]` falls on among the k likeliest of `logits [B, V]`.

    None where it is not to be computed here: without Numba in memory, of many logits, or many of them kept, or of other
    numbers than float32 on the host, or where a row has fewer than k above -inf, or NaN: the plain path knows what then
    is.
    """
    if type(logits) is not numpy.ndarray or logits.dtype != "float32" or logits.size > MOST:
        return None
    if k > MOST_KEPT or not at_hand():
        return None
    code = machine_code()
    if code is None:
        return None
    chosen = numpy.empty(len(logits), "int64")
    code(numpy.ascontiguousarray(logits), u, numpy.empty(k, "float32"), chosen)
    return None if -1 in chosen.tolist() else chosen
