"""Text in, text out: as a stream of pieces, or whole, many prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backend import to_numpy
from ..errors import InputError
from .beams import search
from .generate import generate_ids, shown
from .job import Job
from .prepare import check_tokenizer, prepare

if TYPE_CHECKING:
    from ..models import BloomForCausalLM
    from ..tokenizer import BloomTokenizerFast


@dataclass
class Continuation:
    """What a model wrote after one prompt.

    ids: the new ones, that which ended it included. log_probs: of each of them, by the model itself, before any
    processor or temperature; of beams, by which they were searched, after processors. finish_reason: "stop token",
    "stop string", "length", "time" or "stopping_criteria", and None where the generation was stopped from outside.
    score: of a beam, the sum of its log_probs over its length to the power of the length penalty (where it was stopped
    from outside, the sum); else None.
    """

    prompt: str
    text: str
    ids: list[int]
    log_probs: list[float]
    finish_reason: str | None
    score: float | None = None


def stream_text(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, prompt: str, **settings: Any) -> Iterator[str]:
    """Yield the continuation of `prompt` piece by piece: whole characters only, never half of one.

    Ids that the tokenizer has no token for are never chosen. Arguments as in `generate`.
    """
    if not isinstance(prompt, str):
        raise InputError(f"the prompt is a {type(prompt).__name__}, expected one text.")
    check_tokenizer(tokenizer, "stream")
    ids = generate_ids(model, prompt, tokenizer=tokenizer, **settings)  # checks first, whether there is one too
    return tokenizer.stream().pieces(ids)


def generate_text(
    model: BloomForCausalLM,
    tokenizer: BloomTokenizerFast,
    prompts: str | Sequence[str],
    callback: Callable[[int, str], Any] | None = None,
    **settings: Any,
) -> list[Continuation]:
    """What follows each of the prompts, which may have any lengths: each is continued as if it were alone.

    callback: is called with the number of a row and a piece of its text, whole characters, as soon as it is there.
    Arguments as in `generate`; with `num_return_sequences=N` there are N continuations of each prompt, in a row.
    If it fails midway, or Ctrl-C stops it, the error has what was there until then as its attribute `continuations`.
    """
    if callback is not None and not callable(callback):
        raise InputError(f"callback is {callback!r}, expected a function.")
    check_tokenizer(tokenizer, "stream")
    job = prepare(model, prompts, tokenizer=tokenizer, **settings)
    job.wants_log_probs = True
    beams = job.settings.num_beams
    if beams > 1 and callback is not None:
        raise InputError(f"callback is set and num_beams is {beams}: beams are not known early.")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    texts = [text for text in texts for _ in range(job.settings.num_return_sequences)]
    written = _Written(job, tokenizer, texts, callback)
    try:
        if beams > 1:
            job.result.beams = search(job)
        else:
            for chosen in shown(job):
                written.add(to_numpy(chosen).tolist())
    except BaseException as error:
        error.continuations = written.continuations()  # type: ignore[attr-defined]
        raise
    return written.continuations()


class _Written:
    """What is written after each of `texts`, so far."""

    def __init__(
        self, job: Job, tokenizer: BloomTokenizerFast, texts: Sequence[str], callback: Callable[[int, str], Any] | None
    ) -> None:
        self.job, self.tokenizer, self.texts, self.callback = job, tokenizer, texts, callback
        self.rows: list[list[int]] = [[] for _ in texts]
        self.streams = [tokenizer.stream() for _ in texts]
        self.over: set[int] = set()  # rows that have ended

    def add(self, chosen: Sequence[int]) -> None:
        """Add the next id of each row; the callback is given the text that is complete with it."""
        reasons = self.job.result.reasons
        for row, one in enumerate(chosen):
            if row in self.over:
                continue
            self.rows[row].append(one)
            piece = self.streams[row].put(one) + (self.streams[row].end() if row in reasons else "")
            if piece and self.callback is not None:
                self.callback(row, piece)
        self.over = set(reasons)

    def continuations(self) -> list[Continuation]:
        result = self.job.result
        if self.job.settings.num_beams > 1:
            return [
                self._continuation(text, beam.tokens, beam.log_probs, beam.reason or None, score)
                for text, (score, beam) in zip(self.texts, result.beams, strict=False)  # none, where nothing has begun
            ]
        log_probs = [to_numpy(step) for step in result.log_probs]
        return [
            self._continuation(text, ids, [float(step[row]) for step in log_probs[: len(ids)]], result.reasons.get(row))
            for row, (text, ids) in enumerate(zip(self.texts, self.rows, strict=True))
        ]

    def _continuation(
        self, text: str, ids: Sequence[int], logs: Sequence[float], reason: str | None, score: float | None = None
    ) -> Continuation:
        decoded = self.tokenizer.decode([*ids], skip_special_tokens=True)
        return Continuation(text, decoded, [*ids], [*logs], reason, score)
