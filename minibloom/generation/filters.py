"""Filters: which tokens may be drawn. And the draw.

Each filter takes logits `[B, V]` and returns a copy in which the tokens that it rules out are at -inf. `keep` is the
least number of tokens that it leaves. A filter looks at the numbers alone, never at their places: so it does the same
on the few that an earlier filter left, side by side (`compressed`), which is what makes drawing from 250,880 tokens
cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from ..backend import Array, namespace
from ..cuda.pick import picked, suits_pick
from ..layers.softmax import softmax
from .settings import GenerationConfig
from .top_k import suits_groups, top_k

Filter = Callable[[Array], Array]  # [B, V] -> [B, V]
SORTED = 128  # tokens that are sorted to begin with


def suppress(logits: Array, ids: Array) -> Array:
    """Rule out the given token ids."""
    logits = logits.copy()
    logits[:, ids] = -math.inf
    return logits


def log_softmax(logits: Array) -> Array:
    """`logits [..., V]` -> the logarithms of their softmax."""
    xp = namespace(logits)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(-1, keepdims=True))


def entropy_terms(logs: Array) -> Array:
    """Log-probabilities `[B, V]` -> -p log p `[B, V]`, which add up to the entropy; 0 where p is 0, and not NaN."""
    xp = namespace(logs)
    probs = xp.exp(logs)
    return -probs * xp.where(probs > 0, logs, 0.0)


def warm(logits: Array, temperature: float) -> Array:
    """Divide by the temperature: below 1 the likely get likelier, above 1 all become alike."""
    return logits / temperature


def keep_top_k(logits: Array, k: int) -> Array:
    """Rule out all but the `k` largest of each row (and what equals the k-th)."""
    xp, V = namespace(logits), logits.shape[-1]
    k = min(k, V)
    kth = xp.partition(logits, V - k, axis=-1)[:, V - k]
    return xp.where(logits < kth[:, None], -math.inf, logits)


def keep_top_p(logits: Array, p: float, keep: int = 1) -> Array:
    """Keep the fewest likeliest tokens of each row that hold at least `p` together (and what equals the last of them).

    A token goes where those likelier than it hold `p` already. Only as many are sorted as it takes to see that.
    """
    xp, V = namespace(logits), logits.shape[-1]
    probs, n = softmax(logits), min(max(SORTED, keep), V) if xp is numpy else V  # a device sorts faster than it answers
    while True:
        likely = xp.sort(xp.partition(probs, V - n, axis=-1)[:, V - n :] if n < V else probs, axis=-1)[:, ::-1]
        held = xp.cumsum(likely, axis=-1, dtype="float64")  # by each and those likelier than it
        if n == V or (held[:, -1] >= p).all():
            break
        n = min(32 * n, V)
    count = xp.maximum((held - likely < p).sum(-1), min(keep, V))
    least = xp.take_along_axis(likely, count[:, None] - 1, axis=1)
    return xp.where(probs < least, -math.inf, logits)


def keep_min_p(logits: Array, p: float, keep: int = 1) -> Array:
    """Rule out tokens whose probability is below `p` times that of the likeliest."""
    probs = softmax(logits)
    return _unless_likeliest(logits, probs < p * probs.max(-1, keepdims=True), keep)


def keep_top_h(logits: Array, h: float, longest: int = 100) -> Array:
    """Keep the likeliest tokens, one more at a time, while their terms of the entropy add up to `h` times all of it.

    Counted among the `longest` likeliest alone, whose probabilities are made to add up to 1. (Nguyen et al. 2025)
    """
    xp = namespace(logits)
    order = xp.argsort(-logits, axis=-1, kind="stable")  # the likeliest first
    terms = entropy_terms(log_softmax(xp.take_along_axis(logits, order, axis=-1)[:, :longest]))
    out = xp.ones(logits.shape, dtype=bool)
    out[:, :longest] = xp.cumsum(terms, axis=-1) > h * terms.sum(-1, keepdims=True)
    out[:, 0] = False
    return _without(logits, order, out)


def keep_typical(logits: Array, p: float, keep: int = 1) -> Array:
    """Keep the tokens whose surprise -log p is nearest to the expected one, the entropy, until they hold `p` together.

    Meister et al. 2022, "Locally Typical Sampling". What is as near as the last of them stays too.
    """
    xp, V = namespace(logits), logits.shape[-1]
    logs = log_softmax(logits)
    away = abs(-logs - entropy_terms(logs).sum(-1, keepdims=True))
    order = xp.argsort(away, axis=-1)  # the most typical first
    away = xp.take_along_axis(away, order, axis=-1)
    held = xp.cumsum(softmax(xp.take_along_axis(logits, order, axis=-1)), axis=-1)
    last = xp.minimum((held < p).sum(-1), V - 1)[:, None]
    out = away > xp.take_along_axis(away, last, axis=-1)
    out[:, :keep] = False
    return _without(logits, order, out)


def keep_epsilon(logits: Array, epsilon: float, keep: int = 1) -> Array:
    """Rule out tokens less likely than `epsilon`. (Hewitt et al. 2022)"""
    return _unless_likeliest(logits, softmax(logits) < epsilon, keep)


def keep_eta(logits: Array, epsilon: float, keep: int = 1) -> Array:
    """Rule out tokens less likely than `epsilon`, or than sqrt(epsilon) / exp(entropy) where that is lower."""
    xp = namespace(logits)
    logs = log_softmax(logits)
    entropy = entropy_terms(logs).sum(-1, keepdims=True)
    least = xp.minimum(epsilon, math.sqrt(epsilon) * xp.exp(-entropy))
    return _unless_likeliest(logits, xp.exp(logs) < least, keep)


def _without(logits: Array, order: Array, out: Array) -> Array:
    """`logits` without the tokens that `out` marks; column i of it is about token `order[:, i]`."""
    xp = namespace(logits)
    ruled_out = xp.empty_like(out)
    xp.put_along_axis(ruled_out, order, out, axis=-1)
    return xp.where(ruled_out, -math.inf, logits)


def _unless_likeliest(logits: Array, out: Array, keep: int) -> Array:
    """`logits` without the tokens that `out` marks, but with the `keep` likeliest in any case."""
    xp, V = namespace(logits), logits.shape[-1]
    place = V - min(keep, V)
    least = xp.partition(logits, place, axis=-1)[:, place, None] if keep > 1 else logits.max(-1, keepdims=True)
    return xp.where(out & (logits < least), -math.inf, logits)


# --- All of them ---


@dataclass(frozen=True)
class TopK:
    """`keep_top_k` as a step. By its type `filtered` knows it: of its many tokens few are left, and soon found."""

    k: int

    def __call__(self, logits: Array) -> Array:
        return keep_top_k(logits, self.k)


def filters(s: GenerationConfig, keep: int = 1) -> list[Filter]:
    """The filters that the settings ask for, in transformers' order."""
    table: list[tuple[bool, Filter]] = [
        (s.temperature != 1, lambda x: warm(x, s.temperature)),
        (s.top_h is not None, lambda x: keep_top_h(x, s.top_h)),
        (s.top_k > 0, TopK(max(s.top_k, keep))),
        (s.top_p < 1, lambda x: keep_top_p(x, s.top_p, keep)),
        (s.min_p is not None, lambda x: keep_min_p(x, s.min_p, keep)),
        (s.typical_p < 1, lambda x: keep_typical(x, s.typical_p, keep)),
        (s.epsilon_cutoff > 0, lambda x: keep_epsilon(x, s.epsilon_cutoff, keep)),
        (s.eta_cutoff > 0, lambda x: keep_eta(x, s.eta_cutoff, keep)),
        (s.renormalize_logits, log_softmax),
    ]
    return [step for wanted, step in table if wanted]


def compressed(logits: Array) -> tuple[Array | None, Array]:
    """Ids `[B, N]` and logits `[B, N]` of the tokens that are not ruled out, side by side in order of their ids.

    A row with fewer of them ends in -inf. No ids, and `logits` as they are, where that would save little.
    """
    xp, (B, V) = namespace(logits), logits.shape
    if xp is not numpy:  # how many are left, only the device knows, and would have to be asked
        return None, logits
    left = xp.flatnonzero(logits != -math.inf)
    if len(left) > B * V // 8:
        return None, logits
    if B == 1:
        return left[None], logits[:, left]
    rows, columns = left // V, left % V
    counts = xp.bincount(rows, minlength=B)
    ids = xp.zeros((B, int(counts.max())), dtype="int64")
    values = xp.full(ids.shape, -math.inf, dtype=logits.dtype)
    places = xp.arange(len(left)) - (xp.cumsum(counts) - counts)[rows]  # within each row
    ids[rows, places], values[rows, places] = columns, logits[rows, columns]
    return ids, values


def filtered(logits: Array, steps: list[Filter]) -> tuple[Array | None, Array]:
    """Ids `[B, N]` and logits `[B, N]` of what all filters leave, as `compressed` has them."""
    ids = None
    for step in steps:
        found = None
        if ids is None and isinstance(step, TopK) and suits_groups(logits, step.k):
            found = top_k(logits, step.k)
        if ids is None:
            ids, logits = found or compressed(step(logits))
        else:
            logits = step(logits)
    return ids, logits


def spread(ids: Array | None, values: Array, V: int) -> Array:
    """The way back from `compressed`: logits `[B, V]`, -inf where there is no id."""
    if ids is None:
        return values
    xp = namespace(values)
    logits = xp.full((len(values), V), -math.inf, dtype=values.dtype)
    rows, columns = xp.nonzero(values != -math.inf)
    logits[rows, ids[rows, columns]] = values[rows, columns]
    return logits


def processed(logits: Array, temperature: float = 1.0, top_k: int = 50, top_p: float = 1.0, **more: Any) -> Array:
    """The logits `[B, V]` whose softmax the next id is drawn with; further keywords are settings of drawing too."""
    settings = GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p, **more)
    for step in filters(settings.complete()):
        logits = step(logits)
    return logits


# --- The draw ---


def draw(logits: Array, rng: numpy.random.Generator) -> Array:
    """One id a row `[B]`, drawn with the probabilities softmax(logits)."""
    return pick(logits, namespace(logits).asarray(rng.random(len(logits))))


def pick(logits: Array, u: Array) -> Array:
    """The id `[B]` that `u`, a number in [0, 1) for each row, falls on.

    The probabilities, added up, cut [0, 1) into intervals, one a token.
    """
    if suits_pick(logits):
        return picked(logits, u)
    xp = namespace(logits)
    weights = xp.exp(logits - logits.max(-1, keepdims=True), dtype="float64")  # [B, V]
    bounds = weights.cumsum(-1)
    return (bounds <= (u * bounds[:, -1])[:, None]).sum(-1)
