"""`minibloom parity`: another implementation, here or in a file of steps, held against this one; see `parity.py`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from .base import PreTrainedModel
from .cli_model import add_backend, add_revision
from .config import BloomConfig
from .errors import InputError, suggest
from .files import fetch
from .generation.prompts import pad_left
from .golden import GIVEN, Steps, load, own_target, read, write
from .oracle import check_oracle, transformers_steps
from .parity import PROMPT, judge, precision_of, run_like
from .tokenizer import BloomTokenizerFast

ORACLE = "transformers"


def add_arguments(sub: argparse.ArgumentParser) -> None:
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
    add_backend(sub)
    add_revision(sub)


def token_ids(text: str) -> list[int]:
    """An option's value "1,2,3" as numbers."""
    return [int(number) for number in text.split(",")]


def run(a: argparse.Namespace) -> int:
    """Run, write, compare, print. 0: all is right; 1: a step leaves its tolerance."""
    if not a.against and not a.write:
        raise InputError("give --against, --write, or both.")
    if a.prompt and a.ids:
        raise InputError("give --prompt or --ids, not both.")
    if a.tolerance is not None and not a.tolerance >= 0:
        raise InputError(f"tolerance is {a.tolerance}, expected a number that is not negative.")
    in_file, of_file = (bool(place) and _is_file(place) for place in (a.against, a.model))
    if of_file and (not in_file or a.write or a.prompt or a.ids or a.dtype):
        raise InputError(f"{a.model} is a file of steps: it can only be held --against another file of steps.")
    oracle = check_oracle() if a.against == ORACLE else ""
    target = own_target(a.write) if a.write else None
    if target and in_file and target.exists() and target.samefile(a.against):
        raise InputError(f"{target} is what is held --against: give another file to --write.")
    theirs = read(a.against) if in_file else Steps({})
    if a.against and not in_file and not oracle:
        try:
            BloomConfig.from_pretrained(a.against)
        except InputError as error:
            raise InputError(f"{error}{suggest(a.against, [ORACLE])}") from None
    model = None
    if of_file:
        ours = read(a.model)
    else:
        input_ids, mask, about = _input(a, theirs)
        model = load(a.model, a.dtype or precision_of(theirs), a.backend, a.revision)
        ours = run_like(theirs, model, input_ids, mask, a.gradients)
        ours.about |= {"model": a.model or "the model that ships", "command": _words(a), **about}
        if a.against and not in_file:
            theirs = _other(a, model, ours, oracle)
    if target:
        write(target, ours)
        print(f"{target}: {len(ours)} arrays, {target.stat().st_size:,} bytes, {ours.about['dtype']}.")
        print("What stands in it: python -m pydoc minibloom.golden")
    if not a.against:
        return 0
    report = judge(ours, theirs, model, a.tolerance, a.strict)
    print(report)
    return 0 if report.ok else 1


def _is_file(path: str) -> bool:
    return Path(path).is_file() or path.endswith(".safetensors")


def _input(a: argparse.Namespace, theirs: Steps) -> tuple[Any, Any, dict[str, Any]]:
    """Ids, mask, and what is known of the text: what the options say, or the file, or `PROMPT`."""
    if not a.prompt and not a.ids and "input_ids" in theirs:
        return theirs["input_ids"], theirs.get("attention_mask"), {}
    config = BloomConfig.from_pretrained(a.model, a.revision)
    rows, about = a.ids, {}
    if not rows:
        try:
            tokenizer = BloomTokenizerFast.from_pretrained(a.model, a.revision)
        except InputError as error:
            raise InputError(f"{error} Without a tokenizer, give --ids.") from None
        prompts = a.prompt or [PROMPT]
        rows = tokenizer(prompts)["input_ids"]
        about = {"prompts": prompts, "tokens": [tokenizer.convert_ids_to_tokens(row) for row in rows]}
    if not all(rows):
        raise InputError("a prompt is empty: give at least one character.")
    return *pad_left(rows, config.pad_token_id or 0), about


def _words(a: argparse.Namespace) -> str:
    """The command that writes the same file again."""
    words = ["minibloom", "parity", *filter(None, [a.model])]
    words += [word for text in a.prompt or [] for word in ("--prompt", text)]
    words += [word for row in a.ids or [] for word in ("--ids", ",".join(map(str, row)))]
    for name in ("dtype", "revision", "write"):
        words += [f"--{name}", getattr(a, name)] if getattr(a, name) else []
    return shlex.join([*words, *(["--gradients"] if a.gradients else [])])


def _other(a: argparse.Namespace, model: PreTrainedModel, ours: Steps, oracle: str) -> Steps:
    """The steps of transformers, or of minibloom on another checkpoint, over what `ours` has read."""
    if oracle:
        given = {name: ours[name] for name in GIVEN if name in ours}
        folder, kind = fetch(a.model, revision=a.revision), type(model).__name__
        note = "transformers takes softmax and loss in float32 whatever its dtype; here it is kept from that."
        about = {"by": oracle, "note": note if model.dtype == "float64" else ""}
        return Steps(transformers_steps(folder, kind, model.head, given, model.dtype, a.gradients), about)
    other = load(a.against, model.dtype, a.backend)
    theirs = run_like(ours, other, ours["input_ids"], ours["attention_mask"], a.gradients)
    theirs.about["by"] = f"minibloom on {a.against}"
    return theirs
