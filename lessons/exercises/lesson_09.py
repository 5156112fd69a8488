"""Checks of lesson 9: each holds an answer against differences of the forward pass, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import Checks, same

check = Checks()


def slopes_of(f: Callable[[], float], x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """The gradient of `f()` by `x`, entry by entry, by central differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        kept, sides = x[place], []
        for side in (h, -h):
            x[place] = kept + side
            sides.append(f())
        x[place] = kept
        found[place] = (sides[0] - sides[1]) / (2 * h)
    return found


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@check.exercise
def unbroadcast(answer: Any) -> None:
    for shape, stretched in [
        ((4,), (4,)),
        ((4,), (2, 3, 4)),
        ((2, 1, 4), (2, 3, 4)),
        ((3, 1), (5, 3, 4)),
        ((1, 4), (1, 4)),
        ((1, 3, 1), (2, 3, 4)),
        ((), (2, 2)),
        ((1,), (3, 1)),
    ]:
        d, small = drawn(len(shape), *stretched), drawn(9, *shape)
        before = d.copy()
        given = answer(d, shape)
        what = f"the gradient for {list(shape)} stretched to {list(stretched)}"
        same(given, slopes_of(lambda d=d, x=small: float((d * x).sum()), small), what, within=1e-7)
        assert (d == before).all(), "d has been changed in place: the caller still needs it."


@check.exercise
def log_softmax_backward(answer: Any) -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    for seed, shape in enumerate([(3, 5), (7,), (2, 2, 3)]):
        x, dy = 3 * drawn(seed, *shape), drawn(seed + 10, *shape)
        expected = slopes_of(lambda dy=dy, x=x: float((dy * forward(x)).sum()), x)
        same(answer(dy, forward(x)), expected, f"dx for y of shape {list(shape)}", within=1e-7)
    x, label = np.array([[0.0, 900.0, 3.0]]), np.array([[1.0, 0.0, 0.0]])
    given = answer(label, forward(x))
    same(given, [[1.0, -1.0, 0.0]], "dx where probabilities round to 0 (take them from y, not from their logarithm)")


@check.exercise
def rms_norm_backward(answer: Any) -> None:
    def forward(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
        return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)

    for seed, (shape, eps) in enumerate([((4, 5), 1e-5), ((2, 3, 4), 0.5), ((6,), 1e-5)]):
        x, dy, weight = drawn(seed, *shape), drawn(seed + 10, *shape), 1 + drawn(seed + 20, shape[-1]) / 2

        def f(x: np.ndarray = x, dy: np.ndarray = dy, weight: np.ndarray = weight, eps: float = eps) -> float:
            return float((dy * forward(x, weight, eps)).sum())

        given = answer(dy, x, weight, eps)
        assert isinstance(given, tuple | list) and len(given) == 2, "return both: dx, dweight"
        where = f"for x of shape {list(shape)} and eps = {eps}"
        same(given[1], slopes_of(f, weight), f"dweight {where}", within=1e-6)
        same(given[0], slopes_of(f, x), f"dx {where}", within=1e-6)


@check.exercise
def slopes_backward(answer: Any) -> None:
    for seed, (B, H, S, T) in enumerate([(1, 2, 3, 3), (2, 3, 4, 4), (2, 1, 1, 5), (3, 3, 3, 3)]):
        d, slopes = drawn(seed, B, H, S, T), drawn(seed + 10, H)
        mask = np.ones((B, T), dtype="int64")
        mask[-1, 0] = 0 if T > 3 else 1  # padding on the left, in the last row
        positions = (mask.cumsum(-1) - 1) * mask  # [B, T]
        bias = positions.astype("float64")

        def f(d: np.ndarray = d, slopes: np.ndarray = slopes, bias: np.ndarray = bias) -> float:
            return float((d * (slopes[:, None, None] * bias[:, None, None, :])).sum())

        what = f"the gradient of the slopes for dscores of shape {[B, H, S, T]}"
        same(answer(d, positions), slopes_of(f, slopes), what, within=1e-6)
