"""Checks of lesson 2: the embedding and its LayerNorm."""

from __future__ import annotations

from typing import Any

import numpy

from . import Checks, same

check = Checks()


@check.exercise
def gradient_of_lookup(answer: Any) -> None:
    rng = numpy.random.default_rng(1)
    for B, S, E, V in ((1, 1, 3, 5), (2, 6, 4, 5), (3, 5, 2, 40)):
        ids, d = rng.integers(0, V, (B, S)), rng.normal(size=(B, S, E))
        before = d.copy()
        given = answer(d, ids, V)
        expected = numpy.einsum("bsv,bse->ve", numpy.eye(V)[ids], d)
        same(given, expected, f"the gradient for ids {ids.tolist()} and a table of {V} rows")
        assert numpy.array_equal(d, before), "d has changed: it is the caller's."
    twice = answer(numpy.ones((1, 2, 2)), numpy.array([[3, 3]]), 4)
    same(twice[3], [2.0, 2.0], "the row of a token that stands in the text twice, with gradients of 1,")


@check.exercise
def fold(answer: Any) -> None:
    rng = numpy.random.default_rng(2)
    for wide, out in ((4, 4), (3, 7), (6, 1)):
        gain, bias, W, b = (rng.normal(size=shape) for shape in (wide, wide, (out, wide), out))
        before = [part.copy() for part in (gain, bias, W, b)]
        n = rng.normal(size=(2, 5, wide))
        given = answer(gain, bias, W, b)
        assert isinstance(given, tuple) and len(given) == 2, "return two arrays: W2, b2."
        W2, b2 = given
        assert numpy.shape(W2) == (out, wide), f"W2 has shape {list(numpy.shape(W2))}, expected {[out, wide]}."
        assert numpy.shape(b2) == (out,), f"b2 has shape {list(numpy.shape(b2))}, expected {[out]}."
        same(n @ W2.T + b2, (n * gain + bias) @ W.T + b, f"the folded layer, {wide} wide, {out} out,", within=1e-9)
        unchanged = all(map(numpy.array_equal, before, (gain, bias, W, b)))
        assert unchanged, "an argument has changed: work on copies."


@check.exercise
def half_layer_norm(answer: Any) -> None:
    rng = numpy.random.default_rng(3)
    cases = ((8,), 1, 0), ((2, 3, 16), 1, 5), ((4, 32), 900, 0), ((3, 64), 20, 3000), ((2, 8), 1e-3, 0)
    for shape, scale, shift in cases:
        x = (rng.normal(size=shape) * scale + shift).astype("float16")
        gain, bias = (rng.normal(size=shape[-1]).astype("float16") for _ in range(2))
        wide = x.astype("float64")
        n = (wide - wide.mean(-1, keepdims=True)) / numpy.sqrt(wide.var(-1, keepdims=True) + 1e-5)
        given = answer(x, gain, bias, 1e-5)
        assert given is not None, "None was returned: does the function return its result?"
        assert given.dtype == numpy.float16, f"the result is {given.dtype}, expected float16."
        what = f"LayerNorm of numbers around {shift} that spread by {scale}"
        same(given, n * gain.astype("float64") + bias.astype("float64"), what, within=2e-3)


@check.exercise
def neighbours(answer: Any) -> None:
    rng = numpy.random.default_rng(4)
    for V, E, tokens in ((12, 3, 12), (30, 4, 20), (50, 8, 41)):
        table = rng.normal(size=(V, E)) * rng.uniform(0.1, 9, size=(V, 1))
        table[tokens:] = table[0]  # rows without a token, as near as can be
        for i in (0, 3, tokens - 1):
            given = [int(j) for j in answer(table.copy(), i, 4, tokens)]
            assert i not in given, f"{i} is among its own neighbours {given}."
            assert all(j < tokens for j in given), f"{given} holds an id of {tokens} or more, which has no token."
            cosine = table @ table[i] / numpy.linalg.norm(table, axis=-1)  # but for a factor
            order = [int(j) for j in (-cosine[:tokens]).argsort() if j != i]
            assert given == order[:4], f"the neighbours of {i} are {given}, expected {order[:4]}."
