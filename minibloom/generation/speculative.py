"""Speculative decoding: guess several tokens, read them in one pass, keep those that the model would have chosen.

A pass over n tokens costs hardly more than one over a single token, as long as reading the weights from memory is what
takes the time. Guesses come from the text itself (*prompt lookup*: what followed the last time these tokens stood
there), or from a smaller model of the same tokens (*draft*).

The result is that of plain decoding. Greedy: a guess is kept if it is the likeliest token, so the tokens are the same
one for one. Sampling (Leviathan et al. 2023; Chen et al. 2023): a guess x, drawn with probability q(x), is kept with
probability min(1, p(x) / q(x)), else a token is drawn with probability max(0, p - q), made to add up to 1. So x is
chosen with probability

    q(x) min(1, p(x) / q(x)) + (1 - Σ_y min(p(y), q(y))) max(0, p(x) - q(x)) / Σ_y max(0, p(y) - q(y)) = p(x)

for the first term is min(p, q), the sum in the bracket and the last sum are both 1 - Σ min(p, q), and what is left of
the second is p - min(p, q). Without draws, or from a text, q is 1 for the guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy

from ..backend import Array, number, to_numpy
from ..layers.softmax import softmax
from .filters import pick
from .job import History, Job, Result, check_numbers
from .reader import Reader
from .stopping import LENGTH


class Lookup:
    """Guesses that what followed last time follows again."""

    def __init__(self, longest: int) -> None:
        self.longest, self.read = longest, 0
        self._ends: dict[tuple[int, ...], int] = {}  # a run of tokens -> the place behind where it stood last

    def __call__(self, text: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `text`: none where its last tokens never stood there before."""
        for end in range(self.read + 1, len(text)):  # not the end itself: it would find itself
            for size in range(1, min(self.longest, end) + 1):
                self._ends[tuple(text[end - size : end])] = end
        self.read = max(self.read, len(text) - 1)
        for size in range(min(self.longest, len(text)), 0, -1):
            place = self._ends.get(tuple(text[-size:]))
            if place is not None:
                copy = list(text[place:])
                while len(copy) < count:  # what repeats itself goes on repeating itself
                    copy += copy
                return copy[:count]
        return []


class Draft:
    """Guesses what a smaller model would choose, by the same settings.

    What it has read stays with the caller's cache, so that the next turn of a text reads its own tokens alone.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.reader = job, Reader(job, job.draft)
        self.kept = job.callers_cache if job.cache is job.callers_cache else None
        if self.kept is not None and self.kept.draft is not None and self.kept.draft[0] is job.draft:
            _, cache, read = self.kept.draft
            text = to_numpy(job.history().ids[0]).tolist()
            pairs = enumerate(zip(read, text, strict=False))
            same = next((i for i, (a, b) in pairs if a != b), min(len(read), len(text)))
            cache.crop(same)
            self.kept.draft = job.draft, cache, read[:same]  # so also where Ctrl-C comes before more is noted
            self.reader.cache, self.reader.read = cache, same

    def __call__(self, history: History, count: int) -> tuple[list[int], list[Array]]:
        """At most `count` tokens, and for draws the probabilities `[1, V]` that each was drawn with."""
        s, xp = self.job.settings, self.job.xp
        if self.reader.read >= history.length:
            self.reader.crop(history.length - 1)  # guesses that were wrong
        ids, guesses, probs = history.ids, [], []
        feed = xp.where(ids[:, self.reader.read :] < 0, self.job.pad, ids[:, self.reader.read :])
        for _ in range(count):
            scores = self.job.scored(ids, self.reader(feed).logits[:, -1], history.prompts)
            check_numbers(scores.max(-1), s.do_sample)
            p = softmax(scores)
            one = pick(scores, xp.asarray(self.job.rng.random(1))) if s.do_sample else scores.argmax(-1)
            guesses.append(number(one))
            probs.append(p)
            feed = one[:, None]
            ids = xp.concatenate([ids, feed], axis=1)
            if number(p[0, guesses[-1]]) < s.assistant_confidence_threshold:
                break  # what it is unsure of is often wrong, and all that follows with it
        if self.kept is not None:
            self.kept.draft = self.job.draft, self.reader.cache, to_numpy(ids[0, : self.reader.read]).tolist()
        return guesses, probs


def speculate(job: Job) -> Iterator[Array]:
    """Yield the next id of each row `[B]`, as `decode` does.

    Several rows are read one at a time: each has its own guesses, and its own copy of the caller's cache, which stays
    as it was, for no one cache holds rows of different lengths.
    """
    if len(job.ids) == 1:
        return _row(job)
    rows = []
    for row, rng in enumerate(job.rng.spawn(len(job.ids))):
        ids, mask = _of_row(row, job.ids, job.mask)
        as_read = None if job.as_read is None else _of_row(row, *job.as_read)
        cache = None if job.cache is None else job.cache.copy(job.xp.asarray([row]))
        alone = replace(job, ids=ids, mask=mask, as_read=as_read, cache=cache, seed=rng, first=row, result=Result())
        rows.append((alone, _row(alone)))
    return _together(job, rows)


def _of_row(row: int, ids: Array, mask: Array | None) -> tuple[Array, Array | None]:
    return ids[row : row + 1], None if mask is None else mask[row : row + 1]


def _together(job: Job, rows: list[tuple[Job, Iterator[Array]]]) -> Iterator[Array]:
    xp, results = job.xp, [alone.result for alone, _ in rows]
    pad = xp.full(1, job.pad)
    for step, chosen in enumerate(zip_longest(*(steps for _, steps in rows), fillvalue=pad)):
        job.result.reasons.update({row: one.reasons[0] for row, one in enumerate(results) if one.reasons})
        for name in ("log_probs", "scores", "logits"):
            of_rows = [getattr(one, name)[step : step + 1] for one in results]  # none of one that has ended
            if some := next(filter(None, of_rows), None):
                nothing = [xp.full_like(some[0], numpy.nan)]
                getattr(job.result, name).append(xp.concatenate([(mine or nothing)[0] for mine in of_rows]))
        yield xp.concatenate(chosen)


def _row(job: Job) -> Iterator[Array]:
    """Speculation for one row."""
    xp, s, reader, history = job.xp, job.settings, Reader(job), job.history()
    lookup, draft = Lookup(s.max_matching_ngram_size), None if job.draft is None else Draft(job)
    guess_size, reasons = s.prompt_lookup_num_tokens or s.num_assistant_tokens, job.result.reasons
    guesses: list[int] = []
    probs: list[Array] = []
    logits = reader.prompt().logits  # [1, guesses + 1, V]
    reader.crop(history.length - 1)  # what was read counts once a token is chosen by it: so no wrong guess ever does
    while True:
        kept = 0
        for place in range(len(guesses) + 1):
            here = logits[:, place]
            scores = job.scored(history.ids, here, history.prompts)
            guess = guesses[place] if place < len(guesses) else None
            one = _choose(job, scores, guess, probs[place] if guess is not None and probs else None)
            chosen = xp.asarray([one])
            job.keep(here, scores)
            job.keep_log_probs(here, xp.arange(1), chosen, 1)
            history.append(chosen)
            reader.cache.advance(1)
            reader.read += 1
            reasons.update(job.stopping.reasons(history.ids, scores))
            if history.length == job.length:
                reasons.setdefault(0, LENGTH)
            yield chosen
            if reasons:
                return
            if one != guess:
                break
            kept += 1
        if draft is not None and s.num_assistant_tokens_schedule == "heuristic" and guesses:
            guess_size = guess_size + 2 if kept == len(guesses) else max(1, guess_size - 1)
        count = min(guess_size, job.length - history.length - 1)  # the model's own token comes on top
        if draft is None:
            guesses = lookup(to_numpy(history.ids[0]).tolist(), count)
        else:
            guesses, probs = draft(history, count) if count else ([], [])
        feed = xp.concatenate([chosen, xp.asarray(guesses, dtype="int64")])[None]
        try:
            logits = reader(feed, keep=feed.shape[1]).logits
        finally:  # whatever stopped it, Ctrl-C too: no guess counts yet
            reader.crop(history.length - 1)


def _choose(job: Job, scores: Array, guess: int | None, q: Array | None) -> int:
    """The token that the model chooses from `scores [1, V]`: the guess, if it would be chosen like any other.

    q: the probabilities `[1, V]` that the guess was drawn with; None where it was not drawn.
    """
    xp = job.xp
    check_numbers(scores.max(-1), job.settings.do_sample)
    if not job.settings.do_sample:
        return int(number(scores.argmax(-1)))
    u = job.rng.random(1)
    if guess is None:
        return int(number(pick(scores, xp.asarray(u))))
    p = softmax(scores.astype("float64"))
    if q is None:
        q = xp.zeros_like(p)
        q[0, guess] = 1.0
    if u[0] * number(q[0, guess]) < number(p[0, guess]):
        return guess
    left: Any = xp.maximum(p - q, 0.0)
    bounds = xp.cumsum(left, axis=-1)
    v = job.rng.random() * number(bounds[0, -1])
    return int(number((bounds[0] <= v).sum()))
