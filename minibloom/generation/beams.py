"""Beam search: follow the K best continuations of each prompt at once, best by the sum of their log-probabilities.

    candidates = every beam, continued by every token           scored: the beam's score + log p(token)
    the best 2 K of them, at least:  those that end are finished, of the others the best K are the next beams

A beam is a row of the batch. All beams of a prompt share its cache, and differ behind it. Finished ones are compared
by score / length^length_penalty. In *groups*, each group searches on its own, after the groups before it, whose
choices cost it `diversity_penalty`. With *forced words*, `constraints.py` has a say in who goes on. The rules are those
of transformers 5.23; a prompt whose search is over leaves the batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy

from ..backend import Array, number, to_numpy
from .constraints import Progress, share_out
from .filters import log_softmax
from .job import History, Job, check_numbers
from .outputs import GenerateBeamDecoderOnlyOutput, hand_back
from .processors import diversity
from .reader import Reader
from .stopping import LENGTH, TOKEN

Span = tuple[int, int]  # of rows: from one up to another


@dataclass(frozen=True)
class Beam:
    """A continuation: its new tokens, their log-probabilities and the sum of these, and where each was chosen."""

    score: float = 0.0
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    places: tuple[int, ...] = ()  # the rows of the kept scores
    words: Progress | None = None
    reason: str = ""  # why it ended

    @property
    def lacks_words(self) -> bool:
        """Whether a forced word is not there yet."""
        return self.words is not None and not self.words.complete

    def then(self, c: Candidate, place: int) -> Beam:
        """This beam, continued."""
        words = None if self.words is None else self.words.after(c.token)
        log_probs = (*self.log_probs, c.score - self.score)
        return Beam(c.score, (*self.tokens, c.token), log_probs, (*self.places, place), words, c.ends)


@dataclass(frozen=True)
class Candidate:
    """Beam number `beam`, continued by `token`; `score` is of the whole."""

    score: float
    beam: int
    token: int
    ends: str = ""  # why it ends, if it does


class Group:
    """The beams of one prompt that compete with each other."""

    def __init__(self, job: Job, size: int, first_place: int, hold: bool) -> None:
        s = job.settings
        self.job, self.size, self.first_place, self.hold = job, size, first_place, hold
        words = None if s.force_words_ids is None else Progress.start(s.force_words_ids)
        self.running = [Beam(words=words)]
        self.finished: list[tuple[float, Beam]] = []  # with its score after length penalty, the best first
        self.chosen: list[int] = []  # tokens of the beams that went on in this step
        self.new = job.length - job.ids.shape[1]  # tokens there can be

    def advance(self, candidates: Sequence[Candidate], scores: Array) -> list[int]:
        """Take one step: who ends, who goes on. Returns the beam that each of the next ones continues.

        candidates: the best, in order; in sampling, as drawn. scores: processed log-probabilities `[beams, V]`.
        """
        s, beams = self.job.settings, self.running
        length = len(beams[0].tokens) + 1

        def continued(c: Candidate) -> Beam:
            return beams[c.beam].then(c, self.first_place + c.beam)

        for c in candidates[: self.size]:  # what ends further down is no better than what goes on
            if c.ends and not beams[c.beam].lacks_words:
                self._finish(continued(c))
        if s.do_sample and length == self.new:  # the length ends all that go on, so here too the first drawn count
            candidates = candidates[: self.size]
        going = sorted((c for c in candidates if not c.ends), key=lambda c: -c.score)[: self.size]
        if s.force_words_ids is not None:
            going = self._with_words(going, scores)
        self.running, self.chosen = [continued(c) for c in going], [c.token for c in going]
        if length == self.new:
            self.running = [replace(beam, reason=LENGTH) for beam in self.running]
            for beam in self.running:
                if not beam.lacks_words:
                    self._finish(beam)
            if len(self.finished) < s.num_return_sequences:  # words that could not all be written
                self.finished += sorted(
                    ((self._final_score(b), b) for b in self.running if b.lacks_words),
                    key=lambda pair: -pair[0],
                )
            self.running = []
        elif self._is_over(length):
            self.running = []
        return [c.beam for c in going[: len(self.running)]]

    def _final_score(self, beam: Beam) -> float:
        return beam.score / len(beam.tokens) ** self.job.settings.length_penalty

    def _finish(self, beam: Beam) -> None:
        self.finished.append((self._final_score(beam), beam))
        self.finished.sort(key=lambda pair: -pair[0])
        del self.finished[self.size :]

    def _is_over(self, length: int) -> bool:
        """Whether no beam can, or is likely to, become better than the finished ones."""
        s = self.job.settings
        if not self.running or len(self.finished) < self.size:
            return not self.running
        if s.early_stopping is True:
            return True
        longest = self.new if s.early_stopping == "never" and s.length_penalty > 0 else length
        return self.running[0].score / longest**s.length_penalty <= self.finished[-1][0]

    def _room(self) -> int:
        """Tokens that words may take behind those that are being chosen."""
        return self.new - len(self.running[0].tokens) - 1 - bool(self.job.settings.forced_eos_token_id)

    def _with_words(self, going: Sequence[Candidate], scores: Array) -> list[Candidate]:
        """The candidates that go on where words are forced: those that bring a word forward compete with the rest."""
        ids = {(c.beam, c.token) for c in going}
        wanted = [
            (i, token)
            for i, beam in enumerate(self.running)
            if beam.words is not None  # one that holds all of them wants none
            for token in beam.words.wanted()
            if (i, token) not in ids
        ]
        xp = self.job.xp
        logs = to_numpy(scores[tuple(xp.asarray(x) for x in zip(*wanted, strict=True))]).tolist() if wanted else []
        more = [Candidate(self.running[i].score + log, i, token) for (i, token), log in zip(wanted, logs, strict=True)]
        every = [*going, *(c for c in more if c.score > -math.inf)]
        after = [self.running[c.beam].words.after(c.token) for c in every]  # type: ignore[union-attr]
        if self.hold and (fits := [i for i, words in enumerate(after) if words.needed <= self._room()]):
            every, after = [every[i] for i in fits], [after[i] for i in fits]
        if more:
            kept = share_out([c.score for c in every], [words.bank for words in after], self.size)
            every, after = [every[i] for i in kept], [after[i] for i in kept]
        whole = [i for i, beam in enumerate(self.running) if not beam.lacks_words]
        if self.hold and whole and not any(words.complete for words in after):
            i = max(whole, key=lambda i: self.running[i].score)
            token, log = number(scores[i].argmax()), number(scores[i].max())
            every[-1:] = [Candidate(self.running[i].score + log, i, token)]
        return every


def beam_search(job: Job) -> Any:
    """What `generate` returns."""
    s = job.settings
    sequences, final, indices = _joined(job, search(job))
    if not s.return_dict_in_generate:
        return sequences
    final = final if s.output_scores else None
    return GenerateBeamDecoderOnlyOutput(sequences, sequences_scores=final, beam_indices=indices, **job.result.fields())


def search(job: Job) -> list[tuple[float, Beam]]:
    """The best N continuations of each prompt, and their final scores; those of one prompt in a row, best first.

    With forced words, the search of transformers may lose its last beam that holds them all, to likelier ones that do
    not; or write a word in a way for which there is no room. Only for prompts where nothing holds them in the end, what
    a second search finds counts, which holds on to one, and follows none that cannot hold them. A warning tells where
    that cannot be, as when a processor rules a word out.
    """
    result = job.result
    first: list[tuple[float, Beam]] = []
    lost: list[int] = []  # prompts
    N = job.settings.num_return_sequences

    def with_second(second: list[tuple[float, Beam]], prompts: list[int]) -> list[tuple[float, Beam]]:
        return [second[i] if i // N in prompts else pair for i, pair in enumerate(first)]

    try:
        first = result.beams = _search(job, hold=False)
        lost = [i // N for i, (_, beam) in enumerate(first) if i % N == 0 and beam.lacks_words]
        best = with_second(_search(job, hold=True), lost) if lost else first
    except BaseException as error:  # Ctrl-C too
        if first:  # what the second search had counts only where it holds the words
            result.beams = with_second(result.beams, [p for p in lost if not result.beams[p * N][1].lacks_words])
        if result.beams:
            hand_back(error, _joined(job, result.beams)[0])
        raise
    if without := [str(p) for p in lost if best[p * N][1].lacks_words]:
        warnings.warn(
            f"force_words_ids is not all there behind prompt {', '.join(without)}: other settings, or what little room "
            "there is, rule it out.",
            stacklevel=2,
        )
    return best


def _search(job: Job, hold: bool) -> list[tuple[float, Beam]]:
    """One search. hold: whether a beam with all forced words goes on, however unlikely, where no other has them."""
    for steps in (job.result.scores, job.result.logits, job.result.attentions, job.result.hidden_states):
        steps.clear()  # those of a first search
    xp, s, reader, history = job.xp, job.settings, Reader(job).with_own_cache(), job.history()
    B, K, size = len(job.ids), s.num_beams, s.num_beams // s.num_beam_groups
    searches = [[Group(job, size, p * K + g * size, hold) for g in range(s.num_beam_groups)] for p in range(B)]
    try:
        out = reader.prompt()
        if s.num_beam_groups > 1:
            rows = xp.repeat(xp.arange(B), s.num_beam_groups)
            reader.select(rows)
            history.select(rows)
            out.logits = out.logits[rows]
        while True:
            logits = out.logits[:, -1]  # [rows, V]
            live = [group for search in searches for group in search if group.running]
            spans = list(pairwise(numpy.cumsum([0, *(len(group.running) for group in live)]).tolist()))
            scores = log_softmax(logits)
            if s.num_beam_groups == 1:
                scores = job.scored(history.ids, scores, history.prompts)
                sources = _advance(job, live, spans, history.ids, scores)
            else:
                sources = _advance_groups(job, searches, live, spans, history, scores)
            if s.return_dict_in_generate:
                places = [
                    group.first_place + i for group, (a, b) in zip(live, spans, strict=True) for i in range(b - a)
                ]
                _keep(job, out, logits, scores, None if history.length == job.ids.shape[1] else places, B * K)
            if not sources:
                return _best(job, searches)
            same = all(len(group.running) == b - a for group, (a, b) in zip(live, spans, strict=True))
            _follow(reader, history, sources, job.ids.shape[1] if same else None)
            chosen = xp.asarray([beam.tokens[-1] for group in live for beam in group.running])
            history.append(chosen)
            out = reader(chosen[:, None])
    except BaseException:
        job.result.beams = _best(job, searches, running=True)
        raise


def _follow(reader: Reader, history: Any, sources: Sequence[int], start: int | None) -> None:
    """Make row i of the batch what row `sources[i]` was; from position `start` on, where all before is the same."""
    rows = reader.job.xp.asarray(sources)
    if start is None:
        reader.select(rows)
    elif sources != list(range(len(sources))):
        reader.cache.reorder(rows, start)  # masks are those of prompts, which stay
    history.select(rows)


def _advance(job: Job, live: Sequence[Group], spans: Sequence[Span], ids: Array, scores: Array) -> list[int]:
    """One step of all groups, whose beams are these spans of the rows. Returns the row that each next row continues."""
    candidates = _candidates(job, live, spans, scores)
    if not job.stopping.only_tokens:
        candidates = _ending(job, candidates, spans, ids, scores)
    sources: list[int] = []
    for group, mine, (start, end) in zip(live, candidates, spans, strict=True):
        sources += [start + beam for beam in group.advance(mine, scores[start:end])]
    return sources


def _advance_groups(
    job: Job, searches: Any, live: Sequence[Group], spans: Sequence[Span], history: History, scores: Array
) -> list[int]:
    """The same where groups of one prompt go one after another, each pushed off what the earlier ones chose."""
    xp, sources, ids = job.xp, {}, history.ids
    span_of = {id(group): span for group, span in zip(live, spans, strict=True)}
    for search in searches:
        chosen: list[int] = []
        for group in search:
            if id(group) not in span_of:
                continue
            start, end = span_of[id(group)]
            mine = scores[start:end]
            if chosen:
                tokens, counts = numpy.unique(chosen, return_counts=True)
                mine = diversity(job.settings.diversity_penalty, xp.asarray(tokens), xp.asarray(counts))(mine)
            mine = scores[start:end] = job.scored(ids[start:end], mine, history.prompts[start:end])
            sources[start] = [start + i for i in _advance(job, [group], [(0, end - start)], ids[start:end], mine)]
            chosen += group.chosen
    return [row for start, _ in spans for row in sources[start]]


def _candidates(job: Job, live: Sequence[Group], spans: Sequence[Span], scores: Array) -> list[list[Candidate]]:
    """The best continuations of each group's beams, in order, or drawn without putting back: enough that, whatever
    ends, as many go on as there are places."""
    s, xp, V = job.settings, job.xp, scores.shape[-1]
    count = max(2, 1 + len(job.ends)) * live[0].size
    sums = numpy.array([beam.score for group in live for beam in group.running])
    if s.do_sample:  # a Gumbel number on each: the largest are a draw without putting back
        ranked = scores + xp.asarray(sums)[:, None] + xp.asarray(job.rng.gumbel(size=scores.shape))
    else:
        ranked = scores
    n = min(count, V)
    if n == V:
        tokens = xp.tile(xp.arange(V), (len(scores), 1))
    elif xp is numpy:
        check_numbers(ranked.max(-1))
        tokens = numpy.stack([largest(row, n) for row in ranked])
    else:  # CuPy's argpartition sorts everything too, and waits for the device twice
        last_first = xp.argsort(ranked[:, ::-1], axis=-1, kind="stable")  # of equal numbers, the first token is last
        tokens = V - 1 - last_first[:, ::-1][:, :n]
    # [rows, n], to the host: from here on there are few
    logs, keys = (to_numpy(xp.take_along_axis(x, tokens, axis=1)).astype("float64") for x in (scores, ranked))
    check_numbers(logs)
    tokens = to_numpy(tokens)
    found = []
    for start, end in spans:
        total = logs[start:end] + sums[start:end, None]
        key = keys[start:end] if s.do_sample else total
        order = numpy.argsort(-key, axis=None, kind="stable")[:count]
        beams, columns = numpy.unravel_index(order, key.shape)
        picked = zip(
            total[beams, columns].tolist(), beams.tolist(), tokens[start + beams, columns].tolist(), strict=True
        )
        found.append([
            Candidate(score, beam, token, TOKEN if token in job.ends else "")
            for score, beam, token in picked
            if score > -math.inf
        ])  # fmt: skip
    return found


def largest(row: numpy.ndarray, n: int) -> numpy.ndarray:
    """The places `[n]` of the n largest numbers of `row [V]`, in order of place; of equal numbers, the first."""
    floor = numpy.partition(row, len(row) - n)[len(row) - n]
    places = (row >= floor).nonzero()[0]
    if len(places) > n:
        above = row[places] > floor
        places = numpy.sort(numpy.concatenate([places[above], places[~above][: n - above.sum()]]))
    return places


def _ending(
    job: Job, candidates: list[list[Candidate]], spans: Sequence[Span], ids: Array, scores: Array
) -> list[list[Candidate]]:
    """The candidates again, where more than tokens can end a row."""
    xp = job.xp
    rows = [start + c.beam for (start, _), mine in zip(spans, candidates, strict=True) for c in mine]
    last = [c.token for mine in candidates for c in mine]
    scores = scores[rows] if job.stopping.own else scores
    reasons = job.stopping.reasons(xp.concatenate([ids[rows], xp.asarray(last)[:, None]], axis=1), scores)
    numbers = iter(range(len(rows)))
    return [[replace(c, ends=reasons.get(next(numbers), "")) for c in mine] for mine in candidates]


def _keep(job: Job, out: Any, logits: Array, scores: Array, places: Sequence[int] | None, count: int) -> None:
    """Keep what is to be returned, each row at its beam's place among all `count`; of a prompt, at all of its beams'.

    places: of the rows; None for those of the prompts, in their order.
    """
    xp = job.xp

    def placed(x: Array, nothing: float = -math.inf) -> Array:
        if places is None:
            return xp.repeat(x, count // len(x), axis=0)
        full = xp.full((count, *x.shape[1:]), nothing, dtype=x.dtype)
        full[xp.asarray(places)] = x
        return full

    for name in ("attentions", "hidden_states"):
        if (arrays := getattr(out, name, None)) is not None:
            setattr(out, name, tuple(placed(a, math.nan) for a in arrays))
    job.keep(placed(logits), placed(scores), out)


def _rank(pair: tuple[float, Beam]) -> tuple[bool, float]:
    """First those that hold all forced words, and of them the likeliest."""
    score, beam = pair
    return beam.lacks_words, -score


def _best(job: Job, searches: Sequence[Sequence[Group]], running: bool = False) -> list[tuple[float, Beam]]:
    """The best N of each prompt. running: of a search that was broken off, where beams that go on count too."""
    N, best = job.settings.num_return_sequences, []
    for groups in searches:
        ended = sorted((pair for group in groups for pair in group.finished), key=_rank)
        if running:
            ended += sorted(((beam.score, beam) for group in groups for beam in group.running), key=_rank)
        best += [*ended, *[(-math.inf, Beam())] * N][:N]  # settings may rule out so much that there are fewer
    return best


def _joined(job: Job, best: Sequence[tuple[float, Beam]]) -> tuple[Array, Array, Array]:
    """As arrays: ids `[B * N, S + new]`, final scores `[B * N]`, and places `[B * N, new]`."""
    xp, new = job.xp, max(len(beam.tokens) for _, beam in best)
    tokens = [[*beam.tokens, *[job.pad] * (new - len(beam.tokens))] for _, beam in best]
    places = [[*beam.places, *[-1] * (new - len(beam.places))] for _, beam in best]
    ids, places = (xp.asarray(rows, dtype="int64").reshape(len(best), new) for rows in (tokens, places))
    prompts = xp.repeat(job.ids, job.settings.num_return_sequences, axis=0)
    return xp.concatenate([prompts, ids], axis=1), xp.asarray([score for score, _ in best]), places
