"""Scoring: how likely a model finds a text that is there.

    perplexity = exp(-mean of log p(token | the tokens before it))      1: it knew; V: it guessed

A long text is read in windows that overlap: each token is scored in the window in which it has the most before it, at
least `window - stride` tokens but for those at the beginning.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy

from ..backend import Array, namespace, number, to_numpy
from ..errors import InputError
from ..fields import whole
from .filters import log_softmax
from .job import NOT_FINITE
from .prompts import read_prompts

if TYPE_CHECKING:
    from ..models import BloomForCausalLM

PIECE = 64  # positions whose logits are held at once: with 250,880 tokens, all of a window's would take gigabytes


def token_log_probs(
    model: BloomForCausalLM,
    input_ids: Any,
    attention_mask: Any = None,
    tokenizer: Any = None,
    window: int = 2048,
    stride: int | None = None,
) -> Array:
    """`[B, S - 1]`: the log-probability of each token but the first, by those before it; NaN at and behind padding.

    input_ids, attention_mask, tokenizer: as in `generate`: an array, lists of ids, or texts; padded on either side.
    window: the most tokens that are read at once. stride: tokens by which a window moves on (default: half of it).
    The text of one window is scored exactly as one pass over it would, and each row as if it were alone.
    """
    stride = check_window(window, stride)
    ids, mask = read_prompts(model, input_ids, attention_mask, tokenizer, continued=False)
    xp, (B, S) = model.xp, ids.shape
    order: Any = None
    if mask is not None:  # windows are laid over each row's tokens: these first, and no token sees what follows it
        order = xp.argsort(1 - mask, axis=1, kind="stable")
        ids = xp.take_along_axis(ids, order, axis=1)
    scores = xp.full((B, S - 1), math.nan, dtype=model.dtype)
    done = 1  # tokens that are scored: there is nothing to say about the first
    for begin in range(0, S, stride):
        end = min(begin + window, S)
        _score_window(model, ids, begin, done, end, scores)
        done = end
        if end == S:
            break
    if mask is None:
        return _numbers(scores, True)
    back = xp.zeros((B, S), dtype=scores.dtype)
    xp.put_along_axis(back, order[:, 1:], scores, axis=1)
    scored = (mask[:, 1:] & mask[:, :-1]) == 1
    return xp.where(scored, _numbers(back[:, 1:], scored), math.nan)


def check_window(window: int, stride: int | None) -> int:
    """The tokens by which a window moves on. An InputError, which needs no model, if no text can be read like this."""
    whole(2).check("window", window)
    stride = window // 2 if stride is None else whole(1).check("stride", stride)
    if stride >= window:
        raise InputError(f"stride is {stride}, expected less than window, which is {window}: else tokens are skipped.")
    return stride


def _score_window(model: BloomForCausalLM, ids: Array, begin: int, done: int, end: int, scores: Array) -> None:
    """Score tokens `done` to `end` by those from `begin` on, into `scores`, a piece at a time."""
    xp, cache = model.xp, None
    cuts = [begin, *range(done - 1, end - 1, PIECE), end - 1]  # the last token is not read, nothing follows it
    for start, stop in pairwise(cuts):
        if start == stop:
            continue
        # Of what comes before `done`, only the cache is wanted: one position's logits are the least there are.
        wanted = stop - start if start >= done - 1 else 1
        out = model(
            ids[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=wanted, checked=True,
            return_dict=True,
        )  # fmt: skip
        cache = out.past_key_values
        if start >= done - 1:
            following = ids[:, start + 1 : stop + 1, None]
            scores[:, start:stop] = xp.take_along_axis(log_softmax(out.logits), following, axis=-1)[..., 0]


def _numbers(scores: Array, scored: Any) -> Array:
    """`scores`, which must be numbers where something was `scored`: NaN stands for padding alone."""
    if number(((scores != scores) & scored).any()):
        raise InputError(NOT_FINITE)
    return scores


def transition_scores(
    sequences: Array, scores: Sequence[Array], beam_indices: Array | None = None, normalize_logits: bool = False
) -> Array:
    """`[B * N, new]`: the score of each token that `generate` chose, out of what it returned with `output_scores`.

    sequences, scores, beam_indices: of its output; the last for beams, behind whose ends it is 0. normalize_logits: of
    a step's scores, make log-probabilities first.
    """
    xp, new = namespace(sequences), len(scores)
    if beam_indices is None:
        beam_indices = xp.repeat(xp.arange(len(sequences))[:, None], new, axis=1)
    chosen = sequences[:, sequences.shape[1] - beam_indices.shape[1] :]
    columns = []
    for step, rows, ids in zip(scores, beam_indices.T, chosen.T, strict=False):  # the best may have ended before others
        there = rows >= 0
        of_rows = xp.where(there[:, None], step[rows], 0)  # [B * N, V]
        of_rows = log_softmax(of_rows) if normalize_logits else of_rows
        columns.append(xp.where(there, xp.take_along_axis(of_rows, ids[:, None], axis=1)[:, 0], 0))
    return xp.stack(columns, axis=1)


def perplexity(model: BloomForCausalLM, input_ids: Any, attention_mask: Any = None, **options: Any) -> float:
    """exp of the mean surprise of all tokens that have one before them. Arguments as in `token_log_probs`."""
    scores = to_numpy(token_log_probs(model, input_ids, attention_mask, **options))
    scored = scores[scores == scores]
    if not scored.size:
        raise InputError("the text has one token: expected at least two, for the first has nothing before it.")
    return mean_perplexity(scored)


def mean_perplexity(scores: numpy.ndarray) -> float:
    """exp of the mean surprise, of log-probabilities `[N]`; infinity where it is beyond all floating-point numbers."""
    surprise = -float(scores.mean(dtype="float64"))
    return math.exp(surprise) if surprise < math.log(sys.float_info.max) else math.inf
