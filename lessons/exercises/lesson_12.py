"""Checks of lesson 12, looking inside."""

from __future__ import annotations

from typing import Any

import numpy

from . import Checks, same

check = Checks()


@check.exercise
def head_parts(answer: Any) -> None:
    rng = numpy.random.default_rng(12)
    for heads, D, S in ((4, 3, 5), (2, 8, 1), (1, 6, 4)):
        E = heads * D
        context, W = rng.normal(size=(S, E)), rng.normal(size=(E, E))
        parts = answer(context.copy(), W.copy(), heads)
        assert numpy.shape(parts) == (heads, S, E), (
            f"{heads} heads, S = {S}, E = {E}: shape {list(numpy.shape(parts))}, expected {[heads, S, E]}."
        )
        same(numpy.sum(parts, 0), context @ W.T, "the sum over the heads", within=1e-9)
        for h in range(heads):
            alone = numpy.zeros((S, heads, D))
            alone[:, h] = context.reshape(S, heads, D)[:, h]
            same(parts[h], alone.reshape(S, E) @ W.T, f"the share of head {h}", within=1e-9)


@check.exercise
def mean_ablated(answer: Any) -> None:
    rng = numpy.random.default_rng(13)
    for heads, D in ((4, 3), (2, 5), (1, 4)):
        context = rng.normal(1, 2, (3, 6, heads * D))
        kept = context.copy()
        for head in range(heads):
            given = numpy.asarray(answer(context, head, heads))
            assert (context == kept).all(), "the array that it was given has been changed: copy it first."
            assert given.shape == context.shape, f"shape {list(given.shape)}, expected {list(context.shape)}."
            mine, theirs = (x.reshape(3, 6, heads, D) for x in (given, context))
            others = [h for h in range(heads) if h != head]
            same(mine[:, :, others], theirs[:, :, others], "the other heads' part", within=1e-12)
            part = mine[:, :, head].reshape(-1, D)
            assert numpy.ptp(part, axis=0).max() < 1e-9, "the head's part still differs between rows or positions."
            same(part[0], theirs[:, :, head].reshape(-1, D).sum(0) / 18, "the head's part, [D]", within=1e-9)


@check.exercise
def induction_score(answer: Any) -> None:
    rng = numpy.random.default_rng(14)
    n = 6

    def looking_back(distance: int) -> Any:
        weights = numpy.zeros((2 * n, 2 * n))
        for query in range(2 * n):
            weights[query, query - distance if query >= max(n, distance) else query] = 1
        return weights

    perfect, itself, previous = looking_back(n - 1), looking_back(n), looking_back(1)
    scores = numpy.asarray(answer(numpy.stack([perfect, itself, previous]), n))
    assert scores.shape == (3,), f"shape {list(scores.shape)}, expected [3], a score a head."
    assert abs(scores[1]) < 1e-12, "a head that looks at the same token's last place copies nothing: its score is 0."
    assert abs(scores[2]) < 1e-12, "a head that looks at the previous token has a score of 0."
    assert abs(scores[0] - 1) < 1e-12, (
        f"a perfect induction head has a score of 1, not {scores[0]:.3g}: queries before place n count for nothing."
    )
    weights = rng.random((4, 2 * n, 2 * n))
    weights = numpy.tril(weights) / numpy.tril(weights).sum(-1, keepdims=True)
    expected = [sum(w[t][t - n + 1] for t in range(n, 2 * n)) / n for w in weights]
    same(answer(weights, n), expected, "scores of random weights", within=1e-9)
