"""Solutions of lesson 4, attention."""

from __future__ import annotations

import numpy as np


def fuse(wq, wk, wv, heads):
    by_head = [w.reshape(heads, -1, *w.shape[1:]) for w in (wq, wk, wv)]  # [E, ...] -> [H, D, ...]
    return np.stack(by_head, axis=1).reshape(-1, *wq.shape[1:])  # [H, 3, D, ...] -> [3E, ...]


def visible_keys(mask, new):
    T = mask.shape[1]
    causal = np.arange(T) <= np.arange(T - new, T)[:, None]  # [S, T]
    return causal & (mask == 1)[:, None, None, :]


def masked_softmax(scores, visible):
    hidden = np.where(visible, scores, np.finfo(scores.dtype).min)
    e = np.exp(hidden - hidden.max(-1, keepdims=True)) * visible
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def look_back(weights):
    _, S, T = weights.shape
    distance = np.arange(T - S, T)[:, None] - np.arange(T)  # [S, T]
    return (weights * distance).sum(-1).mean(-1)
