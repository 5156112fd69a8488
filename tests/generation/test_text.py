"""Text: stop strings across any borders, whole batches of prompts, turns, scores of a text, prompts kept on disk."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import BloomForCausalLM, Cache, InputError, WindowCache
from minibloom.generation import PromptCache, Session, generate_text, perplexity, stream_text, token_log_probs
from minibloom.generation.contrastive import unit
from minibloom.generation.filters import log_softmax
from minibloom.generation.stopping import StopStrings

from .. import tiny
from ..strategies import models, random_model, seeds

TOKENIZER = tiny.tokenizer()
MODEL = random_model(tiny.config(), 0)
draws = settings(max_examples=15)
letters = st.text(st.sampled_from("the catsod é猫😀"), min_size=1, max_size=12)
words = st.lists(st.sampled_from(["the", " cat", " sat", "é", "猫"]), min_size=1, max_size=5).map("".join)


@given(
    text=letters | words, seed=seeds,
    string=st.text(st.sampled_from("the cé猫😀"), min_size=1, max_size=3) | st.sampled_from(["the", " cat", " sat"]),
)  # fmt: skip
def test_a_string_is_found_however_tokens_cut_it(text, string, seed):
    data, rng = text.encode(), numpy.random.default_rng(seed)
    by_bytes = {TOKENIZER._bytes(i, False): i for i in range(len(TOKENIZER))}
    ids, place = [], 0
    while place < len(data):  # any cut, not the tokenizer's own: single bytes too
        sizes = [n for n in range(1, 6) if data[place : place + n] in by_bytes and place + n <= len(data)]
        size = int(rng.choice(sizes))
        ids.append(by_bytes[data[place : place + size]])
        place += size
    stop, before = StopStrings(TOKENIZER, [string]), b""
    for i, token in enumerate(ids):
        after = before + TOKENIZER._bytes(token, False)
        ends = [e for e in range(1, len(after) + 1) if after[:e].endswith(string.encode())]
        assert stop.hit([-1, len(TOKENIZER), *ids[: i + 1]]) == any(e > len(before) for e in ends)
        before = after


def test_a_row_ends_with_the_token_that_completes_a_stop_string():
    ids = TOKENIZER("the cat sat on the mat")["input_ids"]
    model = tiny.Scripted(tiny.config(), [[*ids, 5, 5, 5, 5]])
    (one,) = generate_text(model, TOKENIZER, "a", stop_strings=["t sa"], max_new_tokens=len(ids) + 4)
    assert one.finish_reason == "stop string"
    assert "t sa" in one.text and "t sa" not in TOKENIZER.decode(one.ids[:-1])
    assert "the cat sat on the mat".startswith(one.text)


@pytest.mark.parametrize("strategy", [{}, {"penalty_alpha": 0.6, "top_k": 2}, {"prompt_lookup_num_tokens": 2}])
def test_a_character_that_breaks_off_where_the_length_ends_is_shown_too(strategy):
    half = next(i for i in range(len(TOKENIZER)) if TOKENIZER._bytes(i, False) == "é".encode()[:1])
    strategy |= {"max_new_tokens": 1, "suppress_tokens": [i for i in range(len(TOKENIZER)) if i != half]}
    pieces: list[str] = []
    (one,) = generate_text(MODEL, TOKENIZER, "a", callback=lambda row, piece: pieces.append(piece), **strategy)
    assert "".join(pieces) == one.text == "\ufffd"


def test_a_stop_string_may_begin_in_the_prompt():
    model = tiny.Scripted(tiny.config(), [TOKENIZER("cat sat")["input_ids"] * 3])
    (one,) = generate_text(model, TOKENIZER, "the ", stop_strings="e c", max_new_tokens=5)
    assert one.text.startswith("c") and len(one.ids) == 1
    others = [i for i in range(len(TOKENIZER)) if not TOKENIZER.decode([i]).strip().isascii()]
    asked = {"stop_strings": list("abcdefghijklmnopqrstuvwxyz"), "suppress_tokens": others, "max_new_tokens": 9}
    (beam,) = generate_text(MODEL, TOKENIZER, "the", num_beams=2, **asked)
    assert beam.finish_reason == "stop string"


def test_a_batch_of_texts_is_continued_each_as_if_alone_and_says_why_it_ended():
    prompts = ["the cat", "le chien dort sur", "猫"]
    pieces: dict[int, str] = {0: "", 1: "", 2: ""}
    common = {"max_new_tokens": 8, "eos_token_id": [20, 25, 30, 35, 40, 45, 50, 55, 60]}
    together = generate_text(
        MODEL, TOKENIZER, prompts, callback=lambda row, piece: pieces.update({row: pieces[row] + piece}), **common
    )
    assert [one.text for one in together] == list(pieces.values())
    for prompt, one in zip(prompts, together, strict=True):
        (alone,) = generate_text(MODEL, TOKENIZER, [prompt], **common)
        assert (one.ids, one.text, one.finish_reason) == (alone.ids, alone.text, alone.finish_reason)
        assert one.text == "".join(stream_text(MODEL, TOKENIZER, prompt, **common)) and one.prompt == prompt
        ids = TOKENIZER(prompt)["input_ids"]
        logs = token_log_probs(MODEL, [[*ids, *one.ids]])[0, len(ids) - 1 :]
        numpy.testing.assert_allclose(one.log_probs, logs, rtol=1e-6)
        assert one.finish_reason == ("stop token" if one.ids[-1] in common["eos_token_id"] else "length")
        (cut,) = generate_text(MODEL, TOKENIZER, [prompt], **common | {"max_new_tokens": len(one.ids)})
        assert cut.finish_reason == one.finish_reason  # of a stop token in the last place too
    assert {one.finish_reason for one in together} == {"stop token", "length"}
    kept = generate_text(MODEL, TOKENIZER, prompts, past_key_values=(cache := Cache(2)), **common)
    guessed = generate_text(MODEL, TOKENIZER, prompts, prompt_lookup_num_tokens=2, **common)
    for one, *others in zip(together, kept, guessed, strict=True):
        assert all((one.ids, one.finish_reason) == (alike.ids, alike.finish_reason) for alike in others)
    assert cache.batch_size == 3  # a caller's keeps the rows that have ended
    beams = generate_text(MODEL, TOKENIZER, prompts, num_beams=2, num_return_sequences=2, max_new_tokens=3)
    assert len(beams) == 6 and [one.prompt for one in beams] == [p for p in prompts for _ in range(2)]
    assert all(one.finish_reason == "length" for one in beams)


def test_beams_have_the_score_and_the_log_probabilities_that_they_were_searched_by():
    prompts = ["the cat", "le chien dort sur"]
    asked = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "length_penalty": 0.5}
    asked |= {"eos_token_id": list(range(20, 60)), "repetition_penalty": 1.3}
    look = {"return_dict_in_generate": True, "output_scores": True}
    out = MODEL.generate(prompts, tokenizer=TOKENIZER, **asked, **look)
    found = generate_text(MODEL, TOKENIZER, prompts, **asked)
    start = out.sequences.shape[1] - out.beam_indices.shape[1]
    for one, row, places, score in zip(found, out.sequences, out.beam_indices, out.sequences_scores, strict=True):
        steps = [out.scores[i][place, row[start + i]] for i, place in enumerate(places) if place >= 0]
        numpy.testing.assert_allclose(one.log_probs, steps, rtol=1e-5)
        assert one.score == pytest.approx(score) == pytest.approx(sum(one.log_probs) / len(one.ids) ** 0.5)
    assert len({len(one.ids) for one in found}) > 1
    assert generate_text(MODEL, TOKENIZER, prompts, max_new_tokens=2)[0].score is None


def test_what_cannot_be_called_back_is_said_first():
    with pytest.raises(InputError, match="callback is 'x', expected a function"):
        generate_text(MODEL, TOKENIZER, "the cat", callback="x")


def test_what_a_batch_had_is_handed_back():
    def stops(row: int, piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        generate_text(MODEL, TOKENIZER, ["the cat", "a"], callback=stops)
    had = caught.value.continuations
    assert len(had[0].ids) >= 1 and had[0].finish_reason is None and had[0].prompt == "the cat"


def test_what_beams_had_is_handed_back():
    def stops(ids: numpy.ndarray, scores: numpy.ndarray) -> bool:
        if ids.shape[1] == 7:
            raise KeyboardInterrupt
        return False

    prompts = ["the cat", "a"]
    common = {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": []}
    before = [len(ids) for ids in TOKENIZER(prompts)["input_ids"]]
    new = 6 - max(before)
    assert new > 0
    with pytest.raises(KeyboardInterrupt) as caught:
        generate_text(MODEL, TOKENIZER, prompts, stopping_criteria=stops, max_new_tokens=20, **common)
    had = caught.value.continuations
    assert had == [replace(one, finish_reason=None) for one in generate_text(
        MODEL, TOKENIZER, prompts, max_new_tokens=new, length_penalty=0.0, **common
    )]  # fmt: skip


# --- Turns ---


def test_turns_go_on_with_one_text_and_read_each_token_once():
    model = random_model(tiny.config(eos_token_id=None), 1)
    session, text = Session(model, TOKENIZER, max_new_tokens=5), ""
    for line in ("the cat", " sat", " on"):
        text = "".join(session.turn(line))
        ids = session.ids[:-5]
        assert session.ids == model.generate([ids], max_new_tokens=5, tokenizer=TOKENIZER)[0].tolist()
        assert session.cache.seen == len(session.ids) - 1
        assert session.text.endswith(text)
    broken = session.turn(" mat")
    next(broken)
    broken.close()
    assert session.cache.seen < len(session.ids)
    assert "".join(session.turn(" and")) is not None
    with pytest.raises(InputError, match="the text is empty"):
        session.turn("")


@pytest.mark.parametrize("way", [{}, {"penalty_alpha": 0.6, "top_k": 3}, {"prompt_lookup_num_tokens": 3}])
def test_a_session_says_how_its_last_turn_went(way):
    session = Session(MODEL, TOKENIZER, max_new_tokens=6, eos_token_id=[], **way)
    assert session.last is None
    text = "".join(session.turn("the cat"))
    (whole,) = generate_text(MODEL, TOKENIZER, ["the cat"], max_new_tokens=6, eos_token_id=[], **way)
    assert whole.text == text and whole.finish_reason == "length" and len(whole.log_probs) == 6
    for name, value in vars(whole).items():
        assert getattr(session.last, name) == (pytest.approx(value) if name == "log_probs" else value)
    broken = session.turn(" sat")
    assert session.last.prompt == "the cat"  # nothing is computed before it is asked for
    next(broken)
    broken.close()
    assert session.last.prompt == " sat" and session.last.finish_reason is None
    assert 0 < len(session.last.ids) == len(session.last.log_probs) < 6
    assert session.ids[-len(session.last.ids) :] == session.last.ids


@pytest.mark.parametrize("way", [{}, {"penalty_alpha": 0.6, "top_k": 3}, {"prompt_lookup_num_tokens": 3}])
@pytest.mark.parametrize("begun", [0, 1, 3])
def test_a_turn_that_somebody_still_holds_ends_where_the_next_begins(way, begun):
    session = Session(MODEL, TOKENIZER, max_new_tokens=6, eos_token_id=[], **way)
    held = session.turn("the cat")
    for _ in range(begun):
        next(held)
    list(session.turn(" sat"))
    ids = list(session.ids)
    assert ids == MODEL.generate([ids[:-6]], tokenizer=TOKENIZER, **session.settings)[0].tolist()
    assert list(held) == [] and session.ids == ids and session.cache.seen == len(ids) - 1


def test_turns_draw_anew_and_a_session_draws_the_same_again():
    sampled = {"do_sample": True, "temperature": 9.0, "top_k": 0, "max_new_tokens": 9, "seed": 1, "eos_token_id": []}
    sessions = [Session(MODEL, TOKENIZER, WindowCache(2, 1), **sampled) for _ in range(2)]  # blind to earlier turns
    turns = [["".join(session.turn("the cat")) for _ in range(2)] for session in sessions]
    assert turns[0] == turns[1] and turns[0][0] != turns[0][1]
    with pytest.raises(InputError, match="seed is 'a', expected a whole number"):
        Session(MODEL, TOKENIZER, do_sample=True, seed="a")


def test_a_session_has_a_cache_of_its_own():
    with pytest.raises(InputError, match="past_key_values is set, but a session has its own: give it as cache"):
        Session(MODEL, TOKENIZER, past_key_values=WindowCache(2, 4))


@pytest.mark.parametrize("settings", [{"do_sample": True, "num_return_sequences": 2}, {"num_beams": 2}])
def test_a_stream_has_one_continuation(settings):
    for call in (
        lambda: stream_text(MODEL, TOKENIZER, "the cat", **settings),
        lambda: Session(MODEL, TOKENIZER, **settings).turn("the cat"),
    ):
        with pytest.raises(InputError, match=r"num_(return_sequences|beams) is 2.*[Uu]se generate"):
            call()


def test_a_draft_model_too_reads_each_token_of_a_text_that_is_written_in_turns_once():
    class Counting(BloomForCausalLM):
        read = 0

        def __call__(self, ids: Any = None, **more: Any) -> Any:
            self.read += ids.size
            return super().__call__(ids, **more)

    model, draft = random_model(tiny.config(eos_token_id=None), 1), Counting(tiny.config(), dtype="float64")
    draft.params = {name: p + 0.02 for name, p in model.params.items()}  # often right, and not always
    session = Session(model, TOKENIZER, max_new_tokens=6, assistant_model=draft, assistant_confidence_threshold=0.0)
    for line in ("the cat sat on the mat, and " * 20, " and", " the dog", " 猫"):
        before, draft.read = len(session.ids), 0
        list(session.turn(line))
        new = len(session.ids) - before
        assert draft.read < 4 * new  # guesses that were wrong are read too
        plain = model.generate([session.ids[:-6]], max_new_tokens=6, tokenizer=TOKENIZER)[0].tolist()
        assert session.ids == plain
    assert before > 20 * new
    kept = session.cache.draft[1]
    for copied in (session.cache.copy(), session.cache.copy(numpy.array([0]))):
        assert copied.draft is None
    assert kept.batch_size == 1
    session.ids = session.ids[:9]  # the user goes back in the text: what was read of the rest does not count
    session.cache.crop(8)
    list(session.turn(" dog sat on the mat"))
    assert session.cache.draft[1] is kept
    assert session.cache.draft[2][: len(session.ids)] == session.ids[: kept.length]
    anew = draft(numpy.array([session.cache.draft[2]])).past_key_values
    for pair, expected in zip(kept, anew, strict=True):
        numpy.testing.assert_allclose(pair, expected, rtol=1e-9, atol=1e-12)
    for other in (draft, random_model(tiny.config(n_layer=1), 2)):  # of all that it reads, the first has read more
        session.cache.crop(8)
        ids = model.generate([session.ids[:9]], past_key_values=session.cache, assistant_model=other, max_new_tokens=3)
        assert ids.tolist() == model.generate([session.ids[:9]], max_new_tokens=3).tolist()
        assert session.cache.draft[0] is other
    model.generate([[5, 6], [7, 8]], past_key_values=(of_rows := Cache(2)), assistant_model=draft, max_new_tokens=3)
    assert of_rows.draft is None  # each row has a copy of its own


@pytest.mark.parametrize("static", [False, True])
def test_turns_of_contrastive_search_read_each_token_once_too(static):
    """And as if the whole text were read anew, broken off or not; what else goes on keeps the states in step."""
    settings = {"max_new_tokens": 4, "penalty_alpha": 0.6, "top_k": 3}
    model = random_model(tiny.config(eos_token_id=None), 1)
    session = Session(model, TOKENIZER, model.init_cache(1, 60) if static else None, **settings)
    for line in ("the cat", " sat on", " mat"):
        list(session.turn(line))
        assert session.ids == model.generate([session.ids[:-4]], tokenizer=TOKENIZER, **settings)[0].tolist()
        assert session.cache.seen == session.cache.states.shape[1] == len(session.ids) - 1
    states = model([session.ids[:-1]], output_hidden_states=True).hidden_states[-1]
    numpy.testing.assert_allclose(session.cache.states, unit(states), atol=1e-6)
    broken = session.turn(" and")
    next(broken)
    broken.close()
    assert session.cache.seen == len(session.ids) - 1
    before = list(session.ids)
    list(session.turn("!"))
    again = [*before, *TOKENIZER("!")["input_ids"]]
    assert session.ids == model.generate([again], tokenizer=TOKENIZER, **settings)[0].tolist()
    plain = model.generate([[*session.ids, 7]], past_key_values=session.cache, max_new_tokens=2)
    with pytest.raises(InputError, match="needs the hidden states of the whole prompt"):
        model.generate([[*plain[0], 7]], past_key_values=session.cache, **settings)


def test_turns_may_have_a_window():
    session = Session(MODEL, TOKENIZER, WindowCache(2, 8), max_new_tokens=6, eos_token_id=[])
    for line in ("the cat", " sat", " on"):
        list(session.turn(line))
    assert session.cache.length == 7 and session.cache.seen == len(session.ids) - 1


# --- Scores ---


def slow_scores(model: BloomForCausalLM, ids: list[int], window: int, stride: int) -> list[float]:
    """The definition: each token by a pass of its own over what its window has before it."""
    scores = []
    for place in range(1, len(ids)):
        begin = 0  # of the first window that reaches it
        while place >= begin + window:
            begin += stride
        logits = model([ids[begin:place]], use_cache=False).logits[0, -1]
        scores.append(float(log_softmax(logits)[ids[place]]))
    return scores


@given(model=models(), seed=seeds, data=st.data())
@draws
def test_each_token_is_scored_by_what_its_window_has_before_it(model, seed, data):
    rng = numpy.random.default_rng(seed)
    rows = [rng.integers(0, model.config.vocab_size, data.draw(st.integers(2, 20))).tolist() for _ in range(2)]
    window = data.draw(st.integers(2, 24))
    stride = data.draw(st.integers(1, window - 1))
    S = max(map(len, rows))
    got = token_log_probs(model, rows, window=window, stride=stride)
    assert got.shape == (2, S - 1)
    for row, scores in zip(rows, got, strict=True):  # a window is laid over a row's own tokens, wherever they stand
        numpy.testing.assert_allclose(scores[S - len(row) :], slow_scores(model, row, window, stride), rtol=1e-8)
    whole = token_log_probs(model, rows)
    for row, scores in zip(rows, whole, strict=True):
        expected = slow_scores(model, row, 100, 1)
        numpy.testing.assert_allclose(scores[S - len(row) :], expected, rtol=1e-8)
        assert numpy.isnan(scores[: S - len(row)]).all()
    every = [x for row in rows for x in slow_scores(model, row, 100, 1)]
    assert perplexity(model, rows) == pytest.approx(math.exp(-sum(every) / len(every)))


def test_padding_may_stand_anywhere_in_a_text_that_is_scored():
    rows, (left, right) = [[1, 2, 3, 4, 5], [6, 7, 8]], ([0, 0, 6, 7, 8], [6, 7, 8, 0, 0])
    expected = token_log_probs(MODEL, [numpy.array(row) for row in rows], window=3)  # arrays are padded as lists are
    for ids, places in ((left, [2, 3]), (right, [0, 1])):
        mask = [[1] * 5, [int(i > 0) for i in ids]]
        scores = token_log_probs(MODEL, [rows[0], ids], mask, window=3)
        assert numpy.isfinite(scores[1]).nonzero()[0].tolist() == places
        numpy.testing.assert_allclose(scores[1, places], expected[1, 2:])
        numpy.testing.assert_allclose(scores[0], expected[0])
    assert token_log_probs(random_model(tiny.config(), 0, "float32"), rows).dtype == "float32"  # as the model


def test_a_model_that_gives_no_numbers_is_no_text_of_one_token():
    broken = random_model(tiny.config(), 0)
    broken.params["ln_f.weight"][:] = math.nan
    for rows in ([[1, 2, 3]], [[1, 2, 3], [4]]):
        with pytest.raises(InputError, match="the logits of a token are not finite"):
            perplexity(broken, rows)


def test_a_text_that_is_next_to_impossible_has_a_perplexity_too():
    sure = random_model(tiny.config(), 0)
    sure.params["ln_f.weight"] *= 1000  # and mostly wrong
    assert perplexity(sure, [[1, 2, 3, 4]]) == math.inf


def test_scores_need_something_to_score():
    with pytest.raises(InputError, match="the text has one token"):
        perplexity(MODEL, [[1]])
    for bad, says in (
        ({"window": 1}, "window is 1"), ({"window": None}, "window is None"), ({"window": "x"}, "window is 'x'"),
        ({"window": 4, "stride": 4}, "stride is 4, expected less"), ({"window": 4, "stride": "x"}, "stride is 'x'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            token_log_probs(MODEL, [[1, 2]], **bad)


# --- Prompts that are kept ---


def test_a_prompt_is_read_once_and_serves_many_continuations(tmp_path):
    prompt = PromptCache(MODEL, "the cat sat", tokenizer=TOKENIZER)
    before = [a.copy() for pair in prompt.cache for a in pair]
    prompt.save(tmp_path / "prompt.safetensors")
    ids = prompt.ids[0].tolist()
    for kept in (prompt, PromptCache.load(tmp_path / "prompt.safetensors", MODEL)):
        for rows in ([ids], [[*ids, 7]], [[*ids, 7], [*ids, 8]]):
            got = MODEL.generate(rows, past_key_values=kept, max_new_tokens=4, eos_token_id=[])
            numpy.testing.assert_array_equal(got, MODEL.generate(rows, max_new_tokens=4, eos_token_id=[]))
        many = MODEL.generate([ids], past_key_values=kept, num_beams=3, max_new_tokens=3, eos_token_id=[])
        numpy.testing.assert_array_equal(many, MODEL.generate([ids], num_beams=3, max_new_tokens=3, eos_token_id=[]))
        for a, b in zip(before, (a for pair in kept.cache for a in pair), strict=True):
            numpy.testing.assert_array_equal(a, b)


@given(data=st.data(), model=models(), seed=seeds)
@draws
def test_rows_of_any_lengths_go_on_from_one_prompt_each_as_if_alone(data, model, seed):
    """Their padding stands behind it when they are read, and in front of it, as ever, in what is returned."""
    V, rng = model.config.vocab_size, numpy.random.default_rng(seed)
    head = rng.integers(0, V, data.draw(st.integers(1, 4))).tolist()
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=3))
    rows = [[*head, *rng.integers(0, V, n).tolist()] for n in lengths]
    prompt, S = PromptCache(model, [head]), max(map(len, rows))
    asked = {"max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": []}
    ways = [
        {}, {"repetition_penalty": 1.5}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}, {"assistant_model": model},
        {"do_sample": True, "seed": 0, "num_return_sequences": 2},
    ]  # fmt: skip
    for way in ways:
        expected = model.generate(rows, **asked, **way)
        numpy.testing.assert_array_equal(model.generate(rows, past_key_values=prompt, **asked, **way), expected)
    look = {"return_dict_in_generate": True, "output_attentions": True}
    out = model.generate(rows, past_key_values=prompt, **asked, **look)
    held = min(len(head), *(len(row) - 1 for row in rows))
    assert out.attentions[0][0].shape[2:] == (S - held, S)  # what the prompt holds is not read again


def test_prompts_may_be_padded_with_another_id_than_the_rows_that_go_on_from_them():
    heads, rows = [[5, 6], [7]], [[5, 6, 8], [7, 9]]
    prompt = PromptCache(MODEL, [[5, 6], [3, 7]], [[1, 1], [0, 1]])
    for held in (prompt, PromptCache(MODEL, heads)):
        expected = MODEL.generate(rows, max_new_tokens=4, pad_token_id=4)
        got = MODEL.generate(rows, max_new_tokens=4, pad_token_id=4, past_key_values=held)
        numpy.testing.assert_array_equal(got, expected)


def test_a_prompt_may_end_within_a_token_of_a_text_that_begins_with_it():
    text = "the cat sat on the mat"
    whole, prompt_text = TOKENIZER(text)["input_ids"], "the cat sa"
    part = TOKENIZER(prompt_text)["input_ids"]
    assert whole[: len(part)] != part  # "sat" is one token
    prompt = PromptCache(MODEL, prompt_text, tokenizer=TOKENIZER)
    (got,) = generate_text(MODEL, TOKENIZER, text, past_key_values=prompt, max_new_tokens=4)
    assert got.ids == generate_text(MODEL, TOKENIZER, text, max_new_tokens=4)[0].ids
    for call in (
        lambda: generate_text(MODEL, TOKENIZER, "the cat so far", past_key_values=prompt),
        lambda: MODEL.generate([whole], past_key_values=prompt),  # ids alone are no text
    ):
        with pytest.raises(InputError, match="input_ids do not begin with"):
            call()


def test_a_prompt_and_a_tokenizer_of_others_whose_ids_agree_or_differ():
    class Other:  # what one of transformers can do for `generate`
        def __call__(self, texts):
            return TOKENIZER(texts)

        def __len__(self):
            return len(TOKENIZER)

    prompt = PromptCache(MODEL, "the cat", tokenizer=Other())
    asked = {"tokenizer": Other(), "max_new_tokens": 4}
    got = MODEL.generate("the cat sat", past_key_values=prompt, **asked)
    numpy.testing.assert_array_equal(got, MODEL.generate("the cat sat", **asked))
    with pytest.raises(InputError, match="they differ, from token .* a BloomTokenizerFast of minibloom can tell"):
        MODEL.generate("the dog sat", past_key_values=prompt, **asked)


@given(st.data())
def test_a_damaged_prompt_is_the_same_length_of_ids_or_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    PromptCache(MODEL, [[5, 6, 7], [8]]).save(path)
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    where = (b'"input_ids"', b'"attention_mask"', b'"h.0.', b'"h.1.', None)
    start = 0 if (part := data.draw(st.sampled_from(where))) is None else content.index(part)
    place = data.draw(st.integers(start, end - 1 if part is None else start + 40))
    content[place] = data.draw(st.sampled_from([*b'0123456789,[]{}"\\']) | st.integers(0, 255))
    path.write_bytes(content)
    try:
        prompt = PromptCache.load(path, MODEL)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert prompt.ids.shape == (2, 3) and prompt.cache.length == 3


def test_a_prompt_of_another_text_or_model_is_refused(tmp_path):
    prompt = PromptCache(MODEL, [[5, 6, 7], [8]])
    path = tmp_path / "prompt.safetensors"
    prompt.save(path)
    again = PromptCache.load(path, MODEL)
    numpy.testing.assert_array_equal(again.mask, [[1, 1, 1], [0, 0, 1]])
    other = random_model(tiny.config(), 1)
    for call, says in (
        (lambda: PromptCache.load(path, other), "is of another model"),
        (lambda: PromptCache.load(tmp_path / "no", MODEL), "does not exist"),
        (
            lambda: MODEL.generate([[5, 6, 9, 1], [3, 3, 8, 1]], past_key_values=prompt),
            "holds prompts that are padded otherwise than input_ids",
        ),
        (lambda: MODEL.generate([[5, 6, 7, 1], [9, 1]], past_key_values=prompt), "they differ, from token 2 on"),
        (lambda: MODEL.generate([[5, 6, 7, 1]], past_key_values=prompt), "holds 2 prompts, the input 1"),
        (lambda: other.generate([[5, 6, 7], [8]], past_key_values=prompt), "another model has read"),
    ):
        with pytest.raises(InputError, match=says):
            call()
    MODEL.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="no prompt cache"):
        PromptCache.load(tmp_path / "model" / "model.safetensors", MODEL)
