"""Parity with the documented transformers without it: figures of version 4.35.2, torch and Flax, for a few tiny models.

How the file is made, and what stands in it, is told in `make_documented_goldens.py`. Where 4.35.2 is wrong, or differs
from transformers 5, the second half of this file says what it does, what is right, and what minibloom does.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from minibloom.flax import flatten, unflatten

from .documented import NOT_GIVEN, is_given
from .documented.oracle import run
from .golden_file import read_goldens
from .make_documented_goldens import CASES, COMMAND, GOLDENS, QUIRKS, arrays_of, make, model_of
from .make_goldens import parameters
from .parity.compare import assert_close, error

# The figures are stored as float32, so 1e-7 is as near as float64 can come.
in_both_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-7)])


@pytest.fixture(scope="module")
def goldens() -> dict[str, numpy.ndarray]:
    return read_goldens(GOLDENS)[0]


@pytest.fixture(scope="module")
def about() -> dict[str, Any]:
    return read_goldens(GOLDENS)[1]


def under(goldens: dict[str, numpy.ndarray], prefix: str, dtype: str) -> dict[str, numpy.ndarray]:
    """The arrays under a prefix, without it, as if they had been computed in `dtype`."""
    found = {name.removeprefix(prefix): x for name, x in goldens.items() if name.startswith(prefix)}
    return {name: x.astype(dtype) if x.dtype.kind == "f" else x for name, x in found.items()}


@pytest.fixture
def answers(goldens, about):
    """What minibloom answers to the calls of a case, and what the oracle did: of each, a dictionary for each call."""

    def both(case: str, dtype: str = "float64") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        told = about["cases"][case]
        model = model_of(goldens["pool"], told["model"], told["config"], dtype)
        calls = [call | under(goldens, f"{case}/{i}/given/", dtype) for i, call in enumerate(told["calls"])]
        expected = []
        for i, _ in enumerate(calls):
            arrays = under(goldens, f"{case}/{i}/", dtype)
            expected.append({name: x for name, x in arrays.items() if not name.startswith("given/")})
        came = run(model, calls, told["gradients"])
        return [{"error": x["error"]} if "error" in x else arrays_of(x) for x in came], expected

    return both


@pytest.mark.parametrize("case", CASES)
@in_both_dtypes
def test_every_array_of_every_call(answers, case, dtype, tolerance):
    for got, expected in zip(*answers(case, dtype), strict=True):
        assert expected
        assert_close(got, expected, tolerance)


def test_transformers_makes_the_same_tree_of_the_same_parameters(goldens):
    """Names, shapes, which way a kernel lies; and the tree's logits are minibloom's from the parameters."""
    case = CASES["flax_untied_three_heads"]
    theirs = under(goldens, "flax_untied_three_heads/params/", "float32")
    model = model_of(goldens["pool"], case.model, case.config, "float32")
    assert {".".join(place) for place in flatten(model.params, "params")} == theirs.keys()
    tree = unflatten({tuple(name.split(".")): x for name, x in theirs.items()})
    flat = parameters(goldens["pool"], model.config, model.kind)
    for name, x in model.params_from_tree(tree).items():
        numpy.testing.assert_array_equal(x, flat[name])
    ids = case.calls[0]["input_ids"]
    numpy.testing.assert_array_equal(model(ids, params=tree).logits, model(ids).logits)


def test_file_is_small_and_says_where_it_is_from(about):
    assert GOLDENS.stat().st_size < 400_000
    assert about["oracle"].startswith("transformers 4.35.2, torch 2.13.0")
    assert about["command"] == COMMAND
    assert about["cases"].keys() == CASES.keys() | QUIRKS.keys()


def test_attention_in_the_goldens_is_far_from_uniform(goldens):
    """Else a wrong slope or a wrong score would hardly show."""
    for name in ("head_mask_of_heads", "head_mask_of_blocks", "tuples_in_steps", "flax", "flax_base"):
        weights = goldens[f"{name}/0/out/attentions.0"]
        sharpest = weights[:, :, -1].max(-1) / weights[:, :, -1].sum(-1).clip(1e-9)
        assert sharpest[sharpest > 0].mean() > 0.4


@pytest.mark.skipif(not is_given(), reason=NOT_GIVEN)
def test_the_command_makes_the_same_file_again(goldens, about):
    arrays, again = make()
    assert_close(
        {name: numpy.nan_to_num(x) for name, x in arrays.items()},
        {name: numpy.nan_to_num(x) for name, x in goldens.items()},
        1e-6,
    )
    assert {**again, "oracle": ""} == {**about, "oracle": ""}


# --- where the oracle is wrong, or differs from transformers 5 ---


def ends(about: dict[str, Any], case: str) -> str:
    """What the last call of a case ended in: an error, a warning, or nothing."""
    end = about["cases"][case]["ends"][-1]
    return end if isinstance(end, str) else " ".join(end)


@pytest.mark.parametrize("case", ["pads_on_the_left", "a_pad_token_inside"])
def test_its_last_token_is_wrong_where_padding_is_not_all_at_the_end(answers, case):
    """It takes the place whose number is the count of tokens. transformers 5 and minibloom take the last token's.

    "It finds the last token that is not a padding token in each row", the documentation says. Rows without padding, or
    padded on the right, agree.
    """
    [got], [expected] = answers(case)
    right = {"pads_on_the_left": [True, False, False], "a_pad_token_inside": [False]}[case]
    off = abs(got["out/logits"] - expected["out/logits"]).max(1)
    assert ((off < 1e-5) == right).all() and off[numpy.invert(right)].min(initial=1) > 0.1


def test_it_writes_the_kind_of_problem_into_the_callers_configuration(about, goldens):
    """So that a second call with other labels is another problem. minibloom's config stays as it is."""
    told = about["cases"]["problem_type_is_kept"]
    assert told["config"] == {} and told["problem_type"] == "single_label_classification"
    model = model_of(goldens["pool"], told["model"], told["config"], "float32")
    model(goldens["problem_type_is_kept/0/given/input_ids"], labels=[1])
    assert model.config.problem_type is None


def test_it_passes_no_gradient_through_a_row_that_sees_nothing(answers):
    """The scores of padding before the first token are constants, so queries and keys get no gradient from its loss.

    transformers 5 adds its mask where 4.35.2 puts numbers in place of the scores, so its gradient passes; minibloom
    does as transformers 5. Outputs are the same; no loss counts such a row, unless a label asks for it.
    """
    [got], [expected] = answers("labels_of_a_row_that_sees_nothing")
    off = {name for name, x in expected.items() if error(got[name], x) > 1e-6}
    assert "gradient/h.0.self_attention.query_key_value.weight" in off
    behind = ("out/", "gradient/ln_f", "gradient/h.0.mlp", "gradient/h.0.self_attention.dense")
    assert not [name for name in off if name.startswith(behind)]


@pytest.mark.parametrize(
    ("case", "first"),
    [
        ("tuple_of_tokens_without_a_cache", 1),
        ("tuple_of_answers_without_a_cache", 2),
        ("flax_hidden_states_in_a_tuple", 1),
    ],
)
def test_its_tuples_lose_the_hidden_states(answers, case, first):
    """Without a cache, its two heads drop what stands in the cache's place; Flax's tuples never have hidden states."""
    [got], [expected] = answers(case)
    assert f"out/{first + 1}.0" in got and f"out/{first + 1}.0" not in expected
    assert error(got[f"out/{first + 1}.0"].astype("float32"), expected[f"out/{first}.0"].astype("float32")) < 1e-6
    assert [got[f"out/{first}.{i}"].shape for i in range(2)] == [(3, 6, 8)] * 2


def test_no_answer_inside_the_sequence_is_a_mean_over_nothing(answers):
    """NaN on both sides."""
    [got], [expected] = answers("spans_all_past_the_end")
    assert numpy.isnan(got["out/loss"]) and numpy.isnan(expected["out/loss"])


@pytest.mark.parametrize("case", ["position_ids", "position_ids_of_answers"])
def test_it_warns_of_position_ids(answers, about, case):
    """And reads them nowhere: a warning, even where a call for answers has none. minibloom refuses what it ignores."""
    assert ends(about, case).startswith("FutureWarning: `position_ids` have no functionality in BLOOM")
    [got], [expected] = answers(case)
    assert expected
    if case == "position_ids":
        assert "there is no argument 'position_ids'. BLOOM has no position embeddings" in got["error"]


def test_both_refuse_an_unknown_argument(answers, about):
    assert ends(about, "unknown_argument").startswith("ValueError: Got unexpected arguments: {'token_type_ids'")
    assert (
        "there is no argument 'token_type_ids'. BLOOM has no token types" in answers("unknown_argument")[0][0]["error"]
    )


def test_it_cannot_compute_in_float64(answers, about):
    """Not with today's torch, which does not put float64's lowest number into its float32 mask. It is patched here."""
    assert ends(about, "float64") == "RuntimeError: value cannot be converted to type float without overflow"
    assert answers("float64")[0][0]["out/last_hidden_state"].dtype == "float64"


def test_flax_cannot_run_the_largest_bloom(answers, about):
    """For head counts that are no power of two, 112 in BLOOM itself, it calls a function that JAX does not have.

    Given that function, it agrees: `CASES["flax_untied_three_heads"]`.
    """
    assert ends(about, "flax_three_heads") == "AttributeError: module 'jax.numpy' has no attribute 'cat'"
    assert numpy.isfinite(answers("flax_three_heads")[0][0]["out/logits"]).all()


def test_flax_puts_the_cache_at_the_end_of_its_output_and_into_the_second_place_of_its_tuples(goldens, answers):
    """An output's indices and a tuple's differ there. minibloom has the cache second in both."""
    [got], [expected] = answers("flax_place_of_the_cache", "float32")
    assert_close(got, expected, 1e-5)
    order = [name.split("/")[-1].split(".")[0] for name in got]
    assert list(dict.fromkeys(order)) == ["logits", "past_key_values", "attentions"]
    assert "tuple_of_flax_with_a_cache/0/out/1.h.0.self_attention.cached_key" in goldens


def test_flax_writes_over_a_full_cache(answers):
    """Four more positions into two: it overwrites the last ones, and counts on. minibloom says that it is full."""
    got, expected = answers("flax_full_cache")
    index = "out/past_key_values.transformer.h.0.self_attention.cache_index"
    assert expected[1][index] == 8 and numpy.isfinite(expected[1]["out/logits"]).all()
    assert "past_key_values is full: it has room for 6 positions, of which 4 are taken" in got[1]["error"]


def test_flax_needs_a_mask_over_all_that_a_cache_has_room_for(answers, about):
    """So does minibloom, whose error says it; but no mask at all means that all are tokens, as everywhere."""
    for case in ("flax_mask_too_short", "flax_cache_without_mask"):
        assert ends(about, case).startswith("TypeError: slice slice_sizes must be less than or equal to operand shape")
    assert "attention_mask has shape [3, 6], expected [3, 8]" in answers("flax_mask_too_short")[0][0]["error"]
    assert "out/logits" in answers("flax_cache_without_mask")[0][0]


def test_padding_before_the_first_token_looks_further_in_flax(answers):
    """What sees nothing looks everywhere alike: at all that the cache has room for in Flax, at all that there is here.

    No token reads such a row, and all others agree.
    """
    [got], [expected] = answers("flax_padding_before_a_cache")
    blind = numpy.zeros((3, 6), bool)
    blind[0, :2] = True
    weights = "out/attentions.0"
    numpy.testing.assert_allclose(expected[weights].swapaxes(1, 2)[blind], 1 / 8)
    numpy.testing.assert_allclose(got[weights].swapaxes(1, 2)[blind][..., :6], 1 / 6)
    assert not got[weights][..., 6:].any()
    for name in ("out/logits", "out/hidden_states.1"):
        assert error(got[name][~blind], expected[name][~blind]) < 1e-6
    assert error(got[weights].swapaxes(1, 2)[~blind], expected[weights].swapaxes(1, 2)[~blind]) < 1e-6


def test_flax_computes_with_ids_that_there_are_none_of(answers):
    """NaN for the whole row, as JAX reads past the end of a table; minibloom names the id."""
    [got], [expected] = answers("flax_ids_out_of_range")
    assert numpy.isnan(expected["out/logits"]).any()
    assert "expected ids from 0 to 18" in got["error"]


def test_flax_drops_the_residual_stream_itself(answers):
    """After the MLP it drops the sum with the residual, not what is added: half the stream is 0, and later blocks
    never see it. The documentation has hidden_dropout on "the bias dropout", which is added after; so has torch's
    model, so had the training of BLOOM, and so has minibloom, whose Flax-style models draw as its others do.
    """
    [got], [expected] = answers("flax_training")
    assert 0.3 < (expected["out/hidden_states.1"] == 0).mean() < 0.7
    assert got["out/hidden_states.1"].all()


def test_flax_drops_the_same_attention_in_all_heads_and_rows(answers):
    """One draw for the batch; torch's model and minibloom draw for each head and row."""
    [got], [expected] = answers("flax_training_of_attention")
    dropped, ours = expected["out/attentions.0"] == 0, got["out/attentions.0"] == 0
    assert (dropped == dropped[0, 0]).all() and numpy.tril(dropped[0, 0]).any()
    assert not (ours == ours[0, 0]).all()


def test_both_need_an_rng_to_drop_anything(answers, about):
    assert ends(about, "flax_training_without_rng").startswith("InvalidRngError")
    assert "train=True needs dropout_rng" in answers("flax_training_without_rng")[0][0]["error"]


def test_flax_ignores_an_rng_that_nothing_is_drawn_from(answers):
    """minibloom asks whether train=True was forgotten."""
    [got], [expected] = answers("flax_rng_without_training")
    assert "out/logits" in expected and "dropout_rng is given without train=True" in got["error"]
