"""Solutions of lesson 5, keys and values kept."""

from __future__ import annotations

import numpy as np


def cache_bytes(layers, heads, head_dim, lengths, bytes_a_number):
    a_token = 2 * layers * heads * head_dim * bytes_a_number
    return a_token * len(lengths) * max(lengths), a_token * sum(lengths)


def attend_new(q, k, v, past, slopes):
    if past is not None:
        k, v = (np.concatenate([old, new], axis=2) for old, new in zip(past, (k, v), strict=True))  # [B, H, T, D]
    S, T, D = q.shape[2], k.shape[2], q.shape[3]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(D) + slopes[:, None, None] * np.arange(T)  # [B, H, S, T]
    seen = np.arange(T) <= np.arange(T - S, T)[:, None]  # [S, T]
    scores = np.where(seen, scores, np.finfo(scores.dtype).min)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights @ v, (k, v)


def reusable(held, ids):
    length = 0
    while length < min(len(held), len(ids) - 1) and held[length] == ids[length]:
        length += 1
    return length


def append(buffer, length, new):
    end = length + new.shape[2]
    if end > buffer.shape[2]:
        B, H, room, D = buffer.shape
        larger = np.empty((B, H, max(2 * room, end), D), buffer.dtype)
        larger[:, :, :length] = buffer[:, :, :length]
        buffer = larger
    buffer[:, :, length:end] = new
    return buffer, end
