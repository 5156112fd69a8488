"""Contrastive search: a likely token that makes the text say something new.

    score(v) = (1 - alpha) p(v) - alpha max_t cos(h_v, h_t)        among the top_k likeliest v

h_v is the last hidden state at v, were it chosen, and h_t that at position t: a text that turns in circles has hidden
states that are alike. (Su et al. 2022, "A Contrastive Framework for Neural Text Generation")

All candidates are read in one pass, as k rows for each row. They share the cache and differ in its last position
alone; when one is chosen, that position is copied to the others. A caller's cache is given what was chosen in the end,
and with it the hidden states, so that the next turn of a text reads its own tokens alone. Several rows go on with a
copy, as does a window: what it has dropped for a candidate, it cannot take back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..backend import Array
from ..cache import Cache
from ..layers.softmax import softmax
from .job import Job, check_numbers
from .reader import Reader
from .stopping import LENGTH


def unit(x: Array) -> Array:
    """Vectors `[..., E]` made 1 long."""
    return x / (x * x).sum(-1, keepdims=True) ** 0.5


def contrastive_search(job: Job) -> Iterator[Array]:
    """Yield the next id of each row `[B]`, as `decode` does."""
    xp, s, reader, history = job.xp, job.settings, Reader(job).with_own_cache(), job.history()
    B, V = len(job.ids), job.model.config.vocab_size
    k = min(s.top_k, V)
    rows, ended = numpy.arange(B), numpy.zeros(B, dtype=bool)  # on the host, as all that is decided
    here = xp.asarray(rows)  # the same rows, to index with

    before = reader.cache.states if reader.read else None  # of what the cache holds
    out = reader.prompt(output_hidden_states=True)
    logits, states = out.logits[:, -1], unit(out.hidden_states[-1])  # [B, V], [B, T, E]
    if before is not None:
        states = xp.concatenate([before, states], axis=1)
    hidden = history.ids < 0  # padding is like nothing [B, T]
    reader.select(xp.repeat(here, k))
    try:
        while True:
            n = len(rows)
            scores = job.process(history.ids, logits, history.prompts)
            probs = softmax(scores)
            tokens = xp.argsort(-probs, axis=-1, kind="stable")[:, :k]  # [B, k]
            out = reader(tokens.reshape(n * k, 1), output_hidden_states=True)
            new = unit(out.hidden_states[-1][:, -1]).reshape(n, k, -1)  # [B * k, 1, E] -> [B, k, E]
            alike = new @ states.swapaxes(1, 2)  # [B, k, T]
            alike = xp.where(hidden[:, None], -1.0, alike).max(-1)
            worth = (1 - s.penalty_alpha) * xp.take_along_axis(probs, tokens, axis=1) - s.penalty_alpha * alike
            # What is ruled out and stands among the k has probability 0, and could be worth the most by its unlikeness:
            # transformers 4.35.2 then chooses it.
            worth = xp.where(xp.take_along_axis(scores, tokens, axis=1) > -numpy.inf, worth, -numpy.inf)
            best, at = worth.argmax(-1), xp.arange(n)
            chosen = tokens[at, best]
            check_numbers(probs[at, chosen])
            job.keep(logits, scores)
            job.keep_log_probs(logits, here, chosen, B)

            running = ~ended[rows]
            chosen = xp.where(xp.asarray(running), chosen, job.pad)
            history.append(chosen)
            for row, reason in job.stopping.reasons(history.ids, scores).items():
                if running[row]:
                    job.result.reasons[int(rows[row])] = reason
                    ended[rows[row]] = True
            full = xp.full(B, job.pad)
            full[here] = chosen
            yield full
            left = ~ended[rows]
            if history.length == job.length or not left.any():
                for row in rows[left].tolist():
                    job.result.reasons[row] = LENGTH
                return
            logits = out.logits[:, -1].reshape(n, k, V)[at, best]
            states = xp.concatenate([states, new[at, best][:, None]], axis=1)
            hidden = xp.concatenate([hidden, xp.zeros((n, 1), dtype=bool)], axis=1)
            reader.cache.reorder(xp.repeat(at * k + best, k), reader.read - 1)
            if reader.rows_leave and not left.all():
                rows, places = rows[left], xp.asarray(numpy.flatnonzero(left))
                here, logits, states, hidden = here[places], logits[places], states[places], hidden[places]
                reader.select((places[:, None] * k + xp.arange(k)).reshape(-1))
                history.select(places)
    finally:  # however it ends, Ctrl-C too; of the last token, what is read may be another candidate's
        kept = job.callers_cache
        if kept is not None and kept.window is None and B == 1:
            _hand_over(kept, reader.cache, history.length - 1, states)


def _hand_over(kept: Cache, read: Cache, length: int, states: Array) -> None:
    """Put into `kept`, of one row, what `read` holds in each of its equal rows before position `length`."""
    for layer, pair in enumerate(read):
        kept.update(layer, *(x[:1, :, kept.length : length] for x in pair))
    kept.advance(length - kept.length)
    kept.states = states[:, :length]
