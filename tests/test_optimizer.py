"""From gradients to a step: each part against its definition."""

from __future__ import annotations

import math
from itertools import pairwise
from unittest import mock

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import optimizer as module
from minibloom.optimizer import AdamW, clip_gradients, learning_rate
from minibloom.settings import TrainingSettings

from .strategies import few, normal, seeds

rates = st.floats(0, 0.1)
betas = st.floats(0, 0.999)


def gradients(seed: int, shapes: dict[str, tuple[int, ...]], steps: int) -> list[dict[str, numpy.ndarray]]:
    return [{name: normal(seed + i, *shape) for name, shape in shapes.items()} for i in range(1, steps + 1)]


def textbook_adamw(p: float, grads: list[float], rate: float, beta1: float, beta2: float, decay: float) -> float:
    """Algorithm 2 of Loshchilov & Hutter (2019) for one number, line by line."""
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - rate * (m_hat / (math.sqrt(v_hat) + 1e-8) + decay * p)
    return p


SHAPES = {"matrix": (2, 3), "vector": (4,)}


@pytest.mark.parametrize("piece", [1, 3, 2**15])  # numbers at a time: a row, all that are there
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 5), rate=rates, beta1=betas, beta2=betas, decay=rates)
@few
def test_adamw_is_the_textbooks_and_decays_matrices_alone(piece, seed, steps, rate, beta1, beta2, decay):
    params = {name: normal(seed, *shape) for name, shape in SHAPES.items()}
    start, grads = {name: p.copy() for name, p in params.items()}, gradients(seed, SHAPES, steps)
    optimizer = AdamW(params, beta1, beta2)
    with mock.patch.object(module, "PIECE", piece):
        for each in grads:
            optimizer.step(params, each, rate, decay)
    for name, p in params.items():
        for i in numpy.ndindex(p.shape):
            own_decay = decay if name == "matrix" else 0.0
            expected = textbook_adamw(start[name][i], [g[name][i] for g in grads], rate, beta1, beta2, own_decay)
            assert p[i] == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(seed=st.integers(0, 2**31), rate=rates, beta1=betas, beta2=betas, decay=rates)
@few
def test_adamw_is_torchs(seed, rate, beta1, beta2, decay):
    torch = pytest.importorskip("torch")
    params = {name: normal(seed, *shape) for name, shape in SHAPES.items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    groups = [{"params": [theirs["matrix"]], "weight_decay": decay}, {"params": [theirs["vector"]], "weight_decay": 0}]
    reference, optimizer = torch.optim.AdamW(groups, lr=rate, betas=(beta1, beta2)), AdamW(params, beta1, beta2)
    for grads in gradients(seed, SHAPES, 5):
        optimizer.step(params, grads, rate, decay)
        for name, g in grads.items():
            theirs[name].grad = torch.tensor(g)
        reference.step()
    for name, p in params.items():
        numpy.testing.assert_allclose(p, theirs[name].detach().numpy(), rtol=1e-10, atol=1e-12)


@given(steps=st.integers(1, 60), warmup=st.integers(0, 80), peak=st.floats(1e-6, 1.0), final=st.floats(0, 1))
def test_the_rate_goes_up_a_line_and_down_a_cosine(steps, warmup, peak, final):
    s = TrainingSettings(steps=steps, warmup_steps=warmup, learning_rate=peak, final_rate=final)
    rates = [learning_rate(step, s) for step in range(steps)]
    up, down = rates[:warmup], rates[warmup:]
    assert up == pytest.approx([peak * (i + 1) / warmup for i in range(len(up))])  # never 0, the peak is its last
    assert all(a >= b for a, b in pairwise(down))
    if down:
        assert down[0] == pytest.approx(peak)
        assert learning_rate(steps, s) == pytest.approx(peak * final)  # where a further step would be
        for share, height in ((1 / 2, 1 / 2), (1 / 3, 3 / 4), (2 / 3, 1 / 4)):  # of the way; a line is at 2/3, 1/3
            step = warmup + share * (steps - warmup)
            assert learning_rate(step, s) == pytest.approx(peak * (final + (1 - final) * height))


@given(seed=seeds, limit=st.floats(1e-3, 10))
def test_clipping_keeps_the_direction_and_limits_the_norm_of_all_together(seed, limit):
    grads = {"a": normal(seed, 3, 2), "b": normal(seed + 1, 4)}
    before = numpy.concatenate([g.copy().ravel() for g in grads.values()])
    norm = clip_gradients(grads, limit)
    after = numpy.concatenate([g.ravel() for g in grads.values()])
    assert norm == pytest.approx(math.sqrt(math.fsum(before * before)))
    if norm <= limit:
        numpy.testing.assert_array_equal(after, before)
    else:
        numpy.testing.assert_allclose(after, before * (limit / norm), rtol=1e-12)


def test_no_gradients_have_no_norm():
    assert clip_gradients({}, 1.0) == 0
