"""The bench: speed and memory, side by side with whatever other engine is installed.

Every contestant runs in a process of its own, with the same number of threads, and all take turns: a machine
that slows down slows all of them. A figure is the median of the repeats, with the lowest and highest beside it.
One contestant is no library but the machine itself: how fast it multiplies matrices and how fast it reads memory, so
that each figure is also a share of what can be had at all.

`--backend cupy` measures on a GPU: minibloom there, transformers there, each with weights in float32, float16 and
bfloat16, and how fast the GPU multiplies in each precision, reads and copies. Its clock stops when the GPU is done, and
memory is the GPU's: what a library has taken from it. `--cost` is about minibloom alone: see `bench_cost.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

from .bench_cost import bytes_moved, cells, keys_seen, parameters, precision
from .bench_notes import partner
from .bench_worker import NEW
from .display import columns
from .files import SHIPPED
from .precision import HALVES

SHAPES = {
    "bloom-560m": {"vocab_size": 250880, "hidden_size": 1024, "n_layer": 24, "n_head": 16},
    "small": {"vocab_size": 4096, "hidden_size": 256, "n_layer": 6, "n_head": 8},
    "6 blocks of bloom-560m": {"vocab_size": 4096, "hidden_size": 1024, "n_layer": 6, "n_head": 16},
}
WORK = {  # name -> shape, kind, batch, length; training last, as what it frees may stay with the process
    "prefill-512": ("bloom-560m", "prefill", 1, 512),
    "prefill-2048": ("bloom-560m", "prefill", 1, 2048),
    "prefill-4096": ("bloom-560m", "prefill", 1, 4096),
    "decode-128": ("bloom-560m", "decode", 1, 128),
    "decode-1024": ("bloom-560m", "decode", 1, 1024),
    "decode-8x128": ("bloom-560m", "decode", 8, 128),
    "decode-32x128": ("bloom-560m", "decode", 32, 128),
    "small-decode-128": ("small", "decode", 1, 128),
    "generate": ("bloom-560m", "generate", 1, 64),
    "generate-8": ("bloom-560m", "generate", 8, 64),
    "train-1x512": ("bloom-560m", "train", 1, 512),
    "train-8x512": ("bloom-560m", "train", 8, 512),
    "small-generate": ("small", "generate", 1, 64),
    "small-generate-8": ("small", "generate", 8, 64),
    "small-train-8x256": ("small", "train", 8, 256),
    "prefill-8192": ("6 blocks of bloom-560m", "prefill", 1, 8192),
    "prefill-16384": ("6 blocks of bloom-560m", "prefill", 1, 16384),
}
REST = 0.25  # seconds before each measurement: for a tenth of a second behind their last product, threads of BLAS and
# OpenMP may stay awake, on a core that the next contestant needs (a small model's token, 0.60 ms in place of 0.46)
ALONE = ("prefill-8192", "prefill-16384")  # measured of minibloom only: the others need minutes, or more memory
FOR_A_GPU = ("decode-32x128", "train-8x512")  # on a CPU only if they are named: they take minutes
ON_A_GPU = ("prefill-512", "prefill-2048", "decode-128", "decode-1024", *FOR_A_GPU, "generate", "generate-8")
NEEDS: dict[str, tuple[str, ...]] = {  # peer -> modules that must be installed
    "minibloom": (),
    "minibloom int8": (),
    "minibloom float16": (),
    "minibloom bfloat16": ("ml_dtypes",),
    "transformers": ("torch", "transformers"),
    "transformers float16": ("torch", "transformers"),
    "transformers bfloat16": ("torch", "transformers"),
    "transformers compiled": ("torch", "transformers"),
    "CTranslate2": ("torch", "transformers", "ctranslate2"),
    "CTranslate2 int8": ("torch", "transformers", "ctranslate2"),
    "machine": (),
}
OVERHEADS = {  # name -> shape, batch, whether tokens are drawn
    "overhead": ("bloom-560m", 1, False),
    "small-overhead": ("small", 1, False),
    "small-overhead-8": ("small", 8, False),
    "small-overhead-sampling": ("small", 1, True),
}
LIBRARIES = ("minibloom", "transformers")
PEERS_ON_A_GPU = (*LIBRARIES, *(f"{name} {kind}" for kind in HALVES for name in LIBRARIES), "machine")
PEERS_ON_A_CPU = tuple(peer for peer in NEEDS if precision(peer) not in HALVES)
PROCESSES = ("import", "first-token", "load", "lookup", *OVERHEADS)  # measured from outside, as whole processes
CODES = {  # what a new Python runs: up to the imported library, and up to the first piece of the shipped model's text
    "import": {
        "minibloom": "import minibloom",
        "transformers": "from transformers import BloomForCausalLM",
        "CTranslate2": "import ctranslate2",
    },
    "first-token": {
        "minibloom": (
            "from minibloom import BloomForCausalLM as M, BloomTokenizerFast as T\n"
            "from minibloom.generation import stream_text\n"
            "next(stream_text(M.from_pretrained(), T.from_pretrained(), 'All human beings'))"
        ),
        "transformers": (
            "from transformers import AutoTokenizer as T, BloomForCausalLM as M\n"
            f"model, tokenizer = M.from_pretrained({str(SHIPPED)!r}), T.from_pretrained({str(SHIPPED)!r})\n"
            "inputs = tokenizer('All human beings', return_tensors='pt')\n"
            "tokenizer.decode(model.generate(**inputs, max_new_tokens=1)[0])"
        ),
    },
}


@dataclass
class Figure:
    """One contestant's result on one piece of work."""

    work: str
    peer: str
    unit: str
    values: list[float]
    memory_above: int | None = None  # bytes at the peak, above the process with its model loaded
    limit: str = ""  # what bounds this work: "multiplying", "reading", or in generation both in turn
    share: float | None = None  # of that limit
    products: float | None = None  # seconds that minibloom's products with weights take by themselves
    gradients: int = 0  # bytes of what training returns, which are among `memory_above`
    tokens_a_byte: float | None = None  # that a pass has to move; see bench_cost.py

    @property
    def median(self) -> float:
        return median(self.values)

    def add(self, answer: Mapping[str, Any], tokens: int | None = None) -> None:
        """Take in what a contestant answered: its seconds, or of so many tokens how many a second."""
        self.values.append(answer["seconds"] if tokens is None else tokens / answer["seconds"])
        self.memory_above = max(self.memory_above or 0, answer["memory_above"])


def measured(chosen: Sequence[str], peers: Sequence[str], repeats: int, threads: int, backend: str) -> Iterator[Figure]:
    """The figures of all work that is chosen, one after another; of what died, none."""
    for shape in SHAPES:
        names = [name for name in chosen if name in WORK and WORK[name][0] == shape]
        if names:
            yield from in_turns(peers, shape, names, repeats, threads, backend)
    for name in (name for name in chosen if name in PROCESSES):
        try:
            if name in CODES:
                yield from processes(name, peers, repeats, threads)
            else:
                yield load_memory(repeats, threads) if name == "load" else generation(name, repeats, threads)
        except subprocess.CalledProcessError as error:
            print(f"left out: {name} (status {error.returncode}); what it said stands above", file=sys.stderr)


def in_turns(
    peers: Sequence[str], shape: str, names: Sequence[str], repeats: int, threads: int, backend: str = "numpy"
) -> Iterator[Figure]:
    """All contestants on one shape, one measurement of each after another, once before that counts."""
    on_gpu = backend == "cupy"
    with _workers(peers, SHAPES[shape], threads, backend) as workers:
        for name in names:
            _, work, batch, length = WORK[name]
            products = {} if on_gpu else {"minibloom": f"products_{work}"}
            if products and work == "decode" and "minibloom int8" in workers:
                products["minibloom int8"] = "products_decode_int8"
            limiting = ["gemm", "read", *(f"gemm_{kind}" for kind in HALVES if on_gpu), *products.values()]
            kinds = {peer: [work] for peer in workers} | {"machine": limiting}
            figures: dict[tuple[str, str], Figure] = {}
            for repeat in range(repeats + 1):
                for peer, worker in workers.items():
                    if name in ALONE and peer not in ("minibloom", "machine"):
                        continue
                    for kind in [*kinds[peer]]:
                        if worker.poll() is not None:  # it died, which was said
                            break
                        time.sleep(REST)
                        answer = _ask(worker, {"work": kind, "batch": batch, "length": length})
                        if "error" in answer:
                            kinds[peer].remove(kind)  # what it cannot do is said once
                        figure = figures.setdefault((peer, kind), Figure(name, peer, "s", []))
                        if repeat and "seconds" in answer:  # the first warms up caches and memory
                            figure.add(answer)
            measured = {key: figure for key, figure in figures.items() if figure.values}
            of_machine = {kind: measured.pop(("machine", kind)) for kind in limiting if ("machine", kind) in measured}
            limits = {kind: min(figure.values) for kind, figure in of_machine.items()}  # the best that it can do
            for figure in measured.values():
                if limits:
                    _compare_with_limit(figure, limits, on_gpu)
                if products.get(figure.peer) in of_machine:
                    figure.products = of_machine[products[figure.peer]].median
                figure.gradients = 4 * parameters(SHAPES[shape]) if work == "train" else 0
            print(table(list(measured.values())), flush=True)
            yield from measured.values()


def _compare_with_limit(figure: Figure, limits: dict[str, float], on_gpu: bool = False) -> None:
    """What share of the machine's limit a figure reaches: of multiplying or of reading, whichever takes longer.

    A machine multiplies as fast as it does in the precision of the contestant's weights.
    """
    shape, work, batch, length = WORK[figure.work]
    c = SHAPES[shape]
    E, L, V = c["hidden_size"], c["n_layer"], c["vocab_size"]
    in_blocks = 12 * E * E * L  # weights that each token is multiplied with; 2 E more in attention, for each key
    gemm = f"gemm_{precision(figure.peer)}" if precision(figure.peer) in HALVES else "gemm"
    if not {gemm, "read"} <= limits.keys():  # what the machine could not do
        return

    def least(new: int, keys: float, logits: int) -> dict[str, float]:
        """Seconds of a pass over `new` tokens a row, each of which sees about `keys`, with so many rows of logits."""
        products = batch * new * (in_blocks + 2 * L * E * keys) + V * E * logits
        read = bytes_moved(figure.peer, c, batch, keys, 0)
        return {"multiplying": limits[gemm] * products, "reading": limits["read"] * read}

    if work == "decode":
        times = least(1, keys_seen(length, on_gpu), batch)
    elif work == "generate":
        one = max(least(1, length + NEW / 2, batch).values())
        times = {"multiplying, then decoding": least(length, length / 2, batch)["multiplying"] + (NEW - 1) * one}
    else:  # each weight is read once for hundreds of tokens; backward is two products more for each of forward's
        logits = batch * length if work == "train" else batch
        times = {"multiplying": (3 if work == "train" else 1) * least(length, length / 2, logits)["multiplying"]}
    figure.limit, seconds = max(times.items(), key=lambda time: time[1])
    figure.share = seconds / figure.median


def growth(repeats: int, threads: int) -> Iterator[Figure]:
    """Time and memory of minibloom's prefill as length, batch, width and depth double, each from the same start."""
    start = {"length": 512, "batch": 1, "width": 512, "depth": 4}
    doubled = {
        "length": (512, 1024, 2048, 4096, 8192),
        "batch": (1, 2, 4, 8),
        "width": (256, 512, 1024),
        "depth": (2, 4, 8),
    }
    for name, values in doubled.items():
        for value in values:
            size = start | {name: value}
            E, L = size["width"], size["depth"]
            config = {"vocab_size": 4096, "hidden_size": E, "n_layer": L, "n_head": E // 64}
            figure = Figure(f"{name} {value}", "minibloom", "s", [])
            with _workers(["minibloom"], config, threads) as workers:
                for worker in workers.values():
                    for answer in _answers(worker, "prefill", size["batch"], size["length"], repeats):
                        figure.add(answer)
            if figure.values:
                yield figure


def cost(peers: Sequence[str], repeats: int, threads: int, backend: str) -> Iterator[Figure]:
    """Tokens a second, and for each byte moved, of prefill and of decoding, for bloom-560m's shape."""
    shape, on_gpu = SHAPES["bloom-560m"], backend == "cupy"
    for one in peers:
        with _workers([one], shape, threads, backend) as workers:  # one after another: memory holds one model
            for peer, worker in workers.items():
                _ask(worker, {"work": "decode", "batch": 1, "length": 128})  # warms up
                for work, batch, length in cells(on_gpu):
                    figure = Figure(f"{work} {batch}x{length}", peer, "tokens/s", [])
                    past, new = (0, length) if work == "prefill" else (keys_seen(length, on_gpu), 1)
                    # On a GPU, the first of each number of rows has kernels compiled: it does not count.
                    for answer in _answers(worker, work, batch, length, repeats, first=1 if on_gpu else 0):
                        figure.add(answer, batch * new)
                    if figure.values:
                        figure.tokens_a_byte = batch * new / bytes_moved(peer, shape, batch, past, new)
                        yield figure


def exponents(figures: Sequence[Figure]) -> str:
    """The powers with which time and memory grow, fitted through the figures of `growth`: 1 is in proportion."""
    import numpy

    lines = []
    for name in dict.fromkeys(figure.work.split()[0] for figure in figures):
        points = [f for f in figures if f.work.startswith(f"{name} ")]
        if len(points) < 2:  # the others were left out
            continue
        x = numpy.log([float(f.work.split()[1]) for f in points])
        time, memory = (
            numpy.polyfit(x, numpy.log([max(1e-9, value) for value in values]), 1)[0]
            for values in ([f.median for f in points], [f.memory_above or 1 for f in points])
        )
        lines.append(f"{name:<8} time grows with power {time:.2f}, memory above the model with power {memory:.2f}")
    return "\n".join(lines)


def _environment(threads: int) -> dict[str, str]:
    # Torch and NumPy read these when they are imported. Nothing here may ask a hub.
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | dict.fromkeys(limits, str(threads)) | {"HF_HUB_OFFLINE": "1"}


def _start(peer: str, config: dict[str, int], threads: int, backend: str = "numpy") -> subprocess.Popen[str] | None:
    """A contestant with its model loaded, or None if it cannot do that."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "minibloom.bench_worker", peer],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(threads),
    )  # fmt: skip
    ready = "error" not in _ask(worker, {"config": config, "threads": threads, "backend": backend})
    return worker if ready else None


@contextmanager
def _workers(
    peers: Sequence[str], config: dict[str, int], threads: int, backend: str = "numpy"
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The contestants that can load their model, by name. They end with the block."""
    workers: dict[str, subprocess.Popen[str]] = {}
    try:
        for peer in peers:
            if (worker := _start(peer, config, threads, backend)) is not None:
                workers[peer] = worker
        yield workers
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def _answers(
    worker: subprocess.Popen[str], work: str, batch: int, length: int, repeats: int, first: int = 1
) -> Iterator[dict[str, Any]]:
    """What a contestant answers, so many times behind the `first` that do not count. None after an error."""
    for repeat in range(first + repeats):
        if worker.poll() is not None:  # it died, which was said
            return
        answer = _ask(worker, {"work": work, "batch": batch, "length": length})
        if "error" in answer:  # as where a GPU's memory does not suffice: said, and left out
            return
        if repeat >= first:
            yield answer


def _ask(worker: subprocess.Popen[str], command: dict[str, Any]) -> dict[str, Any]:
    assert worker.stdin and worker.stdout
    line = ""
    with suppress(BrokenPipeError):  # to one that has died already
        worker.stdin.write(json.dumps(command) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    answer: dict[str, Any] = json.loads(line or "{}")
    if not line:  # as the system ends a process for which there is no memory
        peer, status = cast(list[str], worker.args)[-1], worker.wait()
        answer["error"] = f"{peer} stopped (status {status}); what it said stands above"
    if "error" in answer:
        print(f"left out: {answer['error']}", file=sys.stderr)
    return answer


def _process(code: str, threads: int) -> tuple[float, str]:
    """Seconds that a new Python takes to run `code`, and what it prints."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env=_environment(threads), stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - start, done.stdout.decode()


def why_torch_sees_no_gpu() -> str:
    """Why transformers cannot be measured on the GPU, in words; nothing if it can. Asked before minutes are spent."""
    code = "import torch; print(torch.cuda.is_available(), torch.version.cuda, torch.__version__)"
    try:
        sees, cuda, version = _process(code, 1)[1].split()
    except subprocess.CalledProcessError:
        return "torch cannot be imported, as it says above: transformers is left out."
    if sees == "True":
        return ""
    its = "is made for the CPU alone" if cuda == "None" else f"is for CUDA {cuda}, which this driver does not run"
    return (
        f"transformers is left out, for torch {version} {its}. To compare with it, pip install --force-reinstall "
        f"torch=={version.partition('+')[0]} --index-url https://download.pytorch.org/whl/cu130, or another of "
        "pytorch.org's, for the driver's CUDA."
    )


def processes(name: str, peers: Sequence[str], repeats: int, threads: int) -> list[Figure]:
    """From the start of the process until its code has run; for importing with Python's own start taken off."""
    figures = {peer: Figure(name, peer, "s", []) for peer in peers if peer in CODES[name]}
    for repeat in range(repeats + 1):
        bare = _process("pass", threads)[0] if name == "import" else 0.0
        for peer, figure in figures.items():
            seconds = _process(CODES[name][peer], threads)[0] - bare
            if repeat:
                figure.values.append(seconds)
    return list(figures.values())


def load_memory(repeats: int, threads: int) -> Figure:
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
    return Figure("load", "minibloom", "x memory of parameters", values)


def generation(name: str, repeats: int, threads: int) -> Figure:
    """What generation takes beside its forward passes; or how many passes looking up what was there saves."""
    if name == "lookup":
        call, unit = "[lookup_passes()]", "x fewer passes"  # a count, the same each time
    else:
        shape, batch, do_sample = OVERHEADS[name]
        call, unit = f"overheads({SHAPES[shape]}, {batch}, {do_sample}, {repeats})", "of the passes' time"
    code = f"from minibloom.bench_generation import *; print({call})"
    return Figure(name, "minibloom", unit, json.loads(_process(code, threads)[1]))


def table(figures: Sequence[Figure]) -> str:
    """A row for each figure; contestants on the same work are compared with transformers in the same precision."""
    reference = {(f.work, f.peer): f.median for f in figures}
    rows = [("work", "contestant", "median", "lowest to highest", "against transformers", "memory", "of the limit")]
    for f in figures:
        ratio = reference.get((f.work, partner(f.peer)))
        rows.append((
            f.work,
            f.peer,
            f"{f.median:.4g} {f.unit}",
            f"{min(f.values):.4g} to {max(f.values):.4g}",
            f"{ratio / f.median:.2f}x as fast" if ratio and f.peer != partner(f.peer) else "",
            f"{f.memory_above / 1e6:,.0f} MB" if f.memory_above is not None else "",
            f"{f.share:.0%} of {f.limit}" if f.share else "",
        ))  # fmt: skip
    return columns(rows)
