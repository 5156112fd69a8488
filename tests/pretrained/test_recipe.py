"""The recipe of the shipped checkpoint: what it measures, and that what it publishes is whole, on a tiny corpus."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.checkpoint import tensor_index
from minibloom.pretrained import recipe
from minibloom.pretrained.corpus import CODE, VERSIONS
from minibloom.pretraining import train_folder
from minibloom.settings import TrainingSettings
from minibloom.training_state import STATE

from .. import tiny

words = st.lists(st.text("abcdé猫", min_size=1, max_size=8), min_size=2, max_size=9)


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return tiny.tokenizer()


@given(words=words)
def test_halves_are_cut_between_the_two_words_nearest_the_middle(tokenizer, words):
    text = " ".join(words)
    first, second = recipe.halves(text, tokenizer)
    assert first + second == text
    starts = [" ".join(words[:i]) for i in range(1, len(words))]
    assert first in starts
    assert abs(len(first) - len(text) / 2) == min(abs(len(start) - len(text) / 2) for start in starts)


def test_halves_of_text_without_spaces_are_cut_between_pieces(tokenizer):
    assert recipe.halves("人人生而自由,在尊严上", tokenizer) == ("人人生而自由", ",在尊严上")


def test_only_the_exact_second_half_that_ends_there_counts(tokenizer):
    text = "the cat sat on the mat"
    first, second = recipe.halves(text, tokenizer)
    ids, end = tokenizer(second)["input_ids"], tokenizer.eos_token_id
    comma = tokenizer(",")["input_ids"][0]

    def continues(answer: list[int], **options: int) -> bool:
        return recipe.continues(tiny.Scripted(tiny.config(), [answer], **options), tokenizer, text)

    assert continues([*ids, end])
    assert not continues([*ids[:-1], comma, end])
    assert not continues([*ids, comma])  # goes on
    assert not continues([*ids[:-1], end, end])  # ends too soon
    assert continues([*ids, end], favourite=383)  # an id past the tokenizer is never chosen
    assert first == "the cat sat"


RUN = TrainingSettings(steps=7, batch_size=1, context_length=16, save_every=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with the shape of the real one, and both training runs on it."""
    folder = tmp_path_factory.mktemp("recipe")
    train, validation = folder / "corpus" / "train", folder / "corpus" / "validation"
    for i, (language, codes) in enumerate(VERSIONS.items()):
        for code in codes:
            inside = train / "udhr" / language / (code if len(codes) > 1 else "")
            write(inside / "01.txt", tiny.LINES[i % len(tiny.LINES)])
        write(validation / "udhr" / language / "30.txt", "the dog")
    for language in CODE:
        write(train / "code" / language / "00.txt", "x = 1")
        write(validation / "code" / language / "00.txt", "y = 2")
    shape = {"hidden_size": 8, "n_layer": 1, "n_head": 2}
    train_folder(folder / "corpus", folder / "first", RUN, vocab_size=300, progress=False, **shape)
    second = dataclasses.replace(RUN, steps=2, whole_documents=True)
    train_folder(folder / "corpus", folder / "second", second, start_from=folder / "first", progress=False)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_loss_curve_is_the_mean_of_each_stretch_and_the_last_validation(folder):
    history = train_history(folder / "first" / STATE)
    curve = recipe.loss_curve(folder / "first" / STATE, every=3)
    assert [point["step"] for point in curve] == [3, 6, 7]
    for point, part in zip(curve, (history[:3], history[3:6], history[6:]), strict=True):
        assert point["loss"] == pytest.approx(sum(record["loss"] for record in part) / len(part), abs=1e-4)
        assert point["validation_loss"] == pytest.approx(part[-1]["validation_loss"], abs=1e-4)  # measured when saved
    assert ["validation_loss" in point for point in recipe.loss_curve(folder / "first" / STATE, every=2)] == [
        False, True, True, True,
    ]  # fmt: skip


def train_history(state: Path) -> list[dict[str, float]]:
    from safetensors import safe_open

    with safe_open(state, framework="numpy") as file:
        return json.loads(file.metadata()["history"])


def test_what_is_published_is_a_whole_checkpoint_with_its_card(folder, tmp_path):
    out = tmp_path / "bloom"
    recipe.publish([folder / "first", folder / "second"], folder / "corpus", out, seconds=61 * 60)
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    }  # fmt: skip
    assert {entry.dtype for entry in tensor_index(out).values()} == {"F16"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "61 minutes" in card
    assert "0 of 42 languages" in card  # after so few steps
    rows = dict(re.findall(r"^\| (\S+ \S+) \|(.*)\|$", card, re.MULTILINE))
    expected = {f"udhr {language}" for language in VERSIONS} | {f"code {language}" for language in CODE}
    assert expected <= rows.keys()
    for row in expected:  # loss and bits per byte, trained on and held out
        assert len(re.findall(r"\d\.\d{3}", rows[row])) == 4
    published, trained = BloomForCausalLM.from_pretrained(out), BloomForCausalLM.from_pretrained(folder / "second")
    for name, p in trained.params.items():
        numpy.testing.assert_array_equal(published.params[name], p.astype("float16"))
    curves = [record["curve"] for record in json.loads((out / "training.json").read_text())]
    assert curves == [recipe.loss_curve(folder / run / STATE) for run in ("first", "second")]


@pytest.mark.parametrize("done", [(50, 0), (None, 50), (None, None)])
def test_a_recipe_that_is_stopped_makes_nothing_of_half_a_run(folder, monkeypatch, done):
    published, runs = [], []

    def train_folder(texts: Path, out: Path, settings: TrainingSettings, *_: object, **__: object) -> list[dict]:
        runs.append(out.name)
        return [{"step": done[len(runs) - 1] or settings.steps}]

    monkeypatch.setattr(recipe, "train_folder", train_folder)
    monkeypatch.setattr(recipe, "publish", lambda *given: published.append(given))
    monkeypatch.setattr("sys.argv", ["recipe", str(folder)])
    finished = done == (None, None)
    assert recipe.main() == (0 if finished else 130)
    assert runs == (["first"] if done[0] else ["first", "second"])
    assert len(published) == finished


def test_losses_are_per_token_and_per_byte(folder, tokenizer):
    model = BloomForCausalLM(tiny.config(initializer_range=0.0))  # all logits 0: every token costs log 384
    loss, bits = recipe.losses(model, tokenizer, {"a": "é", "b": "the cat"})
    assert loss == "5.951"
    tokens = len(tokenizer("é")["input_ids"]) + len(tokenizer("the cat")["input_ids"]) + 2  # and an end each
    assert float(bits) == pytest.approx(tokens * 8.585 / 9, abs=1e-3)  # log2 384 = 8.585, 9 bytes
