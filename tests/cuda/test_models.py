"""A model on a device computes by kernels: what it gives and learns is what NumPy gives, and each is launched."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.backend import to_numpy
from minibloom.optimizer import AdamW, clip_gradients

from ..bridge import silent
from ..strategies import random_params
from .kernels import launches, on_devices, there

pytestmark = on_devices
CONFIG = BloomConfig(vocab_size=23, hidden_size=12, n_layer=2, n_head=3)
IDS = numpy.random.default_rng(0).integers(0, 23, (2, 7))
MASK = numpy.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
BLOCK = ["layer_norm", "attention", "add_and_norm", "bias_gelu"]
BLOCK_BACK = ["gelu_backward", "layer_norm_backward", "layer_norm_sums", "attention_dq", "attention_dkv"]


def twins(**changes: Any) -> tuple[BloomForCausalLM, BloomForCausalLM]:
    """The same model on the host and on the device, in float32."""
    config = CONFIG.replace(**changes)
    host, device = BloomForCausalLM(config), BloomForCausalLM(config, backend="cupy")
    host.params = random_params(host.shapes(config), 0, "float32")
    device.params = there(host.params)
    return host, device


def near(found: Any, expected: Any) -> None:
    assert abs(to_numpy(found) - expected).max() <= 1e-5 * max(1, abs(expected).max())


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_a_pass(device, mask):
    host, model = twins()
    with silent(device), launches() as names:
        out = model(IDS, attention_mask=mask)
    near(out.logits, host(IDS, attention_mask=mask).logits)
    assert names == ["layer_norm", *BLOCK, *BLOCK, "layer_norm"]


def test_a_cached_pass(device):
    host, model = twins()
    cache, past = model.init_cache(2, 50), host.init_cache(2, 50)
    for length in (33, 3):
        ids = numpy.random.default_rng(length).integers(0, 23, (2, length))
        with silent(device), launches() as names:
            out = model(ids, past_key_values=cache)
        near(out.logits, host(ids, past_key_values=past).logits)
        assert names.count("attention") == names.count("farthest") == 2


@pytest.mark.parametrize("more", [{}, {"output_logits": False}, {"recompute": True}], ids=["", "chunks", "recompute"])
def test_gradients_and_a_step(device, more):
    host, model = twins()
    call = {"attention_mask": MASK, "labels": IDS, **more}
    expected, grads = host.value_and_grad(IDS, **call)
    with silent(device), launches() as names:
        out, found = model.value_and_grad(IDS, **call)
    near(out.loss, expected.loss)
    for name, gradient in grads.items():
        near(found[name], gradient)
    again = BLOCK if "recompute" in more else []
    backward = [*BLOCK_BACK, "layer_norm_backward", "layer_norm_sums"]
    start = ["layer_norm", *BLOCK, *BLOCK, "layer_norm", "cross_entropy", "layer_norm_backward", "layer_norm_sums"]
    end = ["layer_norm_backward", "layer_norm_sums"]
    assert names == [*start, *again, *backward, *again, *backward, *end]

    same = there(grads)  # for where a gradient is a rounding error, its sign is what the first step of AdamW takes
    with launches() as names:
        for one, of_one in ((host, grads), (model, same)):
            clip_gradients(of_one, 0.1)
            AdamW(one.params).step(one.params, of_one, 1e-2, 0.1)
    for name, p in host.params.items():
        near(model.params[name], p)
    assert names == ["squares", "scale", "adamw"]


def test_watching_shows_every_step_and_changes_nothing_else(device):
    """Who asks for what a kernel leaves out gets it from array code; the others are those of NumPy too."""
    host, model = twins()
    trace, expected = Trace(), Trace()
    host(IDS, attention_mask=MASK, trace=expected)
    with silent(device), launches() as names:
        model(IDS, attention_mask=MASK, trace=trace)
    assert list(trace) == list(expected)
    for name, value in expected.items():
        if not name.endswith("scores"):  # which are masked by the lowest number
            near(trace[name], value)
    assert names == ["layer_norm", *(2 * ["layer_norm", "layer_norm", "gelu"]), "layer_norm"]

    some = Trace("*.mlp.*", "*.attention_residual")
    watched, blind = model(IDS, trace=some), model(IDS)
    assert (watched.logits.get() == blind.logits.get()).all()


def test_edits_of_what_a_kernel_passes_over_are_seen(device):
    host, model = twins()
    steps = ("attention_residual", "mlp.dense_h_to_4h", "mlp.gelu", "self_attention.weights", "self_attention.query")
    for step in steps:
        edits = {f"h.0.{step}": lambda x: 2 * x}
        near(model(IDS, trace=Trace(edits=edits)).logits, host(IDS, trace=Trace(edits=edits)).logits)


def test_dropout_and_float64_are_left_to_array_code(device):
    _, model = twins(hidden_dropout=0.1, attention_dropout=0.1)
    with launches() as names:
        model.value_and_grad(IDS, labels=IDS, train=True, seed=0)
    assert not {"attention", "attention_dq", "attention_dkv"} & {*names} and "add_and_norm" in names
    wide = BloomForCausalLM(CONFIG, dtype="float64", backend="cupy")
    with launches() as names:
        wide.value_and_grad(IDS, labels=IDS)
    assert names == []
