"""Kernels by name: compiled by CuPy when they are first asked for, and launched."""

from __future__ import annotations

import functools
from importlib import resources
from types import ModuleType
from typing import Any

from ..backend import Array

C_TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}  # what a kernel calls a dtype


def can_launch(xp: ModuleType) -> bool:
    """Whether kernels can be compiled for the arrays of `xp`: CuPy's."""
    return hasattr(xp, "RawModule")


@functools.cache
def kernel(xp: ModuleType, file: str, name: str, **defined: str | int) -> Any:
    """The kernel `name` of `file`.cu, with the words of `defined` in it replaced, as C's `#define` does."""
    return _module(xp, file, tuple(f"-D{word}={text}" for word, text in sorted(defined.items()))).get_function(name)


@functools.cache
def _module(xp: ModuleType, file: str, options: tuple[str, ...]) -> Any:
    folder = resources.files(__package__)
    code = "".join((folder / f"{part}.cu").read_text(encoding="utf-8") for part in ("numbers", file))
    return xp.RawModule(code=code, options=("-std=c++17", *options))


def launch(kernel: Any, blocks: int | tuple[int, ...], threads: int, *args: Array) -> None:
    """Have the GPU run `blocks` blocks of `threads` threads. Numbers among `args` must have a NumPy dtype."""
    kernel(blocks if isinstance(blocks, tuple) else (blocks,), (threads,), args)
