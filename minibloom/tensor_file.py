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
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy

from .alignment import aligned_empty, at_a_line
from .backend import Array, to_numpy
from .errors import InputError
from .layers.small_weights import KINDS, Int8Weight, SmallWeight, from_bfloat16, row_scales, to_bfloat16, to_int8

Shape = tuple[int, ...]
Empty = Callable[[Shape, str], numpy.ndarray]  # as numpy.empty: an array of a shape and a dtype, not filled

FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # what parameters may be
INT8 = "int8"  # with a float32 scale for each row, in a tensor of its own: NAME.scale
CODES = {name: code for code, name in FLOATS.items()} | {INT8: "I8"}
SCALE = ".scale"
# As NumPy reads them: what it has no type for, by its bits.
STORED = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
    "BF16": "<u2", "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
BLOCK = 2**16  # numbers converted at a time: small beside the parameters, and it stays in the CPU's cache
DEVICE_BLOCK = 2**22  # numbers that go to a device at a time: large enough that starting a copy costs nothing
MAX_HEADER = 10**8  # bytes, as in the safetensors package


class TensorEntry(NamedTuple):
    """Where a tensor lies: bytes `begin` to `end` of `file`, as safetensors' `dtype`, under `name`."""

    name: str
    file: Path
    dtype: str
    shape: Shape
    begin: int
    end: int
    scale: Any = None  # the TensorEntry of an int8 matrix's scales
    version: tuple[int, ...] | None = None  # of the file, as `_version` tells it; None where nobody has looked

    @property
    def kind(self) -> str:
        """How the numbers are stored, as NumPy calls it: "float16", "bfloat16", "int8", ..."""
        return next((kind for kind, code in CODES.items() if code == self.dtype), self.dtype)

    def __str__(self) -> str:
        return f"{self.file}: tensor {self.name!r}"


# --- The header ---


def read_header(path: str | Path) -> dict[str, TensorEntry]:
    """Return the tensors of one safetensors file, by name, in the order of their data. Checks all numbers."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            size, version = os.fstat(file.fileno()).st_size, _version(file)
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
    return {entry.name: entry._replace(version=version) for entry in entries}


def _version(file: IO[bytes]) -> tuple[int, ...]:
    """What changes when another file takes the place of this one, or is written into it."""
    about = os.fstat(file.fileno())
    return about.st_ino, about.st_mtime_ns


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
    if not isinstance(dtype, str) or dtype not in STORED:
        raise InputError(f"{where} has dtype {dtype!r}, expected one of {', '.join(FLOATS)}.")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise InputError(f"{where} has shape {list(shape)} and offsets {[begin, end]}: the file is corrupt.")
    needed = math.prod(shape) * numpy.dtype(STORED[dtype]).itemsize
    if end - begin != needed:
        raise InputError(f"{where} has {end - begin} bytes, expected {needed} for {dtype} {list(shape)}.")
    return TensorEntry(name, path, dtype, shape, start + begin, start + end)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return dict(pairs)


# --- Data in ---


def read_tensors(
    entries: Mapping[str, TensorEntry], dtype: str = "float32", xp: Any = numpy, weights: str | None = None
) -> dict[str, Array]:
    """Return the tensors as arrays of `dtype` ("float32" or "float64") that belong to the array library `xp`.

    weights: keep matrices as "bfloat16", "float16" or "int8" (see `layers/small_weights.py`), or as arrays of `dtype`.
        None: int8 as int8, and what is stored as floating point as `dtype`.

    Every array is filled block by block, on a device too, so memory peaks at the arrays and one block of the host's.
    float16 and bfloat16 become float32 and float64 without loss.
    """
    return {name: read_tensor(entry, dtype, xp, weights) for name, entry in entries.items()}


def read_tensor(
    entry: TensorEntry,
    dtype: str = "float32",
    xp: Any = numpy,
    weights: str | None = None,
    empty: Empty = aligned_empty,
) -> Array:
    """Return one tensor; arguments as for `read_tensors`. What needs no conversion is read into what `empty` gives."""
    small = (entry.kind if entry.scale else dtype) if weights is None else weights
    if len(entry.shape) == 2 and small in KINDS:
        return _read_small(entry, small, xp, empty)
    if xp is numpy and entry.kind == dtype:  # as it is, without a copy
        return read_raw(entry, empty)
    array = at_a_line(xp.empty, entry.shape, dtype)
    flat, filled = array.reshape(-1), 0
    for block in blocks(entry, BLOCK if xp is numpy else DEVICE_BLOCK):
        check_range(entry.name, block, dtype)
        flat[filled : filled + block.size] = xp.asarray(block)
        filled += block.size
    return array


def _read_small(entry: TensorEntry, kind: str, xp: Any, empty: Empty) -> SmallWeight:
    """A matrix as `kind`: as it is where the file has it so, converted where not; to a device block by block."""
    O, I = entry.shape  # noqa: E741
    scale = numpy.empty(O, "<f4")
    if entry.kind == kind and xp is numpy:
        return small_weight(entry, read_raw(entry, empty), read_raw(entry.scale) if entry.scale else scale)
    stored, start = at_a_line(xp.empty, entry.shape, STORED[CODES[kind]]), 0
    height = max(1, (BLOCK if xp is numpy else DEVICE_BLOCK) // I)
    for block in (raw_blocks if entry.kind == kind else blocks)(entry, height * I):
        rows = block.reshape(-1, I)
        part = slice(start, start + len(rows))
        if entry.kind == kind:
            stored[part] = xp.asarray(rows)
        else:
            check_range(entry.name, rows, kind)
            if kind == INT8:
                scale[part] = row_scales(rows)
                stored[part] = to_int8(rows, scale[part])
            else:
                stored[part] = xp.asarray(_narrow(rows, kind))
        start = part.stop
    return small_weight(entry._replace(dtype=CODES[kind]), stored, scale)


def small_weight(entry: TensorEntry, stored: Array, scale: Array) -> SmallWeight:
    """The small weight that keeps `stored [O, I]`, of the dtype of `entry`; `scale [O]` is for int8."""
    try:
        return Int8Weight(stored, scale) if entry.kind == INT8 else KINDS[entry.kind](stored)
    except InputError as error:
        raise InputError(f"{entry}: {error}") from None


def blocks(entry: TensorEntry, size: int = BLOCK) -> Iterator[numpy.ndarray]:
    """Yield the numbers of a stored tensor, about `size` at a time: bfloat16 as float32, int8 times its scales."""
    if entry.scale:
        scales, I, start = read_raw(entry.scale), entry.shape[1], 0  # noqa: E741
        for block in raw_blocks(entry, max(1, size // I) * I):
            rows = block.reshape(-1, I)
            yield (rows * scales[start : start + len(rows), None]).reshape(-1)
            start += len(rows)
        return
    for block in raw_blocks(entry, size):
        yield from_bfloat16(block) if entry.dtype == "BF16" else block


@contextmanager
def _reading(entry: TensorEntry) -> Iterator[FileIO]:
    """The file of a stored tensor, at its first byte; an InputError names the file if it is no longer that."""
    try:
        with entry.file.open("rb", buffering=0) as file:
            if entry.version not in (None, _version(file)):
                raise InputError(f"{entry.file} was changed or replaced since its header was read: load it again.")
            file.seek(entry.begin)
            yield file
    except OSError as error:
        raise InputError(f"{entry.file} cannot be read: {error.strerror}.") from None


def read_raw(entry: TensorEntry, empty: Empty = aligned_empty) -> numpy.ndarray:
    """The numbers of a stored tensor as they are stored, in its shape, in memory that `empty` gives."""
    array = empty(entry.shape, STORED[entry.dtype])
    left = array.reshape(-1).view("u1").data
    with _reading(entry) as file:
        while left:
            count = file.readinto(left)
            if not count:
                raise InputError(f"{entry} ends early: the file was cut while it was read.")
            left = left[count:]
    return array


def raw_blocks(entry: TensorEntry, size: int = BLOCK) -> Iterator[numpy.ndarray]:
    """Yield the numbers of a stored tensor as they are stored, `size` at a time; bfloat16 as uint16."""
    stored = numpy.dtype(STORED[entry.dtype])
    left = (entry.end - entry.begin) // stored.itemsize
    with _reading(entry) as file:
        while left:
            block = numpy.fromfile(file, stored, min(left, size))
            if block.size < min(left, size):
                raise InputError(f"{entry} ends early: the file was cut while it was read.")
            left -= block.size
            yield block


def same_values(a: TensorEntry, b: TensorEntry) -> bool:
    """Whether two stored tensors hold the same numbers."""
    if a.shape != b.shape or not {a.dtype, b.dtype} <= set(FLOATS):
        return False
    return all(numpy.array_equal(x, y, equal_nan=True) for x, y in zip(blocks(a), blocks(b), strict=True))


# --- Data out ---


def write_tensors(
    path: Path, tensors: Mapping[str, tuple[Array, str]], remarks: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file: each name with its array and the dtype to store it in ("bfloat16", "int8", ...).

    An int8 matrix becomes two tensors, its numbers and, as `NAME.scale`, the scale of each row.
    remarks: names and texts for the header, beside the one that transformers looks for.
    """
    stored = [one for name, (array, dtype) in tensors.items() for one in _stored(name, array, dtype)]
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(remarks or {})}}
    if any(dtype == INT8 for _, (_, dtype) in tensors.items()):
        header["__metadata__"] |= {"minibloom": "int8: row o of NAME is its numbers times NAME.scale[o]"}
    end = 0
    for name, dtype, shape, _ in stored:
        begin, end = end, end + math.prod(shape) * itemsize(dtype)
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, _, data in stored:
            for block in data:
                file.write(numpy.ascontiguousarray(block).data)  # in C order, whatever order a parameter has


def _stored(name: str, array: Array, dtype: str) -> Iterator[tuple[str, str, Shape, Iterator[numpy.ndarray]]]:
    """Name, dtype, shape and numbers, block by block, of each tensor that `array` becomes in a file."""
    if dtype == INT8:
        yield name, INT8, array.shape, (values for values, _ in _int8_blocks(array))
        yield name + SCALE, "float32", array.shape[:1], (scales for _, scales in _int8_blocks(array))
    else:
        yield name, dtype, array.shape, (_narrow(block, dtype) for block in host_blocks(array))


def stored_bytes(array: Array, dtype: str) -> int:
    """Return the bytes of data that `array` needs in a file."""
    return array.size * itemsize(dtype) + (array.shape[0] * itemsize("float32") if dtype == INT8 else 0)


def check_range(name: str, array: Array, dtype: str) -> None:
    """Raise an InputError if a finite number of parameter `name` is too large for `dtype`, or none at all for int8."""
    if isinstance(array, SmallWeight) and array.dtype == dtype:
        return
    for block in host_blocks(array):
        if dtype == INT8:
            lost = block[~numpy.isfinite(_narrow(block, "float32"))]  # as its scales are
        elif block.dtype.itemsize <= itemsize(dtype):
            return
        else:
            narrow = _narrow(block, dtype)
            read_back = from_bfloat16(narrow) if dtype == "bfloat16" else narrow
            lost = block[numpy.isfinite(block) & ~numpy.isfinite(read_back)]
        if lost.size:
            why = "which int8 cannot hold" if dtype == INT8 else f"too large for {dtype}"
            raise InputError(f"params[{name!r}] holds {lost[0]:g}, {why}: use {block.dtype}.")


def itemsize(dtype: str) -> int:
    """Return the bytes of one stored number."""
    return numpy.dtype(STORED[CODES[dtype]]).itemsize


def host_blocks(array: Array) -> Iterator[numpy.ndarray]:
    """The numbers of `array`, flat, a block at a time; of a small weight as float32."""
    if isinstance(array, SmallWeight):
        return (rows.reshape(-1) for rows in _row_blocks(array))
    flat = to_numpy(array).reshape(-1)
    return (flat[i : i + BLOCK] for i in range(0, flat.size, BLOCK))


def _row_blocks(array: Array) -> Iterator[numpy.ndarray]:
    """The rows of a matrix or small weight as floats, a block at a time."""
    step = max(1, BLOCK // array.shape[1])
    return (to_numpy(array[i : i + step]) for i in range(0, array.shape[0], step))


def _int8_blocks(array: Array) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
    """The int8 numbers of a matrix and the scales of their rows, a block at a time; those that it has, if it has."""
    if isinstance(array, Int8Weight):
        yield array.stored, array.scale
        return
    for rows in _row_blocks(array):
        scales = row_scales(rows)
        yield to_int8(rows, scales), scales


def _narrow(block: numpy.ndarray, dtype: str) -> numpy.ndarray:
    with numpy.errstate(over="ignore"):  # check_range looks
        return to_bfloat16(block) if dtype == "bfloat16" else block.astype(f"<f{itemsize(dtype)}")
