"""Runs tests that are written in NumPy on a device: what they call of minibloom computes there, and they do not see it.

Arrays go to the device as a call begins and come back as it ends. What was one array stays one; what was changed in
place is changed in place. Within the call there is no array of the host, and on the stand-in nothing may silently wait
for the device: so each test is also one that the library keeps to its own arrays.

A model is called with arrays of the host, as a user calls it: that they are copied is its own affair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from types import FunctionType, ModuleType
from typing import Any

import numpy
import pytest

from minibloom import base, chunked_loss, losses, models, optimizer
from minibloom.backend import to_numpy
from minibloom.cache import Cache
from minibloom.layers.run import Run
from minibloom.outputs import ModelOutput
from minibloom.trace import Trace

from . import gradients, standin

MODELS = [kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, base.PreTrainedModel)]
FUNCTIONS = [losses.__name__, chunked_loss.__name__, optimizer.__name__, "minibloom.layers"]
HELD = (Cache, Run, Trace, optimizer.AdamW)  # objects that hold arrays: these are moved, and the objects stay


class Bridge:
    """One call's way to the device and back."""

    def __init__(self, xp: ModuleType) -> None:
        self.xp = xp
        self.moved: dict[int, tuple[numpy.ndarray, Any]] = {}  # by id, those of the host and where they are now
        self.back: dict[int, tuple[Any, numpy.ndarray]] = {}  # by id, those of the device and where they will be
        self.held: list[Any] = []  # objects and dictionaries whose content was moved
        self.dicts: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def there(self, x: Any) -> Any:
        """`x` on the device."""
        if isinstance(x, numpy.ndarray):
            if id(x) not in self.moved:
                self.moved[id(x)] = x, self.xp.asarray(x)
                self.back[id(self.moved[id(x)][1])] = self.moved[id(x)][1], x
            return self.moved[id(x)][1]
        if isinstance(x, dict):
            self.dicts.append((x, {name: self.there(value) for name, value in x.items()}))
            return self.dicts[-1][1]
        if isinstance(x, list | tuple):
            return type(x)(map(self.there, x))
        if isinstance(x, HELD):
            if not any(x is one for one in self.held):
                self.held.append(x)
                for name, value in vars(x).items():
                    setattr(x, name, self.there(value))
            return x
        if isinstance(x, FunctionType):  # a test's own, as an edit of a trace
            return lambda *arguments: self.there(x(*map(self.here, arguments)))
        return self.xp if x is numpy else x

    def here(self, x: Any) -> Any:
        """`x` on the host: where it came from, if it did."""
        if isinstance(x, self.xp.ndarray):
            if id(x) not in self.back:
                self.back[id(x)] = x, to_numpy(x)
            return self.back[id(x)][1]
        if isinstance(x, dict):
            return {name: self.here(value) for name, value in x.items()}
        if isinstance(x, list | tuple):
            return type(x)(map(self.here, x))
        if isinstance(x, ModelOutput):
            return type(x)(**{field.name: self.here(getattr(x, field.name)) for field in fields(x)})  # type: ignore
        if isinstance(x, HELD):
            self.there(x)  # made within the call
        return x

    def end(self) -> None:
        """Bring back what was moved."""
        for host, device in self.moved.values():
            new = to_numpy(device)
            if host.flags.writeable and new.tobytes() != host.tobytes():
                host[...] = new
        for given, used in self.dicts:
            result = self.here(used)
            given.clear()
            given.update(result)
        for one in self.held:
            for name, value in vars(one).items():
                setattr(one, name, next((given for given, used in self.dicts if used is value), self.here(value)))


def silent(xp: ModuleType) -> Any:
    """Where that can be told, nothing may wait for the device in here."""
    return standin.no_sync() if xp is standin.cupy else nullcontext()


def bridged(function: Callable[..., Any], xp: ModuleType) -> Callable[..., Any]:
    """`function`, of arrays of the host, computing on the device of `xp`."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if _at_home:
            return function(*arguments, **options)
        bridge = Bridge(xp)
        try:
            with silent(xp):
                result = function(*map(bridge.there, arguments), **{k: bridge.there(x) for k, x in options.items()})
            return bridge.here(result)
        finally:
            bridge.end()

    return call


def bridged_model(method: Callable[..., Any], xp: ModuleType) -> Callable[..., Any]:
    """A model's method: of a twin with the same parameters on the device. Arrays that it is given are left to it."""

    @functools.wraps(method)
    def call(model: Any, *arguments: Any, **options: Any) -> Any:
        if _at_home or model.xp is not numpy:
            return method(model, *arguments, **options)
        bridge = Bridge(xp)

        def moved(x: Any) -> Any:
            return bridge.there(x) if isinstance(x, (*HELD, tuple)) else x

        twin = type(model).__new__(type(model))
        vars(twin).update(vars(model) | {"params": {name: xp.asarray(x) for name, x in model.params.items()}})
        try:
            with silent(xp):
                result = method(twin, *map(moved, arguments), **{name: moved(x) for name, x in options.items()})
            return bridge.here(result)
        finally:
            bridge.end()

    return call


_at_home: list[bool] = []  # not empty while calls stay on the host


def at_home(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in which nothing goes to the device."""

    def call(*arguments: Any) -> Any:
        _at_home.append(True)
        try:
            return function(*arguments)
        finally:
            _at_home.pop()

    return call


@contextmanager
def onto(xp: ModuleType, module: ModuleType) -> Iterator[None]:
    """While this lasts, what the tests in `module` call computes on the device of `xp`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, thing in vars(module).items():
            if isinstance(thing, FunctionType) and thing.__module__.startswith(tuple(FUNCTIONS)):
                patch.setattr(module, name, bridged(thing, xp))
        for kind in MODELS:
            for name in ("__call__", "value_and_grad"):
                if name in vars(kind):
                    patch.setattr(kind, name, bridged_model(vars(kind)[name], xp))
        # A gradient of the device is held to differences of the host's numbers, of which there are many.
        patch.setattr(gradients, "slope", at_home(gradients.slope))
        patch.setattr(optimizer.AdamW, "step", bridged(optimizer.AdamW.step, xp))
        yield
