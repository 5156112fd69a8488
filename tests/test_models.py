"""The models: what holds for every configuration, and what is refused before any work is done."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, BloomModel, InputError, Trace
from minibloom.base import INSTEAD
from minibloom.generation.settings import GenerationConfig
from minibloom.layers.alibi import alibi_slopes
from minibloom.layers.embedding import embedding
from minibloom.layers.layer_norm import layer_norm
from minibloom.layers.linear import linear, linear_backward
from minibloom.losses import IGNORE, cross_entropy, shift
from minibloom.trace import NO_GRADIENT

from .gradients import assert_gradient, assert_gradients, assert_linear
from .strategies import (
    HEADS_OF_176B,
    ArrayElsewhere,
    few,
    masks,
    models,
    normal,
    random_model,
    real,
    seeds,
    some,
    token_ids,
    without_shrinking,
)

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3)
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
KINDS = pytest.mark.parametrize("kind", [BloomModel, BloomForCausalLM])
MODEL_176B = random_model(HEADS_OF_176B, 0)


def equal(a: Any, b: Any) -> None:
    """The same bits."""
    numpy.testing.assert_array_equal(a, b, strict=True)


def close(a: Any, b: Any) -> None:
    """The same but for the order in which float64 numbers were added."""
    assert a.shape == b.shape
    numpy.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * abs(b).max())


def see_nothing(mask: numpy.ndarray | None, shape: tuple[int, int]) -> numpy.ndarray:
    """Which positions `[B, S]` have no token at or before them."""
    return numpy.cumsum(real(mask, shape), axis=1) == 0


# --- new models ---


@KINDS
@pytest.mark.parametrize("tied", [True, False])
def test_new_parameters_are_normal_matrices_and_norms_that_do_nothing(kind, tied):
    config = BloomConfig(vocab_size=500, hidden_size=64, n_layer=1, initializer_range=0.05, tie_word_embeddings=tied)
    model = kind(config, seed=3)
    assert list(model.params) == list(model.shapes(config))
    assert ("lm_head.weight" in model.params) == (kind is BloomForCausalLM and not tied)
    for name, value in model.params.items():
        assert value.shape == model.shapes(config)[name] and value.dtype == "float32"
        if value.ndim == 2:
            assert value.std() == pytest.approx(0.05, rel=0.05) and abs(value.mean()) < 0.002
        else:
            assert (value == (1 if name.endswith(".weight") else 0)).all()
    assert model.num_parameters() == sum(value.size for value in model.params.values())


@KINDS
def test_a_seed_is_the_same_model_in_every_precision(kind):
    single, double = kind(CONFIG, seed=5), kind(CONFIG, seed=5, dtype="float64")
    other = kind(CONFIG, seed=6)
    for name, value in single.params.items():
        equal(double.params[name].astype("float32"), value)
        assert double.params[name].dtype == "float64"
        assert value.ndim == 1 or (other.params[name] != value).any()
    wide, narrow = double(IDS)[0], single(IDS)[0]
    assert (wide.dtype, narrow.dtype) == ("float64", "float32")
    numpy.testing.assert_allclose(narrow, wide, atol=1e-5 * abs(wide).max())


def test_settings_of_generation_that_another_model_left_in_the_folder_are_not_read_as_its_own(tmp_path):
    model = BloomForCausalLM(CONFIG)
    model.generation_config = GenerationConfig(max_new_tokens=3)
    model.save_pretrained(tmp_path)
    assert BloomForCausalLM.from_pretrained(tmp_path).generation_config == GenerationConfig(max_new_tokens=3)
    for nothing_to_say in (None, GenerationConfig()):
        model.generation_config = GenerationConfig(max_new_tokens=3)
        model.save_pretrained(tmp_path)
        model.generation_config = nothing_to_say
        model.save_pretrained(tmp_path)
        assert BloomForCausalLM.from_pretrained(tmp_path).generation_config == GenerationConfig()


def test_a_copy_of_a_model_is_a_model_of_its_own():
    model = BloomForCausalLM(CONFIG)
    expected = model(IDS).logits
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    model.params["ln_f.bias"] += 1.0
    for twin in twins:
        equal(twin(IDS).logits, expected)


def test_repr_says_what_it_is():
    assert repr(BloomModel(BloomConfig(vocab_size=1000))) == (
        "BloomModel(164,224 parameters: 2 blocks, 8 heads, hidden size 64, vocabulary 1,000; float32, numpy)"
    )


# --- what comes back ---


@some
@given(models(), st.data())
@example(MODEL_176B, None)
def test_outputs(model, data):
    c = model.config
    ids = numpy.array([[1, 2, 3]]) if data is None else data.draw(token_ids(c))
    (B, S), H, E, L = ids.shape, c.n_head, c.hidden_size, c.n_layer
    out = model(ids, labels=ids, output_hidden_states=True, output_attentions=True)
    assert out.keys() == ["loss", "logits", "past_key_values", "hidden_states", "attentions"]
    assert out.loss.shape == () and out.logits.shape == (B, S, c.vocab_size)
    assert [h.shape for h in out.hidden_states] == [(B, S, E)] * (L + 1)
    assert [a.shape for a in out.attentions] == [(B, H, S, S)] * L
    assert len(out.past_key_values) == L and out.past_key_values[0][0].shape == (B, H, S, E // H)
    assert all(a.dtype == "float64" for a in (out.loss, out.logits, *out.hidden_states, *out.attentions))
    close(out.logits, out.hidden_states[-1] @ model.params[model.head_matrix].T)


@few
@given(models(kind=BloomModel), st.data())
def test_hidden_states_begin_after_the_embeddings_norm_and_end_after_the_last(model, data):
    ids, p, eps = data.draw(token_ids(model.config)), model.params, model.config.layer_norm_epsilon
    trace = Trace()
    out = model(ids, output_hidden_states=True, trace=trace)
    name = "word_embeddings_layernorm"
    first = layer_norm(embedding(ids, p["word_embeddings.weight"]), p[f"{name}.weight"], p[f"{name}.bias"], eps)
    equal(out.hidden_states[0], first)
    assert out.hidden_states[-1] is out.last_hidden_state
    last = layer_norm(trace[f"h.{model.config.n_layer - 1}"], p["ln_f.weight"], p["ln_f.bias"], eps)
    equal(out.last_hidden_state, last)
    for i, between in enumerate(out.hidden_states[1:-1]):
        assert between is trace[f"h.{i}"]  # the residual stream after the last block is never returned


@few
@given(models(kind=BloomModel), st.data())
def test_attentions_share_out_one_among_the_tokens_seen(model, data):
    ids = data.draw(token_ids(model.config))
    mask = data.draw(masks(ids.shape))
    blind = see_nothing(mask, ids.shape)
    for weights in model(ids, attention_mask=mask, output_attentions=True).attentions:
        numpy.testing.assert_allclose(weights.sum(-1), 1)
        for b, s in zip(*numpy.nonzero(~blind), strict=True):
            seen = real(mask, ids.shape)[b] & (numpy.arange(ids.shape[1]) <= s)
            assert (weights[b, :, s, seen] > 0).all() and not weights[b, :, s, ~seen].any()


@KINDS
def test_without_return_dict_there_is_a_tuple_in_the_same_order(kind):
    model = kind(CONFIG)
    options = {"output_hidden_states": True, "output_attentions": True}
    out, values = model(IDS, **options), model(IDS, **options, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(out) == 4
    equal(values[0], out[0])
    assert values[1].length == 4
    equal(values[2][1], out.hidden_states[1])
    equal(values[3][1], out.attentions[1])


def test_a_loss_comes_before_the_logits():
    model = BloomForCausalLM(CONFIG)
    loss, logits = model(IDS, labels=IDS, use_cache=False, return_dict=False)
    equal(loss, model(IDS, labels=IDS).loss)
    equal(logits, model(IDS).logits)


@KINDS
def test_what_is_not_said_in_the_call_is_as_config_says(kind):
    assert kind(CONFIG)(IDS).keys()[1:] == ["past_key_values"]
    config = CONFIG.replace(use_cache=False, output_hidden_states=True, output_attentions=True)
    assert kind(config)(IDS).keys()[1:] == ["hidden_states", "attentions"]
    assert kind(config)(IDS, use_cache=True, output_attentions=False).keys()[1:] == ["past_key_values", "hidden_states"]
    assert isinstance(kind(config.replace(return_dict=False))(IDS), tuple)


def test_the_loss_is_the_mean_surprise_about_the_next_token():
    labels = numpy.array([[1, 2, 3, 4], [5, IGNORE, 7, IGNORE]])
    out = random_model(CONFIG, 0)(IDS, labels=labels)
    p = numpy.exp(out.logits) / numpy.exp(out.logits).sum(-1, keepdims=True)
    surprise = [-math.log(p[place]) for place in ((0, 0, 2), (0, 1, 3), (0, 2, 4), (1, 1, 7))]
    assert float(out.loss) == pytest.approx(sum(surprise) / 4, rel=1e-12)


@few
@given(models(), st.data())
def test_logits_of_the_last_positions_only(model, data):
    ids = data.draw(token_ids(model.config))
    for keep in range(1, ids.shape[1] + 2):
        close(model(ids, logits_to_keep=keep).logits, model(ids).logits[:, -keep:])


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint16", "uint64", "list"])
def test_ids_and_labels_of_every_whole_type(dtype):
    model, labels = BloomForCausalLM(CONFIG), numpy.array([[1, 2, 3, 4], [5, 6, 7, 0]])
    as_given = (lambda x: x.tolist()) if dtype == "list" else (lambda x: x.astype(dtype))
    out, grads = model.value_and_grad(as_given(IDS), labels=as_given(labels))
    expected, expected_grads = model.value_and_grad(IDS, labels=labels)
    equal(out.loss, expected.loss)
    equal(grads["word_embeddings.weight"], expected_grads["word_embeddings.weight"])


@few
@given(models(), st.data())
def test_embeddings_can_be_given_in_place_of_ids(model, data):
    ids = data.draw(token_ids(model.config))
    given_ids = model(ids, labels=ids)
    given_embeds = model(inputs_embeds=model.params["word_embeddings.weight"][ids], labels=ids)
    equal(given_embeds.logits, given_ids.logits)
    equal(given_embeds.loss, given_ids.loss)


# --- what depends on what ---


@some
@given(models(), st.data())
def test_a_later_token_never_changes_an_earlier_output(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    mask = data.draw(masks(ids.shape))
    at = data.draw(st.integers(1, ids.shape[1] - 1))
    other = ids.copy()
    other[:, at:] = (other[:, at:] + 1) % model.config.vocab_size
    before = ~see_nothing(mask, ids.shape)
    before[:, at:] = False
    a, b = model(ids, attention_mask=mask).logits, model(other, attention_mask=mask).logits
    equal(a[before], b[before])
    if mask is None:
        close(model(ids[:, :at]).logits, a[:, :at])
        assert (a[:, at:] != b[:, at:]).any()


@some
@given(models(), st.data())
def test_a_padded_batch_equals_its_rows_alone(model, data):
    """Left, right or holes: padding might as well have been deleted."""
    ids = data.draw(token_ids(model.config))
    mask = data.draw(masks(ids.shape, kinds=("left", "right", "holes")))
    logits = model(ids, attention_mask=mask).logits
    for row, tokens, of_row in zip(ids, mask.astype(bool), logits, strict=True):
        close(of_row[tokens], model(row[tokens][None]).logits[0])


@few
@given(models(), st.data())
def test_padding_with_labels_that_do_not_count_changes_neither_loss_nor_gradient(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))[:1]
    S, pads = ids.shape[1], data.draw(st.integers(1, 3))
    padded, mask = (numpy.pad(x, ((0, 0), (0, pads))) for x in (ids, numpy.ones_like(ids)))
    labels = numpy.where(mask == 1, padded, IGNORE)
    out, grads = model.value_and_grad(padded, attention_mask=mask, labels=labels)
    alone, alone_grads = model.value_and_grad(ids, labels=ids)
    close(out.loss, alone.loss)
    close(out.logits[:, :S], alone.logits)
    for name, gradient in grads.items():
        numpy.testing.assert_allclose(gradient, alone_grads[name], atol=1e-11, err_msg=name)


@few
@given(models(), st.data())
def test_no_mask_is_a_mask_of_ones(model, data):
    ids = data.draw(token_ids(model.config))
    ones = numpy.ones_like(ids)
    for mask in (ones, ones.astype(bool), ones.astype("float32"), ones.tolist()):
        equal(model(ids, attention_mask=mask).logits, model(ids).logits)


@few
@given(models(kind=BloomModel, dtype="float32"), st.data())
def test_rows_that_see_nothing_look_everywhere_alike_and_stay_finite(model, data):
    """As in the reference: 1/T for every key, the future included. No token ever reads such a row."""
    ids = data.draw(token_ids(model.config, shortest=2))
    mask = data.draw(masks(ids.shape, kinds=("left", "holes")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = model(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
    assert all(numpy.isfinite(h).all() for h in out.hidden_states)
    for weights in out.attentions:
        blind = weights.transpose(0, 2, 1, 3)[see_nothing(mask, ids.shape)]
        equal(blind, numpy.full_like(blind, numpy.float32(1) / numpy.float32(ids.shape[1])))


@few
@given(models(), st.data(), st.integers(-50, 50))
def test_positions_count_only_as_distances(model, data, shift):
    """ALiBi at positions moved by any number, as if the text stood elsewhere, is the same attention."""
    ids = data.draw(token_ids(model.config))
    slopes = alibi_slopes(model.config.n_head, numpy).astype("float64")[:, None, None]  # [H, 1, 1]
    moved = model(ids, trace=Trace(edits={"alibi": lambda bias: bias + shift * slopes})).logits
    numpy.testing.assert_allclose(moved, model(ids).logits, rtol=0, atol=1e-9 * abs(moved).max())


@some
@given(models(), st.data())
@example(MODEL_176B, None)
def test_cached_decoding_split_anywhere_equals_the_uncached_pass(model, data):
    if data is None:
        ids, mask, cuts = numpy.array([[1, 2, 3, 4]]), numpy.array([[0, 1, 1, 1]]), [1, 3]
    else:
        ids = data.draw(token_ids(model.config))
        mask = data.draw(masks(ids.shape))
        cuts = data.draw(st.lists(st.integers(1, ids.shape[1]), unique=True).map(sorted))
    whole, cache, pieces = model(ids, attention_mask=mask), None, []
    edges = [0, *(cut for cut in cuts if cut < ids.shape[1]), ids.shape[1]]
    for start, end in pairwise(edges):
        seen = None if mask is None else mask[:, :end]
        out = model(ids[:, start:end], past_key_values=cache, attention_mask=seen)
        cache = out.past_key_values
        pieces.append(out.logits)
        assert cache.length == end
    tokens = real(mask, ids.shape)
    close(numpy.concatenate(pieces, axis=1)[tokens], whole.logits[tokens])


@some
@given(models(), st.data())
def test_cached_decoding_in_float32_is_that_of_float64_rounded(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    mask, cut = data.draw(masks(ids.shape)), data.draw(st.integers(1, ids.shape[1] - 1))
    single = BloomForCausalLM(model.config)
    single.params = {name: value.astype("float32") for name, value in model.params.items()}
    cache, outs = single(ids[:, :cut], attention_mask=None if mask is None else mask[:, :cut]).past_key_values, []
    for end in range(cut + 1, ids.shape[1] + 1):
        seen = None if mask is None else mask[:, :end]
        outs.append(single(ids[:, end - 1 : end], past_key_values=cache, attention_mask=seen).logits)
    tokens = real(mask, ids.shape)[:, cut:]
    right = model(ids, attention_mask=mask).logits[:, cut:][tokens]
    largest = abs(right).max() if right.size else 0.0
    numpy.testing.assert_allclose(numpy.concatenate(outs, axis=1)[tokens], right, atol=1e-4 * largest)


@few
@given(models(), st.data())
def test_a_given_cache_is_extended_in_place(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    cache = model(ids[:, :1]).past_key_values
    assert model(ids[:, 1:], past_key_values=cache, use_cache=False).past_key_values is cache
    assert cache.length == ids.shape[1]


@few
@given(models(), st.data(), st.booleans())
def test_a_head_masked_out_might_as_well_have_values_of_zero(model, data, everywhere):
    """In every block by a mask [H], in one of them by a mask [L, H]."""
    ids, c = data.draw(token_ids(model.config)), model.config
    head, layer = data.draw(st.integers(0, c.n_head - 1)), data.draw(st.integers(0, c.n_layer - 1))
    factors = numpy.ones(c.n_head if everywhere else (c.n_layer, c.n_head))
    factors[head if everywhere else (layer, head)] = 0
    masked = model(ids, head_mask=factors, output_attentions=True)
    for i, weights in enumerate(masked.attentions):
        assert weights[:, head].any() != (everywhere or i == layer)
        if everywhere or i == layer:
            for part in ("weight", "bias"):
                fused = model.params[f"h.{i}.self_attention.query_key_value.{part}"]
                fused.reshape(c.n_head, 3, c.head_dim, -1)[head, 2] = 0
    close(masked.logits, model(ids).logits)


def test_the_residual_after_the_norm_is_another_model():
    model = random_model(CONFIG, 0)
    other = BloomForCausalLM(CONFIG.replace(apply_residual_connection_post_layernorm=True), dtype="float64")
    other.params = model.params
    assert abs(model(IDS).logits - other(IDS).logits).max() > 0.1


def test_slow_but_exact_adds_in_another_order_and_nothing_else():
    model = random_model(CONFIG, 0, "float32")
    slow = BloomForCausalLM(CONFIG.replace(slow_but_exact=True, pretraining_tp=4))
    slow.params = model.params
    a, b = model(IDS).logits, slow(IDS).logits
    assert (a != b).any()
    numpy.testing.assert_allclose(a, b, atol=1e-5 * abs(a).max())


@pytest.mark.parametrize(("slow", "slices"), [(True, 2), (True, 4), (True, 1), (False, 2)])
@pytest.mark.parametrize("kind", [BloomModel, BloomForCausalLM])
def test_hf_compat_leaves_two_biases_out_where_transformers_does(kind, slow, slices, tmp_path):
    """With slow_but_exact and more slices than one, and nowhere else; the parameters stay, their gradients are 0."""
    model = random_model(CONFIG.replace(slow_but_exact=slow, pretraining_tp=slices), 0, kind=kind)
    dropped = [f"h.{i}.{name}.bias" for i in range(2) for name in ("self_attention.dense", "mlp.dense_4h_to_h")]
    dropped = dropped if slow and slices > 1 else []
    zeros = random_model(model.config, 0, kind=kind)
    for name in dropped:
        zeros.params[name][:] = 0
    model.save_pretrained(tmp_path)
    compatible = kind.from_pretrained(tmp_path, dtype="float64", hf_compat=True)
    start = {"labels": IDS} if kind is BloomForCausalLM else {"upstream": normal(0, 2, 4, 12)}
    equal(compatible(IDS)[0], zeros(IDS)[0])
    assert (compatible(IDS)[0] == model(IDS)[0]).all() == (not dropped)
    (_, grads), (_, expected) = compatible.value_and_grad(IDS, **start), zeros.value_and_grad(IDS, **start)
    for name, gradient in grads.items():
        equal(gradient, numpy.zeros_like(gradient) if name in dropped else expected[name])
        equal(compatible.params[name], model.params[name])
    assert all(gradient.any() for gradient in expected.values())


# --- dropout ---

DROPPING = CONFIG.replace(hidden_dropout=0.3, attention_dropout=0.3)


@few
@given(seeds)
def test_a_seed_draws_the_same_dropout(seed):
    model = random_model(DROPPING, 0)
    equal(model(IDS, train=True, seed=seed).logits, model(IDS, train=True, seed=seed).logits)
    assert (model(IDS, train=True, seed=seed).logits != model(IDS, train=True, seed=seed + 1).logits).any()
    assert (model(IDS, train=True).logits != model(IDS, train=True).logits).any()


@few
@given(models(), st.data())
def test_dropout_is_for_training_only(model, data):
    ids = data.draw(token_ids(model.config))
    plain = model(ids).logits
    equal(model(ids, train=True, seed=0).logits, plain)  # its rates are 0
    model.config = model.config.replace(hidden_dropout=0.5, attention_dropout=0.5)
    equal(model(ids).logits, plain)


def test_attentions_are_what_was_multiplied_with_the_values():
    """After dropout, which both this and the reference return: some are 0, the others are larger."""
    trace = Trace("*.self_attention.probs", "*.self_attention.dropout")
    out = random_model(DROPPING, 0)(IDS, train=True, seed=0, output_attentions=True, trace=trace)
    for i, weights in enumerate(out.attentions):
        name = f"h.{i}.self_attention"
        equal(weights, trace[f"{name}.probs"] * trace[f"{name}.dropout"])
        assert not weights[trace[f"{name}.dropout"] == 0].any()


# --- gradients ---


@st.composite
def training_calls(draw: st.DrawFn, config: BloomConfig) -> tuple[dict[str, Any], numpy.ndarray]:
    """Arguments of a call with every option that gradients go through, and which positions `[B, S]` may count.

    Positions that see no token do not: their scores are constants, yet backward, as the reference's, lets the
    gradient pass as if the mask had only been added.
    """
    ids = draw(token_ids(config, shortest=2, longest=5))
    mask = draw(masks(ids.shape, tokens=2))
    call: dict[str, Any] = {"attention_mask": mask, "train": True, "seed": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        call["inputs_embeds"] = normal(draw(seeds), *ids.shape, config.hidden_size)
    else:
        call["input_ids"] = ids
    if draw(st.booleans()):
        call["head_mask"] = normal(draw(seeds), config.n_layer, config.n_head)
    return call, ~see_nothing(mask, ids.shape)


rates = st.sampled_from([0.0, 0.3])


@without_shrinking
@given(st.data(), rates, rates)
def test_every_gradient_is_the_derivative_of_the_loss(data, hidden_dropout, attention_dropout):
    model = data.draw(models(hidden_dropout=hidden_dropout, attention_dropout=attention_dropout))
    call, counts = data.draw(training_calls(model.config))
    labels = numpy.random.default_rng(0).integers(0, model.config.vocab_size, counts.shape)
    labels[~real(call["attention_mask"], counts.shape)] = IGNORE  # padding
    labels[:, 1:][~counts[:, :-1]] = IGNORE  # the first token: nothing before it could predict it
    out, grads = model.value_and_grad(**call, labels=labels)
    assume(numpy.isfinite(out.loss))
    assert list(grads) == list(model.params)
    equal(out.loss, model(**call, labels=labels).loss)
    assert_gradients(lambda: model(**call, labels=labels).loss, model.params, grads, few=0)


@pytest.mark.parametrize("tied", [True, False])
def test_every_gradient_of_112_heads(tied):
    model = random_model(HEADS_OF_176B.replace(tie_word_embeddings=tied), 0)
    ids = numpy.array([[1, 2, 3, 1]])
    _, grads = model.value_and_grad(ids, labels=ids)
    assert_gradients(lambda: model(ids, labels=ids).loss, model.params, grads, few=0)


@without_shrinking
@given(st.data(), rates, rates, st.booleans())
def test_the_gradient_at_every_step_is_the_derivative_of_the_loss_by_what_flows_there(data, hidden, attention, again):
    """Held to differences of the loss itself: each step in turn is moved along a direction by an edit."""
    model = data.draw(models(hidden_dropout=hidden, attention_dropout=attention))
    call, counts = data.draw(training_calls(model.config))
    call["labels"] = numpy.random.default_rng(0).integers(0, model.config.vocab_size, counts.shape)
    call["labels"][~real(call["attention_mask"], counts.shape)] = IGNORE
    call["labels"][:, 1:][~counts[:, :-1]] = IGNORE
    out, grads = model.value_and_grad(**call, at="*", recompute=again)
    assume(numpy.isfinite(out.loss))
    plain, trace = model.value_and_grad(**call)[1], Trace()
    assert list(grads)[: len(plain)] == list(plain)
    for name, gradient in plain.items():
        close(grads[name], gradient)  # on fast paths, which those who ask for probabilities have not, to rounding
    model(**{**call, "labels": None}, trace=trace)
    steps = {name: value for name, value in trace.items() if name in grads}
    assert list(grads)[len(plain) :] == list(steps)
    assert not [name for name in trace if name not in steps and not name.endswith((*NO_GRADIENT, "lm_head"))]
    for name in data.draw(st.permutations([*steps]))[:4]:
        moved = numpy.zeros_like(steps[name])

        def loss(name=name, moved=moved):
            return model(**call, trace=Trace("ln_f", edits={name: lambda x: x + moved})).loss

        assert_gradient(loss, moved, grads[name], name, few=0)


def test_at_takes_names_and_patterns_of_the_steps_that_backward_passes():
    model = random_model(CONFIG, 0)
    for at, expected in (
        ("h.1", ["h.1"]),
        (("ln_f", "h.0"), ["h.0", "ln_f"]),
        (iter(["*.probs"]), [f"h.{i}.self_attention.probs" for i in (0, 1)]),
        ((), []),
    ):
        assert list(model.value_and_grad(IDS, labels=IDS, at=at)[1])[len(model.params) :] == expected
    _, grads = model.value_and_grad(IDS, labels=IDS, output_logits=False, recompute=True, at="h.0.mlp.gelu")
    assert grads["h.0.mlp.gelu"].shape == (2, 4, 48)
    bare, upstream = random_model(CONFIG, 0, kind=BloomModel), numpy.ones((2, 4, 12))
    equal(bare.value_and_grad(IDS, upstream=upstream, at="ln_f")[1]["ln_f"], upstream)
    for at, message in (
        ("h.2", r"at holds 'h.2'.* Did you mean 'h.1'\?"),
        (["h.1", "lm_head"], "at holds 'lm_head'.*as 'lm_head.grad'"),
        ("alibi", "at holds 'alibi'"),
        (3, "at holds 3"),
        ([None], "at holds None"),
    ):
        with pytest.raises(InputError, match=message):
            model.value_and_grad(IDS, labels=IDS, at=at)


@without_shrinking
@given(st.data(), rates, rates)
def test_every_gradient_of_a_bare_model_is_that_of_its_upstream(data, hidden_dropout, attention_dropout):
    model = data.draw(models(kind=BloomModel, hidden_dropout=hidden_dropout, attention_dropout=attention_dropout))
    call, counts = data.draw(training_calls(model.config))
    upstream = normal(0, *counts.shape, model.config.hidden_size) * counts[..., None]
    out, grads = model.value_and_grad(**call, upstream=upstream)
    assert list(grads) == list(model.params)
    equal(out.last_hidden_state, model(**call).last_hidden_state)
    assert_gradients(lambda: (upstream * model(**call).last_hidden_state).sum(), model.params, grads, few=0)
    assert_linear(lambda dy: tuple(model.value_and_grad(**call, upstream=dy)[1].values()), upstream)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_head_of_ones_own_is_given_the_hidden_states_and_gives_their_gradient(recompute):
    """The language model's own head and loss, on a bare model: the same numbers by the same way back."""
    whole, bare = random_model(CONFIG, 0), random_model(CONFIG, 0, kind=BloomModel)
    bare.params = {name: whole.params[name] for name in bare.params}
    table, found = whole.params["word_embeddings.weight"], {}

    def upstream(hidden):
        found["loss"], dlogits = cross_entropy(linear(hidden, table), shift(whole.xp.asarray(IDS)))
        d, found["dweight"], _ = linear_backward(dlogits, hidden, table)
        return d

    out, grads = bare.value_and_grad(IDS, upstream=upstream, recompute=recompute)
    expected, theirs = whole.value_and_grad(IDS, labels=IDS, recompute=recompute)
    equal(found["loss"], expected.loss)
    grads["word_embeddings.weight"] += found["dweight"]
    for name in grads:
        close(grads[name], theirs[name])
    assert out.last_hidden_state.shape == (2, 4, 12)


@without_shrinking
@given(models(), st.data())
def test_keys_and_values_of_earlier_passes_are_constants(model, data):
    ids = data.draw(token_ids(model.config, shortest=3))
    past = data.draw(st.integers(1, ids.shape[1] - 2))
    cache, new = model(ids[:, :past]).past_key_values, ids[:, past:]
    _, grads = model.value_and_grad(new, past_key_values=cache.copy(), labels=new)
    assert_gradients(lambda: model(new, past_key_values=cache.copy(), labels=new).loss, model.params, grads, few=0)


def test_a_tied_matrix_collects_the_gradients_of_both_its_uses():
    tied = random_model(CONFIG, 0)
    untied = random_model(CONFIG.replace(tie_word_embeddings=False), 0)
    untied.params = {**tied.params, "lm_head.weight": tied.params["word_embeddings.weight"].copy()}
    _, one = tied.value_and_grad(IDS, labels=IDS)
    _, two = untied.value_and_grad(IDS, labels=IDS)
    close(one["word_embeddings.weight"], two["word_embeddings.weight"] + two["lm_head.weight"])
    unused = [i for i in range(13) if i not in IDS]
    assert not two["word_embeddings.weight"][unused].any() and two["lm_head.weight"][unused].all()


@few
@given(models(), st.data())
def test_gradients_in_float32_are_those_of_float64_rounded(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    _, grads = model.value_and_grad(ids, labels=ids)
    single = BloomForCausalLM(model.config)
    single.params = {name: value.astype("float32") for name, value in model.params.items()}
    scale = max(abs(gradient).max() for gradient in grads.values())
    for name, gradient in single.value_and_grad(ids, labels=ids)[1].items():
        assert gradient.dtype == "float32"
        numpy.testing.assert_allclose(gradient, grads[name], atol=1e-4 * scale, err_msg=name)


def test_labels_that_all_do_not_count_give_no_gradient():
    model = random_model(CONFIG, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out, grads = model.value_and_grad(IDS, labels=numpy.full_like(IDS, IGNORE))
    assert numpy.isnan(out.loss) and not any(gradient.any() for gradient in grads.values())


def test_value_and_grad_takes_the_arguments_of_a_call():
    model = BloomForCausalLM(CONFIG)
    expected, _ = model.value_and_grad(IDS, attention_mask=numpy.ones((2, 4)), labels=IDS)
    by_place, _ = model.value_and_grad(IDS, None, numpy.ones((2, 4)), None, None, IDS)
    equal(by_place.loss, expected.loss)
    expected_loss = expected.loss
    assert expected.past_key_values is None and by_place.keys() == ["loss", "logits"]
    out, _ = model.value_and_grad(IDS, labels=IDS, use_cache=True, output_attentions=True)
    assert out.keys() == ["loss", "logits", "past_key_values", "attentions"]
    as_config_says = BloomForCausalLM(CONFIG.replace(return_dict=False))
    for (out, _), expected in (
        (model.value_and_grad(IDS, labels=IDS, return_dict=False), tuple),
        (as_config_says.value_and_grad(IDS, labels=IDS), tuple),
        (as_config_says.value_and_grad(IDS, labels=IDS, return_dict=True), type(by_place)),
    ):
        assert type(out) is expected
        equal(out[0], expected_loss)
    out, _ = BloomModel(CONFIG).value_and_grad(IDS, upstream=numpy.ones((2, 4, 12)), output_hidden_states=True)
    assert out.keys() == ["last_hidden_state", "hidden_states"]


# --- nothing that was given is changed ---


@few
@given(models(hidden_dropout=0.2, attention_dropout=0.2), st.data())
def test_arrays_that_were_given_are_only_read(model, data):
    """All of them are locked here: a write anywhere would raise."""
    ids = data.draw(token_ids(model.config))
    mask = numpy.ones_like(ids)
    head_mask, embeds = numpy.ones(model.config.n_head), model.params["word_embeddings.weight"][ids]
    for array in (ids, mask, head_mask, embeds, *model.params.values()):
        array.flags.writeable = False
    call = {"attention_mask": mask, "head_mask": head_mask, "labels": ids, "train": True, "seed": 0}
    for given_as in ({"input_ids": ids}, {"inputs_embeds": embeds}):
        model(**given_as, **call)
        _, grads = model.value_and_grad(**given_as, **call)
        assert all(g.flags.writeable and not numpy.shares_memory(g, model.params[n]) for n, g in grads.items())


# --- bad input ---

ONES = numpy.ones((2, 4), dtype="int64")

BAD = [
    ({"input_ids": [[1, 13]]}, r"input_ids holds 13, expected ids from 0 to 12\..*tokenizer"),
    ({"input_ids": [[1, -1]]}, "input_ids holds -1, expected ids from 0 to 12"),
    ({"input_ids": [1, 2, 3]}, r"input_ids has shape \[3\], expected \[batch, length\].*wrap a single sequence"),
    ({"input_ids": IDS, "trace": "h.0"}, r"trace is 'h.0', expected a Trace: Trace\(\) keeps all steps"),
    ({"input_ids": IDS, "trace": Trace}, r"trace is <class 'minibloom.trace.Trace'>, expected a Trace"),
    ({"input_ids": "a text"}, r"input_ids is text, expected ids: encoding = tokenizer\(\[text\]"),
    ({"input_ids": {"input_ids": IDS}}, r"input_ids is a dict: give what is in it by name, as \*\*encoding"),
    ({"input_ids": []}, r"input_ids has shape \[0\], expected .* at least one token"),
    ({"input_ids": [[]]}, r"input_ids has shape \[1, 0\], expected .* at least one token"),
    ({"input_ids": numpy.ones((0, 4), dtype=int)}, r"input_ids has shape \[0, 4\], expected .* at least one token"),
    ({"input_ids": [[[1]]]}, r"input_ids has shape \[1, 1, 1\], expected \[batch, length\]"),
    ({"input_ids": [[1], [2, 3]]}, "input_ids has rows of different lengths"),
    ({"input_ids": [[1.0, 2.0]]}, "input_ids holds float64, expected whole numbers"),
    ({"input_ids": [[True]]}, "input_ids holds bool, expected whole numbers"),
    ({"input_ids": [["All"]]}, "input_ids holds <U3, expected whole numbers"),
    ({"input_ids": ArrayElsewhere()}, "input_ids is an array of elsewhere, the model computes with numpy"),
    ({}, "expected input_ids or inputs_embeds, got neither"),
    ({"input_ids": IDS, "inputs_embeds": normal(0, 2, 4, 12)}, "expected input_ids or inputs_embeds, got both"),
    ({"inputs_embeds": normal(0, 4, 12)}, r"inputs_embeds has shape \[4, 12\], expected \[batch, length, 12\]"),
    ({"inputs_embeds": normal(0, 2, 4, 11)}, r"inputs_embeds has shape \[2, 4, 11\], expected \[batch, length, 12\]"),
    ({"inputs_embeds": normal(0, 2, 0, 12)}, r"inputs_embeds has shape \[2, 0, 12\], expected"),
    ({"inputs_embeds": [[["a"] * 12] * 4] * 2}, "inputs_embeds holds <U1, expected numbers"),
    ({"inputs_embeds": ArrayElsewhere()}, "inputs_embeds is an array of elsewhere"),
    ({"input_ids": IDS, "attention_mask": ONES[:, :3]}, r"attention_mask has shape \[2, 3\], expected \[2, 4\]"),
    ({"input_ids": IDS, "attention_mask": ONES[:1]}, r"attention_mask has shape \[1, 4\], expected \[2, 4\]"),
    ({"input_ids": IDS, "attention_mask": 2 * ONES}, "attention_mask holds other numbers than 0 .* and 1"),
    ({"input_ids": IDS, "attention_mask": ArrayElsewhere()}, "attention_mask is an array of elsewhere"),
    ({"input_ids": IDS, "head_mask": [1, 1]}, r"head_mask has shape \[2\], expected \[3\], .* or \[2, 3\]"),
    ({"input_ids": IDS, "head_mask": numpy.ones((3, 2))}, r"head_mask has shape \[3, 2\], expected"),
    ({"input_ids": IDS, "head_mask": ["a", "b", "c"]}, "head_mask holds <U1, expected numbers"),
    ({"input_ids": IDS, "head_mask": ArrayElsewhere()}, "head_mask is an array of elsewhere"),
    ({"input_ids": IDS, "seed": 0}, "seed is 0 without train=True"),
    ({"input_ids": IDS, "seed": -1, "train": True}, "seed is -1, expected a whole number of at least 0"),
    ({"input_ids": IDS, "seed": "a", "train": True}, "seed is 'a', expected a whole number"),
    ({"input_ids": IDS, "trace": "*.probs"}, r"trace is '\*.probs', expected a Trace: Trace\(\) keeps all steps"),
    ({"input_ids": IDS, "trace": True}, "trace is True, expected a Trace"),
    ({"input_ids": IDS, "position_ids": ONES}, "no argument 'position_ids'. BLOOM has no position embeddings"),
    ({"input_ids": IDS, "token_type_ids": ONES}, "no argument 'token_type_ids'. BLOOM has no token types"),
    ({"input_ids": IDS, "atention_mask": ONES}, "no argument 'atention_mask'.* Did you mean 'attention_mask'"),
    ({"input_ids": IDS, "foo": 1}, "no argument 'foo'. The arguments are input_ids, .*attention_mask, .* trace"),
]
BAD_LABELS = [
    (ONES[:, :3], r"labels has shape \[2, 3\], expected \[2, 4\]"),
    (ONES.astype(float), "labels holds float64, expected whole numbers"),
    (13 * ONES, "labels holds 13, expected ids from 0 to 12, or -100"),
    (-1 * ONES, "labels holds -1, expected ids from 0 to 12, or -100"),
    (ArrayElsewhere(), "labels is an array of elsewhere"),
]


@KINDS
@pytest.mark.parametrize(("call", "problem"), BAD, ids=[problem[:40] for _, problem in BAD])
def test_bad_input_is_one_error_that_says_what_is_wrong(kind, call, problem):
    with pytest.raises(InputError, match=problem):
        kind(CONFIG)(**call)


@pytest.mark.parametrize(("call", "problem"), BAD, ids=[problem[:40] for _, problem in BAD])
def test_bad_input_is_the_same_error_with_labels_and_gradients(call, problem):
    model = BloomForCausalLM(CONFIG)
    for run in (model, model.value_and_grad):
        with pytest.raises(InputError, match=problem):
            run(**call, labels=IDS[:, : 4 if "inputs_embeds" not in call else None])
    with pytest.raises(InputError, match=problem):
        BloomModel(CONFIG).value_and_grad(**call, upstream=normal(0, 2, 4, 12))


@pytest.mark.parametrize(("labels", "problem"), BAD_LABELS, ids=[problem[:30] for _, problem in BAD_LABELS])
def test_bad_labels(labels, problem):
    model = BloomForCausalLM(CONFIG)
    for run in (model, model.value_and_grad):
        with pytest.raises(InputError, match=problem):
            run(IDS, labels=labels)
    with pytest.raises(InputError, match=problem):
        model(inputs_embeds=normal(0, 2, 4, 12), labels=labels)


def test_a_mask_covers_past_and_new_tokens():
    model = BloomForCausalLM(CONFIG)
    cache = model(IDS).past_key_values
    with pytest.raises(InputError, match=r"mask has shape \[2, 1\], expected \[2, 5\]: 4 cached and 1 new positions"):
        model(IDS[:, :1], past_key_values=cache, attention_mask=ONES[:, :1])


def test_a_bare_model_knows_no_labels():
    with pytest.raises(InputError, match=r"no argument 'labels'. The arguments are [^']*trace\.$"):
        BloomModel(CONFIG)(IDS, labels=IDS)


def test_gradients_need_something_to_start_from():
    with pytest.raises(InputError, match="value_and_grad needs labels"):
        BloomForCausalLM(CONFIG).value_and_grad(IDS)
    with pytest.raises(InputError, match="value_and_grad needs labels"):
        BloomForCausalLM(CONFIG).value_and_grad(IDS, None, None, None, None, None)
    with pytest.raises(InputError, match=r"upstream has shape \[4, 12\], expected \[2, 4, 12\]"):
        BloomModel(CONFIG).value_and_grad(IDS, upstream=normal(0, 4, 12))
    with pytest.raises(InputError, match=r"upstream has shape \[2, 12\], expected \[2, 4, 12\]"):
        BloomModel(CONFIG).value_and_grad(IDS, upstream=lambda hidden: hidden[:, -1])
    with pytest.raises(InputError, match="upstream is an array of elsewhere"):
        BloomModel(CONFIG).value_and_grad(IDS, upstream=ArrayElsewhere())
    with pytest.raises(InputError, match="upstream holds <U1, expected numbers"):
        BloomModel(CONFIG).value_and_grad(IDS, upstream=[[["a"] * 12] * 4] * 2)


def test_positions_to_keep():
    for wrong in (-1, 1.5, "1"):
        with pytest.raises(InputError, match=f"logits_to_keep is {wrong!r}, expected 0"):
            BloomForCausalLM(CONFIG)(IDS, logits_to_keep=wrong)
    model = BloomForCausalLM(CONFIG)
    for two in (2, numpy.int64(2), numpy.uint8(2)):
        equal(model(IDS, logits_to_keep=two).logits, model(IDS, logits_to_keep=2).logits)
    with pytest.raises(InputError, match="logits_to_keep cannot be used with labels"):
        BloomForCausalLM(CONFIG)(IDS, labels=IDS, logits_to_keep=1)


@pytest.mark.parametrize("given", [{"n_layer": 2}, "bigscience/bloom-560m", None])
@KINDS
def test_what_is_no_configuration(kind, given):
    with pytest.raises(InputError, match="config is .*, expected a minibloom.BloomConfig. .* use from_pretrained"):
        kind(given)


def test_a_seed_of_parameters_that_is_none():
    with pytest.raises(InputError, match="seed is -1, expected a whole number of at least 0"):
        BloomModel(CONFIG, seed=-1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "double", numpy.float16])
def test_a_precision_that_is_not_computed_in(dtype):
    with pytest.raises(InputError, match="minibloom computes in float32 or float64.*float16 and bfloat16 load"):
        BloomModel(CONFIG, dtype=dtype)


class Torch:
    """Stands for torch.float16."""

    def __str__(self) -> str:
        return "torch.float16"


@KINDS
def test_the_precision_that_a_loader_of_transformers_is_given_means_the_same_here(kind, tmp_path):
    kind(CONFIG).save_pretrained(tmp_path)
    for name in ("dtype", "torch_dtype"):
        for asked in ("float16", numpy.float16, Torch()):
            model = kind.from_pretrained(tmp_path, **{name: asked})
            assert (model.weights, model.dtype, model.config.dtype) == ("float16", "float32", "float32")
        assert kind.from_pretrained(tmp_path, **{name: "bfloat16"}, weights="bfloat16").weights == "bfloat16"
        model = kind.from_pretrained(tmp_path, **{name: "float64"})
        assert (model.weights, model.dtype) == ("float64", "float64")
        for asked, weights in (("auto", None), ("int8", None), ("float16", "int8"), ("float16", "float32")):
            with pytest.raises(InputError, match=f"dtype='{asked}': minibloom computes in.*weights='float16' keeps"):
                kind.from_pretrained(tmp_path, **{name: asked}, weights=weights)
    with pytest.raises(InputError, match="dtype is 'float32', and 'float16' as torch_dtype: give one"):
        kind.from_pretrained(tmp_path, dtype="float32", torch_dtype=numpy.float16)
    assert kind.from_pretrained(tmp_path, dtype="float64", torch_dtype="float64").dtype == "float64"


@KINDS
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("attn_implementation", "one attention"),
        ("cache_dir", "HF_HOME"),
        ("device_map", "backend='cupy'"),
        ("local_files_only", "HF_HUB_OFFLINE"),
        ("low_cpu_mem_usage", "Leave it out"),
        ("token", "hf auth login"),
        ("trust_remote_code", "Leave it out"),
    ],
)
def test_what_the_loader_of_transformers_has_besides_is_known(kind, monkeypatch, name, says):
    for module in ("models", "checkpoint"):
        monkeypatch.setattr(f"minibloom.{module}.fetch", lambda *_, **__: pytest.fail("something was fetched"))
    with pytest.raises(InputError, match=f"from_pretrained has no argument '{name}'. .*{says}"):
        kind.from_pretrained("bigscience/bloom-560m", **{name: None})


def test_what_models_of_transformers_have_besides_is_known():
    model = BloomForCausalLM(CONFIG)
    assert model.eval() is model
    for name, instead in INSTEAD.items():
        with pytest.raises(AttributeError) as told:
            getattr(model, name)
        assert str(told.value) == f"BloomForCausalLM has no {name!r}. Use {instead}."
    for name in "to train forward parameters device get_input_embeddings resize_token_embeddings prune_heads".split():  # noqa: SIM905
        assert name in INSTEAD
    with pytest.raises(AttributeError, match="BloomModel has no 'paramz'. Did you mean 'params'"):
        _ = BloomModel(CONFIG).paramz
    assert not hasattr(copy.copy(model), "head_matrx")


def test_other_rows_in_the_embedding_are_another_vocabulary():
    """What resizing the embedding is, as the documentation of transformers calls it."""
    model = random_model(CONFIG, 0)
    before = model(IDS).logits
    table = model.params["word_embeddings.weight"]
    model.params["word_embeddings.weight"] = numpy.vstack([table, normal(1, 2, 12)])
    model.config = model.config.replace(vocab_size=15)
    close(model(IDS).logits[..., :13], before)
    assert model([[13, 14]]).logits.shape == (1, 2, 15)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("h.1.mlp.dense_h_to_4h.weight", numpy.ones((12, 48)), "has shape [12, 48]"),
        ("h.0.self_attention.dense.bias", numpy.ones((1, 12)), "has shape [1, 12]"),
        ("word_embeddings.weight", numpy.ones((15, 12)), "has shape [15, 12]"),
        ("ln_f.bias", [0.0] * 12, "is a list"),
        *((name, None, "is missing") for name in ("word_embeddings.weight", "h.1.input_layernorm.bias", "ln_f.weight")),
    ],
)
def test_a_parameter_that_config_does_not_tell_of_is_said_before_any_work(name, given, says, monkeypatch):
    model, draft = random_model(CONFIG, 0), random_model(CONFIG, 1)
    says = f"params[{name!r}] {says}, expected an array of shape {list(model.params[name].shape)}"
    model.params[name] = given
    if given is None:
        del model.params[name]
    monkeypatch.setattr("minibloom.base.transformer", None)
    calls = [
        (model, [IDS], {}),
        (model, [], {"inputs_embeds": numpy.ones((1, 2, 12))}),
        (model.value_and_grad, [IDS], {"labels": IDS}),
        (model.generate, [IDS], {}),
        (draft.generate, [IDS[:1]], {"assistant_model": model}),
    ]
    for call, arguments, options in calls:
        with pytest.raises(InputError, match=re.escape(says)):
            call(*arguments, **options)


def test_parameters_are_looked_at_once_a_call_and_not_at_each_token(monkeypatch):
    model, looks = random_model(CONFIG, 0), []
    monkeypatch.setattr(model, "shapes", lambda config: looks.append(1) or type(model).shapes(config), raising=False)
    model.generate(IDS, max_new_tokens=9, eos_token_id=[])
    assert len(looks) == 1


def test_a_precision_by_its_numpy_names():
    for dtype in ("float64", numpy.float64, numpy.dtype("float64")):
        assert BloomModel(CONFIG, dtype=dtype).params["ln_f.weight"].dtype == "float64"
