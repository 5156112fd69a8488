"""The embedding: row `ids[b, s]` of a table.

Backward. A row that several positions looked up receives the sum of their gradients; a row that none
looked up receives zero. `dtable[ids] += d` would be wrong: it keeps one of the repeated rows, so the sum
is spelled `add.at`.
"""

from __future__ import annotations

from ..backend import Array, namespace


def embedding(ids: Array, table: Array) -> Array:
    """`ids [B, S]`, `table [V, E]` -> `[B, S, E]`."""
    return table[ids]


def embedding_backward(d: Array, ids: Array, dtable: Array) -> None:
    """Add upstream `d [B, S, E]` onto the rows `ids [B, S]` of `dtable [V, E]`, in place.

    In place because the table is tied to the language-modelling head: `dtable` arrives with the head's
    gradient, and the gradient of a parameter that is used twice is the sum of both.
    """
    namespace(d).add.at(dtable, ids, d)
