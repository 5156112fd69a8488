"""What a model returns: small dataclasses, read by attribute, by key, or by index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from .backend import Array
from .cache import Cache, StaticCache
from .display import STATISTICS, code, kind, paragraph, short, statistics, table, together
from .errors import suggest


class ModelOutput:
    """`out.logits`, `out["logits"]` and `out[0]`: fields that are None are left out of keys and indices."""

    def keys(self) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]

    def values(self) -> tuple[Any, ...]:
        return self.to_tuple()

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def to_tuple(self) -> tuple[Any, ...]:
        """All fields that are not None, in order: what `return_dict=False` gives."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"no {key!r} in this output, which has {self.keys()}.{suggest(key, self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={short(value)}' for name, value in self.items())})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the fields, in a table."""

        def row(name: str, value: Any) -> list[object]:
            whole = hasattr(value, "shape") and value.shape
            return [code(name), kind(value) if whole else short(value), *(statistics(value) if whole else [""] * 4)]

        rows = [row(name, value) for name, value in self.items()]
        return together(paragraph(type(self).__name__), table(["field", "what it is", *STATISTICS], rows, left=2))


@dataclass(eq=False, repr=False)
class BaseModelOutputWithPast(ModelOutput):
    """`last_hidden_state [B, S, E]`; the cache; L + 1 hidden states `[B, S, E]`; L attentions `[B, H, S, T]`."""

    last_hidden_state: Array = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(eq=False, repr=False)
class CausalLMOutputWithPast(ModelOutput):
    """`loss`, a scalar; `logits [B, S, V]`; the cache; hidden states and attentions as in `BaseModelOutputWithPast`."""

    loss: Array | None = None
    logits: Array = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(eq=False, repr=False)
class SequenceClassifierOutputWithPast(ModelOutput):
    """`loss`, a scalar; `logits [B, num_labels]`; the cache; hidden states and attentions as above."""

    loss: Array | None = None
    logits: Array = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(eq=False, repr=False)
class TokenClassifierOutput(ModelOutput):
    """`loss`, a scalar; `logits [B, S, num_labels]`; hidden states and attentions as above."""

    loss: Array | None = None
    logits: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(eq=False, repr=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """`loss`, a scalar; `start_logits`, `end_logits` `[B, S]` each; hidden states and attentions as above."""

    loss: Array | None = None
    start_logits: Array = None
    end_logits: Array = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(eq=False, repr=False)
class FlaxBaseModelOutput(ModelOutput):
    """`last_hidden_state [B, S, E]`; the next cache; hidden states; attentions `[B, H, S, S or max_length]`."""

    last_hidden_state: Array = None
    past_key_values: StaticCache | dict[str, Any] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@dataclass(eq=False, repr=False)
class FlaxMaskedLMOutput(ModelOutput):
    """`logits [B, S, V]`; the next cache; hidden states and attentions as in `FlaxBaseModelOutput`."""

    logits: Array = None
    past_key_values: StaticCache | dict[str, Any] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
