"""Checks of lesson 6, one block."""

from __future__ import annotations

import math

import numpy as np

from minibloom import BloomConfig, BloomForCausalLM
from minibloom.layers.mlp import gelu

from . import Checks, same

check = Checks()


@check.exercise
def gelu_slope(answer):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(200) * 2, [0.0, -0.75, 2.7, -2.7]]).reshape(4, -1)
    given = answer(x.copy())
    assert given is not None, "gelu_slope returned None: does it return the array?"
    same(given, (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5, "the slope, against differences of gelu,", within=1e-8)
    same(answer(np.zeros(3)), [0.5] * 3, "the slope at 0")
    same(answer(np.array([30.0, -30.0])), [1.0, 0.0], "the slope far out, at 30 and -30")


@check.exercise
def neuron_writes(answer):
    rng = np.random.default_rng(1)
    for B, S, E in ((1, 5, 6), (2, 3, 4)):
        m, up, down = (rng.standard_normal(s) for s in ((B, S, E), (4 * E, E), (E, 4 * E)))
        up_bias, total = rng.standard_normal(4 * E), 0.0
        for n in range(4 * E):
            given = answer(m.copy(), up.copy(), up_bias.copy(), down.copy(), n)
            assert given is not None, "neuron_writes returned None: does it return the array?"
            assert np.shape(given) == (B, S, E), f"the shape is {list(np.shape(given))}, expected {[B, S, E]}"
            silenced = up.copy(), up_bias.copy()
            silenced[0][n], silenced[1][n] = 0, 0  # gelu(0) = 0
            both = [gelu(m @ w.T + b) @ down.T for w, b in ((up, up_bias), silenced)]
            same(given, both[0] - both[1], f"what neuron {n} of {4 * E} writes")
            total = total + given
        same(total, gelu(m @ up.T + up_bias) @ down.T, "the sum over all neurons")


@check.exercise
def wired(answer):
    x = np.random.default_rng(2).standard_normal((2, 3, 4))
    seen: list[str] = []

    def part(name, f):
        def run(z):
            seen.append(name)
            return f(z)

        return run

    parts = [part("norm_1", lambda z: 3 * z), part("attention", lambda z: z**2)]
    parts += [part("norm_2", lambda z: 7 - z), part("mlp", lambda z: z / 5)]
    one, case = np.ones((1, 1, 1)), "x = 1, the norms 3x and 7 - x, attention x², MLP x / 5, the switch"
    same(answer(one.copy(), *parts, False), [[[9.4]]], f"{case} off: the stream after the block")
    same(answer(one.copy(), *parts, True), [[[-6.0]]], f"{case} on: the stream after the block")
    for switch in (False, True):
        seen.clear()
        before = x.copy()
        given = answer(before, *parts, switch)
        case = f"with after_norm={switch}"
        assert (before == x).all(), f"{case}, the x that was given has changed: make a new array"
        assert seen == ["norm_1", "attention", "norm_2", "mlp"], f"{case}, these ran: {', '.join(seen)}"
        first = 9 * x**2 + (3 * x if switch else x)
        kept = (7 - first) if switch else first
        same(given, kept + (7 - first) / 5, f"{case}, the stream after the block")


@check.exercise
def parameters(answer):
    for E, L, V in ((1024, 24, 250880), (14336, 70, 250880), (256, 4, 4096), (8, 1, 11), (12, 3, 5)):
        shapes = BloomForCausalLM.shapes(BloomConfig(vocab_size=V, hidden_size=E, n_layer=L, n_head=2))
        expected = sum(math.prod(shape) for shape in shapes.values())
        given = answer(E, L, V)
        assert given == expected, f"E = {E}, L = {L}, V = {V}: {given}, expected {expected}"
