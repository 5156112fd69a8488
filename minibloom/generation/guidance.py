"""Classifier-free guidance: away from what a second prompt would have the model write.

    log p = u + scale (log p(token | prompt) - u)        u = log p(token | negative prompt)

The negative prompt is continued by the very tokens that the prompt is, in a cache of its own; where none is given, it
is the prompt's last token. (Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backend import Array, namespace, to_numpy
from .filters import log_softmax

if TYPE_CHECKING:
    from ..models import BloomForCausalLM


class Guidance:
    """A processor that reads what was chosen behind the negative prompts: of rows, it is told whose they are."""

    def __init__(self, model: BloomForCausalLM, scale: float, ids: Array | None, mask: Array | None) -> None:
        """ids, mask: the negative prompts `[B, S]`, or None."""
        self.model, self.scale, self.ids, self.mask = model, scale, ids, mask
        self._cache: Any = None
        self._rows: list[int] = []  # prompts whose rows are in the cache

    def __call__(self, ids: Array, logits: Array, prompts: Array) -> Array:
        xp, rows, last = namespace(logits), to_numpy(prompts).tolist(), ids[:, -1:]
        if self._cache is None:
            feed = last if self.ids is None else self.ids
        else:
            feed = last
            if rows != self._rows:  # some have ended
                left = xp.asarray([self._rows.index(row) for row in rows])
                self._cache.select(left)
                self.mask = None if self.mask is None else self.mask[left]
            if self.mask is not None:
                self.mask = xp.concatenate([self.mask, xp.ones_like(last)], axis=1)
        self._rows = rows
        out = self.model(
            feed, attention_mask=self.mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1,
            return_dict=True,
        )  # fmt: skip
        self._cache = out.past_key_values
        u = log_softmax(out.logits[:, -1])
        return u + self.scale * (log_softmax(logits) - u)
