"""Memory: what there is of it, and what is said where it does not suffice.

On the host, the system finds room or ends the program: there, only what could never fit is refused. A GPU has what it
has, so an error says what was needed, what was free, and what would fit.
"""

from __future__ import annotations

import math
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy

from .errors import OutOfMemory


def size(count: int) -> str:
    """Return a number of bytes in words: 1234567 -> "1.2 MB"."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def free_and_total(xp: ModuleType) -> tuple[int, int]:
    """Bytes of the device of the library `xp`: those that are free, for CuPy's pool or in it, and all."""
    free, total = xp.cuda.runtime.memGetInfo()
    return free + xp.get_default_memory_pool().free_bytes(), total


def physical_memory() -> int:
    """Bytes of memory that this machine has; without end where the system does not tell."""
    told = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return told if told > 0 else sys.maxsize


def all_memory(xp: ModuleType) -> int:
    """Bytes of memory where the library `xp` computes, used ones too."""
    return physical_memory() if xp is numpy else free_and_total(xp)[1]


def check_room(
    xp: ModuleType, shapes: Iterable[tuple[int, ...]], dtype: str, what: str, weights: str | None = None
) -> None:
    """An error, before any work, if a device has no room for parameters of `shapes`; `what` has them.

    They are of `dtype`, matrices of `weights` if that is given; "float16" and "bfloat16" are 2 bytes a number.
    """
    if xp is numpy:
        return
    free, total = free_and_total(xp)
    width = numpy.dtype(dtype).itemsize
    in_matrix = 2 if weights in ("float16", "bfloat16") else width
    sizes = [(math.prod(shape), in_matrix if len(shape) == 2 else width) for shape in shapes]
    numbers, needed = sum(count for count, _ in sizes), sum(count * each for count, each in sizes)
    if needed > free:
        raise OutOfMemory(
            f"{what} has {numbers:,} parameters and needs {size(needed)} for them in {weights or dtype}; {size(free)} "
            f"of the GPU's {size(total)} are free. {free * numbers // needed:,} parameters would fit. backend='numpy' "
            "keeps them in the host's memory."
        )


def run_in(function: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
    """`function(owner, ...)`, a method that computes on the device of `owner.xp`; an error says what that lacks.

    `owner.what_fits(method, free, *args, **kwargs)` says what the same call would have room for.
    """
    try:
        return function(owner, *args, **kwargs)
    except owner.xp.cuda.memory.OutOfMemoryError as error:
        asked = getattr(error, "_size", 0)  # bytes of the one array that there was no room for
    free, total = free_and_total(owner.xp)  # only here, where what was computed until then is gone
    raise OutOfMemory(
        f"the GPU has no room for this: {size(free)} of its {size(total)} were free, and then {size(asked)} more were "
        f"needed at once. {owner.what_fits(function.__name__, free, *args, **kwargs)}"
    )


def pass_bytes(c: Any, rows: int, new: int, past: int, each: int, training: bool, recompute: bool, tiled: bool) -> int:
    """About what a pass of a language model of config `c` needs beside its parameters; a number has `each` bytes.

    Where attention is not `tiled`, its scores and probabilities are the largest arrays there are.
    """
    E, L, T = c.hidden_size, c.n_layer, past + new
    scores = 0 if tiled else c.n_head * T  # of each query
    block = new * (2 * scores + 14 * E)  # at work
    kept = new * (scores + 16 * E)  # of a block, for backward
    logits = new * c.vocab_size * (3 if training else 1)
    if not training:
        return each * rows * (block + logits + 2 * L * T * E)  # with keys and values
    tape = kept + L * new * E if recompute else L * kept
    return each * rows * (block + logits + tape)


def what_fits(
    c: Any, free: int, rows: int, new: int, past: int, each: int, training: bool, recompute: bool, tiled: bool
) -> str:
    """How much of a pass over `new` tokens of `rows` rows fits into `free` bytes, in words."""

    def fitting(rows: int, new: int, recompute: bool) -> str:
        def need(rows: int, new: int) -> int:
            gradients = 12 * c.n_layer * E * E + c.vocab_size * E if training else 0
            return pass_bytes(c, rows, new, past, each, training, recompute, tiled) + each * gradients

        E = c.hidden_size
        some = bisect_right(range(1, rows), free, key=lambda n: need(n, new))  # fewer than were given, in any case
        if some:
            return f"{some} rows of {new} tokens" if some > 1 else f"one row of {new} tokens"
        fewer = bisect_right(range(1, new), free, key=lambda n: need(1, n))
        return f"one row of {fewer} tokens" if fewer else "not one token"

    said = f"By an estimate, {fitting(rows, new, recompute)} would fit"
    if training and not recompute:
        said += f", and with recompute=True {fitting(rows, new, True)}"
    return f"{said}, of {rows} x {new}."
