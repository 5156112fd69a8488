"""The settings of a run: each that makes no sense is named."""

from __future__ import annotations

import dataclasses
import math

import pytest

from minibloom.errors import InputError
from minibloom.settings import FINETUNING, TrainingSettings

BAD_SETTINGS = [
    ("steps", 0, "a whole number of at least 1"),
    ("steps", 2.0, "a whole number"),
    ("batch_size", True, "a whole number"),
    ("context_length", 1, "at least 2"),  # one token has no next one
    ("seed", -1, "at least 0"),
    ("seed", 10**400, "at least 0"),  # more than a number of the machine holds
    ("learning_rate", 10**400, "a number above 0"),
    ("whole_documents", 1, "True or False"),
    ("weight_decay", -0.1, "a number of at least 0"),
    ("learning_rate", math.nan, "a number above 0"),
    ("learning_rate", 0, "a number above 0"),
    ("clip", 0.0, "a number above 0"),
    ("clip", math.inf, "a number above 0"),
    ("clip", "1", "a number above 0"),
    ("beta1", 1.0, "a number below 1"),
    ("final_rate", 1.5, "at most 1"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_SETTINGS)
def test_a_setting_that_makes_no_sense_is_named(name, value, expected):
    with pytest.raises(InputError, match=f"^{name} is .*{expected}"):
        TrainingSettings(**{name: value})


def test_fine_tuning_has_defaults_of_its_own():
    assert TrainingSettings(**FINETUNING).learning_rate < TrainingSettings().learning_rate


def test_help_says_what_each_setting_means_and_its_default():
    said = TrainingSettings.__doc__
    assert "\n    steps: updates of the parameters; by default 2000\n" in said
    assert all(f"\n    {field.name}: " in said for field in dataclasses.fields(TrainingSettings))
