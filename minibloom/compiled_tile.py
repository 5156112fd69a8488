"""A tile of products: up to four rows of x times four of a weight, all sums in registers. Compiled, by Numba.

What limits a product with few rows of x is how often numbers are fetched. In a tile of 4 by 4, each number of x and of
the weight, once fetched, is used four times, and the 16 sums never leave the processor's registers. (Where there are 16
of these and not 32, it is two tiles of 2 by 4.) The weight's four rows are not neighbours but one from each quarter, as
the processor fetches ahead within a page of memory, and waits at each new one. While a tile is computed, the next four
rows are asked for, line by line: else memory rests as long as rows of x are multiplied with what is in the cache
already, and the two times add up.

A compiler makes vectors of such a loop, but neither keeps it to the registers there are nor lets one ask for what is
next. So the loop stands here as the compiler's own instructions, for weights of any kind: a number is widened on its
way into a register. The functions of these names in Python say what it computes.

Measured on 2 cores of an AMD EPYC (Zen 4), 200 MB of weights in ms, medians in turns: as two rows by four in plain
loops, as tiles of four by four, and with the next rows asked for.

                    4 rows          8 rows           16 rows
    3072 x 1024     9.3 8.6 7.1     11.5 10.3 7.0    15.9 13.1 10.1
    1024 x 4096     8.2 7.5 5.7     10.1  8.9 7.4    15.8 12.3  9.7

Short rows end soon, and then 16 sums are to be added up over the lanes of their vectors: two vectors become one at each
step, 61 instructions in place of 144 (32 rows through a model of hidden size 256: 7.5 -> 5.9 ms).

One row of x waits for memory alone, so nothing is asked for then: of float32 it would cost (39 GB/s in place of 46,
where summing up such numbers takes 48), and of int8, by itself a third faster, a token takes as long (14 ms).

Tried and left: the next rows into the nearest cache (10.4 for 8 rows), or each of them in one of the tiles alone (8.4);
six rows of the weight (10.0), eight rows of x by two (12.5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .backend import Array

FOUR = 4  # rows of a weight in a tile


def widened(stored: Array) -> Array:
    """The float32 numbers that are stored as float32; int8; uint16, the upper halves of float32; int16, the bits of
    float16 (of which Numba has no arrays)."""
    if stored.dtype == "u2":
        return (stored.astype("u4") << 16).view("f4")
    return (stored.view("f2") if stored.dtype == "i2" else stored).astype("f4")


def _in_python(rows: int, columns: int) -> Callable[..., None]:
    def tile(x: Array, m: int, weight: Array, o: int, far: int, ahead: int, y: Array) -> None:
        """`x [N, I or more]`, `weight [O, I]`: the rows of x from `m` on, times the weight's rows `o`, `o + far`, ...;
        into `y [N, O]`. `ahead`: the number of a row that comes after `o`, soon."""
        places = [o + i * far for i in range(columns)]
        y[m : m + rows, places] = x[m : m + rows, : weight.shape[1]] @ widened(weight[places]).T

    return tile


def ask_for(a: Array, row: int, column: int) -> None:
    """Have the line of memory with `a[row, column]` brought into the second cache, and do not wait for it."""


one_by_one, one_by_four, two_by_four, four_by_four = (_in_python(*size) for size in ((1, 1), (1, 4), (2, 4), (4, 4)))


def registers(numba: Any) -> tuple[int, int, bool]:
    """Of the processor that Numba compiles for: how many float32 a vector holds, how many vectors its registers hold,
    and whether it widens float16."""
    from numba.core.registry import cpu_target

    system, _, features = cpu_target.target_context.codegen().magic_tuple()
    lanes = 16 if "+avx512f" in features else 8 if "+avx" in features else 4
    if system.startswith("x86_64"):
        return lanes, 32 if lanes == 16 else 16, lanes == 16 or "+f16c" in features
    return lanes, 32, system.startswith(("aarch64", "arm64"))


@functools.cache
def tile_as_machine_code(numba: Any) -> dict[str, Callable[..., Any]]:
    """The functions above, tiles and `ask_for`, by name, as Numba compiles them."""
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    i8, i32, i64, f32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
    stored = {types.float32: f32, types.int8: i8, types.uint16: ir.IntType(16), types.int16: ir.HalfType()}

    def vector(kind: Any, lanes: int) -> Any:
        return ir.VectorType(kind, lanes) if lanes > 1 else kind

    def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
        """An operation of the compiler's that has a name."""
        known = builder.module.globals.get(name)
        of_kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return builder.call(known or ir.Function(builder.module, of_kind, name), arguments)

    def prefetch(builder: Any, place: Any) -> None:
        of_kind = ir.FunctionType(ir.VoidType(), [place.type, i32, i32, i32])
        name = builder.module.declare_intrinsic("llvm.prefetch", [place.type], of_kind)
        builder.call(name, [place, i32(0), i32(2), i32(1)])  # to read, into the second cache, of data

    def load(builder: Any, kind: Any, row: Any, at: Any, lanes: int) -> Any:
        """`lanes` numbers from column `at` on of a row that begins at the address `row`, as float32."""
        size, f32s = kind.bitwidth // 8, vector(f32, lanes)
        place = builder.gep(row, [builder.mul(at, i64(size))])
        numbers = builder.load(builder.bitcast(place, vector(stored[kind], lanes).as_pointer()))
        numbers.align = size
        if kind == types.int8:
            return builder.sitofp(numbers, f32s)
        if kind == types.int16:
            return builder.fpext(numbers, f32s)
        if kind == types.uint16:
            bits = builder.zext(numbers, vector(i32, lanes))
            sixteen = ir.Constant(bits.type, [16] * lanes if lanes > 1 else 16)
            return builder.bitcast(builder.shl(bits, sixteen), f32s)
        return numbers

    def added_up(builder: Any, vectors: list[Any]) -> list[Any]:
        """The sum of the numbers in each vector: two by two they become one, whose lanes are half of each."""
        lanes, count = vectors[0].type.count, len(vectors)

        def pick(a: Any, b: Any, lanes_of_both: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(i32, lanes), lanes_of_both))

        half = 1
        while half < lanes:
            if len(vectors) == 1:
                (a,) = vectors
                vectors = [builder.fadd(a, pick(a, a, [i ^ half for i in range(lanes)]))]
            else:  # lanes with the bit `half` become sums of b, the others of a
                low = [lanes + (i ^ half) if i & half else i for i in range(lanes)]
                high = [lanes + i if i & half else i | half for i in range(lanes)]
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
                vectors = [builder.fadd(pick(a, b, low), pick(a, b, high)) for a, b in pairs]
            half *= 2
        each = count // len(vectors)
        return [builder.extract_element(v, i32(i)) for v in vectors for i in range(each)]

    def sums(builder: Any, x: Any, weight: Any, kind: Any, ahead: Any, begin: Any, end: Any, totals: Any) -> Any:
        """A loop over columns from `begin` to `end`: to `totals`, for each row of x and of the weight, is added what
        their numbers there give; these come as many at a time as a total is wide. `x`, `weight`, `ahead`: where rows
        begin, of which the last are only asked for.

        `head` asks whether columns are left. There, `at` and `found` (a "phi" each) are what came `before` in the first
        turn, and later what `body` made of them.
        """
        lanes = getattr(totals[0].type, "count", 1)
        before, head, body, after = builder.block, *(builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        at, found = builder.phi(i64), [builder.phi(total.type) for total in totals]
        builder.cbranch(builder.icmp_signed("<", at, end), body, after)
        builder.position_at_end(body)
        of_weight = [load(builder, kind, row, at, lanes) for row in weight]
        for row in ahead:
            prefetch(builder, builder.gep(row, [builder.mul(at, i64(kind.bitwidth // 8))]))
        of_x = [load(builder, types.float32, row, at, lanes) for row in x]
        name = f"llvm.fmuladd.{f'v{lanes}' if lanes > 1 else ''}f32"
        pairs = [(a, b) for a in of_x for b in of_weight]
        new = [call(builder, name, s.type, a, b, s) for (a, b), s in zip(pairs, found, strict=True)]
        further = builder.add(at, i64(lanes))
        for phi, first, later in zip([at, *found], [begin, *totals], [further, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, body)
        builder.branch(head)
        builder.position_at_end(after)
        return found

    def tile(rows: int, columns: int) -> Any:
        """A tile of `rows` of x by `columns` rows of the weight: vectors as long as they fit, then the numbers left."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            x, weight, y = (context.make_array(kinds[i])(context, builder, args[i]) for i in (0, 2, 6))
            m, o, far, ahead = args[1], args[3], args[4], args[5]
            lanes, count, float16s = registers(numba)
            if kinds[2].dtype == types.int16 and not float16s:  # the compiler would call a function that is not there;
                raise TypeError("this processor does not widen float16")  # so `compiled` has no loop of it, but None
            at_once = min(rows, 4 if count == 32 else 2)
            I = builder.extract_value(weight.shape, 1)  # noqa: E741
            whole = builder.sub(I, builder.srem(I, i64(lanes)))

            def begins(array: Any, numbers: Any) -> list[Any]:
                """The addresses where the rows of these numbers begin."""
                data, step = builder.bitcast(array.data, i8.as_pointer()), builder.extract_value(array.strides, 0)
                return [builder.gep(data, [builder.mul(number, step)]) for number in numbers]

            of_weight = [builder.add(o, builder.mul(far, i64(c))) for c in range(columns)]
            in_weight, kind = begins(weight, of_weight), kinds[2].dtype
            next_ones = begins(weight, [builder.add(ahead, builder.mul(far, i64(c))) for c in range(columns)])
            for first in range(0, rows, at_once):
                of_x = [builder.add(m, i64(first + r)) for r in range(at_once)]
                in_x, zero = begins(x, of_x), ir.Constant(vector(f32, lanes), [0.0] * lanes)
                wide = sums(
                    builder, in_x, in_weight, kind, next_ones if rows > 1 else [], i64(0), whole,
                    [zero] * (at_once * columns),
                )  # fmt: skip
                totals = sums(builder, in_x, in_weight, kind, [], whole, I, added_up(builder, wide))
                across = builder.extract_value(y.strides, 1)
                for i, row in enumerate(begins(y, of_x)):
                    for c, number in enumerate(of_weight):
                        place = builder.gep(row, [builder.mul(number, across)])
                        builder.store(totals[i * columns + c], builder.bitcast(place, f32.as_pointer()))
            return context.get_dummy_value()

        @intrinsic
        def of_kinds(typing: Any, x: Any, m: Any, weight: Any, o: Any, far: Any, ahead: Any, y: Any) -> Any:
            i = types.int64
            return types.void(x, i, weight, i, i, i, y), code

        return of_kinds

    @intrinsic
    def ask_for(typing: Any, a: Any, row: Any, column: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array, size = context.make_array(signature.args[0])(context, builder, args[0]), i64(a.dtype.bitwidth // 8)
            begin = builder.mul(args[1], builder.extract_value(array.strides, 0))
            at = builder.add(begin, builder.mul(args[2], size))
            prefetch(builder, builder.gep(builder.bitcast(array.data, i8.as_pointer()), [at]))
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64), code

    return {
        "ask_for": ask_for,
        "one_by_one": tile(1, 1),
        "one_by_four": tile(1, 4),
        "two_by_four": tile(2, 4),
        "four_by_four": tile(4, 4),
    }
