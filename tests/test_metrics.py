"""The measures: figures by hand, and those of SQuAD by its own script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.metrics import accuracy, answer_f1, entities, exact_match, f1_of_sets


def test_accuracy_is_the_share_that_is_right():
    assert accuracy(["a", "b", "a", "a"], ["a", "b", "b", "a"]) == 0.75


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [
        ([{1, 2}, {3}], [{1}, {3, 4}], 2 * 2 / (3 + 3)),  # two in common, three given, three right
        ([{1}, {2}], [{2}, {1}], 0.0),  # right, but of another text
        ([{1}, set()], [{1}, set()], 1.0),
        ([set()], [set()], 1.0),  # nothing to find, and nothing found
        ([set()], [{1}], 0.0),
    ],
)
def test_f1_counts_over_all(given, right, expected):
    assert f1_of_sets(given, right) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O", {("PER", 1, 3)}),
        ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),  # a second one begins
        ("B-PER I-LOC", {("PER", 0, 1), ("LOC", 1, 2)}),  # of another kind
        ("O I-LOC I-LOC", {("LOC", 1, 3)}),  # an I with no B begins one, as CoNLL's script has it
        ("B-LOC O I-LOC", {("LOC", 0, 1), ("LOC", 2, 3)}),
        ("B-well-known I-well-known", {("well-known", 0, 2)}),
        ("O O", set()),
    ],
)
def test_entities_by_hand(tags, expected):
    assert entities(tags.split()) == expected


@given(runs=st.lists(st.tuples(st.sampled_from(["PER", "LOC", None]), st.integers(1, 3)), max_size=6))
def test_every_entity_that_is_tagged_is_found(runs):
    tags, expected = [], set()
    for kind, length in runs:
        if kind:
            expected.add((kind, len(tags), len(tags) + length))
        tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)] if kind else ["O"] * length
    assert entities(tags) == expected


SQUAD = [  # answer, right ones, exact match and F1: by squad_metrics in transformers 4.35.2, the best of the right ones
    ("Lima", ["Lima"], 1, 1),
    ("the Lima", ["Lima."], 1, 1),
    ("New York City", ["York", "New York"], 0, 0.8),
    ("a cat sat", ["the cat sat sat"], 0, 0.8),  # a word counts as often as it is there
    ("", [""], 1, 1),
    ("", ["x"], 0, 0),
    ("x", [""], 0, 0),
    ("An apple, a day", ["apple day"], 1, 1),
    ("the", ["a"], 1, 1),
    ("naïve Café", ["naive cafe", "NAÏVE café!"], 1, 1),
    ("than anthem", ["anthem"], 0, 0.666667),  # no article within a word
    ("than", ["th"], 0, 0),
    ("anthem", ["them"], 0, 0),
    ("1,000 $", ["1000"], 1, 1),
]


@pytest.mark.parametrize(("answer", "right", "exact", "f1"), SQUAD)
def test_answers_are_measured_as_squads_script_does(answer, right, exact, f1):
    assert exact_match(answer, right) == exact
    assert answer_f1(answer, right) == pytest.approx(f1, abs=1e-6)
