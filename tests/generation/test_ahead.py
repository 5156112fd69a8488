"""Many tokens by one call: what tokens by a call each are, in ids, caches, draws and reasons, and only if nobody acts
between two of them."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minibloom import BloomConfig, BloomForCausalLM, InputError, Trace
from minibloom.cache import Cache
from minibloom.compiled_choice import Ahead
from minibloom.generation import ahead as module
from minibloom.generation import decode
from minibloom.generation.generate import collect, generate_steps
from minibloom.generation.prepare import prepare
from minibloom.layers import compiled_blocks
from minibloom.window_cache import WindowCache

from ..strategies import seeds, some

V = 40


@pytest.fixture(autouse=True, params=["in Python", "compiled"])
def way(request, monkeypatch):
    """The loop as it stands, and compiled; both are taken as soon as they can be."""
    monkeypatch.setattr(compiled_blocks, "PATIENCE", 0)
    monkeypatch.setattr(module, "at_hand", lambda: True)
    if request.param == "in Python":
        loops = compiled_blocks.describe_block, compiled_blocks.passes_numbers
        monkeypatch.setattr(compiled_blocks, "most_rows", lambda: (compiled_blocks.MOST, compiled_blocks.MOST))
        monkeypatch.setattr(compiled_blocks, "machine_code", lambda dtype: loops)
    else:
        pytest.importorskip("numba", reason="Numba is optional")
    return request.param


def a_model(seed: int = 1, tied: bool = False, **more) -> BloomForCausalLM:
    """A model that says many different tokens, which a tied one of this size does not."""
    config = BloomConfig(
        vocab_size=V, hidden_size=8, n_layer=2, n_head=2, eos_token_id=3, tie_word_embeddings=tied, **more
    )
    model, rng = BloomForCausalLM(config, seed=seed), numpy.random.default_rng(seed)
    for p in model.params.values():
        p += rng.normal(size=p.shape).astype("float32") * (0.5 if p.ndim == 2 else 0.2)
    return model


class Calls:
    """Calls of a model: how many tokens each chose, 0 where `decode` did."""

    def __init__(self, model, patch):
        self.tokens, call = [], type(model).__call__

        def counted(model, *args, **kwargs):
            out = call(model, *args, **kwargs)
            ahead = kwargs.get("ahead")
            self.tokens.append(0 if ahead is None else len(ahead.chosen))
            return out

        patch.setattr(type(model), "__call__", counted)


def both_ways(model, ids, **settings):
    """For each way, ids, the job's result, and how the model was called: with the loop going on, and without."""
    found = []
    for on in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            calls = Calls(model, patch)
            if not on:
                patch.setattr(decode, "tokens_ahead", lambda job, rows, history: 0)
            more = {name: make() if callable(make) else make for name, make in settings.items()}
            job = prepare(model, ids, **more)
            found.append((collect(job), job, calls.tokens, more))
    assert not any(found[1][2])
    return found


def assert_alike(found):
    (ours, job, tokens, _), (plain, plain_job, calls, _) = found
    if job.settings.num_return_sequences == 1:  # else the prompts' rows are repeated first
        assert tokens[0]
    numpy.testing.assert_array_equal(ours, plain)
    assert job.result.reasons == plain_job.result.reasons
    assert job.result.passes == plain_job.result.passes == len(calls)
    if job.settings.do_sample:
        assert job.rng.random() == plain_job.rng.random()  # as many were drawn


@some
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 6),
    new=st.integers(2, 12),
    k=st.sampled_from([0, 1, 5, 39]),
    returned=st.integers(1, 2),
    ends=st.sampled_from([[], [3], [3, 7, 11]]),
    padded=st.booleans(),
    tied=st.booleans(),
    at_once=st.sampled_from([2, 3, 100]),
    threads=st.sampled_from([1, 2]),
    seed=seeds,
)
def test_they_are_the_tokens_of_a_call_each(
    batch, length, new, k, returned, ends, padded, tied, at_once, threads, seed
):
    rng, model = numpy.random.default_rng(seed), a_model(seed, tied)
    ids, mask = rng.integers(0, V, (batch, length)), None
    if padded:
        mask = (numpy.arange(length) >= rng.integers(0, length, (batch, 1))).astype(int)
    settings = {"max_new_tokens": new, "eos_token_id": ends, "attention_mask": mask}
    if k:
        settings |= {"do_sample": True, "seed": seed, "top_k": k, "num_return_sequences": returned}
    with threadpool_limits(threads, "blas"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "numbers_of", lambda config, T: 1)
        patch.setattr(module, "AT_ONCE", at_once * batch * (returned if k else 1))
        patch.setattr(compiled_blocks, "SHARED", 0)
        assert_alike(both_ways(model, ids, **settings))


def test_a_call_goes_on_until_a_row_ends_and_the_rows_that_are_left_begin_another(monkeypatch):
    model, ids = a_model(), numpy.arange(12).reshape(4, 3)
    plain = model.generate(ids, max_new_tokens=8, eos_token_id=[])[:, 3:]
    end = int(plain[1, 2])  # what the second row says third
    first = [row.tolist().index(end) if end in row else 8 for row in plain]
    assert min(first) < 7 and len(set(first)) > 1
    found = both_ways(model, ids, max_new_tokens=8, eos_token_id=[end])
    assert_alike(found)
    assert found[0][2][0] == min(first) + 1  # the prompts and what follows, by one call


def test_a_small_model_s_text_is_one_call_and_a_large_one_s_as_many_as_ctrl_c_may_wait_for(monkeypatch):
    model, ids = a_model(), [[1, 2, 3]]
    calls = Calls(model, monkeypatch)
    model.generate(ids, max_new_tokens=9, eos_token_id=[])
    assert calls.tokens == [9]
    monkeypatch.setattr(module, "numbers_of", lambda config, T: 10)
    for at_once, tokens in ((40, [4, 4, 0]), (39, [3, 3, 3]), (19, [0] * 9)):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        calls.tokens.clear()
        model.generate(ids, max_new_tokens=9, eos_token_id=[])
        assert calls.tokens == tokens
    monkeypatch.setattr(module, "AT_ONCE", 80)  # two rows cost twice as much
    calls.tokens.clear()
    model.generate([[1, 2, 3], [4, 5, 6]], max_new_tokens=9, eos_token_id=[])
    assert calls.tokens == [4, 4, 0]


@pytest.mark.parametrize(
    "more, T",
    [({}, 1), ({"vocab_size": 10**6}, 1), ({"hidden_size": 2**12}, 1), ({"n_layer": 300}, 1), ({}, 10**5)],
)
def test_what_a_token_costs_counts_head_blocks_and_keys(more, T):
    """As what a pass reads of weights, at least, and of keys and values."""
    c = BloomConfig(**{"vocab_size": V, "hidden_size": 8, "n_layer": 2, "n_head": 2, **more})
    sizes = BloomForCausalLM.shapes(c).values()
    matrices = sum(size[0] * size[1] for size in sizes if len(size) == 2)
    assert module.numbers_of(c, T) >= matrices + 2 * c.n_layer * T * c.hidden_size


def test_room_is_made_for_about_as_many_tokens_as_there_are(monkeypatch):
    """A text may end with its first token, however many are allowed."""
    model, cache = a_model(), Cache(2)
    calls, first = Calls(model, monkeypatch), int(model.generate([[1, 2, 3]], max_new_tokens=1)[0, -1])
    model.generate([[1, 2, 3]], max_new_tokens=10**4, eos_token_id=[first], past_key_values=cache)
    assert cache.length == 3 and cache.nbytes == 2 * 2 * (3 + module.AT_FIRST - 1) * 8 * 4
    calls.tokens.clear()
    model.generate([[1, 2, 3]], max_new_tokens=200, eos_token_id=[])
    assert calls.tokens == [32, 35, 70, 63]  # 3 -> 35 -> 70 -> 140 -> 203


@pytest.mark.parametrize("make", [lambda model: Cache(2), lambda model: model.init_cache(1, 10)])
def test_a_cache_holds_what_was_read_and_another_call_goes_on_from_it(make):
    model, ids = a_model(), numpy.array([[1, 2, 3]])
    (ours, _, _, one), (plain, _, _, other) = both_ways(
        model, ids, max_new_tokens=8, eos_token_id=[], past_key_values=lambda: make(model)
    )
    ours_cache, plain_cache = one["past_key_values"], other["past_key_values"]
    assert ours_cache.length == plain_cache.length == 10  # not the last token
    for mine, his in zip(ours_cache, plain_cache, strict=True):
        numpy.testing.assert_array_equal(mine, his)
    ours_cache.crop(7)
    again = model.generate(ours[:, :9], max_new_tokens=2, past_key_values=ours_cache, eos_token_id=[])
    numpy.testing.assert_array_equal(again, plain)


def test_a_static_cache_with_no_room_to_spare_is_filled_to_its_end():
    model, cache = a_model(), a_model().init_cache(2, 6)
    ids = numpy.array([[1, 2, 3], [4, 5, 6]])
    found = model.generate(ids, max_new_tokens=4, eos_token_id=[], past_key_values=cache)
    assert cache.length == 6
    numpy.testing.assert_array_equal(found, model.generate(ids, max_new_tokens=4, eos_token_id=[]))


def test_rows_that_have_ended_and_stay_read_padding_as_ever():
    """They stay where the caller's own cache is filled, which has all rows."""
    model, ids = a_model(), numpy.arange(12).reshape(4, 3)
    plain = model.generate(ids, max_new_tokens=8, eos_token_id=[])[:, 3:]
    found = both_ways(
        model, ids, max_new_tokens=8, eos_token_id=[int(plain[1, 2])], pad_token_id=5, past_key_values=lambda: Cache(2)
    )
    assert_alike(found)
    assert len(set(found[0][1].result.reasons.values())) == 2  # some ended early
    for ours, plain in zip(*(more["past_key_values"] for *_, more in found), strict=True):
        numpy.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_draws_that_were_not_used_are_there_for_what_comes_next():
    model, ids = a_model(), [[1, 2, 3]]
    for end in range(V):
        ours, plain = (
            one[1].rng.random(3).tolist()
            for one in both_ways(model, ids, max_new_tokens=6, eos_token_id=[end], do_sample=True, seed=0)
        )
        assert ours == plain


def test_a_generator_of_the_caller_s_is_asked_for_each_draw_as_it_comes(monkeypatch):
    """Others may draw from it meanwhile: nothing is taken from it and given back."""
    model, rng, states = a_model(), numpy.random.default_rng(0), []
    call, same = type(model).__call__, numpy.random.default_rng(0)

    def noted(*args, **kwargs):
        states.append(rng.bit_generator.state)
        return call(*args, **kwargs)

    monkeypatch.setattr(type(model), "__call__", noted)
    model.generate([[1, 2, 3]], max_new_tokens=5, eos_token_id=[], do_sample=True, seed=rng)
    assert len(states) == 5
    for state in states:
        assert state == same.bit_generator.state
        same.random()


class Sevens(BloomForCausalLM):
    """A model that somebody made to say one thing."""

    def __call__(self, *args, **kwargs):
        out = super().__call__(*args, **kwargs)
        out.logits = numpy.where(numpy.arange(V) == 7, 1000, out.logits)
        return out


class Short(Cache):
    """A cache that forgets, where a pass ends."""

    def advance(self, positions):
        super().advance(positions)
        self.crop(min(self.length, 5))


def test_a_class_of_one_s_own_for_the_model_or_the_cache_acts_between_two_tokens():
    model = a_model()
    ours, plain = (
        one[0]
        for one in both_ways(model, [[1, 2, 3]], max_new_tokens=8, eos_token_id=[], past_key_values=lambda: Short(2))
    )
    numpy.testing.assert_array_equal(ours, plain)
    said = Sevens(model.config).generate([[1, 2, 3]], max_new_tokens=6, eos_token_id=[])
    assert said[0, 3:].tolist() == [7] * 6


@pytest.mark.parametrize("sampled", [{}, {"do_sample": True, "seed": 0, "top_k": 30}], ids=["greedy", "drawn"])
@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_what_a_call_that_is_broken_off_has_chosen_is_handed_back(sampled, after, way, monkeypatch):
    """And the draws behind it are still there; the cache holds no more than that."""
    if way == "compiled":
        pytest.skip("machine code is not broken off, but when it returns")
    model, ids, cache, real, passes = a_model(), [[1, 2, 3]], Cache(2), compiled_blocks.blocks_numbers, []
    right = model.generate(ids, max_new_tokens=10, eos_token_id=[], **sampled)

    def stopped(*of):
        if len(passes) == after:
            raise KeyboardInterrupt
        passes.append(real(*of))

    monkeypatch.setattr(compiled_blocks, "blocks_numbers", stopped)
    job = prepare(model, ids, max_new_tokens=10, eos_token_id=[], past_key_values=cache, **sampled)
    with pytest.raises(KeyboardInterrupt) as error:
        collect(job)
    numpy.testing.assert_array_equal(error.value.sequences, right[:, : 3 + after])
    assert cache.length == 0
    if sampled:
        assert job.rng.random() == numpy.random.default_rng(0).random(after + 1)[-1]


def test_what_was_chosen_is_handed_back_when_a_call_is_broken_off_behind_its_loop(monkeypatch):
    model, ids, cache = a_model(), [[1, 2, 3]], Cache(2)
    right = model.generate(ids, max_new_tokens=10, eos_token_id=[])
    finish = type(model)._finish

    def stopped(*of):
        finish(*of)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "_finish", stopped)
    with pytest.raises(KeyboardInterrupt) as error:
        model.generate(ids, max_new_tokens=10, eos_token_id=[], past_key_values=cache)
    numpy.testing.assert_array_equal(error.value.sequences, right)
    assert cache.length == 12
    monkeypatch.undo()
    more = model.generate(error.value.sequences, max_new_tokens=1, eos_token_id=[], past_key_values=cache)
    assert more.shape == (1, 14)


@pytest.mark.parametrize(
    "settings",
    [
        {"callback": lambda ids: None},
        {"stopping_criteria": lambda ids, scores: False},
        {"max_time": 100.0},
        {"repetition_penalty": 1.5},
        {"logits_processor": lambda ids, logits: logits},
        {"return_dict_in_generate": True},
        {"trace": Trace("h.0")},
        {"past_key_values": lambda: WindowCache(2, window=4)},
        {"do_sample": True, "seed": 0, "top_p": 0.9},
        {"do_sample": True, "seed": 0, "top_k": 0},
        {"do_sample": True, "seed": 0, "top_k": module.MOST_KEPT + 1},
        {"renormalize_logits": True},
        {"num_beams": 2},
        {"penalty_alpha": 0.5},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_a_token_has_a_call_of_its_own_where_something_else_decides_or_looks(settings, monkeypatch):
    model = a_model()
    calls = Calls(model, monkeypatch)
    if "past_key_values" in settings:
        settings = {"past_key_values": settings["past_key_values"]()}
    model.generate([[1, 2, 3]], max_new_tokens=5, eos_token_id=[], **settings)
    assert not any(calls.tokens) and len(calls.tokens) > 1


def test_who_asks_for_one_token_after_the_other_finds_each_as_the_model_is_then(monkeypatch):
    model = a_model()
    calls, steps = Calls(model, monkeypatch), generate_steps(model, [[1, 2, 3]], max_new_tokens=5, eos_token_id=[])
    next(steps)
    model.params[model.head_matrix][:] = numpy.eye(V, 8)
    model.params["ln_f.weight"][:] = 0
    model.params["ln_f.bias"][:] = numpy.arange(8)
    assert [int(ids[0]) for ids in steps] == [7] * 4 and not any(calls.tokens)


@pytest.mark.parametrize("more", [{"dtype": "float64"}, {"other_blocks": True}])
def test_a_model_without_such_a_loop_is_asked_once(more, monkeypatch):
    config = BloomConfig(
        vocab_size=V,
        hidden_size=8,
        n_layer=2,
        n_head=2,
        apply_residual_connection_post_layernorm="other_blocks" in more,
    )
    model, asked = BloomForCausalLM(config, dtype=more.get("dtype", "float32")), []
    calls, real = Calls(model, monkeypatch), module.tokens_ahead
    monkeypatch.setattr(decode, "tokens_ahead", lambda *of: asked.append(real(*of)) or asked[-1])
    model.generate([[1, 2, 3]], max_new_tokens=5, eos_token_id=[])
    assert not any(calls.tokens) and asked == [5, 4, 0, 0, 0]  # a prompt may be too long for it, a token is not


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, where Python runs the loop
def test_a_number_that_is_none_is_an_error_behind_what_was_there():
    """The loop does not choose from NaN: `decode` reads that token, and says what is wrong."""
    model = a_model()
    right = model.generate([[1, 2, 3]], max_new_tokens=8, eos_token_id=[])[0].tolist()
    said = next(i for i in range(4, 10) if right[i] not in right[:i])  # a token that is first said there
    model.params["word_embeddings.weight"][right[said]] = numpy.nan  # not that of the head: what follows cannot be
    with pytest.raises(InputError, match="not finite") as error:
        model.generate([[1, 2, 3]], max_new_tokens=8, eos_token_id=[])
    assert error.value.sequences.tolist() == [right[: said + 1]]


@pytest.mark.parametrize("k", [V - 1, V, V + 5])
def test_of_as_many_as_there_are_or_more_all_can_be_drawn(k):
    assert_alike(both_ways(a_model(), [[1, 2, 3]], max_new_tokens=6, eos_token_id=[], do_sample=True, seed=1, top_k=k))


def test_a_draw_that_the_loop_leaves_is_made_by_the_plain_path_and_the_loop_goes_on(way, monkeypatch):
    model, real, draws = a_model(), compiled_blocks.draw_numbers, []

    def leaves_the_third(logits, u, best, chosen):
        draws.append(u[0])
        real(logits, u, best, chosen)
        if len(draws) in (3, 4):  # behind others, and as the first of a call
            chosen[0] = -1

    if way == "in Python":  # machine code has its own
        monkeypatch.setattr(compiled_blocks, "draw_numbers", leaves_the_third)
    found = both_ways(
        model, [[1, 2, 3]], max_new_tokens=6, eos_token_id=[], do_sample=True, seed=1, top_k=30,
        past_key_values=lambda: Cache(2),
    )  # fmt: skip
    assert_alike(found)
    ours, plain = (more["past_key_values"] for *_, more in found)
    assert ours.length == plain.length == 8  # what was read in vain is forgotten
    if way == "in Python":
        assert found[0][2] == [2, 0, 3]


def test_a_pass_says_how_many_positions_it_has_read():
    model, cache = a_model(), Cache(2)
    ahead = Ahead(4, numpy.empty(0, "int64"), 0, numpy.empty((0, 0)))
    ids = numpy.array([[1, 2, 3]])
    out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1, ahead=ahead)
    assert cache.length == 6 and ahead.chosen.shape == (4, 1)
    whole = numpy.concatenate([ids, ahead.chosen[:3].T], axis=1)
    numpy.testing.assert_allclose(out.logits, model(whole).logits[:, -1:], rtol=1e-4, atol=1e-5)
