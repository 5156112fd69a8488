"""Cross-entropy as a kernel: a row of logits is read twice and its gradient written once, in one launch.

`cross_entropy` of `losses.py` is the specification. There, a large vocabulary goes through memory about eight times.
Each block has a row: its threads keep the largest logit so far and the sum of exp(z - largest) in one reading (Milakov
& Gimelshein, 2018), and with those of all of them write the gradient in a second. Each row's loss is an array of its
own, which is then summed: always in one order.

Not measured on a GPU yet.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .kernels import LOWEST, kernel, launch, suits_kernels

MOST = 1024  # threads for a row


def suits_cross_entropy(z: Array, y: Array) -> bool:
    """Whether the loss of `z [N, V]` under labels `y [N]` is to be computed here: the one place where it is chosen."""
    return suits_kernels(z) and y.dtype == "int64" and y.flags.c_contiguous


def cross_entropy(z: Array, y: Array, count: Array, ignore: int) -> tuple[Array, Array]:
    """`z [N, V]`, `y [N]`, which is `ignore` where it does not count, the number of those that do -> sum, `dz [N, V]`.

    The sum is that of their losses / count, and `dz` its gradient.
    """
    xp, (N, V) = namespace(z, y, count), z.shape
    dz, losses = xp.empty_like(z), xp.empty(N, dtype=z.dtype)
    by_rows = kernel(xp, "cross_entropy", "cross_entropy", IGNORE=ignore, LOWEST=LOWEST)
    threads = min(MOST, -(-V // 32) * 32)
    launch(by_rows, N, threads, z, y, count.astype("int64"), dz, losses, numpy.int64(V))
    return losses.sum(), dz
