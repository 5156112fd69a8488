"""Kernels by name: compiled by CuPy when they are first asked for, and launched."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy

from ..backend import Array, namespace

C_TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}  # what a kernel calls a dtype
LOWEST = "-3.402823466e38f"  # the lowest finite float32: CuPy compiles without C's headers, which have a name for it


def can_launch(xp: ModuleType) -> bool:
    """Whether kernels can be compiled for the arrays of `xp`: CuPy's."""
    return hasattr(xp, "RawModule")


def suits_kernels(*arrays: Array) -> bool:
    """Whether kernels of float32 can compute with `arrays`: on a device, and their numbers side by side in memory."""
    return (
        len(arrays) > 0
        and type(arrays[0]) is not numpy.ndarray
        and can_launch(namespace(*arrays))
        and all(x.size and x.dtype == "float32" and x.flags.c_contiguous for x in arrays)
    )


@functools.cache
def kernel(xp: ModuleType, file: str, name: str, **defined: str | int) -> Any:
    """The kernel `name` of `file`.cu, with the words of `defined` in it replaced, as C's `#define` does.

    `file` may name several, each of which uses what stands in those before: "tiles attention".
    """
    return _module(xp, file, tuple(f"-D{word}={text}" for word, text in sorted(defined.items()))).get_function(name)


@functools.cache
def _module(xp: ModuleType, file: str, options: tuple[str, ...]) -> Any:
    from importlib import resources  # which takes longer to import than all of minibloom's layers

    folder = resources.files(__package__)
    code = "".join((folder / f"{part}.cu").read_text(encoding="utf-8") for part in ("numbers", *file.split()))
    return xp.RawModule(code=code, options=("-std=c++17", *options))


def launch(kernel: Any, blocks: int | tuple[int, ...], threads: int, *args: Array) -> None:
    """Have the GPU run `blocks` blocks of `threads` threads. Numbers among `args` must have a NumPy dtype."""
    kernel(blocks if isinstance(blocks, tuple) else (blocks,), (threads,), args)
