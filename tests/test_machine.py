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


@pytest.mark.parametrize(
    ("flags", "architecture", "variable", "hint"),
    [
        (machine.NEEDED | {"fma"}, "Haswell", None, True),
        (machine.NEEDED, "SkylakeX", None, False),  # they are used
        (machine.NEEDED, "Haswell", "SkylakeX", False),  # the user has chosen
        ({"avx2", "avx512f"}, "Zen", None, False),  # not all that the kernels need
    ],
)
def test_unused_avx512_is_said(monkeypatch, flags, architecture, variable, hint):
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [BLAS | {"architecture": architecture}])
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if variable:
        monkeypatch.setenv("OPENBLAS_CORETYPE", variable)
    said = machine.describe_blas()
    assert said.startswith(f"openblas 0.3.31, 2 threads, kernels for {architecture}")
    assert ("OPENBLAS_CORETYPE=SkylakeX" in said) == hint


def test_of_this_machine():
    assert "threads" in machine.describe_blas()


def test_what_the_processor_can_do_is_read_from_its_first_core(tmp_path):
    file = tmp_path / "cpuinfo"
    assert machine.cpu_flags(file) == set()  # not Linux
    file.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert machine.cpu_flags(file) == {"fpu", "sse2", "avx512f"}


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
