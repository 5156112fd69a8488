"""One block: attention and MLP, each reading the normalised residual stream and adding onto it.

    a = LayerNorm_1(x)        x = x + dropout(attention(a))
    m = LayerNorm_2(x)        x = x + dropout(mlp(m))

Backward. A sum hands its gradient to both terms: the stream's gradient passes each addition unchanged, and
what comes back through the layer and its norm is added onto it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from ..backend import Array
from .attention import self_attention, self_attention_backward
from .dropout import dropout
from .layer_norm import add_and_norm, layer_norm, layer_norm_backward
from .mlp import mlp, mlp_backward
from .run import Run, keep


def block(x: Array, params: Mapping[str, Array], layer: int, run: Run) -> Array:
    """The residual stream `x [B, S, E]` before block number `layer` -> after it `[B, S, E]`."""
    name, watch, eps, p = f"h.{layer}", run.watch, run.config.layer_norm_epsilon, run.config.hidden_dropout
    after_norm = run.config.apply_residual_connection_post_layernorm  # then the norm's output is the residual

    norm = f"{name}.input_layernorm"
    a = watch(norm, layer_norm(x, params[f"{norm}.weight"], params[f"{norm}.bias"], eps))
    attended = dropout(self_attention(a, params, layer, run), p, f"{name}.self_attention.hidden_dropout", run)
    norm = f"{name}.post_attention_layernorm"
    weight, bias = params[f"{norm}.weight"], params[f"{norm}.bias"]
    x, m = add_and_norm(a if after_norm else x, attended, weight, bias, eps, f"{name}.attention_residual", run)
    m = watch(norm, m)

    x = (m if after_norm else x) + dropout(mlp(m, params, layer, run), p, f"{name}.mlp.hidden_dropout", run)
    return watch(name, x)


def block_backward(
    dy: Array,
    x: Array,
    params: Mapping[str, Array],
    layer: int,
    config: Any,
    tape: Mapping[str, Array],
    grads: MutableMapping[str, Array],
) -> Array:
    """Upstream `dy [B, S, E]` and the block's input `x` -> `dx [B, S, E]`; the weights' gradients go into `grads`."""
    name = f"h.{layer}"

    def through_norm(dnormed: Array, dresidual: Array, x: Array, norm: str) -> Array:
        """The gradient at `x`, which went into a norm (its output received `dnormed`) and into a sum."""
        if config.apply_residual_connection_post_layernorm:  # the sum took the norm's output, not x
            dnormed, dresidual = dnormed + dresidual, 0.0
        keep(grads, norm, dnormed)
        dx, grads[f"{norm}.weight"], grads[f"{norm}.bias"] = layer_norm_backward(
            dnormed, x, params[f"{norm}.weight"], config.layer_norm_epsilon
        )
        dx += dresidual
        return dx

    def through_dropout(d: Array, step: str) -> Array:
        return d * tape[step] if step in tape else d

    m = tape[f"{name}.post_attention_layernorm"]
    dm = mlp_backward(through_dropout(dy, f"{name}.mlp.hidden_dropout"), m, params, layer, tape, grads)
    dmiddle = through_norm(dm, dy, tape[f"{name}.attention_residual"], f"{name}.post_attention_layernorm")
    keep(grads, f"{name}.attention_residual", dmiddle)

    a = tape[f"{name}.input_layernorm"]
    dattended = through_dropout(dmiddle, f"{name}.self_attention.hidden_dropout")
    da = self_attention_backward(dattended, a, params, layer, tape, grads)
    return through_norm(da, dmiddle, x, f"{name}.input_layernorm")
