"""Generation against transformers' `generate`: the same tokens where nothing is drawn, else the same probabilities."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from minibloom import BloomConfig, BloomForCausalLM, BloomTokenizerFast, InputError
from minibloom.generation import GenerationConfig, generate_steps, generate_text, processed
from minibloom.generation.prepare import prepare
from minibloom.layers.softmax import softmax

from ..generation.test_strategies import assert_drawn_by
from ..strategies import random_model
from .cases import Case, cases, padding
from .oracle import Oracle, float64_kept, slopes_of_minibloom

draws = settings(max_examples=100)
PAD = 1


def theirs(model: BloomForCausalLM, ids: numpy.ndarray, mask: numpy.ndarray, **options: Any) -> Any:
    """What transformers' `generate` returns, in float64: where two tokens are close, rounding decides nothing."""
    with torch.no_grad(), float64_kept(), slopes_of_minibloom():
        return Oracle(model).module.generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), pad_token_id=PAD, **options
        )


def prompts(case: Case, data: st.DataObject) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Ids `[B, S]` and a mask that pads on the left."""
    ids = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 10))
    rng = numpy.random.default_rng(case.seed)
    kinds = data.draw(st.lists(st.sampled_from(["none", "left"]), min_size=ids[0], max_size=ids[0]))
    mask = numpy.stack([padding(kind, ids[1], rng) for kind in kinds])
    return rng.integers(0, case.config.vocab_size, ids), mask


@given(case=cases(), data=st.data())
@draws
def test_greedy_gives_the_same_tokens_guessed_or_not(case, data):
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    count = data.draw(st.integers(1, 6))
    ends = data.draw(st.lists(st.integers(0, case.config.vocab_size - 1), max_size=3, unique=True))
    expected = theirs(model, ids, mask, max_new_tokens=count, do_sample=False, eos_token_id=ends or None)
    for way in ({}, {"prompt_lookup_num_tokens": 3}):
        got = model.generate(ids, attention_mask=mask, max_new_tokens=count, eos_token_id=ends, pad_token_id=PAD, **way)
        numpy.testing.assert_array_equal(got, expected.numpy())


@given(case=cases(), data=st.data(), temperature=st.floats(0.2, 5), top_k=st.integers(0, 70), top_p=st.floats(0.05, 1))
@draws
def test_tokens_are_drawn_with_the_same_probabilities(case, data, temperature, top_k, top_p):
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    out = theirs(
        model, ids, mask, max_new_tokens=1, do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p,
        eos_token_id=None, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    expected = softmax(out.scores[0].numpy())
    logits = model(ids, attention_mask=mask).logits[:, -1]
    got = softmax(processed(logits, temperature, top_k, top_p))
    numpy.testing.assert_array_equal(got > 0, expected > 0)  # the same tokens are ruled out
    numpy.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)  # transformers rounds logits to float32 here


@pytest.mark.parametrize("way", [{}, {"prompt_lookup_num_tokens": 2}, {"assistant_confidence_threshold": 0.0}])
def test_continuations_are_drawn_with_the_oracles_probabilities(way):
    """Chi-squared, with fixed seeds, against what transformers would draw each next token with."""
    small = BloomConfig(vocab_size=5, hidden_size=8, n_layer=1, n_head=2)
    model, draft = (random_model(small, seed) for seed in (3, 4))
    way = {"assistant_model": draft, **way} if "assistant_confidence_threshold" in way else way
    ids, runs = [1, 2, 1, 2, 1], 500
    asked = {"do_sample": True, "temperature": 1.5, "top_k": 4, "top_p": 0.9, "repetition_penalty": 1.2}
    expected = {(): 1.0}
    for _ in range(3):
        text = numpy.array([[*ids, *tokens] for tokens in expected])
        out = theirs(
            model, text, numpy.ones_like(text), max_new_tokens=1, eos_token_id=None, output_scores=True,
            return_dict_in_generate=True, **asked,
        )  # fmt: skip
        probs = softmax(out.scores[0].numpy().astype("float64"))
        expected = {
            (*tokens, t): p * float(q)
            for (tokens, p), row in zip(expected.items(), probs, strict=True) for t, q in enumerate(row) if q > 0
        }  # fmt: skip
    asked |= {"max_new_tokens": 3, "eos_token_id": [], **way}
    if way:
        rows = [model.generate([ids], seed=seed, **asked)[0, 5:].tolist() for seed in range(runs)]
    else:
        rows = model.generate([ids] * runs, seed=0, **asked)[:, 5:].tolist()
    assert_drawn_by(expected, rows)


# --- Beams ---


@given(case=cases(), data=st.data())
@settings(max_examples=100)
def test_beam_search_gives_the_same_tokens_scores_and_places(case, data):
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    V, beams = case.config.vocab_size, data.draw(st.integers(2, 4))
    ends = data.draw(st.lists(st.integers(0, V - 1).filter(lambda i: i != PAD), max_size=3, unique=True))
    asked = {
        "num_beams": beams,
        "max_new_tokens": data.draw(st.integers(1, 8)),
        "length_penalty": data.draw(st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5])),
        "early_stopping": data.draw(st.sampled_from([True, False, "never"])),
        "num_return_sequences": data.draw(st.integers(1, beams)),
        "repetition_penalty": data.draw(st.sampled_from([1.0, 1.3])),
        **dict.fromkeys(
            ("return_dict_in_generate", "output_scores", "output_attentions", "output_hidden_states"), True
        ),
    }
    expected = theirs(model, ids, mask, do_sample=False, eos_token_id=ends or None, **asked)
    got = model.generate(ids, attention_mask=mask, eos_token_id=ends, pad_token_id=PAD, **asked)
    numpy.testing.assert_array_equal(got.sequences, expected.sequences.numpy())
    numpy.testing.assert_array_equal(got.beam_indices, expected.beam_indices.numpy())
    numpy.testing.assert_allclose(got.sequences_scores, expected.sequences_scores.numpy(), rtol=1e-4, atol=1e-5)
    for name in ("attentions", "hidden_states"):
        for ours, oracles in zip(got[name], expected[name], strict=True):
            assert [x.shape for x in ours] == [x.shape for x in oracles]
            last, of_oracle = ours[-1][..., -1, :], oracles[-1].numpy()[..., -1, :]  # of what each beam ends in
            there = ~numpy.isnan(last)  # a prompt's search may be over before that of others
            numpy.testing.assert_allclose(last[there], of_oracle[there], rtol=1e-6, atol=1e-9)
            assert there.all() or ours is not got[name][0]
    without = {name: value for name, value in asked.items() if value is not True or name == "early_stopping"}
    alone = model.generate(ids, attention_mask=mask, eos_token_id=ends, pad_token_id=PAD, **without)
    numpy.testing.assert_array_equal(alone, got.sequences)  # where prompts leave the batch when they are done


@given(case=cases(), data=st.data(), beams=st.sampled_from([1, 3]), normalize=st.booleans())
@settings(max_examples=40)
def test_the_score_of_each_token_is_the_oracles(case, data, beams, normalize):
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    asked = {"num_beams": beams, "max_new_tokens": 5, "return_dict_in_generate": True, "output_scores": True}
    asked |= {"eos_token_id": [0, 2], "num_return_sequences": min(beams, 2)}
    out = model.generate(ids, attention_mask=mask, pad_token_id=PAD, **asked)
    got = model.compute_transition_scores(out.sequences, out.scores, getattr(out, "beam_indices", None), normalize)
    expected = theirs(model, ids, mask, do_sample=False, **asked)
    expected = Oracle(model).module.compute_transition_scores(
        expected.sequences, expected.scores, expected.get("beam_indices"), normalize_logits=normalize
    )
    numpy.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)  # transformers keeps them in float32
    if beams > 1 and not normalize:
        numpy.testing.assert_allclose(got.sum(-1) / (out.beam_indices >= 0).sum(-1), out.sequences_scores, rtol=1e-9)


def test_the_shipped_model_is_searched_alike():
    model = BloomForCausalLM.from_pretrained(dtype="float64")
    rng = numpy.random.default_rng(0)
    texts = [text for text in ("All human beings", "Everyone has the", "Tout individu a", "Toda persona tiene") * 2]
    ids = [BloomTokenizerFast.from_pretrained()(text)["input_ids"] for text in texts]
    for i, row in enumerate(ids):
        ways = [{}, {"num_beams": 3, "length_penalty": float(rng.choice([0.0, 1.0]))}, {"no_repeat_ngram_size": 2}]
        asked = {"max_new_tokens": 12, **ways[i % 3]}
        prompt = numpy.array([row])
        expected = theirs(model, prompt, numpy.ones_like(prompt), do_sample=False, eos_token_id=2, **asked)
        numpy.testing.assert_array_equal(
            model.generate(prompt, eos_token_id=2, pad_token_id=PAD, **asked), expected.numpy()
        )


# --- Processors and filters, one by one and together ---

V = 40
ends = st.lists(st.integers(0, V - 1), min_size=1, max_size=2, unique=True)
words = st.lists(st.integers(0, V - 1), min_size=1, max_size=3)
CONTROLS = st.fixed_dictionaries({}, optional={
    "repetition_penalty": st.floats(0.5, 2),
    "no_repeat_ngram_size": st.integers(1, 4),
    "sequence_bias": st.dictionaries(words.map(tuple), st.floats(-5, 5), min_size=1, max_size=4),
    "bad_words_ids": st.lists(words, min_size=1, max_size=3),
    "min_new_tokens": st.integers(1, 6),
    "suppress_tokens": st.lists(st.integers(0, V - 1), min_size=1, max_size=4),
    "begin_suppress_tokens": st.lists(st.integers(0, V - 1), min_size=1, max_size=4),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 3), st.floats(1.01, 2)),
    "renormalize_logits": st.booleans(),
})  # fmt: skip
DRAWING = st.fixed_dictionaries({}, optional={
    "temperature": st.floats(0.3, 3), "top_k": st.integers(0, 50), "top_p": st.floats(0.1, 1),
    "min_p": st.floats(0.001, 0.9), "typical_p": st.floats(0.1, 0.99), "top_h": st.floats(0.1, 0.99),
    "epsilon_cutoff": st.floats(0.001, 0.3), "eta_cutoff": st.floats(0.001, 0.3),
})  # fmt: skip
ORACLE = Oracle(BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=8, n_layer=1, n_head=1))).module


@given(
    seed=st.integers(0, 2**32 - 1), B=st.integers(1, 3), S=st.integers(1, 6), new=st.integers(0, 4), ends=ends,
    controls=CONTROLS, drawing=st.none() | DRAWING, beams=st.sampled_from([1, 3]),
)  # fmt: skip
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_processed_logits_are_the_oracles_within_1e_6(seed, B, S, new, ends, controls, drawing, beams):
    rng = numpy.random.default_rng(seed)
    ids, logits = rng.integers(0, V, (B, S + new)) % rng.integers(2, V), rng.normal(0, 2, (B, V))
    asked = {**controls, **({} if drawing is None else {"do_sample": True, **drawing}), "num_beams": beams}
    config = transformers.GenerationConfig(**asked, eos_token_id=ends, pad_token_id=PAD, max_length=S + 9)
    for name in ("temperature", "top_k", "top_p", "repetition_penalty", "typical_p"):  # else unset, which is off
        if getattr(config, name) is None:
            setattr(config, name, {"top_k": 50}.get(name, 1.0))
    ORACLE._prepare_special_tokens(config, device="cpu")
    chain = ORACLE._get_logits_processor(config, input_ids_seq_length=S, device="cpu")
    expected = chain(torch.from_numpy(ids), torch.from_numpy(logits)).numpy()

    model = BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=8, n_layer=1, n_head=1))
    job = prepare(model, ids[:, :S], eos_token_id=ends, max_length=S + 9, **asked)
    if (got := _scores(job, ids, logits)) is not None:
        numpy.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    else:
        assert not (expected.max(-1) > -numpy.inf).all() or numpy.isnan(expected).any()


def _scores(job: Any, ids: numpy.ndarray, logits: numpy.ndarray) -> numpy.ndarray | None:
    """What minibloom makes of the logits; None where it says that nothing is left."""
    try:
        return job.scored(ids, logits, numpy.arange(len(ids)))
    except InputError:
        return None


@pytest.mark.parametrize("asked", [{"max_new_tokens": 4}, {"max_length": 7, "repetition_penalty": 1.5, "num_beams": 2}])
def test_settings_in_an_object_of_transformers_are_settings_here(asked):
    model = BloomForCausalLM(
        BloomConfig(vocab_size=V, hidden_size=8, n_layer=1, n_head=1, initializer_range=1.0), dtype="float64"
    )
    own, module = {"eos_token_id": [3], "suppress_tokens": [6]}, Oracle(model).module
    model.generation_config = GenerationConfig(**own)
    for name, value in own.items():
        setattr(module.generation_config, name, value)
    settings = transformers.GenerationConfig(**asked)
    with torch.no_grad(), float64_kept(), slopes_of_minibloom():
        expected = module.generate(torch.tensor([[5, 4]]), generation_config=settings)
    numpy.testing.assert_array_equal(model.generate([[5, 4]], generation_config=settings), expected)


@pytest.mark.parametrize(
    "own", [{"eos_token_id": 7}, {"suppress_tokens": [7]}, {"repetition_penalty": 9.0}, {"bad_words_ids": [[7]]}]
)
def test_none_takes_back_what_the_models_own_file_says(own):
    model = random_model(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2), 1)  # writes many a 7
    model.generation_config, module = GenerationConfig(**own), Oracle(model).module
    module.generation_config = transformers.GenerationConfig(**own, pad_token_id=PAD)
    found, ends = [], {} if "eos_token_id" in own else {"eos_token_id": []}  # what a config says, a file says there
    for asked in ({}, dict.fromkeys(own)):
        with torch.no_grad(), float64_kept(), slopes_of_minibloom():
            expected = module.generate(torch.tensor([[3, 2]]), max_new_tokens=6, **asked).tolist()
        found.append(model.generate([[3, 2]], max_new_tokens=6, **ends | asked).tolist())
        assert found[-1] == expected
    assert found[0] != found[1]


@given(
    seed=st.integers(0, 2**32 - 1), case=cases(vocab_size=V), data=st.data(), beams=st.sampled_from([1, 1, 2, 3]),
    controls=st.sampled_from([{}, {"min_new_tokens": 3}, {"bad_words_ids": [[i] for i in range(7, 25)]}]),
)  # fmt: skip
@settings(max_examples=40)
def test_a_function_says_what_may_follow(seed, case, data, beams, controls):
    model, (ids, mask) = case.model("float64"), prompts(case, data)

    def allowed(number: int, row: Any) -> list[int]:
        rng = numpy.random.default_rng([seed, number, int(row[-1])])  # of the prompt and the token before
        some = rng.permutation(V)[:3].tolist()
        return some[:1] if row[-1] % 2 else [30, *some]  # one that may be ruled out, or several, not all: no ties

    asked = {"max_new_tokens": 5, "eos_token_id": [5, 6], "num_beams": beams, "prefix_allowed_tokens_fn": allowed}
    expected = theirs(model, ids, mask, do_sample=False, **asked, **controls).numpy()
    for way in [{}] if beams > 1 else [{}, {"prompt_lookup_num_tokens": 3}]:
        got = model.generate(ids, attention_mask=mask, pad_token_id=PAD, **asked, **controls, **way)
        numpy.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("way", [
    {"do_sample": True, "num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 3}, {"num_beams": 2},
])  # fmt: skip
def test_the_function_is_told_the_numbers_of_rows_and_of_beams_their_prompts(way):
    model, ids = random_model(BloomConfig(vocab_size=V, hidden_size=8, n_layer=1, n_head=1), 0), numpy.array([[5], [6]])
    told: list[set[int]] = []

    def allowed(number: int, row: Any) -> list[int]:
        told[-1].add(number)
        return [10 + number]

    for generate in (theirs, lambda model, ids, mask, **asked: model.generate(ids, attention_mask=mask, **asked)):
        told.append(set())
        generate(model, ids, numpy.ones_like(ids), max_new_tokens=2, prefix_allowed_tokens_fn=allowed, **way)
    assert told[0] == told[1] == set(range(6 if "do_sample" in way else 2))


@given(
    case=cases(vocab_size=V), data=st.data(), scale=st.sampled_from([1.5, 3.0, 0.0, -1.0]), controls=CONTROLS,
    kind=st.sampled_from(["no prompt", "prompt", "padded prompt"]),
)  # fmt: skip
@settings(max_examples=50)
def test_guidance_leads_to_the_same_tokens(case, data, scale, controls, kind):
    """Rows that end leave minibloom's batch, and stay in transformers'."""
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    mask[:] = 1  # see `no_run_of_tokens_takes_padding_for_text` in test_quirks.py
    asked = {"max_new_tokens": 6, "eos_token_id": list(range(5, 15)), "guidance_scale": scale, **controls}
    asked |= {"min_new_tokens": 2} if "min_new_tokens" in controls else {}
    rng, negative = numpy.random.default_rng(case.seed), {}
    if kind != "no prompt":
        negative["negative_prompt_ids"] = rng.integers(0, V, (len(ids), 4))
        if kind == "padded prompt":
            negative["negative_prompt_attention_mask"] = numpy.stack([padding("left", 4, rng) for _ in ids])
    expected = theirs(
        model, ids, mask, do_sample=False, **asked, **{name: torch.from_numpy(x) for name, x in negative.items()}
    )
    got = model.generate(ids, attention_mask=mask, pad_token_id=PAD, **asked, **negative)
    numpy.testing.assert_array_equal(got, expected.numpy())


def test_a_streamer_is_shown_what_transformers_shows_it():
    tokenizer, model = BloomTokenizerFast.from_pretrained(), BloomForCausalLM.from_pretrained(dtype="float64")
    ids = numpy.array([tokenizer("All human beings")["input_ids"]])

    class Notes:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def put(self, value: Any) -> None:
            self.seen.append(numpy.asarray(value).tolist())

        def end(self) -> None:
            self.seen.append("end")

    ours, theirs_, text, steps = Notes(), Notes(), Notes(), Notes()
    theirs(model, ids, numpy.ones_like(ids), max_new_tokens=6, do_sample=False, streamer=theirs_)
    model.generate(ids, max_new_tokens=6, streamer=ours)
    generate_text(model, tokenizer, "All human beings", max_new_tokens=6, streamer=text)
    list(generate_steps(model, ids, max_new_tokens=6, streamer=steps))
    assert ours.seen == theirs_.seen == text.seen == steps.seen and ours.seen[-1] == "end"
    shown: list[str] = []
    streamer = transformers.TextStreamer(tokenizer)
    streamer.on_finalized_text = lambda text, stream_end=False: shown.append(text)
    model.generate(ids, max_new_tokens=6, streamer=streamer)
    assert "".join(shown) == tokenizer.decode([*ids[0], *(one[0] for one in ours.seen[1:-1])])
    with pytest.raises(InputError, match="streamer is set and num_beams is 2"):
        model.generate(ids, num_beams=2, streamer=ours)
    with pytest.raises(InputError, match="streamer.put is 'missing', expected a function"):
        model.generate(ids, streamer="stdout")


# --- Whole runs with processors ---

FORCED = st.fixed_dictionaries({}, optional={
    "forced_eos_token_id": st.integers(PAD + 1, V - 1), "forced_bos_token_id": st.integers(PAD + 1, V - 1),
    "min_length": st.integers(1, 12),
})  # fmt: skip


@given(
    case=cases(vocab_size=V), data=st.data(), count=st.integers(1, 8), ends=ends, controls=CONTROLS, forced=FORCED,
    beams=st.sampled_from([1, 1, 2, 3]),
)  # fmt: skip
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_processors_lead_to_the_same_tokens(case, data, count, ends, controls, forced, beams):
    """Greedy, guessed or not, and beams. The pad token is never text, for there some processors of transformers take it
    for a token (see `test_quirks.py`)."""
    model, (ids, mask) = case.model("float64"), prompts(case, data)
    ids = numpy.where(mask == 0, PAD, numpy.where(ids == PAD, PAD + 1, ids))
    asked = {"max_new_tokens": count, "eos_token_id": ends, "num_beams": beams, **controls, **forced}
    forced_ids = {one for name, one in forced.items() if name != "min_length"}
    asked["suppress_tokens"] = sorted({PAD, *controls.get("suppress_tokens", [])} - forced_ids)
    if "min_new_tokens" in controls:
        asked |= {"min_new_tokens": min(controls["min_new_tokens"], count), "min_length": None}
    elif "min_length" in forced:
        asked["min_length"] = min(forced["min_length"], ids.shape[1] + count)
    ways = [{}] if beams > 1 else [{}, {"prompt_lookup_num_tokens": 3}]
    try:
        got = [model.generate(ids, attention_mask=mask, pad_token_id=PAD, **asked, **way) for way in ways]
    except InputError as error:
        assert "leave no token to choose" in str(error)
        reject()
    expected = theirs(model, ids, mask, do_sample=False, **asked).numpy()
    for out in got:
        numpy.testing.assert_array_equal(out, expected)
