"""The fast path of attention: tile by tile, with memory that grows with the length, not with its square.

Plain attention makes arrays of `[S, T]` scores, half of which are of keys that come later than their query. Here each
head takes a block of queries, and runs over blocks of keys, from the nearest to the farthest, with a softmax that runs
along (Milakov & Gimelshein, 2018; Dao et al., 2022). For one query, with `top` the largest score so far:

    total = Σ exp(s - top)        sum = Σ exp(s - top) v        over the keys so far;  out = sum / total at the end

and when a new block brings a larger score, both are shrunk by exp(old top - new top). No array of `[S, T]` exists.

Far keys are skipped, exactly. ALiBi takes slope * distance off a score, so far keys weigh little; how little can be
bounded without computing them. By Cauchy and Schwarz, a key j at or before place J has the score

    s_j = q·k_j / √D + alibi_j  <=  |q| N_J / √D + alibi_J,        N_J = the largest |k| up to J

and all of them together the share  Σ exp(s_j) / Σ_all exp(s)  <=  C exp(|q| N_J / √D + alibi_J - top), where C counts
them: J + 1, or, as alibi falls by at least some m from each to the one before, 1 + exp(-m) + exp(-2 m) + ... at most,
1 / (1 - exp(-m)). Where that share is below a quarter of the resolution of the dtype (for float32 2^-23 / 4) for all
queries of a block, those keys cannot change a digit of the weights' sum: they are not computed, nor is anything before
them. Where all keys are one tile, nothing is skipped, and several heads go together.

Backward goes through blocks of queries too, and computes each one's probabilities again: `[S, T]` of them for each head
and block, kept for backward, is what training would need most memory for. With W = exp(s - top), t = Σ W over the keys
and d = dcontext / t, the gradients are those of `attention.py`, and no array of [queries, keys] is divided:

    dv = Wᵀ d        dscores = W (d vᵀ - Σ W d vᵀ / t)

`tests/layers/test_tiled_attention.py` holds it to the plain path, and attacks the bound.

Measured on 2 cores of an AMD EPYC (Zen 3), float32, medians of 5 to 11 in turns, milliseconds:

    8 rows of 256 tokens, 8 heads of size 32       a head at a time 27, backward 31; eight heads together 12 and 19
    512 tokens, 16 heads of size 64                tiles of 128 x 256, a head at a time 17; of 128 x 512, four heads 11
    2,048 tokens, the same heads                   tiles of 128 x 256 118, 128 x 512 106, 256 x 512 95, 512 x 512 116

Tried and left: keys and values copied together first, 5 to 10% faster and as much for the copy; for decoding, the heads
in two halves by two threads, alike with 1,024 keys cached (0.8 ms a block, 1.0 so), faster from 2,048 on; scores with
a key a row and a query a column, over which NumPy finds largest and sum faster (Xeon: 19 ms in place of 21 for 8 rows
of 256 tokens, alike for longer ones).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType

from ..backend import Array, namespace
from ..buffers import empty
from ..threads import each, threads
from . import compiled_steps
from .compiled_steps import suits_compiled_steps
from .subnormals import drop_subnormals, steep_heads

QUERIES, KEYS = 128, 512  # in a tile: its scores stay in the cache, and its products are large enough to be fast
TILE = 2**18  # scores at once, of several heads where each has few: threads meet at Python's lock less often
LARGE = 2**16  # scores in a pass, from which on tiles are faster than the plain path, whose arrays then leave the cache


Weigh = Callable[[Array, Array, Array | None, Array], tuple[Array, Array]]


def tiled_attention(
    q: Array, k: Array, v: Array, alibi: Array, mask: Array, key_norms: Callable[[], Array] | None = None
) -> Array:
    """`q [B, H, S, D]`, `k, v [B, H, T, D]`, `alibi [B, H, 1, T]`, `mask [B or 1, T]` -> `[B, S, E]`, heads in a row.

    key_norms: where a cache keeps them, what returns |k| of every key `[B, H, T]`.
    """
    xp = namespace(q, k, v)
    (B, H, S, D), T = q.shape, k.shape[2]
    out = empty((B, S, H, D), q.dtype)
    width = KEYS if S > KEYS // 16 else 4 * KEYS  # with few queries, a tile of as many scores is wider
    together = width >= T  # the keys of a head are one tile
    height = QUERIES if together else 2 * QUERIES  # a head that goes by itself has larger tiles
    norms = None if together or key_norms is None else key_norms()
    weigh = compiled_steps.weigh if suits_compiled_steps(B * H * S * T, q, others=(k, v, alibi)) else _weigh

    def heads(b: int, group: slice) -> None:
        tokens = mask[b % len(mask)]
        start = _first_token(tokens)  # what stands before it is padding, which nobody sees
        new = T - S - start  # the place of the first query, counted from `start`, as all places are from here on
        keys, values, tokens = k[b, group, start:], v[b, group, start:], tokens[start:]
        bias = alibi[b % len(alibi), group, :, start:]  # [G, 1, T]
        far = None
        if T - start > width:
            sizes = xp.sqrt(xp.square(keys).sum(-1)) if norms is None else norms[b, group, start:]
            far = _far(sizes[:, None], bias)
        for row in range(0, S, height):
            queries = q[b, group, row : row + height] * (1.0 / math.sqrt(D))
            context = _one_block(queries, new + row, keys, values, bias, tokens, width, far, weigh)
            out[b, row : row + height, group] = context.swapaxes(0, 1)  # [G, N, D] -> [N, G, D]
        blind = min(S, -new)  # queries of padding before any token see nothing: equal weights on all keys, as plain
        if blind > 0:
            out[b, :blind, group] = v[b, group].mean(1)

    _in_groups(heads, B, H, TILE // (min(S, QUERIES) * T) if together else 1)  # by itself, each skips all that it can
    return out.reshape(B, S, H * D)  # [B, S, H, D] -> [B, S, E]


def _in_groups(task: Callable[[int, slice], None], B: int, H: int, most: int) -> None:
    """`task(b, group of heads)` for all heads of all rows, at most so many at once, by all threads."""
    groups = -(-H // max(1, most))
    while groups < H and B * groups % threads() and B * groups < 4 * threads():
        groups += 1  # until all threads have as many, or enough of them that one more does not matter
    count = -(-H // groups)
    # The last heads mostly have the flattest slopes and skip least: they go first, so that no thread ends with them.
    each(lambda place: task(*place), [(b, slice(h, h + count)) for h in reversed(range(0, H, count)) for b in range(B)])


def _far(norms: Array, alibi: Array) -> tuple[Array, Array, Array]:
    """What bounds the keys up to each place: the largest of `norms` and of `alibi` (`[G, 1, T]`) so far, and ln C."""
    xp = namespace(norms)
    fall = xp.diff(alibi).min(-1, keepdims=True)  # m of each head [G, 1, 1]; not above 0 behind a hole in the mask
    inverse = xp.where(fall > 0, -xp.expm1(-xp.maximum(fall, 0)), 1 / alibi.shape[-1])  # 1 / C
    return xp.maximum.accumulate(norms, -1), xp.maximum.accumulate(alibi, -1), -xp.log(inverse)


def _one_block(
    q: Array,
    place: int,
    k: Array,
    v: Array,
    alibi: Array,
    tokens: Array,
    width: int,
    far: tuple[Array, ...] | None,
    weigh: Weigh,
) -> Array:
    """Queries `q [G, N, D]` of G heads, divided by √D already, the first at `place`, in tiles of `width` keys.

    `k, v [G, T, D]`, `alibi [G, 1, T]`, `tokens [T]`; far: see `_far`, or None where nothing is to be skipped; weigh:
    `_weigh`, or what stands for it.
    """
    xp, (G, N, _) = namespace(q), q.shape
    numbers = xp.finfo(q.dtype)
    least = math.log(float(numbers.eps) / 4)  # of a share that may not be skipped
    size = xp.sqrt(xp.square(q).sum(-1, keepdims=True)) * 1.001  # |q| / √D; the thousandth is for its rounding
    top = xp.full((G, N, 1), numbers.min, dtype=q.dtype)
    total, out = xp.zeros_like(top), xp.zeros_like(q)
    end = place + N
    while end > 0:
        part = slice(max(0, end - width), end)
        weights = q @ k[:, part].swapaxes(-1, -2)  # [G, N, D] @ [G, D, keys] -> [G, N, keys], the scores at first
        new_top, sums = weigh(weights, alibi[..., part], _seen(tokens, place, N, part), top)
        shrink = xp.exp(top - new_top)
        total *= shrink
        total += sums
        out *= shrink
        out += weights @ v[:, part]  # [G, N, keys] @ [G, keys, D] -> [G, N, D]
        top, end = new_top, part.start
        if end and far is not None:
            longest, nearest = (x[..., end - 1 : end] for x in far[:2])  # [G, 1, 1] each
            if (size * longest + nearest - top + xp.minimum(far[2], math.log(end))).max() < least:
                break  # the share of all keys before `end` is below the resolution, for every query
    out /= xp.maximum(total, numbers.tiny)  # 0 only where no key was visited: `blind`, see above
    return out


def _weigh(scores: Array, alibi: Array, seen: Array | None, top: Array) -> tuple[Array, Array]:
    """q·k / √D `scores [G, N, keys]` -> in place, exp(scores + alibi - new top); the new top and their sum.

    `alibi [G, 1, keys]`; seen: see `_seen`; `top [G, N, 1]` is the largest score so far, as the two that are returned.
    """
    xp = namespace(scores)
    scores += alibi
    if seen is not None:
        xp.copyto(scores[..., -seen.shape[1] :], xp.finfo(scores.dtype).min, where=~seen)
    top = xp.maximum(top, scores.max(-1, keepdims=True))
    scores -= top
    weights = xp.exp(scores, out=scores)
    for head in steep_heads(alibi):
        drop_subnormals(weights[head])
    # Their sum by BLAS, for `sum` begins each row anew.
    return top, (weights @ xp.ones(weights.shape[-1], weights.dtype))[..., None]


def _weigh_backward(dscores: Array, weights: Array, total: Array) -> None:
    """Upstream `dscores [G, N, keys]` -> W (d - Σ W d / t), in place, of `weights` alike and `total [G, N, 1]`."""
    dscores -= namespace(weights).vecdot(weights, dscores)[..., None] / total
    dscores *= weights


def tiled_attention_backward(
    dcontext: Array, q: Array, k: Array, v: Array, alibi: Array, mask: Array, dq: Array, dk: Array, dv: Array
) -> None:
    """Upstream `dcontext [B, S, E]` and what the forward was given; the gradients are added onto `dq`, `dk`, `dv`.

    Block by block of queries, what `attention.py` does with all of them; their probabilities are computed again.
    """
    xp, (B, H, S, D), T = namespace(q), q.shape, k.shape[2]
    d = dcontext.reshape(B, S, H, D).swapaxes(1, 2)  # [B, S, E] -> [B, H, S, D]
    scale = 1.0 / math.sqrt(D)
    fast = suits_compiled_steps(B * H * S * T, q, others=(k, v, alibi, dcontext))
    weigh = compiled_steps.weigh if fast else _weigh
    weigh_backward = compiled_steps.weigh_backward if fast else _weigh_backward

    def heads(b: int, group: slice) -> None:
        tokens = mask[b % len(mask)]
        start = _first_token(tokens)
        for row in range(0, S, QUERIES):
            rows = slice(row, min(row + QUERIES, S))
            blind = T - S + row < start  # a query that sees nothing weighs all keys alike, later ones too
            there = slice(0, T) if blind else slice(start, T - S + rows.stop)
            seen = _seen(tokens, T - S + row, rows.stop - row, there)
            queries, keys, values = q[b, group, rows] * scale, k[b, group, there], v[b, group, there]
            bias = alibi[b % len(alibi), group, :, there]
            weights = queries @ keys.swapaxes(-1, -2)  # [G, N, keys], the scores at first
            lowest = xp.full((*weights.shape[:-1], 1), xp.finfo(q.dtype).min, dtype=q.dtype)
            _, total = weigh(weights, bias, seen, lowest)  # [G, N, 1]
            dcontext = d[b, group, rows] / total
            dv[b, group, there] += weights.swapaxes(-1, -2) @ dcontext
            dscores = dcontext @ values.swapaxes(-1, -2)  # [G, N, keys]
            weigh_backward(dscores, weights, total)
            dq[b, group, rows] += dscores @ keys * scale
            dk[b, group, there] += dscores.swapaxes(-1, -2) @ queries

    _in_groups(heads, B, H, TILE // (min(S, QUERIES) * T))


def _first_token(mask: Array) -> int:
    """The place of the first token in a row's mask `[T]`; T where there is none."""
    return int(mask.argmax()) if bool(mask.any()) else len(mask)


def _seen(tokens: Array, place: int, count: int, keys: slice) -> Array | None:
    """Which keys each of `count` queries, from `place` on, may see: `[count, N]` bool, of the last N of `keys`.

    Those before are seen by all of the queries. None: all keys are.
    """
    xp, mask = namespace(tokens), tokens[keys]
    padded = not bool(mask.all())
    if keys.stop <= place + 1 and not padded:
        return None
    first = keys.start if padded else max(keys.start, place + 1)  # of those that one of the queries does not see
    seen = _causal(xp, place - first, count, keys.stop - first)
    return seen & (mask == 1) if padded else seen


@functools.lru_cache(maxsize=8)  # all heads ask for the same few
def _causal(xp: ModuleType, place: int, count: int, width: int) -> Array:
    """Which of `width` keys are no later than each of `count` queries, the first at `place`: `[count, width]` bool."""
    return xp.arange(width) <= xp.arange(place, place + count)[:, None]
