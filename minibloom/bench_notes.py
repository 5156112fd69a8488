"""Notes on what `minibloom bench` measured: where a target is missed, and what this machine's limits leave.

No product is done faster than the machine multiplies, and no weight used faster than it is read. If transformers
reaches the share s of that limit, nothing that does the same products in the same precision is more than 1 / s times
as fast: a target above that cannot be met on this machine. All of it is reckoned from the figures of one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .bench_cost import HALVES, precision

TARGETS = {  # work -> times as fast as transformers; see README
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
}
TRIED = {  # kind of work -> the files whose heads say what was tried, with figures
    "prefill": "threads.py, layers/tiled_attention.py",
    "decode": "layers/one_row.py, layers/few_rows.py, layers/one_token.py, layers/row_blocks.py",
    "generate": "layers/one_row.py, layers/few_rows.py, layers/one_token.py",
    "train": "threads.py, layers/tiled_attention.py, chunked_loss.py",
}


TARGETS_ON_A_GPU = {
    "prefill-2048": 1.0,
    "decode-128": 5.0,
    "decode-1024": 5.0,
    "decode-32x128": 3.0,
    "train-8x512": 1.0,
}
SHARES_ON_A_GPU = {"decode-128": 0.5, "decode-1024": 0.5}  # work -> of the limit


def partner(peer: str) -> str:
    """The contestant that `peer` is compared with: transformers, where both may have 16 bits in the same 16 bits."""
    return f"transformers {precision(peer)}" if precision(peer) in HALVES else "transformers"


def notes(figures: Sequence[Any], on_gpu: bool = False) -> list[str]:
    """A note for each target that `figures` (of `bench.Figure`) miss."""
    found = {(f.work, f.peer): f for f in figures}
    lines = []
    for work, target in (TARGETS_ON_A_GPU if on_gpu else TARGETS).items():
        for peer in ("minibloom", *(f"minibloom {kind}" for kind in HALVES)):
            ours, theirs = found.get((work, peer)), found.get((work, partner(peer)))
            if ours is None or theirs is None or theirs.median / ours.median >= target:
                continue
            line = f"{work}: {target:g}x as fast as {partner(peer)} is wanted"
            line += f", {theirs.median / ours.median:.2f}x was measured"
            if theirs.share:
                most = 1 / theirs.share
                line += f". {partner(peer)} reaches {theirs.share:.0%} of what this machine can do in {theirs.limit}"
                line += f", {peer} {ours.share:.0%}" if ours.share else ""
                line += f": at most {most:.2f}x is possible"
                line += ", so the target is out of reach" if most < target else ""
            if not on_gpu:
                tried = next(files for kind, files in TRIED.items() if kind in work)
                line += f". What was tried stands at the head of {tried}"
            lines.append(f"{line}.")
    for work, share in SHARES_ON_A_GPU.items() if on_gpu else ():
        for peer in ("minibloom", *(f"minibloom {kind}" for kind in HALVES)):
            ours = found.get((work, peer))
            if ours is not None and ours.share and ours.share < share:
                wanted = f"{share:.0%} of what this machine can do in {ours.limit} is wanted"
                lines.append(f"{work}: {wanted}, {peer} reaches {ours.share:.0%}.")
    return lines
