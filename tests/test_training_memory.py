"""What a training step holds: steps go as they are used, and nothing is left for Python's search for circles."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy
import pytest

from minibloom import BloomConfig, BloomForCausalLM, base
from minibloom.settings import TrainingSettings
from minibloom.trace import Tape
from minibloom.training import Batches, train


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_of_a_step_is_left(recompute):
    model, ids = BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=3, n_head=2)), [[*range(30)]] * 4
    model.value_and_grad(ids, labels=ids, recompute=recompute)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(3):
            model.value_and_grad(ids, labels=ids, recompute=recompute)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert left < peak / 20


def test_steps_go_as_backward_uses_them(monkeypatch):
    tapes, seen = [], []

    class Seen(Tape):
        def __init__(self, *args):
            super().__init__(*args)
            tapes.append(weakref.ref(self))

        def forget(self, start):
            assert any(name.startswith(start) for name in self)
            super().forget(start)
            seen.append({name.rpartition(".")[0].split(".")[1] for name in self if name.count(".") > 1})

    monkeypatch.setattr(base, "Tape", Seen)
    model = BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=3, n_head=2))
    model.value_and_grad(numpy.arange(6)[None], labels=numpy.arange(6)[None])
    assert seen == [{"0", "1"}, {"0"}, set()]
    assert len(tapes) == 1 and tapes[0]() is None


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_are_gone_before_the_next_step_makes_others(tmp_path, monkeypatch, accumulation):
    made, alive = [], []

    def spy(self, *args, **kwargs):
        alive.append(sum(ref() is not None for ref in made))
        out, grads = original(self, *args, **kwargs)
        made.extend(map(weakref.ref, grads.values()))
        return out, grads

    original = BloomForCausalLM.value_and_grad
    monkeypatch.setattr(BloomForCausalLM, "value_and_grad", spy)
    model, ids = BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=3, n_head=2)), [[*range(30)]]
    settings = TrainingSettings(steps=2, accumulation=accumulation)
    train(model, Batches([{"input_ids": ids, "labels": ids}]), settings, tmp_path, progress=False)
    assert alive == [0, *[len(model.params)] * (accumulation - 1)] * 2  # of a step's passes, the sum so far
