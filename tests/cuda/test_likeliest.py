"""The likeliest token: that of argmax, the first of equals, left where the next pass reads it."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.cuda import likeliest as module
from minibloom.cuda.likeliest import likeliest, pieces

from ..strategies import few, seeds
from .kernels import on_devices

pytestmark = on_devices


def chosen(device, logits, lengths):
    """What is written behind `lengths`, twice with the same arrays to work on: they must be left as they were."""
    B, V = logits.shape
    found = device.empty((B, pieces(V)), dtype="float32"), device.empty((B, pieces(V)), dtype="int32")
    arrived, there = device.zeros(B, dtype="int32"), device.asarray(lengths)
    tokens = device.full((max(lengths) + 3, B), -1, dtype="int64")
    for _ in range(2):
        likeliest(device.asarray(logits), found, arrived, there, tokens)
    assert there.get().tolist() == (lengths + 2).tolist()
    return tokens.get()


@pytest.mark.parametrize("piece", [2048, 5])
@few
@given(st.integers(1, 2), st.sampled_from([1, 9, 31, 150]), st.sampled_from(["normal", "equal", "nan", "-inf"]), seeds)
def test_it_is_argmax(device, piece, B, V, kind, seed):
    rng = numpy.random.default_rng(seed)
    logits = rng.integers(-3, 3, (B, V)).astype("f4") if kind == "equal" else rng.standard_normal((B, V)).astype("f4")
    if kind in ("nan", "-inf"):
        logits[rng.random((B, V)) < (0.1 if kind == "nan" else 0.9)] = float(kind)
    lengths = rng.integers(0, 4, B).astype("i4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        tokens = chosen(device, logits, lengths)
    expected = numpy.full_like(tokens, -1)
    for more in (1, 2):
        expected[lengths + more, range(B)] = logits.argmax(-1)
    assert (tokens == expected).all()


def test_a_row_of_minus_infinity_has_a_first_token_too(device):
    assert chosen(device, numpy.full((1, 40), -numpy.inf, "f4"), numpy.zeros(1, "i4")).tolist() == [[-1], [0], [0]]
