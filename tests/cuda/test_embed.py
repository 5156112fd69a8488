"""The embedding of one token a row and its norm: the plain path's, at places that only the device knows."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.cuda.embed import embed
from minibloom.layers.embedding import embedding
from minibloom.layers.layer_norm import layer_norm

from ..strategies import few, normal, seeds
from .against_float64 import as_near
from .kernels import on_devices
from .test_matvec import WEIGHTS, weight

pytestmark = on_devices


@pytest.mark.parametrize("dtype", WEIGHTS)
@few
@given(st.integers(1, 4), st.sampled_from([2, 31, 33, 300]), st.integers(1, 5), seeds)
def test_it_is_embedding_and_norm(device, dtype, B, E, T, seed):
    rng = numpy.random.default_rng(seed)
    numbers, moved = weight(normal(seed, 11, E), dtype, device)
    tokens, lengths = rng.integers(0, 11, (T, B)), rng.integers(0, T, B).astype("i4")
    norm = 1 + 0.3 * normal(seed + 1, E, dtype="f4"), normal(seed + 2, E, dtype="f4")
    x = device.empty((B, E), dtype="float32")
    embed(*map(device.asarray, (tokens, lengths)), moved, (*map(device.asarray, norm), 1e-5), x)
    plain, exact = (
        layer_norm(embedding(tokens[lengths, range(B)], numbers.astype(kind)), *(a.astype(kind) for a in norm), 1e-5)
        for kind in ("f4", "f8")
    )
    as_near(x, plain, exact)
