"""Checks of the lessons' exercises.

    check(my_function)      # in a lesson: says whether it is right, and if not, what it gave and what was expected

A lesson's checks stand in a file of its own beside this one, one function an exercise, called as the function that it
checks. Solutions stand in `solutions`, for afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy


class Verdict:
    """What a check found, in one line."""

    def __init__(self, right: bool, text: str) -> None:
        self.right, self.text = right, text

    def __repr__(self) -> str:
        return ("✓ " if self.right else "✗ ") + self.text


class Checks:
    """The checks of one lesson. `check(f)` runs the one that is called as `f` is."""

    def __init__(self) -> None:
        self.of: dict[str, Callable[[Any], None]] = {}

    def exercise(self, check: Callable[[Any], None]) -> Callable[[Any], None]:
        """Decorates a function that takes the reader's and asserts what must hold of it."""
        self.of[check.__name__] = check
        return check

    def __call__(self, answer: Callable[..., Any]) -> Verdict:
        name = getattr(answer, "__name__", repr(answer))
        if name not in self.of:
            return Verdict(False, f"there is no exercise {name!r} here. This lesson has: {', '.join(self.of)}.")
        try:
            self.of[name](answer)
        except NotImplementedError:
            return Verdict(False, f"{name} is not written yet.")
        except AssertionError as error:
            return Verdict(False, f"{name}: {error or 'not right yet.'}")
        except Exception as error:  # whatever a reader's code may do
            return Verdict(False, f"{name} stopped with {type(error).__name__}: {error}")
        return Verdict(True, f"{name} is right.")


def same(given: Any, expected: Any, what: str, within: float = 1e-5) -> None:
    """Assert that `given` is `expected`: its shape, and its numbers to `within` of the largest."""
    expected = numpy.asarray(expected)
    assert given is not None, f"{what} is None: does the function return its result?"
    given = numpy.asarray(given)
    assert given.shape == expected.shape, f"{what} has shape {list(given.shape)}, expected {list(expected.shape)}."
    if expected.dtype.kind in "fiub":
        difference = numpy.abs(given.astype("float64") - expected.astype("float64"))
        allowed = within * max(1.0, float(numpy.abs(expected).max(initial=0)))
        assert not (numpy.isnan(given.astype("float64")) != numpy.isnan(expected.astype("float64"))).any(), (
            f"{what} holds NaN in other places than expected."
        )
        place = numpy.unravel_index(numpy.nan_to_num(difference).argmax(), expected.shape) if expected.size else ()
        worst = float(numpy.nan_to_num(difference).max(initial=0))
        assert worst <= allowed, (
            f"{what} is off by {worst:.3g}{f' at {[*map(int, place)]}' if place else ''}: "
            f"{float(given[place]):.4g}, expected {float(expected[place]):.4g}."
        )
    else:
        assert (given == expected).all(), f"{what} is {given}, expected {expected}."


def assert_all(check: Checks, stubs: dict[str, Any], solutions: Any) -> None:
    """For the test suite: every exercise of a lesson fails as the stub that it is, and passes as its solution."""
    assert len(check.of) >= 3, f"{len(check.of)} exercises, expected three at least"
    for name in check.of:
        stub, solution = stubs[name], getattr(solutions, name)
        assert not check(stub).right, f"the stub of {name} passes its check"
        verdict = check(solution)
        assert verdict.right, f"the solution of {name}: {verdict}"
        assert inspect.signature(stub) == inspect.signature(solution), f"{name} and its solution take other arguments"


def goldens() -> dict[str, Any]:
    """What transformers computes with the shipped model for "All human beings are born free": arrays by step's name.

    Long gradients hold every 101st number: see `thinned`. `python -m tests.make_lesson_goldens` made the file.
    """
    from minibloom.golden import read

    return read(Path(__file__).parents[1] / "goldens.safetensors")


def thinned(gradient: numpy.ndarray) -> numpy.ndarray:
    """A gradient as the goldens have it: of more than 4,093 numbers, every 101st in the order of memory."""
    return gradient if gradient.size <= 4093 else gradient.reshape(-1)[::101]
