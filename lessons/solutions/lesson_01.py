"""Solutions of lesson 1: tokens."""

from __future__ import annotations

import numpy

from minibloom.byte_pair import BYTE_OF


def cut(text, stops="(|).,!?…。，、।۔،"):
    def in_run(i):
        return i < len(text) and not text[i].isspace() and text[i] not in stops

    def begins(i):  # a run, with the space before it
        return in_run(i) or (text[i] == " " and in_run(i + 1))

    found, i = [], 0
    while i < len(text):
        start = i
        if begins(i):
            i += 1
            while in_run(i):
                i += 1
        else:
            while i < len(text) and not begins(i):
                i += 1
        found.append(text[start:i])
    return found


def only_tokens(logits, tokens):
    kept = logits.copy()
    kept[..., tokens:] = -numpy.inf
    return kept


def whole(data):
    start = len(data) - 1
    while start > 0 and data[start] >> 6 == 0b10:  # 10xxxxxx goes on with a character
        start -= 1
    if start < 0:
        return 0
    first = data[start]
    size = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    return len(data) if start + size <= len(data) else start


def text_of(tokens, special=("<unk>", "<s>", "</s>", "<pad>")):
    data = b"".join(t.encode() if t in special else bytes(BYTE_OF[symbol] for symbol in t) for t in tokens)
    return data.decode("utf-8", "replace")
