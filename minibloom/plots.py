"""Pictures of the arrays: ALiBi, attention, the residual stream, what comes next, gradients, losses, the cache.

    from minibloom import plots
    plots.attention(trace["h.0.self_attention.weights"][0], plots.labels(tokenizer, ids))

Each function returns a Matplotlib figure that shows itself in a notebook as SVG, in which text stays text: whoever
looks at it sees every script that their own browser can write, right-to-left ones too. `figure.savefig("x.png")`
writes it as a picture. The colours (Okabe and Ito, 2008; cividis; PuOr) are told apart by colour-blind people, and
lines differ in more than colour. On a dark page, `plots.use("dark")` first.

Drawing reads values: arrays of a device are copied to the host here, where it can be seen.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec

import numpy

from .backend import Array, to_numpy
from .byte_pair import BYTE_OF
from .errors import InputError, suggest
from .layers.alibi import alibi_bias, alibi_slopes
from .layers.softmax import softmax
from .lens import lens, stream
from .models import BloomForCausalLM
from .tokenizer import BloomTokenizerFast
from .trace import Trace

try:
    import matplotlib
    from cycler import cycler  # which Matplotlib brings in
    from matplotlib import font_manager
    from matplotlib.figure import Figure
except ImportError:
    raise InputError("pictures need Matplotlib: python -m pip install matplotlib") from None

THEMES = {"light": ("#3a3f4b", "#ffffff"), "dark": ("#d5d9e0", "#16181d")}  # ink and ground
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
ON_DARK = {"#0072b2": "#56b4e9", "#56b4e9": "#0072b2"}  # blue is the one that sinks into a dark ground
STYLES = ("-", "--", "-.", ":")
MANY = 40  # labels on an axis that can still be read

_theme = "light"
P = ParamSpec("P")


def use(theme: str) -> None:
    """Draw for a "light" page from here on, or for a "dark" one."""
    global _theme
    if theme not in THEMES:
        raise InputError(f"theme is {theme!r}, expected one of {', '.join(THEMES)}.{suggest(theme, THEMES)}")
    _theme = theme


def style() -> Any:
    """The house's settings of Matplotlib, for as long as a `with` lasts; no others are touched."""
    ink, ground = THEMES[_theme]
    colours = [ON_DARK.get(c, c) for c in COLOURS] if _theme == "dark" else list(COLOURS)
    inked = ["axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"]
    settings: dict[Any, Any] = {
        **dict.fromkeys(inked, ink),
        **dict.fromkeys(["axes.facecolor", "figure.facecolor", "savefig.facecolor"], ground),
        **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
        **dict.fromkeys(["font.size", "axes.titlesize", "figure.labelsize"], 9),
        "legend.fontsize": 8,
        "axes.prop_cycle": cycler("color", colours),
    }
    return matplotlib.rc_context(settings)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw`, in the house's style from its first line to its last."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return in_style


class Picture(Figure):
    """A figure that shows itself in a notebook as SVG, without a date: the same arrays give the same file."""

    def _repr_svg_(self) -> str:
        file = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "minibloom"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has fonts of its own
            self.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()


def figure(width: float = 7.0, height: float = 3.0, rows: int = 1, columns: int = 1, **more: Any) -> tuple[Any, Any]:
    """A figure in the house's style, `width` x `height` inches, and its axes: one, or an array of rows x columns.

    What is drawn on it later follows the style too inside of `with plots.style():`.
    """
    with style():
        fig = Picture(figsize=(width, height), layout="constrained")
        return fig, fig.subplots(rows, columns, **more)


# --- Tokens as labels ---


def label(tokenizer: BloomTokenizerFast, token_id: int) -> str:
    """A token as it can be seen: · for a space, ⏎ for a line's end, bytes in hex where they are no whole characters."""
    text = tokenizer.decode([token_id])
    if "\ufffd" in text:
        token = tokenizer.convert_ids_to_tokens(token_id)
        return " ".join(f"{BYTE_OF[symbol]:02X}" for symbol in token) if set(token) <= BYTE_OF.keys() else token
    text = text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
    from_right = any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)
    return f"\u200f{text}" if from_right else text  # a mark, so that · stands at the right, where the word begins


def labels(tokenizer: BloomTokenizerFast, ids: Any) -> list[str]:
    """The tokens of `ids [S]` as labels for an axis."""
    return [label(tokenizer, int(i)) for i in to_numpy(ids)]


@lru_cache
def _letters(path: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(path).get_charmap())


@lru_cache(maxsize=4096)
def _font_with(character: str) -> str | None:
    """A font of this machine that has the character, if there is one."""
    for font in sorted(font_manager.fontManager.ttflist, key=lambda f: (f.style != "normal", f.weight != 400, f.name)):
        if ord(character) in _letters(font.fname):
            return font.name
    return None


def _families(text: str) -> list[str]:
    """Fonts to draw `text` with, the usual one first."""
    usual = "DejaVu Sans"
    known = _letters(font_manager.findfont(usual))
    others = {_font_with(c) for c in text if ord(c) not in known and not unicodedata.category(c).startswith("C")}
    return [usual, *sorted(name for name in others if name)]


def _write_labels(axis: Any, texts: Sequence[str] | None, count: int, size: float = 6.5, **more: Any) -> None:
    """Tokens along an axis, each in fonts that have its letters. Without texts, or with too many, numbers stay."""
    if texts is None or count > MANY:
        return
    if len(texts) != count:
        raise InputError(f"{len(texts)} labels were given for {count} positions.")
    axis.set_ticks(range(count), texts, fontsize=size, **more)
    axis.set_tick_params(length=0)
    for tick, text in zip(axis.get_major_ticks(count), texts, strict=True):
        tick.label1.set_fontfamily(_families(text))
        tick.label1.set_parse_math(False)  # a dollar is a token like others


def _array(x: Any, name: str, *dims: int) -> numpy.ndarray:
    """`x` on the host, with as many axes as one of `dims`."""
    x = to_numpy(x)
    if x.ndim not in dims:
        row = f" Take one row of the batch: {name}[0]." if x.ndim == max(dims) + 1 else ""
        raise InputError(f"{name} has shape {list(x.shape)}, expected {' or '.join(map(str, dims))} axes.{row}")
    return x


def heatmap(
    ax: Any,
    values: Any,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    signed: bool = False,
) -> Any:
    """`values [R, C]` as colours on `ax`, NaN left out; returns the image, for `figure.colorbar(image, ax=ax)`.

    signed: 0 in the middle of two colours, purple below and orange above.
    """
    values = _array(values, "values", 2)
    if signed and lowest is None and highest is None:
        highest = float(numpy.nanmax(numpy.abs(values))) or 1.0
        lowest = -highest
    shown = numpy.ma.masked_invalid(values)
    image = ax.imshow(shown, cmap="PuOr_r" if signed else "cividis", vmin=lowest, vmax=highest, aspect="auto")
    ax.spines[:].set_visible(False)
    _write_labels(ax.yaxis, rows, values.shape[0])
    _write_labels(ax.xaxis, columns, values.shape[1], rotation=90)
    return image


# --- The parts of the model ---


@styled
def alibi_slopes_of(heads: int) -> Figure:
    """The slope of each head, on a scale of powers of two."""
    slopes = alibi_slopes(heads, numpy)
    fig, ax = figure(6, 2.6)
    ax.stem(range(heads), slopes, basefmt=" ")
    ax.set_yscale("log", base=2)
    ax.set(xlabel="head", ylabel="slope", title=f"the slopes of {heads} heads")
    if heads <= MANY:
        ax.set_xticks(range(heads))
    return fig


@styled
def alibi(heads: int, length: int) -> Figure:
    """What ALiBi adds to the scores, head by head, as seen from each query: slope * (key - query)."""
    bias = alibi_bias(numpy.ones((1, length), dtype="int64"), heads, "float32")[0, :, 0]  # [H, T]
    relative = bias[:, None, :] - bias[:, :, None]  # [H, S, T]: a constant less in each row, which softmax cancels
    relative = numpy.where(numpy.tril(numpy.ones((length, length), dtype=bool)), relative, numpy.nan)
    slopes = alibi_slopes(heads, numpy)
    fig, axes, places = _grid(heads, 1.8)
    for head, ax in zip(range(heads), places, strict=False):
        image = heatmap(ax, relative[head], lowest=-float(slopes.max()) * length / 4, highest=0)
        ax.set_title(f"head {head}, slope {slopes[head]:.3g}")
    fig.supylabel("query")
    fig.supxlabel("key")
    fig.colorbar(image, ax=axes, label="bias", shrink=0.7, extend="min")
    return fig


def _grid(count: int, size: float, wide: int = 4) -> tuple[Any, Any, list[Any]]:
    """A figure with `count` square places, at most `wide` side by side."""
    columns = min(wide, count)
    rows = -(-count // columns)
    fig, axes = figure(size * columns + 1.2, size * rows + 0.6, rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, axes, list(axes.flat[:count])


@styled
def attention(weights: Array, tokens: Sequence[str] | None = None, heads: int | Iterable[int] | None = None) -> Figure:
    """Who looks at whom: `weights [H, S, T]` of one block and row, or `[S, T]` of one head; `tokens` label the keys.

    heads: which of them to show; all, if not given.
    """
    weights = _array(weights, "weights", 2, 3)
    weights = weights[None] if weights.ndim == 2 else weights
    H, S, T = weights.shape
    chosen = list(range(H)) if heads is None else list(heads) if isinstance(heads, Iterable) else [int(heads)]
    if not all(0 <= head < H for head in chosen):
        raise InputError(f"heads are {chosen}, expected numbers from 0 to {H - 1}.")
    past = T - S
    unseen = numpy.arange(T) > numpy.arange(past, T)[:, None]
    queries = None if tokens is None else list(tokens)[past:]
    size = min(max(2.1, 0.3 + 0.1 * T), 4.6)  # inches: room for the labels
    fig, axes, places = _grid(len(chosen), size, 4 if size < 2.5 else 2)
    for head, ax in zip(chosen, places, strict=True):
        shown = numpy.where(unseen, numpy.nan, weights[head])
        image = heatmap(ax, shown, queries, tokens, lowest=0, highest=1)
        if H > 1:
            ax.set_title(f"head {head}")
    fig.supylabel("the token that looks")
    fig.supxlabel("the token that is looked at")
    fig.colorbar(image, ax=axes, label="attention", shrink=0.7)
    return fig


@styled
def residual_stream(trace: Trace, tokens: Sequence[str] | None = None, row: int = 0) -> Figure:
    """How long the vector of each token is, from the embedding to the last block: the norm of the residual stream.

    The trace must hold the steps `word_embeddings_layernorm` and `h.*`.
    """
    names = stream(trace)
    norms = numpy.stack([numpy.linalg.norm(_array(trace[name], name, 3)[row], axis=-1) for name in names])  # [L + 1, S]
    fig, ax = figure(1.6 + 0.38 * norms.shape[1], 0.9 + 0.3 * len(names))
    image = heatmap(ax, norms, ["embedding", *names[1:]], tokens, lowest=0)
    fig.colorbar(image, ax=ax, label="norm")
    return fig


@styled
def logit_lens(
    model: BloomForCausalLM, trace: Trace, tokenizer: BloomTokenizerFast, row: int = 0, last: int = 12
) -> Figure:
    """The token that each state is nearest to, after every block and at each of the `last` positions; see `lens.py`.

    Colour is the probability that the model gives to it there. The topmost row is what it says in the end.
    """
    probs = to_numpy(lens(model, trace, row))[:, -last:, : len(tokenizer)]
    names = ["embedding", *stream(trace)[1:]]
    ids = probs.argmax(-1)  # [L + 1, S]
    L, S = ids.shape
    fig, ax = figure(1.6 + 0.75 * S, 0.9 + 0.42 * L)
    order = slice(None, None, -1)  # the last block on top
    below = labels(tokenizer, to_numpy(trace["input_ids"])[row, -last:]) if "input_ids" in trace else None
    image = heatmap(ax, probs.max(-1)[order], names[order], below, lowest=0, highest=1)
    for (level, position), token in numpy.ndenumerate(ids[order]):
        text, p = label(tokenizer, int(token)), probs[order][level, position].max()
        colour = "black" if p > 0.55 else "white"
        ax.text(
            position, level, text, color=colour, fontsize=7, ha="center", va="center",
            fontfamily=_families(text), parse_math=False,
        )  # fmt: skip
    fig.colorbar(image, ax=ax, label="probability")
    return fig


@styled
def next_tokens(logits: Array, tokenizer: BloomTokenizerFast, top: int = 10) -> Figure:
    """The `top` likeliest next tokens and their probabilities, by the last position's `logits [V]`."""
    probs = softmax(_array(logits, "logits", 1).astype("float64"))[: len(tokenizer)]
    best = (-probs).argsort(kind="stable")[:top]
    fig, ax = figure(6, 0.6 + 0.24 * len(best))
    bars = ax.barh(range(len(best)), probs[best])
    ax.bar_label(bars, fmt=lambda p: "below 0.1%" if p < 0.001 else f"{p:.1%}", padding=3, fontsize=7.5)
    _write_labels(ax.yaxis, labels(tokenizer, best), len(best), 8.5)
    ax.invert_yaxis()
    ax.set(xlabel="probability", xlim=(0, min(1.0, float(probs[best[0]]) * 1.15)))
    return fig


# --- Training ---


@styled
def gradient_flow(grads: Mapping[str, Array]) -> Figure:
    """How large the gradient of each parameter is: its root mean square, block by block, one line a kind."""
    kinds: dict[str, list[tuple[int, float]]] = {}
    others: dict[str, float] = {}
    for name, grad in grads.items():
        size = float(numpy.sqrt(numpy.mean(to_numpy(grad).astype("float64") ** 2)))
        prefix, number, kind = ([*name.split(".", 2), "", ""])[:3]
        if prefix == "h" and kind.endswith("weight"):
            kinds.setdefault(kind.removesuffix(".weight"), []).append((int(number), size))
        elif name.endswith("weight"):
            others[name.removesuffix(".weight")] = size
    if not kinds:
        raise InputError("grads holds no gradient of a block's weight: give what model.value_and_grad returned.")
    fig, ax = figure(7.5, 3.4)
    for i, (kind, points) in enumerate(kinds.items()):
        ax.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, linestyle=STYLES[i % 4], label=kind)
    depth = 1 + max(number for points in kinds.values() for number, _ in points)
    for i, (name, size) in enumerate(others.items()):
        place = -1 if name.startswith("word") else depth
        ax.plot([place], [size], marker="sDv^P"[i % 5], linestyle="", color=THEMES[_theme][0], label=name)
    ax.set_yscale("log")
    ax.set_xticks([-1, *range(depth), depth], ["embedding", *range(depth), "end"])
    ax.set(xlabel="block", ylabel="root mean square of the gradient")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


@styled
def losses(curves: Mapping[str, Iterable[tuple[float, float]]], xlabel: str = "step") -> Figure:
    """Loss curves by name, each a sequence of (step, loss) in nats a token."""
    fig, ax = figure(6.4, 3.0)
    for i, (name, points) in enumerate(curves.items()):
        ax.plot(*zip(*points, strict=True), label=name, linestyle=STYLES[i % 4])
    ax.set(xlabel=xlabel, ylabel="loss, nats a token")
    ax.set_ylim(bottom=0)
    ax.legend()
    return fig


@styled
def lines(curves: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str, log: bool = False) -> Figure:
    """Curves by name, each (x, y), told apart by colour, dash and mark; `log`: both axes in powers."""
    fig, ax = figure(6.4, 3.0)
    for i, (name, (x, y)) in enumerate(curves.items()):
        ax.plot(x, y, label=name, linestyle=STYLES[i % 4], marker="osD^v"[i % 5], markersize=4)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.legend()
    return fig


@styled
def cache(
    lengths: Sequence[int], nbytes: Sequence[int], with_cache: Sequence[float], without: Sequence[float]
) -> Figure:
    """What a cache costs and what it saves: its bytes, and seconds a token with and without it, by length of text."""
    fig, (left, right) = figure(8.4, 3.0, 1, 2)
    left.plot(lengths, [n / 2**20 for n in nbytes], marker="o", markersize=4)
    left.set(xlabel="tokens", ylabel="cache, MiB")
    left.set_ylim(bottom=0)
    right.plot(lengths, [1000 * t for t in without], marker="s", markersize=4, linestyle="--", label="without a cache")
    right.plot(lengths, [1000 * t for t in with_cache], marker="o", markersize=4, label="with it")
    right.set(xlabel="tokens", ylabel="ms for one more token")
    right.set_ylim(bottom=0)
    right.legend()
    return fig
