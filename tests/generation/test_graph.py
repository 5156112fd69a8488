"""Decoding by a captured graph: the tokens of the host, one wait for the device a token, and only where it suits."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, StaticCache, Trace
from minibloom.backend import to_numpy
from minibloom.cuda.kernels import can_launch
from minibloom.generation import generate_steps
from minibloom.generation import graph as module
from minibloom.generation.generate import collect
from minibloom.generation.graph import DecodeGraph, suits_graph
from minibloom.generation.prepare import prepare

from .. import standin, tiny
from ..bridge import silent
from ..cuda.against_float64 import as_near
from ..cuda.kernels import on_devices
from ..cuda.test_matvec import weight
from ..strategies import padding_of, random_params, seeds

pytestmark = on_devices

CONFIG = BloomConfig(vocab_size=23, hidden_size=12, n_layer=2, n_head=3, pad_token_id=1)
IDS = numpy.random.default_rng(0).integers(2, 23, (2, 7))
MASK = numpy.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
PADDED = pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])


def twins(xp: Any, dtype: str = "float32", seed: int = 1, **changes: Any) -> tuple[Any, Any]:
    """The same model on the host and on the device."""
    config = CONFIG.replace(**changes)
    host, there = (BloomForCausalLM(config, dtype=dtype, backend=backend) for backend in ("numpy", "cupy"))
    host.params = random_params(host.shapes(config), seed, dtype)
    there.params = {name: xp.asarray(x) for name, x in host.params.items()}
    return host, there


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are captured from now on."""
    graphs: list[Any] = []
    capture = DecodeGraph._captured

    def seen(self: DecodeGraph) -> Any:
        graphs.append(capture(self))
        return graphs[-1]

    monkeypatch.setattr(DecodeGraph, "_captured", seen)
    return graphs


# --- passes ---


@pytest.mark.parametrize(("dtype", "B"), [("float32", 1), ("float32", 3), ("float16", 2), ("bfloat16", 2)])
@settings(max_examples=4)
@given(
    st.sampled_from([(12, 3), (40, 5)]), st.booleans(), st.booleans(),
    st.sampled_from(["none", "left", "holes"]), seeds,
)  # fmt: skip
def test_its_passes_are_those_of_the_model(device, dtype, B, shape, tied, long, padded, seed):
    """Long: several blocks of each head share the keys from the start, or begin to in the middle."""
    rng, new = numpy.random.default_rng(seed), 4
    S = int(rng.integers(125, 160)) if long else int(rng.integers(2, 6))
    host, there = twins(device, seed=seed, hidden_size=shape[0], n_head=shape[1], tie_word_embeddings=tied)
    for name, p in host.params.items():
        if p.ndim == 2:
            host.params[name], there.params[name] = weight(p, dtype, device)
    ids = rng.integers(0, 23, (B, S + new))
    mask = numpy.ones((B, S + new), "i8")
    mask[:, : S - 1] = [padding_of(padded, S - 1, rng) for _ in range(B)]

    def plain(kind: str) -> Any:
        model = BloomForCausalLM(host.config, dtype=kind)
        model.params = {name: p.astype(kind) for name, p in host.params.items()}
        cache = model(ids[:, :S], attention_mask=mask[:, :S], use_cache=True).past_key_values
        return cache, [
            model(ids[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=cache).logits[:, 0]
            for t in range(S, S + new)
        ]

    (read, float32), (_, float64) = plain("float32"), plain("float64")
    cache = there.init_cache(B, S + new + int(rng.integers(0, 200)))
    for layer, pair in enumerate(read):
        cache.update(layer, *(device.asarray(x[:, :, :S].copy()) for x in pair))
    cache.advance(S)
    graph = DecodeGraph(there, cache, device.asarray(mask[:, :S]))
    with silent(device):
        ours = [graph(device.asarray(ids[:, t])).copy() for t in range(S, S + new)]
    for one, plain_one, exact in zip(ours, float32, float64, strict=True):
        as_near(one, plain_one, exact, through=4)
    assert cache.length == S + new
    assert to_numpy(graph.chosen).tolist() == to_numpy(ours[-1]).argmax(-1).tolist()


# --- generation ---

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "rows that end": {"eos_token_id": [15]},
    "one token": {"max_new_tokens": 1},
    "two tokens": {"max_new_tokens": 2},
    "sampling": {"do_sample": True, "seed": 1, "top_k": 0},
    "filters, rows that end": {"do_sample": True, "seed": 2, "top_k": 9, "top_p": 0.9, "eos_token_id": [5, 9, 12]},
    "several of each": {"do_sample": True, "seed": 3, "num_return_sequences": 3},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "renormalize_logits": True},
}  # fmt: skip


@PADDED
@pytest.mark.parametrize("way", WAYS)
def test_generation_gives_the_ids_of_the_host(device, captured, way, mask):
    host, there = twins(device)
    options = {"max_new_tokens": 9, "eos_token_id": []} | WAYS[way]
    job = prepare(there, IDS, mask, **options)
    with silent(device):
        out = collect(job)
    expected = host.generate(IDS, attention_mask=mask, **options)
    assert to_numpy(out).tolist() == expected.tolist()
    assert job.result.passes == out.shape[1] - IDS.shape[1]
    assert len(captured) == (out.shape[1] - IDS.shape[1] > 2)
    if "eos_token_id" in WAYS[way]:
        assert (expected[:, -1] == CONFIG.pad_token_id).any(), "no row ends early: draw another model"


def test_a_static_cache_of_the_callers_is_gone_on_from(device, captured):
    host, there = twins(device)
    found = []
    for model in (host, there):
        cache = model.init_cache(2, 20)
        first = model.generate(IDS, attention_mask=MASK, past_key_values=cache, max_new_tokens=5, eos_token_id=[])
        more = to_numpy(first), numpy.concatenate([MASK, numpy.ones((2, 5), int)], axis=1)
        second = model.generate(more[0], attention_mask=more[1], past_key_values=cache, max_new_tokens=6)
        found.append([to_numpy(second).tolist(), cache.length])
        assert type(cache) is StaticCache
    assert found[0] == found[1] and len(captured) == 2


@PADDED
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 0, "top_k": 5, "top_p": 0.9}])
def test_a_step_copies_to_the_host_once(device, captured, options, mask):
    if device is not standin.cupy:
        pytest.skip("CuPy cannot tell reliably when it waits")
    steps = generate_steps(twins(device)[1], IDS, attention_mask=mask, max_new_tokens=6, eos_token_id=[], **options)
    for _ in range(6):
        with standin.no_sync(copies=1):
            next(steps)
    assert len(captured) == 1


def test_a_token_makes_no_array_that_nobody_looks_at(device):
    """Each is a launch, and the host's time for it: as long as the pass itself, on a fast GPU."""
    if device is not standin.cupy:
        pytest.skip("CuPy does not count its arrays")
    for options, most in (({}, 0), ({"do_sample": True, "seed": 1, "top_k": 0}, 5)):
        steps = generate_steps(twins(device)[1], IDS, max_new_tokens=9, eos_token_id=[], **options)
        made = []
        for _ in range(9):
            before = standin.device.made
            next(steps)
            made.append(standin.device.made - before)
        assert min(made[3:]) <= most, made  # now and then, what grows is made anew


def test_ids_without_a_token_are_left_out_without_another_copy(device, captured):
    if device is not standin.cupy:
        pytest.skip("CuPy cannot tell reliably when it waits")
    model, tokenizer = BloomForCausalLM(tiny.config(), backend="cupy"), tiny.tokenizer()
    assert model.config.vocab_size > len(tokenizer)
    steps = generate_steps(model, "the cat", tokenizer=tokenizer, max_new_tokens=4, eos_token_id=[])
    for _ in range(4):
        with standin.no_sync(copies=1):
            next(steps)
    assert len(captured) == 1


def test_steps_and_logits_that_somebody_keeps_stay_what_they_were(device):
    host, there = twins(device)
    found = []
    for model in (host, there):
        kept: list[Any] = []

        def keep(ids: Any, logits: Any, kept: list[Any] = kept) -> Any:
            kept.append(logits)
            return logits

        steps = [*generate_steps(model, IDS, max_new_tokens=5, eos_token_id=[], logits_processor=keep)]
        plain = [*generate_steps(model, IDS, max_new_tokens=5, eos_token_id=[])]
        found.append([[to_numpy(x).tolist() for x in (*steps, *plain)], [to_numpy(x) for x in kept]])
    assert found[0][0] == found[1][0]
    numpy.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)


def test_parameters_that_are_put_in_the_place_of_others_do_not_disturb_it(device):
    _, there = twins(device)
    expected = [to_numpy(x).tolist() for x in generate_steps(there, IDS, max_new_tokens=6, eos_token_id=[])]
    found = []
    for i, chosen in enumerate(generate_steps(there, IDS, max_new_tokens=6, eos_token_id=[])):
        found.append(to_numpy(chosen).tolist())
        if i == 1:  # between the pass that loads kernels and the one that is captured
            there.params["ln_f.weight"] = 0 * there.params["ln_f.weight"]
        if i == 3:
            there.params = {name: 0 * p for name, p in there.params.items()}
    assert found == expected


# --- where it suits ---


def test_what_suits_it(device, monkeypatch):
    def suits(changes: dict[str, Any] | None = None, dtype: str = "float32", ids: Any = IDS, **options: Any) -> bool:
        _, there = twins(device, dtype, **(changes or {}))
        return suits_graph(prepare(there, ids, **{"max_new_tokens": 3} | options))

    _, model = twins(device)
    assert suits() and suits({"slow_but_exact": True}) and suits(do_sample=True, num_return_sequences=16)
    assert suits(past_key_values=model.init_cache(2, 9))
    assert not suits(dtype="float64")
    assert not suits({"apply_residual_connection_post_layernorm": True})
    assert not suits({"slow_but_exact": True, "pretraining_tp": 2})
    assert not suits({"hidden_size": 132, "n_head": 1})
    assert not suits(do_sample=True, num_return_sequences=17)
    assert not suits(trace=Trace())
    assert not suits(return_dict_in_generate=True)
    assert not suits(past_key_values=model(IDS[:, :2]).past_key_values)
    if device is standin.cupy:
        with standin.memory(free=10**5):
            assert suits() and not suits(max_new_tokens=500)  # of which a row may need but few
    for other in (  # weights that are no rows of float32 numbers, or lie where no 16 bytes can be read at once
        model.params["word_embeddings.weight"].astype("float64"),
        device.zeros((12, 23), dtype="float32").T,
        device.zeros(23 * 12 + 1, dtype="float32")[1:].reshape(23, 12),
    ):
        there = twins(device)[1]
        there.params["word_embeddings.weight"] = other
        assert not suits_graph(prepare(there, IDS, max_new_tokens=3))
    host = twins(device)[0]
    assert not suits_graph(prepare(host, IDS, max_new_tokens=3))
    monkeypatch.setattr(module, "can_launch", lambda xp: False)
    assert not suits() and can_launch(device)
