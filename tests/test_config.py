"""BloomConfig: every field is checked when it is set, and nothing is lost on the way to a file and back."""

from __future__ import annotations

import copy
import inspect
import json
import math
import operator
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.config import KNOWN, RULES, BloomConfig, parameter_shapes
from minibloom.errors import InputError

DOCUMENTED = {  # the signature in the documentation of transformers
    "vocab_size": 250880,
    "hidden_size": 64,
    "n_layer": 2,
    "n_head": 8,
    "layer_norm_epsilon": 1e-05,
    "initializer_range": 0.02,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "apply_residual_connection_post_layernorm": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
    "slow_but_exact": False,
}
# What bigscience/bloom-560m's file holds beside the documented fields: dead keys, other names, null.
HUB_FILE = """{
  "apply_residual_connection_post_layernorm": false, "attention_dropout": 0.0, "architectures": ["BloomForCausalLM"],
  "attention_softmax_in_fp32": true, "bias_dropout_fusion": true, "bos_token_id": 1, "eos_token_id": 2,
  "hidden_dropout": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": true,
  "model_type": "bloom", "n_embed": 1024, "n_inner": null, "n_layer": 24, "num_attention_heads": 16,
  "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 2048, "skip_bias_add": true,
  "slow_but_exact": false, "torch_dtype": "float16", "unk_token_id": 0, "use_cache": true, "vocab_size": 250880
}"""

token_ids = st.none() | st.integers(0, 300_000)
rates = st.floats(0, 1, exclude_max=True)


sizes = st.builds(
    lambda heads, tp, times: {"n_head": heads, "pretraining_tp": tp, "hidden_size": heads * tp * times},
    st.integers(1, 112),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 64),
)
flags = [name for name, value in BloomConfig().to_dict().items() if isinstance(value, bool)]
others = {
    "vocab_size": st.integers(1, 2**31 - 1),
    "n_layer": st.integers(1, 10_000),
    "layer_norm_epsilon": st.floats(0, 1),
    "initializer_range": st.floats(0, 1),
    "bos_token_id": token_ids,
    "eos_token_id": token_ids | st.lists(st.integers(0, 9), min_size=1),
    "pad_token_id": token_ids,
    "unk_token_id": token_ids,
    "hidden_dropout": rates,
    "attention_dropout": rates,
    "classifier_dropout": st.none() | rates,
    "id2label": st.lists(st.text(), min_size=2, max_size=4, unique=True).map(lambda labels: dict(enumerate(labels))),
    "problem_type": st.sampled_from([None, "regression", "multi_label_classification"]),
    "architectures": st.sampled_from([None, ["BloomForCausalLM"]]),
    "dtype": st.sampled_from([None, "float16", "bfloat16", "float32"]),
    **dict.fromkeys(flags, st.booleans()),
}
# Keywords of a valid configuration; what is left out has its default.
fields = st.builds(operator.or_, sizes, st.fixed_dictionaries({}, optional=others))


# --- What holds ---


def test_the_defaults_are_those_of_the_documentation() -> None:
    config = BloomConfig()
    assert {name: getattr(config, name) for name in DOCUMENTED} == DOCUMENTED
    assert (config.pad_token_id, config.tie_word_embeddings, config.num_labels) == (None, True, 2)
    assert config.model_type == "bloom" and config.head_dim == 8


def test_help_and_completion_know_every_field_and_its_default() -> None:
    known = {name: field.default for name, field in inspect.signature(BloomConfig).parameters.items()}
    assert known == {name: value for name, value in BloomConfig().to_dict().items() if name != "model_type"}


@given(fields)
def test_a_field_holds_what_was_given(given: dict[str, Any]) -> None:
    config = BloomConfig(**given)
    assert {name: getattr(config, name) for name in given} == given


@given(fields, st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_nothing_is_lost_through_a_dictionary_a_file_or_a_copy(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any], unknown: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("config")
    config = BloomConfig.from_dict({name: unknown[name] for name in unknown if name not in KNOWN} | given)
    config.save_pretrained(folder)
    assert BloomConfig.from_pretrained(folder) == config
    assert BloomConfig.from_dict(config.to_dict()) == config == config.replace()
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@given(fields, fields)
def test_equal_means_equal_in_every_field(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (BloomConfig(**a) == BloomConfig(**b)) == (BloomConfig(**a).to_dict() == BloomConfig(**b).to_dict())


@given(fields)
def test_repr_is_the_call_that_makes_it(given: dict[str, Any]) -> None:
    assert eval(repr(BloomConfig(**given))) == BloomConfig(**given)
    assert repr(BloomConfig()) == "BloomConfig()"


def test_a_file_of_the_hub_loads_and_its_dead_keys_are_written_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(HUB_FILE)
    config = BloomConfig.from_pretrained(tmp_path, use_cache=False)
    assert (config.hidden_size, config.n_head, config.n_layer, config.head_dim) == (1024, 16, 24, 64)
    assert (config.dtype, config.pad_token_id, config.unk_token_id, config.use_cache) == ("float16", 3, 0, False)
    assert config.seq_length == 2048 and config.extra["masked_softmax_fusion"] is True
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    known = {"n_embed", "num_attention_heads", "torch_dtype", "use_cache"}
    assert {name: value for name, value in json.loads(HUB_FILE).items() if name not in known}.items() <= written.items()
    # The number of parameters that bigscience names for its 560 million: the head is tied.
    assert sum(math.prod(shape) for shape in parameter_shapes(config).values()) == 559_214_592


def test_other_names_mean_the_same_field() -> None:
    config = BloomConfig(n_embed=32, num_attention_heads=4, num_hidden_layers=3, torch_dtype="float16", num_labels=3)
    assert config == BloomConfig(
        hidden_size=32, n_head=4, n_layer=3, dtype="float16", id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    )
    assert (config.n_embed, config.num_attention_heads, config.num_hidden_layers) == (32, 4, 3)
    config.num_hidden_layers = 5
    assert config.n_layer == 5
    assert BloomConfig(id2label={0: "cat", 1: "dog"}).label2id == {"cat": 0, "dog": 1}
    assert config.replace(num_attention_heads=8).n_head == 8 and config.n_head == 4


def test_names_of_labels_are_in_order_and_both_ways_the_same() -> None:
    assert list(BloomConfig(id2label={"10": "k", **{str(i): f"{i}" for i in range(10)}}).id2label) == [*range(11)]
    config = BloomConfig(id2label={0: "a", 1: "b"}, label2id={"b": 1, "a": 0})
    config.id2label = {0: "c", 1: "d"}
    assert config.label2id == {"c": 0, "d": 1}
    for names in ({"a": 1, "b": 0}, {"a": 0}, {"LABEL_0": 0, "LABEL_1": 1}):
        with pytest.raises(InputError, match="label2id is .*, expected {'a': 0, 'b': 1}, what id2label says"):
            BloomConfig(label2id=names, id2label={0: "a", 1: "b"})
    # transformers keeps the old names there when a user sets id2label alone, and goes by id2label.
    file = {"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    assert BloomConfig.from_dict(file).label2id == {"a": 0, "b": 1}


def test_no_two_configurations_share_a_dictionary() -> None:
    BloomConfig().id2label[0] = "changed"
    assert BloomConfig().id2label[0] == "LABEL_0"


# --- What is refused ---

BAD = [
    ({"hidden_sise": 64}, "no field 'hidden_sise'. Did you mean 'hidden_size'?"),
    ({"n_embd": 64}, "Did you mean 'n_embed'?"),
    ({"hidden_size": "64"}, "hidden_size is '64', expected a whole number from 1"),
    ({"hidden_size": 64.0}, "hidden_size is 64.0, expected a whole number"),
    ({"hidden_size": True}, "hidden_size is True, expected a whole number"),
    ({"n_embed": 0}, "n_embed is 0, expected a whole number from 1"),
    ({"hidden_size": 64, "n_embed": 32}, "hidden_size is 64, and 32 as n_embed"),
    ({"n_head": 7}, "hidden_size is 64, expected a multiple of n_head 7"),
    ({"n_layer": 10**9}, "n_layer is 1000000000, expected a whole number from 1 to 10000"),
    ({"vocab_size": -1}, "vocab_size is -1"),
    ({"layer_norm_epsilon": math.nan}, "layer_norm_epsilon is nan, expected a finite number"),
    ({"initializer_range": math.inf}, "initializer_range is inf, expected a finite number"),
    ({"hidden_dropout": 1}, r"hidden_dropout is 1, expected a number in \[0, 1\)"),
    ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
    ({"use_cache": 1}, "use_cache is 1, expected True or False"),
    ({"eos_token_id": []}, r"eos_token_id is \[\], expected a token id or a list of them, or None"),
    ({"pad_token_id": -1}, "pad_token_id is -1, expected a whole number from 0"),
    ({"pretraining_tp": 3, "slow_but_exact": True}, "expected a multiple of pretraining_tp 3, because slow_but_exact"),
    ({"dtype": "int8"}, "dtype is 'int8', expected one of float16, bfloat16, float32, float64"),
    ({"problem_type": "guess"}, "problem_type is 'guess', expected one of regression"),
    ({"problem_type": "single_label_classification", "num_labels": 1}, "expected num_labels of 2 or more"),
    ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels is 3, but id2label names 1"),
    ({"id2label": {"x": "a"}}, "id2label is {'x': 'a'}, expected a dictionary"),
    ({"id2label": {1: "a", 2: "b"}}, "id2label is {'?1'?: 'a', '?2'?: 'b'}, expected a dictionary {0: name, 1: name"),
    ({"id2label": {-1: "a", 0: "b"}}, "expected a dictionary {0: name, 1: name, ...}"),
    ({"label2id": {"a": 0, "b": 1}}, "label2id is {'a': 0, 'b': 1}, expected {'LABEL_0': 0, 'LABEL_1': 1}, what id2l"),
    ({"model_type": "gpt2"}, "model_type is 'gpt2', expected 'bloom'"),
    ({"architectures": "BloomModel"}, "architectures is 'BloomModel', expected a list of strings"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_value_is_one_error_that_says_what_was_expected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BloomConfig(**given)


@pytest.mark.parametrize(("given", "message"), BAD)
def test_in_a_file_the_same_error_names_the_file_too(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(given))
    if "no field" in message or "n_embd" in given:
        assert BloomConfig.from_pretrained(tmp_path).extra == given  # in a file, an unknown key is a dead one
    else:
        with pytest.raises(InputError, match=f"config.json: .*{message}"):
            BloomConfig.from_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_is_checked_whenever_it_is_set(tmp_path: Path) -> None:
    config = BloomConfig()
    with pytest.raises(InputError, match="use_cache is 'yes'"):
        config.use_cache = "yes"  # type: ignore[assignment]
    with pytest.raises(InputError, match="Did you mean 'use_cache'"):
        config.use_cahce = False
    with pytest.raises(AttributeError, match="Did you mean 'n_layer'"):
        _ = config.n_layers
    config.n_head = 7
    with pytest.raises(InputError, match="multiple of n_head 7"):
        config.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists() and config.hidden_size == 64


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*RULES, "n_embed", "num_labels", "model_type", "other"]), json_values))
def test_whatever_a_file_holds_is_a_configuration_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(values))
    try:
        config = BloomConfig.from_pretrained(folder)
    except InputError as error:
        assert "config.json" in str(error)
    else:
        assert config.to_dict().keys() >= {name for name in values if name not in ("n_embed", "num_labels")}


# --- Against transformers, where it is installed ---


@given(fields)
def test_transformers_reads_the_same_fields(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("config")
    ours = BloomConfig(**given)
    ours.save_pretrained(folder)
    theirs = transformers.BloomConfig.from_pretrained(folder)
    for name in RULES:
        value = getattr(theirs, name)
        assert (str(value).removeprefix("torch.") if name == "dtype" and value else value) == getattr(ours, name), name
    theirs.save_pretrained(folder)
    back = BloomConfig.from_pretrained(folder)
    assert {name: getattr(back, name) for name in RULES} == {name: getattr(ours, name) for name in RULES}


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_names_and_shapes_of_parameters_are_those_of_transformers(heads: int) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"vocab_size": 11, "hidden_size": 24, "n_layer": 3, "n_head": heads}
    with torch.device("meta"):
        model = transformers.BloomModel(transformers.BloomConfig(**sizes))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert list(parameter_shapes(BloomConfig(**sizes)).items()) == list(shapes.items())  # and in the same order
