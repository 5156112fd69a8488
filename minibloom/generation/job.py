"""One call of `generate` as every strategy is given it, and what the strategy leaves of it.

Nothing is checked here: that is done at the border (`prepare.py`), once, before any work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy

from .. import backend as backends
from ..backend import Array
from ..cache import Cache
from ..errors import InputError
from ..trace import Trace
from .filters import Filter, filtered, log_softmax, spread
from .guidance import Guidance
from .processors import Allowed
from .settings import GenerationConfig
from .stopping import Stopping

if TYPE_CHECKING:
    from ..models import BloomForCausalLM

NOT_FINITE = (
    "the logits of a token are not finite, expected numbers: parameters of the model are NaN, infinite or too large, "
    "or a logits_processor made them so. Find these; remove_invalid_values=True generates with 0 in place of NaN."
)


@dataclass
class Result:
    """What a strategy leaves of a job: B prompts, each continued N times, in a row."""

    reasons: dict[int, str] = field(default_factory=dict)  # row -> why it ended
    passes: int = 0  # forward passes of the model, a draft's not counted
    log_probs: list[Array] = field(default_factory=list)  # [B * N] of each step: what the model gave the id chosen
    beams: list[Any] = field(default_factory=list)  # pairs (final score, beam), the best N of each prompt in a row
    cache: Cache | None = None  # of what was read, where the caller wants it back
    scores: list[Array] = field(default_factory=list)  # [B * N, V] of each step
    logits: list[Array] = field(default_factory=list)
    attentions: list[Any] = field(default_factory=list)  # of each pass
    hidden_states: list[Any] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """What was kept, as fields of an output; None for what was not asked for."""
        names = ("scores", "logits", "attentions", "hidden_states")
        return {name: tuple(getattr(self, name)) or None for name in names} | {"past_key_values": self.cache}


@dataclass
class Job:
    """One call of `generate`, checked: B prompts of S tokens, each continued N times (`num_return_sequences`)."""

    model: BloomForCausalLM
    settings: GenerationConfig  # complete
    ids: Array  # [B, S] int64
    mask: Array | None  # [B, S], 0 at padding, or None where there is none
    length: int  # of a row at most, prompt and padding counted
    ends: list[int]  # token ids
    pad: int
    processors: list[Any]  # `Processor`s, and those that are also told the prompts of rows
    filters: list[Filter]
    stopping: Stopping
    cache: Cache | None = None  # of the first tokens of the prompts
    as_read: tuple[Array, Array | None] | None = None  # ids and mask, where behind a cache their order is another
    callers_cache: Cache | None = None  # the same, where it is no copy: the caller goes on with what is read here
    draft: BloomForCausalLM | None = None
    seed: Any = None  # of the draws, or a generator
    callback: Any = None  # called with the ids [B * N] of each step
    streamer: Any = None  # its `put` is called with prompts and ids, on the host, and its `end` in the end
    first: int = 0  # number of the first prompt: not 0 where one of several goes on alone
    trace: Trace | None = None  # sees and edits every pass of the model
    wants_log_probs: bool = False
    alone: bool = False  # nobody acts between two steps, say on the cache or the model's parameters

    result: Result = field(default_factory=Result)

    @property
    def xp(self) -> Any:
        return self.model.xp

    @cached_property  # where nothing is drawn, nobody waits for the system's random numbers
    def rng(self) -> numpy.random.Generator:
        return numpy.random.default_rng(self.seed)

    def history(self) -> History:
        """The prompts, to be continued."""
        ids = self.ids if self.mask is None else self.xp.where(self.mask == 0, -1, self.ids)
        return History(ids, self.first + self.xp.arange(len(ids)))

    def process(self, ids: Array, logits: Array, prompts: Array) -> Array:
        """`logits [B, V]` after all processors; ids `[B, T]` are what is there, prompts `[B]` whose continuations."""
        if not self.processors:
            return logits
        for process in self.processors:
            of_prompts = isinstance(process, Allowed | Guidance)
            logits = process(ids, logits, prompts) if of_prompts else process(ids, logits)
        if len(self.processors) == 1 and self.settings.suppress_tokens:
            return logits  # `prepare` has seen that tokens are left, and to look makes the host wait for a device
        likeliest = logits.max(-1)
        if self.settings.num_beams > 1:  # of one prompt's beams, some may have no way on
            likeliest = self.xp.where(prompts[:, None] == prompts, likeliest, -numpy.inf).max(-1)
        if not backends.number((likeliest > -numpy.inf).all()):
            if backends.number((likeliest != likeliest).any()):
                raise InputError(NOT_FINITE)
            raise InputError("the settings leave no token to choose at this place: every one is ruled out.")
        return logits

    def scored(self, ids: Array, logits: Array, prompts: Array) -> Array:
        """The logits `[B, V]` that a token is chosen from, after processors and filters."""
        xp, logits = self.xp, self.process(ids, logits, prompts)
        if not self.filters:
            return logits
        dead = logits.max(-1, keepdims=True) == -numpy.inf  # beams with no way on: a row that filters make nothing of
        scores = spread(*filtered(xp.where(dead, 0.0, logits), self.filters), logits.shape[-1])
        return xp.where(dead, logits, scores)

    def keep(self, logits: Array, scores: Array, out: Any = None, times: int = 1) -> None:
        """Keep what is to be returned of a step, and of the pass `out` before it: each of its rows, `times` times."""
        if self.settings.output_logits:
            self.result.logits.append(logits)
        if self.settings.output_scores:
            self.result.scores.append(scores)
        for name in ("attentions", "hidden_states"):
            if (arrays := getattr(out, name, None)) is not None:
                arrays = arrays if times == 1 else tuple(self.xp.repeat(a, times, axis=0) for a in arrays)
                getattr(self.result, name).append(arrays)

    def keep_log_probs(self, logits: Array, rows: Array, chosen: Array, count: int) -> None:
        """Keep what the model gave the ids `chosen [rows]`; NaN for rows that have ended."""
        if self.wants_log_probs:
            kept = self.xp.full(count, numpy.nan)
            kept[rows] = self.xp.take_along_axis(log_softmax(logits), chosen[:, None], axis=1)[:, 0]
            self.result.log_probs.append(kept)


def check_numbers(deciding: Array, drawn: bool = False) -> None:
    """Raise an InputError if what decided about a token is NaN, or for a draw, which makes NaN of it, infinite.

    Greedy decoding looks at the logit chosen alone: NaN counts as the largest. On a device nothing is looked at, for
    the host would have to wait.
    """
    if backends.namespace(deciding) is numpy:
        check_values(deciding.ravel().tolist(), drawn)


def check_values(values: list[float], drawn: bool = False) -> None:
    """The same of a few numbers, for which Python is faster than NumPy."""
    for value in values:
        if value != value or (drawn and math.isinf(value)):
            raise InputError(NOT_FINITE)


class History:
    """Ids `[B, T]` that grow by a column a step, -1 where a prompt is padded; and their prompts' numbers `[B]`."""

    def __init__(self, ids: Array, prompts: Array) -> None:
        self._buffer, self.length, self.prompts = ids, ids.shape[1], prompts

    @property
    def ids(self) -> Array:
        """`[B, T]`, as a view."""
        return self._buffer[:, : self.length]

    def append(self, chosen: Array) -> None:
        """Add one id a row, `[B]`, or those of several steps, `[n, B]`."""
        new = chosen.reshape(-1, len(self._buffer)).T  # [B, n]
        end = self.length + new.shape[1]
        if end > self._buffer.shape[1]:  # doubling keeps the copies rare
            xp = backends.namespace(self._buffer)
            room = xp.empty((len(self._buffer), max(end, 2 * self.length) - self.length), dtype=self._buffer.dtype)
            self._buffer = xp.concatenate([self.ids, room], axis=1)
        self._buffer[:, self.length : end] = new
        self.length = end

    def select(self, rows: Array) -> None:
        """Keep these rows, in this order, repeats allowed."""
        self._buffer, self.prompts = self._buffer[rows], self.prompts[rows]
