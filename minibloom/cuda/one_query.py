"""Attention of one new token a row over a cache that has room for more: what decoding asks of attention.

The specification is `plain_attention` of `minibloom/layers/attention.py` for one query, after `Cache.update` has
written its key and value behind those that are there: the kernel does both. How many are there, it reads on the device,
so that the same launch, captured once, goes on with each next token: with as many blocks as the fullest cache may need,
of which those that have nothing to do leave.

Far keys are left out where they provably change no digit of float32, by the bound of `tiled_attention.py`: here with
N_J the longest key of all, kept on the device, and the new token's own score for the top one. So what is left out is
known before any key is read, and a head with a steep slope reads the same few keys however long the text is.

Scores are taken relative to the new token: its bias is 0, and those of others fall with their distance. Softmax does
not see the difference, but the biases of near keys are small numbers then, and rounded less than they are on the host.

Not measured on a GPU yet. Left for when it can be: more than one query of a group at once, keys in 16 bits.
"""

from __future__ import annotations

import numpy

from ..backend import Array, namespace
from .kernels import kernel, launch

MOST = 128  # head size: a thread for each number of the sum
WARPS, TILE, SPLITS = 4, 32, 16  # of a block, keys for a warp at a time, and blocks for a head at most


def splits(room: int) -> int:
    """Blocks for each row and head, with a cache that has room for so many positions: so that each warp has a tile."""
    return min(SPLITS, -(-room // (WARPS * TILE)))


def one_query(
    fused: Array, keys: Array, values: Array, places: Array, lengths: Array, slopes: Array, longest: Array,
    parts: Array, arrived: Array, context: Array,
) -> None:  # fmt: skip
    """`fused [B, 3E]`, one new token's query, key and value for each head -> `context [B, E]`, which is filled.

    keys, values: `[B, H, room, D]`, of which `lengths[b]` positions are there; the new ones are written behind them.
    places: `[B, room]` int32, how many tokens of the row stand before each position, that of the new one and later ones
    too, -1 at padding. lengths: `[B]` int32. slopes: `[H]`, ALiBi's. longest: `[B, H]`, the largest |k| in the cache,
    which is kept up to date. parts: `[B, H, splits(room), D + 2]`, to work on; arrived: `[B, H]` int32, of zeros.
    """
    B, H, room, D = keys.shape
    run = kernel(namespace(fused), "one_query", "one_query", DIM=D, WARPS=WARPS)
    launch(
        run, (parts.shape[2], H, B), 32 * WARPS, fused, keys, values, places, lengths, slopes, longest, parts, arrived,
        context, numpy.int32(room),
    )  # fmt: skip
