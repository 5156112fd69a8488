"""Checks of lesson 0, from text to text."""

from __future__ import annotations

import numpy as np

from minibloom import BloomConfig, BloomForCausalLM

from . import Checks, same

check = Checks()


@check.exercise
def probabilities(answer):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2, 3, 5)) * 4
    expected = np.array([[[np.exp(v) / sum(np.exp(w) for w in row) for v in row] for row in text] for text in z])
    given = answer(z.copy())
    same(given, expected, "probabilities of logits [2, 3, 5]")
    same(answer(z[0, 0]), expected[0, 0], "probabilities of logits [5], without other axes")
    with np.errstate(all="ignore"):
        large = answer(np.array([1000.0, 999.0, -1000.0]))
    assert np.isfinite(large).all(), "logits of 1000 give inf or NaN, as exp(1000) overflows. What may be subtracted?"
    same(large, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0], "probabilities of logits [1000, 999, -1000]")
    with np.errstate(all="ignore"):
        same(answer(np.array([3000.0, 0, 0])), [1, 0, 0], "where one logit is far above the mean, the probabilities")
    rows = np.array([[0.0, 1.0], [5000.0, 5001.0]])
    same(answer(rows), [[0.26894142, 0.73105858]] * 2, "rows that differ by a constant")


@check.exercise
def greedy(answer):
    model = BloomForCausalLM(BloomConfig(vocab_size=23, hidden_size=16, n_layer=1, n_head=2), seed=3)
    model.params["word_embeddings.weight"] *= 30  # a model that is sure of what it says, and says different things
    start = [5, 11, 2]
    expected = model.generate([start], max_new_tokens=8, eos_token_id=[])[0].tolist()
    given = answer(model, list(start), 8, 23, -1)
    assert given is not None, "greedy returned None: does it return the list?"
    assert len(given) == len(start) + 8, f"expected {len(start) + 8} ids, 3 given and 8 new, got {len(given)}"
    same(given, expected, "the ids of a small random model")
    kept = list(start)
    answer(model, kept, 2, 23, -1)
    assert kept == start, "the list that was given has changed: make a new one"
    end = expected[len(start) + 1]
    stopped = answer(model, list(start), 8, 23, end)
    where = expected.index(end, len(start)) + 1
    same(stopped, expected[:where], "with a token that ends the text, the ids up to it")
    known = max(expected[len(start) :])  # the largest id that it would take may not be taken any more
    assert max(answer(model, list(start), 8, known, -1)[3:]) < known, (
        f"an id of {known} or more is not known, and was taken"
    )


@check.exercise
def surprise(answer):
    rng = np.random.default_rng(1)
    for S, V in ((2, 3), (6, 9)):
        logits, ids = rng.standard_normal((S, V)) * 3, rng.integers(0, V, S)
        total = 0.0
        for t in range(S - 1):
            p = np.exp(logits[t]) / np.exp(logits[t]).sum()
            total -= np.log(p[ids[t + 1]])
        same(answer(logits, ids), total / (S - 1), f"the surprise of a text of {S} tokens")
    same(answer(np.zeros((5, 8)), np.array([0, 1, 2, 3, 4])), np.log(8), "without any preference among 8 tokens, ln 8:")
    same(answer(logits + 2000, ids), answer(logits, ids), "logits that are all 2000 larger")
