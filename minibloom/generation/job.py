"""The border of generation: prompts and settings become one job, and what is wrong with them is said, before any work.

Behind the border nothing is checked again: a strategy is given a `Job`, and reads the model through a `Reader` (see
`reader.py`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from .. import backend as backends
from ..backend import Array
from ..cache import Cache
from ..errors import InputError
from ..trace import Trace
from .filters import Filter, filtered, filters, log_softmax, spread
from .guidance import Guidance
from .processors import Allowed, processors
from .settings import FIELDS, GenerationConfig, check_seed, settle, unknown_setting
from .stopping import Stopping, StopStrings

if TYPE_CHECKING:
    from ..models import BloomForCausalLM

NOT_FINITE = (
    "the logits of a token are not finite, expected numbers: parameters of the model are NaN, infinite or too large, "
    "or a logits_processor made them so. Find these; remove_invalid_values=True generates with 0 in place of NaN."
)


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
    rng: numpy.random.Generator = field(default_factory=numpy.random.default_rng)
    callback: Any = None  # called with the ids [B * N] of each step
    streamer: Any = None  # its `put` is called with prompts and ids, on the host, and its `end` in the end
    first: int = 0  # number of the first prompt: not 0 where one of several goes on alone
    trace: Trace | None = None  # sees and edits every pass of the model
    wants_log_probs: bool = False

    # What a strategy leaves here
    reasons: dict[int, str] = field(default_factory=dict)  # row -> why it ended
    passes: int = 0  # forward passes of the model, a draft's not counted
    log_probs: list[Array] = field(default_factory=list)  # [B * N] of each step: what the model gave the id chosen
    beams: list[Any] = field(default_factory=list)  # pairs (final score, beam), the best N of each prompt in a row
    kept_cache: Cache | None = None  # of what was read, where the caller wants it back
    scores: list[Array] = field(default_factory=list)  # [B * N, V] of each step
    logits: list[Array] = field(default_factory=list)
    attentions: list[Any] = field(default_factory=list)  # of each pass
    hidden_states: list[Any] = field(default_factory=list)

    @property
    def xp(self) -> Any:
        return self.model.xp

    def history(self) -> History:
        """The prompts, to be continued."""
        ids = self.ids if self.mask is None else self.xp.where(self.mask == 0, -1, self.ids)
        return History(ids, self.first + self.xp.arange(len(ids)))

    def process(self, ids: Array, logits: Array, prompts: Array | None = None) -> Array:
        """`logits [B, V]` after all processors; ids `[B, T]` are what is there, prompts `[B]` whose continuations."""
        if not self.processors:
            return logits
        for process in self.processors:
            of_prompts = isinstance(process, Allowed | Guidance)
            logits = process(ids, logits, prompts) if of_prompts else process(ids, logits)
        if len(self.processors) == 1 and self.settings.suppress_tokens and self.xp is not numpy:
            return logits  # `_forbidden` has seen that tokens are left, and to look makes the host wait for the device
        likeliest = logits.max(-1)
        if self.settings.num_beams > 1 and prompts is not None:  # of one prompt's beams, some may have no way on
            likeliest = self.xp.where(prompts[:, None] == prompts, likeliest, -numpy.inf).max(-1)
        if not backends.number((likeliest > -numpy.inf).all()):
            if backends.number((likeliest != likeliest).any()):
                raise InputError(NOT_FINITE)
            raise InputError("the settings leave no token to choose at this place: every one is ruled out.")
        return logits

    def scored(self, ids: Array, logits: Array, prompts: Array | None = None) -> Array:
        """The logits `[B, V]` that a token is chosen from, after processors and filters."""
        return spread(*filtered(self.process(ids, logits, prompts), self.filters), logits.shape[-1])

    def keep(self, logits: Array, scores: Array, out: Any = None, times: int = 1) -> None:
        """Keep what is to be returned of a step, and of the pass `out` before it: each of its rows, `times` times."""
        if self.settings.output_logits:
            self.logits.append(logits)
        if self.settings.output_scores:
            self.scores.append(scores)
        for name, kept in (("attentions", self.attentions), ("hidden_states", self.hidden_states)):
            arrays = getattr(out, name, None)
            if arrays is not None:
                kept.append(arrays if times == 1 else tuple(self.xp.repeat(a, times, axis=0) for a in arrays))

    def kept(self) -> dict[str, Any]:
        """What was kept, as fields of an output; None for what was not asked for."""
        names = ("scores", "logits", "attentions", "hidden_states")
        return {name: tuple(getattr(self, name)) or None for name in names} | {"past_key_values": self.kept_cache}

    def keep_log_probs(self, logits: Array, rows: Array, chosen: Array, count: int) -> None:
        """Keep what the model gave the ids `chosen [rows]`; NaN for rows that have ended."""
        if self.wants_log_probs:
            kept = self.xp.full(count, numpy.nan)
            kept[rows] = self.xp.take_along_axis(log_softmax(logits), chosen[:, None], axis=1)[:, 0]
            self.log_probs.append(kept)


def check_numbers(deciding: Array, drawn: bool = False) -> None:
    """Raise an InputError if what decided about a token is NaN, or for a draw, which makes NaN of it, infinite.

    Greedy decoding looks at the logit chosen alone: NaN counts as the largest. On a device nothing is looked at, for
    the host would have to wait.
    """
    if backends.namespace(deciding) is numpy:
        for value in deciding.ravel().tolist():  # a few numbers, for which Python is faster than NumPy
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
        """Add one id a row, `[B]`."""
        if self.length == self._buffer.shape[1]:  # doubling keeps the copies rare
            xp = backends.namespace(self._buffer)
            self._buffer = xp.concatenate([self._buffer, xp.empty_like(self._buffer)], axis=1)
        self._buffer[:, self.length] = chosen
        self.length += 1

    def select(self, rows: Array) -> None:
        """Keep these rows, in this order, repeats allowed."""
        self._buffer, self.prompts = self._buffer[rows], self.prompts[rows]


# --- The border ---


def prepare(
    model: BloomForCausalLM,
    prompts: Any,
    attention_mask: Any = None,
    *,
    past_key_values: Any = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    assistant_model: Any = None,
    logits_processor: Any = None,
    prefix_allowed_tokens_fn: Any = None,
    negative_prompt_ids: Any = None,
    negative_prompt_attention_mask: Any = None,
    stopping_criteria: Any = None,
    seed: int | numpy.random.Generator | None = None,
    callback: Any = None,
    streamer: Any = None,
    trace: Trace | None = None,
    **settings: Any,
) -> Job:
    """The job that `generate` is asked to do; an InputError names what cannot be done."""
    for name in settings:
        if name not in FIELDS:
            arguments = [*inspect.signature(prepare).parameters][2:-1]  # without model, prompts and **settings
            raise unknown_setting(name, [*FIELDS, *arguments])
    asked, given = GenerationConfig(**settings), GenerationConfig.of(generation_config)
    own = GenerationConfig.of(getattr(model, "generation_config", None))
    full = settle(asked, given, own, assistant_model is not None)
    check_seed(seed, full.do_sample)
    _check_ids_known(asked.over(given), model.config.vocab_size, tokenizer)
    c, V = model.config, model.config.vocab_size

    ends = full.eos_token_id
    if ends is None:
        ends = numpy.atleast_1d([] if c.eos_token_id is None else c.eos_token_id).tolist()
    ends = [i for i in ends if i < V]  # a config's defaults may lie past a small V
    pads = [full.pad_token_id, c.pad_token_id, *ends, 0]
    pad = next(i for i in pads if i is not None and i < V)
    ids, mask = read_prompts(model, prompts, attention_mask, tokenizer, pad)
    S = ids.shape[1]
    length = S + full.max_new_tokens if full.max_new_tokens is not None else full.max_length
    _check_lengths(full, S, length)
    full.suppress_tokens = _forbidden(full.suppress_tokens or [], V, tokenizer)
    strings = None
    if full.stop_strings is not None:
        if tokenizer is None:
            raise InputError("stop_strings is set but tokenizer is not: give the tokenizer that says what ids mean.")
        strings = StopStrings(tokenizer, full.stop_strings)
    many_beams = full.num_beams > 1
    job = Job(
        model, full, ids, mask, length, ends, pad,
        processors(
            full, S, length, ends, _listed("logits_processor", logits_processor),
            _callable("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn),
        ),
        # In beam search, as in transformers, draws leave at least one token that ends no row.
        filters(full, (len(ends) + 1 if ends else 2) if many_beams else 1) if full.do_sample else [],
        Stopping(ends, strings, full.max_time, _listed("stopping_criteria", stopping_criteria)),
        rng=numpy.random.default_rng(seed),
        callback=_callable("callback", callback),
        streamer=_streamer(streamer),
        trace=trace,
    )  # fmt: skip
    if full.renormalize_logits and not full.do_sample:
        job.filters.append(log_softmax)
    if (guidance := _guidance(job, negative_prompt_ids, negative_prompt_attention_mask, assistant_model)) is not None:
        job.processors.insert(0, guidance)
    job.draft = None if assistant_model is None else _check_draft(model, assistant_model)
    from_caller = past_key_values
    if past_key_values is not None:
        if hasattr(past_key_values, "start"):
            past_key_values, job.as_read = past_key_values.start(ids, mask, model, tokenizer)
        job.cache = _check_cache(model, past_key_values, ids, length, full.penalty_alpha > 0)
    job.callers_cache = job.cache if job.cache is from_caller else None  # else a copy: a prompt's, or a tuple's
    if job.cache is not None:
        _check_use_of_cache(job.cache, full, job.draft is not None)
    for name, listener in (("callback", callback), ("streamer", streamer)):
        if many_beams and listener is not None:
            raise InputError(f"{name} is set and num_beams is {full.num_beams}: beams are not known before the end.")
    if trace is not None:
        _start_trace(job)
    return job


def _check_lengths(s: GenerationConfig, S: int, length: int) -> None:
    """Whether all that must be written finds room behind the prompt."""
    if length <= S:
        raise InputError(f"max_length is {length}, but the prompt has {S} tokens already: expected more than that.")
    most = "max_length" if s.max_new_tokens is None else "max_new_tokens"
    room = f"{most} is {getattr(s, most)}: a prompt of {S} tokens leaves room for {length - S} more"
    if s.min_new_tokens > length - S:
        raise InputError(f"min_new_tokens is {s.min_new_tokens}, but {room}.")
    if s.min_length > length:
        raise InputError(f"min_length is {s.min_length}, but {room}.")
    needed = sum(min(map(len, ways)) for ways in s.force_words_ids or [])
    if needed > length - S:
        raise InputError(f"force_words_ids takes {needed} tokens, but {room}.")


def read_prompts(
    model: BloomForCausalLM, given: Any, attention_mask: Any, tokenizer: Any, pad: int = 0, continued: bool = True
) -> tuple[Array, Array | None]:
    """Prompts as ids `[B, S]` int64 and their mask; None where it is all ones, which is the same and cheaper.

    given: an array `[B, S]`, or B lists or arrays of ids, which are padded on the left; with a tokenizer, a text or
    several. pad: the id to pad with, which matters only where ids are returned. continued: whether something is to
    follow, so that a mask must end in tokens.
    """
    xp = model.xp
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts):
        if tokenizer is None:
            raise InputError("the prompt is text but tokenizer is not set: give the tokenizer that turns it into ids.")
        given = tokenizer(list(texts))["input_ids"]
        if not all(given):
            raise InputError("the prompt is empty: give at least one character.")
    if attention_mask is None and isinstance(given, list | tuple) and all(map(_is_row, given)):
        given, attention_mask = _padded(given, pad)
    ids = model.check_ids(given).astype("int64")  # NumPy joins unsigned and signed to floats
    return ids, None if attention_mask is None else _check_mask(attention_mask, ids, xp, continued)


def _is_row(given: Any) -> bool:
    """Whether it is one prompt's ids: a list of them, or an array of the host."""
    return isinstance(given, list | tuple) or (isinstance(given, numpy.ndarray) and given.ndim == 1)


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Rows of ids padded on the left to one length, and their mask, which is None where nothing was padded."""
    lengths = [len(row) for row in rows]
    if not all(lengths) or len(set(lengths)) < 2:
        return rows, None  # an empty row is for `check_ids` to refuse
    S = max(lengths)
    return (
        [[pad] * (S - len(row)) + list(row) for row in rows],
        [[0] * (S - n) + [1] * n for n in lengths],
    )


def _check_mask(attention_mask: Any, ids: Array, xp: Any, continued: bool) -> Array | None:
    mask, moved = backends.received(attention_mask, xp, "attention_mask")
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, expected {list(ids.shape)} like input_ids.")
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError("attention_mask holds other numbers than 0 (padding) and 1 (token).")
    if continued and not mask[:, -1].all():
        raise InputError("attention_mask ends in 0: pad prompts on the left, for what is generated follows their end.")
    return None if mask.all() else moved.astype("int64")


def _check_ids_known(asked: GenerationConfig, V: int, tokenizer: Any) -> None:
    """All ids that the call names must be rows of the matrix, and those it forces must be tokens."""
    names = (
        "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
        "forced_eos_token_id", "bad_words_ids", "sequence_bias", "force_words_ids",
    )  # fmt: skip
    for name in names:
        forced = name.startswith("force")
        limit = min(V, len(tokenizer)) if forced and tokenizer is not None else V
        for one in _flat(getattr(asked, name)):
            if one >= limit:
                raise InputError(f"{name} holds {one}, expected ids from 0 to {limit - 1}.")


def _flat(value: Any) -> list[int]:
    """All ids in a setting, however they are nested."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else [i for item in value for i in _flat(item)]


def _forbidden(given: Sequence[int], V: int, tokenizer: Any) -> list[int]:
    """The ids that are never chosen: those given, and those that the tokenizer has no token for."""
    forbidden = set(given)
    if tokenizer is not None:
        forbidden |= {*range(len(tokenizer), V)}  # rows of the matrix that stand for no token
    if len(forbidden) >= V:
        raise InputError("suppress_tokens leaves no token to choose.")
    return sorted(forbidden)


def _check_cache(model: BloomForCausalLM, given: Any, ids: Array, length: int, contrastive: bool) -> Cache:
    """The cache to go on from."""
    c, (B, S) = model.config, ids.shape
    read = length if contrastive else length - 1  # only candidates for the last token are read
    cache = given if isinstance(given, Cache) else Cache.from_tuple(given, B, c.n_head, c.head_dim)
    if cache.seen >= S:
        raise InputError(
            f"past_key_values holds {cache.seen} positions, the prompt has {S}: expected the whole text, of which "
            "the cache holds less. cache.crop(length) forgets some."
        )
    cache.check(c.n_layer, c.n_head, c.head_dim, model.dtype, B, S - cache.seen, model.xp)
    if cache.max_length is not None and read > cache.max_length:
        raise InputError(
            f"past_key_values has room for {cache.max_length} positions, but the prompt has {S} and up to "
            f"{length - S} follow: make one with max_length={read}, or lower max_new_tokens."
        )
    return cache


def _check_use_of_cache(cache: Cache, s: GenerationConfig, draft: bool) -> None:
    if s.penalty_alpha > 0 and cache.seen != (0 if cache.states is None else cache.states.shape[1]):
        raise InputError(
            "past_key_values is set and penalty_alpha too: contrastive search needs the hidden states of the whole "
            "prompt, which only a cache holds that it has filled itself: give that, or an empty one."
        )
    if cache.window is not None and (draft or s.prompt_lookup_num_tokens is not None):
        raise InputError(
            "past_key_values is a WindowCache and speculation is asked for: a wrong guess cannot be taken back from "
            "a window, which has dropped what it would have to hold again."
        )


def _check_draft(model: BloomForCausalLM, draft: Any) -> Any:
    if not hasattr(draft, "head_matrix"):
        raise InputError(f"assistant_model is a {type(draft).__name__}, expected a BloomForCausalLM.")
    if draft.config.vocab_size != model.config.vocab_size:
        raise InputError(
            f"assistant_model has a vocabulary of {draft.config.vocab_size}, the model one of "
            f"{model.config.vocab_size}: expected the same tokens."
        )
    if draft.xp is not model.xp:
        raise InputError(f"assistant_model computes with {draft.backend}, the model with {model.backend}.")
    return draft


def _guidance(job: Job, negative: Any, mask: Any, draft: Any) -> Guidance | None:
    """The processor that leads away from the negative prompts, if that is asked for."""
    s = job.settings
    if negative is None and mask is not None:
        raise InputError("negative_prompt_attention_mask is set but negative_prompt_ids is not: give both.")
    if s.guidance_scale == 1:
        if negative is not None:
            raise InputError("negative_prompt_ids is set and guidance_scale is 1: nothing is guided. Set it above 1.")
        return None
    given = f"guidance_scale is {s.guidance_scale}"
    for name in ("num_beams", "num_return_sequences"):
        if getattr(s, name) > 1:
            raise InputError(f"{given} and {name} is {getattr(s, name)}, expected 1: one row a prompt is guided.")
    if draft is not None or s.prompt_lookup_num_tokens is not None:
        raise InputError(f"{given} and speculation is asked for, whose guesses cannot be taken back from guidance.")
    ids = None
    if negative is not None:
        try:
            ids, mask = read_prompts(job.model, negative, mask, None)
        except InputError as error:
            raise InputError(f"negative_prompt_ids: {error}") from None
        if len(ids) != len(job.ids):
            raise InputError(f"negative_prompt_ids has {len(ids)} rows, the prompts {len(job.ids)}: expected as many.")
    return Guidance(job.model, s.guidance_scale, ids, mask)


def _start_trace(job: Job) -> None:
    """What the first pass would refuse is refused now."""
    if not isinstance(job.trace, Trace):
        raise InputError(f"trace is {job.trace!r}, expected a Trace.")
    if job.draft is not None or job.settings.prompt_lookup_num_tokens is not None:
        raise InputError(
            "trace is set and speculation is asked for, whose passes read guesses too, one row at a time: "
            "leave assistant_model and prompt_lookup_num_tokens out."
        )
    B, S = job.ids.shape
    seen = 0 if job.cache is None else job.cache.seen
    job.trace.start(job.model.step_names(), job.model.axis_sizes(B, S - seen, job.cache))


def _listed(name: str, given: Any) -> list[Any]:
    if given is not None and not callable(given) and not isinstance(given, list | tuple):
        raise InputError(f"{name} is {given!r}, expected a function or a list of them.")
    return [] if given is None else [given] if callable(given) else list(given)


def _callable(name: str, given: Any) -> Any:
    if given is not None and not callable(given):
        raise InputError(f"{name} is {given!r}, expected a function.")
    return given


def _streamer(given: Any) -> Any:
    for method in ("put", "end"):
        if given is not None:
            _callable(f"streamer.{method}", getattr(given, method, "missing"))
    return given
