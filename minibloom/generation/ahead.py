"""The fast path of greedy decoding, and of sampling from the k likeliest, with a small model: many tokens by one call.

A small model's pass takes as long as what Python does around it: asking for parameters, making arrays, choosing,
looking whether a row has ended. Where nobody acts between two tokens, the loop that computes a pass chooses the next
token too and begins again (`passes_numbers` of `layers/compiled_blocks.py`), and Python looks at the tokens once there
are some. It is the same loop, and the same choice as `compiled_draw.py`'s: the ids are those of a call each.

Measured on 2 cores of an AMD EPYC (Zen 5), 5 million parameters, 32 tokens behind 64, ms, medians of 15 in turns:

                            greedily        drawn
    a call a token          19.5            20.1
    one call for all        11.3            11.8
    8 rows, a call each     58.7            59.9
    7 tokens at once        51.4            52.5        (23 of these are the prompts', which NumPy reads)

Tried and left: the prompts by a call of their own, and the loop from the first token on (alike, with 0.1 ms more of it
outside of the passes).

Who asks for one token after the other (`generate_steps`, a stream, a callback) gets each by a call of its own, as the
model and the cache are at that time.
"""

from __future__ import annotations

from typing import Any

import numpy

from ..backend import Array
from ..compiled import at_hand
from ..compiled_choice import Ahead
from .compiled_draw import MOST, MOST_KEPT
from .filters import TopK
from .job import History, Job
from .reader import Reader
from .rows import Rows

AT_ONCE = 2**28  # numbers in weights, for each row, that a call goes through: some 20 ms, and then Ctrl-C is heard
NO_DRAWS, NO_STEPS = numpy.empty((0, 0)), numpy.empty((0, 0), "int64")


def tokens_ahead(job: Job, rows: Rows, history: History) -> int:
    """How many tokens behind `history` may be chosen by one call, the one place where that is decided; 0 where each
    takes one of its own."""
    s, c, B = job.settings, job.model.config, len(rows.numbers)
    if not job.alone or not at_hand() or job.xp is not numpy or job.processors or not job.stopping.only_tokens:
        return 0
    if s.return_dict_in_generate or (job.cache is not None and job.cache.window is not None):
        return 0  # each step's logits, say, are wanted; or keys are dropped on the way
    if len(history.ids) != B or not all(rows.going):
        return 0  # the prompts' rows are yet to be repeated, or some read padding
    if s.do_sample or job.filters:
        likeliest = job.filters[0] if len(job.filters) == 1 else None
        if not isinstance(likeliest, TopK) or likeliest.k > MOST_KEPT or B * c.vocab_size > MOST:
            return 0
    return min(AT_ONCE // (12 * c.hidden_size**2 * c.n_layer * B), job.length - history.length)


def go_ahead(job: Job, reader: Reader, rows: Rows, feed: Array | None, most: int) -> tuple[Array, Any]:
    """Read `feed [B, 1]`, or without it the prompts, and what follows -> the ids of up to `most` steps, `[n, B]`; and
    the output of the last pass.

    No ids where the loop does not choose the first one: that is to be done by the output's logits.
    """
    k, u, state = 0, NO_DRAWS, None
    if job.settings.do_sample:
        k, state = min(job.filters[0].k, job.model.config.vocab_size), job.rng.bit_generator.state  # type: ignore[attr-defined]
        u = numpy.ascontiguousarray(job.rng.random((most, rows.count))[:, rows.numbers])
    ahead = Ahead(most, numpy.array(job.stopping.ends, "int64"), k, u)
    out = reader.ahead(feed, ahead)
    chosen = NO_STEPS if ahead.chosen is None else ahead.chosen
    if state is not None and len(chosen) < most:  # draws of which none was made are there for what comes next
        job.rng.bit_generator.state = state
        job.rng.random((len(chosen), rows.count))
    if ahead.chosen is None and feed is not None:
        job.alone = False  # the model has no such loop, and is not asked again
    return chosen, out
