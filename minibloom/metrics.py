"""How right answers are: the measures of the documentation's task guides, each from 0, wrong, to 1, right.

    F1 = 2 |predicted ∩ right| / (|predicted| + |right|)

is one formula for three of them; they differ in what is counted: labels, entities, or the words of an answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy

ARTICLES = re.compile(r"\b(a|an|the)\b")


def mean(values: Sequence[float]) -> float:
    return float(numpy.mean(values))


def accuracy(given: Sequence[str], right: Sequence[str]) -> float:
    """The share of labels that are right."""
    return mean([a == b for a, b in zip(given, right, strict=True)])


def f1(common: int, predicted: int, right: int) -> float:
    """From how many were predicted rightly, predicted, and right. Nothing predicted where nothing is to be found: 1."""
    return 2 * common / (predicted + right) if predicted + right else 1.0


def f1_of_sets(predicted: Sequence[set[object]], right: Sequence[set[object]]) -> float:
    """F1 over all members of a list of sets and of those that it should be."""
    common = sum(len(a & b) for a, b in zip(predicted, right, strict=True))
    return f1(common, sum(map(len, predicted)), sum(map(len, right)))


def entities(tags: Sequence[str]) -> set[object]:
    """The (kind, first word, word after the last) of every entity in a sentence's tags `O`, `B-kind`, `I-kind`.

    An entity begins at B, or at an I that goes on with none of its kind; and ends before a tag that is no I of its
    kind. An entity that is found counts only with the right kind and both ends: as the CoNLL tasks score it.
    """
    found: set[object] = set()
    begin, kind = 0, None
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind is not None and (prefix != "I" or name != kind):
            found.add((kind, begin, i))
            kind = None
        if kind is None and prefix in ("B", "I"):
            begin, kind = i, name
    return found


def words_of_answer(text: str) -> list[str]:
    """The words that count: lower case, without punctuation and English articles. As SQuAD's script does it."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return ARTICLES.sub(" ", bare).split()


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if `answer` has the same words, in order, as one of the right ones."""
    return float(words_of_answer(answer) in [words_of_answer(one) for one in right])


def answer_f1(answer: str, right: Sequence[str]) -> float:
    """F1 of the words of `answer`, each as often as it is there, against the right answer that it is nearest to."""

    def against(one: str) -> float:
        a, b = Counter(words_of_answer(answer)), Counter(words_of_answer(one))
        return f1((a & b).total(), a.total(), b.total())

    return max(against(one) for one in right)
