"""The state of a training run: all that it takes to go on as if it had not been stopped.

It is one file, whole or not there, and says which run it is of: another text, say, or another batch size makes another
run, which does not go on from it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy

from .backend import to_numpy
from .base import PreTrainedModel
from .checkpoint import check_free
from .errors import InputError
from .files import folder_path, replacing
from .optimizer import AdamW
from .settings import TrainingSettings
from .tokenizer import BloomTokenizerFast

STATE = "training.safetensors"  # parameters, the optimiser's numbers and the settings


def check_run(folder: str | Path, resume: bool) -> None:
    """Raise an InputError if `folder` holds a run that is not to be resumed, or none that is, or another checkpoint."""
    there = (folder_path(folder) / STATE).exists()
    if there and not resume:
        raise InputError(f"{folder} already holds a training run. Resume it with --resume, or choose another folder.")
    if resume and not there:
        raise InputError(f"{folder} holds no training run to resume: there is no {STATE} in it.")
    if not resume:
        check_free(folder)


def identity_of(
    model: PreTrainedModel, digest: str, settings: TrainingSettings, tokenizer: BloomTokenizerFast | None = None
) -> dict[str, Any]:
    """What must be the same for a run to go on bit for bit: settings, configuration, and by its `digest` the text."""
    # The kind of model, whatever it was loaded as; and not how numbers lay in that file.
    config = model.config.replace(architectures=[type(model).__name__], dtype=None).to_dict()
    same = dataclasses.asdict(settings) | {"save_every": None}  # how often is no part of the result
    del same["recompute"]  # nor is this
    vocabulary = "not given" if tokenizer is None else f"{len(tokenizer)} tokens"
    identity = {
        "settings": same,
        "config": config,
        "dtype": model.dtype,
        "backend": model.backend,
        "tokenizer": vocabulary,
        "text": digest,  # as token ids, with its labels
    }
    return json.loads(json.dumps(identity))  # as it comes back from a file: JSON has only strings for keys


def save_state(
    path: Path, model: PreTrainedModel, optimizer: AdamW, identity: dict[str, Any], history: list[Any]
) -> None:
    """Write all that the run needs to go on, in one file."""
    from safetensors.numpy import save_file

    parts = {"params": model.params, "m": optimizer.m, "v": optimizer.v}
    tensors = {  # in C order, whatever order a parameter has: safetensors writes memory as it lies
        f"{part}/{name}": numpy.ascontiguousarray(to_numpy(x))
        for part, arrays in parts.items()
        for name, x in arrays.items()
    }
    notes = {"identity": identity, "step": optimizer.t, "history": history}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={key: json.dumps(value) for key, value in notes.items()})


def load_state(
    path: Path, model: PreTrainedModel, optimizer: AdamW, identity: dict[str, Any]
) -> list[dict[str, float]]:
    """Fill model and optimiser from `path`; returns the history so far."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            notes = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            changed = [
                f"{part} ({_difference(was, identity.get(part))})"
                for part, was in notes["identity"].items()
                if was != identity.get(part)
            ]
            if changed:
                raise InputError(
                    f"{path.parent} holds a run that was started otherwise, so it cannot be resumed: "
                    f"{', '.join(changed)}. Give the whole command that it was started with, or choose another "
                    "folder; --start-from goes on from a finished run with new settings."
                )
            parts = {"params": model.params, "m": optimizer.m, "v": optimizer.v}
            for part, arrays in parts.items():
                for name in arrays:
                    arrays[name][...] = model.xp.asarray(file.get_tensor(f"{part}/{name}"))  # where it lies
            optimizer.t, history = notes["step"], notes["history"]
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Choose another folder to start anew.") from None
    return history


def _difference(was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        return ", ".join(f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key])
    return f"was {str(was)[:16]}, now {str(now)[:16]}"
