"""`minibloom train` and `minibloom predict`: a model of one's own, from text or from examples, and its answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from .cli_model import add_backend, add_model
from .errors import InputError
from .finetuning import finetune_file, load_finetuned, predict
from .models import BloomForQuestionAnswering, BloomForSequenceClassification
from .precision import checked_dtype
from .pretraining import SHAPE, train_folder
from .settings import FINETUNING, TrainingSettings
from .tasks import TASKS, problem_of
from .training import measured


def add_train_arguments(sub: argparse.ArgumentParser) -> None:
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
    add_backend(sub)
    for field in dataclasses.fields(TrainingSettings):
        option, told = "--" + field.name.replace("_", "-"), field.metadata["help"]
        if field.type == "bool":
            sub.add_argument(option, action="store_true", default=None, help=told)
            continue
        with_task = f", with --task {FINETUNING[field.name]}" if field.name in FINETUNING else ""
        kind = int if field.type == "int" else float
        sub.add_argument(option, type=kind, help=f"{told} (default {field.default}{with_task})")


def run_train(a: argparse.Namespace) -> int:
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


def add_predict_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("text", help="to be labelled; or the context that holds the answer to --question")
    add_model(sub, required=True)
    sub.add_argument("--question", help="for question answering")
    sub.add_argument("--json", action="store_true", help="print the answer as JSON, with all its figures")


def run_predict(a: argparse.Namespace) -> None:
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
    number = isinstance(model, BloomForSequenceClassification) and problem_of(model.config) == "regression"
    for part in answer if isinstance(answer, list) else [answer]:
        *words, score = (part[name] for name in ("answer", "word", "label", "entity", "score") if name in part)
        shown = f"{score:.4f}" if number else f"{score:6.1%}"
        print("\t".join([*words, shown]))
