"""Looking inside: every step of the forward pass has a name, and a name can be watched or edited.

    trace = Trace()                              # keep every step
    model(input_ids, trace=trace)
    trace["h.0.self_attention.probs"]            # one array
    print(trace)                                 # all of them: name, formula, shape, dtype, values

    Trace("*.probs")                             # keep only some
    Trace(edits={"h.3.mlp.gelu": lambda x: 0 * x})    # change what flows on; see also `edits.py`

The names are those of the modules in a checkpoint, and of the arrays between them. A trace only keeps references, so
watching changes no bit of the result, with one exception: the fast path of attention, which large passes take, has no
scores, probabilities or weights to show. Who wants one of these gets the plain path, which is equal to rounding.
The table below is the one place where the steps, their axes and formulas stand; a test holds it to what a pass really
does.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

from .backend import Array
from .display import (
    STATISTICS,
    Html,
    by_block,
    code,
    details,
    kind,
    paragraph,
    statistics,
    summary,
    table,
    together,
    unbroken,
)
from .errors import InputError, suggest


class Step(NamedTuple):
    """`axes`: B batch, S queries, T keys, H heads, D head size, E hidden size, V vocabulary, N labels.

    "HD" is H times D, head by head; "H3D" is, in each head, 3 times D.
    """

    axes: str
    formula: str


# Steps in forward order. Those of a block have "h.*" for its number.
STEPS: dict[str, Step] = {
    "input_ids": Step("B S", "as given"),
    "word_embeddings": Step("B S E", "E[ids]"),
    "word_embeddings_layernorm": Step("B S E", "LayerNorm(embeddings)"),
    "attention_mask": Step("B T", "1 = token, 0 = padding"),
    "alibi": Step("B H 1 T", "slope[head] * position(key)"),
    "h.*.input_layernorm": Step("B S E", "a = LayerNorm(x)"),
    "h.*.self_attention.query_key_value": Step("B S H3D", "a @ W_qkv.T + b_qkv"),
    "h.*.self_attention.query": Step("B H S D", "q, head by head"),
    "h.*.self_attention.key": Step("B H T D", "k, cached keys first"),
    "h.*.self_attention.value": Step("B H T D", "v, cached values first"),
    "h.*.self_attention.scores": Step("B H S T", "q @ k.T / sqrt(D) + alibi, masked"),
    "h.*.self_attention.probs": Step("B H S T", "softmax(scores)"),
    "h.*.self_attention.dropout": Step("B H S T", "0 or 1 / (1 - p), drawn"),
    "h.*.self_attention.head_mask": Step("H 1 1", "as given, one factor a head"),
    "h.*.self_attention.weights": Step("B H S T", "probs, after dropout and head mask"),
    "h.*.self_attention.context": Step("B S HD", "heads side by side: weights @ v"),
    "h.*.self_attention.dense": Step("B S E", "context @ W_dense.T + b_dense"),
    "h.*.self_attention.hidden_dropout": Step("B S E", "0 or 1 / (1 - p), drawn"),
    "h.*.attention_residual": Step("B S E", "x + dense"),
    "h.*.post_attention_layernorm": Step("B S E", "m = LayerNorm(x)"),
    "h.*.mlp.dense_h_to_4h": Step("B S 4E", "m @ W_up.T + b_up"),
    "h.*.mlp.gelu": Step("B S 4E", "gelu(dense_h_to_4h)"),
    "h.*.mlp.dense_4h_to_h": Step("B S E", "gelu @ W_down.T + b_down"),
    "h.*.mlp.hidden_dropout": Step("B S E", "0 or 1 / (1 - p), drawn"),
    "h.*": Step("B S E", "x + mlp"),
    "ln_f": Step("B S E", "LayerNorm(x)"),
}
# The steps of each head, which follow. The gradient of the loss by the logits is where backward starts.
HEADS: dict[str, dict[str, Step]] = {
    "": {},
    "lm_head": {
        "lm_head": Step("B S V", "ln_f @ E.T, the logits"),
        "lm_head.grad": Step("B S V", "(softmax(logits) - onehot(label)) / count"),
        "lm_head.dhidden": Step("B S E", "lm_head.grad @ E, chunk by chunk"),  # with output_logits=False,
        "lm_head.dweight": Step("V E", "lm_head.grad.T @ ln_f, chunk by chunk"),  # these two stand for the two above
    },
    "score": {
        "last_token": Step("B", "place of the last id that is no padding"),
        "score": Step("B N", "ln_f[last_token] @ W_score.T, the logits"),
        "score.grad": Step("B N", "d loss / d logits"),
    },
    "classifier": {
        "classifier.dropout": Step("B S E", "0 or 1 / (1 - p), drawn"),
        "classifier": Step("B S N", "ln_f @ W.T + b, the logits"),
        "classifier.grad": Step("B S N", "(softmax(logits) - onehot(label)) / count"),
    },
    "qa_outputs": {
        "qa_outputs": Step("B S 2", "ln_f @ W.T + b, the logits of start and end"),
        "qa_outputs.grad": Step("B S 2", "(softmax over positions - onehot(position)) / count / 2"),
    },
}
SOMETIMES = ("input_ids", "dropout", "head_mask", "lm_head", ".grad", ".dhidden", ".dweight")  # not in every pass
SHORT = 24  # steps that a notebook shows in one table
NO_GRADIENT = ("input_ids", "attention_mask", "alibi", "dropout", "head_mask")  # steps that backward does not pass
NOT_EDITED = (  # what has changed what flows, in a pass with gradients
    "cannot be used with value_and_grad, but for edits of 'alibi': backward knows nothing of edits, and through ALiBi "
    "it does not go."
)
UNUSED_BY_BACKWARD = (".query_key_value", ".scores", ".dense", ".dense_4h_to_h", *filter(None, HEADS))


def step_names(layers: int, head: str = "lm_head") -> list[str]:
    """The names of all steps of a model of `layers` blocks, in forward order, those of training included.

    head: "lm_head", "score", "classifier" or "qa_outputs", as its parameters are called; "" for a model without one.
    """
    inside = [name for name in STEPS if name.startswith("h.*")]
    names = list(STEPS)
    before, after = names[: names.index(inside[0])], names[names.index(inside[-1]) + 1 :]
    return [*before, *(name.replace("*", str(i), 1) for i in range(layers) for name in inside), *after, *HEADS[head]]


def steps_at(at: Any, names: Sequence[str]) -> list[str]:
    """Those of the steps `names` that the pattern or patterns `at` match, and at which backward has a gradient."""
    patterns = [at] if isinstance(at, str) else list(at) if isinstance(at, Iterable) else [at]
    heads = {name for steps in HEADS.values() for name in steps}
    known = [name for name in names if name not in heads and not name.endswith(NO_GRADIENT)]
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(
                f"at holds {reprlib.repr(pattern)}, expected steps from 'word_embeddings' to 'ln_f' that depend on "
                f"what is before.{suggest(pattern, known)} The gradient at the logits a Trace has, as 'lm_head.grad'."
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def step(name: str) -> Step:
    """Axes and formula of the step called `name`; an unknown one has none."""
    for head in HEADS.values():
        if name in head:
            return head[name]
    return STEPS.get(generic(name), Step("", ""))


def generic(name: str) -> str:
    """A step's name in `STEPS`: "h.3.mlp.gelu" -> "h.*.mlp.gelu"."""
    return re.sub(r"^h\.\d+", "h.*", name)


def formula(name: str) -> str:
    """The formula of the step called `name`."""
    return step(name).formula


class StepEdit(Protocol):
    """An edit that goes by the name of the step, as those in `edits.py` do."""

    def at(self, name: str, sizes: Mapping[str, int]) -> Callable[[Array], Array]:
        """The function to apply at this step; an InputError if there can be none.

        sizes: of the axes that `Step` names, by letter, and "end": positions up to the end of this pass, those
            that a cache holds or has dropped included.
        """


class Trace(Mapping[str, Array]):
    """The steps of a forward pass, by name, in the order in which they were computed.

    `patterns` (shell style, `*` for anything) say which steps to keep; none means all. `edits` maps patterns
    to functions from a step's array to the array, of the same shape and dtype, that flows on in its place; or to what
    `scale`, `replace`, `patch` and `ablate` return.
    """

    def __init__(self, *patterns: str, edits: Mapping[str, Callable[[Array], Array] | StepEdit] | None = None) -> None:
        self.patterns = patterns or ("*",)
        if not isinstance(edits, Mapping | None):
            raise InputError(f"edits is {reprlib.repr(edits)}, expected a dictionary from patterns to edits.")
        self.edits = dict(edits or {})
        for pattern in (*self.patterns, *self.edits):
            if not isinstance(pattern, str):
                raise InputError(
                    f"a pattern is {reprlib.repr(pattern)}, expected text: Trace('*.probs', 'h.0'). Edits are given as "
                    "Trace(edits={...})."
                )
        for pattern, edit in self.edits.items():
            if not callable(edit) and not hasattr(edit, "at"):
                raise InputError(
                    f"the edit of {pattern!r} is {reprlib.repr(edit)}, expected a function of the step's array, or "
                    "scale, replace, patch or ablate."
                )
        self._steps: dict[str, Array] = {}
        self._sizes: Mapping[str, int] = {}

    def start(self, names: Sequence[str], sizes: Mapping[str, int]) -> None:
        """Called when a pass with these steps begins: forget the last. `sizes` as for `StepEdit`.

        An InputError if a pattern matches none of them, or an edit cannot be made at one that it matches.
        """
        for pattern in (*self.patterns, *self.edits):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(
                    f"no step of this model is called {pattern!r}.{suggest(pattern, names)} "
                    "model.step_names() lists them."
                )
        for pattern, edit in self.edits.items():
            for name in names:
                if fnmatchcase(name, pattern):
                    _function(edit, name, sizes)
        self._steps.clear()
        self._sizes = sizes

    def __call__(self, name: str, value: Array) -> Array:
        """Called by the forward pass at each step; returns what flows on."""
        for pattern, edit in self.edits.items():
            if fnmatchcase(name, pattern):
                edited = _function(edit, name, self._sizes)(value)
                if getattr(edited, "shape", None) != value.shape or edited.dtype != value.dtype:
                    raise InputError(
                        f"the edit of {name!r} returned {kind(edited)}, expected {kind(value)} like the step itself."
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

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)  # what a notebook offers after `trace["`

    def __str__(self) -> str:
        return "\n".join(describe(name, value) for name, value in self.items())

    def __repr__(self) -> str:
        return f"Trace({len(self)} steps)"

    def _repr_html_(self) -> str:
        """What a notebook shows: a table, and of a long trace one for each block, to be opened."""
        groups = by_block(self)
        if not self:
            return paragraph(repr(self))
        if len(self) <= SHORT:
            return self._table([*self])
        first = next((block for block, _ in groups if block), "")
        return together(*(
            details(f"{block}: {len(names)} steps", self._table(names), block == first) if block else self._table(names)
            for block, names in groups
        ))  # fmt: skip

    def _table(self, names: Sequence[str]) -> Html:
        def row(name: str, value: Array) -> list[object]:
            axes, formula = step(name)
            values = statistics(value) or ["all masked"]
            return [code(name), formula, unbroken(axes), unbroken(list(value.shape)), value.dtype, *values]

        columns = ["step", "formula", "axes", "shape", "dtype", *STATISTICS]
        return table(columns, (row(name, self[name]) for name in names), left=5)


def check_trace(trace: Any) -> None:
    """Raise an InputError if `trace` is neither None nor a `Trace`, or what can watch a pass as one does."""
    if trace is not None and (isinstance(trace, type) or not callable(getattr(trace, "start", None))):
        raise InputError(f"trace is {trace!r}, expected a Trace: Trace() keeps all steps, Trace('*.probs') some.")


class Tape(Trace):
    """The steps that backward reads: a trace that keeps those, and shows every step to the caller's trace first.

    With `recompute`, steps inside of blocks are not kept: backward computes each block again, from what went into it.
    `at`: names of the steps whose gradients are asked for, which the pass then has to take.
    """

    def __init__(self, seen_by: Trace | None = None, recompute: bool = False, at: Sequence[str] = ()) -> None:
        super().__init__()
        check_trace(seen_by)
        self.seen_by, self.recompute, self.at = seen_by, recompute, frozenset(at)
        self.run: Any = None  # the pass that filled it, as one that nobody watches
        if not getattr(seen_by, "edits", {}).keys() <= {"alibi"}:  # a watch of one's own may have none
            raise InputError(f"a trace with edits {NOT_EDITED}")

    def start(self, names: Sequence[str], sizes: Mapping[str, int]) -> None:
        self._steps.clear()
        if self.seen_by is not None:
            self.seen_by.start(names, sizes)

    def __call__(self, name: str, value: Array) -> Array:
        if self.seen_by is not None:
            seen = self.seen_by(name, value)
            if seen is not value and name != "alibi":
                raise InputError(f"a trace that returns another array, as at {name!r}, {NOT_EDITED}")
            value = seen
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
        seen = self.seen_by is not None and self.seen_by.wants(name)
        return seen or name in self.at or name.startswith("lm_head.d")


def describe(name: str, value: Array) -> str:
    """One step in two lines that fit a terminal: name and formula; shape, dtype and a summary of the values."""
    return f"{name:<42} {formula(name)}\n    {list(value.shape)!s:<18} {value.dtype!s:<8} {summary(value)}"


def _function(edit: Any, name: str, sizes: Mapping[str, int]) -> Callable[[Array], Array]:
    return edit.at(name, sizes) if hasattr(edit, "at") else edit
