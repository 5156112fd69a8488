"""Which array library an array belongs to, and how arrays move between libraries.

Every function of minibloom asks its argument for its namespace, `xp = namespace(x)`, and then writes
`xp.exp(x)`: the same line runs on NumPy and on CuPy. Nothing is moved from one library to the other
silently: an array of the wrong one is an error that says how to move it.
"""

from __future__ import annotations

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
    try:
        first, *others = [array.__array_namespace__() for array in arrays]
    except AttributeError:
        kinds = ", ".join(f"{type(a).__module__}.{type(a).__qualname__}" for a in arrays)
        raise InputError(f"expected NumPy or CuPy arrays, got {kinds}. Convert with numpy.asarray(...).") from None
    for other in others:
        if other is not first:
            libraries = ", ".join(a.__array_namespace__().__name__ for a in arrays)
            raise InputError(
                f"arrays of different libraries meet in one call: {libraries}. Move them to one side first, "
                "with minibloom.to_numpy(array) or cupy.asarray(array)."
            )
    return first


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
            "backend='cupy' needs CuPy, which is not installed: pip install 'minibloom[gpu]', or use backend='numpy'."
        ) from None
    if not cupy.cuda.is_available():
        raise InputError("backend='cupy' needs an NVIDIA GPU and its driver; none was found. Use backend='numpy'.")
    return cupy


def asarray(given: Any, xp: ModuleType, name: str) -> Array:
    """`given`, an array of the library `xp` or nested lists, as an array; an InputError calls it `name`."""
    library = getattr(given, "__array_namespace__", lambda: xp)()
    if library is not xp:
        raise InputError(
            f"{name} is an array of {library.__name__}, the model computes with {xp.__name__}. "
            "Move it first, with minibloom.to_numpy(array) or cupy.asarray(array)."
        )
    try:
        return xp.asarray(given)
    except ValueError:
        raise InputError(f"{name} has rows of different lengths, expected a rectangle: pad the short ones.") from None


def to_numpy(array: Array) -> numpy.ndarray:
    """`array` in host memory: itself if it is NumPy's already, a copy if it is on a device."""
    return numpy.asarray(array.get() if hasattr(array, "get") else array)
