"""Matrices kept in fewer bits than float32: bfloat16, float16, and int8 with a scale for each row.

Decoding one token reads every weight once and computes two operations with it, so it runs as fast as weights come from
memory; and a large model fits or does not fit by the size of its weights. A small weight stands in `params` under its
checkpoint name, in place of the array:

    bfloat16   W = the upper half of a float32             2 bytes, 8 bits of precision, exact for what was so stored
    float16    W = a half-precision float                  2 bytes, 11 bits, likewise
    int8       W[o, i] = values[o, i] * scale[o]           1 byte and 4 a row; scale[o] = max_i |W[o, i]| / 127, so
                                                           that no number is off by more than half a step, scale[o] / 2

`weight.widen(rows)` is the definition: those rows as float32. `weight[ids]` is the same, so the embedding looks rows up
as it does in an array. `part` and `fill` are what `row_blocks.py` computes with. Only matrices are kept so; norms and
biases, a thousandth of the numbers, stay float32. There is no backward: `model.widened()` has arrays again.

On a GPU, 16-bit weights are kept as they are here, and `tensor_cores.py` computes with them; int8 is for the CPU.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

import numpy

from ..backend import Array, namespace, number, to_numpy
from ..errors import InputError

Shape = tuple[int, ...]


def from_bfloat16(bits: Array) -> Array:
    """Return bfloat16 numbers, given as uint16, as float32: bfloat16 is the upper half of a float32."""
    return (bits.astype("<u4") << 16).view("<f4")


def to_bfloat16(values: numpy.ndarray) -> numpy.ndarray:
    """Return the bfloat16 numbers nearest to `values` as uint16; of two that are as near, the even one."""
    bits = values.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # carries into the upper half from the middle on
    return numpy.where(numpy.isnan(values), 0x7FC0, rounded).astype("<u2")


class SmallWeight(ABC):
    """A matrix `[O, I]` in fewer bits. `stored` holds its numbers, as the file has them."""

    dtype: str  # "bfloat16", "float16" or "int8"
    ndim = 2
    scale: Array | None = None  # [O], what each row's numbers are multiplied with; None: with 1
    streamed = False  # whether it is there for one pass, as memory is short

    def __init__(self, stored: Array) -> None:
        self.stored = stored

    @property
    def shape(self) -> Shape:
        return self.stored.shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def __len__(self) -> int:
        return self.shape[0]

    def __array_namespace__(self) -> ModuleType:
        return namespace(self.stored)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.shape)}, {self.nbytes:,} bytes)"

    @abstractmethod
    def widen(self, rows: Any = slice(None)) -> Array:
        """The rows `rows` (a slice, or an array of row numbers) as a new float32 array."""

    def __getitem__(self, rows: Any) -> Array:
        return self.widen(rows)

    def get(self) -> numpy.ndarray:
        """All rows as float32 in host memory, as CuPy's arrays have it: so `to_numpy` takes a weight for an array."""
        return to_numpy(self.widen())

    def part(self, x: Array) -> Array:
        """`x [N, I]` in P parts `[P, N, I/P]`, as `fill` parts the rows of the weight."""
        return x[None]

    def fill(self, rows: slice, block: Array) -> Array:
        """Write the R rows `rows` without their scale into `block [P, R, I/P]` float32, and return it."""
        numpy.copyto(block[0], self.stored[rows], casting="unsafe")
        return block


class _Halves(SmallWeight):
    """16-bit numbers, two in a 32-bit word: whole words are widened several times as fast as single numbers.

    A word's lower half is column 2j of the matrix, its upper half column 2j + 1. Each half is moved to where it means a
    float32, all lower ones into one block and all upper ones into another; x is parted likewise, once.
    """

    @property
    def in_words(self) -> bool:
        """Whether each row is a whole number of words."""
        return self.shape[1] % 2 == 0

    def part(self, x: Array) -> Array:
        return numpy.stack([x[:, 0::2], x[:, 1::2]]) if self.in_words else x[None]

    def fill(self, rows: slice, block: Array) -> Array:
        if self.in_words:
            self.split(self.stored[rows].view("<i4"), block.view("<i4"), block)  # [R, I] 16 bits -> [R, I/2] 32
        else:
            block[0] = self.widen(rows)
        return block

    @staticmethod
    @abstractmethod
    def split(words: Array, bits: Array, numbers: Array) -> None:
        """Write both halves of `words [R, J]` as float32 into `numbers [2, R, J]`, of which `bits` is a view."""


class BFloat16Weight(_Halves):
    """`stored [O, I]` uint16, the upper halves of float32 numbers."""

    dtype = "bfloat16"

    def widen(self, rows: Any = slice(None)) -> Array:
        return from_bfloat16(self.stored[rows])

    @staticmethod
    def split(words: Array, bits: Array, numbers: Array) -> None:
        numpy.left_shift(words, 16, out=bits[0])
        numpy.bitwise_and(words, -(2**16), out=bits[1])


class Float16Weight(_Halves):
    """`stored [O, I]` float16, all of them finite.

    NumPy widens float16 number by number, 10 times as slowly as int8. Here sign, exponent and fraction are moved to
    their places in a float32 by shifts; float32's exponent counts from 127, float16's from 15, so what then stands
    there is 2^-112 of the number, and a product mends it. That is exact, for numbers below float16's normal range too.
    """

    dtype = "float16"

    def __init__(self, stored: Array) -> None:
        bits = stored.view("<u2")
        if stored.size and (number(bits.max()) >= 0xFC00 or number(bits.view("<i2").max()) >= 0x7C00):
            raise InputError("a float16 weight holds NaN or infinity, expected finite numbers.")
        super().__init__(stored)

    def widen(self, rows: Any = slice(None)) -> Array:
        return self.stored[rows].astype("<f4")

    @staticmethod
    def split(words: Array, bits: Array, numbers: Array) -> None:
        numpy.left_shift(words, 16, out=bits[0])
        numpy.right_shift(bits[0], 3, out=bits[0])  # keeps the sign, and copies it into the three bits below
        numpy.right_shift(words, 3, out=bits[1])
        numpy.bitwise_and(bits, 0x8FFFE000 - 2**32, out=bits)  # clears those three, and what came from the other half
        numpy.multiply(numbers, numpy.float32(2.0**112), out=numbers)


class Int8Weight(SmallWeight):
    """`stored [O, I]` int8 and `scale [O]` float32."""

    dtype = "int8"

    def __init__(self, stored: Array, scale: Array) -> None:
        super().__init__(stored)
        self.scale: Array = scale

    def widen(self, rows: Any = slice(None)) -> Array:
        return self.stored[rows] * self.scale[rows][..., None]  # int8 * float32 is float32


def row_scales(rows: Array) -> Array:
    """The scale `[R]` float32 of each row of `rows [R, I]`; 1 for a row of zeros, which any scale would do for."""
    scales = numpy.abs(rows).max(1, initial=0).astype("<f4") / numpy.float32(127)
    return numpy.where(scales > 0, scales, numpy.float32(1))


def to_int8(rows: Array, scales: Array) -> Array:
    """The int8 numbers that, times `scales [R]`, are nearest to `rows [R, I]`."""
    return numpy.rint(rows / scales[:, None]).clip(-127, 127).astype("i1")


KINDS: dict[str, type[SmallWeight]] = {kind.dtype: kind for kind in (BFloat16Weight, Float16Weight, Int8Weight)}
