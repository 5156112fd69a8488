"""The fast paths for models of a few thousand numbers: every size from which on one is chosen is lowered.

    with fast_paths():  # what computes in here goes through tiles, by rows of weights, in chunks, in threads
        ...

A fast path is chosen by size, and what tests draw is small, so that without this they would all compute by the plain
one. Sizes lie where what is drawn falls on both sides of them: both kinds of a path are taken, and both meet.
`test_fast_paths.py`, here and in `parity`, prove that each is; `conftest.py` says which tests run so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

from minibloom import buffers, chunked_loss, losses, models, threads
from minibloom.layers import (
    attention,
    compiled_blocks,
    compiled_rows,
    compiled_steps,
    few_rows,
    linear,
    one_row,
    one_token,
    row_blocks,
    subnormals,
    tiled_attention,
    transformer,
)

# In each module under its own name: what it imported by name is not changed where it came from.
SIZES: dict[ModuleType, dict[str, int]] = {
    threads: {"CHUNK": 2**10, "SMALL": 2**11, "SMALL_PRODUCT": 2**15, "SMALL_WEIGHT": 2**10},
    tiled_attention: {"QUERIES": 8, "KEYS": 7, "TILE": 512, "LARGE": 64},
    buffers: {"LEAST": 1},
    subnormals: {"STEEP": -1},  # also for the first token, when all that it sees is itself
    one_row: {"LEAST": 0, "SMALL_WEIGHT": 2**10, "PATIENCE": 1},
    one_token: {"LEAST": 0, "SMALL_WEIGHT": 2**10},
    few_rows: {"LEAST": 0, "SMALL_WEIGHT": 2**10, "HEIGHT": 4, "APART": 2, "SHORT": 48},
    compiled_blocks: {"MOST": 16, "PATIENCE": 0, "SHARED": 2**12},
    compiled_rows: {"MANY": 2**11, "SHARED": 2**11},
    compiled_steps: {"MANY": 2**9},
    row_blocks: {"SMALL_WEIGHT": 2**10, "BLOCK": 2**9, "MANY": 8, "HEIGHT": 4},
    chunked_loss: {"FEWEST": 3, "NUMBERS": 1},
    linear: {"ROWS": 16},
}
COMPILED = ("compiled_rows",) if find_spec("numba") else ()
BLOCKS = ("compiled_blocks",) if COMPILED else ()
STEPS = ("layer_norm", "layer_norm_backward", "bias_gelu", "gelu_backward", "weigh", "weigh_backward")
PATHS: dict[Any, tuple[str, ...]] = {  # what each of them calls, in the module that looks it up
    attention: ("tiled_attention", "tiled_attention_backward"),
    tiled_attention: ("_far", "each", "drop_subnormals"),
    one_token: ("drop_subnormals",),
    compiled_steps: STEPS if COMPILED else (),
    transformer: ("one_token_blocks", *BLOCKS),
    linear: (*COMPILED, "one_row", "few_rows", "blocked_linear", "each"),
    one_row: ("blas_on_all_cores", "each"),
    few_rows: ("far_apart", "at_a_time", "each"),
    row_blocks: (*COMPILED, "one_row_of_int8", "at_a_time", "each"),
    models: ("chunked_cross_entropy",),
    buffers._Step: ("block",),
    chunked_loss: ("cross_entropy",),
    losses: ("each",),
    threads: ("each",),
    threads._threads: ("call",),  # the helpers: what is shared out is done by more than one thread
}
OF_SMALL_WEIGHTS = ("linear.blocked_linear", *(f"row_blocks.{name}" for name in PATHS[row_blocks]))
THREADS = 2  # whatever the machine has; more of them cost a toy more in waiting for each other

_on: list[bool] = []  # not empty while they are taken


def taken() -> bool:
    """Whether calls go through the fast paths now."""
    return bool(_on)


@contextmanager
def fast_paths() -> Iterator[None]:
    """While this lasts, nothing is too small for a fast path, and work is shared out among threads."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(THREADS, "blas"):
        for module, sizes in SIZES.items():
            for name, size in sizes.items():
                patch.setattr(module, name, size)
        # Of the paths for a token, the one with Numba leaves every third to the one without: both read the same cache.
        real, turns = transformer.suits_compiled_blocks, itertools.cycle([True, True, False])
        patch.setattr(transformer, "suits_compiled_blocks", lambda *given: real(*given) and next(turns))
        patch.setattr(one_row._Crowd, "products", 0)  # what other tests have seen of the cores is forgotten
        _on.append(True)
        try:
            yield
        finally:
            _on.pop()


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """While this lasts, how often each of `PATHS` is taken, by name: {"attention.tiled_attention": 3, ...}."""
    calls: dict[str, int] = {}

    def counting(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for place, names in PATHS.items():
            for name in names:
                key = f"{getattr(place, '__name__', 'helpers').rpartition('.')[2]}.{name}"
                calls[key] = 0
                patch.setattr(place, name, counting(key, getattr(place, name)))
        yield calls


def some(test: Any) -> Any:
    """`test`, one of Hypothesis', with a few examples that are the same each time."""
    own = test._hypothesis_internal_use_settings
    changed = settings(own, max_examples=10, derandomize=True, database=None)

    def call(*arguments: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(test, "_hypothesis_internal_use_settings", changed)
            test(*arguments, **options)

    return call
