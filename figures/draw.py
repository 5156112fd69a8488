"""Redraws every picture that README shows, from the shipped model, its training record and the bench's last report.

python figures/draw.py [FOLDER]         # here, or into a folder; needs Matplotlib
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from minibloom import BloomForCausalLM, BloomTokenizerFast, Trace, plots
from minibloom.files import SHIPPED
from minibloom.layers import tiled_attention
from minibloom.layers.alibi import alibi_bias, alibi_slopes
from minibloom.threads import shared_out

HERE = Path(__file__).parent
DEEPEST = "h.3.self_attention"  # of the shipped model's attentions


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
    works = [work for work in works if work not in ("import", "first-token")]  # 10x and more: they hide others
    peers = [
        peer
        for peer in ("minibloom", "minibloom int8", "CTranslate2", "CTranslate2 int8")
        if any(peer in by_work[w] for w in works)
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


def growth() -> Any:
    """Time and memory of a pass as one size doubles, and their powers, by what `bench --growth --json` has written."""
    figures = json.loads((HERE / "growth.json").read_text(encoding="utf-8"))["figures"]
    fig, axes = plots.figure(8.2, 4.6, 2, 4, sharey="row")
    for column, name in enumerate(dict.fromkeys(figure["work"].split()[0] for figure in figures)):
        points = [figure for figure in figures if figure["work"].startswith(f"{name} ")]
        x = np.array([int(figure["work"].split()[1]) for figure in points])
        for ax, values, unit, ticks in (
            (axes[0, column], [figure["median"] for figure in points], "seconds", [0.1, 0.2, 0.5, 1, 2]),
            (axes[1, column], [f["memory_above"] / 1e6 for f in points], "MB above the model", [20, 50, 100, 200, 500]),
        ):
            power, start = np.polyfit(np.log(x), np.log(values), 1)
            ax.plot(x, np.exp(start) * x**power, linewidth=0.8)
            ax.plot(x, values, "o", markersize=4)
            ax.set(xscale="log", yscale="log", xlabel=name, title=f"power {power:.2f}")
            ax.set_xticks(x, [f"{n:,}" for n in x], fontsize=7)
            ax.set_yticks(ticks, [f"{n:g}" for n in ticks])
            ax.minorticks_off()
            if column == 0:
                ax.set_ylabel(unit)
    return fig


def skipping() -> Any:
    """Of all pairs of query and key, the share that tiled attention computes: the rest is skipped, exactly."""
    model, tokenizer = BloomForCausalLM.from_pretrained(), BloomTokenizerFast.from_pretrained()
    starts = [
        "All human beings are",
        "Tous les êtres humains",
        "Todos los seres humanos",
        "人人生而自由",
        "सभी मनुष्यों को",
    ]
    texts = [model.generate([tokenizer(text)["input_ids"]], max_new_tokens=200)[0] for text in starts]
    ids = np.resize(np.concatenate(texts), 8192)
    trace = Trace(f"{DEEPEST}.query", f"{DEEPEST}.key")
    model([ids], use_cache=False, logits_to_keep=1, trace=trace)

    q, k = (trace[f"{DEEPEST}.{name}"] for name in ("query", "key"))  # [1, H, T, D]
    H, lengths = model.config.n_head, [256, 512, 1024, 2048, 4096, 8192]
    shares = np.array([computed(q[:, [h]], k[:, [h]], h, H, lengths) for h in range(H)])
    fig, ax = plots.figure(6, 3.2)
    heads = [f"{h}: 1/{2 ** (h + 1)}" for h in range(H)]
    image = plots.heatmap(ax, shares, heads, [f"{n:,}" for n in lengths], lowest=0, highest=1)
    for (h, n), share in np.ndenumerate(shares):
        ax.text(n, h, f"{share:.0%}", ha="center", va="center", fontsize=7, color="black" if share > 0.55 else "white")
    ax.set(xlabel="tokens", ylabel="head: slope")
    fig.colorbar(image, ax=ax, label="computed")
    return fig


def computed(q: np.ndarray, k: np.ndarray, head: int, heads: int, lengths: list[int]) -> list[float]:
    """Run tiled attention on one head's `q, k [1, 1, T, D]`; the share computed of the first 256, 512, ... tokens."""
    mask, visited, seen = np.ones((1, q.shape[2]), dtype="int64"), dict.fromkeys(lengths, 0), tiled_attention._seen

    def count(tokens: Any, place: int, queries: int, keys: slice) -> Any:
        visible = np.minimum(np.arange(place, place + queries) + 1, keys.stop) - keys.start
        for n in lengths:
            visited[n] += int(visible.clip(0).sum()) if place < n else 0
        return seen(tokens, place, queries, keys)

    with shared_out(), mock.patch.object(tiled_attention, "_seen", count):
        tiled_attention.tiled_attention(q, k, k, alibi_bias(mask, heads, "float32")[:, [head]], mask)
    return [visited[n] / (n * (n + 1) / 2) for n in lengths]


PICTURES = {"skipping": skipping, "growth": growth, "attention": attention, "loss": loss, "bench": bench}


def draw(folder: Path) -> None:
    """Write every picture into `folder`."""
    for name, picture in PICTURES.items():
        with plots.style():
            picture().savefig(folder / f"{name}.png", dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
