"""A weight times a few rows, as decoding consists of: y = [residual +] [gelu of] ([layer norm of] x) Wᵀ [+ bias].

The specification is the plain path: `layer_norm`, `linear`, `gelu` and the sum, each in its file of `minibloom/layers`.
Three reasons for a kernel. A block launches four of these where array code launches two dozen. cuBLAS, which computes
CuPy's products, cannot be captured in a graph. And a weight in 16 bits is widened as it is read, so that x and all sums
stay float32. Weights are read once for all rows.

Not measured on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import numpy

from ..backend import Array, namespace
from .kernels import C_TYPES, kernel, launch

MOST = 32  # rows: one for each lane of a warp
WARPS = 4  # of a block


def stored(weight: Any) -> tuple[Array, str]:
    """The array `[O, I]` that holds a weight, an array or a `SmallWeight`, and the name of its dtype."""
    return getattr(weight, "stored", weight), str(weight.dtype)


def readable(weight: Any) -> bool:
    """Whether kernels can read a weight, or a parameter of one axis, as it lies in memory."""
    array, dtype = stored(weight)
    return dtype in C_TYPES and array.flags.c_contiguous and array.data.ptr % 16 == 0


def matvec(
    x: Array,
    weight: Any,
    bias: Array | None,
    y: Array,
    *,
    norm: tuple[Array, Array, float] | None = None,
    gelu: bool = False,
    residual: Array | None = None,
) -> Array:
    """`x [N, I]`, `weight [O, I]` (float32, or a `SmallWeight` of 16 bits), `bias [O]` -> `y [N, O]`, which is filled.

    N is at most `MOST`. norm: weight `[I]`, bias `[I]` and epsilon of a layer norm of x. residual: `[N, O]`, which may
    be y itself.
    """
    N, (array, dtype) = len(x), stored(weight)
    O, I = array.shape  # noqa: E741
    rows = 1 << (N - 1).bit_length()  # few numbers of rows to compile for
    columns = 1 if rows < 4 else 4 if 8 <= rows <= 16 else 2  # of y for each warp: more uses of x, and more registers
    together = 16 // array.itemsize  # weights in one load
    run = kernel(
        namespace(x), "matvec", "matvec", WEIGHT=C_TYPES[dtype], WIDE=together if I % together == 0 else 1,
        ROWS=rows, OUT=columns, WARPS=WARPS, NORM=int(norm is not None), BIAS=int(bias is not None), GELU=int(gelu),
        RESIDUAL=int(residual is not None),
    )  # fmt: skip
    scale, shift, eps = norm or (x, x, 0.0)  # what is not asked for is not read
    launch(
        run, -(-O // (columns * WARPS)), 32 * WARPS, x, array, x if bias is None else bias, scale, shift,
        y if residual is None else residual, y, numpy.int32(N), numpy.int32(I), numpy.int32(O), numpy.float32(eps),
    )  # fmt: skip
    return y
