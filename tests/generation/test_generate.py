"""Generation: filters against their definitions, the loop against full passes, text that is never half a character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, BloomTokenizerFast
from minibloom.cache import Cache
from minibloom.errors import InputError
from minibloom.generation import (
    PromptCache,
    check_settings,
    draw,
    generate,
    generate_steps,
    generate_text,
    keep_top_k,
    keep_top_p,
    perplexity,
    processed,
    stream_text,
    suppress,
)
from minibloom.outputs import CausalLMOutputWithPast

from .. import tiny
from ..strategies import few, models, normal, random_model, seeds, some, token_ids

# --- The filters ---


@st.composite
def logit_rows(draw: st.DrawFn, ties: bool = False) -> numpy.ndarray:
    """Logits `[B, V]`; with `ties` small whole numbers, so that some are equal."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    logits = 2 * normal(draw(seeds), *shape)
    return numpy.round(logits) if ties else logits


def kept(filtered: numpy.ndarray, logits: numpy.ndarray) -> numpy.ndarray:
    """Which tokens a filter left, as bool; what it left must be as it was."""
    left = filtered > -math.inf
    assert filtered.dtype == logits.dtype
    numpy.testing.assert_array_equal(filtered[left], logits[left])
    return left


@given(logits=logit_rows(ties=True), k=st.integers(1, 15))
def test_top_k_keeps_the_k_likeliest_and_what_equals_the_last_of_them(logits, k):
    before = logits.copy()
    for row, left in zip(logits, kept(keep_top_k(logits, k), logits), strict=True):
        expected = [sum(other > x for other in row) < k for x in row]  # fewer than k are likelier
        assert left.tolist() == expected
    numpy.testing.assert_array_equal(logits, before)  # a filter changes a copy


def probabilities(row: Sequence[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [w / math.fsum(weights) for w in weights]


@given(logits=logit_rows(), p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_likeliest_that_hold_p_together(logits, p):
    for row, left in zip(logits, kept(keep_top_p(logits, p), logits), strict=True):
        probs, held, expected = probabilities(row), 0.0, set()
        for i in sorted(range(len(row)), key=lambda i: -row[i]):
            expected.add(i)
            held += probs[i]
            assume(abs(held - p) > 1e-9)  # else rounding decides
            if held > p:
                break
        assert set(numpy.flatnonzero(left)) == expected


@given(logits=logit_rows(), p=st.floats(1e-30, 1e-9))
def test_top_p_never_rules_out_the_likeliest_however_sums_are_rounded(logits, p):
    logits = logits.astype("float32")
    for row, left in zip(logits, kept(keep_top_p(logits, p), logits), strict=True):
        assert numpy.flatnonzero(left).tolist() == [row.argmax()]


@given(logits=logit_rows(), data=st.data())
def test_suppressed_tokens_have_no_probability_and_all_others_their_share(logits, data):
    ids = data.draw(st.lists(st.integers(0, logits.shape[1] - 1), max_size=logits.shape[1]))
    left = kept(suppress(logits, numpy.array(ids, int)), logits)
    assert all(set(numpy.flatnonzero(~row)) == set(ids) for row in left)


@given(logits=logit_rows(), temperature=st.floats(0.1, 10), k=st.integers(0, 12), p=st.floats(0.05, 1))
def test_temperature_comes_first_then_top_k_then_top_p(logits, temperature, k, p):
    expected = logits / temperature
    expected = keep_top_k(expected, k) if k else expected
    expected = keep_top_p(expected, p) if p < 1 else expected
    numpy.testing.assert_array_equal(processed(logits, temperature, k, p), expected)
    numpy.testing.assert_array_equal(processed(logits, 1.0, 0, 1.0), logits)


def test_draws_follow_the_probabilities():
    logits = numpy.array([0.3, -math.inf, 2.0, -1.0, 1.0, 0.0, -3.0, 1.5, -0.5], "float32")
    count = 20_000
    ids = draw(numpy.tile(logits, (count, 1)), numpy.random.default_rng(0))
    observed = numpy.bincount(ids, minlength=9)
    assert observed[1] == 0  # ruled out
    possible = [0, *range(2, 9)]
    expected = count * numpy.array(probabilities(logits.tolist()))[possible]
    chi_squared = ((observed[possible] - expected) ** 2 / expected).sum()
    assert chi_squared < 24.3  # 7 degrees of freedom: above that in one seed of 1,000
    # Rows are drawn independently: neighbours agree as often as two draws do.
    agree = (ids[1:] == ids[:-1]).mean()
    assert agree == pytest.approx(((expected / count) ** 2).sum(), abs=0.02)


@given(seed=seeds, size=st.integers(1, 6))
def test_a_draw_with_one_token_left_is_that_token(seed, size):
    logits = numpy.full((size, 5), -math.inf)
    only = numpy.random.default_rng(seed).integers(0, 5, size)
    logits[numpy.arange(size), only] = normal(seed, size)
    assert draw(logits, numpy.random.default_rng(seed)).tolist() == only.tolist()


# --- The loop ---


@given(data=st.data(), model=models())
@some
def test_greedy_takes_the_likeliest_token_of_a_full_pass_each_time(data, model):
    ids = data.draw(token_ids(model.config))
    expected = ids
    for _ in range(4):
        following = model(expected, use_cache=False).logits[:, -1].argmax(-1)
        expected = numpy.concatenate([expected, following[:, None]], axis=1)
    out = model.generate(ids, max_new_tokens=4, eos_token_id=[])
    numpy.testing.assert_array_equal(out, expected)
    assert out.dtype == numpy.int64


@given(data=st.data(), model=models())
@some
def test_prompts_padded_on_the_left_continue_as_each_alone(data, model):
    prompts = [data.draw(token_ids(model.config, longest=6))[0] for _ in range(3)]
    width = max(map(len, prompts))
    batch = numpy.stack([numpy.pad(row, (width - len(row), 0), constant_values=1) for row in prompts])
    mask = numpy.stack([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    out = model.generate(batch, attention_mask=mask, max_new_tokens=4, eos_token_id=[])
    for row, together in zip(prompts, out, strict=True):
        alone = model.generate(row[None], max_new_tokens=4, eos_token_id=[])[0]
        assert together[width:].tolist() == alone[len(row) :].tolist()


def test_unequal_arrays_are_padded_as_lists_are():
    model, rows = random_model(scripted_config(), 0), [[1, 2, 3], [4]]
    out = model.generate([numpy.array(row) for row in rows], max_new_tokens=3)
    numpy.testing.assert_array_equal(out, model.generate(rows, max_new_tokens=3))
    with pytest.raises(InputError, match="input_ids holds 8, expected"):
        model.generate([numpy.array([1, 8]), numpy.array([1])])


@given(data=st.data(), model=models())
@some
def test_a_row_that_has_ended_is_filled_and_all_ended_stop_the_loop(data, model):
    ids = data.draw(token_ids(model.config))
    free = model.generate(ids, max_new_tokens=6, eos_token_id=[])[:, ids.shape[1] :]
    ends = data.draw(st.sets(st.sampled_from(sorted(set(free.ravel().tolist()))), min_size=1, max_size=2))
    pad = data.draw(st.integers(0, model.config.vocab_size - 1).filter(lambda i: i not in ends))
    out = model.generate(ids, max_new_tokens=6, eos_token_id=sorted(ends), pad_token_id=pad)[:, ids.shape[1] :]
    lengths = []
    for row, unended in zip(out.tolist(), free.tolist(), strict=True):
        length = next((i + 1 for i, one in enumerate(unended) if one in ends), 6)  # its end included
        assert row == unended[:length] + [pad] * (len(row) - length)
        lengths.append(length)
    assert out.shape[1] == max(lengths)


def scripted_config(**fields: Any) -> BloomConfig:
    return BloomConfig(**{"vocab_size": 8, "hidden_size": 4, "n_head": 1, **fields})


@pytest.mark.parametrize(
    ("fields", "pad"),
    [
        ({"pad_token_id": 3, "eos_token_id": 2}, 3),
        ({"eos_token_id": [2, 5]}, 2),  # without a token for padding: the first that ends
        ({"pad_token_id": 100, "eos_token_id": [100, 2]}, 2),  # a default that lies past a small vocabulary
    ],
)
def test_what_ends_and_fills_a_row_is_configs_unless_given(fields, pad):
    model = tiny.Scripted(scripted_config(**fields), [[4, 6, 6, 2, 7], [2, 7, 7, 7, 7]])
    ids = numpy.array([[1], [1]])
    out = generate(model, ids, max_new_tokens=5)
    assert out.tolist() == [[1, 4, 6, 6, 2], [1, 2, pad, pad, pad]]
    out = generate(model, ids, max_new_tokens=5, eos_token_id=6, pad_token_id=0)
    assert out.tolist() == [[1, 4, 6, 0, 0, 0], [1, 2, 7, 7, 7, 7]]


def test_the_prompt_is_read_once_and_then_one_token_a_pass_and_none_for_nothing():
    model = tiny.Scripted(scripted_config(), [[4, 5, 6]])
    steps = generate_steps(model, [[1, 3, 4, 4]], max_new_tokens=3)
    assert model.shapes == []  # nothing is computed that nobody asked for yet
    assert [int(chosen[0]) for chosen in steps] == [4, 5, 6]
    assert model.shapes == [(1, 4), (1, 1), (1, 1)]


@given(data=st.data(), model=models(vocab_size=17), seed=st.integers(0, 2**31))
@few
def test_a_seed_gives_the_same_draws_and_sharp_draws_are_greedy(data, model, seed):
    ids = data.draw(token_ids(model.config))
    options = {"max_new_tokens": 6, "eos_token_id": []}
    sampled = {"do_sample": True, "seed": seed, "temperature": 2.0, **options}
    numpy.testing.assert_array_equal(model.generate(ids, **sampled), model.generate(ids, **sampled))
    greedy = model.generate(ids, **options)
    for sharp in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}):
        numpy.testing.assert_array_equal(model.generate(ids, **sampled | sharp), greedy)


def test_seeds_differ_and_without_one_so_do_runs():
    model, ids = random_model(scripted_config(vocab_size=50), 0), [[1, 2]]
    options = {"do_sample": True, "max_new_tokens": 20, "temperature": 5.0, "eos_token_id": []}
    texts = [model.generate(ids, **options, seed=seed).tolist() for seed in (0, 1, None, None)]
    assert all(a != b for i, a in enumerate(texts) for b in texts[:i])


def test_top_k_is_50_unless_given_as_in_transformers():
    model = Ranked(scripted_config(vocab_size=200), [])
    ids = generate(model, [[1]] * 500, max_new_tokens=1, do_sample=True, seed=0, eos_token_id=[])[:, 1]
    assert len(set(ids.tolist())) == 50 and ids.min() == 150  # 50 likeliest of 200 that hardly differ
    everything = generate(model, [[1]] * 500, max_new_tokens=1, do_sample=True, seed=0, top_k=0, eos_token_id=[])[:, 1]
    assert len(set(everything.tolist())) > 100


class Ranked(tiny.Scripted):
    """The higher an id, the likelier it is, but hardly."""

    def __call__(self, ids: Any, past_key_values: Any, **_: Any) -> CausalLMOutputWithPast:
        logits = numpy.tile(1e-3 * numpy.arange(self.config.vocab_size), (len(ids), 1, 1))
        return CausalLMOutputWithPast(logits=logits, past_key_values=Cache(1))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
def test_ids_are_int64_whatever_the_prompts_are(dtype):
    model = tiny.Scripted(scripted_config(vocab_size=400), [[300]])
    out = generate(model, numpy.array([[7]], dtype), max_new_tokens=1)
    assert (out.tolist(), out.dtype) == ([[7, 300]], "int64")


# --- Text ---


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(list("é猫बि😀ة \n"))
texts = st.lists(characters, min_size=1, max_size=12).map("".join)


@given(text=texts)
def test_what_is_shown_is_always_the_beginning_of_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    model = tiny.Scripted(tiny.config(), [[*ids, tokenizer.eos_token_id]])
    shown = ""
    for piece in stream_text(model, tokenizer, "the", max_new_tokens=len(ids) + 1):
        shown += piece
        assert piece and text.startswith(shown)
    assert shown == text  # the end of the sequence is not shown


@given(seed=seeds, prompt=texts, count=st.integers(1, 30))
@some
def test_pieces_join_to_the_text_of_all_ids(tokenizer, seed, prompt, count):
    model = random_model(tiny.config(), seed)  # knows no language: it breaks off characters all the time
    options = {"max_new_tokens": count, "do_sample": True, "temperature": 3.0, "seed": seed}
    pieces = list(stream_text(model, tokenizer, prompt, **options))
    ids = tokenizer(prompt)["input_ids"]
    beyond = range(len(tokenizer), model.config.vocab_size)
    out = model.generate([ids], suppress_tokens=beyond, **options)[0][len(ids) :]
    assert "".join(pieces) == tokenizer.decode(out, skip_special_tokens=True)
    assert all(pieces)


@pytest.mark.parametrize("suppress_tokens", [None, [], [300, 5]])
def test_ids_past_the_tokenizer_are_never_chosen(tokenizer, suppress_tokens):
    wanted = tokenizer("the cat")["input_ids"]
    assert len(tokenizer) < 383
    model = tiny.Scripted(tiny.config(), [[*wanted, tokenizer.eos_token_id]], favourite=383)
    assert generate(model, [[5]], max_new_tokens=1)[0, 1] == 383
    pieces = stream_text(model, tokenizer, "a", max_new_tokens=9, suppress_tokens=suppress_tokens)
    assert "".join(pieces) == "the cat"


# --- Bad input: at the call, before anything is computed ---

BAD_SETTINGS = [
    ({"max_new_tokens": 0}, "max_new_tokens is 0, expected a whole number of at least 1"),
    ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
    ({"max_new_tokens": True}, "max_new_tokens is True"),
    ({"temperature": 0.5}, "temperature is 0.5 but do_sample is False"),
    ({"top_k": 5}, "top_k is 5 but do_sample is False"),
    ({"top_p": 0.5}, "top_p is 0.5 but do_sample is False"),
    ({"seed": 1}, "seed is 1 but do_sample is False"),
    ({"do_sample": True, "temperature": 0}, "temperature is 0, expected a number above 0"),
    ({"do_sample": True, "temperature": math.inf}, "temperature is inf"),
    ({"do_sample": True, "temperature": math.nan}, "temperature is nan"),
    ({"do_sample": True, "temperature": "hot"}, "temperature is 'hot'"),
    ({"do_sample": True, "top_k": -1}, "top_k is -1, expected a whole number of at least 0"),
    ({"do_sample": True, "top_k": 1.5}, "top_k is 1.5"),
    ({"do_sample": True, "top_p": 0.0}, "top_p is 0.0, expected a number above 0 and at most 1"),
    ({"do_sample": True, "top_p": 1.1}, "top_p is 1.1"),
    ({"do_sample": True, "top_p": [1]}, r"top_p is \[1\]"),
    ({"do_sample": True, "seed": -1}, "seed is -1"),
    ({"do_sample": True, "seed": "a"}, "seed is 'a'"),
    ({"seed": numpy.random.default_rng(0)}, "seed is .* but do_sample is False"),
    ({"eos_token_id": 384}, "eos_token_id holds 384, expected ids from 0 to 383"),
    ({"eos_token_id": [2, -1]}, r"eos_token_id is \[2, -1\], expected a token id or a list"),
    ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    ({"pad_token_id": 999}, "pad_token_id holds 999"),
    ({"pad_token_id": [1, 2]}, r"pad_token_id is \[1, 2\]"),
    ({"suppress_tokens": [5, 384]}, "suppress_tokens holds 384"),
    ({"suppress_tokens": 1.5}, "suppress_tokens is 1.5"),
    ({"suppress_tokens": range(384)}, "suppress_tokens leaves no token"),
    ({"temprature": 1.0}, "generate has no setting 'temprature'.* Did you mean 'temperature'"),
    ({"calback": print}, "generate has no setting 'calback'.* Did you mean 'callback'"),
    ({"trace": {}}, r"trace is {}, expected a Trace"),
    ({"dola_layers": "high"}, "generate has no setting 'dola_layers': transformers has it"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_a_setting_that_cannot_be_used_is_named_at_the_call(tokenizer, settings, message):
    model = BloomForCausalLM(tiny.config())
    for call in (
        lambda: generate_steps(model, [[5]], **settings),
        lambda: model.generate([[5]], **settings),
        lambda: stream_text(model, tokenizer, "the", **settings),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([], None, "input_ids has shape"),
        ([[]], None, "input_ids has shape"),
        ([1, 2], None, "wrap a single sequence in a list"),
        ([[1], []], None, "input_ids has rows of different lengths"),
        ([[384]], None, "input_ids holds 384"),
        ([[1, 2]], [[1]], r"attention_mask has shape \[1, 1\], expected \[1, 2\]"),
        ([[1, 2]], [[1, 2]], "attention_mask holds other numbers"),
        ([[1, 2], [3, 4]], [[1, 0], [1, 1]], "pad prompts on the left"),
        ([[1, 2], [1, 2]], [[1], [1, 1]], "attention_mask has rows of different lengths"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_at_the_call(ids, mask, message):
    model = BloomForCausalLM(tiny.config())
    with pytest.raises(InputError, match=message):
        generate_steps(model, ids, attention_mask=mask)


def test_a_stream_of_text_needs_a_tokenizer():
    with pytest.raises(InputError, match="the prompt is text but tokenizer is not set"):
        stream_text(BloomForCausalLM(tiny.config()), None, "the")


@pytest.mark.parametrize("given", ["bigscience/bloom", 5, BloomTokenizerFast])
def test_what_is_no_tokenizer_is_said(given):
    with pytest.raises(InputError, match="tokenizer is a (str|int|type), expected a BloomTokenizerFast of minibloom"):
        BloomForCausalLM(tiny.config()).generate([[5]], tokenizer=given)


def test_a_tokenizer_of_others_cuts_text_and_no_more(tokenizer):
    class Other:
        def __call__(self, texts: list[str]) -> Any:
            return tokenizer(texts)

        def __len__(self) -> int:
            return len(tokenizer)

    model, asked = BloomForCausalLM(tiny.config()), {"max_new_tokens": 2}
    assert model.generate("the", tokenizer=Other(), **asked).tolist() == model.generate(
        "the", tokenizer=tokenizer, **asked
    ).tolist()  # fmt: skip
    for refused in (
        lambda: model.generate("the", tokenizer=Other(), stop_strings="a"),
        lambda: stream_text(model, Other(), "the"),
        lambda: generate_text(model, Other(), "the"),
    ):
        with pytest.raises(InputError, match="tokenizer is a Other, expected a BloomTokenizerFast of minibloom"):
            refused()


@pytest.mark.parametrize("prompt", ["", None, 5, []])
def test_an_empty_prompt_is_refused_at_the_call(tokenizer, prompt):
    with pytest.raises(InputError, match="the prompt is empty" if prompt == "" else None):
        stream_text(BloomForCausalLM(tiny.config()), tokenizer, prompt)


def test_settings_are_checked_without_a_model():
    check_settings(max_new_tokens=5, do_sample=True, temperature=0.7, top_k=40, top_p=0.9, seed=0)
    with pytest.raises(InputError, match="top_p"):
        check_settings(max_new_tokens=5, do_sample=True, top_p=3.0)


@pytest.mark.parametrize("more", [{}, {"prompt_lookup_num_tokens": 2}])
def test_a_generator_goes_on_where_the_last_call_stopped(more):
    model, rng = BloomForCausalLM(tiny.config()), numpy.random.default_rng(4)
    sampled = {"do_sample": True, "top_k": 0, "max_new_tokens": 12, "eos_token_id": [], **more}
    first, second = (model.generate([[5, 6]], seed=rng, **sampled) for _ in range(2))
    numpy.testing.assert_array_equal(first, model.generate([[5, 6]], seed=4, **sampled))
    assert (first != second).any()


def test_the_prompt_has_two_names():
    model, new = BloomForCausalLM(tiny.config()), {"max_new_tokens": 3}
    expected = model.generate([[5, 6]], **new)
    for prompt in ({"inputs": [[5, 6]]}, {"input_ids": [[5, 6]], "inputs": None, "inputs_embeds": None}):
        numpy.testing.assert_array_equal(model.generate(**prompt, **new), expected)
        numpy.testing.assert_array_equal(numpy.stack([*generate_steps(model, **prompt, **new)], 1), expected[:, 2:])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "there is no prompt: give input_ids"),
        ({"input_ids": [[5]], "inputs": [[5]]}, "inputs and input_ids are both set: give"),
        ({"inputs_embeds": numpy.zeros((1, 2, 32))}, "inputs_embeds is set, but generate goes on from ids"),
    ],
)
def test_what_is_no_prompt_is_said(given, says):
    for call in (generate, generate_steps):
        with pytest.raises(InputError, match=says):
            call(BloomForCausalLM(tiny.config()), **given)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 2},
        {"do_sample": True, "seed": 0},
        {"penalty_alpha": 0.5, "top_k": 2},
        {"prompt_lookup_num_tokens": 2},
        {"guidance_scale": 2.0},
        {"assistant_model": True},
    ],
    ids=str,
)
def test_a_model_whose_calls_return_tuples_generates_alike(settings):
    """`return_dict` of its configuration is what its callers want, and no business of generation's."""
    config = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3)
    model, tuples = (random_model(config.replace(return_dict=way), 0) for way in (True, False))
    ids = [[1, 2, 3, 1, 2]]
    both = []
    for one in (model, tuples):
        draft = {"assistant_model": one} if "assistant_model" in settings else {}
        both.append(one.generate(ids, max_new_tokens=4, **{**settings, **draft}).tolist())
    assert both[0] == both[1]
    assert perplexity(tuples, ids) == perplexity(model, ids)
    prompt = PromptCache(tuples, [ids[0][:3]])
    assert tuples.generate(ids, past_key_values=prompt, max_new_tokens=2).shape == (1, 7)
