"""Redraws every picture that README and lessons show, from the shipped model and its training record.

python figures/draw.py          # needs the extra `lessons`, for matplotlib
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.files import SHIPPED
from minibloom.layers.alibi import alibi_slopes

HERE = Path(__file__).parent
INK = "#3a3f4b"  # reads on white; the files have a white ground, so dark pages show them as a card
PEER_COLOURS = {"minibloom": "#0072b2", "CTranslate2": "#d55e00", "CTranslate2 int8": "#e69f00"}  # told apart by all
plt.rcParams |= {
    "font.size": 9,
    **dict.fromkeys(["axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"], INK),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right"], False),
    **{"savefig.facecolor": "white", "savefig.bbox": "tight", "savefig.dpi": 130},
}


def attention(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, block: int = 0) -> None:
    """The heads of one block over the start of Article 1, steepest ALiBi slope first."""
    ids = tokenizer("All human beings are born free and equal in dignity")["input_ids"]
    tokens = [tokenizer.decode([i]).replace(" ", "·") for i in ids]
    weights = model([ids], output_attentions=True).attentions[block][0]  # [H, T, T]
    slopes = alibi_slopes(len(weights), np)
    fig, axes = plt.subplots(2, 4, figsize=(9.4, 5.2), sharex=True, sharey=True, layout="constrained")
    for head, (ax, w) in enumerate(zip(axes.flat, weights, strict=True)):
        shown = np.where(np.tril(np.ones_like(w)), w, np.nan)
        image = ax.imshow(shown, cmap="cividis", vmin=0, vmax=1)
        ax.set_title(f"head {head}, slope 1/{round(1 / float(slopes[head]))}", fontsize=9)
        ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=6.5)
        ax.set_yticks(range(len(tokens)), tokens, fontsize=6.5)
        ax.tick_params(length=0)
    fig.supylabel("the token that looks", fontsize=9)
    fig.supxlabel("the token that is looked at", fontsize=9)
    fig.colorbar(image, ax=axes, label="attention", shrink=0.7)
    fig.savefig(HERE / "attention.png")
    plt.close(fig)


def loss_curve() -> None:
    """How the shipped model learnt: the loss on what it was trained on, and on what was held out."""
    record = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))[0]["curve"]  # of the first run
    held_out = [(p["step"], p["validation_loss"]) for p in record if "validation_loss" in p]
    fig, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    ax.plot([p["step"] for p in record], [p["loss"] for p in record], color="#0072b2", label="trained on")
    ax.plot(*zip(*held_out, strict=True), color="#d55e00", marker="o", markersize=3, linestyle="--", label="held out")
    ax.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
    ax.legend(frameon=False)
    fig.savefig(HERE / "loss.png")
    plt.close(fig)


def bench() -> None:
    """How many times as fast as transformers each contestant is, by what `minibloom bench --json` has written."""
    report = json.loads((HERE / "bench.json").read_text(encoding="utf-8"))
    by_work: dict[str, dict[str, float]] = {}
    for figure in report["figures"]:
        by_work.setdefault(figure["work"], {})[figure["peer"]] = figure["median"]
    works = [work for work, peers in by_work.items() if {"minibloom", "transformers"} <= peers.keys()]
    works = [work for work in works if work != "import"]  # 30 times and more: it would hide the others
    peers = [peer for peer in PEER_COLOURS if any(peer in by_work[work] for work in works)]
    fig, ax = plt.subplots(figsize=(8.2, 0.5 + 0.17 * len(works) * len(peers)), layout="constrained")
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        places = [(row, by_work[work]) for row, work in enumerate(works) if peer in by_work[work]]
        values = [times["transformers"] / times[peer] for _, times in places]
        bars = ax.barh([row + i * height for row, _ in places], values, height, color=PEER_COLOURS[peer], label=peer)
        ax.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.set_yticks([row + 0.4 - height / 2 for row in range(len(works))], works)
    ax.invert_yaxis()
    ax.set_xlabel("times as fast as transformers")
    fig.legend(frameon=False, loc="outside upper center", ncols=len(peers))
    fig.savefig(HERE / "bench.png")
    plt.close(fig)


if __name__ == "__main__":
    model, tokenizer = BloomForCausalLM.from_pretrained(), BloomTokenizerFast.from_pretrained()
    attention(model, tokenizer)
    loss_curve()
    bench()
