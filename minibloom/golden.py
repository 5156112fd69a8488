"""What a pass over a text computes, as arrays by name: in memory, and in a file that any language can read.

    from minibloom.golden import load, read, run, write
    steps = run(load(), [[5, 6, 7]])        # with the model that ships
    steps["h.0.self_attention.probs"]
    write("golden.safetensors", steps)      # as does: minibloom parity MODEL --write golden.safetensors

The file is safetensors (https://github.com/huggingface/safetensors#format): arrays by name, in C order. Below, B rows
of S positions; E, H, D, V are hidden size, heads, head size and vocabulary. Numbers are in the precision of the pass,
whole ones int64.

    input_ids           [B, S]     what is read; shorter rows are padded on the left
    attention_mask      [B, S]     1 = token, 0 = padding
    labels              [B, S]     the ids again; -100 at padding, and at the first token of a row
    word_embeddings, ...           each step under its name in minibloom.step_names(blocks, head)
    logits              [B, S, V]  the step lm_head, under the name that ports have for it
    loss                []         cross-entropy, the mean over labels that are not -100; the logits at t are held
                                   against the label at t + 1
    lm_head.grad        [B, S, V]  with --gradients: d loss / d logits
    gradient/PARAMETER             d loss / d parameter, of its shape, by its name in a checkpoint without the leading
                                   "transformer."

Steps are [B, S, E], but query_key_value [B, S, 3E], its columns running [H, 3, D]; query, key, value [B, H, S, D];
alibi [B, H, 1, S], 0 at padding; scores, probs, weights [B, H, S, S], queries before keys; dense_h_to_4h and gelu
[B, S, 4E]; lm_head [B, S, V]. The scores of keys that a query must not see are the lowest finite number. A model with
another head has other steps at the end, and other labels: see `labels_of`.

The metadata has one entry, "minibloom.parity", which is JSON: format (1), by (who computed it), model, class, config,
dtype, steps (the name of each array, in forward order, and its formula), command, and of a prompt prompts and tokens.

A port that is to be checked writes the same names and shapes, as few of the arrays as it likes, in float64, float32,
float16 or bfloat16. `input_ids` and `attention_mask` say what it has read, and minibloom reads the same; `labels` too.
It may leave out the metadata. How two arrays are compared stands at the head of `comparison.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy

from . import models
from .backend import Array, to_numpy
from .base import PreTrainedModel
from .config import BloomConfig
from .errors import InputError
from .files import checked_target, replacing
from .losses import IGNORE
from .precision import checked_dtype
from .tasks import problem_of
from .tensor_file import FLOATS, read_header, read_metadata, read_raw, read_tensor
from .trace import Trace, formula
from .version import __version__

FORMAT, KEY = 1, "minibloom.parity"
GIVEN = ("input_ids", "attention_mask", "labels", "start_positions", "end_positions")  # what a pass is given
PRECISIONS = ("float64", "float32", "float16", "bfloat16")  # the finest first


class Steps(dict[str, numpy.ndarray]):
    """The arrays of one pass by name, on the host, and what they are `about`: see the metadata above.

    `Steps(arrays)` takes NumPy's, JAX's, torch's and CuPy's. `about["dtype"]` is the coarsest precision among them.
    """

    def __init__(self, arrays: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
        kinds = []
        for name, given in arrays.items():
            try:
                x = to_numpy(given.detach() if hasattr(given, "detach") else given)
            except (TypeError, ValueError) as error:
                raise InputError(f"{name} is no array that NumPy can read: {error}") from None
            kinds.append(x.dtype.name)
            self[name] = x.astype("float32") if x.dtype.name == "bfloat16" else x  # which NumPy cannot reckon with
            if self[name].dtype.kind not in "fiub":
                raise InputError(f"{name} holds {x.dtype}, expected an array of numbers.")
        self.about = {"by": "the port", "dtype": coarsest(kinds), **(about or {})}
        self.file = ""  # where they were read from

    @property
    def name(self) -> str:
        """What a report calls them."""
        return self.file or str(self.about["by"])

    @classmethod
    def of(cls, arrays: Any) -> Steps:
        """A mapping of arrays by name, as `Steps`."""
        if not isinstance(arrays, Mapping):
            raise InputError(
                f"a port gave a {type(arrays).__name__}, expected a mapping from names of steps to arrays."
            )
        return arrays if isinstance(arrays, Steps) else cls(arrays)


def coarsest(kinds: Iterable[str]) -> str:
    """The least precise of some dtypes; float32 if none of them is of floats."""
    found = {*kinds}
    return next((kind for kind in reversed(PRECISIONS) if kind in found), "float32")


# --- Computed ---


def load(
    path_or_repo: str | Path | None = None, dtype: str = "float32", backend: str = "numpy", revision: str | None = None
) -> PreTrainedModel:
    """The model in a folder or hub repository, of the class in config's `architectures`, or else a language model."""
    named = BloomConfig.from_pretrained(path_or_repo, revision).architectures or []
    kind = next((name for name in named if hasattr(models, name)), "BloomForCausalLM")
    return getattr(models, kind).from_pretrained(path_or_repo, checked_dtype(dtype), backend, revision)


def run(
    model: PreTrainedModel,
    input_ids: Any,
    attention_mask: Any = None,
    gradients: bool = False,
    labels: Mapping[str, Any] | None = None,
) -> Steps:
    """Every step of minibloom's pass over ids `[B, S]`, logits and loss, and if asked for the gradients.

    labels: the arguments that give the model's loss, by name; by default `labels_of` what is read.
    """
    ids = to_numpy(model.check_ids(input_ids)).astype("int64")
    given_mask = numpy.ones(ids.shape) if attention_mask is None else attention_mask
    mask, _ = model.check_mask(given_mask, ids.shape, " like input_ids")
    given = {"input_ids": ids, "attention_mask": mask, **(labels or labels_of(model, ids, mask))}
    steps = Steps({**given, **compute(model, given, Trace(), gradients)})
    steps.about = {
        "format": FORMAT,
        "by": f"minibloom {__version__}",
        "class": type(model).__name__,
        "config": model.config.to_dict(),
        "dtype": model.dtype,
        "steps": {name: _formula(name) for name in steps},
    }
    return steps


def compute(
    model: PreTrainedModel, given: Mapping[str, Array], trace: Trace, gradients: bool = False
) -> dict[str, Array]:
    """The arrays of a pass in forward order, and its gradients in theirs: from the loss back to the embedding."""
    if gradients and not all(name in given for name in model.labels or ("loss",)):
        why = "needs a row with two tokens next to each other" if model.labels else "has none"
        raise InputError(f"there is no loss to take gradients of: {type(model).__name__} {why}.")
    call = {**given, "trace": trace, "return_dict": True}
    if model.head != "qa_outputs":  # which keeps no cache
        call["use_cache"] = False
    out, found = model.value_and_grad(**call) if gradients else (model(**call), {})
    steps = {name: x for name, x in trace.items() if not name.endswith(".grad")}
    if model.head:
        steps["logits"] = steps[model.head]
    if "loss" in out:
        steps["loss"] = out.loss
    backward = {name: trace[name] for name in trace if gradients and name.endswith(".grad")}
    return {**steps, **backward, **{f"gradient/{name}": found[name] for name in reversed(found)}}


def _formula(name: str) -> str:
    if name.startswith("gradient/"):
        return f"d loss / d {name.removeprefix('gradient/')}"
    return {"logits": "what the head gives", "loss": "the mean over labels"}.get(name) or formula(name) or "as given"


def labels_of(model: PreTrainedModel, ids: Array, mask: Array) -> dict[str, Array]:
    """What a pass is to predict, made from what it reads, so that there is a loss: arguments of the model's class.

    A language model: the ids, where both a token and the position before it are no padding. A classifier of tokens:
    the id modulo the number of classes. Of texts: row 0 has class 0, row 1 class 1, and around; or one number, or
    several labels of which that one holds. Questions: the answer is all of a row's tokens.
    """
    count, tokens = model.config.num_labels, mask.astype(bool)
    if model.head == "lm_head":
        counts = tokens.copy()
        counts[:, 1:] &= tokens[:, :-1]
        counts[:, 0] = False
        return {"labels": numpy.where(counts, ids, IGNORE)} if counts.any() else {}
    if model.head == "classifier":
        return {"labels": numpy.where(tokens, ids % count, IGNORE)}
    if model.head == "qa_outputs":
        last = tokens.shape[1] - 1 - tokens[:, ::-1].argmax(1)
        return {"start_positions": tokens.argmax(1), "end_positions": last}
    if model.head == "score":
        classes = numpy.arange(len(ids)) % count
        single = problem_of(model.config) == "single_label_classification"
        return {"labels": classes if single else numpy.eye(count, dtype=model.dtype)[classes]}
    return {}


# --- Written and read ---


def write(path: str | Path, steps: Steps) -> None:
    """Write the arrays of a pass, and what they are about, in the form that stands at the head of this module."""
    from safetensors.numpy import save_file

    path = own_target(path)
    arrays = {name: numpy.array(x, order="C") for name, x in steps.items()}  # what is a view here would be torn there
    with replacing(path) as temporary:
        save_file(arrays, temporary, {KEY: json.dumps(steps.about)})


def own_target(path: str | Path) -> Path:
    """`path`, if steps can be written there: it is not there yet, or holds steps that were written here."""
    path = checked_target(path)
    if path.exists():
        try:
            read_header(path)
            ours = KEY in read_metadata(path)
        except InputError:
            ours = False
        if not ours:
            raise InputError(f"{path} is there already, and was not written by parity: give the name of another file.")
    return path


def read(path: str | Path) -> Steps:
    """The arrays of a file, in forward order if it says so, and what they are about."""
    path = Path(path)
    entries = read_header(path)  # an InputError, if it is no safetensors file and whole
    arrays: dict[str, Array] = {}
    for name, entry in entries.items():
        if entry.dtype.startswith("F8"):
            raise InputError(f"{entry} has dtype {entry.dtype}, expected one of {', '.join(FLOATS)}.")
        wide = "float64" if entry.dtype == "F64" else "float32"
        arrays[name] = read_tensor(entry, wide) if entry.dtype in FLOATS else read_raw(entry)
    try:
        about = dict(json.loads(read_metadata(path).get(KEY, "{}")))
        order = [name for name in dict(about.get("steps", {})) if name in arrays]
        if "config" in about:
            about["config"] = BloomConfig.from_dict(about["config"]).to_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its metadata {KEY!r} cannot be read: {error}") from None
    if about.get("format", FORMAT) != FORMAT:
        raise InputError(f"{path} has format {about['format']!r}, expected {FORMAT}. Is it of a newer minibloom?")
    about["dtype"] = coarsest(FLOATS.get(entry.dtype, "") for entry in entries.values())  # before it was widened
    steps = Steps({name: arrays[name] for name in dict.fromkeys([*order, *arrays])}, about)
    steps.file = path.name
    return steps
