"""What loops need that several threads compute together, and that Python has no words for.

A thread that sleeps takes a tenth of a millisecond to be woken, and one that returns to Python waits for its lock. So
what consists of many short steps is called once by each thread. Each step's work lies in parts: whoever is free takes
the next, by a count that only one at a time can raise, and goes on to the next step when all parts of this are done.
Nobody waits for a thread that has not come: where another program has its core, the others take all parts. They wait
for one that has begun a part and then lost its core, and meanwhile offer theirs to whoever waits for them.

The functions here say what is meant, and a single thread can run them in Python. `team_as_machine_code` has those that
`compiled.py` puts in their places: a processor's own instructions for it, as LLVM, which Numba compiles by, names them.
"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
import time
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy

from .backend import Array

PATIENCE = 2**8  # times that a thread looks before it gives way, some 3 us on an AMD EPYC (Zen 4)
TAKEN, DONE, WIDTH = 0, 8, 16  # where in a step's row of `counts` they stand: apart, as cores hand on 64 bytes at once


def counts_of(steps: int) -> Array:
    """Nothing taken and nothing done: `[steps, WIDTH]`, to be counted in once."""
    return numpy.zeros((steps, WIDTH), "int64")


def raised(counts: Array, step: int, what: int) -> int:
    """Raise `counts[step, what]` by one -> what it was: to each thread another number."""
    before = counts[step, what]
    counts[step, what] += 1
    return before


def count(counts: Array, step: int, what: int) -> int:
    """`counts[step, what]`, as other threads have left it."""
    return counts[step, what]


def give_way() -> None:
    """Let another thread have this one's core, if one waits for it."""
    time.sleep(0)


def parts_of_step(counts: Array, step: int, parts: int) -> Iterator[int]:
    """The numbers from 0 to `parts - 1` that are this thread's to compute; and an end when all threads' are done."""
    part = raised(counts, step, TAKEN)
    while part < parts:
        yield part
        raised(counts, step, DONE)
        part = raised(counts, step, TAKEN)
    looks = 0
    while count(counts, step, DONE) < parts:
        looks += 1
        if looks % PATIENCE == 0:  # who computes the last part may wait for this very core
            give_way()


def array_at(like: Array, address: int, shape: tuple[int, ...]) -> Array:
    """The array of this shape, and of the dtype of `like`, whose numbers stand in a row from `address` on."""
    numbers: Any = (ctypes.c_byte * (math.prod(shape) * like.itemsize)).from_address(int(address))
    return numpy.frombuffer(numbers, like.dtype).reshape(shape)


@functools.cache
def team_as_machine_code(numba: Any) -> dict[str, Callable[..., Any]]:
    """The functions above as Numba compiles them, by name."""
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    def call(builder: Any, name: str, result: Any) -> None:
        """A function without arguments, of the processor or of the system."""
        known = builder.module.globals.get(name)
        builder.call(known or ir.Function(builder.module, ir.FunctionType(result, []), name), [])

    on_x86 = platform.machine().lower() in ("x86_64", "amd64")

    def place(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """A pointer to `counts[step, what]`."""
        counts = context.make_array(signature.args[0])(context, builder, args[0])
        at = builder.add(builder.mul(args[1], ir.IntType(64)(WIDTH)), args[2])
        return builder.gep(counts.data, [at])

    @intrinsic
    def raised(typing: Any, counts: Any, step: Any, what: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.atomic_rmw("add", place(context, builder, signature, args), ir.IntType(64)(1), "seq_cst")

        return types.int64(counts, types.int64, types.int64), code

    @intrinsic
    def count(typing: Any, counts: Any, step: Any, what: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if on_x86:  # it asks again and again: the other thread of the same core may go first
                call(builder, "llvm.x86.sse2.pause", ir.VoidType())
            return builder.load_atomic(place(context, builder, signature, args), "seq_cst", 8)

        return types.int64(counts, types.int64, types.int64), code

    @intrinsic
    def give_way(typing: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if platform.system() != "Windows":
                call(builder, "sched_yield", ir.IntType(32))
            return context.get_dummy_value()

        return types.void(), code

    @intrinsic
    def pointer(typing: Any, like: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

        numbers: Any = types.CPointer
        return numbers(like.dtype)(like, types.int64), code

    at: Any = pointer

    def array_at(like: Any, address: Any, shape: Any) -> Any:
        return numba.carray(at(like, address), shape)

    known = {"raised": raised, "count": count, "give_way": give_way, "array_at": numba.njit(array_at)}
    of_step = FunctionType(parts_of_step.__code__, {**parts_of_step.__globals__, **known}, "parts_of_step")
    return {**known, "parts_of_step": numba.njit(of_step)}
