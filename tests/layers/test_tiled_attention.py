"""Tiled attention is plain attention, forward and backward, to rounding; and it skips no key that counts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest import mock

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Cache, InputError, Trace
from minibloom.layers import tiled_attention as tiles
from minibloom.layers.alibi import alibi_bias
from minibloom.layers.attention import merge_heads
from minibloom.layers.run import visible
from minibloom.layers.scores import attention_scores
from minibloom.layers.softmax import softmax, softmax_backward
from minibloom.threads import shared_out
from minibloom.window_cache import WindowCache

from ..strategies import padding_of, random_model, some

ROUNDING = {"float32": 1e-5, "float64": 1e-13}  # of the largest number


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "QUERIES", 4)
        patch.setattr(tiles, "KEYS", 3)
        patch.setattr(tiles, "LARGE", 0)
        yield


@st.composite
def inputs(draw: st.DrawFn, dtype: str = "float64", longest: int = 19) -> dict[str, Any]:
    """Queries, keys, values, bias and mask, with padding of every kind."""
    B, H, D = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    S, past = draw(st.integers(1, longest)), draw(st.integers(0, 9))
    T = S + past
    rng = numpy.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([0.1, 1.0, 5.0]))
    q, k, v = ((size * rng.standard_normal((B, H, n, D))).astype(dtype) for n in (S, T, T))
    mask = numpy.stack([padding_of(draw(st.sampled_from(["none", "left", "right", "holes", "all"])), T, rng)] * B)
    if draw(st.booleans()):
        mask = mask[:1] * 0 + 1
    alibi = alibi_bias(mask, H, dtype) * draw(st.sampled_from([1.0, 30.0]))  # the second skips nearly all keys
    return {"q": q, "k": k, "v": v, "alibi": alibi.astype(dtype), "mask": mask}


def plain(q: Any, k: Any, v: Any, alibi: Any, mask: Any) -> tuple[Any, Any]:
    """Context `[B, S, E]` and probabilities `[B, H, S, T]` by the plain path."""
    probs = softmax(attention_scores(q, k, alibi, visible(mask, q.shape[2])))
    return merge_heads(probs @ v), probs


in_both_dtypes = pytest.mark.parametrize("dtype", ROUNDING)


@in_both_dtypes
@some
@given(st.data(), st.booleans(), st.sampled_from([3, 16, 64]))
def test_equals_plain_attention(dtype, data, in_threads, keys):
    """Also where all keys are one tile, of several heads at once, or a wider one of few queries."""
    given = data.draw(inputs(dtype))
    with mock.patch.object(tiles, "KEYS", keys), shared_out() if in_threads else nullcontext():
        out = tiles.tiled_attention(**given)
    expected, _ = plain(**given)
    assert out.shape == expected.shape and out.dtype == expected.dtype
    numpy.testing.assert_allclose(out, expected, rtol=0, atol=ROUNDING[dtype] * abs(given["v"]).max())


@in_both_dtypes
@some
@given(st.data(), st.integers(0, 99))
def test_backward_equals_plain_backward(dtype, data, seed):
    given = data.draw(inputs(dtype))
    q, k, v = given["q"], given["k"], given["v"]
    B, H, S, D = q.shape
    context, probs = plain(**given)
    d = numpy.random.default_rng(seed).standard_normal(context.shape).astype(dtype)
    by_head = d.reshape(B, S, H, D).transpose(0, 2, 1, 3)
    dscores = softmax_backward(by_head @ v.swapaxes(-1, -2), probs) / D**0.5
    expected = dscores @ k, dscores.swapaxes(-1, -2) @ q, probs.swapaxes(-1, -2) @ by_head
    gradients = [numpy.zeros_like(x) for x in (q, k, v)]
    tiles.tiled_attention_backward(d, **given, **dict(zip(("dq", "dk", "dv"), gradients, strict=True)))
    for got, right in zip(gradients, expected, strict=True):
        largest = max(abs(x).max() for x in (q, k, v, right))  # a gradient may be a small difference of such numbers
        numpy.testing.assert_allclose(got, right, rtol=0, atol=ROUNDING[dtype] * largest)
        assert got.dtype == dtype


@some
@given(
    distance=st.integers(1, 40), slope=st.sampled_from([0.01, 0.05, 0.7, 3.0]), sharpness=st.floats(0, 60),
    many=st.integers(1, 40), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_adversary_hides_a_key_that_counts(distance, slope, sharpness, many, dtype, seed):
    """Far keys point exactly along the query, as the bound fears; nearer ones point away. Their values stand out."""
    rng, T, D = numpy.random.default_rng(seed), 48, 4
    q = rng.standard_normal((1, 1, 1, D))
    along = q[0, 0, 0] / numpy.linalg.norm(q)
    k = numpy.tile(-along, (T, 1)) * 0.1
    far = slice(max(0, T - distance - many), T - distance)
    k[far] = along * sharpness
    v = numpy.zeros((T, D))
    v[far] = 1.0
    given = {"q": q, "k": k[None, None], "v": v[None, None], "alibi": slope * numpy.arange(T)[None, None, None]}
    given = {name: x.astype(dtype) for name, x in given.items()} | {"mask": numpy.ones((1, T), int)}
    resolution, expected = numpy.finfo(dtype).eps, plain(**given)[0].max()  # what the far keys weigh together
    difference = abs(tiles.tiled_attention(**given) - expected).max()
    assert difference <= resolution / 4 + 16 * resolution * expected  # skipped altogether, or rounded


@some
@given(st.lists(st.sampled_from([0.004, 0.05, 0.7, 3.0, 0.0, -1.0]), min_size=2, max_size=60))
def test_all_far_keys_together_are_bounded_however_alibi_falls(falls):
    """At best, all keys up to a place point along the query, and differ in their bias alone. Holes make it jump."""
    alibi = numpy.cumsum(falls)[None, None]
    longest, nearest, count = tiles._far(numpy.ones_like(alibi), alibi)
    together = numpy.logaddexp.accumulate(alibi, -1)
    places = numpy.arange(1, len(falls) + 1)
    assert (longest == 1).all()
    assert (together <= nearest + numpy.minimum(count, numpy.log(places)) + 1e-12).all()
    if min(falls[1:]) > 0:
        assert numpy.allclose(count, -numpy.log1p(-numpy.exp(-min(falls[1:]))))  # however many they are


def test_far_keys_of_a_steep_head_are_not_computed():
    """Keys and values that are skipped may hold anything: even NaN is not seen. A flat head sees it."""
    T, given = 64, {"q": numpy.ones((1, 2, 8, 4)), "k": numpy.ones((1, 2, 64, 4)), "v": numpy.ones((1, 2, 64, 4))}
    alibi = numpy.array([4.0, 0.01])[None, :, None, None] * numpy.arange(T)
    given["v"][:, :, :16] = numpy.nan
    steep, flat = (
        tiles.tiled_attention(**given, alibi=alibi, mask=numpy.ones((1, T), int)).reshape(8, 2, 4).swapaxes(0, 1)
    )
    assert (steep == 1).all() and numpy.isnan(flat).all()


@pytest.mark.parametrize(
    ("B", "H", "most", "threads", "largest"),
    [(1, 16, 8, 2, 8), (8, 8, 8, 2, 8), (3, 16, 16, 2, 8), (1, 16, 1, 2, 1), (1, 5, 9, 3, 2), (2, 4, 0, 2, 1)],
)
def test_heads_go_in_groups_of_which_every_thread_has_as_many(B, H, most, threads, largest):
    groups = []
    with mock.patch.object(tiles, "threads", lambda: threads):
        tiles._in_groups(lambda b, group: groups.append((b, *range(H)[group])), B, H, most)
    assert sorted((b, h) for b, *heads in groups for h in heads) == [(b, h) for b in range(B) for h in range(H)]
    assert max(len(heads) for _, *heads in groups) == largest <= max(1, most)
    assert len(groups) % threads == 0 or len(groups) >= 4 * threads


def test_a_long_pass_gives_the_same_logits_and_gradients_watched_and_not():
    """Who wants to see probabilities gets the plain path, anybody else the tiles: they agree to rounding."""
    model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3))
    ids = numpy.random.default_rng(0).integers(0, 50, (2, 70))
    mask = numpy.ones_like(ids)
    mask[1, :20] = 0
    call = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    fast, fast_grads = model.value_and_grad(**call)
    also_fast = model(**call, trace=Trace("h.0.self_attention.context", "ln_f"))
    out, grads = model.value_and_grad(**call, trace=Trace("*.probs"))
    numpy.testing.assert_array_equal(fast.logits, also_fast.logits)
    assert not numpy.array_equal(fast.logits, out.logits)  # two paths did run
    assert numpy.abs(fast.logits - out.logits).max() < 1e-5 * numpy.abs(out.logits).max()
    for name, gradient in grads.items():
        assert numpy.abs(fast_grads[name] - gradient).max() < 1e-5 * numpy.abs(gradient).max(), name


@pytest.mark.parametrize("asked", [{"train": True, "seed": 1}, {"head_mask": [[0.5, 0, 1, 2]] * 2}, {"window": 5}])
def test_what_changes_weights_takes_the_plain_path(asked):
    """Tiles know of no dropout, no head mask and no window, and who sees probabilities has none either."""
    config = BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4, attention_dropout=0.5)
    model, ids = random_model(config, 0), numpy.arange(70)[None] % 50
    logits, seen = [], Trace("*.probs")
    for trace in (None, seen):
        cache = {"past_key_values": WindowCache(2, asked["window"])} if "window" in asked else asked
        logits.append(model(ids, trace=trace, **cache).logits)
    numpy.testing.assert_array_equal(*logits)
    assert seen and numpy.abs(logits[0] - model(ids).logits).max() > 0.01


@some
@given(
    pieces=st.lists(st.integers(1, 9), min_size=2, max_size=5), fail=st.booleans(), crop=st.integers(0, 5),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_decoding_with_kept_norms_skips_as_it_would_without(pieces, fail, crop, seed):
    """Norms of keys are kept with the cache, through passes that fail, crops, copies and chosen rows."""
    model = random_model(BloomConfig(vocab_size=20, hidden_size=12, n_layer=2, n_head=3), seed)
    ids = numpy.random.default_rng(seed).integers(0, 20, (2, sum(pieces)))
    cache, done = Cache(2), 0
    for length in pieces:
        if fail:
            with pytest.raises(InputError):
                model(ids[:, ::-1][:, :length], past_key_values=cache, trace=Trace(edits={"h.1": lambda x: x[0]}))
        new = ids[:, done : done + length]
        got = model(new, past_key_values=cache).logits
        done += length
        numpy.testing.assert_allclose(got, model(ids[:, :done]).logits[:, -length:], atol=1e-11 * abs(got).max())
        cache.select(numpy.array([1, 0]))
        cache = cache.copy()
        cache.select(numpy.array([1, 0]))
        if crop < done:
            cache.crop(done - crop)
            done -= crop
    if cache.length:
        cache.select(numpy.array([1, 1, 0]))
    norms = [cache.key_norms(layer, keys) for layer, (keys, _) in enumerate(cache)] if cache.length else []
    for kept, (keys, _) in zip(norms, cache, strict=False):
        numpy.testing.assert_allclose(kept, numpy.linalg.norm(keys, axis=-1))
