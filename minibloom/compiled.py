"""Loops over numbers in Python, compiled by Numba where that is installed: what several fast paths share.

NumPy computes a formula step by step, each step over a whole array and in a call of its own. A loop does all steps to a
number while that is in a register, and other threads go on meanwhile, without Python's lock. The loops are what they
look like, and Python can run them, slowly; Numba makes machine code of them, for the processor's own vectors. That
takes a quarter to half a second for each (for that through all blocks, 13 s), once: it keeps what it made beside the
file, or in the user's cache. To import Numba takes a quarter of a second to half a second, so what is computed soon
without it does not ask for it. Numba is optional, as it follows new versions of Python and NumPy some months late.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy

from . import compiled_team, compiled_tile

EXACT, SUMS = frozenset({"contract"}), frozenset({"contract", "reassoc"})  # see `compiled`
NONE: Mapping[Any, Any] = {}
_local = threading.local()
Kind = tuple[str, int, str]  # of an array: dtype, number of axes, and C (in one piece) or A (any)


def at_hand() -> bool:
    """Whether Numba is in memory already, for whatever reason."""
    return "numba" in sys.modules


@contextmanager
def numpy_alone() -> Iterator[None]:
    """Within this block, this thread takes no loop: for models that are streamed, as Numba needs 0.1 GB of its own."""
    before, _local.numpy_alone = not loops_allowed(), True
    try:
        yield
    finally:
        _local.numpy_alone = before


def loops_allowed() -> bool:
    """Whether this thread may take loops that are of use before Numba is in memory."""
    return not getattr(_local, "numpy_alone", False)


def compiled(
    loop: Callable[..., None],
    read: tuple[Kind, ...],
    written: tuple[Kind, ...],
    parts: Mapping[Callable[..., Any], frozenset[str]] = NONE,
    fastmath: frozenset[str] = EXACT,
) -> Any:
    """`loop` as machine code; None without a Numba for this Python and NumPy.

    read, written: its arguments, first the arrays that it only reads, then those that it writes. parts: functions
    that it calls, or later ones call, each with a `fastmath` of its own; those of `compiled_team.py` and
    `compiled_tile.py` it may call anyhow. `fastmath` says what may be done to formulas:
    `EXACT`, no more than product and sum by one instruction; `SUMS`, also a sum in as many parts as vectors are wide.
    """
    try:
        import numba

        idle = getattr(numba.config, "DISABLE_JIT", False)  # by its environment variable: the loops would run in Python
        known = {**compiled_team.team_as_machine_code(numba), **compiled_tile.tile_as_machine_code(numba)}
    except Exception:  # it is not installed, does not run here, or there is no room for it
        return None
    if idle:
        return None

    def array(kind: Kind, readonly: bool) -> Any:
        of: Any = numba.types.Array
        dtype, axes, layout = kind
        return of(numba.from_dtype(numpy.dtype(dtype)), axes, layout, readonly=readonly)

    signature = numba.void(*(array(kind, True) for kind in read), *(array(kind, False) for kind in written))
    for part, flags in parts.items():
        known[part.__name__] = numba.njit(fastmath=set(flags), error_model="numpy")(_knowing(known, part))
    sources = {function.__code__.co_filename for function in (loop, *parts)}
    sources |= {str(compiled_team.__file__), str(compiled_tile.__file__)}
    loop = _knowing(known, loop)
    loop.__qualname__ += f"_{_digest(sources)}"  # else Numba takes what it kept, though a part is another by now
    compile = functools.partial(
        numba.njit,
        signature,
        nogil=True,  # other threads go on meanwhile
        fastmath=set(fastmath),
        error_model="numpy",  # a division by zero is inf, as everywhere
    )
    for cache in (True, False):  # there is no folder to keep it in, the disk is full, or what was kept is damaged
        with suppress(Exception):
            return compile(cache=cache)(loop)
    return None  # a Numba that knows it by other words


def _digest(files: Iterable[str]) -> str:
    """A name for what stands in these files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with suppress(OSError):  # in an archive
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _knowing(known: Mapping[str, Any], function: Any) -> Any:
    """`function`, which finds what `known` names where it looks for names."""
    return FunctionType(function.__code__, {**function.__globals__, **known}, function.__name__)
