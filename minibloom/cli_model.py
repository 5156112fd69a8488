"""What commands have in common: the options that name a model, and the model that they name."""

from __future__ import annotations

import argparse
from typing import Any

from .models import BloomForCausalLM
from .precision import checked_dtype
from .tokenizer import BloomTokenizerFast


def add_backend(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backend", default="numpy", help="numpy (default) or cupy")


def add_revision(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--revision", help="of a hub repository: a branch, tag or commit")


def add_model(sub: argparse.ArgumentParser, required: bool = False) -> None:
    """Which model, and how it is loaded and computes."""
    sub.add_argument(
        "--model",
        required=required,
        metavar="PATH_OR_REPO",
        help="a checkpoint's folder or hub repository" + ("" if required else "; the shipped one if not given"),
    )
    add_revision(sub)
    sub.add_argument("--dtype", default="float32", help="precision to compute in: float32 (default) or float64")
    add_backend(sub)
    sub.add_argument(
        "--weights",
        metavar="KIND",
        help="keep matrices as bfloat16, float16 or, on the CPU, int8, widened while they are used (default: int8 "
        "as int8, all others as --dtype)",
    )
    sub.add_argument(
        "--stream-weights",
        action="store_true",
        help="read the model from disk block by block, for each token: for one that is larger than memory",
    )


def load_model(a: argparse.Namespace) -> tuple[Any, BloomTokenizerFast]:
    """The model and the tokenizer that the options name."""
    tokenizer = BloomTokenizerFast.from_pretrained(a.model, revision=a.revision)
    model = BloomForCausalLM.from_pretrained(
        a.model, checked_dtype(a.dtype), a.backend, a.revision, weights=a.weights, stream=a.stream_weights
    )
    return model, tokenizer
