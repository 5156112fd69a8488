"""Fine-tuning: a model, a small set of labelled examples, and one call. Then its answers, with another.

    model = BloomForSequenceClassification.from_pretrained(num_labels=2)  # the small BLOOM that ships, with a new head
    finetune(model, tokenizer, [{"text": "I loved it", "label": "good"}, ...], out="my-classifier", validation=0.1)
    predict(model, tokenizer, "I hated it")  # [{"label": "bad", "score": 0.98}, {"label": "good", "score": 0.02}]

Which task it is, follows from the kind of model; what its examples and its answers are is said in `minibloom.tasks`.
"""

from __future__ import annotations

import copy
import dataclasses
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy

from . import backend as backends
from .base import PreTrainedModel
from .config import BloomConfig
from .errors import InputError, suggest
from .examples import Examples, read_examples, split
from .fields import choice, whole
from .settings import FINETUNING, TrainingSettings
from .tasks import TASKS, HeadTask
from .tokenizer import BloomTokenizerFast
from .training import train
from .training_state import check_run


def finetune(
    model: PreTrainedModel,
    tokenizer: BloomTokenizerFast,
    examples: Iterable[Any] | str | Path,
    out: str | Path,
    validation: Iterable[Any] | str | Path | float | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> list[dict[str, float]]:
    """Train a model with a classifier's head, in place, on labelled examples; returns one record a step.

    examples: a list, or a file as `minibloom.examples` describes it.
    out: the folder that model, tokenizer and the state of the run go to, as in `minibloom.training.train`.
    validation: other examples, to measure on; or the share of `examples` that is held out for it.
    settings: fields of `TrainingSettings`, with the defaults of `minibloom.settings.FINETUNING`.

    So that texts are read from now on as they were in training, the tokenizer's `model_max_length` is set to
    `context_length`; and `model.config` is replaced by one with the names of the labels and the tokenizer's
    `pad_token_id`. All examples are checked before anything is changed or written.
    """
    check_run(out, resume)
    kind, s = _task_of(model), _settings(settings)
    learnt, held_out = _parts(examples, validation, s.seed)
    wanted = kind.config_for(learnt, model.config)
    names = wanted.get("id2label", model.config.id2label)
    if len(names) != model.config.num_labels:
        raise InputError(
            f"the examples need {_labels(names)}, the model has "
            f"{model.config.num_labels}: use {type(model).__name__}.from_pretrained(..., num_labels={len(names)})."
        )
    config = model.config.replace(**wanted, pad_token_id=tokenizer.pad_token_id)
    reader = copy.copy(tokenizer)
    reader.model_max_length = s.context_length
    task = kind(reader, config, learnt, held_out)
    ids = [row["input_ids"] for rows in (task.rows, *(rows for _, _, rows in task.held_out)) for row in rows]
    model.check_ids(numpy.concatenate([*ids, [config.pad_token_id]])[None])  # does it know all?
    model.config, tokenizer.model_max_length = config, s.context_length
    return train(model, task, s, out, tokenizer, resume, progress)


def finetune_file(
    path: str | Path,
    task: str,
    out: str | Path,
    settings: TrainingSettings,
    validation: str | Path | float | None = None,
    resume: bool = False,
    dropout: float = 0.0,
    progress: bool = True,
    start_from: str | Path | None = None,
    backend: str = "numpy",
) -> list[dict[str, float]]:
    """`minibloom train --task`: fine-tune a checkpoint's model, with a head for `task`, on the examples in a file.

    start_from: the checkpoint; the one that ships if None. If it has such a head already, that goes on learning.
    """
    check_run(out, resume)
    backends.load(backend)  # or an error that says why not, before examples are read
    kind = TASKS[choice(*TASKS).check("task", task)]
    learnt, held_out = _parts(path, validation, settings.seed)
    config = BloomConfig.from_pretrained(start_from)
    if config.architectures != [kind.model.__name__]:  # its labels, if it has any, are those of another head
        config = config.replace(id2label=BloomConfig().id2label, problem_type=None)
    wanted = {"id2label": config.id2label, "problem_type": None} | kind.config_for(learnt, config)
    names = wanted["id2label"]
    if config.architectures == [kind.model.__name__] and len(names) != config.num_labels:
        raise InputError(
            f"the examples need {_labels(names)}, the head of {start_from} has {_labels(config.id2label)}: start from "
            "a checkpoint without such a head."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is new, drawn from seed")  # as was asked for
        model = kind.model.from_pretrained(
            start_from, backend=backend, seed=settings.seed, hidden_dropout=dropout, attention_dropout=dropout, **wanted
        )
    model = model if model.weights == model.dtype else model.widened()  # of a checkpoint in int8
    tokenizer = BloomTokenizerFast.from_pretrained(start_from, **kind.tokenizer_options)
    return finetune(model, tokenizer, learnt, out, held_out, resume, progress, **dataclasses.asdict(settings))


def predict(model: PreTrainedModel, tokenizer: BloomTokenizerFast, inputs: Any, batch_size: int = 16) -> Any:
    """The answer of a fine-tuned model to an input; to a list of inputs, a list of answers.

    An input is a text; for token classification a text, whose words have spaces between them, or in a list of inputs
    also a list of words; for question answering {"question": ..., "context": ...}. Answers: see `minibloom.tasks`.
    """
    kind, batch_size = _task_of(model), whole(1).check("batch_size", batch_size)
    alone = isinstance(inputs, str | Mapping)
    if not alone and not isinstance(inputs, Iterable):
        raise InputError(f"inputs is of type {type(inputs).__name__}, expected an input, or a list of them.")
    places = {"the input": inputs} if alone else {f"inputs[{i}]": one for i, one in enumerate(inputs)}
    examples = Examples({place: kind.as_example(one) for place, one in places.items()})
    answers = kind(tokenizer, model.config).predict(model, examples, batch_size)
    return answers[0] if alone else answers


def load_finetuned(
    path_or_repo: str | Path | None = None, revision: str | None = None, **options: Any
) -> tuple[Any, Any]:
    """The model, of the kind that it was saved as, and the tokenizer of a fine-tuned checkpoint."""
    config = BloomConfig.from_pretrained(path_or_repo, revision)
    kinds = {kind.model.__name__: kind for kind in TASKS.values()}
    made_as = (config.architectures or ["no model that is known"])[0]
    if made_as not in kinds:
        raise InputError(
            f"{path_or_repo or 'the shipped checkpoint'} was saved as {made_as}, expected one of {', '.join(kinds)}. "
            "`minibloom train --task` makes such a model."
        )
    kind = kinds[made_as]
    tokenizer = BloomTokenizerFast.from_pretrained(path_or_repo, revision, **kind.tokenizer_options)
    return kind.model.from_pretrained(path_or_repo, revision=revision, **options), tokenizer


# --- what is given, checked ---


def _task_of(model: PreTrainedModel) -> type[HeadTask]:
    for kind in TASKS.values():
        if isinstance(model, kind.model):
            return kind
    expected = ", ".join(kind.model.__name__ for kind in TASKS.values())
    raise InputError(f"model is a {type(model).__name__}, expected one of {expected}.")


def _labels(names: Mapping[int, str]) -> str:
    return f"{len(names)} labels ({textwrap.shorten(', '.join(names.values()), 200, placeholder=' ...')})"


def _settings(given: Mapping[str, Any]) -> TrainingSettings:
    known = [field.name for field in dataclasses.fields(TrainingSettings)]
    for name in given:
        if name not in known:
            raise InputError(f"there is no setting {name!r}. There are {', '.join(known)}.{suggest(name, known)}")
    return TrainingSettings(**FINETUNING | dict(given))


def _parts(given: Any, validation: Any, seed: int) -> tuple[Examples, Examples]:
    """The examples to learn from, and those to measure on."""
    examples = _examples("examples", given)
    if isinstance(validation, float):
        return split(examples, validation, seed)
    return examples, Examples() if validation is None else _examples("validation", validation)


def _examples(name: str, given: Any) -> Examples:
    if isinstance(given, Examples):
        return given
    if isinstance(given, str | Path):
        return read_examples(given)
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise InputError(f"{name} is of type {type(given).__name__}, expected a list of examples, or a file's path.")
    examples = Examples({f"{name}[{i}]": one for i, one in enumerate(given)})
    if not examples:
        raise InputError(f"{name} is empty, expected at least one example.")
    return examples
