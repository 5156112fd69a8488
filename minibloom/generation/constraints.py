"""Forced words: which of them a continuation holds already, how far it is in the next, and who may stay for that.

Beam search alone would never write an unlikely word: each of its tokens loses to a likelier one. So, at each step,
every beam is also continued with the tokens that would bring a word forward, and the places are shared out among
*banks*: continuations that are equally far. (Post and Vilar 2018, and transformers' constrained beam search.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError

Word = tuple[tuple[int, ...], ...]  # the ways in which one word may be written


@dataclass(frozen=True)
class Progress:
    """How far a continuation is: words that are still to begin, the one that is being written, and how much of it."""

    pending: tuple[Word, ...]
    writing: Word | None = None
    written: tuple[int, ...] = ()
    done: int = 0  # words
    longest: int = 1  # tokens of the longest word: what one whole word counts

    @classmethod
    def start(cls, words: Sequence[Sequence[Sequence[int]]]) -> Progress:
        """Nothing is written yet."""
        pending = tuple(tuple(tuple(way) for way in ways) for ways in words)
        for ways in pending:
            for one in ways:
                if any(other is not one and other[: len(one)] == one for other in ways):
                    raise InputError(f"force_words_ids has {list(one)} and a longer way that begins with it: drop one.")
        return cls(pending, longest=max(len(way) for ways in pending for way in ways))

    @property
    def complete(self) -> bool:
        return not self.pending and self.writing is None

    @property
    def bank(self) -> int:
        """Tokens of words that are there."""
        if self.writing is None:
            return self.done * self.longest
        left = max(map(len, self.writing)) - len(self.written)
        return self.done * self.longest + self.longest - left

    @property
    def needed(self) -> int:
        """How many tokens are still to be written, at least."""
        place = len(self.written)
        left = [len(way) - place for way in self.writing or () if way[:place] == self.written]
        return min(left, default=0) + sum(min(map(len, word)) for word in self.pending)

    def wanted(self) -> list[int]:
        """The tokens that bring a word forward: of the one that is being written, else the first of each."""
        words = self.pending if self.writing is None else (self.writing,)
        place = len(self.written)
        ways = [way for word in words for way in word if way[:place] == self.written]
        return list(dict.fromkeys(way[place] for way in ways))

    def after(self, token: int) -> Progress:
        """What `token` makes of it. A word that breaks off is to begin again."""
        if self.complete:
            return self
        if self.writing is not None and token not in self.wanted():
            return Progress((*self.pending, self.writing), None, (), self.done, self.longest)
        if self.writing is None:
            i = next((i for i, word in enumerate(self.pending) if any(way[0] == token for way in word)), None)
            if i is None:
                return self
            word, pending = self.pending[i], self.pending[:i] + self.pending[i + 1 :]
        else:
            word, pending = self.writing, self.pending
        written = (*self.written, token)
        if written in word:
            return Progress(pending, None, (), self.done + 1, self.longest)
        return Progress(pending, word, written, self.done, self.longest)


def share_out(scores: Sequence[float], banks: Sequence[int], places: int) -> list[int]:
    """Which continuations stay: the best of each bank, the fullest bank first, then the second of each, and so on."""
    order = sorted(range(len(scores)), key=lambda i: -(100 * banks[i] + scores[i]))
    seen: dict[int, int] = {}
    rank = []
    for i in order:
        rank.append(seen.get(banks[i], 0))
        seen[banks[i]] = rank[-1] + 1
    return [order[i] for i in sorted(range(len(order)), key=rank.__getitem__)[:places]]
