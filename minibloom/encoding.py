"""BatchEncoding: what a tokenizer call returns, and where each of its tokens stands in the text."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from . import backend as backends
from .errors import InputError, suggest
from .fields import choice, optional

if TYPE_CHECKING:
    from tokenizers import Encoding

LIBRARIES = {"np": "numpy", "cp": "cupy"}
INSTEAD = {  # what transformers' BatchEncoding has besides, and what to use in its place
    "char_to_word": "word_ids()[char_to_token(i)]",
    "convert_to_tensors": 'tokenizer(..., return_tensors="np"), or "cp" for CuPy',
    "data": "dict(encoded), or the encoding itself, which is one",
    "encodings": "tokens(), word_ids(), sequence_ids() and token_to_chars(...)",
    "to": 'tokenizer(..., return_tensors="cp"), which puts arrays on the GPU, or cupy.asarray(array)',
    "token_to_sequence": "sequence_ids()[i]",
    "token_to_word": "word_ids()[i]",
    "word_to_chars": "token_to_chars(...) of the tokens in word_to_tokens(i)",
    "words": "word_ids()",
}


class Span(NamedTuple):
    """From `start` up to, not including, `end`."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """What a tokenizer call returns: a dictionary for `model(**encoded)`, whose keys are attributes too.

    `tokens`, `word_ids` and `sequence_ids` say where each token of one row comes from (None for padding);
    `char_to_token`, `token_to_chars` and `word_to_tokens` go from one to the other, by `(index)` in the first row,
    or by `(row, index)`.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        encodings: Sequence[Encoding] = (),
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        """`spans`: where each token of each row stands, if not where `encodings` say."""
        super().__init__(columns)
        self._encodings = encodings
        self._spans = spans

    def __getattr__(self, name: str) -> Any:  # called only for what is no method
        if name not in self:
            raise AttributeError(f"this encoding has no {name!r}, only {list(self)}.{suggest(name, self, INSTEAD)}")
        return self[name]

    def _row(self, index: int) -> Encoding:
        if not 0 <= index < len(self._encodings):
            raise InputError(f"batch_index is {index}, but {len(self._encodings)} texts were encoded here.")
        return self._encodings[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of one row, as the vocabulary writes them."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token the number of its word, or of its piece where the text came in one."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token 0 if it comes from `text`, 1 if from `text_pair`."""
        return self._row(batch_index).sequence_ids

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> Span | None:
        """Return where a token stands in its text (or word), in characters; None for padding."""
        row, index = _row_and_index(batch_or_token_index, token_index)
        sequences = self.sequence_ids(row)
        if not 0 <= index < len(sequences):
            raise InputError(f"token_index is {index}, but row {row} has {len(sequences)} tokens.")
        return None if sequences[index] is None else Span(*self._offsets(row)[index])

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the first token that holds a character of `text` (of `text_pair`, if `sequence_index` is 1).

        None if no token does: it was cut off, or is a space and offsets are trimmed.
        """
        row, index = _row_and_index(batch_or_char_index, char_index)
        tokens = enumerate(zip(self._offsets(row), self.sequence_ids(row), strict=True))
        return next((i for i, ((start, end), of) in tokens if of == sequence_index and start <= index < end), None)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> Span | None:
        """Return which tokens are a word (or piece, see `word_ids`): from the first to after the last, or None."""
        row, index = _row_and_index(batch_or_word_index, word_index)
        origins = zip(self.word_ids(row), self.sequence_ids(row), strict=True)
        found = [i for i, origin in enumerate(origins) if origin == (index, sequence_index)]
        return Span(found[0], found[-1] + 1) if found else None

    def _offsets(self, row: int) -> Sequence[tuple[int, int]]:
        return self._row(row).offsets if self._spans is None else self._spans[row]


def _row_and_index(first: int, second: int | None) -> tuple[int, int]:
    """`(index)` is about row 0, `(row, index)` about another."""
    return (0, first) if second is None else (first, second)


def trimmed(row: Encoding, sample: tuple[Any, ...]) -> list[tuple[int, int]]:
    """Where each token of a row begins and ends in its text (or word) of the sample, without spaces around it."""
    spans = []
    for (begin, end), which, word in zip(row.offsets, row.sequence_ids, row.word_ids, strict=True):
        if which is not None:  # None is padding
            text = sample[which] if isinstance(sample[which], str) else sample[which][word]
            begin = end - len(text[begin:end].lstrip(" "))
            end = begin + len(text[begin:end].rstrip(" "))
        spans.append((begin, end))
    return spans


def asked_library(return_tensors: str | None, given: Any = None) -> Any:
    """Return the array library that a call asks for, or else that of the arrays it was `given`; None for lists."""
    optional(choice(*LIBRARIES)).check("return_tensors", return_tensors)
    if return_tensors:
        return backends.load(LIBRARIES[return_tensors])
    first = given[0] if isinstance(given, list | tuple) and given else given
    return backends.library(first)


def result(
    columns: dict[str, Any],
    batched: bool,
    xp: Any,
    rows: Sequence[Encoding] = (),
    spans: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> BatchEncoding:
    """The columns [B, ...] as arrays of library `xp`; or as lists (None), where one text has no batch axis."""
    if xp is None:
        if not batched:
            columns = {name: c[0] if isinstance(c[0], list) else c for name, c in columns.items()}
        return BatchEncoding(columns, rows, spans)
    return BatchEncoding({name: xp.asarray(_array(name, c)) for name, c in columns.items()}, rows, spans)


def _array(name: str, column: list[Any]) -> numpy.ndarray:
    """One column as int64, or as float64 if there are floats in it."""
    lengths = sorted({len(row) for row in column if isinstance(row, list)})
    if len(lengths) > 1:
        advice = "pass padding=True" if name == "input_ids" else "pad them, or leave them out"
        raise InputError(f"{name} has rows of {lengths[0]} to {lengths[-1]} numbers, which make no array: {advice}.")
    try:
        array = numpy.array(column)
    except ValueError:  # uneven further in
        array = numpy.array(None)
    if array.size and array.dtype.kind not in "biuf":
        raise InputError(f"{name} is {reprlib.repr(column)}, expected numbers, as return_tensors is given.")
    return array if array.size and array.dtype.kind == "f" else array.astype(numpy.int64)
