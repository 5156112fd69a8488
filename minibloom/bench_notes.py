"""Notes on what `minibloom bench` measured: where a target is missed, and what this machine's limits leave.

No product is done faster than the machine multiplies, and no weight used faster than it is read. If another library
reaches the share s of that limit, nothing that does the same products in the same precision is more than 1 / s times
as fast: a target above that cannot be met on this machine. A closer limit is what minibloom's products with weights
take by themselves, one after another, with nothing between. All of it is reckoned from the figures of one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .bench_cost import precision
from .precision import HALVES

Pair = tuple[str, str]  # a contestant, and the one that it is compared with

TARGETS: dict[Pair, dict[str, float]] = {  # work -> how many times as fast as the other
    ("minibloom", "transformers"): {
        "prefill-512": 1.8,
        "prefill-2048": 3.0,
        "prefill-4096": 5.0,
        "decode-128": 2.5,
        "decode-1024": 2.5,
        "decode-8x128": 2.0,
        "small-decode-128": 4.0,
        "small-train-8x256": 1.8,
        "generate": 2.0,
        "generate-8": 2.0,
        "small-generate": 3.0,
        "small-generate-8": 3.0,
        "import": 10.0,
        "first-token": 10.0,
    },
    ("minibloom", "CTranslate2"): {
        "prefill-512": 1.0,
        "prefill-2048": 1.0,
        "prefill-4096": 1.2,
        "decode-128": 1.0,
        "decode-1024": 1.0,
        "decode-8x128": 0.9,
    },
    ("minibloom int8", "minibloom"): {"decode-128": 1.3},
    ("minibloom int8", "CTranslate2 int8"): {"decode-128": 1.0},
}
SHARES = {"prefill-512": 0.75, "decode-128": 0.85, "decode-1024": 0.85}  # work -> of the limit
MEMORY = {"prefill-4096": 1 / 4, "small-train-8x256": 1 / 2, "train-1x512": 1 / 3}  # work -> of transformers'
MOST = {  # work -> figure
    "first-token": 1.0,
    "overhead": 0.05,
    "small-overhead": 0.05,
    "small-overhead-8": 0.05,
    "small-overhead-sampling": 0.05,
}
LOOKUP = 2.0  # times fewer passes
GROWTH = 2.4  # times as long, at most, for 16,384 tokens as for 8,192

TRIED = {  # kind of work -> the files whose heads say what was tried, with figures
    "prefill": "threads.py, layers/compiled_steps.py, layers/tiled_attention.py, layers/subnormals.py",
    "decode": "layers/one_row.py, layers/few_rows.py, layers/one_token.py, layers/row_blocks.py, "
    "compiled_tile.py, layers/compiled_rows.py, layers/compiled_blocks.py",
    "generate": "layers/one_row.py, layers/few_rows.py, layers/one_token.py, compiled_tile.py, "
    "layers/compiled_blocks.py, generation/ahead.py",
    "train": "threads.py, buffers.py, layers/compiled_steps.py, layers/tiled_attention.py, layers/subnormals.py, "
    "chunked_loss.py",
    "overhead": "generation/ahead.py, generation/top_k.py, generation/compiled_draw.py",
}

TARGETS_ON_A_GPU: dict[Pair, dict[str, float]] = {
    (f"minibloom{kind}", f"transformers{kind}"): {
        "prefill-2048": 1.0,
        "decode-128": 5.0,
        "decode-1024": 5.0,
        "decode-32x128": 3.0,
        "train-8x512": 1.0,
    }
    for kind in ("", *(f" {half}" for half in HALVES))
}
SHARES_ON_A_GPU = {"decode-128": 0.5, "decode-1024": 0.5}


def partner(peer: str) -> str:
    """The contestant that `peer` is compared with: transformers, where both may have 16 bits in the same 16 bits."""
    return f"transformers {precision(peer)}" if precision(peer) in HALVES else "transformers"


def notes(figures: Sequence[Any], on_gpu: bool = False) -> list[str]:
    """A note for each target that `figures` (of `bench.Figure`) miss."""
    found = {(f.work, f.peer): f for f in figures}
    lines = [*_slower(found, on_gpu), *_far_from_the_limit(found, on_gpu)]
    return lines if on_gpu else [*lines, *_larger(found)]


def _slower(found: dict[Pair, Any], on_gpu: bool) -> Iterator[str]:
    """Where a contestant is not as many times as fast as another as is wanted."""
    for (peer, other), works in (TARGETS_ON_A_GPU if on_gpu else TARGETS).items():
        for work, wanted in works.items():
            ours, theirs = found.get((work, peer)), found.get((work, other))
            if ours is None or theirs is None or theirs.median / ours.median >= wanted:
                continue
            line = f"{work}: {peer} is to be {wanted:g}x as fast as {other}"
            line += f", {theirs.median / ours.median:.2f}x was measured"
            if theirs.share and precision(peer) == precision(other):
                most = 1 / theirs.share
                line += f". {other} reaches {theirs.share:.0%} of what this machine can do in {theirs.limit}"
                line += f", {peer} {ours.share:.0%}" if ours.share else ""
                line += f": at most {most:.2f}x is possible"
                line += ", so the target is out of reach" if most < wanted else ""
            if ours.products:
                line += f". Its products with weights take {ours.products / ours.median:.0%} of its time: with nothing "
                line += f"between them it would be {theirs.median / ours.products:.2f}x as fast"
            yield f"{line}.{'' if on_gpu else _tried(work)}"


def _far_from_the_limit(found: dict[Pair, Any], on_gpu: bool) -> Iterator[str]:
    """Where minibloom reaches less of what the machine can do than is wanted."""
    for work, share in (SHARES_ON_A_GPU if on_gpu else SHARES).items():
        for peer in ("minibloom", *(f"minibloom {kind}" for kind in HALVES if on_gpu)):
            ours = found.get((work, peer))
            if ours is not None and ours.share and ours.share < share:
                line = f"{work}: {share:.0%} of what this machine can do in {ours.limit} is wanted"
                line += f", {peer} reaches {ours.share:.0%}"
                if ours.products:
                    line += f"; its products with weights alone {ours.share * ours.median / ours.products:.0%}"
                yield f"{line}."


def _larger(found: dict[Pair, Any]) -> Iterator[str]:
    """Where minibloom takes more memory, time or passes than is wanted."""
    for work, share in MEMORY.items():
        ours, theirs = found.get((work, "minibloom")), found.get((work, "transformers"))
        if ours is not None and theirs is not None and ours.memory_above is not None:
            measured = (ours.memory_above - ours.gradients) / (theirs.memory_above - theirs.gradients)
            if measured > share:
                beside = "weights and gradients" if ours.gradients else "the weights"
                line = f"{work}: {share:.0%} of transformers' memory above {beside} is wanted"
                yield f"{line}, {measured:.0%} was measured."
    for work, most in MOST.items():
        ours = found.get((work, "minibloom"))
        if ours is not None and ours.median > most:
            yield f"{work}: {most:g} {ours.unit} at most is wanted, {ours.median:.2g} was measured.{_tried(work)}"
    lookup = found.get(("lookup", "minibloom"))
    if lookup is not None and lookup.median < LOOKUP:
        yield f"lookup: {LOOKUP:g} {lookup.unit} is wanted, {lookup.median:.2g} was measured."
    short, long = (found.get((f"prefill-{length}", "minibloom")) for length in (8192, 16384))
    if short is not None and long is not None and long.median / short.median >= GROWTH:
        yield (
            f"prefill-16384: less than {GROWTH:g} times as long as prefill-8192 is wanted, "
            f"{long.median / short.median:.2f} was measured."
        )


def _tried(work: str) -> str:
    files = next((files for kind, files in TRIED.items() if kind in work), None)
    return f" What was tried stands at the head of {files}." if files else ""
