"""Checks of lesson 8, losses and heads."""

from __future__ import annotations

import math
from typing import Any

import numpy

from minibloom.losses import IGNORE, cross_entropy, shift

from . import Checks, same

check = Checks()


@check.exercise
def log_softmax(answer: Any) -> None:
    rng = numpy.random.default_rng(8)
    for shape in ((5,), (3, 7), (2, 3, 4)):
        z = rng.normal(size=shape) * 4
        given = answer(z.copy())
        same(given, numpy.log(numpy.exp(z) / numpy.exp(z).sum(-1, keepdims=True)), f"for z {list(shape)}, it", 1e-9)
    with numpy.errstate(all="ignore"):
        far = answer(numpy.array([[1000.0, 0.0, -1000.0], [-900.0, -901.0, -902.0]]))
    assert numpy.isfinite(far).all(), f"with logits of 1000 and -900 it gives {numpy.asarray(far).tolist()}."
    rest = math.log(1 + math.exp(-1) + math.exp(-2))
    same(far, [[0.0, -1000.0, -2000.0], [-rest, -1 - rest, -2 - rest]], "with logits of 1000 and -900, it", 1e-9)
    z = rng.normal(size=(2, 3))
    kept = z.copy()
    answer(z)
    assert (z == kept).all(), "it changes the logits that it was given."


@check.exercise
def lm_loss(answer: Any) -> None:
    rng = numpy.random.default_rng(9)
    for side in ("none", "right", "left"):
        for _ in range(4):
            B, S, V = 3, 7, 11
            logits, ids = rng.normal(size=(B, S, V)) * 2, rng.integers(0, V, (B, S))
            mask = numpy.ones((B, S), dtype="int64")
            for row, pads in enumerate(rng.integers(0, 5, B) if side != "none" else []):
                mask[row, S - pads :] = 0 if side == "right" else 1
                mask[row, :pads] = 0 if side == "left" else mask[row, :pads]
            expected = float(cross_entropy(logits, shift(numpy.where(mask == 1, ids, IGNORE)))[0])
            given = answer(logits.copy(), ids.copy(), mask.copy())
            assert numpy.ndim(given) == 0, f"expected one number, got shape {list(numpy.shape(given))}."
            hint = ""
            if math.isclose(given, float(cross_entropy(logits, numpy.where(mask == 1, ids, IGNORE))[0])):
                hint = " That is without the shift: each position is asked for its own token."
            elif side != "none" and math.isclose(given, float(cross_entropy(logits, shift(ids))[0])):
                hint = " That counts padding too."
            assert math.isclose(given, expected, rel_tol=1e-9), (
                f"with padding {side}, the loss is {given:.6g}, expected {expected:.6g}.{hint}"
            )


@check.exercise
def last_token(answer: Any) -> None:
    cases = {
        "padding on the right": ([[5, 6, 7, 3, 3], [5, 3, 3, 3, 3]], 3, [2, 0]),
        "padding on the left": ([[3, 3, 5, 6, 7], [3, 3, 3, 3, 5]], 3, [4, 4]),
        "no padding": ([[5, 6, 7], [7, 6, 5]], 3, [2, 2]),
        "the padding id inside of a text": ([[5, 3, 7, 3], [3, 5, 3, 7]], 3, [2, 3]),
        "another padding id": ([[3, 3, 9, 9], [9, 3, 9, 3]], 9, [1, 3]),
        "padding id 0": ([[4, 0, 2, 0, 0]], 0, [2]),
        "a row that is all padding": ([[3, 3, 3], [5, 5, 3]], 3, [0, 1]),
    }
    for what, (ids, pad, expected) in cases.items():
        given = numpy.asarray(answer(numpy.array(ids), pad))
        assert given.shape == (len(ids),), f"expected one place a row, shape {[len(ids)]}, got {list(given.shape)}."
        assert given.tolist() == expected, f"{what}, {ids} with pad {pad}: {given.tolist()}, expected {expected}."


@check.exercise
def best_span(answer: Any) -> None:
    rng = numpy.random.default_rng(10)
    for trial in range(60):
        S, longest = int(rng.integers(1, 9)), int(rng.integers(1, 6))
        start, end = rng.normal(size=S) - 3 * (trial % 2), rng.normal(size=S) - 3 * (trial % 2)
        pairs = [(start[i] + end[j], i, j) for i in range(S) for j in range(i, min(S, i + longest))]
        best, i, j = max(pairs)
        given = answer(start.copy(), end.copy(), longest)
        assert given is not None and len(given) == 2, f"expected two places, got {given!r}."
        a, b = map(int, given)
        where = f"start {start.round(2).tolist()}, end {end.round(2).tolist()}, longest {longest}: {(a, b)}"
        assert a <= b, f"{where}, which ends before it starts."
        assert b - a < longest, f"{where} is {b - a + 1} tokens long."
        assert (a, b) == (i, j), f"{where} has {start[a] + end[b]:.4g}, but {(i, j)} has {best:.4g}."
