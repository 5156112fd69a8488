"""Attention scores: how much each query wants of each key, before softmax makes weights of it.

scores = q kᵀ / √D + alibi        keys that a query must not see: the lowest finite number
"""

from __future__ import annotations

import math

from ..backend import Array, namespace
from ..threads import matmul


def attention_scores(q: Array, k: Array, alibi: Array, visible: Array | None) -> Array:
    """`q [B, H, S, D]`, `k [B, H, T, D]`, `alibi [B, H, 1, T]`, `visible [B or 1, 1, S, T]` -> `[B, H, S, T]`.

    A hidden key gets the lowest finite number, not -inf: a row of padding, which sees nothing, then has equal
    probabilities instead of NaN. No token ever reads such a row; the reference has the same.
    """
    xp = namespace(q, k)
    scores = matmul(q * (1.0 / math.sqrt(q.shape[-1])), k.swapaxes(-1, -2))  # the scale does not touch ALiBi
    scores += alibi
    if visible is not None:
        xp.copyto(scores, xp.finfo(scores.dtype).min, where=~visible)
    return scores
