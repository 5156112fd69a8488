"""The kernels over all parameters and all gradients are `AdamW.step` and `clip_gradients` of `optimizer.py`."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.backend import load
from minibloom.cuda import adamw as kernels
from minibloom.optimizer import AdamW, clip_gradients

from ..strategies import normal, seeds
from .kernels import assert_as_near, examples, launches, on_devices, there, wide

pytestmark = on_devices
shapes = st.lists(
    st.sampled_from([(1,), (3,), (32,), (33,), (100,), (2, 3), (8, 8), (5, 40), (1, 1)]), min_size=1, max_size=6
)
GAP = 4  # numbers between arrays, which no kernel may touch


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CHUNK", 32)
        patch.setattr(kernels, "THREADS", 32)
        yield


def side_by_side(arrays: dict[str, numpy.ndarray]) -> tuple[Any, dict[str, Any]]:
    """The arrays as views of one array of the device, with gaps between them: pointers have no guards."""
    memory = load("cupy").full(sum(x.size + GAP for x in arrays.values()) + GAP, 77.0, dtype="float32")
    views, start = {}, GAP
    for name, x in arrays.items():
        views[name] = memory[start : start + x.size].reshape(x.shape)
        views[name][...] = there(x)
        start += x.size + GAP
    return memory, views


def assert_gaps(memory: Any, arrays: dict[str, numpy.ndarray]) -> None:
    kept, start = memory.get(), 0
    for x in [*arrays.values(), numpy.empty(0)]:
        assert (kept[start : start + GAP] == 77.0).all()
        start += GAP + x.size


def drawn(shapes: list[tuple[int, ...]], seed: int) -> dict[str, numpy.ndarray]:
    return {str(i): normal(seed + i, *shape, dtype="float32") for i, shape in enumerate(shapes)}


@examples
@given(shapes, seeds, st.floats(1e-4, 0.1), st.sampled_from([0.0, 0.1]))
def test_steps_of_adamw(shapes, seed, rate, decay):
    params = drawn(shapes, seed)
    memory, here = side_by_side(params)
    exact = wide(params)
    optimizers = {id(p): AdamW(p) for p in (params, here, exact)}
    with launches() as names:
        for step in range(3):
            grads = drawn(shapes, seed + 100 * (step + 1))
            for p, g in ((params, grads), (here, there(grads)), (exact, wide(grads))):
                optimizers[id(p)].step(p, g, rate, decay)
    assert names == ["adamw"] * 3
    for of_device, of_32, of_64 in zip(
        (here, optimizers[id(here)].m, optimizers[id(here)].v),
        (params, optimizers[id(params)].m, optimizers[id(params)].v),
        (exact, optimizers[id(exact)].m, optimizers[id(exact)].v),
        strict=True,
    ):
        for name in params:
            assert_as_near(of_device[name], of_32[name], of_64[name])
    assert_gaps(memory, params)


@examples
@given(shapes, seeds, st.floats(1e-3, 20))
def test_clipping(shapes, seed, limit):
    grads = drawn(shapes, seed)
    memory, here = side_by_side(grads)
    exact = wide(grads)
    with launches() as names:
        norm = clip_gradients(here, limit)
    assert names == ["squares", "scale"][: 1 + (norm > limit)]
    assert norm == pytest.approx(clip_gradients(exact, limit), rel=1e-6)
    clip_gradients(grads, limit)
    for name in grads:
        assert_as_near(here[name], grads[name], exact[name])
    assert_gaps(memory, grads)


def test_the_table_refers_to_the_arrays_that_the_dictionaries_hold_now():
    params = there(drawn([(2, 3), (4,)], 0))
    optimizer = AdamW(params)
    old, params["0"] = params["0"], params["0"].copy()
    before = old.get()
    optimizer.step(params, there(drawn([(2, 3), (4,)], 1)), 0.1)
    assert (old.get() == before).all() and (params["0"].get() != before).all()


def test_other_arrays_are_left_to_array_code():
    with launches() as names:
        for change in (wide, lambda p: {name: x.T.copy().T for name, x in p.items()}):  # float64; columns first
            params = change(drawn([(2, 3), (4,)], 0))
            here = {name: there(x) if x.dtype == "float64" else there(x.T).T for name, x in params.items()}
            AdamW(here).step(here, {name: g.copy() for name, g in here.items()}, 0.1)
            clip_gradients(here, 0.1)
    assert names == []
