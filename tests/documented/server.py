"""The oracle's process: transformers 4.35.2 runs what it is sent, and sends back what came out.

    python -m tests.documented.server     # with the documented environment's Python; `oracle.py` starts it

A request names a class, a configuration, a dtype, parameters by checkpoint names, and calls, made one after the other:

    {"model": "BloomForCausalLM", "config": {...}, "dtype": "float64", "params": {...}, "calls": [{...}, ...],
     "patches": ["float64", "cat"], "gradients": False, "folder": None}

and the answer has what each call came to, and the tree of parameters if it is a Flax model:

    {"calls": [{"out": ..., "gradients": ..., "warnings": [...]}, {"error": "TypeError: ..."}, ...], "params": ..., ...}

In a call, `past_key_values` may be "previous" for the cache that the call before returned, or [batch_size, max_length]
for a new one of Flax's; `dropout_rng` is the number of a key. minibloom is not imported: it needs another NumPy.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch as patched

os.environ |= {"JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error"}

import flax
import jax
import jax.numpy as jnp
import numpy
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import enable_x64
from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax
from transformers.models.bloom import modeling_bloom, modeling_flax_bloom

from .wire import receive, send

torch.set_num_threads(1)
VERSIONS = {library.__name__: library.__version__ for library in (transformers, torch, flax, jax, numpy)}


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the model of a request, and its calls."""
    with ExitStack() as patches:
        for name in request["patches"]:
            patches.enter_context(PATCHES[name]())
        try:
            model = (Flax if request["model"].startswith("Flax") else Torch)(request)
        except Exception as error:
            return {"error": in_words(error), "calls": [], "versions": VERSIONS}
        calls = [caught(model, call, request["gradients"]) for call in request["calls"]]
    problem_type = model.config.problem_type  # which a call may have set
    return {"calls": calls, "params": model.params(), "problem_type": problem_type, "versions": VERSIONS}


def caught(model: Any, call: Mapping[str, Any], gradients: bool) -> dict[str, Any]:
    """What a call came to: a value, what BLOOM warned of, and the gradients if asked for; or an error."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            out, derived = model(**call), model.gradients() if gradients else None
        except Exception as error:
            return {"error": in_words(error)}
    said = [in_words(warning.message) for warning in given]
    return {"out": out, "gradients": derived, "warnings": [text for text in said if "BLOOM" in text]}


def in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


class Torch:
    """The torch model of a request: arrays in, arrays out."""

    def __init__(self, request: Mapping[str, Any], name: str | None = None) -> None:
        kind = getattr(transformers, name or request["model"])
        self.out: Any = None
        if request["folder"]:
            self.module = kind.from_pretrained(request["folder"])
        else:
            self.module = (
                kind(transformers.BloomConfig(**request["config"])).to(getattr(torch, request["dtype"])).eval()
            )
            self._fill(request["params"])
        self.config = self.module.config

    def _fill(self, params: Mapping[str, Any]) -> None:
        assert self.parameters.keys() == params.keys()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(params[name]))

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """By checkpoint names. A tied head is the embedding itself, and stands here once."""
        return {name.removeprefix("transformer."): p for name, p in self.module.named_parameters()}

    def params(self) -> None:
        return None

    def __call__(self, **call: Any) -> Any:
        if call.get("past_key_values") == "previous":
            call["past_key_values"] = mapped(torch.Tensor.detach, torch.Tensor, self.out.past_key_values)
        self.out = self.module(**mapped(torch.from_numpy, numpy.ndarray, call))
        return mapped(lambda x: x.detach().numpy(), torch.Tensor, self.out)

    def gradients(self) -> dict[str, Any]:
        """Of the last call's loss, by parameter name; zeros where the loss does not read one."""
        self.module.zero_grad()
        self.out.loss.backward()
        grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.parameters.items()}
        return {name: grad.numpy() for name, grad in grads.items()}


class Flax:
    """The Flax model of a request. transformers itself makes the tree of parameters, from the torch model's."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        kind, self.out = getattr(transformers, request["model"]), None
        if request["folder"]:
            self.model = kind.from_pretrained(request["folder"])
        else:
            config = transformers.BloomConfig(**request["config"])
            self.model = kind(config, dtype=getattr(jnp, request["dtype"]), _do_init=False)
            self.model._is_initialized = True  # to hold parameters; drawing some first takes JAX seconds
            self.model.params = self.model.params_shape_tree
            theirs = Torch(request, request["model"].removeprefix("Flax")).module.state_dict()
            tree = flatten_dict(convert_pytorch_state_dict_to_flax(theirs, self.model))
            self.model.params = unflatten_dict({at: tree[at] for at in self.model.required_params})  # no tied head
        self.config = self.model.config

    def params(self) -> Any:
        return mapped(numpy.asarray, jax.Array, self.model.params)

    def __call__(self, **call: Any) -> Any:
        if call.get("past_key_values") == "previous":
            call["past_key_values"] = self.out.past_key_values
        elif isinstance(call.get("past_key_values"), list):
            call["past_key_values"] = self.model.init_cache(*call["past_key_values"])
        if "dropout_rng" in call:
            call["dropout_rng"] = jax.random.PRNGKey(call["dropout_rng"])
        self.out = self.model(**call)
        return mapped(numpy.asarray, jax.Array, self.out)


def mapped(function: Callable[[Any], Any], kind: type, value: Any) -> Any:
    """`value` with `function` of each array of this kind in its place."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, kind, item) for key, item in value.items()}
    return tuple(mapped(function, kind, item) for item in value) if isinstance(value, tuple) else value


# --- the patches ---


@contextmanager
def float64_kept() -> Iterator[None]:
    """float64 can be computed in, and nothing is rounded below it.

    Both libraries compute softmax in float32, torch builds its mask in float32, where float64's lowest number has no
    room, and Flax puts int32 beside what is int64 in JAX's 64 bit mode.
    """
    softmax, mask = torch.nn.functional.softmax, modeling_bloom._prepare_4d_causal_attention_mask
    weights = modeling_flax_bloom.dot_product_attention_weights
    cut, put = jax.lax.dynamic_slice, jax.lax.dynamic_update_slice

    def int32(indices: Any) -> Any:
        return [jnp.asarray(i, "int32") for i in indices]

    with (
        patched.object(torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim=dim)),
        patched.object(
            modeling_bloom,
            "_prepare_4d_causal_attention_mask",
            lambda *args, inputs_embeds, **options: mask(*args, inputs_embeds=inputs_embeds.float(), **options),
        ),
        enable_x64(),
        patched.object(
            modeling_flax_bloom,
            "dot_product_attention_weights",
            lambda *args, dtype, **options: weights(*args, **options),
        ),
        patched.object(jax.lax, "dynamic_slice", lambda x, at, sizes: cut(x, int32(at), sizes)),
        patched.object(jax.lax, "dynamic_update_slice", lambda x, part, at: put(x, part, int32(at))),
    ):
        yield


@contextmanager
def cat_mended() -> Iterator[None]:
    """`jnp.cat` is there, which Flax's ALiBi calls for head counts that are no power of two, and JAX never had."""
    with patched.object(jnp, "cat", jnp.concatenate, create=True):
        yield


PATCHES: dict[str, Callable[[], Any]] = {"float64": float64_kept, "cat": cat_mended}


def main() -> None:
    inbox, outbox = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    while (request := receive(inbox)) is not None:
        send(outbox, answer(request))


if __name__ == "__main__":
    main()
