"""Checkpoints in float16 and bfloat16: how near minibloom, which widens them, and transformers come to the answer.

The answer is what transformers computes in float64 from the numbers in the file. minibloom reads the same file and
computes in float32; transformers reads it and computes in the type that it is stored in, as it does by default. For
every array of output and every gradient, the largest error of minibloom's is no larger than that of transformers'.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from transformers import DynamicCache  # noqa: E402

from .. import standin  # noqa: E402
from .cases import Case, cases, head_cases  # noqa: E402
from .compare import assert_same, named, rows  # noqa: E402
from .oracle import Oracle, exactly  # noqa: E402

TASKS = ("words", "single_label_classification", "tokens", "answers")
CANCELLED = ("qa_outputs.bias", "ln_f.bias")  # of the answers: their gradient is 0, so that there is no error of it
FEW = 8  # of so few numbers, one that is rounded may be right by luck, to as many digits as float32 has


def in_type(x: Any, dtype: Any) -> Any:
    """An argument as torch's array: numbers in `dtype`, ids, labels and masks as they are."""
    x = torch.as_tensor(x)
    return x.to(dtype) if x.is_floating_point() else x


def distance(x: numpy.ndarray, answer: numpy.ndarray) -> float:
    """The largest difference; infinite where there is a NaN."""
    largest = abs(x.astype("float64") - answer).max(initial=0)
    return float("inf") if numpy.isnan(largest) else float(largest)


def prepare(case: Case, folder: Path, half: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, bool]]:
    """The case's model in a file of type `half`; its call, with such numbers as the type has: for torch, for NumPy."""
    made = case.kind(case.config)
    made.params = case.model("float32").params
    made.save_pretrained(folder, dtype=str(half).removeprefix("torch."))
    given_call = case.call("float32")
    flags = {name: given_call.pop(name) for name in [*given_call] if isinstance(given_call[name], bool)}
    call = {name: in_type(x, half) for name, x in given_call.items()}
    return call, {name: in_type(x, torch.float32).numpy() for name, x in call.items()}, flags


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@settings(max_examples=20)
@given(data=st.data(), task=st.sampled_from(TASKS))
def test_no_further_from_the_answer_than_transformers(stored, tmp_path_factory, data, task):
    case = data.draw(cases(shortest=2) if task == "words" else head_cases(task))
    folder, half = tmp_path_factory.mktemp(stored), getattr(torch, stored)
    call, widened, flags = prepare(case, folder, half)
    ours, our_gradients = case.kind.from_pretrained(folder, hf_compat=True).value_and_grad(**widened, **flags)

    def oracle(dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs = {name: in_type(x, dtype) for name, x in call.items()}
        return Oracle.of_file(folder, case.kind, dtype).value_and_grad(**inputs, **flags, use_cache=False)

    theirs, their_gradients = oracle(half)
    with exactly(case, "float64"):
        answer, gradients = oracle(torch.float64)
    outputs = [rows(arrays, case.mask) for arrays in (named(ours), theirs, answer)]
    for got, other, exact in (outputs, (our_gradients, their_gradients, gradients)):
        assert got.keys() == other.keys() == exact.keys()
        for name, x in exact.items():
            if case.head == "qa_outputs" and name in CANCELLED:
                continue
            luck = 1e-6 * abs(x).max(initial=0) if x.size < FEW else 0
            assert distance(got[name], x) <= max(luck, distance(other[name], x)), name


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "int8"])
@settings(max_examples=20)
@given(case=cases() | head_cases("single_label_classification") | head_cases("tokens"))
def test_matrices_that_stay_in_fewer_bits_are_the_numbers_that_they_stand_for(stored, tmp_path_factory, case):
    """Computed with from where they are, in float32, they give what transformers does with the same numbers widened."""
    folder, made = tmp_path_factory.mktemp(stored), case.kind(case.config)
    made.params = case.model("float32").params
    made.save_pretrained(folder)
    model = case.kind.from_pretrained(folder, weights=stored)
    cache, their_cache = model.init_cache(*case.mask.shape), DynamicCache()
    with exactly(case, "float32"):
        oracle = Oracle(model.widened())
        for step in case.steps("float32"):
            out, expected = model(**step, past_key_values=cache), oracle(**step, past_key_values=their_cache)
            assert_same(out, expected, case.mask[:, : cache.length], "float32")


def error(arrays: dict[str, Any], answer: dict[str, Any]) -> float:
    """The root of the mean square of all differences, each relative to the largest number of its array."""
    found = [(arrays[name].astype("float64") - x) / abs(x).max() for name, x in answer.items() if x.size and x.any()]
    return float(numpy.sqrt(numpy.mean(numpy.concatenate([x.reshape(-1) for x in found]) ** 2)))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@settings(max_examples=20)
@given(case=cases(shortest=8, apply_residual_connection_post_layernorm=False))
def test_products_in_16_bits_on_a_device_are_no_further_either(stored, tmp_path_factory, case):
    """In the mean of all arrays of output: both round what goes into a product and comes out, and a single array may be
    lucky. All else of minibloom's pass stays in float32."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs the extra `test`")
    folder, half = tmp_path_factory.mktemp(stored), getattr(torch, stored)
    call, widened, flags = prepare(case, folder, half)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", standin.cupy)
        model = case.kind.from_pretrained(folder, hf_compat=True, backend="cupy", weights=stored)
        ours = named(model(**widened, **flags))
    theirs = Oracle.of_file(folder, case.kind, half)(**call, **flags)
    with exactly(case, "float64"):
        inputs = {name: in_type(x, torch.float64) for name, x in call.items()}
        answer = rows(Oracle.of_file(folder, case.kind, torch.float64)(**inputs, **flags), case.mask)
    assert error(rows(ours, case.mask), answer) <= error(rows(theirs, case.mask), answer)
