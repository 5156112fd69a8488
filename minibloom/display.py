"""What terminals and notebooks show of arrays: type and shape in words, a summary of the values, tables.

The HTML takes colours and fonts from the page, so that it reads on light and on dark ones, and says all that it says
where a page strips styles, as hubs of code do that render notebooks. All text in it is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy

from .backend import Array, to_numpy

STATISTICS = ("mean", "std", "min", "max")
LEFT = ' style="text-align: left"'  # the pages of notebooks set tables right


def kind(x: object) -> str:
    """Type and shape: "float32[2, 3]"; of what is no array, the type."""
    return f"{getattr(x, 'dtype', type(x).__name__)}{list(getattr(x, 'shape', ()))}"


def statistics(x: Array) -> list[str]:
    """The `STATISTICS` of an array's numbers, to three digits; whole ones as they are.

    Masked scores are left out; nothing, if all are.
    """
    values, rounding = to_numpy(x), 0.0
    if values.dtype.kind == "f":
        values = values[values != numpy.finfo(values.dtype).min]
        rounding = float(numpy.finfo(values.dtype).eps)
    if values.size == 0:
        return []
    mean = values.mean()
    if abs(mean) < rounding * abs(values).max():
        mean = 0  # what is left where numbers cancel says nothing, and differs from machine to machine
    whole = "+d" if values.dtype.kind in "iu" else "+.3g"
    return [f"{mean:+.3g}", f"{values.std():.3g}", f"{values.min():{whole}}", f"{values.max():{whole}}"]


def summary(x: Array) -> str:
    """Mean, spread and range of an array's numbers, in one line."""
    return "  ".join(f"{name} {n}" for name, n in zip(STATISTICS, statistics(x), strict=False)) or "all masked"


def short(x: Any) -> str:
    """A value in a line: numbers as they are, arrays by type and shape, several of them by their number."""
    if isinstance(x, tuple | list) and x and hasattr(x[0], "shape"):
        kinds = list(dict.fromkeys(map(kind, x)))
        return f"{len(x)} times {kinds[0]}" if len(kinds) == 1 else f"{len(x)} arrays, {kinds[0]} to {kinds[-1]}"
    if isinstance(x, tuple | list) and x and isinstance(x[0], tuple | list):
        return f"{len(x)} times {len(x[0])} arrays"
    if getattr(x, "shape", None) == ():
        return f"{float(x):.6g}"
    return kind(x) if hasattr(x, "shape") else repr(x)


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of text in columns, each as wide as its widest cell; those with the numbers `right` end at the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    sides = [">" if i in right else "<" for i in range(len(widths))]
    lines = ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


# --- HTML ---


class Html(str):
    """Text that is HTML already, and is not escaped again."""


def code(text: object) -> Html:
    """A name, as code. Text of any script keeps its own direction, and its neighbours theirs."""
    return Html(f"<code><bdi>{escape(str(text))}</bdi></code>")


def unbroken(text: object) -> str:
    """Text that stays in one line where a column is narrow."""
    return str(text).replace(" ", "\N{NO-BREAK SPACE}")


def bold(text: object) -> Html:
    return Html(f"<b>{_cell(text)}</b>")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> Html:
    """A table; the first `left` columns are text, the others numbers. Without names of columns, without a head."""

    def line(cells: Sequence[object], tag: str) -> str:
        shown = (f"<{tag}{LEFT if i < left else ''}>{_cell(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(shown)}</tr>"

    head = f"<thead>{line(columns, 'th')}</thead>" if columns else ""
    body = "\n".join(line(row, "td") for row in rows)
    return Html(f"<table>{head}<tbody>\n{body}\n</tbody></table>")


def paragraph(*parts: object) -> Html:
    return Html(f"<p>{''.join(_cell(part) for part in parts)}</p>")


def details(title: object, body: Html, open: bool = False) -> Html:
    """Something that a reader opens and closes."""
    return Html(f"<details{' open' if open else ''}><summary>{_cell(title)}</summary>\n{body}\n</details>")


def together(*parts: str) -> Html:
    return Html("\n".join(parts))


def _cell(content: object) -> str:
    return content if isinstance(content, Html) else escape(str(content))


def by_block(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Names of steps or parameters, in order, by the block that they belong to ("h.0"), or "" outside of blocks."""
    groups: list[tuple[str, list[str]]] = []
    for name in names:
        parts = name.split(".")
        block = ".".join(parts[:2]) if parts[0] == "h" and len(parts) > 1 else ""
        if not groups or groups[-1][0] != block:
            groups.append((block, []))
        groups[-1][1].append(name)
    return groups
