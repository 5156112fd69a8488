"""Labelled examples: read from a file of JSON lines, or CSV, and checked field by field.

    {"text": "I loved it", "label": "positive"}
    {"tokens": ["Ana", "lives", "in", "Lima"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]}
    {"question": "Where?", "context": "Ana lives in Lima.", "answers": {"text": ["Lima"], "answer_start": [13]}}

Examples are kept by their place ("data.jsonl, line 3"), so that an error can say where it is.
"""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy

from .config import BloomConfig
from .errors import InputError, suggest
from .files import read_text

MOST = 2**20  # classes


class Examples(dict[str, Any]):
    """Examples by their place. A list of them has places `examples[0]`, ..."""


def read_examples(path: str | Path) -> Examples:
    """Every example in the file `path`, by its place: an object a line, or with the ending .csv a row each."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file of labelled examples: JSON lines, or CSV.")
    text = read_text(path)
    examples = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_lines(path, text)
    if not examples:
        raise InputError(f"{path} holds no examples.")
    return examples


def _json_lines(path: Path, text: str) -> Examples:
    examples = Examples()
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold the other characters that end lines
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            examples[place] = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is no JSON: {error}. Each line is an object of its own.") from None
    return examples


def _csv_rows(path: Path, text: str) -> Examples:
    """The first row names the fields. Labels are names, unless all are numbers and some of them decimal."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        examples = Examples({f"{path}, line {reader.line_num}": row for row in reader})
    except csv.Error as error:
        raise InputError(f"{path} is no CSV from line {reader.line_num + 1} on: {error}.") from None
    for place, example in examples.items():
        if None in example:  # what no field is left for: there was a comma in a text
            count = len(reader.fieldnames or ())
            raise InputError(f'{place} has more than the {count} fields of line 1. Put a text with commas in "...".')
    labels = [example.get("label") or "" for example in examples.values()]
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return examples
    if not all(label.strip().lstrip("+-").isdecimal() for label in labels):  # -1, 0 and 1 are classes, called so
        for example, number in zip(examples.values(), numbers, strict=True):
            example["label"] = number
    return examples


def split(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """The examples without, and with, a random `share` of them to hold out."""
    if not 0 < share < 1 or not 0 < (count := round(share * len(examples))) < len(examples):
        raise InputError(
            f"validation is {share}, expected a share of the {len(examples)} examples, between 0 and 1, that holds "
            "some of them out and leaves some to learn from."
        )
    places = list(examples)
    chosen = {places[i] for i in numpy.random.default_rng([seed, 4]).permutation(len(places))[:count]}
    train = Examples({place: example for place, example in examples.items() if place not in chosen})
    return train, Examples({place: examples[place] for place in places if place in chosen})


# --- what an example holds, checked ---


def field_of(place: str, example: Any, name: str) -> Any:
    """What stands in the field `name` of an example."""
    if not isinstance(example, Mapping):
        raise InputError(f"{place} is {reprlib.repr(example)}, expected an object with a field {name!r}.")
    if name not in example:
        has = ", ".join(map(repr, example)) or "none"
        raise InputError(f"{place} has no field {name!r}. Its fields are {has}.{suggest(name, map(str, example))}")
    return example[name]


def text_of(place: str, example: Any, name: str) -> str:
    """The text in the field `name`."""
    text = field_of(place, example, name)
    if not isinstance(text, str) or not text:
        raise InputError(f"{place}: {name} is {reprlib.repr(text)}, expected a text, not empty.")
    return text


def answers_of(place: str, example: Any) -> list[tuple[str, int]]:
    """Text and place of every right answer to a question, each of which stands where it is said to."""
    given, context = field_of(place, example, "answers"), text_of(place, example, "context")
    texts, begins = (given.get(name) if isinstance(given, Mapping) else None for name in ("text", "answer_start"))
    if not isinstance(texts, list | tuple) or not isinstance(begins, list | tuple) or len(texts) != len(begins):
        expected = '{"text": [...], "answer_start": [...]}, lists of one length'
        raise InputError(f"{place}: answers is {reprlib.repr(given)}, expected {expected}.")
    for text, begin in zip(texts, begins, strict=True):
        if not isinstance(text, str) or not text or not is_whole(begin) or begin < 0:
            raise InputError(f"{place}: an answer is {text!r} at {begin!r}, expected a text, not empty, and its place.")
        if (there := context[begin : begin + len(text)]) != text:
            raise InputError(f"{place}: the answer {text!r} is not at {begin} in the context, where {there!r} stands.")
    return list(zip(texts, begins, strict=True))


def flat(lists: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every label in lists of them, with its place."""
    return [(place, one) for place, several in lists.items() if isinstance(several, list | tuple) for one in several]


def names_for(labels: Iterable[tuple[str, Any]], config: BloomConfig, at_least: int = 2) -> dict[int, str]:
    """Names of classes by number, one for each of `labels` (with their places): config's, if it knows all of them.

    Otherwise they are the names that were given, in the order of the alphabet; or where numbers were, LABEL_0, ...
    """
    names, numbers = set[str](), set[int]()
    for place, label in labels:
        if isinstance(label, str) and label:
            names.add(label)
        elif is_whole(label) and 0 <= label < MOST:
            numbers.add(int(label))
        else:
            expected = f"the name of a class, or its number from 0 to {MOST - 1}"
            raise InputError(f"{place}: the label is {label!r}, expected {expected}.")
        if names and numbers:
            before = "names" if numbers == {label} else "numbers"
            raise InputError(f"{place}: the label is {label!r}, while those before are {before}.")
    if names <= config.label2id.keys() and max(numbers, default=0) < config.num_labels:
        return config.id2label
    if len(names | numbers) < at_least:
        raise InputError(f"every label is {label!r}: there is nothing to tell apart.")
    return {i: f"LABEL_{i}" for i in range(max(numbers) + 1)} if numbers else dict(enumerate(sorted(names)))


def class_of(place: str, label: Any, config: BloomConfig) -> int:
    """The number of the class that `label` is the name or the number of."""
    if isinstance(label, str) and label in config.label2id:
        return config.label2id[label]
    if is_whole(label) and 0 <= label < config.num_labels:
        return int(label)
    known = ", ".join(config.label2id) if config.num_labels <= 20 else f"{config.num_labels} in all"
    raise InputError(f"{place}: the label {label!r} is unknown. Known are {known}.{suggest(label, config.label2id)}")


def is_whole(value: Any) -> bool:
    return isinstance(value, int | numpy.integer)


def is_decimal(value: Any) -> bool:
    return isinstance(value, float | numpy.floating)


def number_of(place: str, label: Any) -> float:
    """The number that a label is, or says: in a CSV file without a decimal one, numbers are names."""
    try:
        number = float(label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{place}: the label is {reprlib.repr(label)}, expected a number, as other examples have one.")
    return number
