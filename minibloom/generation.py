"""Generation: from logits to text, one token at a time.

    for ids in generate_steps(model, input_ids, max_new_tokens=20):  # [B], the next id of each row
        ...

Two phases. *Prefill* reads the whole prompt in one pass and fills the cache; *decode* reads one token a pass,
the one chosen last. The prompt costs matrix products over many positions at once, the rest is bound by how
fast the weights can be read from memory.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from . import backend as backends
from .backend import Array, namespace, to_numpy
from .errors import InputError, suggest
from .layers.softmax import softmax

if TYPE_CHECKING:
    from .models import BloomForCausalLM
    from .tokenizer import BloomTokenizerFast

# --- from logits to one id: each takes and returns logits [B, V]; -inf rules a token out ---


def suppress(logits: Array, ids: Array) -> Array:
    """Rule out the given token ids."""
    logits = logits.copy()
    logits[:, ids] = -math.inf
    return logits


def keep_top_k(logits: Array, k: int) -> Array:
    """Rule out all but the `k` largest of each row (and what equals the k-th)."""
    xp, V = namespace(logits), logits.shape[-1]
    kth = xp.partition(logits, V - min(k, V), axis=-1)[:, V - min(k, V)]
    return xp.where(logits < kth[:, None], -math.inf, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """Rule out the least likely tokens of each row while they hold at most 1 - p together; the likeliest stays."""
    xp = namespace(logits)
    order = xp.argsort(logits, axis=-1)  # the least likely first
    below = xp.cumsum(softmax(xp.take_along_axis(logits, order, axis=-1)), axis=-1)
    out = below <= 1 - p
    out[:, -1] = False
    ruled_out = xp.empty_like(out)
    xp.put_along_axis(ruled_out, order, out, axis=-1)
    return xp.where(ruled_out, -math.inf, logits)


def processed(logits: Array, temperature: float = 1.0, top_k: int = 50, top_p: float = 1.0) -> Array:
    """The logits whose softmax the next id is drawn with. `top_k` 0 and `top_p` 1 are off."""
    logits = logits / temperature
    logits = keep_top_k(logits, top_k) if top_k else logits
    return keep_top_p(logits, top_p) if top_p < 1 else logits


def draw(logits: Array, rng: numpy.random.Generator) -> Array:
    """One id a row `[B]`, drawn with the probabilities softmax(logits).

    A number u in [0, 1) falls into one of the intervals that the probabilities, added up, cut it into.
    """
    xp = namespace(logits)
    bounds = xp.cumsum(softmax(logits.astype("float64")), axis=-1)  # [B, V]
    u = xp.asarray(rng.random(len(logits))) * bounds[:, -1]  # rounding leaves the last bound a little off 1
    return (bounds <= u[:, None]).sum(-1)


# --- the loop ---


def generate_steps(
    model: BloomForCausalLM,
    input_ids: Any,
    attention_mask: Any = None,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    suppress_tokens: Sequence[int] | None = None,
    **unknown: Any,
) -> Iterator[Array]:
    """Yield the next id of each row, `[B]`, until every row has ended or `max_new_tokens` are there.

    input_ids, attention_mask: prompts `[B, S]`, shorter ones padded on the left, with 0 in the mask there.
    do_sample: draw each token; otherwise the likeliest is taken (greedy).
    temperature (1.0): logits are divided by it: below 1 sharper, above 1 flatter.
    top_k (50), top_p (1.0): draw only from the k likeliest; from the likeliest that hold p together. 0 and 1: off.
    seed: of the draws.
    eos_token_id, pad_token_id: what ends a row ([]: nothing does), what fills it from there on; config's if None.
    suppress_tokens: ids that are never chosen, such as those past the tokenizer's vocabulary.

    The arguments mean what they mean in transformers' `generate`, with its defaults.
    """
    c, xp, V = model.config, model.xp, model.config.vocab_size
    for name in unknown:
        raise InputError(f"generate has no setting {name!r}. It has {', '.join(SETTINGS)}.{suggest(name, SETTINGS)}")
    check_settings(max_new_tokens, do_sample, temperature, top_k, top_p, seed)
    ids = model.check_ids(input_ids)
    mask = None if attention_mask is None else _check_mask(attention_mask, ids, xp)
    ends = _token_ids("eos_token_id", eos_token_id, V)
    if eos_token_id is None:
        ends = numpy.atleast_1d(_first(c.eos_token_id, [])).tolist()
    pads = [c.pad_token_id, *ends, 0] if pad_token_id is None else _token_ids("pad_token_id", [pad_token_id], V)
    pad = next(one for one in pads if one is not None and one < V)  # a config's defaults may lie past a small V
    forbidden = _token_ids("suppress_tokens", suppress_tokens, V)
    if len(set(forbidden)) == V:
        raise InputError("suppress_tokens leaves no token to choose.")
    return _loop(
        model, ids, mask, max_new_tokens, ends, pad, xp.asarray(forbidden, dtype="int64") if forbidden else None,
        numpy.random.default_rng(seed) if do_sample else None,
        _first(temperature, 1.0), _first(top_k, 50), _first(top_p, 1.0),
    )  # fmt: skip


def _loop(
    model: BloomForCausalLM,
    ids: Array,
    mask: Array | None,
    count: int,
    ends: list[int],
    pad: int,
    forbidden: Array | None,
    rng: numpy.random.Generator | None,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Iterator[Array]:
    xp, cache = model.xp, None
    ended = xp.zeros(len(ids), dtype=bool)
    for _ in range(count):
        out = model(ids, past_key_values=cache, attention_mask=mask, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[:, -1]  # [B, V]
        if forbidden is not None:
            logits = suppress(logits, forbidden)
        chosen = logits.argmax(-1) if rng is None else draw(processed(logits, temperature, top_k, top_p), rng)
        chosen = xp.where(ended, pad, chosen)
        yield chosen
        for end in ends:
            ended |= chosen == end
        if bool(ended.all()):
            return
        ids = chosen[:, None]  # [B] -> [B, 1]
        if mask is not None:
            mask = xp.concatenate([mask, xp.ones((len(ids), 1), dtype=mask.dtype)], axis=1)


def generate(model: BloomForCausalLM, input_ids: Any, **settings: Any) -> Array:
    """Prompt and continuation as ids `[B, S + new]`, int64. Settings as in `generate_steps`."""
    steps = generate_steps(model, input_ids, **settings)
    ids = model.check_ids(input_ids).astype("int64")  # NumPy joins unsigned and signed to floats
    return model.xp.concatenate([ids, *(chosen[:, None] for chosen in steps)], axis=1)


def stream_text(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, prompt: str, **settings: Any) -> Iterator[str]:
    """Yield the continuation of `prompt` piece by piece: whole characters only, never half of one.

    Ids that the tokenizer has no token for are never chosen. Settings as in `generate_steps`.
    """
    ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise InputError("the prompt is empty: give at least one character.")
    V = model.config.vocab_size
    given = _token_ids("suppress_tokens", settings.get("suppress_tokens"), V)
    settings["suppress_tokens"] = [*given, *range(len(tokenizer), V)]
    steps = generate_steps(model, [ids], **settings)
    stream = tokenizer.stream()

    def pieces() -> Iterator[str]:  # a function of its own: what stands above runs at the call
        for chosen in steps:
            if piece := stream.put(int(to_numpy(chosen)[0])):
                yield piece
        if piece := stream.end():
            yield piece

    return pieces()


# --- checks ---


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)


def _check_mask(attention_mask: Any, ids: Array, xp: Any) -> Array | None:
    """The prompts' mask `[B, S]`; None where it is all ones, which is the same and cheaper."""
    mask = backends.asarray(attention_mask, xp, "attention_mask")
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, expected {list(ids.shape)} like input_ids.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("attention_mask holds other numbers than 0 (padding) and 1 (token).")
    if not bool(mask[:, -1].all()):
        raise InputError("attention_mask ends in 0: pad prompts on the left, for what is generated follows their end.")
    return None if bool(mask.all()) else mask


def _token_ids(name: str, given: Any, vocab_size: int) -> list[int]:
    """The token ids that the setting `name` holds, one or several, as a list."""
    ids = [] if given is None else [given] if _is_whole(given) else given
    try:
        wrong = [i for i in ids if not _is_whole(i) or not 0 <= i < vocab_size]
    except TypeError:
        wrong = [given]
    if wrong:
        raise InputError(f"{name} holds {wrong[0]!r}, expected ids from 0 to {vocab_size - 1}.")
    return [int(i) for i in ids]


def check_settings(
    max_new_tokens: int,
    do_sample: bool,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
) -> None:
    """Raise an InputError that names the setting that cannot be used. Needs no model."""
    if not _is_whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number of at least 1.")
    for name, value in {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}.items():
        if value is not None and not do_sample:
            raise InputError(f"{name} is {value} but do_sample is False: greedy decoding draws nothing.")
    if temperature is not None and not (_is_real(temperature) and 0 < temperature < math.inf):
        raise InputError(f"temperature is {temperature!r}, expected a number above 0. Greedy is do_sample=False.")
    if top_k is not None and (not _is_whole(top_k) or top_k < 0):
        raise InputError(f"top_k is {top_k!r}, expected a whole number of at least 0 (0 is off).")
    if top_p is not None and not (_is_real(top_p) and 0 < top_p <= 1):
        raise InputError(f"top_p is {top_p!r}, expected a number above 0 and at most 1 (1 is off).")
    if seed is not None and (not _is_whole(seed) or seed < 0):
        raise InputError(f"seed is {seed!r}, expected a whole number of at least 0.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | numpy.integer) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float | numpy.floating)


SETTINGS = tuple(inspect.signature(generate_steps).parameters)[2:-1]  # without model, input_ids and **unknown
