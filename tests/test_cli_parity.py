"""`minibloom parity`: what the command writes, reads, compares and shows, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from minibloom import parity
from minibloom.cli import main
from minibloom.golden import read, run, write

from . import tiny
from .test_parity import IDS, KINDS, MASK, model_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model"), initializer_range=0.5)


def status_of(*arguments: Any) -> int:
    return main(["parity", *map(str, arguments)])


def test_the_command_writes_and_checks(checkpoint, tmp_path, capsys):
    path = tmp_path / "golden.safetensors"
    prompts = ["--prompt", "the cat sat", "--prompt", "le chat"]
    assert status_of(checkpoint, "--write", path, "--gradients", *prompts) == 0
    out = capsys.readouterr().out
    assert "golden.safetensors: " in out and "python -m pydoc minibloom.golden" in out
    golden = read(path)
    assert golden.about["prompts"] == ["the cat sat", "le chat"] and golden.about["model"] == str(checkpoint)
    assert golden["attention_mask"].sum(1).tolist() == [len(row) for row in golden.about["tokens"]]
    assert golden["attention_mask"][1, 0] == 0 and golden["input_ids"][1, 0] == 3  # padding on the left

    assert status_of(checkpoint, "--against", path) == 0  # reads what the file has read, gradients included
    out = capsys.readouterr().out
    assert "gradient/word_embeddings.weight" in out and "golden.safetensors (float32) against minibloom" in out
    assert status_of(path, "--against", path) == 0  # without the model
    before = path.read_bytes()
    words = golden.about["command"].split(" --write ")[0].split(" ", 2)[2]
    assert words.startswith(f"{checkpoint} --prompt 'the cat sat'")
    assert status_of(checkpoint, *prompts, "--gradients", "--write", path) == 0 and path.read_bytes() == before


def test_the_command_exits_with_1_where_a_step_leaves(checkpoint, tmp_path, capsys):
    path, wrong = tmp_path / "golden.safetensors", tmp_path / "wrong.safetensors"
    assert status_of(checkpoint, "--ids", "5,6,7,8,9", "--write", path) == 0
    arrays = load_file(path)
    save_file(arrays | {"h.1.mlp.gelu": arrays["h.1.mlp.gelu"] * 1.001}, wrong)
    for reference in (checkpoint, path):
        capsys.readouterr()
        assert status_of(reference, "--against", wrong) == 1
        out = capsys.readouterr().out
        assert "1 of 39 compared are off. The first: h.1.mlp.gelu = gelu(dense_h_to_4h)" in out
        assert "All its numbers are 1.001 times what is expected." in out
    assert status_of(checkpoint, "--against", wrong, "--tolerance", "0.01") == 0


def test_two_checkpoints_are_compared(checkpoint, tmp_path, capsys):
    parity.load(checkpoint).save_pretrained(tmp_path / "half", dtype="float16")
    arguments = [checkpoint, "--ids", "5,6,7", "--against", tmp_path / "half"]
    assert status_of(*arguments) == 1
    assert "The first: word_embeddings = E[ids]" in capsys.readouterr().out
    assert status_of(*arguments, "--tolerance", "0.05") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_says_which_head_it_has(tmp_path, capsys, kind):
    model_of(kind).save_pretrained(tmp_path)
    file = tmp_path / "golden.safetensors"
    gradients = [] if kind == "BloomModel" else ["--gradients"]
    assert status_of(tmp_path, "--ids", "5,6,7", "--ids", "8,9", "--write", file, "--dtype", "float64", *gradients) == 0
    assert status_of(tmp_path, "--against", file) == 0  # in float64, as the file is
    out = capsys.readouterr().out
    assert f"{kind}, 2 blocks" in out and out.count("(float64)") == 2


def test_without_the_oracle_how_to_install_it_is_said(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("minibloom.oracle.find_spec", lambda name: None)
    assert status_of(checkpoint, "--against", "transformers") == 2
    err = capsys.readouterr().err
    assert "needs transformers and torch, which is not installed: python -m pip install torch" in err
    monkeypatch.setattr("minibloom.oracle.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.35.2")
    assert status_of(checkpoint, "--against", "transformers") == 2
    assert "transformers is installed as 4.35.2, expected 5 or later" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --against, --write, or both"),
        (["--against", "transfomers"], "Did you mean 'transformers'?"),
        (["--against", "absent.safetensors"], "absent.safetensors does not exist"),
        (["--against", "torn.safetensors"], "torn.safetensors is truncated"),
        (["--against", "text.safetensors"], "text.safetensors is truncated or not safetensors"),
        (["--against", "other.safetensors"], "other.safetensors is of another model: its vocab_size is 31"),
        (["--against", "strange.safetensors"], "strange.safetensors shows no step of this model"),
        (["--against", "empty.safetensors"], "empty.safetensors shows no step of this model"),
        (["--against", "port.safetensors", "--ids", "5"], "port.safetensors has read other input_ids"),
        (["--against", "port.safetensors", "--tolerance", "-1"], "tolerance is -1.0"),
        (["--against", "port.safetensors", "--tolerance", "nan"], "tolerance is nan"),
        (["--write", "no/such/folder/x"], "no/such/folder/x cannot be written"),
        (["--write", "."], ". cannot be written"),
        (["--write", "text.safetensors"], "text.safetensors is there already, and was not written by parity"),
        (["--write", "strange.safetensors"], "strange.safetensors is there already, and was not written by parity"),
        (["--write", "port.safetensors", "--against", "port.safetensors"], "is what is held --against"),
        (["--write", "x", "--prompt", ""], "a prompt is empty"),
        (["--write", "x", "--prompt", "the", "--ids", "5"], "give --prompt or --ids, not both"),
        (["--write", "x", "--ids", "400"], "input_ids holds 400, expected ids from 0 to 383"),
        (["--write", "x", "--ids", "5,six"], "argument --ids: invalid token_ids value: '5,six'"),
        (["--write", "x", "--ids", "5", "--gradients"], "no loss to take gradients of"),
        (["--write", "x", "--dtype", "float16"], "dtype='float16'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(checkpoint, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write("other.safetensors", run(model_of(), IDS, MASK))
    write("port.safetensors", run(parity.load(checkpoint), [[5, 6, 7]]))
    save_file({"x": numpy.ones(3)}, "strange.safetensors")
    save_file({}, "empty.safetensors")
    Path("text.safetensors").write_text("no tensors here")
    Path("torn.safetensors").write_bytes(Path("port.safetensors").read_bytes()[:-9])
    before = tiny.contents(tmp_path)
    try:
        status = status_of(checkpoint, *arguments)
    except SystemExit as stop:  # argparse's way
        status = int(stop.code or 0)
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "") and shown.err.count("\n") == 1 and said in shown.err, shown.err
    assert tiny.contents(tmp_path) == before


def test_a_model_without_a_tokenizer_needs_ids(tmp_path, capsys):
    model_of().save_pretrained(tmp_path)
    assert status_of(tmp_path, "--write", tmp_path / "x") == 2
    assert "Without a tokenizer, give --ids." in capsys.readouterr().err


def test_a_file_of_steps_has_no_model_to_run(checkpoint, tmp_path, capsys):
    write(tmp_path / "g.safetensors", run(parity.load(checkpoint), [[5, 6, 7]]))
    for arguments in (["--write", tmp_path / "x"], ["--against", checkpoint], ["--against", "transformers"]):
        assert status_of(tmp_path / "g.safetensors", *arguments) == 2
        assert "can only be held --against another file" in capsys.readouterr().err
