"""What a field of a configuration may hold: a rule is words for the error message, and a check."""

from __future__ import annotations

import inspect
import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .errors import InputError


class Rule(NamedTuple):
    """`convert` returns the value as it is kept, or raises; `expected` says what it accepts."""

    expected: str
    convert: Callable[[Any], Any]

    def check(self, name: str, value: Any) -> Any:
        """Return `value` as it is kept, or raise an InputError that names the field."""
        try:
            return self.convert(value)
        except (TypeError, ValueError, AttributeError, OverflowError):
            raise InputError(f"{name} is {reprlib.repr(value)}, expected {self.expected}.") from None


def signature(defaults: Mapping[str, Any]) -> inspect.Signature:
    """That of a class that takes these keywords: for Python's help, and for what completes names."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(name, keyword, default=value) for name, value in defaults.items()])


def described(meanings: Mapping[str, tuple[str, Any]]) -> str:
    """Names, each with what it means and its default unless that is None, a line each: the end of a docstring."""
    lines = (
        f"\n    {name}: {meaning}" + ("" if default is None else f"; by default {default}")
        for name, (meaning, default) in meanings.items()
    )
    return "".join(lines)


def _refuse() -> Any:
    raise ValueError


def whole(low: int, high: int = 2**31 - 1) -> Rule:
    """A whole number, both bounds included; of Python or NumPy, but neither True nor 2.0."""

    def convert(value: Any) -> int:
        number = _refuse() if isinstance(value, bool) else operator.index(value)
        return number if low <= number <= high else _refuse()

    return Rule(f"a whole number from {low} to {high}", convert)


def real(low: float, high: float = math.inf) -> Rule:
    """A number from `low` to below `high`."""

    def convert(value: Any) -> float:
        number = _refuse() if isinstance(value, bool | str) else float(value)
        return number if low <= number < high else _refuse()  # NaN compares false, so it fails too

    bound = f"a finite number of at least {low}" if high == math.inf else f"a number in [{low}, {high})"
    return Rule(bound, convert)


def optional(rule: Rule) -> Rule:
    """None, or what `rule` accepts."""
    return Rule(f"{rule.expected}, or None", lambda value: None if value is None else rule.convert(value))


def choice(*names: str) -> Rule:
    """One of these names."""
    return Rule("one of " + ", ".join(names), lambda value: value if value in names else _refuse())


def dtype(*names: str) -> Rule:
    """Accept "float16", "torch.float16" (some files on the hub), numpy.float16 and numpy.dtype("float16")."""

    def convert(value: Any) -> str:
        name = getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)
        return choice(*names).convert(name.removeprefix("torch."))

    return Rule("one of " + ", ".join(names), convert)


def _strings(value: Any) -> list[str]:
    well = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    return list(value) if well else _refuse()


def _id_or_ids(value: Any) -> int | list[int]:
    one = whole(0).convert
    return [one(item) for item in value] if isinstance(value, list | tuple) and value else one(value)


def _id2label(value: Any) -> dict[int, str]:
    labels = {int(key): label for key, label in value.items()}  # JSON has only strings for keys
    well = labels and len(labels) == len(value) and all(isinstance(label, str) for label in labels.values())
    return dict(sorted(labels.items())) if well and sorted(labels) == [*range(len(labels))] else _refuse()


def _label2id(value: Any) -> dict[str, int]:
    well = isinstance(value, Mapping) and all(isinstance(label, str) for label in value)
    return {label: operator.index(index) for label, index in value.items()} if well else _refuse()


FLAG = Rule("True or False", lambda value: value if isinstance(value, bool) else _refuse())
RATE = real(0, 1)
TOKEN_ID = optional(whole(0))  # may lie above vocab_size: the default eos 2 must not forbid two words
TOKEN_IDS = optional(Rule("a token id or a list of them", _id_or_ids))
STRINGS = Rule("a list of strings", _strings)
ID2LABEL = Rule("a dictionary {0: name, 1: name, ...}", _id2label)
LABEL2ID = Rule("a dictionary {name: 0, ...}", _label2id)
