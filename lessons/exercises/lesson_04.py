"""Checks of lesson 4, attention."""

from __future__ import annotations

import numpy as np

from minibloom import BloomConfig, BloomModel, Trace
from minibloom.layers.attention import split_heads

from . import Checks, same

check = Checks()


@check.exercise
def fuse(answer):
    rng = np.random.default_rng(0)
    for H, D in ((4, 6), (3, 5), (1, 4), (5, 3)):
        E = H * D
        parts = [rng.standard_normal((E, E)) for _ in range(3)]
        biases = [rng.standard_normal(E) for _ in range(3)]
        weight, bias = answer(*(x.copy() for x in parts), H), answer(*(x.copy() for x in biases), H)
        assert weight is not None and bias is not None, "fuse returned None: does it return the array?"
        assert np.shape(weight) == (3 * E, E), f"a weight has shape {list(np.shape(weight))}, expected {[3 * E, E]}"
        assert np.shape(bias) == (3 * E,), f"a bias has shape {list(np.shape(bias))}, expected {[3 * E]}"
        x = rng.standard_normal((2, 7, E))
        read = split_heads(x @ np.asarray(weight).T + bias, H)  # what BLOOM makes of it
        for name, of_bloom, w, b in zip(("query", "key", "value"), read, parts, biases, strict=True):
            for h in range(H):
                rows = slice(h * D, (h + 1) * D)
                same(
                    of_bloom[:, h], x @ w[rows].T + b[rows], f"with {H} heads, the {name} that BLOOM reads in head {h}"
                )


@check.exercise
def visible_keys(answer):
    def drawn(mask, new):
        given = answer(np.array(mask), new)
        assert given is not None, "visible_keys returned None: does it return the array?"
        given, shape = np.asarray(given), (len(mask), 1, new, len(mask[0]))
        assert given.shape == shape, f"the result has shape {list(given.shape)}, expected {list(shape)}"
        assert given.dtype == bool, f"the result holds {given.dtype}, expected bool"
        return given

    def shown(seen):
        return " / ".join("".join("x" if s else "." for s in row) for row in seen)

    def expect(mask, new, expected):
        given = [shown(row[0]) for row in drawn(mask, new)]
        assert given == expected, f"mask {mask}, {new} new: {given}, expected {expected}"

    expect([[1, 1, 1]], 3, ["x.. / xx. / xxx"])
    expect([[1, 1, 1, 1]], 2, ["xxx. / xxxx"])  # two keys from an earlier pass
    expect([[1, 1, 1, 1]], 1, ["xxxx"])
    expect([[0, 1, 1], [1, 1, 1]], 3, ["... / .x. / .xx", "x.. / xx. / xxx"])
    expect([[1, 0, 1, 1]], 2, ["x.x. / x.xx"])

    model = BloomModel(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2), seed=1)
    rng = np.random.default_rng(2)
    for _ in range(5):
        mask = rng.integers(0, 2, (3, 9))
        trace = Trace("*.scores")
        model(rng.integers(0, 9, (3, 9)), attention_mask=mask, trace=trace)
        scores = trace["h.0.self_attention.scores"]
        for new in (9, 4, 1):
            theirs = (scores > np.finfo(scores.dtype).min)[:, :1, -new:]
            same(drawn(mask, new), theirs, f"what minibloom sees with mask {mask.tolist()} and {new} new")


@check.exercise
def masked_softmax(answer):
    rng = np.random.default_rng(3)

    def run(scores, visible, what):
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                given = answer(scores.copy(), visible.copy())
        except FloatingPointError as error:
            raise AssertionError(f"{what}: {error} on the way") from None
        assert given is not None, "masked_softmax returned None: does it return the array?"
        given = np.asarray(given)
        assert given.shape == scores.shape, f"{what}: the shape is {list(given.shape)}, expected {list(scores.shape)}"
        assert np.isfinite(given).all(), f"{what}: NaN or infinity"
        hidden = ~np.broadcast_to(visible, scores.shape)
        assert (given[hidden] == 0).all(), (
            f"{what}: a hidden key has a weight of {np.abs(given[hidden]).max(initial=0):.3g}"
        )
        blind = hidden.all(-1)
        assert np.allclose(given.sum(-1)[~blind], 1, atol=1e-5), f"{what}: a row does not sum to 1"
        return given

    scores = rng.standard_normal((2, 3, 4, 6)).astype("float32") * 3
    visible = rng.random((2, 1, 4, 6)) < 0.6
    visible[..., 0] = True
    given = run(scores, visible, "random scores")
    for place in np.ndindex(2, 3, 4):
        seen = visible[place[0], 0, place[2]]
        z = scores[place][seen].astype("float64")
        same(given[place][seen], np.exp(z) / np.exp(z).sum(), "the weights of what is seen")
    high = np.where(np.broadcast_to(visible, scores.shape), scores, np.float32(1e4))
    same(run(high, visible, "hidden scores of 10,000"), given, "hidden scores of 10,000: the weights")
    for shift, what in ((500, "scores of about 500"), (-500, "scores of about -500")):
        shifted = run(scores + np.float32(shift), visible, what)
        same(shifted, given, f"{what}: the weights", within=1e-3)
    visible[0, 0, 1] = False
    assert (run(scores, visible, "a query that sees nothing")[0, :, 1] == 0).all(), (
        "a query that sees nothing has weights"
    )


@check.exercise
def look_back(answer):
    H, S = 3, 5
    itself = np.broadcast_to(np.eye(S), (H, S, S))
    same(answer(itself), np.zeros(H), "heads that look at their own token only: the distance")
    first = np.zeros((2, 4, 4))
    first[0, :, 0] = 1
    first[1] = np.eye(4)
    same(answer(first), [1.5, 0], "a head that looks at token 0, and one that looks at itself, 4 tokens: the distances")
    kept = np.zeros((1, 2, 6))
    kept[0, :, 4] = 1  # queries 4 and 5
    same(answer(kept), [0.5], "6 keys, 2 queries, both looking at key 4: the distance")
    even = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    same(answer(even[None]), [1.0], "a head that spreads its weight evenly, 5 tokens: the distance")
