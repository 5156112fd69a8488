"""What tests of kernels share: both sides of a comparison, and the launches of a call.

They run on the stand-in, whose kernels are emulated, and on a GPU where there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy
import pytest
from hypothesis import settings

from minibloom.backend import load, to_numpy
from minibloom.cuda import kernels

from ..strategies import without_shrinking

on_devices = pytest.mark.usefixtures("launching")  # a fixture: a GPU needs no compiler of this machine's
examples = settings(without_shrinking, max_examples=12)  # of which each takes as long as a hundred on NumPy


@contextmanager
def launches() -> Iterator[list[str]]:
    """The names of the kernels that are launched in this block."""
    names: list[str] = []

    def counting(kernel: Any, *args: Any) -> None:
        names.append(kernel.name)
        kernels.launch(kernel, *args)

    modules = [module for name, module in sys.modules.items() if name.startswith("minibloom.cuda.")]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            if module is not kernels and hasattr(module, "launch"):
                patch.setattr(module, "launch", counting)
        yield names


def there(x: Any) -> Any:
    """Arrays of the host, also in a dictionary, on the device."""
    if isinstance(x, Mapping):
        return {name: there(value) for name, value in x.items()}
    return load("cupy").asarray(x) if isinstance(x, numpy.ndarray) else x


def wide(x: Any) -> Any:
    """The same in float64, what float32 is."""
    if isinstance(x, Mapping):
        return {name: wide(value) for name, value in x.items()}
    return x.astype("float64") if isinstance(x, numpy.ndarray) and x.dtype == "float32" else x


def assert_as_near(found: Any, plain: Any, exact: Any, size: float | None = None) -> None:
    """`found`, an array of the device, is about as near to float64 as the plain path in float32 is.

    Where that has luck, a few roundings of the largest number are allowed; or of `size`, that of the terms of its sums.
    """
    got = to_numpy(found)
    assert (got.shape, got.dtype) == (exact.shape, numpy.float32)
    rounding = 8 * numpy.finfo("float32").eps * max(abs(exact).max() if size is None else size, 1e-30)
    off, plain_off = abs(got - exact).max(), abs(plain - exact).max()
    assert off <= 4 * plain_off + rounding, (off, plain_off, rounding)
