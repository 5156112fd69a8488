"""Loops for what lies between products: the functions that they stand for, in Python as they are and compiled."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.compiled import EXACT, compiled
from minibloom.layers import compiled_steps as steps
from minibloom.layers import layer_norm, mlp, tiled_attention
from minibloom.layers.compiled_steps import exp, machine_code, suits_compiled_steps
from minibloom.threads import shared_out

from ..strategies import normal, seeds, some

numba = pytest.importorskip("numba", reason="Numba is optional")
EPS = 0.03
LOWEST = numpy.finfo("float32").min
NEGATIVE_NAN = numpy.array(0xFFC00000, "uint32").view("float32")[()]  # what processors make of inf - inf


def compiled_exp(x: Any) -> numpy.ndarray:
    """`exp` of each, compiled as for the loops, and not kept on the disk: changes of it would not be seen."""
    code = numba.njit(fastmath=set(EXACT))(exp)

    @numba.njit
    def of_all(x, y):
        for i in range(x.shape[0]):
            y[i] = code(x[i])

    x = numpy.asarray(x, "float32")
    y = numpy.empty_like(x)
    of_all(x, y)
    return y


def of_times(x, y):
    y[0] = times(x[0])  # noqa: F821  # a part, see `compiled`


@pytest.fixture(params=["in Python", "compiled"])
def code(request, monkeypatch):
    """The functions of the file, by their loops as they stand, or by what Numba makes of them."""
    if request.param == "in Python":
        monkeypatch.setattr(steps, "machine_code", lambda: {loop: loop for loop in steps.LOOPS})


def assert_near(got: Any, right: Any, largest: float = 1.0) -> None:
    assert got.dtype == numpy.float32 and got.shape == right.shape
    numpy.testing.assert_allclose(got, right, rtol=0, atol=2e-6 * max(largest, abs(right).max()))


def test_exp_is_right_to_the_last_digit_or_two():
    x = numpy.linspace(-63.7, 88.3, 100_001, dtype="float32")
    right = numpy.exp(x.astype("float64"))
    assert abs(compiled_exp(x) / right - 1).max() < 1.3e-7
    assert abs(numpy.array([exp(a) for a in x[::1000]]) / right[::1000] - 1).max() < 1.3e-7


def test_exp_at_its_ends():
    x = [0.0, -0.0, -63.8, -100.0, -1e30, -math.inf, LOWEST, 89.0, 1e30, math.inf, math.nan]
    right = [1, 1, 0, 0, 0, 0, 0, math.inf, math.inf, math.inf, math.nan]
    numpy.testing.assert_array_equal(compiled_exp(x), numpy.array(right, "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns that no whole number is NaN
        numpy.testing.assert_array_equal([exp(numpy.float32(a)) for a in x], numpy.array(right, "float32"))


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1e12])
def test_gelu_and_its_backward(size):
    x, dy = (size * normal(0, 3, 2, 37)).astype("float32"), normal(1, 3, 2, 37, dtype="float32")
    with numpy.errstate(all="ignore"):
        right = mlp.gelu(x.astype("float64"))
        assert_near(steps.gelu(x), right, size)
        right = mlp.gelu_backward(dy.astype("float64"), x.astype("float64"))
        assert_near(steps.gelu_backward(dy, x), right)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("keep", [True, False])
def test_bias_and_gelu_at_once_are_both_one_after_the_other_to_the_bit(keep):
    up, bias = normal(0, 3, 2, 37, dtype="float32"), normal(1, 74, dtype="float32")[::2]
    total, given = up + bias, up.copy()
    act = steps.bias_gelu(given, bias, keep)
    numpy.testing.assert_array_equal(act, steps.gelu(total))
    numpy.testing.assert_array_equal(given, total if keep else act)


@pytest.mark.parametrize("step", ["dense_h_to_4h", "gelu"])
def test_a_large_mlp_is_the_same_to_the_bit_whoever_watches(monkeypatch, step):
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=32, n_layer=2, n_head=2), dtype="float32")
    for p in model.params.values():
        p += normal(0, *p.shape).astype("float32") / 10
    monkeypatch.setattr(steps, "MANY", 0)
    ids, trace = numpy.arange(20)[None], Trace(f"*.mlp.{step}")
    alone = model(ids).logits
    numpy.testing.assert_array_equal(model(ids, trace=trace).logits, alone)
    assert set(trace) == {f"h.{i}.mlp.{step}" for i in range(2)}
    whole = Trace()
    numpy.testing.assert_array_equal(model(ids, trace=whole).logits, alone)
    numpy.testing.assert_array_equal(whole[f"h.1.mlp.{step}"], trace[f"h.1.mlp.{step}"])
    tape = model.value_and_grad(ids, labels=ids)[1]
    monkeypatch.setattr(steps, "MANY", 2**60)
    for name, right in model.value_and_grad(ids, labels=ids)[1].items():
        assert_near(tape[name], right, abs(right).max())


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 37), (5, 64)])
def test_layer_norm_and_its_backward(shape):
    x, dy = 3 + normal(0, *shape), normal(1, *shape)
    weight, bias = 1 + normal(2, shape[-1]), normal(3, shape[-1])
    given = [a.astype("float32") for a in (x, dy, weight, bias)]
    x, dy, weight, bias = (a.astype("float64") for a in given)
    right = layer_norm.layer_norm(x, weight, bias, EPS)
    assert_near(steps.layer_norm(given[0], *given[2:], EPS), right)
    got = steps.layer_norm_backward(given[1], given[0], given[2], EPS)
    for ours, theirs in zip(got, layer_norm.layer_norm_backward(dy, x, weight, EPS), strict=True):
        assert_near(ours, theirs, 10.0)


@st.composite
def tiles(draw: st.DrawFn) -> dict[str, Any]:
    """Scores of some heads, and what is known when a tile of them is weighed."""
    G, N, K = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 40))
    seed = draw(seeds)
    rng = numpy.random.default_rng(seed)
    size = draw(st.sampled_from([0.1, 3.0, 300.0]))
    scores = (size * rng.standard_normal((G, N, K))).astype("float32")
    alibi = (draw(st.sampled_from([0.01, 1.0, 30.0])) * numpy.arange(K)[None, None]).astype("float32").repeat(G, 0)
    alibi *= numpy.arange(1, G + 1, dtype="float32")[:, None, None]  # each head its own
    M = draw(st.integers(0, K))
    seen = rng.random((N, M)) < draw(st.sampled_from([0.0, 0.5, 1.0])) if M else None
    earlier = draw(st.booleans())
    top = (scores.max(-1, keepdims=True) + rng.standard_normal((G, N, 1))).astype("float32")
    return {"scores": scores, "alibi": alibi, "seen": seen, "top": top if earlier else numpy.full_like(top, LOWEST)}


@pytest.mark.parametrize("in_python", [True, False])
@some
@given(tiles(), seeds)
def test_weights_of_a_tile_and_their_backward(in_python, tile, seed):
    with pytest.MonkeyPatch.context() as patch:
        if in_python:
            patch.setattr(steps, "machine_code", lambda: {loop: loop for loop in steps.LOOPS})
        ours, theirs = tile["scores"].copy(), tile["scores"].astype("float64")
        rest = tile["alibi"], tile["seen"], tile["top"]
        before = tile["top"].copy()
        top, total = steps.weigh(ours, *rest)
        right_top, right_total = tiled_attention._weigh(theirs, *rest[:2], rest[2].astype("float64"))
        numpy.testing.assert_array_equal(tile["top"], before)  # which others have too
        lowest = right_top < -1e38  # rows that see nothing: the lowest number, in each dtype another
        numpy.testing.assert_allclose(
            numpy.where(lowest, 0, top), numpy.where(lowest, 0, right_top), rtol=1e-6, atol=1e-6
        )
        rounding = 1e-7 * max(1.0, abs(numpy.where(lowest, 0, right_top)).max())  # of a score, of which exp is taken
        right_weights = numpy.where(lowest, ours, theirs)
        numpy.testing.assert_allclose(ours, right_weights, rtol=20 * rounding, atol=1e-7)
        numpy.testing.assert_allclose(total, numpy.where(lowest, total, right_total), rtol=20 * rounding, atol=1e-6)
        assert (ours[~lowest.repeat(ours.shape[2], 2)] >= 0).all()
        assert not ((ours > 0) & (ours < 2.0**-93)).any()  # see `subnormals.py`

        d = numpy.random.default_rng(seed).standard_normal(ours.shape).astype("float32")
        right, total = d.astype("float64"), numpy.maximum(total, 1e-3)
        tiled_attention._weigh_backward(right, ours.astype("float64"), total.astype("float64"))
        steps.weigh_backward(d, ours, total)
        assert_near(d, right, abs(right).max() + 1)


@pytest.mark.parametrize("nan", [numpy.nan, NEGATIVE_NAN])
def test_what_is_no_number_goes_through(nan):
    x = normal(0, 4, 64, dtype="float32")
    x[1, 5] = nan
    ones = numpy.ones(64, "float32")
    for y in (steps.layer_norm(x, ones, ones, EPS), steps.layer_norm_backward(x, x, ones, EPS)[0]):
        assert numpy.isnan(y[1]).all() and numpy.isfinite(y[[0, 2, 3]]).all()
    for y in (steps.gelu(x), steps.gelu_backward(x, x)):
        assert numpy.isnan(y[1, 5]) and numpy.isnan(y).sum() == 1
    scores, alibi, top = x[None].copy(), numpy.zeros((1, 1, 64), "float32"), numpy.full((1, 4, 1), LOWEST)
    _, total = steps.weigh(scores, alibi, None, top)
    assert numpy.isnan(scores[0, 1]).all() and numpy.isnan(total[0, 1, 0])
    assert numpy.isfinite(scores[0, [0, 2, 3]]).all() and numpy.isfinite(total[0, [0, 2, 3], 0]).all()


def test_parts_and_views_are_taken_and_shared_out(monkeypatch):
    """More rows than one thread is given, of arrays that are not in one piece, or not to be written."""
    x = normal(0, 300, 2048, dtype="float32")[:, ::2]
    dy, weight = normal(1, 300, 1024, dtype="float32"), numpy.broadcast_to(numpy.float32(2), (1024,))
    shared, each = [], steps.each
    monkeypatch.setattr(steps, "each", lambda task, items: shared.append(list(items)) or each(task, items))
    with threadpool_limits(3, "blas"), shared_out():
        got = steps.layer_norm(x, weight, weight, EPS)
        got_backward = steps.layer_norm_backward(dy, x, weight, EPS)
        act = steps.gelu(x)
    assert len(shared[0]) >= 3
    assert_near(got, layer_norm.layer_norm(x.astype("float64"), weight, weight, EPS))
    right = layer_norm.layer_norm_backward(dy.astype("float64"), x.astype("float64"), weight, EPS)
    for ours, theirs in zip(got_backward, right, strict=True):
        assert_near(ours, theirs, 10.0)
    assert_near(act, mlp.gelu(x.astype("float64")))


def test_what_suits_it(monkeypatch):
    x, half = numpy.zeros(3, "float32"), numpy.zeros(3, "float16")
    assert suits_compiled_steps(steps.MANY, x) and suits_compiled_steps(steps.MANY, x, x)
    assert not suits_compiled_steps(steps.MANY - 1, x)  # Numba takes long to import
    with monkeypatch.context() as patch:
        patch.setattr(steps, "at_hand", lambda: True)  # but it is there
        assert suits_compiled_steps(steps.FEW, x) and not suits_compiled_steps(steps.FEW - 1, x)
    assert not suits_compiled_steps(steps.MANY, x, x.astype("float64"))
    assert not suits_compiled_steps(steps.MANY, half)


def test_loops_check_nothing_so_shapes_that_do_not_fit_are_not_theirs(monkeypatch):
    x, row = numpy.zeros((4, 6), "float32"), numpy.zeros(6, "float32")
    many = steps.MANY
    assert suits_compiled_steps(many, x, x, rows=(row, row), others=(x[:2],))
    assert not suits_compiled_steps(many, x, x[:2])
    for wrong in (row[:1], row[:5], row[None], numpy.zeros(7, "float32")):
        assert not suits_compiled_steps(many, x, rows=(row, wrong))
    monkeypatch.setattr(steps, "MANY", 0)
    with pytest.raises(ValueError, match="broadcast"):
        layer_norm.layer_norm(x, row[:5], row, EPS)
    with pytest.raises(ValueError):
        layer_norm.layer_norm_backward(x[:2], x, row, EPS)


@pytest.mark.parametrize("module", ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "self_attention.dense"])
def test_a_float64_matrix_in_a_float32_model_is_numpys(monkeypatch, module):
    """Forward, and backward, where what arrives is float64 then."""
    model = BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=32, n_layer=1, n_head=2), dtype="float32")
    model.params[f"h.0.{module}.weight"] = model.params[f"h.0.{module}.weight"].astype("float64")
    ids = numpy.arange(20)[None]
    monkeypatch.setattr(tiled_attention, "LARGE", 0)
    right = model.value_and_grad(ids, labels=ids)
    monkeypatch.setattr(steps, "MANY", 0)
    out, grads = model.value_and_grad(ids, labels=ids)
    numpy.testing.assert_allclose(out.logits, right[0].logits, rtol=0, atol=1e-5)
    for name, expected in right[1].items():
        numpy.testing.assert_allclose(grads[name], expected, rtol=0, atol=1e-5)


def test_a_streamed_model_takes_no_loop(monkeypatch, tmp_path):
    BloomForCausalLM(BloomConfig(vocab_size=31, hidden_size=32, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    monkeypatch.setattr(steps, "MANY", 0)
    monkeypatch.setattr(steps, "machine_code", None)  # cannot be called
    BloomForCausalLM.from_pretrained(tmp_path, stream=True)(numpy.arange(20)[None])
    with pytest.raises(TypeError):
        BloomForCausalLM.from_pretrained(tmp_path)(numpy.arange(20)[None])


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError, AttributeError])
def test_a_numba_that_does_not_run_here_is_as_none(monkeypatch, tmp_path, error):
    (tmp_path / "numba.py").write_text(f"raise {error.__name__}('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba")
    assert compiled(steps.gelu_numbers, *steps.LOOPS[steps.gelu_numbers]) is None


def test_machine_code_that_was_kept_is_not_that_of_parts_that_changed(monkeypatch, tmp_path):
    """Numba looks at the file of the loop alone."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    answers = []
    for factor in (2, 3):
        (tmp_path / "part.py").write_text(f"def times(x):\n    return {factor} * x\n")
        part: dict[str, Any] = {}
        exec(compile((tmp_path / "part.py").read_text(), str(tmp_path / "part.py"), "exec"), part)
        code = compiled(of_times, (("f4", 1, "C"),), (("f4", 1, "C"),), {part["times"]: EXACT})
        y = numpy.empty(1, "float32")
        code(numpy.ones(1, "float32"), y)
        answers.append(y[0])
        assert list(tmp_path.rglob("*.nbi"))
    assert answers == [2, 3]


@pytest.mark.parametrize("installed", [False, True])
def test_without_numba_or_its_compiler_numpy_computes(monkeypatch, installed):
    if installed:
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    else:
        monkeypatch.setitem(sys.modules, "numba", None)
    machine_code.cache_clear()
    try:
        assert not suits_compiled_steps(steps.MANY, numpy.zeros(3, "float32"))
    finally:
        machine_code.cache_clear()


def test_each_layer_asks_for_it(monkeypatch):
    """Where it is chosen, what is computed is what the plain way gives."""
    x = normal(0, 4, 16, dtype="float32")
    weight, bias = numpy.ones(16, "float32"), numpy.zeros(16, "float32")
    plain = layer_norm.layer_norm(x, weight, bias, EPS), layer_norm.layer_norm_backward(x, x, weight, EPS)
    monkeypatch.setattr(steps, "MANY", 4 * x.size)
    taken = []
    for name in ("layer_norm", "layer_norm_backward"):
        one = getattr(steps, name)
        monkeypatch.setattr(steps, name, lambda *given, one=one, name=name: taken.append(name) or one(*given))
    assert_near(layer_norm.layer_norm(x, weight, bias, EPS), plain[0])
    assert_near(layer_norm.layer_norm_backward(x, x, weight, EPS)[0], plain[1][0])
    assert taken == ["layer_norm", "layer_norm_backward"]
    monkeypatch.setattr(steps, "MANY", 4 * x.size + 1)
    layer_norm.layer_norm(x, weight, bias, EPS)
    assert len(taken) == 2
