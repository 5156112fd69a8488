"""How a loop chooses the next tokens, so that it can go on with them by itself: the likeliest, or one that is drawn.

Between two passes of a small model, Python takes about as long as a third of a pass: it asks for parameters, makes
arrays, looks whether something has ended, and all of it anew, as the weights push its own code out of the caches. Where
nobody looks at what is between two tokens, the loop through all blocks (`layers/compiled_blocks.py`) chooses the next
token itself, looks it up in the embedding, and begins again. `Ahead` says how it is to choose, and keeps what it chose,
also where a pass is broken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy

from .backend import Array

float32, float64, int32 = numpy.float32, numpy.float64, numpy.int32  # a `float` made of a float32 is one for Numba
MAGNITUDE, LOWEST_PLACE = int32(2**31 - 1), int32(-(2**31))  # all bits but the sign's, and it alone
NOT_REACHED = -2  # in place of an id; -1 stands for one that was reached, but not chosen


@dataclass
class Ahead:
    """Passes over one token a row that are to follow one another: each reads what the one before has chosen.

    `most`: tokens to choose for each row; fewer are, where one of the ids `ends` is among them. k: how many of the
    likeliest are drawn from, by `u [most, B]` in [0, 1); or 0, and the likeliest is taken.
    """

    most: int
    ends: Array  # [n] int64
    k: int
    u: Array  # [most, B] float64, read only where k is not 0
    ids: Array = field(default_factory=lambda: numpy.empty((0, 0), "int64"))  # [most, B], which the loop fills

    @cached_property  # what is asked for when they are over is what there was
    def passes(self) -> int:
        """How many there were; 0 where no loop has gone on."""
        return sum(NOT_REACHED not in row for row in self.ids.tolist())

    @cached_property
    def chosen(self) -> Array:
        """The ids of each pass, `[up to most, B]`: of all, but for a last one that could not choose."""
        could = self.passes - (self.passes > 0 and -1 in self.ids[self.passes - 1].tolist())
        return self.ids[:could]


def order(x: Any) -> Any:
    """A whole number for each float32, the larger the larger it is, and for NaN the largest.

    Of whole numbers compilers find the largest by vectors; of floating ones they do not, as NaN has no place there.
    """
    if x != x:
        return MAGNITUDE
    bits = float32(x).view(int32)
    return int32(bits ^ (bits >> int32(31) & MAGNITUDE))


def number_at(place: Any) -> Any:
    """The float32 whose `order` this is."""
    return int32(place ^ (place >> int32(31) & MAGNITUDE)).view(float32)


def place_of_largest(logits: Array) -> int:
    """The first id whose number in `logits [V]` is the largest, as `argmax`; -1 where one is NaN."""
    place, v = order(logits[0]), 0
    for i in range(logits.shape[0]):
        place = max(place, order(logits[i]))
    largest = number_at(place)
    if largest != largest:
        return -1
    while logits[v] != largest:
        v += 1
    return v


def draw_numbers(logits: Array, u: Array, best: Array, chosen: Array) -> None:
    """`logits [B, V]`, `u [B]` in [0, 1) -> into `chosen [B]` what `pick` draws of what `keep_top_k` leaves.

    -1 where a row has fewer than k numbers above -inf, or one that is not finite. `best [k]` is a place to compute in.

    Of k pieces, the least of their largest numbers is one that k numbers are not below. What is below it, which most
    are, is not looked at again; of what is left, the k best so far are kept in order.
    """
    k, V = best.shape[0], logits.shape[1]
    found, weights = numpy.empty(V, numpy.int64), numpy.empty(V, float64)
    for row in range(logits.shape[0]):
        chosen[row], bound, largest, count = -1, MAGNITUDE, LOWEST_PLACE, 0
        if k > V:
            continue
        for i in range(k):
            place = LOWEST_PLACE
            for v in range(i * V // k, (i + 1) * V // k):
                place = max(place, order(logits[row, v]))
            bound, largest = min(bound, place), max(largest, place)
        least = number_at(bound)
        for v in range(V):
            found[count] = v  # the next one is written over it, unless it counts: so nothing waits for the answer
            count += logits[row, v] >= least
        for i in range(k):
            best[i] = -math.inf
        for i in range(count):  # best[0] is the least of them, best[k - 1] the largest
            value = logits[row, found[i]]
            if value > best[0]:
                j = 1
                while j < k and best[j] < value:
                    best[j - 1] = best[j]
                    j += 1
                best[j - 1] = value
        if best[0] == -math.inf or not number_at(largest) < math.inf:  # NaN is not below it either
            continue
        total = 0.0
        for i in range(count):
            value = logits[row, found[i]]
            weights[i] = math.exp(float64(value - best[k - 1])) if value >= best[0] else 0.0
            total += weights[i]
        drawn, below = u[row] * total, 0.0
        for i in range(count):
            below += weights[i]
            if below > drawn:
                chosen[row] = found[i]
                break
