"""minibloom computes what transformers 5.23 computes: outputs, losses and gradients, on whatever is drawn.

Two gates. In float32, transformers runs as it is, and every number is within 1e-5 of its array's largest. In float64,
transformers is kept from rounding to float32 in between (`float64_kept`), and the two agree to 1e-11: what differs
in float32 is rounding, not a formula. Only the float64 draws are wild: `cases`, `tame` and the tests of
extremes say why. What is drawn is held to both gates twice: as small models are computed, with attentions, and on the
fast paths of large ones (`tests/fast_paths.py`), which have none to show.
Classifiers are in `test_heads.py`. Where transformers does something else than minibloom, `test_quirks.py` pins it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibloom import BloomModel, Trace

from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from .cases import Case, call_of, cases  # noqa: E402
from .compare import TOLERANCE, assert_close, assert_same, error, form, leave_out_zeros, named  # noqa: E402
from .oracle import (  # noqa: E402
    Oracle,
    dropout_factors,
    exactly,
    float64_kept,
    oracle_value_and_grad,
    slopes_of_minibloom,
    tensors,
)

in_both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def drawn(data: st.DataObject, dtype: str, **fields: Any) -> Case:
    return data.draw(cases(wild=dtype == "float64", **fields))


def tame(expected: dict[str, Any], dtype: str) -> None:
    """Draw again in float32 where the loss is next to nothing, and the fifth digit of it below the logits' last."""
    assume(dtype == "float64" or expected["loss"] >= 0.1)  # smaller ones: `test_a_loss_of_next_to_nothing`


# --- what a model computes ---


@in_both_dtypes
@settings(max_examples=120)
@given(data=st.data())
def test_outputs_loss_and_every_gradient(dtype, data):
    """Logits, hidden states, attentions and loss, in every row; and the gradient of every parameter, by name."""
    case = drawn(data, dtype, shortest=2)
    model, call = case.model(dtype), case.call(dtype)
    with exactly(case, dtype):
        expected, expected_gradients = oracle_value_and_grad(model, **call)
    tame(expected, dtype)
    out, gradients = model.value_and_grad(**call)
    assert_same(out, expected, case.mask, dtype)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


@in_both_dtypes
@settings(max_examples=60)
@given(data=st.data())
def test_cached_pieces(dtype, data):
    """The same in up to three steps, each reading the cache of those before; and what the caches hold."""
    case = drawn(data, dtype)
    model = case.model(dtype)
    cache = their_cache = None
    with exactly(case, dtype):
        oracle = Oracle(model)
        for step in case.steps(dtype):
            out, expected = model(**step, past_key_values=cache), oracle(**step, past_key_values=their_cache)
            cache, their_cache = out.past_key_values, expected["past_key_values"]
            assert_same(out, expected, case.mask[:, : cache.length], dtype)


@in_both_dtypes
@settings(max_examples=24)
@given(data=st.data())
def test_token_by_token(dtype, data):
    """As text is decoded: nothing is asked for but the logits, and each of the last three tokens has its own pass."""
    fields = {"apply_residual_connection_post_layernorm": False, "slow_but_exact": False}
    case = drawn(data, dtype, shortest=4, longest=12, n_heads=(1, 2, 3, 4, 6), **fields)
    case.pieces, model = [case.mask.shape[1] - 3, 1, 1, 1], case.model(dtype)
    cache = their_cache = None
    with exactly(case, dtype):
        oracle = Oracle(model)
        for step in case.steps(dtype):
            step |= {"output_hidden_states": False, "output_attentions": False}
            out, expected = model(**step, past_key_values=cache), oracle(**step, past_key_values=their_cache)
            cache, their_cache = out.past_key_values, expected["past_key_values"]
            assert_same(out, expected, case.mask[:, : cache.length], dtype)


@in_both_dtypes
@settings(max_examples=24)
@given(data=st.data(), recompute=st.booleans())
def test_loss_and_every_gradient_without_logits(dtype, data, recompute):
    """Logits go through in chunks, and no array has all of them; blocks are computed again on the way back, or kept."""
    case = drawn(data, dtype, shortest=2)
    model, call = case.model(dtype), case.call(dtype)
    with exactly(case, dtype):
        expected, expected_gradients = oracle_value_and_grad(model, **call)
    tame(expected, dtype)
    del expected["logits"]
    out, gradients = model.value_and_grad(**call, output_logits=False, recompute=recompute)
    assert_same(out, expected, case.mask, dtype)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


@in_both_dtypes
@settings(max_examples=20)
@given(data=st.data(), recompute=st.booleans())
def test_gradients_at_what_flows_between_modules(dtype, data, recompute):
    """At what each module of the oracle returns, or takes: the names are those of its modules."""
    case = drawn(data, dtype, shortest=2, slow_but_exact=False)
    model, call = case.model(dtype), case.call(dtype)
    oracle, kept = Oracle(model), {}

    def keeping(name: str) -> Any:
        def hook(module: Any, taken: Any, returned: Any) -> None:
            kept[name] = returned[0] if isinstance(returned, tuple) else returned
            kept[name].retain_grad()
            if name.endswith("self_attention.dense"):
                kept[name.replace("dense", "context")] = taken[0]
                taken[0].retain_grad()

        return hook

    names = {name.replace("gelu_impl", "gelu"): module for name, module in oracle.module.transformer.named_modules()}
    for name in model.step_names():
        if name in names:
            names[name].register_forward_hook(keeping(name))
    with exactly(case, dtype):
        expected, _ = oracle.value_and_grad(**call, use_cache=False)
    tame(expected, dtype)
    theirs = {name: x.grad.numpy() for name, x in kept.items()}
    _, grads = model.value_and_grad(**call, at=list(theirs), recompute=recompute)
    assert len(theirs) >= 1 + 9 * case.config.n_layer
    assert_close({name: grads[name] for name in theirs}, theirs, TOLERANCE[dtype])


@in_both_dtypes
@settings(max_examples=20)
@given(data=st.data())
def test_model_without_a_head(dtype, data):
    """BloomModel: its output, and its gradients from a gradient that is given at the last hidden state."""
    case = drawn(data, dtype, tie_word_embeddings=True, slow_but_exact=False)
    language_model, call = case.model(dtype), case.call(dtype)
    model = BloomModel(case.config, dtype=dtype)
    model.params = language_model.params
    call.pop("labels", None)
    call["upstream"] = numpy.random.default_rng(case.seed).standard_normal((*case.mask.shape, case.config.hidden_size))
    call["upstream"] = call["upstream"].astype(dtype)
    with exactly(case, dtype):
        expected, expected_gradients = Oracle(language_model).base_value_and_grad(**call, use_cache=False)
    out, gradients = model.value_and_grad(**call)
    assert_same(out, expected, case.mask, dtype)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


@in_both_dtypes
@settings(max_examples=20)
@given(data=st.data())
def test_gradients_with_a_past(dtype, data):
    """Keys and values that a cache brings are constants: only the new positions' part of the loss is derived."""
    case = drawn(data, dtype, shortest=4, slow_but_exact=False)
    S = case.mask.shape[1]
    case.pieces = [S // 2, S - S // 2]
    first, second = case.steps(dtype)
    labels = numpy.random.default_rng(case.seed).integers(0, case.config.vocab_size, (len(case.mask), case.pieces[1]))
    model = case.model(dtype)
    with exactly(case, dtype):
        oracle = Oracle(model)
        past = oracle(**first)["past_key_values"]
        expected, expected_gradients = oracle.value_and_grad(**second, labels=labels, past_key_values=past)
    tame(expected, dtype)
    past = model(**first).past_key_values
    out, gradients = model.value_and_grad(**second, labels=labels, past_key_values=past)
    assert_same(out, expected, case.mask, dtype)
    leave_out_zeros(gradients, expected_gradients)  # of scores, where all tokens of the past are one word
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


@in_both_dtypes
@settings(max_examples=30)
@given(data=st.data(), attention=st.sampled_from([0.0, 0.1, 0.5]), hidden=st.sampled_from([0.0, 0.1, 0.5]))
def test_training_with_dropout(dtype, data, attention, hidden):
    """With the zeros that minibloom drew put in the oracle's place: the same pass, the same gradients."""
    fields = {"attention_dropout": attention, "hidden_dropout": hidden, "slow_but_exact": False}
    case = drawn(data, dtype, shortest=2, **fields)
    model, call = case.model(dtype), case.call(dtype)
    trace = Trace("*dropout")
    out, gradients = model.value_and_grad(**call, train=True, seed=case.seed, trace=trace)
    names = ("self_attention.dropout", "self_attention.hidden_dropout", "mlp.hidden_dropout")
    factors = [trace.get(f"h.{i}.{name}", 1.0) for i in range(case.config.n_layer) for name in names]
    with exactly(case, dtype), dropout_factors(*factors):
        expected, expected_gradients = Oracle(model).value_and_grad(**call, train=True, use_cache=False)
    tame(expected, dtype)
    assert_same(out, expected, case.mask, dtype)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


@settings(max_examples=20)
@given(data=st.data())
def test_head_mask(data):
    """transformers 5 has no head_mask any more; what it was, a factor on each head's probabilities, is still exact."""
    case = drawn(data, "float64", slow_but_exact=False)
    model, call = case.model("float64"), case.call("float64")
    call.pop("labels", None)
    L, H = case.config.n_layer, case.config.n_head
    head_mask = numpy.random.default_rng(case.seed).uniform(0, 1, (L, H)).round(1)
    factors = [factor for layer in head_mask for factor in (layer[:, None, None], 1.0, 1.0)]
    with exactly(case, "float64"), dropout_factors(*factors):
        expected = Oracle(model)(**call)
    assert_same(model(**call, head_mask=head_mask), expected, case.mask, "float64")


@settings(max_examples=20)
@given(data=st.data(), keep=st.integers(0, 50))
def test_logits_to_keep(data, keep):
    """The last positions' logits alone; more than there are means all."""
    case = drawn(data, "float32")
    model, call = case.model("float32"), case.call("float32")
    call.pop("labels", None)
    expected, out = Oracle(model)(**call, logits_to_keep=keep), model(**call, logits_to_keep=keep)
    assert error(out.logits, expected["logits"]) <= 1e-5


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("option", ["output_hidden_states", "output_attentions", "use_cache"])
@pytest.mark.parametrize("value", [True, False, None])
def test_what_is_returned(labels, option, value):
    """The same fields in the same order, as an object and, with return_dict=False, as a tuple."""
    case = call_of(1, 3)
    model = case.model("float32")
    ids = case.inputs["input_ids"]
    call = {"input_ids": ids, option: value, **({"labels": ids} if labels else {})}
    expected, out = Oracle(model).module(**tensors(call)), model(**call)
    assert list(out.keys()) == list(expected.keys())
    expected, out = Oracle(model).module(**tensors(call), return_dict=False), model(**call, return_dict=False)
    assert isinstance(out, tuple)
    assert [form(x) for x in out] == [form(x) for x in expected]


@pytest.mark.parametrize("ids", ["int32", "int16", "uint8"])
@pytest.mark.parametrize("mask", ["bool", "uint8", "int32", "float32", "float64"])
def test_integer_types_make_no_difference(ids, mask):
    case = call_of(3, 6, mask=numpy.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 1]]))
    model, call = case.model("float32"), case.call("float32")
    expected, expected_gradients = oracle_value_and_grad(model, **call)
    call["attention_mask"] = call["attention_mask"].astype(mask)
    call |= {name: call[name].astype(ids) for name in ("input_ids", "labels")}
    out, gradients = model.value_and_grad(**call)
    assert_same(out, expected, case.mask, "float32")
    assert_close(gradients, expected_gradients, TOLERANCE["float32"])


# --- extremes ---


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(call_of(2, 512, n_head=4), id="512 positions"),
        pytest.param(call_of(96, 7), id="96 rows"),
        pytest.param(call_of(2, 16, n_layer=24), id="24 blocks"),
        pytest.param(call_of(2, 16, n_head=24), id="heads of size 1"),
        pytest.param(call_of(2, 16, hidden_size=300, n_head=300, n_layer=1), id="300 heads"),
        pytest.param(call_of(2, 16, layer_norm_epsilon=0.0), id="epsilon 0"),
        pytest.param(call_of(2, 16, layer_norm_epsilon=1e30), id="epsilon 1e30"),
        pytest.param(call_of(2, 16, vocab_size=1), id="one word"),
        pytest.param(call_of(2, 16, mask=numpy.zeros((2, 16), int)), id="all padding"),
        pytest.param(call_of(2, 16, mask=numpy.eye(16, dtype=int)[[3, 15]]), id="one token a row"),
    ],
)
@in_both_dtypes
def test_unusual_sizes(dtype, case):
    with float64_kept() if dtype == "float64" else ExitStack(), slopes_of_minibloom():
        expected, expected_gradients = oracle_value_and_grad(case.model(dtype), **case.call(dtype))
    out, gradients = case.model(dtype).value_and_grad(**case.call(dtype))
    assert_same(out, expected, case.mask, dtype)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


def test_scores_of_hundreds():
    """Where attention is all or nothing, float32 loses digits, here as there: neither is nearer to float64's answer."""
    ratios = []
    for seed in range(12):
        case = call_of(2, 30, seed)
        case.gain = 16.0
        trace = Trace("*.scores")
        ours = case.model("float32").value_and_grad(**case.call("float32"), trace=trace)
        theirs = oracle_value_and_grad(case.model("float32"), **case.call("float32"))
        with float64_kept():
            exact = oracle_value_and_grad(case.model("float64"), **case.call("float64"))
        assert max(scores.max() for scores in trace.values()) > 300
        assert_same(case.model("float64")(**case.call("float64"), use_cache=False), exact[0], case.mask, "float64")
        for got, other, truth in zip((named(ours[0]), ours[1]), theirs, exact, strict=True):
            ratios.append(largest_error(got, truth) / largest_error(other, truth))
    assert 0.5 < numpy.exp(numpy.log(ratios).mean()) < 1.5


def test_a_loss_of_next_to_nothing():
    """Of a model that is sure and right, float32 knows the loss less well, here as there: neither is nearer."""
    ours, theirs = [], []
    for seed in range(40):
        case = call_of(1, 2, seed, vocab_size=40, hidden_size=96)
        model, exact_model = case.model("float32"), case.model("float64")
        for m in (model, exact_model):
            m.params["word_embeddings.weight"] *= 2  # the first norm undoes it, the head does not
        ids, labels = case.inputs["input_ids"], numpy.full((1, 2), -100)
        labels[0, 1:] = exact_model(ids).logits[0, :-1].argmax(-1)
        loss = float(model(ids, labels=labels).loss)
        with float64_kept(), slopes_of_minibloom():
            truth = float(Oracle(exact_model)(input_ids=ids, labels=labels)["loss"])
        if 0.001 < truth < 0.1:
            assert abs(float(exact_model(ids, labels=labels).loss) - truth) <= 1e-11 * truth
            other = float(Oracle(model)(input_ids=ids, labels=labels)["loss"])
            ours.append(abs(loss - truth))
            theirs.append(abs(other - truth))
    assert len(ours) > 9 and 0.5 < numpy.mean(ours) / numpy.mean(theirs) < 1.5


def largest_error(arrays: dict[str, Any], truth: dict[str, Any]) -> float:
    return max(error(arrays[name].astype("float64"), truth[name]) for name in truth)
