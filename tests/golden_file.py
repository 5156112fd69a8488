"""Files of goldens: arrays, as float32, and under "about" what made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

from minibloom.files import replacing


def narrowed(goldens: dict[str, Any]) -> dict[str, numpy.ndarray]:
    """The arrays as a file holds them."""
    narrow = {name: x.astype("float32") if x.dtype.kind == "f" else x for name, x in goldens.items()}
    return {name: x.copy(order="C") for name, x in narrow.items()}


def write_goldens(path: Path, goldens: dict[str, numpy.ndarray], about: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        save_file(goldens, temporary, {"about": json.dumps(about)})  # one entry: several would be written in any order
    print(f"{path}: {len(goldens)} arrays, {path.stat().st_size:,} bytes, by {about['oracle']}")


def read_goldens(path: Path) -> tuple[dict[str, numpy.ndarray], dict[str, Any]]:
    """The arrays, and what they are about."""
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        return arrays, json.loads(file.metadata()["about"])
