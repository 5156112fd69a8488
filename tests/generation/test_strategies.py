"""Strategies against slow plain definitions, without caches; rows as if alone; what a run returns and hands back."""

from __future__ import annotations

import copy
import math
import tracemalloc
import warnings
from collections import Counter
from itertools import chain, islice, permutations, product
from typing import Any
from unittest import mock

import numpy
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Cache, InputError, StaticCache, Trace, WindowCache
from minibloom.generation import PromptCache, beams, generate_steps
from minibloom.generation.filters import log_softmax, processed
from minibloom.generation.prepare import prepare
from minibloom.generation.reader import Reader
from minibloom.generation.speculative import Lookup
from minibloom.layers.softmax import softmax

from ..strategies import models, random_model, seeds, token_ids

draws, dear = settings(max_examples=15), settings(max_examples=7)
MODEL = random_model(BloomConfig(vocab_size=11, hidden_size=8, n_layer=2, n_head=2), 1)
IDS = [[1, 2, 3]]
FREE = {"eos_token_id": []}  # nothing ends a row


def next_log_probs(model: BloomForCausalLM, ids: list[int]) -> numpy.ndarray:
    return log_softmax(model([ids], use_cache=False).logits[0, -1])


# --- Beams ---


@given(model=models(vocab_size=4), seed=seeds, length_penalty=st.sampled_from([0.0, 1.0, -1.0]))
@dear
def test_beams_enough_for_everything_find_the_best_of_all_continuations(model, seed, length_penalty):
    prompt = numpy.random.default_rng(seed).integers(0, 4, 2).tolist()
    scores: dict[tuple[int, ...], float] = {}  # every continuation of up to 3 tokens, which 0 ends
    for tokens in product(range(4), repeat=3):
        end = tokens.index(0) + 1 if 0 in tokens else 3
        tokens = tokens[:end]
        total = sum(next_log_probs(model, [*prompt, *tokens[:i]])[t] for i, t in enumerate(tokens))
        scores[tokens] = total / end**length_penalty
    out = model.generate(
        [prompt], num_beams=40, num_return_sequences=3, max_new_tokens=3, eos_token_id=0, pad_token_id=0,
        length_penalty=length_penalty, early_stopping="never", return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    best = sorted(scores, key=lambda tokens: -scores[tokens])[:3]
    got = [tuple(row[2:]) for row in out.sequences.tolist()]
    assert got == [(*tokens, *[0] * (len(got[0]) - len(tokens))) for tokens in best]
    numpy.testing.assert_allclose(out.sequences_scores, [scores[tokens] for tokens in best], rtol=1e-9)


@given(data=st.data(), model=models(), beams=st.integers(2, 4), sampled=st.booleans())
@draws
def test_scores_of_beams_are_sums_of_what_was_kept_of_each_step(data, model, beams, sampled):
    ids = data.draw(token_ids(model.config))
    more = {"do_sample": True, "seed": 0, "temperature": 2.0} if sampled else {}
    out = model.generate(
        ids, num_beams=beams, max_new_tokens=4, eos_token_id=1, return_dict_in_generate=True, output_scores=True,
        num_return_sequences=2, **more,
    )  # fmt: skip
    new = out.sequences[:, ids.shape[1] :]
    for row, places, score in zip(new, out.beam_indices, out.sequences_scores, strict=True):
        if not math.isfinite(score):
            continue  # fewer continuations than were asked for
        steps = [out.scores[i][place, row[i]] for i, place in enumerate(places) if place >= 0]
        assert sum(steps) / len(steps) == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(
    ("early", "penalty", "score", "over"),
    [
        (True, 1.0, -2.5, True), (False, 1.0, -2.5, False), (False, 1.0, -4.5, True), (False, 0.0, -3.5, False),
        ("never", 1.0, -4.5, False), ("never", -1.0, -4.5, True), ("never", 0.0, -4.5, True),
    ],
)  # fmt: skip
def test_a_search_is_over_when_no_beam_is_likely_to_beat_the_worst_that_is_finished(early, penalty, score, over):
    """Two are finished then, with scores of -1 and of -4, of one token and of two; the best that goes on has two."""
    asked = {"num_beams": 2, "early_stopping": early, "length_penalty": penalty, "max_new_tokens": 9}
    group = beams.Group(prepare(MODEL, IDS, **asked), 2, 0, hold=False)
    ends = beams.Candidate(-1.0, 0, 0, "stop token")
    assert group.advance([ends, beams.Candidate(-2.0, 0, 1), beams.Candidate(-3.0, 0, 2)], None) == [0, 0]
    steps = [beams.Candidate(-4.0, 0, 0, "stop token"), beams.Candidate(score, 0, 1), beams.Candidate(-5.0, 1, 2)]
    assert group.advance(sorted(steps, key=lambda c: -c.score), None) == ([] if over else [0, 1])


def test_a_second_search_for_words_holds_on_to_the_likeliest_beam_that_has_them():
    group = beams.Group(prepare(MODEL, IDS, num_beams=3, force_words_ids=[[5]]), 3, 0, hold=True)
    lacks, words = group.running[0], group.running[0].words
    whole = [beams.Beam(score, (5,), words=words.after(5)) for score in (-9.0, -7.0, -8.0)]
    group.running = [*whole, lacks]
    going = [beams.Candidate(-1.0, 3, token) for token in (1, 2, 3)]
    scores = numpy.full((4, 11), -10.0)
    scores[1, 6], scores[3, 5] = -1, -math.inf  # and the word cannot be written again
    assert group._with_words(going, scores)[-1] == beams.Candidate(-8.0, 1, 6)


def test_no_beam_ends_before_its_forced_words_are_there():
    model = random_model(MODEL.config, 2)
    found = model.generate(IDS, num_beams=2, num_return_sequences=2, force_words_ids=[[7, 8]], max_new_tokens=6,
                           eos_token_id=[0, 4, 5])  # fmt: skip
    assert all("7, 8" in str(row) for row in found.tolist())


def test_forced_words_are_there_and_the_prompt_does_not_count():
    out = MODEL.generate(
        [[1, 9, 9]], num_beams=4, num_return_sequences=2, max_new_tokens=6, force_words_ids=[[9, 9], [[5, 6], [7]]],
        **FREE,
    )[:, 3:]  # fmt: skip
    best = out[0].tolist()
    text = " ".join(map(str, best))
    assert "9 9" in text and ("5 6" in text or 7 in best)


@draws
@given(
    seed=seeds,
    ways=st.lists(st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=4), min_size=1, max_size=2), min_size=1,
                  max_size=2),
    num_beams=st.integers(2, 4),
    ending=st.booleans(),
)  # fmt: skip
@example(seed=5, ways=[[[4, 5], [6, 7, 8]]], num_beams=2, ending=True)  # the last place is not for words
@example(seed=5, ways=[[[4, 5], [6, 7, 8, 9]], [[10]]], num_beams=2, ending=False)  # the long way is likelier
def test_forced_words_are_written_where_there_is_just_room_for_their_shortest_ways(seed, ways, num_beams, ending):
    heads = [way[0] for word in ways for way in word]
    assume(len({*heads}) == len(heads))  # no way begins as another does
    room = sum(min(map(len, word)) for word in ways) + ending
    out = random_model(MODEL.config, seed).generate(
        IDS, num_beams=num_beams, force_words_ids=ways, max_new_tokens=room, **FREE,
        **({"forced_eos_token_id": 0} if ending else {}),
    )[0, 3:].tolist()  # fmt: skip
    orders = [[*chain(*some)] for order in permutations(ways) for some in product(*order)]
    assert out in [order + [0] * ending for order in orders]


def test_a_word_that_other_settings_rule_out_is_told_of():
    ruled_out = {"num_beams": 2, "force_words_ids": [[5]], "begin_suppress_tokens": [5], "max_new_tokens": 1, **FREE}
    with pytest.warns(UserWarning, match="force_words_ids is not all there behind prompt 0"):
        assert 5 not in MODEL.generate(IDS, **ruled_out)[0, 3:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MODEL.generate(IDS, **{**ruled_out, "begin_suppress_tokens": None})


@pytest.mark.parametrize("more", [{"renormalize_logits": True}, {"do_sample": True, "seed": 0, "typical_p": 0.9}])
def test_a_beam_with_no_way_on_dies_alone(more):
    """Of tokens 6, 7 and 8 no two follow each other twice: some beams come to an end of that before others."""
    few = {
        "num_beams": 5,
        "max_new_tokens": 7,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [*range(6), 9, 10],
        **FREE,
    }
    plain, dead = MODEL.generate([[5, 9, 6]], **few), []

    def seen(ids: Any, logits: numpy.ndarray) -> numpy.ndarray:
        dead.append((logits.max(-1) == -math.inf).any())
        return logits

    found = MODEL.generate([[5, 9, 6]], logits_processor=seen, **few, **more)
    assert any(dead) and found.shape == plain.shape
    if "do_sample" not in more:
        numpy.testing.assert_array_equal(found, plain)  # scores of beams are log-probabilities already


def test_where_no_token_is_left_filters_leave_none():
    job = prepare(MODEL, [[1]], num_beams=2, renormalize_logits=True)
    logits = numpy.stack([numpy.arange(11.0), numpy.full(11, -math.inf)])
    scores = job.scored(numpy.array([[1], [1]]), logits, numpy.zeros(2, int))
    numpy.testing.assert_array_equal(scores, [log_softmax(logits[0]), logits[1]])


@pytest.mark.parametrize("groups", [{}, {"num_beam_groups": 3, "diversity_penalty": 1.0}])
def test_of_equal_beams_the_first_goes_on(groups):
    """Whatever order NumPy finds them in, which differs between processors."""
    model = BloomForCausalLM(BloomConfig(vocab_size=5000, hidden_size=4, n_layer=1, n_head=1))
    model.params["ln_f.weight"][:] = 0  # all logits are 0
    found = model.generate([[7]], num_beams=3, num_return_sequences=3, max_new_tokens=2, **groups, **FREE)
    expected = [[0, 0], [1, 1], [2, 2]] if groups else [[0, 0], [0, 1], [0, 2]]
    assert found[:, 1:].tolist() == expected


@draws
@given(data=st.data())
def test_the_largest_are_found_in_order_and_of_equal_ones_the_first(data):
    row = numpy.array(data.draw(st.lists(st.sampled_from([-numpy.inf, -1.0, 0.0, 2.0]), min_size=1, max_size=12)))
    n = data.draw(st.integers(1, len(row)))
    assert beams.largest(row, n).tolist() == sorted(numpy.argsort(-row, kind="stable")[:n].tolist())


def test_ctrl_c_in_the_second_search_for_words_leaves_what_the_first_had_found():
    """Of these prompts, only the second search finds all words for the second: whenever it is stopped, what was there
    for the others stays."""
    model = random_model(BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2), 3)
    asked = {"num_beams": 2, "force_words_ids": [[33], [6], [9, 11]], "max_new_tokens": 8, **FREE}
    prompts = [[9], [32], [35]]
    first = beams._search(prepare(model, prompts, **asked), hold=False)
    found = [not beam.lacks_words for _, beam in first]
    assert found == [True, False, True]
    whole = model.generate(prompts, **asked)[:, 1:].tolist()
    assert {33, 6, 9, 11} <= set(whole[1])

    def breaks_off(ids: Any, scores: Any) -> bool:
        if next(steps, True):
            raise KeyboardInterrupt
        return False

    for stop in range(8, 16):  # the step at which Ctrl-C comes, of 8 in each search
        steps = iter([False] * stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            model.generate(prompts, stopping_criteria=breaks_off, **asked)
        got = caught.value.sequences[:, 1:].tolist()
        assert len(caught.value.__notes__) == 1
        assert [got[0], got[2]] == [whole[0], whole[2]]
        assert got[1] == list(first[1][1].tokens) or {33, 6, 9, 11} <= set(got[1])


# --- Contrastive search ---


@given(model=models(), seed=seeds, alpha=st.floats(0.1, 1), k=st.integers(2, 5))
@draws
def test_contrastive_search_weighs_likelihood_against_likeness(model, seed, alpha, k):
    rng = numpy.random.default_rng(seed)
    prompts = [rng.integers(0, model.config.vocab_size, n).tolist() for n in (3, 1)]
    out = model.generate(prompts, penalty_alpha=alpha, top_k=k, max_new_tokens=4, **FREE)[:, 3:]
    for ids, row in zip(prompts, out.tolist(), strict=True):
        for chosen in row:  # full passes, one for each candidate
            probs = softmax(model([ids], use_cache=False).logits[0, -1])
            worth = {}
            for token in sorted(range(len(probs)), key=lambda i: -probs[i])[:k]:
                hidden = model([[*ids, token]], output_hidden_states=True).hidden_states[-1][0]
                unit = hidden / numpy.linalg.norm(hidden, axis=-1, keepdims=True)
                worth[token] = (1 - alpha) * probs[token] - alpha * (unit[:-1] @ unit[-1]).max()
            assert worth[chosen] >= max(worth.values()) - 1e-9
            ids = [*ids, chosen]


def test_contrastive_search_goes_on_with_a_copy_where_it_cannot_fill_the_cache():
    asked = {"penalty_alpha": 0.5, "top_k": 3, "max_new_tokens": 4, **FREE}
    for prompts, make in (([[1, 2], [3, 4]], lambda: Cache(2)), ([[1, 2]], lambda: WindowCache(2, 9))):
        cache = make()
        numpy.testing.assert_array_equal(
            MODEL.generate(prompts, past_key_values=cache, **asked), MODEL.generate(prompts, **asked)
        )
        assert cache.seen == 0
    with pytest.raises(InputError, match="make one with max_length=6"):  # candidates for the last token are read
        MODEL.generate([[1, 2]], past_key_values=MODEL.init_cache(1, 5), **asked)
    assert MODEL.generate([[1, 2]], past_key_values=MODEL.init_cache(1, 6), **asked).shape == (1, 6)


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2, 3], [4]]])
def test_contrastive_search_returns_the_cache_of_what_it_chose(prompts):
    """One row for each of the prompts, and of no candidate: a turn goes on from it, and contrastive search too."""
    asked = {"penalty_alpha": 0.6, "top_k": 3, "max_new_tokens": 5, **FREE}
    for own in (None, Cache(2)):
        out = MODEL.generate(prompts, past_key_values=own, return_dict_in_generate=True, **asked)
        cache, text = out.past_key_values, out.sequences
        assert (cache.batch_size, cache.seen) == (len(prompts), text.shape[1] - 1)
        assert (cache is own) == (len(prompts) == 1 and own is not None)
        mask = numpy.ones_like(text)
        mask[1:, :2] = 0
        for more in ({"max_new_tokens": 3, **FREE}, asked):
            expected = MODEL.generate(text, mask, **more)
            numpy.testing.assert_array_equal(MODEL.generate(text, mask, past_key_values=cache.copy(), **more), expected)
    out = MODEL.generate(prompts, past_key_values=WindowCache(2, 3), return_dict_in_generate=True, **asked)
    assert out.past_key_values is None


@given(model=models(), seed=seeds, left=st.integers(1, 4))
@draws
def test_contrastive_search_never_chooses_what_is_ruled_out(model, seed, left):
    rng = numpy.random.default_rng(seed)
    V = model.config.vocab_size
    allowed = rng.permutation(V)[:left].tolist()
    others = sorted(set(range(V)) - set(allowed))
    ids = rng.integers(0, V, (3, 4))
    out = model.generate(ids, penalty_alpha=0.9, top_k=5, max_new_tokens=4, suppress_tokens=others, **FREE)
    assert set(out[:, 4:].ravel().tolist()) <= set(allowed)


# --- Speculation ---


@given(data=st.data(), model=models(vocab_size=5), count=st.integers(1, 12), size=st.integers(1, 6))
@draws
def test_speculative_greedy_is_plain_greedy(data, model, count, size):
    ids = data.draw(token_ids(model.config))
    other = random_model(model.config, data.draw(seeds))
    common = {"max_new_tokens": count, "eos_token_id": [0], "pad_token_id": 1, "no_repeat_ngram_size": 4}
    plain = model.generate(ids, **common)
    ways = [
        {"prompt_lookup_num_tokens": size, "max_matching_ngram_size": 3},
        {"assistant_model": other, "num_assistant_tokens": size, "num_assistant_tokens_schedule": "heuristic"},
        {"assistant_model": model, "num_assistant_tokens": size, "assistant_confidence_threshold": 0.0},
    ]
    for way in ways:
        numpy.testing.assert_array_equal(model.generate(ids, **common, **way), plain)


@given(data=st.data(), model=models(vocab_size=5), size=st.integers(1, 6), read=st.integers(1, 9))
@draws
def test_of_what_was_guessed_the_cache_holds_what_was_chosen_wherever_it_ends(data, model, size, read):
    """Ended by a token, guessed or not, left alone or dropped midway: the next turn is as if nothing was guessed."""
    ids = data.draw(token_ids(model.config, shortest=4))[:1]
    end = int(model.generate(ids, max_new_tokens=read, **FREE)[0, -1])
    ways = [{"prompt_lookup_num_tokens": size}, {"assistant_model": model, "assistant_confidence_threshold": 0.0}]
    for way, ends, dropped in product(ways, ([end], []), (False, True)):
        cache = Cache(model.config.n_layer)
        steps = generate_steps(model, ids, past_key_values=cache, max_new_tokens=12, eos_token_id=ends, **way)
        text = numpy.concatenate([ids, numpy.stack(list(islice(steps, read)), 1)], axis=1)
        if dropped:
            del steps
        assert cache.seen == text.shape[1] - 1
        again = model.generate(text, past_key_values=cache, max_new_tokens=3, **way, **FREE)
        numpy.testing.assert_array_equal(again, model.generate(text, max_new_tokens=3, **FREE))


def test_a_pass_over_guesses_that_fails_leaves_none_of_them_in_the_cache():
    class Breaks(BloomForCausalLM):
        """Ctrl-C comes when the cache is filled already."""

        def __call__(self, ids: Any = None, **more: Any) -> Any:
            out = super().__call__(ids, **more)
            if ids.shape[1] == 4:
                raise KeyboardInterrupt
            return out

    cache, model = Cache(2), Breaks(MODEL.config)
    with pytest.raises(KeyboardInterrupt) as caught:
        model.generate([[5, 5, 5, 5, 5]], past_key_values=cache, prompt_lookup_num_tokens=3, **FREE)
    assert cache.seen == caught.value.sequences.shape[1] - 1


class Noting(BloomForCausalLM):
    """Notes how many positions each of its passes has read, and stops like Ctrl-C after `last` of them."""

    def __init__(self, last: int = 99) -> None:
        super().__init__(MODEL.config, dtype="float64")
        self.params, self.last, self.sizes = MODEL.params, last, []

    def __call__(self, ids: Any = None, **more: Any) -> Any:
        out = super().__call__(ids, **more)
        self.sizes.append(numpy.shape(ids)[1])
        if len(self.sizes) == self.last:
            raise KeyboardInterrupt
        return out


@pytest.mark.parametrize("drawn", [{}, {"do_sample": True, "seed": 0, "top_k": 0}])
def test_guesses_that_are_all_kept_grow_by_two_and_those_that_fail_shrink_by_one(drawn):
    """A draft that is the model itself is never wrong, of draws neither; one that thinks the contrary always is."""
    contrary, asked = copy.copy(MODEL), {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0, **drawn}
    asked["num_assistant_tokens_schedule"] = "heuristic"
    contrary.params = MODEL.params | {n: -MODEL.params[n] for n in ("ln_f.weight", "ln_f.bias")}
    for draft, expected in ((MODEL, [3, 4, 6, 8]), (contrary, [3, 4, 3, 2, 2, 1])):
        if draft is MODEL or not drawn:
            model = Noting()
            new = 19 if draft is MODEL else 6
            model.generate(IDS, assistant_model=draft, max_new_tokens=new, **asked, **FREE)
            assert model.sizes == expected


def test_what_a_draft_has_read_is_noted_also_where_ctrl_c_comes_before_it_reads_on():
    cache, draft = Cache(2), Noting()
    asked = {"past_key_values": cache, "assistant_model": draft, "max_new_tokens": 4, **FREE}
    MODEL.generate([[1]], **asked | {"max_new_tokens": 2})  # nothing to guess, nothing to note
    MODEL.generate([[1, 2, 3, 4, 5]], **asked)
    cache.crop(1)
    draft.last = len(draft.sizes) + 1
    with pytest.raises(KeyboardInterrupt):
        MODEL.generate([[1, 9, 8]], **asked)
    _, kept, read = cache.draft
    expected = MODEL([read]).past_key_values
    numpy.testing.assert_allclose(kept[0][0][:, :, : len(read)], expected[0][0], rtol=1e-12)


def test_a_pass_over_candidates_that_fails_leaves_the_cache_of_what_was_chosen():
    cache = Cache(2)
    with pytest.raises(KeyboardInterrupt) as caught:
        Noting(last=4).generate(IDS, past_key_values=cache, penalty_alpha=0.5, top_k=3, **FREE)
    assert cache.seen == cache.states.shape[1] == caught.value.sequences.shape[1] - 1 == 4


def test_rows_that_guess_each_have_a_cache_of_their_own_and_the_callers_stays():
    prompts = [[1, 2, 1, 2, 3], [4, 4, 4, 5, 4]]
    plain = MODEL.generate(prompts, max_new_tokens=6, **FREE)
    kept = PromptCache(MODEL, [row[:3] for row in prompts])
    for cache in (Cache(2), kept, kept.cache.copy(), MODEL.init_cache(2, 20)):
        for way in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": MODEL}):
            before = getattr(cache, "cache", cache).seen
            got = MODEL.generate(prompts, max_new_tokens=6, past_key_values=cache, **way, **FREE)
            numpy.testing.assert_array_equal(got, plain)
            assert getattr(cache, "cache", cache).seen == before


def test_rows_that_guess_return_what_was_kept_of_each_step():
    common = {"max_new_tokens": 6, "eos_token_id": [4], "pad_token_id": 0, "return_dict_in_generate": True}
    common |= {"output_scores": True, "output_logits": True, "repetition_penalty": 1.5}
    prompts = [[1, 2, 1, 2, 3], [4, 4, 4, 5, 4], [6, 6, 6, 6, 6]]  # the last row ends with its first token
    plain, out = MODEL.generate(prompts, **common), MODEL.generate(prompts, prompt_lookup_num_tokens=3, **common)
    numpy.testing.assert_array_equal(out.sequences, plain.sequences)
    for name in ("scores", "logits"):
        got, expected = numpy.stack(out[name]), numpy.stack(plain[name])  # [steps, B, V]
        assert numpy.isnan(got[1:, 2]).all()
        expected[1:, 2] = numpy.nan
        numpy.testing.assert_allclose(got, expected, rtol=1e-9)
    assert out.past_key_values is None


def test_the_last_tokens_of_beams_that_are_drawn_are_the_first_drawn():
    """In one step: two tokens, drawn without putting back, and not the best two of more that were drawn."""
    ids, runs = [1, 2, 3], 2000
    p = softmax(processed(MODEL([ids]).logits[:, -1], 2.0, 0))[0]
    pairs = {
        (i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i in range(11) for j in range(11) if p[i] > p[j]
    }
    asked = {"num_beams": 2, "num_return_sequences": 2, "do_sample": True, "temperature": 2.0, "top_k": 0}
    rows = MODEL.generate([ids] * runs, seed=0, max_new_tokens=1, **asked, **FREE)[:, 3]
    assert_drawn_by(pairs, rows.reshape(runs, 2).tolist())


def exact(model: BloomForCausalLM, ids: list[int], count: int, **drawing: Any) -> dict[tuple[int, ...], float]:
    """The probability of every continuation."""
    probs = {(): 1.0}
    for _ in range(count):
        longer = {}
        for tokens, p in probs.items():
            row = softmax(processed(model([[*ids, *tokens]], use_cache=False).logits[:, -1], **drawing))[0]
            longer |= {(*tokens, t): p * float(q) for t, q in enumerate(row) if q > 0}
        probs = longer
    return probs


def assert_drawn_by(expected: dict[tuple[int, ...], float], rows: list[list[int]]) -> None:
    """Chi-squared: whether the continuations `rows` may be draws with the probabilities `expected`."""
    seen, runs = Counter(map(tuple, rows)), len(rows)
    assert set(seen) <= set(expected)
    likely = [tokens for tokens, p in expected.items() if p * runs >= 5]
    rest = 1 - sum(expected[tokens] for tokens in likely)
    chi = sum((seen[t] - runs * expected[t]) ** 2 / (runs * expected[t]) for t in likely)
    if rest * runs >= 5:
        chi += (runs - sum(seen[t] for t in likely) - runs * rest) ** 2 / (runs * rest)
    freedom = len(likely) - (rest * runs < 5)
    assert freedom >= 5
    assert chi < freedom + 3.1 * math.sqrt(2 * freedom) + 6  # about one seed in a thousand is above


@pytest.mark.parametrize("way", ["plain", "lookup", "draft", "unlike draft", "rows"])
def test_what_is_drawn_is_distributed_as_it_should_be(way):
    """Chi-squared, with fixed seeds, against the exact probabilities of all continuations."""
    model = random_model(BloomConfig(vocab_size=4, hidden_size=8, n_layer=1, n_head=2), 3)
    draft = random_model(model.config, 4 if way == "unlike draft" else 3)
    if way == "draft":
        draft.params = {name: p + 0.05 for name, p in draft.params.items()}  # a little off
    drawing = {"temperature": 1.5, "top_k": 3}
    more: dict[str, Any] = {} if way in ("plain", "rows") else {"prompt_lookup_num_tokens": 2}
    if "draft" in way:
        more = {"assistant_model": draft, "num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0}
    ids, count, runs = [1, 2, 1, 2, 1], 3, 500
    common = {"max_new_tokens": count, "do_sample": True, **FREE, **drawing, **more}
    if way in ("plain", "rows"):
        batch = {"num_return_sequences": runs} if way == "rows" else {}
        rows = model.generate([ids] if way == "rows" else [ids] * runs, seed=0, **common, **batch)[:, 5:].tolist()
    else:
        rows = [model.generate([ids], seed=seed, **common)[0, 5:].tolist() for seed in range(runs)]
    assert_drawn_by(exact(model, ids, count, **drawing), rows)


@pytest.mark.parametrize("way", [{}, {"prompt_lookup_num_tokens": 2}])
def test_no_draw_depends_on_other_rows(way):
    asked = {"do_sample": True, "seed": 0, "temperature": 2.0, "max_new_tokens": 12, **FREE, **way}
    first, second = (MODEL.generate([[1, 2, 1], other], **asked)[0].tolist() for other in ([3, 4, 3], [5, 6, 7]))
    assert first == second


def test_on_text_that_repeats_itself_lookup_needs_half_the_passes_at_most():
    class Parrot(BloomForCausalLM):
        """Repeats five tokens for ever, whatever its parameters."""

        def __call__(self, ids: Any = None, **more: Any) -> Any:
            out = super().__call__(ids, **more)
            following = {1: 2, 2: 3, 3: 4, 4: 5, 5: 1}
            out.logits[:] = 0
            kept = numpy.asarray(ids)[:, -out.logits.shape[1] :]
            for b, s in numpy.ndindex(kept.shape):
                out.logits[b, s, following[int(kept[b, s])]] = 9
            return out

    parrot = Parrot(MODEL.config)
    job = prepare(parrot, [[1, 2, 3, 4, 5, 1]], max_new_tokens=40, prompt_lookup_num_tokens=6, **FREE)
    from minibloom.generation.generate import collect

    out = collect(job)[0].tolist()
    assert out == ([1, 2, 3, 4, 5] * 10)[:46]
    assert 5 < job.result.passes <= 8  # not 40: about one for each 7 tokens


def test_lookup_copies_what_followed_last_time_and_goes_round():
    lookup = Lookup(3)
    assert lookup([1, 2, 3], 4) == []
    assert lookup([1, 2, 3, 1], 3) == [2, 3, 1]
    assert lookup([1, 2, 3, 1, 2, 7, 1, 2], 2) == [7, 1]
    assert Lookup(1)([5, 5], 4) == [5, 5, 5, 5]


# --- Rows ---


@given(data=st.data(), model=models())
@dear
def test_unequal_prompts_are_padded_and_each_goes_on_as_if_alone(data, model):
    rng = numpy.random.default_rng(data.draw(seeds))
    V = model.config.vocab_size
    prompts = [rng.integers(0, V, n).tolist() for n in (1, 4, 2)]
    common = {"max_new_tokens": 5, "eos_token_id": [0], "pad_token_id": 1}
    pairs = 2 if V > 8 else 0  # of fewer tokens, a row of 9 may have had each pair, and none is left
    ways: list[dict[str, Any]] = [
        {}, {"repetition_penalty": 1.5, "no_repeat_ngram_size": pairs}, {"num_beams": 2},
        {"penalty_alpha": 0.5, "top_k": 3}, {"prompt_lookup_num_tokens": 2},
    ]  # fmt: skip
    for way in ways:
        together = model.generate(prompts, **common, **way)[:, 4:]
        for prompt, row in zip(prompts, together.tolist(), strict=True):
            alone = model.generate([prompt], **common, **way)[0, len(prompt) :].tolist()
            assert row == alone + [1] * (len(row) - len(alone))


def test_a_row_that_has_ended_is_read_no_more():
    sizes = []
    plain = BloomForCausalLM.__call__

    class Counting(BloomForCausalLM):
        def __call__(self, ids: Any = None, **more: Any) -> Any:
            sizes.append(len(ids))
            return plain(self, ids, **more)

    model = Counting(MODEL.config)
    model.params = random_model(MODEL.config, 1, "float32").params
    prompts = [[1], [2], [3], [4]]
    free = model.generate(prompts, max_new_tokens=8, **FREE)
    end = int(free[0, 3])  # ends the first row at the latest with its third token
    of_prompts = model(prompts).past_key_values.to_tuple()  # read again, longer by the tokens that end nothing
    longer = numpy.concatenate([prompts, [[9]] * 4], axis=1).tolist()
    for cache in (PromptCache(model, prompts), of_prompts):  # whoever gave it does not see the copy that is filled
        sizes.clear()
        whole = model.generate(longer, max_new_tokens=8, eos_token_id=[end], pad_token_id=10, past_key_values=cache)
        lengths = [row.index(end) + 1 if end in row else 8 for row in whole[:, 2:].tolist()]
        assert len(set(lengths)) > 1 and sizes == [sum(n > step for n in lengths) for step in range(max(lengths))]
    for way in ({"do_sample": True, "top_k": 1, "num_return_sequences": 2}, {"penalty_alpha": 0.4, "top_k": 2}):
        sizes.clear()  # these go on with a copy of the caller's cache
        model.generate(longer, max_new_tokens=8, eos_token_id=[end], past_key_values=Cache(2), **way)
        assert sizes[-1] < max(sizes)
    for way in ({}, {"penalty_alpha": 0.4, "top_k": 2}):
        sizes.clear()
        out = model.generate(prompts, max_new_tokens=8, eos_token_id=[end], pad_token_id=10, **way)[:, 1:]
        lengths = [row.index(end) + 1 if end in row else 8 for row in out.tolist()]
        candidates = way.get("top_k", 1)
        expected = [candidates * sum(n > step for n in lengths) for step in range(out.shape[1])]
        assert sizes == ([4, *expected] if way else expected)
    all_rows = {"return_dict_in_generate": True, "output_logits": True}
    for way in ({}, {"penalty_alpha": 0.4, "top_k": 2}):
        out = model.generate(prompts, max_new_tokens=8, eos_token_id=[end], **all_rows, **way)
        assert all(len(step) == 4 for step in out.logits)  # here all rows' arrays were asked for


@pytest.mark.parametrize("way", [
    {}, {"num_beams": 2}, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"penalty_alpha": 0.5, "top_k": 2}, {"prompt_lookup_num_tokens": 2},
    {"do_sample": True, "num_return_sequences": 2, "seed": 0},
])  # fmt: skip
def test_a_function_of_allowed_tokens_is_asked_by_the_number_of_the_row_or_of_the_beams_prompt(way):
    """Whatever the order in which rows end and leave."""
    ends = {0: 3, 1: 1, 2: 5}  # how long each prompt's continuations are
    rows = way.get("num_return_sequences", 1)  # of a prompt

    def allowed(number: int, ids: numpy.ndarray) -> list[int]:
        number //= rows
        assert ids[1] == number
        return [10] if len(ids) == 2 + ends[number] else [number + 2, number + 5]

    prompts = [[9, 0], [9, 1], [9, 2]]
    out = MODEL.generate(prompts, prefix_allowed_tokens_fn=allowed, max_new_tokens=7, eos_token_id=10, **way)
    for row in out[:, 1:].tolist():
        number, new = row[0], row[1 : row.index(10)]
        assert len(new) == ends[number] and set(new) <= {number + 2, number + 5}


# --- What a run returns ---


@given(data=st.data(), model=models(), N=st.integers(1, 2))
@draws
def test_outputs_hold_each_step(data, model, N):
    ids = data.draw(token_ids(model.config))
    several = {} if N == 1 else {"num_return_sequences": N, "do_sample": True, "top_k": 1}
    out = model.generate(
        ids, max_new_tokens=3, return_dict_in_generate=True, output_scores=True, output_logits=True,
        output_attentions=True, output_hidden_states=True, repetition_penalty=2.0, **several, **FREE,
    )  # fmt: skip
    S = ids.shape[1]
    full = model(out.sequences[:, :-1], output_hidden_states=True, output_attentions=True)
    numpy.testing.assert_allclose(numpy.stack(out.logits, 1), full.logits[:, S - 1 :], atol=1e-9)
    assert all((s.argmax(-1) == out.sequences[:, S + i]).all() for i, s in enumerate(out.scores))
    left = sum(numpy.isfinite(s).sum() for s in out.scores)  # by the filters of drawing too
    assert left == 3 * len(out.sequences) * (model.config.vocab_size if N == 1 else 1)
    assert len(out.hidden_states) == len(out.attentions) == 3
    numpy.testing.assert_allclose(out.hidden_states[0][-1], full.hidden_states[-1][:, :S], atol=1e-9)
    numpy.testing.assert_allclose(out.hidden_states[2][-1][:, 0], full.hidden_states[-1][:, -1], atol=1e-9)
    numpy.testing.assert_allclose(out.attentions[0][-1], full.attentions[-1][:, :, :S, :S], atol=1e-9)
    assert out.past_key_values.length == S + 2
    assert list(out) == ["sequences", "scores", "logits", "attentions", "hidden_states", "past_key_values"]
    less = model.generate(ids, max_new_tokens=2, return_dict_in_generate=True)
    assert list(less) == ["sequences", "past_key_values"]


@given(data=st.data(), model=models(vocab_size=11), groups=st.sampled_from([1, 2]))
@draws
def test_beam_indices_say_where_each_step_of_a_beam_stands(data, model, groups):
    ids, K = data.draw(token_ids(model.config)), 4
    out = model.generate(
        ids, max_new_tokens=5, num_beams=K, num_return_sequences=2, eos_token_id=[0, 1, 2],
        return_dict_in_generate=True, output_logits=True, output_attentions=True, output_hidden_states=True,
        **({"num_beam_groups": 2, "diversity_penalty": 1.0} if groups == 2 else {}),
    )  # fmt: skip
    (B, S), full = ids.shape, model(out.sequences, output_hidden_states=True, output_attentions=True)
    for step, (logits, states, probs) in enumerate(zip(out.logits, out.hidden_states, out.attentions, strict=True)):
        assert len(logits) == len(states[-1]) == len(probs[-1]) == B * K
        nobody = numpy.isnan(states[-1]).all((1, 2))  # the places of a prompt whose search is over
        numpy.testing.assert_array_equal(numpy.isneginf(logits).all(1), nobody)
        if step == 0:  # each beam is the prompt
            numpy.testing.assert_allclose(states[1], full.hidden_states[1][::2, :S].repeat(K, axis=0), atol=1e-9)
            numpy.testing.assert_allclose(logits, full.logits[::2, S - 1].repeat(K, axis=0), atol=1e-9)
        for row, places in enumerate(out.beam_indices[:, step : step + 1].tolist()):
            if places not in ([], [-1]):  # its end, or that of all
                at = S - 1 + step
                numpy.testing.assert_allclose(logits[places[0]], full.logits[row, at], atol=1e-9)
                numpy.testing.assert_allclose(states[-1][places[0], -1], full.hidden_states[-1][row, at], atol=1e-9)
                expected = full.attentions[-1][row, :, at, : at + 1]
                numpy.testing.assert_allclose(probs[-1][places[0], :, -1], expected, atol=1e-9)


def test_a_callback_sees_every_step():
    steps: list[Any] = []
    out = MODEL.generate(IDS, max_new_tokens=4, callback=steps.append, **FREE)
    assert numpy.stack(steps, 1).tolist() == out[:, 3:].tolist()
    steps.clear()
    for i, chosen in enumerate(generate_steps(MODEL, IDS, max_new_tokens=4, callback=steps.append, **FREE)):
        assert len(steps) == i + 1 and steps[i] is chosen  # as soon as it is there
    assert numpy.stack(steps, 1).tolist() == out[:, 3:].tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("way", [{}, {"num_beams": 2}, {"penalty_alpha": 0.5, "top_k": 2}])
def test_what_fails_midway_hands_back_what_was_there(way, error):
    whole = MODEL.generate(IDS, max_new_tokens=3, **FREE, **way)
    calls = []

    def breaks_off(ids: Any, scores: Any) -> bool:
        calls.append(1)
        if len(calls) == 4:
            raise error
        return False

    with pytest.raises(error) as caught:
        MODEL.generate(IDS, max_new_tokens=9, stopping_criteria=breaks_off, **FREE, **way)
    assert caught.value.sequences.shape == (1, 6)
    if not way.get("num_beams"):  # the best beam of three tokens need not be one of nine
        numpy.testing.assert_array_equal(caught.value.sequences, whole)


def test_a_criterion_of_ones_own_and_a_time_end_rows():
    out = MODEL.generate([[1], [2]], stopping_criteria=lambda ids, scores: ids[:, 0] == 1, max_new_tokens=3, **FREE)
    assert out.shape == (2, 4) and (out[0, 2:] == 0).all()
    for K in (1, 2):
        assert MODEL.generate(IDS, max_time=1e-9, num_beams=K, **FREE).shape == (1, 4)


@pytest.mark.parametrize("way", [{}, {"num_beams": 2}, {"penalty_alpha": 0.5, "top_k": 2}])
@pytest.mark.parametrize("answer", [[True] * 9, [False], [[0], [0], [0]], None])
def test_a_criterion_that_does_not_answer_for_each_row_is_named(way, answer):
    with pytest.raises(InputError, match="stopping_criteria returned .*, expected one answer for all rows, or"):
        MODEL.generate([[1], [2], [3]], stopping_criteria=lambda ids, scores: answer, max_new_tokens=3, **FREE, **way)


def test_a_criterion_is_given_the_scores_of_the_rows_it_is_asked_about():
    def seen(ids: numpy.ndarray, scores: numpy.ndarray) -> numpy.ndarray:
        return numpy.take_along_axis(scores, ids[:, -1:], axis=1)[:, 0] < math.log(0.05)

    for way in ({}, {"num_beams": 3}, {"penalty_alpha": 0.5, "top_k": 2}, {"prompt_lookup_num_tokens": 2}):
        assert MODEL.generate([[1], [2]], stopping_criteria=seen, max_new_tokens=3, **FREE, **way).shape[0] == 2


WAYS: list[dict[str, Any]] = [
    {}, {"do_sample": True, "seed": 0}, {"do_sample": True, "seed": 0, "top_k": 0, "top_p": 0.9}, {"num_beams": 2},
    {"num_beams": 2, "do_sample": True, "seed": 0}, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"penalty_alpha": 0.5, "top_k": 2}, {"prompt_lookup_num_tokens": 2}, {"assistant_model": MODEL},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("processor", [{}, {"repetition_penalty": 1.5}])
def test_a_model_that_gives_no_numbers_is_an_error_unless_these_are_asked_to_be_removed(way, processor):
    broken = copy.copy(MODEL)
    broken.params = MODEL.params | {"ln_f.weight": numpy.full(8, math.nan)}
    with pytest.raises(InputError, match="the logits of a token are not finite"):
        broken.generate([[1, 2], [3, 4]], max_new_tokens=3, **FREE, **way, **processor)
    out = broken.generate([[1, 2]], max_new_tokens=3, remove_invalid_values=True, **FREE, **way, **processor)
    assert out.shape == (1, 5)


@pytest.mark.parametrize("way", WAYS)
def test_one_logit_that_is_no_number_is_enough(way):
    def spoils(ids: numpy.ndarray, logits: numpy.ndarray) -> numpy.ndarray:
        logits[-1, 7] = math.nan
        return logits

    with pytest.raises(InputError, match="a logits_processor made them so"):
        MODEL.generate([[1, 2], [3, 4]], max_new_tokens=3, logits_processor=spoils, **FREE, **way)


@pytest.mark.parametrize("way", [{}, {"num_beams": 2}, {"penalty_alpha": 0.5, "top_k": 2}, {"assistant_model": MODEL}])
def test_a_processor_that_writes_into_its_logits_changes_none_of_the_models(way):
    def doubles(ids: numpy.ndarray, logits: numpy.ndarray) -> numpy.ndarray:
        logits *= 2
        return logits

    asked = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True, **FREE, **way}
    in_place, copied = (
        MODEL.generate(IDS, logits_processor=f, **asked) for f in (doubles, lambda ids, logits: 2 * logits)
    )
    numpy.testing.assert_array_equal(in_place.sequences, copied.sequences)
    numpy.testing.assert_array_equal(numpy.stack(in_place.logits), numpy.stack(copied.logits))


def test_an_infinite_logit_is_the_likeliest_but_cannot_be_drawn():
    def forces(ids: numpy.ndarray, logits: numpy.ndarray) -> numpy.ndarray:
        logits[:, 7] = math.inf
        return logits

    assert (MODEL.generate(IDS, max_new_tokens=3, logits_processor=forces, **FREE)[:, 3:] == 7).all()
    with pytest.raises(InputError, match="not finite"):
        MODEL.generate(IDS, do_sample=True, max_new_tokens=3, logits_processor=forces, **FREE)


# --- Caches ---


@given(data=st.data(), model=models(), split=st.integers(1, 3))
@draws
def test_a_cache_of_the_beginning_changes_nothing_and_goes_on_from_turn_to_turn(data, model, split):
    ids = data.draw(token_ids(model.config, shortest=4))
    plain = model.generate(ids, max_new_tokens=4, **FREE)
    for cache in (model(ids[:, :split]).past_key_values, model.init_cache(len(ids), 40)):
        seen = cache.seen
        turn = model.generate(ids, max_new_tokens=2, past_key_values=cache, **FREE)
        assert cache.seen == turn.shape[1] - 1 and seen < cache.seen
        numpy.testing.assert_array_equal(model.generate(turn, max_new_tokens=2, past_key_values=cache, **FREE), plain)


@pytest.mark.parametrize("way", [
    {"do_sample": True, "seed": 0, "num_return_sequences": 2}, {"num_beams": 2},
    {"num_beams": 2, "do_sample": True, "seed": 0},
])  # fmt: skip
def test_several_continuations_leave_the_cache_that_they_go_on_from_as_it_was(way):
    for prompts, read in product(([[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]), (0, 2)):
        cache = MODEL([row[:read] for row in prompts]).past_key_values if read else Cache(2)
        expected = MODEL.generate(prompts, max_new_tokens=4, **FREE, **way)
        for _ in range(2):
            got = MODEL.generate(prompts, past_key_values=cache, max_new_tokens=4, **FREE, **way)
            numpy.testing.assert_array_equal(got, expected)
            assert cache.seen == read and cache.batch_size == (len(prompts) if read else None)


def test_a_window_sees_the_last_positions_alone():
    window = 4
    cache = WindowCache(2, window)
    out = MODEL.generate(IDS, max_new_tokens=20, past_key_values=cache, **FREE)[0].tolist()
    assert cache.seen == 22 and cache.kept == range(19, 22)
    step = WindowCache(2, window)
    for place in range(len(out) - 1):  # one position a pass, each with what the window keeps
        logits = MODEL([[out[place]]], past_key_values=step).logits
        if place >= 2:
            assert int(logits[0, -1].argmax()) == out[place + 1]


@given(
    length=st.integers(1, 30), window=st.integers(1, 9), piece=st.integers(1, 12), read=st.integers(0, 29),
    pads=st.integers(0, 29), seed=seeds,
    strategy=st.sampled_from([{}, {"num_return_sequences": 2, "do_sample": True, "seed": 0}, {"num_beams": 2}]),
)  # fmt: skip
@draws
def test_a_prompt_read_into_a_window_piece_by_piece_is_as_read_at_once(
    length, window, piece, read, pads, seed, strategy
):
    """The same continuations, of the same logits, and what is kept in the end; after turns before it, or padding."""
    ids = numpy.random.default_rng(seed).integers(0, 11, (2, length))
    pads = numpy.array([[min(pads, length - 1)], [0]])
    mask = (numpy.arange(length) >= pads).astype("int64")
    outs = []
    for size in (piece, length):
        cache, before = WindowCache(2, window), min(read, length - 1)
        for place in range(before):
            seen = mask[:, place - cache.length : place + 1]
            MODEL(ids[:, place : place + 1], past_key_values=cache, attention_mask=seen)
        with mock.patch.object(Reader, "PIECE", size):
            outs.append(MODEL.generate(
                ids, mask, past_key_values=cache, max_new_tokens=3, return_dict_in_generate=True, output_logits=True,
                **FREE, **strategy,
            ))  # fmt: skip
    ours, theirs = outs
    numpy.testing.assert_array_equal(ours.sequences, theirs.sequences)
    for a, b in zip(ours.logits, theirs.logits, strict=True):
        numpy.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * abs(b[numpy.isfinite(b)]).max())  # not -inf of no beam
    cache, other = ours.past_key_values, theirs.past_key_values
    assert cache.kept == other.kept
    if window > 1:
        real = numpy.repeat(numpy.array(cache.kept) >= pads, cache.batch_size // 2, axis=0)  # nobody sees the others
        for a, b in zip((x for pair in cache for x in pair), (x for pair in other for x in pair), strict=True):
            a, b = (x.swapaxes(1, 2)[real] for x in (a, b))  # [B, H, T, D] -> [tokens, H, D]
            numpy.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * abs(b).max())


def test_a_window_needs_no_more_memory_for_a_longer_prompt():
    def peak(length):
        tracemalloc.start()
        MODEL.generate(numpy.ones((1, length), "int64"), past_key_values=WindowCache(2, 8), max_new_tokens=2, **FREE)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(300)  # what is made once
    assert peak(2400) < peak(1200) + 8 * 8 * 1200  # at once, scores alone take 92 MB and 23; ids take 8 bytes each


def test_who_looks_inside_of_a_prompts_pass_sees_one():
    ids, passes = [[1, 2, 3, 4, 5]], []
    call = {"max_new_tokens": 2, **FREE}
    look = {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True}
    trace = Trace("ln_f", edits={"ln_f": lambda x: passes.append(x.shape) or x})
    with mock.patch.object(Reader, "PIECE", 2):
        out = MODEL.generate(ids, past_key_values=WindowCache(2, 3), **call, **look)
        MODEL.generate(ids, past_key_values=WindowCache(2, 3), trace=trace, **call)
        MODEL.generate(ids, past_key_values=WindowCache(2, 3), penalty_alpha=0.5, top_k=2, **call)  # wants all states
        asked = copy.copy(MODEL)
        asked.config = MODEL.config.replace(output_attentions=True)
        by_config = asked.generate(ids, past_key_values=WindowCache(2, 3), return_dict_in_generate=True, **call)
    for seen in (out, by_config):
        assert [a[0].shape for a in seen.attentions] == [(1, 2, 5, 5), (1, 2, 1, 3)]
    assert out.hidden_states[0][0].shape == (1, 5, 8) and passes == [(1, 5, 8), (1, 1, 8)]


@pytest.mark.parametrize("strategy", [{"num_return_sequences": 3, "do_sample": True, "seed": 0}, {"num_beams": 3}])
def test_rows_that_share_a_window_go_on_as_if_each_had_read_it(strategy):
    """They begin with copies of it; here of one whose positions stand anywhere in its arrays."""
    ids = numpy.random.default_rng(0).integers(0, 11, (1, 12))
    settings = {"max_new_tokens": 6, **FREE, **strategy}
    expected = MODEL.generate(ids, past_key_values=WindowCache(2, 8), **settings)
    for read in range(12):
        cache = WindowCache(2, 8)
        for place in range(read):
            MODEL(ids[:, place : place + 1], past_key_values=cache)
        numpy.testing.assert_array_equal(MODEL.generate(ids, past_key_values=cache, **settings), expected)


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        (lambda: MODEL([[1, 2, 3, 4]]).past_key_values, "past_key_values holds 4 positions, the prompt has 3"),
        (lambda: MODEL([[1], [2]]).past_key_values, "past_key_values holds a batch of 2, the input one of 1"),
        (lambda: StaticCache(3, 1, 2, 50, 4, "float64"), "past_key_values is a cache of 3 blocks, expected 2"),
        (lambda: MODEL.init_cache(1, 10), "past_key_values has room for 10 positions, but the prompt has 3"),
        (lambda: "cache", "past_key_values is a str"),
    ],
)
def test_a_cache_that_does_not_fit_is_named_before_anything_is_read(cache, says):
    with pytest.raises(InputError, match=says):
        MODEL.generate(IDS, past_key_values=cache(), max_new_tokens=9)
    with pytest.raises(InputError, match="WindowCache"):
        MODEL.generate(IDS, past_key_values=WindowCache(2, 5), prompt_lookup_num_tokens=3)


def test_steps_are_of_one_continuation():
    with pytest.raises(InputError, match="num_beams is 2"):
        generate_steps(MODEL, IDS, num_beams=2)
