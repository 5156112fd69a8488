"""Against transformers 4.35.2, which still ran these strategies by itself: the same ids. See `make_goldens.py`."""

from __future__ import annotations

import json

import pytest

from minibloom import BloomConfig, BloomForCausalLM

from .make_goldens import FILE, random_params

CASES = json.loads(FILE.read_text(encoding="utf-8"))["cases"]


LOST = 3  # rows of the goldens in which transformers lost the words


def kind(case: dict) -> str:
    return next(name for name in ("penalty_alpha", "num_beam_groups", "force_words_ids") if name in case["settings"])


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{kind(CASES[i])}-{i}")
def test_contrastive_search_groups_and_forced_words_give_the_ids_of_transformers(number):
    case = CASES[number]
    fields = {name: case[name] for name in ("vocab_size", "hidden_size", "n_layer", "n_head")}
    model = BloomForCausalLM(BloomConfig(**fields), dtype="float64")
    model.params = random_params(case)
    got = model.generate(case["ids"], eos_token_id=[], pad_token_id=0, **case["settings"]).tolist()
    words, S = case["settings"].get("force_words_ids", []), len(case["ids"][0])
    for ours, theirs in zip(got, case["sequences"], strict=True):
        assert ours == theirs or not holds(theirs[S:], words)  # transformers may lose the words on its way
        assert holds(ours[S:], words)


def holds(text: list[int], words: list) -> bool:
    """Whether all words are there, each in one of the ways to write it."""
    runs = {tuple(text[i:j]) for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    return all(any(tuple(way) in runs for way in (word if isinstance(word[0], list) else [word])) for word in words)


def test_there_are_goldens_of_each_kind():
    assert {kind(case) for case in CASES} == {"penalty_alpha", "num_beam_groups", "force_words_ids"}
    assert len(CASES) == 60
    asked = [(case["settings"].get("force_words_ids", []), row[len(case["ids"][0]) :]) for case in CASES
             for row in case["sequences"]]  # fmt: skip
    assert sum(not holds(row, words) for words, row in asked) == LOST
