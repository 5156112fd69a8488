"""What a tokenizer is asked in the tests that hold minibloom's against the documented oracle's, and how.

A request is a dictionary, so that it passes through JSON into the oracle's process (`make_tokenizer_goldens.py`); it is
answered there by the same function `answer` as in the test's own. Nothing here imports minibloom or transformers.

    tokenizer   the name of a tokenizer.json or of a folder: see `Files` in `make_tokenizer_goldens.py`
    options     keywords of the class; {"AddedToken": "<x>", "lstrip": true} stands for a tokenizers.AddedToken
    steps       what is done, one after the other, [name, arguments, keywords]: a method or an attribute of the
                tokenizer; ".name" one of the last answer; "=name" sets an attribute. The last answer is compared
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy

Request = dict[str, Any]
VOCAB_SIZE = 500  # of the tokenizer that is trained on TEXTS; the next token that is added gets this id

TEXTS = [
    "",
    " ",
    "The lamp on the table is still on, although nobody has been reading there since eight o'clock.",
    "  Two spaces before, two  between, and two at the end.  ",
    "Is it ready? Not yet! Wait (just a moment), or [call] them... They said: 'we'll see', didn't they?",
    "Le marché ouvre à huit heures; l'été, on y trouve des pêches, du thym et d'énormes melons.",
    "El niño preguntó: ¿cuántas estrellas hay? ¡Más de las que puedes contar!",
    "O pão está na mesa, e a avó já fez o café.",
    "Khi trời mưa, chúng tôi ngồi trong nhà và kể chuyện cũ.",
    "今天的天气很好,我们去河边散步吧。你想带什么?水、面包和一本书……",
    "昨日,圖書館裡很安靜。",
    "كان البحر هادئاً في الصباح، ثم هبّت الريح؛ فهل نعود الآن؟",
    "دریا کے کنارے ایک چھوٹا سا گھر ہے۔",
    "नदी के किनारे एक पुराना पेड़ है। उसकी छाया में बच्चे खेलते हैं।",
    "নদীর ধারে একটা নৌকা বাঁধা আছে।",
    "மழை பெய்தால் மண் மணக்கும்.",
    "వర్షం పడితే చెరువు నిండుతుంది.",
    "ಮನೆಯ ಮುಂದೆ ಹೂವು ಇದೆ. മുറ്റത്ത് ഒരു മാവ് ഉണ്ട്.",
    "ઘર સામે ઝાડ છે. ਘਰ ਦੇ ਸਾਹਮਣੇ ਰੁੱਖ ਹੈ.",
    "Mtoto alikwenda sokoni kununua ndizi. Ọmọ náà ń kọ́ ìwé. Umntwana ufunda incwadi.",
    "Сегодня ветрено, и лодки стоят у берега. Το φως άναψε. אור נדלק.",
    "雨が降っています。비가 옵니다. ฝนตก",
    "def area(r):\n    \"\"\"pi * r ** 2\"\"\"\n\treturn 3.14159 * r**2  # (r|0) >= 0\n\n\nprint(area(2))\n",
    "for (int i = 0; i < n; ++i) { a[i] |= ~b[i] & 0xFF; } // <stdio.h>\r\n\r\n",
    "SELECT name FROM plants WHERE height > 2.5 AND kind != 'moss';\r",
    "x=1|2(3)a(b)|c [d] {e} \\f/ `g` ~h^ @i #j $k% &l* _m-n+",
    "Prices: $5, 3,50 €, £2, ¥800, 12%, 1/2, ½, x², 10⁻³, №7, §4",
    "smile 😀 wave 👋🏽 family 👨‍👩‍👧‍👦 flag 🇺🇳 heart ❤️ keycap 7️⃣",
    "e\u0301 is é; a\u0308\u0323\u0308 stacks marks; \u1ea1\u0302; क\u094d\u200dष and क\u094d\u200cष; \ufb01n",
    "zero\u200bwidth\u200cjoiners\u200d, \ufeffa mark, \u00a0no-break\u202f, \u2060word\u2060joiner, \u00adsoft",
    "bell \x07, null \x00, escape \x1b[0m, delete \x7f, unit \x1f, next line \x85, paragraph \u2029, line \u2028.",
    "tabs\t\tand\nlines\r\nand\x0bfeeds\x0c",
    "\u202eright to left\u202c \u2066isolated\u2069",
    "\U0001f9ff\U00020000\U0010ffff\ufffd\ufffe\ue000",
    "<s>one</s><pad>two <unk> three</s>\n<s> four <S> </ s><s",
    "Ġ and Ċ and Âł are letters here, é̄ too",
    "word" * 20,
    "a.b,c!d?e…f。g，h、i।j۔k،l",
    ". , ! ? … 。 ， 、 । ۔ ،",
]  # fmt: skip


# Arguments of calls that are drawn at random: each alone is right, and most go together.
SHORT = ["The lamp is on.", "Is it  ready?", "नदी है।", "a(b)|c", "😀 é", "", "one</s>two", " out"]
WORDS = [["The", "lamp", "is on."], ["नदी", "है।"], [" out", "", "a,b"], ["one</s>", "two"], []]
OPTIONS: dict[str, list[Any]] = {
    "add_prefix_space": [True, False],
    "truncation_side": ["left", "right"],
    "model_max_length": [4, 9],
}
KEYWORDS: dict[str, list[Any]] = {
    "padding": [True, "longest", "max_length", False, "do_not_pad"],
    "truncation": [True, "longest_first", "only_first", "only_second", False, "do_not_truncate"],
    "max_length": [2, 3, 5, 8, 12],
    "stride": [0, 1, 2],
    "pad_to_multiple_of": [2, 3, 4],
    "return_tensors": ["np"],
    "return_token_type_ids": [True, False],
    "return_attention_mask": [True, False],
    "return_overflowing_tokens": [True, False],
    "return_special_tokens_mask": [True, False],
    "return_offsets_mapping": [True, False],
    "return_length": [True, False],
    "add_special_tokens": [True, False],
    "verbose": [True, False],
}


def request(*steps: Any, tokenizer: str = "small", **options: Any) -> Request:
    """One request. A step may leave out its keywords, and its arguments."""
    full = [[step[0], step[1] if len(step) > 1 else [], step[2] if len(step) > 2 else {}] for step in steps]
    return {"tokenizer": tokenizer, "options": options, "steps": full}


def call(*arguments: Any, options: Mapping[str, Any] | None = None, **keywords: Any) -> Request:
    return request(["__call__", list(arguments), keywords], **options or {})


def added(content: str, **flags: bool) -> dict[str, Any]:
    return {"AddedToken": content} | flags


# --- Requests that both answer alike ---


def of_texts() -> list[Request]:
    asked = [call(text, return_offsets_mapping=True, return_attention_mask=False) for text in TEXTS]
    asked += [request(["encode", [text]], add_prefix_space=True) for text in TEXTS]
    return asked + [request(["encode", [text]], tokenizer="shipped") for text in TEXTS]


def of_calls(count: int = 80) -> list[Request]:
    """Calls with arguments drawn at random, always the same ones."""
    draw = random.Random(0).random  # the one function whose numbers Python promises to keep

    def pick(values: Any) -> Any:
        return values[int(draw() * len(values))]

    asked: list[Request] = []
    for _ in range(count):
        split, B = draw() < 0.2, 1 + int(draw() * 3)
        source: list[Any] = WORDS if split else SHORT
        keywords = {name: pick(values) for name, values in KEYWORDS.items() if draw() < 0.35}
        options = {"padding_side": pick(["left", "right"])}
        options |= {name: pick(values) for name, values in OPTIONS.items() if draw() < 0.25}
        if split:
            options["add_prefix_space"] = keywords["is_split_into_words"] = True
        arguments = [[pick(source) for _ in range(B)] for _ in range(1 + (draw() < 0.4))]
        if draw() < 0.3:
            arguments = [argument[0] for argument in arguments]
        asked.append(call(*arguments, options=options, **keywords))
    return asked


def of_special_tokens() -> list[Request]:
    text = "a <end> b</s> <x>  c<s>\n<end> lamp<x>"
    kinds: list[dict[str, Any]] = [
        {"eos_token": "<end>"},
        {"eos_token": added("<end>")},
        {"eos_token": added("<end>", lstrip=True)},
        {"eos_token": added("<end>", rstrip=True)},
        {"eos_token": added("<end>", single_word=True)},
        {"eos_token": added("</s>", rstrip=True), "bos_token": added("<s>", lstrip=True)},
        {"eos_token": "Ġ", "bos_token": "lamp"},  # one that was learned, and one that was not
        {"additional_special_tokens": ["<x>", "<end>"]},
        {"additional_special_tokens": ["<x>", added("<end>", lstrip=True, rstrip=True)], "unk_token": "<x>"},
        {"pad_token": None, "unk_token": None},
    ]
    ids = [68, 1, 72, 2, 224, 3, VOCAB_SIZE - 1]
    asked = []
    for options in kinds:
        asked += [call(text, return_offsets_mapping=True, options=options), request(["len"], **options)]
        asked += [request([name], **options) for name in ("special_tokens_map", "eos_token_id", "pad_token_id")]
        asked += [request(["decode", [ids], {"skip_special_tokens": skip}], **options) for skip in (True, False)]
    return asked


def of_the_vocabulary() -> list[Request]:
    new = ["<x>", "<y>", "a lamp"]
    text = "a<x> b a lamp<y>"
    names = ["vocab_size", "len", "is_fast", "model_max_length", "all_special_tokens", "all_special_ids", "pad_token"]
    names += ["add_prefix_space", "clean_up_tokenization_spaces", "truncation_side", "get_added_vocab", "get_vocab"]
    steps: list[list[list[Any]]] = [
        *([[name]] for name in names),
        [["convert_ids_to_tokens", [[1, 68, 300, 2]]]],
        [["convert_ids_to_tokens", [[1, 68, 300, 2], True]]],
        [["convert_ids_to_tokens", [68]]],
        [["convert_tokens_to_ids", [["a", "Ġ", "<s>", "no such"]]]],
        [["convert_tokens_to_ids", ["Ġ"]]],
        [["convert_tokens_to_string", [["Ġa", "b", "</s>", "Ċ"]]]],
        [["num_special_tokens_to_add"]],
        [["num_special_tokens_to_add", [True]]],
        [["=pad_token", ["</s>"]], ["__call__", [["a", "b c"]], {"padding": True}]],
        [["=pad_token_id", [2]], ["__call__", [["a", "b c"]], {"padding": True}]],
        [["=padding_side", ["right"]], ["__call__", [["a", "b c"]], {"padding": True}]],
        [["=truncation_side", ["left"]], ["__call__", ["a b c"], {"truncation": True, "max_length": 2}]],
        [["=model_max_length", [2]], ["__call__", ["a b c"], {"truncation": True}]],
        [["=clean_up_tokenization_spaces", [True]], ["decode", [[68, 224, 17]]]],
        [["add_tokens", [new]]],
        [["add_tokens", [new]], ["add_tokens", ["<x>"]]],
        [["add_tokens", [new]], ["__call__", [text], {"return_offsets_mapping": True}]],
        [["add_tokens", [[added("<x>", lstrip=True, rstrip=True)]]], ["encode", ["a <x> b"]]],
        [["add_tokens", [new]], ["decode", [[68, VOCAB_SIZE, VOCAB_SIZE + 2]], {"skip_special_tokens": True}]],
        [["add_tokens", [new, True]], ["decode", [[68, VOCAB_SIZE, VOCAB_SIZE + 2]], {"skip_special_tokens": True}]],
        [["add_tokens", [new]], ["get_added_vocab"]],
        [["add_tokens", ["</s>"]], ["decode", [[68, 2]], {"skip_special_tokens": True}]],
        [["add_tokens", [[]]]],
        [["add_special_tokens", [{"pad_token": "<x>", "eos_token": added("<y>", lstrip=True)}]]],
        [["add_special_tokens", [{"pad_token": "<x>"}]], ["__call__", [["a", "b c"]], {"padding": True}]],
        [["add_special_tokens", [{"eos_token": added("<y>", lstrip=True)}]], ["encode", [text]]],
        [["add_special_tokens", [{"additional_special_tokens": ["<y>"]}]], ["special_tokens_map"]],
        [["add_special_tokens", [{"additional_special_tokens": ["<y>"]}, False]], ["special_tokens_map"]],
        [["add_special_tokens", [{"foo": "<y>"}]]],
    ]
    asked = [request(*several, padding_side="left") for several in steps]
    more = {"additional_special_tokens": ["<x>"], "padding_side": "left"}
    return asked + [request(*several, **more) for several in steps if several[0][0] == "add_special_tokens"]


def of_decoding() -> list[Request]:
    ids = [68, 69, 1, 300, 2, 17, 224, 320, 3, 255, 180, 100, 299, 0, 310, 224, 34, 499]
    asked = [request(["decode", [ids[n:], skip]]) for n in range(0, 16, 3) for skip in (True, False)]
    asked += [request(["decode", [ids, False, clean]]) for clean in (True, False)]
    asked += [request(["decode", [ids]], clean_up_tokenization_spaces=True), request(["decode", [320]])]
    return [*asked, request(["batch_decode", [[ids, ids[4:9], []]]]), request(["batch_decode", [ids[:4]]])]


def of_padding() -> list[Request]:
    """`pad`, with whatever an encoding may be."""
    batch = {"input_ids": [[68], [69, 70, 71]], "special_tokens_mask": [[0], [0, 1, 0]], "labels": [0, 1]}
    types = {"attention_mask": [[1], [1, 0, 1]], "token_type_ids": [[0], [0, 1, 1]], "labels": [0.5, 2.0]}
    encodings: list[Any] = [
        {"input_ids": [68, 69], "labels": 1},
        batch,
        batch | types,
        [{"input_ids": [68]}, {"input_ids": [69, 70, 71]}, {"input_ids": []}],
        [{"input_ids": [68], "labels": 1}, {"input_ids": [69]}],
        {"input_ids": [[68], [69]], "labels": [0]},
        {"labels": [1]},
    ]
    keywords: list[dict[str, Any]] = [
        {},
        {"pad_to_multiple_of": 4},
        {"padding": "max_length", "max_length": 5},
        {"padding": False},
        {"padding": "max_length"},
        {"max_length": 1},
    ]
    every = zip(itertools.product(encodings, keywords), itertools.cycle(("left", "right", "left")))  # odd, as 6 is even
    asked = [request(["pad", [encoding], options], padding_side=side) for (encoding, options), side in every]
    return asked + [request(["pad", [e], {"return_tensors": "np"}], padding_side="left") for e in encodings[1:4]]


def of_encodings() -> list[Request]:
    """What an encoding tells about its tokens: which characters, words and texts they are from."""
    one = ["__call__", ["Is it  ready? नदी है।", "a(b)|c"], {"padding": "max_length", "max_length": 40}]
    words = ["__call__", [WORDS[:3], WORDS[1:4]], {"is_split_into_words": True, "padding": True}]
    asked = []
    for i in range(0, 40, 7):
        steps = [[".token_to_chars", [i]], [".char_to_token", [i // 2]], [".word_to_tokens", [i // 3]]]
        steps += [[".char_to_token", [0, i // 6, 1]], [".word_to_tokens", [0, i // 6, 1]]]
        asked += [request(one, step, padding_side="left") for step in steps]
        steps = [
            [".token_to_chars", [1, i // 3]],
            [".char_to_token", [i // 12, 2]],
            [".word_to_tokens", [i // 12, 1, 1]],
        ]
        asked += [request(words, step, padding_side="right", add_prefix_space=True) for step in steps]
    return asked


def requests() -> list[Request]:
    """All requests of the goldens, in order."""
    asked = of_texts() + of_calls() + of_special_tokens() + of_the_vocabulary()
    return asked + of_decoding() + of_padding() + of_encodings()


# --- Requests that minibloom answers otherwise, and why ---


class Quirk(NamedTuple):
    """`oracle` and `minibloom` are what either answers; with "!" before it, how its error begins."""

    why: str
    request: Request
    oracle: Any
    minibloom: Any


PAIR = {"input_ids": [[68], [69, 70]], "attention_mask": [[1], [1, 1]]}
QUIRKS = [
    Quirk(
        "BLOOM's files on the hub pad on the left; without a file that says so the oracle pads on the right",
        request(["encode", ["a"], {"padding": "max_length", "max_length": 3}]),
        [68, 3, 3],
        [3, 3, 68],
    ),
    Quirk(
        "`errors` is documented, but the oracle only stores it",
        request(["decode", [[68, 180]]], errors="ignore"),
        "a\ufffd",
        "a",
    ),
    Quirk(
        "`trim_offsets` is documented, but the oracle only stores it; to minibloom it is what counts",
        request(
            ["__call__", ["a b"], {"return_offsets_mapping": True}],
            [".__getitem__", ["offset_mapping"]],
            trim_offsets=True,
        ),
        [[0, 1], [1, 3]],
        [[0, 1], [2, 3]],
    ),
    Quirk(
        "trimming, the oracle leaves the first token its space, as if it had been put in",
        request(
            ["__call__", [" b b"], {"return_offsets_mapping": True}],
            [".__getitem__", ["offset_mapping"]],
            tokenizer="trimming",
        ),
        [[0, 2], [3, 4]],
        [[1, 2], [3, 4]],
    ),
    Quirk(
        "and where a space was put in, it takes a letter off every piece but the first",
        request(
            ["__call__", ["b.b"], {"return_offsets_mapping": True}],
            [".__getitem__", ["offset_mapping"]],
            tokenizer="trimming",
            add_prefix_space=True,
        ),
        [[0, 1], [2, 2], [1, 2], [3, 3]],
        [[0, 1], [1, 2], [1, 2], [2, 3]],
    ),
    Quirk(
        "a keyword that is none is swallowed",
        request(["padding_side"], pading_side="left"),
        "right",
        "!InputError: BloomTokenizerFast has no argument 'pading_side'. Did you mean 'padding_side'?",
    ),
    Quirk(
        "half of a surrogate pair is read as three characters that were not there",
        request(["encode", ["\ud83d"]]),
        [453, 125, 453, 125, 453, 125],
        "!InputError: text: half of a surrogate pair is no character",
    ),
    Quirk(
        "ids that are no tokens vanish",
        request(["decode", [[68, VOCAB_SIZE, 69]]]),
        "ab",
        f"!InputError: id {VOCAB_SIZE} is not in the vocabulary, 0 to {VOCAB_SIZE - 1}.",
    ),
    Quirk(
        "or become None",
        request(["convert_ids_to_tokens", [[68, VOCAB_SIZE]]]),
        ["a", None],
        f"!InputError: id {VOCAB_SIZE} is not in the vocabulary",
    ),
    Quirk(
        "and 1.9 is taken for 1",
        request(["convert_ids_to_tokens", [[68, 1.9]]]),
        ["a", "<s>"],
        "!InputError: id 1.9 is not in the vocabulary",
    ),
    Quirk(
        "any string passes for a token",
        request(["convert_tokens_to_string", [["Ġa", "no such"]]]),
        " ano such",
        "!InputError: tokens is 'no such', which is not in the vocabulary.",
    ),
    Quirk(
        "so does None",
        request(["convert_tokens_to_ids", [None]]),
        None,
        "!InputError: tokens is None, expected a string or a list of strings.",
    ),
    Quirk(
        "an added token is text as it stands; the oracle reads it as symbols of bytes",
        request(["decode", [[68, VOCAB_SIZE, 69]]], additional_special_tokens=["<Ġï>"]),
        "a< \ufffd>b",
        "a<Ġï>b",
    ),
    Quirk(
        "a padding token that is not in the vocabulary is <unk>, silently",
        request(
            ["=pad_token", ["<x>"]], ["encode", ["a"], {"padding": "max_length", "max_length": 2}], padding_side="left"
        ),
        [0, 68],
        "!InputError: pad_token is '<x>', which is not in the vocabulary. Add it: tokenizer.add_special_tokens(",
    ),
    Quirk(
        "a special token without a name is skipped in decoding, but not among `all_special_tokens`",
        request(["all_special_tokens"], eos_token="<x>"),
        ["<s>", "<x>", "<unk>", "<pad>"],
        ["<s>", "<x>", "<unk>", "<pad>", "</s>"],
    ),
    Quirk("`add_tokens` counts what was in the vocabulary as new", request(["add_tokens", [["Ġ", "<x>"]]]), 2, 1),
    Quirk(
        "rows of different lengths become an array of lists, which no model takes",
        request(["__call__", [["a", "a b"]], {"return_tensors": "np"}], [".__getitem__", ["input_ids"]]),
        {"dtype": "object", "values": [{"dtype": "int64", "values": [68]}, {"dtype": "int64", "values": [68, 378]}]},
        "!InputError: input_ids has rows of 1 to 2 numbers, which make no array: pass padding=True.",
    ),
    Quirk(
        "the ids of an empty text are floats",
        request(["encode", [""], {"return_tensors": "np"}], [".dtype"], [".name"]),
        "float64",
        "int64",
    ),
    Quirk(
        "truncating the second text where there is none does nothing, if the first is short enough",
        request(["encode", ["a b"], {"truncation": "only_second", "max_length": 2}]),
        [68, 378],
        "!InputError: truncation='only_second' needs a text_pair.",
    ),
    Quirk(
        "a length of 0 leaves nothing",
        request(["encode", ["a b"], {"truncation": True, "max_length": 0}]),
        [],
        "!InputError: max_length is 0, expected a whole number from 1",
    ),
    Quirk(
        "a stride that is too long for one text of a pair is a panic, which no `except Exception` catches",
        request(["encode", ["a b c d", "a b"], {"truncation": True, "max_length": 3, "stride": 1}]),
        "!PanicException: `stride` must be strictly less than `max_len=1`",
        "!InputError: stride is 1, but max_length=3 leaves only 1 tokens of a text.",
    ),
    Quirk(
        "a list of two words, without is_split_into_words, is read as a text and its pair",
        request(["encode", [[["a", "b"]]]]),
        "!TypeError",
        "!InputError: text is [['a', 'b']], expected a string, or one or more in a list. Pairs come as",
    ),
    Quirk(
        "`pad` makes an array [S] of one text, where a call makes [1, S]",
        request(["pad", [{"input_ids": [68, 69]}], {"return_tensors": "np"}], [".__getitem__", ["input_ids"]]),
        {"dtype": "int64", "values": [68, 69]},
        {"dtype": "int64", "values": [[68, 69]]},
    ),
    Quirk(
        "`pad` leaves a mask short that it was not asked for",
        request(
            ["pad", [PAIR], {"return_attention_mask": False}], [".__getitem__", ["attention_mask"]], padding_side="left"
        ),
        [[1], [1, 1]],
        [[0, 1], [1, 1]],
    ),
    Quirk(
        "`pad` takes a mask of another length than the ids",
        request(
            ["pad", [PAIR | {"attention_mask": [[1], [1]]}]], [".__getitem__", ["attention_mask"]], padding_side="left"
        ),
        [[0, 1], [1]],
        "!InputError: attention_mask has [1], expected a list as long as that of input_ids.",
    ),
    Quirk(
        "`pad` gives back an empty text as it was",
        request(["pad", [{"input_ids": []}], {"padding": "max_length", "max_length": 2}]),
        {"input_ids": []},
        {"input_ids": [3, 3], "attention_mask": [0, 0]},
    ),
    Quirk(
        "`vocab_file` and `merges_file` are documented, but the oracle reads neither",
        request(["len"], tokenizer=None, vocab_file="vocab.json", merges_file="merges.txt"),
        "!ValueError: Couldn't instantiate the backend tokenizer",
        "!InputError: vocab_file: there is no file vocab.json.",
    ),
]


# --- What is saved, by one and by the other: how the tokenizer is made, and the keywords with which it is read ---

SAVED: list[tuple[Request, dict[str, Any]]] = [
    (request(), {"padding_side": "right"}),
    (
        request(
            ["add_tokens", [[added("<y>", lstrip=True)]]],
            add_prefix_space=True,
            padding_side="left",
            truncation_side="left",
            model_max_length=7,
            additional_special_tokens=["<x>"],
        ),
        {},
    ),
    (request(eos_token=added("<x>", rstrip=True), pad_token=None, clean_up_tokenization_spaces=True), {}),
    (request(["add_special_tokens", [{"pad_token": "<x>"}]], padding_side="left"), {"model_max_length": 2}),
]


# --- Asking ---


def answer(make: Callable[[Request], Any], asked: Request) -> dict[str, Any]:
    """What a tokenizer answers a request, in plain lists and dictionaries; `make` returns one for it."""
    try:
        tokenizer = last = make(asked | {"options": unpacked(asked["options"])})
        for name, arguments, keywords in unpacked(asked["steps"]):
            if name.startswith("="):
                setattr(tokenizer, name[1:], *arguments)
            elif name == "len":
                last = len(tokenizer)
            else:
                last = getattr(last if name.startswith(".") else tokenizer, name.lstrip("."))
                last = last(*arguments, **keywords) if callable(last) else last
        return {"answer": plain(last)}
    except BaseException as error:  # the library's panics are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def opened(kind: Any, asked: Request) -> Any:
    """A tokenizer of this class for a request whose `tokenizer` is a file or a folder, or None for no file at all."""
    source = asked["tokenizer"]
    if source is not None and Path(source).is_dir():
        return kind.from_pretrained(source, **asked["options"])
    return kind(**({"tokenizer_file": source} if source else {}), **asked["options"])


def reusing(make: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """`make`, but what does not change a tokenizer is asked of one that was made before: reading a file takes time."""
    kept: dict[str, Any] = {}

    def one(asked: Request) -> Any:
        if [step[0] for step in asked["steps"]] not in (["__call__"], ["encode"], ["decode"]):
            return make(asked)
        key = repr([asked["tokenizer"], asked["options"]])
        kept[key] = kept.get(key) or make(asked)
        return kept[key]

    return one


def unpacked(value: Any) -> Any:
    """`value` with AddedTokens where it has dictionaries that stand for them."""
    if isinstance(value, Mapping):
        if "AddedToken" in value:
            from tokenizers import AddedToken

            flags = {name: flag for name, flag in value.items() if name != "AddedToken"}
            return AddedToken(value["AddedToken"], **flags)
        return {name: unpacked(one) for name, one in value.items()}
    return [unpacked(one) for one in value] if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays with their dtype, of encodings also what they tell about each row."""
    if isinstance(value, numpy.ndarray):
        return ({"dtype": value.dtype.name} if value.size else {}) | {"values": plain(value.tolist())}
    if isinstance(value, Mapping) or hasattr(value, "sequence_ids"):
        columns = {str(name): plain(one) for name, one in value.items()}
        rows = range(len(getattr(value, "_encodings", None) or ()))
        told = {"word_ids": [plain(value.word_ids(row)) for row in rows]} if rows else {}
        sequences = [plain(value.sequence_ids(row)) for row in rows]
        told |= {"sequence_ids": sequences} if any(1 in row for row in sequences) else {}
        return columns | told
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
