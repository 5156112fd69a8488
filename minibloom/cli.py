"""The command line: `minibloom generate | score | walk | lessons | info | quantize | train | predict | parity | bench`.

Bad input ends with one line on standard error and exit status 2; so does a wrong option, and what the system refuses,
as a file that it cannot write. Anything else is a bug, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import cli_bench, cli_generate, cli_parity, cli_score, cli_train
from .checkpoint_info import describe
from .cli_model import add_model, add_revision, load_model
from .errors import InputError, suggest
from .files import SHIPPED, read_text
from .lessons import FOLDER, check_jupyterlab, copy_lessons, open_lessons
from .machine import describe_blas, describe_numba
from .memory import size
from .quantize import quantize, training_perplexity
from .version import __version__
from .walk import walk

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
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `minibloom walk ... | head`
        discard_output()
        return 0
    except Exception as error:
        said = str(error) if isinstance(error, InputError) else refusal(error)
        if said is None:
            raise
        print(f"minibloom {arguments.command}: {' '.join(said.splitlines())}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # it was standard output that could not be written
            discard_output()
        return 2


def refusal(error: Exception) -> str | None:
    """What the system refused, as a sentence; None if the error is about something else."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f': {error}' if str(error) else ''}."
    if isinstance(error, OSError):
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}."
    from safetensors import SafetensorError  # here, as most commands end well without it

    return f"{error}." if isinstance(error, SafetensorError) and "I/O error" in str(error) else None


def discard_output() -> None:
    """Drop what was not written to standard output: Python tries once more when it ends, and would fail at that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options. What is wrong with them is said in one line."""
    arguments, unknown = parser().parse_known_args(argv)
    for word in unknown:
        options = re.findall(r"--[a-z-]+", arguments.parser.format_help())
        hint = " Several words need quotes around them."
        if word.startswith("-"):
            behind = " A text that begins with - stands last, behind --, and options before that."
            usual = {"--lr": "--learning-rate"} if "--learning-rate" in options else {}
            hint = behind if word.partition("=")[0] in options else suggest(word, options, usual) or behind
        arguments.parser.error(f"{word!r} is not expected.{hint}")
    revision, place = getattr(arguments, "revision", None), getattr(arguments, "model", None)
    if revision is not None and (place is None or os.path.exists(os.path.expanduser(place))):
        which = "the shipped model" if place is None else f"{place!r}, which is here,"
        arguments.parser.error(f"--revision is {revision!r}, but {which} has no revisions: leave it out")
    return arguments


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others here."""

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"{self.prog}: {message}{end} See {self.prog} --help.\n")


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = Parser(prog="minibloom", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"minibloom {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, add_arguments, run, help in COMMANDS:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=run, parser=sub)
        add_arguments(sub)
    return top


# --- The short ones ---


def add_walk_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("prompt")
    add_model(sub)
    sub.add_argument(
        "--top", type=int, default=5, metavar="N", help="how many of the likeliest next tokens to show (default 5)"
    )
    sub.add_argument("--pause", action="store_true", help="wait for Enter after each step")


def run_walk(a: argparse.Namespace) -> None:
    if not a.prompt:
        raise InputError("the prompt is empty: give at least one character.")
    model, tokenizer = load_model(a)
    for part in walk(a.prompt, model, tokenizer, a.top).parts():
        print(part, flush=True)
        if a.pause and sys.stdin.isatty():
            try:
                input()
            except EOFError:  # Ctrl-D
                return


def add_lessons_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "folder",
        nargs="?",
        default=FOLDER,
        metavar="FOLDER",
        help=f"where they go (default ./{FOLDER}); what is there already is kept as it is",
    )
    sub.add_argument("--no-open", action="store_true", help="only copy them")


def run_lessons(a: argparse.Namespace) -> int:
    if not a.no_open:
        check_jupyterlab()
    there = os.path.exists(a.folder)
    copied = [path.as_posix() for path in copy_lessons(a.folder)]
    if there:
        added = f"added {', '.join(copied)}" if copied else "nothing is missing"
        print(f"{a.folder}: {added}; what was there is kept as it was.", flush=True)
    else:
        print(f"{a.folder}: the lessons, a copy of your own to write in.", flush=True)
    return 0 if a.no_open else open_lessons(a.folder)


def add_info_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "model",
        nargs="?",
        metavar="PATH_OR_REPO",
        help="a checkpoint's folder or hub repository; the shipped one if not given",
    )
    add_revision(sub)


def run_info(a: argparse.Namespace) -> None:
    print(describe(a.model or SHIPPED, a.revision))
    for line in (*describe_blas().splitlines(), describe_numba()):
        print(f"{'this machine':<16} {line}")


def add_quantize_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="PATH_OR_REPO", help="a checkpoint's folder or hub repository")
    sub.add_argument("out", metavar="FOLDER", help="where the new checkpoint goes")
    sub.add_argument("--weights", default="int8", metavar="KIND", help="int8 (default), bfloat16 or float16")
    add_revision(sub)
    sub.add_argument("--perplexity", metavar="FILE", help="measure both on this text, in UTF-8")


def run_quantize(a: argparse.Namespace) -> None:
    text = None if a.perplexity is None else read_text(a.perplexity)  # before the work is done
    if text == "":
        raise InputError(f"{a.perplexity} is empty, expected a text.")
    quantize(a.model, a.out, a.weights, a.revision)
    before, after = (
        sum(describe(place, revision).file_bytes.values()) for place, revision in ((a.model, a.revision), (a.out, None))
    )
    reader = "minibloom reads it, transformers does not" if a.weights == "int8" else "transformers reads it too"
    print(f"{a.out}: {size(after)} as {a.weights}, from {size(before)}; {reader}.")
    if text is not None:
        old, new = training_perplexity(a.model, text, a.revision), training_perplexity(a.out, text)
        print(f"perplexity a token of {a.perplexity}: {new:.4f}, from {old:.4f} ({new / old - 1:+.2%}).")


# --- All of them ---

COMMANDS = (  # name, what adds its options, what runs it, what it does
    ("generate", cli_generate.add_arguments, cli_generate.run, "continue a text, shown as it grows"),
    ("score", cli_score.add_arguments, cli_score.run,
     "say how likely a model finds a text, token by token, and its perplexity"),
    ("walk", add_walk_arguments, run_walk,
     "step through the forward pass: every step's name, formula, shape and values"),
    ("lessons", add_lessons_arguments, run_lessons,
     "copy the lessons into a folder of your own, and open them in JupyterLab"),
    ("info", add_info_arguments, run_info, "say what a checkpoint is and what memory it needs, without loading it"),
    ("quantize", add_quantize_arguments, run_quantize, "write a checkpoint with smaller weights"),
    ("train", cli_train.add_train_arguments, cli_train.run_train,
     "make a small BLOOM from a folder of plain text, or fine-tune one for a task"),
    ("predict", cli_train.add_predict_arguments, cli_train.run_predict,
     "label a text, tag its words or find an answer in it, with what train --task made"),
    ("parity", cli_parity.add_arguments, cli_parity.run, "hold another implementation against this one, step by step"),
    ("bench", cli_bench.add_arguments, cli_bench.run,
     "measure speed, side by side with transformers where it is installed"),
)  # fmt: skip
