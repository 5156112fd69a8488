"""The fast path of the whole stack for a few new positions: a token a row, or a short prompt. One loop, compiled.

By NumPy (`one_token.py`) a token is some 50 calls a block. On arrays of a few thousand numbers calling costs as much as
computing; and while large weights are read, which is what their tokens take, threads sleep until they are woken for
the next product. Here each thread is called once for all blocks, and shares each step with the others as
`compiled_team.py` says: products by rows of the weight, attention by heads (`compiled_attention.py`). The head's
product of the last positions is the last step, where only they are wanted; and if more tokens are to follow, chosen by
that alone, the loop chooses them and goes on (`passes_numbers`; who asks for it is `generation/ahead.py`). What
compiles the loop is `compiled.py`.

Measured on 2 cores of an AMD EPYC (Zen 5), medians, ms, by NumPy and here: a token a row of 5 million parameters (6
blocks, hidden size 256), and of bloom-560m's shape with a head of 30,000 tokens.

    rows                               1            2            4            8           16           32
    small, after 128 tokens    0.83 0.52    1.57 0.57    2.09 0.72    2.91 0.90    4.36 1.60    7.36 2.84
    small, after 1,024         1.48 0.75    2.82 0.97    4.14 1.43    8.08 2.66    13.6 5.14    24.7 10.3
    large, after 128           25.2 18.6                              70.6 40.8                 166  109
    large, after 1,024         37.8 30.5                               102 63.5                 292  172

What made a token of the small model faster, one row and 8 rows, one after another: two threads for one row too, 0.74 ->
0.65 ms; rows in one piece, of which the compiler makes vectors (GELU, biases), keys and values asked for, and the head
in the loop, 0.62 -> 0.54 and 1.60 -> 1.17; arrays that begin at lines (`alignment.py`), 0.50 -> 0.45 and 1.17 -> 0.98.

Numba takes a quarter of a second to import, so a small model's first 2,000 tokens are generated without it: it is
asked for where it is in memory anyway, or when `PATIENCE` numbers in weights have gone by. From then on results differ
by rounding.

Tried and left: a thread for each half of a batch, which reads all weights by itself (8 rows of the small model 2.3 ms
a token, and nothing gained for one row); a loop for each block, called from Python (0.1 ms more a token); for one row,
the head by BLAS's threads (`one_row.py`), which stay awake on the core that ours need (57 ms a token in place of 30,
when memory gave most); for each part a thread that takes it every time, as its weights are in that core's cache (one
row 0.02 ms less, 8 rows alike); the first head's keys asked for while the product before them runs (alike).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy

from ..alignment import IN_LINE, aligned_empty
from ..backend import Array
from ..compiled import EXACT, SUMS, at_hand, compiled
from ..compiled_choice import NOT_REACHED, draw_numbers, number_at, order, place_of_largest
from ..compiled_team import array_at, counts_of, parts_of_step
from ..threads import call_together, threads
from .alibi import alibi_bias
from .compiled_attention import any_of, ask_for_rows, attend, first_seen
from .compiled_rows import KINDS, LARGE, most_rows, name_of, rows_numbers
from .compiled_steps import exp, gelu_of, moments, norm_numbers
from .one_token import block_parameters, is_bare
from .run import Run
from .small_weights import SmallWeight

float32 = numpy.float32
PATIENCE = 10**10  # numbers in weights that are used without Numba before it is imported for them
MOST = 256  # rows, up to which a pass is as fast as NumPy's
AS_MANY = 3  # times the rows up to which the products are: where vectors are short, BLAS is faster early
FAR = 2**18  # queries times keys, up to which one query after another is as fast as tiles
SHARES = 2  # of a product for each thread: who is ahead takes more (with 8, a small model's token takes 0.1 ms more)
SHARED = 2**22  # numbers in weights times rows, from which on other threads are worth their waking
NOTHING = numpy.empty(0, float32)  # a scale that a weight does not have
NO_IDS, NO_DRAWS = numpy.empty(0, "int64"), numpy.empty((0, 0))
# Places in what describes a block, behind its parameters: the scales of its four weights, and what is cached of it.
SCALES, KEYS, VALUES, LONGEST, SCALED, ROOM, FITS, ROW = 12, 16, 17, 18, 19, 20, 21, 22


def part_height(weight: Array, shares: int) -> int:
    """Rows of `weight [O, I]` in each of `shares` parts: a multiple of `IN_LINE`, as cores hand on a line at once."""
    return -(-weight.shape[0] // (shares * IN_LINE)) * IN_LINE


def parts_of(weight: Array, shares: int) -> int:
    """How many parts a weight `[O, I]` has: `shares`, or fewer if it is small."""
    return -(-weight.shape[0] // max(IN_LINE, part_height(weight, shares)))


def product_part(
    x: Array, weight: Array, scale: Array, bias: Array, part: int, shares: int, y: Array
) -> tuple[int, int]:
    """`x [N, I]`, `weight [O, I]`, `scale [O or 0]`, `bias [O or 0]` -> part number `part` of scale * x Wᵀ + b, into
    `y [N, O]`; its columns."""
    height = part_height(weight, shares)
    begin, end = part * height, min((part + 1) * height, weight.shape[0])
    rows_numbers(x, weight[begin:end], y[:, begin:end])
    for n in range(x.shape[0]):  # a row in one piece, as all that these are given: of others, compilers make no vectors
        if scale.shape[0] > 0:
            scale_by(scale[begin:end], y[n, begin:end])
        if bias.shape[0] > 0:
            add(bias[begin:end], y[n, begin:end])
    return begin, end


def scale_by(scale: Array, y: Array) -> None:
    """`y *= scale`."""
    for i in range(y.shape[0]):
        y[i] *= scale[i]


def add(x: Array, y: Array) -> None:
    """`y += x`."""
    for i in range(y.shape[0]):
        y[i] += x[i]


def gelu_in_place(y: Array) -> None:
    """`gelu` of each number of a row."""
    for i in range(y.shape[0]):
        y[i] = gelu_of(y[i])


def describe_block(
    w_1: Array, b_1: Array, w_fused: Array, b_fused: Array, w_dense: Array, b_dense: Array,
    w_2: Array, b_2: Array, w_up: Array, b_up: Array, w_down: Array, b_down: Array,
    s_fused: Array, s_dense: Array, s_up: Array, s_down: Array,
    keys: Array, values: Array, longest: Array, sizes: Array, row: Array,
) -> None:  # fmt: skip
    """What `blocks_numbers` reads of a block, into `row [ROW]`: the addresses of its parameters, in the order in which
    they are used, of the scales of its weights, of its keys, values and `cache.longest_keys`; 1 if there are scales, 0
    if all are of size 0; the room of the cache; and 1 if all of that fits.

    The loop itself checks nothing. Arrays of another dtype, or with gaps, Numba does not let in here; shapes are held
    to `sizes`: B, H, D, and where in the room the positions begin and end.
    """
    B, H, D, begin, end = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    E, room = H * D, keys.shape[2]
    row[0], row[1], row[2], row[3] = w_1.ctypes.data, b_1.ctypes.data, w_fused.ctypes.data, b_fused.ctypes.data
    row[4], row[5], row[6], row[7] = w_dense.ctypes.data, b_dense.ctypes.data, w_2.ctypes.data, b_2.ctypes.data
    row[8], row[9], row[10], row[11] = w_up.ctypes.data, b_up.ctypes.data, w_down.ctypes.data, b_down.ctypes.data
    row[12], row[13], row[14], row[15] = s_fused.ctypes.data, s_dense.ctypes.data, s_up.ctypes.data, s_down.ctypes.data
    row[KEYS], row[VALUES], row[LONGEST] = keys.ctypes.data, values.ctypes.data, longest.ctypes.data
    row[SCALED], row[ROOM], row[FITS], last_bits = min(s_fused.size, 1), room, 0, 0
    for i in range(LONGEST + 1):
        last_bits |= row[i] & 3  # each array is to begin at a multiple of 4, as float32 must
    vectors = w_1.size == E and b_1.size == E and b_fused.size == 3 * E and b_dense.size == E
    vectors = vectors and w_2.size == E and b_2.size == E and b_up.size == 4 * E and b_down.size == E
    scaled = row[SCALED] * E
    vectors = vectors and s_fused.size == 3 * scaled and s_dense.size == scaled
    vectors = vectors and s_up.size == 4 * scaled and s_down.size == scaled
    matrices = w_fused.shape == (3 * E, E) and w_dense.shape == (E, E) and w_up.shape == (4 * E, E)
    matrices = matrices and w_down.shape == (E, 4 * E)
    cache = keys.shape == (B, H, room, D) and values.shape == (B, H, room, D) and longest.shape == (B, H)
    if vectors and matrices and cache and last_bits == 0 and 0 <= begin < end <= room:
        row[FITS] = 1


def blocks_numbers(
    like: Array, embeds: Array, w_first: Array, b_first: Array, w_last: Array, b_last: Array,
    head: Array, head_scale: Array, blocks: Array, alibi: Array, seen: Array, sizes: Array, eps: Array,
    counts: Array, normed: Array, x: Array, fused: Array, context: Array, middle: Array, up: Array,
    last: Array, logits: Array,
) -> None:  # fmt: skip
    """The first norm of `embeds [B S, E]`, all blocks and the last norm, into `x [B S, E]`, and the head's product of
    each row's last position, into `logits [B, V]`: what one thread does of it, together with others that are called
    alike.

    `like`: any array of the weights' dtype. `blocks [L, ROW]`, see `describe_block`; `sizes`, as for that, and behind
    them, in how many parts a product is shared out, and among how many threads; of the T positions in the cache the
    last S are those of x, and are filled.
    `alibi [1 or B, H, T]`; `seen [1 or B, T]`, or of width 0 without padding; `head [V, E]`, without rows where no
    logits are wanted; `counts`: `counts_of(5 * L + 3)`. Places to compute in: `fused [B S, 3E]`, `context` and `middle`
    `[B S, E]`, `up [B S, 4E]`, `last [B, E]`; and for each thread its own, `normed [B S, E]`.

    A block has five steps, and none begins before all parts of the last are done. What a step writes, no thread reads
    before the next. What it reads may be read only within its parts: a thread that has none may be late, and others
    steps ahead, who write there.
    """
    N, E = x.shape
    B, H, D, first = sizes[0], sizes[1], sizes[2], sizes[3]
    S, T, shares, threads = N // B, sizes[4] - first, sizes[5], sizes[6]
    weights, none = numpy.empty(T, float32), numpy.zeros(T, numpy.bool_)
    for _ in parts_of_step(counts, 0, 1):
        norm_numbers(embeds, w_first, b_first, eps, x)
    for layer in range(blocks.shape[0]):
        at, step, ready = blocks[layer], 5 * layer + 1, False
        room, scaled, longest = at[ROOM], at[SCALED] * E, array_at(x, at[LONGEST], (B, H))
        keys, values = array_at(x, at[KEYS], (B, H, room, D)), array_at(x, at[VALUES], (B, H, room, D))

        w_1, b_1 = array_at(x, at[0], (E,)), array_at(x, at[1], (E,))
        weight, bias = array_at(like, at[2], (3 * E, E)), array_at(x, at[3], (3 * E,))
        scale = array_at(x, at[SCALES], (3 * scaled,))
        for part in parts_of_step(counts, step, parts_of(weight, shares)):
            if not ready:  # each thread for itself, and within a part: else x may be the next block's by now
                norm_numbers(x, w_1, b_1, eps, normed)
                ready = True
            product_part(normed, weight, scale, bias, part, shares, fused)

        for part in parts_of_step(counts, step + 1, B * H):
            b, h, after = part // H, part % H, min(part + threads, B * H - 1)
            slope, sight = alibi[b % alibi.shape[0], h], seen[b % seen.shape[0]]
            for s in range(S):
                for i in range(D):  # q, k, v stand side by side in each head
                    keys[b, h, first + T - S + s, i] = fused[b * S + s, 3 * h * D + D + i]
                    values[b, h, first + T - S + s, i] = fused[b * S + s, 3 * h * D + 2 * D + i]
            for s in range(S):
                n, end, mask = b * S + s, T - S + s + 1, sight  # its row in x, and the keys up to its own
                query, out = fused[n, 3 * h * D : 3 * h * D + D], context[n, h * D : h * D + D]
                start = first_seen(query, keys[b, h, first : first + end], slope[:end], longest[b, h : h + 1])
                if sight.shape[0] > 0 and not any_of(sight[:end]):
                    end, mask = T, none  # all keys alike, as `attention_scores` says
                own = slice(first + start, first + end)
                now, later = keys[b, h, own], keys[after // H, after % H, own if s == 0 else slice(0)]
                attend(query, now, values[b, h, own], later, slope[start:end], mask[start:end], weights, out)

        weight, bias = array_at(like, at[4], (E, E)), array_at(x, at[5], (E,))
        scale = array_at(x, at[SCALES + 1], (scaled,))
        for part in parts_of_step(counts, step + 2, parts_of(weight, shares)):
            begin, end = product_part(context, weight, scale, bias, part, shares, middle)
            for n in range(N):
                add(x[n, begin:end], middle[n, begin:end])

        w_2, b_2 = array_at(x, at[6], (E,)), array_at(x, at[7], (E,))
        weight, bias, ready = array_at(like, at[8], (4 * E, E)), array_at(x, at[9], (4 * E,)), False
        scale = array_at(x, at[SCALES + 2], (4 * scaled,))
        for part in parts_of_step(counts, step + 3, parts_of(weight, shares)):
            if not ready:
                norm_numbers(middle, w_2, b_2, eps, normed)
                ready = True
            begin, end = product_part(normed, weight, scale, bias, part, shares, up)
            for n in range(N):
                gelu_in_place(up[n, begin:end])

        weight, bias = array_at(like, at[10], (E, 4 * E)), array_at(x, at[11], (E,))
        scale = array_at(x, at[SCALES + 3], (scaled,))
        for part in parts_of_step(counts, step + 4, parts_of(weight, shares)):
            begin, end = product_part(up, weight, scale, bias, part, shares, x)
            for n in range(N):
                add(middle[n, begin:end], x[n, begin:end])
    for _ in parts_of_step(counts, 5 * blocks.shape[0] + 1, 1):
        norm_numbers(x, w_last, b_last, eps, x)
        for b in range(B):
            last[b] = x[b * S + S - 1]
    for part in parts_of_step(counts, 5 * blocks.shape[0] + 2, parts_of(head, shares)):
        product_part(last, head, head_scale, w_last[:0], part, shares, logits)


def passes_numbers(
    like: Array, table: Array, w_first: Array, b_first: Array, w_last: Array, b_last: Array,
    head: Array, head_scale: Array, blocks: Array, alibi: Array, seen: Array, sizes: Array, eps: Array,
    ends: Array, u: Array,
    counts: Array, embeds: Array, normed: Array, x: Array, fused: Array, context: Array, middle: Array, up: Array,
    last: Array, logits: Array, best: Array, chosen: Array,
) -> None:  # fmt: skip
    """A pass, `blocks_numbers`; and if `chosen [turns, B]` has rows, as many at most, each with its tokens.

    Of `Ahead`: `ends`, `u [turns, B]`, `chosen`, and in `best [B, k]` a place to compute in. What a pass chooses is
    looked up in `table [V, E]` for the next. It ends behind a pass that has chosen one of `ends`, or of which a row's
    choice is -1: not made. `sizes`: as for the first pass, each has a position more; `alibi`, `seen`: of all.
    `counts`: a pass's behind another's, and of each one step more.
    """
    turns = chosen.shape[0]
    own, steps = sizes.copy(), counts.shape[0] // max(1, turns)
    for turn in range(max(1, turns)):
        now, n, over = counts[turn * steps : (turn + 1) * steps], x.shape[0] if turn == 0 else sizes[0], False
        blocks_numbers(
            like, embeds[:n], w_first, b_first, w_last, b_last, head, head_scale, blocks, alibi, seen, own, eps,
            now, normed[:n], x[:n], fused[:n], context[:n], middle[:n], up[:n], last, logits,
        )  # fmt: skip
        if turns > 0:
            for b in parts_of_step(now, steps - 1, sizes[0]):
                if best.shape[1] > 0:
                    draw_numbers(logits[b : b + 1], u[turn, b : b + 1], best[b], chosen[turn, b : b + 1])
                else:
                    chosen[turn, b] = place_of_largest(logits[b])
                embeds[b] = table[max(0, chosen[turn, b])]
            for b in range(sizes[0]):
                over |= chosen[turn, b] < 0
                for i in range(ends.shape[0]):
                    over |= chosen[turn, b] == ends[i]
        if over:
            break
        own[4] += 1


@functools.cache
def machine_code(dtype: str) -> tuple[Any, Any]:
    """`describe_block` and `passes_numbers`, compiled for weights of `dtype`; None for each without a Numba for this
    Python and NumPy."""
    weight: Any = (KINDS[dtype], 2, "C")
    row, matrix, stack, sizes = ("f4", 1, "C"), ("f4", 2, "C"), ("f4", 3, "C"), ("i8", 1, "C")
    parameters = (row, row, weight, row, weight, row, row, row, weight, row, weight, row, row, row, row, row)
    cached = ("f4", 4, "C"), ("f4", 4, "C"), matrix
    functions: dict[Any, frozenset[str]] = {
        **dict.fromkeys((exp, gelu_of, order, number_at, part_height, parts_of, any_of, ask_for_rows), EXACT),
        **dict.fromkeys((moments, attend, first_seen), SUMS),
        **dict.fromkeys((norm_numbers, rows_numbers, scale_by, add, gelu_in_place, product_part), EXACT),
        **dict.fromkeys((blocks_numbers, draw_numbers, place_of_largest), EXACT),
    }
    numbers = ("i8", 2, "C")
    read = (weight, matrix, row, row, row, row, weight, row, numbers, stack, ("?", 2, "C"), sizes, row, sizes)
    return (
        compiled(describe_block, (*parameters, *cached, sizes), (sizes,)),
        compiled(passes_numbers, (*read, ("f8", 2, "C")), (numbers, *[matrix] * 10, numbers), functions),
    )


class _Passes:
    """What went by without Numba: counted by `suits_compiled_blocks`."""

    numbers = 0  # in weights, of all passes


def suits_compiled_blocks(x: Array, params: Mapping[str, Array], run: Run) -> bool:
    """Whether a pass is to be computed here, from embeddings `x [B, S, E]` on: the one place where that is chosen."""
    B, S, E = x.shape
    if (
        B * S > MOST
        or S * run.mask.shape[1] > FAR
        or not is_bare(x, run)
        or (run.window is not None and S > 1)
        or not run.cache.filled_in_place
    ):
        return False
    if x.dtype != float32 or run.alibi.dtype != float32 or run.alibi.shape[1] != run.config.n_head:
        return False
    if type(params) is not dict:
        return False  # streamed
    dtype = name_of(params["h.0.mlp.dense_h_to_4h.weight"].dtype)
    if dtype not in KINDS:
        return False
    if not at_hand() and _Passes.numbers < PATIENCE:
        _Passes.numbers += 12 * E * E * run.config.n_layer
        return False
    return AS_MANY * most_rows()[0] >= B * S and None not in machine_code(dtype)


def compiled_blocks(embeds: Array, params: Mapping[str, Array], run: Run) -> Array | None:
    """The embeddings `[B, S, E]` -> the hidden states behind the last norm `[B, S, E]`; and into `run.logits`, what the
    head makes of the last positions, if that is wanted and can be computed here too.

    None where a parameter, or what the cache holds of a block, is of another kind or shape than the loop takes.
    """
    B, S, E = embeds.shape
    H, L = run.config.n_head, run.config.n_layer
    describe, loop = machine_code(name_of(params["h.0.mlp.dense_h_to_4h.weight"].dtype))
    norms = [params[f"{name}.{kind}"] for name in ("word_embeddings_layernorm", "ln_f") for kind in ("weight", "bias")]
    if not all(is_row(p, E) for p in norms):
        return None
    read = [parts_of_weights(block_parameters(layer)(params)) for layer in range(L)]
    like = read[0][2]
    head, scale = head_of(params, run, like, B)
    ahead = run.ahead if len(head) and can_look_up(params["word_embeddings.weight"], head) else None
    turns = 0 if ahead is None else ahead.most
    more = max(0, turns - 1)
    seen_by = with_more(run, more) if more else run

    new = numpy.empty((B, H, S + more, E // H), float32)  # no keys, but of their shape and dtype
    blocks, begin, end = numpy.zeros((L, ROW), "int64"), 0, 0
    for layer in range(L):
        keys, values, here = run.cache.extend(layer, new, new)
        if layer == 0:
            begin, end = here.start, here.stop
            sizes = numpy.array([B, H, E // H, begin, end, 0, 0])
        read[layer] += [keys, values, run.cache.longest_keys(layer)]
        if set(map(type, read[layer])) != {numpy.ndarray} or (here.start, here.stop) != (begin, end):
            return None
        try:
            describe(*read[layer], sizes, blocks[layer])
        except TypeError:  # of another dtype, or with gaps
            return None
    if not blocks[:, FITS].all() or not end - begin == seen_by.mask.shape[1] == seen_by.alibi.shape[-1]:
        return None

    count = threads() if 12 * E * E * L * B * S + head.size * B >= SHARED else 1
    sizes[4:] = end - more, 1 if count == 1 else SHARES * count, count
    alibi, eps = numpy.ascontiguousarray(seen_by.alibi[:, :, 0]), numpy.array([run.config.layer_norm_epsilon], float32)
    seen, rows = sight(seen_by), numpy.ascontiguousarray(embeds.reshape(B * S, E))
    rows = rows if rows.flags.writeable else rows.copy()
    x, room = aligned_empty((B * S, E), float32), aligned_empty(((9 + count) * B * S * E,), float32)
    widths, room = [3, 1, 1, 4, *[1] * count], room.reshape(-1, B * S * E)
    rest = [room[sum(widths[:i]) : sum(widths[: i + 1])].reshape(B * S, -1) for i in range(len(widths))]
    last, logits = x if S == 1 else numpy.empty((B, E), float32), numpy.empty((B, len(head)), float32)
    table, ends, u, best = rows[:0], NO_IDS, NO_DRAWS, logits[:, :0]
    chosen = numpy.full((turns, B), NOT_REACHED)
    if ahead is not None:
        ahead.ids = chosen
        table, ends, u = params["word_embeddings.weight"], ahead.ends, ahead.u
        best = numpy.empty((B, ahead.k), float32)
        assert ahead.k == 0 or u.shape == (turns, B)  # the loop itself checks nothing
    counts = counts_of((5 * L + 4) * max(1, turns))

    def of_thread(me: int, read: Any = read) -> None:  # with what it has addresses of: a Ctrl-C may end the waiting
        normed, between = rest[4 + me], rest[:4]
        loop(
            like, table, *norms, head, scale, blocks, alibi, seen, sizes, eps, ends, u,
            counts, rows, normed, x, *between, last, logits, best, chosen,
        )  # fmt: skip

    call_together(of_thread, count)
    if ahead is not None:
        run.more = ahead.passes - 1
    if len(head):
        run.logits = logits[:, None]
    return x.reshape(B, S, E)


def can_look_up(table: Any, head: Array) -> bool:
    """Whether the loop may go on with what it chooses: whether it can look ids up in `table`."""
    wide = type(table) is numpy.ndarray and table.dtype == head.dtype == float32 and table.shape == head.shape
    return bool(wide and table.flags.c_contiguous and table.flags.aligned)


def with_more(run: Run, positions: int) -> Run:
    """`run` as it is seen by the last of so many tokens behind its own."""
    tokens = numpy.ones((len(run.mask), positions), run.mask.dtype)
    mask = numpy.concatenate([run.mask, tokens], axis=1)
    return replace(run, mask=mask, alibi=alibi_bias(mask, run.config.n_head, "float32"))


def parts_of_weights(parameters: tuple[Any, ...]) -> list[Any]:
    """A block's `parameters`, with each weight as it is stored, and behind them the scales of the weights."""
    stored, scales = list(parameters), [NOTHING] * 4
    for i, place in enumerate((2, 4, 8, 10)):
        weight = parameters[place]
        if type(weight) is not numpy.ndarray and isinstance(weight, SmallWeight):
            stored[place] = weight.stored.view(KINDS[weight.dtype])
            scales[i] = NOTHING if weight.scale is None else weight.scale
    return stored + scales


def head_of(params: Mapping[str, Array], run: Run, like: Array, rows: int) -> tuple[Array, Array]:
    """The weight of the head as it is stored `[V, E]`, and its scale `[V]` if it has one.

    Without rows where more than the last positions go through it, where it is of another kind than `like [O, E]`, or
    where so many `rows` are for BLAS.
    """
    nothing, plain = (like[:0], NOTHING), like.dtype == float32
    if run.head is None or (run.new > 1 and run.head[1] != 1):
        return nothing
    if rows > most_rows()[not plain] or (plain and rows * like.shape[1] > LARGE):
        return nothing
    head: Any = params[run.head[0]]
    scale = getattr(head, "scale", None)
    head = head.stored.view(KINDS[head.dtype]) if isinstance(head, SmallWeight) else head
    fits = type(head) is numpy.ndarray and head.dtype == like.dtype and head.shape[1:] == like.shape[1:]
    fits = fits and head.flags.c_contiguous and head.flags.aligned
    if not fits or not (scale is None or is_row(scale, len(head))):
        return nothing
    return head, NOTHING if scale is None else scale


def is_row(p: Any, width: int) -> bool:
    """Whether `p` is an array `[width]` as the loop reads them."""
    plain = type(p) is numpy.ndarray and p.dtype == float32 and p.shape == (width,)
    return bool(plain and p.flags.c_contiguous and p.flags.aligned)


def sight(run: Run) -> Array:
    """Which keys may be seen, `[1 or B, T]` bool, but for those that come later; of width 0 if all may."""
    if run.new == 1:
        return numpy.empty((1, 0), bool) if run.visible is None else numpy.ascontiguousarray(run.visible[:, 0, 0])
    padded = run.padded if run.padded is not None else not run.mask.all()
    return numpy.ascontiguousarray(run.mask == 1) if padded else numpy.empty((1, 0), bool)
