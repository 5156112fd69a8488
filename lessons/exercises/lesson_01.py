"""Checks of lesson 1: tokens."""

from __future__ import annotations

from typing import Any

import numpy
from tokenizers import Regex, pre_tokenizers

from minibloom import BloomTokenizerFast
from minibloom.byte_pair import SPLIT

from . import Checks, same

check = Checks()
LETTERS = list("abé人ह1 \n\t()|[].,!?…。，、।۔،;'\u00a0\u3000")


@check.exercise
def cut(answer: Any) -> None:
    real = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    rng = numpy.random.default_rng(1)
    by_hand = [
        "",
        "a",
        " ",
        "  ",
        " a",
        "  a",
        "a ",
        "a  b",
        "a b",
        "(",
        "(a",
        " (a)",
        "a. b",
        "a.b",
        " .",
        "\n a",
        "a\n\nb",
    ]
    for text in [*by_hand, *("".join(rng.choice(LETTERS, size=9)) for _ in range(200))]:
        given, expected = answer(text), [piece for piece, _ in real.pre_tokenize_str(text)]
        assert isinstance(given, list), f"a {type(given).__name__} was returned, expected a list of pieces."
        assert "" not in given, f"{text!r} gave an empty piece: {given}."
        assert "".join(given) == text, f"{text!r} gave {given}: joined, that is another text."
        assert given == expected, f"{text!r} gave {given}, expected {expected}."
    given = answer("a.b-c", stops="-")
    assert given == ["a.b", "-", "c"], f"with stops='-', 'a.b-c' gave {given}: only `stops` and white space end a run."


@check.exercise
def only_tokens(answer: Any) -> None:
    rng = numpy.random.default_rng(2)
    for shape in ((7,), (2, 7), (2, 3, 7)):
        for dtype in ("float32", "float16"):
            logits = (rng.normal(size=shape) * 50 - 100).astype(dtype)
            before = logits.copy()
            given = answer(logits, 5)
            assert numpy.array_equal(logits, before), "the logits that were given have changed: work on a copy."
            assert given is not None, "None was returned: does the function return its result?"
            same(given[..., :5], logits[..., :5], "what belongs to tokens")
            assert given.shape == shape, f"the result has shape {given.shape}, expected {shape}."
            hot = given.astype("float64") / 1e9  # at a very high temperature
            probs = numpy.exp(hot - hot.max(-1, keepdims=True))
            assert (probs[..., 5:] == 0).all(), "at a high temperature a spare id can still be drawn."
            assert (probs[..., :5] > 0).all(), "a token has lost its probability."
    full = rng.normal(size=(2, 4))
    same(answer(full, 4), full, "logits of which every id has a token")


@check.exercise
def whole(answer: Any) -> None:
    texts = [
        "",
        "a",
        "é",
        "ह",
        "👋",
        "aé",
        "हa",
        "👋a👋",
        "नमस्ते दुनिया",
        "حقوق",
        "人权 rights",
        "\x00\x7f",
        "߿ࠀ\uffff\U00010000\U0010ffff",
    ]
    for text in texts:
        data = text.encode()
        ends = {0, *(len(text[: i + 1].encode()) for i in range(len(text)))}
        for size in range(len(data) + 1):
            expected = max(end for end in ends if end <= size)
            given = answer(data[:size])
            assert given == expected, (
                f"of the bytes {data[:size].hex(' ') or '(none)'}, {given} were called whole, expected {expected}."
            )


@check.exercise
def text_of(answer: Any) -> None:
    tokenizer = BloomTokenizerFast.from_pretrained()
    texts = [
        "a",
        " a  b\n",
        "é",
        "中",
        " हक </s><s>",
        "👋🏽 hi",
        "",
        "Ġ",
        "<unk>?<pad>",
        "<b>",
        "À l'aube",
        "a\u00adb\xa0c",
        "</s",
    ]
    for text in texts:
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) if text else []
        given = answer(tokens)
        assert given == text, f"{tokens} gave {given!r}, expected {text!r}."
    given = answer(["Ġa", "[no text]"], special=("[no text]",))
    assert given == " a[no text]", f"with another special token, ['Ġa', '[no text]'] gave {given!r}."
