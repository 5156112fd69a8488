"""When a row ends: at a token, at a string, after a time, or where a user's own function says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from ..backend import Array, to_numpy
from ..errors import InputError

TOKEN, STRING, LENGTH, TIME, OWN = "stop token", "stop string", "length", "time", "stopping_criteria"


class StopStrings:
    """Whether a text ends in one of some strings with its last token.

    Looked for among bytes: so tokens may cut the string, or even a character of it, anywhere. What stands behind the
    string in the last token does not matter, for a token is written whole.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self._strings = [string.encode() for string in strings]
        self._longest = max(map(len, self._strings))
        self._bytes_of: dict[int, bytes] = {-1: b""}  # padding
        self._tokenizer = tokenizer

    def hit(self, ids: Sequence[int]) -> bool:
        """Whether one of the strings ends within the last of `ids`; earlier ones may be as many as there are."""
        last = self._bytes(ids[-1])
        text, place = last, len(ids) - 1
        while place and len(text) < self._longest - 1 + len(last):
            place -= 1
            text = self._bytes(ids[place]) + text
        return any(text.find(string, max(0, len(text) - len(last) - len(string) + 1)) >= 0 for string in self._strings)

    def _bytes(self, token: int) -> bytes:
        token = int(token)
        if token not in self._bytes_of:
            known = token < len(self._tokenizer)
            self._bytes_of[token] = self._tokenizer._bytes(token, skip_special_tokens=False) if known else b""
        return self._bytes_of[token]


class Stopping:
    """Tells which rows have just ended, and why."""

    def __init__(
        self,
        ends: Sequence[int],
        strings: StopStrings | None = None,
        seconds: float | None = None,
        own: Sequence[Callable[[Array, Array], Any]] = (),
    ) -> None:
        for criterion in own:
            if not callable(criterion):
                raise InputError(f"stopping_criteria holds {criterion!r}, expected functions of ids and scores.")
        self.ends, self.strings, self.seconds, self.own = list(ends), strings, seconds, list(own)
        self._begun = time.monotonic()

    @property
    def only_tokens(self) -> bool:
        """Whether nothing but a token can end a row."""
        return self.strings is None and self.seconds is None and not self.own

    def reasons(self, ids: Array, scores: Array) -> dict[int, str]:
        """Why rows have ended with their last id: `{row: reason}`. ids `[B, T]`, -1 at padding; scores `[B, V]`."""
        reasons: dict[int, str] = {}
        if self.only_tokens and not self.ends:
            return reasons
        last = to_numpy(ids[:, -1]).tolist()
        if self.seconds is not None and time.monotonic() - self._begun > self.seconds:
            reasons |= dict.fromkeys(range(len(last)), TIME)
        for criterion in self.own:
            answer = criterion(ids, scores)
            says = to_numpy(answer)
            if says.dtype == object or says.shape not in ((), (len(last),)):
                given = type(answer).__name__ if says.dtype == object else list(says.shape)
                expected = f"one answer for all rows, or one for each, [{len(last)}]"
                raise InputError(f"stopping_criteria returned {given}, expected {expected}.")
            reasons |= {row: OWN for row in numpy.flatnonzero(numpy.broadcast_to(says, len(last))).tolist()}
        if self.strings is not None:
            window = to_numpy(ids[:, -(self.strings._longest + 1) :]).tolist()
            reasons |= {row: STRING for row, tail in enumerate(window) if self.strings.hit(tail)}
        reasons |= {row: TOKEN for row, token in enumerate(last) if token in self.ends}
        return reasons
