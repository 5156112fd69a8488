"""Edits of the forward pass by name: what to do, and to which heads, positions, neurons and rows of a step.

    Trace(edits={"h.2.self_attention.weights": ablate(head=3)})               # silence a head
    Trace(edits={"h.1.mlp.gelu": scale(2, neuron=17, position=-1)})           # one neuron, at the last token
    Trace(edits={"h.*.self_attention.weights": ablate(position=6, key=2)})    # token 6 may not look at token 2

    clean = Trace()                                                           # another run, as long as this one
    model(clean_ids, trace=clean)
    Trace(edits={"h.2": patch(clean, position=4)})                            # its residual stream, in one place

All four take the same selectors, each a whole number or several; a negative one counts from the end. What is not
selected flows on as it is; without a selector the whole step is edited.

    row       of the batch of this pass
    head      also where heads lie side by side: `query_key_value`, `context`
    position  of the query; of the key, at steps without queries (`key`, `value`)
    key       the position that is looked at, in `scores`, `probs` and `weights`
    neuron    along the last axis: of the hidden state, the MLP, the logits (a token id); inside a head, where the step
              has heads apart or `head` is given

With a cache, positions are those of the whole text, and -1 is the newest. A position that an earlier pass has computed
is not there in a later one, which leaves it as it is: an edit at position 4 of a prompt acts once, when it is read.

What a selector cannot mean at a step that the pattern matches, and an index out of range, is an InputError before
anything is computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from types import ModuleType
from typing import Any, TypedDict, Unpack

import numpy

from .backend import Array, asarray, namespace
from .display import kind
from .errors import InputError, suggest
from .trace import SOMETIMES, step

Indices = int | Iterable[int]


class Selectors(TypedDict, total=False):
    """Which part of a step; see above."""

    row: Indices
    head: Indices
    position: Indices
    key: Indices
    neuron: Indices


SELECTORS = tuple(Selectors.__annotations__)
# The axes, as `trace.STEPS` calls them, that a selector means: the first that the step has. For neurons, the last one.
MEANT = {"row": ("B",), "head": ("H",), "position": ("S", "T"), "key": ("T",)}
NO_NEURONS = ("B", "S", "T", "1")


def scale(factor: float, **where: Unpack[Selectors]) -> Edit:
    """Multiply by `factor`. A score that is masked stays masked."""
    if isinstance(factor, bool) or not isinstance(factor, Real):
        raise InputError(f"factor is {factor!r}, expected a number.")
    number = int(factor) if isinstance(factor, Integral) else float(factor)  # which leave float32 as it is
    return Edit("scale", number, partial(_times, number), checked(where), spares_masked=True)


def replace(value: Any, **where: Unpack[Selectors]) -> Edit:
    """Put `value` there: a number, or an array that broadcasts to the part that is selected, axes as in the step.

    The mean over the tokens of another run, by which a step is often ablated:

        replace(trace["h.1.mlp.gelu"].mean((0, 1)), position=-1)    # [B, S, 4E] -> [4E]
    """
    return Edit("replace", value, partial(_instead, value), checked(where))


def patch(source: Array | Mapping[str, Array], **where: Unpack[Selectors]) -> Edit:
    """Put there what another run had in the same place of the same step.

    source: the step's array of that run, or its whole `Trace`, of which the step of the same name is taken. Its shape
        and dtype are those of the step here.
    """
    if not isinstance(source, Mapping) and not hasattr(source, "shape"):
        raise InputError(f"source is a {type(source).__name__}, expected an array, or the Trace of another run.")
    return Edit("patch", source, _from_source, checked(where), source)


def ablate(**where: Unpack[Selectors]) -> Edit:
    """Put 0 there. For a mean in place of 0, see `replace`.

    At `weights` or `context`, that silences a head. At `scores`, where what is masked stays masked, it makes a head
    look at all tokens that it may see alike.
    """
    return Edit("ablate", None, partial(_instead, 0), checked(where), spares_masked=True)


# What takes the place of the part that is selected. Functions with a name: an edit can be sent to another process.


def _times(factor: float, part: Array, theirs: Array) -> Array:
    return part * factor


def _instead(value: Any, part: Array, theirs: Array) -> Any:
    return value


def _from_source(part: Array, theirs: Array) -> Array:
    return theirs


def checked(where: Mapping[str, Any]) -> dict[str, list[int]]:
    """Selectors, each with a list of whole numbers."""
    lists = {}
    for selector, given in where.items():
        if selector not in SELECTORS:
            expected = f"expected {', '.join(SELECTORS)}"
            raise InputError(f"there is no selector {selector!r}: {expected}.{suggest(selector, SELECTORS)}")
        try:
            lists[selector] = [operator.index(i) for i in (given if isinstance(given, Iterable) else [given])]
        except TypeError:
            raise InputError(f"{selector} is {given!r}, expected a whole number or several.") from None
    return lists


@dataclass(frozen=True, repr=False)
class Edit:
    """What `Trace(edits=...)` does at the steps that a pattern matches."""

    name: str
    given: Any
    change: Callable[[Array, Array], Any]  # the selected part of the step, and of the source -> what takes its place
    where: Mapping[str, list[int]]
    source: Any = None  # an array or a mapping of them, or None
    spares_masked: bool = False

    def __repr__(self) -> str:
        given = [] if self.given is None else [kind(self.given) if hasattr(self.given, "dtype") else repr(self.given)]
        where = [f"{selector}={i[0] if len(i) == 1 else i}" for selector, i in self.where.items()]
        return f"{self.name}({', '.join(given + where)})"

    def at(self, name: str, sizes: Mapping[str, int]) -> Callable[[Array], Array]:
        """The function to apply at the step `name`: see `trace.StepEdit`."""
        axes = step(name).axes.split()
        whole = [_size(axis, sizes) for axis in axes]
        if "head" in self.where and axes[-1] in ("HD", "H3D"):  # heads side by side, to be set apart
            axes[-1:] = ["H", axes[-1][1:]]
        places: dict[int, list[int]] = {}
        for selector, indices in self.where.items():
            axis = _axis(selector, axes)
            if axis is None or axis in places:
                has = ", ".join(s for s in SELECTORS if _axis(s, axes) not in (None, *places)) or "none here"
                letters = ", ".join(step(name).axes.split())
                raise InputError(f"{selector} means nothing at {name!r} [{letters}] in {self}, expected {has}.")
            size = sizes["end"] if axes[axis] in ("S", "T") else _size(axes[axis], sizes)
            for index in indices:
                _check(selector, index, size, name)
            places[axis] = indices
        acts = all(_here(axes[axis], indices, _size(axes[axis], sizes), sizes) for axis, indices in places.items())
        if self.source is not None and acts and not name.endswith(SOMETIMES):  # those: when the pass reaches them
            shape = list(self._theirs(name).shape)
            if shape not in (whole, [1, *whole[1:]]):  # 1: masks without a batch
                raise InputError(
                    f"{self} at {name!r} has a source of shape {shape}, expected {whole} as in this run. To put "
                    "there what stands elsewhere in another run: replace(source[...], position=...)."
                )
        return partial(self._apply, name, axes, places, sizes)

    def _theirs(self, name: str) -> Array:
        if not isinstance(self.source, Mapping):
            return self.source
        if name not in self.source:
            raise InputError(f"{self} at {name!r}: its source did not keep this step.{suggest(name, self.source)}")
        return self.source[name]

    def _apply(
        self, name: str, axes: list[str], places: Mapping[int, list[int]], sizes: Mapping[str, int], value: Array
    ) -> Array:
        """A copy of the step's array with the selected part changed."""
        apart = (*value.shape[:-1], sizes["H"], -1) if len(axes) > value.ndim else value.shape
        new = value.copy(order="K")  # laid out as it was, so that products over it round as they did
        view = new.reshape(apart)
        everything: list[Any] = [numpy.arange(n) for n in view.shape]
        for axis, indices in places.items():
            for index in indices:
                if axes[axis] == "B":  # a mask may have one row for all
                    _check("row", index, view.shape[axis], name)
            everything[axis] = _here(axes[axis], indices, view.shape[axis], sizes)
            if not everything[axis]:
                return value
        theirs = value if self.source is None else self._theirs(name)
        if (theirs.shape, theirs.dtype) != (value.shape, value.dtype):
            raise InputError(
                f"{self} at {name!r}: the source is {kind(theirs)}, expected {kind(value)} as in this run."
            )
        xp = namespace(value)
        theirs = asarray(theirs, xp, f"the source of {self}")
        mesh = _open_mesh(everything, xp) if places else ...
        part = view[mesh]
        if self.spares_masked and name.endswith(".scores"):
            masked = part == xp.finfo(part.dtype).min
            view[mesh] = xp.where(masked, part, self.change(xp.where(masked, 0, part), part))
        else:
            view[mesh] = self._fitting(self.change(part, theirs.reshape(apart)[mesh]), part, name)
        return new

    def _fitting(self, given: Any, part: Array, name: str) -> Array:
        """`given` as an array that can be put in the place of `part`."""
        given = asarray(given, namespace(part), f"the value of {self}")
        expected = f"expected what fits into {kind(part)}"
        if not numpy.can_cast(given.dtype, part.dtype, "same_kind"):
            raise InputError(f"{self} at {name!r} would put {given.dtype} there, {expected}.")
        try:
            return namespace(part).broadcast_to(given, part.shape)
        except ValueError:
            raise InputError(f"{self} at {name!r} would put {kind(given)} there, {expected}.") from None


def _axis(selector: str, axes: list[str]) -> int | None:
    """Which of the axes a selector means, if any."""
    if selector == "neuron":
        return None if axes[-1] in NO_NEURONS else len(axes) - 1
    return next((axes.index(letter) for letter in MEANT[selector] if letter in axes), None)


def _size(axis: str, sizes: Mapping[str, int]) -> int:
    """The size of an axis: "3D" is 3 times D, "HD" is H times D."""
    product = 1
    for part in axis:
        product *= int(part) if part.isdigit() else sizes[part]
    return product


def _check(selector: str, index: int, size: int, name: str) -> None:
    if not -size <= index < size:
        raise InputError(f"{selector}={index} is out of range at {name!r}: expected {-size} to {size - 1}.")


def _here(axis: str, indices: list[int], size: int, sizes: Mapping[str, int]) -> list[int]:
    """Where along an axis of this `size` the indices are. Positions end where the pass ends, and may lie before it."""
    before = sizes["end"] - size if axis in ("S", "T") else 0
    places = [i - before if i >= 0 else i + size for i in indices]
    return [i for i in places if 0 <= i < size]


def _open_mesh(places: list[Any], xp: ModuleType) -> tuple[Array, ...]:
    """Indices of all combinations of places on each axis: what `numpy.ix_` makes, in the library `xp`."""
    return tuple(
        xp.asarray(here).reshape([-1 if other == axis else 1 for other in range(len(places))])
        for axis, here in enumerate(places)
    )
