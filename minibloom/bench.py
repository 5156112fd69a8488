"""`minibloom bench`: speed and memory, side by side with transformers where it is installed.

Every contestant runs in a process of its own, with the same number of threads, and all take turns: a machine
that slows down slows all of them. A figure is the median of the repeats, with the lowest and highest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from .errors import InputError
from .files import replacing

SHAPES = {
    "bloom-560m": {"vocab_size": 250880, "hidden_size": 1024, "n_layer": 24, "n_head": 16},
    "small": {"vocab_size": 4096, "hidden_size": 256, "n_layer": 6, "n_head": 8},
}
WORK = {  # name -> shape, kind, batch, length
    "prefill-512": ("bloom-560m", "prefill", 1, 512),
    "decode-128": ("bloom-560m", "decode", 1, 128),
    "small-decode-128": ("small", "decode", 1, 128),
    "small-train-8x256": ("small", "train", 8, 256),
    "generate": ("bloom-560m", "generate", 1, 64),
    "generate-8": ("bloom-560m", "generate", 8, 64),
    "small-generate": ("small", "generate", 1, 64),
    "small-generate-8": ("small", "generate", 8, 64),
}
OVERHEADS = {  # name -> shape, batch, whether tokens are drawn
    "overhead": ("bloom-560m", 1, False),
    "small-overhead": ("small", 1, False),
    "small-overhead-8": ("small", 8, False),
    "small-overhead-sampling": ("small", 1, True),
}
PROCESSES = ("import", "first-token", "load", "lookup", *OVERHEADS)  # measured from outside, as whole processes
IMPORTS = {"minibloom": "import minibloom", "transformers": "from transformers import BloomForCausalLM"}


@dataclass
class Figure:
    """One contestant's result on one piece of work."""

    work: str
    peer: str
    unit: str
    values: list[float]
    memory_peak: int | None = None  # bytes, of the process so far

    @property
    def median(self) -> float:
        return median(self.values)


def add_arguments(sub: argparse.ArgumentParser) -> None:
    names = [*WORK, *PROCESSES]
    sub.add_argument("work", nargs="*", metavar="WORK", help=f"what to measure, all if not given: {', '.join(names)}")
    sub.add_argument("--repeats", type=int, default=5, help="measurements of each (default 5)")
    sub.add_argument("--threads", type=int, default=os.cpu_count(), help="for every contestant (default: all cores)")
    sub.add_argument("--json", metavar="FILE", help="write the figures there too")


def run(a: argparse.Namespace) -> None:
    """The command: measure, print a table, and write JSON if asked to."""
    chosen = a.work or [*WORK, *PROCESSES]
    for name in chosen:
        if name not in WORK and name not in PROCESSES:
            raise InputError(f"there is no work {name!r}, expected some of {', '.join([*WORK, *PROCESSES])}.")
    if a.repeats < 1 or a.threads < 1:
        raise InputError(f"repeats is {a.repeats} and threads {a.threads}, expected at least 1 of each.")
    peers = ["minibloom", *(["transformers"] if find_spec("transformers") and find_spec("torch") else [])]
    if len(peers) == 1:
        print("transformers is not installed: minibloom is measured alone. (pip install 'minibloom[parity]')")
    print(machine(a.threads))
    figures: list[Figure] = []
    for shape in SHAPES:
        names = [name for name in chosen if name in WORK and WORK[name][0] == shape]
        if names:
            figures += in_turns(peers, shape, names, a.repeats, a.threads)
    for name in (name for name in chosen if name in PROCESSES):
        if name in OVERHEADS or name == "lookup":
            figures += generation(name, a.repeats, a.threads)
        else:
            figures += {"import": imports, "first-token": first_token, "load": load}[name](peers, a.repeats, a.threads)
    print(table(figures))
    if a.json:
        report = {"machine": machine(a.threads), "figures": [asdict(f) | {"median": f.median} for f in figures]}
        with replacing(a.json) as path:
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def machine(threads: int) -> str:
    """What the figures were measured on."""
    import numpy

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    versions = f"Python {platform.python_version()}, NumPy {numpy.__version__}"
    for name in ("torch", "transformers"):
        if find_spec(name):
            from importlib.metadata import version

            versions += f", {name} {version(name)}"
    return f"{model}, {threads} threads; {versions}; {time.strftime('%Y-%m-%d')}"


def in_turns(peers: Sequence[str], shape: str, names: Sequence[str], repeats: int, threads: int) -> Iterator[Figure]:
    """All contestants on one shape, one measurement of each after another, once before that counts."""
    workers = {peer: _start(peer, SHAPES[shape], threads) for peer in peers}
    try:
        for name in names:
            _, work, batch, length = WORK[name]
            figures = {peer: Figure(name, peer, "s", []) for peer in peers}
            for repeat in range(repeats + 1):
                for peer, worker in workers.items():
                    answer = _ask(worker, {"work": work, "batch": batch, "length": length})
                    if repeat:  # the first warms up caches and memory
                        figures[peer].values.append(answer["seconds"])
                    figures[peer].memory_peak = answer["memory_peak"]
            yield from figures.values()
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def _environment(threads: int) -> dict[str, str]:
    # Torch and NumPy read these when they are imported. Nothing here may ask a hub.
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(limits, str(threads)) | {"HF_HUB_OFFLINE": "1"}


def _start(peer: str, config: dict[str, int], threads: int) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "minibloom.bench_worker", peer],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(threads),
    )  # fmt: skip
    _ask(worker, {"config": config, "threads": threads})
    return worker


def _ask(worker: subprocess.Popen[str], command: dict[str, Any]) -> dict[str, Any]:
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps(command) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise InputError(f"a contestant stopped (status {worker.wait()}); what it said stands above.")
    return json.loads(line)


def _process(code: str, threads: int) -> tuple[float, str]:
    """Seconds that a new Python takes to run `code`, and what it prints."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env=_environment(threads), stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - start, done.stdout.decode()


def imports(peers: Sequence[str], repeats: int, threads: int) -> list[Figure]:
    """From the start of Python to the imported library, with Python's own start taken off."""
    figures = {peer: Figure("import", peer, "s", []) for peer in peers}
    for repeat in range(repeats + 1):
        bare = _process("pass", threads)[0]
        for peer in peers:
            seconds = _process(IMPORTS[peer], threads)[0] - bare
            if repeat:
                figures[peer].values.append(seconds)
    return list(figures.values())


def first_token(peers: Sequence[str], repeats: int, threads: int) -> list[Figure]:
    """From the start of the process to the first piece of text of the shipped model."""
    code = (
        "from minibloom import BloomForCausalLM as M, BloomTokenizerFast as T\n"
        "from minibloom.generation import stream_text\n"
        "next(stream_text(M.from_pretrained(), T.from_pretrained(), 'All human beings'))"
    )
    return [Figure("first-token", "minibloom", "s", [_process(code, threads)[0] for _ in range(repeats + 1)][1:])]


def load(peers: Sequence[str], repeats: int, threads: int) -> list[Figure]:
    """Peak memory of loading a float16 checkpoint of 200 million parameters, over that of the parameters in float32."""
    from .config import BloomConfig
    from .models import BloomForCausalLM

    code = (
        "from minibloom import BloomForCausalLM as M; import minibloom.checkpoint\n"
        "from minibloom.bench_worker import memory_peak; before = memory_peak()\n"
        "m = M.from_pretrained({folder!r})\n"
        "print((memory_peak() - before) / sum(p.nbytes for p in m.params.values()))"
    )
    with tempfile.TemporaryDirectory() as folder:
        config = BloomConfig(vocab_size=100_000, hidden_size=1024, n_layer=8, n_head=16)
        BloomForCausalLM(config).save_pretrained(folder, dtype="float16")
        values = [float(_process(code.format(folder=folder), threads)[1]) for _ in range(repeats)]
    return [Figure("load", "minibloom", "x memory of parameters", values)]


def generation(name: str, repeats: int, threads: int) -> list[Figure]:
    """What generation takes beside its forward passes; or how many passes looking up what was there saves."""
    if name == "lookup":
        call, unit, repeats = "lookup_passes()", "x fewer passes", 1  # a count, the same each time
    else:
        shape, batch, do_sample = OVERHEADS[name]
        call, unit = f"overhead({SHAPES[shape]}, {batch}, {do_sample})", "of the passes' time"
    code = f"import minibloom.bench_generation as b; print(b.{call})"
    return [Figure(name, "minibloom", unit, [float(_process(code, threads)[1]) for _ in range(repeats)])]


def table(figures: Sequence[Figure]) -> str:
    """A row for each figure; contestants on the same work are compared with transformers."""
    reference = {f.work: f.median for f in figures if f.peer == "transformers"}
    rows = [("work", "contestant", "median", "lowest to highest", "against transformers", "peak memory")]
    for f in figures:
        ratio = reference.get(f.work)
        rows.append((
            f.work,
            f.peer,
            f"{f.median:.4g} {f.unit}",
            f"{min(f.values):.4g} to {max(f.values):.4g}",
            f"{ratio / f.median:.2f}x as fast" if ratio and f.peer != "transformers" else "",
            f"{f.memory_peak / 1e9:.2f} GB" if f.memory_peak else "",
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
