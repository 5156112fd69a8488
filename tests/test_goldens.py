"""Parity with transformers without transformers: its figures for a few tiny models lie in data/goldens.safetensors.

How the file is made, and what stands in it, is told in `make_goldens.py`.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from .golden_file import read_goldens
from .make_goldens import COMMAND, CONFIGS, EVERYTHING, GOLDENS, STEPS, arrays_of, make, model_of, steps_of, thinned
from .parity import NOT_INSTALLED
from .parity.compare import assert_close, named

# The figures are stored as float32, so 1e-7 is as near as float64 can come.
in_both_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-7)])
INPUTS = ("input_ids", "attention_mask", "labels")


@pytest.fixture(scope="module")
def goldens() -> dict[str, numpy.ndarray]:
    return read_goldens(GOLDENS)[0]


@pytest.fixture(scope="module")
def about() -> dict[str, Any]:
    return read_goldens(GOLDENS)[1]


def inputs_of(goldens: dict[str, numpy.ndarray], case: str) -> dict[str, numpy.ndarray]:
    return {name: goldens[f"{case}/{name}"] for name in INPUTS if f"{case}/{name}" in goldens}


def figures_of(goldens: dict[str, numpy.ndarray], case: str, dtype: str) -> dict[str, numpy.ndarray]:
    """All that was computed in a case, as if it had been in `dtype`."""
    inputs = {f"{case}/{name}" for name in INPUTS}
    return {name: x.astype(dtype) for name, x in goldens.items() if name.startswith(f"{case}/") and name not in inputs}


@pytest.mark.parametrize("case", sorted(CONFIGS.keys() - STEPS.keys()))
@in_both_dtypes
def test_outputs_loss_and_every_gradient(goldens, about, case, dtype, tolerance):
    model = model_of(goldens["pool"], about["configs"][case], dtype)
    out, gradients = model.value_and_grad(**inputs_of(goldens, case), **EVERYTHING)
    got = arrays_of(named(out), case) | {f"{case}/gradient/{name}": thinned(x) for name, x in gradients.items()}
    assert_close(got, figures_of(goldens, case, dtype), tolerance)


@pytest.mark.parametrize("case", sorted(STEPS))
@in_both_dtypes
def test_steps_with_a_cache(goldens, about, case, dtype, tolerance):
    model = model_of(goldens["pool"], about["configs"][case], dtype)
    got: dict[str, Any] = {}
    past = None
    for i, step in enumerate(steps_of(inputs_of(goldens, case), about["steps"][case])):
        out = model(**step, **EVERYTHING, past_key_values=past)
        past = out.past_key_values
        got |= {name: x.copy() for name, x in arrays_of(named(out), f"{case}/step.{i}").items()}
    assert_close(got, figures_of(goldens, case, dtype), tolerance)


def test_file_is_small_and_says_where_it_is_from(about):
    assert GOLDENS.stat().st_size < 400_000
    assert about["oracle"].startswith("transformers 5.23.0 on torch 2.13.0")
    assert about["command"] == COMMAND


def test_attention_in_the_goldens_is_far_from_uniform(goldens):
    """Else a wrong slope or a wrong score would hardly show."""
    for case in CONFIGS:
        name = f"{case}/attentions.0" if case not in STEPS else f"{case}/step.0/attentions.0"
        assert goldens[name][:, :, -1].max(-1).mean() > 0.4


def test_the_command_makes_the_same_file_again(goldens, about):
    pytest.importorskip("torch", reason=NOT_INSTALLED)
    pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)
    arrays, again = make()
    assert_close(arrays, goldens, 1e-6)
    assert {**again, "oracle": ""} == {**about, "oracle": ""}
