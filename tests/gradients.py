"""Is a gradient the derivative? Differences of the function itself say so, whatever formula the gradient came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy

TOLERANCE = 1e-6  # of the largest number in the gradient
STEPS = (1e-3, 1e-4, 1e-5)  # smaller ones for functions that bend sharply, as a norm over two numbers almost alike
FEW = 40  # arrays of at most so many entries are checked entry by entry


def slope(f: Callable[[], float], x: numpy.ndarray, direction: numpy.ndarray, h: float = 1e-3) -> float:
    """The derivative of `f()`, which reads `x`, as x moves along `direction`.

    Central differences at h and 2h, weighted so that the error falls with h⁴: h can stay large, and float64's
    rounding, divided by h, stays small.
    """
    start = x.copy()

    def at(t: float) -> float:
        x[...] = start + t * direction
        return float(f())

    try:
        return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    finally:
        x[...] = start


def assert_gradient(
    f: Callable[[], float], x: numpy.ndarray, gradient: numpy.ndarray, name: str = "x", few: int = FEW
) -> None:
    """Assert that `gradient` is that of the number `f()` by `x`, which `f` reads and this changes in place.

    An array of more than `few` entries is checked along a random direction, which every entry has a part in,
    at its largest entry and at one other.
    """
    assert gradient.shape == x.shape and gradient.dtype == x.dtype, name
    rng = numpy.random.default_rng(x.size)
    if x.size <= few:
        directions = list(numpy.eye(x.size))
    else:
        entries = [int(abs(gradient).argmax()), rng.integers(0, x.size)]
        everywhere = rng.choice([-1.0, 1.0], x.size) / x.size**0.5
        directions = [everywhere, *(numpy.arange(x.size) == entry for entry in entries)]
    for direction in directions:
        direction = direction.reshape(x.shape)
        claimed, scale = (gradient * direction).sum(), max(abs(gradient).max(), 1e-4)
        for h in STEPS:
            measured = slope(f, x, direction, h)
            if abs(measured - claimed) <= TOLERANCE * scale:
                break
        else:
            raise AssertionError(f"{name}: differences say {measured:.9g}, the gradient {claimed:.9g}")


def assert_gradients(
    f: Callable[[], float], arrays: Mapping[str, numpy.ndarray], gradients: Mapping[str, numpy.ndarray], few: int = FEW
) -> None:
    """`assert_gradient` for every array, by name."""
    assert list(arrays) == list(gradients)
    for name, x in arrays.items():
        assert_gradient(f, x, gradients[name], name, few)


def assert_linear(backward: Callable[[numpy.ndarray], tuple[numpy.ndarray, ...]], dy: numpy.ndarray) -> None:
    """Assert that `backward`, as every chain rule, is linear in its upstream gradient."""
    other = numpy.random.default_rng(1).standard_normal(dy.shape)
    for a, b, both in zip(backward(dy), backward(other), backward(2 * dy - 3 * other), strict=True):
        numpy.testing.assert_allclose(both, 2 * a - 3 * b, rtol=0, atol=1e-12 * max(1, abs(both).max()))
