"""One contestant of `minibloom bench`, in a process of its own: `python -m minibloom.bench_worker PEER`.

It reads one JSON command a line and answers each with one JSON line, so that the parent can let several
contestants work in turns. Every peer runs the same shape with random weights and the same number of threads.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy

from . import backend as backends
from .memory import free_and_total

STEPS = 32  # tokens that are decoded in one measurement. With 8, CTranslate2's time for a token, a difference of two
# runs, came out as anything from below zero to twice its median
NEW = 32  # tokens that are generated in one measurement
SHORT, LONG = 8, 72  # tokens that are generated on a GPU, to know what those between them take


def memory_peak() -> int:
    """The largest memory that this process has held, in bytes; on Linux, since `forget_peak`."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` there starts at what the parent process held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Let the peak start again from what is held now, where the system can."""
    with suppress(OSError):  # elsewhere the peak is that of the process so far, which is what `memory_peak` says
        Path("/proc/self/clear_refs").write_text("5")


def tokens(vocabulary: int, batch: int, length: int) -> numpy.ndarray:
    """Random ids `[batch, length]`, the same for every peer."""
    return numpy.random.default_rng(0).integers(4, vocabulary, (batch, length))


class Peer:
    """A library that runs one model, on the host or on a GPU (`backend="cupy"`). A measurement returns seconds."""

    gpu: Any = None  # what waits for it, on a GPU

    def wait(self) -> None:
        """Until all is computed: on the host, it is when a call returns."""

    def forget_peak(self) -> None:
        """Let the peak of memory start again."""
        forget_peak()

    def memory_peak(self) -> int:
        """The most memory that was held since, in bytes: the host's, or what was taken from the GPU's."""
        return memory_peak()

    def timed(self, work: Callable[[], Any]) -> float:
        """The seconds that `work()` takes, until all is computed."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def prefill(self, ids: numpy.ndarray) -> float:
        """One pass over `ids [B, S]`, keys and values kept, logits of the last position."""
        return self.timed(lambda: self.pass_over(ids, None))

    def decode(self, ids: numpy.ndarray) -> float:
        """One more token, with the keys and values of `ids` kept: by passes, and on a GPU by the library's own loop.

        There a pass that is called by itself says little: a library may join all that a token takes into one launch,
        and it is how it generates that a user waits for. So it generates twice, greedily, `SHORT` tokens and `LONG`,
        and a token's time is the difference of both over that of their numbers: the prompt, and what is set up once,
        are in both and count for nothing, while choosing a token and handing it over count.
        """
        if self.gpu:
            short = self.timed(lambda: self.go_on(ids, SHORT))
            return (self.timed(lambda: self.go_on(ids, LONG)) - short) / (LONG - SHORT)
        cache, one = self.pass_over(ids, None), ids[:, :1]
        cache = self.pass_over(one, cache)  # the first step may move the cache to a larger place

        def steps() -> None:
            past = cache
            for _ in range(STEPS):
                past = self.pass_over(one, past)

        return self.timed(steps) / STEPS

    def train(self, ids: numpy.ndarray) -> float:
        """Forward and backward, a gradient for each parameter."""
        return self.timed(lambda: self.gradients(ids))

    def generate(self, ids: numpy.ndarray) -> float:
        """`NEW` tokens behind each row, greedily, by the library's own loop."""
        return self.timed(lambda: self.go_on(ids, NEW))

    def pass_over(self, ids: numpy.ndarray, cache: Any) -> Any:
        """A pass over `ids` behind `cache`, which it returns, extended."""
        raise TypeError(f"{type(self).__name__} has no pass to measure.")

    def gradients(self, ids: numpy.ndarray) -> None:
        """Every gradient of the loss of `ids`."""
        raise TypeError(f"{type(self).__name__} does not train.")

    def go_on(self, ids: numpy.ndarray, count: int) -> None:
        """`count` tokens behind each row, greedily."""
        raise TypeError(f"{type(self).__name__} does not generate.")


class Minibloom(Peer):
    """This library."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str) -> None:
        from .config import BloomConfig
        from .layers import compiled_blocks, compiled_steps
        from .models import BloomForCausalLM

        for dtype in ("float32", "int8"):  # what a library consists of is in memory before its work is measured: Numba
            compiled_blocks.machine_code(dtype)  # as torch
        compiled_steps.machine_code()
        self.model = BloomForCausalLM(BloomConfig(**config), backend=backend)
        self.gpu = None if backend == "numpy" else self.model.xp

    def wait(self) -> None:
        if self.gpu:
            self.gpu.cuda.runtime.deviceSynchronize()

    def forget_peak(self) -> None:
        if self.gpu:
            self.gpu.get_default_memory_pool().free_all_blocks()
        else:
            super().forget_peak()

    def memory_peak(self) -> int:
        return self.gpu.get_default_memory_pool().total_bytes() if self.gpu else super().memory_peak()

    def pass_over(self, ids: numpy.ndarray, cache: Any) -> Any:
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    def gradients(self, ids: numpy.ndarray) -> None:
        self.model.value_and_grad(ids, labels=ids, output_logits=False)

    def go_on(self, ids: numpy.ndarray, count: int) -> None:
        self.model.generate(ids, max_new_tokens=count, eos_token_id=[])


class MinibloomSmall(Minibloom):
    """This library, its matrices in int8 with a scale for each row, or in 16 bits."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str, kind: str) -> None:
        super().__init__(config, threads, backend)
        self.kind = kind
        for name, array in self.model.params.items():
            if array.ndim == 2:
                self.model.params[name] = self.small(backends.to_numpy(array))

    def small(self, matrix: numpy.ndarray) -> Any:
        """The small weight nearest to `matrix`."""
        from .layers.small_weights import BFloat16Weight, Float16Weight, Int8Weight, row_scales, to_bfloat16, to_int8

        if self.kind == "int8":
            scales = row_scales(matrix)
            return Int8Weight(to_int8(matrix, scales), scales)
        move = self.model.xp.asarray
        if self.kind == "bfloat16":
            return BFloat16Weight(move(to_bfloat16(matrix)))
        return Float16Weight(move(matrix.astype("float16")))

    def gradients(self, ids: numpy.ndarray) -> None:
        raise TypeError(f"{self.kind} weights are not trained.")


class Transformers(Peer):
    """transformers in eager mode: what minibloom explains."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str, dtype: str = "float32") -> None:
        import torch
        from transformers import BloomConfig, BloomForCausalLM

        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.gpu = torch.cuda if backend == "cupy" else None
        self.place = "cuda" if self.gpu else "cpu"
        model: Any = BloomForCausalLM(BloomConfig(**config))
        self.model: Any = model.to(self.place, getattr(torch, dtype))  # an error where torch sees no GPU
        self.model.generation_config.eos_token_id = None  # nothing ends a row
        self.model.eval()

    def wait(self) -> None:
        if self.gpu:
            self.gpu.synchronize()

    def forget_peak(self) -> None:
        if self.gpu:
            self.gpu.empty_cache()
            self.gpu.reset_peak_memory_stats()
        else:
            super().forget_peak()

    def memory_peak(self) -> int:
        return self.gpu.max_memory_reserved() if self.gpu else super().memory_peak()

    def pass_over(self, ids: numpy.ndarray, cache: Any) -> Any:
        with self.torch.inference_mode():
            return self.model(
                self.torch.tensor(ids, device=self.place), past_key_values=cache, use_cache=True, logits_to_keep=1
            ).past_key_values

    def gradients(self, ids: numpy.ndarray) -> None:
        if self.model.dtype != self.torch.float32:
            raise TypeError("training is measured in float32 alone, as minibloom trains in it.")
        rows = self.torch.tensor(ids, device=self.place)
        self.model(rows, labels=rows, use_cache=False).loss.backward()
        self.model.zero_grad()

    def go_on(self, ids: numpy.ndarray, count: int) -> None:
        rows = self.torch.tensor(ids, device=self.place)
        options = {"attention_mask": self.torch.ones_like(rows), "do_sample": False, "pad_token_id": 3}
        self.model.generate(rows, max_new_tokens=count, **options)


class TransformersCompiled(Transformers):
    """transformers with its forward pass compiled by torch; needs a C++ compiler."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str) -> None:
        super().__init__(config, threads, backend)
        self.model.forward = self.torch.compile(self.model.forward, dynamic=True)


class CTranslate2(Peer):
    """CTranslate2's engine in C++, from a checkpoint that transformers writes. It generates, and does not train."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str, kind: str = "float32") -> None:
        import ctranslate2
        from transformers import BloomConfig, BloomForCausalLM

        from .files import SHIPPED

        with tempfile.TemporaryDirectory() as folder:
            BloomForCausalLM(BloomConfig(**config)).save_pretrained(folder)
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                shutil.copy(SHIPPED / name, folder)  # the converter asks for one; ids past its end get names
            converter = ctranslate2.converters.TransformersConverter(folder)
            path = converter.convert(os.path.join(folder, "ct2"), quantization=kind)
            self.engine: Any = ctranslate2.Generator(path, compute_type=kind, intra_threads=threads)
            self.names = json.loads(Path(path, "vocabulary.json").read_text())

    def prefill(self, ids: numpy.ndarray) -> float:
        return self._generate(ids, 1)

    def decode(self, ids: numpy.ndarray) -> float:
        return (self._generate(ids, 1 + STEPS) - self._generate(ids, 1)) / STEPS

    def generate(self, ids: numpy.ndarray) -> float:
        return self._generate(ids, NEW)

    def _generate(self, ids: numpy.ndarray, count: int) -> float:
        prompts = [[self.names[i] for i in row] for row in ids]
        options = {"min_length": count, "max_length": count, "sampling_topk": 1, "end_token": []}
        return self.timed(lambda: self.engine.generate_batch(prompts, include_prompt_in_result=False, **options))


class Limits(Peer):
    """No library but the machine: how fast it multiplies, and how fast it reads; and products with nothing between."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str) -> None:
        rng = self.rng = numpy.random.default_rng(0)
        E = config["hidden_size"]
        self.a, self.b = rng.random((512, E), dtype="float32"), rng.random((4 * E, E), dtype="float32")
        shapes = [*[(3 * E, E), (E, E), (4 * E, E), (E, 4 * E)] * config["n_layer"], (config["vocab_size"], E)]
        self.matrices = [rng.random(shape, dtype="float32") for shape in shapes]  # that of the head is the last
        size = sum(matrix.size for matrix in self.matrices)  # of a small model's weights a cache may hold some
        self.read_from = numpy.ones(max(1, min(size, 2**27) // 4096) * 4096, dtype="float32")  # 0.5 GB at most

    def gemm(self, ids: numpy.ndarray) -> float:
        """Seconds a multiplication and addition, of the product that most of prefill consists of."""
        from .threads import matmul, shared_out

        with shared_out():
            matmul(self.a, self.b.T)
            start = time.perf_counter()
            for _ in range(8):
                matmul(self.a, self.b.T)
            return (time.perf_counter() - start) / (8 * self.a.size * len(self.b))

    def read(self, ids: numpy.ndarray) -> float:
        """Seconds a byte, read by all threads, in the faster of two ways: which it is differs between processors."""
        from .threads import blas_on_all_cores, each, shared_out

        def one_stream_each() -> None:
            each(lambda part: float(numpy.dot(part, part)), numpy.array_split(self.read_from, 64))

        def rows_side_by_side() -> None:
            with blas_on_all_cores():
                self.read_from.reshape(-1, 4096) @ self.read_from[:4096]

        with shared_out():
            seconds = [self.timed(way) for way in (one_stream_each, rows_side_by_side) for _ in range(2)]
        return min(seconds) / self.read_from.nbytes  # the second time, as a token follows another

    def products_prefill(self, ids: numpy.ndarray) -> float:
        """Seconds that minibloom's products with weights take in a pass, by themselves."""
        return self._products(ids.size, len(ids))

    def products_decode(self, ids: numpy.ndarray) -> float:
        """The same for one more token a row."""
        return sum(self._products(len(ids), len(ids)) for _ in range(STEPS)) / STEPS

    def products_decode_int8(self, ids: numpy.ndarray) -> float:
        """The same with weights in int8, which are widened while they are used."""
        return sum(self._products(len(ids), len(ids), self.int8) for _ in range(STEPS)) / STEPS

    def products_generate(self, ids: numpy.ndarray) -> float:
        """The same for `NEW` tokens behind each row."""
        return self.products_prefill(ids) + (NEW - 1) * self.products_decode(ids)

    def products_train(self, ids: numpy.ndarray) -> float:
        """The same forward and backward."""
        return self._products(ids.size, ids.size, backward=True)

    @cached_property
    def int8(self) -> list[Any]:
        """`matrices` in int8; which numbers they are makes no difference to the time."""
        from .layers.small_weights import Int8Weight

        ones = numpy.ones(max(map(len, self.matrices)), "float32")
        return [
            Int8Weight(self.rng.integers(-127, 128, matrix.shape, "int8"), ones[: len(matrix)])
            for matrix in self.matrices
        ]

    def _products(self, rows: int, logits: int, matrices: Any = None, backward: bool = False) -> float:
        """Of `rows` tokens, `logits` of which go through the head, with `matrices`, or with all in float32."""
        from .chunked_loss import FEWEST
        from .layers.linear import linear_backward, product
        from .threads import shared_out

        *weights, head = matrices or self.matrices
        E = head.shape[1]
        x = {width: self.rng.random((rows, width), dtype="float32") for width in (E, 4 * E)}
        with shared_out():
            start = time.perf_counter()
            for weight in weights:
                y = product(x[weight.shape[1]], weight)
                if backward:
                    linear_backward(y, x[weight.shape[1]], weight)
            for piece in numpy.array_split(x[E][:logits], -(-logits // FEWEST)):  # as in chunked_loss.py
                y = product(piece, head)
                if backward:
                    linear_backward(y, piece, head)
            return time.perf_counter() - start


class LimitsOfGPU(Peer):
    """No library but the GPU: how fast it multiplies in each precision, and how fast it reads or copies."""

    def __init__(self, config: dict[str, Any], threads: int, backend: str) -> None:
        self.xp, E = backends.load(backend), config["hidden_size"]
        rng = numpy.random.default_rng(0)
        self.a, self.b = (self.xp.asarray(rng.random((rows, E), dtype="float32")) for rows in (8192, 4 * E))
        free, _ = free_and_total(self.xp)
        self.large = self.xp.ones(min(2**28, free // 64), dtype="float32")  # 1 GB, where it fits: no cache holds it

    def wait(self) -> None:
        self.xp.cuda.runtime.deviceSynchronize()

    def gemm(self, ids: numpy.ndarray) -> float:
        """Seconds a multiplication and addition, in a product of the model's width with rows enough for all units.

        In float32 itself: neither CuPy nor torch shortens it to TF32 unless it is told to.
        """
        return self._product(self.a, self.b)

    def gemm_float16(self, ids: numpy.ndarray) -> float:
        """The same in float16, summed in float32."""
        return self._product(self.a.astype("float16"), self.b.astype("float16"))

    def gemm_bfloat16(self, ids: numpy.ndarray) -> float:
        """The same in bfloat16, summed in float32."""
        from .layers.tensor_cores import bfloat16

        return self._product(self.a.astype(bfloat16()), self.b.astype(bfloat16()))

    def _product(self, a: backends.Array, b: backends.Array) -> float:
        return self.timed(lambda: [a @ b.T for _ in range(32)]) / (32 * a.size * len(b))

    def read(self, ids: numpy.ndarray) -> float:
        """Seconds a byte: of a sum, which reads, or of a copy, which reads and writes, whichever is faster."""
        added = self.timed(lambda: [self.large.sum() for _ in range(8)]) / (8 * self.large.nbytes)
        return min(added, self.timed(lambda: [self.large.copy() for _ in range(4)]) / (4 * 2 * self.large.nbytes))


PEERS: dict[str, Callable[[dict[str, Any], int, str], Any]] = {
    "minibloom": Minibloom,
    **{f"minibloom {kind}": partial(MinibloomSmall, kind=kind) for kind in ("int8", "float16", "bfloat16")},
    "transformers": Transformers,
    **{f"transformers {kind}": partial(Transformers, dtype=kind) for kind in ("float16", "bfloat16")},
    "transformers compiled": TransformersCompiled,
    "CTranslate2": CTranslate2,
    "CTranslate2 int8": partial(CTranslate2, kind="int8"),
    "machine": lambda config, threads, backend: (LimitsOfGPU if backend == "cupy" else Limits)(
        config, threads, backend
    ),
}


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    try:
        peer = PEERS[sys.argv[1]](setup["config"], setup["threads"], setup["backend"])
    except Exception as error:  # of a library that is not ours: the others go on without it
        print(
            json.dumps({"error": f"{sys.argv[1]}: {type(error).__name__} {str(error)[:200]}"}), file=answers, flush=True
        )
        return
    vocabulary = setup["config"]["vocab_size"]
    peer.forget_peak()
    ready = peer.memory_peak()
    print(json.dumps({"ready": ready}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        ids = tokens(vocabulary, command["batch"], command["length"])
        peer.forget_peak()
        try:
            seconds = getattr(peer, command["work"])(ids)
            answer = {"seconds": seconds, "memory_above": peer.memory_peak() - ready}
        except Exception as error:
            answer = {"error": f"{sys.argv[1]}, {command['work']}: {type(error).__name__} {str(error)[:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
