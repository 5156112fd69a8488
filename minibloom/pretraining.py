"""Pretraining: from a folder of plain text to a language model of one's own, with its tokenizer.

train_folder("texts", "my-bloom", TrainingSettings(steps=1000))
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import backend as backends
from .config import BloomConfig
from .errors import InputError
from .files import folder_path
from .language_modeling import LanguageModeling, read_documents, tokenize
from .models import BloomForCausalLM
from .settings import TrainingSettings
from .tokenizer import BloomTokenizerFast
from .training import train
from .training_state import check_run

SHAPE = {"vocab_size": 4000, "hidden_size": 256, "n_layer": 4, "n_head": 8}  # of a new model, unless said otherwise


def train_folder(
    texts: str | Path,
    out: str | Path,
    settings: TrainingSettings,
    resume: bool = False,
    dropout: float = 0.0,
    progress: bool = True,
    start_from: str | Path | None = None,
    backend: str = "numpy",
    **shape: int,
) -> list[dict[str, float]]:
    """`minibloom train`: a tokenizer and a new model from the text files in the folder `texts`, written to `out`.

    Where `texts` has folders `train` and `validation`, the second is only measured on. `shape` changes fields of
    `SHAPE`. The embedding gets rows up to the next multiple of 128, as BLOOM's has. With `start_from`, model and
    tokenizer are those of that checkpoint, and go on learning; they have their shape already.
    """
    if start_from is not None and shape:
        raise InputError(f"{', '.join(shape)} cannot be chosen with start_from: {start_from} has its own.")
    shape = SHAPE | shape
    texts, out = Path(texts).expanduser(), folder_path(out)
    check_run(out, resume)
    backends.load(backend)  # or an error that says why not, before text is read
    split = (texts / "train").is_dir() and (texts / "validation").is_dir()
    sources = [texts / "train", texts / "validation"] if split else [texts]
    if any(out.resolve().is_relative_to(source.resolve()) for source in sources):
        raise InputError(f"{out} lies in the folder of text, and would be read as text too: choose another folder.")
    documents, held_out = read_documents(sources[0]), read_documents(sources[1]) if split else {}
    if start_from is not None:
        tokenizer = BloomTokenizerFast.from_pretrained(start_from)
        model = BloomForCausalLM.from_pretrained(
            start_from, backend=backend, hidden_dropout=dropout, attention_dropout=dropout
        )
        model = model if model.weights == model.dtype else model.widened()  # of a checkpoint in int8
    else:
        config = BloomConfig(
            **shape | {"vocab_size": -(-shape["vocab_size"] // 128) * 128}, pad_token_id=3, unk_token_id=0,
            hidden_dropout=dropout, attention_dropout=dropout,
        )  # fmt: skip
        if progress and sys.stderr.isatty():  # for it can be long until the first step
            print(f"making a tokenizer of {len(documents):,} texts", file=sys.stderr, flush=True)
        tokenizer = BloomTokenizerFast.train(documents.values(), shape["vocab_size"])
        model = BloomForCausalLM(config, seed=settings.seed, backend=backend)
    task = LanguageModeling(tokenize(documents, tokenizer), tokenize(held_out, tokenizer))
    return train(model, task, settings, out, tokenizer, resume, progress)
