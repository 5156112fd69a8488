"""Solutions of lesson 12, looking inside."""

from __future__ import annotations

import numpy as np


def head_parts(context, W, heads):
    """`context [S, E]`, heads side by side, and dense's `W [E, E]` ([out, in]) -> `[heads, S, E]`, what each adds."""
    S, E = context.shape
    by_head = context.reshape(S, heads, E // heads)
    columns = W.reshape(E, heads, E // heads)
    return np.einsum("shd,ohd->hso", by_head, columns)


def mean_ablated(context, head, heads):
    """`context [B, S, E]` -> the same with the part of `head` at its mean over rows and positions; a new array."""
    D = context.shape[-1] // heads
    part = slice(head * D, (head + 1) * D)
    edited = context.copy()
    edited[..., part] = context[..., part].mean((0, 1))
    return edited


def induction_score(weights, n):
    """`weights [H, 2n, 2n]` on a text of n tokens, twice -> `[H]`: the mean weight on what followed last time."""
    queries = np.arange(n, 2 * n)
    return weights[:, queries, queries - n + 1].mean(-1)
