"""Checkpoints: what is saved is loaded, here and in transformers; whatever is wrong is found before data is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom.checkpoint import (
    EMBEDDING,
    HEAD,
    HEADS,
    INDEX,
    PREFIX,
    SINGLE,
    find_params,
    match_names,
    parameter_names,
    tensor_index,
    write_checkpoint,
)
from minibloom.checkpoint_info import describe
from minibloom.config import BloomConfig, parameter_shapes
from minibloom.errors import InputError
from minibloom.tensor_file import from_bfloat16, read_header, read_tensors, to_bfloat16, write_tensors

Params = dict[str, numpy.ndarray]

CONFIG = BloomConfig(vocab_size=20, hidden_size=8, n_layer=2, n_head=2)
DTYPES = ["float16", "bfloat16", "float32", "float64"]
UNKNOWN = "h.0.self_attention.rotary.weight"


def random_params(config: BloomConfig, seed: int = 0, dtype: str = "float32") -> Params:
    rng = numpy.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in parameter_shapes(config).items()}


def rounded(array: numpy.ndarray, dtype: str) -> numpy.ndarray:
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(array.reshape(-1))).reshape(array.shape)
    return array.astype(dtype)


def language_model(config: BloomConfig) -> dict[str, tuple[int, ...]]:
    """Parameters of BloomForCausalLM: the head is one of them where it is not tied."""
    head = {} if config.tie_word_embeddings else {HEAD: (config.vocab_size, config.hidden_size)}
    return parameter_shapes(config) | head


def classifier(config: BloomConfig) -> dict[str, tuple[int, ...]]:
    return parameter_shapes(config) | {"score.weight": (config.num_labels, config.hidden_size)}


def load_params(folder: Path, shapes: Any = parameter_shapes, dtype: str = "float32") -> tuple[BloomConfig, Params]:
    """What `from_pretrained` reads: configuration and parameters."""
    config, places = find_params(folder, shapes)
    return config, read_tensors(places, dtype, numpy)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(folder: Path, change: Callable[[Params], Params], config: BloomConfig = CONFIG) -> None:
    """Write a checkpoint whose tensors were changed in a way that `write_checkpoint` would refuse."""
    config.save_pretrained(folder)
    tensors = change(random_params(config))
    write_tensors(folder / SINGLE, {name: (array, array.dtype.name) for name, array in tensors.items()})


@st.composite
def configs(draw: st.DrawFn) -> BloomConfig:
    heads = draw(st.integers(1, 3))
    return BloomConfig(
        vocab_size=draw(st.integers(1, 30)),
        hidden_size=heads * draw(st.integers(1, 4)),
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        hidden_dropout=draw(st.sampled_from([0.0, 0.1])),
    )


# --- Round trips ---


@given(
    config=configs(),
    seed=st.integers(0, 9),
    stored=st.sampled_from([None, *DTYPES]),
    compute=st.sampled_from(["float32", "float64"]),
    prefix=st.sampled_from(["", PREFIX]),
    shard=st.sampled_from([1, 500, 5 * 10**9]),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    config: BloomConfig,
    seed: int,
    stored: str | None,
    compute: str,
    prefix: str,
    shard: int,
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    params = random_params(config, seed)
    write_checkpoint(folder, params, config, stored, prefix, shard)
    stored = stored or "float32"
    loaded_config, loaded = load_params(folder, dtype=compute)
    assert loaded_config == config.replace(dtype=stored)
    assert list(loaded) == list(params)
    for name, array in loaded.items():
        assert array.dtype == compute
        numpy.testing.assert_array_equal(array, rounded(params[name], stored))

    info = describe(folder)
    assert info.parameters == sum(array.size for array in params.values())
    assert info.dtypes == {stored: info.parameters} and info.config == loaded_config and not info.heads
    itemsize = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[stored]
    assert sum(info.file_bytes.values()) == info.parameters * itemsize
    shards = [name for name in contents(folder) if name.startswith("model-")]
    assert len(shards) == len(info.file_bytes) if shards else list(info.file_bytes) == [SINGLE]
    assert len(shards) == (len(params) if shard == 1 else len(shards))


@given(st.integers(1, 3000))
def test_no_shard_is_larger_than_asked_unless_one_tensor_is(
    tmp_path_factory: pytest.TempPathFactory, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, random_params(CONFIG), CONFIG, max_shard_size=limit)
    for file, size in describe(folder).file_bytes.items():
        assert size <= limit or len(read_header(folder / file)) == 1


def test_a_checkpoint_takes_the_place_of_another_and_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for seed, shard in enumerate([10**9, 500, 1, 10**9]):
        params = random_params(CONFIG, seed)
        write_checkpoint(tmp_path, params, CONFIG, max_shard_size=shard)
        for name, array in load_params(tmp_path)[1].items():
            numpy.testing.assert_array_equal(array, params[name])
        weights = {name for name in contents(tmp_path) if name.startswith("model")}
        assert weights == ({*describe(tmp_path).file_bytes} | ({INDEX} if shard < 10**9 else set()))
    assert (tmp_path / "tokenizer.json").read_text() == "{}"


def test_what_is_described_is_told_in_plain_words(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=1000, hidden_size=64, n_layer=2, n_head=8, architectures=["BloomForCausalLM"])
    write_checkpoint(tmp_path, random_params(config), config, "float16", PREFIX)
    info = describe(tmp_path)
    parameters = 1000 * 64 + 2 * (12 * 64**2 + 13 * 64) + 4 * 64
    assert (info.parameters, info.float32_bytes) == (parameters, 4 * parameters)
    assert info.cache_bytes_per_token == 2 * 2 * 64 * 4  # keys and values, two blocks, 64 numbers, 4 bytes
    for words in ["2 blocks, 8 heads of 8, hidden size 64", f"{parameters:,} as float16", "656.9 kB as float32"]:
        assert words in str(info)
    assert "the embedding matrix (tied)" in str(info) and "BloomForCausalLM" in str(info)


# --- The head ---


def with_head(folder: Path, head: numpy.ndarray | None, **changes: Any) -> Params:
    config = CONFIG.replace(**changes)
    params = random_params(config)
    extra = {} if head is None else {HEAD: head}
    write_checkpoint(folder, params | extra, config, prefix=PREFIX)
    return params | extra


def test_a_stored_head_that_equals_the_embedding_is_the_tied_head(tmp_path: Path) -> None:
    params = with_head(tmp_path, random_params(CONFIG)[EMBEDDING])
    for shapes in (parameter_shapes, language_model):
        config, loaded = load_params(tmp_path, shapes)
        assert config.tie_word_embeddings and list(loaded) == [name for name in params if name != HEAD]
    assert describe(tmp_path).heads == [HEAD]
    assert describe(tmp_path).parameters == sum(array.size for array in loaded.values())


def test_a_stored_head_that_differs_is_used_as_in_transformers(tmp_path: Path) -> None:
    head = random_params(CONFIG, seed=1)[EMBEDDING]
    params = with_head(tmp_path, head)
    config, loaded = load_params(tmp_path, language_model)
    assert not config.tie_word_embeddings and loaded.keys() == params.keys()
    numpy.testing.assert_array_equal(loaded[HEAD], head)
    config, loaded = load_params(tmp_path)  # BloomModel has no head
    assert config.tie_word_embeddings and HEAD not in loaded

    transformers = pytest.importorskip("transformers")
    theirs = transformers.BloomForCausalLM.from_pretrained(tmp_path)
    numpy.testing.assert_array_equal(theirs.lm_head.weight.detach().numpy(), head)


def test_of_two_tied_tensors_either_one_is_enough(tmp_path: Path) -> None:
    params = random_params(CONFIG)
    rewrite(tmp_path, lambda tensors: {HEAD if name == EMBEDDING else name: a for name, a in tensors.items()})
    config, loaded = load_params(tmp_path, language_model)
    assert config.tie_word_embeddings
    numpy.testing.assert_array_equal(loaded[EMBEDDING], params[EMBEDDING])
    assert describe(tmp_path).parameters == sum(array.size for array in params.values())


def test_an_untied_head_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    head = random_params(CONFIG, seed=1)[EMBEDDING]
    with_head(tmp_path, head, tie_word_embeddings=False)
    numpy.testing.assert_array_equal(load_params(tmp_path, language_model)[1][HEAD], head)
    assert HEAD in read_header(tmp_path / SINGLE)  # a head's name has no prefix
    with_head(tmp_path, None, tie_word_embeddings=False)
    with pytest.raises(InputError, match=f"has no tensor '{HEAD}'"):
        load_params(tmp_path, language_model)
    with_head(tmp_path, head[:, :4])
    with pytest.raises(InputError, match=rf"tensor '{HEAD}' has shape \[20, 4\], expected \[20, 8\]"):
        load_params(tmp_path, language_model)


def test_any_model_starts_from_any_other_s_checkpoint(tmp_path: Path) -> None:
    """A head that it has no use for is left; a classifier's that is not there is left to the caller to draw."""
    score = {"score.weight": numpy.ones((2, 8), "float32")}
    write_checkpoint(tmp_path, random_params(CONFIG) | score, CONFIG, prefix=PREFIX)
    base = list(parameter_shapes(CONFIG))
    assert list(load_params(tmp_path)[1]) == list(load_params(tmp_path, language_model)[1]) == base
    assert (load_params(tmp_path, classifier)[1]["score.weight"] == 1).all()
    write_checkpoint(tmp_path, random_params(CONFIG), CONFIG, prefix=PREFIX)
    assert list(load_params(tmp_path, classifier)[1]) == base


# --- Bad input, reading ---


def missing(tensors: Params) -> Params:
    return {name: array for name, array in tensors.items() if not name.startswith("h.1.mlp")}


def transposed(tensors: Params) -> Params:
    return tensors | {"h.0.mlp.dense_h_to_4h.weight": tensors["h.0.mlp.dense_h_to_4h.weight"].T.copy()}


def as_integers(folder: Path) -> None:
    rewrite(folder, dict)
    path = folder / SINGLE
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"dtype":"F32","shape":[20,8]', b'"dtype":"I32","shape":[20,8]', 1))


def shard_path(folder: Path, name: str) -> None:
    """Let the index name another file than the first shard."""
    write_checkpoint(folder, random_params(CONFIG), CONFIG, max_shard_size=1000)
    index = json.loads((folder / INDEX).read_text())
    places = index["weight_map"]
    index["weight_map"] = {n: name if file.startswith("model-00001") else file for n, file in places.items()}
    (folder / INDEX).write_text(json.dumps(index))


def shards(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_checkpoint(folder, random_params(CONFIG), CONFIG, max_shard_size=1000)
        change(folder)

    return make


def edit_index(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return shards(make)


def second_shard(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.name.startswith("model-00002"))


def link_outside(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    second_shard(folder).rename(outside)
    (folder / outside.name).symlink_to(outside)
    shutil.move(folder / outside.name, folder / json_shards(folder)[1])


def json_shards(folder: Path) -> list[str]:
    return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))


def double(tensors: Params) -> Params:
    return tensors | {PREFIX + EMBEDDING: tensors[EMBEDDING]}


def only_pickle(folder: Path) -> None:
    CONFIG.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never opened")


BAD_CHECKPOINTS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: rewrite(f, missing), r"has no tensor 'h.1.mlp.dense_h_to_4h.weight', .* and 1 more"),
    (
        lambda f: rewrite(f, lambda t: t | {UNKNOWN: t["ln_f.bias"]}),
        f"model.safetensors holds '{UNKNOWN}', which this model does not have",
    ),
    (lambda f: rewrite(f, transposed), r"'h.0.mlp.dense_h_to_4h.weight' has shape \[8, 32\], expected \[32, 8\]"),
    (lambda f: rewrite(f, double), "tensor 'transformer.word_embeddings.weight' is there twice"),
    (lambda f: rewrite(f, lambda t: {}), "holds a checkpoint without tensors"),
    (as_integers, "tensor 'word_embeddings.weight' has dtype I32, expected one of F16, BF16, F32, F64"),
    (only_pickle, r"only as a pickle \(pytorch_model.bin\).*save_pretrained\(\"FOLDER\", safe_serialization=True\)"),
    (lambda f: CONFIG.save_pretrained(f), "holds neither model.safetensors nor model.safetensors.index.json"),
    (lambda f: rewrite(f, dict) or (f / "config.json").unlink(), "config.json does not exist"),
    (lambda f: rewrite(f, dict) or (f / "config.json").write_text('{"model_type": "llama"}'), "config.json: model_ty"),
    (lambda f: rewrite(f, dict) or (f / "config.json").write_text('{"n_head": 0}'), "config.json: n_head is 0"),
    (lambda f: rewrite(f, dict) or (f / "config.json").write_text('{"n_layer": 3}'), "has no tensor 'h.2."),
    (lambda f: rewrite(f, dict) or (f / SINGLE).write_bytes((f / SINGLE).read_bytes()[:-1]), "is truncated"),
    (lambda f: shard_path(f, "../outside.safetensors"), "index.json names '../outside.safetensors', expected a"),
    (lambda f: shard_path(f, "/etc/passwd"), "index.json names '/etc/passwd', expected a .safetensors file"),
    (lambda f: shard_path(f, "..\\outside.safetensors"), "expected a .safetensors file in the same folder"),
    (lambda f: shard_path(f, "config.json"), "index.json names 'config.json', expected a .safetensors file"),
    (lambda f: shard_path(f, "none.safetensors"), "none.safetensors does not exist"),
    (shards(link_outside), "in the same folder. It is a link that leads out of it"),
    (shards(lambda f: second_shard(f).unlink()), r"model-00002-of-\d+.safetensors does not exist"),
    (shards(lambda f: second_shard(f).write_bytes(b"")), r"model-00002-of-\d+.safetensors is truncated"),
    (shards(lambda f: (f / INDEX).write_text("{")), "index.json is no valid JSON"),
    (shards(lambda f: (f / INDEX).write_text("{}")), "index.json: expected 'weight_map'"),
    (shards(lambda f: (f / INDEX).write_text('{"weight_map": {"a": 1}}')), "index.json: expected 'weight_map'"),
    (edit_index(lambda m: m.pop("ln_f.bias")), "tensor 'ln_f.bias' is not what .*index.json says"),
    (edit_index(lambda m: m.update(more=m["ln_f.bias"])), "has no tensor 'more', expected one because"),
    (edit_index(lambda m: m.update({EMBEDDING: m["ln_f.bias"]})), f"tensor '{EMBEDDING}' is not what"),
]


@pytest.mark.parametrize(("make", "message"), BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_one_error_before_any_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    make(folder)
    before = contents(folder)
    monkeypatch.setattr("minibloom.tensor_file.blocks", lambda *_: pytest.fail("data was read"))
    for read in (find_params, describe):
        with pytest.raises(InputError, match=message) as caught:
            read(folder)
        assert str(folder) in str(caught.value)  # every message says which checkpoint
    assert contents(folder) == before


@given(st.data())
def test_a_damaged_checkpoint_is_the_same_parameters_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    params = random_params(CONFIG)
    write_checkpoint(folder, params, CONFIG, max_shard_size=3000)
    path = folder / data.draw(st.sampled_from([INDEX, *json_shards(folder)]))
    content = bytearray(path.read_bytes())
    end = len(content) if path.name == INDEX else 8 + int.from_bytes(content[:8], "little")
    for position in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=2)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        loaded = load_params(folder)[1]
    except InputError as error:
        assert str(folder) in str(error)
    else:
        assert list(loaded) == list(params)
        assert all(numpy.array_equal(loaded[name], params[name]) for name in params)


def test_a_shard_in_the_cache_of_the_hub_is_a_link_and_may_be(tmp_path: Path) -> None:
    folder, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    blobs.mkdir(parents=True)
    write_checkpoint(folder, random_params(CONFIG), CONFIG, max_shard_size=1000)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    assert list(load_params(folder)[1]) == list(parameter_shapes(CONFIG))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (tensor_index, load_params, describe):
        with pytest.raises(InputError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_names_that_are_left_are_not_returned_and_nothing_else_is_ignored(tmp_path: Path) -> None:
    with_head(tmp_path, random_params(CONFIG)[EMBEDDING])
    named, shapes = parameter_names(tensor_index(tmp_path), CONFIG), parameter_shapes(CONFIG)
    assert list(match_names(named, shapes, HEADS)) == list(shapes)
    with pytest.raises(InputError, match=f"holds '{HEAD}'"):
        match_names(named, shapes)


# --- Bad input, writing: nothing is written ---


BIAS = "ln_f.bias"
BAD_PARAMS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({BIAS: numpy.ones(8) * 65520}, {"dtype": "float16"}, r"'ln_f.bias'\] holds 65520, too large for float16"),
    ({BIAS: numpy.ones(8) * 1e39}, {"dtype": "float32"}, r"'ln_f.bias'\] holds 1e\+39, too large for float32"),
    ({BIAS: numpy.ones(8) * 3.4e38}, {"dtype": "bfloat16"}, "too large for bfloat16"),
    ({BIAS: numpy.ones(8, int)}, {}, "dtype 'int64' cannot be stored"),
    ({}, {"dtype": "int4"}, "dtype 'int4' cannot be stored, expected one of float16, bfloat16"),
    ({BIAS: numpy.ones(9)}, {}, r"'ln_f.bias'\] is \[9\], expected \[8\]"),
    ({"ln_f.bais": numpy.ones(8)}, {}, r"'ln_f.bais'\] is \[8\], expected a name .*Did you mean 'ln_f.bias'"),
    ({BIAS: None}, {}, r"'ln_f.bias'\] is missing, expected \[8\]"),
    ({}, {"max_shard_size": 0}, "max_shard_size is 0, expected a number of bytes"),
]


@pytest.mark.parametrize(("change", "options", "message"), BAD_PARAMS)
def test_what_cannot_be_written_leaves_no_trace(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    params = {name: array for name, array in (random_params(CONFIG) | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        write_checkpoint(tmp_path / "new", params, CONFIG, **options)
    assert not (tmp_path / "new").exists()


def test_infinities_and_nan_are_stored_as_they_are(tmp_path: Path) -> None:
    special = numpy.array([numpy.inf, -numpy.inf, numpy.nan, -0.0, 65519, 1e-8, 0, 1], "float32")
    for dtype in DTYPES:
        write_checkpoint(tmp_path, random_params(CONFIG) | {"ln_f.bias": special}, CONFIG, dtype)
        numpy.testing.assert_array_equal(load_params(tmp_path)[1]["ln_f.bias"], rounded(special, dtype))


@pytest.mark.parametrize("shard", [1000, 10**9])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError])
def test_a_write_that_is_stopped_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int, problem: type[BaseException]
) -> None:
    write_checkpoint(tmp_path, random_params(CONFIG), CONFIG, max_shard_size=shard)
    before = contents(tmp_path)
    written = 0

    def full_disk(path: Path, tensors: Any) -> None:
        nonlocal written
        write_tensors(path, tensors)
        written += 1
        if written == (1 if shard == 10**9 else 3):
            raise problem

    monkeypatch.setattr("minibloom.checkpoint.write_tensors", full_disk)
    with pytest.raises(problem):
        write_checkpoint(tmp_path, random_params(CONFIG, seed=1), CONFIG, max_shard_size=shard)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("new_shard", [1000, 10**9])
@pytest.mark.parametrize("old_shard", [1000, 10**9])
def test_moves_that_break_off_leave_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_shard: int, new_shard: int
) -> None:
    """As when the process is killed between two of them: what loads is the old checkpoint or the new one."""
    replace, moved, outcomes = os.replace, 0, set()

    def move(source: Path, target: Path) -> None:
        nonlocal moved
        if moved == last:
            raise OSError
        moved += 1
        replace(source, target)

    old, new = random_params(CONFIG), random_params(CONFIG, seed=1)
    for last in range(12):
        moved, folder = 0, tmp_path / str(last)
        write_checkpoint(folder, old, CONFIG, max_shard_size=old_shard)
        with monkeypatch.context() as patch, suppress(OSError):
            patch.setattr("os.replace", move)
            write_checkpoint(folder, new, CONFIG, max_shard_size=new_shard)
        try:
            loaded = load_params(folder)[1]
        except InputError as error:
            outcomes.add("none")
            assert "holds neither" in str(error)
        else:
            (found,) = (n for n, params in enumerate((old, new)) if all((loaded[k] == params[k]).all() for k in params))
            outcomes.add(("old", "new")[found])
    assert ("none" in outcomes) == (old_shard == new_shard == 1000)


# --- Against transformers, where it is installed ---


@settings(max_examples=15)
@given(configs(), st.sampled_from(DTYPES), st.sampled_from(["2KB", "5GB"]), st.booleans())
def test_what_transformers_writes_is_loaded_with_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, config: BloomConfig, dtype: str, shard: str, headless: bool
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoint")
    kind = transformers.BloomModel if headless else transformers.BloomForCausalLM
    model = kind(transformers.BloomConfig(**config.to_dict())).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    loaded_config, loaded = load_params(folder, dtype="float64")
    theirs = {name.removeprefix(PREFIX): p.detach().double().numpy() for name, p in model.named_parameters()}
    assert loaded.keys() == theirs.keys()
    for name, array in loaded.items():
        numpy.testing.assert_array_equal(array, theirs[name])
    assert loaded_config.dtype == dtype and loaded_config.hidden_size == config.hidden_size
    assert describe(folder).dtypes == {dtype: sum(array.size for array in loaded.values())}


@settings(max_examples=15)
@given(configs(), st.sampled_from(DTYPES), st.sampled_from([1000, 10**9]), st.booleans())
def test_what_is_written_is_loaded_by_transformers_with_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, config: BloomConfig, dtype: str, shard: int, headless: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, random_params(config), config, dtype, "" if headless else PREFIX, shard)
    kind = transformers.BloomModel if headless else transformers.BloomForCausalLM
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())  # nothing missing, unexpected or mismatched
    assert str(model.dtype) == f"torch.{dtype}"
    ours = read_tensors(match_names(parameter_names(tensor_index(folder), config), parameter_shapes(config)), "float64")
    theirs = {name.removeprefix(PREFIX): p.detach().double().numpy() for name, p in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        numpy.testing.assert_array_equal(array, theirs[name])
