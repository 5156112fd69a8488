"""Looking inside: every step of the forward pass has a name, and a name can be watched or edited.

    trace = Trace()                              # keep every step
    model(input_ids, trace=trace)
    trace["h.0.self_attention.probs"]            # one array
    print(trace)                                 # all of them: name, formula, shape, dtype, values

    Trace("*.probs")                             # keep only some
    Trace(edits={"h.3.mlp.gelu": lambda x: 0 * x})    # change what flows on

The names are those of the modules in a checkpoint, and of the arrays between them. A trace only keeps references, so
watching changes no bit of the result, with one exception: the fast path of attention, which large passes take, has no
scores, probabilities or weights to show. Who wants one of these gets the plain path, which is equal to rounding.
The table below is the one place where the steps and their formulas stand; a test holds it to what a pass really does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy

from .backend import Array, to_numpy
from .errors import InputError, suggest

# Steps in forward order, with their formulas. Those of a block have "h.*" for its number.
FORMULAS: dict[str, str] = {
    "input_ids": "as given",
    "word_embeddings": "E[ids]",
    "word_embeddings_layernorm": "LayerNorm(word_embeddings)",
    "attention_mask": "1 = token, 0 = padding",
    "alibi": "slope[head] * position(key)",
    "h.*.input_layernorm": "a = LayerNorm(x)",
    "h.*.self_attention.query_key_value": "a @ W_qkv.T + b_qkv",
    "h.*.self_attention.query": "q, head by head",
    "h.*.self_attention.key": "k, cached keys first",
    "h.*.self_attention.value": "v, cached values first",
    "h.*.self_attention.scores": "q @ k.T / sqrt(D) + alibi, masked",
    "h.*.self_attention.probs": "softmax(scores)",
    "h.*.self_attention.dropout": "0 or 1 / (1 - p), drawn",
    "h.*.self_attention.head_mask": "as given, one factor a head",
    "h.*.self_attention.weights": "probs, after dropout and head mask",
    "h.*.self_attention.context": "heads side by side: weights @ v",
    "h.*.self_attention.dense": "context @ W_dense.T + b_dense",
    "h.*.self_attention.hidden_dropout": "0 or 1 / (1 - p), drawn",
    "h.*.attention_residual": "x + dense",
    "h.*.post_attention_layernorm": "m = LayerNorm(x)",
    "h.*.mlp.dense_h_to_4h": "m @ W_up.T + b_up",
    "h.*.mlp.gelu": "gelu(dense_h_to_4h)",
    "h.*.mlp.dense_4h_to_h": "gelu @ W_down.T + b_down",
    "h.*.mlp.hidden_dropout": "0 or 1 / (1 - p), drawn",
    "h.*": "x + mlp",
    "ln_f": "LayerNorm(x)",
}
# The steps of each head, which follow. The gradient of the loss by the logits is where backward starts.
HEADS: dict[str, dict[str, str]] = {
    "": {},
    "lm_head": {
        "lm_head": "ln_f @ E.T, the logits",
        "lm_head.grad": "(softmax(logits) - onehot(label)) / count",
        "lm_head.dhidden": "lm_head.grad @ E, chunk by chunk",  # these two in place of those two,
        "lm_head.dweight": "lm_head.grad.T @ ln_f, chunk by chunk",  # with output_logits=False
    },
    "score": {
        "last_token": "place of the last id that is no padding",
        "score": "ln_f[last_token] @ W_score.T, the logits",
        "score.grad": "d loss / d logits",
    },
    "classifier": {
        "classifier.dropout": "0 or 1 / (1 - p), drawn",
        "classifier": "ln_f @ W.T + b, the logits",
        "classifier.grad": "(softmax(logits) - onehot(label)) / count",
    },
    "qa_outputs": {
        "qa_outputs": "ln_f @ W.T + b, the logits of start and end",
        "qa_outputs.grad": "(softmax over positions - onehot(position)) / count / 2",
    },
}
UNUSED_BY_BACKWARD = (".query_key_value", ".scores", ".dense", ".dense_4h_to_h", *filter(None, HEADS))


def step_names(layers: int, head: str = "lm_head") -> list[str]:
    """The names of all steps of a model of `layers` blocks, in forward order, those of training included.

    head: "lm_head", "score", "classifier" or "qa_outputs", as its parameters are called; "" for a model without one.
    """
    inside = [name for name in FORMULAS if name.startswith("h.*")]
    names = list(FORMULAS)
    before, after = names[: names.index(inside[0])], names[names.index(inside[-1]) + 1 :]
    return [*before, *(name.replace("*", str(i), 1) for i in range(layers) for name in inside), *after, *HEADS[head]]


def formula(name: str) -> str:
    """The formula of the step called `name`."""
    for head in HEADS.values():
        if name in head:
            return head[name]
    return FORMULAS.get(re.sub(r"^h\.\d+", "h.*", name), "")


class Trace(Mapping[str, Array]):
    """The steps of a forward pass, by name, in the order in which they were computed.

    `patterns` (shell style, `*` for anything) say which steps to keep; none means all. `edits` maps patterns
    to functions from a step's array to the array, of the same shape and dtype, that flows on in its place.
    """

    def __init__(self, *patterns: str, edits: Mapping[str, Callable[[Array], Array]] | None = None) -> None:
        self.patterns = patterns or ("*",)
        self.edits = dict(edits or {})
        self._steps: dict[str, Array] = {}

    def start(self, names: Sequence[str]) -> None:
        """Called when a pass with these steps begins: forget the last. A pattern without a match is an InputError."""
        for pattern in (*self.patterns, *self.edits):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(
                    f"no step of this model is called {pattern!r}.{suggest(pattern, names)} "
                    "model.step_names() lists them."
                )
        self._steps.clear()

    def __call__(self, name: str, value: Array) -> Array:
        """Called by the forward pass at each step; returns what flows on."""
        for pattern, edit in self.edits.items():
            if fnmatchcase(name, pattern):
                edited = edit(value)
                if getattr(edited, "shape", None) != value.shape or edited.dtype != value.dtype:
                    raise InputError(
                        f"the edit of {name!r} returned {_kind(edited)}, expected {_kind(value)} like the step itself."
                    )
                value = edited
        if any(fnmatchcase(name, pattern) for pattern in self.patterns):
            self._steps[name] = value
        return value

    def wants(self, name: str) -> bool:
        """Whether a pattern or an edit matches this step."""
        return any(fnmatchcase(name, pattern) for pattern in (*self.patterns, *self.edits))

    def __getitem__(self, name: str) -> Array:
        try:
            return self._steps[name]
        except KeyError:
            raise KeyError(f"no step {name!r} was kept.{suggest(name, self._steps)}") from None

    def __contains__(self, name: object) -> bool:  # Mapping's would search for a suggestion on every miss
        return name in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __str__(self) -> str:
        return "\n".join(describe(name, value) for name, value in self.items())

    def __repr__(self) -> str:
        return f"Trace({len(self)} steps)"


class Tape(Trace):
    """The steps that backward reads: a trace that keeps those, and shows every step to the caller's trace first.

    With `recompute`, steps inside of blocks are not kept: backward computes each block again, from what went into it.
    """

    def __init__(self, seen_by: Trace | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.seen_by, self.recompute = seen_by, recompute
        self.run: Any = None  # the pass that filled it, as one that nobody watches
        if seen_by is not None and seen_by.edits:
            raise InputError("a trace with edits cannot be used with value_and_grad: backward knows nothing of edits.")

    def start(self, names: Sequence[str]) -> None:
        self._steps.clear()
        if self.seen_by is not None:
            self.seen_by.start(names)

    def __call__(self, name: str, value: Array) -> Array:
        if self.seen_by is not None:
            self.seen_by(name, value)
        inside = self.recompute and re.match(r"h\.\d+\.", name)
        if not inside and not name.endswith(UNUSED_BY_BACKWARD):
            self._steps[name] = value
        return value

    def forget(self, start: str) -> None:
        """Forget the steps whose names start so."""
        for name in [name for name in self._steps if name.startswith(start)]:
            del self._steps[name]

    def wants(self, name: str) -> bool:
        """What the caller wants. Backward can do without: see `tiled_attention_backward`."""
        return name.startswith("lm_head.d") or (self.seen_by is not None and self.seen_by.wants(name))


def describe(name: str, value: Array) -> str:
    """One step in two lines that fit a terminal: name and formula; shape, dtype and a summary of the values."""
    return f"{name:<42} {formula(name)}\n    {list(value.shape)!s:<18} {value.dtype!s:<8} {summary(value)}"


def summary(x: Array) -> str:
    """Mean, spread and range of an array's numbers, in one line. Masked scores are left out."""
    values = to_numpy(x)
    if values.dtype.kind == "f":
        values = values[values != numpy.finfo(values.dtype).min]
    if values.size == 0:
        return "all masked"
    return f"mean {values.mean():+.3g}  std {values.std():.3g}  min {values.min():+.3g}  max {values.max():+.3g}"


def _kind(x: object) -> str:
    return f"{getattr(x, 'dtype', type(x).__name__)}{list(getattr(x, 'shape', ()))}"
