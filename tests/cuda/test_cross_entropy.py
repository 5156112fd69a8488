"""The kernel of cross-entropy is the function of `losses.py`."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import losses
from minibloom.cuda import cross_entropy as kernels

from ..strategies import normal, seeds
from .kernels import assert_as_near, examples, launches, on_devices, there, wide

pytestmark = on_devices


@examples
@given(
    st.integers(1, 5), st.sampled_from([1, 2, 31, 33, 70, 200]), seeds, st.sampled_from([1.0, 20.0]),
    st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([32, 64, 1024]), st.none() | st.integers(0, 9),
)  # fmt: skip
def test_loss_and_gradient(N, V, seed, size, ignored, most, count):
    rng = numpy.random.default_rng(seed)
    z, y = normal(seed, N, V, dtype="float32") * numpy.float32(size) + numpy.float32(100), rng.integers(0, V, N)
    y[rng.random(N) < ignored] = losses.IGNORE
    with pytest.MonkeyPatch.context() as patch, launches() as names:
        patch.setattr(kernels, "MOST", most)
        loss, dz = losses.cross_entropy(there(z), there(y), count)
    assert names == ["cross_entropy"]
    (loss_32, dz_32), (loss_64, dz_64) = losses.cross_entropy(z, y, count), losses.cross_entropy(wide(z), y, count)
    assert_as_near(dz, dz_32, dz_64)
    assert (dz.get()[y == losses.IGNORE] == 0).all()
    if numpy.isnan(loss_64):
        assert numpy.isnan(loss.get()) and loss.dtype == "float32"
    else:
        assert_as_near(loss, loss_32, loss_64)


def test_a_masked_logit_and_a_small_loss():
    """-inf is a probability of 0; and a loss of 1e-6 keeps its digits beside logits of 1000."""
    z = numpy.array([[-numpy.inf, 1000.0, 1000.0 - 14.0], [-numpy.inf, -numpy.inf, 3.0]], "float32")
    loss, dz = losses.cross_entropy(there(z), there(numpy.array([1, 2])))
    expected = losses.cross_entropy(z, numpy.array([1, 2]))
    assert loss.get() == pytest.approx(expected[0], rel=1e-6) and expected[0] > 0
    numpy.testing.assert_allclose(dz.get(), expected[1], rtol=1e-6)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_largest_logit_may_be_a_thread_s_last_or_its_first(turn, monkeypatch):
    monkeypatch.setattr(kernels, "MOST", 32)
    z = numpy.linspace(-5, 5, 200, dtype="float32")[None, ::turn].copy()  # some six numbers for a thread
    loss, dz = losses.cross_entropy(there(z), there(numpy.array([7])))
    expected = losses.cross_entropy(wide(z), numpy.array([7]))
    assert loss.get() == pytest.approx(expected[0], rel=1e-6)
    numpy.testing.assert_allclose(dz.get(), expected[1], rtol=1e-5, atol=1e-9)


def test_it_is_taken_for_float32_on_a_device_alone():
    z, y = normal(0, 4, 6, dtype="float32"), numpy.arange(4)
    with launches() as names:
        losses.cross_entropy(there(wide(z)), there(y))
        losses.cross_entropy(there(z)[:, ::2], there(y // 2))  # numbers of a row that lie apart
        losses.cross_entropy(z, y)
    assert names == []
