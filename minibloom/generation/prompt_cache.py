"""What a model has read once, kept for many continuations, on disk too.

prompt = PromptCache(model, ids)
prompt.save("prompt.safetensors")

prompt = PromptCache.load("prompt.safetensors", model)
model.generate(ids_that_begin_with_it, past_key_values=prompt)      # several rows, of any lengths
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from ..backend import Array, number, to_numpy
from ..cache import Cache
from ..errors import InputError
from ..files import replacing
from ..tensor_file import host_blocks, read_header, read_metadata, read_tensors, write_tensors
from .prompts import read_prompts

if TYPE_CHECKING:
    from ..models import BloomForCausalLM

FORMAT = "minibloom prompt cache 1"


class PromptCache:
    """Ids `[B, S]` and their keys and values. It is never changed: each continuation gets a copy."""

    def __init__(
        self, model: BloomForCausalLM, input_ids: Any, attention_mask: Any = None, tokenizer: Any = None
    ) -> None:
        """Read the prompts, given as in `generate`."""
        self.ids, self.mask = read_prompts(model, input_ids, attention_mask, tokenizer)
        self.model = model
        out = model(self.ids, attention_mask=self.mask, use_cache=True, logits_to_keep=1, return_dict=True)
        self.cache: Cache = out.past_key_values

    def __repr__(self) -> str:
        return f"PromptCache({list(self.ids.shape)}, {self.cache!r})"

    def start(
        self, ids: Array, mask: Array | None, model: BloomForCausalLM, tokenizer: Any = None
    ) -> tuple[Cache, tuple[Array, Array | None]]:
        """A cache of as much of this prompt as all rows of `ids [B, S]` begin with, at most all but their last token;
        and ids and mask in the order in which they go on from it.

        A prompt of one row serves a batch. Rows that are padded on the left are then read as prompt, padding, rest:
        keys do not know their positions, and where nobody sees it, padding may stand anywhere. With a tokenizer of
        minibloom, it is enough that a text begins with this text, which may end within a token of it.
        """
        if model is not self.model and fingerprint(model) != fingerprint(self.model):
            raise InputError("past_key_values holds a prompt that another model has read. Read it again.")
        xp, B, held = model.xp, len(ids), self.ids.shape[1]
        if len(self.ids) not in (1, B):
            raise InputError(f"past_key_values holds {len(self.ids)} prompts, the input {B} rows: expected as many.")
        alike, mine = self.mask is not None, self.mask  # prompts that are padded serve rows that are padded alike
        if mine is not None and (mask is None or number((mask[:, :held] != mine[:, : ids.shape[1]]).any())):
            raise InputError("past_key_values holds prompts that are padded otherwise than input_ids: pad these alike.")
        length, ours, rows = held, to_numpy(self.ids), to_numpy(ids)
        there = numpy.ones_like(rows) if mask is None or alike else to_numpy(mask)
        if alike:  # whatever either was padded with
            ours, rows = (numpy.where(to_numpy(m) == 1, x, -1) for m, x in ((mine, ours), (mask, rows)))
        for prompt, row, is_token in zip(numpy.broadcast_to(ours, (B, held)), rows, there, strict=True):
            length = min(length, _common(prompt, row[is_token == 1], tokenizer))
        if mask is not None and not alike:
            part = xp.where(mask == 0, 1, xp.where(mask.cumsum(1) <= length, 0, 2))  # prompt, padding, rest
            order = xp.argsort(part, axis=1, kind="stable")
            ids, mask = (xp.take_along_axis(x, order, axis=1) for x in (ids, mask))
        cache = self.cache.copy(xp.zeros(B, dtype="int64") if len(self.ids) < B else None)
        cache.crop(length)
        return cache, (ids, mask)

    def save(self, path: str | Path) -> None:
        """Write ids, keys and values as safetensors, with the model's fingerprint."""
        tensors = {
            f"h.{layer}.{kind}": (array, array.dtype.name)
            for layer, pair in enumerate(self.cache)
            for kind, array in zip(("key", "value"), pair, strict=True)
        }
        remarks = {"minibloom": FORMAT, "fingerprint": fingerprint(self.model)}
        for name, array in (("input_ids", self.ids), ("attention_mask", self.mask)):
            remarks[name] = json.dumps(None if array is None else to_numpy(array).tolist())
        with replacing(path) as temporary:
            write_tensors(temporary, tensors, remarks)

    @classmethod
    def load(cls, path: str | Path, model: BloomForCausalLM) -> PromptCache:
        """Read what `save` wrote. A file of another model is an InputError that says so."""
        entries, remarks = read_header(path), read_metadata(path)
        if remarks.get("minibloom") != FORMAT:
            raise InputError(f"{path} is no prompt cache: expected a file that PromptCache.save has written.")
        if remarks.get("fingerprint") != fingerprint(model):
            raise InputError(f"{path} is of another model, or in another precision: delete it, or name another file.")
        c, prompt = model.config, cls.__new__(cls)
        prompt.model = model
        arrays = read_tensors(entries, model.dtype, model.xp)
        try:
            ids, mask = (json.loads(remarks[name]) for name in ("input_ids", "attention_mask"))
            prompt.ids, prompt.mask = read_prompts(model, numpy.array(ids), mask, None)
            past = tuple((arrays[f"h.{i}.key"], arrays[f"h.{i}.value"]) for i in range(c.n_layer))
            prompt.cache = Cache.from_tuple(past, len(prompt.ids), c.n_head, c.head_dim, layout="today")
            damaged = prompt.cache.length != prompt.ids.shape[1]
        except (LookupError, TypeError, ValueError, OverflowError):
            damaged = True
        if damaged:
            raise InputError(f"{path} is damaged: delete it, and read the prompt again.")
        return prompt


def fingerprint(model: BloomForCausalLM) -> str:
    """A text that two models share only if they compute the same: of configuration, precision and parameters."""
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if isinstance(v, int | float | bool)}
    digest.update(json.dumps([config, model.dtype, model.hf_compat], sort_keys=True).encode())
    for name, array in model.params.items():
        digest.update(name.encode())
        for block in host_blocks(array):
            digest.update(numpy.ascontiguousarray(block).data)
    return digest.hexdigest()


def _common(prompt: numpy.ndarray, tokens: numpy.ndarray, tokenizer: Any) -> int:
    """How many tokens a row may take from the `prompt` that it begins with: one at least is left to be read."""
    length = min(len(prompt), len(tokens) - 1)
    if not (other := numpy.flatnonzero(prompt[:length] != tokens[:length])).size:
        return length
    ours = hasattr(tokenizer, "_bytes")
    if ours and _text(tokenizer, tokens).startswith(_text(tokenizer, prompt)):
        return int(other[0])
    more = "" if ours or tokenizer is None else " Whether texts do, a BloomTokenizerFast of minibloom can tell."
    raise InputError(
        f"past_key_values holds a prompt that input_ids do not begin with: they differ, from token {other[0]} on.{more}"
    )


def _text(tokenizer: Any, ids: numpy.ndarray) -> bytes:
    known = (i for i in ids.tolist() if 0 <= i < len(tokenizer))  # -1 is padding
    return b"".join(tokenizer._bytes(i, skip_special_tokens=False) for i in known)
