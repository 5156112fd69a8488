"""How a strategy reads a model: pass by pass, with cache and mask in step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backend import Array
from ..compiled_choice import Ahead
from .job import Job

if TYPE_CHECKING:
    from ..models import BloomForCausalLM


class Reader:
    """Reads ids into a model pass by pass, and keeps cache and mask in step."""

    PIECE = 128  # tokens of a prompt that a window reads in a pass: as fast as larger pieces, in less memory

    def __init__(self, job: Job, draft: BloomForCausalLM | None = None) -> None:
        """draft: what is read into in place of the job's model; nobody has read anything into it before."""
        self.job, self.model, self._own = job, draft or job.model, draft is None
        self.cache: Any = job.cache if self._own else None
        self.ids, self.mask = job.as_read if job.as_read and self._own else (job.ids, job.mask)
        self.read = 0 if self.cache is None else self.cache.seen
        s = job.settings
        self._watch: dict[str, Any] = {}
        if s.return_dict_in_generate:
            self._watch = {name: True for name in ("output_attentions", "output_hidden_states") if getattr(s, name)}
        if self._own and job.trace is not None:
            self._watch["trace"] = job.trace

    def __call__(self, ids: Array, keep: int = 1, **more: Any) -> Any:
        """The model's output for `ids [B, S]`, with the logits of the last `keep` positions."""
        new, mask = ids.shape[1], self.mask
        self.read += new
        if mask is not None:
            if self.read > mask.shape[1]:  # twice as long as needed: the next copy is far off
                ones = self.job.xp.ones((len(mask), 2 * self.read - mask.shape[1]), dtype=mask.dtype)
                self.mask = mask = self.job.xp.concatenate([mask, ones], axis=1)
            seen = new if self.cache is None else self.cache.length + new  # a window has dropped some
            mask = mask[:, self.read - seen : self.read]
        out = self.model(
            ids, past_key_values=self.cache, attention_mask=mask, use_cache=True, logits_to_keep=keep, checked=True,
            return_dict=True, **self._watch, **more,
        )  # fmt: skip
        self.cache = out.past_key_values
        if self._own:  # a draft's passes are not counted
            self.job.result.passes += 1
            if self.job.settings.return_dict_in_generate:
                self.job.result.cache = self.cache
        return out

    def ahead(self, ids: Array | None, ahead: Ahead) -> Any:
        """The same for `ids [B, 1]`, or without them the prompts, and for the ids that a loop chooses behind them.

        Where it chooses none, the output has the logits that the first depends on.
        """
        out = self.prompt(ahead=ahead) if ids is None else self(ids, ahead=ahead)
        more = max(0, len(ahead.chosen) - 1)
        self.read += more
        self.job.result.passes += more
        if self.cache.length > self.read:  # it has read a token behind which it could not choose
            self.cache.crop(self.read)
        return out

    @property
    def rows_leave(self) -> bool:
        """Whether a row that has ended leaves the batch: not where somebody looks at all rows' arrays."""
        job = self.job
        shown = self.cache is job.callers_cache or job.trace is not None
        return not shown and not job.settings.return_dict_in_generate

    def likeliest(self, scores: Array) -> Array:
        """The likeliest id of each row `[B]`, by the scores `[B, V]` made of the last pass's logits."""
        return scores.argmax(-1)

    def prompt(self, times: int = 1, **more: Any) -> Any:
        """Read what the cache does not hold of the prompts; then repeat each row.

        A window reads them in pieces, so that its memory is fixed; but where somebody looks inside, in one pass.
        """
        if times > 1:
            self.with_own_cache()
        ids, c = self.ids[:, self.read :], self.model.config
        looked_at = self._watch or more or c.output_attentions or c.output_hidden_states
        if self.cache is not None and self.cache.window is not None and not looked_at:
            while ids.shape[1] > self.PIECE:
                self(ids[:, : self.PIECE])
                ids = ids[:, self.PIECE :]
        out = self(ids, **more)
        if times > 1:
            self.select(self.job.xp.repeat(self.job.xp.arange(len(self.job.ids)), times))
        return out

    def with_own_cache(self) -> Reader:
        """This reader, from now on with a copy of the caller's cache: for strategies that shuffle rows."""
        self.cache = None if self.cache is None else self.cache.copy()
        return self

    def select(self, rows: Array) -> None:
        """Keep these rows of the batch, in this order, repeats allowed."""
        self.cache.select(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]

    def crop(self, length: int) -> None:
        """Forget what was read from position `length` on."""
        self.cache.crop(length)
        self.read = length
