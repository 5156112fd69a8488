"""`minibloom score`: how likely a model finds a text, token by token, and its perplexity."""

from __future__ import annotations

import argparse
import json
import math
import sys

from .backend import to_numpy
from .cli_generate import typed
from .cli_model import add_model, load_model
from .errors import InputError
from .files import read_text
from .generation import token_log_probs
from .generation.scoring import check_window, mean_perplexity


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.add_argument("text", nargs="?", help="what to score; - for all of standard input")
    sub.add_argument("--file", metavar="FILE", help="the text in a file, in UTF-8")
    sub.add_argument("--window", type=int, default=2048, metavar="TOKENS", help="most that is read at once (2048)")
    sub.add_argument(
        "--stride", type=int, metavar="TOKENS", help="by which a window moves on in a longer text (default: half of it)"
    )
    sub.add_argument("--json", action="store_true", help="one line of JSON, with all figures")


def run(a: argparse.Namespace) -> None:
    """The command: a line for each token, and the perplexity of all that have one before them."""
    if (a.text is None) == (a.file is None):
        a.parser.error("give one of a text and --file")
    check_window(a.window, a.stride)  # before a model is loaded
    text = read_text(a.file) if a.text is None else typed(sys.stdin.read) if a.text == "-" else a.text
    if not text:
        raise InputError("the text is empty: give at least two tokens.")
    model, tokenizer = load_model(a)
    ids = tokenizer(text)["input_ids"]
    if len(ids) < 2:
        raise InputError("the text has one token: expected at least two, for the first has nothing before it.")
    scores = to_numpy(token_log_probs(model, [ids], window=a.window, stride=a.stride))[0].astype("float64")  # [S - 1]
    perplexity = mean_perplexity(scores)
    tokens = [tokenizer.decode([token]) for token in ids]
    if a.json:
        figures = {"text": text, "ids": ids, "tokens": tokens, "log_probabilities": [None, *scores.tolist()]}
        shown = perplexity if perplexity < math.inf else None  # JSON has no infinity
        print(json.dumps(figures | {"perplexity": shown}, ensure_ascii=False))
        return
    print(f"{'log p':>9}  {'p':>6}  token\n{'':9}  {'':6}  {tokens[0]!r}")
    for token, score in zip(tokens[1:], scores.tolist(), strict=True):
        print(f"{score:9.4f}  {math.exp(score):6.1%}  {token!r}")
    print(f"perplexity {perplexity:.4f} a token, over {len(scores)} tokens")
