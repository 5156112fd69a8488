"""Checks of lesson 13."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import Checks, same

check = Checks()


@check.exercise
def decode_half(answer: Any) -> None:
    bits = np.arange(2**16, dtype="uint16")
    given = np.asarray(answer(bits.copy()), "float64")
    expected = bits.view("float16").astype("float64")
    assert given.shape == expected.shape, f"the result has shape {list(given.shape)}, expected {list(expected.shape)}."
    exponent, fraction = bits >> 10 & 31, bits & 1023
    for what, kind in [
        ("a normal number", (exponent > 0) & (exponent < 31)),
        ("a subnormal (exponent 0)", (exponent == 0) & (fraction > 0)),
        ("a zero", (exponent == 0) & (fraction == 0)),
        ("an infinity", (exponent == 31) & (fraction == 0)),
        ("a NaN", (exponent == 31) & (fraction > 0)),
    ]:
        wrong = kind & ~((given == expected) | (np.isnan(given) & np.isnan(expected)))
        if wrong.any():
            i = int(wrong.argmax())
            raise AssertionError(f"{what}, 0b{i:016b}, came out as {given[i]}, expected {expected[i]}.")
    assert (np.signbit(given) == np.signbit(expected))[exponent < 31].all(), "minus zero has a sign, too."


@check.exercise
def quantize_groups(answer: Any) -> None:
    rng = np.random.default_rng(0)
    for bits, size, shape in [(4, 4, (3, 12)), (8, 2, (5, 6)), (3, 8, (2, 8)), (4, 1, (2, 3))]:
        weight = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype("float32")
        weight[0, :size] = 0
        weight[-1, -size:] *= -1
        before = weight.copy()
        with np.errstate(all="raise"):
            given = answer(weight, bits, size)
        assert (weight == before).all(), "the weight has been changed in place."
        assert isinstance(given, tuple | list) and len(given) == 2, "return both: values, scales"
        values, scales = map(np.asarray, given)
        assert values.dtype == "int8", f"values are {values.dtype}, expected int8."
        assert values.shape == shape, f"values have shape {list(values.shape)}, expected {list(shape)}."
        groups = (shape[0], shape[1] // size)
        assert scales.shape == groups, f"scales have shape {list(scales.shape)}, expected {list(groups)}."
        assert scales.dtype == "float32", f"scales are {scales.dtype}, expected float32."
        assert np.isfinite(scales).all(), "a group of zeros has a scale that is not finite."
        largest = int(np.abs(values.astype("int64")).max())
        top = 2 ** (bits - 1) - 1
        assert largest <= top, f"{bits} bits, used symmetrically, hold -{top} to {top}; a value is {largest} in size."
        wide = np.repeat(scales, size, axis=1)
        off = np.abs(values * wide.astype("float64") - weight)
        assert (off <= wide * 0.50001).all(), "a number is off by more than half a step: round to the nearest."
        step = np.repeat(np.abs(weight).reshape(*groups, size).max(-1), size, axis=1) / top
        assert (wide[step > 0] <= step[step > 0] * 1.00001).all(), (
            f"a scale is larger than it must be: the largest number of a group should become {top} or -{top}."
        )


@check.exercise
def sliced_linear(answer: Any) -> None:
    rng = np.random.default_rng(1)
    for slices, shape, out in [(1, (2, 3, 8), 5), (2, (2, 3, 8), 8), (4, (3, 12), 12), (8, (1, 2, 8), 3)]:
        x, weight, bias = rng.standard_normal(shape), rng.standard_normal((out, shape[-1])), rng.standard_normal(out)
        copies = x.copy(), weight.copy(), bias.copy()
        what = f"the result with {slices} slices"
        same(answer(x, weight, bias, slices), x @ weight.T + bias, what, within=1e-12)
        assert all((a == b).all() for a, b in zip(copies, (x, weight, bias), strict=True)), "an input has been changed."
    x = np.array([[1e8, 1.0, -1e8, 1.0]], "float32")
    given, ones = answer(x, np.ones((1, 4), "float32"), np.zeros(1, "float32"), 4), [[1.0]]
    same(given, ones, "1e8 + 1 - 1e8 + 1 in float32, added slice by slice,")


@check.exercise
def first_wrong_step(answer: Any) -> None:
    rng = np.random.default_rng(2)
    reference = {name: rng.standard_normal((2, 3)) * size for name, size in [("b", 1.0), ("a", 100.0), ("c", 0.01)]}
    reference["zeros"] = np.zeros((2, 3))

    def port(**changes: Any) -> dict[str, np.ndarray]:
        return {name: changes.get(name, x.copy()) for name, x in reference.items()}

    def bent(name: str, by: float) -> np.ndarray:
        x = reference[name].copy()
        x[1, 2] += by * np.abs(x).max()
        return x

    broken = reference["a"].copy()
    broken[0, 1] = np.nan
    cases: list[tuple[str, dict[str, np.ndarray], str | None]] = [
        ("a port without a mistake", port(), None),
        ("errors just within the tolerance", port(b=bent("b", 0.9e-3), c=bent("c", -0.9e-3)), None),
        ("a small step that is off by 1% of itself", port(c=bent("c", 1e-2)), "c"),
        ("a step that is off downward", port(c=bent("c", -1e-2)), "c"),
        ("two steps that are off", port(c=bent("c", 1e-2), b=bent("b", 1e-2)), "b"),
        ("a NaN", port(a=broken), "a"),
        ("a large step that is off by a tenth of its tolerance", port(a=bent("a", 1e-4)), None),
        ("one number that is off by twice the tolerance", port(c=bent("c", 2e-3)), "c"),
        ("a step that should be 0", port(zeros=np.full((2, 3), 0.5)), "zeros"),
        ("a step that should be 0, and nearly is", port(zeros=np.full((2, 3), 0.9e-3)), None),
        ("a step that should be 0, off by the tolerance itself", port(zeros=np.full((2, 3), 1e-3)), None),
        ("another shape", port(a=reference["a"][None]), "a"),
        ("a port that shows one step", {"c": bent("c", 0.1)}, "c"),
        ("a port that shows one more step", {**port(), "extra": np.ones(2)}, None),
        ("a port in another order", dict(reversed(port(c=bent("c", 1e-2), b=bent("b", 1e-2)).items())), "b"),
    ]
    for what, steps, expected in cases:
        given = answer(reference, steps, 1e-3)
        assert given == expected, f"{what}: the answer is {given!r}, expected {expected!r}."
