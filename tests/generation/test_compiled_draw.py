"""The draw among the k likeliest as one loop: the ids that filter and `pick` give, and only where it suits."""

from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM
from minibloom.generation import compiled_draw as module
from minibloom.generation import decode
from minibloom.generation.compiled_draw import draw_numbers, drawn
from minibloom.generation.filters import keep_top_k, pick

from ..strategies import seeds, some


@pytest.fixture(params=["in Python", "compiled"])
def way(request, monkeypatch):
    """As it stands, and compiled."""
    monkeypatch.setattr(module, "at_hand", lambda: True)
    if request.param == "in Python":
        monkeypatch.setattr(module, "machine_code", lambda: draw_numbers)
    else:
        pytest.importorskip("numba", reason="Numba is optional")


@some
@given(
    B=st.integers(1, 4), V=st.integers(1, 60), k=st.integers(1, 70), whole=st.booleans(), gone=st.booleans(), seed=seeds
)
def test_the_ids_are_those_of_filter_and_pick(B, V, k, whole, gone, seed):
    rng = numpy.random.default_rng(seed)
    logits = 3 * rng.normal(size=(B, V)).astype("float32")
    if whole:
        logits = logits.round()  # many equal each other, the k-th too
    if gone:
        logits[:, rng.integers(0, V, V // 3)] = -math.inf
    u = rng.random(B)
    for code in filter(None, (draw_numbers, module.machine_code())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "at_hand", lambda: True)
            patch.setattr(module, "machine_code", lambda code=code: code)
            found = drawn(logits, k, u)
        if k > V or (numpy.sum(logits > -math.inf, axis=1) < k).any():
            assert found is None
        else:
            assert found.tolist() == pick(keep_top_k(logits, k), u).tolist()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("u", [0.0, numpy.nextafter(1, 0)])
def test_the_first_and_the_last_of_the_likeliest_can_be_drawn(u):
    logits = numpy.array([[5, 1, 4, 0, 3]], "float32")
    assert drawn(logits, 3, numpy.array([u])).tolist() == ([0] if u == 0 else [4])


@pytest.mark.usefixtures("way")
def test_even_the_least_weight_is_counted():
    """e^-105 is nothing in float32, but `pick` computes in float64; and e^90 and more is infinite in float32."""
    for logits, u in (([[-105, 0]], 0.0), ([[300, 1000]], 0.5), ([[-3000, -2999]], 0.2)):
        logits, u = numpy.array(logits, "float32"), numpy.array([u])
        assert drawn(logits, 2, u).tolist() == pick(keep_top_k(logits, 2), u).tolist()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
@pytest.mark.parametrize("place", [0, 8])
def test_a_row_that_is_not_finite_is_left_to_the_plain_path_which_says_so(value, place):
    logits = numpy.zeros((2, 9), "float32")
    logits[1, place] = value
    assert drawn(logits, 3, numpy.full(2, 0.5)) is None


def test_it_does_not_wait_for_numba_and_takes_float32_on_the_host_alone(monkeypatch):
    logits, u = numpy.zeros((1, 9), "float32"), numpy.full(1, 0.5)
    monkeypatch.setattr(module, "machine_code", lambda: draw_numbers)
    assert drawn(logits, 3, u) is None
    monkeypatch.setattr(module, "at_hand", lambda: True)
    assert drawn(logits, 3, u) is not None
    assert drawn(logits.astype("float64"), 3, u) is None
    monkeypatch.setattr(module, "MOST", 8)
    assert drawn(logits, 3, u) is None  # many
    monkeypatch.setattr(module, "MOST", 9)
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    assert drawn(logits, 3, u) is not None
    assert drawn(logits, 4, u) is None  # many of them
    monkeypatch.setattr(module, "machine_code", lambda: None)
    assert drawn(logits, 3, u) is None


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({}, 6),
        ({"top_k": 5, "num_return_sequences": 3}, 6),
        ({"temperature": 0.7}, 0),
        ({"top_p": 0.9}, 0),
        ({"top_k": 0}, 0),
        ({"do_sample": False}, 0),
        ({"return_dict_in_generate": True, "output_scores": True}, 0),
    ],
)
def test_generate_draws_the_same_ids_by_it_where_only_the_likeliest_are_asked_for(settings, times, monkeypatch):
    model = BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=8, n_layer=1, n_head=2), seed=0)
    call = {"max_new_tokens": 6, "eos_token_id": [], "do_sample": True} | settings
    call |= {"seed": 0} if call["do_sample"] else {}
    calls = []

    def noted(logits, k, u):
        calls.append(drawn(logits, k, u))
        return calls[-1]

    plain = model.generate([[1, 2, 3]], **call)
    monkeypatch.setattr(decode, "drawn", noted)
    monkeypatch.setattr(module, "at_hand", lambda: True)
    monkeypatch.setattr(module, "machine_code", lambda: draw_numbers)
    ours = model.generate([[1, 2, 3]], **call)
    ids = [getattr(out, "sequences", out).tolist() for out in (plain, ours)]
    assert ids[0] == ids[1]
    assert len(calls) == times and all(found is not None for found in calls)
