"""`minibloom parity --against transformers`: it runs the real one, sees all its steps, and says where it differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minibloom
from minibloom import BloomConfig, parity
from minibloom.cli import main
from minibloom.comparison import compare
from minibloom.golden import GIVEN, Steps, run
from minibloom.oracle import transformers_steps

from ..test_parity import IDS, KINDS, MASK
from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from transformers.models.bloom import modeling_bloom  # noqa: E402

from .cases import cases, random_params  # noqa: E402

CONFIG = BloomConfig(vocab_size=31, hidden_size=24, n_layer=2, n_head=6, pad_token_id=3, num_labels=3)


def saved(folder: Path, kind: str, dtype: str, config: BloomConfig, seed: int = 0, gain: float = 1.0) -> Any:
    """A model with random parameters, and its checkpoint in `folder`."""
    model = getattr(minibloom, kind)(config, dtype=dtype)
    model.params = random_params(model.shapes(config), seed, gain, dtype)
    model.save_pretrained(folder)
    return model


def held_against_transformers(folder: Path, model: Any, ids: Any, mask: Any, gradients: bool) -> parity.Report:
    ours = run(model, ids, mask, gradients)
    given = {name: ours[name] for name in GIVEN if name in ours}
    theirs = transformers_steps(folder, type(model).__name__, model.head, given, model.dtype, gradients)
    return compare(ours, Steps(theirs), {"float32": 1e-5, "float64": 1e-11}[model.dtype], strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_of_every_class_is_seen_and_agrees_padding_too(tmp_path, kind, dtype):
    model = saved(tmp_path, kind, dtype, CONFIG)
    report = held_against_transformers(tmp_path, model, IDS, MASK, gradients=kind != "BloomModel")
    assert report.ok, str(report)
    assert report.ours.keys() - report.theirs.keys() - {*GIVEN} == ({"last_token"} if "Sequence" in kind else set())
    assert report.theirs.keys() <= report.ours.keys()


@pytest.mark.parametrize(
    ("problem", "labels"), [("multi_label_classification", 3), ("regression", 3), ("regression", 1), (None, 1)]
)
def test_every_kind_of_problem_has_the_same_loss(tmp_path, problem, labels):
    config = BloomConfig(**{**CONFIG.to_dict(), "id2label": None, "label2id": None}, num_labels=labels)
    model = saved(tmp_path, "BloomForSequenceClassification", "float64", config.replace(problem_type=problem))
    report = held_against_transformers(tmp_path, model, IDS, MASK, gradients=True)
    assert report.ok and "loss" in {row.name for row in report.rows}, str(report)


@settings(max_examples=15)
@given(data=st.data())
def test_random_models_agree_step_by_step(tmp_path_factory, data):
    case = data.draw(cases(slow_but_exact=False))
    folder = tmp_path_factory.mktemp("model")
    model = saved(folder, "BloomForCausalLM", "float32", case.config, case.seed, case.gain)
    ids = case.inputs.get("input_ids", case.mask * 0)
    assert (report := held_against_transformers(folder, model, ids, case.mask, gradients=False)).ok, str(report)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gradients", [[], ["--gradients"]])
def test_the_model_that_ships(capsys, dtype, gradients):
    options = ["--strict", "--dtype", dtype, "--prompt", "All human beings are born free", "--prompt", "人人生而自由"]
    assert main(["parity", "--against", "transformers", *options, *gradients]) == 0
    out = capsys.readouterr().out
    assert out.startswith("transformers 5.") and "all within tolerance" in out and "Not shown" not in out
    assert ("here it is kept from that" in out) == (dtype == "float64")


def test_a_transformers_with_another_gelu_is_caught(tmp_path, capsys):
    saved(tmp_path, "BloomForCausalLM", "float32", CONFIG)
    with mock.patch.object(modeling_bloom, "bloom_gelu_forward", torch.nn.functional.gelu):
        assert main(["parity", str(tmp_path), "--against", "transformers", "--ids", "5,6,7,8"]) == 1
    out = capsys.readouterr().out
    assert "The first: h.0.mlp.gelu" in out and "The GELU is the exact one, by erf." in out


def test_that_transformers_drops_two_biases_is_told(tmp_path, capsys):
    saved(tmp_path, "BloomForCausalLM", "float32", CONFIG.replace(slow_but_exact=True, pretraining_tp=2))
    assert main(["parity", str(tmp_path), "--against", "transformers", "--ids", "5,6,7,8", "--gradients"]) == 1
    out = capsys.readouterr().out
    assert "Not shown by transformers" in out and "The first: h.0.attention_residual" in out
    assert "transformers itself leaves them out" in " ".join(out.split())


def test_a_port_in_torch(tmp_path):
    """Tensors that carry gradients are taken as they are; what NumPy cannot hold is an error that says so."""
    model = saved(tmp_path, "BloomForCausalLM", "float32", CONFIG)
    module = modeling_bloom.BloomForCausalLM.from_pretrained(tmp_path)

    def port(ids: Any, mask: Any) -> dict[str, Any]:
        return {"logits": module(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits}

    assert parity.check(port, model, IDS, MASK).ok
    assert parity.check(lambda *given: {"logits": port(*given)["logits"].half()}, model, IDS, MASK).ok
    with pytest.raises(minibloom.InputError, match="logits is no array that NumPy can read"):
        parity.check(lambda *given: {"logits": port(*given)["logits"].bfloat16()}, model, IDS, MASK)
