"""Checks of lesson 14, larger and faster."""

from __future__ import annotations

from typing import Any

import numpy

from minibloom.config import BloomConfig, parameter_shapes

from . import Checks, same

check = Checks()


@check.exercise
def merge(answer: Any) -> None:
    rng = numpy.random.default_rng(14)

    def part(scores: Any, values: Any) -> Any:
        top = scores.max(-1)
        weights = numpy.exp(scores - top[:, None])
        return top, weights.sum(-1), weights @ values

    for lift in (0.0, 30.0, -30.0):
        scores, values = rng.normal(0, 3, (5, 12)), rng.normal(0, 1, (12, 4))
        scores[:, 7:] += lift
        a, b = part(scores[:, :7], values[:7]), part(scores[:, 7:], values[7:])
        kept = [x.copy() for x in (*a, *b)]
        given = answer(a, b)
        assert isinstance(given, tuple) and len(given) == 3, "it returns a triple (top, total, out)."
        expected = part(scores, values)
        for name, mine, right in zip(("top", "total", "out"), given, expected, strict=True):
            same(mine, right, f"{name} of two halves whose scores differ by {lift:g}", within=1e-9)
        assert all((x == y).all() for x, y in zip(kept, (*a, *b), strict=True)), "what it was given has been changed."
    one = part(rng.normal(0, 3, (5, 6)), rng.normal(0, 1, (6, 4)))
    nothing = numpy.full(5, -numpy.inf), numpy.zeros(5), numpy.zeros((5, 4))
    with numpy.errstate(all="ignore"):
        for given in (answer(one, nothing), answer(nothing, one)):
            for name, mine, right in zip(("top", "total", "out"), given, one, strict=True):
                same(mine, right, f"{name}, where one side has seen no keys", within=1e-12)
        _, total, out = answer(nothing, nothing)
        assert (numpy.asarray(total) == 0).all() and (numpy.asarray(out) == 0).all(), (
            "two sides that have seen nothing make sums of 0, not NaN."
        )
    huge = part(rng.normal(5000, 3, (5, 6)), rng.normal(0, 1, (6, 4)))
    with numpy.errstate(all="ignore"):
        assert numpy.isfinite(answer(huge, huge)[1]).all(), "scores around 5000 overflow: subtract before exp."


@check.exercise
def block_parameters(answer: Any) -> None:
    for E in (8, 64, 1024, 14336):
        config = BloomConfig(vocab_size=8, hidden_size=E, n_layer=1, n_head=4)
        sizes = {n: int(numpy.prod(s)) for n, s in parameter_shapes(config).items() if n.startswith("h.0.")}
        expected, given = sum(sizes.values()), answer(E)
        matrices = sum(n for name, n in sizes.items() if n >= E * E)
        hint = " That is the matrices alone: biases and norms are missing." if given == matrices else ""
        assert given == expected, f"E = {E}: {given:,}, counted {expected:,}.{hint}"


@check.exercise
def quantize_rows(answer: Any) -> None:
    rng = numpy.random.default_rng(15)
    W = rng.normal(0, 1, (6, 50)).astype("float32")
    W[2] *= 1000
    W[3] *= 1e-4
    W[4] = 0
    kept = W.copy()
    with numpy.errstate(all="ignore"):
        codes, scales = answer(W)
    codes, scales = numpy.asarray(codes), numpy.asarray(scales)
    assert (kept == W).all(), "the weights that it was given have been changed."
    assert codes.dtype == numpy.int8, f"codes are {codes.dtype}, expected int8."
    assert codes.shape == (6, 50), f"codes have shape {list(codes.shape)}, expected [6, 50]."
    assert scales.shape == (6,), f"scales have shape {list(scales.shape)}, expected [6]: one a row."
    fine = numpy.isfinite(scales) & (scales > 0)
    assert fine.all(), "every scale is a number above 0; for a row of zeros any will do, such as 1."
    assert codes.min() >= -127, "a code of -128 has no counterpart: stay within -127 to 127."
    assert (abs(codes[[0, 1, 2, 3, 5]].astype("int16")).max(1) == 127).all(), "a row's largest number has code 127."
    error = abs(codes * scales[:, None].astype("float64") - W)
    worst = (error / scales[:, None]).max()
    assert worst <= 0.501, f"a number is off by {worst:.3f} steps, expected half a step at most: round, do not cut off."
    assert scales.dtype == numpy.float32, f"scales are {scales.dtype}, expected float32."


@check.exercise
def rows_for_balance(answer: Any) -> None:
    given = answer(64e9, 16e9, 4)
    assert given == 8, f"64e9 operations/s, 16e9 bytes/s, 4 bytes: it says {given}, expected 8."
    assert answer(64e9, 16e9, 1) == 2, "with int8 a quarter of the rows is enough: 2."
    assert answer(65e9, 16e9, 4) == 9, "8.1 rows: the least whole number at which multiplying takes as long is 9."
    assert answer(1e9, 100e9, 4) == 1, "there is at least one row."
    assert isinstance(answer(65e9, 16e9, 4), int), "a number of rows is an int."
    rng = numpy.random.default_rng(16)
    for _ in range(50):
        rate, bandwidth, width = float(rng.uniform(1e9, 1e13)), float(rng.uniform(1e9, 1e12)), int(rng.integers(1, 5))
        n = answer(rate, bandwidth, width)
        slow, reading = 2 * n / rate, width / bandwidth
        assert slow >= reading * (1 - 1e-9), f"with {n} rows reading still takes longer."
        assert n == 1 or 2 * (n - 1) / rate < reading, f"{n - 1} rows would be enough, it says {n}."
