"""Redraws every picture that README shows, from the shipped model, its training record and the bench's last report.

python figures/draw.py [FOLDER]         # here, or into a folder; needs Matplotlib
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from minibloom import BloomForCausalLM, BloomTokenizerFast, plots
from minibloom.files import SHIPPED
from minibloom.layers.alibi import alibi_slopes

HERE = Path(__file__).parent


def attention() -> Any:
    """The heads of the first block over the start of Article 1, steepest ALiBi slope first."""
    model, tokenizer = BloomForCausalLM.from_pretrained(), BloomTokenizerFast.from_pretrained()
    ids = tokenizer("All human beings are born free and equal in dignity")["input_ids"]
    weights = model([ids], output_attentions=True).attentions[0][0]  # [H, T, T]
    figure = plots.attention(weights, plots.labels(tokenizer, ids))
    for head, slope in enumerate(alibi_slopes(len(weights), np)):
        figure.axes[head].set_title(f"head {head}, slope 1/{round(1 / float(slope))}")
    return figure


def loss() -> Any:
    """How the shipped model learnt: the loss on what it was trained on, and on what was held out."""
    record = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))[0]["curve"]  # of the first run
    return plots.losses(
        {
            "trained on": [(p["step"], p["loss"]) for p in record],
            "held out": [(p["step"], p["validation_loss"]) for p in record if "validation_loss" in p],
        }
    )


def bench() -> Any:
    """How many times as fast as transformers each contestant is, by what `minibloom bench --json` has written."""
    report = json.loads((HERE / "bench.json").read_text(encoding="utf-8"))
    by_work: dict[str, dict[str, float]] = {}
    for figure in report["figures"]:
        by_work.setdefault(figure["work"], {})[figure["peer"]] = figure["median"]
    works = [work for work, peers in by_work.items() if {"minibloom", "transformers"} <= peers.keys()]
    works = [work for work in works if work != "import"]  # 30 times and more: it would hide the others
    peers = [
        peer for peer in ("minibloom", "CTranslate2", "CTranslate2 int8") if any(peer in by_work[w] for w in works)
    ]
    fig, ax = plots.figure(8.2, 0.5 + 0.17 * len(works) * len(peers))
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        places = [(row, by_work[work]) for row, work in enumerate(works) if peer in by_work[work]]
        values = [times["transformers"] / times[peer] for _, times in places]
        bars = ax.barh([row + i * height for row, _ in places], values, height, label=peer)
        ax.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    ax.axvline(1, color=plots.THEMES["light"][0], linewidth=0.8)
    ax.set_yticks([row + 0.4 - height / 2 for row in range(len(works))], works)
    ax.invert_yaxis()
    ax.set_xlabel("times as fast as transformers")
    fig.legend(loc="outside upper center", ncols=len(peers))
    return fig


PICTURES = {"attention": attention, "loss": loss, "bench": bench}


def draw(folder: Path) -> None:
    """Write every picture into `folder`."""
    for name, picture in PICTURES.items():
        with plots.style():
            picture().savefig(folder / f"{name}.png", dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
