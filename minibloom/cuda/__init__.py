"""Kernels in CUDA, for what array code launches too many of on a GPU.

Each stands in a file of its own, `name.cu`, with `name.py` beside it: the same function in array code, which is the
specification (or which functions of `layers/` are), the function that launches the kernel, and the one place where it
is chosen. `tests/cuda/` holds the two together. `numbers.cu` is put before each: it has the conversions and sums that
all of them use.
"""
