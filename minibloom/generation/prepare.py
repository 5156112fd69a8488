"""The border of generation: prompts and settings become one job, and what is wrong with them is said, before any work.

Behind the border nothing is checked again: a strategy is given a `Job`, and reads the model through a `Reader` (see
`reader.py`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from ..cache import Cache
from ..config import BloomConfig
from ..errors import InputError, OutOfMemory
from ..memory import all_memory, size
from ..trace import Trace, check_trace
from .filters import Filter, filters, log_softmax
from .guidance import Guidance
from .job import Job
from .processors import processors
from .prompts import read_prompts
from .settings import FIELDS, GenerationConfig, check_seed, settle, unknown_setting
from .stopping import Stopping, StopStrings

if TYPE_CHECKING:
    from ..models import BloomForCausalLM


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
    check_tokenizer(tokenizer, "__call__", "__len__")
    s = _settings(model, settings, generation_config, tokenizer, assistant_model is not None)
    seed = check_seed(seed, s.do_sample)
    ends, pad = _ends_and_padding(s, model.config)
    if settings.get("exponential_decay_length_penalty") is not None and not ends:
        raise InputError("exponential_decay_length_penalty is set, but nothing ends a row: give eos_token_id too.")
    ids, mask = read_prompts(model, prompts, attention_mask, tokenizer, pad)
    S = ids.shape[1]
    length = _length(s, S)
    if s.suppress_tokens or tokenizer is not None:
        s.suppress_tokens = _forbidden(s.suppress_tokens or [], model.config.vocab_size, tokenizer)
    _check_first(s, S, model.config.vocab_size, ends)
    allowed = _callable("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn)
    job = Job(
        model, s, ids, mask, length, ends, pad,
        processors(s, S, length, ends, _listed("logits_processor", logits_processor), allowed),
        _filters(s, ends),
        Stopping(ends, _stop_strings(s, tokenizer), s.max_time, _listed("stopping_criteria", stopping_criteria)),
        seed=seed,
        callback=_callable("callback", callback),
        streamer=_streamer(streamer),
        trace=trace,
    )  # fmt: skip
    _guide(job, negative_prompt_ids, negative_prompt_attention_mask, assistant_model)
    job.draft = None if assistant_model is None else _check_draft(model, assistant_model)
    if past_key_values is not None:
        _go_on_from(job, past_key_values, tokenizer)
    _check_listeners(job)
    _check_memory(job)
    if trace is not None:
        _start_trace(job)
    return job


def _settings(
    model: BloomForCausalLM, asked: dict[str, Any], generation_config: Any, tokenizer: Any, draft: bool
) -> GenerationConfig:
    """All settings, each from the call, else from its `generation_config`, else from the model's own file.

    None in the call takes back what these two say: the setting has its default, and without eos_token_id nothing ends.
    """
    for name in asked:
        if name not in FIELDS:
            arguments = [*inspect.signature(prepare).parameters][2:-1]  # without model, prompts and **settings
            raise unknown_setting(name, [*FIELDS, *arguments])
    given, own = map(GenerationConfig.of, (generation_config, getattr(model, "generation_config", None)))
    if taken_back := [name for name, value in asked.items() if value is None]:
        given, own = given.without(taken_back), own.without(taken_back)
    called = GenerationConfig(**asked | ({"eos_token_id": []} if "eos_token_id" in taken_back else {}))
    full = settle(called, given, own, draft)
    _check_ids_known(full, called.over(given), model.config.vocab_size, tokenizer)
    return full


def _check_ids_known(full: GenerationConfig, called: GenerationConfig, V: int, tokenizer: Any) -> None:
    """All ids that are set must be rows of the matrix, and those that are forced must be tokens.

    full: all settings; called: without the model's own, whose ids for ends and padding may lie past a small V.
    """
    names = (
        "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
        "forced_eos_token_id", "bad_words_ids", "sequence_bias", "force_words_ids",
    )  # fmt: skip
    for name in names:
        value = getattr(called if name in ("eos_token_id", "pad_token_id") else full, name)
        if value is None:
            continue
        forced = name.startswith("force")
        limit = min(V, len(tokenizer)) if forced and tokenizer is not None else V
        for one in _flat(value):
            if one >= limit:
                raise InputError(f"{name} holds {one}, expected ids from 0 to {limit - 1}.")


def _flat(value: Any) -> list[int]:
    """All ids in a setting, however they are nested."""
    return [value] if isinstance(value, int) else [i for item in value for i in _flat(item)]


def _ends_and_padding(s: GenerationConfig, config: BloomConfig) -> tuple[list[int], int]:
    """The ids that end a row, and the id that fills it then. A config's defaults may lie past a small vocabulary."""
    ends = s.eos_token_id
    if ends is None:
        ends = numpy.atleast_1d([] if config.eos_token_id is None else config.eos_token_id).tolist()
    ends = [i for i in ends if i < config.vocab_size]
    pads = [s.pad_token_id, config.pad_token_id, *ends, 0]
    return ends, next(i for i in pads if i is not None and i < config.vocab_size)


def _length(s: GenerationConfig, S: int) -> int:
    """The length of a row at most, its prompt of S tokens counted: all that must be written finds room behind that."""
    length = S + s.max_new_tokens if s.max_new_tokens is not None else s.max_length
    if length <= S:
        raise InputError(f"max_length is {length}, but the prompt has {S} tokens already: expected more than that.")
    most = "max_length" if s.max_new_tokens is None else "max_new_tokens"
    room = f"{most} is {getattr(s, most)}: a prompt of {S} tokens leaves room for {length - S} more"
    if s.min_new_tokens > length - S:
        raise InputError(f"min_new_tokens is {s.min_new_tokens}, but {room}.")
    if s.min_length > length:
        raise InputError(f"min_length is {s.min_length}, but {room}.")
    needed = sum(min(map(len, ways)) for ways in s.force_words_ids or [])
    last = bool(s.force_words_ids and s.forced_eos_token_id)  # which is no token of a word
    if needed + last > length - S:
        end = " and forced_eos_token_id the last one" if last else ""
        raise InputError(f"force_words_ids takes {needed} tokens{end}, but {room}.")
    return length


def _forbidden(given: Sequence[int], V: int, tokenizer: Any) -> list[int]:
    """The ids that are never chosen: those given, and those that the tokenizer has no token for."""
    forbidden = set(given)
    if tokenizer is not None:
        forbidden |= {*range(len(tokenizer), V)}  # rows of the matrix that stand for no token
    if len(forbidden) >= V:
        raise InputError("suppress_tokens leaves no token to choose.")
    return sorted(forbidden)


def _check_first(s: GenerationConfig, S: int, V: int, ends: Sequence[int]) -> None:
    """Raise an InputError if settings that rule tokens out, all together, leave none to begin with."""
    ruled_out = {
        "suppress_tokens": s.suppress_tokens or [],
        "begin_suppress_tokens": s.begin_suppress_tokens or [],
        "bad_words_ids": [word[0] for word in s.bad_words_ids or [] if len(word) == 1 and word[0] not in ends],
        "min_new_tokens": ends if s.min_new_tokens else [],
        "min_length": ends if s.min_length > S else [],
    }
    forced = s.forced_bos_token_id is not None or s.forced_eos_token_id
    if not forced and len({token for ids in ruled_out.values() for token in ids}) >= V:
        names = [name for name, ids in ruled_out.items() if ids]
        raise InputError(f"{' and '.join(names)} leave no token to choose: each of all {V} is ruled out.")


def _filters(s: GenerationConfig, ends: Sequence[int]) -> list[Filter]:
    if not s.do_sample:
        return [log_softmax] if s.renormalize_logits else []
    # In beam search, as in transformers, draws leave at least one token that ends no row.
    return filters(s, keep=max(2, 1 + len(ends)) if s.num_beams > 1 else 1)


def check_tokenizer(tokenizer: Any, *methods: str) -> None:
    """Raise an InputError if there is one that cannot do what is needed. Those of others can cut text, and no more."""
    if tokenizer is not None and (isinstance(tokenizer, type) or not all(hasattr(tokenizer, name) for name in methods)):
        raise InputError(f"tokenizer is a {type(tokenizer).__name__}, expected a BloomTokenizerFast of minibloom.")


def _stop_strings(s: GenerationConfig, tokenizer: Any) -> StopStrings | None:
    if s.stop_strings is None:
        return None
    if tokenizer is None:
        raise InputError("stop_strings is set but tokenizer is not: give the tokenizer that says what ids mean.")
    check_tokenizer(tokenizer, "_bytes")
    return StopStrings(tokenizer, s.stop_strings)


def _guide(job: Job, negative: Any, mask: Any, draft: Any) -> None:
    """Give the job the processor that leads away from the negative prompts, if that is asked for."""
    s = job.settings
    if negative is None and mask is not None:
        raise InputError("negative_prompt_attention_mask is set but negative_prompt_ids is not: give both.")
    if s.guidance_scale == 1:
        if negative is not None:
            raise InputError("negative_prompt_ids is set and guidance_scale is 1: nothing is guided. Set it above 1.")
        return
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
    job.processors.insert(0, Guidance(job.model, s.guidance_scale, ids, mask))


def _check_draft(model: BloomForCausalLM, draft: Any) -> Any:
    if not hasattr(draft, "head_matrix"):
        raise InputError(f"assistant_model is a {type(draft).__name__}, expected a BloomForCausalLM.")
    try:
        draft.check_params()
    except InputError as error:
        raise InputError(f"assistant_model: {error}") from None
    if draft.config.vocab_size != model.config.vocab_size:
        raise InputError(
            f"assistant_model has a vocabulary of {draft.config.vocab_size}, the model one of "
            f"{model.config.vocab_size}: expected the same tokens."
        )
    if draft.xp is not model.xp:
        raise InputError(f"assistant_model computes with {draft.backend}, the model with {model.backend}.")
    return draft


def _go_on_from(job: Job, past: Any, tokenizer: Any) -> None:
    """Give the job the cache to go on from: the caller's own, or one made of a prompt or a tuple."""
    model, ids = job.model, job.ids
    c, (B, S) = model.config, ids.shape
    given = past
    if callable(getattr(given, "start", None)):  # a `PromptCache`
        given, job.as_read = given.start(ids, job.mask, model, tokenizer)
    cache = given if isinstance(given, Cache) else Cache.from_tuple(given, B, c.n_head, c.head_dim)
    if cache.seen >= S:
        raise InputError(
            f"past_key_values holds {cache.seen} positions, the prompt has {S}: expected the whole text, of which "
            "the cache holds less. cache.crop(length) forgets some."
        )
    cache.check(c.n_layer, c.n_head, c.head_dim, model.dtype, B, S - cache.seen, model.xp)
    read = job.length - (job.settings.penalty_alpha == 0)  # the last token is read by contrastive search alone
    if cache.max_length is not None and read > cache.max_length:
        raise InputError(
            f"past_key_values has room for {cache.max_length} positions, but the prompt has {S} and up to "
            f"{job.length - S} follow: make one with max_length={read}, or lower max_new_tokens."
        )
    _check_use_of_cache(cache, job.settings, job.draft is not None)
    job.cache, job.callers_cache = cache, cache if cache is past else None


def _check_use_of_cache(cache: Cache, s: GenerationConfig, draft: bool) -> None:
    """Raise an InputError if the strategy that the settings ask for cannot go on from this cache."""
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


def _check_listeners(job: Job) -> None:
    for name, listener in (("callback", job.callback), ("streamer", job.streamer)):
        if job.settings.num_beams > 1 and listener is not None:
            beams = job.settings.num_beams
            raise InputError(f"{name} is set and num_beams is {beams}: beams are not known before the end.")


def _check_memory(job: Job) -> None:
    """Whether keys, values and logits of all rows could be held at all, if none ends before its time."""
    s, c, cache = job.settings, job.model.config, job.cache
    wide = "num_beams" if s.num_beams > 1 else "top_k" if s.penalty_alpha > 0 else "num_return_sequences"
    long = "max_length" if s.max_new_tokens is None else "max_new_tokens"
    rows = len(job.ids) * min(getattr(s, wide), c.vocab_size if wide == "top_k" else math.inf)
    positions = job.length if cache is None or cache.window is None else min(cache.window, job.length)
    each = numpy.dtype(job.model.dtype).itemsize
    needed = each * rows * (2 * positions * c.n_layer * c.hidden_size + c.vocab_size)
    if needed > (there := all_memory(job.xp)):
        given = " and ".join(f"{name} is {getattr(s, name)}" for name in (long, wide) if getattr(s, name) > 1)
        raise OutOfMemory(
            f"{given}: keys, values and logits of up to {rows:,} x {positions:,} tokens take {size(needed)}, and there "
            f"are {size(there)} of memory. Lower what is set, or see only the last tokens, by a window."
        )


def _start_trace(job: Job) -> None:
    """What the first pass would refuse is refused now."""
    check_trace(job.trace)
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
