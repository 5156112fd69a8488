"""What a pass has to move, and what it costs: tokens a second, and tokens for each byte moved.

The bytes are reckoned, by this formula, and not measured. A pass over `new` positions of each of B rows, behind `past`
others, moves at least

    the weights            12 E² of each of L blocks, and V E of the head, each read once
    keys and values        2 L E of each position and row: those of `past` are read, those of `new` are written

A number of a weight has as many bytes as it is kept in; one of keys and values 4 in minibloom, in transformers as many
as its weights. Left out is what is small beside that or may stay in a cache: activations, norms, biases, and the rows
of the embedding that are looked up. So tokens for each byte are an upper bound, which grows with what shares a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .bench_worker import LONG, SHORT, STEPS
from .display import columns

BATCHES = (1, 8, 32)
LENGTHS, LENGTHS_ON_A_GPU = (128, 1024), (128, 1024, 4096)
MOST = 8192  # tokens of a prompt on a CPU, where they take a minute
BYTES = {"int8": 1, "float16": 2, "bfloat16": 2}  # of a weight; of all others 4


def precision(peer: str) -> str:
    """What a contestant's weights are kept in, by its name."""
    last = peer.rpartition(" ")[2]
    return last if last in BYTES else "float32"


def parameters(c: Mapping[str, int]) -> int:
    """How many numbers a causal model of shape `c` has; its head is its embedding."""
    E, L = c["hidden_size"], c["n_layer"]
    return c["vocab_size"] * E + L * (12 * E * E + 13 * E) + 4 * E


def bytes_moved(peer: str, c: Mapping[str, int], batch: int, past: float, new: int) -> float:
    """The bytes that a pass of a model of shape `c` has to move; see above."""
    E, L, V = c["hidden_size"], c["n_layer"], c["vocab_size"]
    of_weight = BYTES.get(precision(peer), 4)
    of_key = of_weight if peer.startswith("transformers") else 4
    return of_weight * (12 * E * E * L + V * E) + of_key * 2 * L * E * batch * (past + new)


def keys_seen(length: int, on_gpu: bool) -> float:
    """How many keys a decoded token finds, in the mean of those that are timed; see `bench_worker.Peer.decode`."""
    return length + ((SHORT + LONG) if on_gpu else STEPS) / 2


def cells(on_gpu: bool) -> Iterator[tuple[str, int, int]]:
    """Work, batch and length of each measurement."""
    for work in ("prefill", "decode"):
        for length in LENGTHS_ON_A_GPU if on_gpu else LENGTHS:
            yield from ((work, batch, length) for batch in BATCHES if on_gpu or batch * length <= MOST)


def cost_table(figures: Sequence[Any]) -> str:
    """A row for each of `figures` (of `bench.Figure`)."""
    rows = [("pass", "contestant", "tokens a second", "lowest to highest", "tokens a GB moved")]
    for f in figures:
        spread = f"{min(f.values):.4g} to {max(f.values):.4g}"
        rows.append((f.work, f.peer, f"{f.median:.4g}", spread, f"{f.tokens_a_byte * 1e9:.4g}"))
    return columns(rows)
