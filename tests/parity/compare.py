"""Outputs of either library under the same names, and how far one is from the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from minibloom import Cache
from minibloom.backend import to_numpy

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}  # relative to an array's largest magnitude


def named(out: Any) -> dict[str, Any]:
    """An output of either library as a flat dictionary: "logits", "hidden_states.0", "attentions.1", "keys.0", ...

    Arrays are NumPy's. The cache itself stays under "past_key_values", for the next call.
    """
    arrays: dict[str, Any] = {}
    for field in list(out.keys()):
        found = out[field]
        if field == "past_key_values":
            arrays[field] = found
            for i, (key, value) in enumerate(_keys_and_values(found)):
                arrays |= {f"keys.{i}": array(key), f"values.{i}": array(value)}
        elif isinstance(found, tuple):
            arrays |= {f"{field}.{i}": array(x) for i, x in enumerate(found)}
        else:
            arrays[field] = array(found)
    return arrays


def _keys_and_values(cache: Any) -> Sequence[tuple[Any, Any]]:
    return list(cache) if isinstance(cache, Cache) else [(layer.keys, layer.values) for layer in cache.layers]


def array(x: Any) -> numpy.ndarray:
    """`x` of either library as NumPy's; bfloat16, which NumPy does not have, as float32."""
    if not hasattr(x, "detach"):
        return to_numpy(x)
    x = x.detach()
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()


def error(got: Any, expected: Any) -> float:
    """The largest difference, relative to the largest magnitude of the oracle's `expected`."""
    got, expected = numpy.asarray(got), numpy.asarray(expected)
    assert got.shape == expected.shape, f"shape {list(got.shape)}, the oracle's is {list(expected.shape)}"
    assert got.dtype == expected.dtype, f"{got.dtype}, the oracle's is {expected.dtype}"
    difference, scale = abs(got - expected).max(initial=0), abs(expected).max(initial=0)
    return float(difference / scale) if scale else float(difference)


def assert_close(got: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    """The same names, and under each a relative `error` of at most `tolerance`."""
    assert got.keys() == expected.keys()
    errors = {name: error(got[name], expected[name]) for name in expected}
    off = [name for name, e in errors.items() if not e <= tolerance]  # NaN is off too
    some = ", ".join(f"{name} {errors[name]:.1e}" for name in off[:8])
    assert not off, f"{len(off)} of {len(errors)} arrays have a relative error above {tolerance:.0e}: {some}"


def leave_out_zeros(gradients: dict[str, Any], expected: dict[str, Any]) -> None:
    """Take out gradients that are 0 but for rounding, below the resolution of the largest: so they must be in both."""
    largest = max(abs(x).max() for x in expected.values())
    for name in [*expected]:
        resolution = numpy.finfo(expected[name].dtype).eps * largest
        if abs(expected[name]).max() < resolution:
            del expected[name]
            assert abs(gradients.pop(name)).max() < resolution, f"the gradient of {name} is not 0, as the oracle's is"


def rows(arrays: Mapping[str, Any], mask: numpy.ndarray) -> dict[str, Any]:
    """The output's rows that are tokens by `mask [B, T]`, under the array's name, and those that are padding.

    Each kind is compared relative to its own largest magnitude: padding cannot hide an error in a token.
    """
    split = {}
    for name, x in arrays.items():
        if name == "past_key_values":
            continue
        if x.ndim == 0 or (name == "logits" and x.ndim == 2):
            split[name] = x  # the loss; what a whole text was classified as
            continue
        by_head = name.startswith(("attentions", "keys", "values"))  # [B, H, S, ...]
        x = x.swapaxes(1, 2) if by_head else x  # -> [B, S, ...]
        tokens = mask[:, mask.shape[1] - x.shape[1] :].astype(bool)  # [B, T] -> [B, S], the newest
        split |= {name: x[tokens], f"{name} (padding)": x[~tokens]}
    return split


def assert_same(out: Any, expected: dict[str, Any], mask: numpy.ndarray, dtype: str) -> None:
    """Every array of minibloom's output is the oracle's, in its tokens' rows and in its padding's."""
    assert_close(rows(named(out), mask), rows(expected, mask), TOLERANCE[dtype])


def form(field: Any) -> Any:
    """What a field of an output is made of: shapes, or the length of a cache."""
    if isinstance(field, tuple):
        return [form(x) for x in field]
    return tuple(field.shape) if hasattr(field, "shape") else f"cache of {len(field)} blocks"
