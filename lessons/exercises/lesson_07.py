"""Checks of lesson 7, the whole model."""

from __future__ import annotations

import math
from typing import Any

import numpy

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.config import parameter_shapes
from minibloom.layers.layer_norm import layer_norm

from . import Checks

check = Checks()


@check.exercise
def shapes(answer: Any) -> None:
    for V, E, L in ((512, 48, 3), (384, 8, 1), (130, 6, 12)):
        expected = parameter_shapes(BloomConfig(vocab_size=V, hidden_size=E, n_layer=L, n_head=2))
        given = answer(V, E, L)
        assert isinstance(given, dict), f"expected a dictionary, got {type(given).__name__}."
        missing, foreign = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
        assert not missing, f"with {L} blocks, {len(missing)} names are missing, {missing[0]!r} for one."
        assert not foreign, f"this BLOOM has no parameter called {foreign[0]!r}."
        for name, shape in expected.items():
            assert tuple(given[name]) == shape, f"{name} is {given[name]}, expected {shape} for V={V}, E={E}."


@check.exercise
def next_token(answer: Any) -> None:
    rng = numpy.random.default_rng(7)
    for trial in range(20):
        V, E, S, tokens = 40, 16, int(rng.integers(1, 6)), 33
        params = {
            "word_embeddings.weight": rng.normal(size=(V, E)) + numpy.linspace(0, 2, V)[:, None],
            "ln_f.weight": rng.normal(size=E),
            "ln_f.bias": 2 * rng.normal(size=E),
        }
        x = rng.normal(size=(S, E)) * 30 + rng.normal() * 20
        normed = layer_norm(x, params["ln_f.weight"], params["ln_f.bias"], 1e-5)
        logits = normed @ params["word_embeddings.weight"].T
        given = answer(x, params, tokens)
        assert numpy.ndim(given) == 0, f"expected one id, got {given!r}: only the last position counts."
        assert given < tokens, f"{given} is a row of the table, but no token: there are {tokens} of them."
        right = logits[-1, :tokens].argmax()
        skipped = (x[-1] @ params["word_embeddings.weight"][:tokens].T).argmax()
        hint = " That is what comes without ln_f." if given == skipped != right else ""
        assert given == right, f"in case {trial} the id is {given}, expected {right}.{hint}"


@check.exercise
def lens(answer: Any) -> None:
    for seed in range(4):
        config = BloomConfig(vocab_size=96, hidden_size=16, n_layer=3, n_head=2)
        model, rng = BloomForCausalLM(config, seed=seed), numpy.random.default_rng(seed)
        weight, bias = rng.normal(size=16).astype("float32"), rng.normal(size=16).astype("float32")
        model.params |= {"ln_f.weight": weight, "ln_f.bias": bias}
        table, tokens, trace = model.params["word_embeddings.weight"], 80, Trace()
        ids = rng.integers(0, 80, (1, 9))
        hidden = [x[0] for x in model(ids, output_hidden_states=True, trace=trace).hidden_states]
        streams = [trace["word_embeddings_layernorm"][0], *(trace[f"h.{i}"][0] for i in range(3))]
        expected = numpy.stack([(layer_norm(x, weight, bias, 1e-5) @ table[:tokens].T).argmax(-1) for x in streams])
        given = answer(hidden, lambda x, w=weight, b=bias: layer_norm(x, w, b, 1e-5), table, tokens)
        given = numpy.asarray(given)
        assert given.shape == expected.shape, (
            f"the ids have shape {list(given.shape)}, expected {list(expected.shape)}."
        )
        assert given.max() < tokens, f"id {given.max()} is no token: there are {tokens}."
        for level, (ours, theirs) in enumerate(zip(expected, given, strict=True)):
            which = "the last state" if level == 3 else f"state {level}"
            assert (ours == theirs).all(), f"{which} reads {theirs.tolist()}, expected {ours.tolist()}."


@check.exercise
def training_flops(answer: Any) -> None:
    for V, E, L, S, rows in (
        (96, 16, 2, 8, 1),
        (96, 16, 2, 8, 5),
        (4096, 256, 4, 256, 44_000),
        (250_880, 14_336, 70, 2048, 3),
    ):
        every_product = [(3 * E, E), (E, E), (4 * E, E), (E, 4 * E)] * L + [(V, E)]
        forward = sum(2 * S * out * into for out, into in every_product)
        forward += L * 2 * (2 * S * S * E)
        given, expected = answer(V, E, L, S, rows * S), 3 * rows * forward
        ratio = given / expected
        message = f"V={V}, E={E}, L={L}, rows of {S}, {rows * S} tokens: {given:.6g}, expected {expected:.6g}"
        if math.isclose(ratio, 1 / 3, rel_tol=1e-9):
            message += ". That is forward alone"
        assert math.isclose(ratio, 1, rel_tol=1e-9), f"{message}."
