"""Attention of one query, as a step of the loop through all blocks (`compiled_blocks.py`).

A head's keys and values are pieces of memory too short for it to come up to its pace before they end: so values are
asked for while keys are read, and the next head's keys while values are.

Far keys of steep heads, which ALiBi makes weigh nothing, are not read, by the bound that `first_seen` derives. (So a
NaN among them does not show, where the plain path multiplies it with a weight of 0.)

What that gives is measured in `compiled_blocks.py`, with the loop of which it is a part.
"""

from __future__ import annotations

import math

import numpy

from ..alignment import IN_LINE
from ..backend import Array
from ..compiled_choice import number_at, order
from ..compiled_tile import ask_for
from .compiled_steps import LOWEST, exp

float32 = numpy.float32
FAR_BELOW = float32(-65)  # `exp` gives 0 from -63.8 on; the rest is more than what is rounded in scores
ROUNDED = float32(1.001)  # what a bound is raised by, as it is rounded too


def first_seen(query: Array, keys: Array, alibi: Array, longest: Array) -> int:
    """The number of the first key that may count for `query [D]`, of `keys [T, D]`, the last of which does.

    The score of the last key is known. No other is above |q| |k| / √D + alibi, by its own alibi and the longest key.
    Where that lies `FAR_BELOW` the last key's, the weight is below 2^-92, and `exp` makes 0 of it: so the key need not
    be read at all. ALiBi rises with the position, so that in steep heads such keys are the most. (Where the last key is
    padding, it has the least ALiBi, and none lies below it so far.)

    `longest [1]`: a length that no key exceeds, or -1 where nobody has measured them. Then all are measured here, else
    only the last, which is new.
    """
    T, D = keys.shape
    scale = float32(1 / math.sqrt(D))
    for t in range(T - 1 if longest[0] >= 0 else 0, T):
        square = float32(0)
        for i in range(D):
            square += keys[t, i] * keys[t, i]
        longest[0] = max(longest[0], numpy.sqrt(square))
    square, last = float32(0), float32(0)
    for i in range(D):
        square += query[i] * query[i]
        last += query[i] * keys[T - 1, i]
    most = numpy.sqrt(square) * longest[0] * scale * ROUNDED
    least, t = last * scale + alibi[T - 1] + FAR_BELOW, 0
    while t < T - 1 and most + alibi[t] < least:  # never where one is not a number
        t += 1
    return t


def any_of(seen: Array) -> bool:
    """Whether one of `seen [T]` is true."""
    found = False
    for t in range(seen.shape[0]):
        found |= seen[t]
    return found


def ask_for_rows(a: Array, t: int, far: int) -> None:
    """Have the rows `t`, `t + far`, ... of `a [T, D]` brought nearer, which come next."""
    for row in range(t, min(t + 4 * far, a.shape[0]), far):
        for i in range(0, a.shape[1], IN_LINE):
            ask_for(a, row, i)


def attend(
    query: Array, keys: Array, values: Array, later: Array, alibi: Array, seen: Array, weights: Array, context: Array
) -> None:
    """A head's attention: `query [D]`, `keys, values [T, D]`, `alibi [T]` -> softmax(q kᵀ / √D + alibi) v, into
    `context [D]`. `seen [T]`, empty where all keys are visible; `weights [T]` is a place for the weights.

    `later [T or 0, D]`: what is read next, the keys of another head. In short pieces, as a head is, memory is not yet
    at its pace when they end: so values are asked for while keys are read, and `later` while values are.
    """
    T, D = keys.shape
    far, scale = T // 4, float32(1 / math.sqrt(D))
    for t in range(far):  # four keys at once, one from each quarter, as rows of a weight
        if later.shape[0] > 0:
            ask_for_rows(values, t, far)
        a, b, c, d = float32(0), float32(0), float32(0), float32(0)
        for i in range(D):
            a += query[i] * keys[t, i]
            b += query[i] * keys[t + far, i]
            c += query[i] * keys[t + 2 * far, i]
            d += query[i] * keys[t + 3 * far, i]
        weights[t], weights[t + far], weights[t + 2 * far], weights[t + 3 * far] = a, b, c, d
    for t in range(4 * far, T):
        a = float32(0)
        for i in range(D):
            a += query[i] * keys[t, i]
        weights[t] = a
    for t in range(T):
        weights[t] = weights[t] * scale + alibi[t]
    for t in range(seen.shape[0]):
        if not seen[t]:
            weights[t] = LOWEST
    place = order(weights[0])
    for t in range(T):
        place = max(place, order(weights[t]))
    top, total = number_at(place), float32(0)
    for t in range(T):
        weights[t] = exp(weights[t] - top)
        total += weights[t]
    for i in range(D):
        context[i] = float32(0)
    for t in range(far):  # four values at once: the sum is read and written less often
        ask_for_rows(later, t, far)
        a, b, c, d = weights[t], weights[t + far], weights[t + 2 * far], weights[t + 3 * far]
        for i in range(D):
            two = a * values[t, i] + b * values[t + far, i]
            two_more = c * values[t + 2 * far, i] + d * values[t + 3 * far, i]
            context[i] += two + two_more
    for t in range(4 * far, T):
        for i in range(D):
            context[i] += weights[t] * values[t, i]
    for i in range(D):
        context[i] /= total
