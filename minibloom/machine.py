"""What this machine computes with, and whether NumPy's matrix products use all that its processor has."""

from __future__ import annotations

import os
from pathlib import Path

NARROW = ("Haswell", "Zen", "Excavator", "Sandybridge", "Nehalem", "Barcelona", "Prescott", "Core2")  # no AVX-512
WIDE = ("SkylakeX", "Cooperlake")
# AMD's family (in which Zen 3 has no AVX-512): 190 billion operations a second by WIDE's kernels, 207 by Haswell's.
ZEN_4 = "25"
NEEDED = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}  # what OpenBLAS's kernels for SkylakeX use


def describe_blas() -> str:
    """The BLAS library of NumPy, its kernels and threads, in one line; and a second if the processor has more to give.

    OpenBLAS chooses its kernels when NumPy is first imported, by the processor's model, and takes newer ones for old.
    It cannot be told otherwise later, so this can only be said.
    """
    import numpy  # loads the library that is asked about  # noqa: F401
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    if not libraries:
        return "NumPy's own BLAS, of which nothing can be told"
    blas = libraries[0]
    kernels = blas.get("architecture")
    line = f"{blas['internal_api']} {blas['version']}, {blas['num_threads']} threads"
    line += f", kernels for {kernels}" if kernels else ""
    if "OPENBLAS_CORETYPE" in os.environ or not flags_of(core := first_core()) >= NEEDED:
        return line
    if core.get("vendor_id") == "AuthenticAMD" and core.get("cpu family") == ZEN_4:
        if kernels in WIDE:
            line += (
                "\nthis processor takes AVX-512 in two steps: with OPENBLAS_CORETYPE=Haswell in the environment before "
                "Python starts, matrix products of many rows may be a tenth faster"
            )
    elif kernels in NARROW:
        line += (
            "\nthis processor has AVX-512, which these kernels leave unused: with OPENBLAS_CORETYPE=SkylakeX in the "
            "environment before Python starts, matrix products may be twice as fast"
        )
    return line


def describe_numba() -> str:
    """Whether there is a Numba that compiles loops (`compiled.py`), in one line."""
    try:
        import numba
    except Exception as error:  # as in `compiled.py`: one that does not run here is as none
        absent = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        why = "is not installed" if absent else f"does not run here ({error})"
        return f"Numba {why}; with it (pip install numba) int8 and 16 bits are several times as fast, and more"
    if getattr(numba.config, "DISABLE_JIT", False):
        return f"Numba {numba.__version__} is told to compile nothing, by NUMBA_DISABLE_JIT in the environment"
    return f"Numba {numba.__version__} compiles passes over few tokens, products with small weights, and more"


def first_core(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What the system tells of the processor's first core, by name (Linux); nothing elsewhere."""
    core = path.read_text().partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in core.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def flags_of(core: dict[str, str]) -> set[str]:
    """What the processor says it can do."""
    return set(core.get("flags", "").split())
