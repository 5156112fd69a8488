"""BLOOM once more, in sixty lines that share nothing with minibloom: a port, as somebody else might write it.

It can be told to slip, in the ways in which real ports do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy

Arrays = dict[str, numpy.ndarray]
erf = numpy.vectorize(math.erf, otypes=["float64"])


def slopes(heads: int, slip: str) -> numpy.ndarray:
    """ALiBi's slopes `[H]`: of the power of two below, and after them every second one of twice as many heads."""

    def powers(count: int, of: int) -> list[float]:
        return [float(numpy.float32(float(numpy.float32(2 ** (-8 / of))) ** (i + 1))) for i in range(count)]

    power = 1 << (heads.bit_length() - 1)
    found = powers(power, power) + powers(2 * (heads - power), 2 * power)[::2]
    if slip == "slopes as of a power of two":
        found = powers(heads, heads)
    return numpy.array(sorted(found, reverse=True) if slip == "sorted slopes" else found)


def port(model: Any, slip: str = "") -> Callable[[numpy.ndarray, numpy.ndarray], Arrays]:
    """A port that has the parameters of minibloom's `model` (a language model), and makes one mistake if told to."""
    w: Mapping[str, Any] = model.params
    H, eps = model.config.n_head, 1e-6 if slip == "epsilon" else model.config.layer_norm_epsilon

    def norm(x: numpy.ndarray, name: str) -> numpy.ndarray:
        n = (x - x.mean(-1, keepdims=True)) / numpy.sqrt(x.var(-1, keepdims=True) + eps)
        return n * w[f"{name}.weight"] + w[f"{name}.bias"]

    def project(x: numpy.ndarray, name: str) -> numpy.ndarray:
        return x @ w[f"{name}.weight"].T + (0 if slip == f"no bias of {name[4:]}" else w[f"{name}.bias"])

    def run(ids: numpy.ndarray, mask: numpy.ndarray) -> Arrays:
        shown: Arrays = {}

        def show(name: str, x: numpy.ndarray) -> numpy.ndarray:
            shown[name] = x.astype(model.dtype)
            return x

        B, S = ids.shape
        x = show("word_embeddings", w["word_embeddings.weight"][ids])
        if slip != "no embedding norm":
            x = norm(x, "word_embeddings_layernorm")
        x = show("word_embeddings_layernorm", x)
        position = numpy.arange(S)[None] if slip == "padding counts" else (numpy.cumsum(mask, 1) - 1) * mask
        alibi = slopes(H, slip)[None, :, None, None] * numpy.broadcast_to(position, (B, S))[:, None, None]
        show("alibi", alibi)
        seen = numpy.tril(numpy.ones((S, S), bool)) | (slip == "no causal mask")
        seen = seen & (mask[:, None, None] == 1)
        for i in range(model.config.n_layer):
            a = show(f"h.{i}.input_layernorm", norm(x, f"h.{i}.input_layernorm"))
            at = f"h.{i}.self_attention"
            fused = show(f"{at}.query_key_value", project(a, f"{at}.query_key_value"))
            order = (B, S, 3, H, -1) if slip == "[3, H, D]" else (B, S, H, 3, fused.shape[-1] // (3 * H))
            parts = numpy.moveaxis(fused.reshape(order), 2 if slip == "[3, H, D]" else 3, 0)  # [3, B, S, H, D]
            q, k, v = (part.transpose(0, 2, 1, 3) for part in parts)
            for name, part in (("query", q), ("key", k), ("value", v)):
                show(f"{at}.{name}", part)
            scale = 1 / math.sqrt(q.shape[-1])
            scores = (q @ k.transpose(0, 1, 3, 2) + alibi) * scale if slip == "scaled ALiBi" else None
            scores = q @ k.transpose(0, 1, 3, 2) * scale + alibi if scores is None else scores
            scores = show(f"{at}.scores", numpy.where(seen, scores, -1e9))
            p = numpy.exp(scores - scores.max(-1, keepdims=True))
            p = show(f"{at}.probs", p / p.sum(-1, keepdims=True))
            context = show(f"{at}.context", (p @ v).transpose(0, 2, 1, 3).reshape(B, S, -1))
            x = show(f"h.{i}.attention_residual", x + show(f"{at}.dense", project(context, f"{at}.dense")))
            m = show(f"h.{i}.post_attention_layernorm", norm(x, f"h.{i}.post_attention_layernorm"))
            u = show(f"h.{i}.mlp.dense_h_to_4h", project(m, f"h.{i}.mlp.dense_h_to_4h"))
            tanh = numpy.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))
            u = show(f"h.{i}.mlp.gelu", u / 2 * (1 + (erf(u / math.sqrt(2)) if slip == "erf" else tanh)))
            x = show(f"h.{i}", x + show(f"h.{i}.mlp.dense_4h_to_h", project(u, f"h.{i}.mlp.dense_4h_to_h")))
        x = x if slip == "no last norm" else norm(x, "ln_f")
        show("logits", show("ln_f", x) @ w["word_embeddings.weight"].T)
        return shown

    return run
