"""On a device: the numbers of the host, no silent waiting, copies where they are seen, and errors that say what to do.

Everything runs on the stand-in, and on a GPU where there is one. That layers, losses and models give the same numbers
is in their own tests, which run on every backend; here is what they cannot see, and what is made of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    BloomForSequenceClassification,
    BloomModel,
    Cache,
    FlaxBloomForCausalLM,
    InputError,
    Trace,
    bench,
    bench_cost,
    cli_bench,
    golden,
    parity,
    tensor_file,
)
from minibloom.backend import library, namespace, to_numpy
from minibloom.cli import main
from minibloom.errors import OutOfMemory
from minibloom.generation import (
    PromptCache,
    generate_steps,
    generate_text,
    perplexity,
    processed,
    stream_text,
    token_log_probs,
)
from minibloom.language_modeling import LanguageModeling
from minibloom.layers import few_rows, tiled_attention
from minibloom.optimizer import AdamW, clip_gradients
from minibloom.settings import TrainingSettings
from minibloom.training import train

from . import standin, tiny
from .bridge import silent
from .layers.test_small_weights import small
from .strategies import random_params, seeds, some

BOTH = ("numpy", "cupy")
CONFIG = BloomConfig(vocab_size=23, hidden_size=12, n_layer=2, n_head=3, pad_token_id=1)
IDS = numpy.random.default_rng(0).integers(2, 23, (2, 7))
MASK = numpy.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
PADDED = pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])


def twins(xp: Any, kind: Any = BloomForCausalLM, dtype: str = "float64", **changes: Any) -> tuple[Any, Any]:
    """The same model on the host and on the device."""
    config = CONFIG.replace(**changes)
    host, device = kind(config, dtype=dtype), kind(config, dtype=dtype, backend="cupy")
    host.params = random_params(host.shapes(config), 0, dtype)
    device.params = {name: xp.asarray(x) for name, x in host.params.items()}
    return host, device


def on_host(x: Any) -> Any:
    """Arrays wherever they are nested, on the host."""
    if isinstance(x, Cache):
        return [on_host(pair) for pair in x]
    if isinstance(x, list | tuple):
        return [on_host(one) for one in x]
    if isinstance(x, Mapping) or hasattr(x, "keys"):
        return {name: on_host(x[name]) for name in x.keys()}  # noqa: SIM118
    return to_numpy(x) if library(x) else x


def same(a: Any, b: Any) -> None:
    """The same numbers, to float64's rounding."""
    a, b = on_host(a), on_host(b)
    if isinstance(a, list):
        assert len(a) == len(b)
        [same(x, y) for x, y in zip(a, b, strict=True)]
    elif isinstance(a, dict):
        assert list(a) == list(b)
        [same(a[name], b[name]) for name in a]
    elif isinstance(a, numpy.ndarray | float):
        numpy.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    else:
        assert a == b


# --- the border ---


def test_what_a_model_is_called_with_may_stand_on_the_host_or_on_the_device(device):
    host, there = twins(device)
    expected = host(IDS, attention_mask=MASK, labels=IDS)
    for call in (
        (IDS, MASK, IDS),
        (IDS.tolist(), MASK.tolist(), IDS.tolist()),
        tuple(device.asarray(x) for x in (IDS, MASK, IDS)),
    ):
        out = there(call[0], attention_mask=call[1], labels=call[2])
        assert namespace(out.logits, out.loss) is device
        same(expected, out)


def test_an_array_of_the_device_is_no_input_of_a_model_on_the_host(device):
    with pytest.raises(InputError, match=r"input_ids is an array of cupy, the model computes with numpy.*to_numpy"):
        twins(device)[0](device.asarray(IDS))


def test_what_is_large_is_not_moved_unasked(device):
    host, there = twins(device)
    cache = host(IDS).past_key_values
    for past in (cache, cache.to_tuple()):
        with pytest.raises(InputError, match="array.* of .*numpy|different libraries"):
            there(IDS[:, :1], past_key_values=past)
    flax = FlaxBloomForCausalLM(CONFIG, backend="cupy", _do_init=False)
    params = FlaxBloomForCausalLM(CONFIG).params
    with pytest.raises(InputError, match=r"params/.* is an array of numpy, the model computes with cupy"):
        flax(IDS, params=params)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"input_ids": [[99]]}, "input_ids holds 99"),
        ({"input_ids": [[1], [1, 2]]}, "rows of different lengths"),
        ({"input_ids": IDS, "attention_mask": 2 * MASK}, "attention_mask holds other numbers"),
        ({"input_ids": IDS, "labels": IDS + 20}, "labels holds"),
    ],
)
def test_bad_input_is_the_same_error_as_on_the_host(device, wrong, says):
    for model in twins(device):
        with pytest.raises(InputError, match=says):
            model(**wrong)


def test_nothing_waits_for_the_device_in_a_pass_or_on_the_way_back(device):
    """Not even an explicit copy: ids, masks and labels are looked at before they leave the host."""
    quiet = standin.no_sync(copies=0) if device is standin.cupy else silent(device)
    _, model = twins(device, hidden_dropout=0.1, attention_dropout=0.1)
    cache, trace = model.init_cache(2, 9), Trace()
    with quiet:
        model(IDS, past_key_values=cache, attention_mask=MASK, trace=trace)
        model(IDS[:, :1], past_key_values=cache, output_attentions=True)
        for more in ({}, {"output_logits": False}, {"recompute": True}, {"head_mask": [1.0, 0.5, 0.0]}):
            model.value_and_grad(IDS, attention_mask=MASK, labels=IDS, train=True, seed=0, **more)
    assert all(namespace(x) is device for x in trace.values())


def test_settings_that_leave_no_token_are_said_on_a_device_too(device):
    """By a user's own processor; and with one beside those that never rule out all, which are not looked at."""
    _, model = twins(device, dtype="float32")
    nothing = {"logits_processor": lambda ids, logits: device.full_like(logits, -numpy.inf), "max_new_tokens": 3}
    for more in ({}, {"suppress_tokens": [3]}):
        with pytest.raises(InputError, match="leave no token to choose"):
            model.generate([[5, 6]], **nothing, **more)


# --- dropout ---


def test_the_fast_paths_of_the_host_are_not_taken_on_a_device(device, monkeypatch):
    monkeypatch.setattr(tiled_attention, "LARGE", 0)
    monkeypatch.setattr(few_rows, "LEAST", 0)
    monkeypatch.setattr(few_rows, "HEIGHT", 1)
    monkeypatch.setattr(few_rows, "APART", 1)
    host, there = twins(device)
    expected = host(IDS)
    with silent(device):
        out = there(device.asarray(IDS), checked=True)
    same(expected.logits, out.logits)


@pytest.mark.parametrize("method", ["select", "reorder"])
def test_rows_of_a_cache_are_chosen_by_the_host_s_numbers_or_the_device_s(device, method):
    host, there = twins(device)
    expected = host(IDS).past_key_values
    start = [] if method == "select" else [0]
    getattr(expected, method)(numpy.array([1, 0]), *start)
    for rows in (numpy.array([1, 0]), [1, 0], device.asarray([1, 0])):
        cache = there(IDS).past_key_values
        getattr(cache, method)(rows, *start)
        same(expected, cache)


def test_a_device_draws_dropout_itself_from_the_seed(device):
    _, model = twins(device, hidden_dropout=0.3, attention_dropout=0.3)

    def grads(seed: int, **more: Any) -> Any:
        return on_host(model.value_and_grad(IDS, labels=IDS, train=True, seed=seed, **more)[1])

    same(grads(1), grads(1))
    same(grads(1), grads(1, recompute=True))
    assert (grads(1)["ln_f.weight"] != grads(2)["ln_f.weight"]).any()


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_at_steps_are_the_host_s(device, recompute):
    host, there = (model.value_and_grad(IDS, labels=IDS, at="*", recompute=recompute)[1] for model in twins(device))
    same(host, on_host(there))


def test_what_was_seen_is_not_changed_later(device):
    copies = {}

    class Copying(Trace):
        def __call__(self, name: str, value: Any) -> Any:
            copies[name] = to_numpy(value).copy()
            return super().__call__(name, value)

    trace = Copying()
    twins(device, attention_dropout=0.1)[1].value_and_grad(IDS, labels=IDS, train=True, seed=0, trace=trace)
    same(copies, {name: trace[name] for name in copies})


# --- generation ---

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "everything returned": {
        "return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_attentions": True,
        "output_hidden_states": True,
    },
    "sampling": {"do_sample": True, "seed": 1, "top_k": 9, "top_p": 0.9, "temperature": 0.7},
    "all filters": {
        "do_sample": True, "seed": 2, "top_k": 0, "top_h": 0.9, "typical_p": 0.9, "min_p": 0.01,
        "epsilon_cutoff": 0.001, "eta_cutoff": 0.001, "renormalize_logits": True, "num_return_sequences": 2,
    },
    "all processors": {
        "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": [[3], [4, 6]], "min_new_tokens": 3,
        "sequence_bias": {(7,): 2.0, (8, 9): -3.0}, "forced_eos_token_id": 5, "remove_invalid_values": True,
        "exponential_decay_length_penalty": (2, 1.1), "suppress_tokens": [8], "begin_suppress_tokens": [9],
    },
    "beams": {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True},
    "beams that are drawn": {"num_beams": 3, "do_sample": True, "seed": 0},
    "groups of beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "forced words": {"num_beams": 4, "force_words_ids": [[7, 8]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "lookup and draws": {"prompt_lookup_num_tokens": 3, "do_sample": True, "seed": 3},
    "own functions": {"logits_processor": lambda ids, x: 2 * x, "stopping_criteria": lambda ids, _: ids[:, -1] > 20},
}  # fmt: skip


@PADDED
@pytest.mark.parametrize("way", WAYS)
def test_generation_gives_the_ids_of_the_host(device, way, mask):
    host, there = twins(device)
    settings = {"max_new_tokens": 6, "eos_token_id": [5]} | WAYS[way]
    with silent(device):
        out = there.generate(IDS, attention_mask=mask, **settings)
    same(host.generate(IDS, attention_mask=mask, **settings), out)


def test_of_equal_beams_the_first_goes_on_as_on_the_host(device):
    host, there = twins(device)
    for model in (host, there):
        model.params["ln_f.weight"][:] = model.params["ln_f.bias"][:] = 0  # so are all logits
    with silent(device):
        out = there.generate(IDS, num_beams=3, num_return_sequences=3, max_new_tokens=2, eos_token_id=[])
    same(host.generate(IDS, num_beams=3, num_return_sequences=3, max_new_tokens=2, eos_token_id=[]), out)


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_filters_of_a_large_vocabulary_ask_the_device_nothing(device, flat):
    """On the host they sort as few tokens as they can, and have to look whether those were enough."""
    logits = numpy.random.default_rng(0).standard_normal((2, 1000)) * (1 - flat)
    settings = {"top_k": 600, "top_p": 0.7, "min_p": 1e-6, "temperature": 0.8}
    with silent(device):
        there = processed(device.asarray(logits), **settings)
    same(processed(logits, **settings), there)


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_draft_guesses_on_the_device_too(device, do_sample):
    settings = {"max_new_tokens": 6} | ({"do_sample": True, "seed": 0} if do_sample else {})
    host, there = twins(device)
    with silent(device):
        out = there.generate(IDS, assistant_model=there, **settings)
    same(host.generate(IDS, assistant_model=host, **settings), out)


@PADDED
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 0, "top_k": 5, "top_p": 0.9}])
def test_a_decoding_step_copies_to_the_host_once(device, settings, mask):
    """The ids that were chosen: by them it is decided who goes on."""
    if device is not standin.cupy:
        pytest.skip("CuPy cannot tell reliably when it waits")
    steps = generate_steps(twins(device)[1], IDS, attention_mask=mask, max_new_tokens=5, eos_token_id=[], **settings)
    for _ in range(5):
        with standin.no_sync(copies=1):
            next(steps)


@pytest.mark.parametrize("settings", [
    {"guidance_scale": 1.5, "negative_prompt_ids": [[1, 2], [3]]}, {"num_beams": 2}, {"penalty_alpha": 0.5, "top_k": 3},
])  # fmt: skip
def test_guidance_and_functions_of_allowed_tokens_are_those_of_the_host(device, settings):
    host, there = twins(device)
    settings |= {"max_new_tokens": 4, "prefix_allowed_tokens_fn": lambda number, ids: [number + 1, number + 2, 7]}
    with silent(device):
        out = there.generate(IDS, **settings)
    same(host.generate(IDS, **settings), out)


def test_scores_prompts_and_text_are_those_of_the_host(device, tmp_path):
    host, there = twins(device)
    longer = numpy.concatenate([IDS, IDS[:, ::-1]], axis=1)
    found = []
    for model in (host, there):
        file = tmp_path / f"{model.backend}.safetensors"
        with silent(device):
            PromptCache(model, IDS).save(file)
            prompt = PromptCache.load(file, model)
            ids = model.generate(longer, past_key_values=prompt, max_new_tokens=3)
            with pytest.raises(InputError, match="from token 0 on"):
                model.generate(longer[:, 1:], past_key_values=prompt)
            one, rows = PromptCache(model, IDS[:1, :2]), [IDS[0].tolist(), IDS[0, :3].tolist()]
            unequal = model.generate(rows, past_key_values=one, max_new_tokens=3)
            found.append([ids, unequal, token_log_probs(model, IDS, MASK, window=4), perplexity(model, IDS)])
    same(*found)


def test_the_shipped_model_writes_the_same_text(device):

    from minibloom import BloomTokenizerFast

    tokenizer = BloomTokenizerFast.from_pretrained()
    texts = []
    for backend in ("numpy", "cupy"):
        model = BloomForCausalLM.from_pretrained(backend=backend)
        with silent(device):
            piece = "".join(stream_text(model, tokenizer, "All human beings", max_new_tokens=6))
            rows = generate_text(
                model, tokenizer, ["All human beings", "Tous"], max_new_tokens=6, stop_strings=["free"]
            )
        texts.append([piece, *((one.text, one.finish_reason) for one in rows)])
    assert texts[0] == texts[1]


# --- training ---


def test_training_takes_the_steps_of_the_host_and_goes_on_where_it_stopped(device, tmp_path):
    documents = [numpy.arange(2, 23).repeat(3)]
    histories, params = [], []
    for model in twins(device):
        task = LanguageModeling(documents, documents)
        few, all_steps = (
            TrainingSettings(steps=6, context_length=8, batch_size=2, accumulation=2, save_every=n) for n in (3, 6)
        )
        folder = tmp_path / model.backend
        with silent(device):
            history = train(model, task, few, folder, progress=False)
            assert train(model, task, all_steps, folder, resume=True, progress=False) == history
        histories.append(history)
        params.append(model.params)
    same(*histories)
    same(*params)


@some
@given(seeds, st.booleans())
def test_an_optimizers_step_is_the_hosts(device, seed, clipped):
    shapes = {"a.weight": (4, 3), "b.bias": (5,)}
    states = []
    for xp in (numpy, device):
        moved = [{n: xp.asarray(x) for n, x in random_params(shapes, seed + i).items()} for i in range(2)]
        params, grads = moved
        optimizer = AdamW(params)
        norm = clip_gradients(grads, 0.1 if clipped else 1e9)
        with silent(device):
            for _ in range(3):
                optimizer.step(params, grads, 1e-2, weight_decay=0.1)
        states.append([params, optimizer.m, optimizer.v, norm])
    same(*states)


# --- other interfaces ---


def test_flax_style_models_give_the_numbers_of_the_host(device):
    found = []
    start = FlaxBloomForCausalLM(CONFIG, dtype="float64", seed=1)
    for backend in ("numpy", "cupy"):
        model = FlaxBloomForCausalLM(CONFIG, dtype="float64", seed=1, backend=backend)
        with silent(device):
            cache = model.init_cache(2, 9)
            first = model(IDS[:, :3], past_key_values=cache, output_attentions=True)
            tree = model.cache_to_tree(first.past_key_values)
            second = model(IDS[:, 3:5], past_key_values=tree, attention_mask=numpy.ones((2, 9), int))
        found.append([first.attentions, first.logits, second.logits, model.to_fp32(model.params)])
    same(*found)
    assert start.backend == "numpy"


def test_every_step_and_gradient_that_parity_writes_is_the_hosts(device):
    same(*(golden.run(model, IDS, MASK, gradients=True) for model in twins(device)))


# --- loading ---


class Watched:
    """A device's library, and the sizes of the arrays that were moved to it."""

    def __init__(self, device: Any) -> None:
        self.device, self.moved = device, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def asarray(self, x: Any) -> Any:
        self.moved.append(x.size)
        return self.device.asarray(x)


def test_parameters_go_to_the_device_block_by_block(device, tmp_path, monkeypatch):
    """The host holds one block at a time, of whatever precision the file has: never a whole tensor."""
    host, _ = twins(device, dtype="float32", vocab_size=512)
    watched = Watched(device)
    monkeypatch.setattr(tensor_file, "DEVICE_BLOCK", 100)
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        host.save_pretrained(tmp_path / dtype, dtype=dtype)
        expected = BloomForCausalLM.from_pretrained(tmp_path / dtype, weights="float32").params
        entries = tensor_file.read_header(tmp_path / dtype / "model.safetensors")
        watched.moved.clear()
        if dtype != "int8":  # whose scales stand in tensors of their own
            tensor_file.read_tensors(entries, "float32", watched)
            assert max(watched.moved) <= 100 and sum(watched.moved) == sum(x.size for x in host.params.values())
        loaded = BloomForCausalLM.from_pretrained(tmp_path / dtype, backend="cupy")
        assert all(namespace(x) is device for x in loaded.params.values())
        same(expected, loaded.params)


def test_what_a_device_has_trained_is_written_as_the_host_writes_it(device, tmp_path):
    for model in twins(device, dtype="float32"):
        model.save_pretrained(tmp_path / model.backend, dtype="bfloat16")
    files = [(tmp_path / backend / "model.safetensors").read_bytes() for backend in ("numpy", "cupy")]
    assert files[0] == files[1]


# --- weights in 16 bits ---

HALVES = ("float16", "bfloat16")
STEP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # what rounding a number to 16 bits changes at most, of the number


@pytest.fixture
def in_16_bits(device: Any, tmp_path: Path) -> dict[str, Path]:
    """The same model in files of every precision."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs the extra `test`")
    host, _ = twins(device, dtype="float32", vocab_size=512, hidden_size=24)
    for kind in ("float32", *HALVES, "int8"):
        host.save_pretrained(tmp_path / kind, dtype=kind)
    return {kind: tmp_path / kind for kind in ("float32", *HALVES, "int8")}


@pytest.mark.parametrize("source", ["float32", *HALVES, "int8"])
@pytest.mark.parametrize("kind", HALVES)
def test_16_bit_weights_go_to_the_device_as_they_are_read(device, in_16_bits, monkeypatch, kind, source):
    """The host holds one block at a time; what is on the device is the file's float32 rounded, as with NumPy."""
    watched = Watched(device)
    monkeypatch.setattr(tensor_file, "DEVICE_BLOCK", 100)
    host = BloomForCausalLM.from_pretrained(in_16_bits[source], weights=kind)
    wide = BloomForCausalLM.from_pretrained(in_16_bits[source], weights="float32").params
    entries = tensor_file.read_header(in_16_bits["float32"] / "model.safetensors")
    tensor_file.read_tensors(entries, "float32", watched, kind)
    assert max(watched.moved) <= 100 and sum(watched.moved) == sum(x.size for x in host.params.values())
    with silent(device):
        there = BloomForCausalLM.from_pretrained(in_16_bits[source], weights=kind, backend="cupy")
    assert (there.weights, there.backend) == (kind, "cupy") and f"from {kind} weights, cupy" in repr(there)
    for name, p in host.params.items():
        ours = there.params[name]
        assert namespace(ours) is device and ours.nbytes == p.nbytes
        if p.ndim == 2:
            rounded = small(kind, wide[name]).stored.tobytes()
            assert type(ours) is type(p) and ours.stored.get().tobytes() == p.stored.tobytes() == rounded
        else:
            same(p, ours)


@pytest.mark.parametrize("kind", HALVES)
def test_a_model_of_16_bit_weights_computes_as_that_of_the_host_to_their_precision(device, in_16_bits, kind):
    """Logits, the loss in chunks too, a cache, and text; activations, norms, softmax and loss stay in float32."""
    host, there = (BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights=kind, backend=b) for b in BOTH)
    trace = Trace()
    with silent(device):
        out = there(IDS, attention_mask=MASK, labels=IDS, trace=trace)
        in_chunks = there(IDS, attention_mask=MASK, labels=IDS, output_logits=False)
        cached = there(IDS[:, -1:], attention_mask=MASK, past_key_values=there(IDS[:, :-1]).past_key_values)
        steps = there.generate(IDS, max_new_tokens=4)
    expected = host(IDS, attention_mask=MASK, labels=IDS)
    scale = numpy.abs(expected.logits).max()
    off = numpy.abs(to_numpy(out.logits) - expected.logits).max()
    assert STEP[kind] * scale / 50 < off < 10 * STEP[kind] * scale  # it does round
    numpy.testing.assert_allclose(to_numpy(out.loss), expected.loss, rtol=10 * STEP[kind])
    numpy.testing.assert_allclose(to_numpy(in_chunks.loss), to_numpy(out.loss), rtol=1e-5)
    off = numpy.abs(to_numpy(cached.logits) - host(IDS, attention_mask=MASK).logits[:, -1:])[1].max()
    assert off < 10 * STEP[kind] * scale
    assert {x.dtype.name for x in trace.values() if x.dtype.kind != "i"} == {"float32"}
    assert steps.shape == (2, 11)


@pytest.mark.parametrize("kind", HALVES)
def test_16_bit_weights_are_written_as_the_host_writes_them_and_trained_widened(device, in_16_bits, tmp_path, kind):
    host, there = (BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights=kind, backend=b) for b in BOTH)
    for dtype in (None, "float32"):
        for model in (host, there):
            model.save_pretrained(tmp_path / model.backend, dtype=dtype)
        files = [(tmp_path / backend / "model.safetensors").read_bytes() for backend in BOTH]
        assert files[0] == files[1]
    with pytest.raises(InputError, match=f"as {kind}, for reading only. Train model.widened"):
        there.value_and_grad(IDS, labels=IDS)
    (out, grads), (expected, wanted) = (m.widened().value_and_grad(IDS, labels=IDS) for m in (there, host))
    assert there.widened().weights == "float32" and namespace(grads["ln_f.weight"]) is device
    numpy.testing.assert_allclose(to_numpy(out.loss), expected.loss, rtol=1e-5)
    assert grads.keys() == wanted.keys()


@pytest.mark.parametrize("kind", HALVES)
def test_prompts_are_kept_and_ports_judged_with_16_bit_weights_too(device, in_16_bits, tmp_path, kind):
    host, there = (BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights=kind, backend=b) for b in BOTH)
    PromptCache(there, IDS).save(tmp_path / "prompt.safetensors")
    prompt = PromptCache.load(tmp_path / "prompt.safetensors", there)
    longer = numpy.concatenate([IDS, IDS], axis=1)
    same(there.generate(longer, max_new_tokens=3), there.generate(longer, past_key_values=prompt, max_new_tokens=3))
    wrong = parity.check(lambda ids, mask: {"logits": 2 * host(ids, attention_mask=mask).logits}, there, IDS)
    assert wrong.first.name == "logits" and wrong.hints[0].startswith("The largest difference")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": "int8"}, "weights='int8' needs dtype='float32' and backend='numpy', got 'float32' and 'cupy'"),
        ({"weights": "float16", "dtype": "float64"}, "weights='float16' needs dtype='float32', got 'float64'"),
        ({"weights": "flaot16"}, "is unknown.*Did you mean 'float16'"),
        ({"stream": True}, "stream=True computes in float32 with NumPy"),
    ],
)
def test_weights_that_a_device_does_not_take(device, in_16_bits, options, says):
    with pytest.raises(InputError, match=says):
        BloomForCausalLM.from_pretrained(in_16_bits["float32"], backend="cupy", **options)


def test_bfloat16_without_ml_dtypes_is_an_error_before_anything_is_read(device, in_16_bits, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # importing it now fails
    with pytest.raises(InputError, match="needs ml_dtypes"):
        BloomModel.from_pretrained("no such folder", weights="bfloat16", backend="cupy")
    BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights="float16", backend="cupy")
    BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights="bfloat16")


def test_room_is_asked_for_by_the_size_of_the_weights(device, in_16_bits):
    if device is not standin.cupy:
        pytest.skip("would need a model larger than the GPU")
    there = BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights="float16", backend="cupy")
    needed = sum(p.nbytes for p in there.params.values())
    with standin.memory(free=needed):
        BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights="float16", backend="cupy")
        with pytest.raises(OutOfMemory, match=r"for them in float32; .*parameters would fit"):
            BloomForCausalLM.from_pretrained(in_16_bits["float32"], backend="cupy")
    with standin.memory(free=needed - 1), pytest.raises(OutOfMemory, match="for them in float16"):
        BloomForCausalLM.from_pretrained(in_16_bits["float32"], weights="float16", backend="cupy")


# --- memory ---


def test_a_model_that_does_not_fit_says_so_before_it_is_read(device, tmp_path):
    if device is not standin.cupy:
        pytest.skip("would need a model larger than the GPU")
    twins(device)[0].save_pretrained(tmp_path)
    with standin.memory(free=1000):
        for make in (
            lambda: BloomModel(CONFIG, backend="cupy"),
            lambda: BloomModel.from_pretrained(tmp_path, backend="cupy"),
        ):
            with pytest.raises(
                OutOfMemory, match=r"parameters and needs .* 1\.0 kB of the GPU's .* are free. 250 parameters would fit"
            ):
                make()


@pytest.mark.parametrize(
    ("free", "more", "says"),
    [
        (300_000, {}, r"300\.0 kB of its 268\.4 MB were free, and then 345\.6 kB .* one row of 60 tokens"),
        (6_000, {}, r"one row of \d+ tokens would fit, of 4 x 60"),
        (120_000, {"grad": True}, "with recompute=True"),
    ],
)
def test_a_pass_that_does_not_fit_says_what_would(device, free, more, says):
    if device is not standin.cupy:
        pytest.skip("would fill the GPU's memory")
    _, model = twins(device)
    ids = numpy.full((4, 60), 2)
    with standin.memory(free), pytest.raises(OutOfMemory, match=says) as error:
        model.value_and_grad(ids, labels=ids) if more else model(ids, use_cache=False)
    assert isinstance(error.value, InputError | MemoryError)
    assert model(ids).logits.shape == (4, 60, 23)  # nothing is broken


def test_what_is_said_to_fit_grows_with_what_is_free(device):
    _, model = twins(device)
    ids = numpy.full((50, 60), 2)
    rows = [int(model.what_fits("__call__", free, ids).split()[3]) for free in (10**6, 2 * 10**6, 4 * 10**6)]
    assert 1 < rows[0] < rows[1] < rows[2] < 50
    assert "not one token" in model.what_fits("__call__", 10, ids)


def test_more_is_said_to_fit_where_no_scores_are_kept(device):
    """In float32, attention is a kernel's, in tiles: but not where its probabilities are wanted."""
    ids, counts = numpy.full((2000, 200), 2), []
    for dtype, more in (("float32", {}), ("float32", {"output_attentions": True}), ("float64", {})):
        said = twins(device, dtype=dtype)[1].what_fits("__call__", 4 * 10**7, ids, **more)
        counts.append(int(said.split()[3]))
    assert counts[0] > 2 * counts[1] > 0 and abs(counts[1] - 2 * counts[2]) <= 1


# --- the command line ---


@pytest.fixture(scope="module")
def checkpoint(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("checkpoint"))


def commands(checkpoint: Path, folder: Path) -> dict[str, list[str]]:
    """Every command that computes."""
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("the cat sat on the mat. " * 50)
    examples = [{"text": text, "label": label} for text, label in (("good", "yes"), ("bad", "no")) for _ in range(4)]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    shape = ["--vocab-size", "300", "--hidden-size", "16", "--n-layer", "1", "--n-head", "2", "--context-length", "8"]
    model, texts, head = ["--model", checkpoint], folder / "texts", folder / "head"
    steps, start = ["--steps", "2"], ["--start-from", checkpoint]
    task = [folder / "examples.jsonl", "--task", "text-classification"]
    words: dict[str, list[Any]] = {
        "generate": ["generate", "the cat", *model, "--max-new-tokens", "3"],
        "in 16 bits": ["generate", "the cat", *model, "--max-new-tokens", "3", "--weights", "float16"],
        "assisted": ["generate", "the cat", *model, "--max-new-tokens", "3", "--assistant", checkpoint],
        "walk": ["walk", "the cat", *model],
        "parity": ["parity", checkpoint, "--write", folder / "steps.safetensors", "--gradients"],
        "train": ["train", texts, "--out", folder / "new", *steps, *shape],
        "go on": ["train", texts, "--out", folder / "on", *steps, *start, "--context-length", "8"],
        "fine-tune": ["train", *task, "--out", head, *steps, *start],
        "predict": ["predict", "good", "--model", head],
    }
    return {name: [*map(str, line)] for name, line in words.items()}


def test_every_command_that_computes_takes_the_backend(device, checkpoint, tmp_path, capsys):
    for name, words in commands(checkpoint, tmp_path).items():
        before = standin.device.copies
        with silent(device):
            status = main([*words, "--backend", "cupy"])
        assert status == 0, (name, capsys.readouterr().err)
        assert device is not standin.cupy or standin.device.copies > before, f"{name} did not compute on the device"


def test_every_command_says_what_is_missing_before_any_work(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it now fails
    every = commands(checkpoint, tmp_path)
    BloomForSequenceClassification(tiny.config(architectures=["BloomForSequenceClassification"])).save_pretrained(
        tmp_path / "head"
    )
    tiny.tokenizer().save_pretrained(tmp_path / "head")
    there = sorted(tmp_path.rglob("*"))
    for name, words in (every | {"bench": ["bench", "prefill-512"]}).items():
        if name != "fine-tune" or not (tmp_path / "head").exists():
            assert main([*words, "--backend", "cupy"]) == 2, name
            error = capsys.readouterr().err
            assert "backend='cupy' needs CuPy, which is not installed" in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == there


def test_a_run_of_one_backend_does_not_go_on_with_another(device, checkpoint, tmp_path, capsys):
    words = commands(checkpoint, tmp_path)["train"]
    assert main([*words, "--backend", "cupy"]) == 0
    assert main([*words, "--resume"]) == 2
    assert "backend (was cupy, now numpy)" in capsys.readouterr().err


# --- the bench ---


@pytest.fixture
def on_a_gpu(device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants are processes of their own: where there is no GPU, they are to find the stand-in."""
    if device is standin.cupy:
        (tmp_path / "cupy.py").write_text("import sys\nfrom tests.standin import cupy\nsys.modules[__name__] = cupy\n")
        root = Path(__file__).parent.parent
        already = filter(None, [os.environ.get("PYTHONPATH")])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root), *already]))
    monkeypatch.setitem(bench.SHAPES, "tiny", {"vocab_size": 64, "hidden_size": 16, "n_layer": 1, "n_head": 2})
    for kind in ("prefill", "decode", "train", "generate"):
        monkeypatch.setitem(bench.WORK, f"tiny-{kind}", ("tiny", kind, 1, 8))


def test_the_bench_measures_a_gpu_beside_its_limits(on_a_gpu, tmp_path, capsys):
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs the extra `test`")
    file, works = tmp_path / "figures.json", ["tiny-prefill", "tiny-decode", "tiny-train", "tiny-generate"]
    ours = ["minibloom", "minibloom float16", "minibloom bfloat16"]
    words = [*works, "--peers", ",".join([*ours, "machine"]), "--repeats", "1", "--threads", "1"]
    assert main(["bench", *words, "--backend", "cupy", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert [(figure["work"], figure["peer"]) for figure in report["figures"]] == [
        (work, peer) for work in works for peer in (ours[:1] if "train" in work else ours)
    ]
    prefill, decode, train, generate = (f["limit"] for f in report["figures"] if f["peer"] == "minibloom")
    assert prefill == train == "multiplying" and decode in ("multiplying", "reading")
    assert generate == "multiplying, then decoding"
    assert all(
        figure["median"] > 0 and figure["share"] > 0 and figure["memory_above"] >= 0 for figure in report["figures"]
    )
    assert "CuPy" in report["machine"] and "driver" in report["machine"]


def test_cost_is_measured_on_a_gpu_in_each_precision(on_a_gpu, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs the extra `test`")
    monkeypatch.setitem(bench.SHAPES, "bloom-560m", bench.SHAPES["tiny"])
    monkeypatch.setattr(bench_cost, "BATCHES", (2,))
    monkeypatch.setattr(bench_cost, "LENGTHS_ON_A_GPU", (8,))
    file, words = tmp_path / "cost.json", ["--cost", "--repeats", "1", "--threads", "1"]
    assert main(["bench", *words, "--backend", "cupy", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    ours = ["minibloom", "minibloom float16", "minibloom bfloat16"]
    assert [(f["peer"], f["work"]) for f in figures] == [
        (peer, f"{work} 2x8") for peer in ours for work in ("prefill", "decode")
    ]
    assert figures[0]["tokens_a_byte"] < figures[2]["tokens_a_byte"] == figures[4]["tokens_a_byte"]


@pytest.mark.parametrize(
    ("torch", "says"),
    [
        ("None 2.13.0+cpu", "torch 2.13.0+cpu is made for the CPU alone"),
        ("13.0 2.13.0+cu130", "torch 2.13.0+cu130 is for CUDA 13.0, which this driver does not run"),
    ],
)
def test_a_torch_without_the_gpu_is_said_before_anything_is_measured(on_a_gpu, monkeypatch, capsys, torch, says):
    """Else the one run on a borrowed GPU has no other side to compare with."""
    monkeypatch.setattr(cli_bench, "find_spec", lambda name: True)
    monkeypatch.setattr(cli_bench, "machine", lambda *_: "a machine")
    monkeypatch.setattr(bench, "_process", lambda code, threads: (0.0, f"False {torch}\n"))
    asked = []
    monkeypatch.setattr(cli_bench, "measured", lambda chosen, peers, *_: asked.extend(peers) or [])
    assert main(["bench", "tiny-prefill", "--backend", "cupy"]) == 0
    assert asked == ["minibloom", "minibloom float16", "minibloom bfloat16", "machine"]
    said = capsys.readouterr().out
    assert says in said and "install --force-reinstall torch==2.13.0 " in said and "not installed" not in said
    assert main(["bench", "tiny-prefill", "--backend", "cupy", "--peers", "minibloom,transformers"]) == 2
    assert says in capsys.readouterr().err
    monkeypatch.setattr(bench, "_process", lambda code, threads: (0.0, "True 13.0 2.13.0\n"))
    assert main(["bench", "tiny-prefill", "--backend", "cupy"]) == 0 and asked[-1] == "machine"
    assert "transformers bfloat16" in asked and "left out" not in capsys.readouterr().out


def test_on_a_gpu_only_what_runs_there_is_measured(on_a_gpu, capsys):
    for words, says in (
        (["import"], "import is measured on the CPU alone"),
        (["--growth"], "--growth is measured on the CPU alone"),
        (["prefill-512", "--peers", "CTranslate2"], "no contestant 'CTranslate2'"),
    ):
        assert main(["bench", *words, "--backend", "cupy"]) == 2
        assert says in capsys.readouterr().err
