"""What a model has read once, kept for many continuations, on disk too.

prompt = PromptCache(model, ids)
prompt.save("prompt.safetensors")

prompt = PromptCache.load("prompt.safetensors", model)
model.generate(ids_that_begin_with_it, past_key_values=prompt)
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
from ..tensor_file import read_header, read_metadata, read_tensors, write_tensors
from .job import read_prompts

if TYPE_CHECKING:
    from ..models import BloomForCausalLM

FORMAT = "minibloom prompt cache 1"


class PromptCache:
    """Ids `[B, S]` and their keys and values. It is never changed: each continuation gets a copy."""

    def __init__(
        self, model: BloomForCausalLM, input_ids: Any, attention_mask: Any = None, tokenizer: Any = None
    ) -> None:
        """Read the prompts, given as in `generate`."""
        pad = next(i for i in (model.config.pad_token_id, 0) if i is not None and i < model.config.vocab_size)
        self.ids, self.mask = read_prompts(model, input_ids, attention_mask, tokenizer, pad)
        self.model = model
        out = model(self.ids, attention_mask=self.mask, use_cache=True, logits_to_keep=1)
        self.cache: Cache = out.past_key_values

    def __repr__(self) -> str:
        return f"PromptCache({list(self.ids.shape)}, {self.cache!r})"

    def start(self, ids: Array, mask: Array | None, model: BloomForCausalLM) -> Cache:
        """A cache of as much of this prompt as `ids [B, S]` begin with: all of it, or all but their last token.

        A prompt of one row serves a batch, each row of which begins with it.
        """
        if model is not self.model and fingerprint(model) != fingerprint(self.model):
            raise InputError("past_key_values holds a prompt that another model has read. Read it again.")
        B, held = len(ids), self.ids.shape[1]
        if len(self.ids) not in (1, B):
            raise InputError(f"past_key_values holds {len(self.ids)} prompts, the input {B} rows: expected as many.")
        length = min(held, ids.shape[1] - 1)
        ours = None if self.mask is None else self.mask[:, :length]
        theirs = None if mask is None else mask[:, :length]
        wrong = to_numpy((ids[:, :length] != self.ids[:, :length]).any(0))
        if wrong.any() or not _same_mask(ours, theirs):
            at = f", from position {wrong.argmax()} on" if wrong.any() else " in their padding"
            raise InputError(f"past_key_values holds a prompt that input_ids do not begin with: they differ{at}.")
        cache = self.cache.copy()
        if B > 1 and len(self.ids) == 1:
            cache.select(model.xp.zeros(B, dtype="int64"))
        cache.crop(length)
        return cache

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
        prompt.ids = model.xp.asarray(json.loads(remarks["input_ids"]), dtype="int64")
        mask = json.loads(remarks["attention_mask"])
        prompt.mask = None if mask is None else model.xp.asarray(mask, dtype="int64")
        arrays = read_tensors(entries, model.dtype, model.xp)
        past = tuple((arrays[f"h.{i}.key"], arrays[f"h.{i}.value"]) for i in range(c.n_layer))
        prompt.cache = Cache.from_tuple(past, len(prompt.ids), c.n_head, c.head_dim, layout="today")
        return prompt


def fingerprint(model: BloomForCausalLM) -> str:
    """A text that two models share only if they compute the same: of configuration, precision and parameters."""
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if isinstance(v, int | float | bool)}
    digest.update(json.dumps([config, model.dtype, model.hf_compat], sort_keys=True).encode())
    for name, array in model.params.items():
        digest.update(name.encode())
        digest.update(numpy.ascontiguousarray(to_numpy(array)).data)
    return digest.hexdigest()


def _same_mask(a: Array | None, b: Array | None) -> bool:
    """Whether two masks say the same; None is all ones."""
    if a is None or b is None:
        other = b if a is None else a
        return other is None or number((other == 1).all())
    return number((a == b).all())
