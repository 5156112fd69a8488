"""Checks of lesson 5, keys and values kept."""

from __future__ import annotations

import numpy as np

from minibloom.cache import StaticCache
from minibloom.layers.scores import attention_scores
from minibloom.layers.softmax import softmax

from . import Checks, same

check = Checks()


@check.exercise
def cache_bytes(answer):
    for layers, heads, head_dim, lengths in ((24, 16, 64, [2048]), (4, 8, 32, [5, 13, 1]), (3, 5, 7, [9, 9])):
        of_one = StaticCache(layers, 1, heads, 1, head_dim).nbytes // 4  # a position of one row, a byte a number
        for width in (2, 4):
            given = answer(layers, heads, head_dim, list(lengths), width)
            assert given is not None and len(given) == 2, "expected two numbers, with padding and without"
            case = f"{layers} blocks, {heads} heads of {head_dim}, lengths {lengths}, {width} bytes a number"
            same(given[0], of_one * len(lengths) * max(lengths) * width, f"{case}: bytes with padding", within=0)
            same(given[1], of_one * sum(lengths) * width, f"{case}: bytes without padding", within=0)


@check.exercise
def attend_new(answer):
    rng = np.random.default_rng(0)
    for B, H, T, D, cuts in ((1, 2, 6, 4, [6]), (2, 4, 9, 8, [5, 4]), (2, 3, 7, 16, [1] * 7), (1, 2, 8, 4, [3, 1, 4])):
        q, k, v = (rng.standard_normal((B, H, T, D)) * 2 for _ in range(3))
        slopes = 0.5 ** np.arange(1, H + 1)
        alibi = slopes[:, None, None] * np.arange(T)
        expected = softmax(attention_scores(q, k, alibi[None], np.tri(T, dtype=bool)[None, None])) @ v
        past, end = None, 0
        for size in cuts:
            here = slice(end, end + size)
            given = answer(*(x[:, :, here].copy() for x in (q, k, v)), past, slopes)
            case = f"{size} new positions after {end}"
            assert given is not None and len(given) == 2, f"{case}: expected context and (keys, values)"
            context, past = given
            end += size
            same(context, expected[:, :, here], f"{case}: the context")
            for name, kept, whole in zip(("keys", "values"), past, (k, v), strict=True):
                same(kept, whole[:, :, :end], f"{case}: the {name} afterwards")


@check.exercise
def reusable(answer):
    def expect(held, ids, length):
        given = answer(list(held), list(ids))
        assert given == length, f"held {held}, now {ids}: {given}, expected {length}"

    expect([5, 6, 7], [5, 6, 7, 8, 9], 3)
    expect([5, 6, 7, 8], [5, 6, 9, 8], 2)  # the last is the same, but has heard other words
    expect([5, 6, 7, 8], [5, 9, 7, 8, 1], 1)
    expect([1, 2], [3, 4], 0)
    expect([], [3, 4], 0)
    expect([5, 6, 7, 8], [5, 6], 1)
    expect([5, 6, 7], [5, 6, 7], 2)
    expect([5], [5], 0)


@check.exercise
def append(answer):
    rng = np.random.default_rng(1)
    B, H, D = 2, 3, 4
    buffer, length, made = np.full((B, H, 2, D), np.nan, "float32"), 0, 0
    whole = np.zeros((B, H, 0, D), "float32")
    for S in (1, 1, 1, 9, *[1] * 60):
        new = rng.standard_normal((B, H, S, D)).astype("float32")
        whole = np.concatenate([whole, new], axis=2)
        room = buffer.shape[2]
        given = answer(buffer, length, new)
        assert given is not None and len(given) == 2, "expected the buffer and its new length"
        larger, length = given
        assert length == whole.shape[2], f"the length is {length}, expected {whole.shape[2]}"
        assert larger.shape[2] >= length, f"room for {larger.shape[2]} positions holds no {length}"
        if length <= room:
            assert larger is buffer, f"{S} more after {length - S} fit into room for {room}, and a new array was made"
        else:
            made += 1
            assert larger.shape == (B, H, max(2 * room, length), D), (
                f"for {length} positions after room for {room}, the shape is {list(larger.shape)}, "
                f"expected {[B, H, max(2 * room, length), D]}"
            )
        assert larger.dtype == new.dtype, f"the dtype has become {larger.dtype}, expected {new.dtype}"
        same(larger[:, :, :length], whole, f"the first {length} positions", within=0)
        buffer = larger
    assert made <= 5, f"{made} arrays were made on the way to {length} positions, expected 5 at most"
