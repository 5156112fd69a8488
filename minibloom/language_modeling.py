"""Language modelling as a task: plain text to rows of tokens, and how well a model foresees what it has not read."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from .backend import Array, number, to_numpy
from .errors import InputError
from .files import read_text
from .models import BloomForCausalLM
from .settings import TrainingSettings
from .tokenizer import BloomTokenizerFast

TOKENIZE = "tokenize({name: text, ...}, tokenizer) in minibloom.language_modeling makes them."


def read_documents(folder: str | Path) -> dict[str, str]:
    """Every text file under `folder`, by its path within it, sorted. Hidden files and empty ones are left out."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        hint = " What the examples in a file are for is said with --task." if root.is_file() else ""
        raise InputError(f"{root} is no folder. Give a folder of plain text files in UTF-8.{hint}")
    documents = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if (text := read_text(path)).strip():
            documents[inside.as_posix()] = text
    if not documents:
        raise InputError(f"{root} holds no text. Put at least one file of plain text in UTF-8 there.")
    return documents


def tokenize(documents: Mapping[str, str], tokenizer: BloomTokenizerFast) -> list[Array]:
    """The token ids of each document, with the end-of-sequence token behind it."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos_token, which ends each document: give it one, as eos_token='</s>'.")
    end = [tokenizer.eos_token_id]
    return [numpy.array(tokenizer.encode(text) + end, dtype=numpy.int32) for text in documents.values()]


def checked_ids(name: str, documents: Any) -> list[Array]:
    """`documents` as arrays of token ids, if that is what they are."""
    if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
        raise InputError(f"{name} is of type {type(documents).__name__}, expected a list of documents. {TOKENIZE}")
    arrays = []
    for i, given in enumerate(documents):
        ids = to_numpy(given)
        if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
            raise InputError(f"{name}[{i}] is {reprlib.repr(given)}, expected ids of at least one token. {TOKENIZE}")
        arrays.append(ids)
    return arrays


def batches(documents: Sequence[Array], s: TrainingSettings, start: int = 0) -> Iterator[Array]:
    """An endless run of batches `[batch_size, context_length]`, from batch number `start` on.

    In each epoch the documents are shuffled, joined to one stream, and cut into rows, which are shuffled again. A
    row begins wherever the one before ended; or, with `whole_documents`, a row begins at each document's start.
    Rows that fill no batch are left out of this epoch. Too little text for one batch is an InputError.
    """
    width, tokens = s.context_length, sum(map(len, documents))
    per_epoch = (len(documents) if s.whole_documents else tokens // width) // s.batch_size
    if per_epoch == 0 or tokens < width:
        raise InputError(
            f"the text has {tokens:,} tokens in {len(documents):,} documents, too few for one batch of "
            f"{s.batch_size} rows of {width}. Give more text, or a smaller batch size or context length."
        )

    def epoch_rows(epoch: int) -> Array:
        order = numpy.random.default_rng([s.seed, 1, epoch]).permutation(len(documents))
        stream = numpy.concatenate([documents[i] for i in order])
        begins = numpy.arange(0, tokens - width + 1, width)
        if s.whole_documents:
            begins = numpy.cumsum([0, *(len(documents[i]) for i in order[:-1])])
        rows = stream[(begins[:, None] + numpy.arange(width)) % tokens]  # the last row goes on with the first document
        return rows[numpy.random.default_rng([s.seed, 2, epoch]).permutation(per_epoch * s.batch_size)]

    def endless() -> Iterator[Array]:  # a function of its own: what stands above runs at the call
        epoch, within = divmod(start, per_epoch)
        while True:
            yield from epoch_rows(epoch).reshape(per_epoch, s.batch_size, width)[within:]
            epoch, within = epoch + 1, 0

    return endless()


def evaluate(model: BloomForCausalLM, documents: Sequence[Array], context_length: int) -> tuple[float, int]:
    """The loss over whole documents, in nats, summed; and how many tokens that were.

    Each document is read after an end-of-sequence token, as in training, so that its first token counts too. A
    document longer than the context is read in windows, each starting with the token that the last one ended on.
    """
    total, count = 0.0, 0
    for document in documents:
        stream = numpy.append(document[-1:], document).astype("int64")  # a document's last token ends it
        for i in range(0, len(document), context_length):
            window = stream[None, i : i + context_length + 1]
            predicted = window.shape[1] - 1
            out = model(window, labels=window, use_cache=False, return_dict=True, output_logits=False)
            total += number(out.loss) * predicted
            count += predicted
    return total, count


class LanguageModeling:
    """The task of foreseeing each next token of tokenized `documents`; `held_out` ones are only measured on."""

    def __init__(self, documents: Sequence[Array], held_out: Sequence[Array] = ()) -> None:
        self.documents, self.held_out = checked_ids("documents", documents), checked_ids("held_out", held_out)

    def batches(self, s: TrainingSettings, start: int = 0) -> Iterator[dict[str, Array]]:
        """What the model is called with, from batch number `start` on: rows that are their own labels."""
        lean = {"output_logits": False}  # nobody looks at them: the loss goes through the vocabulary chunk by chunk
        return ({"input_ids": rows, "labels": rows, **lean} for rows in batches(self.documents, s, start))

    def evaluate(self, model: Any, s: TrainingSettings) -> dict[str, float]:
        """The mean loss over all tokens held out."""
        if not len(self.held_out):
            return {}
        nats, count = evaluate(model, self.held_out, s.context_length)
        return {"validation_loss": nats / count}

    def digest(self) -> str:
        """A fingerprint of the text, as token ids."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.tobytes() + b"|")
        return digest.hexdigest()
