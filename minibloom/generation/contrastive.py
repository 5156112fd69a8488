"""Contrastive search: a likely token that makes the text say something new.

    score(v) = (1 - alpha) p(v) - alpha max_t cos(h_v, h_t)        among the top_k likeliest v

h_v is the last hidden state at v, were it chosen, and h_t that at position t: a text that turns in circles has hidden
states that are alike. (Su et al. 2022, "A Contrastive Framework for Neural Text Generation")

All candidates are read in one pass, as k rows for each row. They share the cache and differ in its last position
alone; when one is chosen, that position is copied to the others. A caller's cache is given what was chosen in the end,
and with it the hidden states, so that the next turn of a text reads its own tokens alone. Several rows go on with a
copy, as does a window: what it has dropped for a candidate, it cannot take back, so it is not returned either.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..backend import Array, namespace
from ..cache import Cache
from ..layers.softmax import softmax
from .job import Job, check_numbers
from .reader import Reader
from .rows import Rows


def unit(x: Array) -> Array:
    """Vectors `[..., E]` made 1 long."""
    return x / (x * x).sum(-1, keepdims=True) ** 0.5


def contrastive_search(job: Job) -> Iterator[Array]:
    """Yield the next id of each row `[B]`, as `decode` does."""
    xp, s, reader, history = job.xp, job.settings, Reader(job).with_own_cache(), job.history()
    rows, V = Rows(job, len(job.ids)), job.model.config.vocab_size
    k = min(s.top_k, V)

    before = reader.cache.states if reader.read else None  # of what the cache holds
    out = reader.prompt(output_hidden_states=True)
    logits, states = out.logits[:, -1], unit(out.hidden_states[-1])  # [B, V], [B, T, E]
    if before is not None:
        states = xp.concatenate([before, states], axis=1)
    reader.select(xp.repeat(rows.here, k))
    try:
        while True:
            at = xp.arange(len(logits))
            scores = job.process(history.ids, logits, history.prompts)
            probs = softmax(scores)
            tokens = xp.argsort(-probs, axis=-1, kind="stable")[:, :k]  # [B, k]
            out = reader(tokens.reshape(-1, 1), output_hidden_states=True)
            new = unit(out.hidden_states[-1][:, -1]).reshape(len(at), k, -1)  # [B * k, 1, E] -> [B, k, E]
            alike = _likeness(new, states, history.ids)
            worth = (1 - s.penalty_alpha) * xp.take_along_axis(probs, tokens, axis=1) - s.penalty_alpha * alike
            # What is ruled out and stands among the k has probability 0, and could be worth the most by its unlikeness:
            # transformers 4.35.2 then chooses it.
            worth = xp.where(xp.take_along_axis(scores, tokens, axis=1) > -numpy.inf, worth, -numpy.inf)
            best = worth.argmax(-1)
            chosen = tokens[at, best]
            check_numbers(probs[at, chosen])
            job.keep(logits, scores)
            job.keep_log_probs(logits, rows.here, chosen, rows.count)

            chosen = rows.filled(chosen)
            history.append(chosen)
            rows.note_ends(history, scores)
            yield rows.of_all(chosen)
            if not any(rows.going):
                return
            logits = out.logits[:, -1].reshape(len(at), k, V)[at, best]
            states = xp.concatenate([states, new[at, best][:, None]], axis=1)
            reader.cache.reorder(xp.repeat(at * k + best, k), reader.read - 1)
            if reader.rows_leave and not all(rows.going):
                places = rows.leave()
                logits, states = logits[places], states[places]
                reader.select((places[:, None] * k + xp.arange(k)).reshape(-1))
                history.select(places)
    finally:  # however it ends, Ctrl-C too; of the last token, what is read may be another candidate's
        kept, read, length = job.callers_cache, reader.cache, history.length - 1
        if kept is not None and kept.window is None and rows.count == 1:
            _hand_over(kept, read, length, states)
        else:
            kept = None
        if s.return_dict_in_generate:  # which has none of candidates
            if kept is None and read.window is None:
                read.select(rows.here * k)
                read.crop(length)
                kept, read.states = read, states[:, :length]
            job.result.cache = kept


def _likeness(new: Array, states: Array, ids: Array) -> Array:
    """How like each candidate's state `[B, k, E]` is to the likest of `states [B, T, E]`, `[B, k]`. ids: `[B, T]`."""
    alike = new @ states.swapaxes(1, 2)  # [B, k, E] @ [B, E, T] -> [B, k, T]
    return namespace(new).where((ids < 0)[:, None], -1.0, alike).max(-1)  # padding is like nothing


def _hand_over(kept: Cache, read: Cache, length: int, states: Array) -> None:
    """Put into `kept`, of one row, what `read` holds in each of its equal rows before position `length`."""
    for layer, pair in enumerate(read):
        kept.update(layer, *(x[:1, :, kept.length : length] for x in pair))
    kept.advance(length - kept.length)
    kept.states = states[:, :length]
