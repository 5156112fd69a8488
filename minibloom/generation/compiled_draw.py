"""The fast path of a draw among the `k` likeliest tokens, which is how ids are drawn unless settings say more: a loop.

By NumPy (`top_k.py`, `pick`) it is some 20 calls on short arrays, each of which costs more than what it computes; and
beside a small model's pass, which pushes Python's own code out of the caches, several times as much. Here it is one.
The k best so far are kept in order, and nearly every logit is below all of them, so that it costs a comparison.

Measured on an AMD EPYC (Zen 4), k = 50, medians, by NumPy and here, us: between passes of 5 million parameters, 93 and
39 a token, one row of 4,096; by itself, 23 and 9, or 81 if logits rise from the first to the last; 8 rows, 79 and 62.

What a token of that model costs beside its pass, which takes 0.45 ms by loops on an AMD EPYC (Zen 5), us: 35, of which
8 are the call's checks and settings (a 32nd of them), 8 the largest logit, 4 the question what has ended, 3 cache and
mask, the rest Python between them; and 20 more where it is drawn, 18 of them here, mostly before and after the loop.

What compiles the loop is `compiled.py`. Nothing waits for Numba here: it is taken where it is in memory.

Tried and left: the same for a large vocabulary, whose passes take a hundred times as long anyway (250,880 logits, 291
in place of 126), and for many likeliest, of which each that is found moves others (k = 1,000, 1,700 in place of 800).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy

from ..backend import Array
from ..compiled import EXACT, at_hand, compiled

MOST, MOST_KEPT = 2**15, 100  # logits, and of them the likeliest, up to which it is faster
float64 = numpy.float64  # a `float` of Numba's is a float32 if it is made of one


def draw_numbers(logits: Array, u: Array, best: Array, chosen: Array) -> None:
    """`logits [B, V]`, `u [B]` in [0, 1) -> into `chosen [B]` what `pick` draws of what `keep_top_k` leaves.

    -1 where a row has fewer than k numbers above -inf, or one that is not finite. `best [k]` is a place to compute in.
    """
    k = best.shape[0]
    for row in range(logits.shape[0]):
        chosen[row], odd = -1, False
        for i in range(k):
            best[i] = -math.inf
        for v in range(logits.shape[1]):  # best[0] is the least of them, best[k - 1] the largest
            value = logits[row, v]
            if value > best[0]:
                i = 1
                while i < k and best[i] < value:
                    best[i - 1] = best[i]
                    i += 1
                best[i - 1] = value
            elif value != value:
                odd = True
        least, largest = best[0], best[k - 1]
        if odd or least == -math.inf or largest == math.inf:
            continue
        total = 0.0
        for v in range(logits.shape[1]):
            if logits[row, v] >= least:
                total += math.exp(float64(logits[row, v] - largest))
        place, below = u[row] * total, 0.0
        for v in range(logits.shape[1]):
            if logits[row, v] >= least:
                below += math.exp(float64(logits[row, v] - largest))
                if below > place:
                    chosen[row] = v
                    break


@functools.cache
def machine_code() -> Any:
    """`draw_numbers`, compiled; None without a Numba for this Python and NumPy."""
    return compiled(draw_numbers, (("f4", 2, "C"), ("f8", 1, "C")), (("f4", 1, "C"), ("i8", 1, "C")), {}, EXACT)


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
