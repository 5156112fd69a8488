"""The command line: `minibloom generate | walk | info | quantize | train | bench`.

Bad input ends with one line on standard error and exit status 2; so does a wrong option.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .errors import InputError, suggest
from .version import __version__

DESCRIPTION = "BLOOM from scratch in array code: read it, run it, train it."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks is shown as \u4eba
    try:
        status: int = arguments.run(arguments) or 0
        sys.stdout.flush()  # here, where a reader who has gone can still be told from a bug
        return status
    except InputError as error:
        print(f"minibloom {arguments.command}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `minibloom walk ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options. What is wrong with them is said in one line."""
    arguments, unknown = parser().parse_known_args(argv)
    for word in unknown:
        options = re.findall(r"--[a-z-]+", arguments.parser.format_help())
        hint = suggest(word, options) if word.startswith("-") else " Several words need quotes around them."
        arguments.parser.error(f"{word!r} is not expected.{hint}")
    return arguments


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others here."""

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"{self.prog}: {message}{end} See {self.prog} --help.\n")


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    from .training import SHAPE, TrainingSettings

    top = Parser(prog="minibloom", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"minibloom {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=run, parser=sub)
        return sub

    def with_model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--model",
            metavar="PATH_OR_REPO",
            help="a checkpoint's folder or hub repository; the shipped one if not given",
        )
        sub.add_argument("--revision", help="of a hub repository: a branch, tag or commit")
        sub.add_argument("--dtype", default="float32", help="precision to compute in: float32 (default) or float64")
        sub.add_argument("--backend", default="numpy", help="numpy (default) or cupy")
        sub.add_argument(
            "--weights",
            metavar="KIND",
            help="keep matrices as bfloat16, float16 or int8, widened while they are used (default: int8 as int8, "
            "all others as --dtype)",
        )
        sub.add_argument(
            "--stream-weights",
            action="store_true",
            help="read the model from disk block by block, for each token: for one that is larger than memory",
        )

    sub = command("generate", run_generate, "continue a text, shown as it grows")
    sub.add_argument("prompt")
    with_model(sub)
    sub.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N", help="stop after so many tokens (default 100)"
    )
    sub.add_argument("--do-sample", action="store_true", help="draw each token instead of taking the likeliest")
    sub.add_argument(
        "--temperature", type=float, help="of the draws (default 1.0); this and what follows need --do-sample"
    )
    sub.add_argument("--top-k", type=int, help="draw from the K likeliest tokens (default 50; 0: all)")
    sub.add_argument(
        "--top-p", type=float, help="draw from the likeliest tokens that hold P together (default 1.0: all)"
    )
    sub.add_argument("--seed", type=int, help="of the draws: the same seed gives the same text")

    sub = command("walk", run_walk, "step through the forward pass: every step's name, formula, shape and values")
    sub.add_argument("prompt")
    with_model(sub)
    sub.add_argument(
        "--top", type=int, default=5, metavar="N", help="how many of the likeliest next tokens to show (default 5)"
    )
    sub.add_argument("--pause", action="store_true", help="wait for Enter after each step")

    sub = command("info", run_info, "say what a checkpoint is and what memory it needs, without loading it")
    sub.add_argument(
        "model",
        nargs="?",
        metavar="PATH_OR_REPO",
        help="a checkpoint's folder or hub repository; the shipped one if not given",
    )
    sub.add_argument("--revision", help="of a hub repository: a branch, tag or commit")

    sub = command("quantize", run_quantize, "write a checkpoint with smaller weights")
    sub.add_argument("model", metavar="PATH_OR_REPO", help="a checkpoint's folder or hub repository")
    sub.add_argument("out", metavar="FOLDER", help="where the new checkpoint goes")
    sub.add_argument("--weights", default="int8", metavar="KIND", help="int8 (default), bfloat16 or float16")
    sub.add_argument("--revision", help="of a hub repository: a branch, tag or commit")
    sub.add_argument("--perplexity", metavar="FILE", help="measure both on this text, in UTF-8")

    sub = command("train", run_train, "make a tokenizer and a small BLOOM from a folder of plain text")
    sub.add_argument(
        "folder",
        metavar="FOLDER_OF_TEXT",
        help="plain text files in UTF-8; folders `train` and `validation` in it are used as such",
    )
    sub.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the model, its tokenizer and the state of the run go"
    )
    sub.add_argument(
        "--resume",
        action="store_true",
        help="with the rest of the command as it was: go on with the run in --out, as if it had not stopped",
    )
    sub.add_argument(
        "--start-from",
        metavar="PATH_OR_REPO",
        help="a checkpoint whose model and tokenizer go on learning, in place of new ones",
    )
    sub.add_argument("--vocab-size", type=int, help=f"of the tokenizer (default {SHAPE['vocab_size']})")
    sub.add_argument("--hidden-size", type=int, help=f"E (default {SHAPE['hidden_size']})")
    sub.add_argument("--n-layer", type=int, metavar="LAYERS", help=f"blocks (default {SHAPE['n_layer']})")
    sub.add_argument("--n-head", type=int, metavar="HEADS", help=f"heads (default {SHAPE['n_head']})")
    sub.add_argument("--dropout", type=float, default=0.0, help="probability of dropout (default 0)")
    for field in dataclasses.fields(TrainingSettings):
        option = "--" + field.name.replace("_", "-")
        if field.type == "bool":
            sub.add_argument(option, action="store_true", help=field.metadata["help"])
            continue
        kind = int if field.type == "int" else float
        sub.add_argument(
            option, type=kind, default=field.default, help=f"{field.metadata['help']} (default {field.default})"
        )

    sub = command("bench", run_bench, "measure speed, side by side with transformers where it is installed")
    from .bench import add_arguments

    add_arguments(sub)
    return top


def run_generate(a: argparse.Namespace) -> None:
    from .generation import check_settings, stream_text

    settings = {
        name: getattr(a, name) for name in ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "seed")
    }
    check_settings(**settings)  # before a large model is loaded
    model, tokenizer = load(a)
    pieces = stream_text(model, tokenizer, a.prompt, **settings)
    print(a.prompt, end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def run_walk(a: argparse.Namespace) -> None:
    from .walk import walk

    model, tokenizer = load(a)
    for part in walk(a.prompt, model, tokenizer, a.top).parts():
        print(part, flush=True)
        if a.pause and sys.stdin.isatty():
            try:
                input()
            except EOFError:  # Ctrl-D
                return


def run_info(a: argparse.Namespace) -> None:
    from .checkpoint import describe
    from .files import SHIPPED
    from .machine import describe_blas

    print(describe(a.model or SHIPPED, a.revision))
    for line in describe_blas().splitlines():
        print(f"{'this machine':<16} {line}")


def run_quantize(a: argparse.Namespace) -> None:
    from .checkpoint import describe, size
    from .quantize import perplexity, quantize, read_text

    text = None if a.perplexity is None else read_text(a.perplexity)  # before the work is done
    quantize(a.model, a.out, a.weights, a.revision)
    before, after = (
        sum(describe(place, revision).file_bytes.values()) for place, revision in ((a.model, a.revision), (a.out, None))
    )
    reader = "minibloom reads it, transformers does not" if a.weights == "int8" else "transformers reads it too"
    print(f"{a.out}: {size(after)} as {a.weights}, from {size(before)}; {reader}.")
    if text is not None:
        old, new = perplexity(a.model, text, a.revision), perplexity(a.out, text)
        print(f"perplexity a token of {a.perplexity}: {new:.4f}, from {old:.4f} ({new / old - 1:+.2%}).")


def run_train(a: argparse.Namespace) -> int:
    from .training import SHAPE, TrainingSettings, train_folder

    settings = TrainingSettings(**{f.name: getattr(a, f.name) for f in dataclasses.fields(TrainingSettings)})
    shape = {name: getattr(a, name) for name in SHAPE if getattr(a, name) is not None}
    history = train_folder(a.folder, a.out, settings, a.resume, a.dropout, start_from=a.start_from, **shape)
    last = history[-1]
    print(f"{a.out}: saved at step {last['step']} of {settings.steps}, loss {last['loss']:.3f}.")
    if last["step"] < settings.steps:
        print("minibloom train: stopped. The same command with --resume goes on.", file=sys.stderr)
        return 130
    return 0


def run_bench(a: argparse.Namespace) -> None:
    from .bench import run

    run(a)


def load(a: argparse.Namespace) -> Any:
    """The model and the tokenizer that the options name."""
    from .models import BloomForCausalLM
    from .tokenizer import BloomTokenizerFast

    if not a.prompt:
        raise InputError("the prompt is empty: give at least one character.")
    tokenizer = BloomTokenizerFast.from_pretrained(a.model, revision=a.revision)
    model = BloomForCausalLM.from_pretrained(
        a.model, a.dtype, a.backend, a.revision, weights=a.weights, stream=a.stream_weights
    )
    return model, tokenizer


if __name__ == "__main__":
    sys.exit(main())
