"""`minibloom bench`: what is measured, of whom, on which machine; the figures as a table, and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from . import backend as backends
from .bench import (
    FOR_A_GPU,
    NEEDS,
    ON_A_GPU,
    PEERS_ON_A_CPU,
    PEERS_ON_A_GPU,
    PROCESSES,
    WORK,
    Figure,
    cost,
    exponents,
    growth,
    measured,
    table,
    why_torch_sees_no_gpu,
)
from .bench_cost import cost_table
from .bench_notes import notes
from .errors import InputError
from .files import checked_target, replacing
from .machine import describe_blas
from .memory import free_and_total, size


def add_arguments(sub: argparse.ArgumentParser) -> None:
    names = [*WORK, *PROCESSES]
    sub.add_argument("work", nargs="*", metavar="WORK", help=f"what to measure, all if not given: {', '.join(names)}")
    sub.add_argument("--repeats", type=int, help="measurements of each (default 5; of --cost on the CPU 1)")
    sub.add_argument("--threads", type=int, default=os.cpu_count(), help="for every contestant (default: all cores)")
    known = ", ".join(PEERS_ON_A_CPU)
    sub.add_argument("--peers", help=f"contestants, with commas between (default: all installed of {known})")
    sub.add_argument("--backend", default="numpy", help="numpy (default), on the CPU; or cupy, on a GPU")
    instead = sub.add_mutually_exclusive_group()
    instead.add_argument("--growth", action="store_true", help="measure instead how time and memory of minibloom grow")
    instead.add_argument(
        "--cost",
        action="store_true",
        help="measure instead tokens a second of minibloom, and tokens for each byte moved, by batch and length",
    )
    sub.add_argument("--json", metavar="FILE", help="write the figures there too")


def run(a: argparse.Namespace) -> None:
    """The command: measure, print a table, and write JSON if asked to."""
    on_gpu = backends.load(a.backend).__name__ != "numpy"
    chosen = _chosen_work(a, on_gpu)
    repeats = (1 if a.cost and not on_gpu else 5) if a.repeats is None else a.repeats
    if repeats < 1 or a.threads < 1:
        raise InputError(f"repeats is {repeats} and threads {a.threads}, expected at least 1 of each.")
    peers = chosen_peers(a.peers, PEERS_ON_A_GPU if on_gpu else PEERS_ON_A_CPU)
    target = checked_target(a.json) if a.json else None
    peers = _those_that_run(peers, a, on_gpu)
    described = machine(a.threads, a.backend)
    print(described, flush=True)
    figures: list[Figure] = []
    try:
        if a.growth:
            figures.extend(growth(repeats, a.threads))
        elif a.cost:
            ours = [peer for peer in peers if peer.startswith("minibloom")] if a.peers or on_gpu else ["minibloom"]
            figures.extend(cost(ours, repeats, a.threads, a.backend))
        else:
            figures.extend(measured(chosen, peers, repeats, a.threads, a.backend))
    finally:  # Ctrl-C too: an hour's figures are not lost with the last one
        if target and figures:
            rows = [asdict(f) | {"median": f.median} for f in figures]
            report = {"machine": described, "figures": rows, "notes": notes(figures, on_gpu)}
            with replacing(target) as path:
                path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(cost_table(figures) if a.cost else table(figures))
    for note in notes(figures, on_gpu):
        print(note)
    if a.growth:
        print(exponents(figures))


def _chosen_work(a: argparse.Namespace, on_gpu: bool) -> list[str]:
    """The work that is named, or what is usual."""
    if a.work and (a.growth or a.cost):
        raise InputError(
            f"{a.work[0]} is named, but {'--growth' if a.growth else '--cost'} has its own work: give one."
        )
    usual = ON_A_GPU if on_gpu else (*(name for name in WORK if name not in FOR_A_GPU), *PROCESSES)
    chosen: list[str] = a.work or list(usual)
    for name in chosen:
        if name not in WORK and name not in PROCESSES:
            raise InputError(f"there is no work {name!r}, expected some of {', '.join([*WORK, *PROCESSES])}.")
        if on_gpu and (name in PROCESSES or a.growth):
            raise InputError(f"{'--growth' if a.growth else name} is measured on the CPU alone: leave --backend out.")
    return chosen


def _those_that_run(peers: list[str], a: argparse.Namespace, on_gpu: bool) -> list[str]:
    """The contestants without transformers where it cannot be measured, which is said; an InputError if it is named."""
    if on_gpu and not a.cost and any(peer.startswith("transformers") for peer in peers):
        if blind := why_torch_sees_no_gpu():
            if a.peers:
                raise InputError(blind)
            print(blind)
            return [peer for peer in peers if not peer.startswith("transformers")]
    elif "transformers" not in peers and not a.peers:
        print("transformers is not installed: minibloom is measured alone. (pip install torch transformers)")
    return peers


def chosen_peers(named: str | None, known: Sequence[str]) -> list[str]:
    """The contestants that are named, or all of those known that are installed."""
    missing = {peer: [m for m in NEEDS[peer] if not find_spec(m)] for peer in known}
    if named is None:
        return [peer for peer in known if not missing[peer]]
    peers = [name.strip() for name in named.split(",")]
    for peer in peers:
        if peer not in known:
            raise InputError(f"there is no contestant {peer!r}, expected some of {', '.join(known)}.")
        if missing[peer]:
            raise InputError(f"{peer} needs {', '.join(missing[peer])}: pip install {' '.join(missing[peer])}.")
    return peers


def machine(threads: int, backend: str = "numpy") -> str:
    """What the figures were measured on."""
    import numpy

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    versions = f"Python {platform.python_version()}, NumPy {numpy.__version__} with {describe_blas().splitlines()[0]}"
    for name in ("numba", "torch", "transformers", "ctranslate2"):
        if find_spec(name):
            from importlib.metadata import version

            versions += f", {name} {version(name)}"
    if backend == "cupy":
        model, versions = f"{gpu()}; {model}", f"CuPy {backends.load(backend).__version__}, {versions}"
    return f"{model}, {threads} threads; {versions}; {time.strftime('%Y-%m-%d')}"


def gpu() -> str:
    """The GPU that CuPy computes on, its memory, and its driver."""
    xp = backends.load("cupy")
    runtime, driver = xp.cuda.runtime, Path("/sys/module/nvidia/version")
    name = runtime.getDeviceProperties(0)["name"].decode()
    named = f"driver {driver.read_text().strip()}" if driver.exists() else "driver unknown"
    version = backends.cuda_version(runtime.runtimeGetVersion())
    return f"{name}, {size(free_and_total(xp)[1])}; {named}, CUDA {version}"
