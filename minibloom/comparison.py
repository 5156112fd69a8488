"""Two passes, array by array: how far one is from the other, and where they part.

A step is right when its largest difference is at most `tolerance` times the largest magnitude of the reference's
array. Both are taken over tokens: what stands at padding is compared apart, since no token reads it. The scores of
keys that a query must not see are compared nowhere: masked is masked, whatever number does it. NaN is never right.

The gradient of a bias is measured by a tenth of the largest of its weight's, where that is larger than its own. There
are biases whose gradient is 0 but for rounding, such as the last of a model that answers questions: it moves the
logits of all positions alike, which softmax does not see.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from .backend import Array
from .display import columns
from .errors import InputError, suggest
from .golden import GIVEN, Steps
from .trace import HEADS, generic

# By precision, the finest first. float64's leaves room for what is float32 by definition: ALiBi's slopes, which two
# libraries may round to neighbouring float32 numbers, 6e-8 apart.
TOLERANCE = {"float64": 1e-7, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}
# Softmax turns what logits are off by into what a gradient is off by, relative to itself: logits of 20 that are 1e-6
# of that off give 2e-5. (On the model that ships, transformers in float32 is 6e-5 from its own float64 gradients.)
OF_GRADIENTS = 10
# The fields of a configuration without which two models compute different things.
SAME = (
    "vocab_size", "hidden_size", "n_layer", "n_head", "layer_norm_epsilon", "apply_residual_connection_post_layernorm",
)  # fmt: skip
LOGITS = {"logits", *filter(None, HEADS)}
BY_HEAD = (".query", ".key", ".value", ".scores", ".probs", ".weights")  # [B, H, S, ...]


@dataclass(frozen=True)
class Row:
    """One step, compared over tokens or over padding."""

    name: str
    shape: tuple[int, ...]
    absolute: float  # the largest difference
    relative: float  # the same, over the largest magnitude of the reference
    tolerance: float
    padding: bool = False
    problem: str = ""  # why nothing could be subtracted
    becomes: str = ""  # what makes the right numbers of these, where only the shape is another

    @property
    def ok(self) -> bool:
        return not self.problem and self.relative <= self.tolerance  # NaN is not


@dataclass
class Report:
    """What two passes have in common, step by step in forward order. `print(report)` shows it."""

    ours: Steps
    theirs: Steps
    rows: list[Row]
    tolerance: float | None = None  # as it was asked for
    strict: bool = False  # padding counts too
    hints: list[str] = field(default_factory=list)  # what is known about the first step that leaves

    @property
    def counted(self) -> list[Row]:
        return [row for row in self.rows if self.strict or not row.padding]

    @property
    def ok(self) -> bool:
        return self.first is None

    @property
    def first(self) -> Row | None:
        """The first step that leaves its tolerance."""
        return next((row for row in self.counted if not row.ok), None)

    def __str__(self) -> str:
        end = [part for line in self._end() for part in textwrap.wrap(line, 100, subsequent_indent="    ")]
        return "\n".join([*self._head(), "", self._table(), "", *end])

    def _head(self) -> list[str]:
        ours, theirs, mask = self.ours.about, self.theirs.about, self.ours["attention_mask"]
        c, padding = ours["config"], int((mask == 0).sum())
        return [
            f"{self.theirs.name} ({theirs['dtype']}) against {self.ours.name} ({ours['dtype']}), the reference.",
            f"{ours.get('model', 'A model in memory')}: {ours['class']}, {c['n_layer']} blocks, {c['n_head']} heads, "
            f"hidden size {c['hidden_size']}; {len(mask)} x {mask.shape[1]} positions"
            + (f", {padding} of them padding." if padding else "."),
            *filter(None, [theirs.get("note")]),
        ]

    def _table(self) -> str:
        cells = [("step", "shape", "max abs", "max rel", "allowed", "")]
        tokens_ok = {row.name: row.ok for row in self.rows if not row.padding}
        for row in self.rows:
            if row.padding and (row.ok or not tokens_ok[row.name]):
                continue  # no news
            mark = "ok" if row.ok else "off, unread" if row.padding and not self.strict else "OFF"
            mark += ", see below" * bool(row.problem) + "  <- first" * (row is self.first)
            figures = ("-", "-") if row.problem else (f"{row.absolute:.1e}", f"{row.relative:.1e}")
            name = row.name + " (padding)" * row.padding
            cells.append((name, str(list(row.shape)), *figures, f"{row.tolerance:.0e}", mark))
        return columns(cells, right=(2, 3, 4))

    def _end(self) -> list[str]:
        by, us = self.theirs.name, self.ours.about
        unseen = [name for name in self.ours if not shows(self.theirs, name) and name not in GIVEN]
        unknown = [name for name in self.theirs if name not in self.ours and name not in GIVEN]
        lines = []
        if unseen:
            lines.append(f"Not shown by {by}: {in_short(unseen, us)}.")
        if unknown:
            lines.append(f"Not known here, so not compared: {in_short(unknown, us)}.{nearest(unknown[0], unseen)}")
        for row in [row for row in self.rows if row.problem][:4]:
            right = f"; its numbers are right, and {row.becomes} gives that" if row.becomes else ""
            lines.append(f"{row.name} has shape {list(row.shape)}: {row.problem}{right}.")
        padding, count = [row for row in self.rows if row.padding], len(self.counted)
        if padding and not self.strict:
            off = sum(not row.ok for row in padding)
            found = f"is off in {off} of {len(padding)} steps" if off else "is within tolerance too"
            lines.append(f"Padding, which no token reads, {found}.")
        if self.first is None:
            worst = max(self.counted, key=lambda row: row.relative)
            furthest = f"The furthest off: {worst.name}, {worst.relative:.1e}." if worst.relative else "All are equal."
            lines.append(f"{count} compared, all within tolerance. {furthest}")
            return lines
        off = sum(not row.ok for row in self.counted)
        what = us["steps"].get(self.first.name, "")
        lines.append(f"{off} of {count} compared are off. The first: {self.first.name} = {what}")
        return lines + self.hints


def shows(steps: Mapping[str, Any], name: str) -> bool:
    """Whether `name` is among them. `logits` and the head's own step are one array under two names."""
    return name in steps or (name in LOGITS and not LOGITS.isdisjoint(steps))


def nearest(name: str, known: Iterable[str]) -> str:
    """What a port's `name` may mean. Those of a checkpoint may begin with "transformer.", those of steps do not."""
    return suggest(name.replace("transformer.", "", 1), known)


def in_short(names: Iterable[str], about: Mapping[str, Any]) -> str:
    """Names in a line, the first twelve: `h.*` stands for all blocks of the model, `gradient/*` for many gradients."""
    places: dict[str, list[str]] = {}
    for name in names:
        places.setdefault("gradient/*" if name.startswith("gradient/") else generic(name), []).append(name)
    short: list[str] = []
    for place, found in places.items():
        enough = 4 if place == "gradient/*" else about["config"]["n_layer"]
        short += [place] if place != found[0] and len(found) >= enough else found
    return ", ".join(short[:12]) + (f" and {len(short) - 12} more" if len(short) > 12 else "")


def compare(ours: Steps, theirs: Mapping[str, Any], tolerance: float | None = None, strict: bool = False) -> Report:
    """Hold arrays by name against those of `ours`, the reference, which `golden.run` or `golden.read` gave.

    tolerance: relative to the largest magnitude of each array; if None, `TOLERANCE` of the coarser precision of the
        two, ten times that for gradients.
    strict: whether padding counts. It is compared in any case.
    An InputError says so where the two have no step in common, or are not of the same model and input.
    """
    theirs = Steps.of(theirs)
    check_same(ours, theirs)
    usual = max(TOLERANCE[steps.about["dtype"]] for steps in (ours, theirs))

    def allowed(name: str) -> float:
        backward = name.startswith("gradient/") or name.endswith(".grad")
        return tolerance if tolerance is not None else OF_GRADIENTS * usual if backward else usual

    names = [name for name in ours if name in theirs and name not in GIVEN]
    if not names:
        strange = next((name for name in theirs if name not in GIVEN), "")
        steps = [name for name in ours if name not in GIVEN]
        raise InputError(
            f"{theirs.name} shows no step of this model. The names are those of minibloom.step_names: "
            f"{', '.join(steps[:5])}, ...{nearest(strange, steps)}"
        )
    rows = [row for name in names for row in _rows(name, ours, theirs[name], allowed(name))]
    return Report(ours, theirs, rows, tolerance, strict)


def check_same(ours: Steps, theirs: Steps) -> None:
    """Raise an InputError if the two are of different models, or were not given the same."""
    if not {"class", "config", "steps"} <= ours.about.keys() or "attention_mask" not in ours:
        raise InputError(f"{ours.name} cannot be the reference: only what minibloom wrote says enough for that.")
    check_model(ours.about["class"], ours.about["config"], theirs)
    for name in GIVEN:
        if name in ours and name in theirs and not numpy.array_equal(ours[name], theirs[name]):
            raise InputError(f"{theirs.name} has read other {name} than {ours.name}: give both the same.")


def check_model(kind: str, config: Mapping[str, Any], theirs: Steps) -> None:
    """Raise an InputError if a port's arrays say that they are of another class or configuration than these."""
    them = theirs.about
    if them.get("class", kind) != kind:
        raise InputError(f"{theirs.name} is of a {them['class']}, expected a {kind}.")
    for name in SAME:
        given = them.get("config", config)[name]
        if given != config[name]:
            raise InputError(f"{theirs.name} is of another model: its {name} is {given}, expected {config[name]}.")


def _rows(name: str, ours: Steps, got: Array, tolerance: float) -> list[Row]:
    """The row of a step's tokens, and that of its padding if there is any."""
    expected, problem, becomes = ours[name], "", ""
    whole = expected.dtype.kind in "iu"
    tolerance = 0.0 if whole else tolerance
    tokens, padding = selection(name, expected.ndim, ours["attention_mask"])
    if got.shape != expected.shape:
        problem, becomes = f"expected shape {list(expected.shape)}", laid_out(expected, got, tokens, tolerance)
    elif (got.dtype.kind in "iub") != whole:
        problem = f"expected {expected.dtype}, not {got.dtype}"
    if problem:
        return [Row(name, got.shape, numpy.nan, numpy.nan, tolerance, problem=problem, becomes=becomes)]
    bias_of = ours.get(f"{name.removesuffix('.bias')}.weight") if name.startswith("gradient/") else None
    least = 0.0 if bias_of is None else 0.1 * float(abs(bias_of).max())
    rows = [Row(name, got.shape, *distance(expected, got, tokens, least), tolerance)]
    if padding.any():
        rows.append(Row(name, got.shape, *distance(expected, got, padding), tolerance, padding=True))
    return rows


def laid_out(expected: Array, got: Array, tokens: Array, tolerance: float) -> str:
    """What makes `expected` of `got`, whose shape is another: a call; an empty string if the numbers are others."""
    orders = itertools.permutations(range(got.ndim)) if got.ndim == expected.ndim else ()
    ways = {f"transpose{axes}": got.transpose(axes) for axes in orders}
    if got.size == expected.size:
        ways["reshape"] = got.reshape(expected.shape)
    right = (
        how for how, x in ways.items() if x.shape == expected.shape and distance(expected, x, tokens)[1] <= tolerance
    )
    return next(right, "")


def selection(name: str, ndim: int, mask: Array) -> tuple[Array, Array]:
    """Which numbers of a step are a token's, and which padding's, as arrays that broadcast to its shape.

    All are a token's where no axis stands for positions.
    """
    if ndim < 3 or name.startswith("gradient/"):
        return numpy.array(True), numpy.array(False)
    B, S = mask.shape
    axis = 3 if name == "alibi" else 2 if name.endswith(BY_HEAD) else 1
    tokens = mask.astype(bool).reshape([B, *(S if i == axis else 1 for i in range(1, ndim))])
    visible = numpy.array(True)
    if name.endswith(".scores"):  # [B, 1, S, T]
        visible = (numpy.arange(S) <= numpy.arange(S)[:, None]) & mask.astype(bool)[:, None, None, :]
    return tokens & visible, ~tokens & visible


def distance(ours: Array, theirs: Array, selected: Array, least: float = 0.0) -> tuple[float, float]:
    """The largest difference of the selected numbers, and the same over the largest magnitude of `ours`, or `least`."""
    dtype = "int64" if ours.dtype.kind in "iu" else numpy.result_type(ours, theirs)
    with numpy.errstate(invalid="ignore", over="ignore"):  # an infinity less another is NaN, and NaN is not right
        apart = abs(theirs.astype(dtype, copy=False) - ours.astype(dtype, copy=False))
    largest = numpy.where(selected, apart, 0).max(initial=0)
    scale = numpy.where(selected, abs(ours), 0).max(initial=least)
    return float(largest), float(largest / scale) if scale else float(largest)
