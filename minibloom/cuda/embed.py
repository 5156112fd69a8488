"""The embedding of one token a row, and the layer norm behind it: where a pass begins.

The specification is `layer_norm(embedding(ids, table))` of `minibloom/layers`. Which tokens they are, the kernel reads
on the device, at places that it reads there too: so the same launch, captured once, goes on with each next token.

Not measured on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import numpy

from ..backend import Array, namespace
from .kernels import C_TYPES, kernel, launch
from .matvec import stored


def embed(tokens: Array, lengths: Array, table: Any, norm: tuple[Array, Array, float], x: Array) -> None:
    """Into row b of `x [B, E]`: row `tokens[lengths[b], b]` of `table [V, E]`, normalised.

    `tokens [T, B]` int64, `lengths [B]` int32. table: float32, or a `SmallWeight` of 16 bits. norm: weight `[E]`,
    bias `[E]` and epsilon.
    """
    (B, E), (array, dtype) = x.shape, stored(table)
    scale, shift, eps = norm
    run = kernel(namespace(x), "embed", "embed", WEIGHT=C_TYPES[dtype])
    threads = min(256, -(-E // 32) * 32)
    launch(run, B, threads, tokens, lengths, array, scale, shift, x, numpy.int32(E), numpy.float32(eps))
