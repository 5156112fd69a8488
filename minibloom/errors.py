"""Errors that speak to the user: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class InputError(ValueError):
    """Something a user gave cannot be used. Raised at the border, before any work is done."""


class OutOfMemory(InputError, MemoryError):
    """A device has no room for what was asked of it. What was given can be used, but less of it at a time."""


def suggest(name: str, known: Iterable[str], instead: Mapping[str, str] | None = None) -> str:
    """Return `" Did you mean 'x'?"` for the known name nearest to `name`, or an empty string.

    instead: what to use in place of names that are known to be missing; `" Use ..."` is then returned.
    """
    if instead and name in instead:
        return f" Use {instead[name]}."
    nearest = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
