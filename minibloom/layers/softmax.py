"""Softmax over the last axis: p_i = exp(x_i) / Σ_j exp(x_j).

The largest entry is subtracted first. It cancels in the fraction, and no exp can overflow.

Backward. p_i grows with x_j at the rate p_i ([i = j] - p_j), so

    dx_j = Σ_i dp_i p_i ([i = j] - p_j) = p_j (dp_j - Σ_i dp_i p_i)
"""

from __future__ import annotations

from ..backend import Array, namespace


def softmax(x: Array, out: Array | None = None) -> Array:
    """`x [..., T]` -> `p [..., T]`, each row positive and of sum 1. `out` may be `x` itself, to save memory."""
    xp = namespace(x)
    p = xp.subtract(x, x.max(-1, keepdims=True), out=out)
    xp.exp(p, out=p)
    p /= p.sum(-1, keepdims=True)
    return p


def softmax_backward(dp: Array, p: Array) -> Array:
    """Upstream `dp [..., T]` and the forward's result `p [..., T]` -> `dx [..., T]`."""
    dx = dp * p
    dx -= p * dx.sum(-1, keepdims=True)
    return dx
