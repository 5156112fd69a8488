"""The stand-in is as strict as CuPy, has only what CuPy has, and catches what would go wrong on a GPU."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.layers import attention, mlp

from .standin import CONSTANTS, FUNCTIONS, JOINING, MAKING, SYNCING, UFUNCS, SilentSync, cupy, memory, ndarray, no_sync
from .strategies import random_params

IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
A = numpy.arange(6.0).reshape(2, 3)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> BloomForCausalLM:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    config = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3)
    model = BloomForCausalLM(config, dtype="float64", backend="cupy")  # for which there are no kernels
    model.params = {n: cupy.asarray(x) for n, x in random_params(model.shapes(config), 0).items()}
    return model


# --- what it refuses ---


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, h: a + h,
        lambda a, h: h + a,
        lambda a, h: a @ h.T,
        lambda a, h: h.T @ a,
        lambda a, h: a.__iadd__(h),
        lambda a, h: a < h,
        lambda a, h: cupy.maximum(a, h),
        lambda a, h: cupy.concatenate([a, h]),
        lambda a, h: cupy.where(a > 0, a, h),
        lambda a, h: cupy.add(a, a, out=h),
        lambda a, h: a + numpy.array(1.0),
        lambda a, h: a[numpy.array([0, 1])],
        lambda a, h: a.__setitem__(0, h[0]),
        lambda a, h: h.__setitem__(0, a[0]),
        lambda a, h: cupy.exp(h),
        lambda a, h: cupy.sum(h),
        lambda a, h: cupy.exp([1.0, 2.0]),
        lambda a, h: numpy.exp(a),
        lambda a, h: numpy.sum(a),
        lambda a, h: numpy.asarray(a),
        lambda a, h: numpy.array([a]),
    ],
)
def test_arrays_of_the_host_and_of_the_device_do_not_mix(mix: Callable[[Any, Any], Any]):
    with pytest.raises(TypeError):
        mix(cupy.asarray(A), A.copy())


def test_numbers_are_welcome_and_numpys_own_keep_their_dtype():
    a = cupy.ones(3, dtype="float32")
    for result in (a + 1, 2.0 * a, a * numpy.float32(2), numpy.float32(2) * a, a**2, -a, abs(a)):
        assert isinstance(result, ndarray) and result.dtype == "float32"
    assert (a * numpy.float64(2)).dtype == "float64"


def test_the_ways_between_host_and_device_are_explicit():
    a = cupy.asarray(A)
    host = a.get()
    host += 1
    assert type(host) is numpy.ndarray and (a.get() == A).all()  # copies, both ways
    assert (cupy.asnumpy(a) == A).all() and cupy.asarray(a) is a


def test_reductions_and_single_numbers_are_arrays_and_views_are_views():
    a = cupy.asarray(A)
    assert all(isinstance(x, ndarray) and x.shape == () for x in (a.sum(), a.max(), a[1, 2], cupy.vdot(a, a)))
    a[1, 2][...] = 9
    a[0][:2] += 1
    assert a.get().tolist() == [[1, 2, 2], [3, 4, 9]]
    assert a.astype("float64", copy=False) is a
    assert copy.deepcopy(a) is not a


@pytest.mark.parametrize(
    "waits",
    [
        lambda a: bool(a[0, 0]),
        lambda a: 1 if (a > 0).all() else 0,
        lambda a: int(a[0, 0]),
        lambda a: float(a.sum()),
        lambda a: a.sum().item(),
        lambda a: a.tolist(),
        lambda a: [*a[0]],
        lambda a: a[a > 0],
        lambda a: a.__setitem__(a > 0, a[0, :1]),
        lambda a: cupy.nonzero(a),
        lambda a: cupy.flatnonzero(a),
        lambda a: cupy.where(a > 0),
        lambda a: cupy.unique(a),
        lambda a: cupy.bincount(a.astype("int64").ravel()),
        lambda a: f"{a.sum():.3f}",
        lambda a: str(a),
    ],
)
def test_what_silently_waits_for_the_device_is_refused_where_that_is_asked(waits: Callable[[Any], Any]):
    a = cupy.asarray(A)
    waits(a)  # allowed
    with no_sync(), pytest.raises(SilentSync):
        waits(a)


def test_an_explicit_copy_is_not_silent_but_can_be_counted():
    a = cupy.asarray(A)
    with no_sync(copies=1):
        a[a > 1] = 0.0  # a mask and a number: written where it is
        a.get()
        with pytest.raises(SilentSync):
            a.get()
    a.get()


@pytest.mark.parametrize(
    "lacking",
    [
        lambda: cupy.errstate,
        lambda: cupy.asarray(A).__array_namespace__,
        lambda: cupy.asarray(A).argsort(kind="quicksort"),
        lambda: cupy.sort(cupy.asarray(A), kind="heapsort"),
        lambda: cupy.maximum(cupy.asarray(A), 0, where=True),
        lambda: cupy.ones((2, 3, 3), dtype="float16") @ cupy.ones((2, 3, 3), dtype="float16"),
    ],
)
def test_what_cupy_lacks_is_not_there(lacking: Callable[[], Any]):
    with pytest.raises((AttributeError, TypeError, ValueError)):
        lacking()


def test_every_name_is_cupys():
    """Held to CuPy itself where it is installed, which needs no GPU."""
    real = pytest.importorskip("cupy")
    names = " ".join([UFUNCS, FUNCTIONS, SYNCING, JOINING, MAKING, CONSTANTS]).split()
    assert [name for name in names if not hasattr(real, name)] == []
    assert [name for name in vars(cupy) if not name.startswith("__") and not hasattr(real, name)] == []
    own = {"_host", "_place", "__weakref__"}
    assert [name for name in dir(ndarray) if name not in own and not hasattr(real.ndarray, name)] == []
    assert not hasattr(real.ndarray, "__array_namespace__") and not hasattr(real, "errstate")
    for name in ("random", "cuda"):
        assert [n for n in vars(getattr(cupy, name)) if not hasattr(getattr(real, name), n)] == []


def test_memory_runs_out_as_it_does_in_cupy():
    with memory(free=100):
        cupy.ones(12)  # 96 bytes
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="allocating 104 bytes"):
            cupy.ones(13)
        assert cupy.cuda.runtime.memGetInfo()[0] == 100
    cupy.ones(13)


# --- what it catches: a slip put into the library, and seen ---


def test_a_host_array_in_the_middle_of_the_pass_is_caught(model, monkeypatch):
    """Each of these lines works with NumPy, and would have passed every other test."""
    model(IDS)
    slips: dict[Any, Any] = {
        (mlp, "gelu"): lambda x: x * numpy.ones(x.shape, x.dtype),
        (attention, "softmax"): lambda x: numpy.exp(x) / numpy.exp(x).sum(-1, keepdims=True),
        (attention, "merge_heads"): lambda x: x[numpy.arange(len(x))].transpose(0, 2, 1, 3).reshape(2, 4, 12),
    }
    for (module, name), slip in slips.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, slip)
            with pytest.raises(TypeError, match="Unsupported type|ufunc|was given an array of the device"):
                model(IDS)


def test_an_edit_that_returns_a_host_array_is_caught(model):
    edit = {"h.0.mlp.gelu": lambda x: numpy.zeros(x.shape, x.dtype)}
    with pytest.raises(TypeError, match="Unsupported type"):
        model(IDS, trace=Trace(edits=edit))


def test_a_silent_synchronisation_in_the_middle_of_the_pass_is_caught(model, monkeypatch):
    plain = mlp.gelu
    monkeypatch.setattr(mlp, "gelu", lambda x: plain(x) if bool((x != 0).any()) else x)  # right, and slow on a GPU
    model(IDS)
    with no_sync(), pytest.raises(SilentSync, match="bool"):
        model(IDS)
