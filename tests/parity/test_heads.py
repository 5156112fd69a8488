"""The classifiers against transformers 5.23: outputs, losses and every gradient, on whatever is drawn.

The gates are those of `test_transformers.py`: 1e-5 of an array's largest number in float32, 1e-11 in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minibloom import Trace

from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from transformers import DynamicCache  # noqa: E402

from .cases import TASKS, Case, call_of, head_cases  # noqa: E402
from .compare import TOLERANCE, assert_close, assert_same, error, form, leave_out_zeros, rows  # noqa: E402
from .oracle import Oracle, dropout_factors, exactly, oracle_value_and_grad, tensors  # noqa: E402

in_both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
each_task = pytest.mark.parametrize("task", TASKS)
with_a_cache = pytest.mark.parametrize("task", ["single_label_classification", "tokens"])


def drawn(data: st.DataObject, task: str, dtype: str, **fields: Any) -> Case:
    return data.draw(head_cases(task, wild=dtype == "float64", **fields))


Results = tuple[Any, dict[str, Any]]  # output and gradients, by parameter name


def assert_parity(
    case: Case, dtype: str, ours: Callable[[str, Trace], Results], theirs: Callable[[str], Results], *steps: str
) -> None:
    """Both libraries' results of one call, given the dtype to compute in, are the same in every array.

    But for draws that no library has the right digits of: see `assume_digits`. And in float32, where transformers'
    own is further from its float64 than a fifth of the tolerance, nothing can be said.
    """
    trace = Trace("ln_f", "*.grad", *(["last_token"] if case.head == "score" else []), *steps)
    out, gradients = ours(dtype, trace)
    assume_digits(case, trace)
    with exactly(case, dtype):
        expected, expected_gradients = theirs(dtype)
    if case.head == "qa_outputs":
        # What shifts all positions alike, the softmax over positions does not see: these two are 0, but for rounding.
        scales = {"qa_outputs.bias": trace["qa_outputs.grad"], "ln_f.bias": expected_gradients["ln_f.weight"]}
        for name, scale in scales.items():
            for arrays in (gradients, expected_gradients):
                assert abs(arrays.pop(name)).max() <= TOLERANCE[dtype] * abs(scale).max()
    if dtype == "float32":
        with exactly(case, "float64"):
            exact, exact_gradients = theirs("float64")
        for got, truth in ((rows(expected, case.mask), rows(exact, case.mask)), (expected_gradients, exact_gradients)):
            assume(all(error(x.astype("float64"), truth[name]) < 2e-6 for name, x in got.items()))
    assert_same(out, expected, case.mask, dtype)
    leave_out_zeros(gradients, expected_gradients)
    assert_close(gradients, expected_gradients, TOLERANCE[dtype])


def test_a_gradient_that_is_zero_for_one_library_alone_is_noticed():
    large = numpy.array([1.0, -2.0])
    for noise in (1e-19, 0.0):
        gradients, expected = {"a": large, "b": numpy.array([noise])}, {"a": large, "b": numpy.array([3e-18])}
        leave_out_zeros(gradients, expected)
        assert gradients.keys() == expected.keys() == {"a"}
    with pytest.raises(AssertionError, match="the gradient of b is not 0"):
        leave_out_zeros({"a": large, "b": numpy.array([1e-12])}, {"a": large, "b": numpy.array([3e-18])})
    gradients, expected = {"a": large, "b": numpy.array([0.0])}, {"a": large, "b": numpy.array([1e-12])}
    leave_out_zeros(gradients, expected)
    assert "b" in expected  # small, and a number all the same


def assume_digits(case: Case, trace: Trace) -> None:
    """Leave out a draw whose results are small differences of large numbers, and so have no right digits.

    So it is where a logit is 0 by chance, the prediction the label, or where what the positions add to a gradient
    cancels out, as it does where all tokens are the same.
    """
    weight, d, hidden = case.model("float64").params[f"{case.head}.weight"], trace[f"{case.head}.grad"], trace["ln_f"]
    if case.head == "score":
        hidden = hidden[numpy.arange(len(hidden)), trace["last_token"]]
    d, hidden = d.reshape(-1, d.shape[-1]), hidden.reshape(-1, hidden.shape[-1])  # [N, labels], [N, E]
    labels = sum(x.size for name, x in case.inputs.items() if name.endswith(("labels", "positions")))
    assume(abs(d).max() * labels > 0.05)
    assume(abs(hidden @ weight.T).max() > 0.05 * (abs(hidden) @ abs(weight).T).max())
    assume(abs(d.T @ hidden).max() > 0.05 * (abs(d).T @ abs(hidden)).max())
    assume(case.head == "qa_outputs" or abs(d.sum(0)).max() > 0.05 * abs(d).sum(0).max())


@each_task
@in_both_dtypes
@settings(max_examples=20)
@given(data=st.data())
def test_outputs_loss_and_every_gradient(dtype, task, data):
    """Logits, hidden states, attentions and loss; and the gradient of every parameter, by name."""
    case = drawn(data, task, dtype)

    def ours(dtype: str, trace: Trace) -> Results:
        return case.model(dtype).value_and_grad(**case.call(dtype), trace=trace)

    def theirs(dtype: str) -> Results:
        return oracle_value_and_grad(case.model(dtype), **case.call(dtype))

    assert_parity(case, dtype, ours, theirs)


@with_a_cache
@in_both_dtypes
@settings(max_examples=15)
@given(data=st.data())
def test_cached_pieces(dtype, task, data):
    """In up to three steps, each reading the cache of those before: a text is read at its last new token."""
    case = drawn(data, task, dtype, num_labels=5)
    model, their_cache = case.model(dtype), DynamicCache()
    cache = model.init_cache(*case.mask.shape)
    with exactly(case, dtype):
        oracle = Oracle(model)
        for step in case.steps(dtype):
            out, expected = model(**step, past_key_values=cache), oracle(**step, past_key_values=their_cache)
            assert_same(out, expected, case.mask[:, : cache.length], dtype)
            assert cache.length == their_cache.get_seq_length()


@with_a_cache
@in_both_dtypes
@settings(max_examples=10)
@given(data=st.data())
def test_gradients_with_a_past(dtype, task, data):
    """Keys and values that a cache brings are constants: only the new positions' part of the loss is derived."""
    case = drawn(data, task, dtype, shortest=4, slow_but_exact=False)
    B, S = case.mask.shape
    case.pieces = [S // 2, S - S // 2]
    if task == "tokens":
        case.inputs["labels"] = case.inputs["labels"][:, S // 2 :].copy()
        assume((case.inputs["labels"] != -100).any())

    def ours(dtype: str, trace: Trace) -> Results:
        (first, second), model = case.steps(dtype), case.model(dtype)
        past = model.init_cache(B, S)
        model(**first, past_key_values=past)
        return model.value_and_grad(**second, labels=case.inputs["labels"], past_key_values=past, trace=trace)

    def theirs(dtype: str) -> Results:
        (first, second), oracle, past = case.steps(dtype), Oracle(case.model(dtype)), DynamicCache()
        oracle(**first, past_key_values=past)
        return oracle.value_and_grad(**second, labels=case.inputs["labels"], past_key_values=past)

    assert_parity(case, dtype, ours, theirs)


@each_task
@in_both_dtypes
@settings(max_examples=6)
@given(
    data=st.data(),
    attention=st.sampled_from([0.0, 0.1, 0.5]),
    hidden=st.sampled_from([0.0, 0.1, 0.5]),
    own=st.sampled_from([None, 0.0, 0.1, 0.5]),
)
def test_training_with_dropout(dtype, task, data, attention, hidden, own):
    """With the zeros that minibloom drew put in the oracle's place, those before a classifier of tokens too."""
    fields = {"attention_dropout": attention, "hidden_dropout": hidden, "classifier_dropout": own}
    case = drawn(data, task, dtype, shortest=2, slow_but_exact=False, **fields)
    inside = ("self_attention.dropout", "self_attention.hidden_dropout", "mlp.hidden_dropout")
    names = [f"h.{i}.{name}" for i in range(case.config.n_layer) for name in inside]
    names += ["classifier.dropout"] if task == "tokens" else []
    factors: list[Any] = []

    def ours(dtype: str, trace: Trace) -> Results:
        results = case.model(dtype).value_and_grad(**case.call(dtype), train=True, seed=case.seed, trace=trace)
        factors[:] = [trace.get(name, 1.0) for name in names]
        return results

    def theirs(dtype: str) -> Results:
        with dropout_factors(*factors):
            return Oracle(case.model(dtype)).value_and_grad(**case.call(dtype), train=True, use_cache=False)

    assert_parity(case, dtype, ours, theirs, "*dropout")


@pytest.mark.parametrize("rate", [None, 0.0, 0.25])
def test_the_rate_of_dropout_before_the_classifier(rate):
    case = call_of(1, 3, hidden_dropout=0.5, classifier_dropout=rate)
    case.kind = TASKS["tokens"]
    trace = Trace("classifier.*")
    case.model("float32")(case.inputs["input_ids"], train=True, seed=0, trace=trace)
    factors = trace.get("classifier.dropout", numpy.ones(1))
    assert factors.max() == 1 / (1 - Oracle(case.model("float32")).module.dropout.p)


@each_task
@settings(max_examples=6)
@given(data=st.data())
def test_head_mask(task, data):
    """As factors of dropout: transformers 5 has no other."""
    case = drawn(data, task, "float64", slow_but_exact=False)
    model, call = case.model("float64"), case.call("float64")
    head_mask = numpy.random.default_rng(case.seed).uniform(0, 1, (case.config.n_layer, case.config.n_head)).round(1)
    factors = [factor for layer in head_mask for factor in (layer[:, None, None], 1.0, 1.0)]
    with exactly(case, "float64"), dropout_factors(*factors, *([1.0] if task == "tokens" else [])):
        expected = Oracle(model)(**call, use_cache=False)
    use_cache = {} if task == "answers" else {"use_cache": False}
    assert_same(model(**call, head_mask=head_mask, **use_cache), expected, case.mask, "float64")


@each_task
@settings(max_examples=3)
@given(data=st.data(), labels=st.booleans(), option=st.sampled_from(["output_hidden_states", "output_attentions"]))
def test_what_is_returned(task, data, labels, option):
    """The same fields in the same order, as an object and, with return_dict=False, as a tuple."""
    case = drawn(data, task, "float32")
    model, call = case.model("float32"), {**case.call("float32"), option: False}
    if not labels:
        call = {name: x for name, x in call.items() if not name.endswith(("labels", "positions"))}
    expected, out = Oracle(model).module(**tensors(call)), model(**call)
    assert list(out.keys()) == list(expected.keys())
    expected, out = Oracle(model).module(**tensors(call), return_dict=False), model(**call, return_dict=False)
    assert isinstance(out, tuple)
    assert [form(x) for x in out] == [form(x) for x in expected]
