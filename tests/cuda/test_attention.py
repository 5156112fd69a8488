"""The kernels of attention are plain attention, forward and backward; and they skip no key that counts."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.backend import load, to_numpy
from minibloom.cuda import attention as kernels
from minibloom.layers.alibi import alibi_bias
from minibloom.layers.softmax import softmax_backward

from ..layers.test_tiled_attention import plain
from ..strategies import padding_of
from .kernels import assert_as_near, examples, on_devices, there, wide

pytestmark = on_devices
DEPTHS = (4, 6, 33)
SHAPES = kernels.SHAPES  # those of a GPU; most tests have smaller ones, which fewer queries fill


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SHAPES", ((2, 2),))
        yield


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, Any]:
    """Queries, keys, values, bias and mask, with padding of every kind, as a pass and its cache have them."""
    B, H, D = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.sampled_from(DEPTHS))
    S, past = draw(st.sampled_from([1, 3, 4, 5, 9, 35])), draw(st.sampled_from([0, 1, 31, 40, 70]))
    T = S + past
    rng = numpy.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([0.1, 1.0, 5.0]))
    q, k, v = ((size * rng.standard_normal((B, H, n, D))).astype("f4") for n in (S, T, T))
    mask = numpy.stack([padding_of(draw(st.sampled_from(["none", "left", "right", "holes", "all"])), T, rng)] * B)
    mask[-1] = draw(st.sampled_from([1, mask[-1]]))
    if draw(st.booleans()):
        mask = mask[:1]
    alibi = alibi_bias(mask, H, "float32") * numpy.float32(draw(st.sampled_from([1, 30])))  # 30 skips nearly all keys
    return {"q": q, "k": k, "v": v, "alibi": alibi, "mask": mask}


@examples
@given(inputs())
def test_equals_plain_attention(given):
    """With the columns of q and k in eight orders, in which their products are rounded otherwise.

    By one order alone, the plain path has luck in one of 800 draws, and the kernel, as near to float64, seems far off.
    """
    orders = [slice(None), *(numpy.random.default_rng(i).permutation(given["q"].shape[-1]) for i in range(7))]
    calls = [given | {name: numpy.ascontiguousarray(given[name][..., order]) for name in "qk"} for order in orders]
    got = numpy.stack([to_numpy(kernels.attention(**there(call))) for call in calls])
    exact = numpy.stack([plain(**wide(given))[0]] * len(calls))
    assert_as_near(got, numpy.stack([plain(**call)[0] for call in calls]), exact)


@examples
@given(inputs(), st.integers(0, 99))
def test_backward_equals_plain_backward(given, seed):
    here, exact = there(given), wide(given)
    B, H, S, D = given["q"].shape
    d = numpy.random.default_rng(seed).standard_normal((B, S, H * D)).astype("f4")
    got = kernels.attention_backward(there(d), kernels.attention(**here), **here)
    # What dq and dk sum is a difference of dprobs, of which nothing is left where a query sees one key.
    size = max(1, abs(d).max() * abs(given["v"]).max()) * max(abs(given["q"]).max(), abs(given["k"]).max()) * D**0.5
    for one, of_32, of_64 in zip(got, backward(d, **given), backward(wide(d), **exact), strict=True):
        assert_as_near(one, of_32, of_64, size)


def backward(d: Any, q: Any, k: Any, v: Any, alibi: Any, mask: Any) -> tuple[Any, Any, Any]:
    """What `attention.py` does with all probabilities at once."""
    B, H, S, D = q.shape
    probs = plain(q, k, v, alibi, mask)[1]
    dcontext = d.reshape(B, S, H, D).transpose(0, 2, 1, 3)
    dscores = softmax_backward(dcontext @ v.swapaxes(-1, -2), probs) * (1.0 / D**0.5)
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, probs.swapaxes(-1, -2) @ dcontext


@examples
@given(inputs())
def test_views_of_larger_arrays_are_read_where_they_lie(given):
    """As the fused projection and a cache with room have them: the numbers are those of copies, to the bit."""
    xp, here = load("cupy"), there(given)
    B, H, S, D = given["q"].shape
    T = given["k"].shape[2]
    fused = xp.full((B, S, H, 3, D), xp.nan, dtype="float32")
    fused[:, :, :, 0] = here["q"].transpose(0, 2, 1, 3)
    views = {"q": fused.transpose(3, 0, 2, 1, 4)[0]}
    for name in ("k", "v"):
        cache = xp.full((B, H, T + 3, D), xp.nan, dtype="float32")
        cache[:, :, :T] = here[name]
        views[name] = cache[:, :, :T]
    assert kernels.suits_attention(**{**here, **views})
    out = kernels.attention(**here)
    assert (kernels.attention(**{**here, **views}).get() == out.get()).all()
    d = xp.ones((B, S, H * D), dtype="float32")
    both = (kernels.attention_backward(d, out, **one) for one in (here, {**here, **views}))
    assert all((a.get() == b.get()).all() for a, b in zip(*both, strict=True))


@examples
@given(
    distance=st.integers(1, 70), slope=st.sampled_from([0.05, 0.3, 0.7, 3.0]), sharpness=st.floats(0, 60),
    many=st.integers(1, 40), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_adversary_hides_a_key_that_counts(distance, slope, sharpness, many, seed):
    """Far keys point exactly along the query, as the bound fears; nearer ones point away. Their values stand out."""
    rng, T, D = numpy.random.default_rng(seed), 100, 4
    q = rng.standard_normal((1, 1, 1, D))
    along = q[0, 0, 0] / numpy.linalg.norm(q)
    k, v = numpy.tile(-along, (T, 1)) * 0.1, numpy.zeros((T, D))
    far = slice(max(0, T - distance - many), T - distance)
    k[far], v[far] = along * sharpness, 1.0
    given = {"q": q, "k": k[None, None], "v": v[None, None], "alibi": slope * numpy.arange(T)[None, None, None]}
    given = {name: x.astype("float32") for name, x in given.items()} | {"mask": numpy.ones((1, T), int)}
    resolution, expected = numpy.finfo("f4").eps, plain(**wide(given))[0].max()  # what the far keys weigh together
    difference = abs(kernels.attention(**there(given)).get() - expected).max()
    scores = 2.0**-22 * (slope * T + sharpness * numpy.linalg.norm(q))  # the rounding of large ones
    assert difference <= resolution / 4 + (16 * resolution + scores) * expected  # skipped altogether, or rounded


@pytest.mark.parametrize("biases", [(-14.0, -14.0, 0.0), (-10.0, -40.0, 0.0), (-40.0, -12.0, 0.0)])
def test_a_far_tile_that_counts_a_little_is_not_skipped(biases):
    """Not even where a nearer one may be: of no tile before it is known less than of those it stands behind."""
    alibi = numpy.repeat(numpy.array(biases, "f4"), 32)[None, None, None]
    zeros, far = numpy.zeros((1, 1, 96, 4), "f4"), numpy.arange(96) < 64
    given = {"q": zeros[:, :, :1], "k": zeros, "v": zeros + far[:, None].astype("f4")}
    given |= {"alibi": alibi, "mask": numpy.ones((1, 96), int)}
    expected = plain(**wide(given))[0]
    assert expected.min() > numpy.finfo("f4").eps
    numpy.testing.assert_allclose(kernels.attention(**there(given)).get(), expected, rtol=1e-5)


def test_far_keys_that_are_nothing_each_count_together():
    """Each has half of a share that may be skipped; they are 64, and the query sees but one nearer key."""
    alibi = numpy.repeat(numpy.array([-18.0, -18.0, 0.0], "f4"), 32)[None, None, None]
    zeros, far = numpy.zeros((1, 1, 96, 4), "f4"), numpy.arange(96) < 64
    given = {"q": zeros[:, :, :1], "k": zeros, "v": zeros + far[:, None].astype("f4"), "alibi": alibi}
    given["mask"] = (far | (numpy.arange(96) == 95))[None].astype("int64")
    expected = plain(**wide(given))[0]
    assert kernels.LEAST > -18.0 and expected.min() > 8 * numpy.finfo("f4").eps
    numpy.testing.assert_allclose(kernels.attention(**there(given)).get(), expected, rtol=1e-5)


def test_queries_of_padding_weigh_all_keys_alike_and_those_have_their_gradients():
    """Later keys too, of tiles and blocks that no other query sees."""
    rng = numpy.random.default_rng(0)
    q, k, v, d = (rng.standard_normal((1, 1, 40, 4)).astype("f4") for _ in range(4))
    mask = (numpy.arange(40) >= 37)[None].astype("int64")
    given = {"q": q, "k": k, "v": v, "alibi": alibi_bias(mask, 1, "float32"), "mask": mask}
    out = kernels.attention(**there(given))
    assert_as_near(out, plain(**given)[0], plain(**wide(given))[0])
    got = kernels.attention_backward(there(d[0]), out, **there(given))
    for one, of_32, of_64 in zip(got, backward(d[0], **given), backward(wide(d[0]), **wide(given)), strict=True):
        assert_as_near(one, of_32, of_64)


def test_far_keys_of_a_steep_head_are_not_computed():
    """Keys and values that are skipped may hold anything: even NaN is not seen. A flat head sees it."""
    T, ones = 96, numpy.ones((1, 2, 96, 4), "f4")
    given = {"q": ones[:, :, :8], "k": ones, "v": ones.copy(), "mask": numpy.ones((1, T), int)}
    given["alibi"] = (numpy.array([4.0, 0.01])[None, :, None, None] * numpy.arange(T)).astype("f4")
    given["v"][:, :, :32] = numpy.nan
    steep, flat = kernels.attention(**there(given)).get().reshape(8, 2, 4).swapaxes(0, 1)
    assert (steep == 1).all() and numpy.isnan(flat).all()


def test_padding_before_the_first_token_is_not_read():
    ones = numpy.ones((1, 1, 70, 4), "f4")
    mask = numpy.arange(70)[None] >= 40
    given = {"q": ones[:, :, :2], "k": ones.copy(), "v": ones.copy(), "mask": mask.astype("int64")}
    given["alibi"] = alibi_bias(given["mask"], 1, "float32") * 0
    given["k"][:, :, :32] = given["v"][:, :, :32] = numpy.nan
    assert (kernels.attention(**there(given)).get() == 1).all()


@pytest.mark.parametrize("D", [64, 80, 96, 128])
def test_the_head_sizes_of_blooms_checkpoints_fit(D, monkeypatch):
    monkeypatch.setattr(kernels, "SHAPES", SHAPES)
    rng = numpy.random.default_rng(D)
    q, k, v = (rng.standard_normal((1, 1, n, D)).astype("f4") for n in (2, 40, 40))
    mask = numpy.ones((1, 40), "int64")
    given = {"q": q, "k": k, "v": v, "alibi": alibi_bias(mask, 1, "float32"), "mask": mask}
    out = kernels.attention(**there(given))
    assert_as_near(out, plain(**given)[0], plain(**wide(given))[0])
    d = rng.standard_normal((1, 2, D)).astype("f4")
    got = kernels.attention_backward(there(d), out, **there(given))
    for one, of_32, of_64 in zip(got, backward(d, **given), backward(wide(d), **wide(given)), strict=True):
        assert_as_near(one, of_32, of_64)


def test_they_are_taken_for_float32_on_a_device_alone():
    x = numpy.zeros((1, 2, 3, 4), "f4")
    mask = numpy.ones((1, 3), "int64")
    given = {"q": x, "k": x, "v": x, "alibi": alibi_bias(mask, 2, "float32"), "mask": mask}
    assert kernels.suits_attention(**there(given))
    deep = numpy.zeros((1, 2, 3, 132), "f4")
    for other in (
        given,
        there(wide(given)),
        there(given | {"q": deep, "k": deep, "v": deep}),
        there(given) | {"v": there(x.swapaxes(2, 3).copy()).swapaxes(2, 3)},  # a row's numbers far apart
        there(given) | {"v": there(numpy.zeros((1, 2, 5, 4), "f4"))[:, :, :3]},  # not as k lies
    ):
        assert not kernels.suits_attention(**other)
