"""The cache: past keys and values, which a pass extends only when it is complete."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    BloomForSequenceClassification,
    BloomForTokenClassification,
    BloomModel,
    Cache,
    InputError,
    StaticCache,
    Trace,
    WindowCache,
)
from minibloom.cache import LAYOUTS

from .strategies import ELSEWHERE, configs, few, masks, models, normal, random_model, real, seeds, some, token_ids

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3, pad_token_id=0)
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
KINDS = [BloomModel, BloomForCausalLM, BloomForSequenceClassification, BloomForTokenClassification]
each_kind = pytest.mark.parametrize("kind", KINDS)
static_or_not = pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])


def filled(model: BloomModel, ids: numpy.ndarray = IDS) -> Cache:
    return model(ids).past_key_values


def content(cache: Cache) -> tuple[int, list[numpy.ndarray]]:
    return cache.length, [a.copy() for pair in cache for a in pair] if cache.length else []


def assert_same(cache: Cache, before: tuple[int, list[numpy.ndarray]]) -> None:
    length, arrays = content(cache)
    assert length == before[0]
    for now, then in zip(arrays, before[1], strict=True):
        numpy.testing.assert_array_equal(now, then)


# --- the cache alone ---


@some
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), seeds)
def test_what_is_put_in_piece_by_piece_comes_out_whole(pieces, seed):
    keys, values = normal(seed, 2, 2, 3, sum(pieces), 4)  # [B, H, T, D] each
    cache, start = Cache(2), 0
    for length in pieces:
        new = slice(start, start + length)
        for layer in range(2):
            k, v = cache.update(layer, (layer + 1) * keys[:, :, new], values[:, :, new])
            numpy.testing.assert_array_equal(k, (layer + 1) * keys[:, :, : start + length])
            numpy.testing.assert_array_equal(v, values[:, :, : start + length])
        cache.advance(length)
        start += length
    assert cache.length == start and cache.batch_size == 2 and len(cache) == 2
    for layer, (k, v) in enumerate(cache):
        numpy.testing.assert_array_equal(k, (layer + 1) * keys)
        numpy.testing.assert_array_equal(v, values)


def test_growing_position_by_position_copies_rarely():
    cache, one = Cache(1), numpy.ones((1, 1, 1, 2))
    buffers = []
    for _ in range(100):
        cache.update(0, one, one)
        cache.advance(1)
        buffers.append(cache[0][0].base)
    assert len({id(buffer) for buffer in buffers}) <= 8  # 1, 2, 4, ... 128
    assert cache.nbytes == 2 * 128 * 2 * 8


def test_an_empty_cache_says_so():
    cache = Cache(2)
    assert len(cache) == 2 and cache.length == 0 and cache.batch_size is None and cache.nbytes == 0
    with pytest.raises(InputError, match="the cache is empty"):
        cache[0]


def test_repr_says_what_it_holds():
    cache = filled(random_model(CONFIG, 0, kind=BloomModel))
    assert repr(cache) == f"Cache(layers=2, length=4, bytes={2 * 2 * 2 * 4 * 12 * 8:,})"


# --- copy, crop, select: going back, and going on more than once ---


def test_reorder_moves_rows_behind_what_they_have_in_common():
    model = random_model(CONFIG, 0, kind=BloomModel)
    cache = filled(model, numpy.array([[1, 2, 3, 4], [1, 2, 7, 8], [1, 2, 9, 5]]))
    selected, rows = cache.copy(), numpy.array([2, 0, 0])
    selected.select(rows)
    buffer = cache[0][0].base
    cache.reorder(rows, 2)
    assert_same(cache, content(selected))
    assert cache[0][0].base is buffer  # in place


@static_or_not
@few
@given(models(kind=BloomModel), st.data())
def test_a_cropped_cache_has_forgotten(static, model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    (B, S), cache = ids.shape, model.init_cache(*ids.shape) if static else Cache(model.config.n_layer)
    length = data.draw(st.integers(0, S - 1))
    model(ids, past_key_values=cache)
    cache.crop(length)
    assert cache.batch_size == (B if static or length else None) and cache.length == length
    if length:
        numpy.testing.assert_allclose(cache[0][0], filled(model, ids[:, :length])[0][0], atol=1e-12)
    rest = model(ids[:, length:], past_key_values=cache).last_hidden_state
    numpy.testing.assert_allclose(rest, model(ids).last_hidden_state[:, length:], atol=1e-10)
    with pytest.raises(InputError, match=f"cannot crop a cache of {S} positions to {S + 1}"):
        cache.crop(S + 1)


@pytest.mark.parametrize("left_behind", ["cropped", "failed"])
def test_norms_of_keys_that_are_gone_are_not_kept(left_behind):
    """Where nobody asked for norms in the passes that came instead."""
    cache, rng = Cache(1), numpy.random.default_rng(0)

    def extend(length, ask, complete=True):
        keys, _ = cache.update(0, *rng.standard_normal((2, 1, 2, length, 3)))
        norms = cache.key_norms(0, keys) if ask else None
        cache.advance(length if complete else 0)
        return keys, norms

    extend(4, ask=True)
    if left_behind == "failed":
        extend(3, ask=True, complete=False)
    else:
        extend(3, ask=True)
        cache.crop(4)
    extend(3, ask=False)
    keys, norms = extend(2, ask=True)
    numpy.testing.assert_allclose(norms, numpy.linalg.norm(keys, axis=-1))


@pytest.mark.parametrize("left_behind", ["cropped", "reordered", "failed"])
@pytest.mark.parametrize("asked_first", [True, False])
def test_norms_of_a_batch_that_is_gone_are_not_kept(left_behind, asked_first):
    """A cache without positions takes another batch: whether the norms of its keys are asked for soon or late."""
    cache, rng = Cache(1), numpy.random.default_rng(0)

    def extend(batch, ask):
        keys, _ = cache.update(0, *rng.standard_normal((2, batch, 2, 4, 3)))
        return keys, cache.key_norms(0, keys) if ask else None

    extend(2, ask=True)
    if left_behind != "failed":
        cache.advance(4)
        if left_behind == "reordered":
            cache.reorder([1, 0], 0)
        cache.crop(0)
    extend(3, ask=asked_first)
    cache.advance(4)
    cache.select([2, 0, 1])
    keys, norms = extend(3, ask=True)
    numpy.testing.assert_allclose(norms, numpy.linalg.norm(keys, axis=-1))


def test_a_cache_cropped_to_nothing_takes_another_batch():
    model = random_model(CONFIG, 0, kind=BloomModel)
    cache = filled(model)
    cache.crop(0)
    assert cache.batch_size is None
    out = model(IDS[:1], past_key_values=cache)
    numpy.testing.assert_array_equal(out.last_hidden_state, model(IDS[:1]).last_hidden_state)


@pytest.mark.parametrize("length", [-1, 5])
def test_a_cache_cannot_be_cropped_to_more_than_it_has(length):
    with pytest.raises(InputError, match=f"cannot crop a cache of 4 positions to {length}"):
        filled(random_model(CONFIG, 0, kind=BloomModel)).crop(length)


def test_states_that_contrastive_search_keeps_follow_their_rows_and_positions():
    cache = filled(BloomModel(CONFIG))
    cache.states = states = normal(0, 2, 4, 12)
    twin = cache.copy()
    twin.crop(3)
    numpy.testing.assert_array_equal(twin.states, states[:, :3])
    twin.select(numpy.array([1, 1]))
    numpy.testing.assert_array_equal(twin.states, states[[1, 1], :3])
    twin.reorder(numpy.array([0, 0]), 1)
    assert twin.states is None
    numpy.testing.assert_array_equal(cache.states, states)


def test_a_copy_goes_its_own_way():
    """With room for more in the buffers, which original and copy must not share."""
    model = random_model(CONFIG, 0, kind=BloomModel)

    def one_step_in() -> Cache:
        return model([[9], [9]], past_key_values=filled(model)).past_key_values

    cache = one_step_in()
    assert cache.nbytes > sum(a.nbytes for pair in cache for a in pair)
    twin, before = cache.copy(), content(cache)
    model([[1], [2]], past_key_values=twin)
    assert_same(cache, before)
    model([[3], [4]], past_key_values=cache)
    assert_same(twin, content(model([[1], [2]], past_key_values=one_step_in()).past_key_values))
    assert Cache(3).copy().batch_size is None


@few
@given(st.lists(st.integers(0, 1), min_size=1, max_size=4))
def test_selected_rows_go_on_as_their_originals_would(rows):
    model = random_model(CONFIG, 0, kind=BloomModel)
    cache, new = filled(model), numpy.array([[9], [10]])
    expected = model(new, past_key_values=cache.copy()).last_hidden_state
    cache.select(numpy.array(rows))
    assert cache.batch_size == len(rows)
    got = model(new[rows], past_key_values=cache).last_hidden_state
    numpy.testing.assert_allclose(got, expected[rows], atol=1e-12)


@pytest.mark.parametrize("rows", [[2], [0, -3], [0.5], [[9]], [[0, 1]], 0, ["a"]], ids=str)
@pytest.mark.parametrize("window", [None, 3])
def test_rows_that_there_are_not_are_said_and_nothing_is_changed(rows, window):
    model = random_model(CONFIG, 0, kind=BloomModel)
    cache = Cache(2) if window is None else WindowCache(2, window)
    model(IDS, past_key_values=cache)
    before = content(cache)
    for change in (cache.select, cache.copy, lambda rows: cache.reorder(rows, 1)):
        with pytest.raises(InputError, match="rows is .*, expected a list of whole numbers from 0 to 1"):
            change(rows)
    assert_same(cache, before)


@pytest.mark.parametrize("make", [lambda model: Cache(2), lambda model: model.init_cache(2, 6),
                                  lambda model: WindowCache(2, 3)])  # fmt: skip
def test_a_copy_of_rows_is_a_copy_of_which_rows_are_selected(make):
    model, rows = random_model(CONFIG, 0), numpy.array([1, 0, 1])
    cache = make(model)
    if cache.batch_size is None:
        assert cache.copy(rows).batch_size is None  # it has no rows yet
    model(IDS, past_key_values=cache)
    before, selected = content(cache), cache.copy()
    selected.select(rows)
    cache.draft = "a draft model, its cache and ids"  # which two caches must not share
    twin = cache.copy(rows)
    assert twin.draft is None and cache.copy().draft is None
    assert_same(twin, content(selected))
    model([[1], [2], [3]], past_key_values=twin)
    assert_same(cache, before)
    assert cache.batch_size == 2 and twin.length == selected.length + (twin.window is None)


# --- a failed pass leaves no trace ---

BAD_CALLS = [
    {"input_ids": [[1], [99]]},
    {"input_ids": [[1]]},
    {"input_ids": [[1], [2]], "attention_mask": numpy.ones((2, 1))},
    {"input_ids": [[1], [2]], "position_ids": [[4], [4]]},
    {"input_ids": [[1], [2]], "labels": [[1], [-1]]},
    {"input_ids": [[1], [2]], "head_mask": numpy.ones(2)},
    {"input_ids": [[1], [2]], "seed": 3},
    {"input_ids": [[1], [2]], "trace": Trace("h.7")},
    {"input_ids": [[1], [2]], "trace": Trace(edits={"h.1": lambda x: x[0]})},  # found in the last block only
    {},
]


@pytest.mark.parametrize("call", BAD_CALLS, ids=str)
@static_or_not
def test_a_failed_call_leaves_the_cache_as_it_was(call, static):
    model = random_model(CONFIG, 0)

    def after_one_pass() -> Cache:
        return model(IDS, past_key_values=model.init_cache(2, 6) if static else Cache(2)).past_key_values

    cache = after_one_pass()
    before = content(cache)
    with pytest.raises(InputError):
        model(**call, past_key_values=cache)
    assert_same(cache, before)
    new = numpy.array([[9, 10], [11, 12]])
    numpy.testing.assert_array_equal(
        model(new, past_key_values=cache).logits, model(new, past_key_values=after_one_pass()).logits
    )


@each_kind
@static_or_not
def test_a_head_that_fails_when_all_blocks_are_done_leaves_the_cache_as_it_was(kind, static):
    model = random_model(CONFIG, 0, kind=kind)
    cache = model.init_cache(2, 6) if static else Cache(2)
    model(IDS, past_key_values=cache)
    before, new = content(cache), numpy.array([[9, 10], [11, 12]])
    for wrong in (lambda x: x[:1], lambda x: x.astype("float32"), lambda x: 1 // 0):
        seen = Trace(edits={kind.head or "ln_f": wrong})
        with pytest.raises((InputError, ZeroDivisionError)):
            model(new, past_key_values=cache, trace=seen)
        assert "h.1" in seen and seen["h.0.self_attention.key"].shape[2] == 6  # it was in the cache, and did not count
        assert_same(cache, before)
    past = Cache(2)
    model(IDS, past_key_values=past)
    expected = model(new, past_key_values=past)[0]
    numpy.testing.assert_array_equal(model(new, past_key_values=cache)[0], expected)
    assert cache.length == 6


def test_a_call_that_fails_on_an_empty_cache_leaves_it_empty():
    model, cache = random_model(CONFIG, 0), Cache(2)
    with pytest.raises(InputError):
        model(IDS, past_key_values=cache, trace=Trace(edits={"h.1": lambda x: x[0]}))
    assert cache.length == 0 and cache.batch_size is None
    with pytest.raises(InputError, match="empty"):
        cache[0]
    cache.select([2, 0])  # it has no rows yet
    got = model(IDS[:1], past_key_values=cache)  # one row, where the failed call had two
    numpy.testing.assert_array_equal(got.logits, model(IDS[:1]).logits)


def test_a_gradient_with_a_wrong_upstream_leaves_the_cache_as_it_was():
    model = random_model(CONFIG, 0, kind=BloomModel)
    cache = filled(model)
    before = content(cache)
    with pytest.raises(InputError, match=r"upstream has shape \[2, 2, 12\], expected \[2, 1, 12\]"):
        model.value_and_grad([[1], [2]], past_key_values=cache, upstream=numpy.ones((2, 2, 12)))
    with pytest.raises(InputError, match="upstream holds <U1, expected numbers"):
        model.value_and_grad([[1], [2]], past_key_values=cache, upstream=[[["a"] * 12]] * 2)
    assert_same(cache, before)


# --- a cache that does not fit ---


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_layer": 3}, "cache of 3 blocks, expected 2"),
        ({"n_head": 4}, "4 heads of size 3 in float64, expected 3 heads of size 4 in float64: it belongs to another"),
        ({"hidden_size": 9}, "3 heads of size 3 in float64, expected 3 heads of size 4 in float64"),
    ],
)
def test_a_cache_of_another_model_is_an_error(changes, problem):
    model, other = random_model(CONFIG, 0), random_model(CONFIG.replace(**changes), 0, kind=BloomModel)
    for cache in (filled(other), other.init_cache(2, 9)):
        with pytest.raises(InputError, match=f"past_key_values .*{problem}"):
            model(IDS[:, :1], past_key_values=cache)


def test_a_cache_of_another_precision_is_an_error():
    model, other = random_model(CONFIG, 0), BloomModel(CONFIG)
    for cache in (filled(other), other.init_cache(2, 9)):
        with pytest.raises(InputError, match=r"heads of size 4 in float32, expected .* in float64"):
            model(IDS[:, :1], past_key_values=cache)


def test_a_cache_of_another_batch_is_an_error():
    model = BloomForCausalLM(CONFIG)
    for cache in (filled(BloomModel(CONFIG)), model.init_cache(2, 9)):
        with pytest.raises(InputError, match="past_key_values holds a batch of 2, the input one of 1"):
            model(IDS[:1], past_key_values=cache)


class OnDevice(numpy.ndarray):
    """An array that says it belongs to another library."""

    def __array_namespace__(self, **_: object) -> object:
        return ELSEWHERE


def test_a_cache_of_another_library_is_an_error_before_any_work_is_done():
    model, trace = random_model(CONFIG, 0), Trace()
    cache = model.init_cache(2, 9)
    cache._keys[0] = cache._keys[0].view(OnDevice)
    with pytest.raises(InputError, match="past_key_values is an array of elsewhere, the model computes with numpy"):
        model(IDS, past_key_values=cache, trace=trace)
    assert cache.length == 0 and not trace
    c = model.config
    with pytest.raises(InputError, match="past_key_values is an array of numpy, the model computes with elsewhere"):
        model.init_cache(2, 9).check(c.n_layer, c.n_head, c.head_dim, model.dtype, 2, 1, ELSEWHERE)
    past = filled(model).to_tuple()
    mixed = (past[0], (past[1][0], past[1][1].view(OnDevice)))
    with pytest.raises(InputError, match="arrays of different libraries meet in one call: numpy, numpy, numpy, else"):
        model(IDS, past_key_values=mixed)


@pytest.mark.parametrize("cache", [numpy.ones((2, 4)), (), ((1, 2),) * 2, (numpy.ones(2),)], ids=type)
def test_what_is_no_cache_is_an_error(cache):
    """For one, a mask that was given in second place."""
    with pytest.raises(
        InputError, match="past_key_values is a (tuple|ndarray), expected a Cache, or a tuple of a pair"
    ):
        BloomForCausalLM(CONFIG)(IDS, cache)


# --- a cache that has all its memory from the start ---


@each_kind
@few
@given(data=st.data())
def test_a_static_cache_gives_what_a_growing_one_gives(kind, data):
    """The same bits, split anywhere, with room left over or none; and what the uncached pass gives."""
    model = random_model(data.draw(configs(pad_token_id=0, num_labels=3)), data.draw(seeds), kind=kind)
    ids = data.draw(token_ids(model.config))
    B, S = ids.shape
    mask = data.draw(masks(ids.shape))
    static, growing = model.init_cache(B, S + data.draw(st.integers(0, 3))), Cache(model.config.n_layer)
    memory = [a.__array_interface__["data"] for a in (*static._keys, *static._values)]
    whole = model(ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    start = 0
    while start < S:
        end = data.draw(st.integers(start + 1, S))
        options = {"attention_mask": None if mask is None else mask[:, :end], "output_hidden_states": True}
        a, b = (model(ids[:, start:end], past_key_values=past, **options) for past in (static, growing))
        assert getattr(a, "past_key_values", static) is static  # what a classifier of tokens returns has no cache
        numpy.testing.assert_array_equal(a[0], b[0])
        tokens = real(mask, ids.shape)[:, start:end]
        for x, y, z in zip(a.hidden_states, b.hidden_states, whole.hidden_states, strict=True):
            numpy.testing.assert_array_equal(x, y)
            numpy.testing.assert_allclose(x[tokens], z[:, start:end][tokens], rtol=0, atol=1e-11 * abs(z).max())
        start = end
    assert_same(static, content(growing))
    assert memory == [a.__array_interface__["data"] for a in (*static._keys, *static._values)]  # it never moved


@each_kind
def test_a_full_cache_is_an_error_before_any_work_is_done(kind):
    model, trace = random_model(CONFIG, 0, kind=kind), Trace()
    cache = model.init_cache(2, 5)
    with pytest.raises(InputError, match="it has room for 5 positions, of which 0 are taken, and the input has 6"):
        model(numpy.ones((2, 6), int), past_key_values=cache, trace=trace)
    assert not trace and cache.length == 0
    model(IDS, past_key_values=cache)
    before = content(cache)
    with pytest.raises(InputError, match="past_key_values is full: it has room for 5 positions, of which 4 are taken"):
        model(IDS[:, :2], past_key_values=cache, trace=trace)
    assert not trace
    assert_same(cache, before)
    model(IDS[:, :1], past_key_values=cache)  # the last one that there is room for
    assert cache.length == cache.max_length == 5
    with pytest.raises(InputError, match="of which 5 are taken, and the input has 1. Make one with a larger"):
        model(IDS[:, :1], past_key_values=cache)
    cache.crop(3)
    model(IDS[:, :2], past_key_values=cache)


def test_a_static_cache_says_what_it_is():
    model = random_model(CONFIG, 0)
    cache = model.init_cache(numpy.int64(2), 9)  # a whole number of any type
    assert cache.batch_size == 2 and len(cache) == 2 and cache.length == 0 and cache.max_length == 9
    assert repr(cache) == f"StaticCache(layers=2, length=0, max_length=9, bytes={2 * 2 * 2 * 9 * 12 * 8:,})"
    with pytest.raises(InputError, match="the cache is empty"):
        cache[0]
    model(IDS, past_key_values=cache)
    assert cache.nbytes == 2 * 2 * 2 * 9 * 12 * 8 and cache[1][0].shape == (2, 3, 4, 4)
    assert Cache(2).max_length is None


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3", None])
@pytest.mark.parametrize("name", ["batch", "max_length"])
def test_a_static_cache_needs_sizes(name, size):
    sizes = {"batch": 2, "max_length": 9, name: size}
    with pytest.raises(InputError, match=f"{name} is {size!r}, expected a whole number from 1"):
        BloomModel(CONFIG).init_cache(sizes["batch"], sizes["max_length"])


@pytest.mark.parametrize("layers", [0, -1, "2", CONFIG])
def test_a_cache_is_of_some_blocks(layers):
    with pytest.raises(InputError, match="layers is .*, expected a whole number from 1"):
        Cache(layers)


def test_a_copy_of_a_static_cache_goes_its_own_way_and_has_the_same_room():
    model = random_model(CONFIG, 0)
    cache = model.init_cache(2, 5)
    model(IDS, past_key_values=cache)
    twin, before = cache.copy(), content(cache)
    model([[1], [2]], past_key_values=twin)
    assert_same(cache, before)
    assert isinstance(twin, StaticCache) and twin.max_length == 5 == twin.length
    model([[3], [4]], past_key_values=cache)
    other = model.init_cache(2, 5)
    model(IDS, past_key_values=other)
    model([[1], [2]], past_key_values=other)
    assert_same(twin, content(other))


@few
@given(st.lists(st.integers(0, 1), min_size=1, max_size=4))
def test_selected_rows_of_a_static_cache_keep_their_room(rows):
    model, new = random_model(CONFIG, 0), numpy.array([[9], [10]])
    cache = model.init_cache(2, 5)
    cache.select([1, 0])  # none is taken yet
    model(IDS, past_key_values=cache)
    expected = model(new, past_key_values=cache.copy()).logits
    cache.select(rows)
    assert cache.batch_size == len(rows) and cache.max_length == 5
    got = model(new[rows], past_key_values=cache).logits
    numpy.testing.assert_allclose(got, expected[rows], atol=1e-12)
    with pytest.raises(InputError, match="past_key_values is full"):
        model(new[rows], past_key_values=cache)


def test_a_static_cache_moves_only_where_rows_are_selected():
    model = random_model(CONFIG, 0)
    cache = model.init_cache(2, 5)
    memory = [cache.buffers(layer) for layer in range(2)]
    model(IDS, past_key_values=cache)
    cache.reorder([1, 0], 0)
    cache.crop(3)
    model(IDS[:, :2], past_key_values=cache)
    for layer, (keys, values) in enumerate(memory):
        assert cache.buffers(layer)[0] is keys and cache.buffers(layer)[1] is values
    cache.select([0])
    assert cache.buffers(0)[0] is not memory[0][0] and cache.buffers(0)[0].shape == (1, 3, 5, 4)


@static_or_not
def test_gradients_are_those_of_a_growing_cache(static):
    model = random_model(CONFIG, 0)
    past = model.init_cache(2, 7) if static else Cache(2)
    model(IDS, past_key_values=past)
    expected_past = model(IDS).past_key_values
    new = IDS[:, :3]
    out, grads = model.value_and_grad(new, past_key_values=past, labels=new)
    expected, expected_grads = model.value_and_grad(new, past_key_values=expected_past, labels=new)
    assert out.loss == expected.loss and past.length == 7
    assert all((grads[name] == gradient).all() for name, gradient in expected_grads.items())


# --- past keys and values as tuples ---

sizes = st.integers(1, 4)


def shapes(layout: str, B: int, H: int, T: int, D: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of keys and of values, as the documentation of that time has them."""
    return {
        "documented": ((B * H, D, T), (B * H, T, D)),
        "standard": ((B, H, D, T), (B, H, T, D)),
        "first": ((B, T, H, D), (B, T, H, D)),
        "today": ((B, H, T, D), (B, H, T, D)),
    }[layout]


def random_cache(B: int, H: int, T: int, D: int, layers: int = 2, seed: int = 0) -> Cache:
    cache = Cache(layers)
    for layer in range(layers):
        cache.update(layer, *normal(seed + layer, 2, B, H, T, D))
    cache.advance(T)
    return cache


@pytest.mark.parametrize("layout", LAYOUTS)
@some
@given(B=sizes, H=sizes, T=sizes, D=sizes, layers=st.integers(1, 3), seed=seeds)
def test_every_layout_is_the_identity_both_ways(layout, B, H, T, D, layers, seed):
    cache = random_cache(B, H, T, D, layers, seed)
    past = cache.to_tuple(layout)
    assert [(k.shape, v.shape) for k, v in past] == [shapes(layout, B, H, T, D)] * layers
    again = Cache.from_tuple(past, B, H, D, layout=layout)
    assert_same(again, content(cache))
    for pair, other in zip(again.to_tuple(layout), past, strict=True):
        for x, y in zip(pair, other, strict=True):
            numpy.testing.assert_array_equal(x, y)
    listed = [list(pair) for pair in past]
    assert_same(Cache.from_tuple(listed, B, H, D, layout=layout), content(cache))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_number_is_where_its_layout_says(layout):
    B, H, T, D = 2, 3, 5, 4
    cache = random_cache(B, H, T, D)
    for (keys, values), (k, v) in zip(cache, cache.to_tuple(layout), strict=True):
        for b, h, t, d in numpy.ndindex(B, H, T, D):
            place = {
                "documented": ((b * H + h, d, t), (b * H + h, t, d)),
                "standard": ((b, h, d, t), (b, h, t, d)),
                "first": ((b, t, h, d), (b, t, h, d)),
                "today": ((b, h, t, d), (b, h, t, d)),
            }[layout]
            assert k[place[0]] == keys[b, h, t, d] and v[place[1]] == values[b, h, t, d]


@pytest.mark.parametrize("layout", LAYOUTS)
@some
@given(B=sizes, H=sizes, T=sizes, D=sizes)
def test_a_layout_is_found_by_its_shapes_or_two_are_named(layout, B, H, T, D):
    cache = random_cache(B, H, T, D)
    past = cache.to_tuple(layout)
    same = [name for name in LAYOUTS if shapes(name, B, H, T, D) == shapes(layout, B, H, T, D)]
    if same == [layout]:
        assert_same(Cache.from_tuple(past, B, H, D), content(cache))
        return
    with pytest.raises(InputError, match="could be .* Say which it is: Cache.from_tuple") as caught:
        Cache.from_tuple(past, B, H, D)
    assert [name for name in LAYOUTS if f"'{name}' (keys" in str(caught.value)] == same
    assert_same(Cache.from_tuple(past, B, H, D, layout=layout), content(cache))


@pytest.mark.parametrize("layout", LAYOUTS)
@each_kind
@few
@given(data=st.data())
def test_a_tuple_given_to_a_model_is_a_copy_of_a_cache(layout, kind, data):
    """Of 5 or 6 positions, so that no layout is taken for another: there are at most 4 heads, of size at most 4."""
    heads, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    config = data.draw(configs(n_head=heads, hidden_size=heads * size, pretraining_tp=1, pad_token_id=0))
    model = random_model(config, data.draw(seeds), kind=kind)
    ids = data.draw(token_ids(config, shortest=7, longest=8))
    cache = Cache(config.n_layer)
    model(ids[:, :-2], past_key_values=cache)
    past = cache.to_tuple(layout)
    for array in (x for pair in past for x in pair):
        array.flags.writeable = False
    expected = model(ids[:, -2:], past_key_values=cache)
    for _ in range(2):  # the tuple stays as it is
        out = model(ids[:, -2:], past_key_values=past)
        numpy.testing.assert_array_equal(out[0], expected[0])
        if hasattr(out, "past_key_values"):
            assert_same(out.past_key_values, content(cache))


@static_or_not
def test_a_tuple_is_a_copy_of_what_the_cache_holds_and_of_no_more(static):
    model = random_model(CONFIG, 0)
    cache = model.init_cache(2, 9) if static else Cache(2)
    with pytest.raises(InputError, match="the cache is empty"):
        cache.to_tuple()
    model(IDS, past_key_values=cache)
    before, past = content(cache), cache.to_tuple()
    assert [x.shape for x in past[1]] == [(2, 3, 4, 4)] * 2
    for x in (x for pair in past for x in pair):
        x[:] = 0
    assert_same(cache, before)


PAST = random_cache(2, 3, 5, 4).to_tuple()
K, V = PAST[0]


@pytest.mark.parametrize(
    ("past", "options", "problem"),
    [
        (PAST, {"batch": 3}, r"has keys \[2, 3, 5, 4\] .*; expected 'documented' .* in every block, with B = 3, H = 3"),
        (PAST, {"heads": 4}, "expected 'documented' .* or 'standard' .* or 'first' .* or 'today' .*, H = 4, D = 4 and"),
        (PAST, {"head_dim": 3}, "in every block, with B = 2, H = 3, D = 3 and one T"),
        (PAST, {"layout": "first"}, r"expected 'first' \(keys \[B, T, H, D\], values \[B, T, H, D\]\) in every block"),
        (PAST, {"layout": "standart"}, "layout is 'standart', expected one of 'documented' .* Did you mean 'standard'"),
        ((PAST[0], (K[:, :, :3], V[:, :, :3])), {}, "in every block, with B = 2, H = 3, D = 4 and one T"),
        (((K, V[:, :, :3]), PAST[1]), {}, r"keys \[2, 3, 5, 4\] and values \[2, 3, 3, 4\] in its first block"),
        (((K[:, :, :0], V[:, :, :0]),) * 2, {}, r"keys \[2, 3, 0, 4\] .*; expected"),
        (((K, V.astype("float32")), PAST[1]), {}, "holds arrays of float32 and float64, expected one dtype"),
        ((PAST[0], (K.astype("int32"), V)), {}, "holds arrays of float64 and int32, expected one dtype"),
        (((K, V, V), PAST[1]), {}, "past_key_values is a tuple, expected a Cache, or a tuple of a pair of arrays"),
        (
            ((K, V.tolist()), PAST[1]),
            {},
            "past_key_values is a tuple, expected a Cache, or a tuple of a pair of arrays",
        ),
        ((), {}, "past_key_values is a tuple, expected a Cache, or a tuple of a pair of arrays"),
        ({0: PAST[0]}, {}, "past_key_values is a dict, expected a Cache, or a tuple of a pair of arrays"),
    ],
    ids=lambda given: given[:50] if isinstance(given, str) else "",
)
def test_a_tuple_that_no_layout_has(past, options, problem):
    with pytest.raises(InputError, match=problem):
        Cache.from_tuple(past, **{"batch": 2, "heads": 3, "head_dim": 4, **options})


def test_a_tuple_of_another_model_batch_or_precision_given_to_a_model():
    model = random_model(CONFIG, 0)
    with pytest.raises(InputError, match="with B = 1, H = 3, D = 4 and one T"):
        model(IDS[:1], past_key_values=PAST)
    with pytest.raises(InputError, match="past_key_values is a cache of 3 blocks, expected 2"):
        model(IDS, past_key_values=(*PAST, PAST[0]))
    with pytest.raises(InputError, match=r"heads of size 4 in float64, expected .* in float32"):
        BloomForCausalLM(CONFIG)(IDS, past_key_values=PAST)
    with pytest.raises(InputError, match=r"attention_mask has shape \[2, 4\], expected \[2, 9\]: 5 cached and 4 new"):
        model(IDS, past_key_values=PAST, attention_mask=numpy.ones((2, 4)))
