"""Against transformers 4.35.2, which still ran these strategies by itself: the same ids. See `make_goldens.py`."""

from __future__ import annotations

import json

import pytest

from minibloom import BloomConfig, BloomForCausalLM

from .make_goldens import FILE, random_params

CASES = json.loads(FILE.read_text(encoding="utf-8"))["cases"]


def kind(case: dict) -> str:
    return next(name for name in ("penalty_alpha", "num_beam_groups", "force_words_ids") if name in case["settings"])


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{kind(CASES[i])}-{i}")
def test_contrastive_search_groups_and_forced_words_give_the_ids_of_transformers(number):
    case = CASES[number]
    fields = {name: case[name] for name in ("vocab_size", "hidden_size", "n_layer", "n_head")}
    model = BloomForCausalLM(BloomConfig(**fields), dtype="float64")
    model.params = random_params(case)
    got = model.generate(case["ids"], eos_token_id=[], pad_token_id=0, **case["settings"])
    assert got.tolist() == case["sequences"]


def test_there_are_goldens_of_each_kind():
    assert {kind(case) for case in CASES} == {"penalty_alpha", "num_beam_groups", "force_words_ids"}
    assert len(CASES) == 60
