"""Training: text to batches, gradients to steps, and a loop that can be stopped and goes on as if it had not been.

    settings = TrainingSettings(steps=1000)
    train(model, tokens, settings, folder="my-bloom", tokenizer=tokenizer)

All randomness comes from `settings.seed` and the number of the step, never from what ran before. So a run
that was stopped and resumed computes the same bits as one that was not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from .backend import Array, namespace, to_numpy
from .config import BloomConfig
from .errors import InputError
from .files import make_folder, replacing
from .models import BloomForCausalLM
from .tokenizer import BloomTokenizerFast

LOWEST = {"seed": 0, "warmup_steps": 0, "context_length": 2}  # a single token has no next one to predict
STATE = "training.safetensors"  # parameters, the optimiser's state and the settings, in one file: whole or not there

SHAPE = {"vocab_size": 4000, "hidden_size": 256, "n_layer": 4, "n_head": 8}  # of a new model, unless said otherwise


def _setting(default: float, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. The run reads steps * batch_size * accumulation * context_length tokens in all."""

    steps: int = _setting(2000, "updates of the parameters")
    batch_size: int = _setting(4, "rows in one forward and backward pass")
    whole_documents: bool = _setting(False, "begin each row at a document's start, not where the last one ended")
    accumulation: int = _setting(1, "passes whose gradients are averaged into one step")
    context_length: int = _setting(256, "tokens in a row")
    learning_rate: float = _setting(2e-3, "learning rate at its peak")
    warmup_steps: int = _setting(200, "steps until the peak, on a straight line; a cosine goes down from there")
    final_rate: float = _setting(0.05, "share of the peak that is left at the end")
    weight_decay: float = _setting(0.01, "AdamW's, on matrices only")
    beta1: float = _setting(0.9, "AdamW's memory of gradients")
    beta2: float = _setting(0.95, "AdamW's memory of their squares")
    clip: float = _setting(1.0, "largest norm of all gradients together; a larger one is scaled down")
    seed: int = _setting(0, "of everything that is drawn")
    save_every: int = _setting(250, "steps between two saves")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise InputError(f"{field.name} is {value!r}, expected True or False.")
                continue
            whole = field.type == "int"
            low: float = LOWEST.get(field.name, 1) if whole else 0
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= float(value) < math.inf:
                expected = f"a whole number of at least {low}" if whole else "a number of at least 0"
                raise InputError(f"{field.name} is {value!r}, expected {expected}.")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected a number below 1.")
        if self.final_rate > 1:
            raise InputError(f"final_rate is {self.final_rate!r}, expected a number of at most 1.")


# --- the optimiser ---


def learning_rate(step: int, s: TrainingSettings) -> float:
    """The rate of step number `step` (from 0): a straight line up over `warmup_steps`, then a cosine down."""
    if step < s.warmup_steps:
        return s.learning_rate * (step + 1) / s.warmup_steps
    done = (step - s.warmup_steps) / max(1, s.steps - s.warmup_steps)
    return s.learning_rate * (s.final_rate + (1 - s.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def clip_gradients(grads: Mapping[str, Array], limit: float) -> float:
    """Scale all gradients, in place, so that their norm together is at most `limit`. Returns the norm before."""
    norm = math.sqrt(sum(float(namespace(g).vdot(g, g)) for g in grads.values()))
    if norm > limit:
        for g in grads.values():
            g *= limit / norm
    return norm


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019).

        m = β1 m + (1 - β1) g          the gradient, smoothed
        v = β2 v + (1 - β2) g²         its square, smoothed
        p = p - rate * ( m̂ / (√v̂ + ε) + decay * p )        with m̂ = m / (1 - β1^t), v̂ = v / (1 - β2^t)

    m and v start at 0 and are too small at first: the hats undo that. Only matrices decay; biases and the
    weights of layer norms, which are vectors, do not.
    """

    def __init__(self, params: Mapping[str, Array], beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps, self.t = beta1, beta2, eps, 0
        self.m = {name: namespace(p).zeros_like(p) for name, p in params.items()}
        self.v = {name: namespace(p).zeros_like(p) for name, p in params.items()}

    def step(
        self, params: MutableMapping[str, Array], grads: Mapping[str, Array], rate: float, weight_decay: float = 0.0
    ) -> None:
        """Update `params` in place."""
        self.t += 1
        m_scale, v_scale = 1 / (1 - self.beta1**self.t), 1 / (1 - self.beta2**self.t)
        for name, p in params.items():
            g, m, v, xp = grads[name], self.m[name], self.v[name], namespace(p)
            m *= self.beta1
            m += (1 - self.beta1) * g
            v *= self.beta2
            v += (1 - self.beta2) * (g * g)
            update = xp.sqrt(v * v_scale)
            update += self.eps
            xp.divide(m, update, out=update)
            update *= rate * m_scale
            if p.ndim > 1:
                p *= 1 - rate * weight_decay
            p -= update


# --- the data ---


def read_documents(folder: str | Path) -> dict[str, str]:
    """Every text file under `folder`, by its path within it, sorted. Hidden files and empty ones are left out."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is no folder. Give a folder of plain text files in UTF-8.")
    documents = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8-sig")  # the mark that some editors put first is no text
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Convert it, or move it away.") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None
        if text.strip():
            documents[inside.as_posix()] = text
    if not documents:
        raise InputError(f"{root} holds no text. Put at least one file of plain text in UTF-8 there.")
    return documents


def tokenize(documents: Mapping[str, str], tokenizer: BloomTokenizerFast) -> list[Array]:
    """The token ids of each document, with the end-of-sequence token behind it."""
    end = [tokenizer.eos_token_id]
    return [numpy.array(tokenizer.encode(text) + end, dtype=numpy.int32) for text in documents.values()]


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
            window = model.xp.asarray(stream[None, i : i + context_length + 1])
            predicted = window.shape[1] - 1
            total += float(model(window, labels=window, use_cache=False).loss) * predicted
            count += predicted
    return total, count


# --- the loop ---


def train(
    model: BloomForCausalLM,
    documents: Sequence[Array],
    settings: TrainingSettings,
    folder: str | Path,
    tokenizer: BloomTokenizerFast | None = None,
    validation: Sequence[Array] = (),
    resume: bool = False,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place on tokenized `documents`; returns one record a step: step, loss, rate, norm.

    Every `save_every` steps, at the end, and on Ctrl-C, the state is written to `folder`, with the model and the
    tokenizer as a checkpoint that `from_pretrained` loads. `validation` is measured every `save_every` steps and
    at the end: the record has a validation_loss then. With `resume`, the run in `folder` goes on to the same
    result as if it had not been stopped: bit for bit, on the same machine with the same number of threads.
    """
    folder, s = Path(folder), settings
    check_run(folder, resume)
    identity = fingerprint(model, documents, s, tokenizer)
    optimizer = AdamW(model.params, s.beta1, s.beta2)
    history = _load_state(folder / STATE, model, optimizer, identity) if resume else []
    start = saved = optimizer.t
    source = batches(documents, s, start * s.accumulation)
    make_folder(folder)

    def save() -> None:
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        _save_state(folder / STATE, model, optimizer, identity, history)

    with _stop_on_ctrl_c() as stopped, _bar(s, start, progress) as show:
        for step in range(start, s.steps):
            loss, grads = 0.0, dict[str, Array]()
            for part in range(s.accumulation):
                rows = model.xp.asarray(next(source), dtype="int64")
                out, new = model.value_and_grad(rows, labels=rows, train=True, seed=[s.seed, 3, step, part])
                loss += float(out.loss) / s.accumulation
                grads = new if not grads else {name: grads[name] + g for name, g in new.items()}
            if s.accumulation > 1:
                grads = {name: g / s.accumulation for name, g in grads.items()}
            rate, norm = learning_rate(step, s), clip_gradients(grads, s.clip)
            if not math.isfinite(norm):
                raise InputError(
                    f"the gradients of step {step + 1} are no longer finite (loss {loss:.3g}). What was saved at step "
                    f"{saved} stands. Start anew with a smaller learning rate."
                )
            optimizer.step(model.params, grads, rate, s.weight_decay)
            history.append({"step": step + 1, "loss": loss, "rate": rate, "norm": norm})
            due, stop = step + 1 == s.steps or (step + 1) % s.save_every == 0, stopped()
            if due and len(validation):
                nats, count = evaluate(model, validation, s.context_length)
                history[-1]["validation_loss"] = nats / count
            if due or stop:
                save()
                saved = step + 1
            show(history[-1], saved)
            if stop:
                break
    return history


def check_run(folder: str | Path, resume: bool) -> None:
    """Raise an InputError if `folder` holds a run that is not to be resumed, or none that is."""
    there = (Path(folder) / STATE).exists()
    if there and not resume:
        raise InputError(f"{folder} already holds a training run. Resume it with --resume, or choose another folder.")
    if resume and not there:
        raise InputError(f"{folder} holds no training run to resume: there is no {STATE} in it.")


def train_folder(
    texts: str | Path,
    out: str | Path,
    settings: TrainingSettings,
    resume: bool = False,
    dropout: float = 0.0,
    progress: bool = True,
    start_from: str | Path | None = None,
    **shape: int,
) -> list[dict[str, float]]:
    """`minibloom train`: a tokenizer and a new model from the text files in the folder `texts`, written to `out`.

    Where `texts` has folders `train` and `validation`, the second is only measured on. `shape` changes fields of
    `SHAPE`. The embedding gets rows up to the next multiple of 128, as BLOOM's has. With `start_from`, model and
    tokenizer are those of that checkpoint, and go on learning; they have their shape already.
    """
    if start_from is not None and shape:
        raise InputError(f"{', '.join(shape)} cannot be chosen with start_from: {start_from} has its own.")
    shape = SHAPE | shape
    texts, out = Path(texts), Path(out)
    check_run(out, resume)
    split = (texts / "train").is_dir() and (texts / "validation").is_dir()
    sources = [texts / "train", texts / "validation"] if split else [texts]
    if any(out.resolve().is_relative_to(source.resolve()) for source in sources):
        raise InputError(f"{out} lies in the folder of text, and would be read as text too: choose another folder.")
    documents, held_out = read_documents(sources[0]), read_documents(sources[1]) if split else {}
    if start_from is not None:
        tokenizer = BloomTokenizerFast.from_pretrained(start_from)
        model = BloomForCausalLM.from_pretrained(start_from, hidden_dropout=dropout, attention_dropout=dropout)
    else:
        config = BloomConfig(
            **shape | {"vocab_size": -(-shape["vocab_size"] // 128) * 128}, pad_token_id=3, unk_token_id=0,
            hidden_dropout=dropout, attention_dropout=dropout,
        )  # fmt: skip
        tokenizer = BloomTokenizerFast.train(documents.values(), shape["vocab_size"])
        model = BloomForCausalLM(config, seed=settings.seed)
    return train(
        model, tokenize(documents, tokenizer), settings, out, tokenizer, tokenize(held_out, tokenizer), resume, progress
    )


# --- stopping, resuming, showing ---


def fingerprint(
    model: BloomForCausalLM,
    documents: Sequence[Array],
    settings: TrainingSettings,
    tokenizer: BloomTokenizerFast | None = None,
) -> dict[str, Any]:
    """What must be the same for a run to go on bit for bit: settings, configuration, and the text itself."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.tobytes() + b"|")
    config = model.config.replace(architectures=None).to_dict()
    same = dataclasses.asdict(settings) | {"save_every": None}  # how often is no part of the result
    vocabulary = "not given" if tokenizer is None else f"{len(tokenizer)} tokens"
    identity = {
        "settings": same,
        "config": config,
        "dtype": model.dtype,
        "tokenizer": vocabulary,
        "text": digest.hexdigest(),  # as token ids
    }
    return json.loads(json.dumps(identity))  # as it comes back from a file: JSON has only strings for keys


def _save_state(
    path: Path, model: BloomForCausalLM, optimizer: AdamW, identity: dict[str, Any], history: list[Any]
) -> None:
    from safetensors.numpy import save_file

    parts = {"params": model.params, "m": optimizer.m, "v": optimizer.v}
    tensors = {f"{part}/{name}": to_numpy(x) for part, arrays in parts.items() for name, x in arrays.items()}
    notes = {"identity": identity, "step": optimizer.t, "history": history}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={key: json.dumps(value) for key, value in notes.items()})


def _load_state(
    path: Path, model: BloomForCausalLM, optimizer: AdamW, identity: dict[str, Any]
) -> list[dict[str, float]]:
    """Fill model and optimiser from `path`; returns the history so far."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            notes = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            changed = [
                f"{part} ({_difference(was, identity.get(part))})"
                for part, was in notes["identity"].items()
                if was != identity.get(part)
            ]
            if changed:
                raise InputError(
                    f"{path.parent} holds a run that was started otherwise, so it cannot be resumed: "
                    f"{', '.join(changed)}. Give the whole command that it was started with, or choose another "
                    "folder; --start-from goes on from a finished run with new settings."
                )
            parts = {"params": model.params, "m": optimizer.m, "v": optimizer.v}
            for part, arrays in parts.items():
                for name in arrays:
                    arrays[name] = model.xp.asarray(file.get_tensor(f"{part}/{name}"))
            optimizer.t, history = notes["step"], notes["history"]
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Choose another folder to start anew.") from None
    return history


def _difference(was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        return ", ".join(f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key])
    return f"was {str(was)[:16]}, now {str(now)[:16]}"


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

    tokens, began = s.batch_size * s.accumulation * s.context_length, time.perf_counter()
    layout = "{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}, {remaining} left{postfix}"
    with tqdm(total=s.steps, initial=start, disable=not progress, bar_format=layout, mininterval=0.5) as bar:

        def show(record: Mapping[str, float], saved: int) -> None:
            speed = (record["step"] - start) * tokens / (time.perf_counter() - began)
            note = f"loss {record['loss']:.3f}, {speed:,.0f} tokens/s, " + (
                f"saved at step {saved}" if saved else "not saved yet"
            )
            if "validation_loss" in record:
                note += f", validation {record['validation_loss']:.3f}"
            bar.set_postfix_str(note, refresh=False)
            bar.update()

        yield show
