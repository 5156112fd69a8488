"""The language model's loss over a large vocabulary, without the logits of all positions at once.

Logits are by far the largest array of a training step: `[B, S, V]`, for bloom-560m 1 GB a thousand tokens, and their
gradient as much again. But each position's part of the loss, and of the gradients, needs its own logits alone:

    loss = Σ_n loss_n        dhidden_n = dlogits_n W        dW = Σ_n dlogits_nᵀ hidden_n

So positions go through in chunks, forward and straight back, and what does not count is not computed at all. Held to
the plain way, `linear` and then `cross_entropy`, in `tests/test_chunked_loss.py`.

Measured on 2 cores of an AMD EPYC (Zen 3) with other work on them, so in seconds of processor time; and memory above
what goes in, dW (1,028 and 4 MB) among it:

                                plain way       rows in a chunk: 128       256             512
    512 rows, V = 250,880    14.6 s  2,112 MB     11.7 s  1,169 MB    10.2 s  1,299 MB    10.3 s  1,557 MB
    2,048 rows, V = 4,096    0.18 s     79 MB     0.20 s     14 MB    0.21 s     14 MB    0.18 s     20 MB

Tried and left: a gradient beside the logits in place of them, 13.2 s and 1,813 MB where it is 10.2 s and 1,299 MB.
"""

from __future__ import annotations

import numpy

from .backend import Array, namespace
from .layers.linear import add_weight_gradient, linear
from .losses import IGNORE, cross_entropy
from .threads import matmul

FEWEST, NUMBERS = 256, 2**21  # rows in a chunk at least, as each chunk reads all of W; else about so many logits


def chunked_cross_entropy(
    hidden: Array, weight: Array, labels: Array, backward: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """`hidden [..., E]`, `weight [V, E]`, `labels [...]` -> the mean loss, `dhidden [..., E]`, `dweight [V, E]`.

    Without `backward`, the gradients are None.
    """
    xp = namespace(hidden, weight, labels)
    h, y = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)  # [N, E], [N]
    height = max(FEWEST, NUMBERS // weight.shape[0])
    if xp is numpy:
        counted = xp.flatnonzero(y != IGNORE)
        count = len(counted)
    else:  # how many they are, only the device knows: all go through, and nobody waits for it
        counted, count = xp.arange(len(y)), (y != IGNORE).sum()
    loss = xp.zeros((), dtype=h.dtype) if len(counted) else xp.full((), xp.nan, dtype=h.dtype)
    if not backward:
        for start in range(0, len(counted), height):
            rows = counted[start : start + height]
            loss = loss + cross_entropy(linear(h[rows], weight), y[rows], count, in_place=True)[0]
        return loss, None, None
    dh, dweight = xp.zeros_like(h), xp.zeros_like(weight)
    for start in range(0, len(counted), height):
        rows = counted[start : start + height]
        part, dlogits = cross_entropy(linear(h[rows], weight), y[rows], count, in_place=True)  # [rows, V]
        loss = loss + part
        dh[rows] = matmul(dlogits, weight)
        add_weight_gradient(dweight, dlogits, h[rows])
        del dlogits  # before the next chunk's
    return loss, dh.reshape(hidden.shape), dweight
