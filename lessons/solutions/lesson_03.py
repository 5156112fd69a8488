"""Solutions of lesson 3: ALiBi."""

from __future__ import annotations

import math

import numpy


def left_pad(rows, pad):
    T = max(map(len, rows))
    ids = numpy.full((len(rows), T), pad)
    mask = numpy.zeros((len(rows), T), dtype="int64")
    for b, row in enumerate(rows):
        ids[b, T - len(row) :] = row
        mask[b, T - len(row) :] = 1
    return ids, mask, (mask.cumsum(-1) - 1) * mask


def distance_bias(mask, slopes, new):
    positions = (mask.cumsum(-1) - 1) * mask  # [B, T]
    query, key = positions[:, None, -new:, None], positions[:, None, None, :]  # [B, 1, new, 1], [B, 1, 1, T]
    tokens = mask[:, None, -new:, None] * mask[:, None, None, :]
    return slopes[:, None, None] * (key - query) * tokens  # [H, 1, 1] * [B, 1, new, T] -> [B, H, new, T]


def reach(slope, share):
    return math.ceil(-math.log(1 - share) / slope)
