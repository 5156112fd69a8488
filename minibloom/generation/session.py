"""A text that somebody and a model write in turns. What was read stays in the cache, so a turn costs its own tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from ..backend import to_numpy
from ..cache import Cache
from ..errors import InputError
from .generate import ids_of, prepare_stream
from .job import Job
from .settings import SEED
from .text import Continuation

if TYPE_CHECKING:
    from ..models import BloomForCausalLM
    from ..tokenizer import BloomTokenizerFast


class Session:
    """Turns of one text.

        session = Session(model, tokenizer, max_new_tokens=30)
        for piece in session.turn("All human beings"):
            print(piece, end="")

    ids: of the whole text. cache: a `Cache` without it, or a `WindowCache` for a text without end. Settings as in
    `generate`; the draws of `seed` go on from turn to turn.
    """

    def __init__(
        self, model: BloomForCausalLM, tokenizer: BloomTokenizerFast, cache: Cache | None = None, **settings: Any
    ) -> None:
        if "past_key_values" in settings:
            raise InputError("past_key_values is set, but a session has its own: give it as cache.")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        if settings.get("seed") is not None:
            settings["seed"] = numpy.random.default_rng(SEED.check("seed", settings["seed"]))
        self.cache = Cache(model.config.n_layer) if cache is None else cache
        self.ids: list[int] = []
        self._turn: Any = None  # the last one, as a generator
        self._last: tuple[str, int, Job] | None = None  # what was added, how many ids there were then, and what follows

    def turn(self, text: str) -> Iterator[str]:
        """Add `text`, and yield what the model adds to it, piece by piece: whole characters only.

        A turn that is broken off, by Ctrl-C or because nobody asks for its next piece, is kept as far as it came; the
        next turn ends it.
        """
        new = self.tokenizer(text)["input_ids"]
        if not new:
            raise InputError("the text is empty: give at least one character.")
        if self._turn is not None:
            self._turn.close()  # before it reads more into the cache
        ids = [*self.ids, *new]
        job = prepare_stream(
            self.model, [ids], past_key_values=self.cache, tokenizer=self.tokenizer, **self.settings
        )  # fmt: skip
        job.wants_log_probs = True

        def noted() -> Iterator[int]:  # a function of its own: what stands above runs at the call
            self.ids, self._last = ids, (text, len(ids), job)
            for one in ids_of(job):
                ids.append(one)
                yield one

        self._turn = self.tokenizer.stream().pieces(noted())
        return self._turn

    @property
    def last(self) -> Continuation | None:
        """What the model added in the last turn, as far as it came; None before the first."""
        if self._last is None:
            return None
        prompt, begin, job = self._last
        ids, result = self.ids[begin:], job.result
        return Continuation(
            prompt, self.tokenizer.decode(ids, skip_special_tokens=True), ids,
            [float(to_numpy(step)[0]) for step in result.log_probs[: len(ids)]], result.reasons.get(0),
        )  # fmt: skip

    @property
    def text(self) -> str:
        """All of it."""
        return self.tokenizer.decode(self.ids, skip_special_tokens=True)
