"""Two implementations of BLOOM, held against each other step by step, and what is wrong where they part.

minibloom parity MODEL --against transformers         # another implementation, here
minibloom parity MODEL --write golden.safetensors     # every step, to check a port in any language by
minibloom parity MODEL --against port.safetensors     # what such a port wrote: see golden.py for the file

from minibloom import parity
report = parity.check(port)  # port: a function from ids and mask [B, S] to a mapping of arrays by name
print(report); report.ok; report.first; report.rows
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy

from .backend import Array, to_numpy
from .base import PreTrainedModel
from .comparison import TOLERANCE, Report, Row, check_model, compare, in_short, selection, shows
from .errors import InputError
from .golden import GIVEN, Steps, compute, load, run
from .slips import HINTS, SLIPS, Pass, Slip
from .tokenizer import BloomTokenizerFast
from .trace import Trace, generic

PROMPT = "All human beings are born free. Tous les êtres humains naissent libres. 人人生而自由。 सभी मनुष्यों को"
Port = Callable[[Array, Array], Mapping[str, Any]]  # input_ids, attention_mask [B, S] -> arrays by name


def check(
    port: Port | Mapping[str, Any],
    model: PreTrainedModel | None = None,
    input_ids: Any = None,
    attention_mask: Any = None,
    gradients: bool = False,
    tolerance: float | None = None,
    strict: bool = False,
) -> Report:
    """Hold a port against minibloom. Where it leaves, the report's hints say why, as far as that can be found out.

    port: a function from ids and mask `[B, S]` to a mapping with arrays by name, as many as it has. Or such a mapping,
        also one that `golden.read` has read; then it may hold the `input_ids` and `attention_mask` that it was given.
    model: minibloom's model with the port's parameters; if None, the one that ships.
    input_ids, attention_mask: what to read, if the port does not say; with the model that ships, `PROMPT` if None.
    gradients: compare them too. tolerance, strict: as in `compare`.
    """
    shown = Steps({}) if callable(port) else Steps.of(port)
    if input_ids is None:
        input_ids, attention_mask = shown.get("input_ids"), shown.get("attention_mask")
    if model is None:
        model = load(dtype=precision_of(shown))
        input_ids = [BloomTokenizerFast.from_pretrained()(PROMPT)["input_ids"]] if input_ids is None else input_ids
    if input_ids is None:
        raise InputError("input_ids is missing: what should model and port read?")
    ours = run_like(shown, model, input_ids, attention_mask, gradients)
    theirs = Steps.of(port(ours["input_ids"], ours["attention_mask"])) if callable(port) else shown
    return judge(ours, theirs, model, tolerance, strict)


def precision_of(shown: Steps) -> str:
    """The precision to hold a port's arrays against: no coarser than theirs."""
    return "float64" if shown.about["dtype"] == "float64" else "float32"


def run_like(shown: Steps, model: PreTrainedModel, ids: Any, mask: Any, gradients: bool) -> Steps:
    """`run` with the labels that a port shows, and with gradients if it shows any. The two have to fit together."""
    check_model(type(model).__name__, model.config.to_dict(), shown)
    if "input_ids" in shown and not numpy.array_equal(shown["input_ids"], ids):
        raise InputError(f"{shown.name} has read other input_ids: leave yours out, and minibloom reads the same.")
    gradients = gradients or any(name.startswith("gradient/") for name in shown)
    return run(model, ids, mask, gradients, {name: shown[name] for name in model.labels if name in shown})


def judge(
    ours: Steps, theirs: Steps, model: PreTrainedModel | None, tolerance: float | None = None, strict: bool = False
) -> Report:
    """`compare`, with hints. With the model that `ours` is of, every slip that it could be is tried."""
    report = compare(ours, theirs, tolerance, strict)
    if report.first is not None:
        report.hints = [*explain(report, report.first, model)]
    return report


def explain(report: Report, first: Row, model: PreTrainedModel | None) -> list[str]:
    """What is known about the first step that leaves."""
    hint = HINTS.get(generic(first.name), "")
    hints = [f"What to look at: {hint}"] if hint else []
    if first.problem:
        return [] if first.becomes else hints
    # Only what comes after the last right step can be wrong. ALiBi is not computed from the steps before it.
    right = [row.name for row in report.rows[: report.rows.index(first)] if row.ok and row.name != "alibi"]
    names = [name for name in report.ours if name not in GIVEN]
    suspects = names[names.index(right[-1]) + 1 if right else 0 : names.index(first.name) + 1]
    where, *seen = observations(report, first)
    found = diagnose(report, first, model, suspects) if model is not None else ""
    if found:
        return [where, found]
    unseen = [name for name in suspects if not shows(report.theirs, name)]
    blocks = [name for name in unseen if generic(name) == "h.*"]
    if unseen:
        since = f"between {right[-1]}, which is right, and it" if right else "before it"
        said = f"It may come from a step that is not shown, {since}"
        if len(blocks) > 1:
            hints = [f"What to do: show what each block gives, {blocks[0]} to {blocks[-1]}, and compare again."]
            seen.append(f"{said}.")
        else:
            seen.append(f"{said}: {in_short(unseen, report.ours.about)}.")
    if like_float32(report):
        seen.append(
            "Nothing is off by more than float32 may be. If the port computes in it, store float32, not float64."
        )
    if first.padding:
        seen.append("A row of padding that sees no key has equal weights on all keys, here as in transformers.")
    return [where, *seen, *hints]


def like_float32(report: Report) -> bool:
    """Whether what is held against the tolerance of float64 would be right by that of float32, in every step."""
    dtypes = {steps.about["dtype"] for steps in (report.ours, report.theirs)}
    times = TOLERANCE["float32"] / TOLERANCE["float64"]
    usual = report.tolerance is None and dtypes == {"float64"}
    return usual and all(row.relative <= times * row.tolerance for row in report.counted)  # NaN is not


def observations(report: Report, row: Row) -> list[str]:
    """Where the largest difference is, and what all differences have in common."""
    x, y = report.ours[row.name], report.theirs[row.name]
    selected = numpy.broadcast_to(selection(row.name, x.ndim, report.ours["attention_mask"])[row.padding], x.shape)
    broken = selected & ~numpy.isfinite(y)
    if broken.any():
        place = [int(i) for i in numpy.argwhere(broken)[0]]
        return [f"{broken.sum()} of its {selected.sum()} numbers are NaN or infinite, the first at {place}."]
    x, y = numpy.where(selected, x, 0).astype("float64"), numpy.where(selected, y, 0).astype("float64")
    worst = numpy.unravel_index(abs(y - x).argmax(), x.shape)
    found = [f"The largest difference is at {[*map(int, worst)]}: {y[worst]:.7g}, expected {x[worst]:.7g}."]
    near = row.tolerance * abs(x).max()
    spread = min(2 * near, abs(y - x).max() / 2)  # what is hardly off is not off by the same number for that

    def same_along(axis: Any) -> bool:
        high = numpy.where(selected, y - x, -numpy.inf).max(axis)
        low = numpy.where(selected, y - x, numpy.inf).min(axis)
        return bool((high - low <= spread).all())

    factor = (x * y).sum() / (x * x).sum() if x.any() else 0.0
    if not y.any():
        found.append("All its numbers are 0.")
    elif abs(y - factor * x).max() <= near * abs(factor):
        found.append(f"All its numbers are {factor:.6g} times what is expected.")
    elif row.name.endswith(("alibi", ".scores")) and same_along(-1):
        found.append(
            "It is off by one number along each row of keys, which softmax does not see. A port may do so: then "
            "nothing is wrong. Leave this step out; the probabilities will tell."
        )
    elif x.ndim == 3 and selected[..., 0].sum() > 1 and same_along((0, 1)):
        found.append("It is off by the same vector at every token: is it the bias?")
    return found


def diagnose(report: Report, first: Row, model: PreTrainedModel, suspects: Sequence[str]) -> str:
    """The slip with which minibloom itself computes what the port shows, if there is one. A pass for each is run."""
    from tqdm import tqdm

    model = copy.copy(model)
    model.params = {name: to_numpy(x) for name, x in model.params.items()}
    ours, rows = report.ours, [row.name for row in report.rows]
    forward = [name for name in rows if "grad" not in name] if "grad" not in first.name else rows
    shown = Steps({name: report.theirs[name] for name in forward}, report.theirs.about)
    places, best = {generic(name) for name in suspects}, ""
    tried = [slip for slip in SLIPS if not places.isdisjoint(slip.steps) and slip.head in ("", model.head)]
    for slip in tqdm(tried, "trying what is known to go wrong", delay=2, leave=False, disable=None):
        again = compare(with_slip(slip, model, ours, suspects[0]), shown, report.tolerance, report.strict).first
        said = f"Found: {slip.said.format(config=model.config)}"
        if again is None:
            return f"{said} That is all: with it, {'the rest' if forward == rows else 'the forward pass'} agrees."
        if not best and rows.index(again.name) > rows.index(first.name):
            best = f"{said} With it, all is right up to {again.name}."
    return best


def with_slip(slip: Slip, model: PreTrainedModel, ours: Steps, since: str) -> Steps:
    """What minibloom computes if it slips, from the step `since` on."""
    order = [*ours]
    places = [name for name in order[order.index(since) :] if generic(name) in slip.steps]
    trace = Trace()
    p = Pass(model.config, model.params, ours["attention_mask"], trace if slip.flows else ours)

    def wrong(name: str, value: Array) -> Array:
        return numpy.broadcast_to(slip.wrong(p, name, value), value.shape).astype(value.dtype)

    with numpy.errstate(all="ignore"):  # what is wrong may overflow
        if not slip.flows:
            return Steps({**ours, **{name: wrong(name, ours[name]) for name in places}}, ours.about)
        trace.edits = {name: partial(wrong, name) for name in places}
        given = {name: ours[name] for name in GIVEN if name in ours}
        return Steps({**given, **compute(model, given, trace)}, ours.about)
