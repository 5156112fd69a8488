"""Kernels are found by name, compiled once, and share the sums and conversions of `numbers.cu`."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy
import pytest

from minibloom.backend import to_numpy
from minibloom.cuda import kernels

from .kernels import on_devices

NUMBERS = """
extern "C" __global__ void sums(const KIND* x, float* sums, float* maxima, KIND* copy) {
    __shared__ float parts[32];
    float value = widen(x[threadIdx.x]);
    sums[threadIdx.x] = block_sum(value, parts);
    maxima[threadIdx.x] = block_max(value, parts);
    store(&copy[threadIdx.x], value);
}
"""


def test_their_text_is_ascii_as_cupy_may_write_it_to_a_file_in_the_encoding_of_the_system() -> None:
    for path in resources.files("minibloom.cuda").iterdir():
        assert not path.name.endswith(".cu") or path.read_bytes().isascii(), path.name


def test_on_a_gpu_they_run_where_no_compiler_is() -> None:
    """What the stand-in needs may keep nothing from a GPU: who marks a test so marks it for both."""
    assert on_devices.name == "usefixtures"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("threads", [32, 96, 1024])
@on_devices
def test_every_thread_is_given_the_sum_and_the_largest_of_its_block(device: Any, dtype: str, threads: int) -> None:
    x = numpy.random.default_rng(threads).integers(-9, -1, threads).astype(dtype)
    sums, maxima, copy = (device.zeros(threads, kind) for kind in ("float32", "float32", dtype))
    source = resources.files("minibloom.cuda").joinpath("numbers.cu").read_text(encoding="utf-8") + NUMBERS
    module = device.RawModule(code=source, options=(f"-DKIND={kernels.C_TYPES[dtype]}",))
    kernels.launch(module.get_function("sums"), 1, threads, device.asarray(x), sums, maxima, copy)
    assert (to_numpy(sums) == x.sum(dtype="f4")).all()
    assert (to_numpy(maxima) == x.max()).all()
    assert (to_numpy(copy) == x).all()
