"""Processors: what is asked of the text changes the logits, whatever the strategy.

A processor takes what is there, ids `[B, T]` with -1 where a prompt is padded, and logits `[B, V]` of the next token;
it returns logits `[B, V]` and leaves what it was given as it was. -inf rules a token out. A user's own is such a
function too, but may write into the logits, for it is given a copy. The order is that of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from ..backend import Array, namespace, to_numpy
from ..errors import InputError
from .filters import suppress
from .settings import GenerationConfig

Processor = Callable[[Array, Array], Array]  # ids [B, T], logits [B, V] -> logits [B, V]


def repetition_penalty(penalty: float) -> Processor:
    """The logits of tokens that are there, above 0 divided by `penalty`, below 0 multiplied. (Keskar et al. 2019)"""

    def process(ids: Array, logits: Array) -> Array:
        xp = namespace(logits)
        spare = xp.concatenate([logits, xp.zeros_like(logits[:, :1])], axis=1)  # a column for padding: id -1
        there = xp.take_along_axis(spare, ids, axis=1)
        xp.put_along_axis(spare, ids, xp.where(there < 0, there * penalty, there / penalty), axis=1)
        return spare[:, :-1]

    return process


def no_repeat_ngram(size: int) -> Processor:
    """Rule out each token that would end a run of `size` tokens which is there already."""

    def process(ids: Array, logits: Array) -> Array:
        xp, T = namespace(logits), ids.shape[1]
        if size > T:
            return logits
        starts = T - size + 1  # where a run may begin
        same = xp.ones((len(ids), starts), dtype=bool)
        for i in range(size - 1):  # token i of every run against token i of the one that is being written
            same &= ids[:, i : i + starts] == ids[:, T - size + 1 + i, None]
        same &= ids[:, :starts] >= 0  # a run does not begin in padding
        spare = xp.concatenate([logits, xp.zeros_like(logits[:, :1])], axis=1)  # a column for runs that are others
        ends = xp.where(same, ids[:, size - 1 :], logits.shape[1])
        xp.put_along_axis(spare, ends, -math.inf, axis=1)
        return spare[:, :-1]

    return process


def sequence_bias(biases: Mapping[tuple[int, ...], float]) -> Processor:
    """Add to the logit of the token that completes a word; a word of one token is always about to be completed."""
    singles = {ids[0]: bias for ids, bias in biases.items() if len(ids) == 1}
    longer = {ids: bias for ids, bias in biases.items() if len(ids) > 1}

    def process(ids: Array, logits: Array) -> Array:
        xp = namespace(logits)
        added = xp.zeros_like(logits)
        for token, bias in singles.items():
            added[:, token] += bias
        for word, bias in longer.items():
            begun = len(word) - 1
            if begun <= ids.shape[1]:
                rows = (ids[:, -begun:] == xp.asarray(word[:-1])).all(-1)
                added[:, word[-1]] += xp.where(rows, bias, 0.0).astype(logits.dtype)
        return logits + added

    return process


def no_stop_before(length: int, ends: Sequence[int]) -> Processor:
    """Rule out what ends a row while fewer than `length` tokens are there, padding counted."""

    def process(ids: Array, logits: Array) -> Array:
        return suppress(logits, namespace(logits).asarray(ends)) if ids.shape[1] < length else logits

    return process


@dataclass(frozen=True)
class Allowed:
    """Leave only the tokens that a user's function, given a row's number, of beams their prompt's, and ids, allows.

    Where other processors have ruled all of them out, they are chosen all the same; of beams, where none has any left.
    """

    function: Callable[[int, Array], Sequence[int]]
    beams: bool

    def __call__(self, ids: Array, logits: Array, prompts: Array) -> Array:
        xp, V, numbers = namespace(logits), logits.shape[1], to_numpy(prompts)
        mask = xp.full_like(logits, -math.inf)
        for row, number in enumerate(numbers.tolist()):
            tokens = numpy.array(to_numpy(self.function(number, ids[row]))).ravel()
            if tokens.dtype.kind not in "iu" or not 0 <= tokens.min(initial=V) <= tokens.max(initial=-1) < V:
                given = f"prefix_allowed_tokens_fn returned {tokens.tolist()} for number {number}"
                raise InputError(f"{given}, expected at least one id, from 0 to {V - 1}.")
            mask[row, xp.asarray(tokens)] = 0
        allowed = logits + mask
        left = to_numpy(allowed.max(-1)) > -math.inf
        if self.beams:
            left = numpy.array([left[numbers == number].any() for number in numbers])
        return xp.where(xp.asarray(left)[:, None], allowed, mask)


def forced_at(length: int, tokens: Sequence[int]) -> Processor:
    """Leave only `tokens` where exactly `length` tokens are there."""

    def process(ids: Array, logits: Array) -> Array:
        if ids.shape[1] != length:
            return logits
        xp = namespace(logits)
        logits = xp.full_like(logits, -math.inf)
        logits[:, xp.asarray(tokens)] = 0
        return logits

    return process


def suppressed(tokens: Sequence[int], at: int | None = None) -> Processor:
    """Rule out `tokens`; with `at`, only where exactly that many tokens are there."""

    def process(ids: Array, logits: Array) -> Array:
        return suppress(logits, namespace(logits).asarray(tokens)) if at in (None, ids.shape[1]) else logits

    return process


def decaying_length(start: int, factor: float, ends: Sequence[int]) -> Processor:
    """From `start` tokens on, raise the logits of what ends a row by |logit| * (factor^n - 1) after n more.

    Up to 1e30 times: that ends any row, and float32 has no numbers for much more.
    """
    most = 30 / math.log10(factor) if factor > 1 else math.inf

    def process(ids: Array, logits: Array) -> Array:
        more = min(ids.shape[1] - start, most)
        if more <= 0:
            return logits
        xp, columns = namespace(logits), list(ends)
        logits = logits.copy()
        stops = logits[:, columns]
        logits[:, columns] = stops + xp.where(xp.isfinite(stops), abs(stops) * (factor**more - 1), 0.0)
        return logits

    return process


def only_numbers(ids: Array, logits: Array) -> Array:
    """NaN becomes 0, infinity the largest or smallest number of the dtype."""
    return namespace(logits).nan_to_num(logits, nan=0.0)


def diversity(penalty: float, chosen: Array, counts: Array) -> Callable[[Array], Array]:
    """Take `penalty` off for each earlier group of beams that has just chosen a token: ids and how many did."""

    def process(logits: Array) -> Array:
        logits = logits.copy()
        logits[:, chosen] -= penalty * counts
        return logits

    return process


def processors(
    s: GenerationConfig, prompt: int, length: int, ends: Sequence[int], own: Sequence[Any], allowed: Any = None
) -> list[Any]:
    """The processors that the settings ask for, in order.

    prompt: length of the prompts; length: that of prompts and all that is to come; ends: what ends a row.
    own: the user's, which come last. allowed: the user's `prefix_allowed_tokens_fn`.
    """
    steps: list[Any] = []
    if s.sequence_bias is not None:
        steps.append(sequence_bias(s.sequence_bias))
    if s.repetition_penalty != 1:
        steps.append(repetition_penalty(s.repetition_penalty))
    if s.no_repeat_ngram_size:
        steps.append(no_repeat_ngram(s.no_repeat_ngram_size))
    if s.bad_words_ids is not None:
        words = [tuple(word) for word in s.bad_words_ids if not (len(word) == 1 and word[0] in ends)]
        steps.append(sequence_bias(dict.fromkeys(words, -math.inf)))  # a row may always end
    least = max(s.min_length, prompt + s.min_new_tokens if s.min_new_tokens else 0)
    if least and ends:
        steps.append(no_stop_before(least, ends))
    if allowed is not None:
        steps.append(Allowed(allowed, s.num_beams > 1))
    begins = s.forced_bos_token_id is not None and prompt == 1
    if begins:
        steps.append(forced_at(1, [s.forced_bos_token_id]))
    if s.forced_eos_token_id:
        steps.append(forced_at(length - 1, s.forced_eos_token_id))
    if s.remove_invalid_values:
        steps.append(only_numbers)
    if s.exponential_decay_length_penalty is not None and ends:
        start, factor = s.exponential_decay_length_penalty
        steps.append(decaying_length(prompt + start, factor, ends))
    if s.suppress_tokens:
        steps.append(suppressed(s.suppress_tokens))
    if s.begin_suppress_tokens:
        steps.append(suppressed(s.begin_suppress_tokens, at=prompt + begins))  # a forced token is no choice
    return [*steps, *map(_checked, own)]


def _checked(own: Any) -> Processor:
    """A user's processor, whose answer is looked at."""
    if not callable(own):
        raise InputError(f"logits_processor holds {own!r}, expected functions of ids and logits that return logits.")

    def process(ids: Array, logits: Array) -> Array:
        answer = own(ids, logits.copy())  # the model's own are kept, and returned
        if getattr(answer, "shape", None) != logits.shape:
            given = getattr(answer, "shape", type(answer).__name__)
            raise InputError(f"logits_processor returned {given}, expected logits of shape {list(logits.shape)}.")
        return answer

    return process
