"""The checkpoint that ships: small, whole, usable without any network, and it has learnt what its card says."""

from __future__ import annotations

import json
import re

import pytest

from minibloom import BloomConfig, BloomForCausalLM, BloomModel, BloomTokenizerFast
from minibloom.checkpoint import tensor_index
from minibloom.files import SHIPPED
from minibloom.pretrained.corpus import CODE, VERSIONS
from minibloom.pretrained.recipe import BEGINNINGS, SETTINGS, continues, halves
from minibloom.settings import TrainingSettings

from .. import tiny

NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
ARTICLE_1 = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood."
)


@pytest.fixture(scope="module")
def model() -> BloomForCausalLM:
    return BloomForCausalLM.from_pretrained()


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return BloomTokenizerFast.from_pretrained()


def test_the_readmes_command_gives_a_sensible_answer_without_a_network(tmp_path):
    status, out, err = tiny.run("generate", "All human beings are born", HF_HOME=str(tmp_path), **NO_NETWORK)
    assert (status, err) == (0, "")
    assert out.startswith("All human beings are born free and equal in dignity and rights.")


def test_it_is_small_and_stored_as_float16(model):
    data = [path for path in SHIPPED.iterdir() if path.is_file() and path.suffix != ".py"]
    assert sum(path.stat().st_size for path in data) <= 12_000_000
    assert {path.name for path in data} == {
        "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    }  # fmt: skip
    assert {entry.dtype for entry in tensor_index(SHIPPED).values()} == {"F16"}
    assert 3_000_000 <= model.num_parameters() <= 6_000_000
    assert model.dtype == "float32"  # computed with


def test_config_tokenizer_and_model_belong_together(model, tokenizer):
    assert BloomConfig.from_pretrained() == model.config
    assert model.config.architectures == ["BloomForCausalLM"]
    assert len(tokenizer) <= model.config.vocab_size
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(model.config, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")
    base = BloomModel.from_pretrained()
    assert base.num_parameters() == model.num_parameters()  # the head is tied


def test_it_knows_article_1_by_heart(model, tokenizer):
    first, second = halves(ARTICLE_1, tokenizer)
    assert first and second.startswith(" ")
    assert continues(model, tokenizer, ARTICLE_1)


def test_its_loss_on_what_it_has_read_is_far_below_chance(model, tokenizer):
    ids = tokenizer([ARTICLE_1], return_tensors="np")["input_ids"]
    assert float(model(ids, labels=ids).loss) < 1.0  # nats a token; a new model has 8.3


def test_the_card_says_what_was_measured():
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    claimed = re.search(r"\*\*(\d+) of 42 languages\*\*", card)
    assert claimed and int(claimed[1]) >= 35
    rows = dict(re.findall(r"^\| (\S+ \S+) \|(.*)\|$", card, re.MULTILINE))
    assert sum("exact" in row for row in rows.values()) == int(claimed[1])
    for language in (*(f"udhr {code}" for code in VERSIONS), *(f"code {name}" for name in CODE)):
        assert len(re.findall(r"\d\.\d{3}", rows[language])) == 4  # loss and bits per byte, trained on and held out


def test_the_loss_curves_are_those_of_the_recipe():
    runs = json.loads((SHIPPED / "training.json").read_text())
    for run, settings in zip(runs, (SETTINGS, BEGINNINGS), strict=True):
        assert TrainingSettings(**run["settings"]) == settings
        assert run["curve"][-1]["step"] == settings.steps
        assert "validation_loss" in run["curve"][-1]
    assert runs[0]["curve"][-1]["loss"] < runs[0]["curve"][0]["loss"] / 4
