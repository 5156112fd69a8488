"""Checks of lesson 3: ALiBi."""

from __future__ import annotations

from typing import Any

import numpy

from minibloom.layers.alibi import alibi_bias, alibi_slopes
from minibloom.layers.softmax import softmax

from . import Checks, same

check = Checks()


@check.exercise
def left_pad(answer: Any) -> None:
    rng = numpy.random.default_rng(1)
    batches = [[[5]], [[5, 6], [7]], [[3, 3, 9], [3], [8, 3]]]  # the padding id may stand in a text too
    batches += [[rng.integers(4, 90, n).tolist() for n in rng.integers(1, 9, 4)] for _ in range(10)]
    for rows in batches:
        before = [list(row) for row in rows]
        given = answer(rows, 3)
        assert isinstance(given, tuple) and len(given) == 3, "return three arrays: ids, mask, positions."
        longest = max(map(len, rows))
        for name, array in zip(("ids", "mask", "positions"), given, strict=True):
            shape = list(numpy.shape(array))
            assert shape == [len(rows), longest], f"{name} has shape {shape}, expected {[len(rows), longest]}."
            dtype = numpy.asarray(array).dtype
            assert dtype.kind in "iu", f"{name} holds {dtype}, not whole numbers."
        for row, ids, mask, positions in zip(before, *given, strict=True):
            pads = longest - len(row)
            same(ids, [3] * pads + row, f"the ids of {row}, {longest} long,")
            same(mask, [0] * pads + [1] * len(row), f"the mask of {row}, {longest} long,")
            same(positions, [0] * pads + list(range(len(row))), f"the positions of {row}, {longest} long,")
        assert rows == before, "the rows that were given have changed."


@check.exercise
def distance_bias(answer: Any) -> None:
    rng = numpy.random.default_rng(2)
    fixed = [numpy.array([[1, 1, 1]]), numpy.array([[0, 0, 1, 1, 1]]), numpy.array([[1, 0, 0, 1, 1, 0, 1]])]
    for mask in [*fixed, *(rng.integers(0, 2, (3, 9)) for _ in range(5))]:
        T = mask.shape[1]
        for heads, new in ((1, T), (4, T), (6, 1), (8, 2)):
            slopes = alibi_slopes(heads, numpy)
            given = answer(mask, slopes, new)
            assert given is not None, "None was returned: does the function return its result?"
            B, what = len(mask), f"mask {mask.tolist()}, {new} new:"
            assert given.shape == (B, heads, new, T), f"{what} shape {given.shape}, expected {(B, heads, new, T)}."
            tokens = mask[:, None, -new:, None] * mask[:, None, None, :]  # [B, 1, new, T]
            places = (mask.cumsum(-1) - 1)[:, None]  # [B, 1, T]
            distances = places[:, :, None, :] - places[:, :, -new:, None]  # [B, 1, new, T]
            assert (given[numpy.broadcast_to(tokens == 0, given.shape)] == 0).all(), f"{what} expected 0 at padding."
            seen = (tokens == 1) & (numpy.arange(T) <= numpy.arange(T - new, T)[:, None])
            lowest = -1e30
            right = alibi_bias(mask, heads, "float32")  # [B, H, 1, T], BLOOM's form
            scores = [numpy.where(seen, bias, lowest).astype("float64") for bias in (given, right)]
            both = [numpy.where(seen, softmax(one), 0) for one in scores]
            same(both[0], both[1], f"{what} the weights of a query", within=1e-5)
            own = numpy.diagonal(given, T - new, 2, 3)  # a query and itself
            assert (own == 0).all(), f"{what} a query is at distance {float(numpy.abs(own).max()):.3g} from itself."
            same(given, slopes[:, None, None] * distances * tokens, f"{what} the bias, of later keys too,")


@check.exercise
def reach(answer: Any) -> None:
    rng = numpy.random.default_rng(3)
    cases = [(1 / 2, 0.5), (1 / 2, 0.3), (1 / 256, 0.95), (3.0, 0.5), (0.7071, 0.99)]
    cases += list(zip(rng.uniform(0.002, 1.5, 40).tolist(), rng.uniform(0.01, 0.999, 40).tolist(), strict=True))
    for slope, share in cases:
        given = answer(slope, share)
        weights = numpy.exp(-slope * numpy.arange(40_000))
        held = numpy.cumsum(weights) / weights.sum()
        assert given == int(given), f"reach({slope:.4g}, {share:.4g}) gave {given}, which is no whole number."
        expected = int(numpy.searchsorted(held, share)) + 1
        less = held[expected - 2] if expected > 1 else 0
        assert given == expected, (
            f"reach({slope:.4g}, {share:.4g}) gave {given}: the {expected} nearest keys hold {held[expected - 1]:.4f} "
            f"of the weight, one less {less:.4f}."
        )
