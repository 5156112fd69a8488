"""Edits by name: each is held to the same change made by hand in the array of the step."""

from __future__ import annotations

import pickle
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    BloomModel,
    InputError,
    Trace,
    WindowCache,
    ablate,
    patch,
    replace,
    scale,
    to_numpy,
)
from minibloom.trace import STEPS, step

from .strategies import few, masks, models, normal, random_model, some, token_ids

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3, tie_word_embeddings=False)
MODEL = random_model(CONFIG, 0, "float32")
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
SELECTORS = ("row", "head", "position", "key", "neuron")
PLAIN = ("dropout", "head_mask", "input_ids", "attention_mask")  # endings of steps that the tests below leave alone


def same(a: Any, b: Any) -> None:
    numpy.testing.assert_array_equal(a, b, strict=True)


def edited(model: Any, ids: Any, edits: dict[str, Any], **call: Any) -> Any:
    return model(ids, trace=Trace(edits=edits), **call).logits


# --- an edit is the same change by hand ---


def by_hand(name: str, value: numpy.ndarray, where: dict[str, list[int]], change: Any, heads: int) -> numpy.ndarray:
    """`value` with `change` applied to each number whose place on every axis is among those selected."""
    axes = step(name).axes.split()
    if axes[-1] in ("HD", "H3D") and "head" in where:
        axes[-1:] = ["H", axes[-1][1:]]
        value = value.reshape(*value.shape[:-1], heads, -1)
    place = {
        "row": axes.index("B"),
        "head": axes.index("H") if "H" in axes else None,
        "position": axes.index("S" if "S" in axes else "T"),
        "key": axes.index("T") if "T" in axes else None,
        "neuron": len(axes) - 1,
    }
    chosen = numpy.ones(value.shape, bool)
    for selector, indices in where.items():
        n = value.shape[place[selector]]
        along = numpy.isin(numpy.arange(n), [i % n for i in indices])
        chosen &= along.reshape([n if axis == place[selector] else 1 for axis in range(value.ndim)])
    return numpy.where(chosen, change(value), value)


@st.composite
def selections(draw: st.DrawFn, name: str, sizes: dict[str, int]) -> dict[str, list[int]]:
    """Selectors that the step `name` has, with places that it has."""
    axes = step(name).axes.split()
    heads = axes[-1] in ("HD", "H3D")
    can = ["row"] * ("B" in axes) + ["head"] * ("H" in axes or heads) + ["position"] * ("S" in axes or "T" in axes)
    can += ["key"] * ("S" in axes and "T" in axes) + ["neuron"] * (axes[-1] not in ("B", "S", "T"))
    chosen = draw(st.lists(st.sampled_from(can), unique=True))
    if heads and "head" in chosen:
        axes[-1] = axes[-1][1:]
    last = numpy.prod([int(part) if part.isdigit() else sizes[part] for part in axes[-1]])
    length = {"row": sizes["B"], "head": sizes["H"], "position": sizes["S"], "key": sizes["T"], "neuron": int(last)}
    return {selector: draw(places(length[selector])) for selector in chosen}


def places(length: int) -> st.SearchStrategy[list[int]]:
    """One to three different places along an axis, some counted from its end."""
    return st.lists(st.integers(-length, length - 1), min_size=1, max_size=3, unique_by=lambda i: i % length)


@some
@given(models(), st.data())
def test_an_edit_equals_the_same_change_by_hand(model, data):
    ids = data.draw(token_ids(model.config))
    mask = numpy.ones_like(ids)  # so that the steps that masks have are as tall as the batch
    sizes, heads = model.axis_sizes(*ids.shape), model.config.n_head
    steps = [n for n in model.step_names() if not n.endswith(PLAIN) and "lm_head." not in n]
    name = data.draw(st.sampled_from(steps))
    where = data.draw(selections(name, sizes))
    factor, value = data.draw(st.sampled_from([0, 1, -2, 0.5])), data.draw(st.sampled_from([0, 3, 0.25]))
    other = Trace(name)
    model((ids + 1) % model.config.vocab_size, attention_mask=mask, trace=other)
    seen = other[name]
    if {"head"} <= where.keys() and step(name).axes.endswith(("HD", "H3D")):
        seen = seen.reshape(*seen.shape[:-1], heads, -1)
    low = numpy.finfo("float64").min  # in the place of scores that are masked, which stay so

    def scaled(x: numpy.ndarray, by: float) -> numpy.ndarray:
        return numpy.where(x == low, x, numpy.where(x == low, 0, x) * by)

    for edit, change in [
        (scale(factor, **where), lambda x: scaled(x, factor)),
        (replace(value, **where), lambda x: numpy.full_like(x, value)),
        (ablate(**where), lambda x: scaled(x, 0)),
        (patch(other, **where), lambda x: seen),
        (patch(other[name], **where), lambda x: seen),
    ]:
        trace, hand = (
            Trace(name, edits={name: edit}),
            Trace(name, edits={name: lambda x, change=change: by_hand(name, x, where, change, heads).reshape(x.shape)}),
        )
        same(model(ids, attention_mask=mask, trace=trace).logits, model(ids, attention_mask=mask, trace=hand).logits)
        same(trace[name], hand[name])


@few
@given(models(), st.data())
def test_scaling_by_1_changes_no_bit(model, data):
    ids = data.draw(token_ids(model.config))
    mask = data.draw(masks(ids.shape))
    same(edited(model, ids, {"*": scale(1)}, attention_mask=mask), model(ids, attention_mask=mask).logits)


@few
@given(models(), st.data(), st.booleans())
def test_patching_everything_from_another_run_gives_that_run(model, data, one_by_one):
    ids = data.draw(token_ids(model.config))
    others, mask = ids[:, ::-1], data.draw(masks(ids.shape))
    trace = Trace()
    there = model(others, attention_mask=mask, trace=trace).logits
    edits = {name: patch(x) for name, x in trace.items()} if one_by_one else {"*": patch(trace)}
    same(edited(model, ids, edits, attention_mask=mask), there)


@few
@given(models(), st.data())
def test_an_ablated_head_is_what_head_mask_does(model, data):
    c = model.config
    ids, layer = data.draw(token_ids(c)), data.draw(st.integers(0, c.n_layer - 1))
    head = data.draw(st.integers(-c.n_head, c.n_head - 1))
    factors = numpy.ones((c.n_layer, c.n_head))
    factors[layer, head] = 0
    masked = model(ids, head_mask=factors).logits
    same(edited(model, ids, {f"h.{layer}.self_attention.weights": ablate(head=head)}), masked)
    context = edited(model, ids, {f"h.{layer}.self_attention.context": ablate(head=head)})
    numpy.testing.assert_allclose(context, masked, atol=1e-12 * abs(masked).max())


def test_a_token_that_may_not_look_at_another_is_as_if_that_one_were_not_there():
    """As if it were padding, but for ALiBi, which counts no padding, and adds the same to all scores of a query."""
    cut = Trace("h.*.probs", edits={"h.*.self_attention.scores": replace(-numpy.inf, position=[1, 2, 3], key=0)})
    MODEL(IDS, trace=cut)
    masked = Trace("h.*.probs")
    MODEL(IDS, attention_mask=[[0, 1, 1, 1]] * 2, trace=masked)
    for name in cut:
        numpy.testing.assert_allclose(cut[name][:, :, 1:], masked[name][:, :, 1:], atol=1e-5)


def test_scores_of_0_look_at_all_that_is_there_alike():
    trace = Trace("*.probs", edits={"h.*.self_attention.scores": ablate(head=1)})
    MODEL(IDS, attention_mask=[[0, 1, 1, 1], [1, 1, 1, 1]], trace=trace)
    for probs in trace.values():
        numpy.testing.assert_allclose(probs[0, 1, 1:, 1:], numpy.tril(numpy.ones((3, 3))) / [[1], [2], [3]], rtol=1e-6)
        numpy.testing.assert_allclose(probs[1, 1], numpy.tril(numpy.ones((4, 4))) / [[1], [2], [3], [4]], rtol=1e-6)


def test_a_pattern_edits_every_step_that_it_matches():
    everywhere = edited(MODEL, IDS, {"h.*.mlp.gelu": scale(2, neuron=range(5))})
    both = {f"h.{i}.mlp.gelu": scale(2, neuron=[0, 1, 2, 3, 4]) for i in range(2)}
    same(everywhere, edited(MODEL, IDS, both))
    assert (everywhere != edited(MODEL, IDS, {"h.0.mlp.gelu": scale(2, neuron=range(5))})).any()


def test_the_mean_of_a_run_in_place_of_a_neuron():
    trace = Trace("h.0.mlp.gelu")
    MODEL(IDS, trace=trace)
    mean = trace["h.0.mlp.gelu"].mean((0, 1))

    def by_hand(x: numpy.ndarray) -> numpy.ndarray:
        x = x.copy()
        x[:, :, [3, 7]] = mean[[3, 7]]
        return x

    same(
        edited(MODEL, IDS, {"h.0.mlp.gelu": replace(mean[[3, 7]], neuron=[3, 7])}),
        edited(MODEL, IDS, {"h.0.mlp.gelu": by_hand}),
    )


def test_what_nothing_selects_flows_on_as_it_is():
    trace = Trace(edits={"h.0": ablate(position=[])})
    same(MODEL(IDS, trace=trace).logits, MODEL(IDS).logits)


def test_an_edit_leaves_its_source_and_the_arrays_of_the_pass_alone():
    clean = Trace()
    logits = MODEL(IDS, trace=clean).logits
    copies = {name: x.copy() for name, x in clean.items()}
    edits = {
        "h.0": patch(clean),
        "h.1.mlp.gelu": ablate(neuron=3),
        "h.*.self_attention.key": scale(2, head=1),
        "ln_f": scale(0),
    }
    kept = logits.copy()
    edited(MODEL, IDS[::-1], edits)
    same(logits, kept)
    for name, x in clean.items():
        same(x, copies[name])


def test_an_edit_leaves_what_the_caller_gave_and_what_the_cache_holds_alone():
    ids, plain = IDS.copy(), MODEL(IDS).past_key_values
    edits = {"input_ids": replace(0, position=-1), "h.0.self_attention.key": ablate(head=1)}
    cache = MODEL(ids, trace=Trace(edits=edits)).past_key_values
    same(ids, IDS)
    same(cache[0][0][:, :, :-1], plain[0][0][:, :, :-1])  # the key of another last id is another one


# --- with a cache ---


@few
@given(models(), st.data())
def test_positions_are_those_of_the_whole_text(model, data):
    """Split anywhere, what is edited at some positions of the queries is what one pass edits there."""
    ids = data.draw(token_ids(model.config, shortest=2))
    split = data.draw(st.integers(1, ids.shape[1] - 1))
    positions = data.draw(st.lists(st.integers(0, ids.shape[1] - 1), min_size=1, unique=True))
    edits = {
        "h.*.mlp.gelu": ablate(position=positions),
        "h.0.self_attention.context": scale(2, position=positions, head=0),
    }
    whole = edited(model, ids, edits)
    cache, parts = None, []
    for part in (ids[:, :split], ids[:, split:]):
        seen = 0 if cache is None else cache.length
        here = [p for p in positions if p < seen + part.shape[1]]  # the others are not there yet
        trace = Trace(edits={name: replaced(edit, here) for name, edit in edits.items()})
        out = model(part, past_key_values=cache, trace=trace)
        cache = out.past_key_values
        parts.append(out.logits)
    numpy.testing.assert_allclose(numpy.concatenate(parts, 1), whole, atol=1e-10 * abs(whole).max())


def replaced(edit: Any, positions: list[int]) -> Any:
    return type(edit)(edit.name, edit.given, edit.change, {**edit.where, "position": positions}, edit.source)


def test_a_key_can_be_edited_when_it_is_cached_and_a_position_of_the_past_is_left_alone():
    cache = MODEL(IDS[:, :3]).past_key_values
    trace = Trace(edits={"h.0.self_attention.value": ablate(position=1), "h.1": ablate(position=1)})
    MODEL(IDS[:, 3:], past_key_values=cache, trace=trace)
    value = trace["h.0.self_attention.value"]
    assert not value[:, :, 1].any() and value[:, :, [0, 2, 3]].all() and trace["h.1"].all()


def test_a_window_counts_what_it_has_dropped():
    cache = WindowCache(2, window=3)
    MODEL(IDS, past_key_values=cache)  # keeps positions 2 and 3
    for position, place in ((2, 0), (4, 2), (-1, 2), (0, None), (-5, None)):
        trace = Trace(edits={"h.0.self_attention.key": ablate(position=position)})
        MODEL(IDS[:, :1], past_key_values=cache.copy(), trace=trace)
        gone = (trace["h.0.self_attention.key"] == 0).all((0, 1, 3))
        assert gone.tolist() == [place == i for i in range(3)]
    with pytest.raises(InputError, match="position=5 is out of range at 'h.0.self_attention.key': expected -5 to 4"):
        MODEL(IDS[:, :1], past_key_values=cache, trace=Trace(edits={"h.0.self_attention.key": ablate(position=5)}))


def test_logits_that_are_kept_are_the_last():
    trace = Trace(edits={"lm_head": replace(9, position=[2, 3], neuron=4)})
    logits = MODEL(IDS, logits_to_keep=1, trace=trace).logits
    assert (logits == 9).sum() == 2 and (logits[:, 0, 4] == 9).all()


# --- while generating ---


@few
@given(models(vocab_size=17), st.data())
def test_watching_changes_nothing_of_what_is_generated(model, data):
    ids = data.draw(token_ids(model.config, longest=4))
    settings = data.draw(st.sampled_from([{}, {"do_sample": True, "seed": 3}, {"num_beams": 2}]))
    plain = model.generate(ids, max_new_tokens=5, **settings)
    same(model.generate(ids, max_new_tokens=5, **settings, trace=Trace()), plain)


@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": True, "seed": 1}, {"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 3}]
)
def test_a_head_is_silent_in_every_pass_of_a_generation(settings):
    """As in a model in which this head's columns of the output projection are 0."""
    silenced = BloomForCausalLM(CONFIG)
    silenced.params = {name: x.copy() for name, x in MODEL.params.items()}
    for i in range(2):
        silenced.params[f"h.{i}.self_attention.dense.weight"][:, 4:8] = 0
    settings = {"max_new_tokens": 12, **settings}
    trace = Trace(edits={"h.*.self_attention.context": ablate(head=1)})
    ids = MODEL.generate(IDS, trace=trace, **settings)
    same(ids, silenced.generate(IDS, **settings))
    assert not numpy.array_equal(ids, MODEL.generate(IDS, **settings))
    assert "h.1.self_attention.context" in trace and trace["ln_f"].shape[1] == 1  # the last pass


def test_rows_stay_in_their_places_while_generating():
    """A row that has ended does not make place for the next, which an edit would take for it."""

    def first(ids: numpy.ndarray, scores: numpy.ndarray) -> numpy.ndarray:
        return numpy.arange(len(ids)) == len(ids) - 2  # of two rows; none of one

    edits = {"h.0.mlp.gelu": scale(3, row=1)}
    both = MODEL.generate(IDS, max_new_tokens=8, trace=Trace(edits=edits))
    ended = MODEL.generate(IDS, max_new_tokens=8, trace=Trace(edits=edits), stopping_criteria=first)
    same(ended[1], both[1])
    assert (ended[0] != both[0]).any() and (both[1] != MODEL.generate(IDS, max_new_tokens=8)[1]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trace": Trace("h.0.mlp.gelo")}, "no step of this model is called 'h.0.mlp.gelo'.*Did you mean"),
        ({"trace": Trace(edits={"h.0": ablate(head=1)})}, "head means nothing at 'h.0'"),
        ({"trace": Trace(edits={"h.0": ablate(position=4)})}, "position=4 is out of range at 'h.0'"),
        ({"trace": "h.0"}, "trace is 'h.0', expected a Trace"),
        ({"trace": Trace(), "prompt_lookup_num_tokens": 2}, "trace is set and speculation is asked for"),
        ({"trace": Trace(), "assistant_model": MODEL}, "trace is set and speculation is asked for"),
    ],
)
def test_generation_refuses_at_the_call(settings, message):
    from minibloom.generation import generate_steps

    with pytest.raises(InputError, match=message):
        generate_steps(MODEL, IDS, max_new_tokens=3, **settings)


# --- on a device ---


def test_edits_of_arrays_on_a_device(device):
    host, model = BloomForCausalLM(CONFIG), BloomForCausalLM(CONFIG, backend="cupy")
    ids = device.asarray(IDS)
    clean, theirs = Trace(), Trace()
    host(IDS[::-1].copy(), trace=clean)
    model(device.asarray(IDS[::-1].copy()), trace=theirs)
    for name, edit, again in [
        ("h.*.self_attention.context", ablate(head=1), None),
        ("h.*.self_attention.scores", scale(0.5, head=[0, -1], position=2, key=range(2)), None),
        ("h.0.mlp.gelu", replace(0.5, neuron=3, row=1), None),
        ("h.0", replace(clean["h.0"][0, 1], position=2), replace(theirs["h.0"][0, 1], position=2)),
        ("h.*.mlp.gelu", patch(clean, position=-1), patch(theirs, position=-1)),
        ("h.1", patch(clean), patch(theirs)),
    ]:
        for one in (again or edit, edit):  # arrays of the host are moved, as everywhere
            logits = edited(model, ids, {name: one})
            numpy.testing.assert_allclose(to_numpy(logits), edited(host, IDS, {name: edit}), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="the source of patch.* is an array of cupy"):
        edited(host, IDS, {"h.1": patch(theirs)})


# --- what cannot be ---

CONTEXT = "h.1.self_attention.context"
OUT_OF_RANGE = r"is out of range at '{}': expected {} to {}\."


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("h.0.mlp.gelu", lambda: ablate(head=1), r"head means nothing at 'h.0.mlp.gelu' \[B, S, 4E\]"),
        ("h.0.mlp.gelu", lambda: ablate(head=1), "expected row, position, neuron"),
        ("h.1", lambda: scale(2, key=1), r"key means nothing at 'h.1' \[B, S, E\] in scale\(2, key=1\)"),
        ("input_ids", lambda: ablate(neuron=1), r"neuron means nothing at 'input_ids' \[B, S\]"),
        ("h.0.self_attention.scores", lambda: ablate(neuron=1), "expected row, head, position, key"),
        ("h.0.self_attention.key", lambda: ablate(position=1, key=1), "key means nothing at .* row, head, neuron"),
        ("h.*.self_attention.*", lambda: ablate(head=0), "head means nothing at 'h.0.self_attention.dense'"),
        ("h.1", lambda: ablate(position=4), OUT_OF_RANGE.format("h.1", -4, 3)),
        ("h.1", lambda: ablate(position=[0, -5]), OUT_OF_RANGE.format("h.1", -4, 3)),
        ("h.1", lambda: ablate(row=2), OUT_OF_RANGE.format("h.1", -2, 1)),
        ("h.1.mlp.gelu", lambda: ablate(neuron=48), OUT_OF_RANGE.format("h.1.mlp.gelu", -48, 47)),
        (CONTEXT, lambda: ablate(head=3), OUT_OF_RANGE.format(CONTEXT, -3, 2)),
        (CONTEXT, lambda: ablate(head=1, neuron=4), OUT_OF_RANGE.format(CONTEXT, -4, 3)),
        ("h.1", lambda: patch(Trace()), "source did not keep this step"),
        ("h.1", lambda: patch({"h.11": normal(0, 2, 4, 12)}), "source did not keep this step. Did you mean 'h.11'"),
        ("h.1", lambda: patch(normal(0, 2, 5, 12)), r"source of shape \[2, 5, 12\], expected \[2, 4, 12\]"),
    ],
)  # fmt: skip
def test_what_a_step_cannot_be_asked_is_said_before_anything_is_computed(name, edit, message):
    trace = Trace("ln_f")
    MODEL(IDS, trace=trace)
    seen, trace.edits = trace["ln_f"], {name: edit()}
    with pytest.raises(InputError, match=message):
        MODEL(IDS, trace=trace)
    assert trace["ln_f"] is seen  # a pass that had begun would have forgotten the last


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("alibi", ablate(row=1), "row=1 is out of range at 'alibi': expected -1 to 0"),  # without a mask, one for all
        ("h.1", replace(normal(0, 5), position=1), r"put float64\[5\] .*, expected what fits into float32\[2, 1, 12\]"),
        ("input_ids", replace(0.5, position=1), "would put float64 there, expected what fits into int64"),
        ("h.1", patch(normal(0, 2, 4, 12)), r"source is float64\[2, 4, 12\], expected float32\[2, 4, 12\]"),
        ("h.1", replace([[1, 2], [3]]), "rows of different lengths"),
        ("lm_head", patch(Trace()), "source did not keep this step"),
    ],
)  # fmt: skip
def test_what_shows_only_at_the_step_is_said_there(name, edit, message):
    with pytest.raises(InputError, match=message):
        MODEL(IDS, trace=Trace(edits={name: edit}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale("2"), "factor is '2', expected a number"),
        (lambda: scale(None), "factor is None, expected a number"),
        (lambda: scale(2, heads=1), "no selector 'heads': expected row, .* neuron. Did you mean 'head'"),
        (lambda: ablate(head=1.5), "head is 1.5, expected a whole number or several"),
        (lambda: ablate(head="1"), "head is '1', expected"),
        (lambda: ablate(position=[1, None]), r"position is \[1, None\], expected"),
        (lambda: patch(3), "source is a int, expected an array, or the Trace of another run"),
    ],
)  # fmt: skip
def test_an_edit_that_makes_no_sense_is_refused_when_it_is_made(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_an_edit_can_be_sent_to_another_process():
    kept = Trace()
    MODEL(IDS + 1, trace=kept)
    for edit in (ablate(head=1), scale(2, position=-1), replace(0.5, row=0), patch(kept, position=1)):
        edits = {"h.1.self_attention.context": edit}
        sent = pickle.loads(pickle.dumps(Trace(edits=edits)))
        same(MODEL(IDS, trace=sent).logits, edited(MODEL, IDS, edits))
        assert repr(sent.edits) == repr(edits)


def test_what_stands_elsewhere_in_another_run_is_put_there_by_replace():
    other = Trace()
    MODEL(IDS[:, :3], trace=other)
    with pytest.raises(
        InputError, match=r"expected \[2, 4, 12\] as in this run.*: replace\(source\[\.\.\.\], position=\.\.\.\)"
    ):
        edited(MODEL, IDS, {"h.0": patch(other, position=1)})
    edits = {"h.0": replace(other["h.0"][:, [2]], position=1)}
    seen = Trace(edits=edits)
    MODEL(IDS, trace=seen)
    same(seen["h.0"][:, 1], other["h.0"][:, 2])


def test_gradients_refuse_them_too():
    with pytest.raises(InputError, match="edits cannot be used with value_and_grad"):
        MODEL.value_and_grad(IDS, labels=IDS, trace=Trace(edits={"h.1": ablate()}))


# --- the table of axes, which all this goes by ---


@few
@given(models(hidden_dropout=0.1, attention_dropout=0.1), st.data())
def test_every_step_has_the_axes_that_the_table_says(model, data):
    ids, trace, c = data.draw(token_ids(model.config)), Trace(), model.config
    cache = model(ids, use_cache=True).past_key_values if data.draw(st.booleans()) else None
    sizes = model.axis_sizes(*ids.shape, cache)
    ones = numpy.ones((len(ids), sizes["T"]))
    call = {"labels": ids, "attention_mask": ones, "head_mask": numpy.ones(c.n_head), "train": True, "trace": trace}
    model(ids, past_key_values=cache, **call)
    assert {name.replace("h.0", "h.*") for name in trace} >= STEPS.keys()
    for name, x in trace.items():
        shape = [numpy.prod([int(p) if p.isdigit() else sizes[p] for p in axis]) for axis in step(name).axes.split()]
        assert list(x.shape) == shape, name


def test_a_bare_model_takes_edits_too():
    trace = Trace(edits={"ln_f": ablate(position=-1)})
    hidden = BloomModel(CONFIG)(IDS, trace=trace).last_hidden_state
    assert not hidden[:, -1].any() and hidden[:, :-1].any()
