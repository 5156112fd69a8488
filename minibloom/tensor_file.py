"""The safetensors format: parameters in and out of one file.

A file is: 8 bytes with the length of the header, the header, the data. The header is JSON,
`{"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}`, offsets counted from the start of
the data. Nothing in it can run, unlike in a pickle. It is read here and not by the safetensors package, which
gives NumPy no bfloat16 without one more package (ml_dtypes), and no tensor block by block.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from .backend import Array, to_numpy
from .errors import InputError

Shape = tuple[int, ...]

FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # what parameters may be
CODES = {name: code for code, name in FLOATS.items()}
ITEMSIZE = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2}
ITEMSIZE |= {"F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
BLOCK = 2**16  # numbers converted at a time: small beside the parameters, and it stays in the CPU's cache
MAX_HEADER = 10**8  # bytes, as in the safetensors package


class TensorEntry(NamedTuple):
    """Where a tensor lies: bytes `begin` to `end` of `file`, as safetensors' `dtype`, under `name`."""

    name: str
    file: Path
    dtype: str
    shape: Shape
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.file}: tensor {self.name!r}"


# --- The header ---


def read_header(path: str | Path) -> dict[str, TensorEntry]:
    """Return the tensors of one safetensors file, by name, in the order of their data. Checks all numbers."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, MAX_HEADER):  # size - 8 < 0 where there is not even a length
                raise InputError(f"{path} is truncated or not safetensors: {size} bytes, {length} of header.")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is corrupt: its header is no valid JSON ({error}).") from None
    if not isinstance(header, dict):
        raise InputError(f"{path} is corrupt: its header is no JSON object.")
    header.pop("__metadata__", None)
    reached = 8 + length
    entries = [_entry(path, name, field, reached) for name, field in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    for entry in entries:
        if entry.begin != reached:
            raise InputError(f"{entry} begins at byte {entry.begin}, expected {reached}: the data has a gap.")
        reached = entry.end
    if reached != size:
        problem = "truncated" if reached > size else "corrupt"
        raise InputError(f"{path} is {problem}: it has {size} bytes, its header tells of {reached}.")
    return {entry.name: entry for entry in entries}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the remarks in the header of a file that `read_header` has read: names and texts."""
    with Path(path).open("rb") as file:
        remarks = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
    return remarks if isinstance(remarks, dict) else {}


def _entry(path: Path, name: str, field: Any, start: int) -> TensorEntry:
    where = f"{path}: tensor {name!r}"
    try:
        dtype, shape, (begin, end) = field["dtype"], tuple(field["shape"]), field["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{where} has no dtype, shape and data_offsets: the file is corrupt.") from None
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise InputError(f"{where} has dtype {dtype!r}, expected one of {', '.join(FLOATS)}.")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise InputError(f"{where} has shape {list(shape)} and offsets {[begin, end]}: the file is corrupt.")
    needed = math.prod(shape) * ITEMSIZE[dtype]
    if end - begin != needed:
        raise InputError(f"{where} has {end - begin} bytes, expected {needed} for {dtype} {list(shape)}.")
    return TensorEntry(name, path, dtype, shape, start + begin, start + end)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return dict(pairs)


# --- Data in ---


def read_tensors(entries: Mapping[str, TensorEntry], dtype: str = "float32", xp: Any = numpy) -> dict[str, Array]:
    """Return the tensors as arrays of `dtype` ("float32" or "float64") that belong to the array library `xp`.

    Every array is filled block by block, so memory peaks at the arrays and one block. float16 and bfloat16
    become float32 and float64 without loss.
    """
    arrays: dict[str, Array] = {}
    for name, entry in entries.items():
        array = numpy.empty(entry.shape, dtype)
        flat, filled = array.reshape(-1), 0
        for block in blocks(entry):
            flat[filled : filled + block.size] = block
            filled += block.size
        arrays[name] = xp.asarray(array)
    return arrays


def blocks(entry: TensorEntry) -> Iterator[numpy.ndarray]:
    """Yield the numbers of a stored tensor, a block at a time; bfloat16 as float32."""
    bfloat16 = entry.dtype == "BF16"
    stored = numpy.dtype("<u2" if bfloat16 else f"<f{ITEMSIZE[entry.dtype]}")
    left = (entry.end - entry.begin) // stored.itemsize
    with entry.file.open("rb") as file:
        file.seek(entry.begin)
        while left:
            block = numpy.fromfile(file, stored, min(left, BLOCK))
            if not block.size:
                raise InputError(f"{entry} ends early: the file was cut while it was read.")
            left -= block.size
            yield from_bfloat16(block) if bfloat16 else block


def from_bfloat16(bits: numpy.ndarray) -> numpy.ndarray:
    """Return bfloat16 numbers, given as uint16, as float32: bfloat16 is the upper half of a float32."""
    return (bits.astype("<u4") << 16).view("<f4")


def to_bfloat16(values: numpy.ndarray) -> numpy.ndarray:
    """Return the bfloat16 numbers nearest to `values` as uint16; of two that are as near, the even one."""
    bits = values.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # carries into the upper half from the middle on
    return numpy.where(numpy.isnan(values), 0x7FC0, rounded).astype("<u2")


def same_values(a: TensorEntry, b: TensorEntry) -> bool:
    """Whether two stored tensors hold the same numbers."""
    if a.shape != b.shape or not {a.dtype, b.dtype} <= set(FLOATS):
        return False
    return all(numpy.array_equal(x, y, equal_nan=True) for x, y in zip(blocks(a), blocks(b), strict=True))


# --- Data out ---


def write_tensors(
    path: Path, tensors: Mapping[str, tuple[Array, str]], remarks: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file: each name with its array and the dtype to store it in ("bfloat16", ...).

    remarks: names and texts for the header, beside the one that transformers looks for.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(remarks or {})}}
    end = 0
    for name, (array, dtype) in tensors.items():
        begin, end = end, end + array.size * itemsize(dtype)
        header[name] = {"dtype": CODES[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array, dtype in tensors.values():
            for block in _host_blocks(array):
                file.write(_narrow(block, dtype).data)


def check_range(name: str, array: Array, dtype: str) -> None:
    """Raise an InputError if a finite number of parameter `name` is too large for `dtype`."""
    if array.dtype.itemsize <= itemsize(dtype):
        return
    for block in _host_blocks(array):
        narrow = _narrow(block, dtype)
        read_back = from_bfloat16(narrow) if dtype == "bfloat16" else narrow
        lost = block[numpy.isfinite(block) & ~numpy.isfinite(read_back)]
        if lost.size:
            raise InputError(f"params[{name!r}] holds {lost[0]:g}, too large for {dtype}: use float32.")


def itemsize(dtype: str) -> int:
    """Return the bytes of one stored number."""
    return ITEMSIZE[CODES[dtype]]


def _host_blocks(array: Array) -> Iterator[numpy.ndarray]:
    flat = to_numpy(array).reshape(-1)
    return (flat[i : i + BLOCK] for i in range(0, flat.size, BLOCK))


def _narrow(block: numpy.ndarray, dtype: str) -> numpy.ndarray:
    if dtype == "bfloat16":
        return to_bfloat16(block)
    with numpy.errstate(over="ignore"):  # check_range has looked
        return block.astype(f"<f{itemsize(dtype)}")
