"""GELU as kernels: one launch in place of eight, the bias of the layer before it included.

    gelu, gelu_backward    the same functions of `layers/mlp.py`, which are the specification
    bias_gelu              up += bias        act = gelu(up)

Not measured on a GPU yet.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .kernels import kernel, launch, suits_kernels

COLUMNS = 256  # of a block


def suits_gelu(*arrays: Array) -> bool:
    """Whether GELU is to be computed here: the one place where that is chosen."""
    return suits_kernels(*arrays)


def gelu(x: Array) -> Array:
    """`x [..., I]` -> gelu(x)."""
    y = namespace(x).empty_like(x)
    _by_rows("gelu", x, x, y)
    return y


def bias_gelu(up: Array, bias: Array, keep: bool) -> Array:
    """`up [..., I]`, `bias [I]` -> gelu(up + bias) `[..., I]`. The sum is put into `up`; without `keep`, the result."""
    act = namespace(up).empty_like(up) if keep else up
    _by_rows("bias_gelu", up, up, bias, act)
    return act


def gelu_backward(dy: Array, x: Array) -> Array:
    """Upstream `dy [..., I]` and the forward's `x [..., I]` -> `dx [..., I]`."""
    dx = namespace(dy).empty_like(dy)
    _by_rows("gelu_backward", x, dy, x, dx)
    return dx


def _by_rows(name: str, x: Array, *arrays: Array) -> None:
    width = x.shape[-1]
    of_rows = kernel(namespace(x), "gelu", name)
    launch(of_rows, (x.size // width, -(-width // COLUMNS)), COLUMNS, *arrays, numpy.int32(width))
