"""The MLP: four times as wide inside, with the GELU between.

    up = x W_upᵀ + b_up        act = gelu(up)        out = act W_downᵀ + b_down

GELU (Hendrycks & Gimpel, 2016), by tanh as BLOOM was trained with it:

    gelu(x) = x/2 (1 + tanh u)        u = c x (1 + a x²)        c = √(2/π)        a = 0.044715

The share of x that it lets through, (1 + tanh u)/2, is the sigmoid 1 / (1 + exp(-2u)): the same number, and as NumPy's
exp takes half as long as its tanh, so does gelu (4.8 and 2.6 ns a number on one core of an AMD EPYC, Zen 3).

Backward, by the product rule, with tanh' = 1 - tanh² and u' = c (1 + 3 a x²):

    gelu'(x) = (1 + tanh u)/2 + x/2 (1 - tanh² u) u'
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy

from ..backend import Array, namespace
from ..cuda import gelu as kernels
from ..threads import over_rows
from . import compiled_steps
from .compiled_steps import suits_compiled_steps
from .linear import linear, linear_backward, sliced_linear
from .run import Run, Unwatched, keep
from .small_weights import SmallWeight

C = 0.79788456  # √(2/π), with as many digits as the reference has
A = 0.044715


def gate(x: Array) -> Array:
    """(1 + tanh u)/2 = 1 / (1 + exp(-2u)), between 0 and 1: the share of x that gelu(x) lets through. A new array."""
    xp = namespace(x)
    g = x * x
    g *= -2.0 * C * A
    g += -2.0 * C
    g *= x  # = -2u
    with numpy.errstate(over="ignore"):  # of a large one exp is inf, and the gate 0, as it should be
        xp.exp(g, out=g)
    g += 1.0
    return xp.reciprocal(g, out=g)


def gelu(x: Array) -> Array:
    """`x` of any shape -> gelu(x), elementwise."""
    if kernels.suits_gelu(x):
        return kernels.gelu(x)
    y = gate(x)
    y *= x
    return y


def gelu_backward(dy: Array, x: Array) -> Array:
    """Upstream `dy` and the forward's `x` -> `dx`, elementwise."""
    if kernels.suits_gelu(dy, x):
        return kernels.gelu_backward(dy, x)
    g = gate(x)
    slope = x * x  # grows into x/2 (1 - tanh²) u'  =  2 x g (1 - g) u'
    slope *= 3.0 * A * C
    slope += C  # = u'
    slope *= x
    slope *= g
    slope *= 2.0
    slope *= 1.0 - g
    slope += g
    slope *= dy
    return slope


def mlp(x: Array, params: Mapping[str, Array], layer: int, run: Run) -> Array:
    """`x [B, S, E]` -> `[B, S, E]`."""
    up, down, act = (f"h.{layer}.mlp.{step}" for step in ("dense_h_to_4h", "dense_4h_to_h", "gelu"))
    y = run.watch(act, up_and_gelu(x, params[f"{up}.weight"], params[f"{up}.bias"], up, run))  # [B, S, 4E]
    weight, bias = params[f"{down}.weight"], params[f"{down}.bias"]
    return run.watch(down, linear(y, weight, bias) if run.slices == 1 else sliced_linear(y, weight, bias, run.slices))


def up_and_gelu(x: Array, weight: Array, bias: Array, step: str, run: Run) -> Array:
    """gelu(x Wᵀ + b), of `x [..., E]`, `weight [4E, E]`, `bias [4E]`: `[..., 4E]`. Its inside is the step `step`."""
    count, dense = x.size // x.shape[-1] * len(bias), () if isinstance(weight, SmallWeight) else (weight,)
    fits = bias.shape == (weight.shape[0],) and suits_compiled_steps(count, x, others=(bias, *dense))
    fused: Any = compiled_steps if fits else None
    fused = kernels if kernels.suits_gelu(x, bias) else fused
    if fused and not run.watch.wants(step):  # b and gelu at once: a launch on a GPU, once over the numbers on the host
        up = linear(x, weight)
        act = fused.bias_gelu(up, bias, keep=type(run.watch) is not Unwatched)
        run.watch(step, up)
        return act
    up = run.watch(step, linear(x, weight, bias))
    return compiled_steps.gelu(up) if suits_compiled_steps(up.size, up) else over_rows(gelu, up)


def mlp_backward(
    dy: Array,
    x: Array,
    params: Mapping[str, Array],
    layer: int,
    tape: Mapping[str, Array],
    grads: MutableMapping[str, Array],
) -> Array:
    """Upstream `dy [B, S, E]` and the forward's `x` -> `dx [B, S, E]`; the weights' gradients go into `grads`."""
    up, down, act = (f"h.{layer}.mlp.{step}" for step in ("dense_h_to_4h", "dense_4h_to_h", "gelu"))
    weight = params[f"{down}.weight"]
    d, grads[f"{down}.weight"], grads[f"{down}.bias"] = linear_backward(keep(grads, down, dy), tape[act], weight)
    d = keep(grads, act, d)
    fast = suits_compiled_steps(d.size, d, tape[up])
    d = compiled_steps.gelu_backward(d, tape[up]) if fast else over_rows(gelu_backward, d, tape[up])
    d = keep(grads, up, d)
    dx, grads[f"{up}.weight"], grads[f"{up}.bias"] = linear_backward(d, x, params[f"{up}.weight"])
    return dx
