"""From gradients to a step: the rate of each step, the limit on its length, and AdamW."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy

from .backend import Array, namespace, number
from .cuda import adamw as kernels
from .settings import TrainingSettings
from .threads import each, on_all_cores

PIECE = 2**15  # numbers of a parameter at once: they, their gradient and its two means stay in the cache


def learning_rate(step: int, s: TrainingSettings) -> float:
    """The rate of step number `step` (from 0): a straight line up over `warmup_steps`, then a cosine down."""
    if step < s.warmup_steps:
        return s.learning_rate * (step + 1) / s.warmup_steps
    done = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
    return s.learning_rate * (s.final_rate + (1 - s.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def clip_gradients(grads: Mapping[str, Array], limit: float) -> float:
    """Scale all gradients, in place, so that their norm together is at most `limit`. Returns the norm before."""
    arrays = list(grads.values())
    at_once = kernels.suits_all(*arrays)
    squares = kernels.squares(arrays) if at_once else sum(namespace(g).vdot(g, g).astype("float64") for g in arrays)
    norm = math.sqrt(number(squares))  # the one time that the host waits for a device
    if norm > limit and at_once:
        kernels.scale(arrays, limit / norm)
    elif norm > limit:
        for g in arrays:
            g *= limit / norm
    return norm


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019).

        m = β1 m + (1 - β1) g          the gradient, smoothed
        v = β2 v + (1 - β2) g²         its square, smoothed
        p = p - rate * ( m̂ / (√v̂ + ε) + decay * p )        with m̂ = m / (1 - β1^t), v̂ = v / (1 - β2^t)

    m and v start at 0 and are too small at first: the hats undo that. Only matrices decay; biases and the
    weights of layer norms, which are vectors, do not.
    """

    def __init__(self, params: Mapping[str, Array], beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps, self.t = beta1, beta2, eps, 0
        self.xp = namespace(*params.values())
        self.m = {name: namespace(p).zeros_like(p) for name, p in params.items()}
        self.v = {name: namespace(p).zeros_like(p) for name, p in params.items()}

    def what_fits(self, method: str, free: int, *args: Any, **kwargs: Any) -> str:
        """What to do where a device has no room for a step."""
        return "AdamW keeps two numbers for each parameter, and makes four of them on the way: train fewer parameters."

    @on_all_cores
    def step(
        self, params: MutableMapping[str, Array], grads: Mapping[str, Array], rate: float, weight_decay: float = 0.0
    ) -> None:
        """Update `params` in place."""
        self.t += 1
        m_scale, v_scale = 1 / (1 - self.beta1**self.t), 1 / (1 - self.beta2**self.t)
        together = [(p, grads[name], self.m[name], self.v[name]) for name, p in params.items()]
        if kernels.suits_all(*itertools.chain(*together)):
            numbers = self.beta1, self.beta2, v_scale, self.eps, rate * m_scale, 1 - rate * weight_decay
            kernels.adamw(together, *numbers)
            return

        def update(part: tuple[str, slice]) -> None:
            name, rows = part
            p, g, m, v = params[name][rows], grads[name][rows], self.m[name][rows], self.v[name][rows]
            xp = namespace(p)
            m *= self.beta1
            m += (1 - self.beta1) * g
            v *= self.beta2
            v += (1 - self.beta2) * (g * g)
            change = xp.sqrt(v * v_scale)
            change += self.eps
            xp.divide(m, change, out=change)
            change *= rate * m_scale
            if p.ndim > 1:
                p *= 1 - rate * weight_decay
            p -= change

        # Every number is updated by itself, so rows can go through in any order: in pieces that stay in the cache.
        each(update, [(name, rows) for name, p in params.items() for rows in pieces(p)])


def pieces(p: Array) -> Iterator[slice]:
    """Rows of `p`, about `PIECE` numbers at a time; of a device's array, all at once."""
    height = max(1, PIECE // (p[:1].size or 1)) if namespace(p) is numpy else len(p)
    yield from (slice(start, start + height) for start in range(0, len(p), height))
