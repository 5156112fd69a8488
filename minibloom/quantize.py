"""From a checkpoint to the same checkpoint in fewer bits, with the memory of one block of rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy

from .checkpoint import PREFIX, check_free, find_tensors, write_checkpoint
from .errors import InputError, suggest
from .files import CHECKPOINT
from .generation.scoring import mean_perplexity
from .language_modeling import evaluate
from .layers.small_weights import KINDS
from .models import BloomForCausalLM
from .streaming import FileWeight, read_as_stored
from .tokenizer import BloomTokenizerFast


def quantize(path_or_repo: str | Path, out: str | Path, weights: str = "int8", revision: str | None = None) -> None:
    """Write the checkpoint in a folder or hub repository to the folder `out`, its matrices as `weights`.

    "int8" has a scale for each row (see `layers/small_weights.py`); "bfloat16" and "float16" transformers reads too.
    The tokenizer's files go along.
    """
    if weights not in KINDS:
        raise InputError(f"weights={weights!r}, expected one of {', '.join(KINDS)}.{suggest(weights, KINDS)}")
    check_free(out)
    folder, config, entries = find_tensors(path_or_repo, revision)
    params = {
        name: FileWeight(entry) if len(entry.shape) == 2 else read_as_stored(entry) for name, entry in entries.items()
    }
    prefix = PREFIX if any(entry.name.startswith(PREFIX) for entry in entries.values()) else ""
    write_checkpoint(out, params, config, weights, prefix)
    for name in CHECKPOINT[1:-2]:  # the tokenizer's, and settings of generation; not weights and their index
        if (folder / name).exists():
            shutil.copyfile(folder / name, Path(out).expanduser() / name)


def training_perplexity(path_or_repo: str | Path, text: str, revision: str | None = None) -> float:
    """exp(mean loss) of `text` as training measures it (`evaluate`): its end counts too, in windows of 512 tokens.

    `generation.scoring.perplexity` is the other usual definition: windows that overlap, and no end.
    """
    ids = BloomTokenizerFast.from_pretrained(path_or_repo, revision=revision)(text)["input_ids"]
    model = BloomForCausalLM.from_pretrained(path_or_repo, revision=revision)
    end = numpy.atleast_1d(ids[-1] if model.config.eos_token_id is None else model.config.eos_token_id)[0]
    total, count = evaluate(model, [numpy.array([*ids, end])], 512)
    return mean_perplexity(numpy.array([-total / count]))
