"""Layer norm as kernels: one launch in place of ten, each of which would read the rows and write them.

    layer_norm             the same function of `layers/layer_norm.py`, which is the specification
    add_and_norm           sum = x + update        y = layer_norm(sum)        the residual stream, and its norm
    layer_norm_backward    the same function of `layers/layer_norm.py`

Each warp has a row, which it reads again from its cache: first for the mean, then for the variance about it, so that no
digits are lost as in E[x²] - E[x]². What weight and bias receive is summed over HEIGHT rows at a time, and then over
those sums: always in one order, so that the same call gives the same bits.

Not measured on a GPU yet.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .kernels import kernel, launch, suits_kernels

WARPS = 4  # in a block
HEIGHT = 32  # rows that a thread sums
COLUMNS = 128  # that a block sums


def suits_norm(*arrays: Array) -> bool:
    """Whether the norm of `arrays` is to be computed here: the one place where that is chosen."""
    return suits_kernels(*arrays)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """`x [..., E]`, `weight [E]`, `bias [E]` -> `[..., E]`."""
    y = namespace(x).empty_like(x)
    _by_rows("layer_norm", x, eps, x, weight, bias, y)
    return y


def add_and_norm(x: Array, update: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array]:
    """`x [..., E]`, `update [..., E]`, `weight [E]`, `bias [E]` -> their sum `[..., E]`, and its norm."""
    total, y = namespace(x).empty_like(x), namespace(x).empty_like(x)
    _by_rows("add_and_norm", x, eps, x, update, weight, bias, total, y)
    return total, y


def layer_norm_backward(dy: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """Upstream `dy [..., E]` and the forward's `x`, `weight` -> `dx [..., E]`, `dweight [E]`, `dbias [E]`."""
    xp, width = namespace(dy), x.shape[-1]
    rows = x.size // width
    dx = xp.empty_like(x)
    means, rstds = xp.empty(rows, dtype=x.dtype), xp.empty(rows, dtype=x.dtype)
    _by_rows("layer_norm_backward", x, eps, dy, x, weight, dx, means, rstds)
    sums = xp.empty((2, -(-rows // HEIGHT), width), dtype=x.dtype)
    blocks = sums.shape[1], -(-width // COLUMNS)
    of_columns = kernel(xp, "layer_norm", "layer_norm_sums", HEIGHT=HEIGHT)
    launch(of_columns, blocks, COLUMNS, dy, x, means, rstds, sums, numpy.int64(rows), numpy.int32(width))
    dweight, dbias = sums.sum(1)  # [2, blocks, E] -> [2, E]
    return dx, dweight, dbias


def _by_rows(name: str, x: Array, eps: float, *arrays: Array) -> None:
    width = x.shape[-1]
    rows = x.size // width
    of_rows = kernel(namespace(x), "layer_norm", name, HEIGHT=HEIGHT)
    numbers = numpy.int64(rows), numpy.int32(width), numpy.float32(eps)
    launch(of_rows, -(-rows // WARPS), 32 * WARPS, *arrays, *numbers)
