"""Layer normalisation: every position's vector is shifted to mean 0 and scaled to variance 1, then by weights.

    n = (x - mean(x)) / sqrt(var(x) + eps)        y = n * weight + bias         over the last axis, E wide

Backward. Let g = dy * weight be the gradient that arrives at n. x_j moves n_j directly, and every n_i through the mean
and through the variance: n_i grows with x_j at the rate

    ([i = j] - 1/E - n_i n_j/E) / sqrt(var + eps)

Summed over i, each times g_i, as the chain rule says, the three terms become three:

    dx = (g - mean(g) - n * mean(g * n)) / sqrt(var + eps)
    dweight = Σ dy * n        dbias = Σ dy            over all positions
"""

from __future__ import annotations

from ..backend import Array, namespace
from ..cuda import layer_norm as kernels
from ..threads import over_rows, over_rows_with_sums
from . import compiled_steps
from .compiled_steps import suits_compiled_steps
from .run import Run


def normalise(x: Array, eps: float) -> tuple[Array, Array]:
    """`x [..., E]` -> `n [..., E]` of mean 0 and variance 1, and `1 / sqrt(var + eps)` `[..., 1]`."""
    xp = namespace(x)
    width = x.shape[-1]
    n = x - x.sum(-1, keepdims=True) / width
    rstd = 1.0 / xp.sqrt(xp.square(n).sum(-1, keepdims=True) / width + eps)  # the biased variance: / E, not / (E - 1)
    n *= rstd
    return n, rstd


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """`x [..., E]`, `weight [E]`, `bias [E]` -> `[..., E]`."""
    if kernels.suits_norm(x, weight, bias):
        return kernels.layer_norm(x, weight, bias, eps)
    if suits_compiled_steps(4 * x.size, x, rows=(weight, bias)):  # the MLP has four times as many numbers a token
        return compiled_steps.layer_norm(x, weight, bias, eps)

    def of_rows(x: Array) -> Array:
        y, _ = normalise(x, eps)
        y *= weight
        y += bias
        return y

    return over_rows(of_rows, x)


def add_and_norm(
    x: Array, update: Array, weight: Array, bias: Array, eps: float, step: str, run: Run
) -> tuple[Array, Array]:
    """The residual stream `x [..., E]` with `update [..., E]` added, which is the step called `step`, and its norm."""
    if kernels.suits_norm(x, update, weight, bias) and not run.watch.wants(step):
        x, y = kernels.add_and_norm(x, update, weight, bias, eps)
        return run.watch(step, x), y
    x = run.watch(step, x + update)
    return x, layer_norm(x, weight, bias, eps)


def layer_norm_backward(dy: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array, Array]:
    """Upstream `dy [..., E]` and the forward's `x`, `weight` -> `dx [..., E]`, `dweight [E]`, `dbias [E]`."""
    if kernels.suits_norm(dy, x, weight):
        return kernels.layer_norm_backward(dy, x, weight, eps)
    if suits_compiled_steps(4 * x.size, dy, x, rows=(weight,)):
        return compiled_steps.layer_norm_backward(dy, x, weight, eps)
    width = x.shape[-1]

    def of_rows(dy: Array, x: Array) -> tuple[Array, Array, Array]:
        n, rstd = normalise(x, eps)  # computed again: cheaper than keeping it from the forward pass
        dn = dy * n
        dweight, dbias = dn.sum(0), dy.sum(0)
        n *= (dn @ weight)[:, None] / width  # = the mean of g * n
        g = dy * weight
        g -= g.sum(-1, keepdims=True) / width
        g -= n
        g *= rstd
        return g, dweight, dbias

    return over_rows_with_sums(of_rows, dy, x)
