"""Checkpoints in fewer bits: what is in the files, and that they mean what keeping the weights so in memory means."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest

from minibloom import BloomForCausalLM, BloomTokenizerFast, InputError
from minibloom.checkpoint_info import describe
from minibloom.cli import main
from minibloom.generation import GenerationConfig
from minibloom.layers.small_weights import SmallWeight
from minibloom.quantize import quantize, training_perplexity
from minibloom.tensor_file import read_header

from . import tiny

IDS = [[5, 9, 200, 33, 7]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"), initializer_range=0.3, eos_token_id=None)


@pytest.mark.parametrize("source", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["int8", "bfloat16", "float16"])
def test_a_quantized_file_holds_what_quantizing_while_loading_makes(model, tmp_path, kind, source):
    BloomForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "source", source)
    quantize(tmp_path / "source", tmp_path / "out", kind)
    ours = BloomForCausalLM.from_pretrained(tmp_path / "out", weights=kind)
    loaded = BloomForCausalLM.from_pretrained(tmp_path / "source", weights=kind)
    for name, weight in loaded.params.items():
        if isinstance(weight, SmallWeight):
            assert ours.params[name].dtype == kind
            numpy.testing.assert_array_equal(ours.params[name].widen(), weight.widen(), name)
    assert loaded.weights == kind and f"float32 from {kind} weights" in repr(loaded)
    numpy.testing.assert_array_equal(loaded.widened()(IDS).logits, loaded.widened()(IDS).logits)
    expected = loaded.widened()(IDS).logits
    numpy.testing.assert_allclose(loaded(IDS).logits, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_an_int8_file_says_what_it_is_and_is_read_as_it_is(model, tmp_path):
    quantize(model, tmp_path)
    header = read_header(tmp_path / "model.safetensors")
    name = "transformer.h.0.mlp.dense_h_to_4h.weight"
    assert (header[name].dtype, header[f"{name}.scale"].dtype, header[f"{name}.scale"].shape) == ("I8", "F32", (128,))
    with (tmp_path / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        assert "NAME.scale" in json.loads(file.read(length))["__metadata__"]["minibloom"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "minibloom_int8"}
    loaded = BloomForCausalLM.from_pretrained(tmp_path)
    assert loaded.weights == "int8"
    assert "quantization_config" not in loaded.config.to_dict()  # so that what is saved from it does not claim it
    assert "int8" in str(describe(tmp_path)) and describe(tmp_path).parameters == loaded.num_parameters()
    assert BloomTokenizerFast.from_pretrained(tmp_path)("the cat") == BloomTokenizerFast.from_pretrained(model)(
        "the cat"
    )
    for options in ({"weights": "float32"}, {"dtype": "float64"}):
        arrays = BloomForCausalLM.from_pretrained(tmp_path, **options).params
        assert not any(isinstance(p, SmallWeight) for p in arrays.values())
        for key, p in loaded.widened().params.items():
            numpy.testing.assert_allclose(arrays[key], p, rtol=1e-6)


def test_an_int8_model_saved_again_is_the_same_and_can_be_widened(model, tmp_path):
    quantize(model, tmp_path / "int8")
    loaded = BloomForCausalLM.from_pretrained(tmp_path / "int8")
    loaded.save_pretrained(tmp_path / "again")
    again = BloomForCausalLM.from_pretrained(tmp_path / "again")
    numpy.testing.assert_array_equal(again(IDS).logits, loaded(IDS).logits)
    loaded.save_pretrained(tmp_path / "wide", "float32")
    wide = BloomForCausalLM.from_pretrained(tmp_path / "wide")
    assert wide.weights == "float32"
    numpy.testing.assert_array_equal(wide(IDS).logits, loaded.widened()(IDS).logits)


def test_parameters_in_any_order_in_memory_are_quantized_alike(model, tmp_path):
    loaded = BloomForCausalLM.from_pretrained(model)
    loaded.save_pretrained(tmp_path / "one", "int8")
    loaded.params = {name: numpy.asfortranarray(p) for name, p in loaded.params.items()}
    loaded.save_pretrained(tmp_path / "other", "int8")
    one, other = (tmp_path / name / "model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_settings_of_generation_stay_with_a_model_that_is_widened(model, tmp_path):
    loaded = BloomForCausalLM.from_pretrained(model, weights="int8")
    loaded.generation_config = GenerationConfig(max_new_tokens=3)
    assert loaded.generate(IDS).shape == loaded.widened().generate(IDS).shape == (1, len(IDS[0]) + 3)
    loaded.widened().save_pretrained(tmp_path)
    assert BloomForCausalLM.from_pretrained(tmp_path).generation_config == GenerationConfig(max_new_tokens=3)


def test_an_untied_head_and_shards(tmp_path):
    tiny.checkpoint(tmp_path / "model", tie_word_embeddings=False)
    quantize(tmp_path / "model", tmp_path / "int8")
    loaded = BloomForCausalLM.from_pretrained(tmp_path / "int8")
    assert loaded.params["lm_head.weight"].dtype == "int8"
    loaded.save_pretrained(tmp_path / "shards", max_shard_size=9000)
    assert len(describe(tmp_path / "shards").file_bytes) > 3
    numpy.testing.assert_array_equal(
        BloomForCausalLM.from_pretrained(tmp_path / "shards")(IDS).logits, loaded(IDS).logits
    )


@pytest.mark.parametrize("kind", ["int8", "bfloat16", "float16"])
def test_the_loss_is_that_of_the_widened_model(model, kind):
    loaded = BloomForCausalLM.from_pretrained(model, weights=kind)
    plain = loaded.widened()(IDS, labels=IDS).loss
    for output_logits in (True, False):
        loss = loaded(IDS, labels=IDS, output_logits=output_logits).loss
        numpy.testing.assert_allclose(loss, plain, rtol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "bfloat16", "float16"])
def test_weights_without_a_gradient_say_what_to_train(model, kind):
    loaded = BloomForCausalLM.from_pretrained(model, weights=kind)
    with pytest.raises(InputError, match=f"as {kind}, for reading only. Train model.widened"):
        loaded.value_and_grad(IDS, labels=IDS)
    _, grads = loaded.widened().value_and_grad(IDS, labels=IDS)
    assert set(grads) == set(loaded.params)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "int4"}, "weights='int4' is unknown, expected one of .*Did you mean 'int8'"),
        ({"weights": "float64"}, "weights='float64' is unknown, expected one of"),
        ({"weights": "int8", "dtype": "float64"}, "needs dtype='float32' and backend='numpy'"),
    ],
)
def test_weights_that_cannot_be_kept_so(model, options, said):
    with pytest.raises(InputError, match=said):
        BloomForCausalLM.from_pretrained(model, **options)


def test_what_cannot_be_quantized_is_said_and_writes_nothing(model, tmp_path):
    with pytest.raises(InputError, match="expected one of bfloat16, float16, int8"):
        quantize(model, tmp_path / "out", "int4")
    other = tiny.checkpoint(tmp_path / "other", hidden_size=8)
    before = tiny.contents(other)
    for taken in (model, other):
        with pytest.raises(InputError, match=r"already holds a checkpoint \(model.safetensors\)"):
            quantize(model, taken)
    assert tiny.contents(other) == before
    bad = BloomForCausalLM.from_pretrained(model)
    bad.params["h.1.mlp.dense_h_to_4h.weight"][3, 2] = numpy.inf
    bad.save_pretrained(tmp_path / "bad")
    with pytest.raises(InputError, match="h.1.mlp.dense_h_to_4h.weight.*holds inf, which int8 cannot hold"):
        quantize(tmp_path / "bad", tmp_path / "out")
    with pytest.raises(InputError, match="h.1.mlp.dense_h_to_4h.weight.*holds inf, which int8 cannot hold"):
        BloomForCausalLM.from_pretrained(tmp_path / "bad", weights="int8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["no scale", "short scale"])
def test_an_int8_matrix_needs_its_scales(model, tmp_path, damage):
    quantize(model, tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = "transformer.h.0.mlp.dense_h_to_4h.weight"
    if damage == "no scale":
        header[f"{name}.scala"] = header.pop(f"{name}.scale")
    else:
        header[f"{name}.scale"]["shape"] = [64, 2]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(
        InputError, match="dense_h_to_4h.weight.scala" if damage == "no scale" else r"expected F32 \[128\]"
    ):
        BloomForCausalLM.from_pretrained(tmp_path)


# --- The command ---


def test_the_command_says_the_sizes_and_the_perplexity_of_both(model, tmp_path, capsys):
    text = tmp_path / "text"
    text.write_text(tiny.TEXT, encoding="utf-8-sig")  # with the mark that some editors put first, and is no text
    assert main(["quantize", str(model), str(tmp_path / "out"), "--perplexity", str(text)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "as int8, from" in first and "transformers does not" in first
    new, old = training_perplexity(tmp_path / "out", tiny.TEXT), training_perplexity(model, tiny.TEXT)
    assert f"{new:.4f}, from {old:.4f}" in second
    assert abs(new / old - 1) < 0.05
    assert main(["generate", "--model", str(tmp_path / "out"), "the cat", "--max-new-tokens", "3"]) == 0
    resident = capsys.readouterr().out
    for options in (["--weights", "int8"], ["--stream-weights"]):
        assert main(["generate", "--model", str(tmp_path / "out"), "the cat", "--max-new-tokens", "3", *options]) == 0
        assert capsys.readouterr().out == resident


def test_a_perplexity_beyond_all_numbers_is_infinite(model, tmp_path):
    sure = BloomForCausalLM.from_pretrained(model)
    sure.params["ln_f.weight"] *= 1e5  # and mostly wrong
    sure.save_pretrained(tmp_path / "sure")
    BloomTokenizerFast.from_pretrained(model).save_pretrained(tmp_path / "sure")
    assert training_perplexity(tmp_path / "sure", tiny.TEXT) == math.inf


def test_a_text_that_cannot_be_read(model, tmp_path, capsys):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "latin").write_bytes(b"\xe9")
    told = {"missing": "cannot be read", "empty": "is empty", "mark": "is empty", "latin": "is not UTF-8 text"}
    for name, said in told.items():
        assert main(["quantize", str(model), str(tmp_path / "out"), "--perplexity", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
