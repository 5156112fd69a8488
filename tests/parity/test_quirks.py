"""The oracle's quirks: what transformers 5.23 does, what is right, and which minibloom does. One test for each.

Where minibloom does what is right:

slow_but_exact_leaves_out_two_biases
    transformers: with `slow_but_exact` and `pretraining_tp` above 1, each block's `dense.bias` and `dense_4h_to_h.bias`
    are set but not read. Right: added once, after the sum over slices, as the machines that trained BLOOM did.
    minibloom: right, unless a model is made with `hf_compat=True`, which computes what transformers does.
hf_compat_computes_what_transformers_does
    Not bit for bit, as no two libraries' matrix products add in one order: outputs and gradients within 1e-5, and the
    gradients of both biases are 0. It is bit for bit what minibloom gives where these biases are 0.
labels_change_the_configuration
    transformers: the first call with labels writes what they seem to be into `config.problem_type`, and takes all later
    ones for the same. Right: each call's labels speak for themselves. minibloom: right.
a_tuple_without_cache_loses_the_hidden_states
    transformers: with `return_dict=False`, the classifier of tokens drops the second entry of the base model's tuple,
    the cache; without a cache, it drops the hidden states that were asked for. Answers likewise. Right: only the cache
    is dropped. minibloom: right.
labels_of_another_shape_are_stretched
    transformers: numbers `[B]` for a regression of B numbers a row are compared with every row's, with a warning of
    torch's; so are two numbers a row where there is one logit. Right: an error. minibloom: right.
probabilities_outside_0_to_1_are_taken
    transformers: a target of 7 gives a negative loss. Right: an error. minibloom: right.
labels_in_int32_are_refused
    transformers: takes them for classes, and fails in torch. Right: whole numbers are whole numbers. minibloom: right.
labels_cut_from_a_larger_array_are_refused
    transformers: the classifier of tokens fails where labels are not contiguous in memory. Right: memory does not
    matter. minibloom: right.
one_end_of_an_answer_gives_no_loss
    transformers: `start_positions` alone are ignored. Right: an error. minibloom: right.
unknown_arguments_are_swallowed
    transformers: `head_mask`, `position_ids` and `foo` are accepted and ignored. Right: `head_mask` is documented and
    applied, the others are an error. minibloom: right.
tuples_of_keys_and_values_are_refused
    transformers: `past_key_values` as a tuple, as documented, is an AttributeError. Right: it is what its shapes say,
    or an error if they could be two things. minibloom: right.
slopes_may_be_one_float32_off
    transformers: ALiBi's slopes are powers in float32, which may round to the second nearest number. Right: the
    nearest. minibloom: right.
alibi_in_bfloat16_has_few_positions
    transformers: a bfloat16 model rounds slope * position to bfloat16: a head of slope 1/2 tells 641 positions of 2048
    apart. Right: all. minibloom: right, as it computes in float32 whatever the file holds.
the_mask_in_float16_overflows
    transformers: a float16 model adds -65504 to the scores it hides. Added to -16 or less, it is -inf, and a row of
    nothing else is NaN, which spreads over the text. Right: a hidden score is replaced. minibloom: right.
float64_is_nan_where_there_is_padding_on_the_left
    transformers: float64's lowest number, cast to float32 for the softmax, is -inf; the same NaN. minibloom: right.
softmax_and_loss_are_in_float32_whatever_the_dtype
    transformers: a float64 model is right to about seven digits. Right: sixteen. minibloom: right.
the_derivative_of_gelu_has_ten_digits
    transformers: a constant in it is written out with ten digits. minibloom: right.
contrastive_search_chooses_what_is_ruled_out
    transformers (4.35.2: 5.23 no longer runs it): a token that is ruled out has probability 0, and where fewer than
    `top_k` are left it stands among the candidates, and is chosen if it is unlike enough. Right: never chosen.
    minibloom: right.
a_pad_token_of_0_is_none_to_beams
    transformers: beam search fills rows that have ended with `pad_token_id or eos_token_id`, and 0 is no token to `or`.
    Right: with the pad token, whatever its id, as greedy decoding does. minibloom: right.
without_an_eos_token_beams_are_filled_with_minus_1
    transformers: where no token ends a row, a beam that a criterion or a string ended, and one that there is not, is
    filled with -1, which no tokenizer decodes. Right: with the pad token. minibloom: right.
of_too_few_beams_one_comes_twice
    transformers: where the settings leave fewer continuations than beams, a returned one may be another once more, with
    a score of -1e9. Right: what there is not is filled, with a score of -inf. minibloom: right.
of_too_few_beams_those_that_there_are_not_are_finished_early
    transformers: with `early_stopping=True`, what it fills up with where the settings leave fewer continuations than
    beams counts as finished, so that a search ends before it has as many as it was asked for. Right: real ones count.
    minibloom: right, and what it finds is likelier.
without_an_eos_token_a_row_that_has_ended_goes_on
    transformers: where no token ends a row, greedy decoding and sampling write on behind the place where a criterion or
    a string ended one, until all rows have ended: what a row gets depends on the batch beside it. Right: as if alone,
    and filled, as where there is such a token. minibloom: right.
of_equal_tokens_top_p_keeps_some
    transformers: sorts, and of tokens that are alike keeps those that sorting puts last. Right: nothing tells them
    apart, so all or none; `top_k` of transformers itself does so. minibloom: right, all.
no_run_of_tokens_takes_padding_for_text
    transformers: `no_repeat_ngram_size` reads the pad tokens in front of a short prompt as text, so a row depends on
    the batch beside it. Right: as if alone, and `repetition_penalty` of transformers leaves padding out. minibloom:
    right.
a_length_of_the_file_goes_before_one_that_is_asked_for
    transformers: `max_length`, of a call or its `generation_config`, does nothing but warn where the model's own file
    has `max_new_tokens`; `min_length` likewise. Right: the file is only a default, as for any other setting. minibloom:
    right. (Where both stand in one file or one `generation_config`, that of new tokens counts in both. In one call,
    minibloom refuses the other, as whatever would change nothing.)

Where minibloom does as transformers does, since a port is judged by it, or a trained model relies on it:

a_query_that_sees_no_token_attends_to_all_keys_alike
    Padding on the left, and a text of nothing else: 1/T for every key, later ones included. No token reads such a row.
and_its_gradient_passes_as_if_the_mask_were_added
    Its scores do not matter, yet they have a gradient. A loss that counts no padding does not see it. (transformers
    4.35.2 put a number in place of the scores, and had none: seen once, not tested here.)
the_last_token_is_told_by_its_id
    A text is classified at its last token that is no pad token, whatever the mask says; a mask that ends earlier moves
    nothing. (transformers 4.35.2 counted the tokens, and read a text that is padded on the left too early.)
labels_that_repeat_the_ids_count_the_padding
    `labels=input_ids` has the model predict the pad token too. Say -100 where a label does not count.
a_negative_place_of_an_answer_counts_as_0
    The documentation says that places outside the text do not count; that is so only of those past its end.
answers_compete_with_the_padding
    The softmax over positions takes in padding, so the loss of a text depends on how far its batch pads it.
lengths_count_the_padding
    `max_length`, `min_length` and `forced_bos_token_id` go by the width of the batch, so a short prompt gets fewer new
    tokens beside a long one than alone. `max_new_tokens` and `min_new_tokens` do not.
no_label_that_counts_is_nan
    A mean over nothing has no value. Its gradient is 0, in every model.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Cache, InputError, generation
from minibloom.generation.filters import keep_top_p
from minibloom.generation.processors import no_repeat_ngram
from minibloom.layers.alibi import alibi_bias, alibi_slopes
from minibloom.layers.mlp import gelu_backward

from ..generation import make_goldens
from ..gradients import slope
from ..strategies import random_model
from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from transformers.generation import (  # noqa: E402
    GenerationConfig,
    NoRepeatNGramLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.models.bloom import modeling_bloom  # noqa: E402

from .cases import TASKS, biases_dropped_by_the_oracle, call_of, cases, random_params  # noqa: E402
from .compare import TOLERANCE, assert_close, assert_same, error, form, named  # noqa: E402
from .oracle import Oracle, exactly, float64_kept, oracle_slopes, oracle_value_and_grad, tensors  # noqa: E402

in_both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
PADDED = numpy.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])


def classifier(task: str, B: int = 2, S: int = 4, **config: Any) -> tuple[Any, numpy.ndarray]:
    """A model for this task, and ids `[B, S]` without the pad token 0."""
    case = call_of(B, S, **{"num_labels": 3, "pad_token_id": 0, **config})
    case.kind = TASKS[task]
    return case.model("float32"), numpy.maximum(case.inputs["input_ids"], 1)


def test_this_page_and_these_tests_name_the_same_quirks():
    listed = re.findall(r"^([a-z0-9_]+)$", __doc__, re.MULTILINE)
    tests = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    assert listed == tests[1:]


# --- where minibloom does what is right ---


def test_slow_but_exact_leaves_out_two_biases():
    case = call_of(2, 8, slow_but_exact=True, pretraining_tp=2)
    model, call = case.model("float32"), case.call("float32")
    with_zeros = model(**call).logits
    for name in biases_dropped_by_the_oracle(case.config):
        model.params[name][::2] = 1.0
    expected, gradients = Oracle(model).value_and_grad(**call)
    assert error(with_zeros, expected["logits"]) < 1e-5  # set, but not read
    assert all((gradients[name] == 0).all() for name in biases_dropped_by_the_oracle(case.config))
    plain = Oracle(model, slow_but_exact=False)(**call)
    assert error(model(**call).logits, plain["logits"]) < 1e-5  # set and read
    assert error(with_zeros, plain["logits"]) > 0.1


@in_both_dtypes
@settings(max_examples=15)
@given(data=st.data())
def test_hf_compat_computes_what_transformers_does(dtype, data):
    case = data.draw(cases(wild=dtype == "float64", shortest=2, slow_but_exact=True))
    call, dropped = case.call(dtype), biases_dropped_by_the_oracle(case.config)
    assume(dropped)
    model = case.kind(case.config, dtype=dtype, hf_compat=True)
    model.params = random_params(model.shapes(case.config), case.seed, case.gain, dtype)
    assert all(model.params[name].any() for name in dropped)
    out, gradients = model.value_and_grad(**call)
    with exactly(case, dtype):
        expected, expected_gradients = Oracle(model).value_and_grad(**call, use_cache=False)
    assert_same(out, expected, case.mask, dtype)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])
    assert not any(gradients[name].any() or expected_gradients[name].any() for name in dropped)
    zeros, zeros_gradients = case.model(dtype).value_and_grad(**call)
    assert all((a == b).all() for a, b in zip(out.hidden_states, zeros.hidden_states, strict=True))
    assert (out.logits == zeros.logits).all() and (out.loss == zeros.loss or numpy.isnan(out.loss))
    assert all((gradients[name] == x).all() for name, x in zeros_gradients.items() if name not in dropped)


def test_labels_change_the_configuration():
    model, ids = classifier("single_label_classification")
    single, multi = {"labels": numpy.array([0, 2])}, {"labels": numpy.eye(3, dtype="float32")[[0, 2]]}
    oracle = Oracle(model)
    assert oracle.module.config.problem_type is None
    loss = oracle(ids, **single)["loss"]
    assert oracle.module.config.problem_type == "single_label_classification"
    assert oracle(ids, **multi)["loss"] == pytest.approx(loss)  # one-hot rows, taken for probabilities of classes
    assert error(model(ids, **single).loss, loss) < 1e-5 and model.config.problem_type is None
    assert error(model(ids, **multi).loss, Oracle(model)(ids, **multi)["loss"]) < 1e-5
    assert abs(model(ids, **multi).loss - loss) > 0.01


@pytest.mark.parametrize("task", ["tokens", "answers"])
def test_a_tuple_without_cache_loses_the_hidden_states(task):
    model, ids = classifier(task, use_cache=False)
    call = {"output_hidden_states": True, "return_dict": False}
    module = Oracle(model, use_cache=False).module
    with_cache = Oracle(model).module(**tensors(call, input_ids=ids))
    without, ours = module(**tensors(call, input_ids=ids)), model(ids, **call)
    assert len(without) == len(with_cache) - 1 == (1 if task == "tokens" else 2)
    assert [form(x) for x in ours] == [form(x) for x in with_cache]
    assert isinstance(ours[-1], tuple)


def test_labels_of_another_shape_are_stretched():
    for count, labels in ((2, numpy.array([0, 1], "float32")), (1, numpy.zeros((2, 2), "float32"))):
        model, ids = classifier("regression", num_labels=count, problem_type="regression")
        with pytest.warns(UserWarning, match="likely lead to incorrect results"):
            assert Oracle(model)(ids, labels=labels)["loss"] > 0
        with pytest.raises(InputError, match=f"labels has shape .*, expected .*regression, with num_labels={count}"):
            model(ids, labels=labels)


def test_probabilities_outside_0_to_1_are_taken():
    model, ids = classifier("multi_label_classification")
    labels = numpy.full((2, 3), 7, "float32")
    assert Oracle(model)(ids, labels=labels)["loss"] < 0
    with pytest.raises(InputError, match="labels holds numbers outside 0"):
        model(ids, labels=labels)


def test_labels_in_int32_are_refused():
    model, ids = classifier("single_label_classification")
    labels = numpy.array([0, 2])
    with pytest.raises(RuntimeError, match="expected target dtype to be Long"):
        Oracle(model)(ids, labels=labels.astype("int32"))
    assert model(ids, labels=labels.astype("int32")).loss == model(ids, labels=labels).loss


def test_labels_cut_from_a_larger_array_are_refused():
    model, ids = classifier("tokens")
    labels = numpy.arange(16).reshape(2, 8) % 3
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        Oracle(model)(ids, labels=labels[:, 4:])
    assert error(model(ids, labels=labels[:, 4:]).loss, Oracle(model)(ids, labels=labels[:, 4:].copy())["loss"]) < 1e-5


def test_one_end_of_an_answer_gives_no_loss():
    model, ids = classifier("answers")
    for name in ("start_positions", "end_positions"):
        assert "loss" not in Oracle(model)(ids, **{name: numpy.array([0, 1])})
        with pytest.raises(InputError, match="give both start_positions and end_positions, or neither"):
            model(ids, **{name: numpy.array([0, 1])})


def test_unknown_arguments_are_swallowed():
    case = call_of(1, 5)
    model, call = case.model("float32"), case.call("float32")
    plain = Oracle(model)(**call)["logits"]
    for argument in ("position_ids", "head_mask", "foo"):
        assert (Oracle(model)(**call, **{argument: 0})["logits"] == plain).all()
    for argument in ("position_ids", "foo"):
        with pytest.raises(InputError, match=f"no argument '{argument}'"):
            model(**call, **{argument: 0})
    assert error(model(**call, head_mask=numpy.zeros(6)).logits, plain) > 0.01


def test_tuples_of_keys_and_values_are_refused():
    case = call_of(2, 5)
    model, ids = case.model("float32"), case.inputs["input_ids"]
    cache = model(ids[:, :3]).past_key_values
    for layout in ("documented", "standard", "first", "today"):
        past = cache.to_tuple(layout)
        with pytest.raises(AttributeError, match="'tuple' object has no attribute"):
            Oracle(model)(ids[:, 3:], past_key_values=tuple(tuple(map(torch.from_numpy, pair)) for pair in past))
        assert (model(ids[:, 3:], past_key_values=past).logits == continued(model, ids, 3)).all()


def continued(model: Any, ids: numpy.ndarray, cut: int) -> numpy.ndarray:
    cache = Cache(model.config.n_layer)
    model(ids[:, :cut], past_key_values=cache)
    return model(ids[:, cut:], past_key_values=cache).logits


def test_slopes_may_be_one_float32_off():
    """float32's power function may round to the second nearest number. Where this was written it does so once for
    each of 32 to 63 heads, and for 128: of BLOOM's own sizes, bloom-3b and bloom-7b1 have 32. minibloom's slopes are
    the nearest float32 numbers.
    """
    for heads in (*range(1, 40), 63, 64, 100, 112, 128):
        ours, theirs = alibi_slopes(heads, numpy), oracle_slopes(heads)
        assert abs(ours.view("int32") - theirs.view("int32")).max() <= 1  # how many float32 numbers apart
        assert (ours == exactly_rounded_slopes(heads)).all()


def exactly_rounded_slopes(heads: int) -> numpy.ndarray:
    """The powers of float32 bases in exact arithmetic, rounded once, to the nearest float32."""
    power = 2 ** (heads.bit_length() - 1)
    slopes = []
    for base, exponents in (
        (2 ** (-8 / power), range(1, power + 1)),
        (2 ** (-4 / power), range(1, 2 * (heads - power), 2)),
    ):
        for exponent in exponents:
            exact = Fraction(float(numpy.float32(base))) ** exponent
            near = numpy.float32(float(exact))
            around = [numpy.nextafter(near, numpy.float32(0)), near, numpy.nextafter(near, numpy.float32(1))]
            slopes.append(min(around, key=lambda number: abs(Fraction(float(number)) - exact)))
    return numpy.array(slopes)


def test_alibi_in_bfloat16_has_few_positions():
    """Head 0 of 8, at the 2048 positions that BLOOM was trained with. float16, for once, has all of this head's."""
    ones, T = numpy.ones((1, 2048), "int64"), 2048
    told_apart = {
        name: len(modeling_bloom.build_alibi_tensor(torch.from_numpy(ones), 8, getattr(torch, name))[0].unique())
        for name in ("float32", "float16", "bfloat16")
    }
    assert told_apart == {"float32": T, "float16": T, "bfloat16": 641}
    assert len(numpy.unique(alibi_bias(ones, 8, "float32")[0, 0])) == T


def test_the_mask_in_float16_overflows(tmp_path):
    """Seen on the CPU: of these weights, whose scores are some tens, both texts that begin with padding are NaN."""
    case = call_of(3, 5, 1, mask=PADDED)
    case.gain = 8.0
    case.model("float32").save_pretrained(tmp_path, dtype="float16")
    call = {"input_ids": case.inputs["input_ids"], "attention_mask": PADDED}
    theirs = Oracle.of_file(tmp_path, case.kind, torch.float16)(**call)["logits"]
    assert numpy.isnan(theirs).any(axis=(1, 2)).tolist() == [True, True, False]
    assert numpy.isnan(theirs[0, 3:]).all()  # the tokens too
    assert numpy.isfinite(case.kind.from_pretrained(tmp_path)(**call).logits).all()


def test_float64_is_nan_where_there_is_padding_on_the_left():
    """float64's lowest number, cast to float32 for softmax, is -inf; the NaN then spreads to every later row."""
    case = call_of(3, 5, mask=PADDED)
    model, call = case.model("float64"), case.call("float64")
    assert numpy.isnan(Oracle(model)(**call)["logits"]).all(axis=(1, 2)).tolist() == [True, True, False]
    assert not numpy.isnan(model(**call).logits).any()


def test_softmax_and_loss_are_in_float32_whatever_the_dtype():
    case = call_of(2, 16)
    model, call = case.model("float64"), case.call("float64")
    expected, out = Oracle(model)(**call), named(model(**call))
    assert expected["loss"].dtype == "float32" and out["loss"].dtype == "float64"
    assert 1e-9 < error(out["logits"], expected["logits"]) < 1e-6


def test_the_derivative_of_gelu_has_ten_digits():
    x = numpy.linspace(-4, 4, 1001)
    there, exact = torch.from_numpy(x), torch.from_numpy(x).requires_grad_()
    modeling_bloom.bloom_gelu_forward(exact).sum().backward()
    by_hand = modeling_bloom.bloom_gelu_back(torch.ones_like(there), (there,))
    assert 1e-13 < error(by_hand.numpy(), exact.grad.numpy()) < 1e-12
    assert error(gelu_backward(numpy.ones_like(x), x), exact.grad.numpy()) < 1e-14


def test_contrastive_search_chooses_what_is_ruled_out():
    fields = {"vocab_size": 12, "hidden_size": 16, "n_layer": 2, "n_head": 2}
    model = BloomForCausalLM(BloomConfig(**fields))
    params = make_goldens.random_params(fields | {"seed": 0})
    model.params = {name: x.astype("float32") for name, x in params.items()}
    ids, given = [1, 2, 3], [11, 0, 7, 1]  # a prompt, and what 4.35.2 went on with where 0 and 1 alone were left
    asked = {"penalty_alpha": 0.9, "top_k": 4, "suppress_tokens": range(2, 12), "eos_token_id": []}
    out = Oracle(model)(numpy.array([[*ids, token] for token in (0, 1, given[0])]), output_hidden_states=True)
    left, states = numpy.exp(out["logits"][0, 2, :2]), out["hidden_states.2"]  # [2], [3, 4, E]
    probs = numpy.array([*left / left.sum(), 0])
    unit = states / numpy.linalg.norm(states, axis=-1, keepdims=True)
    worth = 0.1 * probs - 0.9 * numpy.einsum("bte,be->bt", unit[:, :-1], unit[:, -1]).max(-1)  # its formula
    assert worth.argmax() == 2
    assert set(model.generate([ids], max_new_tokens=4, **asked)[0, 3:].tolist()) <= {0, 1}


def test_a_pad_token_of_0_is_none_to_beams():
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 1, "float32")
    asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6, "eos_token_id": 7, "early_stopping": True}
    expected, got = (continued_by_both(model, [[1, 2]], pad_token_id=pad, **asked) for pad in (0, 3))
    assert got[0].tolist() == got[1].tolist() and 3 in got[0]
    assert expected[0].tolist() == numpy.where(got[0] == 3, 7, got[0]).tolist()
    assert expected[1].tolist() == numpy.where(got[0] == 3, 0, got[0]).tolist()


def test_without_an_eos_token_beams_are_filled_with_minus_1():
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 4, "float32")

    def first_at_once(ids: Any, scores: Any, **_: Any) -> Any:
        return ids[:, 0] == 1

    ways = [  # one of two prompts has ended long before the other; and there are three tokens for four beams
        ([[1, 2], [3, 4]], {"num_beams": 3, "max_new_tokens": 5, "stopping_criteria": [first_at_once]}),
        ([[1, 2]], {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 1, "suppress_tokens": [*range(8)]}),
    ]  # fmt: skip
    for ids, asked in ways:
        theirs, got = continued_by_both(model, ids, pad_token_id=3, eos_token_id=None, **asked)
        assert (theirs == -1).any()
        assert got.tolist() == numpy.where(theirs == -1, 3, theirs).tolist()


def test_of_too_few_beams_one_comes_twice():
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 1, "float32")
    asked = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4, "pad_token_id": 3, "eos_token_id": 7}
    asked |= {"forced_bos_token_id": 7, "return_dict_in_generate": True, "output_scores": True}  # it ends at once
    theirs = Oracle(model).module.generate(torch.tensor([[4]]), attention_mask=torch.ones(1, 1).long(), **asked)
    got = model.generate([[4]], **asked)
    assert theirs.sequences.tolist() == [[4, 7], [4, 7]] and got.sequences.tolist() == [[4, 7], [4, 3]]
    assert theirs.sequences_scores.tolist() == [0, -1e9] and got.sequences_scores.tolist() == [0, -numpy.inf]


def test_of_too_few_beams_those_that_there_are_not_are_finished_early():
    model = random_model(BloomConfig(vocab_size=30, hidden_size=16, n_layer=2, n_head=2), 60)
    asked = {"num_beams": 5, "max_new_tokens": 8, "pad_token_id": 1, "eos_token_id": 2, "output_scores": True}
    asked |= {"return_dict_in_generate": True, "prefix_allowed_tokens_fn": lambda row, ids: [2, 11]}
    ids = [[5, 9, 3]]

    def both(**more: Any) -> tuple[Any, Any]:
        theirs = Oracle(model).module.generate(
            torch.tensor(ids), attention_mask=torch.ones(1, 3).long(), **asked, **more
        )
        return theirs, model.generate(ids, **asked, **more)

    theirs, got = both(early_stopping=True)
    assert theirs.sequences.tolist() == [[*ids[0], 11, 11, 2]]
    assert got.sequences.tolist() == [[*ids[0], 11, 11, 11, 11, 2]]
    assert got.sequences_scores[0] > theirs.sequences_scores[0]
    theirs, got = both(early_stopping=False)
    assert theirs.sequences.tolist() == got.sequences.tolist()


def test_without_an_eos_token_a_row_that_has_ended_goes_on():
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 4, "float32")
    asked = {"max_new_tokens": 4, "pad_token_id": 3, "stopping_criteria": [lambda x, *_, **__: x[:, -1] == 0]}
    ids = [[1, 2], [3, 4]]  # the second ends with its first token
    theirs, got = continued_by_both(model, ids, eos_token_id=None, **asked)
    assert theirs[1, 2] == 0 and 3 not in theirs[1, 3:]
    assert got.tolist() == [theirs[0].tolist(), [3, 4, 0, 3, 3, 3]]
    assert continued_by_both(model, ids[1:], eos_token_id=None, **asked)[0].tolist() == [[3, 4, 0]]
    theirs, got = continued_by_both(model, ids, eos_token_id=7, **asked)  # one that never comes
    assert got.tolist() == theirs.tolist() == [got[0].tolist(), [3, 4, 0, 3, 3, 3]]


def continued_by_both(model: Any, ids: list[list[int]], mask: Any = None, **asked: Any) -> tuple[Any, Any]:
    """What transformers' `generate` returns, and minibloom's."""
    mask = numpy.ones_like(ids) if mask is None else numpy.array(mask)
    theirs = Oracle(model).module.generate(
        torch.tensor(ids), attention_mask=torch.from_numpy(mask), do_sample=False, **asked
    )
    return theirs.numpy(), model.generate(ids, attention_mask=mask, **asked)


def test_of_equal_tokens_top_p_keeps_some():
    logits = numpy.array([[1.0, 1, 1, 1, 0, 0]])  # the first four hold 0.84
    theirs = TopPLogitsWarper(0.4)(None, torch.from_numpy(logits)).numpy()
    assert (theirs > -numpy.inf).sum() == 2
    assert (keep_top_p(logits, 0.4) > -numpy.inf).tolist() == [[True] * 4 + [False] * 2]
    assert (TopKLogitsWarper(2)(None, torch.from_numpy(logits)).numpy() > -numpy.inf).sum() == 4


def test_no_run_of_tokens_takes_padding_for_text():
    ids, logits = numpy.array([[1, 1, 5]]), numpy.zeros((1, 6))  # 1 is the pad token
    theirs = NoRepeatNGramLogitsProcessor(1)(torch.from_numpy(ids), torch.from_numpy(logits)).numpy()
    assert numpy.isinf(theirs).nonzero()[1].tolist() == [1, 5]
    assert numpy.isinf(no_repeat_ngram(1)(numpy.array([[-1, -1, 5]]), logits)).nonzero()[1].tolist() == [5]


@pytest.mark.parametrize("wrap", [lambda asked: asked, lambda asked: {"generation_config": GenerationConfig(**asked)}])
@pytest.mark.parametrize(
    ("asked", "own", "by_new_tokens", "right"),  # lengths with the prompt's 2 tokens, and the one that ends a text
    [({"max_length": 4}, {"max_new_tokens": 7}, 9, 4), ({"min_length": 4}, {"min_new_tokens": 7}, 10, 5)],
)
def test_a_length_of_the_file_goes_before_one_that_is_asked_for(asked, own, by_new_tokens, right, wrap):
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 1, "float32")
    own = own | ({"eos_token_id": 5, "sequence_bias": [[[5], 99.0]]} if "min_length" in asked else {})  # ends if it may
    oracle, model.generation_config = Oracle(model).module, generation.GenerationConfig.from_dict(own)
    oracle.generation_config = GenerationConfig(**own, pad_token_id=0)
    assert oracle.generate(torch.tensor([[1, 2]]), do_sample=False, **wrap(asked)).shape[1] == by_new_tokens
    assert model.generate([[1, 2]], pad_token_id=0, **wrap(asked)).shape[1] == right
    both = own | asked
    assert oracle.generate(torch.tensor([[1, 2]]), generation_config=GenerationConfig(**both)).shape[1] == by_new_tokens
    assert model.generate([[1, 2]], generation_config=both).shape[1] == by_new_tokens
    with pytest.raises(InputError, match="give one of them"):
        model.generate([[1, 2]], **both)


# --- where minibloom does as transformers does ---


@in_both_dtypes
def test_a_query_that_sees_no_token_attends_to_all_keys_alike(dtype):
    """Padding on the left, and rows of nothing else: 1/T for every key, later ones included. No token reads it."""
    case = call_of(3, 5, mask=PADDED)
    model, call = case.model(dtype), case.call(dtype)
    with exactly(case, dtype):
        expected, out = Oracle(model)(**call), named(model(**call))
    blind = numpy.cumsum(PADDED, axis=1) == 0  # [B, S]: queries before the first token
    for arrays in (expected, out):
        for layer in range(case.config.n_layer):
            probs = arrays[f"attentions.{layer}"].swapaxes(1, 2)[blind]  # [B, H, S, T] -> [N, H, T]
            numpy.testing.assert_allclose(probs, 1 / 5, rtol=1e-6)


def test_and_its_gradient_passes_as_if_the_mask_were_added():
    """Here a label counts at such a query, and nowhere else: its query bias changes nothing, and has a gradient."""
    case = call_of(1, 4, mask=numpy.array([[0, 0, 1, 1]]), n_layer=1)
    case.inputs["labels"] = numpy.array([[-100, 7, -100, -100]])  # predicted at position 0
    model, call = case.model("float64"), case.call("float64")
    with float64_kept():
        expected = oracle_value_and_grad(model, **call)[1]
    gradients = model.value_and_grad(**call)[1]
    assert_close(gradients, expected, TOLERANCE["float64"])
    name = "h.0.self_attention.query_key_value.bias"
    bias = model.params[name].reshape(6, 3, 4)  # [H, 3, D]
    of_queries = gradients[name].reshape(6, 3, 4)[:, 0]
    assert abs(of_queries).max() > 1e-3
    direction = numpy.zeros_like(bias)
    direction[:, 0] = of_queries
    assert abs(slope(lambda: model(**call).loss, bias, direction)) < 1e-12
    call["labels"] = numpy.array([[-100, -100, -100, 7]])  # predicted by a token
    of_queries = model.value_and_grad(**call)[1][name].reshape(6, 3, 4)[:, 0]
    direction[:, 0] = of_queries
    assert slope(lambda: model(**call).loss, bias, direction) == pytest.approx((of_queries**2).sum(), rel=1e-6)


def test_the_last_token_is_told_by_its_id():
    model, ids = classifier("single_label_classification")
    mask = numpy.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    for padded in (ids, numpy.where(mask == 1, ids, 0)):  # a mask without pad tokens; with them
        out = model(padded, attention_mask=mask, output_hidden_states=True)
        assert error(out.logits, Oracle(model)(padded, attention_mask=mask)["logits"]) < 1e-5
        last = 3 if padded is ids else 1
        assert error(out.logits[0], model.params["score.weight"] @ out.hidden_states[-1][0, last]) < 1e-5


def test_labels_that_repeat_the_ids_count_the_padding():
    case = call_of(2, 6)
    model, ids = case.model("float32"), case.inputs["input_ids"].copy()
    mask = numpy.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    ids[mask == 0] = 3
    for labels in (ids, numpy.where(mask == 1, ids, -100)):
        loss = model(ids, attention_mask=mask, labels=labels).loss
        assert error(loss, Oracle(model)(ids, attention_mask=mask, labels=labels)["loss"]) < 1e-5
        alone = [
            float(model(row[None, m == 1], labels=row[None, m == 1]).loss) for row, m in zip(ids, mask, strict=True)
        ]
        of_tokens = (3 * alone[0] + 5 * alone[1]) / 8  # the mean over what each text predicts of itself
        assert (abs(loss - of_tokens) < 1e-5) == (labels is not ids)


def test_a_negative_place_of_an_answer_counts_as_0():
    model, ids = classifier("answers")

    def losses(starts: list[int]) -> list[float]:
        call = {"start_positions": numpy.array(starts), "end_positions": numpy.array([1, 2])}
        return [float(out["loss"]) for out in (model(ids, **call), Oracle(model)(ids, **call))]

    ours, theirs = losses([0, 2])
    assert ours == pytest.approx(theirs, rel=1e-5)
    for place in (-1, -100):
        assert losses([place, 2]) == [ours, theirs]
    outside = losses([4, 2])  # past the end: left out
    assert outside[0] == pytest.approx(outside[1], rel=1e-5) and abs(outside[0] - ours) > 0.01


def test_answers_compete_with_the_padding():
    model, ids = classifier("answers", B=1)
    places = {"start_positions": numpy.array([0]), "end_positions": numpy.array([1])}
    losses = []
    for pads in (0, 3):
        padded = numpy.pad(ids, ((0, 0), (0, pads)))
        call = {"input_ids": padded, "attention_mask": (padded != 0).astype("int64"), **places}
        losses.append(float(model(**call).loss))
        assert losses[-1] == pytest.approx(float(Oracle(model)(**call)["loss"]), rel=1e-5)
    assert losses[1] > losses[0] + 0.01


def test_lengths_count_the_padding():
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 1, "float32")
    batch, mask = [[1, 2, 3], [0, 0, 4]], [[1, 1, 1], [0, 0, 1]]
    end = int(model.generate([[4]], max_new_tokens=1)[0, -1])  # what the short prompt would write first, and end with
    ways = [  # settings, and whether the short prompt goes on alone as beside the other
        ({"max_length": 5, "eos_token_id": None}, False),
        ({"min_length": 3, "max_new_tokens": 4, "eos_token_id": end}, False),
        ({"forced_bos_token_id": 5, "max_new_tokens": 2, "eos_token_id": None}, False),
        ({"max_new_tokens": 2, "eos_token_id": None}, True),
        ({"min_new_tokens": 2, "max_new_tokens": 4, "eos_token_id": end}, True),
    ]  # fmt: skip
    for asked, alike in ways:
        together, ours = continued_by_both(model, batch, mask, pad_token_id=0, **asked)
        numpy.testing.assert_array_equal(ours, together)
        alone, ours = continued_by_both(model, [[4]], pad_token_id=0, **asked)
        numpy.testing.assert_array_equal(ours, alone)
        beside, new = together[1, 3:].tolist(), alone[0, 1:].tolist()
        assert (beside[: len(new)] == new and not any(beside[len(new) :])) == alike


@pytest.mark.parametrize("task", ["words", "single_label_classification", "tokens", "answers"])
def test_no_label_that_counts_is_nan(task):
    if task == "words":
        model, ids = call_of(2, 4).model("float32"), call_of(2, 4).inputs["input_ids"]
    else:
        model, ids = classifier(task)
    shape = (2,) if task in ("single_label_classification", "answers") else (2, 4)
    labels = {"labels": numpy.full(shape, -100)}
    if task == "answers":
        labels = {name: numpy.full(shape, 4) for name in ("start_positions", "end_positions")}
    expected, theirs = oracle_value_and_grad(model, input_ids=ids, **labels)
    out, ours = model.value_and_grad(ids, **labels)
    assert numpy.isnan(out.loss) and numpy.isnan(expected["loss"])
    assert not any(gradient.any() for gradient in (*ours.values(), *theirs.values()))
