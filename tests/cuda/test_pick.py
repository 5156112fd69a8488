"""The draw in one launch: the token of the plain path, or its neighbour where rounding may move the bound between."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.backend import to_numpy
from minibloom.cuda import pick as module
from minibloom.cuda.pick import picked, suits_pick
from minibloom.generation.filters import pick

from ..strategies import few, seeds
from .kernels import on_devices

pytestmark = on_devices


@pytest.mark.parametrize("piece", [2048, 5])
@few
@given(
    st.integers(1, 3), st.sampled_from([1, 9, 150, 600]), st.sampled_from([0.1, 1.0, 30.0]),
    st.sampled_from([0.0, 0.5, 0.99]), st.sampled_from([None, 0.0, 0.5, 1 - 2**-53]), seeds,
)  # fmt: skip
def test_it_falls_where_the_plain_path_has_it(device, piece, B, V, size, ruled_out, u, seed):
    rng = numpy.random.default_rng(seed)
    logits = (size * rng.standard_normal((B, V))).astype("f4")
    logits[rng.random((B, V)) < ruled_out] = -numpy.inf
    logits[:, rng.integers(V)] = 0
    numbers = rng.random(B) if u is None else numpy.full(B, u)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        ids = to_numpy(picked(device.asarray(logits), device.asarray(numbers)))
    weights = numpy.exp(logits.astype("f8") - logits.max(-1, keepdims=True))
    bounds = numpy.cumsum(weights, -1) / weights.sum(-1, keepdims=True)
    for row, i in enumerate(ids):
        assert weights[row, i] > 0
        below = bounds[row, i - 1] if i else 0
        assert below - 1e-12 <= numbers[row] <= bounds[row, i] + 1e-12


@pytest.mark.parametrize("piece", [2048, 64])
def test_a_number_on_a_bound_is_the_next_token_s(device, piece, monkeypatch):
    """512 tokens as likely as each other, whose bounds are exact, behind as many as fill a piece and are ruled out."""
    monkeypatch.setattr(module, "PIECE", piece)
    logits = numpy.zeros((32, 64 + 512), "f4")
    logits[:, :64] = -numpy.inf
    steps = numpy.arange(32) * 16 + numpy.arange(32) % 3
    expected = pick(logits, steps / 512)
    assert expected.tolist() == (64 + steps).tolist()
    assert to_numpy(picked(device.asarray(logits), device.asarray(steps / 512))).tolist() == expected.tolist()


def test_tokens_come_as_often_as_they_are_likely(device):
    """From the same numbers as the plain path's, the same tokens."""
    rng = numpy.random.default_rng(0)
    logits, u = numpy.repeat(rng.standard_normal((1, 40)).astype("f4"), 300, axis=0), rng.random(300)
    expected = pick(logits, u)
    assert to_numpy(picked(device.asarray(logits), device.asarray(u))).tolist() == expected.tolist()
    assert to_numpy(pick(device.asarray(logits), device.asarray(u))).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 25


def test_rows_of_nan_end_as_on_the_plain_path(device):
    logits = numpy.full((2, 7), numpy.nan, "f4")
    assert to_numpy(picked(device.asarray(logits), device.asarray([0.5, 0.9]))).tolist() == [0, 0]


def test_what_suits_it(device):
    logits = device.zeros((2, 8), dtype="float32")
    assert suits_pick(logits) and not suits_pick(logits.T) and not suits_pick(logits.astype("float64"))
    assert not suits_pick(to_numpy(logits))
