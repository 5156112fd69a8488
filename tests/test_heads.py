"""The classifiers: what each head makes of the last hidden states, its loss and its gradients, and what it refuses."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    BloomForQuestionAnswering,
    BloomForSequenceClassification,
    BloomForTokenClassification,
    BloomModel,
    Cache,
    InputError,
    Trace,
    step_names,
)
from minibloom.losses import IGNORE
from minibloom.trace import HEADS, Tape, formula

from .gradients import assert_gradients, assert_linear
from .parity.cases import TASKS
from .strategies import (
    MASKS,
    ArrayElsewhere,
    configs,
    few,
    masks,
    normal,
    random_model,
    real,
    seeds,
    some,
    without_shrinking,
)
from .test_models import BAD, close, equal, see_nothing

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3, pad_token_id=0, num_labels=4)
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
LABELS = {
    BloomForSequenceClassification: {"labels": numpy.array([1, 3])},
    BloomForTokenClassification: {"labels": numpy.array([[0, 1, 2, 3], [3, IGNORE, 1, 0]])},
    BloomForQuestionAnswering: {"start_positions": numpy.array([0, 2]), "end_positions": numpy.array([1, 3])},
}
each_task = pytest.mark.parametrize("task", TASKS)
each_kind = pytest.mark.parametrize("kind", LABELS)
with_a_cache = pytest.mark.parametrize("kind", [BloomForSequenceClassification, BloomForTokenClassification])


@st.composite
def calls(draw: st.DrawFn, task: str, shortest: int = 1, **fields: Any) -> tuple[Any, dict[str, Any]]:
    """A model for the task, and the arguments of a call with labels, of which at least one counts.

    Padding has the pad token's id, and tokens another. Positions that see no token have no label; for answers, which
    are one position among all, there are none: see `tests.test_models.training_calls`.
    """
    inferred = draw(st.booleans())
    count = 1 if inferred and task == "regression" else draw(st.integers(1, 4))
    if task == "single_label_classification" or (inferred and task == "multi_label_classification"):
        count = max(count, 2)
    config = draw(configs(num_labels=count, **fields))
    config.problem_type = None if inferred or task in ("tokens", "answers") else task
    rng = numpy.random.default_rng(draw(seeds))
    B, S = shape = draw(st.integers(1, 3)), draw(st.integers(shortest, 6))
    mask = draw(masks(shape, kinds=("none", "right") if task == "answers" else MASKS))
    tokens = real(mask, shape)
    call: dict[str, Any] = {"attention_mask": mask}
    if draw(st.booleans()):
        pads = st.integers(0, config.vocab_size - 1)
        pad = config.pad_token_id = draw(pads if B > 1 else st.none() | pads)
        ids = rng.integers(0, config.vocab_size, shape)
        if pad is not None:
            ids = numpy.where(tokens, numpy.where(ids == pad, (pad + 1) % config.vocab_size, ids), pad)
        call["input_ids"] = ids
    else:
        config.pad_token_id = 0
        call["inputs_embeds"] = rng.standard_normal((*shape, config.hidden_size))
    if draw(st.booleans()):
        call["head_mask"] = rng.standard_normal((config.n_layer, config.n_head))

    one = draw(st.integers(0, B - 1))  # a row that counts
    if task == "single_label_classification":
        call["labels"] = rng.integers(0, count, B)
        call["labels"][(rng.random(B) < 0.3) & (numpy.arange(B) != one)] = IGNORE
    elif task == "multi_label_classification":
        call["labels"] = rng.random((B, count)).round(draw(st.sampled_from([0, 2])))
    elif task == "regression":
        call["labels"] = rng.standard_normal((B,) if count == 1 and draw(st.booleans()) else (B, count))
    elif task == "tokens":
        call["labels"] = rng.integers(0, count, shape)
        ignored = rng.random(shape) < 0.3
        ignored[one, numpy.flatnonzero(tokens[one])[0]] = False
        call["labels"][ignored | see_nothing(mask, shape)] = IGNORE
    else:
        for name in ("start_positions", "end_positions"):
            places = rng.integers(-2, S + 3, B)
            places[one] = rng.integers(-2, S)
            call[name] = places[:, None] if draw(st.booleans()) else places
    return random_model(config, draw(seeds), kind=TASKS[task]), call


def shape_of(call: dict[str, Any]) -> tuple[int, int]:
    x = call.get("input_ids", call.get("inputs_embeds"))
    return x.shape[:2]


# --- what comes back ---


@each_task
@few
@given(data=st.data(), option=st.booleans())
def test_outputs_in_the_documented_order(task, data, option):
    model, call = data.draw(calls(task))
    (B, S), c = shape_of(call), model.config
    extras = {"output_hidden_states": True, "output_attentions": True, **({"train": True, "seed": 1} if option else {})}
    out, values = model(**call, **extras), model(**call, **extras, return_dict=False)
    logits = {
        BloomForSequenceClassification: {"logits": (B, c.num_labels)},
        BloomForTokenClassification: {"logits": (B, S, c.num_labels)},
        BloomForQuestionAnswering: {"start_logits": (B, S), "end_logits": (B, S)},
    }[type(model)]
    cache = ["past_key_values"] if type(model) is BloomForSequenceClassification else []
    assert list(out) == ["loss", *logits, *cache, "hidden_states", "attentions"]
    assert out.loss.shape == () and out.loss.dtype == "float64"
    for name, shape in logits.items():
        assert out[name].shape == shape and out[name].dtype == "float64"
    assert [h.shape for h in out.hidden_states] == [(B, S, c.hidden_size)] * (c.n_layer + 1)
    assert [a.shape for a in out.attentions] == [(B, c.n_head, S, S)] * c.n_layer
    assert isinstance(values, tuple) and len(values) == len(out)
    for name, value in zip(out, values, strict=True):
        if name == "past_key_values":
            assert value.length == out[name].length == S and len(value) == c.n_layer
        elif isinstance(value, tuple):
            assert all((a == b).all() for a, b in zip(value, out[name], strict=True))
        else:
            equal(value, out[name])


@each_kind
def test_what_is_not_said_in_the_call_is_as_config_says(kind):
    first = list(kind(CONFIG)(IDS, **LABELS[kind]))[1:]
    cache = ["past_key_values"] if kind is BloomForSequenceClassification else []
    logits = [name for name in first if name.endswith("logits")]
    assert first == logits + cache and list(kind(CONFIG)(IDS)) == first
    config = CONFIG.replace(use_cache=False, output_hidden_states=True, output_attentions=True)
    assert list(kind(config)(IDS)) == [*logits, "hidden_states", "attentions"]
    assert list(kind(config)(IDS, output_hidden_states=False)) == [*logits, "attentions"]
    assert isinstance(kind(config.replace(return_dict=False))(IDS), tuple)


@each_task
@some
@given(data=st.data())
def test_logits_are_the_head_s_matrix_on_hidden_states(task, data):
    model, call = data.draw(calls(task))
    out = model(**call, output_hidden_states=True)
    hidden, p, B = out.hidden_states[-1], model.params, shape_of(call)[0]
    if task == "tokens":
        close(out.logits, hidden @ p["classifier.weight"].T + p["classifier.bias"])
    elif task == "answers":
        both = hidden @ p["qa_outputs.weight"].T + p["qa_outputs.bias"]
        close(numpy.stack([out.start_logits, out.end_logits], -1), both)
    else:
        ids, pad = call.get("input_ids"), model.config.pad_token_id
        for b in range(B):
            # Where embeddings were given, or there is no pad token: the last position, whatever it is.
            last = -1 if ids is None or pad is None else max(s for s, i in enumerate(ids[b]) if i != pad)
            close(out.logits[b], p["score.weight"] @ hidden[b, last])


@each_task
@some
@given(data=st.data())
def test_loss_by_hand(task, data):
    """By the formulas of a textbook, number by number."""
    model, call = data.draw(calls(task))
    out = model(**call)

    def surprise(logits: Any, label: int) -> float:
        return -math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))

    def mean(terms: Any) -> float:
        terms = list(terms)
        return sum(terms) / len(terms)

    labels = call.get("labels")
    if task in ("single_label_classification", "tokens"):
        rows = zip(out.logits.reshape(labels.size, -1), labels.ravel(), strict=True)
        expected = mean(surprise(z, y) for z, y in rows if y != IGNORE)
    elif task == "multi_label_classification":
        p = 1 / (1 + numpy.exp(-out.logits))
        expected = mean((-labels * numpy.log(p) - (1 - labels) * numpy.log(1 - p)).ravel())
    elif task == "regression":
        expected = mean((z - y) ** 2 for z, y in zip(out.logits.ravel(), labels.ravel(), strict=True))
    else:
        S, ends = shape_of(call)[1], []
        for logits, places in ((out.start_logits, "start_positions"), (out.end_logits, "end_positions")):
            rows = zip(logits, call[places].ravel(), strict=True)
            ends.append(mean(surprise(z, max(place, 0)) for z, place in rows if place < S))
        expected = mean(ends)
    assert float(out.loss) == pytest.approx(expected, rel=1e-9)


def test_both_shapes_of_a_number_a_row_mean_the_same():
    model = random_model(CONFIG.replace(num_labels=1), 0, kind=BloomForSequenceClassification)
    flat, column = (model.value_and_grad(IDS, labels=labels) for labels in ([0.5, 2], [[0.5], [2]]))
    equal(flat[0].loss, column[0].loss)
    equal(flat[1]["score.weight"], column[1]["score.weight"])
    assert flat[0].logits.shape == (2, 1)
    close(flat[0].loss, ((flat[0].logits[:, 0] - [0.5, 2]) ** 2).mean())  # not the mean over all pairs


# --- which token a text is read at ---


@some
@given(seeds, st.integers(0, 12), st.data())
def test_the_last_token_is_the_last_that_is_no_padding(seed, pad, data):
    """By its id: padding may stand left, right or between, and a row of nothing else is read at its first place."""
    ids = numpy.random.default_rng(seed).integers(0, 13, (3, 5))
    ids[data.draw(st.sampled_from([0, 1, 2, None]))] = pad
    config, trace = CONFIG.replace(pad_token_id=pad), Trace("last_token")
    model = random_model(config, 0, kind=BloomForSequenceClassification)
    out = model(ids, trace=trace, output_hidden_states=True)
    for row, last, hidden, logits in zip(ids, trace["last_token"], out.hidden_states[-1], out.logits, strict=True):
        tokens = [s for s in range(5) if row[s] != pad]
        assert last == (tokens[-1] if tokens else 0)
        close(logits, model.params["score.weight"] @ hidden[last])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64"])
def test_a_pad_token_may_lie_outside_the_vocabulary_and_outside_the_type_of_the_ids(dtype):
    trace, model = Trace("last_token"), BloomForSequenceClassification(CONFIG.replace(pad_token_id=1000))
    model(IDS.astype(dtype), trace=trace)
    assert trace["last_token"].tolist() == [3, 3]


def test_the_attention_mask_does_not_say_which_token_is_last():
    trace, model = Trace("last_token"), BloomForSequenceClassification(CONFIG)
    model(IDS, attention_mask=[[1, 1, 0, 0], [1, 1, 1, 1]], trace=trace)
    assert trace["last_token"].tolist() == [3, 3]
    model([[1, 2, 0, 0], [0, 5, 6, 7]], trace=trace)
    assert trace["last_token"].tolist() == [1, 3]


def test_without_a_pad_token_and_with_embeddings_it_is_the_last_position():
    trace = Trace("last_token")
    BloomForSequenceClassification(CONFIG.replace(pad_token_id=None))([[1, 2, 0, 0]], trace=trace)
    assert trace["last_token"].tolist() == [3]
    BloomForSequenceClassification(CONFIG)(inputs_embeds=normal(0, 2, 3, 12), trace=trace)
    assert trace["last_token"].tolist() == [2, 2]


@few
@given(st.data())
def test_with_a_cache_the_last_token_is_looked_for_among_the_new_ones(data):
    model, call = data.draw(calls("single_label_classification", shortest=2))
    x = "input_ids" if "input_ids" in call else "inputs_embeds"
    mask, S = call["attention_mask"], shape_of(call)[1]
    cut = data.draw(st.integers(1, S - 1))
    options = {"head_mask": call.get("head_mask")}
    first = None if mask is None else mask[:, :cut]
    past = model(**{x: call[x][:, :cut]}, attention_mask=first, **options).past_key_values
    out = model(**{x: call[x][:, cut:]}, attention_mask=mask, past_key_values=past, labels=call["labels"], **options)
    whole = model(**call, output_hidden_states=True)
    pad = None if x == "inputs_embeds" else model.config.pad_token_id
    for b, logits in enumerate(out.logits):
        new = range(cut, S) if pad is None else [s for s in range(cut, S) if call[x][b, s] != pad]
        if not see_nothing(mask, (len(out.logits), S))[b, cut]:  # else 1/T of another T
            close(logits, model.params["score.weight"] @ whole.hidden_states[-1][b, new[-1] if new else cut])
    assert past.length == S and out.past_key_values is past


# --- what depends on what ---


@with_a_cache
@few
@given(data=st.data(), left=st.booleans())
def test_a_padded_batch_equals_its_rows_alone(kind, data, left):
    config = data.draw(configs(pad_token_id=0, num_labels=3))
    model = random_model(config, 0, kind=kind)
    rng = numpy.random.default_rng(data.draw(seeds))
    rows = [
        rng.integers(1, config.vocab_size, n) for n in data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3))
    ]
    S = max(map(len, rows))
    spare = [(S - len(row), 0) if left else (0, S - len(row)) for row in rows]
    ids = numpy.stack([numpy.pad(row, pads) for row, pads in zip(rows, spare, strict=True)])
    logits = model(ids, attention_mask=ids != 0).logits
    for row, of_row, (before, after) in zip(rows, logits, spare, strict=True):
        of_tokens = of_row if kind is BloomForSequenceClassification else of_row[before : S - after]
        close(of_tokens, model(row[None]).logits[0])


@few
@given(st.data())
def test_answers_in_a_padded_batch_have_the_logits_of_their_rows_alone(data):
    """The logits only: the loss compares all positions of a batch, padding too, as the reference's does."""
    model, call = data.draw(calls("answers"))
    call = {name: x for name, x in call.items() if not name.endswith("positions")}
    out, tokens = model(**call), real(call["attention_mask"], shape_of(call))
    x = "input_ids" if "input_ids" in call else "inputs_embeds"
    for b, row in enumerate(tokens):
        alone = model(**{x: call[x][b : b + 1, row]}, head_mask=call.get("head_mask"))
        close(out.start_logits[b, row], alone.start_logits[0])
        close(out.end_logits[b, row], alone.end_logits[0])


@pytest.mark.parametrize("task", ["single_label_classification", "tokens"])
@few
@given(data=st.data())
def test_labels_of_minus_100_might_as_well_not_be_there(task, data):
    model, call = data.draw(calls(task, shortest=2))
    call.pop("head_mask", None)
    out, grads = model.value_and_grad(**call)
    counts = (call["labels"] != IGNORE).reshape(len(call["labels"]), -1).any(-1)
    fewer = {name: None if x is None else x[counts] for name, x in call.items()}
    expected, expected_grads = model.value_and_grad(**fewer)
    close(out.loss, expected.loss)
    for name, gradient in grads.items():
        numpy.testing.assert_allclose(gradient, expected_grads[name], atol=1e-11, err_msg=name)


@each_kind
def test_where_no_label_counts_the_loss_is_nan_and_every_gradient_zero(kind):
    model = random_model(CONFIG, 0, kind=kind)
    outside = 4 if kind is BloomForQuestionAnswering else IGNORE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = {name: numpy.full_like(x, outside) for name, x in LABELS[kind].items()}
        out, grads = model.value_and_grad(IDS, **labels)
    assert numpy.isnan(out.loss) and list(grads) == list(model.params)
    assert not any(gradient.any() for gradient in grads.values())


def test_a_place_past_the_text_is_left_out_and_one_before_it_is_the_first():
    model = random_model(CONFIG, 0, kind=BloomForQuestionAnswering)

    def loss(starts: Any, ends: Any, ids: Any = IDS) -> Any:
        return model(ids, start_positions=starts, end_positions=ends).loss

    for before in (-1, -7, -100):
        equal(loss([before, 2], [1, before]), loss([0, 2], [1, 0]))
    for past in (4, 5, 2**40):
        alone = loss([1], [2], IDS[:1])
        close(loss([1, past], [2, past]), alone)
        ends = loss([past, past], [2, 3])
        assert numpy.isnan(ends)  # no start counts: there is no mean of theirs
    both = loss([1, 3], [2, 4])  # the second row's end is left out, its start is not
    starts = 2 * loss([1, 3], [2, 2]) - 2 * loss([1, 1], [2, 2]) + 2 * loss([1, 1], [2, 4])
    close(2 * both, starts)


# --- which problem it is ---


@pytest.mark.parametrize(
    ("count", "labels", "problem"),
    [
        (1, numpy.array([0.5, 1]), "regression"),
        (1, numpy.array([0, 1]), "regression"),
        (1, numpy.array([[0], [1]], "uint8"), "regression"),
        (3, numpy.array([0, 2]), "single_label_classification"),
        (3, numpy.array([0, 2], "int32"), "single_label_classification"),
        (3, numpy.array([0, IGNORE], "int8"), "single_label_classification"),
        (3, numpy.array([0, 2], "uint16"), "single_label_classification"),
        (3, numpy.array([[0.0, 1, 1], [1, 0, 0]]), "multi_label_classification"),
        (3, numpy.array([[0.0, 1, 1], [1, 0, 0]], "float16"), "multi_label_classification"),
    ],
    ids=str,
)
def test_a_problem_that_config_does_not_name_follows_from_the_labels_and_config_stays_as_it_was(count, labels, problem):
    config = CONFIG.replace(num_labels=count)
    before = config.to_dict()
    model = random_model(config, 0, kind=BloomForSequenceClassification)
    named = random_model(config.replace(problem_type=problem), 0, kind=BloomForSequenceClassification)
    (out, grads), (expected, expected_grads) = (m.value_and_grad(IDS, labels=labels) for m in (model, named))
    equal(out.loss, expected.loss)
    equal(grads["score.weight"], expected_grads["score.weight"])
    assert model.config is config and config.to_dict() == before


def test_labels_of_another_kind_may_follow():
    model = random_model(CONFIG, 0, kind=BloomForSequenceClassification)
    single, multi = numpy.array([1, 3]), numpy.eye(4)[[1, 3]]
    losses = [float(model(IDS, labels=labels).loss) for labels in (single, multi, single, multi)]
    assert losses[0] == losses[2] != losses[1] == losses[3]


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_whole_numbers_are_numbers_too_where_config_names_the_problem(problem):
    model = random_model(CONFIG.replace(problem_type=problem), 0, kind=BloomForSequenceClassification)
    labels = numpy.eye(4, dtype=int)[[1, 3]]
    equal(model(IDS, labels=labels).loss, model(IDS, labels=labels.astype(float)).loss)


# --- dropout before the token classifier ---


@few
@given(st.sampled_from([None, 0.0, 0.4]), st.sampled_from([0.0, 0.3]), seeds)
def test_the_rate_is_the_classifier_s_or_else_that_of_hidden_states(own, hidden, seed):
    config = CONFIG.replace(classifier_dropout=own, hidden_dropout=hidden)
    model, trace = random_model(config, 0, kind=BloomForTokenClassification), Trace("ln_f", "classifier*")
    rate = hidden if own is None else own
    logits = model(IDS, train=True, seed=seed, trace=trace).logits
    assert ("classifier.dropout" in trace) == (rate > 0)
    factors = trace.get("classifier.dropout", numpy.ones((2, 4, 12)))
    assert set(factors.ravel().tolist()) <= {0.0, 1 / (1 - rate)} and factors.shape == (2, 4, 12)
    p = model.params
    close(logits, trace["ln_f"] * factors @ p["classifier.weight"].T + p["classifier.bias"])
    model(IDS, trace=trace)
    assert "classifier.dropout" not in trace


@pytest.mark.parametrize("kind", [BloomForSequenceClassification, BloomForQuestionAnswering])
def test_texts_and_answers_have_no_dropout_of_their_own(kind):
    plain, dropping = (random_model(CONFIG.replace(classifier_dropout=p), 0, kind=kind) for p in (None, 0.5))
    equal(dropping(IDS, train=True, seed=0)[0], plain(IDS)[0])


def test_a_seed_draws_the_same_dropout_and_the_rate_is_what_it_says():
    model = random_model(CONFIG.replace(classifier_dropout=0.25), 0, kind=BloomForTokenClassification)
    trace, ids = Trace("classifier.dropout"), numpy.tile(IDS, (20, 10))
    equal(model(ids, train=True, seed=3).logits, model(ids, train=True, seed=3, trace=trace).logits)
    assert (model(ids, train=True, seed=4).logits != model(ids, train=True, seed=3).logits).any()
    assert (trace["classifier.dropout"] == 0).mean() == pytest.approx(0.25, abs=0.01)  # 19,200 numbers


# --- gradients ---

rates = st.sampled_from([0.0, 0.3])
ONE_BLOCK = {"hidden_size": 12, "n_head": 3, "n_layer": 1, "pretraining_tp": 2}  # of all shapes: tests.test_models


@each_task
@settings(without_shrinking, max_examples=8)
@given(data=st.data(), hidden=rates, attention=rates, own=st.sampled_from([None, 0.3]))
def test_every_gradient_is_the_derivative_of_the_loss(task, data, hidden, attention, own):
    dropouts = {"hidden_dropout": hidden, "attention_dropout": attention, "classifier_dropout": own}
    model, call = data.draw(calls(task, **ONE_BLOCK, **dropouts))
    call |= {"train": True, "seed": 3}
    out, grads = model.value_and_grad(**call)
    assert list(grads) == list(model.params)
    equal(out.loss, model(**call).loss)
    assert_gradients(lambda: model(**call).loss, model.params, grads, few=0)


@with_a_cache
@settings(without_shrinking, max_examples=5)
@given(data=st.data())
def test_keys_and_values_of_earlier_passes_are_constants(kind, data):
    task = "tokens" if kind is BloomForTokenClassification else "single_label_classification"
    model, call = data.draw(calls(task, **ONE_BLOCK))
    B, S = shape_of(call)
    cache = BloomModel.__call__(model, numpy.ones((B, 2), int)).past_key_values
    call["attention_mask"] = numpy.ones((B, 2 + S), int)
    _, grads = model.value_and_grad(**call, past_key_values=cache.copy())
    assert_gradients(lambda: model(**call, past_key_values=cache.copy()).loss, model.params, grads, few=0)
    assert cache.length == 2


@pytest.mark.parametrize("task", [*TASKS, "words"])
@few
@given(data=st.data())
def test_the_way_back_through_a_head_is_linear_in_its_upstream(task, data):
    if task == "words":
        model, call = random_model(data.draw(configs()), 0), {"input_ids": [[0, 1, 2]], "labels": [[0, 1, 2]]}
    else:
        model, call = data.draw(calls(task, classifier_dropout=0.3))
    tape = Tape()
    model(**call, train=True, seed=0, trace=tape)

    def backward(d: numpy.ndarray) -> tuple[numpy.ndarray, ...]:
        grads: dict[str, numpy.ndarray] = {}
        dhidden = model._head_backward({**tape, f"{model.head}.grad": d}, grads)
        return dhidden, *grads.values()

    assert_linear(backward, tape[f"{model.head}.grad"])


@each_kind
def test_value_and_grad_takes_the_arguments_of_a_call_by_place_too(kind):
    model, labels = random_model(CONFIG, 0, kind=kind), LABELS[kind]
    ones = numpy.ones((2, 4))
    expected, grads = model.value_and_grad(IDS, attention_mask=ones, **labels)
    if kind is BloomForQuestionAnswering:
        places = (IDS, ones, None, None, None, *labels.values(), False, False, False)
    else:
        places = (IDS, None, ones, None, None, labels["labels"], False, False, False, False)
    out, by_place = model.value_and_grad(*places)
    assert type(out) is tuple and len(out) == len(expected.to_tuple())  # the last False: return_dict
    for ours, theirs in zip(out, expected.to_tuple(), strict=True):
        equal(ours, theirs)
    assert "past_key_values" not in expected
    assert all((by_place[name] == gradient).all() for name, gradient in grads.items())
    for call in ({"input_ids": IDS}, {"attention_mask": ones}):
        with pytest.raises(TypeError, match="multiple values"):
            model.value_and_grad(*places, **call)
    with pytest.raises(TypeError, match="too many positional"):
        model.value_and_grad(*places, False, False)


def test_gradients_need_every_label():
    for kind, message in (
        (BloomForSequenceClassification, "needs labels"),
        (BloomForTokenClassification, "needs labels"),
        (BloomForQuestionAnswering, "needs start_positions and end_positions"),
    ):
        with pytest.raises(InputError, match=f"value_and_grad {message}: the gradient is that of the loss"):
            kind(CONFIG).value_and_grad(IDS)
    with pytest.raises(InputError, match="value_and_grad needs end_positions"):
        BloomForQuestionAnswering(CONFIG).value_and_grad(IDS, start_positions=[0, 1])


# --- looking inside ---


@each_kind
def test_a_training_pass_takes_every_step_in_the_order_of_the_table(kind):
    model = random_model(CONFIG.replace(hidden_dropout=0.1, attention_dropout=0.1), 0, kind=kind)
    trace, names = Trace(), step_names(2, kind.head)
    model.value_and_grad(IDS, **LABELS[kind], head_mask=[1, 1, 1], train=True, seed=0, trace=trace)
    assert list(trace) == names == model.step_names()
    assert all(formula(name) for name in names)
    model(IDS, trace=trace)
    assert list(trace) == [name for name in names if not name.endswith(("dropout", "head_mask", "grad"))]


@each_task
@few
@given(data=st.data(), train=st.booleans())
def test_watching_changes_no_bit_and_what_was_seen_stays(task, data, train):
    model, call = data.draw(calls(task, hidden_dropout=0.2, attention_dropout=0.2))
    call |= {"train": True, "seed": 1} if train else {}
    copies = {}

    class Copying(Trace):
        def __call__(self, name: str, value: Any) -> Any:
            copies[name] = value.copy()
            return super().__call__(name, value)

    trace = Copying()
    plain, watched = model(**call), model(**call, trace=Trace())
    (out, grads), (seen, seen_grads) = model.value_and_grad(**call), model.value_and_grad(**call, trace=trace)
    for name in plain:
        if name != "past_key_values":
            for other in (watched, out, seen):
                equal(other[name], plain[name])
    assert all((seen_grads[name] == gradient).all() for name, gradient in grads.items())
    assert list(copies) == list(trace)
    for name, value in trace.items():
        equal(value, copies[name])


@each_kind
def test_backward_reads_everything_of_the_head_that_its_tape_keeps(kind):
    read, tape = set(), Tape()

    class Reading(dict):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    model = random_model(CONFIG.replace(classifier_dropout=0.2), 0, kind=kind)
    model(IDS, **LABELS[kind], train=True, seed=0, trace=tape)
    model._head_backward(Reading(tape), {})
    assert read & tape.keys() == {"ln_f", *(name for name in tape if name in HEADS[kind.head])}


@each_kind
def test_every_step_of_the_head_can_be_edited(kind):
    model = random_model(CONFIG.replace(classifier_dropout=0.2), 0, kind=kind)
    call = {"input_ids": IDS, "train": True, "seed": 0}
    plain = model(**call)[0]
    for name in [n for n in step_names(2, kind.head) if n == "ln_f" or n in HEADS[kind.head]]:
        trace = Trace(name, edits={name: lambda x: (x + 1) % 4 if x.dtype.kind == "i" else 2 * x + 1})
        edited = model(**call, trace=trace)[0]
        assert (edited != plain).any() != name.endswith("grad"), name  # there is no gradient without labels


@each_kind
def test_a_head_s_steps_are_unknown_to_other_models(kind):
    for other in {*LABELS, BloomForCausalLM, BloomModel} - {kind}:
        with pytest.raises(InputError, match=f"no step of this model is called '{kind.head}'"):
            other(CONFIG)(IDS, trace=Trace(kind.head))


# --- nothing that was given is changed ---


@each_task
@few
@given(data=st.data())
def test_arrays_that_were_given_are_only_read(task, data):
    """All of them are locked here: a write anywhere would raise."""
    model, call = data.draw(calls(task, hidden_dropout=0.2))
    before = model.config.to_dict()
    for array in (*call.values(), *model.params.values()):
        if array is not None:
            array.flags.writeable = False
    model(**call)
    _, grads = model.value_and_grad(**call, train=True, seed=0)
    assert all(g.flags.writeable and not numpy.shares_memory(g, model.params[n]) for n, g in grads.items())
    assert model.config.to_dict() == before


# --- bad input ---


@each_kind
@pytest.mark.parametrize(("call", "problem"), BAD, ids=[problem[:40] for _, problem in BAD])
def test_bad_input_is_the_same_error_as_for_every_model(kind, call, problem):
    """With labels too: what is wrong with the input is said first."""
    model = kind(CONFIG)
    for run in (model, lambda **call: model.value_and_grad(**call, **LABELS[kind])):
        with pytest.raises(InputError, match=problem):
            run(**call)


S3 = {"num_labels": 3}
S1 = {"num_labels": 1}
SINGLE, MULTI, NUMBERS = ({**S3, "problem_type": p} for p in list(TASKS)[:3])
OF_CLASSES = r"The problem is single_label_classification, with num_labels=3\."
OF_LABELS = r"The problem is multi_label_classification, with num_labels=3\."
OF_NUMBERS = r"The problem is regression, with num_labels=3\."
GUESSED = r"\(config.problem_type is None, so num_labels and dtype decide\), with num_labels="
BAD_LABELS = [
    (SINGLE, [0, 3], f"labels holds 3, expected classes from 0 to 2, or -100 to ignore. {OF_CLASSES}"),
    (SINGLE, [0, -1], f"labels holds -1, expected classes from 0 to 2, or -100 to ignore. {OF_CLASSES}"),
    (SINGLE, [0], rf"labels has shape \[1\], expected \[2\]. {OF_CLASSES}"),
    (SINGLE, [[0], [1]], rf"labels has shape \[2, 1\], expected \[2\]. {OF_CLASSES}"),
    (SINGLE, [0.0, 1.0], f"labels holds float64, expected whole numbers. {OF_CLASSES}"),
    (SINGLE, [True, False], f"labels holds bool, expected whole numbers. {OF_CLASSES}"),
    (SINGLE, ["a", "b"], f"labels holds <U1, expected whole numbers. {OF_CLASSES}"),
    (SINGLE, ArrayElsewhere(), "labels is an array of elsewhere, the model computes with numpy"),
    (MULTI, numpy.full((2, 3), 1.5), rf"labels holds numbers outside 0 .* to 1 \(holds\). {OF_LABELS}"),
    (MULTI, numpy.full((2, 3), -0.1), rf"labels holds numbers outside 0 .* to 1 \(holds\). {OF_LABELS}"),
    (MULTI, numpy.full((2, 3), numpy.nan), f"labels holds NaN or infinity, expected finite numbers. {OF_LABELS}"),
    (MULTI, numpy.full((2, 3), True), f"labels holds bool, expected real numbers. {OF_LABELS}"),
    (MULTI, [0, 1], rf"labels has shape \[2\], expected \[2, 3\]. {OF_LABELS}"),
    (MULTI, numpy.ones((3, 2)), rf"labels has shape \[3, 2\], expected \[2, 3\]. {OF_LABELS}"),
    (NUMBERS, [0.5, 1.5], rf"labels has shape \[2\], expected \[2, 3\]. {OF_NUMBERS}"),
    (NUMBERS, numpy.full((2, 3), numpy.inf), f"labels holds NaN or infinity, expected finite numbers. {OF_NUMBERS}"),
    (NUMBERS, [["1"] * 3] * 2, f"labels holds <U1, expected real numbers. {OF_NUMBERS}"),
    (S1, [[0.5, 1.5]], rf"labels has shape \[1, 2\], expected \[2, 1\] or \[2\]. The problem is regression {GUESSED}1"),
    (S3, [0, 3], f"labels holds 3, expected classes from 0 to 2.* The problem is single_label_.* {GUESSED}3"),
    (S3, [0.0, 1.0], rf"expected \[2, 3\]. The problem is multi_label_classification {GUESSED}3"),
    (S3, numpy.eye(3, dtype=int)[:2], rf"shape \[2, 3\], expected \[2\]. The problem is single_label_.* {GUESSED}3"),
    (S3, [[0, 1], [1]], "labels has rows of different lengths, expected a rectangle"),
    (S3, ArrayElsewhere(), "labels is an array of elsewhere, the model computes with numpy"),
]


@pytest.mark.parametrize(("fields", "labels", "problem"), BAD_LABELS, ids=[p[:50] for *_, p in BAD_LABELS])
def test_bad_labels_of_a_text(fields, labels, problem):
    model = BloomForSequenceClassification(CONFIG.replace(**fields))
    for run in (model, model.value_and_grad):
        with pytest.raises(InputError, match=problem):
            run(IDS, labels=labels)


BAD_CLASSES = [
    (numpy.zeros((2, 3), int), r"labels has shape \[2, 3\], expected \[2, 4\]"),
    (numpy.zeros(2, int), r"labels has shape \[2\], expected \[2, 4\]"),
    (numpy.zeros((2, 4)), "labels holds float64, expected whole numbers"),
    (numpy.full((2, 4), 4), "labels holds 4, expected classes from 0 to 3, or -100 to ignore"),
    (numpy.full((2, 4), -1), "labels holds -1, expected classes from 0 to 3, or -100 to ignore"),
    (ArrayElsewhere(), "labels is an array of elsewhere, the model computes with numpy"),
]


@pytest.mark.parametrize(("labels", "problem"), BAD_CLASSES, ids=[problem[:50] for _, problem in BAD_CLASSES])
def test_bad_labels_of_tokens(labels, problem):
    model = BloomForTokenClassification(CONFIG)
    for run in (model, model.value_and_grad):
        with pytest.raises(InputError, match=problem):
            run(IDS, labels=labels)


BAD_PLACES = [
    ([0], r"{} has shape \[1\], expected \[2\] or \[2, 1\]"),
    ([[0, 1], [1, 2]], r"{} has shape \[2, 2\], expected \[2\] or \[2, 1\]"),
    ([0.0, 1.0], "{} holds float64, expected whole numbers"),
    (None, "{} is missing: give both start_positions and end_positions, or neither"),
    (ArrayElsewhere(), "{} is an array of elsewhere, the model computes with numpy"),
]


@pytest.mark.parametrize("name", ["start_positions", "end_positions"])
@pytest.mark.parametrize(("places", "problem"), BAD_PLACES, ids=[problem[:40] for _, problem in BAD_PLACES])
def test_bad_places_of_an_answer(name, places, problem):
    model, call = BloomForQuestionAnswering(CONFIG), {**LABELS[BloomForQuestionAnswering], name: places}
    with pytest.raises(InputError, match=problem.format(name)):
        model(IDS, **call)


@with_a_cache
def test_a_refused_call_leaves_the_cache_as_it_was(kind):
    model, past = random_model(CONFIG, 0, kind=kind), Cache(2)
    model(IDS, past_key_values=past)
    before = past.to_tuple()
    right = numpy.array(LABELS[kind]["labels"])
    for wrong in (right + 3, right - 5, right[:1], right[..., None], right + 0.5, right.astype(str), ArrayElsewhere()):
        for run in (model, model.value_and_grad):
            with pytest.raises(InputError, match="labels (holds|has|is an array)"):
                run(IDS, labels=wrong, past_key_values=past)
    assert past.length == 4
    for pair, other in zip(past.to_tuple(), before, strict=True):
        equal(pair, other)


def test_a_batch_without_a_pad_token():
    model = BloomForSequenceClassification(CONFIG.replace(pad_token_id=None))
    for call in ({"input_ids": IDS}, {"inputs_embeds": normal(0, 2, 4, 12)}):
        with pytest.raises(InputError, match=r"a batch of 2 rows needs config.pad_token_id, which is None.*Set it"):
            model(**call)
    model(IDS[:1])
    model.config.pad_token_id = 0
    model(IDS)


@pytest.mark.parametrize("option", [{"past_key_values": None}, {"use_cache": True}, {"labels": [0, 1]}], ids=str)
def test_answers_have_no_cache_and_no_labels(option):
    """Their documented call has neither, so that a place in it is never taken for one of another model's."""
    (name,) = option
    known = "input_ids, attention_mask, head_mask, inputs_embeds, start_positions, end_positions, .*, trace"
    for run in (BloomForQuestionAnswering(CONFIG), BloomForQuestionAnswering(CONFIG).value_and_grad):
        with pytest.raises(InputError, match=rf"there is no argument '{name}'. The arguments are {known}\."):
            run(IDS, **LABELS[BloomForQuestionAnswering], **option)


def test_position_ids_stand_where_they_are_documented_and_are_refused():
    model = BloomForQuestionAnswering(CONFIG)
    for run in (model, model.value_and_grad):
        with pytest.raises(InputError, match="no argument 'position_ids'. BLOOM has no position embeddings"):
            run(IDS, None, IDS, **LABELS[BloomForQuestionAnswering])
    equal(model(IDS, None, None, [1, 0, 1]).start_logits, model(IDS, head_mask=[1, 0, 1]).start_logits)


# --- files ---


def save(kind: type, folder: Path, **changes: Any) -> Any:
    model = random_model(CONFIG.replace(**changes), 5, "float32", kind)
    model.save_pretrained(folder)
    return model


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [BloomModel, BloomForCausalLM, *LABELS])
@few
@given(data=st.data(), dtype=st.sampled_from(["float32", "float64"]), shard=st.sampled_from([500, 5 * 10**9]))
def test_saving_and_loading_is_the_identity(kind, tmp_path_factory, data, dtype, shard):
    fields = {
        "num_labels": data.draw(st.integers(1, 4)),
        "problem_type": data.draw(st.sampled_from([None, "regression", "multi_label_classification"])),
        "classifier_dropout": data.draw(st.sampled_from([None, 0.2])),
        "pad_token_id": data.draw(st.sampled_from([None, 0])),
    }
    folder = tmp_path_factory.mktemp("model")
    model = random_model(data.draw(configs(**fields)), data.draw(seeds), dtype, kind)
    model.save_pretrained(folder, max_shard_size=shard)
    again = kind.from_pretrained(folder, dtype=dtype)
    assert again.config == model.config.replace(architectures=[kind.__name__], dtype=dtype)
    assert list(again.params) == list(model.params)
    for name, value in model.params.items():
        equal(again.params[name], value)


@each_kind
def test_a_head_that_a_checkpoint_lacks_is_drawn_anew_and_said_so_once(kind, tmp_path):
    """From the bare model's file, the language model's, tied or not, and that of every other classifier."""
    for i, other in enumerate([BloomModel, BloomForCausalLM, BloomForCausalLM, *(k for k in LABELS if k is not kind)]):
        folder = tmp_path / str(i)
        model = save(other, folder, tie_word_embeddings=i != 2)
        head = list(kind.head_shapes(CONFIG))
        with pytest.warns(UserWarning) as caught:
            new, same, different = (kind.from_pretrained(folder, seed=seed) for seed in (0, 0, 1))
        assert len(caught) == 3 and caught[0].filename == __file__
        said = f"{folder} has no {', '.join(head)}: this head of {kind.__name__} is new, drawn from seed 0."
        assert str(caught[0].message).startswith(said)
        assert list(new.params) == list(kind.shapes(new.config))
        for name, value in new.params.items():
            assert value.shape == kind.shapes(new.config)[name] and value.dtype == "float32"
            equal(value, same.params[name])
            if name not in head:
                equal(value, model.params[name])
            elif name.endswith("bias"):
                assert not value.any()
            else:
                assert (value != different.params[name]).any() and value.std() == pytest.approx(0.02, rel=0.5)


@pytest.mark.filterwarnings("error")
def test_a_head_is_no_hindrance_to_other_models(tmp_path):
    for kind in LABELS:
        model = save(kind, tmp_path / kind.head)
        for other in (BloomModel, BloomForCausalLM):
            loaded = other.from_pretrained(tmp_path / kind.head)
            assert all((loaded.params[name] == model.params[name]).all() for name in loaded.params)


def test_a_new_head_has_as_many_labels_as_the_caller_says(tmp_path):
    save(BloomModel, tmp_path)
    with pytest.warns(UserWarning, match="has no score.weight"):
        model = BloomForSequenceClassification.from_pretrained(tmp_path, num_labels=7, dtype="float64")
    assert model.params["score.weight"].shape == (7, 12) and model.params["score.weight"].dtype == "float64"
    assert model(IDS).logits.shape == (2, 7)


def test_a_head_of_another_size_is_an_error(tmp_path):
    save(BloomForSequenceClassification, tmp_path)
    with pytest.raises(InputError, match=r"'score.weight' has shape \[4, 12\], expected \[7, 12\]"):
        BloomForSequenceClassification.from_pretrained(tmp_path, num_labels=7)
