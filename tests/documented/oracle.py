"""The tests' side of the oracle: what minibloom is asked, the oracle is asked too, and both answers have one form.

    ask(model, [{"input_ids": ids, "labels": ids}])      # what transformers 4.35.2 answers, with the model's parameters
    run(model, [{"input_ids": ids, "labels": ids}])      # what minibloom answers

The calls are made one after the other; `past_key_values="previous"` stands for what the call before returned. Caches
come out as tuples in the documented layout, those of the Flax models as Flax's trees.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from minibloom import Cache, InputError
from minibloom.flax import FlaxPreTrainedModel

from . import VARIABLE
from .wire import receive, send

ROOT = Path(__file__).parent.parent.parent
FIELDS = (
    "vocab_size", "hidden_size", "n_layer", "n_head", "layer_norm_epsilon", "hidden_dropout", "attention_dropout",
    "apply_residual_connection_post_layernorm", "slow_but_exact", "pretraining_tp", "tie_word_embeddings", "use_cache",
    "pad_token_id", "num_labels", "problem_type",
)  # fmt: skip
Calls = Sequence[Mapping[str, Any]]


@functools.cache
def server() -> subprocess.Popen[bytes]:
    """The oracle's process. It is started once, and ends with the tests."""
    process = subprocess.Popen(
        [os.environ[VARIABLE], "-W", "ignore", "-m", "tests.documented.server"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(process.stdin.close)  # type: ignore[union-attr]
    return process


def ask(
    model: Any, calls: Calls, gradients: bool = False, patches: Sequence[str] | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """The oracle's answer to `calls`, with the class, configuration, parameters and dtype of minibloom's `model`.

    patches: of `server.PATCHES`; None for those with which the oracle computes what it means to.
    folder: a checkpoint, which the oracle loads in place of the model's configuration and parameters.
    """
    params = model.params
    if isinstance(model, FlaxPreTrainedModel):
        params = model.params_from_tree(params)
    if patches is None:
        patches = ["cat", *(["float64"] if model.dtype == "float64" else [])]
    request = {
        "model": type(model).__name__,
        "config": {name: getattr(model.config, name) for name in FIELDS},
        "dtype": model.dtype,
        "params": {name: numpy.ascontiguousarray(x) for name, x in params.items()},
        "calls": [dict(call) for call in calls],
        "gradients": gradients,
        "folder": None if folder is None else str(folder),
        "patches": list(patches),
    }
    process = server()
    send(process.stdin, request)  # type: ignore[arg-type]
    answer = receive(process.stdout)  # type: ignore[arg-type]
    assert answer is not None, "the oracle's process has ended: its last words are on standard error"
    return answer


def run(model: Any, calls: Calls, gradients: bool = False) -> list[dict[str, Any]]:
    """minibloom's answers to `calls`, in the same form as the oracle's."""
    answers: list[dict[str, Any]] = []
    last = None
    for given in calls:
        call, past = dict(given), given.get("past_key_values")
        if isinstance(past, str):
            call["past_key_values"] = last
        elif isinstance(past, list):
            call["past_key_values"] = model.cache_to_tree(model.init_cache(*past))
        try:
            out, derived = model.value_and_grad(**call) if gradients else (model(**call), None)
        except InputError as error:
            answers.append({"error": f"InputError: {error}"})
            continue
        last = out[1] if isinstance(out, tuple) else getattr(out, "past_key_values", None)
        answers.append({"out": plain(out), "gradients": derived})
    return answers


def plain(out: Any) -> Any:
    """An output as dictionaries, tuples and arrays, its cache in the documented layout."""
    if isinstance(out, Cache):
        return out.to_tuple("documented") if out.length else None
    if isinstance(out, tuple):
        return tuple(plain(x) for x in out)
    return {name: plain(out[name]) for name in out.keys()} if hasattr(out, "to_tuple") else out  # noqa: SIM118
