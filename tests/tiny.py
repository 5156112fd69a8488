"""A tiny BLOOM with a tokenizer, in a folder as `minibloom train` leaves it, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

import minibloom
from minibloom import BloomConfig, BloomForCausalLM, BloomTokenizerFast, Cache
from minibloom.outputs import CausalLMOutputWithPast

LINES = [
    "the cat sat on the mat, and the dog sat on the log.",
    "le chat dort sur le toit, et le chien dort dans le jardin déjà vert.",
    "猫坐在垫子上,狗坐在木头上。",
    "बिल्ली चटाई पर बैठी है और कुत्ता लकड़ी पर बैठा है।",
    "القطة على السجادة والكلب على الخشب، 😀",
    "for i in range(10):\n    print(i)",
]
TEXT = "\n".join(f"{n}: {line}" for n in range(4) for line in LINES)

# The package under test, wherever pytest was started; one thread, as at these sizes a second one costs.
ENVIRONMENT = {
    "PYTHONPATH": str(Path(minibloom.__file__).parent.parent),
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUNBUFFERED": "",  # output is held back until a line or a page is full, as it is for users
}
COMMAND = [sys.executable, "-m", "minibloom"]


def tokenizer() -> BloomTokenizerFast:
    """300 tokens, some of them parts of a character."""
    return BloomTokenizerFast.train([TEXT], 300)


def config(**changes: Any) -> BloomConfig:
    """As `minibloom train` makes it: more rows than the tokenizer has tokens, and a token for padding."""
    fields = {"vocab_size": 384, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 3, "unk_token_id": 0}
    return BloomConfig(**fields | changes)


def checkpoint(folder: Path, **changes: Any) -> Path:
    """Write a model with new parameters, and its tokenizer; `changes` are fields of the configuration."""
    BloomForCausalLM(config(**changes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


class Scripted:
    """Stands for a model that finds the given ids `[B, N]` likeliest, one after another, whatever it reads."""

    xp, dtype = numpy, "float64"

    def __init__(self, config: BloomConfig, rows: Sequence[Sequence[int]], favourite: int | None = None) -> None:
        self.config, self.rows, self.favourite = config, numpy.array(rows, int), favourite
        self.shapes: list[tuple[int, ...]] = []  # of what it was given

    check_ids = BloomForCausalLM.check_ids

    def check_params(self) -> None:
        """It has none."""

    def __call__(self, ids: Any, past_key_values: Any, **_: Any) -> CausalLMOutputWithPast:
        cache = past_key_values
        if cache is None:
            cache = Cache(1)
            cache._keys = [
                numpy.arange(len(ids)).reshape(-1, 1, 1, 1)
            ]  # [B, H, T, D]: which rows there are, some of which may leave
        step, cache.length = cache.length, cache.length + 1
        logits = numpy.zeros((len(ids), 1, self.config.vocab_size))
        logits[numpy.arange(len(ids)), 0, self.rows[cache._keys[0].ravel(), step]] = 1
        if self.favourite is not None:
            logits[:, 0, self.favourite] = 2
        self.shapes.append(numpy.shape(ids))
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)


def start(*arguments: Any, **environment: str) -> subprocess.Popen[bytes]:
    """`minibloom ...` in a process of its own, still running."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=os.environ | ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*arguments: Any, **environment: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `minibloom ...` in a process of its own."""
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
