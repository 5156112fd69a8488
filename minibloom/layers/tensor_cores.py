"""The fast path of `linear` for 16-bit weights on a GPU: the product itself in 16 bits, summed in float32.

A GPU's tensor cores multiply 16-bit numbers and add the products up in float32, so a weight is used as it is stored,
and never widened. Two things are rounded to 16 bits, once each: x, to the weight's dtype, and what is returned, as
CuPy has no product of 16-bit matrices whose result is float32. Everything else of a pass stays in float32. What is
returned differs from the plain product, `x @ weight.widen().T`, by no more than these two roundings:
`tests/layers/test_tensor_cores.py`.

(Where cuBLAS cuts a long sum in parts, for few rows, it may round each part as well: CuPy leaves that to it.)

CuPy 14 computes so for two matrices (cuBLAS's `gemmEx`, CUBLAS_COMPUTE_32F), and for nothing else: stacks of matrices
are widened or fail, and of a single number each product is rounded before the sum. float16 ends at 65,504; bfloat16, as
far as float32. NumPy and CuPy know bfloat16 by the package ml_dtypes. Not measured on a GPU yet.
"""

from __future__ import annotations

import numpy

from ..backend import Array
from ..errors import InputError
from .small_weights import BFloat16Weight, Float16Weight, SmallWeight


def suits_tensor_cores(weight: SmallWeight) -> bool:
    """Whether a product with `weight` is to be computed here: the one place where that is chosen."""
    return isinstance(weight, BFloat16Weight | Float16Weight) and type(weight.stored) is not numpy.ndarray


def half_product(x: Array, weight: SmallWeight) -> Array:
    """`x [N, I]` float32, `weight [O, I]` in 16 bits -> `x Wᵀ [N, O]` float32."""
    if len(x) == len(weight) == 1:  # a single number
        return x @ weight.widen().T
    stored = weight.stored.view(bfloat16()) if weight.dtype == "bfloat16" else weight.stored
    return (x.astype(stored.dtype) @ stored.T).astype(x.dtype)


def bfloat16() -> numpy.dtype:
    """NumPy's dtype of bfloat16; an InputError where there is none."""
    try:
        import ml_dtypes
    except ImportError:
        raise InputError(
            "bfloat16 on a GPU needs ml_dtypes, which is not installed: pip install ml_dtypes, or use float16."
        ) from None
    return numpy.dtype(ml_dtypes.bfloat16)
