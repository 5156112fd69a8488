"""All blocks for a few positions in one compiled loop: those of `block`, to rounding, and only where they suit."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import warnings
import weakref

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.cache import Cache, StaticCache
from minibloom.layers import compiled_blocks as module
from minibloom.layers import transformer
from minibloom.layers.compiled_blocks import _Passes, compiled_blocks, suits_compiled_blocks
from minibloom.layers.run import Run
from minibloom.layers.small_weights import Int8Weight, SmallWeight, row_scales, to_int8
from minibloom.window_cache import WindowCache

from .. import tiny
from ..strategies import seeds, some
from .test_small_weights import small


@pytest.fixture(autouse=True)
def with_numba(request):
    if "in_python" not in request.fixturenames:
        pytest.importorskip("numba", reason="Numba is optional")


def drawn_model(seed: int, heads: int, head_dim: int, layers: int = 2) -> BloomForCausalLM:
    """A model whose biases, and whose weights of norms, are drawn too."""
    config = BloomConfig(vocab_size=31, hidden_size=heads * head_dim, n_layer=layers, n_head=heads)
    model, rng = BloomForCausalLM(config, seed=seed), numpy.random.default_rng(seed)
    for p in model.params.values():
        p += rng.normal(size=p.shape).astype("float32") / 3
    return model


def decoded(model, ids, new, taken, mask=None, cache=None):
    """The logits of `ids [B, S]` and then of each of `new`, `[B, ...]`, behind them, by the loop or not."""
    real, compute, chosen = transformer.suits_compiled_blocks, transformer.compiled_blocks, []

    def choose(x, params, run):
        chosen.append(taken and real(x, params, run))
        return chosen[-1]

    def computed(x, params, run):
        after = compute(x, params, run)
        assert after is not None
        return after

    outs, length = [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PATIENCE", 0)
        patch.setattr(transformer, "suits_compiled_blocks", choose)
        patch.setattr(transformer, "compiled_blocks", computed)
        patch.setattr(transformer, "suits_one_token", lambda x, run: False)  # what is compared with is `block`
        for piece in (ids, *new):
            length += piece.shape[1]
            mask_to = None if mask is None else mask[:, :length]
            out = model(piece, past_key_values=cache, attention_mask=mask_to, use_cache=True)
            outs.append(out.logits)
            cache = out.past_key_values
    most = min(module.MOST, module.AS_MANY * module.most_rows()[0])
    fits = [piece.size <= most and (cache.window is None or piece.shape[1] == 1) for piece in (ids, *new)]
    assert chosen == [taken and fit for fit in fits]
    return numpy.concatenate(outs, axis=1)


def pieces(new):
    """`new [B, N]`, a token at a time."""
    return [new[:, i : i + 1] for i in range(new.shape[1])]


def assert_alike(model, ids, new, mask=None, cache=lambda: None):
    """The loops in 32 bits, and the blocks in 32 bits, are as far from the blocks in 64."""
    wide = BloomForCausalLM(model.config, dtype="float64")
    wide.params = {name: p.astype("float64") for name, p in model.params.items()}
    right = decoded(wide, ids, new, False, mask)
    ours, plain = (decoded(model, ids, new, taken, mask, cache()) for taken in (True, False))
    allowed = 2 * abs(plain - right).max() + 1e-6 * abs(right).max()
    numpy.testing.assert_allclose(ours, right, rtol=0, atol=allowed)


@pytest.fixture
def in_python(monkeypatch):
    """The loop as it stands, without Numba: of that, nothing is asked."""
    monkeypatch.setattr(module, "most_rows", lambda: (module.MOST, module.MOST))
    monkeypatch.setattr(module, "machine_code", lambda dtype: (module.describe_block, module.passes_numbers))


def test_embeddings_that_may_not_be_written_to_are_read(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model, embeds = drawn_model(0, 2, 4), numpy.random.default_rng(0).normal(size=(1, 5, 8)).astype("float32")
    right = model(inputs_embeds=embeds, use_cache=True).logits
    embeds.flags.writeable = False
    numpy.testing.assert_array_equal(model(inputs_embeds=embeds, use_cache=True).logits, right)


@pytest.mark.usefixtures("in_python")
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 6])
def test_in_python_the_loop_is_the_block(batch, length):
    rng = numpy.random.default_rng(batch)
    new = pieces(rng.integers(0, 31, (batch, 2)))
    assert_alike(drawn_model(batch, 2, 4), rng.integers(0, 31, (batch, length)), new)


@some
@given(
    heads=st.sampled_from([2, 3, 4, 6, 8]),
    head_dim=st.sampled_from([4, 5, 8, 20]),
    batch=st.integers(1, 9),
    length=st.integers(1, 40),
    steps=st.lists(st.integers(1, 6), max_size=4),
    threads=st.sampled_from([1, 2, 3]),
    padding=st.sampled_from(["none", "before", "anywhere"]),
    seed=seeds,
)
def test_compiled_it_is_the_block(heads, head_dim, batch, length, steps, threads, padding, seed):
    rng, model = numpy.random.default_rng(seed), drawn_model(seed, heads, head_dim)
    ids, new = rng.integers(0, 31, (batch, length)), [rng.integers(0, 31, (batch, step)) for step in steps]
    whole = length + sum(steps)
    mask = None
    if padding == "before":
        mask = numpy.arange(whole) >= rng.integers(0, length + 1, (batch, 1))
    elif padding == "anywhere":
        mask = rng.random((batch, whole)) < 0.7
    with threadpool_limits(threads, "blas"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARED", 0)
        patch.setattr(module, "SHARES", 5)
        assert_alike(model, ids, new, mask)


@some
@given(
    kind=st.sampled_from([kind for kind in module.KINDS if kind != "float32"]),
    heads=st.sampled_from([2, 4, 6]),
    head_dim=st.sampled_from([4, 8, 20]),
    batch=st.integers(1, 6),
    length=st.integers(1, 9),
    steps=st.lists(st.integers(1, 3), max_size=3),
    threads=st.sampled_from([1, 2]),
    seed=seeds,
)
def test_with_small_weights_it_is_the_block_with_these_widened(
    kind, heads, head_dim, batch, length, steps, threads, seed
):
    rng, model = numpy.random.default_rng(seed), drawn_model(seed, heads, head_dim)
    ids, new = rng.integers(0, 31, (batch, length)), [rng.integers(0, 31, (batch, step)) for step in steps]
    small_params = {name: small(kind, p) if p.ndim == 2 else p for name, p in model.params.items()}
    model.params = {n: p.widen() if isinstance(p, SmallWeight) else p for n, p in small_params.items()}
    plain = decoded(model, ids, new, False)
    model.params = small_params
    with threadpool_limits(threads, "blas"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARED", 0)
        ours = decoded(model, ids, new, True)
    numpy.testing.assert_allclose(ours, plain, rtol=0, atol=2e-5 * abs(plain).max())


def test_weights_of_two_kinds_take_the_plain_path(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    for name in list(model.params):
        if name.startswith("h.0.") and model.params[name].ndim == 2:
            model.params[name] = small("int8", model.params[name])
    assert compiled_blocks(x, model.params, run) is None


@pytest.mark.parametrize("batch", [1, 3])
def test_it_sees_through_a_window_what_the_block_sees(batch):
    rng, model = numpy.random.default_rng(0), drawn_model(0, 4, 8)
    ids, new = rng.integers(0, 31, (batch, 7)), pieces(rng.integers(0, 31, (batch, 9)))  # past where it is moved
    ours, plain = (decoded(model, ids, new, taken, cache=WindowCache(2, 4)) for taken in (True, False))
    numpy.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_it_fills_a_static_cache_in_place(batch):
    rng, model = numpy.random.default_rng(0), drawn_model(0, 4, 8)
    ids, new = rng.integers(0, 31, (batch, 5)), pieces(rng.integers(0, 31, (batch, 2)))
    caches = [StaticCache(2, batch, 4, 9, 8) for _ in range(2)]
    before = [id(a) for layer in range(2) for a in caches[0].buffers(layer)]
    ours, plain = (decoded(model, ids, new, taken, cache=c) for taken, c in zip((True, False), caches, strict=True))
    numpy.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)
    assert before == [id(a) for layer in range(2) for a in caches[0].buffers(layer)]
    for pairs in zip(*caches, strict=True):
        numpy.testing.assert_allclose(*pairs, rtol=0, atol=1e-5)


def test_a_pass_that_fails_leaves_the_cache_as_it_was(monkeypatch):
    model, ids = drawn_model(0, 2, 4), numpy.arange(6)[None]
    cache = model(ids, use_cache=True).past_key_values
    before = [[a.copy() for a in pair] for pair in cache]

    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(module, "PATIENCE", 0)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(module, "machine_code", lambda dtype: (module.describe_block, fail))
        model(ids[:, :1], past_key_values=cache)
    assert cache.length == 6
    numpy.testing.assert_array_equal([list(pair) for pair in cache], before)
    again = model(ids[:, :1], past_key_values=cache).logits
    right = model(numpy.append(ids, ids[:, :1], axis=1)).logits[:, -1:]
    numpy.testing.assert_allclose(again, right, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")  # of NumPy's, in the head
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
def test_not_a_number_stays_in_its_row(value):
    model, new = drawn_model(0, 2, 8), numpy.array([[1], [7], [3]])
    model.params["word_embeddings.weight"][7] = value
    out = decoded(model, numpy.ones((3, 4), int), [new], True)[:, -1:]
    assert numpy.isnan(out[1]).all()
    assert numpy.isfinite(out[[0, 2], :, :7]).all()  # the logit of 7 itself is NaN, as the head is that matrix


@pytest.mark.filterwarnings("error")
def test_far_keys_of_steep_heads_count_for_nothing():
    """Beyond some 90 positions weights of the first head are 0; and so are those of a score that is far below."""
    model = drawn_model(0, 8, 4)
    ids = numpy.random.default_rng(0).integers(0, 31, (1, 300))
    assert_alike(model, ids, [ids[:, :1], ids[:, :30]])


# --- the head, as the loop's last step ---


def logits_of_the_loop(model, *args, **kwargs):
    """What a call gives; and whether the loop computed its logits."""
    found, real = [], transformer.compiled_blocks

    def computed(x, params, run):
        after = real(x, params, run)
        assert after is not None
        found.append(run.logits is not None)
        return after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PATIENCE", 0)
        patch.setattr(module, "most_rows", lambda: (module.MOST, module.MOST))  # whatever the processor's vectors
        patch.setattr(transformer, "compiled_blocks", computed)
        out = model(*args, use_cache=True, **kwargs)
    return out, found == [True]


@some
@given(
    kind=st.sampled_from(sorted(module.KINDS)),
    tied=st.booleans(),
    batch=st.integers(1, 9),
    length=st.integers(1, 9),
    threads=st.sampled_from([1, 2]),
    seed=seeds,
)
def test_logits_of_last_positions_are_those_of_the_head(kind, tied, batch, length, threads, seed):
    rng, model = numpy.random.default_rng(seed), drawn_model(seed, 2, 8)
    if not tied:
        model.config = model.config.replace(tie_word_embeddings=False)
        model.params["lm_head.weight"] = rng.normal(size=(31, 16)).astype("float32")
    if kind != "float32":
        model.params = {name: small(kind, p) if p.ndim == 2 else p for name, p in model.params.items()}
    ids = rng.integers(0, 31, (batch, length))
    with threadpool_limits(threads, "blas"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARED", 0)
        last, in_loop = logits_of_the_loop(model, ids, logits_to_keep=1)
        _, of_all = logits_of_the_loop(model, ids)
    assert in_loop and of_all == (length == 1)  # of more positions the head is not the loop's
    right = model(ids, use_cache=False).logits[:, -1:]  # by the blocks, and the head behind them
    assert last.logits.shape == right.shape
    numpy.testing.assert_allclose(last.logits, right, rtol=0, atol=2e-5 * abs(right).max())


@pytest.mark.usefixtures("in_python")
def test_in_python_the_loop_has_logits_too():
    model, ids = drawn_model(0, 2, 4), numpy.arange(6).reshape(2, 3)
    out, in_loop = logits_of_the_loop(model, ids, logits_to_keep=1)
    assert in_loop
    right = model(ids, use_cache=False).logits[:, -1:]
    numpy.testing.assert_allclose(out.logits, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: small("int8", p), id="of another kind than the blocks"),
        pytest.param(lambda p: numpy.repeat(p, 2, axis=1)[:, ::2], id="a view with gaps"),
        pytest.param(lambda p: numpy.asfortranarray(p), id="column by column"),
        pytest.param(lambda p: p.view(numpy.memmap), id="a kind of array of its own"),
        pytest.param(lambda p: numpy.frombuffer(b"0" + p.tobytes(), "f4", p.size, 1).reshape(p.shape), id="unaligned"),
    ],
)
def test_a_head_of_another_kind_is_computed_behind_the_loop(change):
    model, ids = drawn_model(0, 2, 8), numpy.arange(6).reshape(2, 3)
    model.config = model.config.replace(tie_word_embeddings=False)
    plain = model.params["lm_head.weight"] = numpy.random.default_rng(0).normal(size=(31, 16)).astype("float32")
    right, in_loop = logits_of_the_loop(model, ids, logits_to_keep=1)
    assert in_loop
    model.params["lm_head.weight"] = change(plain)
    out, in_loop = logits_of_the_loop(model, ids, logits_to_keep=1)
    assert not in_loop
    numpy.testing.assert_allclose(out.logits, right.logits, rtol=0, atol=0.02 * abs(right.logits).max())


def test_a_scale_of_the_head_that_is_too_short_is_not_the_loop_s():
    model = drawn_model(0, 2, 8)
    model.params = {name: small("int8", p) if p.ndim == 2 else p for name, p in model.params.items()}
    table = model.params["word_embeddings.weight"]
    run, like = Run(model.config, 1, None, None, head=("word_embeddings.weight", 1)), table.stored
    assert len(module.head_of(model.params, run, like, 1)[0]) == 31
    model.params["word_embeddings.weight"] = Int8Weight(table.stored, table.scale[:-1].copy())
    assert len(module.head_of(model.params, run, like, 1)[0]) == 0


def test_a_head_of_many_rows_is_for_blas(monkeypatch):
    model = drawn_model(0, 2, 8)
    run, like = Run(model.config, 1, None, None, head=("word_embeddings.weight", 1)), numpy.zeros((1, 16), "float32")
    monkeypatch.setattr(module, "most_rows", lambda: (5, 9))
    lengths = [len(module.head_of(model.params, run, like, rows)[0]) for rows in (5, 6)]
    monkeypatch.setattr(module, "LARGE", 3 * 16)
    lengths += [len(module.head_of(model.params, run, like, rows)[0]) for rows in (3, 4)]
    assert lengths == [31, 0, 31, 0]


def test_with_labels_logits_are_not_the_loop_s_and_the_loss_is_there():
    model, ids = drawn_model(0, 2, 4), numpy.arange(3)[None]
    out, in_loop = logits_of_the_loop(model, ids, labels=ids)
    assert not in_loop and out.loss is not None and out.logits.shape == (1, 3, 31)


def test_hidden_states_that_are_kept_hold_no_more_memory_than_their_own():
    model, x = drawn_model(0, 2, 4), numpy.zeros((1, 1, 8), "float32")
    _, run = one_token(model.config)
    hidden = compiled_blocks(x, model.params, run)
    owner = hidden if hidden.base is None else hidden.base
    assert owner.nbytes < hidden.nbytes + 128


# --- where it is chosen ---


def one_token(config):
    mask = numpy.ones((1, 1), "int64")
    return numpy.zeros((1, 1, config.hidden_size), "float32"), Run(
        config=config, new=1, mask=mask, alibi=numpy.zeros((1, config.n_head, 1, 1), "f4"), cache=Cache(config.n_layer)
    )


def test_what_is_asked_beyond_the_result_takes_the_block(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4, layers=1)
    x, run = one_token(model.config)
    assert suits_compiled_blocks(x, model.params, run)
    monkeypatch.setattr(module, "most_rows", lambda: (module.MOST, 2**31))
    assert suits_compiled_blocks(x.repeat(module.MOST, 1), model.params, run)
    monkeypatch.setattr(module, "most_rows", lambda: (5, 2**31))  # where vectors are short
    suits = [suits_compiled_blocks(x.repeat(rows, 1), model.params, run) for rows in (15, 16)]
    assert suits == [True, False]
    monkeypatch.setattr(module, "most_rows", lambda: (module.MOST, 2**31))
    for other in (x.repeat(module.MOST + 1, 0), x.astype("float64")):
        assert not suits_compiled_blocks(other, model.params, run)
    for change in (
        {"cache": None},
        {"alibi": run.alibi.astype("float64")},
        {"watch": Trace()},
        {"rng": numpy.random.default_rng(0)},
        {"head_mask": numpy.ones((1, 2))},
        {"config": run.config.replace(slow_but_exact=True, pretraining_tp=2)},
        {"config": run.config.replace(apply_residual_connection_post_layernorm=True)},
    ):
        assert not suits_compiled_blocks(x, model.params, dataclasses.replace(run, **change)), change


@pytest.mark.parametrize("place", ["h.1.input_layernorm.bias", "h.1.mlp.dense_4h_to_h.weight", "ln_f.weight"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: p.astype("float64"), id="of another type"),
        pytest.param(lambda p: numpy.repeat(p, 2, axis=-1)[..., ::2], id="a view with gaps"),
        pytest.param(lambda p: p[..., :-1].copy(), id="too short, as loops check nothing"),
        pytest.param(lambda p: p[None], id="of more axes"),
        pytest.param(lambda p: numpy.frombuffer(b"0" + p.tobytes(), "f4", p.size, 1).reshape(p.shape), id="unaligned"),
        pytest.param(lambda p: p.view(numpy.memmap), id="a kind of array of its own"),
        pytest.param(lambda p: Int8Weight(to_int8(p, s := row_scales(p)), s) if p.ndim > 1 else p[::-1], id="int8"),
    ],
)
def test_a_parameter_of_another_kind_takes_the_plain_path(monkeypatch, place, change):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    assert compiled_blocks(x, model.params, run) is not None
    model.params[place] = change(model.params[place])
    assert compiled_blocks(x, model.params, run) is None


def test_a_scale_that_is_too_short_takes_the_plain_path(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    for name, p in model.params.items():
        model.params[name] = small("int8", p) if p.ndim == 2 else p
    assert compiled_blocks(x, model.params, run) is not None
    for name in ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
        weight = model.params[f"h.1.{name}.weight"]
        model.params[f"h.1.{name}.weight"] = Int8Weight(weight.stored, weight.scale[:-1].copy())
        assert compiled_blocks(x, model.params, run) is None
        model.params[f"h.1.{name}.weight"] = weight


def test_many_queries_of_many_keys_are_the_blocks(monkeypatch):
    """For which tiles are faster."""
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "FAR", 12)
    model = drawn_model(0, 2, 4, layers=1)
    x, run = one_token(model.config)
    suits = []
    for new, keys in ((1, 12), (1, 13), (3, 4), (3, 5)):
        run.mask = numpy.ones((1, keys), "int64")
        suits.append(suits_compiled_blocks(x.repeat(new, 1), model.params, run))
    assert suits == [True, False, True, False]


def test_several_positions_in_a_window_are_the_blocks(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4, layers=1)
    x, run = one_token(model.config)
    run.window = 3
    assert suits_compiled_blocks(x, model.params, run)
    assert not suits_compiled_blocks(x.repeat(2, 1), model.params, run)


def test_small_passes_stay_on_one_thread_and_larger_ones_are_shared(monkeypatch):
    model, ids, shared = drawn_model(0, 2, 4), numpy.ones((1, 3), int), []
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "call_together", lambda task, count: shared.append(count) or task(0))
    for least in (2 * 12 * 8 * 8 * 3 + 1, 2 * 12 * 8 * 8 * 3):
        monkeypatch.setattr(module, "SHARED", least)
        with threadpool_limits(3, "blas"):
            model(ids)
    assert shared == [1, 3]


def test_a_large_head_is_shared_though_the_blocks_are_small(monkeypatch):
    model, ids, shared = drawn_model(0, 2, 4), numpy.ones((2, 1), int), []
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "call_together", lambda task, count: shared.append(count) or task(0))
    numbers = 2 * 12 * 8 * 8 * 2 + 2 * 31 * 8
    for least in (numbers + 1, numbers):
        monkeypatch.setattr(module, "SHARED", least)
        with threadpool_limits(3, "blas"):
            model(ids, use_cache=True)
    assert shared == [1, 3]


def test_a_streamed_model_is_not_read_to_see_whether_it_suits(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    model.save_pretrained(tmp_path)
    ids = numpy.arange(5)[None]
    right = model(numpy.append(ids, [[0]], axis=1)).logits[:, -1:]
    monkeypatch.setattr(module, "machine_code", None)  # cannot be called
    streamed = BloomForCausalLM.from_pretrained(tmp_path, stream=True)
    cache = streamed(ids, use_cache=True).past_key_values
    got = streamed(ids[:, :1], past_key_values=cache).logits
    numpy.testing.assert_allclose(got, right, rtol=0, atol=1e-5)


def test_a_few_tokens_go_without_numba_and_many_wait_for_it_once(monkeypatch):
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    monkeypatch.setattr(module, "PATIENCE", 3 * 2 * 12 * 8 * 8)
    monkeypatch.setattr(_Passes, "numbers", 0)
    assert [suits_compiled_blocks(x, model.params, run) for _ in range(5)] == [False, False, False, True, True]
    monkeypatch.setattr(_Passes, "numbers", 0)
    monkeypatch.setattr(module, "at_hand", lambda: True)  # something else has imported it
    assert suits_compiled_blocks(x, model.params, run)
    assert _Passes.numbers == 0


def test_parameters_are_looked_at_again_when_another_array_is_put_there(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model, ids = drawn_model(0, 2, 4), numpy.ones((1, 3), int)
    before = model(ids).logits
    model.params["h.1.mlp.dense_4h_to_h.bias"] = (
        model.params["h.1.mlp.dense_4h_to_h.bias"] + numpy.eye(8, dtype="f4")[0]
    )
    assert abs(model(ids).logits - before).max() > 0.01
    model.params["h.1.mlp.dense_4h_to_h.bias"][0] -= 1  # in place
    numpy.testing.assert_allclose(model(ids).logits, before, rtol=0, atol=1e-5)


def test_a_parameter_that_is_changed_in_place_is_described_anew(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    for name, change in (("weight", {"strides": (4, 32)}), ("bias", {"dtype": numpy.dtype("i4")})):
        assert compiled_blocks(x, model.params, run) is not None
        kept = model.params[f"h.1.self_attention.dense.{name}"]
        changed = kept.copy()
        model.params[f"h.1.self_attention.dense.{name}"] = changed
        assert compiled_blocks(x, model.params, run) is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for attribute, value in change.items():
                setattr(changed, attribute, value)
        assert compiled_blocks(x, model.params, run) is None
        model.params[f"h.1.self_attention.dense.{name}"] = kept


def test_what_the_loop_reads_stays_in_memory_while_it_runs(monkeypatch):
    """Another thread may put other arrays into `params`, or let the cache go."""
    monkeypatch.setattr(module, "PATIENCE", 0)
    model, ids, alive = drawn_model(0, 2, 4), numpy.ones((1, 3), int), []
    caches = [Cache(2)]

    def loop(*arguments):
        name = "h.1.mlp.dense_4h_to_h.weight"
        refs = weakref.ref(model.params[name]), weakref.ref(caches[0]._keys[1])
        model.params[name] = model.params[name].copy()
        caches[0]._keys[1] = None
        alive.append([ref() is not None for ref in refs])
        raise ZeroDivisionError

    monkeypatch.setattr(module, "machine_code", lambda dtype: (module.describe_block, loop))
    with pytest.raises(ZeroDivisionError):
        model(ids, past_key_values=caches[0])
    assert alive == [[True, True]]


def test_a_cache_with_an_update_of_its_own_is_updated_by_it(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    called = []

    class Noted(Cache):
        def update(self, layer, key, value):
            called.append(layer)
            return super().update(layer, key, value)

    drawn_model(0, 2, 4)(numpy.ones((1, 3), int), past_key_values=Noted(2))
    assert called == [0, 1]


@pytest.mark.parametrize("make", [lambda: Cache(3), lambda: WindowCache(3, 12)])
def test_after_a_pass_that_failed_midway_blocks_have_rooms_of_their_own(make, monkeypatch):
    """The first has one for all that was to come, the others have what they had."""
    rng, model, outs = numpy.random.default_rng(0), drawn_model(0, 2, 4, layers=3), []
    ids = rng.integers(0, 31, (2, 10))
    monkeypatch.setattr(module, "PATIENCE", 0)

    def fail(x):
        raise ZeroDivisionError

    for taken in (True, False):
        if not taken:
            monkeypatch.setattr(transformer, "suits_compiled_blocks", lambda x, params, run: False)
        cache = make()
        model(ids, past_key_values=cache)
        with pytest.raises(ZeroDivisionError):
            model(numpy.tile(ids, (1, 20)), past_key_values=cache, trace=Trace(edits={"h.0": fail}))
        assert cache._keys[0].shape != cache._keys[2].shape
        outs.append(model(ids[:, :1], past_key_values=cache).logits)
    numpy.testing.assert_allclose(*outs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_cache_that_was_filled_with_something_else_is_the_blocks(dtype, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    zeros = numpy.zeros((1, 2, 1, 4))
    run.cache.update(0, zeros.astype("float32"), zeros.astype("float32"))
    run.cache.update(1, zeros.astype(dtype), zeros.astype(dtype))
    run.cache.advance(1)
    run.mask = numpy.ones((1, 2), "int64")
    run.cache._keys[1] = run.cache._keys[1].repeat(3, 2)  # with room
    run.cache._values[1] = run.cache._values[1].repeat(3, 2)
    assert compiled_blocks(x, model.params, run) is None


def test_a_cache_that_is_cropped_while_a_pass_begins_is_the_blocks(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    run.mask = numpy.ones((1, 9), "int64")  # made when there were 8 positions before this one
    assert compiled_blocks(x, model.params, run) is None


def test_what_is_written_into_a_view_of_the_cache_is_seen(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    rng, model, outs = numpy.random.default_rng(1), drawn_model(0, 8, 8, layers=1), []
    ids = rng.integers(0, 31, (1, 1500))
    for taken in (True, False):
        if not taken:
            monkeypatch.setattr(transformer, "suits_compiled_blocks", lambda x, params, run: False)
        cache = model(ids, logits_to_keep=1).past_key_values
        model(ids[:, :1], past_key_values=cache)
        keys, _ = cache[0]
        keys[:, :, :3] = 1000 * numpy.sign(keys[:, :, -1:])
        outs.append(model(ids[:, 60:61], past_key_values=cache).logits)
    numpy.testing.assert_allclose(*outs, rtol=0, atol=1e-4)


def test_what_is_written_into_the_buffers_of_a_static_cache_is_seen(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "most_rows", lambda: (module.MOST, module.MOST))
    model = drawn_model(1, 8, 8, layers=1)
    ids = numpy.random.default_rng(1).integers(0, 31, (1, 100))
    cache = StaticCache(1, 1, 8, 110, 8)
    model(ids, past_key_values=cache)
    assert (cache.longest_keys(0) > 0).all()
    cache.buffers(0)
    assert (cache.longest_keys(0) == -1).all()


def test_a_model_that_is_gone_is_not_kept_in_memory(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    model = drawn_model(0, 2, 4)
    model(numpy.ones((1, 3), int))
    weight = weakref.ref(model.params["h.0.mlp.dense_h_to_4h.weight"])
    del model
    assert weight() is None


# --- keys that are not read ---


def test_padding_sees_what_is_before_it():
    """The last key, by which others would be left out, is then hidden itself."""
    rng, model = numpy.random.default_rng(0), drawn_model(0, 8, 4)
    ids = rng.integers(0, 31, (2, 50))
    mask = numpy.ones((2, 51), bool)
    mask[1, 45:] = False
    assert_alike(model, ids, pieces(ids[:, :1]), mask)
    mask[1] = False  # and where nothing is, all keys alike
    assert_alike(model, ids, pieces(ids[:, :1]), mask)


def test_a_key_that_was_padding_once_may_be_seen_later():
    """So how long it is has to be known too."""
    rng, model = numpy.random.default_rng(0), drawn_model(0, 8, 4, layers=1)
    model.params["word_embeddings.weight"][7] *= 100
    ids, mask = numpy.where(numpy.arange(60) == 2, 7, rng.integers(0, 7, (1, 60))), numpy.ones((1, 61), bool)
    mask[0, 2] = False
    caches, outs = [], []
    for taken in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "PATIENCE", 0)
            if not taken:
                patch.setattr(transformer, "suits_compiled_blocks", lambda x, params, run: False)
            cache = model(ids, attention_mask=mask[:, :60], use_cache=True).past_key_values
            outs.append(model(ids[:, :1], past_key_values=cache).logits)  # which sees all
            caches.append(cache)
    assert (caches[0].longest_keys(0) >= numpy.sqrt((caches[0][0][0] ** 2).sum(-1)).max(-1) * (1 - 1e-5)).all()
    numpy.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["crop", "select", "copy", "reorder", "more"])
def test_how_long_keys_are_is_known_after_a_cache_was_changed(change, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0)
    rng, model = numpy.random.default_rng(0), drawn_model(0, 8, 4, layers=1)
    ids, new = rng.integers(0, 31, (1, 8)).repeat(3, 0), rng.integers(0, 31, (3, 1))
    cache = model(ids, use_cache=True).past_key_values
    model(new, past_key_values=cache)
    assert (cache.longest_keys(0) > 0).all()
    if change == "crop":
        cache.crop(5)
    elif change == "select":
        cache.select([2, 2, 0, 1])
    elif change == "copy":
        twin, before = cache.copy(), cache.longest_keys(0).copy()
        twin._longest[0] += 100  # as a pass does in place
        numpy.testing.assert_array_equal(cache.longest_keys(0), before)
    elif change == "reorder":
        cache.reorder([1, 0, 1], 8)
    else:
        model(rng.integers(0, 31, (3, 100)), past_key_values=cache)  # by the plain block, which does not measure
    held = cache.longest_keys(0).copy()
    longest = numpy.sqrt((cache[0][0] ** 2).sum(-1)).max(-1)  # a view, with which all is forgotten
    assert held.shape == longest.shape
    assert (held == -1).all() if change == "more" else (held >= longest * (1 - 1e-5)).all()
    assert (cache.longest_keys(0) == -1).all()


def test_the_shipped_models_first_words_do_not_wait_for_numba():
    """From the start of a process to its first word, importing it would take the most of the time."""
    code = (
        "import sys; from minibloom import BloomForCausalLM as M, BloomTokenizerFast as T; "
        "ids = T.from_pretrained()('All human beings')['input_ids']; "
        "M.from_pretrained().generate([ids], max_new_tokens=20); sys.exit('numba' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | tiny.ENVIRONMENT, check=True)


def test_without_numba_it_is_never_chosen(monkeypatch):
    model = drawn_model(0, 2, 4)
    x, run = one_token(model.config)
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "machine_code", lambda dtype: (None, None))
    assert not suits_compiled_blocks(x, model.params, run)
