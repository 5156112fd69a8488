"""Arrays carry their library; two libraries in one call are an error, never a silent copy."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy
import pytest

from minibloom import BloomConfig, BloomModel, InputError, to_numpy
from minibloom.backend import asarray, load, namespace, number, received

from . import standin
from .strategies import ArrayElsewhere


def test_arrays_name_their_library():
    assert namespace(numpy.ones(3)) is numpy
    assert namespace(numpy.ones(3), numpy.zeros((), dtype="int8"), numpy.float32(1)) is numpy


def test_two_libraries_in_one_call_are_an_error_that_names_both():
    with pytest.raises(InputError, match=r"different libraries.*numpy, elsewhere.*to_numpy"):
        namespace(numpy.ones(3), ArrayElsewhere())


def test_what_is_no_array_is_named():
    with pytest.raises(InputError, match=r"expected NumPy or CuPy arrays, got builtins\.list.*asarray"):
        namespace([1, 2, 3])


def test_lists_become_arrays_and_arrays_stay_what_they_are():
    x = numpy.ones(3)
    assert asarray(x, numpy, "x") is x
    assert asarray([[1, 2]], numpy, "x").tolist() == [[1, 2]]


def test_an_array_of_another_library_is_not_moved():
    with pytest.raises(InputError, match=r"labels is an array of elsewhere, the model computes with numpy.*to_numpy"):
        asarray(ArrayElsewhere(), numpy, "labels")


def test_what_is_large_is_not_moved_unasked():
    device = standin.cupy
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device)
        x = numpy.ones((1, 2))
        assert namespace(asarray(x, device, "x")) is namespace(asarray([[1, 2]], device, "x", move=False)) is device
        with pytest.raises(InputError, match="params is an array of numpy, the model computes with cupy"):
            asarray(x, device, "params", move=False)


def test_what_is_received_is_checked_on_the_host_and_computed_with_where_it_belongs():
    device = standin.cupy
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device)
        for given in ([[1, 2]], numpy.array([[1, 2]]), device.asarray([[1, 2]])):
            host, there = received(given, device, "input_ids")
            assert type(host) is numpy.ndarray and namespace(there) is device
            assert host.tolist() == there.get().tolist() == [[1, 2]]
    x = numpy.ones(2)
    assert all(one is x for one in received(x, numpy, "x"))


def test_a_number_is_pythons_wherever_it_was():
    with standin.no_sync(copies=1):
        assert [number(x) for x in (numpy.float32(2), numpy.array([3]), standin.cupy.ones(1).sum())] == [2, 3, 1]


def test_rows_of_different_lengths_are_no_array():
    with pytest.raises(InputError, match="input_ids has rows of different lengths.*pad"):
        asarray([[1, 2], [3]], numpy, "input_ids")


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_what_numpy_cannot_read_says_why(error):
    class Tensor:  # as torch's, on a device, in bfloat16, or with a gradient
        def __array__(self, *_: object, **__: object) -> numpy.ndarray:
            raise error("Use tensor.detach().numpy() instead.")

    with pytest.raises(InputError, match="inputs_embeds is no array that NumPy can read: Use tensor.detach"):
        asarray(Tensor(), numpy, "inputs_embeds")


def test_to_numpy_takes_arrays_of_both_libraries_and_scalars():
    x = numpy.ones(3)
    assert to_numpy(x) is x
    assert to_numpy(numpy.float32(2.5)) == 2.5
    assert to_numpy(SimpleNamespace(get=lambda: x)) is x  # CuPy's name for the copy to the host


def test_numpy_is_there():
    assert load("numpy") is numpy
    assert BloomModel(BloomConfig(vocab_size=5), backend="numpy").backend == "numpy"


@pytest.mark.parametrize("backend", ["cupi", "torch", "NumPy", ""])
def test_an_unknown_backend_is_an_error(backend):
    with pytest.raises(InputError, match=f"backend={backend!r} is unknown, expected one of .*numpy.*cupy"):
        BloomModel(BloomConfig(vocab_size=5), backend=backend)


def test_a_misspelt_backend_gets_a_suggestion():
    with pytest.raises(InputError, match="Did you mean 'cupy'?"):
        load("cupi")


def test_cupy_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it now fails
    with pytest.raises(InputError, match=r"CuPy, which is not installed: pip install 'cupy"):
        BloomModel(BloomConfig(vocab_size=5), backend="cupy")


@pytest.mark.parametrize(
    ("driver", "says"),
    [
        (0, "none was found"),  # what CUDA says where there is none
        (13000, "none was found"),  # of the same CUDA, but for its minor version, which makes no difference
        (None, "none was found"),
        (12040, r"for CUDA 12\.4, but this CuPy is for 13\.2: .*uninstall cupy-cuda13x .*'cupy-cuda12x\[ctk\]'"),
    ],
)
def test_cupy_without_a_device_is_an_error_that_tells_an_old_driver_from_none(monkeypatch, driver, says):
    """CuPy says no more than False."""

    def version() -> int:
        if driver is None:
            raise RuntimeError("cudaErrorUnknown")
        return driver

    cupy = ModuleType("cupy")
    runtime = SimpleNamespace(driverGetVersion=version, runtimeGetVersion=lambda: 13020)
    cupy.cuda = SimpleNamespace(is_available=lambda: False, runtime=runtime)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(InputError, match=f"needs an NVIDIA GPU and its driver; .*{says}"):
        BloomModel(BloomConfig(vocab_size=5), backend="cupy")
