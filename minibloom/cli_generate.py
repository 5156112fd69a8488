"""`minibloom generate`: one prompt, a file of prompts, standard input, or a text that is written in turns."""

from __future__ import annotations

import argparse
import json
import math
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from .cli_model import add_model, load_model
from .errors import InputError
from .files import checked_target, read_text
from .generation import Continuation, GenerationConfig, check_settings, generate_text, stream_text
from .generation.prepare import prepare
from .generation.prompt_cache import PromptCache
from .generation.session import Session
from .generation.settings import ANY, FIELDS, FILE
from .window_cache import WindowCache

NUMBERS = {  # settings that are options, and what they hold
    "max_new_tokens": int, "max_length": int, "min_new_tokens": int, "max_time": float, "temperature": float,
    "top_k": int, "top_p": float, "min_p": float, "top_h": float, "typical_p": float, "epsilon_cutoff": float,
    "eta_cutoff": float, "num_beams": int, "num_beam_groups": int, "diversity_penalty": float,
    "length_penalty": float, "early_stopping": str, "num_return_sequences": int, "penalty_alpha": float,
    "prompt_lookup_num_tokens": int, "num_assistant_tokens": int, "repetition_penalty": float,
    "no_repeat_ngram_size": int,
}  # fmt: skip
BATCH_SIZE = 8  # prompts of a file that run together, unless said otherwise
NEW_TOKENS = 100  # where neither an option nor the model's own file sets a length
PATIENCE = 2  # seconds without a sign of progress that nobody minds
WORDS = {"bad_word": "bad_words_ids", "force_word": "force_words_ids"}  # options of text -> settings of ids
IDS = {"eos_token_id": "eos_token_id", "suppress_token": "suppress_tokens"}
OPTIONS = {setting: "--" + name.replace("_", "-") for name, setting in (  # how a setting is called here
    *((name, name) for name in (*NUMBERS, "do_sample", "seed", "batch_size", "window")), *WORDS.items(), *IDS.items(),
    ("stop", "stop_strings"), ("logit_bias", "sequence_bias"), ("assistant", "assistant_model"),
)}  # fmt: skip


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.epilog = f"What no option says comes from the model's {FILE}, else it has its default."
    sub.add_argument("prompt", nargs="?", help="the beginning of the text; - for all of standard input")
    sub.add_argument("--file", metavar="FILE", help="prompts from a file, one a line; - for standard input")
    sub.add_argument(
        "--interactive", action="store_true", help="go on in turns: a line from you, then the model; Ctrl-D ends it"
    )
    sub.add_argument("--json", action="store_true", help="a line of JSON for each continuation")
    sub.add_argument("--batch-size", type=int, help=f"prompts of a file that run together (default {BATCH_SIZE})")
    sub.add_argument(
        "--assistant", metavar="PATH_OR_REPO", help="a smaller model of the same tokens that guesses ahead"
    )
    sub.add_argument("--window", type=int, metavar="TOKENS", help="see only so many tokens back, in fixed memory")
    sub.add_argument(
        "--prompt-cache",
        metavar="FILE",
        help="keys and values of a text that the prompts begin with, read instead of computed; made from the prompt "
        "if there is no such file yet",
    )
    sub.add_argument("--stop", action="append", metavar="TEXT", help="end where this text appears; may be repeated")
    sub.add_argument("--bad-word", action="append", metavar="TEXT", help="never write these tokens; may be repeated")
    sub.add_argument(
        "--force-word", action="append", metavar="TEXT", help="with --num-beams: write this; may be repeated"
    )
    sub.add_argument(
        "--logit-bias",
        action="append",
        nargs=2,
        metavar=("TEXT", "NUMBER"),
        help="add the number to the logit that completes the text; below 0 makes it rarer; may be repeated",
    )
    sub.add_argument(
        "--eos-token-id",
        action="append",
        type=int,
        metavar="ID",
        help="end at this token, not the model's; may be repeated",
    )
    sub.add_argument(
        "--suppress-token", action="append", type=int, metavar="ID", help="never choose this token; may be repeated"
    )
    sub.add_argument("--seed", type=int, help="of the draws, which go on from batch to batch and from turn to turn")
    sub.add_argument("--do-sample", action=argparse.BooleanOptionalAction, help=FIELDS["do_sample"].metadata["help"])
    for name, kind in NUMBERS.items():
        default = FIELDS[name].metadata["default"]
        says = f" (default {default})" if default not in (None, False) else ""
        told = FIELDS[name].metadata["help"].replace("default 20", f"default {NEW_TOKENS}")
        sub.add_argument(OPTIONS[name], type=kind, help=told + says)


def run(a: argparse.Namespace) -> int:
    """The command; returns the exit status. Errors and warnings name options, where in Python they name settings."""
    try:
        with warnings.catch_warnings():  # which puts back how Python shows them
            warnings.showwarning = _show_warning
            return _run(a)
    except InputError as error:
        raise InputError(as_options(str(error))) from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"minibloom generate: {as_options(str(message))}", file=sys.stderr)


def as_options(message: str) -> str:
    """`message` with the names of settings as options: do_sample as --do-sample. What a file says stays as it is."""
    if FILE in message:
        return message
    names = "|".join(name if "_" in name else f"{name}(?= is )" for name in OPTIONS)  # the others are words too
    message = re.sub(r", or None\.$", ".", message)  # which no option can be
    return re.sub(rf"(?<![\w./'-])({names})(?![\w/'-])", lambda found: OPTIONS[found[0]], message)


def _run(a: argparse.Namespace) -> int:
    settings = _given_settings(a)
    words = {setting: getattr(a, name) for name, setting in WORDS.items() if getattr(a, name)}
    biases = [(text, _number(bias)) for text, bias in a.logit_bias or []]
    texts = [text for some in words.values() for text in some] + [text for text, _ in biases]
    if not all(text.strip() for text in texts):
        raise InputError("--bad-word, --force-word and --logit-bias need text: one of them is empty.")
    asked = GenerationConfig(**settings)
    _check_source(a)
    own = _own_settings(a)
    if asked.over(own).max_new_tokens is None and asked.over(own).max_length is None:
        settings["max_new_tokens"] = NEW_TOKENS
    stand_in = {text: 2**31 - 1 - i for i, text in enumerate(texts)}  # ids of no token: there is no tokenizer yet
    try:
        as_ids = _word_settings(words, biases, lambda text: [[stand_in[text]]])
        full = check_settings(a.assistant is not None, own, seed=a.seed, **settings | as_ids)
    except InputError as error:
        message = str(error)
        for text, number in stand_in.items():
            message = message.replace(str(number), repr(text))
        raise InputError(message) from None
    if a.interactive:
        _check_interactive(full)
    if a.seed is not None:
        settings["seed"] = numpy.random.default_rng(a.seed)
    prompts = [] if a.interactive else _prompts(a)
    if a.window is not None:
        WindowCache(1, a.window)
        if len(prompts) > 1:
            raise InputError("--window is for one prompt or --interactive: give one prompt.")
        if a.assistant is not None or full.prompt_lookup_num_tokens is not None:
            guesses = "prompt_lookup_num_tokens" if a.assistant is None else "--assistant"
            raise InputError(f"--window and {guesses} are both set: a window cannot take back a wrong guess.")
    if a.prompt_cache is not None:
        _check_prompt_cache(a, prompts, full)
    model, tokenizer = load_model(a)
    settings |= _word_settings(words, biases, lambda text: _ways(tokenizer, text))
    if a.assistant is not None:
        settings["assistant_model"] = type(model).from_pretrained(a.assistant, a.dtype, a.backend)
    cache = None if a.window is None else WindowCache(model.config.n_layer, a.window)
    if a.interactive:
        return _in_turns(Session(model, tokenizer, cache, **settings), a.json)
    if cache is not None:
        settings["past_key_values"] = cache
    if a.prompt_cache is not None:
        settings["past_key_values"] = _prompt_cache(Path(a.prompt_cache), model, tokenizer, prompts)
    if len(prompts) == 1 and not a.json and full.num_beams == full.num_return_sequences == 1:
        _stream(prompts[0], stream_text(model, tokenizer, prompts[0], **settings))
    else:
        _batches(model, tokenizer, prompts, a, settings, full.max_new_tokens)
    return 0


def _given_settings(a: argparse.Namespace) -> dict[str, Any]:
    """The settings that are options, but for those of words, which need a tokenizer."""
    settings = {name: value for name in (*NUMBERS, "do_sample") if (value := getattr(a, name)) is not None}
    if a.early_stopping in ("True", "False", "true", "false"):
        settings["early_stopping"] = a.early_stopping.lower() == "true"
    if a.stop:
        settings["stop_strings"] = a.stop
    return settings | {setting: given for name, setting in IDS.items() if (given := getattr(a, name))}


def _word_settings(
    words: dict[str, list[str]], biases: list[tuple[str, float]], ways: Callable[[str], list[list[int]]]
) -> dict[str, Any]:
    """The settings of words: by name the texts of each, and biases of texts. `ways`: a text as ids, in all its ways."""
    settings: dict[str, Any] = {}
    for name, texts in words.items():
        found = [ways(text) for text in texts]
        settings[name] = found if name == "force_words_ids" else [way for word in found for way in word]
    if biases:
        settings["sequence_bias"] = {tuple(way): bias for text, bias in biases for way in ways(text)}
    return settings


def _check_source(a: argparse.Namespace) -> None:
    """Raise an error unless there is one source of prompts, and --batch-size is for those of a file."""
    sources = [a.prompt is not None, a.file is not None, a.interactive]
    if sum(sources) != 1:
        a.parser.error(
            "give only one of a prompt, --file and --interactive"
            if any(sources)
            else "the following arguments are required: prompt, or one of --file and --interactive"
        )
    if a.batch_size is not None and a.file is None:
        raise InputError(f"batch_size is {a.batch_size}, but only prompts of --file run together: leave it out.")
    if a.batch_size is not None and a.batch_size < 1:
        raise InputError(f"batch_size is {a.batch_size}, expected at least 1.")


def _own_settings(a: argparse.Namespace) -> GenerationConfig:
    """What the model's own file says, which is read before the weights are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model will say the same when it is loaded
        return GenerationConfig.from_pretrained(a.model, a.revision)


def _check_interactive(full: GenerationConfig) -> None:
    """A text that is written in turns has one continuation, shown as it grows."""
    for name, why in (("num_beams", "beams are not known before the end"), ("num_return_sequences", "a turn has one")):
        if (given := getattr(full, name)) > 1:
            raise InputError(f"{name} is {given}, and {why}: leave out --interactive, or give {OPTIONS[name]} 1.")


def _prompts(a: argparse.Namespace) -> list[str]:
    """What is to be continued: no text of it is empty."""
    if a.file is None:
        text = typed(sys.stdin.read).rstrip("\n") if a.prompt == "-" else a.prompt
        if not text:
            raise InputError("the prompt is empty: give at least one character.")
        return [text]
    text = typed(sys.stdin.read) if a.file == "-" else read_text(a.file)
    prompts = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        place = "standard input" if a.file == "-" else a.file
        raise InputError(f"{place} holds no prompt: expected one a line.")
    return prompts


def typed(read: Callable[[], str]) -> str:
    """What `read`, a method of standard input, reads of it."""
    try:
        text = read()
        text.encode()  # in some locales Python lets other bytes pass, as halves of surrogate pairs
    except UnicodeError:
        raise InputError("standard input is not UTF-8 text.") from None
    return text.removeprefix("\ufeff")  # the mark that some editors put first is no text


def _check_prompt_cache(a: argparse.Namespace, prompts: list[str], full: GenerationConfig) -> None:
    """Before anything is loaded: whether the file can be read or written, and can be of use."""
    path = Path(a.prompt_cache)
    if a.interactive or a.window is not None:
        raise InputError("--prompt-cache is for prompts: leave out --interactive and --window.")
    if full.penalty_alpha > 0:
        raise InputError("--prompt-cache holds no hidden states, and penalty_alpha needs them: leave out one of them.")
    if not path.exists() and len(prompts) > 1:
        raise InputError(f"{path} is not there: make it first, with one prompt that all others begin with.")
    checked_target(path)


def _prompt_cache(path: Path, model: Any, tokenizer: Any, prompts: list[str]) -> PromptCache:
    """What the file holds; without a file, the one prompt read now, and written there."""
    if path.exists():
        return PromptCache.load(path, model)
    cache = PromptCache(model, prompts[0], tokenizer=tokenizer)
    cache.save(path)
    return cache


def _ways(tokenizer: Any, text: str) -> list[list[int]]:
    """A word as ids, at the beginning of a text and within it, where a space belongs to it."""
    return [tokenizer(form)["input_ids"] for form in dict.fromkeys((" " + text.lstrip(" "), text))]


def _number(text: str) -> float:
    try:
        return ANY.convert(float(text))
    except ValueError:
        raise InputError(f"--logit-bias ends in {text!r}, expected a text and a finite number.") from None


def _stream(prompt: str, pieces: Iterator[str]) -> None:
    print(prompt, end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def _batches(
    model: Any, tokenizer: Any, prompts: list[str], a: argparse.Namespace, settings: dict[str, Any], new: int | None
) -> None:
    """Continue all prompts, some at a time, and show each as soon as its batch is there.

    A single batch shows its progress in a terminal, in tokens of the `new` that there may be.
    """
    from tqdm import tqdm

    if len(prompts) > 1:  # of one, `generate_text` says the same
        _check_each(model, tokenizer, prompts, settings)
    size = BATCH_SIZE if a.batch_size is None else a.batch_size
    single = len(prompts) <= size
    counted: dict[str, Any] = (
        {"total": new, "unit": " tokens", "disable": None, "delay": PATIENCE, "leave": False}
        if single
        else {"total": len(prompts), "unit": " prompts"}
    )
    with tqdm(file=sys.stderr, **counted) as bar:
        if single and not bar.disable:
            settings = settings | {"stopping_criteria": moving(bar)}
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            try:
                done = generate_text(model, tokenizer, batch, **settings)
            except BaseException as error:  # Ctrl-C too: what was written until then is shown
                bar.close()
                _show(getattr(error, "continuations", []), a.json)
                raise
            if single:
                bar.close()  # before what it counted is shown
            else:
                bar.update(len(batch))
            _show(done, a.json)


def _check_each(model: Any, tokenizer: Any, prompts: list[str], settings: dict[str, Any]) -> None:
    """Raise an InputError that names the first of several prompts that cannot be continued, before any is."""
    for i, prompt in enumerate(prompts):
        try:
            prepare(model, prompt, tokenizer=tokenizer, **settings)
        except InputError as error:
            raise InputError(f"prompt {i + 1}, {reprlib.repr(prompt)}: {error}") from None


def moving(bar: Any) -> Callable[[Any, Any], bool]:
    """A stopping criterion that stops nothing, and moves the bar on with each step of the longest row."""
    begun: list[int] = []  # length of the prompts

    def step(ids: Any, scores: Any) -> bool:
        if not begun:
            begun.append(ids.shape[1] - 1)
        bar.update(max(0, ids.shape[1] - begun[0] - bar.n))
        return False

    return step


def _show(continuations: list[Continuation], as_json: bool) -> None:
    for one in continuations:
        print(_json(one) if as_json else one.prompt + one.text, flush=True)


def _json(one: Continuation) -> str:
    score = None if one.score == -math.inf else one.score  # of fewer beams than were asked for; JSON has no infinity
    return json.dumps({
        "prompt": one.prompt, "text": one.text, "ids": one.ids, "log_probabilities": one.log_probs,
        "score": score, "finish_reason": one.finish_reason,
    }, ensure_ascii=False)  # fmt: skip


def _in_turns(session: Session, as_json: bool) -> int:
    """Read a line, let the model go on, and so forth. Ctrl-C stops a turn, and between turns the command."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print("> ", end="", file=sys.stderr, flush=True)
        line = typed(sys.stdin.readline)
        if not line:  # Ctrl-D
            return 0
        if not line.strip():
            continue
        line, before = line.rstrip("\n"), len(session.ids)
        try:
            for piece in session.turn(line):
                if not as_json:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            if not asks:
                raise
        finally:
            if as_json:  # in any case: a program may wait for it, to go on
                begun = session.last if len(session.ids) > before else None
                print(_json(begun or Continuation(line, "", [], [], None)), flush=True)
            else:
                print(flush=True)
