"""What is said about the machine."""

from __future__ import annotations

import sys

import pytest

from minibloom import machine

BLAS = {
    "user_api": "blas",
    "internal_api": "openblas",
    "version": "0.3.31",
    "num_threads": 2,
    "architecture": "Haswell",
}


ZEN_4 = {"vendor_id": "AuthenticAMD", "cpu family": "25"}
ALL = {"flags": " ".join(machine.NEEDED | {"fma"})}


@pytest.mark.parametrize(
    ("core", "kernels", "variable", "hint"),
    [
        (ALL, "Haswell", None, "SkylakeX"),
        (ALL, "SkylakeX", None, None),  # they are used
        (ALL, "Haswell", "SkylakeX", None),  # the user has chosen
        ({"flags": "avx2 avx512f"}, "Zen", None, None),  # not all that the kernels need
        (ALL | ZEN_4, "SkylakeX", None, "Haswell"),  # whose vectors are half as wide as it says
        (ALL | ZEN_4, "Cooperlake", None, "Haswell"),
        (ALL | ZEN_4, "Zen", None, None),
        (ALL | ZEN_4, "SkylakeX", "SkylakeX", None),
        (ALL | ZEN_4 | {"cpu family": "26"}, "SkylakeX", None, None),  # Zen 5
        (ALL | ZEN_4 | {"cpu family": "26"}, "Zen", None, "SkylakeX"),
        (ZEN_4 | {"flags": "avx2"}, "Zen", None, None),  # Zen 3
        ({}, "Haswell", None, None),  # a system that tells nothing
    ],
)
def test_kernels_that_are_not_the_fastest_are_said(monkeypatch, core, kernels, variable, hint):
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [BLAS | {"architecture": kernels}])
    monkeypatch.setattr(machine, "first_core", lambda: core)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if variable:
        monkeypatch.setenv("OPENBLAS_CORETYPE", variable)
    first, *more = machine.describe_blas().splitlines()
    assert first == f"openblas 0.3.31, 2 threads, kernels for {kernels}"
    assert [f"OPENBLAS_CORETYPE={hint}" in line for line in more] == ([True] if hint else [])


def test_of_this_machine():
    assert "threads" in machine.describe_blas()


def test_what_the_processor_can_do_is_read_from_its_first_core(tmp_path):
    file = tmp_path / "cpuinfo"
    assert machine.flags_of(machine.first_core(file)) == set()  # not Linux
    file.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert machine.flags_of(machine.first_core(file)) == {"fpu", "sse2", "avx512f"}
    assert machine.first_core(file)["processor"] == "0"


def test_a_numpy_without_a_library_that_tells(monkeypatch):
    monkeypatch.setattr("threadpoolctl.threadpool_info", list)
    assert machine.describe_blas() == "NumPy's own BLAS, of which nothing can be told"


def test_whether_loops_are_compiled(monkeypatch, tmp_path):
    numba = pytest.importorskip("numba", reason="Numba is optional")
    assert machine.describe_numba().startswith(f"Numba {numba.__version__} compiles")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert "told to compile nothing" in machine.describe_numba()
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less')")
    assert machine.describe_numba().startswith("Numba does not run here (Numba needs NumPy 2.4 or less)")
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    (tmp_path / "numba.py").write_text("raise RuntimeError('no compiler')  # another length, another file")
    assert machine.describe_numba().startswith("Numba does not run here (no compiler)")
    monkeypatch.setitem(sys.modules, "numba", None)  # as if there were none
    assert machine.describe_numba().startswith("Numba is not installed; with it (pip install numba)")
