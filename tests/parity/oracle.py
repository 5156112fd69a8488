"""The oracle: transformers' BLOOM with the configuration and parameters of a minibloom model, in memory.

    oracle = Oracle(model)                           # model: one of minibloom's with a head
    oracle(input_ids, labels=...)                    # {"loss": ..., "logits": ..., "hidden_states.0": ..., ...}
    oracle.value_and_grad(input_ids, labels=...)     # the same, and {parameter name: gradient}
    named(model(input_ids, labels=...))              # minibloom's output as the same dictionary

transformers is run as it is, but for three patches. Each is a context manager here, and a test that needs one says
so: `float64_kept`, `slopes_of_minibloom` and `dropout_factors`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
import transformers
from transformers.models.bloom import modeling_bloom

from minibloom.base import PreTrainedModel
from minibloom.layers.alibi import alibi_slopes

from .cases import Case, biases_dropped_by_the_oracle
from .compare import array, named

torch.set_num_threads(1)  # toy sizes: a second thread costs more than it gives
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# The fields that decide what is computed; the others are about files and generation.
FIELDS = (
    "vocab_size", "hidden_size", "n_layer", "n_head", "layer_norm_epsilon", "hidden_dropout", "attention_dropout",
    "apply_residual_connection_post_layernorm", "slow_but_exact", "pretraining_tp", "tie_word_embeddings",
    "num_labels", "problem_type", "pad_token_id", "classifier_dropout",
)  # fmt: skip


class Oracle:
    """transformers' model of the same class, one with a head: arrays in, arrays out, under minibloom's names.

    `fields` change the configuration against the model's. Ids, masks, embeddings and labels are NumPy arrays; a
    cache is the oracle's own, as it returned it under "past_key_values".
    """

    def __init__(self, model: PreTrainedModel, **fields: Any) -> None:
        config = {name: getattr(model.config, name) for name in FIELDS} | fields
        self.module = getattr(transformers, type(model).__name__)(transformers.BloomConfig(**config))
        self.module.to(getattr(torch, model.dtype)).eval()
        assert self.parameters.keys() == model.params.keys()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(model.params[name]))

    @classmethod
    def of_file(cls, folder: Path, kind: type, dtype: torch.dtype) -> Oracle:
        """As transformers itself loads the checkpoint in `folder`, computing in `dtype`."""
        oracle = cls.__new__(cls)
        oracle.module = getattr(transformers, kind.__name__).from_pretrained(folder, dtype=dtype).eval()
        return oracle

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """By minibloom's names. A tied head is the embedding itself, and stands here once."""
        return {name.removeprefix("transformer."): p for name, p in self.module.named_parameters()}

    def __call__(self, input_ids: Any = None, **inputs: Any) -> dict[str, Any]:
        """Every array of the output by name; see `named`."""
        with torch.no_grad():
            return named(self.module(**tensors(inputs, input_ids=input_ids)))

    def value_and_grad(self, input_ids: Any = None, train: bool = False, **inputs: Any) -> tuple[Any, dict[str, Any]]:
        """The same, and the gradient of the loss by parameter name; zeros where the loss does not read one."""
        self.module.train(train)
        out = self.module(**tensors(inputs, input_ids=input_ids))
        self.module.eval()
        return named(out), self._gradients(out.loss)

    def base_value_and_grad(self, input_ids: Any = None, *, upstream: Any, **inputs: Any) -> tuple[Any, dict[str, Any]]:
        """`value_and_grad` of the model without its head, as if its loss were sum(upstream * last_hidden_state)."""
        out = self.module.transformer(**tensors(inputs, input_ids=input_ids))
        return named(out), self._gradients((torch.from_numpy(upstream) * out.last_hidden_state).sum())

    def _gradients(self, loss: torch.Tensor) -> dict[str, Any]:
        self.module.zero_grad()
        loss.backward()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in self.parameters.items()}
        return {name: array(gradient) for name, gradient in gradients.items()}


def oracle_value_and_grad(model: PreTrainedModel, **call: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The oracle's output and gradients; those of the biases that it drops (see `cases.py`) from its plain path."""
    out, gradients = Oracle(model).value_and_grad(**{"use_cache": False, **call})
    if dropped := biases_dropped_by_the_oracle(model.config):
        plain = Oracle(model, slow_but_exact=False).value_and_grad(**{"use_cache": False, **call})[1]
        gradients |= {name: plain[name] for name in dropped}
    return out, gradients


def tensors(inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Arguments as the oracle takes them."""
    return {name: torch.from_numpy(x) if isinstance(x, numpy.ndarray) else x for name, x in {**inputs, **more}.items()}


# --- the three patches ---


@contextmanager
def float64_kept() -> Iterator[None]:
    """Nothing is rounded below the model's own dtype.

    transformers computes softmax and loss in float32 whatever the dtype, and writes the derivative of GELU out, with
    a constant of ten digits. Here softmax and loss stay in their dtype, and autograd derives GELU.
    """
    softmax = torch.nn.functional.softmax

    def own_dtype(scores: torch.Tensor, dim: int, dtype: Any = None) -> torch.Tensor:
        return softmax(scores, dim=dim)

    def gelu(module: Any, x: torch.Tensor) -> torch.Tensor:
        return modeling_bloom.bloom_gelu_forward(x)

    with (
        mock.patch.object(torch.nn.functional, "softmax", own_dtype),
        mock.patch.object(torch.Tensor, "float", lambda logits: logits),  # what the loss is computed from
        mock.patch.object(modeling_bloom.BloomGelu, "forward", gelu),
    ):
        yield


def oracle_slopes(heads: int) -> numpy.ndarray:
    """The oracle's ALiBi slopes `[H]`."""
    return modeling_bloom._get_alibi_slopes(heads, torch.device("cpu")).numpy()


@contextmanager
def slopes_of_minibloom() -> Iterator[None]:
    """ALiBi slopes as minibloom rounds them; `test_quirks.py` says what differs."""

    def slopes(heads: int, device: Any) -> torch.Tensor:
        return torch.from_numpy(alibi_slopes(heads, numpy))

    with mock.patch.object(modeling_bloom, "_get_alibi_slopes", slopes):
        yield


@contextmanager
def dropout_factors(*factors: numpy.ndarray | float) -> Iterator[None]:
    """Dropout draws nothing: call by call, it multiplies by the next of `factors`.

    A block calls it on the attention probabilities, on the attention's output, and on the MLP's; a classifier of tokens
    once more, before its head.
    """
    left = list(factors)

    def given(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return x * torch.as_tensor(left.pop(0), dtype=x.dtype)

    with mock.patch.object(torch.nn.functional, "dropout", given):
        yield
    assert not left, f"{len(left)} of {len(factors)} factors were not asked for"


def exactly(case: Case, dtype: str) -> ExitStack:
    """In float64, the oracle keeps it, and takes minibloom's slopes if one of its own is rounded otherwise."""
    stack = ExitStack()
    if dtype == "float64":
        stack.enter_context(float64_kept())
        heads = case.config.n_head
        if not numpy.array_equal(oracle_slopes(heads), alibi_slopes(heads, numpy)):
            stack.enter_context(slopes_of_minibloom())
    return stack
