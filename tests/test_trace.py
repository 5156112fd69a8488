"""The steps of the forward pass, watched and edited by name."""

from __future__ import annotations

import weakref
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, BloomModel, Cache, InputError, Trace, ablate, step_names
from minibloom.display import summary
from minibloom.layers.run import Unwatched
from minibloom.layers.transformer import transformer_backward
from minibloom.trace import Tape, formula

from .gradients import assert_gradients
from .strategies import few, masks, models, normal, random_model, token_ids

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3, hidden_dropout=0.2, attention_dropout=0.2)
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
CHUNKED = ("lm_head.dhidden", "lm_head.dweight")
OPTIONAL = ("dropout", "head_mask", "lm_head.grad", *CHUNKED)


def always(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(OPTIONAL)]


def same(a: Any, b: Any) -> None:
    numpy.testing.assert_array_equal(a, b, strict=True)


# --- the names ---


@few
@given(models(hidden_dropout=0.1, attention_dropout=0.1), st.data())
def test_a_training_pass_takes_every_step_in_the_order_of_the_table(model, data):
    ids, trace, L, H = data.draw(token_ids(model.config)), Trace(), model.config.n_layer, model.config.n_head
    model(ids, labels=ids, head_mask=numpy.ones((L, H)), train=True, seed=0, trace=trace)
    assert list(trace) == [name for name in step_names(L) if name not in CHUNKED]
    assert all(formula(name) for name in trace)


@few
@given(models(), st.data())
def test_inference_takes_all_but_the_optional_steps(model, data):
    trace, names = Trace(), step_names(model.config.n_layer)
    model(data.draw(token_ids(model.config)), trace=trace)
    assert list(trace) == always(names)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"labels": IDS}, ["lm_head.grad"]),
        ({"head_mask": [1, 0, 1]}, [f"h.{i}.self_attention.head_mask" for i in range(2)]),
        (
            {"train": True},
            [
                f"h.{i}.{name}"
                for i in range(2)
                for name in ("self_attention.dropout", "self_attention.hidden_dropout", "mlp.hidden_dropout")
            ],
        ),
    ],
    ids=["labels", "head_mask", "train"],
)
def test_what_an_option_adds(options, steps):
    trace = Trace()
    BloomForCausalLM(CONFIG)(IDS, **options, trace=trace)
    names = step_names(2)
    assert list(trace) == [name for name in names if name in steps or name in always(names)]


def test_a_bare_model_has_no_head_and_embeddings_need_no_ids():
    trace, names = Trace(), always(step_names(2))
    BloomModel(CONFIG)(IDS, trace=trace)
    assert list(trace) == names[:-1] and names[-1] == "lm_head"
    BloomModel(CONFIG)(inputs_embeds=normal(0, 1, 2, 12), trace=trace)
    assert list(trace) == [name for name in names[:-1] if name != "input_ids"]


def test_shapes_are_those_that_the_steps_are_documented_with():
    trace, model = Trace(), BloomForCausalLM(CONFIG)
    cache = model(IDS).past_key_values
    model(IDS[:, :3], past_key_values=cache, trace=trace)
    B, S, T, H, D, E = 2, 3, 7, 3, 4, 12
    steps = "h.1.self_attention."
    shapes = {name.removeprefix(steps): x.shape for name, x in trace.items() if name.startswith(steps)}
    assert shapes == {
        "query_key_value": (B, S, 3 * E),
        "query": (B, H, S, D),
        "key": (B, H, T, D),
        "value": (B, H, T, D),
        "scores": (B, H, S, T),
        "probs": (B, H, S, T),
        "weights": (B, H, S, T),
        "context": (B, S, E),
        "dense": (B, S, E),
    }
    assert trace["input_ids"].shape == (B, S) and trace["h.0.mlp.gelu"].shape == (B, S, 4 * E)
    assert trace["h.1"].shape == (B, S, E) and trace["lm_head"].shape == (B, S, 13)


# --- watching ---


@few
@given(models(attention_dropout=0.1), st.data(), st.booleans())
def test_watching_changes_no_bit(model, data, train):
    ids = data.draw(token_ids(model.config))
    options = {"attention_mask": data.draw(masks(ids.shape)), "labels": ids, "train": train}
    options |= {"seed": 1} if train else {}
    plain, watched = model(ids, **options), model(ids, **options, trace=Trace())
    same(watched.logits, plain.logits)
    same(watched.loss, plain.loss)
    out, grads = model.value_and_grad(ids, **options)
    watched_out, watched_grads = model.value_and_grad(ids, **options, trace=Trace())
    same(out.logits, plain.logits)
    same(watched_out.logits, plain.logits)
    for name, gradient in grads.items():
        same(watched_grads[name], gradient)


@few
@given(models(), st.data())
def test_watching_changes_no_bit_of_a_cached_pass_nor_of_the_cache(model, data):
    ids = data.draw(token_ids(model.config, shortest=2))
    split = data.draw(st.integers(1, ids.shape[1] - 1))
    caches, logits = [], []
    for trace in (None, Trace()):
        past = model(ids[:, :split], trace=trace).past_key_values
        out = model(ids[:, split:], past_key_values=past, trace=trace)
        logits.append(out.logits)
        caches.append(out.past_key_values.to_tuple())
    same(logits[1], logits[0])
    same(numpy.array(caches[1]), numpy.array(caches[0]))


@pytest.mark.parametrize("watching", [False, True])
def test_what_nobody_keeps_is_gone_when_the_next_block_begins(monkeypatch, watching):
    """Watching costs the memory of what is kept, and no watching none: a pass holds on to the stream, and no step."""
    alive: dict[str, Any] = {}  # step -> a weak reference to the memory behind it
    begun = []

    class Unwatching(Trace if watching else Unwatched):  # type: ignore[misc]
        def __call__(self, name: str, value: Any) -> Any:
            if name.endswith("input_layernorm"):
                kept = {step for step, memory in alive.items() if memory() is not None}
                stream = f"h.{len(begun) - 1}" if begun else "word_embeddings_layernorm"
                assert kept == {"input_ids", "word_embeddings", "attention_mask", "alibi", stream}
                begun.append(name)
            alive[name] = weakref.ref(value if value.base is None else value.base)
            return super().__call__(name, value)

    if not watching:
        monkeypatch.setattr("minibloom.base.Unwatched", Unwatching)
    model = random_model(CONFIG.replace(n_layer=4), 0)
    model(IDS, use_cache=False, trace=Unwatching("ln_f") if watching else None)
    assert len(begun) == 4 and list(alive) == always(step_names(4))  # each step was told once, and in order


def test_who_does_not_watch_is_handed_the_very_arrays():
    x = normal(0, 2)
    assert Unwatched()("h.0", x) is x and not Unwatched().wants("h.0")


@few
@given(models(attention_dropout=0.1, hidden_dropout=0.1), st.data())
def test_what_was_seen_is_not_changed_later(model, data):
    """A trace keeps references, not copies: neither what follows nor backward may write into them."""
    ids, copies = data.draw(token_ids(model.config)), {}

    class Copying(Trace):
        def __call__(self, name: str, value: Any) -> Any:
            copies[name] = value.copy()
            return super().__call__(name, value)

    trace = Copying()
    model.value_and_grad(ids, labels=ids, head_mask=numpy.ones(model.config.n_head), train=True, seed=0, trace=trace)
    assert list(trace) == list(copies) == [n for n in step_names(model.config.n_layer) if n not in CHUNKED]
    for name, value in trace.items():
        same(value, copies[name])


def test_patterns_choose_what_is_kept():
    model = BloomForCausalLM(CONFIG)
    trace = Trace("h.*.self_attention.probs", "ln_f")
    out = model(IDS, output_attentions=True, output_hidden_states=True, trace=trace)
    assert list(trace) == ["h.0.self_attention.probs", "h.1.self_attention.probs", "ln_f"]
    same(trace["ln_f"], out.hidden_states[-1])
    same(trace["h.1.self_attention.probs"], out.attentions[1])


def test_a_second_pass_starts_over():
    model, trace = BloomForCausalLM(CONFIG), Trace()
    model(IDS, labels=IDS, train=True, trace=trace)
    model(IDS[:1], trace=trace)
    assert list(trace) == always(step_names(2)) and trace["lm_head"].shape == (1, 4, 13)


@pytest.mark.parametrize(
    ("patterns", "edits", "problem"),
    [
        ([["h.0", "*.probs"]], None, r"a pattern is \['h.0', '\*.probs'\], expected text"),
        ([3], None, "a pattern is 3, expected text"),
        ([{"h.1": ablate()}], None, r"a pattern is {.*}, expected text: .* Edits are given as Trace\(edits={"),
        ([], ["h.0"], r"edits is \['h.0'\], expected a dictionary from patterns to edits"),
        ([], {"h.0": 0}, "the edit of 'h.0' is 0, expected a function of the step's array, or scale, replace"),
        ([], {0: ablate()}, "a pattern is 0, expected text"),
    ],
)
def test_what_is_no_pattern_or_edit_is_said_before_a_pass(patterns, edits, problem):
    with pytest.raises(InputError, match=problem):
        Trace(*patterns, edits=edits)


@pytest.mark.parametrize(
    "refused",
    [
        {"attention_mask": [[1]]},
        {"head_mask": [1]},
        {"past_key_values": Cache(3)},
        {"past_key_values": ()},
        {"labels": [[1]]},
        {"seed": 1},
        {"foo": 1},
    ],
    ids=str,
)
def test_a_call_that_is_refused_leaves_the_last_pass_in_the_trace(refused):
    model, trace = BloomForCausalLM(CONFIG), Trace("ln_f")
    model(IDS, trace=trace)
    seen = trace["ln_f"]
    with pytest.raises(InputError):
        model(IDS, **refused, trace=trace)
    with pytest.raises(InputError):
        model.value_and_grad(IDS, **{"labels": IDS, **refused}, trace=trace)
    assert trace["ln_f"] is seen


def test_backward_reads_everything_that_its_tape_keeps():
    read = set()

    class Reading(dict):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

    tape, model = Tape(), BloomForCausalLM(CONFIG)
    model(IDS, labels=IDS, head_mask=[1, 1, 1], train=True, trace=tape)
    transformer_backward(normal(0, 2, 4, 12), model.params, CONFIG, Reading(tape), {})
    tiles = {"alibi", "attention_mask"}  # which the fast path of attention reads
    assert set(tape) - read == {"ln_f", "lm_head.grad"} | tiles  # the head's own


class Watching:
    """The least that can watch a pass."""

    def __init__(self, change=lambda x: x):
        self.seen, self.change = [], change

    def start(self, names, sizes):
        self.names, self.sizes = names, sizes

    def wants(self, name):
        return False

    def __call__(self, name, value):
        self.seen.append(name)
        return self.change(value)


def test_a_watch_of_ones_own_sees_a_pass_with_gradients_and_may_not_change_it():
    model, watch = BloomForCausalLM(CONFIG), Watching()
    out, grads = model.value_and_grad(IDS, labels=IDS, trace=watch)
    assert watch.names == model.step_names() and watch.sizes == model.axis_sizes(*numpy.shape(IDS))
    assert watch.seen[0] == "input_ids" and watch.seen[-1] == "lm_head.grad"
    expected, expected_grads = model.value_and_grad(IDS, labels=IDS)
    same(out.loss, expected.loss)
    same(grads["h.0.mlp.dense_h_to_4h.weight"], expected_grads["h.0.mlp.dense_h_to_4h.weight"])
    for change in (lambda x: 2 * x, lambda x: None):
        with pytest.raises(InputError, match=r"a trace that returns another array, as at 'input_ids', cannot be used"):
            model.value_and_grad(IDS, labels=IDS, trace=Watching(change))


# --- editing ---


@few
@given(models(), st.data())
def test_an_edit_that_returns_what_it_is_given_changes_no_bit(model, data):
    ids = data.draw(token_ids(model.config))
    edited = model(ids, labels=ids, trace=Trace(edits={"*": lambda x: x.copy()}))
    same(edited.logits, model(ids, labels=ids).logits)


def test_silencing_a_head_by_an_edit_is_what_head_mask_does():
    def silence(weights: numpy.ndarray) -> numpy.ndarray:
        weights = weights.copy()
        weights[:, 1] = 0
        return weights

    model = random_model(CONFIG, 0)
    edited = model(IDS, trace=Trace(edits={"h.*.self_attention.weights": silence})).logits
    same(edited, model(IDS, head_mask=[1, 0, 1]).logits)
    assert abs(edited - model(IDS).logits).max() > 0.01


@few
@given(models())
def test_every_step_between_the_ids_and_the_logits_can_be_edited(model):
    ids = numpy.array([[0, 1, 2]])  # not all the same: then attention would not matter
    plain = model(ids).logits
    for name in always(step_names(model.config.n_layer)):
        edits = {name: lambda x: x + normal(1, *x.shape) if x.dtype.kind == "f" else (x + 1) % 3}
        edits = {name: lambda x: 0 * x} if name == "attention_mask" else edits
        assert (model(ids, trace=Trace(edits=edits)).logits != plain).any(), name


def test_a_patched_stream_carries_one_run_into_another():
    """From block 0 on, the second run sees the first one's residual stream: its logits are the first one's."""
    model, trace = random_model(CONFIG, 0), Trace("h.0")
    first = model(IDS, trace=trace).logits
    same(model(IDS[::-1], trace=Trace(edits={"h.0": lambda x: trace["h.0"]})).logits, first)


def test_a_trace_and_the_outputs_show_what_flows_on():
    trace = Trace("h.0", edits={"h.0": lambda x: 0 * x})
    out = BloomModel(CONFIG)(IDS, output_hidden_states=True, trace=trace)
    assert not trace["h.0"].any() and out.hidden_states[1] is trace["h.0"]


@pytest.mark.parametrize(
    ("edit", "returned"),
    [
        (lambda x: x[0], r"float32\[4, 12\]"),
        (lambda x: x.astype("float64"), r"float64\[2, 4, 12\]"),
        (lambda x: 0.0, r"float\[\]"),
        (lambda x: None, r"NoneType\[\]"),
    ],
)
def test_an_edit_returns_an_array_of_the_same_shape_and_type(edit, returned):
    with pytest.raises(InputError, match=rf"edit of 'h.1' returned {returned}, expected float32\[2, 4, 12\]"):
        BloomForCausalLM(CONFIG)(IDS, trace=Trace(edits={"h.1": edit}))


def test_gradients_know_nothing_of_edits_but_of_alibi():
    for edits in ({"h.1": lambda x: x}, {"*": lambda x: x}, {"alibi": lambda x: x, "ln_f": lambda x: x}):
        with pytest.raises(InputError, match="edits cannot be used with value_and_grad, but for edits of 'alibi'"):
            BloomForCausalLM(CONFIG).value_and_grad(IDS, labels=IDS, trace=Trace(edits=edits))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_with_another_alibi_is_trained(recompute):
    """Of which nothing is learnt, so that its edit changes the pass and adds no term to any gradient."""
    model = random_model(CONFIG, 0)
    trace = Trace("ln_f", edits={"alibi": lambda x: -0.3 * x})
    out, grads = model.value_and_grad(IDS, labels=IDS, trace=trace, recompute=recompute)
    assert abs(out.loss - model(IDS, labels=IDS).loss) > 1e-3
    assert list(trace) == ["ln_f"]
    assert_gradients(lambda: model(IDS, labels=IDS, trace=trace).loss, model.params, grads)


def test_a_notebook_completes_the_names_of_steps():
    trace = Trace("*.probs")
    BloomForCausalLM(CONFIG)(IDS, trace=trace)
    assert trace._ipython_key_completions_() == ["h.0.self_attention.probs", "h.1.self_attention.probs"]


# --- names that match nothing ---


@pytest.mark.parametrize(
    ("pattern", "suggestion"),
    [
        ("h.0.self_attention.prob", "Did you mean 'h.0.self_attention.probs'?"),
        ("h.2.mlp.gelu", "Did you mean 'h.1.mlp.gelu'?"),
        ("ln_g", "Did you mean 'ln_f'?"),
        ("h.0.mlp", r"model.step_names\(\) lists them"),
        ("score", r"model.step_names\(\) lists them"),  # another model's head
    ],
)
def test_a_pattern_without_a_step_is_an_error(pattern, suggestion):
    for trace in (Trace(pattern), Trace("*", pattern), Trace(edits={pattern: lambda x: x})):
        with pytest.raises(InputError, match=f"no step of this model is called '{pattern}'.*{suggestion}"):
            BloomModel(CONFIG)(IDS, trace=trace)
    with pytest.raises(InputError, match=f"no step of this model is called '{pattern}'"):
        BloomForCausalLM(CONFIG).value_and_grad(IDS, labels=IDS, trace=Trace(pattern))


def test_a_step_that_was_not_kept_is_named():
    trace = Trace("h.0*")
    BloomModel(CONFIG)(IDS, trace=trace)
    assert "h.0" in trace and "h.1" not in trace and len(trace) == 16
    with pytest.raises(KeyError, match=r"no step 'h.1' was kept. Did you mean 'h.0'\?"):
        trace["h.1"]


# --- printing ---


def test_a_printed_trace_says_name_formula_shape_type_and_values():
    trace = Trace("h.0.self_attention.probs", "ln_f")
    BloomModel(CONFIG)(IDS, trace=trace)
    text = str(trace)
    for part in ("h.0.self_attention.probs", "softmax(scores)", "[2, 3, 4, 4]", "float32", "mean +0.25"):
        assert part in text, part
    assert text.index("probs") < text.index("ln_f")
    assert repr(trace) == "Trace(2 steps)"


def test_a_summary_leaves_out_masked_scores_and_shows_what_went_wrong():
    low = numpy.finfo("float32").min
    assert " ".join(summary(numpy.array([1, 3, low], dtype="float32")).split()) == "mean +2 std 1 min +1 max +3"
    assert summary(numpy.array([low], dtype="float32")) == "all masked"
    assert "nan" in summary(numpy.array([1, numpy.nan], dtype="float32"))
    assert "max +7" in summary(numpy.array([[7]]))
