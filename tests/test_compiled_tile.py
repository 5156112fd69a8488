"""A tile: each of its rows of x times each of its rows of the weight, on whatever processor Numba compiles for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.compiled import compiled
from minibloom.compiled_tile import (
    four_by_four,
    one_by_four,
    one_by_one,
    registers,
    two_by_four,
    widened,
)
from minibloom.layers.small_weights import from_bfloat16, to_bfloat16

from . import tiny
from .strategies import seeds, some

numba = pytest.importorskip("numba", reason="Numba is optional")
SIZES = {one_by_one: (1, 1), one_by_four: (1, 4), two_by_four: (2, 4), four_by_four: (4, 4)}
KINDS = ["f4", "i1", "u2", "i2"]
# Vectors of 8 numbers and 16 registers of them, as on most machines; the same without float16; and of 4, on the oldest.
SSE = "+sse,+sse2,+sse3"
AVX = f"{SSE},+ssse3,+sse4.1,+sse4.2,+avx,+popcnt"
PROCESSORS = {
    "haswell": (f"{AVX},+avx2,+fma,+f16c,+bmi,+bmi2", (8, 16, True)),
    "sandybridge": (AVX, (8, 16, False)),
    "nocona": (SSE, (4, 16, False)),
}


def one_of_one(x, weight, at, y):
    one_by_one(x, at[0], weight, at[1], at[2], at[3], y)


def one_of_four(x, weight, at, y):
    one_by_four(x, at[0], weight, at[1], at[2], at[3], y)


def two_of_four(x, weight, at, y):
    two_by_four(x, at[0], weight, at[1], at[2], at[3], y)


def four_of_four(x, weight, at, y):
    four_by_four(x, at[0], weight, at[1], at[2], at[3], y)


CALLS = {one_by_one: one_of_one, one_by_four: one_of_four, two_by_four: two_of_four, four_by_four: four_of_four}


def stored(kind, rng, shape):
    numbers = rng.normal(size=shape).astype("float32")
    if kind == "i1":
        return (40 * numbers).clip(-127, 127).astype("i1")
    return {"f4": numbers, "u2": to_bfloat16(numbers), "i2": numbers.astype("f2").view("i2")}[kind]


def assert_tile(tile, kind, m, o, far, width, ahead, seed):
    """What lies in its rows and columns of y is the product, and nothing else is written."""
    rng, (rows, columns) = numpy.random.default_rng(seed), SIZES[tile]
    x = rng.normal(size=(m + rows, width)).astype("float32")
    weight = stored(kind, rng, (o + (columns - 1) * far + 1, width))
    right = numpy.full((len(x), len(weight)), 7, "float32")
    places = [o + c * far for c in range(columns)]
    right[m:, places] = x[m:].astype("float64") @ widened(weight[places]).astype("float64").T
    code = compiled(CALLS[tile], (("f4", 2, "C"), (kind, 2, "C"), ("i8", 1, "C")), (("f4", 2, "A"),))
    if kind == "i2" and not registers(numba)[2]:
        assert code is None
        return
    calls = [code, CALLS[tile]]
    for call in calls:
        y = numpy.full((2 * len(x), 3 * len(weight)), 7, "float32")  # every second row, every third column
        call(x, weight, numpy.array([m, o, far, ahead]), y[::2, ::3])
        allowed = 1e-6 * (abs(x[m:]) @ abs(widened(weight)).T).max(initial=1)
        numpy.testing.assert_allclose(y[::2, ::3], right, rtol=0, atol=allowed)
        assert (y[1::2] == 7).all() and (y[:, 1::3] == 7).all() and (y[:, 2::3] == 7).all()


@some
@given(
    tile=st.sampled_from(list(SIZES)),
    kind=st.sampled_from(KINDS),
    m=st.integers(0, 3),
    o=st.integers(0, 3),
    far=st.integers(1, 5),
    width=st.integers(0, 70),
    ahead=st.sampled_from([0, 1, 10**6]),  # what is only asked for need not be there
    seed=seeds,
)
def test_a_tile_is_the_product_of_its_rows(tile, kind, m, o, far, width, ahead, seed):
    assert_tile(tile, kind, m, o, far, width, ahead, seed)


def test_weights_are_widened_as_they_are_elsewhere():
    bits = numpy.arange(2**16, dtype="u2")
    numpy.testing.assert_array_equal(widened(bits), from_bfloat16(bits))
    numpy.testing.assert_array_equal(widened(bits.view("i2")), bits.view("f2").astype("f4"))
    numpy.testing.assert_array_equal(widened(bits.view("i1")), bits.view("i1").astype("f4"))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="of this kind of processor")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_it_is_so_for_narrower_vectors_and_fewer_registers(processor):
    """As many sums as registers hold: else they would go through memory, which nothing but the time would tell."""
    features, expected = PROCESSORS[processor]
    environment = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    code = (
        "import numba; from tests.test_compiled_tile import *; "
        f"assert registers(numba) == {expected}, registers(numba); "
        "[assert_tile(tile, kind, 1, 2, 3, 37, 3, 0) for tile in SIZES for kind in KINDS]"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | tiny.ENVIRONMENT | environment, check=True)
