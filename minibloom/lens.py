"""The logit lens (nostalgebraist, 2020): what the model would say after each block, if it were the last.

    trace = Trace("word_embeddings_layernorm", "h.[0-9]*")
    model([ids], trace=trace)
    lens(model, trace)          # probabilities [L + 1, S, V]; drawn by plots.logit_lens

Each block adds to the residual stream, which has the same axes from the embedding to the last norm. So any state of it
can be read as the last one is: through that norm and the head.
"""

from __future__ import annotations

import re

from .backend import Array, namespace
from .errors import InputError
from .layers.layer_norm import layer_norm
from .layers.linear import linear
from .layers.softmax import softmax
from .models import BloomForCausalLM
from .trace import Trace


def stream(trace: Trace) -> list[str]:
    """The names of the residual stream's states in a trace: after the embedding, and after each block."""
    first = "word_embeddings_layernorm"
    names = [first, *(name for name in trace if re.fullmatch(r"h\.\d+", name))]
    if len(names) < 2 or first not in trace:
        raise InputError(
            f"the trace holds no residual stream: make it with Trace(), or watch these steps: {first!r} and 'h.[0-9]*'."
        )
    return names


def lens(model: BloomForCausalLM, trace: Trace, row: int = 0) -> Array:
    """Probabilities `[L + 1, S, V]` of the next token, read off each state of the stream of one row of the batch."""
    p, eps = model.params, model.config.layer_norm_epsilon
    states = [layer_norm(trace[name][row], p["ln_f.weight"], p["ln_f.bias"], eps) for name in stream(trace)]
    return namespace(*states).stack([softmax(linear(x, p[model.head_matrix])) for x in states])
