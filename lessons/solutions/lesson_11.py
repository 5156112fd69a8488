"""Solutions of lesson 11, generation."""

from __future__ import annotations

import numpy as np


def keep_top_h(p, h):
    """`p [V]`, probabilities that add up to 1 -> `[V]` bool: the tokens that stay."""
    terms = -p * np.log(np.where(p > 0, p, 1.0))
    order = np.argsort(-p, kind="stable")
    held = np.cumsum(terms[order])
    kept = np.zeros(len(p), dtype=bool)
    kept[order] = held <= h * held[-1]
    kept[order[0]] = True
    return kept


def banned_by_ngrams(ids, size):
    """`ids`, a list of S ids, and `size`, at least 1 -> the set of ids that would repeat a run of `size`."""
    start = ids[len(ids) - size + 1 :]  # the size - 1 last ones
    return {ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == start}


def tokens_per_pass(a, n):
    """`a` from 0 to 1, `n` a whole number of at least 0 -> the mean number of tokens that one pass yields."""
    return sum(a**i for i in range(n + 1))


def held_back(text, stop):
    """How many characters at the end of `text` may be the beginning of `stop` (which is not in `text`)."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
