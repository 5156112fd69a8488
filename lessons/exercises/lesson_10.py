"""Checks of lesson 10, training."""

from __future__ import annotations

import math
from typing import Any

import numpy

from minibloom.optimizer import AdamW, clip_gradients, learning_rate
from minibloom.settings import TrainingSettings

from . import Checks, same

check = Checks()


@check.exercise
def rows_of(answer: Any) -> None:
    cases = (([5, 3, 6], 4), ([4, 4], 4), ([1, 1, 1, 1, 1], 2), ([9], 3), ([2, 1], 7))
    for lengths, width in cases:
        ends = numpy.cumsum(lengths)
        documents = [numpy.arange(end - n, end) + 10 for n, end in zip(lengths, ends, strict=True)]
        whole = int(ends[-1]) // width
        expected = numpy.array([[10 + width * row + column for column in range(width)] for row in range(whole)])
        given = answer([d.copy() for d in documents], width)
        same(given, expected.reshape(whole, width), f"documents of {lengths} tokens in rows of {width}", 1e-9)


@check.exercise
def adamw(answer: Any) -> None:
    rng = numpy.random.default_rng(10)
    for shape, kind in (((4, 3), "a matrix"), ((5,), "a vector, which does not decay")):
        for beta1, beta2 in ((0.9, 0.95), (0.8, 0.999)):
            p = rng.normal(size=shape)
            theirs, optimizer = {"p": p.copy()}, AdamW({"p": p}, beta1, beta2)
            m = v = numpy.zeros(shape)
            for t in range(1, 6):
                g = rng.normal(size=shape) * 10 ** rng.uniform(-3, 1, shape)
                g.flat[0] = 0.0  # a gradient of 0
                optimizer.step(theirs, {"p": g}, rate=0.01 * t, weight_decay=0.3)
                given = answer(p, g, m, v, t, 0.01 * t, 0.3, beta1=beta1, beta2=beta2)
                assert given is not None and len(given) == 3, "expected three arrays: the new p, m and v."
                where = f"of {kind}, step {t}, β2 = {beta2}:"
                p, m, v = given
                same(m, optimizer.m["p"], f"{where} m", 1e-9)
                same(v, optimizer.v["p"], f"{where} v", 1e-9)
                same(p, theirs["p"], f"{where} p", 1e-9)


@check.exercise
def rate_of(answer: Any) -> None:
    cases = ((200, 3e-3, 20, 0.05), (50, 1.0, 1, 0.0), (40, 0.5, 0, 0.2), (1000, 2e-3, 200, 0.1))
    for steps, peak, warmup, final in cases:
        s = TrainingSettings(steps=steps, learning_rate=peak, warmup_steps=warmup, final_rate=final)
        for step in sorted({0, 1, warmup - 1, warmup, warmup + 1, steps // 2, steps - 1} - {-1}):
            given, expected = answer(step, steps, peak, warmup, final), learning_rate(step, s)
            assert given is not None, "it returns None."
            assert math.isclose(given, expected, rel_tol=1e-9, abs_tol=1e-12), (
                f"step {step} of {steps}, peak {peak}, warm-up {warmup}, final {final}: {given:.6g}, not {expected:.6g}"
            )


@check.exercise
def clip(answer: Any) -> None:
    rng = numpy.random.default_rng(11)
    for limit, size in ((1.0, 5.0), (1.0, 0.01), (0.3, 1.0), (7.0, 3.0)):
        sizes = {"a": ((3, 4), size), "b": ((5,), size), "c": ((2,), size / 9)}
        grads = {name: rng.normal(size=shape) * scale for name, (shape, scale) in sizes.items()}
        kept = {name: g.copy() for name, g in grads.items()}
        given = answer(grads, limit)
        assert isinstance(given, tuple) and len(given) == 2, "expected two things: the dictionary, and the norm."
        assert all((grads[name] == g).all() for name, g in kept.items()), "it changes the arrays that it was given."
        clipped, norm = given
        expected_norm = clip_gradients(kept, limit)  # in place: `kept` is scaled now
        assert math.isclose(norm, expected_norm, rel_tol=1e-9), (
            f"the norm is {norm:.6g}, expected {expected_norm:.6g}, over all tensors, before scaling."
        )
        assert set(clipped) == set(grads), f"expected the names {sorted(grads)}, got {sorted(clipped)}."
        for name, g in kept.items():
            same(clipped[name], g, f"norm {norm:.3g}, limit {limit}: {name}", 1e-9)
    zeros, norm = answer({"a": numpy.zeros(3)}, 1.0)
    assert norm == 0 and not numpy.isnan(zeros["a"]).any(), "gradients that are all 0 must stay 0."
