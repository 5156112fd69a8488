"""The linear layer: y = x Wᵀ + b.

Backward. In all of these files `dx` is the gradient of the loss by x, an array of x's shape, and a backward goes from
the `dy` that arrives ("upstream") to `dx`. With y[n, o] = Σ_i x[n, i] W[o, i] + b[o], the chain rule gives sums over
the index that the forward pass did not sum over:

    dx[n, i] = Σ_o dy[n, o] W[o, i]      dW[o, i] = Σ_n dy[n, o] x[n, i]      db[o] = Σ_n dy[n, o]
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from ..threads import add_to_rows, each, matmul
from .compiled_rows import compiled_rows, suits_compiled_rows
from .few_rows import few_rows, suits_few_rows
from .one_row import one_row, suits_one_row
from .row_blocks import blocked_linear
from .small_weights import SmallWeight
from .tensor_cores import half_product, suits_tensor_cores

ROWS = 1024  # of a weight's gradient at a time


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """`x [..., I]`, `weight [O, I]` (an array or a `SmallWeight`), `bias [O]` -> `[..., O]`."""
    # One product of two matrices: a batched product would read the whole weight once per batch row.
    y = product(x.reshape(-1, x.shape[-1]), weight)  # [..., I] -> [N, I] -> [N, O]
    if bias is not None:
        add_to_rows(y, bias)
    return y.reshape(*x.shape[:-1], -1)  # [N, O] -> [..., O]


def product(x: Array, weight: Array) -> Array:
    """x Wᵀ: `x [N, I]`, `weight [O, I]` (an array or a `SmallWeight`) -> `[N, O]`, the fastest way."""
    if isinstance(weight, SmallWeight):
        return half_product(x, weight) if suits_tensor_cores(weight) else blocked_linear(x, weight)
    if suits_compiled_rows(x, weight):
        return compiled_rows(x, weight)
    if suits_one_row(x, weight):
        return one_row(x, weight)
    if suits_few_rows(x, weight):
        return few_rows(x, weight)
    return matmul(x, weight.T)  # what it is; the others are proven equal


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Upstream `dy [..., O]` and the forward's `x [..., I]`, `weight [O, I]` -> `dx [..., I]`, `dweight`, `dbias`."""
    dy2, x2 = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])  # [..., O] -> [N, O], [..., I] -> [N, I]
    return matmul(dy2, weight).reshape(x.shape), matmul(dy2.T, x2, own=True), dy2.sum(0)


def add_weight_gradient(total: Array, dy: Array, x: Array) -> None:
    """Add the `dweight` of upstream `dy [N, O]` and `x [N, I]` to `total [O, I]`, in place.

    On a CPU a part of the weight's rows at a time, so that no second array of its size is made.
    """
    if namespace(total) is not numpy:
        total += dy.T @ x
        return

    def piece(start: int) -> None:
        rows = slice(start, start + ROWS)
        total[rows] += dy[:, rows].T @ x  # [R, N] [N, I] -> [R, I]

    each(piece, range(0, len(total), ROWS))


def sliced_linear(x: Array, weight: Array, bias: Array, slices: int) -> Array:
    """`linear`, summed over `slices` parts of the input: config's `slow_but_exact`.

    BLOOM was trained with each weight cut over `pretraining_tp` machines along its input, and the partial
    products added between them. Adding in that order reproduces the rounding of training; in exact
    arithmetic it changes nothing, so `linear_backward` is the backward of this function too.
    """
    if isinstance(weight, SmallWeight):
        weight = weight.widen()
    width = x.shape[-1] // slices
    parts = [slice(i * width, (i + 1) * width) for i in range(slices)]
    y = linear(x[..., parts[0]], weight[:, parts[0]])
    for part in parts[1:]:
        y += linear(x[..., part], weight[:, part])
    y += bias  # once, after the sum, as the machines did
    return y
