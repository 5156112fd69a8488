"""16-bit weights on a device: a product differs from the plain one by the rounding of what goes in and comes out."""

from __future__ import annotations

import sys
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import InputError
from minibloom.backend import namespace, to_numpy
from minibloom.layers.embedding import embedding
from minibloom.layers.linear import linear, sliced_linear
from minibloom.layers.small_weights import BFloat16Weight, Float16Weight, SmallWeight
from minibloom.layers.tensor_cores import bfloat16, half_product

from .. import standin
from ..bridge import silent
from ..strategies import normal, seeds, some
from .test_small_weights import small

pytest.importorskip("ml_dtypes", reason="bfloat16 needs the extra `test`")

HALVES = ("float16", "bfloat16")
STEP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # what rounding a number to 16 bits changes at most, of the number


def twins(device: Any, kind: str, matrix: numpy.ndarray) -> tuple[SmallWeight, SmallWeight]:
    """The same small weight on the host and on the device."""
    host = small(kind, matrix)
    return host, type(host)(device.asarray(host.stored))  # type: ignore[call-arg]


@some
@given(st.sampled_from(HALVES), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), seeds)
def test_a_product_is_rounded_once_on_the_way_in_and_once_on_the_way_out(device, kind, N, O, I, seed):  # noqa: E741
    host, there = twins(device, kind, normal(seed, O, I, dtype="float32"))
    x, wide = normal(seed + 1, N, I, dtype="float32"), host.widen().astype("float64")
    with silent(device):
        y = linear(device.asarray(x), there)
    assert namespace(y) is device and y.dtype == "float32"
    dtype = bfloat16() if kind == "bfloat16" else kind
    exact = (x if N == O == 1 else x.astype(dtype)).astype("float64") @ wide.T
    size = numpy.abs(x) @ numpy.abs(wide).T  # what float32's rounding is measured against
    off = numpy.abs(to_numpy(y) - exact)
    assert (off <= STEP[kind] * numpy.abs(exact) + 1e-6 * size + 2.0**-25).all()  # 2^-25: below it, float16 has no step
    plain = x.astype("float64") @ wide.T
    assert (numpy.abs(to_numpy(y) - plain) <= 2.1 * STEP[kind] * size + 2.0**-25).all()


@pytest.mark.parametrize("kind", HALVES)
def test_a_single_number_is_the_plain_product(device, kind):
    """CuPy would round each of its 2,000 products."""
    host, there = twins(device, kind, normal(0, 1, 2000, dtype="float32"))
    x = normal(1, 1, 2000, dtype="float32")
    y = to_numpy(half_product(device.asarray(x), there))
    numpy.testing.assert_allclose(y, x.astype("float64") @ host.widen().T.astype("float64"), rtol=1e-4)


@pytest.mark.parametrize("kind", HALVES)
def test_leading_axes_a_bias_slices_and_rows_by_number(device, kind):
    host, there = twins(device, kind, normal(0, 7, 6, dtype="float32"))
    bias, x, ids = normal(1, 7, dtype="float32"), normal(2, 2, 3, 6, dtype="float32"), numpy.array([[6, 0], [3, 3]])
    plain = linear(x, host.widen(), bias)
    with silent(device):
        x_there, bias_there = device.asarray(x), device.asarray(bias)
        y = linear(x_there, there, bias_there)
        sliced = sliced_linear(x_there, there, bias_there, 3)
        rows = embedding(device.asarray(ids), there)
    numpy.testing.assert_allclose(to_numpy(y), plain, atol=20 * STEP[kind])
    numpy.testing.assert_allclose(to_numpy(sliced), plain, atol=1e-5)  # of slices, the weight is widened
    numpy.testing.assert_array_equal(to_numpy(rows), host.widen()[ids])


@pytest.mark.parametrize("kind", HALVES)
def test_a_weight_says_where_it_is(device, kind):
    host, there = twins(device, kind, normal(0, 7, 6, dtype="float32"))
    assert (namespace(host), namespace(there)) == (numpy, device)
    assert (there.shape, there.nbytes, there.dtype) == ((7, 6), 84, kind)
    numpy.testing.assert_array_equal(to_numpy(there), host.widen())
    with pytest.raises(InputError, match="different libraries"):
        namespace(there, numpy.ones(6))


def test_what_is_not_finite_is_no_float16_weight_there_either(device):
    with pytest.raises(InputError, match="holds NaN or infinity"), silent(device):
        Float16Weight(device.asarray(numpy.array([[1, numpy.inf]], "float16")))


def test_without_ml_dtypes_bfloat16_says_what_is_missing(device, monkeypatch):
    weight = BFloat16Weight(device.asarray(numpy.zeros((2, 2), "uint16")))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # importing it now fails
    with pytest.raises(InputError, match="needs ml_dtypes, which is not installed"):
        linear(device.zeros((3, 2), "float32"), weight)


def test_the_stand_in_has_no_other_product_in_16_bits():
    cupy = standin.cupy
    for a, b in (((2, 2, 3), (3, 2)), ((2, 3), (3,)), ((3,), (3, 2))):
        with pytest.raises(TypeError, match="slow, or fails"):
            cupy.ones(a, "float16") @ cupy.ones(b, "float16")
    with pytest.raises(TypeError, match="slow, or fails"):
        cupy.ones((2, 3), "float16") @ cupy.ones((3, 2), "float32")
    a, b = (cupy.asarray(normal(seed, 2, 2000).astype("float16")) for seed in (0, 1))
    exact = (a.get().astype("float64") @ b.get().T.astype("float64")).astype("float16")
    numpy.testing.assert_array_equal((a @ b.T).get(), exact)  # the sum is rounded, and nothing before it
    assert (a[:1] @ b[:1].T).get() != exact[0, 0]  # of a single number, the products too
