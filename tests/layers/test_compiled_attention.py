"""Attention of one query as the loop computes it: that of its formula, without the keys that cannot count.

How it is compiled, and that it is a step of the loop, is for `test_compiled_blocks.py`.
"""

from __future__ import annotations

import math

import numpy
from hypothesis import given
from hypothesis import strategies as st

from minibloom.layers.compiled_attention import attend, first_seen

from ..strategies import seeds, some


@some
@given(T=st.integers(1, 40), D=st.integers(1, 9), hidden=st.booleans(), later=st.booleans(), seed=seeds)
def test_it_is_the_softmax_of_the_scores_times_the_values(T, D, hidden, later, seed):
    rng = numpy.random.default_rng(seed)
    query, keys, values, alibi = (rng.normal(size=shape).astype("float32") for shape in (D, (T, D), (T, D), T))
    seen = rng.random(T) < 0.5 if hidden else numpy.empty(0, bool)
    seen[-1:] = True
    weights, context = numpy.full((2, T + 3, max(T, D)), numpy.nan, "float32")[:, 0]
    attend(query, keys, values, keys[:T] if later else keys[:0], alibi, seen, weights, context)
    scores = keys.astype("float64") @ query / math.sqrt(D) + alibi
    if hidden:
        scores[~seen] = -numpy.inf
    right = numpy.exp(scores - scores.max())
    numpy.testing.assert_allclose(context[:D], right / right.sum() @ values, rtol=1e-5, atol=1e-6)
    assert numpy.isnan(context[D:]).all() and numpy.isnan(weights[T:]).all()  # nothing else is written


@some
@given(
    T=st.integers(1, 300),
    slope=st.floats(0, 2),
    size=st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    far=st.sampled_from([1.0, 30.0, 1000.0]),
    seed=seeds,
)
def test_what_is_not_read_has_no_weight_however_long_the_keys_are(T, slope, size, far, seed):
    """The first keys are the longest, as an adversary would have them: the bound must know."""
    rng = numpy.random.default_rng(seed)
    query, keys = (size * rng.normal(size=shape).astype("float32") for shape in (8, (T, 8)))
    keys[: T // 2] *= far
    alibi = numpy.arange(T, dtype="float32") * numpy.float32(slope)
    scores = keys.astype("float64") @ query / math.sqrt(8) + alibi
    longest = numpy.full(1, -1, "float32")
    start = first_seen(query, keys, alibi, longest)
    assert start < T
    assert (scores[:start] < scores.max() - 92 * math.log(2)).all()
    numpy.testing.assert_allclose(longest, numpy.sqrt((keys.astype("float64") ** 2).sum(1)).max(), rtol=1e-5)
    assert first_seen(query, keys, alibi, longest) == start  # now that it is known how long they are


def test_the_steepest_of_many_heads_reads_few_keys():
    rng = numpy.random.default_rng(0)
    query, keys = rng.normal(size=64).astype("float32"), rng.normal(size=(1024, 64)).astype("float32")
    alibi = numpy.arange(1024, dtype="float32") * numpy.float32(2**-0.5)
    start = first_seen(query, keys, alibi, numpy.full(1, -1, "float32"))
    assert 1024 - 200 < start < 1024 - 64 / 2**-0.5
