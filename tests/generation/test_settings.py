"""GenerationConfig: files both ways, where a setting comes from, and what cannot be set together."""

from __future__ import annotations

import inspect
import json
import math
from itertools import islice
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomForCausalLM, InputError, WindowCache
from minibloom.generation import GenerationConfig, check_settings, generate, generate_steps
from minibloom.generation.beams import Beam, Group
from minibloom.generation.prepare import prepare
from minibloom.generation.settings import FIELDS

from .. import tiny

FULL = {
    "max_new_tokens": 7, "eos_token_id": [2, 5], "do_sample": True, "temperature": 0.5, "top_p": 0.9,
    "stop_strings": ["a"], "bad_words_ids": [[1, 2], [3]], "sequence_bias": {(1, 2): -1.5, (3,): 2.0},
    "early_stopping": "never",
}  # fmt: skip

DEFAULTS = {name: field.metadata["default"] for name, field in FIELDS.items() if field.metadata["default"] is not None}


def test_what_is_written_is_read_back(tmp_path):
    settings = GenerationConfig(**FULL)
    settings.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == settings
    assert GenerationConfig.from_pretrained(tmp_path, top_p=0.5).top_p == 0.5
    assert repr(GenerationConfig(top_k=3, do_sample=True)) == "GenerationConfig(do_sample=True, top_k=3)"


def test_a_file_of_transformers_is_read_and_a_models_own_goes_with_it(tmp_path):
    folder = tiny.checkpoint(tmp_path / "a")
    published = {
        "_from_model_config": True,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "transformers_version": "4.27.0.dev0",
    }
    (folder / "generation_config.json").write_text(json.dumps(published | {"max_new_tokens": 3, "temperature": 0.5}))
    model = BloomForCausalLM.from_pretrained(folder)
    assert model.generation_config == GenerationConfig(
        eos_token_id=2, pad_token_id=3, max_new_tokens=3, temperature=0.5
    )
    assert model.generate([[5]], eos_token_id=[]).shape == (1, 4)  # a file's temperature harms no greedy call
    assert model.generate([[5]], eos_token_id=[], max_new_tokens=2).shape == (1, 3)
    assert model.generate([[5]], eos_token_id=[], generation_config=GenerationConfig(max_length=6)).shape == (1, 6)
    model.save_pretrained(tmp_path / "b")
    assert BloomForCausalLM.from_pretrained(tmp_path / "b").generation_config == model.generation_config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"repetition_penalty": -1}, "repetition_penalty is -1, expected a number above 0"),
        ({"dola_layers": "high"}, "dola_layers is 'high': minibloom does not do this"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_file_that_asks_for_the_impossible_is_named_when_something_is_generated(tmp_path, values, says):
    folder = tiny.checkpoint(tmp_path / "a")
    (folder / "generation_config.json").write_text(json.dumps(values))
    model = BloomForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text()) == values
    for call in (
        lambda: model.generate([[5]], max_new_tokens=3),
        lambda: model.generate([[5]], generation_config=GenerationConfig.from_pretrained(folder)),
        lambda: check_settings(own=model.generation_config),
    ):
        with pytest.raises(InputError, match=f"a.generation_config.json: {says}"):
            call()
    if "repetition_penalty" in values:
        model.generate([[5]], repetition_penalty=1.5, max_new_tokens=3)  # the call's own is what counts


def test_what_a_file_sets_wrongly_harms_no_call_that_does_not_read_it(tmp_path):
    """As many a published file has it: a temperature of 0 beside do_sample false, to say that nothing is drawn."""
    folder = tiny.checkpoint(tmp_path / "a")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.0}))
    model, settings = BloomForCausalLM.from_pretrained(folder), {"max_new_tokens": 3}
    expected = BloomForCausalLM.from_pretrained(tiny.checkpoint(tmp_path / "b")).generate([[5]], **settings)
    for own in ({}, {"generation_config": GenerationConfig.from_pretrained(folder)}):
        assert (model.generate([[5]], **settings, **own) == expected).all()
        with pytest.raises(InputError, match=r"a.generation_config.json: temperature is 0.0, expected a number above"):
            model.generate([[5]], do_sample=True, **settings, **own)
    model.generate([[5]], do_sample=True, temperature=0.5, **settings)  # the call's own is what counts


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperatur": 1}, "no setting 'temperatur'.* Did you mean 'temperature'"),
        ({"use_cache": False}, "use_cache is False, expected True"),
        ({"num_assistant_tokens_schedule": "heuristic_transient"}, "num_assistant_tokens_schedule is 'heuristic_tran"),
        ({"cache_implementation": "static"}, "cache_implementation is 'static': minibloom does not do this"),
    ],
)
def test_a_setting_that_nobody_knows_or_that_changes_no_result_is_left_out(tmp_path, values, says):
    folder = tiny.checkpoint(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps(values | {"max_new_tokens": 3}))
    with pytest.warns(UserWarning, match=f"{says}.*It is left out"):
        model = BloomForCausalLM.from_pretrained(folder)
    assert model.generation_config == GenerationConfig(max_new_tokens=3)
    assert model.generate([[5]], eos_token_id=[]).shape == (1, 4)


# --- Where a setting comes from ---


class Foreign:
    """As transformers' GenerationConfig: `to_dict` has whatever there is, most of it unset."""

    def to_dict(self) -> dict[str, Any]:
        return {"use_mtp": None, "continuous_batching_config": None, "guidance_scale": None, "max_new_tokens": 6,
                "transformers_version": "5.23.0", "temperature": 1.0, "min_length": 0}  # fmt: skip


@pytest.mark.parametrize("given", [GenerationConfig(max_new_tokens=6), {"max_new_tokens": 6}, Foreign()])
def test_a_generation_config_goes_before_the_models_own_file_and_after_the_call(given):
    model = BloomForCausalLM(tiny.config())
    model.generation_config = GenerationConfig(max_new_tokens=9, suppress_tokens=[5], eos_token_id=[26])
    job = prepare(model, [[5, 6]], generation_config=given)
    assert (job.length, job.ends, job.settings.suppress_tokens) == (8, [26], [5])
    job = prepare(model, [[5, 6]], generation_config=given, max_length=4, eos_token_id=[])
    assert (job.length, job.ends, job.settings.max_new_tokens) == (4, [], None)
    assert prepare(model, [[5, 6]], generation_config={"max_length": 5}).length == 5  # hides both of the file
    model.generation_config = given
    assert prepare(model, [[5, 6]]).length == 8


def test_no_id_is_forced_by_an_empty_list_and_a_seed_may_be_numpys():
    model, asked = BloomForCausalLM(tiny.config()), {"max_new_tokens": 4, "eos_token_id": []}
    assert (model.generate([[5]], forced_eos_token_id=[], **asked) == model.generate([[5]], **asked)).all()
    drawn = [model.generate([[5]], do_sample=True, seed=seed, **asked).tolist() for seed in (3, numpy.array(3))]
    assert drawn[0] == drawn[1]


def test_none_in_a_call_takes_back_what_others_say():
    model = BloomForCausalLM(tiny.config(eos_token_id=7))
    own = GenerationConfig(max_new_tokens=9, suppress_tokens=[5], eos_token_id=[26], num_beams=2)
    own.refused["early_stopping"] = 1, "early_stopping is 1"
    model.generation_config = own
    given = GenerationConfig(bad_words_ids=[[4]], eos_token_id=[25])
    with pytest.raises(InputError, match="early_stopping is 1"):
        prepare(model, [[5, 6]])
    names = ("max_new_tokens", "suppress_tokens", "eos_token_id", "num_beams", "bad_words_ids", "early_stopping")
    job = prepare(model, [[5, 6]], generation_config=given, **dict.fromkeys(names))
    assert (job.length, job.ends, job.processors) == (22, [], []) and job.settings.num_beams == 1
    assert own.num_beams == 2 and own.refused and given.eos_token_id == [25]  # nobody's own is changed
    model.generation_config = GenerationConfig()
    assert prepare(model, [[5]]).ends == [7] and prepare(model, [[5]], eos_token_id=None).ends == []


@pytest.mark.parametrize("given", [5, "a", [("top_k", 5)], GenerationConfig])
def test_what_is_no_generation_config_is_said(given):
    with pytest.raises(InputError, match="generation_config is .*, expected a GenerationConfig or a dictionary"):
        BloomForCausalLM(tiny.config()).generate([[5]], generation_config=given)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": 0.5}, "temperature is 0.5 but do_sample is False"),
        ({"length_penalty": 2.0}, "length_penalty is 2.0 but num_beams is 1"),
        ({"tempratur": 1}, "no setting 'tempratur'"),
        ({"dola_layers": "low"}, "dola_layers is 'low': minibloom does not do this"),
        ({"bad_words_ids": [[999]]}, "bad_words_ids holds 999"),
    ],
)
def test_a_generation_config_that_contradicts_itself_is_named(values, says):
    with pytest.raises(InputError, match=says):
        BloomForCausalLM(tiny.config()).generate([[5]], generation_config=values)


def test_a_generation_config_that_makes_sense_alone_may_hold_more_than_a_call_needs():
    model, common = BloomForCausalLM(tiny.config()), {"max_new_tokens": 2}
    model.generate([[5]], generation_config={"do_sample": True, "temperature": 0.5, **common}, do_sample=False)
    model.generate([[5]], generation_config={"temperature": 0.5, **common}, do_sample=True)
    model.generate([[5]], generation_config={"penalty_alpha": 0.5, "top_k": 4, **common}, penalty_alpha=0.0)


@given(st.sets(st.sampled_from(sorted(DEFAULTS))), st.booleans(), st.sampled_from([1, 2]))
def test_defaults_contradict_nothing(names, do_sample, num_beams):
    if {"min_new_tokens", "min_length"} <= names:
        names = names - {"min_length"}
    defaults = {name: DEFAULTS[name] for name in names}
    assert check_settings(**defaults) == check_settings()
    others = {"do_sample": do_sample, "num_beams": num_beams}
    assert check_settings(**defaults | others) == check_settings(**others)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_of_two_lengths_in_a_file_that_of_new_tokens_counts(kind):
    both = {f"{kind}_length": 9, f"{kind}_new_tokens": 3}
    full = check_settings(own=GenerationConfig.from_dict(both))
    assert (getattr(full, f"{kind}_new_tokens"), getattr(full, f"{kind}_length") or 0) == (3, 0)


def test_what_changes_nothing_may_stand_in_a_file():
    assert GenerationConfig.from_dict({"dola_layers": None, "watermarking_config": None}) == GenerationConfig()


def test_a_default_that_is_not_set_is_filled_in_last():
    job = prepare(BloomForCausalLM(tiny.config()), [[5, 6]], top_k=7, do_sample=True)
    s = job.settings
    assert (s.top_k, s.temperature, s.top_p, s.num_beams, s.max_new_tokens) == (7, 1.0, 1.0, 1, 20)
    assert (job.length, job.ends, job.pad) == (22, [2], 3)


TOGETHER = [
    ({"min_p": 0.1}, "min_p is 0.1 but do_sample is False"),
    ({"typical_p": 0.5}, "typical_p is 0.5 but do_sample is False"),
    ({"num_beams": 2, "top_k": 5}, "top_k is 5 but do_sample is False"),
    ({"early_stopping": True}, "early_stopping is True but num_beams is 1"),
    ({"length_penalty": 2.0}, "length_penalty is 2.0 but num_beams is 1"),
    ({"force_words_ids": [[1]]}, "force_words_ids is .* but num_beams is 1"),
    ({"num_beam_groups": 2}, "num_beam_groups is 2 but num_beams is 1"),
    ({"num_beams": 4, "diversity_penalty": 1.0}, "diversity_penalty is 1.0 but num_beam_groups is 1"),
    ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beam_groups is 3, expected a divisor"),
    ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty is 0.0"),
    (
        {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
        "groups of beams draw nothing",
    ),
    ({"num_beams": 2, "do_sample": True, "force_words_ids": [[1]]}, "force_words_ids is set and do_sample is True"),
    ({"num_return_sequences": 2}, "num_return_sequences is 2, but greedy decoding has 1"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3, more than num_beams"),
    ({"max_length": 5, "max_new_tokens": 5}, "max_new_tokens is 5 and max_length is 5: give one"),
    ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens is 9, more than max_new_tokens"),
    ({"min_new_tokens": 21}, "min_new_tokens is 21, more than max_new_tokens, which is 20"),
    ({"penalty_alpha": 0.5, "do_sample": True}, "penalty_alpha is 0.5 and do_sample is True"),
    ({"penalty_alpha": 0.5, "num_beams": 2}, "penalty_alpha is 0.5 and num_beams is 2"),
    ({"penalty_alpha": 0.5, "top_k": 1}, "top_k is 1, expected at least 2"),
    ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, "prompt_lookup_num_tokens is set and num_beams is 2"),
    ({"draft": True, "num_beams": 2}, "assistant_model is set and num_beams is 2"),
    ({"draft": True, "prompt_lookup_num_tokens": 2}, "both set"),
    ({"draft": True, "do_sample": True, "num_return_sequences": 2}, "num_return_sequences is 2, expected 1"),
    ({"num_assistant_tokens": 2}, "num_assistant_tokens is 2 but assistant_model is not set"),
    ({"max_matching_ngram_size": 3}, "max_matching_ngram_size is 3 but prompt_lookup_num_tokens is not set"),
    ({"output_scores": True}, "output_scores is True but return_dict_in_generate is False"),
    ({"stop_strings": ""}, "stop_strings is '', expected a string that is not empty"),
    ({"stop_strings": ["a", ""]}, "stop_strings is"),
    ({"stop_strings": []}, "stop_strings is"),
    ({"stop_strings": "\udcff"}, "stop_strings is .*, expected a string that is not empty and has bytes in UTF-8"),
    ({"do_sample": True, "seed": 2**128 + 1}, r"seed is 3402.*, expected a whole number from 0 to 2\*\*128"),
    ({"bad_words_ids": []}, "bad_words_ids is"),
    ({"bad_words_ids": [[]]}, "bad_words_ids is"),
    ({"bad_words_ids": {(1,): 2.0}}, "bad_words_ids is"),
    ({"suppress_tokens": b"x"}, "suppress_tokens is b'x', expected a token id or a list of them"),
    ({"eos_token_id": ""}, "eos_token_id is '', expected a token id or a list of them"),
    ({"num_beams": 2, "force_words_ids": [[]]}, r"force_words_ids is \[\[\]\], expected"),
    ({"sequence_bias": {(1,): float("nan")}}, "sequence_bias is"),
    ({"early_stopping": "soon"}, "early_stopping is 'soon', expected True, False or 'never'"),
    ({"max_time": 0}, "max_time is 0"),
    ({"do_sample": True, "temperature": 1e-40}, "temperature is 1e-40, expected .* from 1e-20 to 1e20"),
    ({"do_sample": True, "temperature": 1e40}, r"temperature is 1e\+40, expected .* from 1e-20 to 1e20"),
    ({"num_beams": 2, "length_penalty": -2000}, "length_penalty is -2000, expected a number from -30 to 30"),
    ({"num_beams": 2, "length_penalty": 2000.0}, "length_penalty is 2000.0, expected a number from -30 to 30"),
    ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
    ({"use_cache": False}, "use_cache is False"),
    ({"forced_eos_token_id": 5, "suppress_tokens": [5, 6]}, r"forced_eos_token_id is \[5\] and suppress_tokens rules"),
    ({"forced_bos_token_id": 5, "suppress_tokens": [5]}, "forced_bos_token_id is 5 and suppress_tokens rules"),
    (
        {"num_beams": 2, "force_words_ids": [[5]], "bad_words_ids": [[5]]},
        "force_words_ids .* ruled out by bad_words_ids",
    ),
    (
        {"num_beams": 2, "force_words_ids": [[1], [4, 5, 6]], "bad_words_ids": [[5, 6]]},
        r"holds \[\[4, 5, 6\]\], ruled out",
    ),
    (
        {"num_beams": 2, "force_words_ids": [[5]], "suppress_tokens": 5},
        "force_words_ids .* ruled out by suppress_tokens",
    ),
    (
        {"num_beams": 2, "force_words_ids": [[[5], [6]]], "suppress_tokens": [5], "bad_words_ids": [[6]]},
        "ruled out by suppress_tokens and bad_words_ids",
    ),
]


@pytest.mark.parametrize(("settings", "says"), TOGETHER)
def test_a_contradiction_is_named_without_a_model(settings, says):
    with pytest.raises(InputError, match=says):
        check_settings(**settings)


def test_words_that_can_be_written_in_some_way_contradict_nothing():
    check_settings(forced_eos_token_id=[5, 6], suppress_tokens=[5])
    for never in ({"suppress_tokens": [5]}, {"bad_words_ids": [[5], [6, 7, 8], [7, 6]]}):
        check_settings(num_beams=2, force_words_ids=[[[5], [6, 7]]], **never)


@pytest.mark.filterwarnings("error")
def test_numbers_at_their_bounds_are_computed_with():
    model = BloomForCausalLM(tiny.config(), dtype="float32")
    numpy.testing.assert_array_equal(
        model.generate([[5, 6]], do_sample=True, temperature=1e-20, suppress_tokens=[5], eos_token_id=[]),
        model.generate([[5, 6]], suppress_tokens=[5], eos_token_id=[]),
    )
    flat = model.generate([[5, 6]] * 500, do_sample=True, temperature=1e20, top_k=0, max_new_tokens=1, seed=0)
    assert len(set(flat[:, 2].tolist())) > 200  # of 384 tokens that are all alike
    for penalty in (-30, 30):
        model.generate([[5, 6]], num_beams=2, length_penalty=penalty, eos_token_id=[7], early_stopping="never")
    group = Group(prepare(model, [[5]], num_beams=2, length_penalty=-30), 1, 0, hold=False)
    assert math.isfinite(group._final_score(Beam(-1e4, range(2**31 - 1))))


WITH_A_MODEL = [
    ({"max_length": 2}, "max_length is 2, but the prompt has 2 tokens already"),
    ({"max_length": 6, "min_new_tokens": 5}, "min_new_tokens is 5, but max_length is 6: .* of 2 .* for 4 more"),
    ({"max_new_tokens": 4, "min_length": 7}, "min_length is 7, but max_new_tokens is 4: .* of 2 .* for 4 more"),
    (
        {"num_beams": 2, "force_words_ids": [[5, 6, 7, 8]], "max_new_tokens": 2},
        "force_words_ids takes 4 tokens, but max_new_tokens is 2",
    ),
    (
        {"num_beams": 2, "force_words_ids": [[5], [6], [[7], [8, 9]]], "max_length": 4},
        "force_words_ids takes 3 tokens, but max_length is 4",
    ),
    (
        {"num_beams": 2, "force_words_ids": [[5, 6]], "max_new_tokens": 2, "forced_eos_token_id": 2},
        "force_words_ids takes 2 tokens and forced_eos_token_id the last one, but max_new_tokens is 2",
    ),
    (
        {"suppress_tokens": [*range(200)], "begin_suppress_tokens": [*range(200, 384)]},
        "suppress_tokens and begin_suppress_tokens leave no token to choose",
    ),
    ({"bad_words_ids": [[i] for i in range(384)], "eos_token_id": []}, "bad_words_ids leave no token to choose"),
    (
        {"suppress_tokens": [*range(5), *range(6, 384)], "min_new_tokens": 3, "eos_token_id": 5},
        "suppress_tokens and min_new_tokens leave no token to choose",
    ),
    (
        {"suppress_tokens": [*range(5), *range(6, 384)], "min_length": 4, "eos_token_id": 5},
        "suppress_tokens and min_length leave no token to choose",
    ),
    ({"stop_strings": "a"}, "stop_strings is set but tokenizer is not"),
    ({"num_beams": 2, "force_words_ids": [[1, 384]]}, "force_words_ids holds 384, expected ids from 0 to 383"),
    ({"num_beams": 2, "force_words_ids": [[[300]]], "tokenizer": tiny.tokenizer()}, "force_words_ids holds 300"),
    ({"num_beams": 2, "force_words_ids": [[[1, 2], [1, 2, 3]]]}, "force_words_ids has .* longer way"),
    ({"bad_words_ids": [[999]]}, "bad_words_ids holds 999"),
    ({"sequence_bias": {(999,): 1.0}}, "sequence_bias holds 999"),
    ({"assistant_model": "small"}, "assistant_model is a str"),
    ({"assistant_model": BloomForCausalLM(tiny.config(vocab_size=5))}, "assistant_model has a vocabulary of 5"),
    ({"logits_processor": 5}, "logits_processor is 5"),
    ({"logits_processor": [5]}, "logits_processor holds 5"),
    ({"stopping_criteria": [5]}, "stopping_criteria holds 5"),
    ({"callback": 5}, "callback is 5"),
    (
        {"exponential_decay_length_penalty": (1, 2.0), "eos_token_id": []},
        "length_penalty is set, but nothing ends a row",
    ),
    (
        {"max_new_tokens": 10**9},
        r"^max_new_tokens is 1000000000: .* 1 x 1,000,000,002 tokens take 512.0 GB, and there are",
    ),
    (
        {"max_length": 2 * 10**9, "do_sample": True, "num_return_sequences": 10**6},
        "max_length .* and num_return_sequences",
    ),
    ({"max_new_tokens": 2, "num_beams": 10**9}, "max_new_tokens is 2 and num_beams is 1000000000: .* of memory"),
    ({"max_new_tokens": 10**8, "penalty_alpha": 0.5, "top_k": 10**6}, "and top_k is 1000000: .* 384 x 100,000,002"),
    ({"num_beams": 2, "callback": print}, "callback is set and num_beams is 2"),
]


@pytest.mark.parametrize(("settings", "says"), WITH_A_MODEL)
def test_what_does_not_fit_the_model_or_the_prompt_is_named(settings, says):
    with pytest.raises(InputError, match=says):
        BloomForCausalLM(tiny.config()).generate([[5, 6]], **settings)


def test_a_length_without_end_is_allowed_where_a_window_sees_the_last_tokens():
    steps = generate_steps(
        BloomForCausalLM(tiny.config()), [[5]], max_new_tokens=2 * 10**9, past_key_values=WindowCache(2, 4)
    )
    assert len(list(islice(steps, 9))) == 9


@pytest.mark.parametrize(
    "own",
    [
        {"suppress_tokens": [384]}, {"begin_suppress_tokens": [384]}, {"forced_eos_token_id": 384},
        {"bad_words_ids": [[1, 384]]}, {"sequence_bias": {(384,): 1.0}},
    ],
)  # fmt: skip
def test_an_id_of_the_models_own_file_that_it_has_no_row_for_is_named(own):
    model = BloomForCausalLM(tiny.config())
    model.generation_config = GenerationConfig(**own)
    with pytest.raises(InputError, match=f"{next(iter(own))} holds 384, expected ids from 0 to 383"):
        model.generate([[5, 6]])


def test_ids_of_the_models_own_file_that_end_or_fill_rows_may_lie_past_a_small_vocabulary():
    model = BloomForCausalLM(tiny.config())
    model.generation_config = GenerationConfig(eos_token_id=[384, 5], pad_token_id=384)
    job = prepare(model, [[5, 6]])
    assert job.ends == [5] and job.pad < 384


def test_what_must_be_written_may_take_all_the_room():
    model = BloomForCausalLM(tiny.config())
    assert prepare(model, [[5, 6]], max_length=6, min_new_tokens=4).length == 6
    assert prepare(model, [[5, 6]], max_new_tokens=4, min_length=6).length == 6
    rows = model.generate([[5, 6]], num_beams=3, force_words_ids=[[7, 8], [[9], [10, 11]]], max_new_tokens=3)
    assert sorted(rows[0, 2:].tolist()) == [7, 8, 9]


def test_settings_that_leave_one_token_to_begin_with_are_taken():
    model, but_5 = BloomForCausalLM(tiny.config()), [*range(5), *range(6, 384)]
    assert model.generate([[7]], suppress_tokens=but_5, max_new_tokens=2, eos_token_id=[]).tolist() == [[7, 5, 5]]
    ends = {"bad_words_ids": [[i] for i in range(384)], "eos_token_id": 5}  # a row may always end
    assert model.generate([[7]], **ends).tolist() == [[7, 5]]
    ends = {"suppress_tokens": but_5, "eos_token_id": 5}
    assert model.generate([[7]] * 2, min_length=1, **ends).tolist() == [[7, 5]] * 2  # the prompt is as long
    assert model.generate([[7]], begin_suppress_tokens=range(384), forced_bos_token_id=6, max_new_tokens=1)[0, 1] == 6


def test_settings_that_leave_nothing_to_choose_say_so():
    with pytest.raises(InputError, match="leave no token to choose"):
        BloomForCausalLM(tiny.config()).generate(
            [[5]], no_repeat_ngram_size=1, suppress_tokens=[*range(5), *range(6, 384)]
        )


def test_help_says_what_there_is_to_set_what_it_means_and_its_default():
    assert [*inspect.signature(GenerationConfig).parameters] == [*FIELDS]
    said = GenerationConfig.__doc__
    assert "\n    top_k: draw only from the k likeliest tokens; 0: from all; by default 50\n" in said
    assert "\n    max_time: seconds after which no further token is begun\n" in said
    assert all(f"\n    {name}: " in said for name in FIELDS)
    assert "help(minibloom.generation.GenerationConfig)" in generate.__doc__
