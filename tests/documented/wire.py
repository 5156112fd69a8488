"""What is said between the tests and the oracle's process: nested values with arrays in them. NumPy alone is needed.

Both sides import this file, each with its own NumPy, so arrays travel as .npz, which all versions read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy


def send(stream: BinaryIO, value: Any) -> None:
    """Write a value of dictionaries, lists, tuples, strings, numbers, None and arrays."""
    arrays: list[numpy.ndarray] = []

    def encode(x: Any) -> Any:
        if isinstance(x, numpy.ndarray | numpy.generic):
            arrays.append(numpy.asarray(x))
            return {"array": len(arrays) - 1}
        if isinstance(x, Mapping):
            return {"items": [[key, encode(item)] for key, item in x.items()]}
        if isinstance(x, tuple):
            return {"tuple": [encode(item) for item in x]}
        return [encode(item) for item in x] if isinstance(x, list) else x

    text, packed = json.dumps(encode(value)), io.BytesIO()
    numpy.savez(packed, *arrays, text=numpy.array(text))
    stream.write(len(packed.getvalue()).to_bytes(8, "little") + packed.getvalue())
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read what was sent; None where the other side has closed the stream."""
    length = int.from_bytes(stream.read(8), "little")
    if not length:
        return None
    packed = numpy.load(io.BytesIO(stream.read(length)))

    def decode(x: Any) -> Any:
        if isinstance(x, list):
            return [decode(item) for item in x]
        if not isinstance(x, dict):
            return x
        if "array" in x:
            return packed[f"arr_{x['array']}"]
        if "tuple" in x:
            return tuple(decode(item) for item in x["tuple"])
        return {key: decode(item) for key, item in x["items"]}

    return decode(json.loads(str(packed["text"])))


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The arrays in a nested value by dotted names: {"logits": ..., "past_key_values.0.1": ...}. None is left out."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple | list):
        items = list(enumerate(value))
    else:
        return {} if value is None else {name: numpy.asarray(value)}
    arrays: dict[str, Any] = {}
    for key, item in items:
        arrays |= flat(item, f"{name}.{key}" if name else str(key))
    return arrays
