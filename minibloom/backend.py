"""Which array library an array belongs to, and how arrays move between libraries.

Every function of minibloom asks its argument for its namespace, `xp = namespace(x)`, and then writes
`xp.exp(x)`: the same line runs on NumPy and on CuPy. Nothing is moved from one library to the other
silently: an array of the wrong one is an error that says how to move it. There are two places where arrays move:

    to the device    what a model is called with, ids, masks and labels, and parameters as they are read: `asarray`
    to the host      what is shown, written, or decided there, by a call that says so: `to_numpy`, `number`
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy

from .errors import InputError, suggest

Array = Any  # numpy.ndarray or cupy.ndarray: the two share the interface that is used here
BACKENDS = ("numpy", "cupy")


def namespace(*arrays: Array) -> ModuleType:
    """The one array library (NumPy or CuPy) that all `arrays` belong to. Mixing libraries is an error."""
    for array in arrays:
        if type(array) is not numpy.ndarray:
            break
    else:  # by far the most common case, and every layer asks
        return numpy
    libraries = [library(array) for array in arrays]
    if None in libraries:
        kinds = ", ".join(f"{type(a).__module__}.{type(a).__qualname__}" for a in arrays)
        raise InputError(f"expected NumPy or CuPy arrays, got {kinds}. Convert with numpy.asarray(...).")
    first, *others = [found for found in libraries if found is not None]
    if any(other is not first for other in others):
        names = ", ".join(found.__name__ for found in (first, *others))
        raise InputError(
            f"arrays of different libraries meet in one call: {names}. Move them to one side first, "
            "with minibloom.to_numpy(array) or cupy.asarray(array)."
        )
    return first


def library(array: Any) -> ModuleType | None:
    """The array library that `array` belongs to; None if it is no array."""
    if type(array).__module__ == "cupy":  # whose arrays have no `__array_namespace__`
        return sys.modules["cupy"]
    own = getattr(array, "__array_namespace__", None)
    return None if own is None else own()


def load(backend: str) -> ModuleType:
    """The array library called `backend`: "numpy", or "cupy" where a CUDA device can be used."""
    if backend == "numpy":
        return numpy
    if backend != "cupy":
        raise InputError(f"backend={backend!r} is unknown, expected one of {BACKENDS}.{suggest(backend, BACKENDS)}")
    try:
        import cupy
    except ImportError:
        raise InputError(
            "backend='cupy' needs CuPy, which is not installed: pip install 'cupy-cuda13x[ctk]' ml_dtypes, or use "
            "backend='numpy'."
        ) from None
    if not cupy.cuda.is_available():
        raise InputError(f"backend='cupy' needs an NVIDIA GPU and its driver; {_missing(cupy)}. Use backend='numpy'.")
    return cupy


def _missing(cupy: ModuleType) -> str:
    """Why CuPy can use no GPU, in words; it says no more than that itself."""
    try:
        driver, own = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    except Exception:  # whatever a broken driver makes of it
        driver = own = 0
    if not driver or driver // 1000 >= own // 1000:
        return "none was found"
    return (
        f"there is a driver, for CUDA {cuda_version(driver)}, but this CuPy is for {cuda_version(own)}: get a newer "
        f"driver, or that driver's CuPy, by pip uninstall cupy-cuda{own // 1000}x and pip install "
        f"'cupy-cuda{driver // 1000}x[ctk]'"
    )


def cuda_version(version: int) -> str:
    """CUDA's version in words: 13020 -> "13.2"."""
    return f"{version // 1000}.{version % 1000 // 10}"


def received(given: Any, xp: ModuleType, name: str) -> tuple[numpy.ndarray, Array]:
    """What a caller gave, twice: on the host, to be checked there, and in the library `xp`, to compute with.

    `given`: nested lists, an array of the host, or one of `xp`. An InputError calls it `name`.
    """
    array = asarray(given, xp, name)
    return (array if xp is numpy else to_numpy(array if library(given) is xp else given)), array


def asarray(given: Any, xp: ModuleType, name: str, move: bool = True) -> Array:
    """`given`, nested lists or an array, as an array of the library `xp`; an InputError calls it `name`.

    Lists and arrays of the host are copied to the device here: without `move`, only lists, for what is too large to be
    moved unasked. An array of a device is never moved to another place.
    """
    found = library(given)
    if found not in (None, xp) and not (move and found is numpy):
        raise InputError(
            f"{name} is an array of {found.__name__}, the model computes with {xp.__name__}. "
            "Move it first, with minibloom.to_numpy(array) or cupy.asarray(array)."
        )
    try:
        return xp.asarray(given if found is xp else numpy.asarray(given))
    except ValueError:
        raise InputError(f"{name} has rows of different lengths, expected a rectangle: pad the short ones.") from None
    except (TypeError, RuntimeError) as error:  # a tensor of torch, as it says, on a device, say, or with a gradient
        raise InputError(f"{name} is no array that NumPy can read: {error}") from None


def to_numpy(array: Array) -> numpy.ndarray:
    """`array` in host memory: itself if it is NumPy's already, a copy if it is on a device."""
    return numpy.asarray(array.get() if hasattr(array, "get") else array)


def number(x: Array) -> Any:
    """A single number as one of Python's. Where it is on a device, the host waits for it here."""
    return to_numpy(x).item()
