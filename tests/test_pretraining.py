"""From a folder of text to a model: what is read, what is checked before, and what goes on learning."""

from __future__ import annotations

import dataclasses

import numpy
import pytest

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.errors import InputError
from minibloom.language_modeling import evaluate, read_documents, tokenize
from minibloom.pretraining import train_folder
from minibloom.quantize import quantize
from minibloom.settings import TrainingSettings
from minibloom.training_state import STATE

from . import tiny
from .runs import write
from .test_training import SMALL


def test_nothing_is_done_before_the_folders_are_known_to_be_good(tmp_path, monkeypatch):
    texts = write(tmp_path / "texts", {"a.txt": tiny.TEXT.encode()})
    monkeypatch.setattr(BloomTokenizerFast, "train", lambda *_: pytest.fail("work was done"))
    write(tmp_path, {f"run/{STATE}": b""})
    inside = texts / "out"
    for out, resume, message in [
        (tmp_path / "run", False, "already holds"),
        (tmp_path / "new", True, "no training run"),
        (inside, False, "lies in the folder of text"),
    ]:
        with pytest.raises(InputError, match=message):
            train_folder(texts, out, SMALL, resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "texts"]
    assert not inside.exists()


def test_a_tilde_is_the_home_folder_in_what_is_written_as_in_what_is_read(tmp_path, monkeypatch):
    """`from_pretrained("~/m")` reads there: what is saved under that name must be what it finds."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(tmp_path / "home/texts", {"a.txt": 9 * tiny.TEXT.encode()})
    train_folder("~/texts", "~/run", SMALL, progress=False)
    train_folder("~/texts", "~/run", SMALL, resume=True, progress=False)
    with pytest.raises(InputError, match="already holds"):
        train_folder("~/texts", "~/run", SMALL)
    quantize("~/run", "~/small")
    for name in ("run", "small"):
        model = BloomForCausalLM.from_pretrained(f"~/{name}")
        model.save_pretrained("~/again")
        BloomTokenizerFast.from_pretrained(f"~/{name}").save_pretrained("~/again")
    with pytest.raises(InputError, match="already holds"):
        quantize("~/run", "~/again")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["again", "run", "small", "texts"]
    assert not list((tmp_path / "here").iterdir())


def test_too_little_text_leaves_nothing_behind(tmp_path):
    texts = write(tmp_path / "texts", {"a.txt": b"short"})
    with pytest.raises(InputError, match="too few for one batch"):
        train_folder(texts, tmp_path / "out", TrainingSettings(), vocab_size=300, progress=False)
    assert not (tmp_path / "out").exists()


def test_folders_of_training_and_validation_text_are_used_as_such(tmp_path):
    texts = write(tmp_path / "texts", {"train/a.txt": tiny.TEXT.encode(), "validation/b.txt": "猫".encode()})
    s = dataclasses.replace(SMALL, steps=4, save_every=3)
    history = train_folder(
        texts, tmp_path / "out", s, vocab_size=300, progress=False, hidden_size=8, n_layer=1, n_head=2
    )
    assert [record["step"] for record in history if "validation_loss" in record] == [3, 4]  # when saved, and at the end
    tokenizer = BloomTokenizerFast.from_pretrained(tmp_path / "out")
    model = BloomForCausalLM.from_pretrained(tmp_path / "out")
    nats, count = evaluate(model, tokenize(read_documents(texts / "validation"), tokenizer), s.context_length)
    assert history[-1]["validation_loss"] == pytest.approx(nats / count)
    assert model.config.vocab_size == 384  # 300 tokens, rows up to a multiple of 128


def test_training_goes_on_from_a_checkpoint(tmp_path):
    texts, base = write(tmp_path / "texts", {"a.txt": tiny.TEXT.encode()}), tiny.checkpoint(tmp_path / "base")
    s = dataclasses.replace(SMALL, steps=1, learning_rate=1e-300)  # one step that changes nothing
    train_folder(texts, tmp_path / "out", s, progress=False, start_from=base)
    before, after = BloomForCausalLM.from_pretrained(base), BloomForCausalLM.from_pretrained(tmp_path / "out")
    for name, p in before.params.items():
        numpy.testing.assert_array_equal(after.params[name], p)
    assert after.config == before.config
    assert BloomTokenizerFast.from_pretrained(tmp_path / "out").get_vocab() == tiny.tokenizer().get_vocab()


def test_what_was_quantized_is_widened_to_be_trained(tmp_path):
    texts, base = write(tmp_path / "texts", {"a.txt": tiny.TEXT.encode()}), tiny.checkpoint(tmp_path / "base")
    quantize(base, tmp_path / "int8")
    s = dataclasses.replace(SMALL, steps=1, learning_rate=1e-300)
    train_folder(texts, tmp_path / "out", s, progress=False, start_from=tmp_path / "int8")
    before, after = (BloomForCausalLM.from_pretrained(tmp_path / name) for name in ("int8", "out"))
    assert (before.weights, after.weights) == ("int8", "float32")
    for name, p in before.widened().params.items():
        numpy.testing.assert_array_equal(after.params[name], p)


def test_a_checkpoint_is_not_trained_over_not_even_by_what_starts_from_it(tmp_path):
    texts, base = write(tmp_path / "texts", {"a.txt": tiny.TEXT.encode()}), tiny.checkpoint(tmp_path / "base")
    before = tiny.contents(base)
    with pytest.raises(InputError, match=r"base already holds a checkpoint \(model.safetensors\): give another folder"):
        train_folder(texts, base, dataclasses.replace(SMALL, steps=1), progress=False, start_from=base)
    assert tiny.contents(base) == before


def test_a_checkpoint_that_goes_on_learning_keeps_its_shape(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("to be or not to be")
    with pytest.raises(InputError, match="hidden_size cannot be chosen with start_from"):
        train_folder(tmp_path / "text", tmp_path / "out", TrainingSettings(), start_from=tmp_path, hidden_size=64)
    assert not (tmp_path / "out").exists()
