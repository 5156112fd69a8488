"""GenerationConfig: what can be set about generation, with the names, meanings and defaults of transformers.

A setting comes from the call, else from its `generation_config`, else from the model's `generation_config.json`, else
from the table here. What a call asks for must make sense together: a setting that would change nothing is an error that
names it. What a file holds is only a default, and may be more than one call needs.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy

from ..errors import InputError, suggest
from ..fields import FLAG, STRINGS, TOKEN_ID, Rule, choice, described, optional, signature, whole
from ..files import fetch, make_folder, read_json, replacing

# ruff: noqa: RUF009 (a call as a field's default: `_setting` makes the dataclass field itself)

FILE = "generation_config.json"
NEW_TOKENS = 20  # where no length is set

# --- What a setting may hold ---


def _number(expected: str, allowed: Callable[[float], bool]) -> Rule:
    def convert(value: Any) -> float:
        number = math.nan if isinstance(value, bool | str) else float(value)
        if not allowed(number):  # NaN compares false, so it is never allowed
            raise ValueError
        return number

    return Rule(expected, convert)


def _ids(value: Any) -> list[int]:
    one = whole(0).convert
    if isinstance(value, str | bytes | Mapping):  # which have items, too, but are no list
        raise ValueError
    return [one(item) for item in (value if hasattr(value, "__iter__") else [value])]


def _words(value: Any) -> list[list[int]]:
    words = [_ids(list(word)) for word in value]
    if isinstance(value, Mapping) or not words or not all(words):
        raise ValueError
    return words


def _alternatives(value: Any) -> list[Any]:
    """Each word as the list of the ways in which it may be written: a word given alone has one."""
    nested = [word if hasattr(next(iter(word), None), "__iter__") else [word] for word in value]
    if not nested:
        raise ValueError
    return [_words(ways) for ways in nested]


def _bias(value: Any) -> dict[tuple[int, ...], float]:
    pairs = value.items() if isinstance(value, Mapping) else value  # JSON has no tuples for keys
    biases = {tuple(_ids(ids)): float(bias) for ids, bias in pairs}
    if not biases or not all(biases) or not all(map(math.isfinite, biases.values())):
        raise ValueError
    return biases


def _decay(value: Any) -> tuple[int, float]:
    start, factor = value
    return whole(0).convert(start), _number("", lambda x: 0 < x < math.inf).convert(factor)


def _strings(value: Any) -> list[str]:
    strings = STRINGS.convert([value] if isinstance(value, str) else value)
    if not strings or not all(string.encode() for string in strings):  # half of a surrogate pair has no bytes
        raise ValueError
    return strings


def _true(value: Any) -> bool:
    if value is not True:
        raise ValueError
    return True


IDS = Rule("a token id or a list of them", _ids)
WORDS = Rule("a list of words, each a list of token ids, none of them empty", _words)
POSITIVE = _number("a number above 0", lambda x: 0 < x < math.inf)
# Far past what makes a draw sharp or flat; what float32 divides by it stays finite.
TEMPERATURE = _number("a number above 0, from 1e-20 to 1e20", lambda x: 1e-20 <= x <= 1e20)
POWER = _number("a number from -30 to 30", lambda x: -30 <= x <= 30)  # of a length: below 1e280, however long a text is
ANY = _number("a finite number", math.isfinite)
SHARE = _number("a number above 0 and at most 1 (1 is off)", lambda x: 0 < x <= 1)
CUTOFF = _number("a number from 0 (off) to below 1", lambda x: 0 <= x < 1)
UNIT = _number("a number from 0 to 1", lambda x: 0 <= x <= 1)
FROM_1, FROM_0 = whole(1), whole(0)
OFF_AT_0 = Rule("a whole number of at least 0 (0 is off)", FROM_0.convert)
COUNT = Rule("a whole number of at least 1", FROM_1.convert)
EARLY = Rule(
    "True, False or 'never'", lambda x: x if isinstance(x, bool) or x == "never" else choice("never").convert(x)
)


def _setting(default: Any, rule: Rule, help: str, only: str = "") -> Any:
    """A field; `only` names the kind of generation that reads it."""
    metadata = {"default": default, "rule": optional(rule), "help": help, "only": only}
    return dataclasses.field(default=None, metadata=metadata)


@dataclasses.dataclass(init=False, repr=False)
class GenerationConfig:
    """Settings of generation: keywords, attributes, and keys of `generation_config.json`.

        >>> GenerationConfig(do_sample=True, top_p=0.9)
        GenerationConfig(do_sample=True, top_p=0.9)

    A setting that was not set is None here, and has its default when something is generated. An unknown keyword, or a
    value out of range, is an `InputError`.
    """

    # How long
    max_new_tokens: int = _setting(None, COUNT, "most tokens to generate (default 20)")
    max_length: int = _setting(None, COUNT, "the same, counted with the prompt and its padding")
    min_new_tokens: int = _setting(
        0, FROM_0, "no stop token before so many new tokens; a stop string ends it all the same"
    )
    min_length: int = _setting(0, FROM_0, "the same, counted with the prompt and its padding")
    eos_token_id: list[int] = _setting(None, IDS, "what ends a row; an empty list, or None in a call: nothing does")
    stop_strings: list[str] = _setting(
        None,
        Rule("a string that is not empty and has bytes in UTF-8, or a list of them", _strings),
        "text that ends a row when it appears",
    )
    max_time: float = _setting(None, POSITIVE, "seconds after which no further token is begun")

    # Which strategy
    do_sample: bool = _setting(False, FLAG, "draw each token, rather than take the likeliest")
    num_beams: int = _setting(1, COUNT, "continuations that beam search keeps of each prompt")
    num_beam_groups: int = _setting(1, COUNT, "groups of beams that avoid each other's tokens", "beams")
    penalty_alpha: float = _setting(0.0, UNIT, "contrastive search: how much likeness to what is there counts against")
    prompt_lookup_num_tokens: int = _setting(
        None, COUNT, "guess so many tokens at once from what the text already holds, and check them in one pass"
    )
    num_return_sequences: int = _setting(1, COUNT, "continuations of each prompt to return")

    # From logits to logits, whatever the strategy
    repetition_penalty: float = _setting(1.0, POSITIVE, "above 1: makes tokens that are already there less likely")
    no_repeat_ngram_size: int = _setting(0, OFF_AT_0, "no run of so many tokens occurs twice")
    bad_words_ids: list[list[int]] = _setting(None, WORDS, "words, as ids, that never occur")
    sequence_bias: dict[tuple[int, ...], float] = _setting(
        None, Rule("a dictionary {(id, ...): bias}", _bias), "what is added to the logit that completes a word"
    )
    suppress_tokens: list[int] = _setting(None, IDS, "ids that are never chosen")
    begin_suppress_tokens: list[int] = _setting(None, IDS, "ids that are not chosen first")
    forced_bos_token_id: int = _setting(None, TOKEN_ID, "the first new id, where prompts have one, padding counted")
    forced_eos_token_id: list[int] = _setting(None, IDS, "the id that is chosen last, when the length is reached")
    exponential_decay_length_penalty: tuple[int, float] = _setting(
        None, Rule("a pair (new tokens from which on, factor)", _decay), "makes stop tokens likelier and likelier"
    )
    guidance_scale: float = _setting(1.0, ANY, "how far from a negative prompt's continuation; 1: not guided")
    remove_invalid_values: bool = _setting(False, FLAG, "turn NaN and infinite logits into numbers")
    renormalize_logits: bool = _setting(False, FLAG, "make the processed logits log-probabilities again")

    # Drawing
    temperature: float = _setting(
        1.0, TEMPERATURE, "logits are divided by it: below 1 sharper, above 1 flatter", "drawing"
    )
    top_k: int = _setting(50, OFF_AT_0, "draw only from the k likeliest tokens; 0: from all", "drawing")
    top_p: float = _setting(1.0, SHARE, "draw only from the likeliest tokens that hold p together", "drawing")
    min_p: float = _setting(None, UNIT, "draw only tokens at least so likely, as a share of the likeliest's", "drawing")
    top_h: float = _setting(None, SHARE, "draw from the likeliest that hold this share of the entropy", "drawing")
    typical_p: float = _setting(1.0, SHARE, "draw only from the most typical tokens that hold p together", "drawing")
    epsilon_cutoff: float = _setting(0.0, CUTOFF, "draw only tokens at least so likely", "drawing")
    eta_cutoff: float = _setting(0.0, CUTOFF, "the same, with less where many tokens are likely", "drawing")

    # Beams
    length_penalty: float = _setting(
        1.0, POWER, "a sum of log-probabilities is divided by length to this power", "beams"
    )
    early_stopping: bool | str = _setting(
        False, EARLY, "once num_beams have ended, stop: True at once, False when a better one is unlikely, 'never' only"
        " when it is impossible", "beams",
    )  # fmt: skip
    diversity_penalty: float = _setting(0.0, ANY, "what a token loses for each earlier group that chose it", "groups")
    force_words_ids: list[list[list[int]]] = _setting(
        None, Rule("a list of words, each a list of token ids or a list of ways to write it", _alternatives),
        "words, as ids, that must occur", "beams",
    )  # fmt: skip

    # Speculation
    max_matching_ngram_size: int = _setting(2, COUNT, "longest run of tokens that is looked up", "lookup")
    num_assistant_tokens: int = _setting(20, COUNT, "tokens that the draft model guesses at once", "draft")
    num_assistant_tokens_schedule: str = _setting(
        "constant", choice("constant", "heuristic"), "'heuristic': two more after a guess that was all right, else one"
        " less", "draft",
    )  # fmt: skip
    assistant_confidence_threshold: float = _setting(
        0.4, UNIT, "the draft model stops guessing after a token less likely than that", "draft"
    )

    # What is returned
    return_dict_in_generate: bool = _setting(False, FLAG, "return an output object instead of ids")
    output_scores: bool = _setting(False, FLAG, "with the processed logits of each step", "returning")
    output_logits: bool = _setting(False, FLAG, "with the model's logits of each step", "returning")
    output_attentions: bool = _setting(False, FLAG, "with the attentions of each pass", "returning")
    output_hidden_states: bool = _setting(False, FLAG, "with the hidden states of each pass", "returning")

    pad_token_id: int = _setting(None, TOKEN_ID, "what fills a row that has ended")
    bos_token_id: int = _setting(None, TOKEN_ID, "not read: BLOOM begins without one")
    use_cache: bool = _setting(True, Rule("True", _true), "always: keys and values are kept")

    # What a file asks for and minibloom cannot do, each with its error, which `generate` raises: a model loads without.
    refused: ClassVar[dict[str, tuple[Any, str]]] = {}

    def __init__(self, **given: Any) -> None:
        self.__dict__["refused"] = {}  # beside what is set; what is not is the class's None
        for name, value in given.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELDS:
            raise unknown_setting(name, FIELDS)
        super().__setattr__(name, FIELDS[name].metadata["rule"].check(name, value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    # --- Files ---

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are set, and nothing else."""
        found = [name for name, value in self.__dict__.items() if value is not None and name != "refused"]
        values = {name: self.__dict__[name] for name in sorted(found, key=PLACES.__getitem__)}
        return {name: copy.deepcopy(x) if isinstance(x, list | dict) else x for name, x in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """Return the settings in `values`, as a file has them: remarks of transformers are left out."""
        settings = cls()
        for name, value in values.items():
            settings._take(name, value)
        return settings

    def _take(self, name: str, value: Any) -> None:
        """Set what a file of transformers has under `name`."""
        if name in FIELDS:
            setattr(self, name, value)
        elif name in NOT_DONE and value not in (None, NOT_DONE[name]):
            raise InputError(f"{name} is {value!r}: minibloom does not do this. Take it out of the settings.")
        elif name not in NOT_DONE and name not in REMARKS and value is not None:
            raise unknown_setting(name, FIELDS)

    @classmethod
    def of(cls, given: Any) -> GenerationConfig:
        """The settings in what is given as `generation_config`: these, a dictionary, transformers' object, or None."""
        if given is None or isinstance(given, cls):
            return given or cls()
        values = given.to_dict() if hasattr(given, "to_dict") and not isinstance(given, type) else given
        if not isinstance(values, Mapping):
            expected = "a GenerationConfig or a dictionary of settings"
            raise InputError(f"generation_config is {reprlib.repr(given)}, expected {expected}.")
        return cls.from_dict(values)

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path | None = None, revision: str | None = None, **changes: Any
    ) -> GenerationConfig:
        """Return the settings in a folder or a hub repository, with some changed; all unset where it has no file.

        A file of others stops no model from loading. What minibloom does not know, or what changes no result, is left
        out with a warning; what else cannot be done is an error when something is generated.
        """
        # With a file that each checkpoint has: a repository may be without one of settings.
        folder = fetch(path_or_repo, ["config.json", FILE], revision)
        file, settings = folder / FILE, cls.from_dict(changes)
        for name, value in (read_json(file) if file.exists() else {}).items():
            if name in changes:
                continue
            try:
                settings._take(name, value)
            except InputError as error:
                if name in SPEED_ONLY or name not in (*FIELDS, *NOT_DONE):
                    warnings.warn(f"{file}: {error} It is left out.", stacklevel=2)
                else:
                    settings.refused[name] = value, f"{file}: {error}"
        return settings

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `generation_config.json` into `folder`. transformers reads it too."""
        values = {name: value for name, (value, _) in self.refused.items()} | self.to_dict()
        if self.sequence_bias is not None:
            values["sequence_bias"] = [[list(ids), bias] for ids, bias in self.sequence_bias.items()]
        with replacing(make_folder(folder) / FILE) as path:
            path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    # --- Settings that meet ---

    def over(self, base: GenerationConfig) -> GenerationConfig:
        """These settings, and `base`'s where one is not set here. Of two lengths, one set here hides both of `base`."""
        together = base.to_dict()
        if not together:
            return self
        for ours, other in LENGTHS:
            if getattr(self, ours) is not None or getattr(self, other) is not None:
                together.pop(ours, None)
                together.pop(other, None)
        return GenerationConfig(**together | self.to_dict())

    def without(self, names: Sequence[str]) -> GenerationConfig:
        """A copy in which these are not set."""
        left = GenerationConfig(**{name: value for name, value in self.to_dict().items() if name not in names})
        left.refused.update((name, why) for name, why in self.refused.items() if name not in names)
        return left

    def complete(self) -> GenerationConfig:
        """A copy in which every setting has its value: what is not set has its default."""
        full, here = GenerationConfig(), self.to_dict()
        for new, total in LENGTHS:
            if new in here:  # a file that has both: transformers goes by that of new tokens
                here.pop(total, None)
        full.__dict__.update(DEFAULTS | here)  # not set one by one, which they have been
        if full.max_new_tokens is None and full.max_length is None:
            full.max_new_tokens = NEW_TOKENS
        return full


LENGTHS = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))
FIELDS = {field.name: field for field in dataclasses.fields(GenerationConfig)}
PLACES = {name: i for i, name in enumerate(FIELDS)}
DEFAULTS = {name: field.metadata["default"] for name, field in FIELDS.items()}
GenerationConfig.__signature__ = signature(dict.fromkeys(FIELDS))  # type: ignore[attr-defined]
GenerationConfig.__doc__ = f"{GenerationConfig.__doc__}" + described(
    {name: (field.metadata["help"], field.metadata["default"]) for name, field in FIELDS.items()}
)
REMARKS = ("_from_model_config", "transformers_version", "_commit_hash")  # that transformers leaves in its files
NOT_DONE: dict[str, Any] = {  # what transformers has and minibloom has not, and the value that changes nothing
    "cache_implementation": "dynamic", "cache_config": None, "max_cache_len": None, "use_mtp": False,
    "encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "token_healing": False,
    "watermarking_config": None, "decoder_start_token_id": None, "is_assistant": False,
    "assistant_early_exit": None, "assistant_lookbehind": 10, "target_lookbehind": 10,
    "assistant_ensemble_weight": None, "speculation_type": None, "compile_config": None, "disable_compile": False,
    "low_memory": False, "dola_layers": None, "constraints": None, "prefill_chunk_size": None,
}  # fmt: skip
SPEED_ONLY = (  # what changes time or memory, and no result
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "low_memory", "prefill_chunk_size", "use_mtp", "speculation_type", "is_assistant", "assistant_early_exit",
    "assistant_lookbehind", "target_lookbehind", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "max_matching_ngram_size",
)  # fmt: skip


def unknown_setting(name: str, known: Sequence[str] | Mapping[str, Any]) -> InputError:
    """The error for a setting that there is not."""
    if name in NOT_DONE:
        return InputError(f"generate has no setting {name!r}: transformers has it, minibloom does not do this.")
    return InputError(f"generate has no setting {name!r}. It has {', '.join(known)}.{suggest(name, known)}")


# --- What makes no sense together ---


def settle(asked: GenerationConfig, given: GenerationConfig, own: GenerationConfig, draft: bool) -> GenerationConfig:
    """All settings that something is generated by; an InputError names one that cannot be.

    asked: what the call sets; given: its `generation_config`; own: what the model's own file sets.
    draft: whether there is a draft model.
    """
    called = asked.over(given)
    full = called.over(own).complete()
    for name, (_, error) in (own.refused | given.refused).items():
        unread = name in FIELDS and _unread(name, full, draft)  # temperature, say, where nothing is drawn
        if getattr(called, name, None) is None and not unread:
            raise InputError(error)
    _check_together(asked, full, draft)
    if given.to_dict():
        _check_read(given, (full, given.complete()), draft)  # what makes sense alone may be more than this call needs
    return full


def _check_read(settings: GenerationConfig, readers: Sequence[GenerationConfig], draft: bool) -> None:
    """Raise an InputError that names one of `settings` which no generation by one of `readers` would read."""
    for name, value in settings.to_dict().items():
        unread = [_unread(name, full, draft) for full in readers]
        if all(unread) and value != DEFAULTS[name]:
            raise InputError(f"{name} is {value} but {unread[0]}.")


def _unread(name: str, s: GenerationConfig, draft: bool) -> str:
    """Why a generation by `s` does not read the setting `name`, or an empty string."""
    only = FIELDS[name].metadata["only"]
    if not only:
        return ""
    kinds = {  # kind of generation -> whether it is asked for, and what is said if it is not
        "drawing": (s.do_sample, "do_sample is False: greedy decoding draws nothing"),
        "beams": (s.num_beams > 1, "num_beams is 1: only beam search reads it"),
        "groups": (s.num_beam_groups > 1, "num_beam_groups is 1: only groups differ from each other"),
        "lookup": (s.prompt_lookup_num_tokens is not None, "prompt_lookup_num_tokens is not set: nothing is looked up"),
        "draft": (draft, "assistant_model is not set: there is no draft model"),
        "returning": (s.return_dict_in_generate, "return_dict_in_generate is False: ids alone are returned"),
    }
    asked_for, says = kinds[only]
    return "" if asked_for or (name == "top_k" and s.penalty_alpha > 0) else says


def _check_together(asked: GenerationConfig, full: GenerationConfig, draft: bool) -> None:
    """Raise an InputError that names a setting which contradicts another, or would change nothing.

    asked: what this call sets; full: the same with all defaults. draft: whether there is a draft model.
    """
    lookup, contrast = full.prompt_lookup_num_tokens is not None, full.penalty_alpha > 0
    _check_read(asked, [full], draft)

    def refuse(when: bool, message: str) -> None:
        if when:
            raise InputError(message)

    for new, total in LENGTHS:
        both = getattr(asked, new) is not None and getattr(asked, total) is not None
        refuse(both, f"{new} is {getattr(asked, new)} and {total} is {getattr(asked, total)}: give one of them.")
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        low, high = getattr(full, least), getattr(full, most)
        refuse(high is not None and low > high, f"{least} is {low}, more than {most}, which is {high}.")

    beams, groups, returned = full.num_beams, full.num_beam_groups, full.num_return_sequences
    speculating = "assistant_model" if draft else "prompt_lookup_num_tokens"
    if draft or lookup:
        refuse(draft and lookup, "assistant_model and prompt_lookup_num_tokens are both set: give one of them.")
        refuse(beams > 1, f"{speculating} is set and num_beams is {beams}: speculation follows one continuation.")
        refuse(contrast, f"{speculating} is set and penalty_alpha is {full.penalty_alpha}: give one of them.")
        refuse(returned > 1, f"{speculating} is set and num_return_sequences is {returned}, expected 1.")
        for name in ("output_attentions", "output_hidden_states"):
            refuse(getattr(full, name), f"{speculating} is set and {name} is True: passes over guesses have no steps.")
    if contrast:
        alpha = f"penalty_alpha is {full.penalty_alpha}"
        refuse(full.do_sample, f"{alpha} and do_sample is True: contrastive search draws nothing.")
        refuse(beams > 1, f"{alpha} and num_beams is {beams}, expected 1.")
        refuse(full.top_k < 2, f"{alpha} and top_k is {full.top_k}, expected at least 2 tokens to choose among.")
        for name in ("output_attentions", "output_hidden_states"):
            refuse(getattr(full, name), f"{alpha} and {name} is True: passes over candidates are not returned.")
    if groups > 1:
        refuse(beams % groups > 0, f"num_beam_groups is {groups}, expected a divisor of num_beams, which is {beams}.")
        refuse(full.diversity_penalty <= 0, f"diversity_penalty is {full.diversity_penalty} and num_beam_groups is "
               f"{groups}, expected a number above 0: else all groups are the same.")  # fmt: skip
        refuse(full.do_sample, f"num_beam_groups is {groups} and do_sample is True: groups of beams draw nothing.")
    if full.force_words_ids is not None and beams > 1:
        refuse(full.do_sample, "force_words_ids is set and do_sample is True: give one of them.")
        refuse(groups > 1, f"force_words_ids is set and num_beam_groups is {groups}, expected 1.")
        _check_forced_words(full)
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(full, name)
        only_never = forced not in (None, []) and {*_ids(forced)} <= {*(full.suppress_tokens or [])}
        refuse(only_never, f"{name} is {forced} and suppress_tokens rules it out: take it out of one of them.")
    if returned > 1:
        alone = beams == 1 and not full.do_sample
        refuse(alone, f"num_return_sequences is {returned}, but greedy decoding has 1: use do_sample or num_beams.")
        refuse(1 < beams < returned, f"num_return_sequences is {returned}, more than num_beams, which is {beams}.")


def _check_forced_words(s: GenerationConfig) -> None:
    """Raise an InputError if a word that must occur has no way to be written that may occur."""
    never = {"suppress_tokens": [[token] for token in s.suppress_tokens or []], "bad_words_ids": s.bad_words_ids or []}

    def ruled_out(way: list[int], name: str) -> bool:
        return any(way[i : i + len(word)] == word for word in never[name] for i in range(len(way)))

    for ways in s.force_words_ids:
        by = [[name for name in never if ruled_out(way, name)] for way in ways]
        if all(by):
            names = " and ".join(dict.fromkeys(name for found in by for name in found))
            raise InputError(f"force_words_ids holds {ways}, ruled out by {names}: take it out of one of them.")


def check_settings(draft: bool = False, own: GenerationConfig | None = None, **settings: Any) -> GenerationConfig:
    """Return what `settings` come to; an InputError names one that cannot be used, or not beside another.

    Needs no model: `own` is what its file says, as of `GenerationConfig.from_pretrained`.
    """
    seed = settings.pop("seed", None)
    full = settle(GenerationConfig(**settings), GenerationConfig(), own or GenerationConfig(), draft)
    check_seed(seed, full.do_sample)
    return full


def _seed(value: Any) -> int | numpy.random.Generator:
    return value if isinstance(value, numpy.random.Generator) else whole(0, 2**128).convert(value)


SEED = optional(Rule("a whole number from 0 to 2**128, or a NumPy generator", _seed))


def check_seed(seed: Any, do_sample: bool) -> Any:
    """`seed` as NumPy takes it; an InputError if the draws cannot begin from it."""
    if seed is not None and not do_sample:
        raise InputError(f"seed is {SEED.check('seed', seed)} but do_sample is False: greedy decoding draws nothing.")
    return SEED.check("seed", seed)
