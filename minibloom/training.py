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

STATE = "training.safetensors"  # parameters, the optimiser's state and the settings, in one file: whole or not there


def _setting(default: float, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. The run reads steps * batch_size * accumulation * context_length tokens in all."""

    steps: int = _setting(2000, "updates of the parameters")
    batch_size: int = _setting(4, "rows in one forward and backward pass")
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
            whole = field.type == "int"
            low = 0 if field.name in ("seed", "warmup_steps") or not whole else 1
            kinds: tuple[type, ...] = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value < math.inf:
                expected = f"a whole number of at least {low}" if whole else "a number of at least 0"
                raise InputError(f"{field.name} is {value!r}, expected {expected}.")
        for name in ("beta1", "beta2", "final_rate"):
            if not getattr(self, name) <= 1 or (name != "final_rate" and getattr(self, name) == 1):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected a number below 1.")


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
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Convert it, or move it away.") from None
        if text.strip():
            documents[str(inside)] = text
    if not documents:
        raise InputError(f"{root} holds no text. Put at least one file of plain text in UTF-8 there.")
    return documents


def tokenize(documents: Mapping[str, str], tokenizer: BloomTokenizerFast) -> list[Array]:
    """The token ids of each document, with the end-of-sequence token behind it."""
    end = [tokenizer.eos_token_id]
    return [numpy.array(tokenizer.encode(text) + end, dtype=numpy.int32) for text in documents.values()]


def batches(documents: Sequence[Array], s: TrainingSettings, start: int = 0) -> Iterator[Array]:
    """An endless run of batches `[batch_size, context_length]`, from batch number `start` on.

    In each epoch the documents are shuffled, joined to one stream, and cut into rows, which are shuffled again.
    The end of the stream that fills no batch is left out of this epoch.
    """
    width = s.context_length
    per_epoch = sum(map(len, documents)) // width // s.batch_size
    if per_epoch == 0:
        raise InputError(
            f"the text has {sum(map(len, documents)):,} tokens, too few for one batch of {s.batch_size} rows of {width}. "
            "Give more text, or a smaller batch size or context length."
        )
    while True:
        epoch, within = divmod(start, per_epoch)
        order = numpy.random.default_rng([s.seed, 1, epoch]).permutation(len(documents))
        stream = numpy.concatenate([documents[i] for i in order])[: per_epoch * s.batch_size * width]
        rows = stream.reshape(-1, width)
        rows = rows[numpy.random.default_rng([s.seed, 2, epoch]).permutation(len(rows))]
        yield from rows.reshape(per_epoch, s.batch_size, width)[within:]
        start = (epoch + 1) * per_epoch


def evaluate(model: BloomForCausalLM, documents: Sequence[Array], context_length: int) -> tuple[float, int]:
    """Mean loss in nats a token over whole documents, each read from its start, and how many tokens that were.

    A document longer than the context is read in windows; the first token of each window is not predicted.
    """
    total, count = 0.0, 0
    for document in documents:
        for i in range(0, len(document) - 1, context_length):
            window = document[None, i : i + context_length + 1]
            if window.shape[1] < 2:
                continue
            loss = float(model(window, labels=window, use_cache=False).loss)
            total, count = total + loss * (window.shape[1] - 1), count + window.shape[1] - 1
    return (total / count if count else math.nan), count


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
    tokenizer as a checkpoint that `from_pretrained` loads. With `resume`, the run in `folder` goes on to the
    same result, bit for bit, as if it had not been stopped.
    """
    folder, s = Path(folder), settings
    identity = fingerprint(model, documents, s)
    optimizer = AdamW(model.params, s.beta1, s.beta2)
    history: list[dict[str, float]] = []
    if (folder / STATE).exists():
        if not resume:
            raise InputError(f"{folder} already holds a training run. Resume it with --resume, or choose another folder.")
        history = _load_state(folder / STATE, model, optimizer, identity)
    elif resume:
        raise InputError(f"{folder} holds no training run to resume: there is no {STATE} in it.")
    make_folder(folder)

    def save() -> None:
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        _save_state(folder / STATE, model, optimizer, identity, history)

    start = optimizer.t
    source = batches(documents, s, start * s.accumulation)
    with _stop_on_ctrl_c() as stopped, _bar(s, start, progress) as show:
        for step in range(start, s.steps):
            loss, grads = 0.0, {}
            for part in range(s.accumulation):
                rows = model.xp.asarray(next(source), dtype="int64")
                out, new = model.value_and_grad(rows, labels=rows, train=True, seed=[s.seed, 3, step, part])
                loss += float(out.loss) / s.accumulation
                grads = new if not grads else {name: grads[name] + g for name, g in new.items()}
            if s.accumulation > 1:
                grads = {name: g / s.accumulation for name, g in grads.items()}
            rate, norm = learning_rate(step, s), clip_gradients(grads, s.clip)
            optimizer.step(model.params, grads, rate, s.weight_decay)
            history.append({"step": step + 1, "loss": loss, "rate": rate, "norm": norm})
            last = step + 1 == s.steps
            if last or stopped() or (step + 1) % s.save_every == 0:
                if len(validation):
                    history[-1]["validation_loss"] = evaluate(model, validation, s.context_length)[0]
                save()
            show(history[-1])
            if stopped():
                break
    return history


def train_folder(
    texts: str | Path,
    out: str | Path,
    settings: TrainingSettings,
    resume: bool = False,
    vocab_size: int = 4000,
    dropout: float = 0.0,
    progress: bool = True,
    **shape: int,
) -> list[dict[str, float]]:
    """`minibloom train`: a tokenizer and a new model from the text files in the folder `texts`, written to `out`.

    Where `texts` has folders `train` and `validation`, the second is only measured on. `shape` is BloomConfig's
    `hidden_size`, `n_layer`, `n_head`. The embedding gets rows up to the next multiple of 128, as BLOOM's has.
    """
    texts, out = Path(texts), Path(out)
    split = (texts / "train").is_dir() and (texts / "validation").is_dir()
    documents = read_documents(texts / "train" if split else texts)
    held_out = read_documents(texts / "validation") if split else {}
    config = BloomConfig(
        vocab_size=-(-vocab_size // 128) * 128, pad_token_id=3, unk_token_id=0,
        hidden_dropout=dropout, attention_dropout=dropout, **shape,
    )  # fmt: skip
    tokenizer = BloomTokenizerFast.train(documents.values(), vocab_size)
    model = BloomForCausalLM(config, seed=settings.seed)
    return train(
        model, tokenize(documents, tokenizer), settings, out, tokenizer, tokenize(held_out, tokenizer), resume, progress
    )


# --- stopping, resuming, showing ---


def fingerprint(model: BloomForCausalLM, documents: Sequence[Array], settings: TrainingSettings) -> dict[str, Any]:
    """What must be the same for a run to go on bit for bit: settings, configuration, and the text itself."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.tobytes() + b"|")
    config = model.config.replace(architectures=None).to_dict()
    same = dataclasses.asdict(settings) | {"save_every": None}  # how often is no part of the result
    return {"settings": same, "config": config, "dtype": model.dtype, "text": digest.hexdigest()}


def _save_state(path: Path, model: BloomForCausalLM, optimizer: AdamW, identity: dict, history: list) -> None:
    from safetensors.numpy import save_file

    parts = {"params": model.params, "m": optimizer.m, "v": optimizer.v}
    tensors = {f"{part}/{name}": to_numpy(x) for part, arrays in parts.items() for name, x in arrays.items()}
    notes = {"identity": identity, "step": optimizer.t, "history": history}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={key: json.dumps(value) for key, value in notes.items()})


def _load_state(path: Path, model: BloomForCausalLM, optimizer: AdamW, identity: dict) -> list[dict[str, float]]:
    """Fill model and optimiser from `path`; returns the history so far."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            notes = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            for part, was in notes["identity"].items():
                if was != identity[part]:
                    raise InputError(
                        f"{path.parent} holds a run with other {part}, so it cannot be resumed: {_difference(was, identity[part])}. "
                        "Give what it was started with, or choose another folder."
                    )
            parts = {"params": model.params, "m": optimizer.m, "v": optimizer.v}
            for part, arrays in parts.items():
                for name in arrays:
                    arrays[name] = model.xp.asarray(file.get_tensor(f"{part}/{name}"))
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Choose another folder to start anew.") from None
    optimizer.t = notes["step"]
    return notes["history"]


def _difference(was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        return ", ".join(f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key])
    return f"was {str(was)[:12]}, now {str(now)[:12]}"


@contextmanager
def _stop_on_ctrl_c() -> Iterator[Any]:
    """Between steps, the block asks whether Ctrl-C was pressed; a step is never cut in two. A second one is not held."""
    pressed = threading.Event()

    def first(*_: Any) -> None:
        pressed.set()
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

        def show(record: Mapping[str, float]) -> None:
            speed = (record["step"] - start) * tokens / (time.perf_counter() - began)
            note = f"loss {record['loss']:.3f}, {speed:,.0f} tokens/s"
            if "validation_loss" in record:
                note += f", validation {record['validation_loss']:.3f}"
            bar.set_postfix_str(note, refresh=False)
            bar.update()

        yield show
