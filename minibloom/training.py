"""Training: a loop that can be stopped, and goes on as if it had not been.

    settings = TrainingSettings(steps=1000)
    train(model, LanguageModeling(documents), settings, folder="my-bloom", tokenizer=tokenizer)

The loop is the same for every head. What differs is a task: it makes the batches, and measures the model on what was
held out. All randomness comes from `settings.seed` and the number of the step, never from what ran before. So a run
that was stopped and resumed computes the same bits as one that was not. (On a GPU, the same to rounding: a token that a
batch has twice gets its two gradients added in whatever order they arrive.)
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .backend import Array, number, to_numpy
from .base import PreTrainedModel
from .errors import InputError
from .files import folder_path, make_folder
from .optimizer import AdamW, clip_gradients, learning_rate
from .settings import TrainingSettings
from .tokenizer import BloomTokenizerFast
from .training_state import STATE, check_run, identity_of, load_state, save_state

# --- what is learnt ---


class Task(Protocol):
    """What a model is trained on. `LanguageModeling` is one, `minibloom.tasks` has those of the other heads."""

    def batches(self, s: TrainingSettings, start: int = 0) -> Iterator[Mapping[str, Array]]:
        """An endless run of batches from number `start` on, each the arguments of `model.value_and_grad(**batch)`.

        Batch number n is the same whichever one the run starts from.
        """

    def evaluate(self, model: Any, s: TrainingSettings) -> dict[str, float]:
        """How well the model does on what was held out: figures `validation_...`, none if nothing was."""

    def digest(self) -> str:
        """A fingerprint of all that is learnt from."""


class Batches:
    """The task of batches that are made already: arrays by argument name, read in turn, over and over.

    batches = [{"input_ids": ids, "attention_mask": mask, "labels": labels}, ...]
    train(model, Batches(batches), TrainingSettings(steps=100), "my-model")
    """

    def __init__(self, batches: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]] = ()) -> None:
        for name, given in (("batches", batches), ("held_out", held_out)):
            if not isinstance(given, Sequence) or not all(isinstance(batch, Mapping) for batch in given):
                kind = type(given).__name__
                raise InputError(f"{name} is a {kind}, expected a list of dictionaries of arrays; or write a Task.")
        if not batches:
            raise InputError("batches is empty: give at least one dictionary of arrays.")
        self.given, self.held_out = batches, held_out

    def batches(self, s: TrainingSettings, start: int = 0) -> Iterator[Mapping[str, Array]]:
        """The given ones, from number `start` on."""
        return (self.given[i % len(self.given)] for i in itertools.count(start))

    def evaluate(self, model: Any, s: TrainingSettings) -> dict[str, float]:
        """The mean of the losses of the batches held out."""
        losses = [number(model(**batch, return_dict=True).loss) for batch in self.held_out]
        return {"validation_loss": sum(losses) / len(losses)} if losses else {}

    def digest(self) -> str:
        """A fingerprint of every array."""
        digest = hashlib.sha256()
        for batch in self.given:
            for name, value in batch.items():
                array = to_numpy(value)
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


# --- the loop ---


def train(
    model: PreTrainedModel,
    task: Task,
    settings: TrainingSettings,
    folder: str | Path,
    tokenizer: BloomTokenizerFast | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place on the batches of `task`; returns one record a step: step, loss, rate, norm.

    Every `save_every` steps, at the end, and on Ctrl-C, the state is written to `folder`, with the model and the
    tokenizer as a checkpoint that `from_pretrained` loads. What the task holds out is measured every `save_every`
    steps and at the end: the record has figures `validation_...` then. With `resume`, the run in `folder` goes on to
    the same result as if it had not been stopped: bit for bit, on the same CPU with the same number of threads.
    """
    folder, s = folder_path(folder), settings
    if not hasattr(task, "batches"):
        expected = "Batches([...]), LanguageModeling(documents), or what minibloom.tasks has"
        raise InputError(f"task is a {type(task).__name__}, expected a Task: {expected}.")
    if not isinstance(s, TrainingSettings):
        raise InputError(f"settings is a {type(s).__name__}, expected TrainingSettings(steps=..., ...).")
    if not getattr(model, "labels", ()):
        raise InputError(f"model is a {type(model).__name__}, expected one with a head, which has a loss to learn by.")
    check_run(folder, resume)
    identity = identity_of(model, task.digest(), s, tokenizer)
    optimizer = AdamW(model.params, s.beta1, s.beta2)
    history = load_state(folder / STATE, model, optimizer, identity) if resume else []
    start = saved = optimizer.t
    source = task.batches(s, start * s.accumulation)
    make_folder(folder)
    if progress and s.warmup_steps >= s.steps:
        note = f"the learning rate rises for {s.warmup_steps} steps, and never falls, as there are {s.steps}"
        print(f"{note}: lower warmup_steps.", file=sys.stderr, flush=True)

    def save() -> None:
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        save_state(folder / STATE, model, optimizer, identity, history)

    with _stop_on_ctrl_c() as stopped, _bar(s, start, progress) as show:
        for step in range(start, s.steps):
            loss, grads, tokens = gradients(model, source, s, step)
            rate, norm = learning_rate(step, s), clip_gradients(grads, s.clip)
            if not math.isfinite(norm):
                raise InputError(
                    f"the gradients of step {step + 1} are no longer finite (loss {loss:.3g}). What was saved at step "
                    f"{saved} stands. Start anew with a smaller learning rate."
                )
            optimizer.step(model.params, grads, rate, s.weight_decay)
            del grads  # as large as the parameters: gone before the next pass makes others
            history.append({"step": step + 1, "loss": loss, "rate": rate, "norm": norm})
            due, stop = step + 1 == s.steps or (step + 1) % s.save_every == 0, stopped()
            if due:
                history[-1] |= task.evaluate(model, s)
            if due or stop:
                save()
                saved = step + 1
            show(history[-1], tokens, saved)
            if stop:
                break
    return history


def gradients(
    model: PreTrainedModel, source: Iterator[Mapping[str, Array]], s: TrainingSettings, step: int
) -> tuple[float, dict[str, Array], int]:
    """The loss of step number `step` and its gradients, as of all its passes in one; and the tokens that were read.

    Each pass gives a mean. The mean of all is that of these, each weighted by how many labels it is a mean of.
    """
    loss, labels, tokens, grads = 0.0, 0, 0, dict[str, Array]()
    for part in range(s.accumulation):
        batch = next(source)
        out, new = model.value_and_grad(
            **batch, train=True, seed=[s.seed, 3, step, part], recompute=s.recompute, return_dict=True
        )
        tokens += to_numpy(batch["input_ids"]).size if "input_ids" in batch else 0
        if s.accumulation == 1:
            return number(out.loss), new, tokens
        count = model.count_labels(batch)
        labels += count
        loss += count * number(out.loss) if count else 0.0  # the mean of nothing is NaN
        for name, gradient in new.items():
            gradient *= count
            if name in grads:
                grads[name] += gradient
        grads = grads or new
        del out, new, gradient  # before the next pass
    for gradient in grads.values():
        gradient /= max(1, labels)
    return loss / labels if labels else math.nan, grads, tokens


# --- stopping, showing ---


@contextmanager
def _stop_on_ctrl_c() -> Iterator[Any]:
    """The block asks between steps whether Ctrl-C was pressed: no step is cut in two. A second Ctrl-C stops at once."""
    pressed = threading.Event()

    def first(*_: Any) -> None:
        pressed.set()
        os.write(2, b"\nstopping after this step, to save it (again: at once, without saving) ...\n")
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, first)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(s: TrainingSettings, start: int, progress: bool) -> Iterator[Any]:
    """A progress bar with loss, tokens a second and time left."""
    from tqdm import tqdm

    read, began = 0, time.perf_counter()
    layout = "{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}, {remaining} left{postfix}"
    with tqdm(total=s.steps, initial=start, disable=not progress, bar_format=layout, mininterval=0.5) as bar:

        def show(record: Mapping[str, float], tokens: int, saved: int) -> None:
            nonlocal read
            read += tokens
            speed = read / (time.perf_counter() - began)
            note = f"loss {record['loss']:.3f}, {speed:,.0f} tokens/s, " + (
                f"saved at step {saved}" if saved else "not saved yet"
            )
            bar.set_postfix_str(note + measured(record), refresh=False)
            bar.update()

        yield show


def measured(record: Mapping[str, float]) -> str:
    """The figures of a record that were measured on what was held out, in words: ", validation loss 1.234"."""
    figures = {name: value for name, value in record.items() if name.startswith("validation_")}
    return "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
