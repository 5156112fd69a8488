"""Products of a few rows, or with a small weight, by one loop over tiles: in Python as it stands, and compiled."""

from __future__ import annotations

import sys
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom import BloomConfig, BloomForCausalLM
from minibloom.layers import compiled_rows as module
from minibloom.layers import linear as layer
from minibloom.layers import row_blocks
from minibloom.layers.compiled_rows import KINDS, compiled_rows, most_rows, ready, rows_numbers, suits_compiled_rows
from minibloom.layers.linear import linear
from minibloom.threads import shared_out

from ..strategies import assert_product, normal, seeds, some
from .test_small_weights import small

numba = pytest.importorskip("numba", reason="Numba is optional")
kinds = st.sampled_from(list(KINDS))


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
    monkeypatch.setattr(module, "MANY", 0)


def kept(kind: str, matrix: numpy.ndarray) -> Any:
    """`matrix` as a weight of dtype `kind`."""
    return matrix if kind == "float32" else small(kind, matrix)


def plain(weight: Any) -> numpy.ndarray:
    return weight if isinstance(weight, numpy.ndarray) else weight.widen()


def scaled(y: numpy.ndarray, weight: Any) -> numpy.ndarray:
    return y * weight.scale if getattr(weight, "scale", None) is not None else y


@some
@given(kinds, st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), seeds)
def test_in_python_the_loop_is_the_plain_product(kind, N, O, I, seed):  # noqa: E741
    x, weight = normal(seed, N, I, dtype="float32"), kept(kind, normal(seed + 1, O, I, dtype="float32"))
    y = numpy.empty((N, O), "float32")
    rows_numbers(x, getattr(weight, "stored", weight).view(KINDS[kind]), y)
    assert_product(scaled(y, weight), x, plain(weight))


@some
@given(
    kinds,
    st.integers(1, 13),
    st.integers(1, 70),
    st.integers(1, 300),
    st.integers(-100, 60),
    st.integers(-24, 14),
    seeds,
)
def test_compiled_it_is_too_however_large_or_small_the_numbers(kind, N, O, I, large, weights, seed):  # noqa: E741
    """Among float16's there are subnormal ones."""
    x = numpy.ldexp(normal(seed, N, I, dtype="float32"), large)
    weight = kept(kind, numpy.ldexp(normal(seed + 1, O, I, dtype="float32").clip(-3, 3), weights))
    assert_product(scaled(compiled_rows(x, weight), weight), x, plain(weight))


@pytest.mark.parametrize("width", [1, 32])  # number by number, and by vectors
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_every_finite_16_bit_number_is_exact(kind, width):
    bits = numpy.arange(2**16, dtype="uint16")[:, None]
    finite = (bits & 0x7C00) < 0x7C00 if kind == "float16" else (bits & 0x7F80) < 0x7F80
    weight = small(kind, numpy.zeros((int(finite.sum()), width), "float32"))
    weight.stored[:, -1:] = bits[finite][:, None].view(weight.stored.dtype)
    x = numpy.eye(width, dtype="float32")[-1:]
    numpy.testing.assert_array_equal(compiled_rows(x, weight)[0], weight.widen()[:, -1])


@some
@given(kinds, st.integers(1, 40), st.integers(1, 20), st.integers(1, 40), st.integers(1, 9), seeds)
def test_rows_that_do_not_fit_the_cache_are_taken_in_turns(kind, N, O, I, height, seed):  # noqa: E741
    x, weight = normal(seed, N, I, dtype="float32"), kept(kind, normal(seed + 1, O, I, dtype="float32"))
    stored, y = getattr(weight, "stored", weight).view(KINDS[kind]), numpy.full((N, O), numpy.nan, "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SIZE", I * height)
        patch.setattr(module, "HEIGHT", 4)
        rows_numbers(x, stored, y)
    assert_product(scaled(y, weight), x, plain(weight))


def test_hundreds_of_rows_go_through_the_compiled_loop():
    x, weight = normal(0, 70, 4096, dtype="float32"), kept("int8", normal(1, 9, 4096, dtype="float32"))
    assert x.size > 4 * module.SIZE and len(x) > module.HEIGHT
    assert_product(scaled(compiled_rows(x, weight), weight), x, plain(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_number_and_infinity_go_through(kind):
    weight = kept(kind, numpy.ones((3, 600), "float32"))
    for value in (numpy.nan, numpy.inf):
        x = numpy.ones((2, 600), "float32")
        x[1, 5] = value
        numpy.testing.assert_array_equal(compiled_rows(x, weight)[1], [value] * 3)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_takes_it_in_parts_for_all_threads(kind, monkeypatch):
    monkeypatch.setattr(module, "SHARED", 1)
    shared, each = [], module.each
    monkeypatch.setattr(module, "each", lambda task, items: shared.append(list(items)) or each(task, items))
    monkeypatch.setattr(row_blocks, "in_blocks", None)
    monkeypatch.setattr(row_blocks, "one_row_of_int8", None)
    monkeypatch.setattr(layer, "suits_few_rows", lambda x, weight: True)  # which comes after it
    weight, bias = kept(kind, normal(0, 48, 512, dtype="float32")), normal(1, 48, dtype="float32")
    getattr(weight, "stored", weight).flags.writeable = False  # as a file that is mapped into memory
    x = normal(2, 4, 1024, dtype="float32")[:, ::2]  # not in one piece
    with threadpool_limits(3, "blas"), shared_out():
        y = linear(x, weight, bias)
    assert len(shared[0]) == 3
    assert_product(y - bias, x, plain(weight))


def test_a_little_work_stays_on_one_thread(monkeypatch):
    weight, shared = normal(0, 48, 64, dtype="float32"), []
    monkeypatch.setattr(module, "SHARED", 4 * weight.size)
    monkeypatch.setattr(module, "each", lambda task, items: shared.append(len(items)))
    with threadpool_limits(3, "blas"), shared_out():
        for rows in (1, 2, 3, 4):
            compiled_rows(normal(1, rows, 64, dtype="float32"), weight)
        monkeypatch.setattr(module, "SHARED", 2 * weight.size)
        compiled_rows(normal(1, 1, 64, dtype="float32"), weight)  # one row, for which all is read as for two
    assert shared == [1, 1, 1, 3, 3]


@pytest.mark.parametrize("lanes", module.MOST)
@pytest.mark.parametrize("kind", KINDS)
def test_how_many_rows_suit_it_depends_on_the_processor(kind, lanes, monkeypatch):
    monkeypatch.setattr(module, "registers", lambda numba: (lanes, 32, True))
    most_rows.cache_clear()
    try:
        most = module.MOST[lanes][kind != "float32"]
        weight = kept(kind, normal(1, 8, 2, dtype="float32"))
        suits = [suits_compiled_rows(numpy.zeros((N, 2), "float32"), weight) for N in (1, min(most, 999))]
        assert suits == [True, True]
        if most < 999:
            assert not suits_compiled_rows(numpy.zeros((most + 1, 2), "float32"), weight)
    finally:
        most_rows.cache_clear()


def test_what_suits_it(monkeypatch):
    matrix = normal(1, 8, 512, dtype="float32")
    x, weight = normal(0, 2, 512, dtype="float32"), small("int8", matrix)
    assert suits_compiled_rows(x, weight) and suits_compiled_rows(x, matrix)
    assert not suits_compiled_rows(x.astype("float64"), weight)
    assert not suits_compiled_rows(x, matrix.astype("float64"))
    monkeypatch.setattr(module, "MANY", matrix.size + 1)
    assert not suits_compiled_rows(x, weight)  # Numba takes long to import
    monkeypatch.setattr(module, "at_hand", lambda: True)
    assert suits_compiled_rows(x, weight)  # but it is there
    assert not suits_compiled_rows(x, numpy.asfortranarray(matrix))
    assert not suits_compiled_rows(x, numpy.frombuffer(b"0" + matrix.tobytes(), "f4", offset=1).reshape(matrix.shape))
    weight.streamed = True
    assert not suits_compiled_rows(x, weight)  # memory is short


def test_many_float32_numbers_are_left_to_blas_without_asking_numba(monkeypatch):
    matrix = normal(1, 8, 512, dtype="float32")
    monkeypatch.setattr(module, "most_rows", lambda: (2**31, 2**31))
    rows = module.MOST[16][0]
    assert suits_compiled_rows(numpy.zeros((rows, 512), "float32"), matrix)
    monkeypatch.setattr(module, "LARGE", rows * 512 - 1)
    assert not suits_compiled_rows(numpy.zeros((rows, 512), "float32"), matrix)
    monkeypatch.setattr(module, "most_rows", None)  # cannot be called
    assert not suits_compiled_rows(numpy.zeros((rows + 1, 2), "float32"), normal(1, 8, 2, dtype="float32"))


def test_a_streamed_model_takes_no_loop(monkeypatch, tmp_path):
    """Of float32, and its head, which stands outside of the blocks: Numba would take more memory than a block."""
    BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=32, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    monkeypatch.setattr(module, "ready", None)  # cannot be called
    BloomForCausalLM.from_pretrained(tmp_path, stream=True)(numpy.arange(5)[None])
    with pytest.raises(TypeError):
        BloomForCausalLM.from_pretrained(tmp_path)(numpy.arange(5)[None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_without_rows_has_a_product(kind):
    for N in range(1, 20):
        assert linear(normal(0, N, 512, dtype="float32"), kept(kind, numpy.zeros((0, 512), "float32"))).shape == (N, 0)


@pytest.mark.parametrize("installed", [False, True])
def test_without_numba_or_its_compiler_small_weights_are_widened_in_blocks(monkeypatch, installed):
    x, weight = normal(0, 1, 512, dtype="float32"), small("bfloat16", normal(1, 8, 512, dtype="float32"))
    if installed:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)  # what it then gives is the loop in Python
    else:
        monkeypatch.setitem(sys.modules, "numba", None)  # importing it is an ImportError
    ready.cache_clear()
    try:
        assert not suits_compiled_rows(x, weight)
        assert_product(linear(x, weight), x, weight.widen())
    finally:
        ready.cache_clear()


@pytest.mark.parametrize(
    "error", [RuntimeError("no locator available"), OSError(28, "No space left on device"), EOFError("a cut file")]
)
def test_where_nothing_can_be_kept_it_is_compiled_each_time(monkeypatch, error):
    njit, kept = numba.njit, []

    def nowhere(*signature, cache=False, **options):
        kept.append(cache)
        if cache:
            raise error
        return njit(*signature, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    ready.cache_clear()
    try:
        x, weight = normal(0, 1, 512, dtype="float32"), small("int8", normal(1, 8, 512, dtype="float32"))
        assert_product(linear(x, weight), x, weight.widen())
        assert kept[-2:] == [True, False]
    finally:
        ready.cache_clear()
