"""The Flax-style interface: the same numbers as the other models', from arguments that a call never changes."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    Cache,
    FlaxBloomForCausalLM,
    FlaxBloomModel,
    InputError,
    StaticCache,
)
from minibloom.flax import flatten, unflatten
from minibloom.generation import GenerationConfig

from .strategies import ArrayElsewhere, configs, few, masks, random_params, real, seeds, some, token_ids

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=2, n_head=3)
DROPPING = CONFIG.replace(hidden_dropout=0.4, attention_dropout=0.3)
IDS = numpy.array([[1, 2, 3, 4], [5, 6, 7, 8]])
MASK = numpy.ones((2, 6), int)
KINDS = pytest.mark.parametrize("kind", [FlaxBloomModel, FlaxBloomForCausalLM])


def equal(a: Any, b: Any) -> None:
    """The same bits, arrays in trees, tuples and caches included."""
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys()
        a, b = list(a.values()), [b[key] for key in a]
    if isinstance(a, tuple | list | Cache):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):  # of a cache: the positions that count
            equal(x, y)
    else:
        numpy.testing.assert_array_equal(a, b, strict=True)


def close(a: Any, b: Any) -> None:
    """The same but for the order in which float64 numbers were added."""
    numpy.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * abs(b).max(initial=0))


def random_model(config: BloomConfig, seed: int, kind: type = FlaxBloomForCausalLM, dtype: str = "float64") -> Any:
    model = kind(config, dtype=dtype)
    model.params = model.params_to_tree(random_params(model.kind.shapes(config), seed, dtype))
    return model


@st.composite
def models(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from([FlaxBloomModel, FlaxBloomForCausalLM]))
    return random_model(draw(configs()), draw(seeds), kind)


# --- how it is used ---


def test_a_model_without_parameters_of_its_own_is_a_function_of_them():
    model, params = FlaxBloomForCausalLM.from_pretrained(_do_init=False)  # the small BLOOM that ships
    prompt = numpy.array([[5, 6, 7]])
    logits = model(prompt, params=params).logits
    equal(logits, BloomForCausalLM.from_pretrained()(prompt).logits)

    cache, mask = model.init_cache(batch_size=1, max_length=5), numpy.ones((1, 5))
    out = model(prompt, attention_mask=mask, past_key_values=cache, params=params)
    out = model([[8]], attention_mask=mask, past_key_values=out.past_key_values, params=params)
    assert (cache.length, out.past_key_values.length) == (0, 4)
    numpy.testing.assert_allclose(out.logits[0, -1], model([[5, 6, 7, 8]], params=params).logits[0, -1], atol=1e-4)


def test_a_step_of_training_is_a_function_from_parameters_to_parameters():
    model = FlaxBloomForCausalLM(DROPPING, _do_init=False, dtype="float64")
    params = model.init_weights(0)
    before = copy.deepcopy(params)

    def step(params: Any, seed: int) -> tuple[float, Any]:
        out, grads = model.bind(params).value_and_grad(IDS, labels=IDS, train=True, seed=seed)
        moved = {
            at: p - 0.1 * g
            for (at, p), g in zip(
                flatten(params, "params").items(), flatten(model.params_to_tree(grads), "grads").values(), strict=True
            )
        }
        return float(out.loss), unflatten(moved)

    losses, trained = [], params
    for seed in range(30):
        loss, trained = step(trained, seed)
        losses.append(loss)
    assert losses[-1] < losses[0]
    equal(params, before)


# --- the same numbers as the other models' ---


@some
@given(models(), st.data())
def test_a_call_is_that_of_the_other_models(model, data):
    ids = data.draw(token_ids(model.config))
    options = {
        "attention_mask": data.draw(masks(ids.shape)),
        "output_attentions": data.draw(st.booleans()),
        "output_hidden_states": data.draw(st.booleans()),
    }
    expected = model.bind()(ids, use_cache=False, **options)
    equal(model(ids, **options).to_tuple(), expected.to_tuple())
    assert model(ids, **options).keys() == expected.keys()
    equal(model(ids, **options, return_dict=False), expected.to_tuple())


@some
@given(models(), st.data(), st.booleans())
def test_steps_with_a_cache_equal_the_pass_without(model, data, as_tree):
    """Split anywhere, with one mask for all steps, whatever room is left, and whichever kind of cache."""
    ids = data.draw(token_ids(model.config))
    (B, S), room = ids.shape, data.draw(st.integers(0, 3))
    mask = real(data.draw(masks(ids.shape)), ids.shape)
    padded = numpy.pad(mask, ((0, 0), (0, room)), constant_values=data.draw(st.booleans()))
    cuts = data.draw(st.sets(st.integers(1, S), max_size=3))
    whole = model(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
    cache = empty = model.init_cache(B, S + room)
    if as_tree:
        cache = model.cache_to_tree(cache)
    options = {"attention_mask": padded, "output_attentions": True, "output_hidden_states": True}
    for start, end in pairwise([0, *sorted(cuts - {S}), S]):
        out = model(ids[:, start:end], past_key_values=cache, **options)
        cache, tokens = out.past_key_values, mask[:, start:end]
        close(out[0][tokens], whole[0][:, start:end][tokens])
        for got, expected in zip(out.hidden_states, whole.hidden_states, strict=True):
            close(got[tokens], expected[:, start:end][tokens])
        for got, expected in zip(out.attentions, whole.attentions, strict=True):
            assert got.shape == (B, model.config.n_head, end - start, S + room)
            assert not got[..., end:].any()
            got, expected = got[..., :end].swapaxes(1, 2), expected[:, :, start:end, :end].swapaxes(1, 2)
            close(got[tokens], expected[tokens])
    assert empty.length == 0
    assert isinstance(cache, dict if as_tree else StaticCache)


@some
@given(models(), st.data(), st.booleans())
def test_nothing_that_is_given_changes(model, data, as_tree):
    """Not the parameters, not the cache, from which two calls go on with the same numbers each time."""
    ids = data.draw(token_ids(model.config, shortest=2))
    B, S = ids.shape
    mask = numpy.ones((B, S), int)
    cache = model(ids[:, :1], attention_mask=mask, past_key_values=model.init_cache(B, S)).past_key_values
    if as_tree:
        cache = model.cache_to_tree(cache)
    given = {"input_ids": ids[:, 1:], "attention_mask": mask, "past_key_values": cache, "params": model.params}
    before = copy.deepcopy(given)
    first = model(**given)
    model(**{**given, "input_ids": (ids[:, 1:] + 1) % model.config.vocab_size})
    again = model(**given)
    equal(first[0], again[0])
    equal(first.past_key_values, again.past_key_values)
    equal(given["params"], before["params"])
    equal(cache, before["past_key_values"])


@few
@given(models(), st.data())
def test_another_tree_is_another_model(model, data):
    ids = data.draw(token_ids(model.config))
    other = random_model(model.config, 2**32, type(model))  # a seed that is never drawn
    equal(model(ids, params=other.params)[0], other(ids)[0])
    assert (model(ids)[0] != other(ids)[0]).any()


def test_the_other_models_go_on_from_its_cache():
    model = random_model(CONFIG, 0)
    cache = model(IDS[:, :3], attention_mask=MASK, past_key_values=model.init_cache(2, 6)).past_key_values
    out = model.bind()(IDS[:, 3:], past_key_values=cache)
    assert out.past_key_values is cache and cache.length == 4
    close(out.logits[:, 0], model(IDS).logits[:, 3])


# --- the trees ---


@some
@given(models())
def test_parameters_to_a_tree_and_back_are_the_same_memory(model):
    flat = model.params_from_tree(model.params)
    tree = model.params_to_tree(flat)
    equal(tree, model.params)
    for name, x in model.params_from_tree(tree).items():
        equal(x, flat[name])
        assert numpy.shares_memory(x, flat[name])
    assert list(flat) == list(model.kind.shapes(model.config))


@pytest.mark.parametrize(("kind", "tied"), [(FlaxBloomModel, True), (FlaxBloomForCausalLM, False)])
def test_names_and_shapes_are_those_of_flax(kind, tied):
    """Flax's kernels are [in, out], and stand under "transformer" where there is a head, which does not."""
    config = BloomConfig(vocab_size=7, hidden_size=4, n_layer=1, n_head=2, tie_word_embeddings=tied)
    base = {
        "word_embeddings/embedding": (7, 4),
        "word_embeddings_layernorm/scale": (4,),
        "word_embeddings_layernorm/bias": (4,),
        "h/0/input_layernorm/scale": (4,),
        "h/0/input_layernorm/bias": (4,),
        "h/0/self_attention/query_key_value/kernel": (4, 12),
        "h/0/self_attention/query_key_value/bias": (12,),
        "h/0/self_attention/dense/kernel": (4, 4),
        "h/0/self_attention/dense/bias": (4,),
        "h/0/post_attention_layernorm/scale": (4,),
        "h/0/post_attention_layernorm/bias": (4,),
        "h/0/mlp/dense_h_to_4h/kernel": (4, 16),
        "h/0/mlp/dense_h_to_4h/bias": (16,),
        "h/0/mlp/dense_4h_to_h/kernel": (16, 4),
        "h/0/mlp/dense_4h_to_h/bias": (4,),
        "ln_f/scale": (4,),
        "ln_f/bias": (4,),
    }
    headed = {f"transformer/{name}": shape for name, shape in base.items()} | {"lm_head/kernel": (4, 7)}
    tree = kind(config).params
    assert {"/".join(at): x.shape for at, x in flatten(tree, "params").items()} == (base if tied else headed)


@some
@given(models(), st.data())
def test_a_cache_to_a_tree_and_back(model, data):
    ids = data.draw(token_ids(model.config))
    (B, S), c = ids.shape, model.config
    cache = model(ids, past_key_values=model.init_cache(B, S + 2)).past_key_values
    tree = model.cache_to_tree(cache)
    above = () if isinstance(model, FlaxBloomModel) else ("transformer",)
    shape = (B, S + 2, c.n_head, c.head_dim)
    assert {at: x.shape for at, x in flatten(tree, "cache").items()} == {
        (*above, "h", str(i), "self_attention", name): () if name == "cache_index" else shape
        for i in range(c.n_layer)
        for name in ("cached_key", "cached_value", "cache_index")
    }
    back = model.cache_from_tree(tree)
    assert (back.length, back.max_length, back.batch_size) == (S, S + 2, B)
    equal(back, cache)
    assert not any(
        numpy.shares_memory(x, y) for pair, other in zip(back, cache, strict=True) for x in pair for y in other
    )


def test_an_empty_cache_to_a_tree_and_back():
    model = random_model(CONFIG, 0)
    back = model.cache_from_tree(model.cache_to_tree(model.init_cache(2, 5)))
    assert (back.length, back.max_length, back.batch_size) == (0, 5, 2)


# --- making, loading, saving ---


@KINDS
def test_a_seed_or_key_is_the_same_model_as_there(kind):
    expected = kind.kind(CONFIG, seed=5)
    model = kind(CONFIG, (1, 1), 5)
    equal(model.params_from_tree(model.params), expected.params)
    equal(kind(CONFIG, _do_init=False).init_weights(numpy.array([0, 5], "uint32"), (1, 1)), model.params)


def test_missing_parameters_are_drawn_and_those_that_are_there_kept():
    model = FlaxBloomForCausalLM(CONFIG)
    kept = {"transformer": {"ln_f": {"scale": numpy.full(12, 7.0)}}}
    tree = model.init_weights(3, (1, 1), params=kept)
    equal(tree["transformer"]["ln_f"]["scale"], numpy.full(12, 7.0))
    tree["transformer"]["ln_f"]["scale"] = numpy.ones(12, "float32")
    equal(tree, model.init_weights(3))
    with pytest.raises(InputError, match="it has ln_f/scale"):
        model.init_weights(3, params=kept["transformer"])


@KINDS
def test_what_it_saves_all_models_load_and_the_other_way_round(kind, tmp_path):
    model = random_model(CONFIG, 0, kind, "float32")
    model.save_pretrained(tmp_path / "own")
    equal(kind.kind.from_pretrained(tmp_path / "own").params, model.params_from_tree(model.params))
    equal(kind.from_pretrained(tmp_path / "own").params, model.params)
    other = random_model(CONFIG, 1, kind, "float32")
    empty = kind(CONFIG, _do_init=False)
    empty.save_pretrained(tmp_path / "given", other.params, dtype="float16")
    again, params = kind.from_pretrained(tmp_path / "given", "float64", _do_init=False, use_cache=False)
    assert again.dtype == "float64" and again.config.use_cache is False
    equal(params, model.params_to_tree(
        {name: x.astype("float16").astype("float64") for name, x in other.params_from_tree(other.params).items()}
    ))  # fmt: skip


def test_a_file_in_int8_is_widened_as_trees_hold_arrays(tmp_path):
    BloomForCausalLM(CONFIG).save_pretrained(tmp_path, "int8")
    model = FlaxBloomForCausalLM.from_pretrained(tmp_path)
    close(model(IDS).logits, BloomForCausalLM.from_pretrained(tmp_path).widened()(IDS).logits)
    for option in ({"weights": "int8"}, {"stream": True}):
        with pytest.raises(InputError, match=f"{next(iter(option))} is for BloomForCausalLM"):
            FlaxBloomForCausalLM.from_pretrained(tmp_path, **option)


def test_what_a_checkpoint_says_besides_goes_on_to_the_models_that_are_bound(tmp_path):
    model = BloomForCausalLM(CONFIG.replace(slow_but_exact=True, pretraining_tp=2), dtype="float64")
    for name, x in model.params.items():
        x[...] = numpy.random.default_rng(len(name)).standard_normal(x.shape)
    model.generation_config = GenerationConfig(max_new_tokens=3)
    model.save_pretrained(tmp_path)
    flax = FlaxBloomForCausalLM.from_pretrained(tmp_path, "float64", hf_compat=True)
    compatible = BloomForCausalLM.from_pretrained(tmp_path, "float64", hf_compat=True)
    equal(flax(IDS).logits, compatible(IDS).logits)
    assert (flax(IDS).logits != model(IDS).logits).any()
    assert flax.bind().generate(IDS).shape == (2, 4 + 3)
    flax.save_pretrained(tmp_path)
    assert BloomForCausalLM.from_pretrained(tmp_path).generation_config == GenerationConfig(max_new_tokens=3)
    with pytest.raises(InputError, match="hold_embedding is for BloomForCausalLM"):
        FlaxBloomForCausalLM.from_pretrained(tmp_path, hold_embedding=False)


def test_what_is_no_configuration():
    with pytest.raises(InputError, match="config is {}, expected a minibloom.BloomConfig"):
        FlaxBloomForCausalLM({})


def test_parameters_in_half_precision_are_widened_in_the_call():
    model = random_model(CONFIG, 0)
    half = model.to_fp16(model.params)
    assert {x.dtype.name for x in flatten(half, "params").values()} == {"float16"}
    wide = unflatten({at: x.astype("float64") for at, x in flatten(half, "params").items()})
    equal(model(IDS, params=half).logits, model(IDS, params=wide).logits)
    model.params = half
    equal(model(IDS).logits, model(IDS, params=wide).logits)
    equal(model.to_fp32(half), unflatten({at: x.astype("float32") for at, x in flatten(half, "params").items()}))


def test_a_mask_says_which_parameters_are_cast():
    model = random_model(CONFIG, 0)
    norms = unflatten({at: "layernorm" not in at[-2] for at in flatten(model.params, "params")})
    cast = flatten(model.to_fp16(model.params, norms), "params")
    assert {at[-2] for at, x in cast.items() if x.dtype == "float64"} == {
        "word_embeddings_layernorm", "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"mask is not the tree .*: it lacks transformer/word_embeddings/embedding"):
        model.to_fp16(model.params, {"transformer": {}})


def test_a_copy_of_a_model_is_a_model_of_its_own():
    model = random_model(CONFIG, 0)
    expected = model(IDS).logits
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    model.params["transformer"]["ln_f"]["bias"] += 1.0
    for twin in twins:
        equal(twin(IDS).logits, expected)


# --- dropout ---


@few
@given(seeds, st.integers(0, 2**31))
def test_a_key_is_the_number_that_it_was_made_from(low, high):
    """`jax.random.PRNGKey(n)` holds the upper and the lower half of n's 64 bits."""
    model = random_model(DROPPING, 0)
    key = numpy.array([high, low], "uint32")
    expected = model.bind()(IDS, train=True, seed=(high << 32) + low).logits
    equal(model(IDS, train=True, dropout_rng=key).logits, expected)
    equal(model(IDS, train=True, dropout_rng=(high << 32) + low).logits, expected)
    assert (model(IDS).logits != expected).any()


def test_training_without_dropout_needs_no_rng():
    model = random_model(CONFIG, 0)
    equal(model(IDS, train=True).logits, model(IDS).logits)


def test_dropout_thins_out_what_a_layer_adds_and_never_the_stream_itself():
    """ "The dropout function on the bias dropout": before the residual is added, as everywhere in BLOOM.

    transformers' Flax drops the sum after the MLP; see `test_documented_goldens.py`.
    """
    out = random_model(DROPPING, 0)(IDS, train=True, dropout_rng=0, output_hidden_states=True)
    assert all(hidden.all() for hidden in out.hidden_states)


# --- what is refused ---

MODEL = random_model(CONFIG, 0)
FULL = MODEL(IDS, attention_mask=MASK[:, :4], past_key_values=MODEL.init_cache(2, 4)).past_key_values
TREE = MODEL.cache_to_tree(MODEL.init_cache(2, 6))


def changed(tree: Any, at: str, value: Any) -> Any:
    """`tree` with another array at a place; without it, if that is None."""
    flat = {**flatten(tree, "tree"), tuple(at.split("/")): value}
    return unflatten({place: x for place, x in flat.items() if x is not None})


BLOCK = "transformer/h/1/self_attention"
TOO_FAR = changed(TREE, f"{BLOCK}/cache_index", numpy.array(7))
TOO_FAR = changed(TOO_FAR, "transformer/h/0/self_attention/cache_index", numpy.array(7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"past_key_values": FULL}, "past_key_values is full: it has room for 4 positions, of which 4 are taken"),
        (
            {"past_key_values": MODEL.init_cache(1, 6)},
            "past_key_values holds a batch of 1, the input one of 2",
        ),
        (
            {"past_key_values": MODEL.init_cache(2, 6), "attention_mask": MASK[:, :4]},
            r"attention_mask has shape \[2, 4\], expected \[2, 6\]: with a cache it goes over all positions",
        ),
        ({"attention_mask": MASK}, r"attention_mask has shape \[2, 6\], expected \[2, 4\]"),
        ({"past_key_values": FlaxBloomModel(CONFIG).init_cache(2, 6)}, "in float32, expected .* in float64"),
        (
            {"past_key_values": random_model(CONFIG.replace(n_layer=3), 0).init_cache(2, 6)},
            "past_key_values is a cache of 3 blocks, expected 2",
        ),
        ({"past_key_values": Cache(2)}, r"past_key_values is a Cache, expected a StaticCache, which model.init_cache"),
        ({"past_key_values": ((IDS, IDS),)}, "past_key_values is a tuple, expected a StaticCache"),
        (
            {"past_key_values": {}},
            r"past_key_values is not the tree .*: it lacks transformer/h/0/self_attention/cached_key, .* and 3 more",
        ),
        (
            {"past_key_values": TREE["transformer"]},
            r"it lacks transformer/h/0/.* and 3 more, it has h/0/self_attention/cached_key, .* and 3 more\.",
        ),
        ({"past_key_values": changed(TREE, f"{BLOCK}/cache_index", numpy.array(1))}, "cache_index that is no number"),
        ({"past_key_values": changed(TREE, f"{BLOCK}/cache_index", numpy.ones(1))}, "cache_index that is no number"),
        ({"past_key_values": TOO_FAR}, "cache_index that is no number from 0 to 6"),
        (
            {"past_key_values": changed(TREE, f"{BLOCK}/cached_key", numpy.ones((2, 5, 3, 4)))},
            r"holds float64\[2, 5, 3, 4\], expected float64\[batch, max_length, 3, 4\], the same in every block",
        ),
        ({"params": {}}, "params is not the tree .*: it lacks transformer/word_embeddings/embedding, .* and 26 more"),
        ({"params": [1]}, "params is a list, expected a tree: dictionaries with arrays at their ends"),
        ({"params": MODEL.params["transformer"]}, "params is not the tree .* it lacks transformer.* it has word_emb"),
        (
            {"params": changed(MODEL.params, "lm_head/kernel", numpy.ones((12, 13)))},
            r"params is not the tree that this model has with its config: it has lm_head/kernel\.",
        ),
        (
            {"params": changed(MODEL.params, f"{BLOCK}/query_key_value/kernel", numpy.ones((36, 12)))},
            rf"params/{BLOCK}/query_key_value/kernel has shape \[36, 12\], expected \[12, 36\]",
        ),
        (
            {"params": changed(MODEL.params, f"{BLOCK}/dense/bias", numpy.ones(12, int))},
            rf"params/{BLOCK}/dense/bias holds int64, expected float16, float32 or float64",
        ),
        ({"params": changed(MODEL.params, f"{BLOCK}/dense/bias", ArrayElsewhere())}, "is an array of elsewhere"),
        ({"train": True, "dropout_rng": -1}, "dropout_rng is -1, expected a whole number of at least 0, or a jax"),
        ({"train": True, "dropout_rng": 0.5}, "dropout_rng is 0.5, expected"),
        ({"train": True, "dropout_rng": True}, "dropout_rng is True, expected"),
        ({"train": True, "dropout_rng": numpy.array([1, 2])}, r"dropout_rng is array\(\[1, 2\]\), expected"),
        ({"train": True, "dropout_rng": ArrayElsewhere()}, "dropout_rng is .* expected"),
        ({"dropout_rng": 0}, "dropout_rng is given without train=True"),
        ({"position_ids": IDS}, "there is no argument 'position_ids'. BLOOM has no position embeddings"),
        ({"labels": IDS}, "there is no argument 'labels'. The arguments are input_ids, attention_mask"),
        ({"dropout_rngs": 1}, "there is no argument 'dropout_rngs'.* Did you mean 'dropout_rng'"),
        ({"input_ids": IDS + 10}, "input_ids holds 18, expected ids from 0 to 12"),
    ],
)  # fmt: skip
def test_bad_calls(call, message):
    before = copy.deepcopy((FULL, TREE, MODEL.params))
    with pytest.raises(InputError, match=message):
        MODEL(**{"input_ids": IDS, **call})
    equal((FULL, TREE, MODEL.params), before)


def test_training_with_dropout_needs_an_rng():
    with pytest.raises(InputError, match="train=True needs dropout_rng"):
        random_model(DROPPING, 0)(IDS, train=True)


def test_a_model_without_parameters_says_where_they_come_from():
    model = FlaxBloomModel(CONFIG, _do_init=False)
    for use in (lambda: model.params, lambda: model(IDS), lambda: setattr(model, "params", {}), lambda: model.bind()):
        with pytest.raises(InputError, match=r"made with _do_init=False .* params=\.\.\.; model.init_weights\(seed\)"):
            use()


def test_a_wrong_tree_is_not_put_in_the_place_of_the_parameters():
    model = random_model(CONFIG, 0)
    expected = model(IDS).logits
    with pytest.raises(InputError, match="params is not the tree"):
        model.params = model.params["transformer"]
    equal(model(IDS).logits, expected)


def test_precisions_that_it_does_not_compute_in():
    with pytest.raises(InputError, match="'bfloat16': minibloom computes in float32 or float64"):
        FlaxBloomModel(CONFIG, dtype="bfloat16")
    model = random_model(CONFIG, 0)
    with pytest.raises(InputError, match=r"have no bfloat16 .* save_pretrained\(folder, dtype='bfloat16'\)"):
        model.to_bf16(model.params)
    with pytest.raises(InputError, match="holds 1e\\+06, too large for float16"):
        model.to_fp16(changed(model.params, "transformer/ln_f/bias", numpy.full(12, 1e6)))


@pytest.mark.parametrize(("shape", "message"), [((0, 4), "batch is 0"), ((2, 0), "max_length is 0")])
def test_a_cache_has_room_for_something(shape, message):
    with pytest.raises(InputError, match=message):
        MODEL.init_cache(*shape)
