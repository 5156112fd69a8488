"""The command line: `minibloom generate | score | walk | lessons | info | quantize | train | predict | parity | bench`.

Bad input ends with one line on standard error and exit status 2; so does a wrong option, and what the system refuses,
as a file that it cannot write. Anything else is a bug, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
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
    from .settings import FINETUNING, TrainingSettings
    from .tasks import TASKS
    from .training import SHAPE

    top = Parser(prog="minibloom", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"minibloom {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=run, parser=sub)
        return sub

    def with_model(sub: argparse.ArgumentParser, required: bool = False) -> None:
        sub.add_argument(
            "--model",
            required=required,
            metavar="PATH_OR_REPO",
            help="a checkpoint's folder or hub repository" + ("" if required else "; the shipped one if not given"),
        )
        sub.add_argument("--revision", help="of a hub repository: a branch, tag or commit")
        sub.add_argument("--dtype", default="float32", help="precision to compute in: float32 (default) or float64")
        sub.add_argument("--backend", default="numpy", help="numpy (default) or cupy")
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

    sub = command("generate", run_generate, "continue a text, shown as it grows")
    with_model(sub)
    from .cli_generate import add_arguments as add_generate_arguments

    add_generate_arguments(sub)

    sub = command("score", run_score, "say how likely a model finds a text, token by token, and its perplexity")
    with_model(sub)
    from .cli_score import add_arguments as add_score_arguments

    add_score_arguments(sub)

    sub = command("walk", run_walk, "step through the forward pass: every step's name, formula, shape and values")
    sub.add_argument("prompt")
    with_model(sub)
    sub.add_argument(
        "--top", type=int, default=5, metavar="N", help="how many of the likeliest next tokens to show (default 5)"
    )
    sub.add_argument("--pause", action="store_true", help="wait for Enter after each step")

    from .lessons import FOLDER

    sub = command("lessons", run_lessons, "copy the lessons into a folder of your own, and open them in JupyterLab")
    sub.add_argument(
        "folder",
        nargs="?",
        default=FOLDER,
        metavar="FOLDER",
        help=f"where they go (default ./{FOLDER}); what is there already is kept as it is",
    )
    sub.add_argument("--no-open", action="store_true", help="only copy them")

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

    sub = command("train", run_train, "make a small BLOOM from a folder of plain text, or fine-tune one for a task")
    sub.add_argument(
        "data",
        metavar="TEXTS_OR_EXAMPLES",
        help="a folder of plain text files in UTF-8, in which folders `train` and `validation` are used as such; or "
        "with --task a file of labelled examples, JSON lines or CSV",
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
        help="a checkpoint whose model and tokenizer go on learning, in place of new ones; with --task the shipped one "
        "if not given",
    )
    told = "; ".join(f"{name} ({task.example})" for name, task in TASKS.items())
    sub.add_argument("--task", choices=TASKS, help=f"what examples are for, and a line of their file: {told}")
    sub.add_argument(
        "--validation",
        metavar="FILE_OR_SHARE",
        help="with --task: examples to measure on, or the share of the examples that is held out for it, as 0.1",
    )
    sub.add_argument("--vocab-size", type=int, help=f"of the tokenizer (default {SHAPE['vocab_size']})")
    sub.add_argument("--hidden-size", type=int, help=f"E (default {SHAPE['hidden_size']})")
    sub.add_argument("--n-layer", type=int, metavar="LAYERS", help=f"blocks (default {SHAPE['n_layer']})")
    sub.add_argument("--n-head", type=int, metavar="HEADS", help=f"heads (default {SHAPE['n_head']})")
    sub.add_argument("--dropout", type=float, default=0.0, help="probability of dropout (default 0)")
    sub.add_argument("--backend", default="numpy", help="numpy (default) or cupy")
    for field in dataclasses.fields(TrainingSettings):
        option, told = "--" + field.name.replace("_", "-"), field.metadata["help"]
        if field.type == "bool":
            sub.add_argument(option, action="store_true", default=None, help=told)
            continue
        with_task = f", with --task {FINETUNING[field.name]}" if field.name in FINETUNING else ""
        kind = int if field.type == "int" else float
        sub.add_argument(option, type=kind, help=f"{told} (default {field.default}{with_task})")

    sub = command(
        "predict", run_predict, "label a text, tag its words or find an answer in it, with what train --task made"
    )
    sub.add_argument("text", help="to be labelled; or the context that holds the answer to --question")
    with_model(sub, required=True)
    sub.add_argument("--question", help="for question answering")
    sub.add_argument("--json", action="store_true", help="print the answer as JSON, with all its figures")

    sub = command("parity", run_parity, "hold another implementation against this one, step by step")
    sub.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a checkpoint's folder or hub repository, the shipped one if not given; or a file that --write wrote",
    )
    sub.add_argument(
        "--against",
        metavar="WHAT",
        help="'transformers', a file of steps, or another checkpoint's folder or hub repository",
    )
    sub.add_argument("--write", metavar="FILE", help="write every step there, to check a port in any language by")
    sub.add_argument("--prompt", action="append", metavar="TEXT", help="what to read; several are padded on the left")
    sub.add_argument("--ids", action="append", type=token_ids, metavar="1,2,3", help="the same as token ids")
    sub.add_argument("--gradients", action="store_true", help="those of the loss by every parameter, too")
    sub.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="relative to an array's largest number (default 1e-5 in float32, 1e-7 in float64, 10 times for gradients)",
    )
    sub.add_argument("--strict", action="store_true", help="let differences at padding count, which no token reads")
    sub.add_argument("--dtype", help="precision to compute in: float32 (default) or float64")
    sub.add_argument("--backend", default="numpy", help="numpy (default) or cupy")
    sub.add_argument("--revision", help="of a hub repository: a branch, tag or commit")

    sub = command("bench", run_bench, "measure speed, side by side with transformers where it is installed")
    from .bench import add_arguments

    add_arguments(sub)
    return top


def token_ids(text: str) -> list[int]:
    """An option's value "1,2,3" as numbers."""
    return [int(number) for number in text.split(",")]


def run_generate(a: argparse.Namespace) -> int:
    from .cli_generate import run

    return run(a, load)


def run_score(a: argparse.Namespace) -> None:
    from .cli_score import run

    run(a, load)


def run_walk(a: argparse.Namespace) -> None:
    from .walk import walk

    if not a.prompt:
        raise InputError("the prompt is empty: give at least one character.")
    model, tokenizer = load(a)
    for part in walk(a.prompt, model, tokenizer, a.top).parts():
        print(part, flush=True)
        if a.pause and sys.stdin.isatty():
            try:
                input()
            except EOFError:  # Ctrl-D
                return


def run_lessons(a: argparse.Namespace) -> int:
    from .lessons import check_jupyterlab, copy_lessons, open_lessons

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


def run_info(a: argparse.Namespace) -> None:
    from .checkpoint import describe
    from .files import SHIPPED
    from .machine import describe_blas

    print(describe(a.model or SHIPPED, a.revision))
    for line in describe_blas().splitlines():
        print(f"{'this machine':<16} {line}")


def run_quantize(a: argparse.Namespace) -> None:
    from .checkpoint import describe
    from .files import read_text
    from .memory import size
    from .quantize import perplexity, quantize

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
        old, new = perplexity(a.model, text, a.revision), perplexity(a.out, text)
        print(f"perplexity a token of {a.perplexity}: {new:.4f}, from {old:.4f} ({new / old - 1:+.2%}).")


def run_train(a: argparse.Namespace) -> int:
    from .finetuning import finetune_file
    from .settings import FINETUNING, TrainingSettings
    from .training import SHAPE, measured, train_folder

    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    given = {name: getattr(a, name) for name in names if getattr(a, name) is not None}
    shape = {name: getattr(a, name) for name in SHAPE if getattr(a, name) is not None}
    settings = TrainingSettings(**(FINETUNING if a.task else {}) | given)
    options = {"start_from": a.start_from, "dropout": a.dropout, "resume": a.resume, "backend": a.backend}
    if a.task:
        for name in (*shape, *(["whole_documents"] if a.whole_documents else [])):
            raise InputError(f"{name} cannot be chosen with --task, which fine-tunes a model that is there.")
        history = finetune_file(a.data, a.task, a.out, settings, _file_or_share(a.validation), **options)
    else:
        if a.validation:
            raise InputError("--validation needs --task. Text to measure on stands in a folder `validation`.")
        history = train_folder(a.data, a.out, settings, **options, **shape)
    last = history[-1]
    print(f"{a.out}: saved at step {last['step']} of {settings.steps}, loss {last['loss']:.3f}{measured(last)}.")
    if last["step"] < settings.steps:
        print("minibloom train: stopped. The same command with --resume goes on.", file=sys.stderr)
        return 130
    return 0


def _file_or_share(given: str | None) -> str | float | None:
    try:
        return given and float(given)
    except ValueError:
        return given


def run_predict(a: argparse.Namespace) -> None:
    from .finetuning import load as load_finetuned
    from .finetuning import predict
    from .models import BloomForQuestionAnswering
    from .precision import checked_dtype

    if not a.text.strip():
        raise InputError("the text is empty: give at least one word.")
    model, tokenizer = load_finetuned(
        a.model, a.revision, dtype=checked_dtype(a.dtype), backend=a.backend, weights=a.weights, stream=a.stream_weights
    )
    if isinstance(model, BloomForQuestionAnswering) != (a.question is not None):
        needs = "needs a --question" if a.question is None else "answers no --question"
        raise InputError(f"{a.model} was saved as {type(model).__name__}, which {needs}.")
    answer = predict(model, tokenizer, a.text if a.question is None else {"question": a.question, "context": a.text})
    if a.json:
        print(json.dumps(answer))
        return
    for part in answer if isinstance(answer, list) else [answer]:
        *words, score = (part[name] for name in ("answer", "word", "label", "entity", "score") if name in part)
        shown = f"{score:.4f}" if model.config.problem_type == "regression" else f"{score:6.1%}"
        print("\t".join([*words, shown]))


def run_parity(a: argparse.Namespace) -> int:
    from .parity import command

    return command(a)


def run_bench(a: argparse.Namespace) -> None:
    from .bench import run

    run(a)


def load(a: argparse.Namespace) -> Any:
    """The model and the tokenizer that the options name."""
    from .models import BloomForCausalLM
    from .precision import checked_dtype
    from .tokenizer import BloomTokenizerFast

    tokenizer = BloomTokenizerFast.from_pretrained(a.model, revision=a.revision)
    model = BloomForCausalLM.from_pretrained(
        a.model, checked_dtype(a.dtype), a.backend, a.revision, weights=a.weights, stream=a.stream_weights
    )
    return model, tokenizer


if __name__ == "__main__":
    sys.exit(main())
