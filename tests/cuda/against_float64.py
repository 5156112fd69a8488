"""How far a kernel may be from the exact result: as far as the plain path in float32, but for a small factor."""

from __future__ import annotations

from typing import Any

import numpy

from minibloom.backend import to_numpy


def as_near(ours: Any, plain: Any, exact: Any, through: float = 1) -> None:
    """`ours`, float32, is no further from `exact`, float64, than 3 times what `plain`, float32, is, and a little more.

    The little is two steps of float32 at the largest number: of a few numbers, the plain path may be right by chance.
    through: how large numbers on the way are, if they are larger.
    """
    ours, plain, exact = map(to_numpy, (ours, plain, exact))
    assert ours.shape == exact.shape and ours.dtype == plain.dtype == "float32" and exact.dtype == "float64"
    error, allowed = (abs(x - exact).max() for x in (ours, plain))
    assert error <= 3 * allowed + 2 * numpy.finfo("f4").eps * through * abs(exact).max(), (error, allowed)
