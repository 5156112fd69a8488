"""minibloom computes what transformers 4.35.2 computes, torch's models and Flax's, on whatever is drawn.

Two gates, as in `parity/test_transformers.py`: in float32 the oracle runs as it is, and every number is within 1e-5 of
its array's largest; in float64 it is kept from rounding in between, and the two agree to 1e-11. Where the oracle is
wrong, or differs from transformers 5, `test_documented_goldens.py` pins it, and the draws here leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import minibloom
from minibloom import BloomConfig, BloomForCausalLM, FlaxBloomForCausalLM, FlaxBloomModel
from minibloom.flax import flatten

from ..parity.compare import assert_close
from ..strategies import configs, masks, random_params, real, seeds
from . import NOT_GIVEN, is_given
from .oracle import ask, run
from .wire import flat

if not is_given():
    pytest.skip(NOT_GIVEN, allow_module_level=True)

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}  # relative to an array's largest magnitude
in_both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
# Shrinking would ask for hundreds of examples more.
sixty, thirty, fifteen = (
    settings(max_examples=n, phases=[Phase.explicit, Phase.reuse, Phase.generate]) for n in (60, 30, 15)
)

PLAIN = {"slow_but_exact": False}  # Flax has it not, and torch's model drops two biases with it
TASKS = {
    "none": "BloomModel",
    "next token": "BloomForCausalLM",
    "single_label_classification": "BloomForSequenceClassification",
    "multi_label_classification": "BloomForSequenceClassification",
    "regression": "BloomForSequenceClassification",
    "tokens": "BloomForTokenClassification",
    "answers": "BloomForQuestionAnswering",
}


def normal_model(kind: type, config: BloomConfig, seed: int, dtype: str) -> Any:
    """A model with random parameters; its class may be one of the Flax-style ones."""
    model = kind(config, dtype=dtype)
    flat_kind = getattr(kind, "kind", kind)
    params = random_params(flat_kind.shapes(config), seed, dtype)
    model.params = params if flat_kind is kind else model.params_to_tree(params)
    return model


def sized(dtype: str) -> dict[str, Any]:
    """Fields of a configuration that float32 survives to five digits: a layer norm over few numbers may not."""
    return PLAIN | ({"hidden_size": 24, "n_head": 6} if dtype == "float32" else {})


def same(model: Any, calls: list[dict[str, Any]], dtype: str, gradients: bool = False, mask: Any = None) -> None:
    """Every array of every call, and the gradients; with `mask [B, S]`, the rows of its tokens alone."""
    ours, theirs = run(model, calls, gradients), ask(model, calls, gradients)["calls"]
    start = 0
    for call, got, expected in zip(calls, ours, theirs, strict=True):
        assert "error" not in expected, expected["error"]
        got_arrays, expected_arrays = flat(got["out"]), flat(expected["out"])
        if mask is None:
            assert list(got_arrays) == list(expected_arrays)
        else:
            end = start + call["input_ids"].shape[1]
            got_arrays, expected_arrays = (of_tokens(x, mask, start, end) for x in (got_arrays, expected_arrays))
            start = end
        assert_close(got_arrays, expected_arrays, TOLERANCE[dtype])
        if gradients:
            assert_close(got["gradients"], settled(expected["gradients"]), TOLERANCE[dtype])


def of_tokens(arrays: Mapping[str, Any], mask: numpy.ndarray, start: int, end: int) -> dict[str, Any]:
    """The rows that are tokens by `mask [B, S]`, of a call over the positions from `start` to `end`."""
    kept = {}
    for name, x in arrays.items():
        if name.endswith(("cached_key", "cached_value")):  # [B, max_length, H, D]
            kept |= {name: x[:, :end][mask[:, :end]], f"{name} (empty)": x[:, end:]}
        elif name.endswith("cache_index"):
            kept[name] = x
        else:
            x = x.swapaxes(1, 2) if name.startswith("attentions") else x  # [B, H, S, T] -> [B, S, H, T]
            kept[name] = x[mask[:, start:end]]
    return kept


def settled(gradients: dict[str, Any]) -> dict[str, Any]:
    """Gradients that are exactly 0, as sums that cancel, come out as what is left of rounding: 0 on this side."""
    return {name: numpy.where(abs(x) < 1e-13, 0, x) for name, x in gradients.items()}


@st.composite
def calls(draw: st.DrawFn, task: str, config: BloomConfig, dtype: str, blind: bool) -> dict[str, Any]:
    """Arguments of a call for `task`, with all that is documented. blind: positions may see no token at all."""
    rng = numpy.random.default_rng(draw(seeds))
    B, S = draw(st.integers(1, 3)), draw(st.integers(2, 8))
    L, H, V, E = config.n_layer, config.n_head, config.vocab_size, config.hidden_size
    call: dict[str, Any] = {"output_hidden_states": draw(st.booleans()), "output_attentions": draw(st.booleans())}
    call["input_ids"] = rng.integers(0, V, (B, S))
    mask = draw(masks((B, S)))
    if mask is not None:
        mask[:, 0] |= not blind
        call["attention_mask"] = mask
    match draw(st.sampled_from(["no head mask", "of heads", "of blocks"])):
        case "of heads":
            call["head_mask"] = rng.uniform(0, 1, H).round(1).astype(dtype)
        case "of blocks":
            call["head_mask"] = rng.uniform(0, 1, (L, H)).round(1).astype(dtype)
    if TASKS[task] == "BloomForSequenceClassification":  # padding on the right, or none that is known
        pads = S - rng.integers(1, S + 1, (B, 1))
        call["input_ids"][:] = rng.integers(0, V - 1, (B, S))
        call["input_ids"][numpy.arange(S) >= S - pads] = V - 1  # the pad token
    if draw(st.booleans()):
        call["inputs_embeds"] = rng.standard_normal((B, S, E)).astype(dtype)
        del call["input_ids"]
    if task != "answers":
        call["use_cache"] = draw(st.booleans())

    n = config.num_labels
    some = rng.random((B, S)) < 0.7
    some[:, -1] = True
    match task:
        case "next token":
            call["labels"] = numpy.where(some, rng.integers(0, V, (B, S)), -100)
        case "single_label_classification":
            call["labels"] = rng.integers(0, n, B)
            call["labels"][1:][rng.random(B - 1) < 0.5] = -100
        case "multi_label_classification":
            call["labels"] = rng.random((B, n)).round(1).astype(dtype)
        case "regression":
            call["labels"] = rng.standard_normal((B, n)).astype(dtype)
        case "tokens":
            call["labels"] = numpy.where(some, rng.integers(0, n, (B, S)), -100)
        case "answers":
            for name in ("start_positions", "end_positions"):
                call[name] = rng.integers(-2, S + 2, (B, 1) if draw(st.booleans()) else B)
                call[name][0] = rng.integers(-2, S)
    return call


@st.composite
def tasks(
    draw: st.DrawFn, dtype: str, blind: bool, names: tuple[str, ...] = tuple(TASKS)
) -> tuple[Any, dict[str, Any]]:
    """A model of any class, and a call."""
    task = draw(st.sampled_from(names))
    fields: dict[str, Any] = {"num_labels": draw(st.integers(2 if "label" in task else 1, 4))}
    if TASKS[task] == "BloomForSequenceClassification":
        fields |= {"problem_type": task}
        if draw(st.booleans()):  # told by num_labels and the labels' dtype
            fields |= {"problem_type": None, "num_labels": 1 if task == "regression" else max(2, fields["num_labels"])}
    config = draw(configs(**sized(dtype), **fields))
    config.pad_token_id = config.vocab_size - 1
    kind = getattr(minibloom, TASKS[task])
    return normal_model(kind, config, draw(seeds), dtype), draw(calls(task, config, dtype, blind))


# --- torch's models ---


@in_both_dtypes
@sixty
@given(data=st.data())
def test_every_class(dtype, data):
    """Outputs, and in float64 the loss: near 0 it is a difference of numbers alike, and float32 has lost its digits."""
    model, call = data.draw(tasks(dtype, blind=True))
    if dtype == "float32":
        call = {name: x for name, x in call.items() if name not in ("labels", "start_positions", "end_positions")}
    same(model, [call], dtype)


@sixty
@given(data=st.data())
def test_gradients(data):
    """Of every head's loss, head masks included; in float64, where sums that cancel are known by their size."""
    with_loss = tuple(task for task in TASKS if task != "none")
    model, call = data.draw(tasks("float64", blind=False, names=with_loss))
    if "use_cache" in call:
        call["use_cache"] = False
    same(model, [call], "float64", gradients=True)


@in_both_dtypes
@thirty
@given(data=st.data())
def test_tuples_of_past_keys_and_values(dtype, data):
    """In up to three steps, each from the tuple of the one before in the documented layout, as minibloom made it."""
    config = data.draw(configs(**sized(dtype)))
    model = normal_model(BloomForCausalLM, config, data.draw(seeds), dtype)
    rng = numpy.random.default_rng(data.draw(seeds))
    B, S = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 8))
    ids, mask = rng.integers(0, config.vocab_size, (B, S)), data.draw(masks((B, S)))
    cuts = sorted(data.draw(st.sets(st.integers(1, S - 1), max_size=2)))
    past = None
    for start, end in pairwise([0, *cuts, S]):
        call = {"input_ids": ids[:, start:end], "past_key_values": past, "use_cache": True}
        call |= {"output_attentions": True, "output_hidden_states": True}
        if mask is not None:
            call["attention_mask"] = mask[:, :end]
        same(model, [call], dtype)
        past = model(**call).past_key_values.to_tuple("documented")
        assert past[0][0].shape == (B * config.n_head, config.head_dim, end)
        assert past[0][1].shape == (B * config.n_head, end, config.head_dim)


# --- Flax's. JAX compiles for every new shape, which takes longer than all else, so there are few of them. ---


@st.composite
def flax_models(draw: st.DrawFn, dtype: str) -> Any:
    kind = draw(st.sampled_from([FlaxBloomModel, FlaxBloomForCausalLM]))
    heads = draw(st.sampled_from([1, 3, 4, 12]))
    config = draw(configs(**{**sized(dtype), "vocab_size": 13, "hidden_size": 24, "n_head": heads}))
    return normal_model(kind, config, draw(seeds), dtype)


def two_rows(data: st.DataObject, length: int) -> numpy.ndarray:
    return numpy.random.default_rng(data.draw(seeds)).integers(0, 13, (2, length))


@in_both_dtypes
@fifteen
@given(data=st.data())
def test_flax(dtype, data):
    """Outputs, and the tree of parameters that transformers makes of the same ones."""
    model, ids = data.draw(flax_models(dtype)), two_rows(data, data.draw(st.sampled_from([1, 6])))
    call = {"input_ids": ids, "attention_mask": data.draw(masks(ids.shape))}
    call |= {"output_attentions": True, "output_hidden_states": True}
    same(model, [call], dtype)
    theirs, ours = flatten(ask(model, [])["params"], "params"), flatten(model.params, "params")
    assert theirs.keys() == ours.keys()
    for place, x in theirs.items():
        numpy.testing.assert_array_equal(ours[place], x)


@in_both_dtypes
@fifteen
@given(data=st.data())
def test_flax_in_steps(dtype, data):
    """With one mask over all that the cache has room for; its trees too. Rows of padding look further in Flax."""
    model, ids = data.draw(flax_models(dtype)), two_rows(data, 6)
    mask = numpy.pad(
        real(data.draw(masks(ids.shape)), ids.shape), ((0, 0), (0, 2)), constant_values=data.draw(st.booleans())
    )
    lengths = data.draw(st.sampled_from([(6,), (3, 3), (3, 1, 2), (1, 3, 2), (3, 1, 1, 1)]))
    edges = numpy.cumsum([0, *lengths])
    steps = [
        {
            "input_ids": ids[:, start:end],
            "attention_mask": mask.astype("int64"),
            "past_key_values": "previous" if start else [2, 8],
            "output_attentions": True,
            "output_hidden_states": True,
        }
        for start, end in pairwise(edges)
    ]
    blind = (numpy.cumsum(mask, axis=1) == 0)[:, :6]
    same(model, steps, dtype, mask=~blind)


# --- files ---


@pytest.mark.parametrize("kind", sorted({*TASKS.values(), "FlaxBloomModel", "FlaxBloomForCausalLM"}))
def test_it_loads_what_minibloom_saves(kind, tmp_path):
    config = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=4, pad_token_id=3)
    model = normal_model(getattr(minibloom, kind), config, 0, "float32")
    model.save_pretrained(tmp_path)
    call = {"input_ids": numpy.array([[1, 2, 5, 4, 6, 7], [7, 8, 9, 9, 8, 3]])}
    [ours], [theirs] = run(model, [call]), ask(model, [call], folder=tmp_path)["calls"]
    assert_close(flat(ours["out"]), flat(theirs["out"]), 1e-5)
