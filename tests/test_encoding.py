"""What a tokenizer call returns: where each token stands in the text, and columns as lists or as arrays."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomTokenizerFast, InputError
from minibloom.encoding import INSTEAD

from .texts import sides, texts, trained

TRIMMING = {trim: trained(trim_offsets=trim) for trim in (True, False)}
WORDS = {trim: trained(trim_offsets=trim, add_prefix_space=True) for trim in (True, False)}


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return trained()


def test_columns_are_keys_and_attributes(tokenizer):
    encoded = tokenizer("free", return_attention_mask=False, return_length=True)
    assert dict(**encoded) == {"input_ids": encoded.input_ids, "length": [len(encoded.input_ids)]}
    with pytest.raises(AttributeError, match="Did you mean 'input_ids'"):
        _ = encoded.input_id


# --- Characters, words and tokens ---


@given(first=texts, second=texts, trim=st.booleans(), side=sides)
def test_characters_and_tokens_find_each_other(first, second, trim, side):
    both = [("unpadded" * 9, ""), (first, second)]
    encoded = TRIMMING[trim](*map(list, zip(*both, strict=True)), padding=True, padding_side=side)
    for token, sequence in enumerate(encoded.sequence_ids(1)):
        span = encoded.token_to_chars(1, token)
        assert (span is None) == (sequence is None) == (encoded.tokens(1)[token] == "<pad>" and sequence is None)
        for character in range(*span or (0, 0)):
            assert span.start <= character < span.end
            found = encoded.char_to_token(1, character, sequence)  # the first of those that share a character
            assert found <= token and encoded.token_to_chars(1, found).end > character
    for sequence, text in enumerate((first, second)):
        for character, letter in enumerate(text):
            assert (encoded.char_to_token(1, character, sequence) is None) <= (trim and letter == " ")
        assert encoded.char_to_token(1, len(text), sequence) is None


@given(words=st.lists(texts, max_size=4), trim=st.booleans())
def test_words_find_their_tokens(words, trim):
    encoded = WORDS[trim](words, words[:1], is_split_into_words=True, return_offsets_mapping=True)
    for word in range(len(words)):
        for sequence in (0, 1):
            span = encoded.word_to_tokens(0, word, sequence)
            of_word = list(zip(encoded.word_ids(), encoded.sequence_ids(), strict=True))
            assert [i for i, of in enumerate(of_word) if of == (word, sequence)] == list(range(*span or (0, 0)))
    for token, offsets in enumerate(encoded.offset_mapping):
        assert encoded.token_to_chars(token) == offsets
    assert encoded.word_to_tokens(len(words)) is None


def test_trimmed_offsets_leave_out_the_spaces_on_both_sides():
    learned = BloomTokenizerFast.train(["x\n    y z"] * 2, 300)
    trimming = BloomTokenizerFast(tokenizer_object=learned._backend, trim_offsets=True)
    encoded = trimming("x\n    y  z", return_offsets_mapping=True)
    assert encoded.tokens() == ["x", "ĊĠĠĠ", "Ġy", "Ġ", "Ġz"]
    assert encoded.offset_mapping == [(0, 1), (1, 2), (6, 7), (8, 8), (9, 10)]


def test_questions_about_what_is_not_there_are_clear_errors(tokenizer):
    encoded = tokenizer(["free", "born"])
    with pytest.raises(InputError, match="token_index is 40, but row 1 has"):
        encoded.token_to_chars(1, 40)
    with pytest.raises(InputError, match="batch_index is 2, but 2 texts were encoded here"):
        encoded.char_to_token(2, 0)
    for name, use in INSTEAD.items():
        assert not hasattr(encoded, name)
        with pytest.raises(AttributeError) as raised:
            getattr(encoded, name)
        assert f"Use {use}." in str(raised.value)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda encoded: pickle.loads(pickle.dumps(encoded))])
def test_an_encoding_can_be_copied_and_sent(tokenizer, again):
    encoded = tokenizer(["All human beings", "a"], return_tensors="np", padding=True)
    other = again(encoded)
    assert type(other) is type(encoded) and other.keys() == encoded.keys()
    assert other.tokens(1) == encoded.tokens(1) and other.token_to_chars(0, 1) == encoded.token_to_chars(0, 1)


# --- Arrays ---


def test_whole_numbers_are_int64_and_floats_stay_what_they_are(tokenizer):
    assert tokenizer("", return_tensors="np").input_ids.dtype == numpy.int64
    padded = tokenizer.pad({"input_ids": [[4], [5]], "labels": [0.5, 2]}, return_tensors="np")
    assert padded.labels.tolist() == [0.5, 2.0] and padded.input_ids.dtype == numpy.int64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1], [2, 3]], "labels has rows of 1 to 2 numbers, which make no array: pad them, or leave them out"),
        (["a", "b"], "labels is .'a', 'b'., expected numbers"),
        ([None, 1], "labels is .None, 1., expected numbers"),
        ([[[1], [2, 3]], [[1], [2]]], "labels is .*, expected numbers"),
    ],
)
def test_what_makes_no_array_is_an_error_that_names_the_column(tokenizer, labels, message):
    with pytest.raises(InputError, match=message):
        tokenizer.pad({"input_ids": [[4], [5]], "labels": labels}, return_tensors="np")


class OnDevice:
    """Stands for an array of CuPy: knows its library, gives its numbers only when asked, is never NumPy's by itself."""

    def __init__(self, array: Any) -> None:
        assert type(array) is numpy.ndarray and array.dtype == numpy.int64  # what CuPy copies to a device
        self.held, self.shape = array, array.shape

    def __array_namespace__(self) -> ModuleType:
        return sys.modules["cupy"]

    def __array__(self, *_: object, **__: object) -> numpy.ndarray:
        raise TypeError("implicit conversion to a NumPy array")

    def tolist(self) -> list[Any]:
        return self.held.tolist()


@pytest.fixture
def cupy(monkeypatch) -> ModuleType:
    """Stands for CuPy and a GPU: no more than it is asked for, so that anything else would fail."""
    module = ModuleType("cupy")
    module.cuda, module.asarray = SimpleNamespace(is_available=lambda: True), OnDevice
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_arrays_of_cupy_are_made_of_every_column(cupy, tokenizer):
    options = {"padding": True, "return_offsets_mapping": True, "return_length": True}
    on_device = tokenizer(["All human beings", "a"], return_tensors="cp", **options)
    here = tokenizer(["All human beings", "a"], return_tensors="np", **options)
    assert all(type(array) is OnDevice for array in on_device.values())
    assert {name: array.tolist() for name, array in on_device.items()} == {n: x.tolist() for n, x in here.items()}
    assert tokenizer.batch_decode(on_device.input_ids, skip_special_tokens=True) == ["All human beings", "a"]
    assert tokenizer.encode("a", return_tensors="cp").shape == (1, 1)


def test_arrays_are_padded_to_arrays_of_their_library(cupy, tokenizer):
    rows = [numpy.array([4, 5]), numpy.array([6])]
    for kind in (lambda row: row, OnDevice):
        padded = tokenizer.pad([{"input_ids": kind(row)} for row in rows])
        assert padded.input_ids.tolist() == [[4, 5], [3, 6]] and type(padded.input_ids) is type(kind(rows[0]))
        padded = tokenizer.pad({"input_ids": kind(numpy.array([[4, 5], [6, 7]]))}, pad_to_multiple_of=3)
        assert padded.attention_mask.tolist() == [[0, 1, 1]] * 2 and type(padded.attention_mask) is type(kind(rows[0]))
    here = tokenizer.pad([{"input_ids": OnDevice(row)} for row in rows], return_tensors="np")
    assert type(here.input_ids) is numpy.ndarray
