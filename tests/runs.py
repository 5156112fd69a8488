"""Training runs under test: stopped in the middle, read from their files, and held against each other."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors import safe_open

from minibloom import training
from minibloom.training_state import STATE


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, presses: int = 1) -> None:
    """Press Ctrl-C in the middle of step number `step`."""
    passed, real = iter(range(1, 10**6)), training.clip_gradients

    def clip(*arguments: Any) -> float:
        if next(passed) == step:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "clip_gradients", clip)


def kill_when_saved(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill a training run as soon as its state is there."""
    deadline = time.monotonic() + 100
    while not (folder / STATE).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()


def saved(folder: Path) -> dict[str, Any]:
    """All that the file of a run holds: parameters and the optimiser's state as bytes, step, history, settings."""
    with safe_open(folder / STATE, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = {name: json.loads(note) for name, note in file.metadata().items()}
    return notes | {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


def assert_same_run(one: Any, other: Any) -> None:
    """Every parameter and every number of the history is the same, bit for bit."""
    assert one[1] == other[1]
    for name, p in one[0].params.items():
        numpy.testing.assert_array_equal(p, other[0].params[name], err_msg=name)


def stderr_until(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    """Read what a process writes to standard error until `wanted` is in it."""
    assert process.stderr
    text, deadline = b"", time.monotonic() + 100
    while wanted not in text:
        assert select.select([process.stderr], [], [], deadline - time.monotonic())[0], text
        new = process.stderr.read1()  # type: ignore[union-attr]
        assert new, text
        text += new
    return text
