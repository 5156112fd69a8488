"""Checks of lesson 11, generation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy

from . import Checks

check = Checks()


@check.exercise
def keep_top_h(answer: Any) -> None:
    rng = numpy.random.default_rng(11)
    even = answer(numpy.full(8, 1 / 8), 0.5)
    assert numpy.shape(even) == (8,), f"for 8 probabilities it returned the shape {list(numpy.shape(even))}, not [8]."
    assert int(numpy.sum(even)) == 4, (
        f"of 8 equal tokens, half of the entropy is in 4; it keeps {int(numpy.sum(even))}."
    )
    sure = numpy.asarray(answer(numpy.array([0.02, 0.97, 0.01]), 0.1))
    assert bool(sure[1]), "the likeliest token must stay, even where its term alone is more than h of the entropy."
    assert int(sure.sum()) == 1, "with h = 0.1 and one token at 0.97, only that one stays."
    with numpy.errstate(all="ignore"):
        zeros = numpy.asarray(answer(numpy.array([0.0, 0.5, 0.0, 0.5]), 1.0))
    assert zeros[[1, 3]].all(), "a probability of 0 has a term of 0: it must not spoil the sum with NaN."
    for _ in range(30):
        z = rng.normal(0, 2, 40)
        p = numpy.exp(z) / numpy.exp(z).sum()
        h = float(rng.uniform(0.1, 0.9))
        kept = numpy.asarray(answer(p.copy(), h)).astype(bool)
        terms = -p * numpy.log(p)
        assert kept.any() and (p[kept].min() >= p[~kept].max(initial=0)), (
            "a token stays although a likelier one goes: sort by probability, not by the size of the terms."
        )
        inside = terms[kept].sum() <= h * terms.sum() + 1e-9 or kept.sum() == 1
        assert inside, f"h = {h:.2f}: the terms that stay hold {terms[kept].sum() / terms.sum():.2f} of the entropy."
        if (~kept).any():
            following = terms[~kept][p[~kept].argmax()]
            assert terms[kept].sum() + following > h * terms.sum() - 1e-9, "it stops too soon: one more token has room."


@check.exercise
def banned_by_ngrams(answer: Any) -> None:
    given = answer([5, 6, 7, 5, 6], 3)
    assert set(given) == {7}, f"after 5 6 7 5 6, runs of 3 forbid 7 and nothing else; it forbids {set(given)}."
    assert set(answer([5, 6, 7], 1)) == {5, 6, 7}, "runs of 1: every id that is there is forbidden."
    assert set(answer([4], 3)) == set(), "a text shorter than the run forbids nothing."
    given = answer([1, 2, 1, 3, 1], 2)
    assert set(given) == {2, 3}, f"1 was followed by 2 and by 3, and both are forbidden; it forbids {set(given)}."
    assert set(answer([8, 8], 2)) == {8}, "8 8: a third 8 would repeat the run 8 8."
    assert set(answer([8, 8], 3)) == set(), "8 8 and a third 8 is the first run of three, not the second."
    rng = numpy.random.default_rng(12)
    for size in (1, 2, 3, 4):
        for _ in range(20):
            ids = rng.integers(0, 3, 14).tolist()
            runs = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)}
            wanted = {v for v in range(3) if tuple([*ids, v][-size:]) in runs}
            given = set(answer(list(ids), size))
            assert given == wanted, f"ids {ids}, size {size}: it forbids {given}, expected {wanted}."


@check.exercise
def tokens_per_pass(answer: Any) -> None:
    assert abs(answer(0.0, 5) - 1) < 1e-12, "when every guess is wrong, a pass still yields the model's own token."
    assert abs(answer(1.0, 5) - 6) < 1e-12, "when every guess is right, 5 guesses and the free token are 6."
    assert abs(answer(0.7, 0) - 1) < 1e-12, "without guesses a pass yields one token."
    for a, n in ((0.5, 3), (0.9, 6), (0.3, 4)):
        expected = 0.0  # over all ways in which n guesses can go
        for way in product((True, False), repeat=n):
            kept = (*way, False).index(False)
            expected += (kept + 1) * a ** sum(way) * (1 - a) ** (n - sum(way))
        given = answer(a, n)
        assert abs(given - expected) < 1e-9, f"a = {a}, n = {n}: {given:.4g}, counted over all ways {expected:.4g}."


@check.exercise
def held_back(answer: Any) -> None:
    for text, stop, wanted, why in (
        ("equal rig", "rights", 3, "'rig' may become 'rights'"),
        ("equal", "rights", 0, "no beginning of 'rights' stands at its end"),
        ("", "stop", 0, "nothing is there"),
        ("ab", "abc", 2, "a text shorter than the stop string may be its beginning as a whole"),
        ("aaa", "aaaa", 3, "the longest beginning counts"),
        ("xabab", "ababc", 4, "'abab' is longer than 'ab', and both are beginnings"),
        ("the end.", "\n", 0, "a stop string of one character has no beginning to wait for"),
        ("人人生而自", "自由", 1, "'自' may become '自由'"),
        ("rights and r", "rix", 1, "only the end of the text matters"),
    ):
        given = answer(text, stop)
        assert given == wanted, f"text {text!r}, stop {stop!r}: {given}, expected {wanted}, for {why}."
