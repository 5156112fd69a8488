"""Greedy decoding and sampling: one token a pass, the likeliest or one that is drawn.

Two phases. *Prefill* reads the whole prompt in one pass and fills the cache; *decode* reads one token a pass, the one
chosen last. The prompt costs matrix products over many positions at once, the rest is bound by how fast the weights
can be read from memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..backend import Array
from .ahead import go_ahead, tokens_ahead
from .compiled_draw import drawn
from .filters import TopK, filtered, pick, spread
from .graph import GraphReader, suits_graph
from .job import Job, check_numbers, check_values
from .reader import Reader
from .rows import Rows


def decode(job: Job) -> Iterator[Array]:
    """Yield the next id of each row `[B * N]`, until every row has ended. A row that has ended is filled with `pad`.

    A row that has ended leaves the batch, so that it costs nothing more, where the reader lets rows leave.
    """
    xp, s, reader = job.xp, job.settings, GraphReader(job) if suits_graph(job) else Reader(job)
    N = s.num_return_sequences
    rows, history = Rows(job, len(job.ids) * N), job.history()
    none, feed = xp.empty((0, 0), "int64"), None
    while True:
        if (most := tokens_ahead(job, rows, history)) > 1:
            steps, out = yield from go_ahead(job, reader, rows, feed, most)  # [n, B], ids of so many steps
        else:
            steps, out = none, reader.prompt(N) if feed is None else reader(feed)
        scores = out.logits[:, -1]  # [B, V]
        if not len(steps):
            logits = scores
            if feed is None and N > 1:
                logits = xp.repeat(logits, N, axis=0)
                history.select(xp.repeat(xp.arange(len(job.ids)), N))
                history.prompts = rows.here  # from here on each row is one of its own, as for transformers
            scores = job.process(history.ids, logits, history.prompts)
            # A number for each row of the job, ended or not: so no draw depends on other rows.
            u = job.rng.random(rows.count)[rows.numbers] if s.do_sample else None
            chosen, scores = _choose(job, reader, scores, u)
            job.keep(logits, scores, out, N if feed is None else 1)
            job.keep_log_probs(logits, rows.here, chosen, rows.count)
            steps = chosen[None]

        steps = rows.filled(steps)
        history.append(steps)
        rows.note_ends(history, scores)
        yield from map(rows.of_all, steps)
        if not any(rows.going):
            return
        if reader.rows_leave and not all(rows.going):
            places = rows.leave()
            steps = steps[:, places]
            reader.select(places)
            history.select(places)
        feed = steps[-1][:, None]  # [B, 1]


def _choose(job: Job, reader: Reader, scores: Array, u: numpy.ndarray | None) -> tuple[Array, Array]:
    """The next id of each row `[B]`, by the processed logits `scores [B, V]`; and these after all filters.

    u: `[B]`, numbers in [0, 1) by which the ids are drawn; None: the likeliest are taken.
    """
    xp, V = job.xp, scores.shape[-1]
    if u is None:
        for step in job.filters:  # greedy, only to make log-probabilities of them
            scores = step(scores)
        chosen = reader.likeliest(scores)
        if xp is numpy:  # on a device nothing is looked at, so nothing is gathered for it either
            check_values([scores.item(row, i) for row, i in enumerate(chosen.tolist())])
        return chosen, scores
    wanted = job.settings.output_scores or job.stopping.own  # else nobody looks at them, and they stay as they were
    if not wanted and len(job.filters) == 1 and isinstance(job.filters[0], TopK):
        chosen = drawn(scores, job.filters[0].k, u)
        if chosen is not None:
            return chosen, scores
    ids, values = filtered(scores, job.filters)
    if xp is numpy:
        check_numbers(values.max(-1), drawn=True)
    chosen = pick(values, xp.asarray(u))
    chosen = chosen if ids is None else ids[xp.arange(len(ids)), chosen]
    return chosen, spread(ids, values, V) if wanted else scores
