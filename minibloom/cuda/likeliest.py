"""The likeliest token of each row: where a pass ends, and the next one begins.

The specification is `logits.argmax(-1)`, and behind it: `lengths += 1`, and the tokens are written at these places,
where `embed` will read them. So a captured pass leaves all that it needs to go on, and the host need not hear of it.

A kernel, as array code has a block for each row, which with few rows leaves most of a GPU idle; here a row is cut into
pieces. Not measured on a GPU yet.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .kernels import kernel, launch

THREADS = 256  # of a block
PIECE, MOST = 2048, 128  # logits for a block at least, and blocks for a row at most


def pieces(V: int) -> int:
    """Into how many pieces a row of V logits is cut."""
    return min(MOST, -(-V // PIECE))


def likeliest(logits: Array, found: tuple[Array, Array], arrived: Array, lengths: Array, tokens: Array) -> None:
    """`lengths [B]` int32 each grow by 1, and `tokens[lengths[b], b]` becomes the place of the largest in `logits[b]`.

    `logits [B, V]`, `tokens [T, B]` int64. found: `[B, pieces(V)]` float32 and int32, to work on; arrived: `[B]` int32,
    of zeros.
    """
    B, V = logits.shape
    run = kernel(namespace(logits), "likeliest", "likeliest", THREADS=THREADS)
    launch(run, (found[0].shape[1], B), THREADS, logits, *found, arrived, lengths, tokens, numpy.int32(V))
