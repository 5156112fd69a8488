"""The fast path of what lies between products, GELU, LayerNorm and the softmax of a tile: loops, compiled.

NumPy goes over the numbers about eight times for each of them, and in between threads meet at Python's lock: by NumPy,
attention on two cores is one and a half times as fast as on one. A loop goes over them once, or row by row while a row
is in the nearest cache. What compiles the loops is `compiled.py`.

Measured on 2 cores of an AMD EPYC (Zen 5, AVX-512), medians, by NumPy and by loops: nanoseconds a number on one core,
then milliseconds on both.

    GELU 0.76 and 0.24, backward 1.33 and 0.32; LayerNorm 0.93 and 0.12, backward 1.99 and 0.25; softmax of a tile
    0.83 and 0.31, backward 0.30 and 0.10
    attention of 512 tokens, 16 heads of 64      4.4 and 3.5, backward 7.6 and 6.4
    of 2,048 tokens                               41 and 29, backward 99 and 77
    a pass of bloom-560m's shape, 512 tokens    1042 and 980; 2,048 tokens 4751 and 4072, each in turns
    a training step, 5 million parameters        323 and 277; a pass over as many tokens, 142 and 104

Numba takes 0.1 GB of memory and 0.25 s, once a process, and 2 s the first time, when it compiles: smaller passes do
without. Where something else has imported it, they need not (a prompt of 8 x 64 tokens for the small model, Zen 4:
56 and 47 ms).

Tried and left: the largest score found among floating numbers, by one at a time (softmax 0.71); tiles of other sizes
than NumPy likes best, alike or slower.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy

from ..backend import Array
from ..buffers import empty
from ..compiled import EXACT, SUMS, at_hand, compiled, loops_allowed
from ..compiled_choice import number_at, order
from ..threads import chunks, each, over_rows_with_sums

MANY = 2**21  # numbers in all, from which on a pass may wait for Numba to be imported
FEW = 2**14  # numbers from which on a loop is faster, where Numba is in memory
float32, int32 = numpy.float32, numpy.int32
C, A, ONE = float32(0.79788456), float32(0.044715), float32(1)  # C and A of `mlp.py`
LN2_HIGH = float32(355 / 512)  # ln 2 in two parts, the first of so few bits that all its multiples below are exact
LN2_LOW = float32(math.log(2) - 355 / 512)
LOG2E = float32(1 / math.log(2))
SERIES = tuple(float32(1 / math.factorial(k)) for k in range(8))  # of exp; the rest is below 6e-9
LEAST, MOST = float32(-92 * math.log(2)), float32(89)  # below 2^-92 weights count for nothing: see `subnormals.py`
NOTHING = float32(-88)
LOWEST = numpy.finfo(float32).min


def exp(x: Any) -> Any:
    """exp(x) of a float32: 0 below 2^-92, inf from 2^127.5 on. 2^n by its bits, times the series of what is left."""
    if x < LEAST:
        x = NOTHING  # n = -127, whose bits are those of 0
    if x > MOST:
        x = MOST  # n = 128, whose bits are those of inf
    biased = int32(x * LOG2E + float32(127.5))  # n + 127, with n the whole number next to x / ln 2
    n = float32(biased) - float32(127)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    y = SERIES[7]
    y = y * r + SERIES[6]
    y = y * r + SERIES[5]
    y = y * r + SERIES[4]
    y = y * r + SERIES[3]
    y = y * r + SERIES[2]
    y = y * r + ONE
    y = y * r + ONE
    return y * int32(biased << int32(23)).view(float32)


def moments(x: Any, eps: Any) -> Any:
    """The mean of `x [N]`, and 1 / sqrt(variance + eps)."""
    total, squares = float32(0), float32(0)
    for i in range(x.shape[0]):
        total += x[i]
    mean = total / float32(x.shape[0])
    for i in range(x.shape[0]):
        squares += (x[i] - mean) * (x[i] - mean)
    return mean, ONE / numpy.sqrt(squares / float32(x.shape[0]) + eps)


def gelu_of(a: Any) -> Any:
    """`gelu` of `mlp.py`, of a number."""
    return a / (exp((float32(-2) * C * A * a * a - float32(2) * C) * a) + ONE)


def gelu_numbers(x: Array, y: Array) -> None:
    """`x [R, N]` -> gelu(x) into `y [R, N]`."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[row, i] = gelu_of(x[row, i])


def bias_gelu_numbers(bias: Array, x: Array, y: Array) -> None:
    """`bias [N]`, `x [R, N]` -> x + bias in place, and gelu of that into `y [R, N]`."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[row, i] += bias[i]
            y[row, i] = gelu_of(x[row, i])


def bias_gelu_in_place(bias: Array, x: Array) -> None:
    """`bias [N]`, `x [R, N]` -> gelu(x + bias), in place."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[row, i] = gelu_of(x[row, i] + bias[i])


def gelu_backward_numbers(dy: Array, x: Array, dx: Array) -> None:
    """`gelu_backward` of `mlp.py`, of `dy, x [R, N]` into `dx [R, N]`."""
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            a = x[row, i]
            square = a * a
            gate = ONE / (exp((float32(-2) * C * A * square - float32(2) * C) * a) + ONE)
            slope = float32(3) * A * C * square + C  # u'
            dx[row, i] = dy[row, i] * (float32(2) * slope * (gate * (ONE - gate) * a) + gate)


def norm_numbers(x: Array, weight: Array, bias: Array, eps: Array, y: Array) -> None:
    """`layer_norm` of `layer_norm.py`, of `x [R, N]` into `y [R, N]`; `eps [1]`."""
    for row in range(x.shape[0]):
        mean, rstd = moments(x[row], eps[0])
        for i in range(x.shape[1]):
            y[row, i] = (x[row, i] - mean) * rstd * weight[i] + bias[i]


def norm_backward_numbers(
    dy: Array, x: Array, weight: Array, eps: Array, dx: Array, dweight: Array, dbias: Array
) -> None:
    """`layer_norm_backward`, of `dy, x [R, N]` into `dx [R, N]`, and added onto `dweight, dbias [N]`."""
    width = float32(x.shape[1])
    for row in range(x.shape[0]):
        mean, rstd = moments(x[row], eps[0])
        of_g, of_gn = float32(0), float32(0)
        for i in range(x.shape[1]):
            n = (x[row, i] - mean) * rstd
            g = dy[row, i] * weight[i]
            of_g += g
            of_gn += g * n
            dweight[i] += dy[row, i] * n
            dbias[i] += dy[row, i]
        of_g /= width
        of_gn /= width
        for i in range(x.shape[1]):
            n = (x[row, i] - mean) * rstd
            dx[row, i] = (dy[row, i] * weight[i] - of_g - n * of_gn) * rstd


def softmax_numbers(alibi: Array, seen: Array, scores: Array, top: Array, total: Array) -> None:
    """What `_weigh` of `tiled_attention.py` does, in place; `seen [N, M]` with M = 0 where all keys are."""
    first = scores.shape[2] - seen.shape[1]
    for g in range(scores.shape[0]):
        for n in range(scores.shape[1]):
            row = scores[g, n]
            for i in range(row.shape[0]):
                row[i] += alibi[g, 0, i]
            for i in range(first, row.shape[0]):
                if not seen[n, i - first]:
                    row[i] = LOWEST
            place = order(top[g, n, 0])
            for i in range(row.shape[0]):
                place = max(place, order(row[i]))
            new_top = number_at(place)
            sum_of_weights = float32(0)
            for i in range(row.shape[0]):
                weight = exp(row[i] - new_top)
                row[i] = weight
                sum_of_weights += weight
            top[g, n, 0], total[g, n, 0] = new_top, sum_of_weights


def softmax_backward_numbers(weights: Array, total: Array, dscores: Array) -> None:
    """`weights [G, N, K]`, `total [G, N, 1]`, upstream `dscores [G, N, K]` -> W (d - Σ W d / t), in place."""
    for g in range(weights.shape[0]):
        for n in range(weights.shape[1]):
            shared = float32(0)
            for i in range(weights.shape[2]):
                shared += weights[g, n, i] * dscores[g, n, i]
            shared /= total[g, n, 0]
            for i in range(weights.shape[2]):
                dscores[g, n, i] = (dscores[g, n, i] - shared) * weights[g, n, i]


ROW, MATRIX, STACK = ("f4", 1, "C"), ("f4", 2, "C"), ("f4", 3, "C")
GELU = {exp: EXACT, gelu_of: EXACT}
LOOPS: dict[Any, tuple[Any, ...]] = {  # each with what `compiled` asks for
    gelu_numbers: ((MATRIX,), (MATRIX,), GELU, EXACT),
    bias_gelu_numbers: ((ROW,), (MATRIX, MATRIX), GELU, EXACT),
    bias_gelu_in_place: ((ROW,), (MATRIX,), GELU, EXACT),
    gelu_backward_numbers: ((MATRIX, MATRIX), (MATRIX,), {exp: EXACT}, EXACT),
    norm_numbers: ((MATRIX, ROW, ROW, ROW), (MATRIX,), {moments: SUMS}, EXACT),
    norm_backward_numbers: ((MATRIX, MATRIX, ROW, ROW), (MATRIX, ROW, ROW), {moments: SUMS}, SUMS),
    softmax_numbers: (
        (STACK, ("?", 2, "C")),
        (STACK, STACK, STACK),
        {exp: EXACT, order: EXACT, number_at: EXACT},
        SUMS,
    ),
    softmax_backward_numbers: ((STACK, STACK), (STACK,), {}, SUMS),
}


@functools.cache
def machine_code() -> dict[Any, Any]:
    """Each of `LOOPS`, compiled; None for each without a Numba for this Python and NumPy."""
    return {loop: compiled(loop, *needs) for loop, needs in LOOPS.items()}


def suits_compiled_steps(
    count: int, *arrays: Array, rows: tuple[Array, ...] = (), others: tuple[Array, ...] = ()
) -> bool:
    """Whether a pass with `count` numbers a step is to be computed here: the one place where that is chosen.

    `arrays [..., N]` must be of one shape, `rows [N]` as wide, `others` of any shape: loops check nothing.
    """
    return (
        count >= (FEW if at_hand() else MANY)
        and loops_allowed()
        and all(type(x) is numpy.ndarray and x.dtype == float32 for x in (*arrays, *rows, *others))
        and all(x.shape == arrays[0].shape for x in arrays)
        and all(x.shape == arrays[0].shape[-1:] for x in rows)
        and None not in machine_code().values()
    )


def gelu(x: Array) -> Array:
    """`x [..., N]` -> gelu(x) `[..., N]`."""
    return _by_rows(gelu_numbers, x)


def bias_gelu(up: Array, bias: Array, keep: bool) -> Array:
    """`up [..., N]`, `bias [N]` -> gelu(up + bias) `[..., N]`. The sum is put into `up`; without `keep`, the result."""
    rows, (b,) = up.reshape(-1, up.shape[-1]), _whole(bias)  # [..., N] -> [R, N]
    if not keep:
        each(lambda part: machine_code()[bias_gelu_in_place](b, rows[part]), chunks(rows))
        return up
    act = empty(rows.shape, float32)
    each(lambda part: machine_code()[bias_gelu_numbers](b, rows[part], act[part]), chunks(rows))
    return act.reshape(up.shape)


def gelu_backward(dy: Array, x: Array) -> Array:
    """Upstream `dy [..., N]` and the forward's `x` -> `dx [..., N]`."""
    return _by_rows(gelu_backward_numbers, dy, x)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """`x [..., N]`, `weight [N]`, `bias [N]` -> `[..., N]`."""
    return _by_rows(norm_numbers, x, parameters=(weight, bias, numpy.array([eps], float32)))


def layer_norm_backward(dy: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """Upstream `dy [..., N]` and the forward's `x`, `weight` -> `dx [..., N]`, `dweight [N]`, `dbias [N]`."""

    def of_rows(dy: Array, x: Array) -> tuple[Array, Array, Array]:
        dx, width = numpy.empty(dy.shape, float32), dy.shape[1]
        dweight, dbias = numpy.zeros(width, float32), numpy.zeros(width, float32)
        code(*_whole(dy, x, weight), numpy.array([eps], float32), dx, dweight, dbias)
        return dx, dweight, dbias

    code = machine_code()[norm_backward_numbers]
    return over_rows_with_sums(of_rows, dy, x)


def _by_rows(loop: Any, *arrays: Array, parameters: tuple[Array, ...] = ()) -> Array:
    rows = _whole(*(x.reshape(-1, x.shape[-1]) for x in arrays))  # [..., N] -> [R, N]
    parameters, out, run = _whole(*parameters), empty(rows[0].shape, float32), machine_code()[loop]
    each(lambda part: run(*(x[part] for x in rows), *parameters, out[part]), chunks(out))
    return out.reshape(arrays[0].shape)


def _whole(*arrays: Array) -> tuple[Array, ...]:
    """`arrays`, each in one piece of memory."""
    return tuple(numpy.ascontiguousarray(x) for x in arrays)


def weigh(scores: Array, alibi: Array, seen: Array | None, top: Array) -> tuple[Array, Array]:
    """`_weigh` of `tiled_attention.py`."""
    new_top, total = top.copy(), numpy.empty_like(top)
    hidden = numpy.empty((scores.shape[1], 0), bool) if seen is None else seen
    machine_code()[softmax_numbers](*_whole(alibi, hidden), scores, new_top, total)
    return new_top, total


def weigh_backward(dscores: Array, weights: Array, total: Array) -> None:
    """`_weigh_backward` of `tiled_attention.py`."""
    machine_code()[softmax_backward_numbers](weights, total, dscores)
