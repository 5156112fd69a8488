"""Precision: what a model computes in, `dtype`, and how it keeps its matrices, `weights`; and which go together."""

from __future__ import annotations

from typing import Any

from .errors import InputError, suggest
from .layers.small_weights import KINDS
from .layers.tensor_cores import bfloat16

DTYPES = ("float32", "float64")  # to compute in; files may hold float16 and bfloat16 too
HALVES = ("float16", "bfloat16")  # to keep matrices in


def checked_dtype(dtype: Any) -> str:
    """`dtype` as a string, if minibloom computes in it."""
    name = dtype_name(dtype)
    if name not in DTYPES:
        raise InputError(
            f"dtype={name!r}: minibloom computes in {' or '.join(DTYPES)}. Checkpoints in float16 and bfloat16 load "
            "too (they are widened, but weights='float16' keeps matrices so), and save_pretrained(folder, "
            "dtype='float16') writes them."
        )
    return name


def dtype_name(dtype: Any) -> str:
    """What `dtype`, a string or a type of NumPy or torch, is called."""
    return str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")


def asked_precision(dtype: Any, torch_dtype: Any, weights: str | None) -> tuple[str, str | None]:
    """`dtype` and `weights` as they are meant where either may be said as in transformers: 16 bits are to be kept."""
    given, other = (None if one is None else dtype_name(one) for one in (dtype, torch_dtype))
    if given and other and given != other:
        raise InputError(f"dtype is {given!r}, and {other!r} as torch_dtype: give one.")
    name = given or other or "float32"
    if name in HALVES and weights in (None, name):
        return "float32", name
    return checked_dtype(name), weights


def small_weights_run(dtype: str, backend: str) -> bool:
    """Whether all small weights can be computed with: in float32 and with NumPy. A GPU knows only those of 16 bits."""
    return (dtype, backend) == ("float32", "numpy")


def checked_weights(weights: str | None, dtype: str, backend: str) -> str | None:
    """`weights` as `read_tensors` takes it, if matrices can be kept so."""
    if weights is None:
        return None if small_weights_run(dtype, backend) else dtype
    known = (dtype, *KINDS)
    if weights not in known:
        raise InputError(f"weights={weights!r} is unknown, expected one of {known}.{suggest(str(weights), known)}")
    halves = weights in HALVES
    if weights != dtype and not small_weights_run(dtype, "numpy" if halves else backend):
        place = "" if halves else " and backend='numpy'"
        raise InputError(
            f"weights={weights!r} needs dtype='float32'{place}, got {dtype!r} and {backend!r}: elsewhere all weights "
            "are arrays of the precision that is computed in. Leave weights out."
        )
    if (weights, backend) == ("bfloat16", "cupy"):
        bfloat16()  # said here if it is missing, before a model is read
    return weights
