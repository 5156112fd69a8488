"""Attention of one new token: that of the plain path, whatever is padded, and however many blocks share the keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.cuda import one_query as module
from minibloom.cuda.one_query import one_query, splits
from minibloom.layers.alibi import alibi_bias, alibi_slopes
from minibloom.layers.attention import plain_attention, split_heads
from minibloom.layers.run import Run

from ..strategies import few, normal, padding_of, seeds
from .against_float64 import as_near
from .kernels import on_devices

pytestmark = on_devices


def plain(fused: Any, keys: Any, values: Any, mask: Any, dtype: str) -> Any:
    """The plain path's context `[B, E]`; keys and values `[B, H, T - 1, D]` are the earlier ones."""
    H = keys.shape[1]
    q, k, v = split_heads(fused[:, None].astype(dtype), H)
    k, v = (numpy.concatenate([old.astype(dtype), new], axis=2) for old, new in ((keys, k), (values, v)))
    run = Run(config=SimpleNamespace(attention_dropout=0), new=1, mask=mask, alibi=alibi_bias(mask, H, dtype))
    return plain_attention(q, k, v, 0, run)[:, 0]


def kernel(xp: Any, fused: Any, keys: Any, values: Any, mask: Any, room: int) -> dict[str, Any]:
    """All arrays after the kernel's launch, which is to give the same, to the bit, once more with the same arrays."""
    B, H, length, D = keys.shape
    wide = [numpy.full((B, H, room, D), numpy.nan, "f4") for _ in range(2)]
    for array, old in zip(wide, (keys, values), strict=True):
        array[:, :, :length] = old
    ahead = numpy.concatenate([mask, numpy.ones((B, room - length - 1), mask.dtype)], axis=1)
    arrays = {
        "fused": fused, "keys": wide[0], "values": wide[1],
        "places": numpy.where(ahead == 1, ahead.cumsum(-1) - 1, -1).astype("i4"),
        "lengths": numpy.full(B, length, "i4"), "slopes": alibi_slopes(H, numpy),
        "longest": numpy.sqrt(numpy.square(keys).sum(-1)).max(-1, initial=0),
        "parts": numpy.full((B, H, splits(room), D + 2), numpy.nan, "f4"),
        "arrived": numpy.zeros((B, H), "i4"), "context": numpy.full((B, H * D), numpy.nan, "f4"),
    }  # fmt: skip
    there = {name: xp.asarray(array) for name, array in arrays.items()}
    contexts = []
    for _ in range(2):
        one_query(*there.values())
        contexts.append(there["context"].get())
    numpy.testing.assert_array_equal(*contexts)
    return {name: array.get() for name, array in there.items()}


@pytest.mark.parametrize("D", [5, 64])
@few
@given(
    st.integers(1, 2), st.sampled_from([1, 3]), st.sampled_from([0, 1, 31, 32, 33, 150, 300]),
    st.sampled_from(["none", "left", "holes"]), st.sampled_from([0.3, 1.0, 4.0]), st.sampled_from([1, 2, 16]), seeds,
)  # fmt: skip
def test_it_is_the_plain_path_and_writes_the_cache(device, D, B, H, length, padded, size, most, seed):
    rng = numpy.random.default_rng(seed)
    keys, values = (size * normal(seed + i, B, H, length, D, dtype="f4") for i in range(2))
    fused = size * normal(seed + 2, B, 3 * H * D, dtype="f4")
    mask = numpy.ones((B, length + 1), "i8")
    if length:
        mask[:, :-1] = [padding_of(padded, length, rng) for _ in range(B)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPLITS", most)
        after = kernel(device, fused, keys, values, mask, room=length + int(rng.integers(1, 400)))
    results = [plain(fused, keys, values, mask, kind) for kind in ("f4", "f8")]
    as_near(after["context"], *results, through=1 + size**2)  # the scores are about so large

    _, k, v = split_heads(fused[:, None], H)
    for name, old, new in (("keys", keys, k), ("values", values, v)):
        assert (after[name][:, :, : length + 1] == numpy.concatenate([old, new], axis=2)).all()
        assert numpy.isnan(after[name][:, :, length + 1 :]).all()
    both = numpy.concatenate([keys, k], axis=2).astype("f8")
    numpy.testing.assert_allclose(after["longest"], numpy.sqrt((both**2).sum(-1)).max(-1), rtol=1e-6)
    assert not after["arrived"].any()


@pytest.mark.parametrize("long_one", [False, True])
def test_far_keys_are_not_read_unless_a_long_one_is_among_them(device, long_one):
    """Of a head with a slope of 1/2, those some 40 tokens away cannot change a digit, if keys and query are short."""
    H, D, length = 8, 4, 200
    keys, values = (0.1 * normal(i, 1, H, length, D, dtype="f4") for i in range(2))
    fused, mask = 0.1 * normal(2, 1, 3 * H * D, dtype="f4"), numpy.ones((1, length + 1), "i8")
    if long_one:
        query = split_heads(fused[:, None], H)[0][0, 0, 0]
        keys[0, 0, 5] = query * (200 / numpy.square(query).sum())  # a score of 100, more than what distance takes off
    results = [plain(fused, keys, values, mask, kind) for kind in ("f4", "f8")]
    as_near(kernel(device, fused, keys, values, mask, 201)["context"], *results)
    values[:, 0, :128] = numpy.nan
    seen = kernel(device, fused, keys, values, mask, 201)["context"]
    assert numpy.isnan(seen[0, :D]).all() == long_one
    assert not numpy.isnan(seen[0, D:]).any()
