"""Prompts as a model reads them: ids and mask, of arrays, of lists of any lengths, or of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy

from ..backend import Array
from ..errors import InputError

if TYPE_CHECKING:
    from ..models import BloomForCausalLM


def read_prompts(
    model: BloomForCausalLM, given: Any, attention_mask: Any, tokenizer: Any, pad: int = 0, continued: bool = True
) -> tuple[Array, Array | None]:
    """Prompts as ids `[B, S]` int64 and their mask; None where it is all ones, which is the same and cheaper.

    given: an array `[B, S]`, or B lists or arrays of ids, which are padded on the left; with a tokenizer, a text or
    several. pad: the id to pad with, which matters only where ids are returned. continued: whether something is to
    follow, so that a mask must end in tokens.
    """
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts):
        if tokenizer is None:
            raise InputError("the prompt is text but tokenizer is not set: give the tokenizer that turns it into ids.")
        given = tokenizer(list(texts))["input_ids"]
        if not all(given):
            raise InputError("the prompt is empty: give at least one character.")
    if attention_mask is None and isinstance(given, list | tuple) and all(map(_is_row, given)):
        given, attention_mask = pad_left(given, pad)
    ids = model.check_ids(given).astype("int64")  # NumPy joins unsigned and signed to floats
    if attention_mask is None:
        return ids, None
    mask, moved = model.check_mask(attention_mask, ids.shape, " like input_ids")
    if continued and not mask[:, -1].all():
        raise InputError("attention_mask ends in 0: pad prompts on the left, for what is generated follows their end.")
    return ids, None if mask.all() else moved


def _is_row(given: Any) -> bool:
    """Whether it is one prompt's ids: a list of them, or an array of the host."""
    return isinstance(given, list | tuple) or (isinstance(given, numpy.ndarray) and given.ndim == 1)


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Rows of ids padded on the left to one length, and their mask, which is None where nothing was padded."""
    lengths = [len(row) for row in rows]
    if not all(lengths) or len(set(lengths)) < 2:
        return rows, None  # an empty row is for `check_ids` to refuse
    S = max(lengths)
    return (
        [[pad] * (S - len(row)) + list(row) for row in rows],
        [[0] * (S - n) + [1] * n for n in lengths],
    )
