"""The fast path of attention: tile by tile, with memory that grows with the length, not with its square.

Plain attention makes arrays of `[S, T]` scores, half of which are of keys that come later than their query. Here each
head takes a block of queries, and runs over blocks of keys, from the nearest to the farthest, with a softmax that runs
along (Milakov & Gimelshein, 2018; Dao et al., 2022). For one query, with `top` the largest score so far:

    total = Σ exp(s - top)        sum = Σ exp(s - top) v        over the keys so far;  out = sum / total at the end

and when a new block brings a larger score, both are shrunk by exp(old top - new top). No array of `[S, T]` exists.

Far keys are skipped, exactly. ALiBi takes slope * distance off a score, so far keys weigh little; how little can be
bounded without computing them. By Cauchy and Schwarz, a key j at or before place J has the score

    s_j = q·k_j / √D + alibi_j  <=  |q| N_J / √D + alibi_J,        N_J = the largest |k| up to J

and all of them together the share  Σ exp(s_j) / Σ_all exp(s)  <=  (J + 1) exp(|q| N_J / √D + alibi_J - top). Where that
is below a quarter of the resolution of the dtype (for float32 2^-23 / 4) for all queries of a block, those keys cannot
change a digit of the weights' sum: they are not computed, nor is anything before them.

Backward goes through the same blocks of queries, and computes each one's probabilities again: `[S, T]` of them for
each head and block, kept for backward, is what training would need most memory for.

Measured: see `minibloom bench`. `tests/layers/test_tiled_attention.py` holds it to the plain path, and attacks
the bound.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

from ..backend import Array, namespace
from ..threads import each
from .scores import attention_scores
from .softmax import softmax, softmax_backward

QUERIES, KEYS = 128, 256  # in a tile: its scores stay in the cache, and its products are large enough to be fast
LARGE = 2**16  # scores in a pass, from which on tiles are faster than the plain path, whose arrays then leave the cache


def tiled_attention(q: Array, k: Array, v: Array, alibi: Array, mask: Array, key_norms: Array | None = None) -> Array:
    """`q [B, H, S, D]`, `k, v [B, H, T, D]`, `alibi [B, H, 1, T]`, `mask [B or 1, T]` -> `[B, S, E]`, heads in a row.

    key_norms: |k| of every key `[B, H, T]`, where a cache has kept them.
    """
    xp = namespace(q, k, v)
    (B, H, S, D), T = q.shape, k.shape[2]
    out = xp.empty((B, S, H, D), dtype=q.dtype)

    def head(place: tuple[int, int]) -> None:
        b, h = place
        tokens = mask[b % len(mask)]
        start = _first_token(tokens)  # what stands before it is padding, which nobody sees
        new = T - S - start  # the place of the first query, counted from `start`, as all places are from here on
        keys, values, bias, tokens = (
            k[b, h, start:],
            v[b, h, start:],
            alibi[b % len(alibi), h, 0, start:],
            tokens[start:],
        )
        norms = xp.sqrt(xp.square(keys).sum(-1)) if key_norms is None else key_norms[b, h, start:]
        limits = xp.maximum.accumulate(norms), xp.maximum.accumulate(bias)  # the largest up to each place
        for row in range(0, S, QUERIES):
            queries = q[b, h, row : row + QUERIES] * (1.0 / math.sqrt(D))
            out[b, row : row + QUERIES, h] = _one_block(queries, new + row, keys, values, bias, tokens, limits)
        blind = min(S, -new)  # queries of padding before any token see nothing: equal weights on all keys, as plain
        if blind > 0:
            out[b, :blind, h] = v[b, h].mean(0)

    # The last heads have the flattest slopes and skip least: they go first, so that no thread is left with one alone.
    each(head, [(b, h) for h in reversed(range(H)) for b in range(B)])
    return out.reshape(B, S, H * D)  # [B, S, H, D] -> [B, S, E]


def _one_block(
    q: Array, place: int, k: Array, v: Array, alibi: Array, tokens: Array, limits: tuple[Array, Array]
) -> Array:
    """Queries `q [N, D]`, divided by √D already, the first at `place`; `k, v [T, D]`, the rest `[T]` -> `[N, D]`."""
    xp, N = namespace(q), len(q)
    numbers = xp.finfo(q.dtype)
    least = math.log(float(numbers.eps) / 4)  # of a share that may not be skipped
    size = xp.sqrt(xp.square(q).sum(-1, keepdims=True)) * 1.001  # |q| / √D; the thousandth is for its rounding
    top = xp.full((N, 1), numbers.min, dtype=q.dtype)
    total, out = xp.zeros_like(top), xp.zeros_like(q)
    width = KEYS if N > KEYS // 16 else 8 * KEYS  # with few queries, a tile of as many scores is wider
    end = place + N
    while end > 0:
        part = slice(max(0, end - width), end)
        scores = q @ k[part].T  # [N, D] @ [D, keys] -> [N, keys]
        scores += alibi[part]
        seen = _seen(tokens, place, N, part)
        if seen is not None:
            xp.copyto(scores, numbers.min, where=~seen)
        new_top = xp.maximum(top, scores.max(-1, keepdims=True))
        scores -= new_top
        xp.exp(scores, out=scores)
        shrink = xp.exp(top - new_top)
        total *= shrink
        total += scores.sum(-1, keepdims=True)
        out *= shrink
        out += scores @ v[part]  # [N, keys] @ [keys, D] -> [N, D]
        top, end = new_top, part.start
        if end and (size * limits[0][end - 1] + limits[1][end - 1] - top).max() + math.log(end) < least:
            break  # the share of all keys before `end` is below the resolution, for every query
    out /= xp.maximum(total, numbers.tiny)  # 0 only where no key was visited: `blind`, see above
    return out


def tiled_attention_backward(
    dcontext: Array, q: Array, k: Array, v: Array, alibi: Array, mask: Array
) -> tuple[Array, Array, Array]:
    """Upstream `dcontext [B, S, E]` and what the forward was given -> `dq [B, H, S, D]`, `dk`, `dv` `[B, H, T, D]`.

    Block by block of queries, what `attention.py` does with all of them; their probabilities are computed again.
    """
    xp = namespace(dcontext, q)
    (B, H, S, D), T = q.shape, k.shape[2]
    d = dcontext.reshape(B, S, H, D)
    dq, dk, dv = xp.empty_like(q), xp.zeros(k.shape, q.dtype), xp.zeros(k.shape, q.dtype)
    scale = 1.0 / math.sqrt(D)

    def head(place: tuple[int, int]) -> None:
        b, h = place
        tokens = mask[b % len(mask)]
        start = _first_token(tokens)
        for row in range(0, S, QUERIES):
            rows = slice(row, min(row + QUERIES, S))
            blind = T - S + row < start  # a query that sees nothing weighs all keys alike, later ones too
            keys = slice(0, T) if blind else slice(start, T - S + rows.stop)
            seen = _seen(tokens, T - S + row, rows.stop - row, keys)
            scores = attention_scores(q[b, h, rows], k[b, h, keys], alibi[b % len(alibi), h, :, keys], seen)
            probs = softmax(scores, out=scores)  # [N, keys]
            dv[b, h, keys] += probs.T @ d[b, rows, h]
            dscores = softmax_backward(d[b, rows, h] @ v[b, h, keys].T, probs)
            dscores *= scale
            dq[b, h, rows] = dscores @ k[b, h, keys]
            dk[b, h, keys] += dscores.T @ q[b, h, rows]

    each(head, [(b, h) for b in range(B) for h in range(H)])
    return dq, dk, dv


def _first_token(mask: Array) -> int:
    """The place of the first token in a row's mask `[T]`; T where there is none."""
    return int(mask.argmax()) if bool(mask.any()) else len(mask)


def _seen(tokens: Array, place: int, count: int, keys: slice) -> Array | None:
    """Which of the keys each of `count` queries, from `place` on, may see, `[count, keys]` bool. None: all of them."""
    xp, mask = namespace(tokens), tokens[keys]
    padded = not bool(mask.all())
    if keys.stop <= place + 1 and not padded:
        return None
    seen = _causal(xp, place - keys.start, count, keys.stop - keys.start)
    return seen & (mask == 1) if padded else seen


@functools.lru_cache(maxsize=8)  # all heads ask for the same few
def _causal(xp: ModuleType, place: int, count: int, width: int) -> Array:
    """Which of `width` keys are no later than each of `count` queries, the first at `place`: `[count, width]` bool."""
    return xp.arange(width) <= xp.arange(place, place + count)[:, None]
