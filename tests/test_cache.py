"""The cache: past keys and values, which a pass extends only when it is complete."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, BloomModel, Cache, InputError, Trace

from .strategies import few, models, normal, random_model, seeds, some, token_ids

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3)
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])


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


@few
@given(models(kind=BloomModel), st.data())
def test_a_cropped_cache_has_forgotten(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    length, cache = data.draw(st.integers(1, ids.shape[1] - 1)), filled(model, ids)
    cache.crop(length)
    numpy.testing.assert_allclose(cache[0][0], filled(model, ids[:, :length])[0][0], atol=1e-12)
    rest = model(ids[:, length:], past_key_values=cache).last_hidden_state
    numpy.testing.assert_allclose(rest, model(ids).last_hidden_state[:, length:], atol=1e-10)


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
def test_a_failed_call_leaves_the_cache_as_it_was(call):
    model = random_model(CONFIG, 0)
    cache = model(IDS).past_key_values
    before = content(cache)
    with pytest.raises(InputError):
        model(**call, past_key_values=cache)
    assert_same(cache, before)
    new = numpy.array([[9, 10], [11, 12]])
    numpy.testing.assert_array_equal(
        model(new, past_key_values=cache).logits, model(new, past_key_values=model(IDS).past_key_values).logits
    )


def test_a_call_that_fails_on_an_empty_cache_leaves_it_empty():
    model, cache = random_model(CONFIG, 0), Cache(2)
    with pytest.raises(InputError):
        model(IDS, past_key_values=cache, trace=Trace(edits={"h.1": lambda x: x[0]}))
    assert cache.length == 0 and cache.batch_size is None
    with pytest.raises(InputError, match="empty"):
        cache[0]
    got = model(IDS[:1], past_key_values=cache)  # one row, where the failed call had two
    numpy.testing.assert_array_equal(got.logits, model(IDS[:1]).logits)


def test_a_gradient_with_a_wrong_upstream_leaves_the_cache_as_it_was():
    model = random_model(CONFIG, 0, kind=BloomModel)
    cache = filled(model)
    before = content(cache)
    with pytest.raises(InputError, match=r"upstream has shape \[2, 2, 12\], expected \[2, 1, 12\]"):
        model.value_and_grad([[1], [2]], past_key_values=cache, upstream=numpy.ones((2, 2, 12)))
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
    cache = filled(random_model(CONFIG.replace(**changes), 0, kind=BloomModel))
    with pytest.raises(InputError, match=f"past_key_values .*{problem}"):
        random_model(CONFIG, 0)(IDS[:, :1], past_key_values=cache)


def test_a_cache_of_another_precision_is_an_error():
    with pytest.raises(InputError, match=r"heads of size 4 in float32, expected .* in float64"):
        random_model(CONFIG, 0)(IDS[:, :1], past_key_values=filled(BloomModel(CONFIG)))


def test_a_cache_of_another_batch_is_an_error():
    model = BloomForCausalLM(CONFIG)
    with pytest.raises(InputError, match="past_key_values holds a batch of 2, the input one of 1"):
        model(IDS[:1], past_key_values=filled(BloomModel(CONFIG)))


@pytest.mark.parametrize("cache", [numpy.ones((2, 4)), (), ((1, 2),) * 2, (numpy.ones(2),)], ids=type)
def test_what_is_no_cache_is_an_error(cache):
    """For one, a mask that was given in second place."""
    with pytest.raises(
        InputError, match="past_key_values is a (tuple|ndarray), expected a Cache, or a tuple of a pair"
    ):
        BloomForCausalLM(CONFIG)(IDS, cache)
