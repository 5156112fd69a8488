"""One contestant of `minibloom bench`, in a process of its own: `python -m minibloom.bench_worker PEER`.

It reads one JSON command a line and answers each with one JSON line, so that the parent can let several
contestants work in turns. Every peer runs the same shape with random weights and the same number of threads.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy


def memory_peak() -> int:
    """The largest memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: `ru_maxrss` there starts at what the parent process held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def tokens(vocabulary: int, batch: int, length: int) -> numpy.ndarray:
    """Random ids `[batch, length]`, the same for every peer."""
    return numpy.random.default_rng(0).integers(0, vocabulary, (batch, length))


class Minibloom:
    """This library."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        from .config import BloomConfig
        from .models import BloomForCausalLM

        self.model = BloomForCausalLM(BloomConfig(**config))

    def prefill(self, ids: numpy.ndarray) -> Any:
        return self.model(ids, use_cache=True, logits_to_keep=1).past_key_values

    def decode(self, ids: numpy.ndarray, cache: Any) -> Any:
        return self.model(ids, past_key_values=cache, use_cache=True).past_key_values

    def train(self, ids: numpy.ndarray) -> None:
        self.model.value_and_grad(ids, labels=ids)

    def generate(self, ids: numpy.ndarray) -> None:
        self.model.generate(ids, max_new_tokens=NEW, eos_token_id=[])


class Transformers:
    """transformers in eager mode: what minibloom explains."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        import torch
        from transformers import BloomConfig, BloomForCausalLM

        torch.set_num_threads(threads)
        self.torch: Any = torch
        self.model: Any = BloomForCausalLM(BloomConfig(**config))
        self.model.generation_config.eos_token_id = None  # nothing ends a row
        self.model.eval()  # type: ignore[no-untyped-call]

    def prefill(self, ids: numpy.ndarray) -> Any:
        with self.torch.inference_mode():
            return self.model(self.torch.tensor(ids), use_cache=True, logits_to_keep=1).past_key_values

    def decode(self, ids: numpy.ndarray, cache: Any) -> Any:
        with self.torch.inference_mode():
            return self.model(self.torch.tensor(ids), past_key_values=cache, use_cache=True).past_key_values

    def train(self, ids: numpy.ndarray) -> None:
        rows = self.torch.tensor(ids)
        self.model(rows, labels=rows, use_cache=False).loss.backward()
        self.model.zero_grad()

    def generate(self, ids: numpy.ndarray) -> None:
        rows = self.torch.tensor(ids)
        options = {"attention_mask": self.torch.ones_like(rows), "do_sample": False, "pad_token_id": 3}
        self.model.generate(rows, max_new_tokens=NEW, **options)


PEERS: dict[str, Callable[[dict[str, Any], int], Any]] = {"minibloom": Minibloom, "transformers": Transformers}
NEW = 32  # tokens that are generated in one measurement
STEPS = 8  # tokens that are decoded in one measurement


def measure(peer: Any, vocabulary: int, work: str, batch: int, length: int) -> float:
    """Seconds of one prefill or one training step over `[batch, length]`, or of one decoding step after it."""
    ids = tokens(vocabulary, batch, length)
    if work == "decode":
        cache, one = peer.prefill(ids), ids[:, :1]
        cache = peer.decode(one, cache)  # the first step may move the cache to a larger place
        start = time.perf_counter()
        for _ in range(STEPS):
            cache = peer.decode(one, cache)
        return (time.perf_counter() - start) / STEPS
    start = time.perf_counter()
    getattr(peer, work)(ids)
    return time.perf_counter() - start


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    peer = PEERS[sys.argv[1]](setup["config"], setup["threads"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds = measure(peer, setup["config"]["vocab_size"], **json.loads(line))
        print(json.dumps({"seconds": seconds, "memory_peak": memory_peak()}), flush=True)


if __name__ == "__main__":
    main()
