"""Weights of far keys that slow the processor down become 0, which changes no digit.

ALiBi takes slope * distance off a score, so exp makes ever smaller weights of far keys: in float32 below 2^-126, which
are "subnormal" numbers, without a leading 1. Processors compute with these by a detour of a hundred cycles or more, for
each product that one goes into or comes out of. A steep head has them at a distance of 88 to 103 divided by its slope;
beyond that, all is 0.

Weights stand beside one of 1, that of the largest score, or after division by their sum beside one of 1/T at least, and
of a sum float32 holds 24 bits. So weights below eps⁴ (2^-92 in float32), all T keys' together, change none of them.

Measured on an Intel Xeon (AVX-512), one thread, medians of 9 in turns, milliseconds without and with this:

                                            forward        backward        one token, so many cached
    8 rows of 256 tokens, 8 heads of 32     24.4  22.5      43    37
    512 tokens, 16 heads of 64              34.1  23.5      70    41       0.33  0.26
    1,024 tokens, the same heads                                           0.65  0.47
    2,048 tokens, the same heads             262   193    1141   444

Tried and left: adding eps to all weights and taking it off again, as fast, but it rounds the others; exp of -87 at
least, slower than before, as what such weights are multiplied with makes subnormal products.
"""

from __future__ import annotations

from ..backend import Array, namespace

STEEP = 64.0  # that ALiBi falls by from the last key to the first: with less, no weight is subnormal but by q·k itself


def steep_heads(alibi: Array) -> list[int]:
    """Which heads may have such weights, by their bias `alibi [H, 1, T]`; others are not worth a look."""
    xp = namespace(alibi)
    return [int(head) for head in xp.flatnonzero(alibi[:, 0, -1] - alibi[:, 0, 0] > STEEP)]


def drop_subnormals(weights: Array) -> None:
    """Make those of `weights`, which are 0 or above and have one near 1, 0 that are too small to count. In place."""
    weights *= weights >= float(namespace(weights).finfo(weights.dtype).eps) ** 4
