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
model and the cache are at that time. So does who may act between two tokens in another way: a class of their own for
the model or the cache, or a generator of random numbers that others may draw from meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy

from ..backend import Array
from ..cache import Cache, StaticCache
from ..compiled import at_hand
from ..compiled_choice import Ahead
from ..config import BloomConfig
from .compiled_draw import MOST, MOST_KEPT
from .filters import TopK
from .job import History, Job
from .reader import Reader
from .rows import Rows

AT_ONCE = 2**28  # numbers that a call may go through, see `numbers_of`: some 20 ms, and then Ctrl-C is heard
AT_FIRST = 32  # tokens that there is room made for where a text is shorter: it may end with the first
NO_DRAWS = numpy.empty((0, 0))


def tokens_ahead(job: Job, rows: Rows, history: History) -> int:
    """How many tokens behind `history` may be chosen by one call, the one place where that is decided; 0 where each
    takes one of its own."""
    from ..models import BloomForCausalLM  # here, as it knows of `generate`

    s, c, B, T = job.settings, job.model.config, len(rows.numbers), history.length
    if not job.alone or not at_hand() or job.xp is not numpy or job.processors or not job.stopping.only_tokens:
        return 0
    if type(job.model) is not BloomForCausalLM or type(job.cache) not in (type(None), Cache, StaticCache):
        return 0  # classes that may do something else, or a window, whose keys are dropped on the way
    if s.return_dict_in_generate or len(history.ids) != B or not all(rows.going):
        return 0  # each step's logits, say, are wanted; or the prompts' rows are yet to be repeated, or read padding
    if s.do_sample or job.filters:
        likeliest = job.filters[0] if len(job.filters) == 1 else None
        if not isinstance(likeliest, TopK) or likeliest.k > MOST_KEPT or B * c.vocab_size > MOST:
            return 0
        if isinstance(job.seed, numpy.random.Generator):
            return 0  # which others may draw from meanwhile
    most = max(AT_FIRST, T)
    return min(AT_ONCE // (B * numbers_of(c, T + most)), most, job.length - T)


def numbers_of(c: BloomConfig, T: int) -> int:
    """What a token costs that sees T keys, as so many numbers of weights: those that there are; keys and values, and
    for each key what its weight takes; and what a block takes where all of that is small."""
    E, H = c.hidden_size, c.n_head
    return c.n_layer * (12 * E**2 + 2 * T * (E + 8 * H) + 2**14) + c.vocab_size * E


def go_ahead(
    job: Job, reader: Reader, rows: Rows, feed: Array | None, most: int
) -> Generator[Array, None, tuple[Array, Any]]:
    """Read `feed [B, 1]`, or without it the prompts, and what follows: returns the ids of up to `most` steps, `[n, B]`,
    and the output of the last pass.

    No ids where the loop does not choose the first one: that is to be done by the output's logits. Yields nothing; but
    where it is broken off, by Ctrl-C say, the ids that there were, before it fails.
    """
    k, u = 0, NO_DRAWS
    if job.settings.do_sample:
        k = min(job.filters[0].k, job.model.config.vocab_size)  # type: ignore[attr-defined]
        u = numpy.ascontiguousarray(job.rng.random((most, rows.count))[:, rows.numbers])
    ahead = Ahead(most, numpy.array(job.stopping.ends, "int64"), k, u)
    try:
        out = reader.ahead(feed, ahead)
    except BaseException:
        yield from map(rows.of_all, ahead.chosen)
        raise
    finally:
        if k and (unused := most - len(ahead.chosen)):  # draws that are there for what comes next: so far back in PCG64
            job.rng.bit_generator.advance(2**128 - unused * rows.count)  # type: ignore[attr-defined]
    if not ahead.passes and feed is not None:
        job.alone = False  # the model has no such loop, and is not asked again
    return ahead.chosen, out
